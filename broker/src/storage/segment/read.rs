//! Reads of one segment: batches by offset and by time, without trusting indexes or damaged bytes.
//!
//! In: offsets and times to look for. Out: whole batches as stored, or where they stand. Touches the segment's file; damage
//! that is met is quarantined and listed.

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::hole::{self, Hole};
use super::indexes::Tail;
use super::scan::{CHUNK, FEW, SLACK, Scan};
use super::state::Segment;
use crate::storage::batch::{HEADER, Header};
use crate::storage::index::TimeEntry;
use crate::storage::marker::Marker;
use crate::storage::read::TimestampOffset;
use crate::storage::records;
use millrace_log::fs::Filesystem;

/// Whole batches that stand one after the other in a segment's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub at: u64,
    pub bytes: usize,
    pub records: u64,
    /// After the last of them.
    pub next_offset: i64,
}

/// Where a batch begins, and the offset it must begin with.
#[derive(Clone, Copy)]
struct BatchStart {
    at: u64,
    expected: i64,
}

impl BatchStart {
    fn after(position: u64, header: &Header) -> Self {
        Self { at: position + header.size() as u64, expected: header.next_offset() }
    }
}

impl Segment {
    /// Goes through every batch from an offset on, checked by its CRC, with its bytes. Notes holes and skips them.
    pub fn batches(
        &self,
        fs: &dyn Filesystem,
        from: i64,
        mut each: impl FnMut(&Header, &[u8]) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<()> {
        let Tail { len, end, .. } = *self.tail.read();
        let mut scan = Scan::new(&*self.file, len, CHUNK);
        let BatchStart { mut at, mut expected } = self.start_of(fs, &mut scan, from)?;
        while at < len {
            if let Some(hole) = self.hole_at(at) {
                at += hole.bytes;
                expected = hole.to_offset;
                continue;
            }
            let Some(header) = scan.sound_batch(at, expected, Some(end))? else {
                let hole = self.damaged(fs, &mut scan, at, expected)?;
                at += hole.bytes;
                expected = hole.to_offset;
                continue;
            };
            if header.last_offset() >= from
                && let Some(bytes) = scan.bytes(at, header.size())?
                && each(&header, bytes)?.is_break()
            {
                return Ok(());
            }
            at += header.size() as u64;
            expected = header.next_offset();
        }
        Ok(())
    }

    /// Reports each batch's header, in order, from an offset on, with what it says of a transaction.
    pub fn headers(
        &self,
        fs: &dyn Filesystem,
        from: i64,
        mut each: impl FnMut(&Header, Option<Marker>),
    ) -> io::Result<()> {
        let mut scan = Scan::new(&*self.file, self.len(), CHUNK);
        let mut at = self.start_of(fs, &mut scan, from)?;
        while let Some((position, header)) = self.seek(fs, &mut scan, at, |h| h.last_offset() >= from)? {
            let marker = scan.marker(position, &header)?;
            each(&header, marker);
            at = BatchStart::after(position, &header);
        }
        Ok(())
    }

    /// Where whole batches stand from the one that holds `from` (or the next after it) on, all below `until`; `None` if
    /// there is none from there to the segment's end. Holes that are met are noted and skipped. Reads headers only.
    pub fn locate(
        &self,
        fs: &dyn Filesystem,
        from: i64,
        until: i64,
        max_bytes: usize,
        min_one: bool,
    ) -> io::Result<Option<Stretch>> {
        let len = self.len();
        let mut scan = Scan::new(&*self.file, len, SLACK);
        let place = self.start_of(fs, &mut scan, from)?;
        let Some((start, first)) = self.seek(fs, &mut scan, place, |h| h.last_offset() >= from)? else {
            return Ok(None);
        };
        let mut found = Stretch { at: start, bytes: 0, records: 0, next_offset: first.base_offset };
        if first.base_offset >= until || (first.size() > max_bytes && !min_one) {
            return Ok(Some(found));
        }
        let limit = max_bytes.max(first.size()) as u64;
        let mut end = start;
        let mut expected = first.base_offset;
        // At the first damage it stops: the next read begins there and skips it.
        while let Some(header) = scan.header(end)? {
            let next = end + header.size() as u64;
            let whole = header.is_sound() && next - start <= limit && next <= len;
            if !whole || header.base_offset >= until || (end != start && self.hole_at(end).is_some()) {
                break;
            }
            // A gap is what compaction leaves, or damage: there the CRC decides.
            if header.base_offset != expected && scan.sound_batch(end, expected, Some(self.end()))?.is_none() {
                break;
            }
            expected = header.next_offset();
            found.records += u64::try_from(header.count).unwrap_or(0);
            end = next;
            if end - start >= limit {
                break;
            }
            // Large batches: nothing but their headers. Small ones: many at once.
            scan.chunk = if header.size() > FEW { HEADER } else { SLACK };
        }
        found.bytes = usize::try_from(end - start).unwrap_or(usize::MAX);
        found.next_offset = expected;
        Ok(Some(found))
    }

    /// The same batches, read.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn read(
        &self,
        fs: &dyn Filesystem,
        from: i64,
        until: i64,
        max_bytes: usize,
        min_one: bool,
    ) -> io::Result<Option<Bytes>> {
        let Some(found) = self.locate(fs, from, until, max_bytes, min_one)? else { return Ok(None) };
        let mut bytes = vec![0; found.bytes];
        self.file.read_at(found.at, &mut bytes)?;
        Ok(Some(bytes.into()))
    }

