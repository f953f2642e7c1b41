//! The only way to the log, embedded or real: produces batches of one partition, consumes assigned partitions or those of a
//! group member, writes what a group gave in transactions.
//!
//! In: records and positions. Out: acknowledged offsets; batches of consumed records with their offsets. Touches the network
//! through [`crate::native`]. Leaves the meaning of records to [`crate::record`].

/// Why the log could not be reached, or refused.
mod error;
/// The traits and types that callers see.
mod api;
/// From the configuration to a cluster.
mod setup;
/// A thread for clients whose users block.
mod background;
/// The idempotent producer.
mod producer;
/// Batches of records out of what was fetched.
mod polling;
/// A topic that its writers create again.
mod wanted_topic;
/// The consumer of assigned partitions.
mod consumer;
/// Reads one topic for people and tools.
pub mod reader;
/// Reads as a member of a consumer group.
pub mod group;
/// What a record becomes in its target.
mod output;
/// Batches of a transaction on their way.
mod lanes;
/// Writes what was read from a group in transactions with its offsets.
pub mod transactional;

pub use api::{BatchProducer, Consumed, Limits, Unreadable};
pub use consumer::WireConsumer;
pub use error::ClientError;
pub use output::{Output, TIME_REFUSED};
pub use producer::{DELIVERY_TIMEOUT, WireProducer};
pub use wanted_topic::WantedTopic;

pub use crate::kafka::{ClientOptions, ConnectionConfig};
pub use crate::native::fetch::StartAt;
pub use crate::native::{Code, WireError};
