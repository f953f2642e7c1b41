//! Record batches of format 2 as bytes: the fixed header, what is checked on the way in, where records lie in time.
//!
//! In: bytes of a Produce request or of a segment. Out: [`Header`], verdicts, patched headers. Touches nothing.
//! Leaves records alone except to find one by its timestamp.
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

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};

use super::error::AppendError;
use super::limits::Limits;
use super::partition::{AppendKind, TimestampOffset};
use super::records::{self, Codec, RecompressError, Records};

/// Bytes before the records.
pub(super) const HEADER: usize = 61;
/// Bytes that `length` does not count.
const PREFIX: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const CRC_FROM: usize = 21;

pub(super) const CODEC_BITS: i16 = 0x07;
const LOG_APPEND_BIT: i16 = 0x08;
const TRANSACTIONAL_BIT: i16 = 0x10;
const CONTROL_BIT: i16 = 0x20;
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

/// What a control batch says of the transaction of its producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// Committed, else aborted.
    pub commit: bool,
    /// Epoch of the coordinator that decided.
    pub coordinator_epoch: i32,
}

/// Reads the marker in the records of a control batch; `None` for other batches and other kinds of control records.
pub(super) fn marker(header: &Header, records: &[u8]) -> Option<Marker> {
    if !header.is_control() || header.codec() != 0 {
        return None;
    }
    let mut at = records;
    let _length = varint(&mut at).ok()?;
    let _attributes = at.try_get_i8().ok()?;
    let _timestamp_and_offset = (varint(&mut at).ok()?, varint(&mut at).ok()?);
    let key_length = usize::try_from(varint(&mut at).ok()?.0).ok()?;
    let (mut key, mut at) = at.split_at_checked(key_length)?;
    let _version = key.try_get_i16().ok()?;
    let commit = match key.try_get_i16().ok()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let value_length = usize::try_from(varint(&mut at).ok()?.0).ok()?;
    let mut value = at.get(..value_length)?;
    let _version = value.try_get_i16().ok()?;
    Some(Marker { commit, coordinator_epoch: value.try_get_i32().ok()? })
}