    /// The first record from `start` on and below `until` that is dated at or after a time.
    pub fn first_at_or_after(
        &self,
        fs: &dyn Filesystem,
        timestamp_ms: i64,
        start: i64,
        until: i64,
    ) -> io::Result<Option<TimestampOffset>> {
        let before = self.indexes.read().times.floor(fs, |entry| entry.timestamp_ms < timestamp_ms)?;
        let mut scan = Scan::new(&*self.file, self.len(), CHUNK / 16);
        let before = match before {
            // As with offsets: what a wrong index says must not hide a record.
            Some(entry) if !self.is_true(fs, &mut scan, entry)? => {
                tracing::warn!(segment = %self.path.display(), "time index is wrong and ignored: the next start rebuilds it");
                None
            }
            before => before,
        };
        let from = before.map_or(self.base, |entry| self.base.saturating_add(entry.relative.into()) + 1).max(start);
        let mut at = self.start_of(fs, &mut scan, from)?;
        let wanted = |h: &Header| h.last_offset() >= from && h.max_timestamp >= timestamp_ms;
        while let Some((position, header)) = self.seek(fs, &mut scan, at, wanted)? {
            if header.base_offset >= until {
                return Ok(None);
            }
            let Some(bytes) = scan.bytes(position, header.size())? else { return Ok(None) };
            match records::first_at_or_after(&header, &Bytes::copy_from_slice(bytes), timestamp_ms, start) {
                Ok(Some(hit)) => return Ok(Some(hit)),
                // A header that promises more than its records keep.
                Ok(None) => {}
                Err(e) => {
                    let path = self.path.display();
                    tracing::warn!(segment = %path, position, error = %e, "can't decompress records to find a time");
                    return Ok(Some(TimestampOffset {
                        timestamp_ms: header.max_timestamp,
                        offset: header.base_offset,
                    }));
                }
            }
            at = BatchStart::after(position, &header);
        }
        Ok(None)
    }

    /// Checks every batch with its CRC; notes and returns the holes.
    pub fn verify(&self, fs: &dyn Filesystem) -> io::Result<Vec<Hole>> {
        let Tail { len, end, .. } = *self.tail.read();
        let mut scan = Scan::new(&*self.file, len, CHUNK);
        let (mut at, mut expected) = (0, self.base);
        while at < len {
            if let Some(hole) = self.hole_at(at) {
                at += hole.bytes;
                expected = hole.to_offset;
            } else if let Some(header) = scan.sound_batch(at, expected, Some(end))? {
                at += header.size() as u64;
                expected = header.next_offset();
            } else {
                let hole = self.damaged(fs, &mut scan, at, expected)?;
                at += hole.bytes;
                expected = hole.to_offset;
            }
        }
        Ok(self.holes())
    }

