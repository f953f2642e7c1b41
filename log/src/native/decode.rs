//! Record batches as fetched: their headers, and their records as slices of one block of memory.
//!
//! In: bytes of a fetch answer (format 2, <https://kafka.apache.org/documentation/#recordbatch>). Out: [`BatchHeader`],
//! [`Block`] and from it [`Spot`]s: where key, value and headers of a record stand. Touches nothing. Nothing is copied for
//! a record; a batch that is not compressed is copied once, so that a record kept for long keeps only its own batch in
//! memory. Leaves transactions to [`super::stream`].
//!
//! Bytes of a batch, big-endian: base offset i64, length i32 of what follows, leader epoch i32, magic i8 = 2, CRC32C u32
//! of what follows, attributes i16 (bits 0-2 codec, 3 log append time, 4 transactional, 5 control), last offset delta i32,
//! base timestamp i64, max timestamp i64, producer id i64, producer epoch i16, base sequence i32, count i32, records.

use std::ops::Range;

use bytes::Bytes;

use super::unpack::{UnpackError, Unpacker};

/// Bytes of the header of a batch.
const HEADER: usize = 61;
/// Bytes before what the field `length` counts.
const PREFIX: usize = 12;
/// From here on the CRC counts.
const CRC_FROM: usize = 21;
/// Headers that one record may have: each takes far more memory than the two bytes of an empty one.
const MAX_HEADERS: usize = 10_000;

/// Why a batch can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("its checksum is wrong: it was damaged on disk or on its way")]
    Checksum,
    #[error("message format {0} is not supported: only format 2 (Kafka 0.11 and later) is")]
    Format(i8),
    #[error("record {0} is malformed")]
    Record(usize),
    #[error("record {0} has offset {1}, which does not lie behind the one before and within its batch")]
    Offset(usize, i64),
    #[error("record {0} has {1} headers, {MAX_HEADERS} are allowed")]
    Headers(usize, usize),
    #[error("it has {0} bytes behind the last record that its header counts")]
    Trailing(usize),
    #[error("its header counts {0} records")]
    Count(i32),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
}

/// The header of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub base_offset: i64,
    /// Offset of the last record, there or compacted away.
    pub last_offset: i64,
    /// Bytes of the whole batch.
    pub size: usize,
    pub magic: i8,
    crc: u32,
    attributes: i16,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    pub producer_id: i64,
    count: i32,
}

