//! What the records of a client's batch are once they are decompressed: their size within the topic's limit, and their
//! structure, so that no reader meets a batch that it can't take.
//!
//! In: a whole batch, the limit. Out: nothing, or the record at fault. Touches nothing.
//!
//! Decompressing every batch would cost more than all the rest of an append. The frames say without it how much can come
//! out at most ([`most_unpacked`]): zstd has blocks of up to 128 KiB, lz4 names its block size and shrinks to no less than
//! a 255th, a snappy block states its size, gzip shrinks to no less than a 1032nd. Where that lies within the limit, the
//! batch is taken with a look at the number of its records; else it is decompressed as a stream that keeps nothing, and
//! looked through record by record. Records that are not compressed are always looked through.

use std::io::{self, BufRead};

use super::batch::{HEADER, Header};
use super::codec::{XERIAL_HEADER, XERIAL_MAGIC};
use super::error::AppendError;
use super::records::open_records;

/// Bytes of the smallest record: length, attributes, two deltas, two lengths, number of headers.
const LEAST_RECORD: u64 = 7;

/// What one byte of deflate can become.
const GZIP_FACTOR: u64 = 1032;
/// What one byte of lz4 can become.
const LZ4_FACTOR: u64 = 255;
const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A block of zstd has no more, whatever its window.
const ZSTD_BLOCK: u64 = 128 << 10;

/// Refuses a batch whose records take more than `most` bytes decompressed, or are not what its header says.
pub(super) fn check_records(header: &Header, batch: &[u8], most: u64) -> Result<(), AppendError> {
    let packed = batch.get(HEADER..header.size()).unwrap_or_default();
    let codec = header.codec();
    if codec == 0 {
        // Most batches are sound: only of the others must be said what is wrong.
        return if is_sound(header.count, packed) { Ok(()) } else { look_through(header, Slice(packed), u64::MAX) };
    }
    let at_most = most_unpacked(codec, packed);
    if u64::try_from(header.count).unwrap_or(0).saturating_mul(LEAST_RECORD) > at_most {
        return Err(AppendError::Invalid("its header counts more records than its bytes can hold"));
    }
    if at_most <= most {
        return Ok(());
    }
    if codec == 2 {
        return Err(AppendError::Unpacked { place: None, max: most });
    }
    let stream = open_records(header, batch).map_err(|_| UNREADABLE)?;
    look_through(header, Stream(stream), most)
}

const UNREADABLE: AppendError = AppendError::Invalid("its records can't be decompressed");

/// Most bytes that come out of compressed records; `u64::MAX` where only decompressing tells.
fn most_unpacked(codec: u8, packed: &[u8]) -> u64 {
    match codec {
        1 => (packed.len() as u64).saturating_mul(GZIP_FACTOR),
        2 => most_of_snappy(packed),
        3 => most_of_frames(packed, LZ4_MAGIC, lz4_frame),
        4 => most_of_frames(packed, ZSTD_MAGIC, zstd_frame),
        _ => u64::MAX,
    }
}

/// Frames one after the other. Where one is malformed, nothing more comes out of it.
fn most_of_frames(packed: &[u8], magic: [u8; 4], frame: fn(&mut Frame<'_>, &mut u64) -> Option<()>) -> u64 {
    let mut from = Frame { left: packed };
    let mut sum = 0;
    while !from.left.is_empty() {
        let Some(found) = from.take() else { return sum };
        if found == magic {
            if frame(&mut from, &mut sum).is_none() {
                return sum;
            }
        } else if u32::from_le_bytes(found) & !0x0f == 0x184d_2a50 {
            // A frame to skip.
            let skipped = from.take().map(|length| u32::from_le_bytes(length) as usize);
            if skipped.and_then(|length| from.skip(length)).is_none() {
                return sum;
            }
        } else {
            return u64::MAX;
        }
    }
    sum
}

struct Frame<'a> {
    left: &'a [u8],
}

