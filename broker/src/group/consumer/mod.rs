//! One consumer group of the consumer protocol (KIP-848), where the server assigns and members learn it by heartbeats. Pure:
//! no I/O, no clock of its own.
//!
//! In: heartbeats and leaves, each with the time in ms and a view of the topics; `tick` as time passes. Out: answers,
//! and which members changed since it was last asked ([`Group::take_changes`]), for the log. Touches nothing. Leaves
//! members of the classic protocol in such a group to [`classic`], records to [`super::offsets`], codes of the wire to the handlers.
//!
//! Three epochs: the group's goes up with every change of members, subscriptions or topics; the target's follows when
//! the assignor has assigned again; each member's follows when it has let go of what it lost ([`reconcile`]). States
//! as Kafka names them: Empty, Assigning (target behind the group), Reconciling (members behind the target), Stable.

/// The server's assignors.
pub mod assign;
/// One step of a member towards its target.
pub mod reconcile;
/// The topics as groups see them.
mod topics;
/// Patterns of topics.
mod pattern;
/// Heartbeats and their answers.
mod messages;
/// One member.
mod member;
/// State of a group.
mod group;
/// Shares out partitions and moves members to their target.
mod rebalance;
/// Joins, heartbeats, leaves, time-outs.
mod heartbeat;
/// Members of the classic protocol in such a group; changes from one kind of group to the other.
pub mod classic;

pub use assign::{ASSIGNORS, Assignment};
pub use group::Group;
pub use member::{Changes, Classic, Member, Touched};
pub use messages::{Beat, Beaten, LEAVE, LEAVE_STATIC, Rules, check};
pub use pattern::Resolved;
pub use reconcile::{Current, Phase};
pub use topics::Topics;

#[cfg(test)]
mod tests;
