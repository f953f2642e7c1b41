//! What the reading thread knows: open files, known sources, what is queued.
//!
//! In: files that were found. Out: the state that `identify.rs`, `scan.rs` and `read.rs` work on. Touches files, by opening
//! them for reading.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::Metadata;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use millrace_log::clock::SharedClock;
use millrace_log::record::SourceId;
use tokio::sync::mpsc;

use crate::batch::{BatchSource as _, Flow, MemoryBudget, QueuedBatches};
use crate::condition::{Conditions, Pause};
use crate::content::Content;
use crate::discover::{FileKey, birth_ns, is_rotation};
use crate::error::AgentError;
use crate::file_settings::FileSettings;
use crate::file_source::{Source, Sources};
use crate::links::{Follow, ForeignLink};
use crate::metrics::AgentMetrics;
use crate::pool::Pool;
use crate::split::Mark;
use crate::state::{SourceState, State};
use crate::tap::Taps;
use crate::watch::{Wake, Watcher};
use crate::writers::Writers;

/// Clocks of file systems tick coarsely, and files change while a folder is read.
pub(super) const CLOCK_SLACK_MS: i64 = 2_000;
/// Two scans are so far apart at least, and ten times as far as the last one took.
pub(super) const SCAN_GAP: Duration = Duration::from_millis(20);
/// How long to wait for room at most, should the call for it get lost.
pub(super) const ROOM_WAIT: Duration = Duration::from_millis(100);
/// Memory that a batch takes besides its bytes.
pub(super) const BATCH_COST: usize = 512;
/// Where the kernel reports every change, looking through folders is only for what a file system keeps from it: at the
/// earliest after so many intervals, at the latest after so many, between them for a share of the time.
pub(super) const WATCHED_FACTOR: RangeInclusive<u32> = 10..=60;
/// That share: one part in so many.
pub(super) const WATCHED_SHARE: u32 = 2000;
/// How often sources whose file is long gone are looked for.
pub(super) const FORGET_EVERY: Duration = Duration::from_secs(600);

/// What the reading thread works with.
pub(crate) struct ReaderParts {
    pub entries: Vec<Arc<FileSettings>>,
    pub topic: Arc<str>,
    pub state: Arc<State>,
    pub sources: Sources,
    /// Queue and flow of each partition.
    pub queues: Vec<(mpsc::Sender<QueuedBatches>, Arc<Flow>)>,
    pub budget: Arc<MemoryBudget>,
    pub windows: Arc<Pool>,
    pub wake: Wake,
    pub clock: SharedClock,
    pub metrics: AgentMetrics,
    pub conditions: Conditions,
    pub taps: Taps,
    pub scan_interval: Duration,
    pub fingerprint: usize,
    pub read_bytes: usize,
    pub rotated_wait: Duration,
    pub deleted_wait: Duration,
    pub close_idle: Duration,
    pub forget_after_ms: i64,
    /// When an agent last worked on this state; `None` at its very first start.
    pub last_alive_ms: Option<i64>,
    /// Up to when folders were scanned and all that was found has a source: where the next agent begins.
    pub scanned_ms: Arc<AtomicI64>,
}

impl ReaderParts {
    /// Puts the sources that the state remembers into the list; those of entries that are gone stay for their labels' sake
    /// with the first entry, and are never matched.
    pub fn restore(&self, remembered: Vec<(SourceId, SourceState)>) -> Result<(), AgentError> {
        let partitions = i32::try_from(self.queues.len()).unwrap_or(i32::MAX);
        let mut moved = false;
        for (id, state) in remembered {
            let filename: PathBuf = state.filename.clone().into();
            let matching = self.entries.iter().find(|settings| settings.globs.matches(&filename));
            let Some(settings) = matching.or(self.entries.first()) else { continue };
            let source = Source::restore(settings.clone(), &self.topic, partitions, id, state);
            if source.identity().id != id {
                source.save(&self.state)?;
                source.forget_old(&self.state, id)?;
                moved = true;
            }
            self.sources.write().push(Arc::new(source));
        }
        if moved { self.state.sync() } else { Ok(()) }
    }
}

