//! The records within one batch: read one by one whatever their compression, and written anew without some of them.
//!
//! In: a whole batch as stored. Out: heads of records, keys; a batch with those that are kept. Touches nothing. Records are
//! read as a stream, so that a small batch that unpacks to gigabytes costs time and no memory.
//!
//! A record, all numbers but `attributes` zigzag varints (<https://kafka.apache.org/documentation/#record>):
//! `length, attributes i8, timestamp delta, offset delta, key length (-1: none), key, value length (-1: none), value, headers`.
//!
//! A batch written anew keeps its first and last offset, producer, sequence and codec, so that repeats are still
//! recognised. With a delete horizon (KIP-534) attribute bit 6 is set and the base timestamp is the time from which
//! tombstones and markers in it may go; the timestamp deltas count from there.

use std::io::{self, BufRead, BufReader, Read, Write};

use super::batch::{self, HEADER, Header};
use millrace_log::varint::put_varint;

/// Read at once from a decompressor.
const BUFFER: usize = 16 << 10;
/// Most that a block of snappy can shrink to, with room: what claims more is no sound block.
const SNAPPY_FACTOR: usize = 64;
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\x00";
/// Magic, version, least version that reads it.
const XERIAL_HEADER: usize = 16;
const XERIAL_BLOCK: usize = 32 << 10;
/// Most that the records of a client's batch may unpack to where they must be unpacked: more is no batch of any client but
/// one that wants to keep a thread busy.
pub(super) const MOST_UNPACKED: u64 = 256 << 20;

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// How records are compressed, with the level where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    None,
    Gzip(i32),
    Snappy,
    Lz4(i32),
    Zstd(i32),
}

impl Codec {
    /// As the wire counts.
    pub fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip(_) => 1,
            Self::Snappy => 2,
            Self::Lz4(_) => 3,
            Self::Zstd(_) => 4,
        }
    }

    /// That of a batch, at the level that clients take by default.
    fn of(header: &Header) -> io::Result<Self> {
        Ok(match header.codec() {
            0 => Self::None,
            1 => Self::Gzip(-1),
            2 => Self::Snappy,
            3 => Self::Lz4(0),
            4 => Self::Zstd(0),
            _ => return Err(invalid("compression codec is unknown")),
        })
    }
}

/// What stands before the key of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub attributes: u8,
    pub timestamp_delta: i64,
    pub offset_delta: i64,
    /// Bytes of the key, `None` without one.
    pub key: Option<u64>,
}

/// The records of one batch, in order.
pub(super) struct Records<'a> {
    from: Box<dyn BufRead + 'a>,
    left: i32,
    /// Bytes of the current record that were not read yet.
    rest: u64,
    /// Bytes that further records may have together.
    budget: u64,
}

impl<'a> Records<'a> {
    /// Begins to read the records of a whole batch.
    pub fn open(header: &Header, batch: &'a [u8]) -> io::Result<Self> {
        let bytes = batch.get(HEADER..header.size()).ok_or_else(|| invalid("batch is cut"))?;
        let from: Box<dyn BufRead + 'a> = match header.codec() {
            0 => Box::new(bytes),
            1 => Box::new(BufReader::with_capacity(BUFFER, flate2::bufread::MultiGzDecoder::new(bytes))),
            2 => Box::new(Snappy::open(bytes)?),
            3 => Box::new(BufReader::with_capacity(BUFFER, lz4::Decoder::new(bytes)?)),
            4 => Box::new(BufReader::with_capacity(BUFFER, zstd::stream::read::Decoder::with_buffer(bytes)?)),
            _ => return Err(invalid("compression codec is unknown")),
        };
        Ok(Self { from, left: header.count, rest: 0, budget: u64::MAX })
    }

    /// The same for a batch of a client, which may unpack to [`MOST_UNPACKED`].
    fn open_foreign(header: &Header, batch: &'a [u8]) -> io::Result<Self> {
        Ok(Self { budget: MOST_UNPACKED, ..Self::open(header, batch)? })
    }

    /// Whether nothing stands behind the last record.
    fn is_at_end(&mut self) -> io::Result<bool> {
        Ok(self.left <= 0 && self.rest == 0 && self.from.fill_buf()?.is_empty())
    }

    /// The next record; passes over what is left of the one before.
    pub fn next(&mut self) -> io::Result<Option<Head>> {
        self.skip(self.rest)?;
        if self.left <= 0 {
            return Ok(None);
        }
        self.left -= 1;
        let (length, _) = varint(&mut self.from)?;
        self.rest = u64::try_from(length).map_err(|_| invalid("record length"))?;
        self.budget = self.budget.checked_sub(self.rest).ok_or_else(|| invalid("records unpack to too much"))?;
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

    fn copy_rest(&mut self, to: &mut dyn Write) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.rest);
        let copied = io::copy(&mut (&mut self.from).take(bytes), to)?;
        if copied == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// A zigzag number and how many bytes it took.
