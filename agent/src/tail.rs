//! The thread that reads: finds files, tells which source each one is, reads them in fair turns.
//!
//! In: folders and files, calls of [`Wake`]. Out: [`Haul`]s into the lanes' queues. Touches files (reading only) and
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

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_log::clock::SharedClock;
use tokio::sync::mpsc;

use crate::discover::{self, FileKey, Found, birth_ns, is_rotation};
use crate::error::AgentError;
use crate::fingerprint::{Print, TAIL_BYTES, read_at, read_into, tail_at};
use crate::ledger::{Count, Sources};
use crate::metrics::AgentMetrics;
use crate::pool::Pool;
use crate::producer::{Budget, Haul};
use crate::source::{Anchor, Entry, Sighting, Source, Taken};
use crate::split::{Mark, Mode};
use crate::state::State;
use crate::watch::{Wake, Watcher, Woken};

/// Clocks of file systems tick coarsely, and files change while a folder is read.
const CLOCK_SLACK_MS: i64 = 2_000;
/// Two scans are so far apart at least, and ten times as far as the last one took.
const SCAN_GAP: Duration = Duration::from_millis(20);
/// How long to wait when the lanes have no room, should their call get lost.
const ROOM_WAIT: Duration = Duration::from_millis(100);
/// Memory that a haul takes besides its bytes.
const HAUL_COST: usize = 512;
/// How often sources whose file is long gone are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(600);

