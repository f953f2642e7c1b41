//! Where events are kept and found: recent ones in memory, older ones in splits that a catalog lists.

/// What doors ask of the index, and what it answers.
pub mod scan;
/// Batches of rows, and whether a row matches.
pub mod rows;
/// An event store in memory, for the tests of doors.
pub mod memory;
/// Immutable folders of events, found by stream, time and words.
pub mod split;
