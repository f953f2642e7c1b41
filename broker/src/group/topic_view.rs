//! Topics of the log as groups see them, limited to what a client may know of.
//!
//! In: the storage, what a client may see. Out: [`Topics`]. Touches nothing.

use uuid::Uuid;

use super::consumer::Topics;
use crate::storage::Storage;

/// What a client may see of the topics.
#[derive(Clone, Copy)]
pub struct Sight<'a> {
    /// Changes with the rules that `sees` follows.
    pub version: u64,
    /// Whether it may know of a topic of this name.
    pub sees: &'a (dyn Fn(&str) -> bool + std::marker::Sync),
}

impl Sight<'_> {
    /// Everything.
    pub const ALL: Sight<'static> = Sight { version: 0, sees: &|_| true };
}

impl std::fmt::Debug for Sight<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sight({})", self.version)
    }
}

/// Topics of the log as groups see them, and as the client does that asks, if one does.
pub(super) struct View<'a>(pub &'a Storage, pub Option<Sight<'a>>);

impl Topics for View<'_> {
    fn version(&self) -> u64 {
        self.0.topics_version()
    }

    fn topic(&self, name: &str) -> Option<(Uuid, i32)> {
        self.0.topic(name).map(|topic| (topic.id(), topic.partition_count()))
    }

    fn name(&self, id: Uuid) -> Option<String> {
        self.0.topic_by_id(id).map(|topic| topic.name().to_owned())
    }

    fn sight(&self) -> Option<u64> {
        // Each of the two only goes up, so that their sum changes with either.
        self.1.map(|sight| self.version().wrapping_add(sight.version))
    }

    fn names(&self) -> Vec<String> {
        let sees = |name: &str| self.1.is_some_and(|sight| (sight.sees)(name));
        self.0.topics().iter().map(|topic| topic.name()).filter(|name| sees(name)).map(str::to_owned).collect()
    }
}
