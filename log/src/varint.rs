//! Numbers within records: zigzag, seven bits to a byte (<https://kafka.apache.org/documentation/#record>).
//!
//! In: a number. Out: its bytes, or how many these are. Touches nothing. Reading is left to those who know what they read
//! from: a slice of our own, or what a decompressor gives.

const fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)).cast_unsigned()
}

/// Bytes that a number takes.
pub const fn size_of_varint(n: i64) -> usize {
    // At least one byte.
    (64 - (zigzag(n) | 1).leading_zeros() as usize).div_ceil(7)
}

/// Writes a number.
pub fn put_varint(out: &mut Vec<u8>, n: i64) {
    let mut rest = zigzag(n);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
