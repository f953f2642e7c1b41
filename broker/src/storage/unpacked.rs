//! What the records of a client's batch are once they are decompressed: their size within the topic's limit, their structure
//! and their times, so that no reader meets a batch that it can't take.
//!
//! In: a whole batch, the limits. Out: the latest time of its records, or the record at fault. Touches nothing but spare buffers.
//!
//! All batches are looked through, as Apache Kafka does it: a batch that is taken here and can't be read would stop all
//! consumers of its partition for good. Small ones are decompressed into a buffer; those that may be large as a stream that
//! keeps nothing, so that a batch that unpacks to gigabytes costs time up to its topic's limit, and no memory.

use std::io::{self, BufRead, Read as _};

use parking_lot::Mutex;

use super::batch::{HEADER, Header};
use super::codec::{XERIAL_HEADER, XERIAL_MAGIC};
use super::error::AppendError;
use super::records::open_records;

/// Batches that take no more decompressed are decompressed as a whole.
const WHOLE: usize = 4 << 20;
/// Buffers that are kept for the next batches.
const SPARE: usize = 4;

static SPARES: Mutex<Vec<Unpacker>> = Mutex::new(Vec::new());

/// Room to decompress small batches in.
#[derive(Default)]
struct Unpacker {
    buffer: Vec<u8>,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl Unpacker {
    /// Decompresses frames that say how large they are, in half the time of a stream. `false`: they do not, or are damaged or
    /// large.
    fn at_once(&mut self, packed: &[u8]) -> bool {
        let size = zstd::zstd_safe::get_frame_content_size(packed).ok().flatten();
        let Some(size) = size.and_then(|size| usize::try_from(size).ok()).filter(|size| *size < WHOLE) else {
            return false;
        };
        if self.zstd.is_none() {
            self.zstd = zstd::bulk::Decompressor::new().ok();
        }
        self.buffer.reserve(size);
        self.zstd.as_mut().is_some_and(|zstd| zstd.decompress_to_buffer(packed, &mut self.buffer).is_ok())
    }
}

/// What a batch may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordLimits {
    /// Bytes that its records may take decompressed.
    pub unpacked: u64,
    /// Times that they may have; `None` where the broker gives them its own.
    pub times_ms: Option<(i64, i64)>,
}

/// Refuses a batch whose records take more than they may decompressed, or are not what its header says. Gives the latest time of
/// the records, which need not be the one in the header; `None` where their times don't count.
pub(super) fn check_records(header: &Header, batch: &[u8], limits: RecordLimits) -> Result<Option<i64>, AppendError> {
    let latest_delta = latest_delta(header, batch, limits)?;
    Ok(limits.times_ms.map(|_| header.base_timestamp.wrapping_add(latest_delta)))
}

/// The largest difference of a record's time from the base of its batch.
fn latest_delta(header: &Header, batch: &[u8], limits: RecordLimits) -> Result<i64, AppendError> {
    let packed = batch.get(HEADER..header.size()).unwrap_or_default();
    let times = Times { base: header.base_timestamp, within: limits.times_ms };
    // Most batches are sound: only of the others must be said what is wrong.
    let look = |plain: &[u8], most: u64| match is_sound(header.count, plain, times) {
        Some(latest_delta) if plain.len() as u64 <= most => Ok(latest_delta),
        _ => look_through(header, plain, most, times),
    };
    if header.codec() == 0 {
        return look(packed, u64::MAX);
    }
    // Its blocks are decompressed as they are, so that their claims must be judged first.
    if header.codec() == 2 && most_of_snappy(packed) > limits.unpacked {
        return Err(AppendError::Unpacked { place: None, max: limits.unpacked });
    }
    let mut unpacker = SPARES.lock().pop().unwrap_or_default();
    unpacker.buffer.clear();
    let checked = if header.codec() == 4 && unpacker.at_once(packed) {
        look(&unpacker.buffer, limits.unpacked)
    } else {
        unpacker.buffer.clear();
        let open = || open_records(header, batch).map_err(|_| UNREADABLE);
        let mut stream = open()?;
        match stream.by_ref().take(WHOLE as u64).read_to_end(&mut unpacker.buffer) {
            Ok(length) if length < WHOLE => look(&unpacker.buffer, limits.unpacked),
            Ok(_) => look_through(header, unpacker.buffer.as_slice().chain(stream), limits.unpacked, times),
            // Damaged: what stands before that says which record is at fault.
            Err(_) => look_through(header, open()?, limits.unpacked, times),
        }
    };
    let mut spares = SPARES.lock();
    if spares.len() < SPARE && unpacker.buffer.capacity() <= 2 * WHOLE {
        spares.push(unpacker);
    }
    checked
}

