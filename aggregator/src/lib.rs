//! The aggregator: topics to the index, and the Loki and Elasticsearch APIs and the page over it.
//!
//! Modules stand in the order in which a record meets them.

/// One way in for what arrives by HTTP: to the log first.
pub mod ingest;
/// The section `aggregator:` of the configuration.
pub mod config;
/// Reads all partitions of the configured topics.
pub mod consume;
/// The aggregator as a whole: opens its folder, starts its threads.
pub mod run;
/// Where requests that read the index begin.
pub mod queries;
/// Which streams somebody sees.
mod scope;
/// The Elasticsearch API.
pub mod elastic;
/// The Loki HTTP API.
pub mod loki;
/// The page.
pub mod web;
/// What is fuzzed, with what must hold.
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

#[cfg(test)]
mod fake;
