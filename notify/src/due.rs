//! Groups that are due and wait to be flushed. A flood of one alert holds up no other: alert names take turns.
//!
//! In: keys of groups, with the name of their alert. Out: the next to be flushed, and a [`Slot`] for each while its first attempts
//! are under way. Touches nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::{Notify, OwnedSemaphorePermit};

/// Keys of groups that are due, each once. Bounded by the groups that there are.
#[derive(Debug, Default)]
pub(crate) struct Due {
    /// Names that have groups waiting; the first is next.
    turns: VecDeque<Arc<str>>,
    keys: HashMap<Arc<str>, VecDeque<String>>,
}

impl Due {
    /// Adds a group behind those of the same name.
    pub(crate) fn push(&mut self, name: &str, key: String) {
        if let Some(keys) = self.keys.get_mut(name) {
            keys.push_back(key);
            return;
        }
        let name: Arc<str> = name.into();
        self.turns.push_back(Arc::clone(&name));
        self.keys.insert(name, VecDeque::from([key]));
    }

    /// The next group.
    pub(crate) fn pop(&mut self) -> Option<String> {
        let name = self.turns.pop_front()?;
        let keys = self.keys.get_mut(&name)?;
        let key = keys.pop_front();
        if keys.is_empty() {
            self.keys.remove(&name);
        } else {
            self.turns.push_back(name);
        }
        key
    }

    /// Whether none waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.keys.values().map(VecDeque::len).sum()
    }
}

/// The place of a flush whose first attempts are under way. Free again when they have ended, so that flushes that pause between
/// attempts hold up nobody.
#[derive(Debug)]
pub(crate) struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    freed: Arc<Notify>,
}

impl Slot {
    /// A place; `freed` hears when it is free again.
    pub(crate) fn new(permit: OwnedSemaphorePermit, freed: Arc<Notify>) -> Self {
        Self { permit: Some(permit), freed }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_take_turns_and_keys_of_one_keep_their_order() {
        let mut due = Due::default();
        for (name, key) in [("Flood", "1"), ("Flood", "2"), ("Flood", "3"), ("Disk", "4"), ("", "5"), ("Disk", "6")] {
            due.push(name, key.to_owned());
        }
        assert_eq!(due.len(), 6);
        let order: Vec<_> = std::iter::from_fn(|| due.pop()).collect();
        assert_eq!(order, ["1", "4", "5", "2", "6", "3"]);
        assert!(due.is_empty() && due.keys.is_empty());
    }
}