/// A control batch that ends the transaction of a producer: one record with key (version i16 = 0, type i16: 0 abort,
/// 1 commit) and value (version i16 = 0, epoch of the coordinator i32).
pub fn marker_batch(producer_id: i64, producer_epoch: i16, marker: Marker, now_ms: i64) -> Bytes {
    // Zigzag lengths of one byte: the record 16, the key 4, the value 6; no headers.
    let mut records = vec![32, 0, 0, 0, 8, 0, 0, 0, u8::from(marker.commit), 12, 0, 0];
    records.extend_from_slice(&marker.coordinator_epoch.to_be_bytes());
    records.push(0);
    let mut body = Vec::with_capacity(HEADER + records.len());
    body.extend_from_slice(&(CONTROL_BIT | TRANSACTIONAL_BIT).to_be_bytes());
    body.extend_from_slice(&0i32.to_be_bytes());
    body.extend_from_slice(&now_ms.to_be_bytes());
    body.extend_from_slice(&now_ms.to_be_bytes());
    body.extend_from_slice(&producer_id.to_be_bytes());
    body.extend_from_slice(&producer_epoch.to_be_bytes());
    body.extend_from_slice(&(-1i32).to_be_bytes());
    body.extend_from_slice(&1i32.to_be_bytes());
    body.extend_from_slice(&records);
    let mut out = Vec::with_capacity(CRC_FROM + body.len());
    out.extend_from_slice(&0i64.to_be_bytes());
    out.extend_from_slice(&i32::try_from(CRC_FROM - PREFIX + body.len()).unwrap_or(i32::MAX).to_be_bytes());
    out.extend_from_slice(&LEADER_EPOCH.to_be_bytes());
    out.push(2);
    out.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
    out.extend_from_slice(&body);
    out.into()
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

/// The marker in a whole batch, if it is one.
pub fn marker_of(batch: &[u8]) -> Option<Marker> {
    marker(&Header::parse(batch)?, batch.get(HEADER..)?)
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

/// One batch on its way to the segment: the header apart, so that patching it copies no records.
pub(super) struct Incoming {
    pub header: Header,
    pub head: [u8; HEADER],
    pub body: Bytes,
}

impl Incoming {
    /// What it says of a transaction.
    pub fn marker(&self) -> Option<Marker> {
        marker(&self.header, &self.body)
    }

    /// Sets what the broker decides: offset, epoch, and time where it is ours.
    pub fn place(&mut self, base_offset: i64, log_append_time_ms: Option<i64>) {
        self.header.base_offset = base_offset;
        if let Some(now_ms) = log_append_time_ms {
            self.header.attributes |= LOG_APPEND_BIT;
            self.header.max_timestamp = now_ms;
        }
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(place) = self.head.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        put(0, &base_offset.to_be_bytes());
        put(PREFIX, &LEADER_EPOCH.to_be_bytes());
        if log_append_time_ms.is_some() {
            put(CRC_FROM, &self.header.attributes.to_be_bytes());
            put(35, &self.header.max_timestamp.to_be_bytes());
            let crc = crc32c::crc32c(self.head.get(CRC_FROM..).unwrap_or_default());
            self.header.crc = crc32c::crc32c_append(crc, &self.body);
            if let Some(place) = self.head.get_mut(CRC_AT..CRC_FROM) {
                place.copy_from_slice(&self.header.crc.to_be_bytes());
            }
        }
    }
}

/// Cuts the bytes of a request into batches, each checked, without copying records.
pub(super) fn take_apart(
    mut bytes: Bytes,
    kind: AppendKind,
    limits: &Limits,
    now_ms: i64,
) -> Result<Vec<Incoming>, AppendError> {
    let mut batches = Vec::with_capacity(1);
    while !bytes.is_empty() {
        match bytes.get(MAGIC_AT) {
            Some(2) => {}
            Some(old @ (0 | 1)) => return Err(AppendError::OldFormat(*old)),
            Some(_) => return Err(AppendError::Corrupt("unknown message format")),
            None => return Err(AppendError::Corrupt("shorter than a batch header")),
        }
        let mut header = Header::parse(&bytes).ok_or(AppendError::Corrupt("shorter than a batch header"))?;
        if header.length < (HEADER - PREFIX) as i32 {
            return Err(AppendError::Corrupt("length is less than a batch header"));
        }
        if header.size() > bytes.len() {
            return Err(AppendError::Corrupt("length exceeds the data sent"));
        }
        let mut body = bytes.split_to(header.size());
        let too_large = kind.is_client() && header.size() > limits.max_message_bytes;
        if too_large || header.size() as u64 > limits.segment_bytes {
            let segment_bytes = usize::try_from(limits.segment_bytes).unwrap_or(usize::MAX);
            return Err(AppendError::TooLarge {
                size: header.size(),
                max: limits.max_message_bytes.min(segment_bytes),
            });
        }
        if !crc_holds(&header, &body) {
            return Err(AppendError::Corrupt("CRC does not match"));
        }
        check(&header, kind, limits, now_ms)?;
        if limits.compact && kind.is_client() {
            let places = records::without_key(&header, &body)
                .map_err(|_| AppendError::Invalid("its records can't be unpacked to look at their keys"))?;
            if !places.is_empty() {
                return Err(AppendError::NoKey { places });
            }
        }
        if let Some(codec) = limits.codec.filter(|codec| kind.is_client() && codec.id() != header.codec()) {
            (header, body) = recompress(&header, &body, codec, limits)?;
        }
        let mut head = [0; HEADER];
        body.copy_to_slice(&mut head);
        batches.push(Incoming { header, head, body });
    }
    match (batches.len(), kind) {
        (0, _) => Err(AppendError::Invalid("there is no batch in it")),
        // As Kafka since Produce version 3.
        (2.., kind) if kind.is_client() => Err(AppendError::Invalid("a request holds exactly one batch per partition")),
        _ => Ok(batches),
    }
}

/// The batch with the codec of its topic. As Kafka, what has grown is judged once more.
fn recompress(header: &Header, batch: &[u8], codec: Codec, limits: &Limits) -> Result<(Header, Bytes), AppendError> {
    let segment_bytes = usize::try_from(limits.segment_bytes).unwrap_or(usize::MAX);
    let max = limits.max_message_bytes.min(segment_bytes);
    match records::recompress(header, batch, codec, max) {
        Ok((header, bytes)) => Ok((header, bytes.into())),
        Err(RecompressError::TooLarge(size)) => Err(AppendError::TooLarge { size, max }),
        Err(RecompressError::Unreadable(_)) => {
            Err(AppendError::Invalid("its records can't be unpacked to compress them as the topic asks"))
        }
    }
}

fn check(header: &Header, kind: AppendKind, limits: &Limits, now_ms: i64) -> Result<(), AppendError> {
    if header.count < 1 || header.last_offset_delta < 0 {
        return Err(AppendError::Invalid("it holds no record"));
    }
    if header.last_offset_delta != header.count - 1 {
        return Err(AppendError::Invalid("last offset delta and number of records disagree"));
    }
    if header.codec() > 4 {
        return Err(AppendError::Compression(header.codec()));
    }
    if !kind.is_client() {
        return Ok(());
    }
    if header.producer_id >= 0 && header.base_sequence < 0 {
        return Err(AppendError::Invalid("an idempotent batch needs a sequence"));
    }
    if header.is_control() {
        return Err(AppendError::Invalid("producers may not write control batches"));
    }
    if header.is_transactional() && header.producer_id < 0 {
        return Err(AppendError::Invalid("a transactional batch needs a producer id"));
    }
    if limits.log_append_time {
        return Ok(());
    }
    let earliest_ms = now_ms.saturating_sub(limits.before_max_ms);
    let latest_ms = now_ms.saturating_add(limits.after_max_ms);
    if header.is_log_append_time() {
        return Err(AppendError::Invalid("producers may not set log append time"));
    }
    // Judged by the header: the first record's timestamp stands for the early ones, as parsing each would cost more
    // than all the rest. -1 means that records carry none.
    for timestamp_ms in [header.max_timestamp, header.base_timestamp] {
        if timestamp_ms != -1 && !(earliest_ms..=latest_ms).contains(&timestamp_ms) {
            return Err(AppendError::Timestamp { timestamp_ms, earliest_ms, latest_ms });
        }
    }
    Ok(())
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

/// A zigzag number and how many bytes it took.
fn varint(from: &mut impl Read) -> io::Result<(i64, u64)> {
    let mut value: u64 = 0;
    for n in 0..10_u64 {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        let [byte] = byte;
        value |= u64::from(byte & 0x7f).wrapping_shl(7 * n as u32);
        if byte & 0x80 == 0 {
            return Ok(((value >> 1) as i64 ^ -((value & 1) as i64), n + 1));
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "number of more than 10 bytes"))
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::BytesMut;
    use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};

    use super::*;
    use crate::config::StorageConfig;
    use crate::storage::TopicSettings;

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

    fn limits(pairs: &[(&str, &str)]) -> Limits {
        TopicSettings::from_pairs(pairs.iter().copied()).unwrap().limits(&StorageConfig::default())
    }

    const NOW: i64 = 1_700_000_000_000;

    fn changed(at: usize, bytes: &[u8], seal: bool) -> Bytes {
        let mut batch = batch(3, NOW, NOBODY).to_vec();
        batch[at..at + bytes.len()].copy_from_slice(bytes);
        if seal {
            reseal(&mut batch);
        }
        batch.into()
    }

    #[test]
    fn batches_are_checked_on_the_way_in() {
        let good = batch(3, NOW, NOBODY);
        let two = Bytes::from([&good[..], &good[..]].concat());
        let hour = 3_600_000;
        type Settings = &'static [(&'static str, &'static str)];
        let cases: Vec<(&str, Bytes, Settings, &str)> = vec![
            ("good", good.clone(), &[], "ok"),
            ("nothing", Bytes::new(), &[], "batch is refused: there is no batch in it"),
            ("short", good.slice(..40), &[], "batch is damaged: shorter than a batch header"),
            ("cut", good.slice(..good.len() - 1), &[], "batch is damaged: length exceeds the data sent"),
            ("two", two, &[], "batch is refused: a request holds exactly one batch per partition"),
            (
                "magic 0",
                changed(16, &[0], false),
                &[],
                "message format 0 is not taken, only format 2: use a client newer than Kafka 0.11",
            ),
            (
                "magic 1",
                changed(16, &[1], false),
                &[],
                "message format 1 is not taken, only format 2: use a client newer than Kafka 0.11",
            ),
            ("magic 3", changed(16, &[3], false), &[], "batch is damaged: unknown message format"),
            ("length 0", changed(8, &[0; 4], false), &[], "batch is damaged: length is less than a batch header"),
            ("length -1", changed(8, &[255; 4], false), &[], "batch is damaged: length is less than a batch header"),
            ("CRC", changed(70, &[9], false), &[], "batch is damaged: CRC does not match"),
            ("no records", changed(57, &[0; 4], true), &[], "batch is refused: it holds no record"),
            (
                "counts",
                changed(57, &[0, 0, 0, 9], true),
                &[],
                "batch is refused: last offset delta and number of records disagree",
            ),
            ("codec", changed(21, &[0, 7], true), &[], "compression codec 7 is unknown"),
            (
                "control",
                changed(21, &[0, 0x20], true),
                &[],
                "batch is refused: producers may not write control batches",
            ),
            (
                "transaction",
                changed(21, &[0, 0x10], true),
                &[],
                "batch is refused: a transactional batch needs a producer id",
            ),
            (
                "append time",
                changed(21, &[0, 0x08], true),
                &[],
                "batch is refused: producers may not set log append time",
            ),
            ("no sequence", changed(43, &[0; 8], true), &[], "batch is refused: an idempotent batch needs a sequence"),
            (
                "size",
                good.clone(),
                &[("max.message.bytes", "80")],
                "batch of 103 bytes is larger than max.message.bytes (80): send smaller batches or raise the setting",
            ),
            ("ahead", batch(1, NOW + hour, NOBODY), &[], "ok"),
            (
                "too far ahead",
                batch(1, NOW + hour + 1, NOBODY),
                &[],
                "timestamp 1700003600001 is outside of [-9223370336854775807, 1700003600000], which the topic takes at this moment",
            ),
            (
                "too old",
                batch(1, NOW - 11, NOBODY),
                &[("message.timestamp.before.max.ms", "10")],
                "timestamp 1699999999989 is outside of [1699999999990, 1700003600000], which the topic takes at this moment",
            ),
            ("our time", batch(1, NOW + hour + 1, NOBODY), &[("message.timestamp.type", "LogAppendTime")], "ok"),
            ("undated", batch(1, -1, NOBODY), &[("message.timestamp.before.max.ms", "10")], "ok"),
        ];
        for (name, bytes, settings, want) in cases {
            let got = match take_apart(bytes, AppendKind::Client, &limits(settings), NOW) {
                Ok(_) => "ok".to_owned(),
                Err(e) => e.to_string(),
            };
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn placed_batches_keep_a_right_crc() {
        for append_time in [None, Some(NOW + 5)] {
            let mut incoming =
                take_apart(batch(3, NOW, NOBODY), AppendKind::Client, &limits(&[]), NOW).unwrap().remove(0);
            incoming.place(42, append_time);
            let stored = [&incoming.head[..], &incoming.body[..]].concat();
            let header = Header::parse(&stored).unwrap();
            assert_eq!(header, incoming.header);
            assert!(crc_holds(&header, &stored));
            assert_eq!((header.base_offset, header.last_offset()), (42, 44));
            assert_eq!(header.max_timestamp, append_time.unwrap_or(NOW));
        }
    }

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

    #[test]
    fn sequences_wrap() {
        let mut header = Header::parse(&batch(3, NOW, (1, 0, 0))).unwrap();
        for (base, want) in [(0, 2), (i32::MAX - 2, i32::MAX), (i32::MAX, 1)] {
            header.base_sequence = base;
            assert_eq!(header.last_sequence(), want);
        }
    }
}
