//! Disk as a seam: what segment storage asks of a file system.
//!
//! Out: [`RealFs`]; in memory [`SimFs`], which forgets at `crash()` what was not synced, and fails when told to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::{Errno, ReadWriteFlags};

/// An open file; all calls name their place, so that readers and the writer share one handle.
pub trait File: Send + Sync {
    /// Reads up to the buffer's length at a place; fewer bytes only at the end of the file.
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Writes all slices, one after the other, from a place on. After an error any prefix may have been written.
    fn write_at(&self, at: u64, slices: &mut [IoSlice<'_>]) -> io::Result<()>;

    /// Bytes in the file.
    fn len(&self) -> io::Result<u64>;

    /// Whether it holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Cuts the file.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Forces content and length to disk (not its name in the folder: [`Filesystem::sync_dir`]).
    fn sync_data(&self) -> io::Result<()>;

    /// The system's handle, by which the kernel can send the content on by itself; `None` if there is none.
    fn handle(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Whether reading these bytes would wait for no disk, as far as a few samples tell.
    fn is_in_memory(&self, at: u64, bytes: usize) -> bool {
        let _ = (at, bytes);
        true
    }
}

/// Held for as long as the folder is in use.
pub trait Lock: Send + Sync {}

/// What a folder lists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Name within the folder.
    pub name: String,
    /// Whether it is a folder itself.
    pub is_dir: bool,
}

/// A file system.
pub trait Filesystem: Send + Sync + 'static {
    /// Makes a file, empty, for reading and writing; an existing one is emptied.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Renames, replacing what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes a folder with everything in it.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Makes a folder and those above it.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// What stands in a folder, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;

    /// Forces names made, renamed and removed in a folder to disk.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Bytes that may still be written below a folder.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;

    /// Takes the exclusive lock of a file, which it makes; `WouldBlock` with the holder's words if it is taken.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
}

/// Reads a whole small file.
pub fn read_all(fs: &dyn Filesystem, path: &Path) -> io::Result<Vec<u8>> {
    let file = fs.open(path)?;
    let len = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; len];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Replaces a small file as a whole: after a crash it holds the old or the new content, durable on return.
pub fn replace(fs: &dyn Filesystem, path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".tmp");
    let fresh = PathBuf::from(fresh);
    let file = fs.create(&fresh)?;
    file.write_at(0, &mut [IoSlice::new(content)])?;
    file.sync_data()?;
    fs.rename(&fresh, path)?;
    fs.sync_dir(dir)
}

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealFs;

impl RealFs {
    /// As the storage takes it.
    pub fn shared() -> Arc<dyn Filesystem> {
        Arc::new(Self)
    }
}

/// The kernel reads ahead about so much, so that what is in memory comes in pieces of this size.
const SAMPLE_BYTES: usize = 128 << 10;

struct RealFile(std::fs::File);

impl File for RealFile {
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, mut at: u64, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        // Empty slices at the front would look like a disk that takes nothing.
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            // The kernel takes 1024 slices at most.
            let some = slices.get(..slices.len().min(1024)).unwrap_or_default();
            match rustix::io::pwritev(&self.0, some, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    at += n as u64;
                    IoSlice::advance_slices(&mut slices, n);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.0.metadata().map(|m| m.len())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn handle(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn is_in_memory(&self, at: u64, bytes: usize) -> bool {
        let last = at.saturating_add(bytes as u64).saturating_sub(1);
        let samples = (at..=last).step_by(SAMPLE_BYTES).chain([last]);
        let mut byte = [0];
        samples.into_iter().all(|place| {
            let mut byte = [IoSliceMut::new(&mut byte)];
            // An error other than "would wait" shows again when it is read.
            !matches!(rustix::io::preadv2(&self.0, &mut byte, place, ReadWriteFlags::NOWAIT), Err(Errno::AGAIN))
        })
    }
}

struct RealLock(#[allow(dead_code, reason = "the lock lives as long as the file is open")] std::fs::File);

impl Lock for RealLock {}

impl Filesystem for RealFs {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let is_dir = entry.file_type()?.is_dir();
            // A name that is no UTF-8 is none of ours.
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(Entry { name, is_dir });
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::File::open(dir)?.sync_all()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {
                // Whose it is, for who comes too late; the lock holds without it, also on a full disk.
                let named = file.set_len(0).and_then(|()| write!(file, "process {}", std::process::id()));
                match named {
                    Err(e) if e.kind() != io::ErrorKind::StorageFull => Err(e),
                    _ => Ok(Box::new(RealLock(file))),
                }
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let read = (&file).take(64).read_to_string(&mut holder);
                let known = read.is_ok() && !holder.is_empty();
                let holder = if known { holder } else { "another process".to_owned() };
                Err(io::Error::new(io::ErrorKind::WouldBlock, holder))
            }
            Err(std::fs::TryLockError::Error(e)) => Err(e),
        }
    }
}

/// Files in memory for tests. Remembers apart what is durable: content after `sync_data`, names after `sync_dir`.
#[derive(Clone, Default)]
pub struct SimFs(Arc<Mutex<Sim>>);

#[derive(Default)]
struct Sim {
    nodes: Vec<Node>,
    live: Names,
    durable: Names,
    locks: BTreeSet<PathBuf>,
    /// Counts crashes: handles and locks of before are void.
    life: u64,
    /// Syncs before those that fail.
    sound_syncs: usize,
    fail_syncs: usize,
    fail_writes: usize,
    tear_next_write: Option<usize>,
    space_left: Option<u64>,
    syncs: u64,
    /// Changes made so far, and how many more there may be.
    changes: u64,
    changes_left: Option<u64>,
}

/// What each name leads to.
type Names = BTreeMap<PathBuf, Name>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Dir,
    File(usize),
}

