//! Groups that are due and wait to be flushed. A flood of one alert holds up no other: alert names take turns.
//!
//! In: keys of groups, with the name of their alert. Out: the next to be flushed. Touches nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Keys of groups that are due, each once. Bounded by the groups that there are.
#[derive(Debug, Default)]
pub(crate) struct Due {
    /// Names that have groups waiting; the first is next.
    turns: VecDeque<Arc<str>>,
    keys: HashMap<Arc<str>, VecDeque<String>>,
    /// How many keys there are: looked at after each flush.
    waiting: usize,
}

impl Due {
    /// Adds a group behind those of the same name.
    pub(crate) fn push(&mut self, name: &str, key: String) {
        self.waiting += 1;
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
        let key = keys.pop_front()?;
        self.waiting -= 1;
        if keys.is_empty() {
            self.keys.remove(&name);
        } else {
            self.turns.push_back(name);
        }
        Some(key)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting
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
        assert!(due.len() == 0 && due.keys.is_empty());
    }
}
