//! The one place that knows sled: trees of keys and values whose `sync` really reaches the disk.
//!
//! In: keys and values, transactions over trees. Out: the same after a power cut. Touches its own folder.
//! Leaves to others: what keys mean.
//!
//! sled 0.34 writes with `sync_file_range` on Linux, which neither flushes the disk's cache nor writes the file's
//! length, and never syncs its folder nor the files in `blobs/` (pages that are too large for a segment). So
//! [`StateDb::sync`] asks sled to write and then syncs file, blobs and folders itself; nothing may be relied on before
//! it has returned.
//!
//! sled does its own input and output, so nothing here uses the file-system trait (`millrace_log::fs`) that splits are
//! written through. `fault_tests` runs splits on a simulated disk with a catalog in memory; both together are tested by
//! ending the process (`aggregator/src/run/tests.rs`, `tests/`).

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_log::database_lock::{self, RELEASE};
use parking_lot::Mutex;

/// Why state can't be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The operating system refused.
    #[error("{action} {} failed: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("{} is in use by another process: stop it or choose another data folder", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// sled refused.
    #[error(
        "state in {} can't be used: {source}; if the disk is full, make room, if it is damaged, restore the folder from a copy",
        path.display()
    )]
    Store {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: sled::Error,
    },
}

impl StateError {
    /// For `map_err` of file operations.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// A sled database with a sync that holds.
#[derive(Debug)]
pub struct StateDb {
    db: sled::Db,
    dir: PathBuf,
    synced_blobs: Mutex<HashSet<OsString>>,
}

impl StateDb {
    /// Opens or makes the database in a folder, which is then durable itself. One that is being closed elsewhere is waited for:
    /// to be called by whoever holds the lock of the folder above. Blocking.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        Self::open_within(dir, RELEASE)
    }

    fn open_within(dir: &Path, wait: Duration) -> Result<Self, StateError> {
        std::fs::create_dir_all(dir).map_err(StateError::io("making", dir))?;
        if !database_lock::ready_to_open(dir, wait).map_err(StateError::io("locking the database in", dir))? {
            return Err(StateError::InUse { path: dir.to_owned() });
        }
        let db = sled::Config::new()
            .path(dir)
            .cache_capacity(64 << 20)
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms(None)
            .open()
            .map_err(|source| StateError::Store { path: dir.to_owned(), source })?;
        let this = Self { db, dir: dir.to_owned(), synced_blobs: Mutex::default() };
        this.sync()?;
        sync_dir(dir)?;
        if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_dir(parent)?;
        }
        Ok(this)
    }

    /// A tree by name, made if it is new.
    pub fn tree(&self, name: &str) -> Result<sled::Tree, StateError> {
        self.db.open_tree(name).map_err(|e| self.fault(e))
    }

    /// Everything written before this call is on the disk when it returns.
    pub fn sync(&self) -> Result<(), StateError> {
        self.db.flush().map_err(|e| self.fault(e))?;
        let blobs = self.dir.join("blobs");
        if blobs.is_dir() {
            let mut synced = self.synced_blobs.lock();
            let mut found = HashSet::new();
            let mut fresh = false;
            for entry in std::fs::read_dir(&blobs).map_err(StateError::io("listing", &blobs))? {
                let entry = entry.map_err(StateError::io("listing", &blobs))?;
                // sled may remove a blob while we look: what is gone needs no sync.
                if !synced.contains(&entry.file_name())
                    && let Ok(file) = File::open(entry.path())
                {
                    file.sync_all().map_err(StateError::io("syncing", &entry.path()))?;
                    fresh = true;
                }
                found.insert(entry.file_name());
            }
            if fresh {
                sync_dir(&blobs)?;
            }
            *synced = found;
        }
        let file = self.dir.join("db");
        File::open(&file).and_then(|f| f.sync_all()).map_err(StateError::io("syncing", &file))
    }

    /// Names the folder in an error of sled.
    pub fn fault(&self, source: sled::Error) -> StateError {
        StateError::Store { path: self.dir.clone(), source }
    }
}

/// Makes the entries of a folder durable.
pub fn sync_dir(dir: &Path) -> Result<(), StateError> {
    File::open(dir).and_then(|f| f.sync_all()).map_err(StateError::io("syncing", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_that_a_full_disk_left_unfinished_is_no_damage() {
        let dir = tempfile::tempdir().unwrap();
        let db = StateDb::open(dir.path()).unwrap();
        db.tree("t").unwrap().insert("a", "b").unwrap();
        db.sync().unwrap();
        drop(db);
        std::fs::write(dir.path().join("snap.FFFFFFFFFFFFFFFF.generating"), "").unwrap();
        let tree = StateDb::open(dir.path()).unwrap().tree("t").unwrap();
        assert_eq!(tree.get("a").unwrap().as_deref(), Some(&b"b"[..]));
    }

    #[test]
    fn a_database_that_another_process_has_open_is_no_damage() {
        let dir = tempfile::tempdir().unwrap();
        let db = StateDb::open(dir.path()).unwrap();
        let error = StateDb::open_within(dir.path(), Duration::ZERO).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("is in use by another process") && !text.contains("restore"), "{text}");
        drop(db);
        StateDb::open(dir.path()).unwrap();
    }

    #[test]
    fn what_was_synced_is_there_in_a_copy_of_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let db = StateDb::open(&dir.path().join("state")).unwrap();
        let tree = db.tree("t").unwrap();
        for i in 0..200u32 {
            tree.insert(i.to_be_bytes(), vec![7u8; 20_000]).unwrap();
        }
        db.sync().unwrap();
        // The files as another process would find them after a kill: sled has not been closed.
        let copy = dir.path().join("copy");
        for entry in walkdir::WalkDir::new(dir.path().join("state")) {
            let entry = entry.unwrap();
            let to = copy.join(entry.path().strip_prefix(dir.path().join("state")).unwrap());
            if entry.file_type().is_dir() {
                std::fs::create_dir_all(to).unwrap();
            } else {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
        let again = StateDb::open(&copy).unwrap();
        assert_eq!(again.tree("t").unwrap().len(), 200);
    }
}