#[derive(Default, Clone)]
struct Node {
    data: Vec<u8>,
    durable: Vec<u8>,
    /// First byte that may differ between the two.
    dirty_from: usize,
}

impl SimFs {
    /// An empty file system.
    pub fn new() -> Self {
        Self::default()
    }

    /// A power cut: drops what was not synced; open handles and locks are void.
    pub fn crash(&self) {
        self.crash_keeping(|_| 0);
    }

    /// A power cut that had got some of the unsynced content to disk: `keep` says how many of the so many unsynced bytes
    /// at the end of each file survive.
    pub fn crash_keeping(&self, mut keep: impl FnMut(usize) -> usize) {
        let mut sim = self.0.lock();
        sim.life += 1;
        sim.changes_left = None;
        sim.locks.clear();
        sim.live = sim.durable.clone();
        for node in &mut sim.nodes {
            let common = node.dirty_from.min(node.durable.len());
            if node.data.len() > node.durable.len() {
                let unsynced = node.data.len() - common;
                let kept = common + keep(unsynced).min(unsynced);
                if kept > node.durable.len() {
                    node.durable = node.data.get(..kept).unwrap_or_default().to_vec();
                }
            }
            node.data = node.durable.clone();
            node.dirty_from = node.data.len();
        }
    }

    /// The process ends without a power cut (SIGKILL): content stays, handles and locks are void.
    pub fn kill(&self) {
        let mut sim = self.0.lock();
        sim.life += 1;
        sim.changes_left = None;
        sim.locks.clear();
    }

    /// The next so many syncs fail.
    pub fn fail_next_syncs(&self, count: usize) {
        let mut sim = self.0.lock();
        (sim.sound_syncs, sim.fail_syncs) = (0, count);
    }

    /// One sync fails after so many that do not.
    pub fn fail_sync_after(&self, count: usize) {
        let mut sim = self.0.lock();
        (sim.sound_syncs, sim.fail_syncs) = (count, 1);
    }

    /// The next so many writes fail, writing nothing.
    pub fn fail_next_writes(&self, count: usize) {
        self.0.lock().fail_writes = count;
    }

    /// The next write gets so many bytes to the file, then fails.
    pub fn tear_next_write(&self, bytes: usize) {
        self.0.lock().tear_next_write = Some(bytes);
    }

    /// The disk is full after so many more bytes; `None`: never.
    pub fn set_space_left(&self, bytes: Option<u64>) {
        self.0.lock().space_left = bytes;
    }

    /// After so many more changes (of content, names or what is synced) every further one fails, as if the process had
    /// ended there; `None`: never. A crash or kill ends that.
    pub fn stop_after(&self, changes: Option<u64>) {
        self.0.lock().changes_left = changes;
    }

    /// How many changes there have been.
    pub fn changes(&self) -> u64 {
        self.0.lock().changes
    }

    /// How many syncs of files there have been.
    pub fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    /// A deep copy to try something on.
    pub fn fork(&self) -> Self {
        let sim = self.0.lock();
        let copy =
            Sim { nodes: sim.nodes.clone(), live: sim.live.clone(), durable: sim.durable.clone(), ..Sim::default() };
        Self(Arc::new(Mutex::new(copy)))
    }

