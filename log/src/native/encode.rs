//! Records written straight into a record batch: no allocation and no copy but one for each line.
//!
//! In: key, value, headers and time of each record, borrowed. Out: [`Records`], the records of one batch as Kafka's
//! format 2 has them, and from these the bytes of a Produce request. Touches nothing.
//!
//! A record is `length varint, attributes i8 = 0, timestamp delta varlong, offset delta varint, key, value, headers`, with
//! zig-zag variable-length numbers (<https://kafka.apache.org/documentation/#record>). Compression goes over all records
//! together; producer, epoch and sequence stand in the header before it, so that a batch is compressed once however often
//! it is sent.

use bytes::{BufMut as _, Bytes};

use crate::record::Record;
use crate::varint::{put_varint, size_of_varint};

/// Bytes of the header of a batch.
const HEADER: usize = 61;
/// Bytes that the field `length` does not count.
const PREFIX: usize = 12;
/// From here on the CRC counts.
const CRC_FROM: usize = 21;
/// Attribute bits for zstd.
const ZSTD: i16 = 4;
/// Attribute bit of a batch within a transaction.
const TRANSACTIONAL: i16 = 0x10;
/// The level of `zstd -3`, as librdkafka takes by default.
const LEVEL: i32 = 3;

/// A header: name and value.
pub type HeaderRef<'a> = (&'a [u8], &'a [u8]);

/// Records of one batch, not yet compressed.
#[derive(Debug, Default, Clone)]
pub struct Records {
    bytes: Vec<u8>,
    /// Where each record begins: for taking the batch apart again.
    starts: Vec<u32>,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
}

impl Records {
    /// Makes room for as many bytes.
    pub fn reserve(&mut self, bytes: usize, records: usize) {
        self.bytes.reserve(bytes);
        self.starts.reserve(records);
    }

    /// Forgets the records and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
    }

    /// From records that exist already.
    pub fn from_records(records: &[Record]) -> Self {
        let mut all = Self::default();
        let mut headers = Vec::new();
        for record in records {
            headers.clear();
            headers.extend(record.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_ref())));
            all.push(record.timestamp_ms, record.key.as_deref(), record.value.as_deref(), &headers);
        }
        all
    }

    /// Adds a record.
    pub fn push(&mut self, timestamp_ms: i64, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[HeaderRef<'_>]) {
        let fields = headers.iter().map(|(name, value)| size_of_bytes(Some(name)) + size_of_bytes(Some(value))).sum();
        self.begin(timestamp_ms, key, value, headers.len(), fields);
        for (name, value) in headers {
            put_bytes(&mut self.bytes, Some(name));
            put_bytes(&mut self.bytes, Some(value));
        }
    }

    /// Adds a record whose headers come as they stand in another batch, `count` of them, with further ones behind.
    pub fn push_copied(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        (headers, count): (&[u8], usize),
        more: &[HeaderRef<'_>],
    ) {
        let fields: usize =
            more.iter().map(|(name, value)| size_of_bytes(Some(name)) + size_of_bytes(Some(value))).sum();
        self.begin(timestamp_ms, key, value, count + more.len(), headers.len() + fields);
        self.bytes.extend_from_slice(headers);
        for (name, value) in more {
            put_bytes(&mut self.bytes, Some(name));
            put_bytes(&mut self.bytes, Some(value));
        }
    }

    /// Everything of a record but its headers, which follow: `count` of them, in `fields` bytes.
    fn begin(&mut self, timestamp_ms: i64, key: Option<&[u8]>, value: Option<&[u8]>, count: usize, fields: usize) {
        if self.starts.is_empty() {
            self.base_timestamp_ms = timestamp_ms;
            self.max_timestamp_ms = timestamp_ms;
        }
        self.max_timestamp_ms = self.max_timestamp_ms.max(timestamp_ms);
        let time_delta = timestamp_ms.wrapping_sub(self.base_timestamp_ms);
        let offset_delta = self.starts.len() as i64;
        self.starts.push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
        let count = count as i64;
        let size = 1
            + size_of_varint(time_delta)
            + size_of_varint(offset_delta)
            + size_of_bytes(key)
            + size_of_bytes(value)
            + size_of_varint(count)
            + fields;
        self.bytes.reserve(size + 5);
        put_varint(&mut self.bytes, size as i64);
        self.bytes.push(0);
        put_varint(&mut self.bytes, time_delta);
        put_varint(&mut self.bytes, offset_delta);
        put_bytes(&mut self.bytes, key);
        put_bytes(&mut self.bytes, value);
        put_varint(&mut self.bytes, count);
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Bytes of memory.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Bytes before compression.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The records again, for clients that take one at a time. Stops at what is no record: these bytes are our own.
    pub fn iter(&self) -> impl Iterator<Item = RecordRef<'_>> {
        self.starts.iter().map_while(|start| {
            let mut at = self.bytes.get(*start as usize..)?;
            let _size = take_varint(&mut at)?;
            at = at.get(1..)?;
            let timestamp_ms = self.base_timestamp_ms.wrapping_add(take_varint(&mut at)?);
            let _offset_delta = take_varint(&mut at)?;
            let key = take_bytes(&mut at)?;
            let value = take_bytes(&mut at)?;
            let count = usize::try_from(take_varint(&mut at)?).ok()?;
            let mut headers = Vec::with_capacity(count.min(16));
            for _ in 0..count {
                headers.push((take_bytes(&mut at)??, take_bytes(&mut at)??));
            }
            Some(RecordRef { timestamp_ms, key, value, headers })
        })
    }

    /// Records of their own, for clients that take nothing else.
    pub fn to_records(&self) -> Vec<Record> {
        let own = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned().into();
        self.iter()
            .map(|record| Record {
                timestamp_ms: record.timestamp_ms,
                key: record.key.map(own),
                value: record.value.map(own),
                headers: record.headers.iter().map(|(n, v)| (name(n), own(v))).collect(),
            })
            .collect()
    }

    /// A part of the records as records of its own.
    pub fn part(&self, range: std::ops::Range<usize>) -> Self {
        let mut part = Self::default();
        for record in self.iter().skip(range.start).take(range.len()) {
            part.push(record.timestamp_ms, record.key, record.value, &record.headers);
        }
        part
    }

    /// Compresses, if that makes it smaller.
    pub fn compress(&self, zstd: &mut Zstd) -> Compressed {
        let (attributes, body) = match zstd.compress(&self.bytes) {
            Some(smaller) if smaller.len() < self.bytes.len() => (ZSTD, smaller),
            _ => (0, Bytes::copy_from_slice(&self.bytes)),
        };
        Compressed {
            attributes,
            count: i32::try_from(self.starts.len()).unwrap_or(i32::MAX),
            base_timestamp_ms: self.base_timestamp_ms,
            max_timestamp_ms: self.max_timestamp_ms,
            body,
        }
    }
}

/// One of the [`Records`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Its time.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: Vec<HeaderRef<'a>>,
}

