//! The index: where events are kept and found. Recent ones are in memory, older ones in splits that a catalog lists.
//!
//! In: records as the consumer fetched them; scans, searches and counts. Out: rows, streams, labels; positions once they are
//! durable. Touches the folder `index/`, and the log only to send dead letters. Knows no HTTP. Modules stand in the order of
//! what stands on what.

/// Settings of the index.
pub mod config;
/// The one place that knows sled.
pub mod state;
/// Metrics of indexing and searching.
pub mod metrics;
/// What doors ask of the index, and what it answers.
pub mod scan;
/// Batches of rows, and whether a row matches.
pub mod rows;
/// Live documents of client indices.
pub mod docs;
/// A store of which somebody sees some streams only.
pub mod confined;
/// A store that shows several tenants as one.
pub mod joined;
/// An event store in memory, for the tests of doors.
pub mod memory;
/// Immutable folders of events, found by stream, time and words.
pub mod split;
/// What was read, and what became of it.
pub mod ledger;
/// The list of what the index has.
pub mod catalog;
/// That list on disk.
pub mod sled_catalog;
/// Where splits are written, and where they stand.
pub mod folders;
/// How far reading and indexing are.
pub mod progress;
/// Recent events.
pub mod head;
/// What is searchable: splits and recent events.
pub mod live;
/// Splits that queries keep open, and the threads that read them.
mod readers;
/// A scan over recent events and splits under way.
mod scanning;
/// A partial aggregate over recent events and splits.
mod counting;
/// The index as doors see it.
pub mod store;
/// Turns fetched records into searchable events.
pub mod indexer;
/// Makes splits, intervals and positions durable together.
pub mod publish;
/// Merges and drops splits.
pub mod retention;
/// The index as the LogQL engine sees it.
pub mod logql;
/// Crashes and failures of the disk at every step.
#[cfg(test)]
mod fault_tests;
