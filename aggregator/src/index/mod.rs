//! Where events are kept and found: recent ones in memory, older ones in splits that a catalog lists.

/// What doors ask of the index, and what it answers.
pub mod scan;
/// Batches of rows, and whether a row matches.
pub mod rows;
/// An event store in memory, for the tests of doors.
pub mod memory;
/// Immutable folders of events, found by stream, time and words.
pub mod split;
/// Live documents of client indices.
pub mod docs;
/// The list of what the index has, durable.
pub mod catalog;
/// Recent events.
pub mod head;
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
