//! Where lines end in text of one byte or two bytes a unit.
//!
//! In: bytes that begin with a whole unit. Out: places. Touches nothing.

use memchr::{memchr, memchr_iter, memrchr, memrchr_iter};

/// How a line ends in an encoding. In UTF-16 the byte of a line end may be half of something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineEnd {
    /// One byte, as in UTF-8 and Latin-1.
    Byte,
    /// Two bytes, the lower one first.
    Utf16Le,
    /// Two bytes, the upper one first.
    Utf16Be,
}

impl LineEnd {
    /// Bytes of a unit.
    pub fn unit(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Utf16Le | Self::Utf16Be => 2,
        }
    }

    /// Where the second line begins; `None` if the first one has no end.
    pub fn after_first(self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Byte => memchr(b'\n', bytes).map(|at| at + 1),
            Self::Utf16Le | Self::Utf16Be => memchr_iter(b'\n', bytes).find_map(|at| self.after(bytes, at)),
        }
    }

    /// Where the last line begins that has a line end before it.
    pub fn after_last(self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Byte => memrchr(b'\n', bytes).map(|at| at + 1),
            Self::Utf16Le | Self::Utf16Be => memrchr_iter(b'\n', bytes).find_map(|at| self.after(bytes, at)),
        }
    }

    /// The end of the unit whose byte at a place is that of a line end, if the other is what it has to be.
    fn after(self, bytes: &[u8], at: usize) -> Option<usize> {
        let place = usize::from(self == Self::Utf16Be);
        (at % 2 == place && bytes.get(at ^ 1) == Some(&0)).then(|| at - place + 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_are_whole_units() {
        use LineEnd::{Byte, Utf16Be, Utf16Le};
        type Case<'a> = (LineEnd, &'a [u8], Option<usize>, Option<usize>);
        let cases: &[Case<'_>] = &[
            (Byte, b"a\nb\nc", Some(2), Some(4)),
            (Byte, b"abc", None, None),
            (Utf16Le, b"a\0\n\0b\0\n\0c\0", Some(4), Some(8)),
            (Utf16Be, b"\0a\0\n\0b\0\n\0c", Some(4), Some(8)),
            // U+0A0A, U+000A across two units, and half a unit at the end.
            (Utf16Le, b"\n\na\n\0b", None, None),
            (Utf16Be, b"\n\n\na", None, None),
            (Utf16Le, b"a\0\n", None, None),
            (Utf16Be, b"", None, None),
        ];
        for (end, bytes, first, last) in cases {
            assert_eq!((end.after_first(bytes), end.after_last(bytes)), (*first, *last), "{end:?} {bytes:?}");
        }
    }
}
