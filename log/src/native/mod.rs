//! Our own client of Kafka's wire protocol: connections, cluster metadata, record batches, fetching, group membership,
//! transactions. Reaches the embedded log and Apache Kafka 2.1 and later.
//!
//! In: requests of [`crate::client`] and [`crate::admin`]. Out: what the brokers say. Touches the network. Leaves to
//! `client` what parts of Millrace see: producers, consumers, their errors.

/// What can go wrong between this client and one broker.
pub(crate) mod error;
/// Logging in by SASL.
mod login;
/// TLS to brokers.
pub(crate) mod tls;
/// One connection to one broker.
pub(crate) mod connection;
/// Metadata, leaders and coordinators.
pub(crate) mod cluster;
/// Records straight into batches.
pub mod encode;
/// Decompression within a limit.
pub(crate) mod unpack;
/// Records out of batches.
pub(crate) mod decode;
/// Offsets of partitions and of groups.
pub(crate) mod offsets;
/// One request for records.
mod fetch_request;
/// Assigned partitions and the queue of what was fetched.
mod fetch_state;
/// Fetching ahead.
pub(crate) mod fetch;
/// Records out of what was fetched.
pub(crate) mod stream;
/// Membership in a consumer group.
pub(crate) mod member;
/// Transactions of one producer.
pub(crate) mod transaction;
/// What is fuzzed.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;

pub use error::WireError;
pub use kafka_protocol::ResponseError as Code;
