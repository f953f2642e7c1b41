//! One file as a source of records: its identity, how far it is read and acknowledged, and its part of the ledger.
//!
//! In: what the reading thread took and what the log acknowledged. Out: what the checkpoint keeps. Touches the state through
//! [`State`] only. One lock holds everything that belongs together, so that each look is at one moment.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use millrace_log::record::{SourceId, TopicPartition};
use parking_lot::{Mutex, RwLock};

use crate::batch::{Anchor, BatchSource, Identity, partition_of};
use crate::discover::FileKey;
use crate::error::AgentError;
use crate::file_settings::FileSettings;
use crate::fingerprint::Print;
use crate::ledger::{KIND_FILE, Lost, SourceLedger, Taken, Tally};
use crate::state::{SourceState, State};
use crate::transform::Chain;

/// All files of an agent, shared by its parts.
pub(crate) type Sources = Arc<RwLock<Vec<Arc<Source>>>>;

/// Who a file is when it is seen.
#[derive(Debug, Clone)]
pub(crate) struct Sighting {
    pub key: FileKey,
    pub birth_ns: Option<i64>,
    pub path: PathBuf,
    pub now_ms: i64,
}

/// One file, for as long as it is not truncated.
#[derive(Debug)]
pub(crate) struct Source {
    pub settings: Arc<FileSettings>,
    pub to: TopicPartition,
    pub filename: PathBuf,
    /// Header `labels`.
    pub labels: Bytes,
    /// The same for each stream of a container.
    pub stream_labels: Option<Arc<[Bytes; 2]>>,
    progress: Mutex<FileProgress>,
}

#[derive(Debug)]
struct FileProgress {
    identity: Identity,
    follows: Option<String>,
    seen: Sighting,
    head: Print,
    start: u64,
    read: Anchor,
    acked: Anchor,
    ends: Vec<u64>,
    tally: Tally,
    finished: bool,
    dirty: bool,
    /// Size of the file when it was last looked at.
    size: u64,
}

impl Source {
    /// A source that was not there before.
    pub fn mint(
        settings: Arc<FileSettings>,
        topic: &Arc<str>,
        partitions: i32,
        filename: PathBuf,
        seen: Sighting,
        head: Print,
        at: Anchor,
    ) -> Self {
        let id = SourceId::random();
        let partition = partition_of(id, partitions);
        let progress = FileProgress {
            identity: Identity::new(id),
            follows: None,
            head,
            start: at.mark.offset,
            read: at,
            acked: at,
            ends: Vec::new(),
            tally: Tally::default(),
            finished: false,
            dirty: true,
            size: at.mark.offset,
            seen,
        };
        let (labels, stream_labels) = settings.headers(&filename);
        Self {
            labels,
            stream_labels,
            filename,
            to: TopicPartition::new(topic.clone(), partition),
            settings,
            progress: Mutex::new(progress),
        }
    }

    /// A source that the state remembers. If the topic is another, or has lost the partition, it goes on under a new id.
    pub fn restore(
        settings: Arc<FileSettings>,
        topic: &Arc<str>,
        partitions: i32,
        id: SourceId,
        state: SourceState,
    ) -> Self {
        let anchor = Anchor { mark: state.checkpoint, tail: state.tail };
        let key = FileKey { device: state.device, inode: state.inode };
        let seen = Sighting { key, birth_ns: state.birth_ns, path: state.path.into(), now_ms: state.seen_ms };
        let filename: PathBuf = state.filename.into();
        let moved = state.topic != **topic || !(0..partitions).contains(&state.partition);
        let mut progress = FileProgress {
            identity: Identity::new(id),
            follows: state.follows,
            seen,
            head: state.head,
            start: state.start,
            read: anchor,
            acked: anchor,
            ends: state.ends,
            tally: Tally::restore(state.sent, &state.dropped),
            finished: state.finished,
            dirty: false,
            size: anchor.mark.offset,
        };
        let mut partition = state.partition;
        if moved {
            let new = SourceId::random();
            progress.follows = Some(id.to_string());
            progress.identity = Identity::new(new);
            progress.dirty = true;
            partition = partition_of(new, partitions);
        }
        let (labels, stream_labels) = settings.headers(&filename);
        Self {
            labels,
            stream_labels,
            filename,
            to: TopicPartition::new(topic.clone(), partition),
            settings,
            progress: Mutex::new(progress),
        }
    }

    /// Where reading goes on.
    pub fn read_anchor(&self) -> Anchor {
        self.progress.lock().read
    }

    /// Print of the head as recorded.
    pub fn head(&self) -> Print {
        self.progress.lock().head
    }

    /// The file grew: its head is longer now.
    pub fn set_head(&self, head: Print) {
        let mut p = self.progress.lock();
        p.head = head;
        p.dirty = true;
    }

    /// Where and as what the file was last seen.
    pub fn last_seen(&self) -> Sighting {
        self.progress.lock().seen.clone()
    }