impl Frame<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (found, left) = self.left.split_first_chunk()?;
        self.left = left;
        Some(*found)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.left = self.left.get(count..)?;
        Some(())
    }
}

/// <https://www.rfc-editor.org/rfc/rfc8878#name-zstandard-frames>, behind the magic number.
fn zstd_frame(from: &mut Frame<'_>, sum: &mut u64) -> Option<()> {
    let [descriptor] = from.take()?;
    let is_single = descriptor & 0x20 != 0;
    let window = usize::from(!is_single);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content = match descriptor >> 6 {
        0 => usize::from(is_single),
        flag => 1 << flag,
    };
    from.skip(window + dictionary + content)?;
    loop {
        let [a, b, c] = from.take()?;
        let block = u32::from_le_bytes([a, b, c, 0]);
        let size = (block >> 3) as usize;
        match (block >> 1) & 3 {
            0 => {
                from.skip(size)?;
                *sum += size as u64;
            }
            1 => {
                from.skip(1)?;
                *sum += size as u64;
            }
            2 => {
                from.skip(size)?;
                *sum += ZSTD_BLOCK;
            }
            _ => return None,
        }
        if block & 1 != 0 {
            break;
        }
    }
    from.skip(if descriptor & 0x04 != 0 { 4 } else { 0 })
}

/// <https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md>, behind the magic number.
fn lz4_frame(from: &mut Frame<'_>, sum: &mut u64) -> Option<()> {
    let [flags, block] = from.take()?;
    let has = |bit: u8, bytes: usize| if flags & bit != 0 { bytes } else { 0 };
    let block_max = match (block >> 4) & 7 {
        n @ 4..=7 => 1u64 << (8 + 2 * n),
        _ => return None,
    };
    // Size of the content, dictionary, checksum of this header.
    from.skip(has(0x08, 8) + has(0x01, 4) + 1)?;
    loop {
        let size = u32::from_le_bytes(from.take()?);
        if size == 0 {
            break;
        }
        let length = (size & 0x7fff_ffff) as usize;
        from.skip(length)?;
        let factor = if size >> 31 == 0 { LZ4_FACTOR } else { 1 };
        *sum += (length as u64).saturating_mul(factor).min(block_max);
        from.skip(has(0x10, 4))?;
    }
    from.skip(has(0x04, 4))
}

/// What its blocks claim: readers make room for that before they decompress.
fn most_of_snappy(packed: &[u8]) -> u64 {
    let claimed = |block: &[u8]| snap::raw::decompress_len(block).map_or(0, |length| length as u64);
    if !packed.starts_with(XERIAL_MAGIC) {
        return claimed(packed);
    }
    let mut from = Frame { left: packed.get(XERIAL_HEADER..).unwrap_or_default() };
    let mut sum = 0u64;
    while let Some(length) = from.take() {
        let length = u32::from_be_bytes(length) as usize;
        let Some(block) = from.left.get(..length) else { break };
        sum = sum.saturating_add(claimed(block));
        from.left = from.left.get(length..).unwrap_or_default();
    }
    sum
}

/// What [`look_through`] accepts, in as little time as possible: each batch that is not compressed comes here.
fn is_sound(count: i32, records: &[u8]) -> bool {
    let mut rest = records;
    for place in 0..i64::from(count) {
        let Some(length) = small(&mut rest).and_then(|length| usize::try_from(length).ok()) else { return false };
        let Some((record, behind)) = rest.split_at_checked(length) else { return false };
        rest = behind;
        if is_record(record, place).is_none() {
            return false;
        }
    }
    rest.is_empty()
}

