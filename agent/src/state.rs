//! What the agent must know after a crash: its sources with their checkpoints, synced before anything relies on them.
//!
//! In: [`SourceState`]s. Out: `Ok` when they are on the disk. Touches one folder: `VERSION`, `LOCK`, sled's files.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `sources` | source id, 16 bytes | [`SourceState`] as JSON |
//! | `receivers` | name of a source that is no file | [`ReceiverState`] as JSON |
//! | `meta` | `alive_ms` | up to when folders were scanned, ms since 1970, i64 big-endian |
//! | `meta` | `spool` | segment and offset up to which the log has the spool, u64 big-endian each |
//! | `meta` | `partitions/` and a topic | partitions of a topic that lines are routed to, i32 big-endian |
//!
//! Rule for changes: readers ignore fields they don't know, writers only add; a change that an older reader would
//! misread raises [`FORMAT_VERSION`].
//!
//! sled does its own input and output, so the database does not go through the file-system trait (`millrace_log::fs`) that
//! the spool (`push/spool.rs`) is written through, and neither does the lock beside it; only `VERSION` does. Crashes are
//! tested by killing agents (`agent/tests/`).
//!
//! sled 0.34 writes with `sync_file_range` on Linux, which syncs neither the disk's cache nor the file's length: after
//! its `flush` this module calls fsync on the database file, and once, at the start, on the folders that name it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millrace_log::fs::{Filesystem as _, RealFs, replace};
use millrace_log::record::SourceId;
use serde::{Deserialize, Serialize};

use crate::error::AgentError;
use crate::fingerprint::Print;
use crate::ledger::Count;
use crate::split::Mark;

/// Version of the folder's contents that this code reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// How long a database that was closed in this process may hold its lock.
const RELEASE: Duration = Duration::from_secs(10);
const ALIVE: &[u8] = b"alive_ms";
const SPOOL: &[u8] = b"spool";
/// Before the name of a topic.
const PARTITIONS: &[u8] = b"partitions/";

/// What is kept of one source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceState {
    /// Topic that its records go to.
    pub topic: String,
    /// Partition, chosen once.
    pub partition: i32,
    /// The file as first seen: its label `filename`.
    pub filename: StoredPath,
    /// The file as last seen.
    pub path: StoredPath,
    /// Device when last seen.
    pub device: u64,
    /// Inode when last seen.
    pub inode: u64,
    /// When the file was made, where known.
    #[serde(default)]
    pub birth_ns: Option<i64>,
    /// Print of the head, as long as it was.
    pub head: Print,
    /// Where reading began.
    #[serde(default)]
    pub start: u64,
    /// Everything before is acknowledged.
    pub checkpoint: Mark,
    /// Print of the bytes before the checkpoint.
    pub tail: Print,
    /// Ends of events beyond the checkpoint that were sent before their line end came: after a crash they end there again.
    #[serde(default)]
    pub ends: Vec<u64>,
    /// Acknowledged so far.
    #[serde(default)]
    pub sent: Count,
    /// Dropped so far, by reason.
    #[serde(default)]
    pub dropped: BTreeMap<String, Count>,
    /// Read to its end, and gone or replaced.
    #[serde(default)]
    pub finished: bool,
    /// When the file was last seen, ms since 1970.
    #[serde(default)]
    pub seen_ms: i64,
    /// Source id that this one goes on from, in hexadecimal digits.
    #[serde(default)]
    pub follows: Option<String>,
}

/// What is kept of one source that is no file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReceiverState {
    /// Its own id, 32 hexadecimal digits.
    pub id: String,
    /// Its type.
    pub kind: String,
    /// Numbers below may have been given.
    pub reserved: u64,
    /// Topic that its records go to.
    pub topic: String,
    /// Source ids for the topic's partitions. Stored as `lanes`, the name that earlier versions wrote.
    #[serde(rename = "lanes")]
    pub partitions: Vec<String>,
    /// Acknowledged so far.
    pub sent: Count,
    /// Dropped so far, by reason.
    pub dropped: BTreeMap<String, Count>,
    /// Kept for the source itself.
    pub bookmark: Option<Vec<u8>>,
}

/// A path that need not be UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StoredPath {
    /// As text.
    Text(String),
    /// As bytes.
    Bytes(Vec<u8>),
}

impl From<&Path> for StoredPath {
    fn from(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(path.as_os_str().as_bytes().to_vec()),
        }
    }
}

impl From<StoredPath> for PathBuf {
    fn from(path: StoredPath) -> Self {
        match path {
            StoredPath::Text(text) => text.into(),
            StoredPath::Bytes(bytes) => OsString::from_vec(bytes).into(),
        }
    }
}

/// The agent's folder with its database.
#[derive(Debug)]
pub struct State {
    folder: PathBuf,
    db: sled::Db,
    sources: sled::Tree,
    receivers: sled::Tree,
    meta: sled::Tree,
    database_file: File,
    // Held for its lock.
    _lock: File,
}

