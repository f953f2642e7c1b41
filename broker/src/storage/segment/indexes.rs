//! The end of a segment and its two sparse indexes, as they grow with each batch.
//!
//! In: headers of batches and where they stand. Out: entries for the indexes, the largest timestamp. Touches the index files
//! through [`crate::storage::index`].

use crate::storage::batch::Header;
use crate::storage::index::{Index, OffsetEntry, TimeEntry};
use crate::storage::read::TimestampOffset;

/// Bytes between two entries of the indexes, as Kafka's default.
pub(crate) const INDEX_INTERVAL: u64 = 4096;

#[derive(Debug, Clone, Copy)]
pub(super) struct Tail {
    pub(super) len: u64,
    pub(super) end: i64,
    /// The largest timestamp and the last offset of its batch.
    pub(super) max: Option<TimestampOffset>,
    pub(super) begun_ms: i64,
    /// Largest timestamp of its first batch.
    pub(super) first_ms: Option<i64>,
}

pub(super) struct Indexes {
    pub(super) offsets: Index<OffsetEntry>,
    pub(super) times: Index<TimeEntry>,
    pub(super) since_entry: u64,
}

impl Indexes {
    pub(super) fn note(&mut self, base: i64, header: &Header, position: u64, max: &mut Option<TimestampOffset>) {
        raise(max, header);
        if self.since_entry > INDEX_INTERVAL
            && let (Ok(relative), Ok(position)) =
                (u32::try_from(header.last_offset().saturating_sub(base)), u32::try_from(position))
        {
            self.offsets.push(OffsetEntry { relative, position });
            if let Some(entry) = max.and_then(|max| time_entry(base, max)) {
                self.times.push(entry);
            }
            self.since_entry = 0;
        }
        self.since_entry += header.size() as u64;
    }
}

pub(super) fn time_entry(base: i64, max: TimestampOffset) -> Option<TimeEntry> {
    let relative = u32::try_from(max.offset.saturating_sub(base)).ok()?;
    Some(TimeEntry { timestamp_ms: max.timestamp_ms, relative })
}

pub(super) fn raise(max: &mut Option<TimestampOffset>, header: &Header) {
    if max.is_none_or(|max| header.max_timestamp > max.timestamp_ms) {
        *max = Some(TimestampOffset { timestamp_ms: header.max_timestamp, offset: header.last_offset() });
    }
}
