//! The database of the agent's positions: sled, opened, read, written and synced.
//!
//! In: keys and values of three trees. Out: `Ok` when they are on the disk. Touches one folder: sled's files. Leaves to its
//! user what to do after an error: sled answers every later call with that error, so the database is closed and opened anew.
//!
//! sled 0.34 writes with `sync_file_range` on Linux, which syncs neither the disk's cache nor the file's length: after
//! its `flush` this module calls fsync on the database file.

use std::fs::File;
use std::path::{Path, PathBuf};

use millrace_log::database_lock::{self, RELEASE};

use crate::error::AgentError;

/// What a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tree {
    /// Files.
    Sources,
    /// Sources that are no files.
    Receivers,
    /// The rest.
    Meta,
}

/// A key and its value.
pub(crate) type Row = (Vec<u8>, Vec<u8>);

/// An open database.
#[derive(Debug)]
pub(crate) struct Database {
    folder: PathBuf,
    db: sled::Db,
    sources: sled::Tree,
    receivers: sled::Tree,
    meta: sled::Tree,
    file: File,
}

impl Database {
    /// Opens or creates it in a folder that nobody else works in. Blocks.
    pub fn open(folder: &Path) -> Result<Self, AgentError> {
        let failed = |what| move |source| AgentError::File { what, path: folder.to_owned(), source };
        let of_db = |source| AgentError::Database { path: folder.to_owned(), source };
        if !database_lock::ready_to_open(folder, RELEASE).map_err(failed("locking the database in"))? {
            return Err(AgentError::InUse { path: folder.to_owned() });
        }
        let db =
            sled::Config::new().path(folder).cache_capacity(16 << 20).flush_every_ms(None).open().map_err(of_db)?;
        let sources = db.open_tree("sources").map_err(of_db)?;
        let receivers = db.open_tree("receivers").map_err(of_db)?;
        let meta = db.open_tree("meta").map_err(of_db)?;
        let file = File::open(folder.join("db")).map_err(failed("opening the database in"))?;
        Ok(Self { folder: folder.to_owned(), db, sources, receivers, meta, file })
    }

    fn tree(&self, tree: Tree) -> &sled::Tree {
        match tree {
            Tree::Sources => &self.sources,
            Tree::Receivers => &self.receivers,
            Tree::Meta => &self.meta,
        }
    }

    /// The value of a key.
    pub fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, AgentError> {
        let found = self.tree(tree).get(key).map_err(|e| self.failed(e))?;
        Ok(found.map(|value| value.to_vec()))
    }

    /// All keys of a tree with their values.
    pub fn all(&self, tree: Tree) -> Result<Vec<Row>, AgentError> {
        let one = |entry: sled::Result<(sled::IVec, sled::IVec)>| {
            entry.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(|e| self.failed(e))
        };
        self.tree(tree).iter().map(one).collect()
    }

    /// Sets a value, or removes it; durable only after [`Database::sync`].
    pub fn set(&self, tree: Tree, key: &[u8], value: Option<&[u8]>) -> Result<(), AgentError> {
        let tree = self.tree(tree);
        let done = match value {
            Some(value) => tree.insert(key, value),
            None => tree.remove(key),
        };
        done.map(drop).map_err(|e| self.failed(e))
    }

    /// Returns when all changes made before are on the disk. Blocks.
    pub fn sync(&self) -> Result<(), AgentError> {
        self.db.flush().map_err(|e| self.failed(e))?;
        self.file.sync_all().map_err(|source| AgentError::File { what: "syncing", path: self.folder.clone(), source })
    }

    fn failed(&self, source: sled::Error) -> AgentError {
        AgentError::Database { path: self.folder.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_snapshot_that_a_full_disk_left_unfinished_is_no_damage() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path()).unwrap();
        database.set(Tree::Meta, b"a", Some(b"b")).unwrap();
        database.sync().unwrap();
        drop(database);
        fs::write(folder.path().join("snap.FFFFFFFFFFFFFFFF.generating"), "").unwrap();
        let database = Database::open(folder.path()).unwrap();
        assert_eq!(database.get(Tree::Meta, b"a").unwrap().as_deref(), Some(&b"b"[..]));
    }
}