/// What the reading thread works with.
pub(crate) struct ReaderParts {
    pub entries: Vec<Arc<Entry>>,
    pub topic: Arc<str>,
    pub state: Arc<State>,
    pub sources: Sources,
    pub lanes: Vec<mpsc::Sender<Haul>>,
    pub budget: Arc<Budget>,
    pub windows: Arc<Pool>,
    pub wake: Wake,
    pub clock: SharedClock,
    pub metrics: AgentMetrics,
    pub scan_interval: Duration,
    pub fingerprint: usize,
    pub read_bytes: usize,
    pub rotated_wait: Duration,
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
    file: Option<File>,
    entry: Arc<Entry>,
    /// `None` while it is empty or waits as a copy.
    source: Option<Arc<Source>>,
    mark: Mark,
    /// What stands before `mark`.
    before: Vec<u8>,
    size: u64,
    mtime: (i64, i64),
    /// When it last grew.
    grown: Instant,
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
    fn due(&self, rotated_wait: Duration) -> Option<Instant> {
        let wait = self.entry.partial_timeout;
        let pending = (self.pending && !self.flush).then(|| self.grown + wait);
        let away = (!self.matched).then(|| self.grown + rotated_wait);
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
    Full,
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
    unreadable: HashMap<PathBuf, io::ErrorKind>,
    first_scan: bool,
    /// A rotated file changed since then may hold lines that nobody has seen.
    looked_ms: Option<i64>,
    timer: Instant,
    forget: Instant,
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
            unreadable: HashMap::new(),
            first_scan: true,
            timer: now,
            forget: now + FORGET_EVERY,
        })
    }

    /// Reads until the agent stops.
    pub fn run(mut self) -> Result<(), AgentError> {
        let mut next_scan = Instant::now();
        let mut gap_end = next_scan;
        loop {
            let now = Instant::now();
            if now >= next_scan {
                self.scan()?;
                let took = now.elapsed();
                self.parts.metrics.scans.inc();
                self.parts.metrics.scan_seconds.inc_by(took.as_secs_f64());
                gap_end = Instant::now() + SCAN_GAP.max(took * 10);
                next_scan = (now + self.parts.scan_interval).max(gap_end);
            }
            if now >= self.timer {
                self.timers(now);
            }
            self.adopt()?;
            let (progress, full, closed) = self.turns()?;
            if closed {
                return Ok(());
            }
            let until = match (progress, full) {
                (true, _) => Instant::now(),
                (false, true) => {
                    self.parts.metrics.pauses.inc();
                    next_scan.min(Instant::now() + ROOM_WAIT)
                }
                (false, false) => next_scan.min(self.timer),
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

    // ---- finding files ----

    fn scan(&mut self) -> Result<(), AgentError> {
        let started_ms = self.parts.clock.now_ms();
        let globs: Vec<_> = self.parts.entries.iter().map(|entry| &entry.globs).collect();
        let mut scan = discover::scan(&globs);
        for (path, error) in scan.faults.drain(..) {
            self.unreadable(&path, &error);
        }
        if let Some(watcher) = &mut self.watcher {
            watcher.set(&scan.folders);
        }
        // A file with two names goes by the one that matches.
        scan.files.sort_by_key(|found| found.rotated_from.is_some());
        let mut seen: HashSet<FileKey> = HashSet::new();
        let mut names: HashSet<PathBuf> = HashSet::new();
        for found in scan.files {
            let key = FileKey::of(&found.metadata);
            if !seen.insert(key) {
                continue;
            }
            names.insert(found.path.clone());
            if self.tails.contains_key(&key) {
                self.seen_again(key, &found)?;
            } else if self.is_wanted(key, &found) {
                self.open_new(key, found);
            }
        }
        let gone: Vec<FileKey> = self.tails.keys().filter(|key| !seen.contains(key)).copied().collect();
        for key in gone {
            if let Some(tail) = self.tails.get_mut(&key) {
                if tail.present {
                    tail.grown = Instant::now();
                    self.timer = self.timer.min(tail.grown + self.parts.rotated_wait);
                }
                (tail.present, tail.matched) = (false, false);
                if self.paths.get(&tail.path) == Some(&key) {
                    self.paths.remove(&tail.path);
                }
            }
            self.enqueue(key);
        }
        self.unreadable.retain(|path, _| names.contains(path) || path.exists());
        self.parts.metrics.unreadable_files.set(count(self.unreadable.len()));
        self.parts.metrics.files.set(count(self.tails.len()));
        self.parts.metrics.open_files.set(count(self.tails.values().filter(|t| t.file.is_some()).count()));
        self.looked_ms = Some(started_ms);
        if Instant::now() >= self.forget {
            self.forget = Instant::now() + FORGET_EVERY;
            self.forget_gone(started_ms)?;
        }
        // Files of the first scan stay those of the first scan until all of them have been adopted.
        if self.first_scan {
            self.adopt()?;
            self.first_scan = false;
        }
        Ok(())
    }

    /// A file that is being read: it may have a new name, or have grown without a word from the kernel.
    fn seen_again(&mut self, key: FileKey, found: &Found) -> Result<(), AgentError> {
        let Some(tail) = self.tails.get_mut(&key) else { return Ok(()) };
        let matched = found.rotated_from.is_none();
        if tail.matched && !matched {
            tail.grown = Instant::now();
            self.timer = self.timer.min(tail.grown + self.parts.rotated_wait);
        }
        if tail.path != found.path {
            if self.paths.get(&tail.path) == Some(&key) {
                self.paths.remove(&tail.path);
            }
            tail.path.clone_from(&found.path);
        }
        self.paths.insert(found.path.clone(), key);
        (tail.present, tail.matched) = (true, matched);
        let sighting = Sighting {
            key,
            birth_ns: birth_ns(&found.metadata),
            path: found.path.clone(),
            now_ms: self.parts.clock.now_ms(),
        };
        let reborn = tail.file.is_none() && differ(tail.birth_ns, sighting.birth_ns);
        let changed = tail.size != found.metadata.len() || tail.mtime != mtime(&found.metadata);
        let waits = tail.source.is_none() || tail.failed;
        if let Some(source) = &tail.source
            && !reborn
        {
            source.see(sighting);
        }
        if reborn {
            // The inode was given to another file while this one was closed.
            tail.birth_ns = birth_ns(&found.metadata);
            self.truncated(key)?;
        }
        if changed || waits {
            self.enqueue(key);
        }
        Ok(())
    }

    /// Whether a file that is not being read is to be opened.
    fn is_wanted(&self, key: FileKey, found: &Found) -> bool {
        let Some(before) = &found.rotated_from else { return true };
        let mut by_key = self.known.iter().filter(|(source, at)| at.is_none() && source.last_key() == key).peekable();
        if by_key.peek().is_some() {
            return by_key
                .any(|(source, _)| !source.is_finished() || found.metadata.len() > source.read_anchor().mark.offset);
        }
        self.is_recent(&found.metadata)
            || self.first_scan
                && self.known.iter().any(|(source, at)| {
                    at.is_none() && !source.is_finished() && {
                        source.filename == *before || is_rotation_of(&found.path, source, &source.last_seen().path)
                    }
                })
    }

    fn is_recent(&self, metadata: &Metadata) -> bool {
        let (secs, nanos) = mtime(metadata);
        self.looked_ms.is_some_and(|looked| secs * 1000 + nanos / 1_000_000 >= looked - CLOCK_SLACK_MS)
    }

    fn open_new(&mut self, key: FileKey, found: Found) {
        let Some((file, metadata)) = self.open(key, &found.path) else { return };
        let matched = found.rotated_from.is_none();
        let tail = Tail {
            birth_ns: birth_ns(&metadata),
            path: found.path.clone(),
            rotated_from: found.rotated_from,
            file: Some(file),
            entry: self.parts.entries[found.entry].clone(),
            source: None,
            mark: Mark::default(),
            before: Vec::new(),
            size: 0,
            mtime: (0, 0),
            grown: Instant::now(),
            pending: false,
            flush: false,
            queued: false,
            matched,
            present: true,
            may_be_new: matched || self.is_recent(&metadata),
            at_install: self.first_scan && self.parts.last_alive_ms.is_none(),
            failed: false,
        };
        self.tails.insert(key, tail);
        self.paths.insert(found.path, key);
        self.enqueue(key);
    }

    /// Opens a path if it still names the file.
    fn open(&mut self, key: FileKey, path: &Path) -> Option<(File, Metadata)> {
        let opened = File::open(path).and_then(|file| file.metadata().map(|metadata| (file, metadata)));
        match opened {
            Ok((file, metadata)) => {
                if self.unreadable.remove(path).is_some() {
                    tracing::info!(path = %path.display(), "file can be read again");
                }
                (FileKey::of(&metadata) == key).then_some((file, metadata))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.unreadable(path, &error);
                None
            }
        }
    }

    /// Tells of an unreadable file once, not at every scan.
    fn unreadable(&mut self, path: &Path, error: &io::Error) {
        if self.unreadable.insert(path.to_owned(), error.kind()) == Some(error.kind()) {
            return;
        }
        let cure = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "let the agent's user read it and enter its folders (group, or setfacl -m u:USER:r)"
            }
            _ if error.raw_os_error() == Some(libc::EMFILE) => {
                "raise the limit of open files (ulimit -n, LimitNOFILE=)"
            }
            _ => "look at the file system and its disk",
        };
        tracing::warn!(path = %path.display(), %error, cure, "file can't be read, it is tried again at each scan; other files go on");
    }

    fn forget_gone(&mut self, now_ms: i64) -> Result<(), AgentError> {
        let mut gone: Vec<Arc<Source>> = Vec::new();
        self.known.retain(|(source, at)| {
            let old =
                at.is_none() && source.is_settled() && now_ms - source.last_seen().now_ms > self.parts.forget_after_ms;
            if old {
                gone.push(source.clone());
            }
            !old
        });
        for source in &gone {
            self.parts.state.remove(source.identity().id)?;
        }
        if !gone.is_empty() {
            self.parts.sources.write().retain(|source| !gone.iter().any(|g| Arc::ptr_eq(g, source)));
        }
        Ok(())
    }

    // ---- which source is it? ----

    /// Gives every queued file without a source its source. All new ones are durable before any of them is read.
    fn adopt(&mut self) -> Result<(), AgentError> {
        let now = Instant::now();
        let mut orphans: Vec<((i64, i64), FileKey)> = Vec::new();
        for key in &self.queue {
            let Some(tail) = self.tails.get_mut(key) else { continue };
            let (None, Some(file)) = (&tail.source, &tail.file) else { continue };
            // An empty file is nobody yet.
            let Ok(metadata) = file.metadata() else { continue };
            if tail.size != metadata.len() {
                (tail.size, tail.grown, tail.flush) = (metadata.len(), now, false);
            }
            if tail.size > 0 {
                orphans.push((mtime(&metadata), *key));
            }
        }
        if orphans.is_empty() {
            return Ok(());
        }
        // The older a rotated file, the older its source.
        orphans.sort_unstable();
        let mut orphans: Vec<FileKey> = orphans.into_iter().map(|(_, key)| key).collect();
        orphans.retain(|key| match self.same_inode(*key) {
            Some(source) => !self.attach(*key, source),
            None => true,
        });
        let mut minted = false;
        for key in orphans {
            if let Some(source) = self.same_content(key)
                && self.attach(key, source)
            {
                continue;
            }
            if self.is_copy(key) {
                continue;
            }
            // It may be a copy whose original was truncated a moment ago: then it is where that source goes on.
            if let Some(original) = self.truncated_original(key) {
                self.truncated(original)?;
                if self.tails.get(&key).is_some_and(|tail| tail.source.is_some()) {
                    continue;
                }
            }
            let Some(tail) = self.tails.get_mut(&key) else { continue };
            if !tail.may_be_new {
                self.drop_tail(key);
                continue;
            }
            match self.mint(key) {
                Ok(true) => minted = true,
                Ok(false) => {}
                Err(MintError::Read(error)) => {
                    let path = self.tails.get(&key).map(|tail| tail.path.clone()).unwrap_or_default();
                    self.unreadable(&path, &error);
                }
                Err(MintError::State(error)) => return Err(error),
            }
        }
        if minted {
            self.parts.state.sync()?;
        }
        Ok(())
    }

    /// The source that has this device, inode and birth, if the content agrees.
    fn same_inode(&self, key: FileKey) -> Option<usize> {
        let tail = self.tails.get(&key)?;
        let candidates = self.known.iter().enumerate().filter(|(_, (source, at))| {
            at.is_none() && source.last_key() == key && !differ(source.last_seen().birth_ns, tail.birth_ns)
        });
        candidates
            .filter(|(_, (source, _))| self.agrees(tail, source))
            .max_by_key(|(_, (source, _))| source.read_anchor().mark.offset)
            .map(|(i, _)| i)
    }

    /// A source without a file whose content this file has, if the names or the amount speak for it.
    fn same_content(&self, key: FileKey) -> Option<usize> {
        let tail = self.tails.get(&key)?;
        let rank = |source: &Source| {
            let seen = source.last_seen();
            let offset = source.read_anchor().mark.offset;
            if seen.key.inode == key.inode && seen.path == tail.path {
                // The device got another number, as after a restart of the host.
                Some((2, offset))
            } else if is_rotation_of(&tail.path, source, &seen.path) {
                Some((1, offset))
            } else {
                (offset >= self.parts.fingerprint as u64).then_some((0, offset))
            }
        };
        let candidates = self.known.iter().enumerate().filter(|(_, (_, at))| at.is_none());
        candidates
            .filter_map(|(i, (source, _))| Some((rank(source)?, i)))
            .filter(|(_, i)| self.agrees(tail, &self.known[*i].0))
            .max()
            .map(|(_, i)| i)
    }

    /// Whether a file has a source's head, and before the reached position the same bytes.
    fn agrees(&self, tail: &Tail, source: &Source) -> bool {
        let Some(file) = &tail.file else { return false };
        agrees(file, tail.size, source)
    }

    fn attach(&mut self, key: FileKey, index: usize) -> bool {
        let Some((source, at)) = self.known.get_mut(index) else { return false };
        let Some(tail) = self.tails.get_mut(&key) else { return false };
        if at.is_some() {
            return false;
        }
        let anchor = source.read_anchor();
        let Some(Ok(before)) = tail.file.as_ref().map(|file| tail_at(file, anchor.mark.offset)) else { return false };
        source.see(Sighting {
            key,
            birth_ns: tail.birth_ns,
            path: tail.path.clone(),
            now_ms: self.parts.clock.now_ms(),
        });
        tracing::debug!(path = %tail.path.display(), source = %source.identity().id, offset = anchor.mark.offset, "file is a known source");
        (tail.mark, tail.before) = (anchor.mark, before);
        tail.source = Some(source.clone());
        *at = Some(key);
        true
    }

    /// Whether a file is a copy of one that is being read: what `cp` of copytruncate makes before the truncation.
    fn is_copy(&self, key: FileKey) -> bool {
        let Some(copy) = self.tails.get(&key) else { return false };
        let Some(copy_file) = &copy.file else { return false };
        self.tails.iter().any(|(other, original)| {
            let (true, Some(source), Some(file)) = (*other != key, &original.source, &original.file) else {
                return false;
            };
            if !is_rotation_of(&copy.path, source, &original.path) || copy.birth_ns < original.birth_ns {
                return false;
            }
            let block = copy.size.min(1024);
            let same = |offset: u64| -> io::Result<bool> {
                let len = usize::try_from(block).unwrap_or(1024);
                Ok(read_at(file, offset, len)? == read_at(copy_file, offset, len)?)
            };
            file.metadata().is_ok_and(|m| m.len() >= copy.size)
                && same(0).unwrap_or(false)
                && same(copy.size - block).unwrap_or(false)
        })
    }

    /// A file that is being read, whose rotated form `key` may be, and that no longer holds what was read from it.
    fn truncated_original(&self, key: FileKey) -> Option<FileKey> {
        let copy = self.tails.get(&key)?;
        let mut originals = self.tails.iter().filter(|(other, original)| {
            **other != key
                && original.source.as_ref().is_some_and(|source| is_rotation_of(&copy.path, source, &original.path))
        });
        let whole = |tail: &Tail| {
            let Some(file) = &tail.file else { return true };
            file.metadata().is_ok_and(|metadata| metadata.len() >= tail.mark.offset)
                && tail_at(file, tail.mark.offset).is_ok_and(|before| before == tail.before)
        };
        originals.find(|(_, original)| !whole(original)).map(|(other, _)| *other)
    }

    /// Makes a new source, unless the file is so short that it is better to wait for its first line.
    fn mint(&mut self, key: FileKey) -> Result<bool, MintError> {
        let Some(tail) = self.tails.get_mut(&key) else { return Ok(false) };
        let Some(file) = &tail.file else { return Ok(false) };
        let head = read_at(file, 0, self.parts.fingerprint).map_err(MintError::Read)?;
        if head.len() < self.parts.fingerprint && memchr::memchr(b'\n', &head).is_none() && !tail.flush {
            tail.pending = true;
            if let Some(due) = tail.due(self.parts.rotated_wait) {
                self.timer = self.timer.min(due);
            }
            return Ok(false);
        }
        let head = Print::of(&head);
        let mark = if tail.at_install && tail.entry.from_end {
            last_line_start(file, tail.size, tail.entry.splitter.max_line).map_err(MintError::Read)?
        } else {
            Mark::default()
        };
        let before = tail_at(file, mark.offset).map_err(MintError::Read)?;
        let seen =
            Sighting { key, birth_ns: tail.birth_ns, path: tail.path.clone(), now_ms: self.parts.clock.now_ms() };
        let partitions = i32::try_from(self.parts.lanes.len()).unwrap_or(i32::MAX);
        let anchor = Anchor { mark, tail: Print::of(&before) };
        let filename = tail.rotated_from.clone().unwrap_or_else(|| tail.path.clone());
        let source = Source::mint(tail.entry.clone(), &self.parts.topic, partitions, filename, seen, head, anchor);
        let source = Arc::new(source);
        source.save(&self.parts.state).map_err(MintError::State)?;
        tracing::info!(path = %tail.path.display(), source = %source.identity().id, partition = source.to.partition, "new file");
        (tail.mark, tail.before) = (mark, before);
        tail.source = Some(source.clone());
        self.parts.sources.write().push(source.clone());
        self.known.push((source, Some(key)));
        self.parts.metrics.new_sources.inc();
        Ok(true)
    }

    /// The file at this inode no longer is its source: reads the source on in a copy, and the file as a new one.
    fn truncated(&mut self, key: FileKey) -> Result<(), AgentError> {
        let Some(tail) = self.tails.get_mut(&key) else { return Ok(()) };
        (tail.mark, tail.before, tail.pending, tail.flush) = (Mark::default(), Vec::new(), false, false);
        (tail.may_be_new, tail.at_install) = (true, false);
        let path = tail.path.clone();
        let entry = tail.entry.clone();
        let source = tail.source.take();
        self.parts.metrics.truncations.inc();
        self.enqueue(key);
        let Some(source) = source else { return Ok(()) };
        let Some(index) = self.known.iter().position(|(known, _)| Arc::ptr_eq(known, &source)) else { return Ok(()) };
        self.known[index].1 = None;
        let waiting: Vec<FileKey> = self
            .tails
            .iter()
            .filter(|(other, tail)| {
                **other != key && tail.source.is_none() && is_rotation_of(&tail.path, &source, &path)
            })
            .map(|(other, _)| *other)
            .collect();
        for other in waiting {
            if let Some(tail) = self.tails.get_mut(&other) {
                tail.size = tail.file.as_ref().and_then(|f| f.metadata().ok()).map_or(0, |m| m.len());
                if agrees_tail(tail, &source) && self.attach(other, index) {
                    tracing::info!(path = %path.display(), "file was truncated after a copy was made, the copy is read to its end");
                    self.enqueue(other);
                    return Ok(());
                }
            }
        }
        for other in std::fs::read_dir(path.parent().unwrap_or(Path::new("/"))).into_iter().flatten().flatten() {
            let copy = other.path();
            if !is_rotation_of(&copy, &source, &path) {
                continue;
            }
            let Ok(metadata) = std::fs::metadata(&copy) else { continue };
            let other = FileKey::of(&metadata);
            if !metadata.is_file() || self.tails.contains_key(&other) {
                continue;
            }
            let Some((file, metadata)) = self.open(other, &copy) else { continue };
            if !agrees(&file, metadata.len(), &source) {
                continue;
            }
            let matched = entry.globs.matches(&copy);
            let tail = Tail {
                birth_ns: birth_ns(&metadata),
                path: copy.clone(),
                rotated_from: None,
                file: Some(file),
                entry: entry.clone(),
                source: None,
                mark: Mark::default(),
                before: Vec::new(),
                size: metadata.len(),
                mtime: (0, 0),
                grown: Instant::now(),
                pending: false,
                flush: false,
                queued: false,
                matched,
                present: true,
                may_be_new: false,
                at_install: false,
                failed: false,
            };
            self.tails.insert(other, tail);
            self.paths.insert(copy, other);
            if self.attach(other, index) {
                tracing::info!(path = %path.display(), "file was truncated after a copy was made, the copy is read to its end");
                self.timer = self.timer.min(Instant::now() + self.parts.rotated_wait);
                self.enqueue(other);
                return Ok(());
            }
            self.drop_tail(other);
        }
        source.finish();
        tracing::info!(path = %path.display(), "file was truncated, it is read from its start as a new source");
        Ok(())
    }

    fn drop_tail(&mut self, key: FileKey) {
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

    // ---- reading ----

    /// Events that have waited long enough, files that have ended, files to close.
    fn timers(&mut self, now: Instant) {
        let mut next = now + self.parts.scan_interval;
        let mut ready: Vec<FileKey> = Vec::new();
        for (key, tail) in &mut self.tails {
            if let Some(due) = tail.due(self.parts.rotated_wait) {
                if due <= now {
                    tail.flush |= tail.pending;
                    ready.push(*key);
                    // Looked at again soon, should the queue be full.
                    next = next.min(now + ROOM_WAIT);
                } else {
                    next = next.min(due);
                }
            } else if tail.file.is_some() && tail.source.is_some() && !tail.queued {
                let close = tail.grown + self.parts.close_idle;
                if close <= now {
                    tail.file = None;
                } else {
                    next = next.min(close);
                }
            }
        }
        for key in ready {
            self.enqueue(key);
        }
        self.timer = next;
    }

    /// One turn for each queued file. Returns whether something was read, whether room was missing, whether to stop.
    fn turns(&mut self) -> Result<(bool, bool, bool), AgentError> {
        let (mut progress, mut full) = (false, false);
        for _ in 0..self.queue.len() {
            let Some(key) = self.queue.pop_front() else { break };
            let Some(tail) = self.tails.get_mut(&key) else { continue };
            tail.queued = false;
            let turn = match self.turn(key) {
                Ok(turn) => turn,
                Err(TurnError::Read(error)) => {
                    let path = self.tails.get_mut(&key).map(|tail| {
                        tail.failed = true;
                        tail.path.clone()
                    });
                    self.unreadable(&path.unwrap_or_default(), &error);
                    continue;
                }
                Err(TurnError::State(error)) => return Err(error),
            };
            match turn {
                Turn::More => {
                    progress = true;
                    self.enqueue(key);
                }
                Turn::Idle => {}
                Turn::Full => {
                    full = true;
                    self.enqueue(key);
                }
                Turn::Truncated => {
                    progress = true;
                    self.truncated(key)?;
                }
                Turn::Closed => return Ok((progress, full, true)),
            }
        }
        Ok((progress, full, false))
    }

    fn turn(&mut self, key: FileKey) -> Result<Turn, TurnError> {
        let now = Instant::now();
        let Some(tail) = self.tails.get_mut(&key) else { return Ok(Turn::Idle) };
        if tail.file.is_none() {
            let path = tail.path.clone();
            match self.open(key, &path) {
                Some((file, _)) => {
                    if let Some(tail) = self.tails.get_mut(&key) {
                        tail.file = Some(file);
                    }
                }
                None => {
                    // Gone while it was closed: it was read to its end before.
                    if self.tails.get(&key).is_some_and(|tail| !tail.present) {
                        self.end(key);
                    }
                    return Ok(Turn::Idle);
                }
            }
        }
        let parts = &self.parts;
        let Some(tail) = self.tails.get_mut(&key) else { return Ok(Turn::Idle) };
        let Some(file) = &tail.file else { return Ok(Turn::Idle) };
        let metadata = file.metadata().map_err(TurnError::Read)?;
        tail.failed = false;
        let size = metadata.len();
        if size != tail.size {
            (tail.grown, tail.flush) = (now, false);
            tail.size = size;
        }
        let Some(source) = tail.source.clone() else {
            let over = !tail.present && now >= tail.grown + parts.rotated_wait;
            if over || metadata.nlink() == 0 && size == 0 {
                self.drop_tail(key);
            }
            return Ok(Turn::Idle);
        };
        if size < tail.mark.offset.max(u64::from(source.head().len)) {
            return Ok(Turn::Truncated);
        }
        let available = size - tail.mark.offset;
        let changed = std::mem::replace(&mut tail.mtime, mtime(&metadata)) != tail.mtime;
        if available == 0 {
            tail.pending = false;
            if changed && tail_at(file, tail.mark.offset).map_err(TurnError::Read)? != tail.before {
                return Ok(Turn::Truncated);
            }
            if !tail.matched && now >= tail.grown + parts.rotated_wait {
                self.end(key);
            }
            return Ok(Turn::Idle);
        }

        // An event that was sent before its line end came ends there again.
        let forced = source.end_beyond(tail.mark.offset).filter(|end| *end <= size);
        let most = parts.read_bytes.max(tail.entry.splitter.min_window()).max(parts.fingerprint) as u64;
        let wanted = available.min(most).min(forced.map_or(u64::MAX, |end| end - tail.mark.offset));
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        // Its lines' places and times take about a quarter of what they point to.
        let cost = wanted + wanted / 4 + HAUL_COST;
        let lane = usize::try_from(source.to.partition).unwrap_or(usize::MAX);
        let Some(lane) = parts.lanes.get(lane) else { return Ok(Turn::Closed) };
        let permit = match lane.try_reserve() {
            Ok(permit) => permit,
            Err(mpsc::error::TrySendError::Full(())) => return Ok(Turn::Full),
            Err(mpsc::error::TrySendError::Closed(())) => return Ok(Turn::Closed),
        };
        if !parts.budget.take(cost) {
            return Ok(Turn::Full);
        }
        let share = Share { budget: &parts.budget, cost };

        let known = tail.before.len();
        let mut window = parts.windows.window(known + wanted);
        let start = tail.mark.offset - known as u64;
        let got = read_into(file, start, &mut window).map_err(TurnError::Read)?;
        if got < known || window[..known] != tail.before[..] {
            return Ok(Turn::Truncated);
        }
        if got < known + wanted {
            // It shrank since its size was asked for: look again.
            return Ok(Turn::More);
        }
        // Near the start few bytes can be compared: the head says more.
        let head = source.head();
        if start == 0 && known < TAIL_BYTES && got >= head.len as usize && !head.begins(&window) {
            return Ok(Turn::Truncated);
        }
        let read_ns = parts.clock.now_ns();
        let data = &window[known..];
        let at_forced = forced.is_some_and(|end| tail.mark.offset + data.len() as u64 == end);
        let whole = data.len() as u64 == available;
        let flush = at_forced || tail.flush && whole;
        let mut pieces = Vec::with_capacity(data.len() / 128 + 1);
        let outcome = tail.entry.splitter.split(data, tail.mark, flush, &mut pieces);
        if outcome.mark == tail.mark {
            tail.pending = true;
            if let Some(due) = tail.due(parts.rotated_wait) {
                self.timer = self.timer.min(due);
            }
            return Ok(Turn::Idle);
        }
        if flush && !at_forced {
            source.add_end(outcome.mark.offset);
            source.save(&parts.state).map_err(TurnError::State)?;
            parts.state.sync().map_err(TurnError::State)?;
            parts.metrics.partial_lines.inc();
            tail.flush = false;
        }

        let taken_bytes = outcome.mark.offset - tail.mark.offset;
        let end = known + usize::try_from(taken_bytes).unwrap_or(usize::MAX);
        let before = window[end.saturating_sub(TAIL_BYTES)..end].to_vec();
        let to = Anchor { mark: outcome.mark, tail: Print::of(&before) };
        for piece in &mut pieces {
            piece.start += u32::try_from(known).unwrap_or(u32::MAX);
        }
        let lines = pieces.iter().map(|piece| u64::from(piece.lines)).sum();
        let count = Count { lines, bytes: taken_bytes, records: pieces.len() as u64 };
        let taken = Taken { count, skipped: outcome.skipped };
        let mut times = Vec::new();
        if let Some(time) = &tail.entry.time {
            let line = |piece: &crate::split::Piece| &window[piece.start as usize..(piece.start + piece.len) as usize];
            times = pieces.iter().map(|piece| time.read(line(piece), read_ns)).collect();
            parts.metrics.untimed_lines.inc_by(times.iter().filter(|time| time.is_none()).count() as u64);
        }
        if (head.len as usize) < parts.fingerprint && u64::from(head.len) < size {
            // Only what grew out of the head that is known: the file may have been truncated since the window was read.
            let grown = read_at(file, 0, parts.fingerprint).map_err(TurnError::Read)?;
            if grown.len() > head.len as usize && head.begins(&grown) {
                source.set_head(Print::of(&grown));
            }
        }

        parts.metrics.read_lines.inc_by(lines);
        parts.metrics.read_bytes.inc_by(taken_bytes);
        parts.metrics.cut_lines.inc_by(pieces.iter().filter(|piece| piece.cut).count() as u64);
        parts.metrics.waiting_lines.inc_by(i64::try_from(lines).unwrap_or(i64::MAX));
        source.took(to, taken);
        (tail.mark, tail.before) = (outcome.mark, before);
        tail.pending = tail.mark.offset < size;
        tail.grown = now;
        let window = window.freeze();
        permit.send(Haul { source, window, base: start, pieces, times, to, taken, read_ns, cost: share.keep() });
        if tail.pending
            && let Some(due) = tail.due(parts.rotated_wait)
        {
            self.timer = self.timer.min(due);
        }
        Ok(if whole { Turn::Idle } else { Turn::More })
    }

    /// A file that was renamed away or deleted is read to its end.
    fn end(&mut self, key: FileKey) {
        if let Some(tail) = self.tails.get(&key) {
            if let Some(source) = &tail.source {
                source.finish();
            }
            tracing::info!(path = %tail.path.display(), "rotated file is read to its end");
            self.parts.metrics.finished_files.inc();
        }
        self.drop_tail(key);
    }
}

/// A share of the memory, given back unless it is kept.
struct Share<'a> {
    budget: &'a Budget,
    cost: usize,
}

