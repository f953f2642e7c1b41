//! One file as a source of records: its identity, how far it is read and acknowledged, and its part of the ledger.
//!
//! In: what the reading thread took and what the lanes got acknowledged. Out: what the checkpoint keeps. Touches the
//! state through [`State`] only. One lock holds everything that belongs together, so each look is of one moment.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use millrace_log::record::{Labels, MAX_LABEL_BYTES, SourceId, TopicPartition};
use parking_lot::Mutex;

use crate::cut::Cutter;
use crate::discover::FileKey;
use crate::error::AgentError;
use crate::feed::Feed;
use crate::fingerprint::Print;
use crate::ledger::Count;
use crate::ledger::{KIND_FILE, Lost, SourceLedger, Tally};
use crate::path_labels::PathLabels;
use crate::split::Mark;
use crate::state::{SourceState, State};
use crate::timestamp::TimeReader;
use crate::transform::Chain;

/// Labels of a path leave so much for the end of a name that is too long, or are left out: it tells more.
const MIN_NAME: usize = 256;

/// One entry of `sources`, ready for use.
#[derive(Debug)]
pub(crate) struct Entry {
    pub globs: crate::discover::Globs,
    pub labels: Labels,
    pub tenant: Option<Bytes>,
    pub from_end: bool,
    pub cutter: Cutter,
    /// Label that tells the stream of a container; empty: none.
    pub stream_label: String,
    /// Labels from the path.
    pub path_labels: PathLabels,
    pub partial_timeout: std::time::Duration,
    pub time: Option<TimeReader>,
    /// What happens to its events before they are sent; `None`: nothing.
    pub transforms: Option<Arc<Chain>>,
}

impl Entry {
    /// Labels of a file as the header carries them, for each stream of a container if they are told apart.
    fn headers(&self, filename: &Path) -> (Bytes, Option<Arc<[Bytes; 2]>>) {
        let labels = self.labels_of(filename);
        let streams = (!self.stream_label.is_empty() && matches!(self.cutter, Cutter::Container(_))).then(|| {
            let with = |stream: &str| Bytes::from(labels.clone().with(&self.stream_label, stream).to_json());
            Arc::new([with("stdout"), with("stderr")])
        });
        (labels.to_json().into(), streams)
    }

    fn labels_of(&self, filename: &Path) -> Labels {
        let name = filename.to_string_lossy();
        let of_path = self.path_labels.add_to(&self.labels, &name);
        let named = |known: &Labels, name: &str| match known.get("filename") {
            Some(_) => known.clone(),
            None => known.with("filename", name),
        };
        let labels = named(&of_path, &name);
        if labels.check().is_ok() {
            return labels;
        }
        // A very long path: its end tells more than its start. The label of a stream may come on top.
        let room = |known: &Labels| {
            let used: usize = known.iter().map(|(n, v)| n.len() + v.len()).sum();
            MAX_LABEL_BYTES.checked_sub(used + "filename".len() + self.stream_label.len() + 16)
        };
        let (known, room) = match room(&of_path) {
            Some(room) if room >= MIN_NAME => (&of_path, room),
            _ => (&self.labels, room(&self.labels).unwrap_or(0)),
        };
        let from = name.ceil_char_boundary(name.len().saturating_sub(room));
        named(known, &format!("…{}", name.get(from..).unwrap_or_default()))
    }
}

/// A place in the file and the print of what stands before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Anchor {
    pub mark: Mark,
    pub tail: Print,
}

/// Who a file is when it is seen.
#[derive(Debug, Clone)]
pub(crate) struct Sighting {
    pub key: FileKey,
    pub birth_ns: Option<i64>,
    pub path: PathBuf,
    pub now_ms: i64,
}

/// What records carry of their source.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub id: SourceId,
    /// The id as hexadecimal digits.
    pub key: Bytes,
}

impl Identity {
    pub fn new(id: SourceId) -> Self {
        Self { id, key: Bytes::copy_from_slice(&id.to_hex()) }
    }
}

/// One file, for as long as it is not truncated.
#[derive(Debug)]
pub(crate) struct Source {
    pub entry: Arc<Entry>,
    pub to: TopicPartition,
    pub filename: PathBuf,
    /// Header `labels`.
    pub labels: Bytes,
    /// The same for each stream of a container.
    pub stream_labels: Option<Arc<[Bytes; 2]>>,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
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

/// What one read took from a file, or one push brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Everything.
    pub count: Count,
    /// Bytes beyond the limit of cut lines.
    pub skipped: u64,
}

