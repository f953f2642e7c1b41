//! Looks after a Kafka, embedded or real: topics, their settings and sizes, consumer groups and their offsets.
//!
//! In: a [`ConnectionConfig`] and orders. Out: what the brokers say, or an error that names broker, thing and cure.
//! Touches the network: one connection per broker, made when first needed, each request within [`PATIENCE`]. Requests
//! go to the broker that Kafka wants them at: leaders, coordinators, else any. Leaves records to [`crate::client`].

/// Why an order failed.
mod error;
/// Connections, and which broker is asked.
mod session;
/// Topics, their settings and offsets.
mod topics;
/// Consumer groups.
mod groups;

pub use error::AdminError;
pub use groups::{Committed, GroupDescription, GroupListing, Member};
pub use session::{Admin, PATIENCE};
pub use topics::{NewTopic, OffsetAt, PartitionInfo, TopicInfo, TopicSetting};
