//! The embedded broker: a partitioned log that speaks Kafka's protocol, on one node.
//!
//! In: connections of Kafka clients. Out: what Apache Kafka 4.1 would answer, from segments on disk. Touches the data folder
//! (through [`millrace_log::fs`]) and its listeners' sockets. Modules stand in the order of what stands on what.

/// Input of fuzz targets.
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz_input;
/// Configuration of the partitioned log.
pub mod config;
/// Segment storage: topics and partitions on disk, recovery, retention.
pub mod storage;
/// Record batches of keys and values, as internal topics hold them.
mod keyed;
/// Consumer groups: who reads what, how far, and the topic that keeps it.
pub mod group;
/// Transactions: producers with an id that outlives them, and the topic that keeps what was decided.
pub mod transaction;
/// Metrics of the broker.
pub mod metrics;
/// Kafka's protocol over the storage: listeners, logins, access rules, one handler per API key.
mod protocol;
/// What is fuzzed, with what must hold.
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

pub use millrace_doors::config::{ClientAuth, TlsConfig};
pub use millrace_doors::tls::TlsError;
pub use protocol::{
    AuthorizationConfig, Broker, BrokerConfig, BrokerError, ConfiguredSettings, LimitsConfig, ListenerConfig,
    Mechanism, SaslConfig, TopicConfig, UserConfig,
};
