//! Record batches of format 2 as bytes: the fixed header, its checksum, and who wrote the batch.
//!
//! In: bytes of a Produce request or of a segment. Out: [`Header`], sealed batches. Touches nothing. Leaves records to
//! [`super::records`] and checks of what clients send to [`super::incoming`].
//!
//! Layout, big-endian (<https://kafka.apache.org/documentation/#recordbatch>):
//!
//! | at | field | | at | field |
//! |---|---|---|---|---|
//! | 0 | base offset i64 | | 27 | base timestamp i64 |
//! | 8 | length of what follows i32 | | 35 | max timestamp i64 |
//! | 12 | partition leader epoch i32 | | 43 | producer id i64 |
//! | 16 | magic i8 = 2 | | 51 | producer epoch i16 |
//! | 17 | CRC-32C of all from 21 on, u32 | | 53 | base sequence i32 |
//! | 21 | attributes i16 | | 57 | number of records i32 |
//! | 23 | last offset delta i32 | | 61 | records |
//!
//! The CRC leaves out the first 21 bytes, so that a broker sets offset and epoch without touching the rest.

use bytes::Buf as _;
#[cfg(test)]
use bytes::Bytes;

/// Bytes before the records.
pub(super) const HEADER: usize = 61;

/// Bytes that `length` does not count.
pub(super) const PREFIX: usize = 12;
pub(super) const MAGIC_AT: usize = 16;
pub(super) const CRC_AT: usize = 17;
pub(super) const CRC_FROM: usize = 21;

pub(super) const CODEC_BITS: i16 = 0x07;
pub(super) const LOG_APPEND_BIT: i16 = 0x08;
pub(super) const TRANSACTIONAL_BIT: i16 = 0x10;
pub(super) const CONTROL_BIT: i16 = 0x20;

/// The base timestamp is the time from which tombstones and markers of the batch may go (KIP-534).
pub(super) const DELETE_HORIZON_BIT: i16 = 0x40;

/// The epoch of the only leader there is.
pub(super) const LEADER_EPOCH: i32 = 0;

/// The fields before the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub base_offset: i64,
    pub length: i32,
    pub magic: i8,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub count: i32,
}

impl Header {
    /// Reads the fields as they are; `None` if there are too few bytes.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut at = bytes.get(..HEADER)?;
        let base_offset = at.get_i64();
        let length = at.get_i32();
        let _leader_epoch = at.get_i32();
        Some(Self {
            base_offset,
            length,
            magic: at.get_i8(),
            crc: at.get_u32(),
            attributes: at.get_i16(),
            last_offset_delta: at.get_i32(),
            base_timestamp: at.get_i64(),
            max_timestamp: at.get_i64(),
            producer_id: at.get_i64(),
            producer_epoch: at.get_i16(),
            base_sequence: at.get_i32(),
            count: at.get_i32(),
        })
    }

    /// Whether the fields can be those of a stored batch.
    pub fn is_sound(&self) -> bool {
        self.magic == 2
            && self.length >= (HEADER - PREFIX) as i32
            && self.base_offset >= 0
            && self.last_offset_delta >= 0
            && self.base_offset.checked_add(i64::from(self.last_offset_delta) + 1).is_some()
    }

    /// Bytes of the whole batch.
    pub fn size(&self) -> usize {
        usize::try_from(self.length).unwrap_or(0).saturating_add(PREFIX)
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(self.last_offset_delta.into())
    }

    /// Offset after the last record.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// Sequence of the last record; sequences wrap to 0.
    pub fn last_sequence(&self) -> i32 {
        let last = (i64::from(self.base_sequence) + i64::from(self.last_offset_delta)) % (i64::from(i32::MAX) + 1);
        i32::try_from(last).unwrap_or(i32::MAX)
    }

    pub fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_BIT != 0
    }

    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// How the records are compressed, as the wire counts.
    pub fn codec(&self) -> u8 {
        (self.attributes & CODEC_BITS) as u8
    }

    /// From when on tombstones and markers in it may go, once compaction has set that.
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON_BIT != 0).then_some(self.base_timestamp)
    }

    /// Completes a batch: `bytes` are room for the header, then the records. Length and CRC are set.
    pub fn seal(mut self, mut bytes: Vec<u8>) -> (Self, Vec<u8>) {
        self.length = i32::try_from(bytes.len().saturating_sub(PREFIX)).unwrap_or(i32::MAX);
        let mut head = Vec::with_capacity(HEADER);
        head.extend_from_slice(&self.base_offset.to_be_bytes());
        head.extend_from_slice(&self.length.to_be_bytes());
        head.extend_from_slice(&LEADER_EPOCH.to_be_bytes());
        head.extend_from_slice(&self.magic.to_be_bytes());
        head.extend_from_slice(&[0; 4]);
        head.extend_from_slice(&self.attributes.to_be_bytes());
        head.extend_from_slice(&self.last_offset_delta.to_be_bytes());
        head.extend_from_slice(&self.base_timestamp.to_be_bytes());
        head.extend_from_slice(&self.max_timestamp.to_be_bytes());
        head.extend_from_slice(&self.producer_id.to_be_bytes());
        head.extend_from_slice(&self.producer_epoch.to_be_bytes());
        head.extend_from_slice(&self.base_sequence.to_be_bytes());
        head.extend_from_slice(&self.count.to_be_bytes());
        if let Some(place) = bytes.get_mut(..HEADER) {
            place.copy_from_slice(&head);
        }
        self.crc = crc32c::crc32c(bytes.get(CRC_FROM..).unwrap_or_default());
        if let Some(place) = bytes.get_mut(CRC_AT..CRC_FROM) {
            place.copy_from_slice(&self.crc.to_be_bytes());
        }
        (self, bytes)
    }
}