fn varint(from: &mut impl BufRead) -> io::Result<(i64, u64)> {
    let mut value: u64 = 0;
    for n in 0..10_u64 {
        let byte = *from.fill_buf()?.first().ok_or(io::ErrorKind::UnexpectedEof)?;
        from.consume(1);
        value |= u64::from(byte & 0x7f).wrapping_shl(7 * n as u32);
        if byte & 0x80 == 0 {
            return Ok(((value >> 1) as i64 ^ -((value & 1) as i64), n + 1));
        }
    }
    Err(invalid("number of more than 10 bytes"))
}

/// Snappy as Java writes it (blocks, each after its length, behind a header), or a single bare block.
struct Snappy<'a> {
    left: &'a [u8],
    framed: bool,
    block: Vec<u8>,
    at: usize,
}

impl<'a> Snappy<'a> {
    fn open(bytes: &'a [u8]) -> io::Result<Self> {
        let framed = bytes.starts_with(XERIAL_MAGIC);
        let left = if framed { bytes.get(XERIAL_HEADER..) } else { Some(bytes) };
        let left = left.ok_or_else(|| invalid("snappy header is cut"))?;
        Ok(Self { left, framed, block: Vec::new(), at: 0 })
    }

    fn next_block(&mut self) -> io::Result<()> {
        let mut size = self.left.len();
        if self.framed {
            let (length, rest) = self.left.split_first_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
            size = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            self.left = rest;
        }
        let (packed, rest) = self.left.split_at_checked(size).ok_or(io::ErrorKind::UnexpectedEof)?;
        let length = snap::raw::decompress_len(packed).map_err(io::Error::other)?;
        if length > packed.len().saturating_mul(SNAPPY_FACTOR) {
            return Err(invalid("snappy block claims too much"));
        }
        self.block.clear();
        self.block.resize(length, 0);
        snap::raw::Decoder::new().decompress(packed, &mut self.block).map_err(io::Error::other)?;
        self.left = rest;
        self.at = 0;
        Ok(())
    }
}

