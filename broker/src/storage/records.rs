//! The records within one batch, read one by one whatever their compression.
//!
//! In: a whole batch as stored. Out: heads of records, keys. Touches nothing. Records are read as a stream, so that a small
//! batch that unpacks to gigabytes costs time and no memory.
//!
//! A record, all numbers but `attributes` zigzag varints (<https://kafka.apache.org/documentation/#record>):
//! `length, attributes i8, timestamp delta, offset delta, key length (-1: none), key, value length (-1: none), value, headers`.

use std::io::{self, BufRead, BufReader, Read, Write};

use bytes::Bytes;

use super::batch::{HEADER, Header};
use super::codec::{Lz4, Snappy, invalid};
use super::read::TimestampOffset;
use super::varint::varint;

/// Read at once from a decompressor.
pub(super) const BUFFER: usize = 16 << 10;

/// Most that the records of a client's batch may unpack to where they must be unpacked: more is no batch of any client but
/// one that wants to keep a thread busy.
pub(super) const MOST_UNPACKED: u64 = 256 << 20;

/// What stands before the key of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub attributes: u8,
    pub timestamp_delta: i64,
    pub offset_delta: i64,
    /// Bytes of the key, `None` without one.
    pub key: Option<u64>,
}

/// The bytes of a batch's records, decompressed as they are read.
pub(super) fn open_records<'a>(header: &Header, batch: &'a [u8]) -> io::Result<Box<dyn BufRead + 'a>> {
    let bytes = batch.get(HEADER..header.size()).ok_or_else(|| invalid("batch is cut"))?;
    Ok(match header.codec() {
        0 => Box::new(bytes),
        1 => Box::new(BufReader::with_capacity(BUFFER, flate2::bufread::MultiGzDecoder::new(bytes))),
        2 => Box::new(Snappy::open(bytes)?),
        3 => Box::new(BufReader::with_capacity(BUFFER, Lz4::open(bytes)?)),
        4 => Box::new(BufReader::with_capacity(BUFFER, zstd::stream::read::Decoder::with_buffer(bytes)?)),
        _ => return Err(invalid("unknown compression codec")),
    })
}

/// The records of one batch, in order.
pub(super) struct Records<'a> {
    from: Box<dyn BufRead + 'a>,
    left: i32,
    /// Bytes of the current record that were not read yet.
    pub(super) rest: u64,
    /// Bytes that further records may have together.
    budget: u64,
}

impl<'a> Records<'a> {
    /// Begins to read the records of a whole batch.
    pub fn open(header: &Header, batch: &'a [u8]) -> io::Result<Self> {
        Ok(Self { from: open_records(header, batch)?, left: header.count, rest: 0, budget: u64::MAX })
    }

    /// The same for a batch of a client, which may unpack to [`MOST_UNPACKED`].
    pub(super) fn open_foreign(header: &Header, batch: &'a [u8]) -> io::Result<Self> {
        Ok(Self { budget: MOST_UNPACKED, ..Self::open(header, batch)? })
    }

    /// Whether nothing stands behind the last record.
    pub(super) fn is_at_end(&mut self) -> io::Result<bool> {
        Ok(self.left <= 0 && self.rest == 0 && self.from.fill_buf()?.is_empty())
    }

    /// The next record; skips what is left of the one before.
    pub fn next(&mut self) -> io::Result<Option<Head>> {
        self.skip(self.rest)?;
        if self.left <= 0 {
            return Ok(None);
        }
        self.left -= 1;
        let (length, _) = varint(&mut self.from)?;
        self.rest = u64::try_from(length).map_err(|_| invalid("record length"))?;
        self.budget =
            self.budget.checked_sub(self.rest).ok_or_else(|| invalid("decompressed records are too large"))?;
        let mut attributes = [0];
        self.from.read_exact(&mut attributes)?;
        self.took(1)?;
        let timestamp_delta = self.number()?;
        let offset_delta = self.number()?;
        let key = self.length()?;
        let [attributes] = attributes;
        Ok(Some(Head { attributes, timestamp_delta, offset_delta, key }))
    }

