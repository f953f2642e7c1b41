//! The folders of splits: `tmp`, where they are written, and `splits`, where those stand that the catalog lists.
//!
//! In: names of splits. Out: their folders, moved and removed durably. Touches both folders, through the file-system trait.
//! Leaves to others: what is in a split's folder (`split`), which ones are listed (`catalog`).

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_log::fs::Filesystem;

use crate::catalog::{SplitId, SplitRecord};
use crate::state::StateError;

/// Where the index keeps its splits.
#[derive(Clone)]
pub struct Folders {
    fs: Arc<dyn Filesystem>,
    tmp: PathBuf,
    splits: PathBuf,
}

impl std::fmt::Debug for Folders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Folders").field("tmp", &self.tmp).field("splits", &self.splits).finish_non_exhaustive()
    }
}

impl Folders {
    /// Makes the folders, empties `tmp`, and removes splits that the catalog does not list. Blocking.
    pub fn open(fs: &Arc<dyn Filesystem>, root: &Path, listed: &[SplitRecord]) -> Result<Self, StateError> {
        let folders = Self { fs: Arc::clone(fs), tmp: root.join("tmp"), splits: root.join("splits") };
        if folders.is_dir(&folders.tmp) {
            fs.remove_dir_all(&folders.tmp).map_err(StateError::io("emptying", &folders.tmp))?;
        }
        for dir in [&folders.tmp, &folders.splits] {
            fs.create_dir_all(dir).map_err(StateError::io("making", dir))?;
        }
        let listed: HashSet<&str> = listed.iter().map(|s| s.id.as_str()).collect();
        for entry in fs.list(&folders.splits).map_err(StateError::io("listing", &folders.splits))? {
            if !listed.contains(entry.name.as_str()) {
                let path = folders.splits.join(&entry.name);
                tracing::info!(path = %path.display(), "removing a split that was never published, or was deleted");
                let removed = if entry.is_dir { fs.remove_dir_all(&path) } else { fs.remove(&path) };
                removed.map_err(StateError::io("removing", &path))?;
            }
        }
        folders.sync(&folders.splits)?;
        folders.sync(root)?;
        Ok(folders)
    }

    /// The file system that both are on.
    pub fn fs(&self) -> &Arc<dyn Filesystem> {
        &self.fs
    }

    /// Where a new split is written.
    pub fn new_split(&self, id: &SplitId) -> PathBuf {
        self.tmp.join(id.as_str())
    }

    /// Where a finished split stands.
    pub fn split(&self, id: &SplitId) -> PathBuf {
        self.splits.join(id.as_str())
    }

    /// Whether there is a folder of that path.
    pub fn is_dir(&self, path: &Path) -> bool {
        self.fs.metadata(path).is_ok_and(|found| found.is_dir)
    }

    /// Whether there is surely no folder of that path: not when the disk can't be asked.
    pub fn is_missing(&self, path: &Path) -> bool {
        match self.fs.metadata(path) {
            Ok(found) => !found.is_dir,
            Err(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        }
    }

    /// Moves a finished split to its place, durably. Repeating is harmless.
    pub fn keep(&self, id: &SplitId) -> Result<(), StateError> {
        let (from, to) = (self.new_split(id), self.split(id));
        // Renamed by an attempt whose sync failed: only the sync is left.
        if !self.is_dir(&to) {
            self.fs.rename(&from, &to).map_err(StateError::io("renaming", &from))?;
        }
        self.sync(&self.splits)
    }

    /// Removes what is left of a split.
    pub fn discard(&self, id: &SplitId) {
        for dir in [self.new_split(id), self.split(id)] {
            if let Err(error) = self.remove(&dir) {
                tracing::warn!(%error, "unfinished split not removed: the next start does");
            }
        }
    }

    /// Removes the folder of a split, if it is there.
    pub fn remove(&self, dir: &Path) -> Result<(), StateError> {
        match self.fs.remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StateError::io("removing", dir)(error)),
            _ => Ok(()),
        }
    }

    fn sync(&self, dir: &Path) -> Result<(), StateError> {
        self.fs.sync_dir(dir).map_err(StateError::io("syncing", dir))
    }
}