const UNREADABLE: AppendError = AppendError::Invalid("its records can't be decompressed");

/// Times of records, as their batch gives them: differences from the first.
#[derive(Debug, Clone, Copy)]
struct Times {
    base: i64,
    within: Option<(i64, i64)>,
}

impl Times {
    /// The time of a record that is out of bounds. -1 means none.
    #[inline]
    fn wrong(self, delta: i64) -> Option<i64> {
        let (earliest, latest) = self.within?;
        match self.base.checked_add(delta) {
            Some(-1) => None,
            Some(time) => (!(earliest..=latest).contains(&time)).then_some(time),
            None => Some(if delta < 0 { i64::MIN } else { i64::MAX }),
        }
    }
}

/// What its blocks claim: readers make room for that before they decompress.
fn most_of_snappy(packed: &[u8]) -> u64 {
    let claimed = |block: &[u8]| snap::raw::decompress_len(block).map_or(0, |length| length as u64);
    if !packed.starts_with(XERIAL_MAGIC) {
        return claimed(packed);
    }
    let mut left = packed.get(XERIAL_HEADER..).unwrap_or_default();
    let mut sum = 0u64;
    while let Some((length, behind)) = left.split_first_chunk() {
        let Some((block, rest)) = behind.split_at_checked(u32::from_be_bytes(*length) as usize) else { break };
        sum = sum.saturating_add(claimed(block));
        left = rest;
    }
    sum
}

/// What [`look_through`] accepts and gives, in as little time as possible: nearly all batches come here.
fn is_sound(count: i32, records: &[u8], times: Times) -> Option<i64> {
    let (mut rest, mut latest_delta) = (records, i64::MIN);
    for place in 0..i64::from(count) {
        let length = small(&mut rest).and_then(|length| usize::try_from(length).ok())?;
        let (record, behind) = rest.split_at_checked(length)?;
        rest = behind;
        latest_delta = latest_delta.max(is_record(record, place, times)?);
    }
    rest.is_empty().then_some(latest_delta)
}

/// One record behind its length. Gives the difference of its time.
#[inline]
fn is_record(record: &[u8], place: i64, times: Times) -> Option<i64> {
    let (_attributes, mut rest) = record.split_first()?;
    let timestamp_delta = small(&mut rest)?;
    if small(&mut rest)? != place || times.wrong(timestamp_delta).is_some() {
        return None;
    }
    pass(&mut rest, true)?;
    pass(&mut rest, true)?;
    for _ in 0..u64::try_from(small(&mut rest)?).ok()? {
        pass(&mut rest, false)?;
        pass(&mut rest, true)?;
    }
    rest.is_empty().then_some(timestamp_delta)
}

#[inline]
fn pass(rest: &mut &[u8], may_be_null: bool) -> Option<()> {
    let length = small(rest)?;
    if length == -1 && may_be_null {
        return Some(());
    }
    *rest = rest.get(usize::try_from(length).ok()?..)?;
    Some(())
}

/// A number: mostly of one or two bytes.
#[inline]
fn small(rest: &mut &[u8]) -> Option<i64> {
    let zigzag = |n: u64| (n >> 1).cast_signed() ^ -(n & 1).cast_signed();
    let found = match rest {
        [a @ 0..0x80, behind @ ..] => (u64::from(*a), behind),
        [a, b @ 0..0x80, behind @ ..] => (u64::from(a & 0x7f) | u64::from(*b) << 7, behind),
        [a, b, c @ 0..0x80, behind @ ..] => {
            (u64::from(a & 0x7f) | u64::from(b & 0x7f) << 7 | u64::from(*c) << 14, behind)
        }
        _ => long(rest)?,
    };
    *rest = found.1;
    Some(zigzag(found.0))
}

#[cold]
fn long(rest: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (n, byte) in (0..10).zip(rest) {
        value |= u64::from(byte & 0x7f).wrapping_shl(7 * n);
        if byte & 0x80 == 0 {
            return Some((value, rest.get(n as usize + 1..)?));
        }
    }
    None
}