    /// Where to begin to look for an offset. An index entry counts only if its batch is there: a wrong index, or damage
    /// at that place, must not hide sound batches before it.
    fn start_of(&self, fs: &dyn Filesystem, scan: &mut Scan<'_>, offset: i64) -> io::Result<BatchStart> {
        let mut bound = offset.saturating_sub(self.base);
        while bound > 0 {
            let entry = self.indexes.read().offsets.floor(fs, |entry| i64::from(entry.relative) <= bound)?;
            let Some(entry) = entry else { break };
            let (at, last) = (entry.position.into(), self.base.saturating_add(entry.relative.into()));
            if let Some(header) = scan.header(at)?.filter(|h| h.is_sound() && h.last_offset() == last) {
                return Ok(BatchStart { at, expected: header.base_offset });
            }
            bound = i64::from(entry.relative) - 1;
        }
        Ok(BatchStart { at: 0, expected: self.base })
    }

    /// Whether the batch that an entry of the time index names has that timestamp.
    fn is_true(&self, fs: &dyn Filesystem, scan: &mut Scan<'_>, entry: TimeEntry) -> io::Result<bool> {
        let offset = self.base.saturating_add(entry.relative.into());
        let place = self.start_of(fs, scan, offset)?;
        let batch = self.seek(fs, scan, place, |header| header.last_offset() >= offset)?;
        Ok(batch
            .is_some_and(|(_, header)| header.last_offset() == offset && header.max_timestamp == entry.timestamp_ms))
    }

    fn hole_at(&self, position: u64) -> Option<Hole> {
        self.holes.read().list.iter().find(|hole| hole.position == position).cloned()
    }

    /// From a batch's beginning on, the first batch that is wanted. Skips holes.
    ///
    /// Without reading all bytes: a batch is taken for sound if its offsets are those that must come here. If they are not,
    /// its CRC and its follower decide, as the CRC itself leaves out the offset.
    fn seek(
        &self,
        fs: &dyn Filesystem,
        scan: &mut Scan<'_>,
        BatchStart { mut at, mut expected }: BatchStart,
        wanted: impl Fn(&Header) -> bool,
    ) -> io::Result<Option<(u64, Header)>> {
        let end = self.end();
        while at < scan.len {
            if let Some(hole) = self.hole_at(at) {
                at += hole.bytes;
                expected = hole.to_offset;
                continue;
            }
            let header = scan.header(at)?.filter(Header::is_sound);
            let header = match header.filter(|h| at + h.size() as u64 <= scan.len) {
                Some(header) if header.base_offset == expected => Some(header),
                _ => scan.sound_batch(at, expected, Some(end))?,
            };
            match header {
                Some(header) if wanted(&header) => return Ok(Some((at, header))),
                Some(header) => {
                    at += header.size() as u64;
                    expected = header.next_offset();
                }
                None => {
                    let hole = self.damaged(fs, scan, at, expected)?;
                    at += hole.bytes;
                    expected = hole.to_offset;
                }
            }
        }
        Ok(None)
    }

    /// Sets bytes aside that are no batch, up to the next sound one.
    fn damaged(&self, fs: &dyn Filesystem, scan: &mut Scan<'_>, position: u64, from_offset: i64) -> io::Result<Hole> {
        let end = self.end();
        let (to, to_offset) = match scan.resync(position, from_offset, Some(end))? {
            Some((to, header)) => (to, header.base_offset),
            None => (scan.len, end),
        };
        let hole = Hole { file: self.path.clone(), position, bytes: to - position, from_offset, to_offset };
        hole::report(&hole);
        hole::quarantine(fs, &hole);
        let mut holes = self.holes.write();
        if !holes.list.iter().any(|known| known.position == position) {
            holes.list.push(hole.clone());
            holes.list.sort_by_key(|hole| hole.position);
        }
        // Held while it is written: a segment that takes this one's place must not get its holes.
        if !holes.is_replaced
            && let Err(e) = hole::write_list(fs, &self.path, &holes.list)
        {
            tracing::warn!(segment = %self.path.display(), error = %e, "can't write the list of damaged places");
        }
        Ok(hole)
    }
}
