//! Kafka's protocol over the storage: to any Kafka client, Apache Kafka 4.1 on one node.
//!
//! In: connections. Out: what clients ask for, from the segments of [`crate::storage`], the groups of [`crate::group`] and
//! the transactions of [`crate::transaction`]. Modules stand in the order of their imports: each uses only those above it.
//! What differs from Kafka is listed in `broker/compat.md`.

/// Frames, versions and shapes of requests, encoding of responses.
mod wire;
/// Errors of the broker, and Kafka's codes for refusals.
mod error;
/// Topics in which the broker keeps its own state.
mod internal_topics;
/// The section `broker` of the configuration.
mod config;
/// Small state files, replaced atomically.
mod state_file;
/// Cluster id and producer ids.
mod identity;
/// Client quotas and client metrics subscriptions.
mod client_configs;
/// Users, passwords, access rules.
pub(crate) mod access;
/// Why a connection ends.
mod disconnect;
/// Fetch sessions (KIP-227).
mod fetch_sessions;
/// Features of the cluster.
mod features;
/// `throttle_time_ms` in a response.
mod throttle;
/// Listeners as they run: TLS, limits.
mod listener;
/// What every handler has at hand.
mod context;
/// Creation of topics on behalf of clients.
mod topics;
/// Config resources.
mod settings;
/// Topics that the configuration declares.
mod declared_topics;
/// One handler per API key.
mod handlers;
/// From a request to its handler.
mod dispatch;
/// Logins by SASL.
mod sasl;
/// Connection limits.
mod admission;
/// From a new connection to an authenticated client.
mod handshake;
/// Requests and responses of one connection.
mod connection;
/// Accepting connections.
mod accept;
/// Periodic work.
mod upkeep;
/// Metrics computed when scraped.
mod collector;
/// The broker as a whole.
mod server;
/// Fuzz target `frame`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;

pub use config::BrokerConfig;
pub use config::listener::{AuthorizationConfig, LimitsConfig, ListenerConfig, Mechanism, SaslConfig, UserConfig};
pub use config::topics::{ConfiguredSettings, TopicConfig};
pub use error::BrokerError;
pub use server::Broker;
