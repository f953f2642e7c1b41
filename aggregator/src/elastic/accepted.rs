//! Ids of documents that were accepted and may not be indexed yet.
//!
//! In: ids that `bulk.rs` appends. Out: whether an id is taken. Touches nothing. Memory is bounded: when full, `bulk.rs`
//! waits for the index and forgets what it must know by then.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use millrace_log::record::Tenant;
use parking_lot::Mutex;

/// Ids remembered until the index has them.
const REMEMBERED: usize = 200_000;

/// Tenant, index, id.
pub type DocumentKey = (Tenant, String, String);

/// Ids that were accepted and may not be indexed yet. Cleared only after a wait for the index.
#[derive(Debug, Default)]
pub struct Accepted(Mutex<HashMap<DocumentKey, State>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Being appended.
    Pending,
    /// In the log.
    Durable,
}

/// What [`Accepted::claim`] decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// There is a document of this id already, and only a new one was wanted.
    Conflict,
    /// A document is replaced that another request is appending, or has appended just now.
    Again,
    /// The id is held for the caller until [`Accepted::settle`].
    Held,
}

impl Accepted {
    /// Whether it is time to wait for the index and to forget.
    pub fn is_full(&self) -> bool {
        self.0.lock().len() >= REMEMBERED
    }

    /// Forgets what is durable: the index has it.
    pub fn forget_durable(&self) {
        self.0.lock().retain(|_, state| *state == State::Pending);
    }

    /// Claims an id for a document that is about to be appended, and says whether there was one before. `indexed`: the
    /// index has one; `create`: only a new one is wanted. Of two requests at the same time one gets the conflict.
    pub fn claim(&self, key: DocumentKey, indexed: bool, create: bool) -> (Claim, bool) {
        let mut all = self.0.lock();
        let existed = indexed || all.contains_key(&key);
        if existed && create {
            return (Claim::Conflict, existed);
        }
        match all.entry(key) {
            Entry::Vacant(free) => {
                free.insert(State::Pending);
                (Claim::Held, existed)
            }
            Entry::Occupied(_) => (Claim::Again, existed),
        }
    }

    /// What became of held ids, each with whether the log has it.
    pub fn settle(&self, appended: impl IntoIterator<Item = (DocumentKey, bool)>) {
        let mut all = self.0.lock();
        for (key, durable) in appended {
            if durable {
                all.insert(key, State::Durable);
            } else {
                all.remove(&key);
            }
        }
    }
}
