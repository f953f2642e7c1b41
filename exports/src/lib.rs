//! Exports: consumers of the log that feed other systems. Each is a consumer group of its own: it can fall behind, restart and catch up
//! without touching the index or another export.

/// The list `exports:` of the configuration.
pub mod config;
/// Counters of all exports.
pub mod metrics;
/// What keeps an export from starting.
pub mod error;
/// Records that are refused for good.
mod dead_letters;
/// Reads the log for one export and commits what was delivered.
mod feed;
/// Elasticsearch and OpenSearch, by `_bulk`.
pub mod elastic_bulk;
