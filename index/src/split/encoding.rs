//! Numbers, texts and label sets as bytes: written, and read from bytes that may be anything.
//!
//! In and out: bytes. Touches nothing. Numbers are LEB128 varints, signed ones in zigzag; texts have their length in front.

use millrace_log::record::Labels;

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text);
}

pub(super) fn put_labels(out: &mut Vec<u8>, labels: &Labels) {
    put_varint(out, labels.len() as u64);
    for (name, value) in labels.iter() {
        put_text(out, name.as_bytes());
        put_text(out, value.as_bytes());
    }
}

/// Reads from bytes that may be anything.
pub(super) struct Cursor<'a> {
    pub bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or("it ends early")?;
        self.bytes = rest;
        Ok(taken)
    }

    pub fn u32(&mut self) -> Result<u32, &'static str> {
        self.take(4)?.first_chunk().map(|b| u32::from_le_bytes(*b)).ok_or("it ends early")
    }

    pub fn u64(&mut self) -> Result<u64, &'static str> {
        self.take(8)?.first_chunk().map(|b| u64::from_le_bytes(*b)).ok_or("it ends early")
    }

    pub fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0u64;
        for (i, &byte) in self.bytes.iter().enumerate().take(10) {
            if i == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.take(i + 1)?;
                return Ok(value);
            }
        }
        Err("a number is not ended")
    }

    pub fn zigzag(&mut self) -> Result<i64, &'static str> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub fn text(&mut self) -> Result<&'a [u8], &'static str> {
        let len = usize::try_from(self.varint()?).map_err(|_| "a text is too long")?;
        self.take(len)
    }

    pub fn str(&mut self) -> Result<&'a str, &'static str> {
        std::str::from_utf8(self.text()?).map_err(|_| "a text is not UTF-8")
    }

    pub fn labels(&mut self) -> Result<Labels, &'static str> {
        let count = self.varint()? as usize;
        if count > self.bytes.len() {
            return Err("it has more labels than bytes");
        }
        let mut pairs = Vec::with_capacity(count);
        for _ in 0..count {
            pairs.push((self.str()?, self.str()?));
        }
        Ok(Labels::new(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_read_back(value: u64, signed: i64) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            put_zigzag(&mut bytes, signed);
            let mut from = Cursor { bytes: &bytes };
            prop_assert_eq!((from.varint(), from.zigzag(), from.bytes.len()), (Ok(value), Ok(signed), 0));
        }
    }
}
