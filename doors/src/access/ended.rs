//! Ids that must not be used again before they expire by themselves: sessions that were logged out, logins that came back.
//!
//! In: ids with the time at which they expire. Out: whether one was ended. Touches nothing. The list is bounded: where it
//! is full, everything that expires no later than the entry that makes room counts as ended, so that nothing comes back
//! to life.

use std::collections::BTreeSet;

use parking_lot::Mutex;

/// Random, so that nobody guesses one.
pub(super) type Id = [u8; 16];

struct Known {
    ids: BTreeSet<(i64, Id)>,
    /// Everything that expires at or before this time has ended.
    floor_ms: i64,
}

/// A bounded list of ids that have ended.
pub(super) struct Ended {
    known: Mutex<Known>,
    max: usize,
}

impl Ended {
    /// An empty list for so many ids.
    pub fn new(max: usize) -> Self {
        Self { known: Mutex::new(Known { ids: BTreeSet::new(), floor_ms: i64::MIN }), max }
    }

    /// Ends an id. `false`: it had ended before.
    pub fn end(&self, id: Id, expires_ms: i64, now_ms: i64) -> bool {
        let known = &mut *self.known.lock();
        known.ids = known.ids.split_off(&(now_ms, Id::default()));
        if expires_ms <= known.floor_ms || !known.ids.insert((expires_ms, id)) {
            return false;
        }
        if known.ids.len() > self.max
            && let Some((expires_ms, _)) = known.ids.pop_first()
        {
            known.floor_ms = known.floor_ms.max(expires_ms);
        }
        true
    }

    /// Whether an id has ended.
    pub fn has(&self, id: Id, expires_ms: i64) -> bool {
        let known = self.known.lock();
        expires_ms <= known.floor_ms || known.ids.contains(&(expires_ms, id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_stays_so_also_when_the_list_is_full() {
        let (ended, id) = (Ended::new(2), |n: u8| [n; 16]);
        assert!(ended.end(id(1), 100, 0) && ended.has(id(1), 100));
        assert!(!ended.end(id(1), 100, 0), "twice");
        assert!(!ended.has(id(2), 100));
        assert!(ended.end(id(2), 200, 0) && ended.end(id(3), 300, 0));
        assert!(ended.has(id(1), 100) && ended.has(id(4), 100), "what expires with the one that made room");
        assert!(ended.has(id(2), 200) && ended.has(id(3), 300) && !ended.has(id(4), 300));
        assert!(!ended.end(id(5), 90, 0), "below the floor");
        assert!(ended.end(id(6), 1000, 500));
        assert_eq!(ended.known.lock().ids.len(), 1, "the expired are forgotten");
    }
}