/// One record behind its length.
#[inline]
fn is_record(record: &[u8], place: i64) -> Option<()> {
    let (_attributes, mut rest) = record.split_first()?;
    let _timestamp_delta = small(&mut rest)?;
    if small(&mut rest)? != place {
        return None;
    }
    pass(&mut rest, true)?;
    pass(&mut rest, true)?;
    for _ in 0..u64::try_from(small(&mut rest)?).ok()? {
        pass(&mut rest, false)?;
        pass(&mut rest, true)?;
    }
    rest.is_empty().then_some(())
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

/// Where records are read from, byte by byte or past many.
trait Source {
    fn byte(&mut self) -> io::Result<u8>;
    fn skip(&mut self, count: u64) -> io::Result<()>;
    fn is_at_end(&mut self) -> io::Result<bool>;
}

struct Slice<'a>(&'a [u8]);

impl Source for Slice<'_> {
    fn byte(&mut self) -> io::Result<u8> {
        let (byte, left) = self.0.split_first().ok_or(io::ErrorKind::UnexpectedEof)?;
        self.0 = left;
        Ok(*byte)
    }

    fn skip(&mut self, count: u64) -> io::Result<()> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.0 = self.0.get(count..).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(())
    }

    fn is_at_end(&mut self) -> io::Result<bool> {
        Ok(self.0.is_empty())
    }
}

/// What a decompressor gives; nothing of it is kept.
struct Stream<R>(R);

impl<R: BufRead> Source for Stream<R> {
    fn byte(&mut self) -> io::Result<u8> {
        let byte = *self.0.fill_buf()?.first().ok_or(io::ErrorKind::UnexpectedEof)?;
        self.0.consume(1);
        Ok(byte)
    }

    fn skip(&mut self, count: u64) -> io::Result<()> {
        let mut left = count;
        while left > 0 {
            let there = self.0.fill_buf()?.len();
            if there == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let some = usize::try_from(left).unwrap_or(usize::MAX).min(there);
            self.0.consume(some);
            left -= some as u64;
        }
        Ok(())
    }

    fn is_at_end(&mut self) -> io::Result<bool> {
        Ok(self.0.fill_buf()?.is_empty())
    }
}

/// Counts what is read.
struct Counted<S> {
    from: S,
    /// Bytes that may still be read of the record, and of the batch.
    record: u64,
    batch: u64,
}

/// Why a record is not taken.
enum Fault {
    TooLarge,
    Malformed(&'static str),
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

impl<S: Source> Counted<S> {
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
            let byte = self.from.byte()?;
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
                Ok(self.from.skip(length)?)
            }
            Err(_) if length == -1 && may_be_null => Ok(()),
            Err(_) => Err(Fault::Malformed("a length of it is negative")),
        }
    }

    fn record(&mut self, place: i32) -> Result<(), Fault> {
        self.record = u64::MAX;
        let length = self.number()?;
        self.record = u64::try_from(length).map_err(|_| Fault::Malformed("a length of it is negative"))?;
        // Known before any of it is decompressed.
        if self.record > self.batch {
            return Err(Fault::TooLarge);
        }
        self.took(1)?;
        self.from.byte()?;
        let _timestamp_delta = self.number()?;
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
        if self.record == 0 { Ok(()) } else { Err(Fault::Malformed("it is shorter than its length says")) }
    }
}

