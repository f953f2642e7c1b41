//! What the log took last, so that a client's repeat after a lost answer is not written twice.
//!
//! In: keys of events that are in the log, with their positions. Out: the position of an equal event. Touches nothing.
//! Bounded: two generations, the older is forgotten when the younger is full. Forgotten at a restart.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};

use millrace_log::record::Position;
use parking_lot::Mutex;

use super::event::PushEvent;

/// (tenant, labels, time, line) of an event as 128 bits under a random secret: equal keys are equal events.
pub(super) type Key = u128;

#[derive(Default)]
struct Generations {
    young: HashMap<Key, Position>,
    old: HashMap<Key, Position>,
}

/// Bounded memory of events.
pub(super) struct Recent {
    secrets: [RandomState; 2],
    generations: Mutex<Generations>,
    per_generation: usize,
}

impl Recent {
    /// Remembers between half of `events` and all of them; 0: none.
    pub(super) fn new(events: usize) -> Self {
        let secrets = [RandomState::new(), RandomState::new()];
        Self { secrets, generations: Mutex::default(), per_generation: events / 2 }
    }

    /// The key of a line; documents have ids of their own.
    pub(super) fn key(&self, event: &PushEvent) -> Option<Key> {
        if event.doc.is_some() {
            return None;
        }
        let half = |secret: &RandomState| {
            let mut hasher = secret.build_hasher();
            event.tenant.as_str().hash(&mut hasher);
            event.labels.hash(&mut hasher);
            event.time_ns.hash(&mut hasher);
            event.line.hash(&mut hasher);
            u128::from(hasher.finish())
        };
        let [a, b] = &self.secrets;
        Some(half(a) << 64 | half(b))
    }

    /// Positions of those that the log has.
    pub(super) fn find(&self, keys: &[Option<Key>]) -> Vec<Option<Position>> {
        let generations = self.generations.lock();
        let find = |key: &Key| generations.young.get(key).or_else(|| generations.old.get(key)).copied();
        keys.iter().map(|key| key.as_ref().and_then(find)).collect()
    }

    /// Notes what the log has.
    pub(super) fn note(&self, found: impl IntoIterator<Item = (Key, Position)>) {
        if self.per_generation == 0 {
            return;
        }
        let mut generations = self.generations.lock();
        for (key, position) in found {
            if generations.young.len() >= self.per_generation {
                generations.old = std::mem::take(&mut generations.young);
            }
            generations.young.insert(key, position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use millrace_log::record::{DocIdentity, DocOp, Labels, Tenant};

    fn event(app: &str, time_ns: i64, line: &str) -> PushEvent {
        PushEvent {
            tenant: Tenant::default(),
            time_ns,
            labels: Labels::new([("app", app)]),
            metadata: Labels::new([("m", line)]),
            line: Bytes::copy_from_slice(line.as_bytes()),
            doc: None,
        }
    }

    #[test]
    fn keys_differ_where_events_do() {
        let recent = Recent::new(10);
        let base = recent.key(&event("a", 1, "x")).unwrap();
        let mut other_metadata = event("a", 1, "x");
        other_metadata.metadata = Labels::default();
        assert_eq!(recent.key(&other_metadata), Some(base));
        let mut other_tenant = event("a", 1, "x");
        other_tenant.tenant = Tenant::new("b").unwrap();
        for other in [event("b", 1, "x"), event("a", 2, "x"), event("a", 1, "y"), other_tenant] {
            assert_ne!(recent.key(&other), Some(base), "{other:?}");
        }
        let doc = DocIdentity { index: "i".into(), id: "1".into(), op: DocOp::Index };
        assert_eq!(recent.key(&PushEvent { doc: Some(Box::new(doc)), ..event("a", 1, "x") }), None);
    }

    #[test]
    fn the_newest_are_remembered_and_memory_is_bounded() {
        let recent = Recent::new(10);
        for n in 0..100u64 {
            recent.note([(u128::from(n), Position::at(n))]);
        }
        let found = recent.find(&(0..100).map(Some).collect::<Vec<_>>());
        assert!(found.iter().take(90).all(Option::is_none));
        assert!(found.iter().skip(95).all(Option::is_some));
        let generations = recent.generations.lock();
        assert!(generations.young.len() + generations.old.len() <= 10);
        drop(generations);
        let off = Recent::new(0);
        off.note([(1, Position::at(1))]);
        assert_eq!(off.find(&[Some(1), None]), [None, None]);
    }
}