/// Counts what is read.
struct Counted<R> {
    from: R,
    /// Bytes that may still be read of the record, and of the batch.
    record: u64,
    batch: u64,
    times: Times,
}

/// Why a record is not taken.
enum Fault {
    TooLarge,
    Malformed(&'static str),
    Time(i64),
    Unreadable,
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Malformed("the batch ends within it"),
            _ => Self::Unreadable,
        }
    }
}

impl<R: BufRead> Counted<R> {
    #[inline]
    fn byte(&mut self) -> io::Result<u8> {
        let byte = *self.from.fill_buf()?.first().ok_or(io::ErrorKind::UnexpectedEof)?;
        self.from.consume(1);
        Ok(byte)
    }

    fn skip(&mut self, count: u64) -> io::Result<()> {
        let mut left = count;
        while left > 0 {
            let there = self.from.fill_buf()?.len();
            if there == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let some = usize::try_from(left).unwrap_or(usize::MAX).min(there);
            self.from.consume(some);
            left -= some as u64;
        }
        Ok(())
    }

    #[inline]
    fn took(&mut self, bytes: u64) -> Result<(), Fault> {
        self.record = self.record.checked_sub(bytes).ok_or(Fault::Malformed("it is longer than its length says"))?;
        self.batch = self.batch.checked_sub(bytes).ok_or(Fault::TooLarge)?;
        Ok(())
    }

    #[inline]
    fn number(&mut self) -> Result<i64, Fault> {
        let mut value = 0u64;
        for n in 0..10 {
            self.took(1)?;
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).wrapping_shl(7 * n);
            if byte & 0x80 == 0 {
                return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
            }
        }
        Err(Fault::Malformed("a number of it has more than 10 bytes"))
    }

    /// Passes over bytes behind their length; -1 is null.
    #[inline]
    fn bytes(&mut self, may_be_null: bool) -> Result<(), Fault> {
        let length = self.number()?;
        match u64::try_from(length) {
            Ok(length) => {
                self.took(length)?;
                Ok(self.skip(length)?)
            }
            Err(_) if length == -1 && may_be_null => Ok(()),
            Err(_) => Err(Fault::Malformed("a length of it is negative")),
        }
    }

    /// Reads one. Gives the difference of its time.
    fn record(&mut self, place: i32) -> Result<i64, Fault> {
        self.record = u64::MAX;
        let length = self.number()?;
        self.record = u64::try_from(length).map_err(|_| Fault::Malformed("a length of it is negative"))?;
        // Known before any of it is decompressed.
        if self.record > self.batch {
            return Err(Fault::TooLarge);
        }
        self.took(1)?;
        self.byte()?;
        let timestamp_delta = self.number()?;
        if let Some(time) = self.times.wrong(timestamp_delta) {
            return Err(Fault::Time(time));
        }
        if self.number()? != i64::from(place) {
            return Err(Fault::Malformed("its offset does not follow the one before"));
        }
        self.bytes(true)?;
        self.bytes(true)?;
        let headers = self.number()?;
        if headers < 0 {
            return Err(Fault::Malformed("its number of headers is negative"));
        }
        for _ in 0..headers {
            self.bytes(false)?;
            self.bytes(true)?;
        }
        if self.record == 0 { Ok(timestamp_delta) } else { Err(Fault::Malformed("it is shorter than its length says")) }
    }
}

