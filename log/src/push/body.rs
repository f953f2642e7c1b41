//! Compressed bodies of HTTP requests, unpacked within a limit.
//!
//! In: a body and its `Content-Encoding`. Out: what is in it, or why it can't be used. Touches nothing.

use std::io::Read as _;

use bytes::Bytes;

/// Why a body can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// Not as its headers say, or not as expected.
    #[error("{0}")]
    Bad(String),
    /// Nothing in it to store.
    #[error("{0}")]
    Empty(String),
    /// Beyond a limit when decompressed.
    #[error("body has {found} bytes decompressed, {allowed} are allowed")]
    TooLarge {
        /// The size found, or the first beyond the limit.
        found: u64,
        /// The limit.
        allowed: u64,
    },
}

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

/// Decompresses a body; `allowed` bytes at most. Uses the CPU for as long as that takes.
pub fn unpack(body: Bytes, packed: Packed, allowed: u64) -> Result<Bytes, PushError> {
    let fault = |e: std::io::Error| PushError::Bad(format!("body of the request can't be decompressed: {e}"));
    let reader: Box<dyn std::io::Read> = match packed {
        Packed::No if body.len() as u64 > allowed => {
            return Err(PushError::TooLarge { found: body.len() as u64, allowed });
        }
        Packed::No => return Ok(body),
        Packed::Gzip => Box::new(flate2::read::MultiGzDecoder::new(body.as_ref())),
        Packed::Deflate if is_zlib(&body) => Box::new(flate2::read::ZlibDecoder::new(body.as_ref())),
        Packed::Deflate => Box::new(flate2::read::DeflateDecoder::new(body.as_ref())),
        Packed::Zstd => Box::new(zstd::stream::read::Decoder::new(body.as_ref()).map_err(fault)?),
    };
    let mut plain = Vec::new();
    reader.take(allowed.saturating_add(1)).read_to_end(&mut plain).map_err(fault)?;
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

    use super::*;

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
