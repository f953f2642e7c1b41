//! What the agent must know after a crash: its sources with their checkpoints, synced before anything relies on them.
//!
//! In: [`SourceState`]s. Out: `Ok` when they are on the disk. Touches one folder: `VERSION`, `LOCK`, the database.
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
//! A change stays in memory until a sync has written it. A sync that the disk fails, because it is full for example, closes
//! the database, which takes nothing after an error; the next one opens it anew and writes again what was not durable.
//! [`State::sync`] waits for that and reports it; [`State::try_sync`] tries once. So a full disk makes wait whoever needs
//! something to be durable, and no position is lost.
//!
//! The database and the lock beside it do not go through the file-system trait (`millrace_log::fs`) that the spool
//! (`push/spool.rs`) is written through; only `VERSION` does. Crashes are tested by killing agents (`agent/tests/`).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use millrace_log::fs::{Filesystem as _, RealFs, replace};
use millrace_log::record::SourceId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::condition::Conditions;
use crate::database::{Database, Tree};
use crate::error::AgentError;
use crate::fingerprint::Print;
use crate::ledger::Count;
use crate::split::Mark;

/// Version of the folder's contents that this code reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// Wait after a sync that failed; doubles up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Between two looks at the end while it waits.
const LOOK: Duration = Duration::from_millis(50);
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

/// A change that is not durable yet: the value, or that there is none, and which of all changes it is.
#[derive(Debug, Clone)]
struct Change {
    value: Option<Vec<u8>>,
    number: u64,
}

/// What is not durable yet.
#[derive(Debug, Default)]
struct Unsynced {
    changes: BTreeMap<(Tree, Vec<u8>), Change>,
    number: u64,
}

