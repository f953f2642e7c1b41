//! One consumer group of the classic protocol: members, generations, rebalances. Pure: no I/O, no clock of its own.
//!
//! In: joins, syncs, heartbeats, leaves, each with the time in ms; `tick` as time passes. Out: answers, at once or by
//! the [`tokio::sync::oneshot`] that a waiting member got. Touches nothing. Leaves committed offsets to [`super::offsets`], the
//! codes of the wire to the protocol's handlers.
//!
//! States as Kafka names them: Empty → PreparingRebalance (members join) → CompletingRebalance (the leader assigns) →
//! Stable → PreparingRebalance … Sources: Kafka's protocol guide on group membership, KIP-62 (rebalance time-out),
//! KIP-345 (static members), KIP-394 (member id required), KIP-814 (assignment skipped by a returning static leader).

/// Requests and answers.
mod messages;
/// One member.
mod member;
/// State of a group.
mod group;
/// Rebalances.
mod rebalance;
/// Joins.
mod join;
/// Syncs.
mod sync;
/// Heartbeats, leaves, time-outs.
mod session;

pub use group::{Group, Limits, State};
pub use member::{MAX_SUBSCRIBED, Member, subscribed_topics};
pub(super) use messages::now_or_later;
pub use messages::{Join, Joined, Later, Sync, Synced};

#[cfg(test)]
pub(super) mod tests;
