//! What rules and notifier must know after a crash: named trees of sled in one folder, synced before `Ok` is said.
//!
//! In: changes of a tree. Out: `Ok` when they are on the disk. Touches one folder: `VERSION`, `LOCK`, sled's files.
//!
//! sled 0.34 writes with `sync_file_range` on Linux, which syncs neither the disk's cache nor the file's length: after
//! its `flush` this module calls fsync on the database file, and once, at creation, on the folders that name it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::database_lock::{self, RELEASE};

/// Version of the trees' contents that this code reads and writes.
///
/// Values are JSON objects: readers ignore fields that they don't know and writers only add; a change that an older
/// reader would misread raises this number.
pub const FORMAT_VERSION: u32 = 1;

/// Why state could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder or a file in it.
    #[error("{what} {} failed: {source}: check that the disk has room and the folder belongs to this user", path.display())]
    File {
        /// What was done.
        what: &'static str,
        /// With which path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another process works there.
    #[error("{} is in use by another process: stop it or choose another data folder", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A newer program wrote it.
    #[error("{} has format {found}, this program knows {FORMAT_VERSION}: run the newer program or choose another data folder", path.display())]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its version as written.
        found: String,
    },
    /// The database.
    #[error("database in {} failed: {source}", path.display())]
    Database {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: sled::Error,
    },
    /// A value can't be written as JSON.
    #[error("encoding a value failed: {source}")]
    Encode {
        /// The cause.
        #[from]
        source: serde_json::Error,
    },
}

/// One folder with its database.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    db: sled::Db,
    database_file: File,
    // Held for its lock.
    _lock: File,
}

impl Store {
    /// Opens or creates a folder. Blocks.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |what| move |source| StoreError::File { what, path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(failed("creating"))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("LOCK"))
            .map_err(failed("locking"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(StoreError::InUse { path: path.to_owned() }),
            Err(fs::TryLockError::Error(source)) => return Err(failed("locking")(source)),
        }
        check_version(path)?;
        if !database_lock::ready_to_open(path, RELEASE).map_err(failed("locking the database in"))? {
            return Err(StoreError::InUse { path: path.to_owned() });
        }
        let db = sled::Config::new()
            .path(path)
            .cache_capacity(16 << 20)
            .open()
            .map_err(|source| StoreError::Database { path: path.to_owned(), source })?;
        let database_file = File::open(path.join("db")).map_err(failed("opening the database in"))?;
        sync_folder(path).map_err(failed("syncing"))?;
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_folder(parent).map_err(failed("syncing the parent of"))?;
        }
        let store = Self { path: path.to_owned(), db, database_file, _lock: lock };
        store.sync()?;
        Ok(store)
    }

    /// A named tree.
    pub fn tree(&self, name: &str) -> Result<Tree, StoreError> {
        let tree = self.db.open_tree(name).map_err(|e| self.failed(e))?;
        Ok(Tree { tree, path: self.path.clone() })
    }

    /// Returns when all changes made before are on the disk. Blocks.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(|e| self.failed(e))?;
        self.database_file.sync_all().map_err(|source| StoreError::File {
            what: "syncing",
            path: self.path.clone(),
            source,
        })
    }

    fn failed(&self, source: sled::Error) -> StoreError {
        StoreError::Database { path: self.path.clone(), source }
    }
}

fn check_version(path: &Path) -> Result<(), StoreError> {
    let file = path.join("VERSION");
    let failed = |what| move |source| StoreError::File { what, path: path.join("VERSION"), source };
    match fs::read_to_string(&file) {
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(version) if version <= FORMAT_VERSION => Ok(()),
            _ => Err(StoreError::Newer { path: path.to_owned(), found: text.trim().chars().take(20).collect() }),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let new = path.join("VERSION.new");
            let mut out = File::create(&new).map_err(failed("writing"))?;
            writeln!(out, "{FORMAT_VERSION}").and_then(|()| out.sync_all()).map_err(failed("writing"))?;
            fs::rename(&new, &file).map_err(failed("writing"))
        }
        Err(e) => Err(failed("reading")(e)),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// One tree: keys are bytes, values JSON. Changes are durable after the next [`Store::sync`].
#[derive(Debug, Clone)]
pub struct Tree {
    tree: sled::Tree,
    path: PathBuf,
}

/// What becomes of one key.
#[derive(Debug)]
pub enum Change<'a, T> {
    /// It is written.
    Put(Vec<u8>, &'a T),
    /// It goes.
    Remove(Vec<u8>),
}

impl Tree {
    /// Makes several changes at once: after a crash all or none of them are found.
    pub fn apply<'a, T: Serialize + 'a>(
        &self,
        changes: impl IntoIterator<Item = Change<'a, T>>,
    ) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for change in changes {
            match change {
                Change::Put(key, value) => batch.insert(key, serde_json::to_vec(value)?),
                Change::Remove(key) => batch.remove(key),
            }
        }
        self.tree.apply_batch(batch).map_err(|source| StoreError::Database { path: self.path.clone(), source })
    }

    /// All keys with their values; those that can't be read are told and left out.
    pub fn all<T: DeserializeOwned>(&self) -> Result<Vec<(Vec<u8>, T)>, StoreError> {
        let mut list = Vec::new();
        for pair in &self.tree {
            let (key, value) = pair.map_err(|source| StoreError::Database { path: self.path.clone(), source })?;
            match serde_json::from_slice(&value) {
                Ok(value) => list.push((key.to_vec(), value)),
                Err(error) => {
                    let key = String::from_utf8_lossy(&key).into_owned();
                    tracing::error!(path = %self.path.display(), key, %error, "cannot read an entry of the state, continuing without it");
                }
            }
        }
        Ok(list)
    }
}

/// Runs disk work away from the async threads; a panic there goes on here.
pub async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down: nobody waits for the answer.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        let store = Store::open(&path).unwrap();
        let tree = store.tree("t").unwrap();
        tree.apply([Change::Put(b"a".to_vec(), &1), Change::Put(b"b".to_vec(), &2)]).unwrap();
        tree.apply([Change::<i32>::Remove(b"a".to_vec())]).unwrap();
        store.sync().unwrap();
        drop((tree, store));
        let tree = Store::open(&path).unwrap().tree("t").unwrap();
        assert_eq!(tree.all::<i32>().unwrap(), [(b"b".to_vec(), 2)]);
    }

    #[test]
    fn a_snapshot_that_a_full_disk_left_unfinished_is_no_damage() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.tree("t").unwrap().apply([Change::Put(b"a".to_vec(), &1)]).unwrap();
        store.sync().unwrap();
        drop(store);
        fs::write(folder.path().join("snap.FFFFFFFFFFFFFFFF.generating"), "").unwrap();
        let tree = Store::open(folder.path()).unwrap().tree("t").unwrap();
        assert_eq!(tree.all::<i32>().unwrap(), [(b"a".to_vec(), 1)]);
    }

    #[test]
    fn a_folder_in_use_or_of_a_newer_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let first = Store::open(folder.path()).unwrap();
        assert!(matches!(Store::open(folder.path()), Err(StoreError::InUse { .. })));
        drop(first);
        fs::write(folder.path().join("VERSION"), "7\n").unwrap();
        let error = Store::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("has format 7, this program knows 1"), "{error}");
    }
}