impl Source {
    /// A source that was not there before.
    pub fn mint(
        entry: Arc<Entry>,
        topic: &Arc<str>,
        partitions: i32,
        filename: PathBuf,
        seen: Sighting,
        head: Print,
        at: Anchor,
    ) -> Self {
        let id = SourceId::random();
        let partition = partition_of(id, partitions);
        let progress = Progress {
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
        let (labels, stream_labels) = entry.headers(&filename);
        Self {
            labels,
            stream_labels,
            filename,
            to: TopicPartition::new(topic.clone(), partition),
            entry,
            progress: Mutex::new(progress),
        }
    }

    /// A source that the state remembers. If the topic is another, or has lost the partition, it goes on under a new id.
    pub fn restore(entry: Arc<Entry>, topic: &Arc<str>, partitions: i32, id: SourceId, state: SourceState) -> Self {
        let anchor = Anchor { mark: state.checkpoint, tail: state.tail };
        let key = FileKey { device: state.device, inode: state.inode };
        let seen = Sighting { key, birth_ns: state.birth_ns, path: state.path.into(), now_ms: state.seen_ms };
        let filename: PathBuf = state.filename.into();
        let moved = state.topic != **topic || !(0..partitions).contains(&state.partition);
        let mut progress = Progress {
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
        let (labels, stream_labels) = entry.headers(&filename);
        Self {
            labels,
            stream_labels,
            filename,
            to: TopicPartition::new(topic.clone(), partition),
            entry,
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

    /// The file grew: its head can be told better.
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

    fn to_state(&self, p: &Progress) -> SourceState {
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

impl Feed for Source {
    fn identity(&self) -> Identity {
        self.progress.lock().identity.clone()
    }

    fn chain(&self) -> Option<&Arc<Chain>> {
        self.entry.transforms.as_ref()
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
        state.sync()
    }
}

/// Chosen once per source: ids are random, so their bits spread.
pub(crate) fn partition_of(id: SourceId, partitions: i32) -> i32 {
    let [a, b, c, d, ..] = id.0;
    let count = u32::try_from(partitions.max(1)).unwrap_or(1);
    i32::try_from(u32::from_le_bytes([a, b, c, d]) % count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FileSource;

    #[test]
    fn labels_of_long_paths_keep_those_of_the_path_and_the_end_of_the_name() {
        let folder = |len: usize| format!("/{}", "d".repeat(len));
        let pod = |namespace: usize| format!("/{}_shop-1_u/api/0.log", "n".repeat(namespace));
        type Case = (&'static str, String, &'static [&'static str], bool);
        let cases: [Case; 5] = [
            ("kubernetes", pod(4), &["pod", "namespace", "container", "service"], true),
            ("kubernetes", folder(2000) + &pod(4), &["pod", "namespace", "container", "service"], false),
            // What comes from the path is too long by itself: the path is still there.
            (
                r"/(?P<a>x+)/(?P<b>x+)/(?P<c>x+)/(?P<d>x+)/",
                format!("{}/f.log", format!("/{}", "x".repeat(300)).repeat(4)),
                &[],
                false,
            ),
            // It leaves room, but too little.
            (
                r"/(?P<a>x+)/(?P<b>x+)/(?P<c>x+)/",
                format!("{}/f.log", format!("/{}", "x".repeat(300)).repeat(4)),
                &[],
                false,
            ),
            ("", folder(600) + "é" + &"é".repeat(400), &[], false),
        ];
        for (path_labels, path, want, whole) in cases {
            let source: FileSource = serde_json::from_value(serde_json::json!({
                "include": ["/*.log"], "labels": {"env": "prod"}, "path_labels": path_labels, "format": "cri",
                "stream_label": "stream",
            }))
            .unwrap();
            let entry = crate::run::entry(&source, "h", None).unwrap();
            let labels = entry.labels_of(Path::new(&path));
            labels.check().unwrap();
            labels.clone().with("stream", "stdout").check().unwrap();
            assert!(["env", "host"].iter().chain(want).all(|name| labels.get(name).is_some()), "{labels:?}");
            let name = labels.get("filename").unwrap();
            if whole {
                assert_eq!(name, path);
            } else {
                let end = name.strip_prefix('…').unwrap();
                assert!(path.ends_with(end) && end.len() > 500, "{name}");
            }
        }
    }
}