    /// Device and inode when the file was last seen.
    pub fn last_key(&self) -> FileKey {
        self.progress.lock().seen.key
    }

    /// Notes how large the file is now.
    pub fn set_size(&self, size: u64) {
        self.progress.lock().size = size;
    }

    /// Notes where the file is now.
    pub fn see(&self, seen: Sighting) {
        let mut p = self.progress.lock();
        // Once an hour is often enough for expiry.
        let stale = seen.now_ms - p.seen.now_ms > 3_600_000;
        if stale || p.finished || p.seen.key != seen.key || p.seen.path != seen.path || p.seen.birth_ns != seen.birth_ns
        {
            p.seen = seen;
            p.finished = false;
            p.dirty = true;
        }
    }

    /// Whether the file was read to its end and is gone or replaced.
    pub fn is_finished(&self) -> bool {
        self.progress.lock().finished
    }

    /// The file is read to its end, and gone or replaced.
    pub fn finish(&self) {
        let mut p = self.progress.lock();
        p.finished = true;
        p.dirty = true;
    }

    /// Whether everything that was read is acknowledged.
    pub fn is_settled(&self) -> bool {
        let p = self.progress.lock();
        p.read.mark == p.acked.mark
    }

    /// The next place beyond `offset` where an event must end because it ended there when it was sent before.
    pub fn end_beyond(&self, offset: u64) -> Option<u64> {
        self.progress.lock().ends.iter().copied().filter(|end| *end > offset).min()
    }

    /// Makes an event end at `end` for ever; to be synced before it is sent.
    pub fn add_end(&self, end: u64) {
        let mut p = self.progress.lock();
        if !p.ends.contains(&end) {
            p.ends.push(end);
            p.dirty = true;
        }
    }

    /// The reading thread took something.
    pub fn took(&self, to: Anchor, taken: Taken) {
        let mut p = self.progress.lock();
        p.read = to;
        p.tally.took(taken.count);
    }

    /// Keeps what changed; durable only after [`State::sync`].
    pub fn save(&self, state: &State) -> Result<bool, AgentError> {
        // The lock is held over the insert: of two savers the later look wins.
        let mut p = self.progress.lock();
        if !p.dirty {
            return Ok(false);
        }
        state.put(p.identity.id, &self.to_state(&p))?;
        p.dirty = false;
        Ok(true)
    }

    /// Removes an id that was replaced at the start.
    pub fn forget_old(&self, state: &State, old: SourceId) -> Result<(), AgentError> {
        if self.progress.lock().identity.id != old {
            state.remove(old)?;
        }
        Ok(())
    }

    fn to_state(&self, p: &FileProgress) -> SourceState {
        SourceState {
            topic: self.to.topic.to_string(),
            partition: self.to.partition,
            filename: self.filename.as_path().into(),
            path: p.seen.path.as_path().into(),
            device: p.seen.key.device,
            inode: p.seen.key.inode,
            birth_ns: p.seen.birth_ns,
            head: p.head,
            start: p.start,
            checkpoint: p.acked.mark,
            tail: p.acked.tail,
            ends: p.ends.clone(),
            sent: p.tally.sent,
            dropped: p.tally.dropped(),
            // Until all is acknowledged the file may be needed again.
            finished: p.finished && p.read.mark == p.acked.mark,
            seen_ms: p.seen.now_ms,
            follows: p.follows.clone(),
        }
    }

    /// This file's part of the ledger.
    pub fn ledger(&self) -> SourceLedger {
        let p = self.progress.lock();
        SourceLedger {
            source: p.identity.id.to_string(),
            kind: KIND_FILE.to_owned(),
            filename: self.filename.to_string_lossy().into_owned(),
            partition: self.to.partition,
            start: p.start,
            read_to: p.read.mark.offset,
            acknowledged_to: p.acked.mark.offset,
            size: p.size,
            finished: p.finished,
            balance: p.tally.balance(),
        }
    }
}

impl BatchSource for Source {
    fn identity(&self) -> Identity {
        self.progress.lock().identity.clone()
    }

    fn chain(&self) -> Option<&Arc<Chain>> {
        self.settings.transforms.as_ref()
    }

    fn name(&self) -> Cow<'_, str> {
        self.filename.to_string_lossy()
    }

    fn kind(&self) -> &'static str {
        KIND_FILE
    }

    fn settle(&self, to: Anchor, taken: Taken, lost: &Lost) {
        let mut p = self.progress.lock();
        p.acked = to;
        p.tally.settle(taken, lost);
        p.ends.retain(|end| *end > to.mark.offset);
        p.dirty = true;
    }

    fn move_on(&self, state: &State) -> Result<(), AgentError> {
        let mut p = self.progress.lock();
        let old = p.identity.id;
        p.follows = Some(old.to_string());
        p.identity = Identity::new(SourceId::random());
        state.put(p.identity.id, &self.to_state(&p))?;
        state.remove(old)?;
        // Not under the lock: a full disk is waited for.
        drop(p);
        state.sync()
    }
}
