//! Reads zigzag varints, the numbers within records (<https://kafka.apache.org/documentation/#record>).
//!
//! In: a slice, or what a decompressor gives. Out: a number and its size. Touches nothing. Writing is in
//! [`millrace_log::varint`].

use std::io::{self, BufRead};

/// A zigzag number and how many bytes it took.
pub(super) fn varint(from: &mut impl BufRead) -> io::Result<(i64, u64)> {
    let mut value: u64 = 0;
    for n in 0..10_u64 {
        let byte = *from.fill_buf()?.first().ok_or(io::ErrorKind::UnexpectedEof)?;
        from.consume(1);
        value |= u64::from(byte & 0x7f).wrapping_shl(7 * n as u32);
        if byte & 0x80 == 0 {
            return Ok(((value >> 1) as i64 ^ -((value & 1) as i64), n + 1));
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "number of more than 10 bytes"))
}
