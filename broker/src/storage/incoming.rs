//! Record batches on their way in: checked as Kafka checks them, recompressed where the topic asks, and given their offsets. The
//! latest time in the header becomes that of the records, as in Kafka: retention and look-ups by time rely on it.
//!
//! In: bytes of a Produce request, limits of the topic. Out: [`Incoming`] batches or the reason of the refusal. Touches
//! nothing, and copies no records unless the codec changes.

use bytes::{Buf as _, Bytes};

use super::append::AppendKind;
use super::batch::{CRC_AT, CRC_FROM, HEADER, Header, LEADER_EPOCH, LOG_APPEND_BIT, MAGIC_AT, PREFIX, crc_holds};
use super::codec::Codec;
use super::error::AppendError;
use super::limits::Limits;
use super::marker::{Marker, marker};
use super::records;
use super::rewrite::{self, RecompressError};
use super::unpacked::{RecordLimits, check_records};

/// Where the latest time stands in the header.
const MAX_TIMESTAMP_AT: usize = 35;

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
        self.put(0, &base_offset.to_be_bytes());
        self.put(PREFIX, &LEADER_EPOCH.to_be_bytes());
        if log_append_time_ms.is_some() {
            self.put(CRC_FROM, &self.header.attributes.to_be_bytes());
            self.seal_time();
        }
    }

    /// Writes the latest time, and the checksum over it.
    fn seal_time(&mut self) {
        self.put(MAX_TIMESTAMP_AT, &self.header.max_timestamp.to_be_bytes());
        let crc = crc32c::crc32c(self.head.get(CRC_FROM..).unwrap_or_default());
        self.header.crc = crc32c::crc32c_append(crc, &self.body);
        self.put(CRC_AT, &self.header.crc.to_be_bytes());
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.head.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
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
        let times_ms = check(&header, kind, limits, now_ms)?;
        if kind.is_client() {
            let latest_ms =
                check_records(&header, &body, RecordLimits { unpacked: limits.max_unpacked_bytes, times_ms })?;
            header.max_timestamp = latest_ms.unwrap_or(header.max_timestamp);
        }
        if limits.compact && kind.is_client() {
            let places = records::without_key(&header, &body)
                .map_err(|_| AppendError::Invalid("can't decompress its records to check their keys"))?;
            if !places.is_empty() {
                return Err(AppendError::NoKey { places });
            }
        }
        if let Some(codec) = limits.codec.filter(|codec| kind.is_client() && codec.id() != header.codec()) {
            (header, body) = recompress(&header, &body, codec, limits)?;
        }
        let mut head = [0; HEADER];
        body.copy_to_slice(&mut head);
        let mut batch = Incoming { header, head, body };
        if batch.head.get(MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8) != Some(&header.max_timestamp.to_be_bytes()) {
            batch.seal_time();
        }
        batches.push(batch);
    }
    match (batches.len(), kind) {
        (0, _) => Err(AppendError::Invalid("it contains no batch")),
        // As Kafka since Produce version 3.
        (2.., kind) if kind.is_client() => {
            Err(AppendError::Invalid("a request must contain exactly one batch per partition"))
        }
        _ => Ok(batches),
    }
}

/// The batch with the codec of its topic. As Kafka, what has grown is judged once more.
fn recompress(header: &Header, batch: &[u8], codec: Codec, limits: &Limits) -> Result<(Header, Bytes), AppendError> {
    let segment_bytes = usize::try_from(limits.segment_bytes).unwrap_or(usize::MAX);
    let max = limits.max_message_bytes.min(segment_bytes);
    match rewrite::recompress(header, batch, codec, max) {
        Ok((header, bytes)) => Ok((header, bytes.into())),
        Err(RecompressError::TooLarge(size)) => Err(AppendError::TooLarge { size, max }),
        Err(RecompressError::Unreadable(_)) => {
            Err(AppendError::Invalid("can't decompress its records to recompress them with the topic's codec"))
        }
    }
}

/// Judges the header. Returns the times that its records may have, if they give them.
fn check(header: &Header, kind: AppendKind, limits: &Limits, now_ms: i64) -> Result<Option<(i64, i64)>, AppendError> {
    if header.count < 1 || header.last_offset_delta < 0 {
        return Err(AppendError::Invalid("it contains no record"));
    }
    if header.last_offset_delta != header.count - 1 {
        return Err(AppendError::Invalid("last offset delta does not match the number of records"));
    }
    if header.codec() > 4 {
        return Err(AppendError::Compression(header.codec()));
    }
    if !kind.is_client() {
        return Ok(None);
    }
    if header.producer_id >= 0 && header.base_sequence < 0 {
        return Err(AppendError::Invalid("an idempotent batch requires a sequence"));
    }
    if header.is_control() {
        return Err(AppendError::Invalid("producers may not write control batches"));
    }
    if header.is_transactional() && header.producer_id < 0 {
        return Err(AppendError::Invalid("a transactional batch requires a producer id"));
    }
    if limits.log_append_time {
        return Ok(None);
    }
    let earliest_ms = now_ms.saturating_sub(limits.before_max_ms);
    let latest_ms = now_ms.saturating_add(limits.after_max_ms);
    if header.is_log_append_time() {
        return Err(AppendError::Invalid("producers may not set log append time"));
    }
    // The header's, which need not be those of its records. -1 means that records carry none.
    for timestamp_ms in [header.max_timestamp, header.base_timestamp] {
        if timestamp_ms != -1 && !(earliest_ms..=latest_ms).contains(&timestamp_ms) {
            return Err(AppendError::Timestamp { place: None, timestamp_ms, earliest_ms, latest_ms });
        }
    }
    Ok(Some((earliest_ms, latest_ms)))
}

