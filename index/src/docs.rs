//! Which document of a client index is the live one: (tenant, index, id) to the place of its newest version.
//!
//! In: documents as they are consumed ([`Documents::consumed`]), then once more with their publication
//! ([`Documents::store`]). Out: whether a row is still the live one, look-ups by id, indices with their counts.
//! Touches one sled tree. Leaves to others: the documents themselves, which lie in splits and in memory.
//!
//! The newer version is the one with the higher position if both come from one source, else the one consumed later.
//! An entry is written before its publication: after a crash between the two the record is consumed again and gives the
//! same entry. A scan sees the version that was live when it began: entries remember the number of their change and the
//! version before it. (A document that is replaced twice while one scan runs is left out of that scan.)
//!
//! # Keys (version 1)
//! `d`, tenant, 0, index, 0, id: [`DocEntry`] as JSON. `c`, tenant, 0, index: number of live documents, u64 big-endian.
//! `s`: number of the last change, u64 big-endian.

use std::collections::HashMap;
use std::sync::Arc;

use millrace_log::record::{DocIdentity, Position, SourceId, Tenant};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::scan::{EventStore, StorageError};
use crate::state::{StateDb, StateError};

/// Where the live version of a document stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocPlace {
    /// Its source.
    pub source: SourceId,
    /// Its position there.
    pub position: Position,
    /// Its event time: a scan of this nanosecond finds it.
    pub time_ns: i64,
}

/// A client index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocIndex {
    /// Its name.
    pub name: String,
    /// Live documents.
    pub documents: u64,
}

/// What the Elasticsearch door asks beside [`EventStore`]: documents by id, and the indices that clients made.
#[async_trait::async_trait]
pub trait DocumentStore: EventStore {
    /// Where the live version of a document stands, if there is one. A scan of [`DocPlace::time_ns`] for
    /// [`super::scan::Kind::Documents`] has the row of this source and position.
    async fn doc_lookup(&self, tenant: &Tenant, index: &str, id: &str) -> Result<Option<DocPlace>, StorageError>;

    /// Client indices of a tenant with their numbers of live documents, by name.
    fn doc_indices(&self, tenant: &Tenant) -> Vec<DocIndex>;
}

/// Identity of a document: tenant, index, id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DocKey(Vec<u8>);

impl DocKey {
    /// Joins the three.
    pub fn new(tenant: &Tenant, index: &str, id: &str) -> Self {
        let mut key = index_key(b'd', tenant, index);
        key.push(0);
        key.extend_from_slice(id.as_bytes());
        Self(key)
    }

    /// The identity of a row.
    pub fn of(tenant: &Tenant, doc: &DocIdentity) -> Self {
        Self::new(tenant, &doc.index, &doc.id)
    }

    fn counter(&self) -> Vec<u8> {
        // Tenants hold no zero byte, so the index ends at the second one.
        let end = memchr::memchr_iter(0, &self.0).nth(1).unwrap_or(self.0.len());
        let mut key = self.0.get(..end).unwrap_or_default().to_vec();
        if let Some(first) = key.first_mut() {
            *first = b'c';
        }
        key
    }
}

fn index_key(kind: u8, tenant: &Tenant, index: &str) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(tenant.as_str().as_bytes());
    key.push(0);
    key.extend_from_slice(index.as_bytes());
    key
}

/// A version: source as two numbers (JSON has no bytes), position, time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Version {
    source: (u64, u64),
    offset: u64,
    sub: u32,
    time_ns: i64,
}

impl Version {
    fn new(source: SourceId, position: Position, time_ns: i64) -> Self {
        let number = u128::from_be_bytes(source.0);
        let low = u64::try_from(number & u128::from(u64::MAX)).unwrap_or_default();
        let high = u64::try_from(number >> 64).unwrap_or_default();
        Self { source: (high, low), offset: position.offset, sub: position.sub, time_ns }
    }

    fn source(&self) -> SourceId {
        SourceId(((u128::from(self.source.0) << 64) | u128::from(self.source.1)).to_be_bytes())
    }

    fn is(&self, source: SourceId, position: Position) -> bool {
        self.source() == source && self.position() == position
    }

    fn position(&self) -> Position {
        Position { offset: self.offset, sub: self.sub }
    }
}

/// The live version of a document and the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocEntry {
    live: Version,
    before: Option<Version>,
    change: u64,
}

/// Changes of one publication, to be stored with it.
pub type DocChanges = HashMap<DocKey, DocEntry>;

/// The live documents of all tenants.
#[derive(Debug)]
pub struct Documents {
    db: Arc<StateDb>,
    tree: sled::Tree,
    state: RwLock<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    /// Consumed and not yet stored.
    entries: HashMap<DocKey, DocEntry>,
    /// Live documents by counter key, stored or not.
    counts: HashMap<Vec<u8>, u64>,
    /// Live documents as stored.
    stored: HashMap<Vec<u8>, u64>,
    change: u64,
    shown: u64,
}

const CHUNK: usize = 1000;
const CHANGE: &[u8] = b"s";

