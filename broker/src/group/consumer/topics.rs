//! The topics of the broker as groups see them: a trait, so that groups know neither the log nor access rules.
//!
//! In: names, ids. Out: ids, names, numbers of partitions. Touches nothing.

use uuid::Uuid;

/// The topics of the broker as groups see them.
pub trait Topics {
    /// Changes whenever a topic is made, grown or deleted.
    fn version(&self) -> u64;
    /// Id and number of partitions.
    fn topic(&self, name: &str) -> Option<(Uuid, i32)>;
    /// Name of a topic by id.
    fn name(&self, id: Uuid) -> Option<String>;
    /// Changes whenever the names that whoever asks may see could have changed; absent where nobody asks, as when a
    /// member is taken for dead: patterns then stand for what they stood for.
    fn sight(&self) -> Option<u64>;
    /// All names that whoever asks may see.
    fn names(&self) -> Vec<String>;
}
