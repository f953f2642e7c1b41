//! What a protobuf message takes in memory once it is decoded, found without decoding it.
//!
//! In: the message, the shapes of its types. Out: bytes at most. Touches nothing, allocates nothing. An element of two bytes
//! (a tag and the length 0) becomes a structure of a hundred: whoever decodes first has lost.
//! Wire format: <https://protobuf.dev/programming-guides/encoding/>

/// A message type as far as memory is concerned.
#[derive(Debug)]
pub struct Shape {
    /// What one of it takes while it is decoded and converted, beside its own texts: its structure in lists that grow, and
    /// what is made of it.
    pub bytes: u64,
    /// Fields that are messages with messages in them, or that may be repeated, with their types.
    pub fields: &'static [(u32, &'static Shape)],
}

/// A message that can't be scanned; decoding it would fail too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// It ends within a field, or a number of it is too long.
    #[error("message is malformed at byte {0}")]
    Malformed(usize),
    /// Groups are of a time before OTLP and Loki.
    #[error("message has a group (field {0}), which is not supported")]
    Group(u32),
    /// Messages in messages.
    #[error("messages are nested deeper than {MAX_DEPTH} levels")]
    Depth,
}

/// As deep as the decoder goes.
const MAX_DEPTH: usize = 100;

/// Bytes of memory, with those of all texts.
pub fn cost(message: &[u8], shape: &'static Shape) -> Result<u64, ScanError> {
    let mut scan = Scan { message, at: 0 };
    let mut sum = message.len() as u64;
    // Ends and types of the messages that are open.
    let mut open = vec![(message.len(), shape)];
    while let Some(&(end, shape)) = open.last() {
        if scan.at >= end {
            open.pop();
            continue;
        }
        let tag = scan.number()?;
        let field = u32::try_from(tag >> 3).map_err(|_| ScanError::Malformed(scan.at))?;
        match tag & 7 {
            0 => drop(scan.number()?),
            1 => scan.skip(8, end)?,
            5 => scan.skip(4, end)?,
            2 => {
                let length = usize::try_from(scan.number()?).map_err(|_| ScanError::Malformed(scan.at))?;
                let start = scan.at;
                scan.skip(length, end)?;
                if let Some((_, inner)) = shape.fields.iter().find(|(number, _)| *number == field) {
                    sum = sum.saturating_add(inner.bytes);
                    // A text, or a message of numbers and texts: what is in it takes nothing more.
                    if inner.fields.is_empty() {
                        continue;
                    }
                    if open.len() >= MAX_DEPTH {
                        return Err(ScanError::Depth);
                    }
                    open.push((scan.at, inner));
                    scan.at = start;
                }
            }
            3 | 4 => return Err(ScanError::Group(field)),
            _ => return Err(ScanError::Malformed(scan.at)),
        }
        if scan.at > end {
            return Err(ScanError::Malformed(scan.at));
        }
    }
    Ok(sum)
}

struct Scan<'m> {
    message: &'m [u8],
    at: usize,
}

impl Scan<'_> {
    fn number(&mut self) -> Result<u64, ScanError> {
        let mut number = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.message.get(self.at).ok_or(ScanError::Malformed(self.at))?;
            self.at += 1;
            number |= u64::from(byte & 0x7f).wrapping_shl(shift);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(ScanError::Malformed(self.at))
    }

    fn skip(&mut self, count: usize, end: usize) -> Result<(), ScanError> {
        self.at = self.at.checked_add(count).filter(|at| *at <= end).ok_or(ScanError::Malformed(self.at))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    static LEAF: Shape = Shape { bytes: 10, fields: &[] };
    static NODE: Shape = Shape { bytes: 100, fields: &[(1, &LEAF), (2, &NODE)] };

    #[test]
    fn elements_are_counted_at_every_level() {
        for (message, want) in [
            (&b""[..], Ok(0)),
            // A leaf, a leaf with text, a node with a leaf in it, numbers.
            (b"\x0a\x00", Ok(12)),
            (b"\x0a\x01x\x0a\x00", Ok(25)),
            (b"\x12\x02\x0a\x00", Ok(114)),
            (b"\x08\x7f\x11\0\0\0\0\0\0\0\0\x1d\0\0\0\0\x22\x01x", Ok(19)),
            (b"\x0a", Err(ScanError::Malformed(1))),
            (b"\x0a\x05x", Err(ScanError::Malformed(2))),
            (b"\x12\x02\x0a\x05xxxxx", Err(ScanError::Malformed(4))),
            (b"\x0b", Err(ScanError::Group(1))),
            (b"\x0f", Err(ScanError::Malformed(1))),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Err(ScanError::Malformed(10))),
        ] {
            assert_eq!(cost(message, &NODE), want, "{message:?}");
        }
        let many = [0x0a, 0x00].repeat(1000);
        assert_eq!(cost(&many, &NODE), Ok(12_000));
        let mut deep = Vec::new();
        for _ in 0..120 {
            let mut outer = vec![0x12];
            prost::encoding::encode_varint(deep.len() as u64, &mut outer);
            outer.extend(deep);
            deep = outer;
        }
        assert_eq!(cost(&deep, &NODE), Err(ScanError::Depth));
    }

    proptest! {
        #[test]
        fn any_bytes_are_scanned_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _any = cost(&bytes, &NODE);
        }
    }
}
