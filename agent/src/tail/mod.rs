//! The thread that reads: finds files, tells which source each one is, reads them in fair turns.
//!
//! In: folders and files, calls of [`Wake`]. Out: [`Load`]s into the lanes' queues. Touches files (reading only) and
//! the state (a new source, or an end that must not move, is synced before its first record leaves).
//!
//! # Which source is a file?
//! 1. A file that is being read is known by device and inode; its handle stays open through renames and deletion.
//! 2. Each read starts some bytes before the position and compares them with what stood there: a file that was
//!    truncated and written anew is seen even when it has grown past the position.
//! 3. A file not being read is compared with the sources that have no file: first the one with its device, inode
//!    and birth, then others. It is that source if its head and the bytes before the reached position are the same.
//!    Another name or inode counts only if the name says "rotated" (`app.log.1` from `app.log`), or if more than a
//!    whole fingerprint was read: two files that hold nothing but the same banner are not mistaken for each other.
//! 4. A copy beside the file it was made from waits: if the original is then truncated (copytruncate), the copy is
//!    where the source is read on, and the original gets a new source.
//! 5. A rotated file that no glob matches and nobody knows is read if it changed since the folder was last looked
//!    at: it was born and rotated in between. All else is new.
//! 6. A packed sibling (`app.log.1.gz`) is a copy whose bytes are those unpacked: it waits while the original is still
//!    open here, and is where the source is read on once the original is gone.
//!
//! # When does a file end?
//! One that was renamed away: `rotated_wait` after its last growth; should it grow again, it is taken up again. One
//! that was deleted: not before that, and not while a process has it open for writing, as far as `/proc` tells
//! (`writers.rs`); where it can't tell, `deleted_wait` after its last growth.

/// Finding files: folders, names, what is to be opened.
mod scan;
/// Which source a file is.
mod identify;
/// Reading: fair turns, time-outs, ends.
mod turns;

use std::collections::{HashMap, VecDeque};
use std::fs::Metadata;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_log::clock::SharedClock;
use tokio::sync::mpsc;

use crate::condition::{Conditions, Pause};
use crate::content::Content;
use crate::discover::{FileKey, birth_ns, is_rotation};
use crate::error::AgentError;
use crate::flow::Flow;
use crate::ledger::Sources;
use crate::metrics::AgentMetrics;
use crate::pool::Pool;
use crate::producer::{Budget, Load};
use crate::source::{Entry, Source};
use crate::split::Mark;
use crate::state::State;
use crate::tap::Taps;
use crate::watch::{Wake, Watcher, Woken};
use crate::writers::Writers;

/// Clocks of file systems tick coarsely, and files change while a folder is read.
const CLOCK_SLACK_MS: i64 = 2_000;
/// Two scans are so far apart at least, and ten times as far as the last one took.
const SCAN_GAP: Duration = Duration::from_millis(20);
/// How long to wait when the lanes have no room, should their call get lost.
const ROOM_WAIT: Duration = Duration::from_millis(100);
/// Memory that a haul takes besides its bytes.
const HAUL_COST: usize = 512;
/// Where the kernel tells of every change, looking through folders is only for what a file system keeps from it: at the
/// earliest after so many intervals, at the latest after so many, between them for a share of the time.
const WATCHED_FACTOR: RangeInclusive<u32> = 10..=60;
/// That share: one part in so many.
const WATCHED_SHARE: u32 = 2000;
/// How often sources whose file is long gone are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(600);

/// What the reading thread works with.
pub(crate) struct ReaderParts {
    pub entries: Vec<Arc<Entry>>,
    pub topic: Arc<str>,
    pub state: Arc<State>,
    pub sources: Sources,
    pub lanes: Vec<(mpsc::Sender<Load>, Arc<Flow>)>,
    pub budget: Arc<Budget>,
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
}

/// A file with a name (or without, once deleted) that is read or waits to be.
struct Tail {
    birth_ns: Option<i64>,
    path: PathBuf,
    /// The name it had before it was rotated, if nobody saw it then.
    rotated_from: Option<PathBuf>,
    file: Option<Content>,
    entry: Arc<Entry>,
    /// `None` while it is empty or waits as a copy.
    source: Option<Arc<Source>>,
    mark: Mark,
    /// What stands before `mark`.
    before: Vec<u8>,
    /// Of what can be read; of a packed file unpacked.
    size: u64,
    /// As it stands on the disk.
    stored: u64,
    mtime: (i64, i64),
    /// When it last grew.
    grown: Instant,
    /// It does not end before, though it is gone: someone had it open for writing.
    held_until: Instant,
    /// A packed copy of this file, as was once seen.
    copy_of: Option<FileKey>,
    /// Bytes beyond `mark` that are no event yet.
    pending: bool,
    /// What is pending has waited long enough.
    flush: bool,
    queued: bool,
    /// Globs match its name; else it was rotated or deleted and ends some day.
    matched: bool,
    /// The last scan saw it.
    present: bool,
    /// It may become a new source; else it must be one of the known or is left alone.
    may_be_new: bool,
    /// The first scan of a first start saw it.
    at_install: bool,
    /// The last read failed.
    failed: bool,
}

