//! Compressed bodies of HTTP requests, unpacked within a limit.
//!
//! In: a body and its `Content-Encoding`. Out: what is in it, or why it can't be used. Touches nothing. Memory is reserved
//! before it is taken.

use std::io::Read as _;

use bytes::Bytes;

use super::budget::Reserved;
use super::error::PushError;

/// Compression of a body: header `Content-Encoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packed {
    /// None.
    No,
    /// RFC 1952, members one after the other.
    Gzip,
    /// RFC 1951 as most clients send it, or RFC 1950 as RFC 9110 asks for.
    Deflate,
    /// RFC 8878.
    Zstd,
}

impl Packed {
    /// From the header's value; `snappy` belongs to the form of some bodies and is none here.
    pub fn of(encoding: &str) -> Result<Self, PushError> {
        match encoding.trim().to_ascii_lowercase().as_str() {
            "" | "identity" | "snappy" => Ok(Self::No),
            "gzip" | "x-gzip" => Ok(Self::Gzip),
            "deflate" => Ok(Self::Deflate),
            "zstd" => Ok(Self::Zstd),
            other => Err(PushError::Bad(format!("Content-Encoding {other:?} not supported"))),
        }
    }
}

/// Decompressed at once; memory is reserved in steps that double from there.
const STEP: usize = 64 << 10;

/// Decompresses a body; `allowed` bytes at most. Uses the CPU for as long as that takes.
pub fn unpack(body: Bytes, packed: Packed, allowed: u64, memory: &mut Reserved) -> Result<Bytes, PushError> {
    let fault = |e: std::io::Error| PushError::Bad(format!("body of the request can't be decompressed: {e}"));
    let reader: Box<dyn std::io::Read> = match packed {
        Packed::No if body.len() as u64 > allowed => {
            return Err(PushError::TooLarge { found: body.len() as u64, allowed });
        }
        Packed::No => return Ok(body),
        // The body is its own buffer.
        Packed::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(body.as_ref())),
        Packed::Deflate if is_zlib(&body) => Box::new(flate2::bufread::ZlibDecoder::new(body.as_ref())),
        Packed::Deflate => Box::new(flate2::bufread::DeflateDecoder::new(body.as_ref())),
        Packed::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(body.as_ref()).map_err(fault)?),
    };
    let mut reader = reader.take(allowed.saturating_add(1));
    let mut plain = Vec::new();
    loop {
        let more = plain.len().max(STEP);
        memory.grow(more as u64)?;
        plain.reserve_exact(more);
        // Exactly as much as there is room for: the last byte of room shows whether more would come.
        if (&mut reader).take(more as u64).read_to_end(&mut plain).map_err(fault)? < more {
            break;
        }
    }
    if plain.len() as u64 > allowed {
        return Err(PushError::TooLarge { found: plain.len() as u64, allowed });
    }
    Ok(plain.into())
}

/// Whether a deflated body starts with zlib's two bytes: method 8, and a check that is right for one in 31 others.
fn is_zlib(body: &[u8]) -> bool {
    matches!(body, [cmf, flg, ..] if cmf & 0x0f == 8 && cmf >> 4 <= 7 && (u16::from(*cmf) << 8 | u16::from(*flg)) % 31 == 0)
}

#[cfg(test)]
mod tests {
    use super::super::budget::DecodeBudget;
    use super::*;

    #[test]
    fn a_body_takes_no_more_memory_than_was_reserved() {
        let bomb = Bytes::from(zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap());
        let budget = DecodeBudget::new(1 << 20);
        let got = super::unpack(bomb, Packed::Zstd, 128 << 20, &mut budget.begin());
        assert_eq!(got, Err(PushError::Costly { found: 2 << 20, allowed: 1 << 20 }));
        assert_eq!(budget.state(), (0, 1 << 20, 1));
    }

    #[test]
    fn bodies_unpack_within_their_limit() {
        let plain = vec![b'x'; 10_000];
        let level = flate2::Compression::fast();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), level);
        let mut raw = flate2::write::DeflateEncoder::new(Vec::new(), level);
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), level);
        for writer in [&mut gzip as &mut dyn std::io::Write, &mut raw, &mut zlib] {
            writer.write_all(&plain).unwrap();
        }
        let bodies = [
            ("gzip", gzip.finish().unwrap()),
            ("Deflate", raw.finish().unwrap()),
            ("deflate", zlib.finish().unwrap()),
            ("zstd", zstd::bulk::compress(&plain, 1).unwrap()),
            ("", plain.clone()),
        ];
        let unpack = |body, packed, allowed| unpack(body, packed, allowed, &mut DecodeBudget::new(1 << 20).begin());
        for (encoding, body) in bodies {
            let packed = Packed::of(encoding).unwrap();
            let body = Bytes::from(body);
            assert_eq!(unpack(body.clone(), packed, 10_000).unwrap(), plain, "{encoding}");
            let over = unpack(body.clone(), packed, 9_999).unwrap_err();
            assert_eq!(over, PushError::TooLarge { found: 10_000, allowed: 9_999 }, "{encoding}");
            if packed != Packed::No {
                assert!(matches!(unpack(body.slice(..body.len() / 2), packed, 10_000), Err(PushError::Bad(_))));
            }
        }
        assert!(matches!(Packed::of("br"), Err(PushError::Bad(text)) if text.contains("\"br\" not supported")));
    }
}