impl BatchHeader {
    /// Reads it; `None` if the bytes end before the batch does, or are no batch.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let base_offset = i64::from_be_bytes(take(bytes, 0)?);
        let length = usize::try_from(i32::from_be_bytes(take(bytes, 8)?)).ok()?;
        let size = PREFIX + length;
        let [magic] = take::<1>(bytes, 16)?;
        if bytes.len() < size || size <= PREFIX + 5 {
            return None;
        }
        if magic.cast_signed() < 2 {
            // Formats 0 and 1: the offset of a message, or of the last within a compressed one.
            return Some(Self {
                base_offset,
                last_offset: base_offset,
                size,
                magic: magic.cast_signed(),
                crc: 0,
                attributes: 0,
                base_timestamp_ms: 0,
                max_timestamp_ms: 0,
                producer_id: -1,
                count: 0,
            });
        }
        if size < HEADER {
            return None;
        }
        let last_delta = i32::from_be_bytes(take(bytes, 23)?);
        Some(Self {
            base_offset,
            last_offset: base_offset.saturating_add(i64::from(last_delta.max(0))),
            size,
            magic: magic.cast_signed(),
            crc: u32::from_be_bytes(take(bytes, 17)?),
            attributes: i16::from_be_bytes(take(bytes, 21)?),
            base_timestamp_ms: i64::from_be_bytes(take(bytes, 27)?),
            max_timestamp_ms: i64::from_be_bytes(take(bytes, 35)?),
            producer_id: i64::from_be_bytes(take(bytes, 43)?),
            count: i32::from_be_bytes(take(bytes, 57)?),
        })
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    pub fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Where a record stands in its [`Block`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spot {
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<Range<usize>>,
    pub value: Option<Range<usize>>,
    /// All headers, as [`HeaderIter`] reads them.
    pub headers: Range<usize>,
    pub header_count: usize,
}

/// The records of one batch, decompressed, and how far they were read.
#[derive(Debug)]
pub(crate) struct Block {
    bytes: Bytes,
    header: BatchHeader,
    at: usize,
    read: usize,
    /// The least offset that the next record may have.
    next_offset: i64,
}

impl Block {
    /// Checks and decompresses a whole batch, to `limit` bytes at most where it is compressed.
    pub fn open(header: BatchHeader, batch: &[u8], unpacker: &mut Unpacker, limit: usize) -> Result<Self, DecodeError> {
        if header.magic != 2 {
            return Err(DecodeError::Format(header.magic));
        }
        let counted = batch.get(CRC_FROM..header.size).ok_or(DecodeError::Checksum)?;
        if crc32c::crc32c(counted) != header.crc {
            return Err(DecodeError::Checksum);
        }
        let records = batch.get(HEADER..header.size).unwrap_or_default();
        let codec = (header.attributes & 0x07) as u8;
        if header.count < 0 {
            return Err(DecodeError::Count(header.count));
        }
        let bytes = unpacker.unpack(codec, records, limit.max(records.len()))?.into();
        Ok(Self { bytes, header, at: 0, read: 0, next_offset: header.base_offset })
    }

    /// The memory that spots point into.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The next record. An error is the last that comes.
    pub fn next(&mut self) -> Option<Result<Spot, DecodeError>> {
        let count = usize::try_from(self.header.count).unwrap_or(0);
        if self.read >= count {
            let left = self.bytes.len().saturating_sub(self.at);
            if self.read > count || left == 0 {
                return None;
            }
            self.read = usize::MAX;
            return Some(Err(DecodeError::Trailing(left)));
        }
        let number = self.read;
        self.read += 1;
        let spot = match self.parse() {
            None => Err(DecodeError::Record(number)),
            Some(spot) if spot.header_count > MAX_HEADERS => Err(DecodeError::Headers(number, spot.header_count)),
            // Whoever reads on behind it must neither miss nor repeat a record.
            Some(spot) if !(self.next_offset..=self.header.last_offset).contains(&spot.offset) => {
                Err(DecodeError::Offset(number, spot.offset))
            }
            Some(spot) => {
                self.next_offset = spot.offset.saturating_add(1);
                Ok(spot)
            }
        };
        if spot.is_err() {
            self.read = usize::MAX;
        }
        Some(spot)
    }

    fn parse(&mut self) -> Option<Spot> {
        let mut from = Cursor { bytes: &self.bytes, at: self.at };
        let length = usize::try_from(from.varint()?).ok()?;
        let end = from.at.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        from.bytes = self.bytes.get(..end)?;
        from.skip(1)?; // attributes: none are defined
        let timestamp_delta = from.varint()?;
        let offset_delta = from.varint()?;
        let key = from.bytes_range()?;
        let value = from.bytes_range()?;
        let header_count = usize::try_from(from.varint()?).ok()?;
        let headers = from.at..end;
        // Looked through once here: whoever reads them later meets no surprise.
        for _ in 0..header_count {
            let name = from.bytes_range()??;
            std::str::from_utf8(self.bytes.get(name)?).ok()?;
            from.bytes_range()?;
        }
        if from.at != end {
            return None;
        }
        self.at = end;
        let is_append_time = self.header.attributes & 0x08 != 0;
        Some(Spot {
            offset: self.header.base_offset.checked_add(offset_delta)?,
            timestamp_ms: if is_append_time {
                self.header.max_timestamp_ms
            } else {
                self.header.base_timestamp_ms.wrapping_add(timestamp_delta)
            },
            key,
            value,
            headers,
            header_count,
        })
    }
}

/// Headers of a record, one after the other: name, and value where it has one.
#[derive(Debug, Clone)]
pub(crate) struct HeaderIter<'a> {
    from: Cursor<'a>,
    left: usize,
}

impl<'a> HeaderIter<'a> {
    /// Of a record's headers as they stand in the batch.
    pub fn new(headers: &'a [u8], count: usize) -> Self {
        Self { from: Cursor { bytes: headers, at: 0 }, left: count }
    }
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = (&'a str, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let name = self.from.bytes_range()??;
        let value = self.from.bytes_range()?;
        let name = std::str::from_utf8(self.from.bytes.get(name)?).ok()?;
        let value = match value {
            Some(range) => Some(self.from.bytes.get(range)?),
            None => None,
        };
        Some((name, value))
    }
}

#[derive(Debug, Clone)]
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn varint(&mut self) -> Option<i64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some((n >> 1).cast_signed() ^ -(n & 1).cast_signed());
            }
        }
        None
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at = self.at.checked_add(count).filter(|at| *at <= self.bytes.len())?;
        Some(())
    }

    /// Bytes, or `Some(None)` for null.
    #[allow(clippy::option_option)] // outside: whether it could be read; inside: whether it is null
    fn bytes_range(&mut self) -> Option<Option<Range<usize>>> {
        let length = self.varint()?;
        let Ok(length) = usize::try_from(length) else { return (length == -1).then_some(None) };
        let from = self.at;
        self.skip(length)?;
        Some(Some(from..self.at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::encode::{Records, Turn, Zstd};
    use super::*;
    use crate::record::Record;

    const LIMIT: usize = 1 << 20;
    const TURN: Turn = Turn { producer_id: 7, epoch: 0, sequence: 0 };

    fn batch(records: &[Record]) -> Bytes {
        Records::from_records(records).compress(&mut Zstd::default()).batch(TURN)
    }

    fn all(batch: &[u8]) -> Result<Vec<Record>, DecodeError> {
        let header = BatchHeader::read(batch).expect("a header");
        let mut block = Block::open(header, batch, &mut Unpacker::default(), LIMIT)?;
        let mut records = Vec::new();
        while let Some(spot) = block.next() {
            let (spot, bytes) = (spot?, block.bytes().clone());
            let headers = HeaderIter::new(&bytes[spot.headers.clone()], spot.header_count);
            records.push(Record {
                timestamp_ms: spot.timestamp_ms,
                key: spot.key.map(|range| bytes.slice(range)),
                value: spot.value.map(|range| bytes.slice(range)),
                headers: headers
                    .map(|(name, value)| (name.to_owned().into(), bytes.slice_ref(value.unwrap_or_default())))
                    .collect(),
            });
        }
        Ok(records)
    }

    fn some_record() -> impl Strategy<Value = Record> {
        let text = || proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        let header = ("[a-zä]{0,8}", text()).prop_map(|(name, value)| (name.into(), value));
        let headers = proptest::collection::vec(header, 0..4);
        (0..4_000_000_000_000i64, proptest::option::of(text()), proptest::option::of(text()), headers)
            .prop_map(|(timestamp_ms, key, value, headers)| Record { timestamp_ms, key, value, headers })
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(records in proptest::collection::vec(some_record(), 1..40)) {
            let batch = batch(&records);
            let header = BatchHeader::read(&batch).unwrap();
            prop_assert_eq!(header.size, batch.len());
            prop_assert_eq!((header.base_offset, header.last_offset), (0, records.len() as i64 - 1));
            prop_assert_eq!(all(&batch).unwrap(), records);
        }

        #[test]
        fn a_flipped_bit_is_an_error(records in proptest::collection::vec(some_record(), 1..9), at: prop::sample::Index) {
            let mut batch = batch(&records).to_vec();
            let place = CRC_FROM - 4 + at.index(batch.len() - CRC_FROM + 4);
            batch[place] ^= 1;
            prop_assert!(BatchHeader::read(&batch).is_none() || all(&batch).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), count in 0..20i32) {
            if let Some(header) = BatchHeader::read(&bytes) {
                drop(Block::open(header, &bytes, &mut Unpacker::default(), LIMIT));
            }
            // The same behind a checksum that is right.
            let mut batch = batch(&[Record { timestamp_ms: 1, key: None, value: None, headers: Vec::new() }]).to_vec();
            batch.truncate(HEADER);
            batch.extend_from_slice(&bytes);
            batch[57..61].copy_from_slice(&count.to_be_bytes());
            let length = (batch.len() - PREFIX) as i32;
            batch[8..12].copy_from_slice(&length.to_be_bytes());
            let crc = crc32c::crc32c(&batch[CRC_FROM..]);
            batch[17..21].copy_from_slice(&crc.to_be_bytes());
            drop(all(&batch));
        }
    }

    /// A batch that is not compressed, with these bytes as its records.
    fn batch_with(count: i32, last_delta: i32, records: &[u8]) -> Vec<u8> {
        let mut batch = batch(&[Record { timestamp_ms: 1, key: None, value: None, headers: Vec::new() }]).to_vec();
        batch.truncate(HEADER);
        batch.extend_from_slice(records);
        batch[22] = 0;
        batch[23..27].copy_from_slice(&last_delta.to_be_bytes());
        batch[57..61].copy_from_slice(&count.to_be_bytes());
        let length = (batch.len() - PREFIX) as i32;
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        let crc = crc32c::crc32c(&batch[CRC_FROM..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        batch
    }

    #[test]
    fn a_batch_that_lies_about_its_records_is_an_error_with_their_number() {
        // length, attributes, timestamp delta, offset delta, key, value, headers
        let first: &[u8] = &[12, 0, 0, 0, 1, 1, 0];
        let second: &[u8] = &[12, 0, 0, 2, 1, 1, 0];
        let third: &[u8] = &[12, 0, 0, 4, 1, 1, 0];
        let two = [first, second].concat();
        // A length, four bytes, as many headers as asked for, each without a name or value.
        let headers = |count: usize| {
            let (mut body, mut record) = (vec![0, 0, 0, 1, 1], Vec::new());
            crate::varint::put_varint(&mut body, count as i64);
            body.extend(std::iter::repeat_n([0, 1], count).flatten());
            crate::varint::put_varint(&mut record, body.len() as i64);
            [record, body].concat()
        };
        type Case = (&'static str, i32, i32, Vec<u8>, Result<usize, DecodeError>);
        let cases: &[Case] = &[
            ("two", 2, 1, two.clone(), Ok(2)),
            ("compacted", 2, 2, [first, third].concat(), Ok(2)),
            ("emptied", 0, 5, Vec::new(), Ok(0)),
            ("fewer", 3, 2, two.clone(), Err(DecodeError::Record(2))),
            ("more", 1, 1, two, Err(DecodeError::Trailing(7))),
            ("count", -1, 1, first.to_vec(), Err(DecodeError::Count(-1))),
            ("beyond the batch", 2, 1, [first, third].concat(), Err(DecodeError::Offset(1, 2))),
            ("twice", 2, 1, [first, first].concat(), Err(DecodeError::Offset(1, 0))),
            ("before the batch", 1, 0, vec![12, 0, 0, 1, 1, 1, 0], Err(DecodeError::Offset(0, -1))),
            ("headers", 1, 0, headers(MAX_HEADERS), Ok(1)),
            ("too many headers", 1, 0, headers(MAX_HEADERS + 1), Err(DecodeError::Headers(0, MAX_HEADERS + 1))),
        ];
        for (name, count, last_delta, records, want) in cases {
            let got = all(&batch_with(*count, *last_delta, records)).map(|records| records.len());
            assert_eq!(got, *want, "{name}");
        }
    }

    #[test]
    fn an_incomplete_batch_is_not_read_and_an_old_format_is_named() {
        let mut whole = batch(&[Record { timestamp_ms: 1, key: None, value: None, headers: Vec::new() }]).to_vec();
        for end in 0..whole.len() {
            assert_eq!(BatchHeader::read(&whole[..end]), None, "{end} bytes");
        }
        whole[16] = 1;
        assert_eq!(all(&whole), Err(DecodeError::Format(1)));
    }
}