impl Documents {
    /// Opens the tree. `now_ns` keeps numbers of changes rising over a crash. Blocking.
    pub fn open(db: Arc<StateDb>, now_ns: i64) -> Result<Self, StateError> {
        let tree = db.tree("documents")?;
        let mut recent = Recent::default();
        for row in tree.scan_prefix(b"c") {
            let (key, value) = row.map_err(|e| db.fault(e))?;
            recent.counts.insert(key.to_vec(), number(&value));
        }
        recent.stored = recent.counts.clone();
        let last = tree.get(CHANGE).map_err(|e| db.fault(e))?.map_or(0, |v| number(&v));
        recent.change = last.max(now_ns.unsigned_abs());
        recent.shown = recent.change;
        Ok(Self { db, tree, state: RwLock::new(recent) })
    }

    /// Number of the last change that scans may see.
    pub fn shown(&self) -> u64 {
        self.state.read().shown
    }

    /// Lets scans see all changes so far: called in one step with making their rows searchable.
    pub fn show(&self) {
        let mut state = self.state.write();
        state.shown = state.change;
    }

    /// Notes a document that was consumed; `changes` goes to [`Documents::store`] with its publication. Blocking.
    pub fn consumed(
        &self,
        tenant: &Tenant,
        doc: &DocIdentity,
        place: DocPlace,
        changes: &mut DocChanges,
    ) -> Result<(), StateError> {
        let key = DocKey::of(tenant, doc);
        let old = self.entry(&key)?;
        let live = Version::new(place.source, place.position, place.time_ns);
        let mut state = self.state.write();
        if let Some(old) = &old
            && old.live.source == live.source
            && old.live.position() >= live.position()
        {
            // Consumed again after a crash: the entry was stored, its publication was not.
            return Ok(());
        }
        state.change += 1;
        if old.is_none() {
            *state.counts.entry(key.counter()).or_default() += 1;
        }
        // A version that no scan has seen yet hides the one before it no longer than this one does.
        let before = old.and_then(|o| if o.change > state.shown { o.before } else { Some(o.live) });
        let entry = DocEntry { live, before, change: state.change };
        state.entries.insert(key.clone(), entry);
        changes.insert(key, entry);
        Ok(())
    }

    fn entry(&self, key: &DocKey) -> Result<Option<DocEntry>, StateError> {
        if let Some(entry) = self.state.read().entries.get(key) {
            return Ok(Some(*entry));
        }
        self.stored(key)
    }

    fn stored(&self, key: &DocKey) -> Result<Option<DocEntry>, StateError> {
        let value = self.tree.get(&key.0).map_err(|e| self.db.fault(e))?;
        // A row that can't be read hides nothing: its document shows in all versions.
        Ok(value.and_then(|v| serde_json::from_slice(&v).ok()))
    }

    /// Makes the changes of one publication durable; before its transaction. Repeating is harmless. Blocking.
    pub fn store(&self, changes: &DocChanges) -> Result<(), StateError> {
        if changes.is_empty() {
            return Ok(());
        }
        let all: Vec<(&DocKey, &DocEntry)> = changes.iter().collect();
        for chunk in all.chunks(CHUNK) {
            let mut batch = sled::Batch::default();
            let mut grown: HashMap<Vec<u8>, u64> = HashMap::new();
            let mut last = 0;
            for (key, entry) in chunk {
                if self.stored(key)?.is_none() {
                    *grown.entry(key.counter()).or_default() += 1;
                }
                batch.insert(key.0.as_slice(), serde_json::to_vec(entry).unwrap_or_default());
                last = last.max(entry.change);
            }
            let mut state = self.state.write();
            for (counter, by) in grown {
                let sum = state.stored.entry(counter.clone()).or_default();
                *sum += by;
                batch.insert(counter, sum.to_be_bytes().to_vec());
            }
            batch.insert(CHANGE, last.to_be_bytes().to_vec());
            self.tree.apply_batch(batch).map_err(|e| self.db.fault(e))?;
            for (key, entry) in chunk {
                if state.entries.get(*key).is_some_and(|e| e.change <= entry.change) {
                    state.entries.remove(*key);
                }
            }
        }
        self.db.sync()
    }

    /// Whether the row is the version that was live at `change`. Blocking.
    pub fn is_live(
        &self,
        tenant: &Tenant,
        doc: &DocIdentity,
        source: SourceId,
        position: Position,
        change: u64,
    ) -> Result<bool, StateError> {
        Ok(match self.entry(&DocKey::of(tenant, doc))? {
            None => true,
            Some(entry) if entry.change <= change => entry.live.is(source, position),
            Some(entry) => entry.before.is_some_and(|v| v.is(source, position)),
        })
    }

    /// Whether a stored newer version has taken the row's place for good: merges leave such rows out. Blocking.
    pub fn is_replaced(
        &self,
        tenant: &Tenant,
        doc: &DocIdentity,
        source: SourceId,
        position: Position,
    ) -> Result<bool, StateError> {
        Ok(self.stored(&DocKey::of(tenant, doc))?.is_some_and(|entry| !entry.live.is(source, position)))
    }

