//! How a source is found again when its file was renamed, copied, or its inode given to another file.
//!
//! In: bytes. Out: hashes of a file's head and of what stands before a position. Touches nothing.
//!
//! A file *is* a source if it still has the head that was recorded (as long as the file was then, up to the
//! configured size) and the same bytes before the position that was reached: files that begin with the same banner
//! differ in the second. Hashes are kept on disk, so the function must never change: FNV-1a, 64 bits.

use serde::{Deserialize, Serialize};

/// Bytes before a position that are compared.
pub const TAIL_BYTES: usize = 256;

/// A length and the hash of so many bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Print {
    /// How many bytes.
    pub len: u32,
    /// Their FNV-1a hash.
    pub hash: u64,
}

impl Print {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self { len, hash }
    }

    /// Whether `bytes` begin with what was printed.
    pub fn begins(&self, bytes: &[u8]) -> bool {
        bytes.get(..self.len as usize).is_some_and(|head| Self::of(head) == *self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_the_published_one() {
        // http://www.isthe.com/chongo/tech/comp/fnv/: test vectors of FNV-1a, 64 bits.
        for (bytes, want) in
            [(&b""[..], 0xcbf2_9ce4_8422_2325), (b"a", 0xaf63_dc4c_8601_ec8c), (b"foobar", 0x8594_4171_f739_67e8)]
        {
            assert_eq!(Print::of(bytes).hash, want);
        }
    }

    #[test]
    fn growing_file_keeps_its_print() {
        let print = Print::of(b"short");
        assert!(print.begins(b"short and longer"));
        assert!(!print.begins(b"shor"));
        assert!(!print.begins(b"other text"));
    }
}
