//! One loop under every consumer of the log: discover partitions, poll, hand records over, commit. The index, exports and routes
//! stand on it.
//!
//! In: a [`LogReader`] (all partitions of some topics, or those that a consumer group gives) and a [`Delivery`] (where the
//! records go, and how their positions are joined with the output). Out: every record at least once, in order for each
//! partition, as stretches `[from, to)` that say what was lost before them; [`ConsumerStatus`] for `/ready`, `/metrics`
//! and the ledger. Touches the network through the reader, from the thread that runs it.
//!
//! # Positions and output
//! | [`Keeping`] | positions are kept | what a crash leaves |
//! |---|---|---|
//! | `Store` | by the delivery, in one transaction with its output; the group's offsets are only displayed | nothing twice |
//! | `Group` | as the group's offsets, committed after the output is durable | repeats, which ids make harmless |
//! | `Transaction` | as the group's offsets, in one Kafka transaction with the output | nothing twice |
//!
//! # Gaps
//! Records that retention removed unread, and offsets that a reader reports as unreadable, are a [`Hole`]: logged, counted
//! once, and handed over with the records behind it. A topic that was deleted and created anew has another id (KIP-516): the next epoch begins at
//! its start. Where a log has no ids, a log that ends before the position says the same.
//!
//! # Standing still
//! Whatever keeps a consumer from going on is a pause with a reason, which ends by itself: the log does not answer, another
//! consumer has taken its name, the target takes nothing. [`sessions`] begins anew with growing waits.

/// Stretches of partitions, and holes between them.
pub mod interval;
/// Records of several partitions, handed over together.
mod batch;
/// Numbers for `/metrics`.
mod metrics;
/// What people see of a consumer: pauses, holes, counts, lag.
mod status;
/// What others ask of the thread that reads.
mod control;
/// What the loop asks of the log.
mod reader;
/// Where records go.
mod delivery;
/// Where each partition is read on.
mod places;
/// Partitions that stay at one offset.
mod stalls;
/// What one consumer reads.
mod settings;
/// The loop.
mod consumer;
/// Begins anew after what ended a session.
mod sessions;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use batch::{Batch, Stretch};
pub use consumer::Consumer;
pub use control::{Control, ControlError, Ends};
pub use delivery::{Delivery, Keeping, Known, Offered, Setback};
pub use interval::{Hole, HoleCause, Interval};
pub use metrics::{ConsumerMetrics, Owner};
pub use reader::{Assigned, LogReader, Positioned, Start};
pub use sessions::sessions;
pub use settings::ConsumerSettings;
pub use status::{ConsumerStatus, Counts, Pause};