/// Reads all records of a batch, which may take `most` bytes together. Gives the largest difference of their times.
fn look_through(header: &Header, from: impl BufRead, most: u64, times: Times) -> Result<i64, AppendError> {
    let mut from = Counted { from, record: 0, batch: most, times };
    let mut latest_delta = i64::MIN;
    for place in 0..header.count {
        let delta = from.record(place).map_err(|fault| match fault {
            Fault::TooLarge => AppendError::Unpacked { place: Some(place), max: most },
            Fault::Malformed(what) => AppendError::Record { place, what },
            Fault::Time(timestamp_ms) => {
                let (earliest_ms, latest_ms) = times.within.unwrap_or((i64::MIN, i64::MAX));
                AppendError::Timestamp { place: Some(place), timestamp_ms, earliest_ms, latest_ms }
            }
            Fault::Unreadable => UNREADABLE,
        })?;
        latest_delta = latest_delta.max(delta);
    }
    match from.from.fill_buf() {
        Ok([]) => Ok(latest_delta),
        Ok(_) => Err(AppendError::Invalid("it contains more than the number of records in its header")),
        Err(_) => Err(UNREADABLE),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use kafka_protocol::records::Compression;
    use millrace_log::varint::put_varint;
    use proptest::prelude::*;

    use super::super::batch::tests::{NOBODY, keyed};
    use super::super::codec::{Codec, Packer};
    use super::*;

    const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip(-1), Codec::Snappy, Codec::Lz4(0), Codec::Zstd(0)];
    const MIB: u64 = 1 << 20;

    fn packed(codec: Codec, plain: &[u8]) -> Vec<u8> {
        let mut packer = Packer::start(codec, Vec::new()).unwrap();
        packer.write_all(plain).unwrap();
        packer.finish().unwrap()
    }

    fn limits(unpacked: u64) -> RecordLimits {
        RecordLimits { unpacked, times_ms: Some((0, 1_000)) }
    }

    const ANY: Times = Times { base: 0, within: None };

    /// A batch with these bytes as its records.
    fn batch_with(codec: u8, count: i32, records: &[u8]) -> (Header, Vec<u8>) {
        let header = Header::parse(&keyed(&[(5, None, Some("a"))], NOBODY, Compression::None)).unwrap();
        let header = Header { attributes: codec.into(), count, last_offset_delta: count - 1, ..header };
        header.seal([&[0; HEADER], records].concat())
    }

    fn verdict((header, bytes): &(Header, Vec<u8>), most: u64) -> String {
        match check_records(header, bytes, limits(most)) {
            Ok(_) => "ok".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// One record whose value is so many times the same letter.
    fn letters(codec: Codec, count: u64) -> Vec<u8> {
        let (mut front, mut value) = (vec![0, 0, 0, 1], Vec::new());
        put_varint(&mut value, count as i64);
        front.extend(value);
        let mut record = Vec::new();
        put_varint(&mut record, front.len() as i64 + count as i64 + 1);
        let mut packer = Packer::start(codec, Vec::new()).unwrap();
        packer.write_all(&record).unwrap();
        packer.write_all(&front).unwrap();
        io::copy(&mut io::repeat(b'a').take(count), &mut packer).unwrap();
        packer.write_all(&[0]).unwrap();
        packer.finish().unwrap()
    }

    #[test]
    fn what_unpacks_to_more_than_the_limit_is_refused_and_what_does_not_is_taken() {
        for codec in CODECS {
            let id = codec.id();
            let bomb = batch_with(id, 1, &letters(codec, 70 * MIB));
            let got = verdict(&bomb, 64 * MIB);
            let place = if codec == Codec::Snappy { "" } else { ", record 0 passes the limit" };
            let want = format!(
                "records of the batch decompress to more than millrace.max.unpacked.bytes ({}){place}: send smaller batches or raise the setting",
                64 * MIB
            );
            // What is not compressed is judged by the size of the batch.
            assert_eq!(got, if codec == Codec::None { "ok" } else { &want }, "{codec:?}");
            assert_eq!(verdict(&bomb, 71 * MIB), "ok", "{codec:?}");
            assert_eq!(verdict(&batch_with(id, 1, &letters(codec, 900 << 10)), MIB), "ok", "{codec:?}");
        }
        let bomb = batch_with(4, 1, &letters(Codec::Zstd(3), 200 * MIB));
        assert!(bomb.1.len() < 8_000, "{}", bomb.1.len());
        assert!(verdict(&bomb, 64 * MIB).contains("record 0 passes the limit"));
    }

    #[test]
    fn the_record_that_passes_the_limit_is_named() {
        let value = "x".repeat(300_000);
        let records: Vec<_> = (0..4).map(|_| (5, None, Some(value.as_str()))).collect();
        for codec in [Compression::Gzip, Compression::Lz4, Compression::Zstd] {
            let bytes = keyed(&records, NOBODY, codec);
            let header = Header::parse(&bytes).unwrap();
            let got = check_records(&header, &bytes, limits(700_000));
            assert!(matches!(got, Err(AppendError::Unpacked { place: Some(2), max: 700_000 })), "{codec:?} {got:?}");
            assert!(check_records(&header, &bytes, limits(1_300_000)).is_ok(), "{codec:?}");
        }
    }

    #[test]
    fn records_that_no_reader_can_take_are_refused() {
        // length, attributes, timestamp delta, offset delta, key, value, headers
        let good: &[u8] = &[12, 0, 0, 0, 1, 1, 0];
        let second: &[u8] = &[12, 0, 0, 2, 1, 1, 0];
        let two = [good, second].concat();
        let cases: &[(&str, i32, &[u8], &str)] = &[
            ("good", 1, good, "ok"),
            ("two", 2, &two, "ok"),
            ("headers", 1, &[22, 0, 0, 0, 1, 1, 4, 2, b'k', 1, 0, 0], "ok"),
            (
                "more than counted",
                1,
                &two,
                "batch is refused: it contains more than the number of records in its header",
            ),
            ("fewer than counted", 3, &two, "record 2 of the batch is malformed: the batch ends within it"),
            (
                "offset",
                2,
                &[good, good].concat(),
                "record 1 of the batch is malformed: its offset does not follow the one before",
            ),
            (
                "offset far ahead",
                1,
                &[20, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0x0f, 1, 1, 0],
                "record 0 of the batch is malformed: its offset does not follow the one before",
            ),
            (
                "key",
                1,
                &[12, 0, 0, 0, 20, 1, 0],
                "record 0 of the batch is malformed: it is longer than its length says",
            ),
            (
                "null key -2",
                1,
                &[12, 0, 0, 0, 3, 1, 0],
                "record 0 of the batch is malformed: a length of it is negative",
            ),
            (
                "headers beyond",
                1,
                &[12, 0, 0, 0, 1, 1, 2],
                "record 0 of the batch is malformed: it is longer than its length says",
            ),
            (
                "headers -1",
                1,
                &[12, 0, 0, 0, 1, 1, 1],
                "record 0 of the batch is malformed: its number of headers is negative",
            ),
            (
                "null header name",
                1,
                &[16, 0, 0, 0, 1, 1, 2, 1, 1],
                "record 0 of the batch is malformed: a length of it is negative",
            ),
            (
                "too long",
                1,
                &[14, 0, 0, 0, 1, 1, 0, 0],
                "record 0 of the batch is malformed: it is shorter than its length says",
            ),
            ("length -1", 1, &[1, 0, 0, 0, 1, 1, 0], "record 0 of the batch is malformed: a length of it is negative"),
            ("nothing", 1, &[], "record 0 of the batch is malformed: the batch ends within it"),
        ];
        for (name, count, records, want) in cases {
            for codec in CODECS {
                // Nothing compresses to nothing.
                let bytes = if records.is_empty() { Vec::new() } else { packed(codec, records) };
                assert_eq!(verdict(&batch_with(codec.id(), *count, &bytes), MIB), *want, "{name}, {codec:?}");
            }
            // The same where it is read as a stream.
            let (header, bytes) = batch_with(4, *count, &packed(Codec::Zstd(0), records));
            let times = Times { base: header.base_timestamp, within: limits(MIB).times_ms };
            let got = look_through(&header, open_records(&header, &bytes).unwrap(), MIB, times);
            assert_eq!(got.map_or_else(|error| error.to_string(), |_| "ok".to_owned()), *want, "{name}, stream");
        }
    }

    #[test]
    fn what_cannot_be_decompressed_is_refused() {
        for codec in CODECS.into_iter().skip(1) {
            let one = packed(codec, &[12, 0, 0, 0, 1, 1, 0]);
            let batch = batch_with(codec.id(), i32::MAX, &one);
            assert!(verdict(&batch, 64 * MIB).contains("record 1 of the batch is malformed"), "{codec:?}");
            for bytes in [&one[..one.len() - 1], b"not compressed at all", &[&one[..], &one[..], b"rest"].concat()] {
                let got = verdict(&batch_with(codec.id(), 1, bytes), 64 * MIB);
                assert!(
                    got.starts_with("batch is refused") || got.starts_with("record 0"),
                    "{codec:?} {bytes:?}: {got}"
                );
            }
        }
    }

    #[test]
    fn times_of_records_are_within_those_of_the_topic() {
        let of = |timestamp_delta: i64| {
            let mut record = vec![0];
            put_varint(&mut record, timestamp_delta);
            record.extend_from_slice(&[0, 1, 1, 0]);
            let mut all = Vec::new();
            put_varint(&mut all, record.len() as i64);
            all.extend(record);
            all
        };
        for (base, delta, want) in [
            (5, 0, "ok"),
            (5, 995, "ok"),
            (
                5,
                996,
                "timestamp 1001 is outside of [0, 1000], the range that the topic accepts (record 0 of the batch)",
            ),
            (5, -6, "ok"),
            (5, -7, "timestamp -2 is outside of [0, 1000]"),
            (5, 1 << 62, "timestamp 4611686018427387909 is outside of [0, 1000]"),
            (-1, 0, "ok"),
            (i64::MAX, 1, "timestamp 9223372036854775807 is outside of [0, 1000]"),
        ] {
            for codec in CODECS {
                let (header, _) = batch_with(codec.id(), 1, &[]);
                let header = Header { base_timestamp: base, ..header };
                let batch = header.seal([&[0; HEADER], &packed(codec, &of(delta))[..]].concat());
                let got = verdict(&batch, MIB);
                assert!(got.starts_with(want), "{codec:?} {base} {delta}: {got}");
                let own = RecordLimits { times_ms: None, ..limits(MIB) };
                assert!(check_records(&batch.0, &batch.1, own).is_ok(), "the broker's time is taken");
            }
        }
    }

    proptest! {
        #[test]
        fn the_fast_look_agrees_with_the_one_that_names_the_fault(
            values in proptest::collection::vec(("[a-z]{0,300}", proptest::option::of("[a-z]{0,9}")), 1..6),
            at: prop::sample::Index,
            byte: u8,
            is_changed: bool,
        ) {
            let records: Vec<_> = values.iter().map(|(value, key)| (5, key.as_deref(), Some(value.as_str()))).collect();
            let mut bytes = keyed(&records, NOBODY, Compression::None).to_vec();
            let header = Header::parse(&bytes).unwrap();
            if is_changed {
                let place = HEADER + at.index(bytes.len() - HEADER);
                bytes[place] = byte;
            }
            let sound = is_sound(header.count, &bytes[HEADER..], ANY);
            prop_assert_eq!(sound, look_through(&header, &bytes[HEADER..], u64::MAX, ANY).ok());
            prop_assert!(sound.is_some() || is_changed);
        }

        #[test]
        fn frames_that_say_their_size_are_judged_as_a_stream_of_them(
            values in proptest::collection::vec("[a-c]{0,300}", 1..6),
            cut: prop::sample::Index,
            at: prop::sample::Index,
            byte: u8,
            is_changed: bool,
        ) {
            let records: Vec<_> = values.iter().map(|value| (5, None, Some(value.as_str()))).collect();
            let plain = keyed(&records, NOBODY, Compression::None);
            let (first, second) = plain[HEADER..].split_at(cut.index(plain.len() - HEADER));
            let mut packed = zstd::bulk::compress(first, 3).unwrap();
            packed.extend(zstd::bulk::compress(second, 3).unwrap());
            if is_changed {
                let place = at.index(packed.len());
                packed[place] = byte;
            }
            let (header, bytes) = batch_with(4, values.len() as i32, &packed);
            let got = latest_delta(&header, &bytes, RecordLimits { unpacked: MIB, times_ms: None });
            let stream = open_records(&header, &bytes).unwrap();
            let want = look_through(&header, stream, MIB, ANY);
            prop_assert_eq!(got.map_err(|error| error.to_string()), want.map_err(|error| error.to_string()));
            let one = batch_with(4, values.len() as i32, &zstd::bulk::compress(&plain[HEADER..], 3).unwrap());
            prop_assert_eq!(verdict(&one, MIB), "ok");
            prop_assert!(Unpacker::default().at_once(&one.1[HEADER..]));
        }

        #[test]
        fn any_bytes_are_bounded_and_looked_through_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            magic in 0usize..4,
            codec in 0u8..5,
            count in 1i32..9,
        ) {
            let (zstd, lz4) = (vec![0x28, 0xb5, 0x2f, 0xfd], vec![0x04, 0x22, 0x4d, 0x18]);
            let starts = [Vec::new(), zstd, lz4, [XERIAL_MAGIC, &[0; 8]].concat()];
            let records = [&starts[magic][..], &bytes].concat();
            let batch = batch_with(codec, count, &records);
            for most in [16, MIB] {
                let _any = check_records(&batch.0, &batch.1, limits(most));
            }
        }
    }
}
