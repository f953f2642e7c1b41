//! Topics to index, queries and exports. Modules stand in the order in which a record meets them.

/// The section `aggregator:` of the configuration.
pub mod config;
/// Splits, recent events, catalog: where events are kept and found.
pub mod index;
/// Consumers that feed other systems.
pub mod export;