/// The agent's folder with its database.
#[derive(Debug)]
pub struct State {
    folder: PathBuf,
    unsynced: Mutex<Unsynced>,
    /// `None` after an error, until it is opened anew.
    database: Mutex<Option<Database>>,
    /// Where a disk that fails is reported.
    conditions: OnceLock<Conditions>,
    /// Nothing is waited for any more.
    stop: OnceLock<CancellationToken>,
    /// Errors that the next syncs meet.
    #[cfg(test)]
    pub(crate) faults: Mutex<Vec<io::ErrorKind>>,
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
        let database = Database::open(folder)?;
        database.sync()?;
        RealFs.sync_dir(folder).map_err(failed("syncing"))?;
        if let Some(parent) = folder.parent().filter(|p| !p.as_os_str().is_empty()) {
            RealFs.sync_dir(parent).map_err(failed("syncing the parent of"))?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            unsynced: Mutex::default(),
            database: Mutex::new(Some(database)),
            conditions: OnceLock::new(),
            stop: OnceLock::new(),
            #[cfg(test)]
            faults: Mutex::default(),
            _lock: lock,
        })
    }

    /// Reports a disk that fails there.
    pub(crate) fn report_to(&self, conditions: &Conditions) {
        self.conditions.get_or_init(|| conditions.clone());
    }

    /// From then on no sync waits for the disk.
    pub(crate) fn wait_until(&self, cancel: &CancellationToken) {
        self.stop.get_or_init(|| cancel.child_token());
    }

    /// From now on no sync waits for the disk.
    pub(crate) fn stop_waiting(&self) {
        self.stop.get_or_init(CancellationToken::new).cancel();
    }

    fn is_stopping(&self) -> bool {
        self.stop.get().is_some_and(CancellationToken::is_cancelled)
    }

    fn change(&self, tree: Tree, key: &[u8], value: Option<Vec<u8>>) {
        let mut unsynced = self.unsynced.lock();
        unsynced.number += 1;
        let number = unsynced.number;
        unsynced.changes.insert((tree, key.to_vec()), Change { value, number });
    }

    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, AgentError> {
        self.patiently(|| {
            let changed = self.unsynced.lock().changes.get(&(tree, key.to_vec())).map(|change| change.value.clone());
            match changed {
                Some(value) => Ok(value),
                None => self.with_database(|database| database.get(tree, key)),
            }
        })
    }

    /// Opens the database if it is closed, and closes it after an error.
    fn with_database<T>(&self, work: impl FnOnce(&Database) -> Result<T, AgentError>) -> Result<T, AgentError> {
        let mut open = self.database.lock();
        let database = match open.take() {
            Some(database) => database,
            None => Database::open(&self.folder)?,
        };
        let done = work(&database)?;
        *open = Some(database);
        Ok(done)
    }

    /// Repeats what the disk fails until it succeeds or the agent stops. Blocks.
    fn patiently<T>(&self, mut work: impl FnMut() -> Result<T, AgentError>) -> Result<T, AgentError> {
        let mut wait = RETRY.0;
        loop {
            let error = match work() {
                Err(error) if error.may_pass() && !self.is_stopping() => error,
                done => return done,
            };
            self.trouble(Some(&error));
            let mut left = wait;
            while !left.is_zero() && !self.is_stopping() {
                std::thread::sleep(LOOK.min(left));
                left = left.saturating_sub(LOOK);
            }
            wait = (wait * 2).min(RETRY.1);
        }
    }

    /// The disk fails, or works again.
    fn trouble(&self, error: Option<&AgentError>) {
        let Some(conditions) = self.conditions.get() else { return };
        let of = format!("disk of {}", self.folder.display());
        let what = error.map(|error| format!("{error}; the agent waits and tries again"));
        if conditions.trouble(&of, what.clone()) {
            match what {
                Some(error) => tracing::warn!(error, "positions can't be written"),
                None => tracing::info!(folder = %self.folder.display(), "positions are written again"),
            }
        }
    }

    /// Whether something is not durable yet.
    pub(crate) fn is_unsynced(&self) -> bool {
        !self.unsynced.lock().changes.is_empty()
    }

    /// As [`State::sync`], without waiting for a disk that fails. Blocks.
    pub fn try_sync(&self) -> Result<(), AgentError> {
        let synced = self.write();
        match &synced {
            Ok(()) => self.trouble(None),
            Err(error) if error.may_pass() => self.trouble(Some(error)),
            Err(_) => {}
        }
        synced
    }

    fn write(&self) -> Result<(), AgentError> {
        self.with_database(|database| {
            #[cfg(test)]
            if let Some(kind) = self.faults.lock().pop() {
                return Err(AgentError::Database { path: self.folder.clone(), source: io::Error::from(kind).into() });
            }
            let changes = self.unsynced.lock().changes.clone();
            if changes.is_empty() {
                // Whoever had the database before has written them.
                return Ok(());
            }
            for ((tree, key), change) in &changes {
                database.set(*tree, key, change.value.as_deref())?;
            }
            database.sync()?;
            // What changed meanwhile is for the next one.
            let is_written =
                |at: &(Tree, Vec<u8>), now: &Change| changes.get(at).is_some_and(|c| c.number == now.number);
            self.unsynced.lock().changes.retain(|at, now| !is_written(at, now));
            Ok(())
        })
    }

    /// The folder's path.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps a source; durable only after [`State::sync`].
    pub fn put(&self, id: SourceId, state: &SourceState) -> Result<(), AgentError> {
        let json =
            serde_json::to_vec(state).map_err(|source| AgentError::StateEntry { key: id.to_string(), source })?;
        self.change(Tree::Sources, &id.0, Some(json));
        Ok(())
    }

    /// Keeps a source that is not a file; durable only after [`State::sync`].
    pub fn put_receiver(&self, name: &str, state: &ReceiverState) -> Result<(), AgentError> {
        let json =
            serde_json::to_vec(state).map_err(|source| AgentError::StateEntry { key: name.to_owned(), source })?;
        self.change(Tree::Receivers, name.as_bytes(), Some(json));
        Ok(())
    }

    /// A source that is no file. An entry that can't be read stops the start: its numbers would be given again.
    pub fn receiver(&self, name: &str) -> Result<Option<ReceiverState>, AgentError> {
        let found = self.get(Tree::Receivers, name.as_bytes())?;
        let read = |json: Vec<u8>| {
            serde_json::from_slice(&json).map_err(|source| AgentError::StateEntry { key: name.to_owned(), source })
        };
        found.map(read).transpose()
    }

    /// Forgets a source; durable only after [`State::sync`].
    pub fn remove(&self, id: SourceId) -> Result<(), AgentError> {
        self.change(Tree::Sources, &id.0, None);
        Ok(())
    }

    /// All sources. An entry that can't be read stops the start: reading its file anew would double its lines.
    pub fn all(&self) -> Result<Vec<(SourceId, SourceState)>, AgentError> {
        let mut all = Vec::new();
        let mut entries: BTreeMap<Vec<u8>, Vec<u8>> =
            self.with_database(|database| database.all(Tree::Sources))?.into_iter().collect();
        for ((_, key), change) in self.unsynced.lock().changes.iter().filter(|((tree, _), _)| *tree == Tree::Sources) {
            match &change.value {
                Some(value) => entries.insert(key.clone(), value.clone()),
                None => entries.remove(key),
            };
        }
        for (key, json) in entries {
            let Ok(id) = <[u8; 16]>::try_from(key) else { continue };
            let state = serde_json::from_slice(&json)
                .map_err(|source| AgentError::StateEntry { key: SourceId(id).to_string(), source })?;
            all.push((SourceId(id), state));
        }
        Ok(all)
    }

    /// Notes up to when the agent has seen the folders; durable only after [`State::sync`].
    pub fn alive(&self, now_ms: i64) -> Result<(), AgentError> {
        self.change(Tree::Meta, ALIVE, Some(now_ms.to_be_bytes().to_vec()));
        Ok(())
    }

    /// Partitions of a topic that lines are routed to, as many as it had when it was first seen: a source stays in its
    /// partition when the topic grows. Fewer than remembered means another topic of the same name. Durable. Blocks.
    pub fn partitions_of(&self, topic: &str, now: i32) -> Result<i32, AgentError> {
        let key = [PARTITIONS, topic.as_bytes()].concat();
        let value = self.get(Tree::Meta, &key)?;
        let known = value.and_then(|v| <[u8; 4]>::try_from(v).ok()).map(i32::from_be_bytes);
        if let Some(known) = known.filter(|known| (1..=now).contains(known)) {
            return Ok(known);
        }
        self.change(Tree::Meta, &key, Some(now.to_be_bytes().to_vec()));
        self.sync()?;
        Ok(now)
    }

    /// How far the log has the spool: segment and offset.
    pub fn spool_cursor(&self) -> Result<Option<(u64, u64)>, AgentError> {
        let value = self.get(Tree::Meta, SPOOL)?;
        let halves = |v: Vec<u8>| Some((v.get(..8)?.try_into().ok()?, v.get(8..16)?.try_into().ok()?));
        Ok(value.and_then(halves).map(|(segment, offset)| (u64::from_be_bytes(segment), u64::from_be_bytes(offset))))
    }

    /// Keeps how far the log has the spool; durable only after [`State::sync`].
    pub fn keep_spool_cursor(&self, segment: u64, offset: u64) -> Result<(), AgentError> {
        let value = [segment.to_be_bytes(), offset.to_be_bytes()].concat();
        self.change(Tree::Meta, SPOOL, Some(value));
        Ok(())
    }

    /// Up to when an agent has seen the folders; `None` at the very first start.
    pub fn last_alive_ms(&self) -> Result<Option<i64>, AgentError> {
        let value = self.get(Tree::Meta, ALIVE)?;
        Ok(value.and_then(|v| <[u8; 8]>::try_from(v).ok()).map(i64::from_be_bytes))
    }

    /// Returns when all changes made before are on the disk: waits for one that is full. Blocks.
    pub fn sync(&self) -> Result<(), AgentError> {
        self.patiently(|| self.try_sync())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // What is not durable was not promised to anybody; what is kept need not be read again.
        if self.is_unsynced()
            && let Err(error) = self.write()
        {
            tracing::warn!(%error, "last positions not written, some lines are read again");
        }
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
    fn a_full_disk_is_waited_for_and_loses_no_change() {
        let folder = tempfile::tempdir().unwrap();
        let conditions = Conditions::new(&crate::metrics::AgentMetrics::default(), 1);
        conditions.reach();
        {
            let state = State::open(folder.path()).unwrap();
            state.report_to(&conditions);
            state.put(SourceId([7; 16]), &sample()).unwrap();
            *state.faults.lock() = vec![io::ErrorKind::StorageFull; 3];
            let error = state.try_sync().unwrap_err();
            assert!(error.may_pass() && state.is_unsynced(), "{error}");
            let trouble = conditions.ready().unwrap_err();
            assert!(trouble.contains(&folder.path().display().to_string()), "{trouble}");
            // Changed while the disk is full, and read as it is now.
            state.put(SourceId([7; 16]), &SourceState { seen_ms: 8, ..sample() }).unwrap();
            state.put(SourceId([8; 16]), &sample()).unwrap();
            state.alive(123).unwrap();
            assert_eq!(state.all().unwrap().len(), 2);
            assert_eq!(state.last_alive_ms().unwrap(), Some(123));
            state.sync().unwrap();
            assert!(state.faults.lock().is_empty() && !state.is_unsynced());
            assert_eq!(conditions.ready(), Ok(()));
            // Asked to stop, nobody waits.
            state.remove(SourceId([8; 16])).unwrap();
            *state.faults.lock() = vec![io::ErrorKind::StorageFull];
            state.stop_waiting();
            assert!(state.sync().unwrap_err().may_pass());
        }
        let state = State::open(folder.path()).unwrap();
        assert_eq!(state.all().unwrap(), [(SourceId([7; 16]), SourceState { seen_ms: 8, ..sample() })]);
        assert_eq!(state.last_alive_ms().unwrap(), Some(123));
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
