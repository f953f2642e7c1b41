//! The log of one partition, as segments one after the other: append, flush, read, delete from the front, compact, recover.
//! Blocking; [`super::Partition`] is the side that async code calls.
//!
//! In: batches of clients, offsets. Out: batches as stored. Touches the partition's folder `<topic>-<number>`:
//! segments, `<offset>.producers` (see [`super::producer`]), and `log-start-offset` (a number as text: earliest offset).
//!
//! Invariants: only the last segment is written, all before it were synced when it was begun, so recovery after a crash
//! looks at the last one alone. What the high watermark has passed is as durable as the flush policy promises. After a
//! failed fsync nothing is known of what the disk holds, so the partition takes no more until the next start.

/// Segments, offsets, watermarks, producers.
mod state;
/// Aborted transactions.
mod aborted;
/// Opening and recovery.
mod open;
/// Appends, flushes, new segments.
mod append;
/// Reads.
mod read;
/// Retention and DeleteRecords.
mod retain;
/// Compacted segments in the place of others.
mod compact;

pub(super) use aborted::find_aborted;
pub(super) use compact::CompactionView;
pub(super) use state::{Log, LogContext};