/// A file with a name (or without, once deleted) that is read or waits to be.
pub(crate) struct Tail {
    pub birth_ns: Option<i64>,
    pub path: PathBuf,
    /// The name it had before it was rotated, if nobody saw it then.
    pub rotated_from: Option<PathBuf>,
    pub file: Option<Content>,
    pub settings: Arc<FileSettings>,
    /// `None` while it is empty or waits as a copy.
    pub source: Option<Arc<Source>>,
    pub mark: Mark,
    /// What stands before `mark`.
    pub before: Vec<u8>,
    /// Of what can be read; of a packed file unpacked.
    pub size: u64,
    /// As it stands on the disk.
    pub stored: u64,
    pub mtime: (i64, i64),
    /// When it last grew.
    pub grown: Instant,
    /// It does not end before, though it is gone: someone had it open for writing.
    pub held_until: Instant,
    /// A packed copy of this file, as was once seen.
    pub copy_of: Option<FileKey>,
    /// A copy of this file up to this byte, as was once seen.
    pub copied: Option<(FileKey, u64)>,
    /// Up to this byte it was read from the file that it is a copy of.
    pub read_before: u64,
    /// Bytes beyond `mark` that are no event yet.
    pub pending: bool,
    /// What is pending has waited long enough.
    pub flush: bool,
    pub queued: bool,
    /// Globs match its name; else it was rotated or deleted and ends some day.
    pub matched: bool,
    /// The last scan saw it.
    pub present: bool,
    /// It may become a new source; else it must be one of the known or is left alone.
    pub may_be_new: bool,
    /// The first scan of a first start saw it.
    pub at_install: bool,
    /// The last read failed.
    pub failed: bool,
}

impl Tail {
    pub fn new(path: PathBuf, settings: Arc<FileSettings>, file: Content, metadata: &Metadata, matched: bool) -> Self {
        let now = Instant::now();
        Self {
            birth_ns: birth_ns(metadata),
            path,
            rotated_from: None,
            file: Some(file),
            settings,
            source: None,
            mark: Mark::default(),
            before: Vec::new(),
            size: 0,
            stored: 0,
            mtime: (0, 0),
            grown: now,
            held_until: now,
            copy_of: None,
            copied: None,
            read_before: 0,
            pending: false,
            flush: false,
            queued: false,
            matched,
            present: true,
            may_be_new: matched,
            at_install: false,
            failed: false,
        }
    }

    /// When it ends if it does not grow.
    pub fn end(&self, rotated_wait: Duration) -> Instant {
        (self.grown + rotated_wait).max(self.held_until)
    }

    /// When it must be looked at, though nothing is written to it.
    pub fn due(&self, rotated_wait: Duration) -> Option<Instant> {
        let wait = self.settings.partial_timeout;
        let pending = (self.pending && !self.flush).then(|| self.grown + wait);
        let away = (!self.matched).then(|| self.end(rotated_wait));
        [pending, away].into_iter().flatten().min()
    }
}

/// How reading a file ended.
pub(super) enum ReadOutcome {
    /// There is more to read.
    More,
    /// Read to the end.
    Idle,
    /// The queue or the memory has no room.
    Full(Pause),
    /// The file was truncated or replaced in place.
    Truncated,
    /// The senders are gone: the agent stops.
    Closed,
}

pub(crate) struct Reader {
    pub parts: ReaderParts,
    pub watcher: Option<Watcher>,
    pub tails: HashMap<FileKey, Tail>,
    pub paths: HashMap<PathBuf, FileKey>,
    pub queue: VecDeque<FileKey>,
    /// Every source of the state and every new one; with the file it is read from now.
    pub known: Vec<(Arc<Source>, Option<FileKey>)>,
    /// Files whose changes the kernel does not report, as the last scan found them.
    pub links: Vec<(PathBuf, Option<FileStamp>)>,
    /// Folders that globs begin at and that are not there, as of the last scan.
    pub missing: Vec<PathBuf>,
    pub unreadable: HashMap<PathBuf, io::ErrorKind>,
    /// Paths behind links that are not followed.
    pub skipped: HashSet<PathBuf>,
    pub first_scan: bool,
    /// A rotated file changed since then may hold lines that nobody has seen.
    pub looked_ms: Option<i64>,
    pub timer: Instant,
    pub forget: Instant,
    pub writers: Writers,
    /// Packed files that are no known source, with their times: not unpacked again until a source loses its file.
    pub refused: HashMap<FileKey, (i64, i64)>,
}

