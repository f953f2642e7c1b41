//! The partitioned log and the words that every room of Millrace shares.
//!
//! Modules stand in the order in which a record meets them.

/// The shared words: events, labels, sources, positions, and how one event is written as one Kafka record.
pub mod record;
/// Records that no stage can use, with the reason.
pub mod dead_letter;
/// Bodies of pushes that come by HTTP: compression, Loki's forms.
pub mod push;
/// Values that configuration is written in: durations, sizes, secrets; and faults with the path of the key.
pub mod value;
/// Time as a seam: the system's clock, or one that a test moves.
pub mod clock;
/// Numbers as records hold them.
mod varint;
/// The way to the log, embedded or real: the traits, and batch producer and assigned consumer over librdkafka.
pub mod client;
/// Looks after any Kafka: topics, their settings, consumer groups.
pub mod admin;
/// Our own producer for the log: batches encoded in one pass.
pub mod native;
/// What the partitioned log can be told.
pub mod config;
/// Segment storage: topics and partitions on disk, recovery, retention.
pub mod storage;
/// Record batches of keys and values, as internal topics hold them.
mod keyed;
/// Consumer groups: who reads what, how far, and the topic that keeps it.
pub mod group;
/// Transactions: producers with an id that outlives them, and the topic that keeps what was decided.
pub mod transaction;
/// The embedded broker: Kafka's protocol over the storage.
pub mod broker;
/// TLS of a listener: certificates from files, read again when they change.
pub mod tls {
    pub use crate::broker::tls::{ClientAuth, Tls, TlsConfig, TlsError};
}
/// Numbers of the embedded log.
pub mod metrics;
/// What is fuzzed, for `log/fuzz`.
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