impl State {
    /// Opens or creates the folder. Blocks.
    pub fn open(folder: &Path) -> Result<Self, AgentError> {
        let failed = |what| move |source| AgentError::File { what, path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(failed("creating"))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join("LOCK"))
            .map_err(failed("locking"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(AgentError::InUse { path: folder.to_owned() }),
            Err(fs::TryLockError::Error(source)) => return Err(failed("locking")(source)),
        }
        check_version(folder)?;
        let of_db = |source| AgentError::Database { path: folder.to_owned(), source };
        wait_for_release(&folder.join("db")).map_err(failed("locking the database in"))?;
        let db =
            sled::Config::new().path(folder).cache_capacity(16 << 20).flush_every_ms(None).open().map_err(of_db)?;
        let sources = db.open_tree("sources").map_err(of_db)?;
        let receivers = db.open_tree("receivers").map_err(of_db)?;
        let meta = db.open_tree("meta").map_err(of_db)?;
        let database_file = File::open(folder.join("db")).map_err(failed("opening the database in"))?;
        let state = Self { folder: folder.to_owned(), db, sources, receivers, meta, database_file, _lock: lock };
        state.sync()?;
        RealFs.sync_dir(folder).map_err(failed("syncing"))?;
        if let Some(parent) = folder.parent().filter(|p| !p.as_os_str().is_empty()) {
            RealFs.sync_dir(parent).map_err(failed("syncing the parent of"))?;
        }
        Ok(state)
    }

    /// The folder's path.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps a source; durable only after [`State::sync`].
    pub fn put(&self, id: SourceId, state: &SourceState) -> Result<(), AgentError> {
        let json =
            serde_json::to_vec(state).map_err(|source| AgentError::StateEntry { key: id.to_string(), source })?;
        self.sources.insert(id.0, json).map_err(|e| self.failed(e))?;
        Ok(())
    }

    /// Keeps a source that is not a file; durable only after [`State::sync`].
    pub fn put_receiver(&self, name: &str, state: &ReceiverState) -> Result<(), AgentError> {
        let json =
            serde_json::to_vec(state).map_err(|source| AgentError::StateEntry { key: name.to_owned(), source })?;
        self.receivers.insert(name, json).map_err(|e| self.failed(e))?;
        Ok(())
    }

    /// A source that is no file. An entry that can't be read stops the start: its numbers would be given again.
    pub fn receiver(&self, name: &str) -> Result<Option<ReceiverState>, AgentError> {
        let found = self.receivers.get(name).map_err(|e| self.failed(e))?;
        let read = |json: sled::IVec| {
            serde_json::from_slice(&json).map_err(|source| AgentError::StateEntry { key: name.to_owned(), source })
        };
        found.map(read).transpose()
    }

    /// Forgets a source; durable only after [`State::sync`].
    pub fn remove(&self, id: SourceId) -> Result<(), AgentError> {
        self.sources.remove(id.0).map_err(|e| self.failed(e))?;
        Ok(())
    }

    /// All sources. An entry that can't be read stops the start: reading its file anew would double its lines.
    pub fn all(&self) -> Result<Vec<(SourceId, SourceState)>, AgentError> {
        let mut all = Vec::new();
        for entry in &self.sources {
            let (key, json) = entry.map_err(|e| self.failed(e))?;
            let Ok(id) = <[u8; 16]>::try_from(key.as_ref()) else { continue };
            let state = serde_json::from_slice(&json)
                .map_err(|source| AgentError::StateEntry { key: SourceId(id).to_string(), source })?;
            all.push((SourceId(id), state));
        }
        Ok(all)
    }

    /// Notes up to when the agent has seen the folders; durable only after [`State::sync`].
    pub fn alive(&self, now_ms: i64) -> Result<(), AgentError> {
        self.meta.insert(ALIVE, &now_ms.to_be_bytes()).map_err(|e| self.failed(e))?;
        Ok(())
    }

    /// Partitions of a topic that lines are routed to, as many as it had when it was first seen: a source stays in its
    /// partition when the topic grows. Fewer than remembered means another topic of the same name. Durable. Blocks.
    pub fn partitions_of(&self, topic: &str, now: i32) -> Result<i32, AgentError> {
        let key = [PARTITIONS, topic.as_bytes()].concat();
        let value = self.meta.get(&key).map_err(|e| self.failed(e))?;
        let known = value.and_then(|v| <[u8; 4]>::try_from(v.as_ref()).ok()).map(i32::from_be_bytes);
        if let Some(known) = known.filter(|known| (1..=now).contains(known)) {
            return Ok(known);
        }
        self.meta.insert(key, &now.to_be_bytes()).map_err(|e| self.failed(e))?;
        self.sync()?;
        Ok(now)
    }

    /// How far the log has the spool: segment and offset.
    pub fn spool_cursor(&self) -> Result<Option<(u64, u64)>, AgentError> {
        let value = self.meta.get(SPOOL).map_err(|e| self.failed(e))?;
        let halves = |v: sled::IVec| Some((v.get(..8)?.try_into().ok()?, v.get(8..16)?.try_into().ok()?));
        Ok(value.and_then(halves).map(|(segment, offset)| (u64::from_be_bytes(segment), u64::from_be_bytes(offset))))
    }

    /// Keeps how far the log has the spool; durable only after [`State::sync`].
    pub fn keep_spool_cursor(&self, segment: u64, offset: u64) -> Result<(), AgentError> {
        let value = [segment.to_be_bytes(), offset.to_be_bytes()].concat();
        self.meta.insert(SPOOL, value).map_err(|e| self.failed(e))?;
        Ok(())
    }

    /// Up to when an agent has seen the folders; `None` at the very first start.
    pub fn last_alive_ms(&self) -> Result<Option<i64>, AgentError> {
        let value = self.meta.get(ALIVE).map_err(|e| self.failed(e))?;
        Ok(value.and_then(|v| <[u8; 8]>::try_from(v.as_ref()).ok()).map(i64::from_be_bytes))
    }

    /// Returns when all changes made before are on the disk. Blocks.
    pub fn sync(&self) -> Result<(), AgentError> {
        self.db.flush().map_err(|e| self.failed(e))?;
        self.database_file.sync_all().map_err(|source| AgentError::File {
            what: "syncing",
            path: self.folder.clone(),
            source,
        })
    }

    fn failed(&self, source: sled::Error) -> AgentError {
        AgentError::Database { path: self.folder.clone(), source }
    }
}

fn check_version(folder: &Path) -> Result<(), AgentError> {
    let path = folder.join("VERSION");
    let failed = |what| {
        let path = path.clone();
        move |source| AgentError::File { what, path, source }
    };
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(found) if found <= FORMAT_VERSION => Ok(()),
            _ => Err(AgentError::Newer {
                path: folder.to_owned(),
                found: text.trim().chars().take(20).collect(),
                supported: FORMAT_VERSION,
            }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            replace(&RealFs, &path, format!("{FORMAT_VERSION}\n").as_bytes()).map_err(failed("writing"))
        }
        Err(source) => Err(failed("reading")(source)),
    }
}

