//! Goes through the bytes of a segment's file: which are sound batches, which are damage, which a torn write.
//!
//! In: a file. Out: headers and bytes of batches, in order; holes. Touches the file, reading only, in few large reads.

use std::io;
use std::path::Path;

use super::hole::Hole;
use crate::storage::batch::{self, HEADER, Header};
use crate::storage::marker::{self, Marker};
use millrace_log::fs::File;

/// Read at once where a file is gone through.
pub(super) const CHUNK: usize = 1 << 20;

/// Read at once where headers are looked for, as the index leads to a place some batches before what is wanted.
pub(super) const SLACK: usize = 8192;

/// Batches above this size are skipped one by one when headers are looked for.
pub(super) const FEW: usize = 1024;

/// A region of a segment's file, as [`walk`] meets them in order.
pub(crate) enum Region {
    /// A sound batch, with what it says of a transaction.
    Batch { position: u64, header: Header, marker: Option<Marker> },
    /// Bytes that are no batch, with a sound one after them.
    Damage(Hole),
    /// Bytes that are no batch, at the end: a torn write.
    Torn { position: u64, bytes: u64 },
}

/// Goes through every batch of a segment's file and changes nothing. With `next_base`, the base of the segment after it,
/// it was finished: a bad end is then damage and no torn write.
pub(crate) fn walk(
    file: &dyn File,
    path: &Path,
    base: i64,
    next_base: Option<i64>,
    mut each: impl FnMut(Region),
) -> io::Result<()> {
    let len = file.len()?;
    let mut scan = Scan::new(file, len, CHUNK);
    // What lies further away is no offset of this segment, whatever stands behind it: the CRC leaves offsets out.
    let most = base.saturating_add(i64::from(i32::MAX) + 1);
    let limit = Some(next_base.map_or(most, |next| next.min(most)));
    let (mut position, mut from_offset) = (0, base);
    while position < len {
        if let Some(header) = scan.sound_batch(position, from_offset, limit)? {
            let marker = scan.marker(position, &header)?;
            each(Region::Batch { position, header, marker });
            position += header.size() as u64;
            from_offset = header.next_offset();
            continue;
        }
        let (to, to_offset) = match (scan.resync(position, from_offset, limit)?, next_base) {
            (Some((to, header)), _) => (to, header.base_offset),
            (None, Some(next)) => (len, next),
            (None, None) => {
                each(Region::Torn { position, bytes: len - position });
                break;
            }
        };
        let bytes = to - position;
        each(Region::Damage(Hole { file: path.to_owned(), position, bytes, from_offset, to_offset }));
        (position, from_offset) = (to, to_offset);
    }
    Ok(())
}

/// Goes through a file with few large reads.
pub(super) struct Scan<'a> {
    file: &'a dyn File,
    pub(super) len: u64,
    pub(super) chunk: usize,
    at: u64,
    window: Vec<u8>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(file: &'a dyn File, len: u64, chunk: usize) -> Self {
        Self { file, len, chunk: chunk.max(HEADER), at: 0, window: Vec::new() }
    }

    /// These bytes, or `None` if the file ends before.
    pub(super) fn bytes(&mut self, at: u64, count: usize) -> io::Result<Option<&[u8]>> {
        let end = at.saturating_add(count as u64);
        if end > self.len {
            return Ok(None);
        }
        if at < self.at || end > self.at + self.window.len() as u64 {
            let rest = usize::try_from(self.len - at).unwrap_or(usize::MAX);
            let want = count.max(self.chunk).min(rest);
            if want <= self.window.capacity() {
                self.window.resize(want, 0);
            } else {
                // A fresh one comes zeroed from the system for free.
                self.window = vec![0; want];
            }
            self.at = at;
            let read = self.file.read_at(at, &mut self.window)?;
            self.window.truncate(read);
        }
        let from = usize::try_from(at - self.at).unwrap_or(usize::MAX);
        Ok(self.window.get(from..from.saturating_add(count)))
    }

    pub(super) fn header(&mut self, at: u64) -> io::Result<Option<Header>> {
        Ok(self.bytes(at, HEADER)?.and_then(Header::parse))
    }

    /// What the batch at this place says of a transaction.
    pub(super) fn marker(&mut self, at: u64, header: &Header) -> io::Result<Option<Marker>> {
        if !header.is_control() {
            return Ok(None);
        }
        let records = self.bytes(at, header.size())?.and_then(|batch| batch.get(HEADER..));
        Ok(records.and_then(|records| marker::marker(header, records)))
    }

    /// The batch at this place, if it is one in every respect.
    pub(super) fn sound_batch(&mut self, at: u64, expected: i64, end: Option<i64>) -> io::Result<Option<Header>> {
        let Some(header) = self.header(at)?.filter(|h| h.is_sound() && h.base_offset >= expected) else {
            return Ok(None);
        };
        if end.is_some_and(|end| header.next_offset() > end) {
            return Ok(None);
        }
        let Some(bytes) = self.bytes(at, header.size())? else { return Ok(None) };
        if !batch::crc_holds(&header, bytes) {
            return Ok(None);
        }
        if header.base_offset > expected {
            // The CRC leaves out the offset. A batch that reaches past its follower has a damaged one.
            let follower = self.header(at + header.size() as u64)?.filter(Header::is_sound);
            if follower.is_some_and(|next| next.base_offset >= expected && next.base_offset < header.next_offset()) {
                return Ok(None);
            }
        }
        Ok(Some(header))
    }

    /// The next place after this one where a sound batch begins.
    pub(super) fn resync(&mut self, at: u64, expected: i64, end: Option<i64>) -> io::Result<Option<(u64, Header)>> {
        // Most often the length is right, and the next batch is where it says. Looking there first keeps a record that
        // holds a batch itself from being taken for one.
        if let Some(header) = self.header(at)? {
            let next = at.saturating_add(header.size() as u64);
            if header.length > 0
                && let Some(found) = self.sound_batch(next, expected, end)?
            {
                return Ok(Some((next, found)));
            }
        }
        let mut place = at + 1;
        while place + HEADER as u64 <= self.len {
            let span = usize::try_from(self.len - place).unwrap_or(usize::MAX).min(CHUNK);
            let Some(bytes) = self.bytes(place, span)? else { return Ok(None) };
            let candidates: Vec<u64> = memchr::memchr_iter(2, bytes)
                .filter_map(|magic| magic.checked_sub(16))
                .filter(|start| {
                    let header = bytes.get(*start..).and_then(Header::parse);
                    // Offsets of one segment span 31 bits.
                    header.is_none_or(|h| {
                        h.is_sound() && h.base_offset >= expected && h.base_offset - expected <= i64::from(i32::MAX)
                    })
                })
                .map(|start| place + start as u64)
                .collect();
            for candidate in candidates {
                if let Some(found) = self.sound_batch(candidate, expected, end)? {
                    return Ok(Some((candidate, found)));
                }
            }
            if span < CHUNK {
                break;
            }
            place += (span - HEADER) as u64;
        }
        Ok(None)
    }
}