/// Who wrote a batch, as its header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchProducer {
    /// Producer id, -1 for none.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// Whether it belongs to a transaction.
    pub is_transactional: bool,
    /// Whether it is a control batch, such as the marker of a transaction.
    pub is_control: bool,
}

impl BatchProducer {
    /// That of the first batch in these bytes, `None` if they are too short for one of format 2.
    pub fn of(batch: &[u8]) -> Option<Self> {
        let header = Header::parse(batch).filter(|header| header.magic == 2)?;
        Some(Self {
            producer_id: header.producer_id,
            epoch: header.producer_epoch,
            is_transactional: header.is_transactional(),
            is_control: header.is_control(),
        })
    }
}

/// Offset after the last of these whole batches, `None` without any.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn next_offset(mut batches: &[u8]) -> Option<i64> {
    let mut next = None;
    while let Some(header) = Header::parse(batches) {
        next = Some(header.next_offset());
        batches = batches.get(header.size()..).unwrap_or_default();
    }
    next
}

/// Whether the bytes of one whole batch agree with their CRC.
pub(super) fn crc_holds(header: &Header, batch: &[u8]) -> bool {
    batch.get(CRC_FROM..).is_some_and(|body| crc32c::crc32c(body) == header.crc)
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::BytesMut;
    use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};

    use super::*;

    /// Who wrote a test batch: (producer id, epoch, first sequence).
    pub type Producer = (i64, i16, i32);
    pub const NOBODY: Producer = (-1, -1, -1);

    /// A batch of records with these timestamps and values.
    pub fn batch_of(records: &[(i64, &str)], producer: Producer, compression: Compression) -> Bytes {
        let records: Vec<_> = records.iter().map(|(timestamp, value)| (*timestamp, None, Some(*value))).collect();
        keyed(&records, producer, compression)
    }

    /// A record by timestamp, key and value.
    pub type Keyed<'a> = (i64, Option<&'a str>, Option<&'a str>);

    /// A batch of records with these timestamps, keys and values.
    pub fn keyed(records: &[Keyed<'_>], producer: Producer, compression: Compression) -> Bytes {
        let (producer_id, producer_epoch, sequence) = producer;
        let records: Vec<Record> = records
            .iter()
            .zip(0..)
            .map(|((timestamp, key, value), n)| Record {
                transactional: false,
                control: false,
                partition_leader_epoch: -1,
                producer_id,
                producer_epoch,
                timestamp_type: TimestampType::Creation,
                offset: i64::from(n),
                sequence: sequence + n,
                timestamp: *timestamp,
                delete_horizon: false,
                key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
                value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
                headers: Default::default(),
            })
            .collect();
        let mut out = BytesMut::new();
        RecordBatchEncoder::encode(&mut out, &records, &RecordEncodeOptions { version: 2, compression }).unwrap();
        let mut out = out.to_vec();
        if producer_id >= 0 {
            out[53..57].copy_from_slice(&sequence.to_be_bytes());
            reseal(&mut out);
        }
        out.into()
    }

    /// An uncompressed batch of `count` records dated `timestamp_ms`.
    pub fn batch(count: usize, timestamp_ms: i64, producer: Producer) -> Bytes {
        let values: Vec<String> = (0..count).map(|n| format!("value {n}")).collect();
        let records: Vec<(i64, &str)> = values.iter().map(|v| (timestamp_ms, v.as_str())).collect();
        batch_of(&records, producer, Compression::None)
    }

    /// The same batch as part of a transaction.
    pub fn in_transaction(batch: Bytes) -> Bytes {
        let mut batch = batch.to_vec();
        batch[22] |= TRANSACTIONAL_BIT as u8;
        reseal(&mut batch);
        batch.into()
    }

    /// Sets the CRC right after a change.
    pub fn reseal(batch: &mut [u8]) {
        let crc = crc32c::crc32c(&batch[CRC_FROM..]);
        batch[CRC_AT..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
    }

    const NOW: i64 = 1_700_000_000_000;

    #[test]
    fn sequences_wrap() {
        let mut header = Header::parse(&batch(3, NOW, (1, 0, 0))).unwrap();
        for (base, want) in [(0, 2), (i32::MAX - 2, i32::MAX), (i32::MAX, 1)] {
            header.base_sequence = base;
            assert_eq!(header.last_sequence(), want);
        }
    }
}