/// Waits until sled can lock its file. Nobody else works in the folder, but threads of a database that was closed a moment
/// ago in this process, and children of it that have not yet begun their own program, hold the lock a little longer.
fn wait_for_release(file: &Path) -> io::Result<()> {
    let file = match File::open(file) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let deadline = Instant::now() + RELEASE;
    loop {
        match file.try_lock() {
            Ok(()) => return file.unlock(),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            // sled says what is wrong.
            Err(fs::TryLockError::WouldBlock) => return Ok(()),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> SourceState {
        SourceState {
            topic: "logs".into(),
            partition: 3,
            filename: Path::new("/a.log").into(),
            path: StoredPath::Bytes(vec![b'/', 0xff]),
            device: 1,
            inode: u64::MAX,
            birth_ns: Some(-1),
            head: Print::of(b"head"),
            start: 0,
            checkpoint: Mark::default(),
            tail: Print::of(b"tail"),
            ends: vec![5],
            sent: Count { lines: 1, bytes: 2, records: 1 },
            dropped: BTreeMap::from([("cut".to_owned(), Count::default())]),
            finished: false,
            seen_ms: 7,
            follows: None,
        }
    }

    #[test]
    fn sources_are_found_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let id = SourceId([7; 16]);
        {
            let state = State::open(folder.path()).unwrap();
            assert_eq!(state.last_alive_ms().unwrap(), None);
            state.put(id, &sample()).unwrap();
            state.put(SourceId([8; 16]), &sample()).unwrap();
            state.remove(SourceId([8; 16])).unwrap();
            state.alive(123).unwrap();
            state.sync().unwrap();
        }
        let state = State::open(folder.path()).unwrap();
        assert_eq!(state.all().unwrap(), [(id, sample())]);
        assert_eq!(state.last_alive_ms().unwrap(), Some(123));
        let path: PathBuf = sample().path.into();
        assert_eq!(path.as_os_str().as_bytes(), [b'/', 0xff]);
    }

    #[test]
    fn a_database_whose_lock_is_let_go_a_moment_later_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        drop(State::open(folder.path()).unwrap());
        let file = folder.path().join("db");
        wait_for_release(&file).unwrap();
        let held = File::open(&file).unwrap();
        held.lock().unwrap();
        let opening = std::thread::spawn({
            let folder = folder.path().to_owned();
            move || State::open(&folder).map(drop)
        });
        std::thread::yield_now();
        held.unlock().unwrap();
        opening.join().unwrap().unwrap();
    }

    #[test]
    fn folder_in_use_and_newer_folder_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        {
            let _open = State::open(folder.path()).unwrap();
            let error = State::open(folder.path()).unwrap_err();
            assert!(matches!(error, AgentError::InUse { .. }), "{error}");
        }
        for version in ["2", "soup", ""] {
            fs::write(folder.path().join("VERSION"), version).unwrap();
            let error = State::open(folder.path()).unwrap_err();
            assert!(matches!(&error, AgentError::Newer { found, .. } if found == version), "{error}");
        }
    }
}