#[cfg(test)]
mod tests {
    use millrace_log::varint::put_varint;

    use super::super::batch::tests::{NOBODY, batch, reseal};
    use super::*;
    use crate::config::{StorageConfig, TopicSettings};

    const NOW: i64 = 1_700_000_000_000;

    fn limits(pairs: &[(&str, &str)]) -> Limits {
        TopicSettings::from_pairs(pairs.iter().copied()).unwrap().limits(&StorageConfig::default())
    }

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
            ("nothing", Bytes::new(), &[], "batch is refused: it contains no batch"),
            ("short", good.slice(..40), &[], "batch is damaged: shorter than a batch header"),
            ("cut", good.slice(..good.len() - 1), &[], "batch is damaged: length exceeds the data sent"),
            ("two", two, &[], "batch is refused: a request must contain exactly one batch per partition"),
            (
                "magic 0",
                changed(16, &[0], false),
                &[],
                "message format 0 is not supported, only format 2: use a client newer than Kafka 0.11",
            ),
            (
                "magic 1",
                changed(16, &[1], false),
                &[],
                "message format 1 is not supported, only format 2: use a client newer than Kafka 0.11",
            ),
            ("magic 3", changed(16, &[3], false), &[], "batch is damaged: unknown message format"),
            ("length 0", changed(8, &[0; 4], false), &[], "batch is damaged: length is less than a batch header"),
            ("length -1", changed(8, &[255; 4], false), &[], "batch is damaged: length is less than a batch header"),
            ("CRC", changed(70, &[9], false), &[], "batch is damaged: CRC does not match"),
            ("no records", changed(57, &[0; 4], true), &[], "batch is refused: it contains no record"),
            (
                "counts",
                changed(57, &[0, 0, 0, 9], true),
                &[],
                "batch is refused: last offset delta does not match the number of records",
            ),
            ("codec", changed(21, &[0, 7], true), &[], "unknown compression codec 7"),
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
                "batch is refused: a transactional batch requires a producer id",
            ),
            (
                "append time",
                changed(21, &[0, 0x08], true),
                &[],
                "batch is refused: producers may not set log append time",
            ),
            (
                "no sequence",
                changed(43, &[0; 8], true),
                &[],
                "batch is refused: an idempotent batch requires a sequence",
            ),
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
                "timestamp 1700003600001 is outside of [-9223370336854775807, 1700003600000], the range that the topic accepts",
            ),
            (
                "too old",
                batch(1, NOW - 11, NOBODY),
                &[("message.timestamp.before.max.ms", "10")],
                "timestamp 1699999999989 is outside of [1699999999990, 1700003600000], the range that the topic accepts",
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
    fn the_latest_time_of_a_batch_is_that_of_its_records() {
        let record = |place: i64, delta: i64| {
            let mut record = vec![0];
            put_varint(&mut record, delta);
            put_varint(&mut record, place);
            record.extend_from_slice(&[1, 1, 0]);
            let mut all = Vec::new();
            put_varint(&mut all, record.len() as i64);
            all.extend(record);
            all
        };
        let taken = |bytes: Vec<u8>, settings: &[(&str, &str)]| {
            let incoming = take_apart(bytes.into(), AppendKind::Client, &limits(settings), NOW).unwrap().remove(0);
            let stored = [&incoming.head[..], &incoming.body[..]].concat();
            let header = Header::parse(&stored).unwrap();
            assert_eq!(header, incoming.header);
            assert!(crc_holds(&header, &stored));
            (header, stored)
        };
        for (name, codec) in [
            ("uncompressed", Codec::None),
            ("gzip", Codec::Gzip(-1)),
            ("snappy", Codec::Snappy),
            ("lz4", Codec::Lz4(9)),
            ("zstd", Codec::Zstd(3)),
        ] {
            for (base, deltas, said, want) in [
                (NOW, [0, 7, 3], NOW + 7, NOW + 7),
                (NOW, [0, 7, 3], 5, NOW + 7),
                (NOW, [0, 7, 3], -1, NOW + 7),
                (NOW, [0, 7, 3], NOW + 3_600_000, NOW + 7),
                (NOW, [-9, -7, -8], NOW, NOW - 7),
                (-1, [0, 0, 0], NOW, -1),
            ] {
                let records = (0..).zip(deltas).flat_map(|(place, delta)| record(place, delta));
                let header = Header::parse(&batch(3, NOW, NOBODY)).unwrap();
                let header = Header { base_timestamp: base, max_timestamp: said, ..header };
                let (header, plain) = header.seal(vec![0; HEADER].into_iter().chain(records).collect());
                let packed_by_topic = taken(plain.clone(), &[("compression.type", name)]);
                let sent = rewrite::recompress(&header, &plain, codec, 1 << 20).unwrap().1;
                let packed_by_client = taken(sent.clone(), &[]);
                for (stored, bytes) in [packed_by_topic, packed_by_client] {
                    assert_eq!((stored.max_timestamp, stored.base_timestamp), (want, base), "{name} {said}");
                    let mut read = records::Records::open(&stored, &bytes).unwrap();
                    for delta in deltas {
                        assert_eq!(read.next().unwrap().unwrap().timestamp_delta, delta, "{name}");
                    }
                }
                // The time of the broker counts alone.
                let (stored, _) = taken(sent, &[("message.timestamp.type", "LogAppendTime")]);
                assert_eq!(stored.max_timestamp, said);
            }
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
}
