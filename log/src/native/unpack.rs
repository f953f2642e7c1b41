//! Decompression of record batches within a limit: gzip, snappy, lz4, zstd.
//!
//! In: the codec's number and the compressed records of one batch. Out: the records, or why not. Touches nothing. Memory
//! follows what really comes out, never what the data claims about itself.

use std::io::Read;

const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\x00";
/// Magic, version, least version that reads it.
const XERIAL_HEADER: usize = 16;
/// Most that a block of snappy can shrink to, with room: what claims more is not a valid block.
const SNAPPY_FACTOR: usize = 64;
/// Room made for what comes out before it does.
const ROOM: usize = 4 << 20;

/// Why records can't be decompressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error("its records decompress to more than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("unknown compression codec {0}")]
    Codec(u8),
    #[error("its records can't be decompressed: {0}")]
    Damaged(String),
}

fn damaged(error: impl std::fmt::Display) -> UnpackError {
    UnpackError::Damaged(error.to_string())
}

/// Keeps what can be used again from batch to batch.
#[derive(Default)]
pub(crate) struct Unpacker {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unpacker")
    }
}

impl Unpacker {
    /// Decompresses; `limit` bytes at most come out.
    pub fn unpack(&mut self, codec: u8, packed: &[u8], limit: usize) -> Result<Vec<u8>, UnpackError> {
        match codec {
            0 if packed.len() > limit => Err(UnpackError::TooLarge { limit }),
            0 => Ok(packed.to_vec()),
            1 => read_all(flate2::bufread::MultiGzDecoder::new(packed), limit),
            2 => unpack_snappy(packed, limit),
            3 => unpack_lz4(packed, limit),
            4 => self.unpack_zstd(packed, limit),
            codec => Err(UnpackError::Codec(codec)),
        }
    }

    /// In one go where the size is known and believable, else as a stream.
    fn unpack_zstd(&mut self, packed: &[u8], limit: usize) -> Result<Vec<u8>, UnpackError> {
        let size = zstd::zstd_safe::get_frame_content_size(packed).ok().flatten();
        let size = size.and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= limit.min(ROOM));
        if let Some(size) = size
            && size > 0
        {
            if self.zstd.is_none() {
                self.zstd = Some(zstd::bulk::Decompressor::new().map_err(damaged)?);
            }
            let mut out = Vec::with_capacity(size);
            // Several frames don't fit in the room for the first: those are read as a stream.
            if let Some(zstd) = &mut self.zstd
                && zstd.decompress_to_buffer(packed, &mut out).is_ok()
            {
                return Ok(out);
            }
        }
        read_all(zstd::stream::read::Decoder::with_buffer(packed).map_err(damaged)?, limit)
    }
}

fn read_all(from: impl Read, limit: usize) -> Result<Vec<u8>, UnpackError> {
    let mut out = Vec::new();
    from.take(limit as u64 + 1).read_to_end(&mut out).map_err(damaged)?;
    if out.len() > limit { Err(UnpackError::TooLarge { limit }) } else { Ok(out) }
}

/// The decoder takes an early end for the end: whether the frame is whole is asked at last.
fn unpack_lz4(packed: &[u8], limit: usize) -> Result<Vec<u8>, UnpackError> {
    let mut from = lz4::Decoder::new(packed).map_err(damaged)?;
    let out = read_all(&mut from, limit)?;
    from.finish().1.map_err(damaged)?;
    Ok(out)
}

/// Snappy as Java writes it (blocks, each after its length, behind a header), or a single bare block.
fn unpack_snappy(packed: &[u8], limit: usize) -> Result<Vec<u8>, UnpackError> {
    let cut = || UnpackError::Damaged("snappy data ends early".to_owned());
    let mut out = Vec::new();
    let mut block = |packed: &[u8]| {
        let length = snap::raw::decompress_len(packed).map_err(damaged)?;
        if length > packed.len().saturating_mul(SNAPPY_FACTOR) {
            return Err(UnpackError::Damaged("snappy block claims an impossible size".to_owned()));
        }
        let from = out.len();
        if from + length > limit {
            return Err(UnpackError::TooLarge { limit });
        }
        out.resize(from + length, 0);
        let room = out.get_mut(from..).unwrap_or_default();
        snap::raw::Decoder::new().decompress(packed, room).map_err(damaged).map(|_| ())
    };
    if !packed.starts_with(XERIAL_MAGIC) {
        block(packed)?;
        return Ok(out);
    }
    let mut left = packed.get(XERIAL_HEADER..).ok_or_else(cut)?;
    while let Some((length, rest)) = left.split_first_chunk() {
        let size = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (packed, rest) = rest.split_at_checked(size).ok_or_else(cut)?;
        block(packed)?;
        left = rest;
    }
    if left.is_empty() { Ok(out) } else { Err(cut()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn packed(codec: u8, plain: &[u8]) -> Vec<u8> {
        match codec {
            1 => {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                out.write_all(plain).unwrap();
                out.finish().unwrap()
            }
            2 => snap::raw::Encoder::new().compress_vec(plain).unwrap(),
            3 => {
                let mut out = lz4::EncoderBuilder::new().build(Vec::new()).unwrap();
                out.write_all(plain).unwrap();
                let (out, done) = out.finish();
                done.unwrap();
                out
            }
            4 => zstd::bulk::compress(plain, 1).unwrap(),
            // A stream without its size, and two frames.
            5 => {
                let mut out = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
                out.write_all(plain).unwrap();
                out.finish().unwrap()
            }
            6 => {
                let (a, b) = plain.split_at(plain.len() / 2);
                [zstd::bulk::compress(a, 1).unwrap(), zstd::bulk::compress(b, 1).unwrap()].concat()
            }
            7 => {
                let mut out = [XERIAL_MAGIC, &[0, 0, 0, 1, 0, 0, 0, 1]].concat();
                for part in plain.chunks(32 << 10) {
                    let block = snap::raw::Encoder::new().compress_vec(part).unwrap();
                    out.extend_from_slice(&(block.len() as u32).to_be_bytes());
                    out.extend_from_slice(&block);
                }
                out
            }
            _ => plain.to_vec(),
        }
    }

    #[test]
    fn every_codec_gives_what_went_in_and_stops_at_the_limit() {
        let plain: Vec<u8> = (0..100_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for (form, codec) in [(0, 0), (1, 1), (2, 2), (7, 2), (3, 3), (4, 4), (5, 4), (6, 4)] {
            let packed = packed(form, &plain);
            let mut unpacker = Unpacker::default();
            assert!(unpacker.unpack(codec, &packed, plain.len()).unwrap() == plain, "form {form}");
            let limit = plain.len() - 1;
            assert_eq!(unpacker.unpack(codec, &packed, limit), Err(UnpackError::TooLarge { limit }), "form {form}");
            if form != 0 {
                let cut = packed.len() / 2;
                assert!(unpacker.unpack(codec, &packed[..cut], plain.len()).is_err(), "form {form}");
            }
        }
        assert_eq!(Unpacker::default().unpack(5, b"", 9), Err(UnpackError::Codec(5)));
        assert!(Unpacker::default().unpack(2, b"\xff\xff\xff\xff\x0f", 1 << 30).is_err(), "a false size");
    }

    #[test]
    fn a_small_batch_that_decompresses_to_gigabytes_is_an_error() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        assert!(bomb.len() < 10_000);
        let limit = 1 << 20;
        assert_eq!(Unpacker::default().unpack(4, &bomb, limit), Err(UnpackError::TooLarge { limit }));
    }
}