    /// Content of a file as a program would read it.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let sim = self.0.lock();
        match sim.live.get(path)? {
            Name::Dir => None,
            Name::File(node) => sim.nodes.get(*node).map(|n| n.data.clone()),
        }
    }

    /// Sets the content of a file, durably, as if the disk had changed it.
    pub fn set_content(&self, path: &Path, data: Vec<u8>) {
        let mut sim = self.0.lock();
        let fresh = sim.nodes.len();
        let name = *sim.live.entry(path.to_owned()).or_insert(Name::File(fresh));
        sim.durable.insert(path.to_owned(), name);
        let Name::File(at) = name else { return };
        if at == fresh {
            sim.nodes.push(Node::default());
        }
        if let Some(node) = sim.nodes.get_mut(at) {
            *node = Node { dirty_from: data.len(), durable: data.clone(), data };
        }
    }

    /// All files, sorted.
    pub fn files(&self) -> Vec<PathBuf> {
        let sim = self.0.lock();
        sim.live.iter().filter(|(_, name)| matches!(name, Name::File(_))).map(|(path, _)| path.clone()).collect()
    }
}

fn void() -> io::Error {
    io::Error::other("handle of before the crash")
}

impl Sim {
    fn change(&mut self) -> io::Result<()> {
        match &mut self.changes_left {
            Some(0) => return Err(io::Error::other("process has ended (simulated)")),
            Some(left) => *left -= 1,
            None => {}
        }
        self.changes += 1;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Some(left) = self.sound_syncs.checked_sub(1) {
            self.sound_syncs = left;
        } else if self.fail_syncs > 0 {
            self.fail_syncs -= 1;
            return Err(io::Error::other("sync failed (simulated)"));
        }
        Ok(())
    }

    fn node(&mut self, node: usize, life: u64) -> io::Result<&mut Node> {
        if life != self.life {
            return Err(void());
        }
        self.nodes.get_mut(node).ok_or_else(void)
    }

    fn has_dir(&self, path: &Path) -> bool {
        path.parent().is_none() || path == Path::new("") || self.live.get(path) == Some(&Name::Dir)
    }
}

struct SimFile {
    fs: SimFs,
    node: usize,
    life: u64,
}

impl File for SimFile {
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut sim = self.fs.0.lock();
        let node = sim.node(self.node, self.life)?;
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let rest = node.data.get(at..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..n), rest.get(..n)) {
            to.copy_from_slice(from);
        }
        Ok(n)
    }

    fn write_at(&self, at: u64, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let mut sim = self.fs.0.lock();
        let mut outcome = Ok(());
        sim.change()?;
        if sim.fail_writes > 0 {
            sim.fail_writes -= 1;
            return Err(io::Error::other("write failed (simulated)"));
        }
        if let Some(torn) = sim.tear_next_write.take() {
            bytes.truncate(torn);
            outcome = Err(io::Error::other("write torn (simulated)"));
        }
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let len = sim.node(self.node, self.life)?.data.len();
        let growth = (at + bytes.len()).saturating_sub(len);
        if let Some(left) = &mut sim.space_left {
            let left_now = usize::try_from(*left).unwrap_or(usize::MAX);
            if growth > left_now {
                bytes.truncate(bytes.len().saturating_sub(growth - left_now));
                outcome = Err(io::ErrorKind::StorageFull.into());
            }
            *left -= growth.min(left_now) as u64;
        }
        let node = sim.node(self.node, self.life)?;
        let end = at + bytes.len();
        if node.data.len() < end {
            node.data.resize(end, 0);
        }
        if let Some(place) = node.data.get_mut(at..end) {
            place.copy_from_slice(&bytes);
        }
        node.dirty_from = node.dirty_from.min(at).min(len);
        outcome
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.fs.0.lock().node(self.node, self.life)?.data.len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut sim = self.fs.0.lock();
        sim.change()?;
        let node = sim.node(self.node, self.life)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let freed = node.data.len().saturating_sub(len);
        node.dirty_from = node.dirty_from.min(len).min(node.data.len());
        node.data.resize(len, 0);
        if let Some(left) = &mut sim.space_left {
            *left += freed as u64;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut sim = self.fs.0.lock();
        sim.change()?;
        sim.syncs += 1;
        sim.sync()?;
        let node = sim.node(self.node, self.life)?;
        let common = node.dirty_from.min(node.durable.len());
        node.durable.truncate(common);
        node.durable.extend_from_slice(node.data.get(common..).unwrap_or_default());
        node.dirty_from = node.data.len();
        Ok(())
    }
}

