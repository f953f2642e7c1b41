//! What a simulated disk holds: files and names as programs see them, and as they are after a power cut; the faults to come.
//!
//! In: changes under way, faults. Out: which change fails, what is left after a crash. Touches memory only.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

#[derive(Default)]
pub(super) struct Sim {
    pub nodes: Vec<Node>,
    pub live: Names,
    pub durable: Names,
    pub locks: BTreeSet<PathBuf>,
    /// Counts crashes: handles and locks of before are void.
    pub life: u64,
    /// Syncs before those that fail.
    pub sound_syncs: usize,
    pub fail_syncs: usize,
    pub fail_writes: usize,
    pub tear_next_write: Option<usize>,
    pub space_left: Option<u64>,
    pub syncs: u64,
    /// Changes made so far, and how many more there may be.
    pub changes: u64,
    pub changes_left: Option<u64>,
    /// Changes before the one that fails, and how it fails.
    pub fail_change: Option<(u64, io::ErrorKind)>,
    /// Calls that only read before the one that fails, and the operating system's code of its error.
    pub fail_read: Option<(u64, i32)>,
    /// Where every call that only reads fails, and the code of its error.
    pub unreadable: Option<(PathBuf, i32)>,
}

/// What each name leads to.
pub(super) type Names = BTreeMap<PathBuf, Name>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Dir,
    File(usize),
}

#[derive(Default, Clone)]
pub(super) struct Node {
    pub data: Vec<u8>,
    pub durable: Vec<u8>,
    /// First byte that may differ between the two.
    pub dirty_from: usize,
}

fn void() -> io::Error {
    io::Error::other("handle of before the crash")
}

impl Sim {
    /// The process has ended: handles and locks are void, faults to come are over.
    pub fn end_life(&mut self) {
        self.life += 1;
        self.changes_left = None;
        self.fail_change = None;
        self.fail_read = None;
        self.unreadable = None;
        self.locks.clear();
    }

    /// What a power cut leaves; `keep` says how many of the so many unsynced bytes at the end of each file survive.
    pub fn lose_unsynced(&mut self, mut keep: impl FnMut(usize) -> usize) {
        self.live = self.durable.clone();
        for node in &mut self.nodes {
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

    /// Counts a change; an error if it is one that fails.
    pub fn change(&mut self) -> io::Result<()> {
        match &mut self.changes_left {
            Some(0) => return Err(io::Error::other("process has ended (simulated)")),
            Some(left) => *left -= 1,
            None => {}
        }
        self.changes += 1;
        if let Some((before, kind)) = self.fail_change.take() {
            let Some(left) = before.checked_sub(1) else { return Err(kind.into()) };
            self.fail_change = Some((left, kind));
        }
        Ok(())
    }

    /// Counts a call that only reads this file or folder; an error if it is one that fails.
    pub fn read(&mut self, path: &Path) -> io::Result<()> {
        let fails = |(at, _): &&(PathBuf, i32)| path.starts_with(at);
        if let Some((_, code)) = self.unreadable.as_ref().filter(fails) {
            return Err(io::Error::from_raw_os_error(*code));
        }
        self.count_read()
    }

    /// The same for an open file.
    pub fn read_node(&mut self, node: usize) -> io::Result<()> {
        if let Some((at, code)) = &self.unreadable
            && self.live.iter().any(|(path, name)| *name == Name::File(node) && path.starts_with(at))
        {
            return Err(io::Error::from_raw_os_error(*code));
        }
        self.count_read()
    }

    fn count_read(&mut self) -> io::Result<()> {
        if let Some((before, code)) = self.fail_read.take() {
            let Some(left) = before.checked_sub(1) else { return Err(io::Error::from_raw_os_error(code)) };
            self.fail_read = Some((left, code));
        }
        Ok(())
    }

    /// A change that takes a block of the disk, if only for a name.
    pub fn change_with_block(&mut self) -> io::Result<()> {
        self.change()?;
        if self.space_left == Some(0) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    pub fn sync(&mut self) -> io::Result<()> {
        if let Some(left) = self.sound_syncs.checked_sub(1) {
            self.sound_syncs = left;
        } else if self.fail_syncs > 0 {
            self.fail_syncs -= 1;
            return Err(io::Error::other("sync failed (simulated)"));
        }
        Ok(())
    }

    pub fn node(&mut self, node: usize, life: u64) -> io::Result<&mut Node> {
        if life != self.life {
            return Err(void());
        }
        self.nodes.get_mut(node).ok_or_else(void)
    }

    pub fn has_dir(&self, path: &Path) -> bool {
        path.parent().is_none() || path == Path::new("") || self.live.get(path) == Some(&Name::Dir)
    }

    /// The file of a path, made and emptied.
    pub fn create(&mut self, path: &Path) -> io::Result<usize> {
        if !path.parent().is_some_and(|dir| self.has_dir(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change_with_block()?;
        let node = match self.live.get(path) {
            Some(Name::Dir) => return Err(io::ErrorKind::IsADirectory.into()),
            Some(Name::File(node)) => *node,
            None => {
                self.nodes.push(Node::default());
                let node = self.nodes.len() - 1;
                self.live.insert(path.to_owned(), Name::File(node));
                node
            }
        };
        let content = self.node(node, self.life)?;
        content.data.clear();
        content.dirty_from = 0;
        Ok(node)
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if !self.live.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change()?;
        let name = self.live.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.live.insert(to.to_owned(), name);
        if name == Name::Dir {
            // What stands in a folder goes with it at once, durable or not: names in it are not those of its parent.
            for map in [&mut self.live, &mut self.durable] {
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

    /// Removes one name, as one change; a file gives back its space.
    pub fn remove(&mut self, path: &Path, name: Name) -> io::Result<()> {
        self.change()?;
        if let Name::File(node) = name {
            let freed = self.nodes.get(node).map_or(0, |n| n.data.len() as u64);
            if let Some(left) = &mut self.space_left {
                *left += freed;
            }
        }
        self.live.remove(path);
        Ok(())
    }

    /// Makes what a folder lists durable.
    pub fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        if !self.has_dir(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change()?;
        self.sync()?;
        let below = |path: &Path| path.parent() == Some(dir);
        let gone: Vec<PathBuf> =
            self.durable.keys().filter(|path| below(path) && !self.live.contains_key(*path)).cloned().collect();
        for path in gone {
            self.durable.retain(|p, _| !p.starts_with(&path));
        }
        for (path, name) in self.live.iter().filter(|(path, _)| below(path)) {
            self.durable.insert(path.clone(), *name);
        }
        Ok(())
    }
}