impl Read for Snappy<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(to)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Snappy<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at >= self.block.len() && !self.left.is_empty() {
            self.next_block()?;
        }
        Ok(self.block.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

/// Compresses as clients do it, behind what the buffer holds already.
enum Packer {
    Plain(Vec<u8>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Snappy { out: Vec<u8>, block: Vec<u8> },
    Lz4(lz4::Encoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Packer {
    fn start(codec: Codec, mut out: Vec<u8>) -> io::Result<Self> {
        Ok(match codec {
            Codec::None => Self::Plain(out),
            Codec::Gzip(level) => {
                let level =
                    u32::try_from(level).map_or_else(|_| flate2::Compression::default(), flate2::Compression::new);
                Self::Gzip(flate2::write::GzEncoder::new(out, level))
            }
            Codec::Snappy => {
                out.extend_from_slice(XERIAL_MAGIC);
                out.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
                Self::Snappy { out, block: Vec::with_capacity(XERIAL_BLOCK) }
            }
            // Java reads no blocks that depend on each other.
            Codec::Lz4(level) => Self::Lz4(
                lz4::EncoderBuilder::new()
                    .level(u32::try_from(level).unwrap_or(0))
                    .block_mode(lz4::BlockMode::Independent)
                    .block_size(lz4::BlockSize::Max64KB)
                    .checksum(lz4::ContentChecksum::NoChecksum)
                    .build(out)?,
            ),
            Codec::Zstd(level) => Self::Zstd(zstd::stream::write::Encoder::new(out, level)?),
        })
    }

    /// Bytes it has given out so far.
    fn len(&self) -> usize {
        match self {
            Self::Plain(out) | Self::Snappy { out, .. } => out.len(),
            Self::Gzip(encoder) => encoder.get_ref().len(),
            Self::Lz4(encoder) => encoder.writer().len(),
            Self::Zstd(encoder) => encoder.get_ref().len(),
        }
    }

    fn end_block(out: &mut Vec<u8>, block: &mut Vec<u8>) -> io::Result<()> {
        if !block.is_empty() {
            let packed = snap::raw::Encoder::new().compress_vec(block).map_err(io::Error::other)?;
            out.extend_from_slice(&u32::try_from(packed.len()).map_err(io::Error::other)?.to_be_bytes());
            out.extend_from_slice(&packed);
            block.clear();
        }
        Ok(())
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain(out) => Ok(out),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Snappy { mut out, mut block } => Self::end_block(&mut out, &mut block).map(|()| out),
            Self::Lz4(encoder) => {
                let (out, done) = encoder.finish();
                done.map(|()| out)
            }
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl Write for Packer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(out) => out.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Snappy { out, block } => {
                let some = bytes.get(..bytes.len().min(XERIAL_BLOCK - block.len())).unwrap_or_default();
                block.extend_from_slice(some);
                if block.len() == XERIAL_BLOCK {
                    Self::end_block(out, block)?;
                }
                Ok(some.len())
            }
            Self::Lz4(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Which records without a key a client's batch holds, by their place in it.
pub(super) fn without_key(header: &Header, batch: &[u8]) -> io::Result<Vec<i32>> {
    let mut records = Records::open_foreign(header, batch)?;
    let mut found = Vec::new();
    let mut place = 0;
    while let Some(head) = records.next()? {
        if head.key.is_none() {
            found.push(place);
        }
        place += 1;
    }
    Ok(found)
}

/// Writes a batch anew with only those records whose place is marked in `kept`, at least one.
/// `delete_horizon_ms`: the horizon to set; one that is set already stays.
pub(super) fn rebuild(
    header: &Header,
    batch: &[u8],
    kept: &[bool],
    delete_horizon_ms: Option<i64>,
) -> io::Result<(Header, Vec<u8>)> {
    let base_timestamp = delete_horizon_ms.unwrap_or(header.base_timestamp);
    let shift = header.base_timestamp.wrapping_sub(base_timestamp);
    let mut packer = Packer::start(Codec::of(header)?, vec![0; HEADER])?;
    let mut records = Records::open(header, batch)?;
    let (mut head_bytes, mut key) = (Vec::new(), Vec::new());
    let (mut count, mut max_timestamp) = (0, i64::MIN);
    for keep in kept {
        let head = records.next()?.ok_or_else(|| invalid("batch has fewer records than it says"))?;
        if !keep {
            continue;
        }
        count += 1;
        let timestamp = header.base_timestamp.wrapping_add(head.timestamp_delta);
        max_timestamp = max_timestamp.max(timestamp);
        head_bytes.clear();
        head_bytes.push(head.attributes);
        put_varint(&mut head_bytes, head.timestamp_delta.wrapping_add(shift));
        put_varint(&mut head_bytes, head.offset_delta);
        put_varint(&mut head_bytes, head.key.map_or(-1, |length| i64::try_from(length).unwrap_or(i64::MAX)));
        key.clear();
        put_varint(&mut key, i64::try_from(head_bytes.len() as u64 + records.rest).unwrap_or(i64::MAX));
        packer.write_all(&key)?;
        packer.write_all(&head_bytes)?;
        records.copy_rest(&mut packer)?;
    }
    let mut attributes = header.attributes;
    if delete_horizon_ms.is_some() {
        attributes |= batch::DELETE_HORIZON_BIT;
    }
    if header.is_log_append_time() {
        max_timestamp = header.max_timestamp;
    }
    let fresh = Header { attributes, base_timestamp, max_timestamp, count, ..*header };
    Ok(fresh.seal(packer.finish()?))
}

/// Why a batch can't be stored with another codec.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecompressError {
    /// Its records can't be read.
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    /// It has become larger than it may be: so many bytes at least.
    #[error("it has become too large")]
    TooLarge(usize),
}

/// Stops what has grown too large.
struct Bounded {
    packer: Packer,
    most: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.packer.len() > self.most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.packer.write(bytes.get(..bytes.len().min(BUFFER)).unwrap_or_default())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.packer.flush()
    }
}

/// Writes a client's batch anew with another codec; who wrote it, sequences and times stay. As the records are in hand,
/// they are checked on the way: number, order, nothing behind the last.
pub(super) fn recompress(
    header: &Header,
    batch: &[u8],
    codec: Codec,
    most: usize,
) -> Result<(Header, Vec<u8>), RecompressError> {
    let mut records = Records::open_foreign(header, batch)?;
    let mut out = Bounded { packer: Packer::start(codec, vec![0; HEADER])?, most };
    match copy_all(header, &mut records, &mut out) {
        Err(e) if e.kind() == io::ErrorKind::FileTooLarge => return Err(RecompressError::TooLarge(out.packer.len())),
        copied => copied?,
    }
    let bytes = out.packer.finish()?;
    if bytes.len() > most {
        return Err(RecompressError::TooLarge(bytes.len()));
    }
    let attributes = (header.attributes & !batch::CODEC_BITS) | i16::from(codec.id());
    Ok(Header { attributes, ..*header }.seal(bytes))
}

fn copy_all(header: &Header, records: &mut Records<'_>, out: &mut Bounded) -> io::Result<()> {
    let (mut front, mut length) = (Vec::new(), Vec::new());
    let mut place = 0;
    while let Some(head) = records.next()? {
        if head.offset_delta != place {
            return Err(invalid("offsets of its records do not follow each other"));
        }
        place += 1;
        front.clear();
        front.push(head.attributes);
        put_varint(&mut front, head.timestamp_delta);
        put_varint(&mut front, head.offset_delta);
        put_varint(&mut front, head.key.map_or(-1, |length| i64::try_from(length).unwrap_or(i64::MAX)));
        length.clear();
        put_varint(&mut length, i64::try_from(front.len() as u64 + records.rest).unwrap_or(i64::MAX));
        out.write_all(&length)?;
        out.write_all(&front)?;
        records.copy_rest(out)?;
    }
    if place != i64::from(header.count) || !records.is_at_end()? {
        return Err(invalid("it holds more than the records it names"));
    }
    Ok(())
}

/// What is left of a batch that lost all its records but is the last one of its producer: the header alone.
pub(super) fn empty(header: &Header) -> (Header, Vec<u8>) {
    let attributes = header.attributes & !(batch::CODEC_BITS | batch::DELETE_HORIZON_BIT);
    let fresh = Header { attributes, base_timestamp: header.max_timestamp, count: 0, ..*header };
    fresh.seal(vec![0; HEADER])
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kafka_protocol::records::{Compression, RecordBatchDecoder};
    use proptest::prelude::*;

    use super::super::batch::crc_holds;
    use super::super::batch::tests::{NOBODY, in_transaction, keyed};
    use super::*;

    const CODECS: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    const TARGETS: [Codec; 5] = [Codec::None, Codec::Gzip(-1), Codec::Snappy, Codec::Lz4(9), Codec::Zstd(3)];

    type Read = (i64, i64, Option<Bytes>, Option<Bytes>);

    /// Offset, timestamp, key and value of each record, as another library reads them.
    fn decoded(batch: &[u8]) -> Vec<Read> {
        let set = RecordBatchDecoder::decode(&mut Bytes::copy_from_slice(batch)).unwrap();
        set.records.into_iter().map(|r| (r.offset, r.timestamp, r.key, r.value)).collect()
    }

    fn heads(batch: &[u8]) -> Vec<(i64, Option<Vec<u8>>, bool)> {
        let header = Header::parse(batch).unwrap();
        let mut records = Records::open(&header, batch).unwrap();
        let mut all = Vec::new();
        while let Some(head) = records.next().unwrap() {
            let mut key = None;
            if let Some(length) = head.key {
                let mut bytes = Vec::new();
                records.key(length, |piece| bytes.extend_from_slice(piece)).unwrap();
                key = Some(bytes);
            }
            let has_value = records.has_value().unwrap();
            all.push((head.offset_delta, key, has_value));
        }
        all
    }

    #[test]
    fn records_are_read_whatever_their_compression() {
        let long = "x".repeat(100_000);
        for codec in CODECS {
            let batch = keyed(&[(5, Some("a"), Some("1")), (9, None, Some(&long)), (7, Some(""), None)], NOBODY, codec);
            let want = vec![(0, Some(b"a".to_vec()), true), (1, None, true), (2, Some(Vec::new()), false)];
            assert_eq!(heads(&batch), want, "{codec:?}");
            assert_eq!(without_key(&Header::parse(&batch).unwrap(), &batch).unwrap(), [1], "{codec:?}");
        }
    }

    #[test]
    fn a_batch_without_records_keeps_its_producer_and_offsets() {
        for codec in CODECS {
            let batch = keyed(&[(5, Some("a"), Some("1")), (9, Some("b"), None)], (7, 3, 11), codec);
            let before = Header { base_offset: 40, ..Header::parse(&batch).unwrap() };
            let (header, bytes) = empty(&before);
            assert_eq!(Header::parse(&bytes), Some(header));
            assert!(crc_holds(&header, &bytes) && header.is_sound() && bytes.len() == HEADER);
            assert_eq!((header.base_offset, header.last_offset(), header.count), (40, 41, 0));
            assert_eq!((header.producer_id, header.producer_epoch, header.last_sequence()), (7, 3, 12));
            assert_eq!(header.max_timestamp, 9);
            assert_eq!(heads(&bytes), []);
            assert_eq!(decoded(&bytes), [], "as clients read it");
        }
    }

    #[test]
    fn damaged_records_are_errors_and_cost_no_memory() {
        for codec in CODECS {
            let good = keyed(&[(5, Some("key"), Some("value")), (9, Some("b"), None)], NOBODY, codec);
            let header = Header::parse(&good).unwrap();
            for at in HEADER..good.len() {
                for flip in [1, 0x80, 0xff] {
                    let mut bad = good.to_vec();
                    bad[at] ^= flip;
                    let _any = without_key(&header, &bad);
                    let _any = rebuild(&header, &bad, &[true, false], Some(3));
                }
                let cut = Header { length: at as i32 - 12, ..header };
                let _any = without_key(&cut, &good[..at]);
            }
        }
        for codec in CODECS {
            let good = keyed(&[(5, Some("key"), Some("value")), (9, Some("b"), None)], NOBODY, codec);
            let header = Header::parse(&good).unwrap();
            for at in HEADER..good.len() {
                let mut bad = good.to_vec();
                bad[at] ^= 0x10;
                for to in TARGETS {
                    let _any = recompress(&header, &bad, to, 1 << 20);
                }
            }
        }
        let mut claims = keyed(&[(0, Some("k"), None)], NOBODY, Compression::None).to_vec();
        claims[22] = 2;
        claims.truncate(HEADER);
        claims.extend([0xff, 0xff, 0xff, 0xff, 0x0f, 0]);
        let header = Header { length: claims.len() as i32 - 12, ..Header::parse(&claims).unwrap() };
        assert_eq!(without_key(&header, &claims).unwrap_err().to_string(), "snappy block claims too much");
    }

    #[test]
    fn batches_get_another_codec_and_keep_all_else() {
        let long = "x".repeat(100_000);
        let records = [(5, Some("a"), Some("1")), (9, None, Some(long.as_str())), (7, Some(""), None)];
        for from in CODECS {
            let mut batch = in_transaction(keyed(&records, (7, 3, 1_000), from)).to_vec();
            batch[..8].copy_from_slice(&40_i64.to_be_bytes());
            let before = Header::parse(&batch).unwrap();
            for to in TARGETS {
                let (header, bytes) = recompress(&before, &batch, to, 1 << 20).unwrap();
                assert_eq!(Header::parse(&bytes), Some(header));
                assert!(crc_holds(&header, &bytes) && header.is_sound() && header.size() == bytes.len());
                assert_eq!((header.codec(), header.is_transactional()), (to.id(), true));
                let same = Header { length: 0, crc: 0, attributes: 0, ..header };
                assert_eq!(same, Header { length: 0, crc: 0, attributes: 0, ..before });
                assert_eq!(decoded(&bytes), decoded(&batch), "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn what_grows_too_large_or_lies_is_not_recompressed() {
        let long = "x".repeat(100_000);
        let batch = keyed(&[(5, Some("a"), Some(&long))], NOBODY, Compression::Zstd);
        let header = Header::parse(&batch).unwrap();
        let got = recompress(&header, &batch, Codec::None, 50_000).unwrap_err();
        assert!(matches!(got, RecompressError::TooLarge(50_001..=100_000)), "{got:?}");
        assert!(recompress(&header, &batch, Codec::Gzip(9), 50_000).is_ok());

        let two = keyed(&[(5, None, Some("a")), (5, None, Some("b"))], NOBODY, Compression::None);
        let header = Header::parse(&two).unwrap();
        for (count, want) in [(1, "it holds more than the records it names"), (3, "unexpected end of file")] {
            let got = recompress(&Header { count, ..header }, &two, Codec::Zstd(3), 1 << 20).unwrap_err();
            assert_eq!(got.to_string(), want);
        }
        // One record of 300 MB in a batch of some kilobytes.
        let mut packer = Packer::start(Codec::Zstd(3), vec![0; HEADER]).unwrap();
        let mut length = Vec::new();
        put_varint(&mut length, 300 << 20);
        packer.write_all(&length).unwrap();
        io::copy(&mut io::Read::take(io::repeat(0), 300 << 20), &mut packer).unwrap();
        let (bomb, bytes) = Header { attributes: 4, count: 1, ..header }.seal(packer.finish().unwrap());
        assert!(bytes.len() < 100_000, "{}", bytes.len());
        let got = recompress(&bomb, &bytes, Codec::Gzip(-1), 1 << 20).unwrap_err();
        assert_eq!(got.to_string(), "records unpack to too much");
        assert_eq!(without_key(&bomb, &bytes).unwrap_err().to_string(), "records unpack to too much");
    }

    proptest! {
        #[test]
        fn kept_records_stay_as_they_were(
            records in proptest::collection::vec(
                (0..1_000_000_i64, proptest::option::of("[a-c]{0,3}"), proptest::option::of("[a-z]{0,200}"), any::<bool>()),
                1..40,
            ),
            codec in 0..5_usize,
            horizon in proptest::option::of(0..10_000_000_i64),
        ) {
            let given: Vec<_> = records.iter().map(|(t, k, v, _)| (*t, k.as_deref(), v.as_deref())).collect();
            let batch = keyed(&given, (7, 3, 11), CODECS[codec]);
            let mut kept: Vec<bool> = records.iter().map(|(.., keep)| *keep).collect();
            kept[0] |= !kept.contains(&true);
            let before = Header::parse(&batch).unwrap();
            let (header, bytes) = rebuild(&before, &batch, &kept, horizon).unwrap();
            prop_assert_eq!(Header::parse(&bytes), Some(header));
            prop_assert!(crc_holds(&header, &bytes) && header.is_sound() && header.size() == bytes.len());
            let want: Vec<Read> =
                decoded(&batch).into_iter().zip(&kept).filter(|(_, keep)| **keep).map(|(read, _)| read).collect();
            prop_assert_eq!(header.max_timestamp, want.iter().map(|read| read.1).max().unwrap());
            prop_assert_eq!(header.delete_horizon_ms(), horizon);
            prop_assert_eq!((header.base_offset, header.last_offset()), (before.base_offset, before.last_offset()));
            prop_assert_eq!((header.producer_id, header.last_sequence()), (7, before.last_sequence()));
            prop_assert_eq!(decoded(&bytes), want);
            // Once more, with the horizon that it has.
            let all = vec![true; usize::try_from(header.count).unwrap()];
            let (again, _) = rebuild(&header, &bytes, &all, None).unwrap();
            prop_assert_eq!(again.delete_horizon_ms(), horizon);
        }
    }
}