    /// Forgets documents whose rows retention is about to remove. Blocking.
    pub fn forget(&self, rows: &[(DocKey, SourceId, Position)]) -> Result<(), StateError> {
        for chunk in rows.chunks(CHUNK) {
            let mut batch = sled::Batch::default();
            let mut state = self.state.write();
            let mut shrunk: HashMap<Vec<u8>, u64> = HashMap::new();
            for (key, source, position) in chunk {
                // Only a row that is still the live one takes its entry along.
                let recent = state.entries.contains_key(key);
                if !recent && self.stored(key)?.is_some_and(|e| e.live.is(*source, *position)) {
                    batch.remove(key.0.as_slice());
                    *shrunk.entry(key.counter()).or_default() += 1;
                }
            }
            for (counter, by) in shrunk {
                let count = state.counts.entry(counter.clone()).or_default();
                *count = count.saturating_sub(by);
                let stored = state.stored.entry(counter.clone()).or_default();
                *stored = stored.saturating_sub(by);
                batch.insert(counter, stored.to_be_bytes().to_vec());
            }
            self.tree.apply_batch(batch).map_err(|e| self.db.fault(e))?;
        }
        self.db.sync()
    }

    /// Where the live version of a document stands. Blocking, some microseconds.
    pub fn look_up(&self, tenant: &Tenant, index: &str, id: &str) -> Result<Option<DocPlace>, StateError> {
        let entry = self.entry(&DocKey::new(tenant, index, id))?;
        Ok(entry.map(|e| DocPlace { source: e.live.source(), position: e.live.position(), time_ns: e.live.time_ns }))
    }

    /// Client indices of a tenant that have documents, by name.
    pub fn indices(&self, tenant: &Tenant) -> Vec<DocIndex> {
        let prefix = index_key(b'c', tenant, "");
        let state = self.state.read();
        let mut all: Vec<DocIndex> = state
            .counts
            .iter()
            .filter(|(_, documents)| **documents > 0)
            .filter_map(|(key, &documents)| {
                let name = key.strip_prefix(prefix.as_slice())?;
                Some(DocIndex { name: String::from_utf8_lossy(name).into_owned(), documents })
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

fn number(value: &[u8]) -> u64 {
    value.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_log::record::DocOp;

    fn doc(id: &str) -> DocIdentity {
        DocIdentity { index: "orders".into(), id: id.into(), op: DocOp::Index }
    }

    fn place(source: u8, offset: u64) -> DocPlace {
        DocPlace { source: SourceId([source; 16]), position: Position::at(offset), time_ns: 5 }
    }

    #[test]
    fn later_versions_replace_earlier_ones_for_scans_that_begin_later() {
        let dir = tempfile::tempdir().unwrap();
        let db = Arc::new(StateDb::open(dir.path()).unwrap());
        let docs = Documents::open(Arc::clone(&db), 0).unwrap();
        let t = Tenant::default();
        let mut changes = DocChanges::new();
        docs.consumed(&t, &doc("7"), place(1, 10), &mut changes).unwrap();
        docs.consumed(&t, &doc("8"), place(1, 11), &mut changes).unwrap();
        docs.show();
        let before = docs.shown();
        docs.store(&changes).unwrap();
        let mut second = DocChanges::new();
        docs.consumed(&t, &doc("7"), place(2, 3), &mut second).unwrap();
        assert_eq!(docs.shown(), before);
        docs.show();
        let after = docs.shown();
        let live = |p: DocPlace, change| docs.is_live(&t, &doc("7"), p.source, p.position, change).unwrap();
        assert_eq!(
            [
                live(place(1, 10), before),
                live(place(2, 3), before),
                live(place(1, 10), after),
                live(place(2, 3), after)
            ],
            [true, false, false, true]
        );
        let replaced = |p: DocPlace| docs.is_replaced(&t, &doc("7"), p.source, p.position).unwrap();
        assert!(!replaced(place(1, 10)), "the newer version is not stored yet");
        docs.store(&second).unwrap();
        assert!(replaced(place(1, 10)) && !replaced(place(2, 3)));
        assert_eq!(docs.indices(&t), [DocIndex { name: "orders".into(), documents: 2 }]);
        drop(docs);

        let docs = Documents::open(db, 0).unwrap();
        assert_eq!(docs.look_up(&t, "orders", "7").unwrap(), Some(place(2, 3)));
        assert_eq!(docs.look_up(&t, "orders", "9").unwrap(), None);
        // An older version that is consumed again changes nothing.
        let mut again = DocChanges::new();
        docs.consumed(&t, &doc("7"), place(2, 3), &mut again).unwrap();
        assert!(again.is_empty());
        let gone = [(DocKey::of(&t, &doc("7")), SourceId([1; 16]), Position::at(10)), {
            (DocKey::of(&t, &doc("8")), SourceId([1; 16]), Position::at(11))
        }];
        docs.forget(&gone).unwrap();
        assert_eq!(docs.indices(&t)[0].documents, 1, "only the one whose live row goes");
        assert_eq!(docs.look_up(&t, "orders", "8").unwrap(), None);
        assert!(docs.indices(&Tenant::new("other").unwrap()).is_empty());
    }
}