    /// Reads the key, right after [`Self::next`] said that there is one, and hands it over in pieces.
    pub fn key(&mut self, length: u64, mut piece: impl FnMut(&[u8])) -> io::Result<()> {
        self.took(length)?;
        let mut left = length;
        while left > 0 {
            let bytes = self.from.fill_buf()?;
            let some = bytes.get(..bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))).unwrap_or_default();
            if some.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            piece(some);
            let count = some.len();
            self.from.consume(count);
            left -= count as u64;
        }
        Ok(())
    }

    /// Whether there is a value; call it right after the key.
    pub fn has_value(&mut self) -> io::Result<bool> {
        Ok(self.length()?.is_some())
    }

    fn length(&mut self) -> io::Result<Option<u64>> {
        let length = self.number()?;
        let length = u64::try_from(length).ok();
        if length.is_some_and(|length| length > self.rest) {
            return Err(invalid("a record's key or value is longer than the record"));
        }
        Ok(length)
    }

    fn number(&mut self) -> io::Result<i64> {
        let (number, bytes) = varint(&mut self.from)?;
        self.took(bytes)?;
        Ok(number)
    }

    fn took(&mut self, bytes: u64) -> io::Result<()> {
        self.rest = self.rest.checked_sub(bytes).ok_or_else(|| invalid("record length"))?;
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let passed = io::copy(&mut (&mut self.from).take(bytes), &mut io::sink())?;
        self.rest = 0;
        if passed == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    pub(super) fn copy_rest(&mut self, to: &mut dyn Write) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.rest);
        let copied = io::copy(&mut (&mut self.from).take(bytes), to)?;
        if copied == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// Records without a key that an answer names at most: each is named with the whole error.
const MOST_NAMED: usize = 100;

/// Which records without a key a client's batch holds, by their place in it: the first [`MOST_NAMED`].
pub(super) fn without_key(header: &Header, batch: &[u8]) -> io::Result<Vec<i32>> {
    let mut records = Records::open_foreign(header, batch)?;
    let mut found = Vec::new();
    let mut place = 0;
    while let Some(head) = records.next()? {
        if head.key.is_none() {
            found.push(place);
            if found.len() == MOST_NAMED {
                break;
            }
        }
        place += 1;
    }
    Ok(found)
}

/// Finds within one whole batch the first record from the offset `start` on that is dated at or after a time.
///
/// Reads record by record and stops at the first hit, so that a small batch that unpacks to gigabytes costs time but no
/// memory.
pub(super) fn first_at_or_after(
    header: &Header,
    batch: &Bytes,
    timestamp_ms: i64,
    start: i64,
) -> io::Result<Option<TimestampOffset>> {
    if header.max_timestamp < timestamp_ms {
        return Ok(None);
    }
    if header.is_log_append_time() {
        return Ok(Some(TimestampOffset { timestamp_ms: header.max_timestamp, offset: header.base_offset.max(start) }));
    }
    let mut records = Records::open(header, batch)?;
    while let Some(head) = records.next()? {
        let record_ms = header.base_timestamp.saturating_add(head.timestamp_delta);
        let offset = header.base_offset.saturating_add(head.offset_delta);
        if record_ms >= timestamp_ms && offset >= start {
            return Ok(Some(TimestampOffset { timestamp_ms: record_ms, offset }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::records::Compression;

    use super::super::batch::tests::{NOBODY, batch_of};
    use super::*;

    #[test]
    fn records_are_found_by_time() {
        for codec in [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            let bytes = batch_of(&[(100, "a"), (300, "b"), (200, "c"), (400, "d")], NOBODY, codec);
            let header = Header::parse(&bytes).unwrap();
            for (wanted, want) in
                [(0, Some((100, 0))), (100, Some((100, 0))), (101, Some((300, 1))), (301, Some((400, 3))), (401, None)]
            {
                let got = first_at_or_after(&header, &bytes, wanted, 0).unwrap();
                assert_eq!(got.map(|hit| (hit.timestamp_ms, hit.offset)), want, "{codec:?} {wanted}");
            }
        }
    }
}
