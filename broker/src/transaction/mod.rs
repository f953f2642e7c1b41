//! The transaction coordinator: all transactional ids of the broker, and the topic that keeps them.
//!
//! In: requests of the protocol's handlers, with the clock's time. Out: answers; markers in the partitions of transactions that
//! ended. Touches the partitioned log: each state is appended to `__transaction_state` and flushed before it is answered, and
//! read back at the start. Leaves the rules to [`state`], offsets within transactions to [`crate::group`] and the codes of
//! the wire to the handlers.
//!
//! A transaction ends in two steps. Once PrepareCommit or PrepareAbort is in the log, it is decided and the producer is
//! answered; then [`Coordinator::run`] writes the markers and, when all are durable, CompleteCommit or CompleteAbort. A
//! crash in between leaves it decided: the next start writes the markers, perhaps again, which changes nothing.
//!
//! The topic is bounded without compaction, as `__consumer_offsets` is: when a partition has grown, all that lives in it is
//! written again and what stands before is deleted.

/// One transactional id: its producer and transaction.
pub mod state;
/// Records of the topic that keeps transactions.
pub mod records;
/// What is counted.
mod metrics;
/// Settings.
mod config;
/// One transactional id in memory.
mod slot;
/// All transactional ids, and their way into the log.
mod coordinator;
/// The start.
mod load;
/// Requests of producers.
mod producers;
/// Markers of decided transactions.
mod markers;
/// Expiry, compaction.
mod tidy;
/// The coordinator's own task.
mod run;

pub use config::TransactionConfig;
pub use coordinator::{Coordinator, CoordinatorError, ProducerIds, TRANSACTIONS_TOPIC};
pub use markers::COORDINATOR_EPOCH;
pub use metrics::{EndingLabel, Standing, TransactionMetrics};

#[cfg(test)]
mod tests;
