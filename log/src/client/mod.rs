//! The only way to the log, embedded or real: produces batches of one partition, consumes assigned partitions or those of a
//! group member, copies records in transactions.
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
/// The consumer of assigned partitions.
mod consumer;
/// Reads one topic for people and tools.
pub mod reader;
/// Copies records from topic to topic in transactions.
pub mod copier;

pub use api::{BatchProducer, Consumed};
pub use consumer::WireConsumer;
pub use error::ClientError;
pub use producer::{DELIVERY_TIMEOUT, WireProducer};

pub use crate::kafka::{ClientOptions, ConnectionConfig};
pub use crate::native::fetch::StartAt;
pub use crate::native::{Code, WireError};
