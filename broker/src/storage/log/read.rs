//! Reads of one partition: batches by offset, records by time, checks of all that is stored.
//!
//! In: offsets, times, the isolation of a reader. Out: batches as stored, or where they stand. Touches segments' files.

use bytes::Bytes;

use super::state::{Log, read_error};
use crate::storage::error::ReadError;
use crate::storage::read::{Isolation, ReadResult, TimestampOffset};
use crate::storage::segment::Hole;
use crate::storage::stored::{Located, Stored};

impl Log {
    /// Reads whole batches below the high watermark, or the last stable offset.
    pub fn read(
        &self,
        from: i64,
        max_bytes: usize,
        min_one: bool,
        isolation: Isolation,
    ) -> Result<ReadResult, ReadError> {
        let Located { stored, high_watermark, last_stable_offset, log_start_offset, aborted } =
            self.locate(from, max_bytes, min_one, isolation)?;
        let records = match stored {
            Some(stored) => stored.read(0, stored.len()).map_err(|e| read_error(&self.dir, &e))?,
            None => Bytes::new(),
        };
        Ok(ReadResult { records, high_watermark, last_stable_offset, log_start_offset, aborted })
    }

    /// Finds whole batches below the high watermark, or the last stable offset, without reading them.
    pub fn locate(
        &self,
        from: i64,
        max_bytes: usize,
        min_one: bool,
        isolation: Isolation,
    ) -> Result<Located, ReadError> {
        self.check_not_deleted()?;
        // In this order: the last stable offset is never above the high watermark.
        let last_stable_offset = self.last_stable_offset();
        let high_watermark = self.high_watermark();
        let until = match isolation {
            Isolation::Uncommitted => high_watermark,
            Isolation::Committed => last_stable_offset,
        };
        let log_start_offset = self.start();
        if from < log_start_offset || from > self.end().max(high_watermark) {
            return Err(ReadError::OutOfRange { offset: from, log_start_offset, high_watermark });
        }
        let mut stored = None;
        let mut next_offset = from;
        let mut base = from;
        while base < until {
            // The segment that holds the place; after a hole at its end, the next one.
            let segments = self.segments.read();
            let segment = segments.range(..=base).next_back().map(|(_, segment)| segment.clone());
            let after = segments.range(base.saturating_add(1)..).next().map(|(base, _)| *base);
            drop(segments);
            if let Some(segment) = segment {
                let found = segment.locate(&*self.context.fs, from, until, max_bytes, min_one);
                if let Some(found) = found.map_err(|e| read_error(segment.path(), &e))? {
                    next_offset = found.next_offset;
                    stored = (found.bytes > 0).then(|| Stored::new(segment.file().clone(), found));
                    break;
                }
            }
            match after {
                Some(after) => base = after,
                None => break,
            }
        }
        let bytes = stored.as_ref().map_or(0, Stored::len);
        self.context.metrics.read_bytes.inc_by(bytes as u64);
        let aborted = match isolation {
            Isolation::Committed if bytes > 0 => self.aborted(from, next_offset)?,
            _ => Vec::new(),
        };
        Ok(Located { stored, high_watermark, last_stable_offset, log_start_offset, aborted })
    }

    /// The first record dated at or after a time.
    pub fn offset_for_time(&self, timestamp_ms: i64) -> Result<Option<TimestampOffset>, ReadError> {
        self.check_not_deleted()?;
        let (start, until) = (self.start(), self.high_watermark());
        let segments: Vec<_> = self.segments.read().values().cloned().collect();
        for segment in segments {
            if segment.end() <= start || segment.max_timestamp().is_none_or(|max| max.timestamp_ms < timestamp_ms) {
                continue;
            }
            let hit = segment.first_at_or_after(&*self.context.fs, timestamp_ms, start, until);
            if let Some(hit) = hit.map_err(|e| read_error(segment.path(), &e))? {
                return Ok(Some(hit));
            }
        }
        Ok(None)
    }

    /// The first record with the largest timestamp.
    pub fn max_timestamp(&self) -> Result<Option<TimestampOffset>, ReadError> {
        self.check_not_deleted()?;
        let segments = self.segments.read();
        let largest = segments.values().filter_map(|segment| segment.max_timestamp()).map(|max| max.timestamp_ms).max();
        drop(segments);
        match largest {
            // Records without a timestamp have none that is the largest.
            Some(timestamp_ms) if timestamp_ms >= 0 => self.offset_for_time(timestamp_ms),
            _ => Ok(None),
        }
    }

    /// Checks every batch of every segment; returns all holes.
    pub fn verify(&self) -> Result<Vec<Hole>, ReadError> {
        let segments: Vec<_> = self.segments.read().values().cloned().collect();
        let mut holes = Vec::new();
        for segment in segments {
            let found = segment.verify(&*self.context.fs);
            holes.extend(found.map_err(|e| read_error(segment.path(), &e))?);
        }
        Ok(holes)
    }
}
