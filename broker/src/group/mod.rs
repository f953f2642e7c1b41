//! The group coordinator: all consumer groups of the broker, their committed offsets, and the topic that keeps both.
//!
//! In: requests of the protocol's handlers, with the clock's time. Out: answers. Touches the partitioned log, in the topic
//! `__consumer_offsets`: commits are appended and flushed before they are answered, and read back at the start. Leaves
//! the codes of the wire to the handlers.
//!
//! The topic is bounded without compaction: when a partition has grown, all that lives in it is written again and what
//! stands before is deleted (tidy.rs).

/// Why members are refused.
mod error;
/// One group of the classic protocol: members, generations, rebalances.
pub mod classic;
/// One group of the consumer protocol: epochs, assignors, reconciliation.
pub mod consumer;
/// Settings of all groups.
mod config;
/// Texts and bytes within records.
mod encoding;
/// Records of groups of the consumer protocol.
pub mod records;
/// Records of the topic that keeps offsets and groups.
pub mod offsets;
/// A group of either kind with its offsets.
mod slot;
/// Topics as groups and clients see them.
mod topic_view;
/// All groups, and their way into the log.
mod coordinator;
/// Settings of single groups.
pub mod settings;
/// The start.
mod load;
/// Committed offsets.
mod commits;
/// Offsets committed within transactions.
mod transactions;
/// Joins, syncs, heartbeats, leaves.
mod members;
/// Descriptions.
mod describe;
/// Time-outs, expiry, compaction.
mod tidy;
/// What is fuzzed.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;

pub use commits::{Commit, Committer};
pub use config::{GroupConfig, MigrationPolicy};
pub use coordinator::{Coordinator, CoordinatorError};
pub use describe::{ConsumerDescription, ConsumerMember, Description, Listed};
pub use error::GroupError;
pub use offsets::OFFSETS_TOPIC;
pub use topic_view::Sight;

#[cfg(test)]
mod tests;