/// A compressor that is kept, with its working memory, from batch to batch.
pub struct Zstd {
    compressor: Option<zstd::bulk::Compressor<'static>>,
    /// Where it writes to; what comes out is a tenth of the room that it asks for.
    out: Vec<u8>,
}

impl std::fmt::Debug for Zstd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Zstd")
    }
}

impl Default for Zstd {
    fn default() -> Self {
        Self::new(true, LEVEL)
    }
}

impl Zstd {
    /// At a level; without `compress` the bytes go as they are.
    pub fn new(compress: bool, level: i32) -> Self {
        Self { compressor: compress.then(|| zstd::bulk::Compressor::new(level).ok()).flatten(), out: Vec::new() }
    }

    /// `None` if it shall not, or can't for want of memory: then the bytes go as they are.
    fn compress(&mut self, bytes: &[u8]) -> Option<Bytes> {
        let compressor = self.compressor.as_mut()?;
        self.out.clear();
        self.out.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
        compressor.compress_to_buffer(bytes, &mut self.out).ok()?;
        Some(Bytes::copy_from_slice(&self.out))
    }
}

/// Who writes, and at which place in its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Producer id that the cluster gave.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// Sequence of the first record of the batch.
    pub sequence: i32,
}

impl Turn {
    /// That of the batch behind one of so many records. Sequences wrap to 0 after the largest.
    pub fn after(self, count: i32) -> Self {
        let next = (i64::from(self.sequence) + i64::from(count)) & i64::from(i32::MAX);
        Self { sequence: i32::try_from(next).unwrap_or(0), ..self }
    }
}

/// The records of a batch, compressed once.
#[derive(Debug, Clone)]
pub struct Compressed {
    attributes: i16,
    /// Number of records.
    pub count: i32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    body: Bytes,
}

impl Compressed {
    /// The bytes of the whole batch.
    pub fn batch(&self, turn: Turn) -> Bytes {
        self.write(turn, self.attributes)
    }

    /// The same as a part of the producer's transaction.
    pub fn transactional_batch(&self, turn: Turn) -> Bytes {
        self.write(turn, self.attributes | TRANSACTIONAL)
    }

    fn write(&self, turn: Turn, attributes: i16) -> Bytes {
        let mut batch = Vec::with_capacity(HEADER + self.body.len());
        batch.put_i64(0); // base offset: the broker's
        batch.put_i32(i32::try_from(HEADER - PREFIX + self.body.len()).unwrap_or(i32::MAX));
        batch.put_i32(-1); // leader epoch: the broker's
        batch.put_i8(2);
        batch.put_u32(0); // CRC, below
        batch.put_i16(attributes);
        batch.put_i32(self.count - 1);
        batch.put_i64(self.base_timestamp_ms);
        batch.put_i64(self.max_timestamp_ms);
        batch.put_i64(turn.producer_id);
        batch.put_i16(turn.epoch);
        batch.put_i32(turn.sequence);
        batch.put_i32(self.count);
        let (head, fields) = batch.split_at(CRC_FROM);
        debug_assert_eq!(head.len(), CRC_FROM);
        let crc = crc32c::crc32c_append(crc32c::crc32c(fields), &self.body);
        if let Some(place) = batch.get_mut(CRC_FROM - 4..CRC_FROM) {
            place.copy_from_slice(&crc.to_be_bytes());
        }
        batch.put_slice(&self.body);
        batch.into()
    }
}

