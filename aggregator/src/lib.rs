//! Topics to index, queries and exports. Modules stand in the order in which a record meets them.

/// The section `aggregator:` of the configuration.
pub mod config;
/// The aggregator as a whole: opens its folder, starts its threads.
pub mod run;
/// One way in for what arrives by HTTP: to the log first.
pub mod ingest;
/// Reads all partitions of the configured topics.
pub mod consume;
/// The Elasticsearch API.
pub mod elastic;
/// The Loki HTTP API.
pub mod loki;
/// The page.
pub mod web;

#[cfg(test)]
mod fake;