struct SimLock {
    fs: SimFs,
    path: PathBuf,
    life: u64,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut sim = self.fs.0.lock();
        if sim.life == self.life {
            sim.locks.remove(&self.path);
        }
    }
}

impl Filesystem for SimFs {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut sim = self.0.lock();
        if !path.parent().is_some_and(|dir| sim.has_dir(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        sim.change()?;
        if sim.space_left == Some(0) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let node = match sim.live.get(path) {
            Some(Name::Dir) => return Err(io::ErrorKind::IsADirectory.into()),
            Some(Name::File(node)) => *node,
            None => {
                sim.nodes.push(Node::default());
                let node = sim.nodes.len() - 1;
                sim.live.insert(path.to_owned(), Name::File(node));
                node
            }
        };
        let life = sim.life;
        let content = sim.node(node, life)?;
        content.data.clear();
        content.dirty_from = 0;
        Ok(Arc::new(SimFile { fs: self.clone(), node, life }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let sim = self.0.lock();
        match sim.live.get(path) {
            Some(Name::File(node)) => Ok(Arc::new(SimFile { fs: self.clone(), node: *node, life: sim.life })),
            Some(Name::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut sim = self.0.lock();
        if !sim.live.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        sim.change()?;
        let name = sim.live.remove(from).ok_or(io::ErrorKind::NotFound)?;
        sim.live.insert(to.to_owned(), name);
        if name == Name::Dir {
            // What stands in a folder goes with it at once, durable or not: names in it are not those of its parent.
            for names in [true, false] {
                let map = if names { &mut sim.live } else { &mut sim.durable };
                let inside: Vec<PathBuf> = map.keys().filter(|p| p.starts_with(from) && *p != from).cloned().collect();
                for old in inside {
                    let Some(name) = map.remove(&old) else { continue };
                    let tail = old.strip_prefix(from).map_err(io::Error::other)?;
                    map.insert(to.join(tail), name);
                }
            }
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut sim = self.0.lock();
        match sim.live.get(path) {
            Some(Name::File(node)) => {
                let node = *node;
                sim.change()?;
                let freed = sim.nodes.get(node).map_or(0, |n| n.data.len() as u64);
                if let Some(left) = &mut sim.space_left {
                    *left += freed;
                }
                sim.live.remove(path);
                Ok(())
            }
            Some(Name::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut sim = self.0.lock();
        if sim.live.get(dir) != Some(&Name::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        sim.change()?;
        sim.live.retain(|path, _| !path.starts_with(dir));
        Ok(())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut sim = self.0.lock();
        for above in dir.ancestors().filter(|p| !p.as_os_str().is_empty()) {
            match sim.live.get(above) {
                Some(Name::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                Some(Name::Dir) => {}
                None => {
                    sim.live.insert(above.to_owned(), Name::Dir);
                }
            }
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let sim = self.0.lock();
        if !sim.has_dir(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = sim.live.iter().filter(|(path, _)| path.parent() == Some(dir));
        let mut entries: Vec<Entry> = inside
            .filter_map(|(path, name)| {
                let text = path.file_name()?.to_str()?.to_owned();
                Some(Entry { name: text, is_dir: *name == Name::Dir })
            })
            .collect();
        entries.sort();
        Ok(entries)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut sim = self.0.lock();
        sim.change()?;
        sim.sync()?;
        let sim = &mut *sim;
        let below = |path: &Path| path.parent() == Some(dir);
        let gone: Vec<PathBuf> =
            sim.durable.keys().filter(|path| below(path) && !sim.live.contains_key(*path)).cloned().collect();
        for path in gone {
            sim.durable.retain(|p, _| !p.starts_with(&path));
        }
        for (path, name) in sim.live.iter().filter(|(path, _)| below(path)) {
            sim.durable.insert(path.clone(), *name);
        }
        Ok(())
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(self.0.lock().space_left.unwrap_or(u64::MAX))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let mut sim = self.0.lock();
        if !sim.locks.insert(path.to_owned()) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "another process"));
        }
        Ok(Box::new(SimLock { fs: self.clone(), path: path.to_owned(), life: sim.life }))
    }
}
