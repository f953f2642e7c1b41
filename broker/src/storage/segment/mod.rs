//! Segment: a file of record batches one after the other, with its two sparse indexes, its aborted transactions and the
//! list of its holes. Append, read, recover.
//!
//! In: placed batches; offsets and times to look for. Out: whole batches as stored. Touches `<base>.log`, `.index`,
//! `.timeindex`, `.txnindex` and `.holes` through [`Filesystem`]. Leaves order, flushes and retention to [`super::log`].
//!
//! `<base>` is the offset of the first record in 20 digits. The `.log` holds batches as in [`super::batch`], nothing else.
//! Recovery: bytes at the end that are no whole batch with a right CRC are a torn write and are cut. Such bytes with a
//! sound batch after them are damage: they stay where they are, are listed in `.holes` (JSON) and skipped by readers.

/// Damaged bytes, listed and quarantined.
mod hole;
/// Sound batches, damage and torn writes in the bytes of a file.
mod scan;
/// The end of a segment and its indexes as they grow.
mod indexes;
/// State of one segment, and what changes it.
mod state;
/// Its aborted transactions.
mod aborted;
/// How it is opened, and repaired.
mod recover;
/// How it is read.
mod read;

pub use hole::Hole;
pub(super) use hole::{quarantine, report};
pub(super) use indexes::INDEX_INTERVAL;
pub(super) use read::Stretch;
pub(super) use scan::{Region, walk};
pub(super) use state::{Segment, remove_files};