impl Share<'_> {
    fn keep(mut self) -> usize {
        std::mem::take(&mut self.cost)
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.budget.give(self.cost);
    }
}

enum TurnError {
    Read(io::Error),
    State(AgentError),
}

enum MintError {
    Read(io::Error),
    State(AgentError),
}

fn agrees_tail(tail: &Tail, source: &Source) -> bool {
    tail.file.as_ref().is_some_and(|file| agrees(file, tail.size, source))
}

fn agrees(file: &File, size: u64, source: &Source) -> bool {
    let (head, anchor) = (source.head(), source.read_anchor());
    if head.len == 0 || size < u64::from(head.len) || size < anchor.mark.offset {
        return false;
    }
    read_at(file, 0, head.len as usize).is_ok_and(|bytes| head.begins(&bytes))
        && tail_at(file, anchor.mark.offset).is_ok_and(|bytes| Print::of(&bytes) == anchor.tail)
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

/// Where the last line of a file starts, or its end inside a very long line.
fn last_line_start(file: &File, size: u64, max_line: usize) -> io::Result<Mark> {
    let len = size.min(max_line as u64 + 1);
    let bytes = read_at(file, size - len, usize::try_from(len).unwrap_or(usize::MAX))?;
    Ok(match memchr::memrchr(b'\n', &bytes) {
        Some(i) => Mark { offset: size - len + i as u64 + 1, mode: Mode::Start },
        None if len == size => Mark::default(),
        None => Mark { offset: size, mode: Mode::Skip },
    })
}
