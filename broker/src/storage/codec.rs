//! Compression codecs of record batches: snappy read as Java writes it, and every codec written as clients write it.
//!
//! In: compressed or plain bytes. Out: the other. Touches nothing.

use std::io::{self, BufRead, Read, Write};

use super::batch::Header;

/// Most that a block of snappy can shrink to, with room: what claims more is no sound block.
const SNAPPY_FACTOR: usize = 64;

pub(super) const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\x00";

/// Magic, version, least version that reads it.
pub(super) const XERIAL_HEADER: usize = 16;

const XERIAL_BLOCK: usize = 32 << 10;

pub(super) fn invalid(what: &'static str) -> io::Error {
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
    pub(super) fn of(header: &Header) -> io::Result<Self> {
        Ok(match header.codec() {
            0 => Self::None,
            1 => Self::Gzip(-1),
            2 => Self::Snappy,
            3 => Self::Lz4(0),
            4 => Self::Zstd(0),
            _ => return Err(invalid("unknown compression codec")),
        })
    }
}

/// Snappy as Java writes it (blocks, each after its length, behind a header), or a single bare block.
pub(super) struct Snappy<'a> {
    left: &'a [u8],
    framed: bool,
    block: Vec<u8>,
    at: usize,
}

impl<'a> Snappy<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> io::Result<Self> {
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
            return Err(invalid("snappy block claims too large a size"));
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

/// One frame of lz4, with its end: the library takes a frame that is cut behind its last block for a whole one, other readers
/// do not.
pub(super) struct Lz4<'a>(Option<lz4::Decoder<&'a [u8]>>);

impl<'a> Lz4<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> io::Result<Self> {
        lz4::Decoder::new(bytes).map(|decoder| Self(Some(decoder)))
    }
}

impl Read for Lz4<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let Some(decoder) = self.0.as_mut().filter(|_| !to.is_empty()) else { return Ok(0) };
        let count = decoder.read(to)?;
        if count == 0
            && let Some(decoder) = self.0.take()
        {
            let (behind, ended) = decoder.finish();
            ended.map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            if !behind.is_empty() {
                return Err(invalid("bytes behind the lz4 frame"));
            }
        }
        Ok(count)
    }
}

/// Compresses as clients do it, behind what the buffer holds already.
pub(super) enum Packer {
    Plain(Vec<u8>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Snappy { out: Vec<u8>, block: Vec<u8> },
    Lz4(lz4::Encoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Packer {
    pub(super) fn start(codec: Codec, mut out: Vec<u8>) -> io::Result<Self> {
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
    pub(super) fn len(&self) -> usize {
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

    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
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