/// Reads all records of a batch, which may take `most` bytes together.
fn look_through(header: &Header, from: impl Source, most: u64) -> Result<(), AppendError> {
    let mut from = Counted { from, record: 0, batch: most };
    for place in 0..header.count {
        from.record(place).map_err(|fault| match fault {
            Fault::TooLarge => AppendError::Unpacked { place: Some(place), max: most },
            Fault::Malformed(what) => AppendError::Record { place, what },
            Fault::Unreadable => UNREADABLE,
        })?;
    }
    match from.from.is_at_end() {
        Ok(true) => Ok(()),
        Ok(false) => Err(AppendError::Invalid("it contains more than the number of records in its header")),
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

    /// A batch with these bytes as its records.
    fn batch_with(codec: u8, count: i32, records: &[u8]) -> (Header, Vec<u8>) {
        let header = Header::parse(&keyed(&[(5, None, Some("a"))], NOBODY, Compression::None)).unwrap();
        let header = Header { attributes: codec.into(), count, last_offset_delta: count - 1, ..header };
        header.seal([&[0; HEADER], records].concat())
    }

    fn verdict((header, bytes): &(Header, Vec<u8>), most: u64) -> String {
        match check_records(header, bytes, most) {
            Ok(()) => "ok".to_owned(),
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
            let got = check_records(&header, &bytes, 700_000);
            assert!(matches!(got, Err(AppendError::Unpacked { place: Some(2), max: 700_000 })), "{codec:?} {got:?}");
            assert!(check_records(&header, &bytes, 1_300_000).is_ok(), "{codec:?}");
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
            assert_eq!(verdict(&batch_with(0, *count, records), MIB), *want, "{name}");
            // The same where it must be decompressed.
            let (header, bytes) = batch_with(4, *count, &packed(Codec::Zstd(0), records));
            let got = look_through(&header, Stream(open_records(&header, &bytes).unwrap()), MIB);
            assert_eq!(got.map_or_else(|error| error.to_string(), |()| "ok".to_owned()), *want, "{name}, zstd");
        }
    }

    #[test]
    fn a_count_that_no_such_batch_can_hold_is_refused_without_a_look() {
        for codec in CODECS.into_iter().skip(1) {
            let batch = batch_with(codec.id(), i32::MAX, &packed(codec, &[12, 0, 0, 0, 1, 1, 0]));
            let want = "batch is refused: its header counts more records than its bytes can hold";
            assert_eq!(verdict(&batch, 64 * MIB), want, "{codec:?}");
        }
        // What can't be decompressed at all is refused only where it must be.
        for (codec, want) in [
            (1, "ok"),
            (3, "batch is refused: its records can't be decompressed"),
            (4, "batch is refused: its records can't be decompressed"),
        ] {
            assert_eq!(verdict(&batch_with(codec, 1, b"not compressed at all"), 64 * MIB), want, "{codec}");
        }
    }

    proptest! {
        #[test]
        fn the_bound_is_never_too_low_and_for_frames_nearly_exact(
            words in proptest::collection::vec("[a-z]{1,12}", 1..40),
            times in 1usize..20_000,
            level in -5i32..12,
            halves in any::<bool>(),
        ) {
            let plain: Vec<u8> = words.iter().cycle().take(times).flat_map(|word| word.bytes()).collect();
            for codec in [Codec::Gzip(-1), Codec::Snappy, Codec::Lz4(level.max(0)), Codec::Zstd(level)] {
                let frames = if halves && codec != Codec::Snappy {
                    let (a, b) = plain.split_at(plain.len() / 2);
                    [packed(codec, a), packed(codec, b)].concat()
                } else {
                    packed(codec, &plain)
                };
                let most = most_unpacked(codec.id(), &frames);
                let real = plain.len() as u64;
                prop_assert!(most >= real, "{codec:?} {most} {real}");
                let slack = match codec {
                    Codec::Snappy => 0,
                    Codec::Lz4(_) => 2 << 16,
                    Codec::Zstd(_) => 2 * ZSTD_BLOCK,
                    _ => u64::MAX - real,
                };
                prop_assert!(most <= real + slack, "{codec:?} {most} {real}");
            }
        }

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
            let sound = is_sound(header.count, &bytes[HEADER..]);
            prop_assert_eq!(sound, look_through(&header, Slice(&bytes[HEADER..]), u64::MAX).is_ok());
            prop_assert!(sound || is_changed);
        }

        #[test]
        fn any_bytes_are_bounded_and_looked_through_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            magic in 0usize..4,
            codec in 0u8..5,
            count in 1i32..9,
        ) {
            let starts = [Vec::new(), ZSTD_MAGIC.to_vec(), LZ4_MAGIC.to_vec(), [XERIAL_MAGIC, &[0; 8]].concat()];
            let records = [&starts[magic][..], &bytes].concat();
            let batch = batch_with(codec, count, &records);
            for most in [16, MIB] {
                let _any = check_records(&batch.0, &batch.1, most);
            }
        }
    }
}