/// Writes one header, for [`Records::push_copied`].
pub(crate) fn put_header(out: &mut Vec<u8>, name: &[u8], value: Option<&[u8]>) {
    put_bytes(out, Some(name));
    put_bytes(out, value);
}

fn size_of_bytes(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| size_of_varint(bytes.len() as i64) + bytes.len())
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_varint(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
        None => put_varint(out, -1),
    }
}

fn take_varint(at: &mut &[u8]) -> Option<i64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = at.split_first()?;
        *at = rest;
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((n >> 1).cast_signed() ^ -(n & 1).cast_signed());
        }
    }
    None
}

/// Bytes, or `Some(None)` for null.
#[allow(clippy::option_option)] // outside: whether it could be read; inside: whether it is null
fn take_bytes<'a>(at: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let len = take_varint(at)?;
    let Ok(len) = usize::try_from(len) else { return Some(None) };
    let (bytes, rest) = at.split_at_checked(len)?;
    *at = rest;
    Some(Some(bytes))
}

#[cfg(test)]
mod tests {
    use kafka_protocol::records::{RecordBatchDecoder, TimestampType};
    use proptest::prelude::*;

    use super::*;

    const TURN: Turn = Turn { producer_id: 77, epoch: 3, sequence: 1_000_000 };

    fn some_record() -> impl Strategy<Value = Record> {
        let text = || proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        let header = ("[a-z]{1,8}", text()).prop_map(|(name, value)| (name.into(), value));
        let headers = proptest::collection::vec(header, 0..4);
        (0..4_000_000_000_000i64, proptest::option::of(text()), proptest::option::of(text()), headers)
            .prop_map(|(timestamp_ms, key, value, headers)| Record { timestamp_ms, key, value, headers })
    }

    proptest! {
        #[test]
        fn the_usual_decoder_reads_what_was_written(records in proptest::collection::vec(some_record(), 1..40)) {
            let encoded = Records::from_records(&records);
            prop_assert_eq!(encoded.len(), records.len());
            let mut batch = encoded.compress(&mut Zstd::default()).batch(TURN);
            let read = RecordBatchDecoder::decode(&mut batch).unwrap().records;
            prop_assert_eq!(read.len(), records.len());
            let largest = records.iter().map(|r| r.timestamp_ms).max();
            for (n, (wrote, read)) in records.iter().zip(&read).enumerate() {
                prop_assert_eq!(
                    (read.timestamp, read.timestamp_type, &read.key, &read.value, read.offset),
                    (wrote.timestamp_ms, TimestampType::Creation, &wrote.key, &wrote.value, n as i64)
                );
                prop_assert_eq!((read.producer_id, read.producer_epoch), (TURN.producer_id, TURN.epoch));
                prop_assert_eq!(read.sequence, TURN.sequence + n as i32);
                // Of headers of one name the decoder keeps the last.
                for (name, value) in &read.headers {
                    let last = wrote.headers.iter().rev().find(|(n, _)| **n == **name).map(|(_, v)| v);
                    prop_assert_eq!(last, value.as_ref());
                }
            }
            prop_assert_eq!(Some(encoded.max_timestamp_ms), largest);
            prop_assert_eq!(encoded.to_records(), records);
        }

        #[test]
        fn parts_are_what_they_were(records in proptest::collection::vec(some_record(), 1..20), cut in 0usize..20) {
            let all = Records::from_records(&records);
            let cut = cut.min(records.len());
            for range in [0..cut, cut..records.len()] {
                let part = all.part(range.clone());
                prop_assert_eq!(part.len(), range.len());
                let again = Records::from_records(&records[range]);
                prop_assert!(part.iter().eq(again.iter()));
            }
        }

        #[test]
        fn numbers_take_the_size_they_are_said_to(n: i64) {
            let mut out = Vec::new();
            put_varint(&mut out, n);
            prop_assert_eq!(out.len(), size_of_varint(n));
            prop_assert_eq!(take_varint(&mut out.as_slice()), Some(n));
        }
    }

    #[test]
    fn what_does_not_shrink_goes_as_it_is() {
        let mut records = Records::default();
        records.push(1, None, Some(b"x"), &[]);
        let compressed = records.compress(&mut Zstd::default());
        assert_eq!((compressed.attributes, &compressed.body[..]), (0, &records.bytes[..]));
    }
}
