//! A simulated disk in memory, for tests: it forgets at `crash()` what was not synced, tears writes, fills up and fails on
//! demand.
//!
//! In: calls of [`Filesystem`], and the faults to come. Out: their results. Touches memory only.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::filesystem::{DirEntry, File, Filesystem, Lock, Metadata};
use super::simulated_disk::{Name, Node, Sim};

/// Files in memory for tests. Remembers apart what is durable: content after `sync_data`, names after `sync_dir`.
#[derive(Clone, Default)]
pub struct SimFs(Arc<Mutex<Sim>>);

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
    pub fn crash_keeping(&self, keep: impl FnMut(usize) -> usize) {
        let mut sim = self.0.lock();
        sim.end_life();
        sim.lose_unsynced(keep);
    }

    /// The process ends without a power cut (SIGKILL): content stays, handles and locks are void.
    pub fn kill(&self) {
        self.0.lock().end_life();
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

    /// One change (of content, names or what is synced) fails after so many that do not; `None`: none. A crash or kill
    /// ends that.
    pub fn fail_change_after(&self, changes: Option<u64>, kind: io::ErrorKind) {
        self.0.lock().fail_change = changes.map(|changes| (changes, kind));
    }

    /// One call that only reads (opens, reads, looks at or lists) fails with this code of the operating system after so many
    /// that do not; `None`: none. A crash or kill ends that. Gives back how many were left of the fault before.
    pub fn fail_read_after(&self, fault: Option<(u64, i32)>) -> Option<u64> {
        std::mem::replace(&mut self.0.lock().fail_read, fault).map(|(left, _)| left)
    }

    /// Every call that only reads this file or folder, or what stands in it, fails with this code of the operating system;
    /// `None`: none. A crash or kill ends that.
    pub fn fail_reads_of(&self, fault: Option<(&Path, i32)>) {
        self.0.lock().unreadable = fault.map(|(path, code)| (path.to_owned(), code));
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

struct SimFile {
    fs: SimFs,
    node: usize,
    life: u64,
    writable: bool,
}

impl SimFile {
    fn may_write(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

impl File for SimFile {
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut sim = self.fs.0.lock();
        sim.read_node(self.node)?;
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
        self.may_write()?;
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
        self.may_write()?;
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

impl SimFs {
    fn opened(&self, path: &Path, writable: bool) -> io::Result<Arc<dyn File>> {
        let mut sim = self.0.lock();
        sim.read(path)?;
        match sim.live.get(path) {
            Some(Name::File(node)) => Ok(Arc::new(SimFile { fs: self.clone(), node: *node, life: sim.life, writable })),
            Some(Name::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Filesystem for SimFs {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut sim = self.0.lock();
        let node = sim.create(path)?;
        Ok(Arc::new(SimFile { fs: self.clone(), node, life: sim.life, writable: true }))
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut sim = self.0.lock();
        if sim.live.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = sim.create(path)?;
        Ok(Arc::new(SimFile { fs: self.clone(), node, life: sim.life, writable: true }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.opened(path, true)
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.opened(path, false)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let mut sim = self.0.lock();
        sim.read(path)?;
        match sim.live.get(path) {
            Some(Name::File(node)) => {
                let len = sim.nodes.get(*node).map_or(0, |node| node.data.len() as u64);
                Ok(Metadata { len, is_dir: false })
            }
            None if !sim.has_dir(path) => Err(io::ErrorKind::NotFound.into()),
            _ => Ok(Metadata { len: 0, is_dir: true }),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.lock().rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut sim = self.0.lock();
        match sim.live.get(path).copied() {
            Some(Name::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            Some(file) => sim.remove(path, file),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut sim = self.0.lock();
        if sim.live.get(dir) != Some(&Name::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        // One after the other, the folder last, as the operating system does it.
        let all: Vec<(PathBuf, Name)> =
            sim.live.iter().rev().filter(|(path, _)| path.starts_with(dir)).map(|(p, n)| (p.clone(), *n)).collect();
        all.into_iter().try_for_each(|(path, name)| sim.remove(&path, name))
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut sim = self.0.lock();
        if sim.live.contains_key(dir) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !dir.parent().is_some_and(|above| sim.has_dir(above)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        sim.change_with_block()?;
        sim.live.insert(dir.to_owned(), Name::Dir);
        Ok(())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut sim = self.0.lock();
        let mut above: Vec<&Path> = dir.ancestors().filter(|p| !p.as_os_str().is_empty()).collect();
        above.reverse();
        for path in above {
            match sim.live.get(path) {
                Some(Name::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                Some(Name::Dir) => {}
                None => {
                    sim.change_with_block()?;
                    sim.live.insert(path.to_owned(), Name::Dir);
                }
            }
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut sim = self.0.lock();
        sim.read(dir)?;
        if !sim.has_dir(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = sim.live.iter().filter(|(path, _)| path.parent() == Some(dir));
        let mut entries: Vec<DirEntry> = inside
            .filter_map(|(path, name)| {
                let text = path.file_name()?.to_str()?.to_owned();
                Some(DirEntry { name: text, is_dir: *name == Name::Dir })
            })
            .collect();
        entries.sort();
        Ok(entries)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.lock().sync_dir(dir)
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