impl Tail {
    fn new(path: PathBuf, entry: Arc<Entry>, file: Content, metadata: &Metadata, matched: bool) -> Self {
        let now = Instant::now();
        Self {
            birth_ns: birth_ns(metadata),
            path,
            rotated_from: None,
            file: Some(file),
            entry,
            source: None,
            mark: Mark::default(),
            before: Vec::new(),
            size: 0,
            stored: 0,
            mtime: (0, 0),
            grown: now,
            held_until: now,
            copy_of: None,
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
    fn end(&self, rotated_wait: Duration) -> Instant {
        (self.grown + rotated_wait).max(self.held_until)
    }

    fn due(&self, rotated_wait: Duration) -> Option<Instant> {
        let wait = self.entry.partial_timeout;
        let pending = (self.pending && !self.flush).then(|| self.grown + wait);
        let away = (!self.matched).then(|| self.end(rotated_wait));
        [pending, away].into_iter().flatten().min()
    }
}

/// How a turn ended.
enum Turn {
    /// There is more to read.
    More,
    /// Read to the end.
    Idle,
    /// The lane or memory has no room.
    Full(Pause),
    /// The file was truncated or replaced in place.
    Truncated,
    /// The lanes are gone: the agent stops.
    Closed,
}

pub(crate) struct Reader {
    parts: ReaderParts,
    watcher: Option<Watcher>,
    tails: HashMap<FileKey, Tail>,
    paths: HashMap<PathBuf, FileKey>,
    queue: VecDeque<FileKey>,
    /// Every source of the state and every new one; with the file it is read from now.
    known: Vec<(Arc<Source>, Option<FileKey>)>,
    /// Files whose changes the kernel does not tell of, as the last scan found them.
    links: Vec<(PathBuf, Option<scan::Look>)>,
    unreadable: HashMap<PathBuf, io::ErrorKind>,
    first_scan: bool,
    /// A rotated file changed since then may hold lines that nobody has seen.
    looked_ms: Option<i64>,
    timer: Instant,
    forget: Instant,
    writers: Writers,
    /// Packed files that are no known source, with their times: not unpacked again until a source loses its file.
    refused: HashMap<FileKey, (i64, i64)>,
}

impl Reader {
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
            unreadable: HashMap::new(),
            first_scan: true,
            timer: now,
            forget: now + FORGET_EVERY,
            writers: Writers::default(),
            refused: HashMap::new(),
        })
    }

    /// Reads until the agent stops.
    pub fn run(mut self) -> Result<(), AgentError> {
        let mut next_scan = Instant::now();
        let (mut gap_end, mut next_look) = (next_scan, next_scan);
        loop {
            let now = Instant::now();
            if now >= next_look && now < next_scan {
                next_look = now + self.parts.scan_interval;
                if self.look_at_links() {
                    next_scan = next_scan.min(gap_end);
                }
            }
            if now >= next_scan {
                let interval = self.scan()?;
                let took = now.elapsed();
                self.parts.metrics.scans.inc();
                self.parts.metrics.scan_seconds.inc_by(took.as_secs_f64());
                gap_end = Instant::now() + SCAN_GAP.max(took * 10);
                next_scan = (now + interval).max(gap_end);
                next_look = if self.links.is_empty() { next_scan } else { now + self.parts.scan_interval };
            }
            if now >= self.timer {
                self.timers(now);
            }
            self.adopt()?;
            let (progress, full, closed) = self.turns()?;
            if closed {
                return Ok(());
            }
            self.parts.conditions.pause(full.filter(|_| !progress));
            let until = match (progress, full) {
                (true, _) => Instant::now(),
                (false, Some(_)) => next_scan.min(next_look).min(Instant::now() + ROOM_WAIT),
                (false, None) => next_scan.min(next_look).min(self.timer),
            };
            let Woken { changed, rescan, stop } = self.parts.wake.wait(until);
            if stop {
                return Ok(());
            }
            for path in &changed {
                if let Some(key) = self.paths.get(path) {
                    self.enqueue(*key);
                }
            }
            if rescan {
                next_scan = next_scan.min(gap_end);
            }
        }
    }

    fn enqueue(&mut self, key: FileKey) {
        if let Some(tail) = self.tails.get_mut(&key)
            && !std::mem::replace(&mut tail.queued, true)
        {
            self.queue.push_back(key);
        }
    }
}

/// Whether a path may name a rotated form of a source's file, by the name it has now or the one it had first.
fn is_rotation_of(path: &Path, source: &Source, now: &Path) -> bool {
    is_rotation(path, now) || is_rotation(path, &source.filename)
}

/// Whether both are known and not the same.
fn differ(a: Option<i64>, b: Option<i64>) -> bool {
    matches!((a, b), (Some(a), Some(b)) if a != b)
}

fn mtime(metadata: &Metadata) -> (i64, i64) {
    (metadata.mtime(), metadata.mtime_nsec())
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