impl Reader {
    /// Watches folders from now on, and reads nothing yet.
    pub fn new(parts: ReaderParts) -> Result<Self, AgentError> {
        let watcher = Watcher::start(parts.wake.clone(), &parts.state.folder().join("VERSION"))?;
        let known = parts.sources.read().iter().map(|source| (source.clone(), None)).collect();
        let now = Instant::now();
        Ok(Self {
            looked_ms: parts.last_alive_ms,
            parts,
            watcher,
            tails: HashMap::new(),
            paths: HashMap::new(),
            queue: VecDeque::new(),
            known,
            links: Vec::new(),
            missing: Vec::new(),
            unreadable: HashMap::new(),
            skipped: HashSet::new(),
            first_scan: true,
            timer: now,
            forget: now + FORGET_EVERY,
            writers: Writers::default(),
            refused: HashMap::new(),
        })
    }

    /// Opens a path if it still names the file.
    pub fn open(&mut self, key: FileKey, path: &Path, follow: Follow) -> Option<(Content, Metadata)> {
        match Content::open(path, follow) {
            Ok((file, metadata)) => {
                if self.unreadable.remove(path).is_some() {
                    tracing::info!(path = %path.display(), "file can be read again");
                }
                (FileKey::of(&metadata) == key).then_some((file, metadata))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                if let Some(foreign) = error.get_ref().and_then(|inner| inner.downcast_ref::<ForeignLink>()) {
                    self.skipped(path, foreign);
                    return None;
                }
                self.unreadable(path, &error);
                None
            }
        }
    }

    /// Reports a link that is not followed once, not at every scan.
    pub fn skipped(&mut self, path: &Path, link: &ForeignLink) {
        if self.skipped.insert(path.to_owned()) {
            tracing::warn!(path = %path.display(), %link, "link is not followed: whoever made it could have files of others published; give the file to the owner of the link, or set `follow_foreign_symlinks: true` for this source");
        }
    }

    /// Reports an unreadable file once, not at every scan.
    pub fn unreadable(&mut self, path: &Path, error: &io::Error) {
        if self.unreadable.insert(path.to_owned(), error.kind()) == Some(error.kind()) {
            return;
        }
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "give the agent's user read permission, and execute permission on the folders (by group, or setfacl -m u:USER:r)"
            }
            _ if error.raw_os_error() == Some(libc::EMFILE) => {
                "raise the limit of open files (ulimit -n, LimitNOFILE=)"
            }
            _ => "check the file system and its disk",
        };
        tracing::warn!(path = %path.display(), %error, hint, "can't read file, retrying at each scan; other files are not affected");
    }

    /// After a scan, once files have their sources: notes how far the next agent need not look back. Not while a rotated
    /// file may still become a source.
    pub fn note_scanned(&self) {
        let is_open = |tail: &Tail| tail.source.is_none() && tail.may_be_new && !tail.matched;
        if let Some(scanned) = self.looked_ms
            && !self.tails.values().any(is_open)
        {
            self.parts.scanned_ms.store(scanned, Ordering::Release);
        }
    }

    /// Forgets a file that is no longer read.
    pub fn drop_tail(&mut self, key: FileKey) {
        if let Some(tail) = self.tails.remove(&key)
            && self.paths.get(&tail.path) == Some(&key)
        {
            self.paths.remove(&tail.path);
        }
        for (_, at) in &mut self.known {
            if *at == Some(key) {
                *at = None;
            }
        }
    }

    /// Puts a file into the queue, unless it is there.
    pub fn enqueue(&mut self, key: FileKey) {
        if let Some(tail) = self.tails.get_mut(&key)
            && !std::mem::replace(&mut tail.queued, true)
        {
            self.queue.push_back(key);
        }
    }
}

/// What changes when a file does.
pub(super) type FileStamp = (FileKey, u64, (i64, i64));

/// Of a file with this metadata.
pub(super) fn stamp(metadata: &Metadata) -> FileStamp {
    (FileKey::of(metadata), metadata.len(), mtime(metadata))
}

/// Whether a path may name a rotated form of a source's file, by the name it has now or the one it had first.
pub(super) fn is_rotation_of(path: &Path, source: &Source, now: &Path) -> bool {
    is_rotation(path, now) || is_rotation(path, &source.filename)
}

/// Whether both are known and not the same.
pub(super) fn differ(a: Option<i64>, b: Option<i64>) -> bool {
    matches!((a, b), (Some(a), Some(b)) if a != b)
}

pub(super) fn mtime(metadata: &Metadata) -> (i64, i64) {
    (metadata.mtime(), metadata.mtime_nsec())
}

pub(super) fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
