//! What a request must look like before a decoder may take memory for it.
//!
//! In: the body of a request. Out: fine, or what is wrong. The generated decoders reserve memory for as many elements
//! as an array announces; a few bytes could announce billions and end the process. So each body is first walked by
//! its shape, which takes no memory: when the walk reaches the end, every length in it is true.
//!
//! Notation: `1 2 4 8 16` bytes, `s` text and `b` bytes (nullable or not: the same length), `( )` array of one plain
//! part, `[ ]` array of structs, `{ }` nullable struct, each with the versions that carry it: `@3+`, `@0-7`, `@8`.
//! Tagged fields end each struct of a flexible version. Those that the decoder knows are `< N part >`, or `<< N parts >>` for a
//! struct: it reads them by their type whatever size they announce, so that the two must agree. Others are walked over.

use std::sync::OnceLock;

/// The most elements that all arrays of a request may have together: bounds what decoding can take.
const MAX_ELEMENTS: usize = 1 << 20;

/// What is wrong with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ShapeError {
    #[error("body ends within a field, {at} bytes from its start")]
    Short { at: usize },
    #[error("a length at byte {at} is out of range")]
    Length { at: usize },
    #[error("more than {MAX_ELEMENTS} elements")]
    TooMany,
}

#[derive(Debug)]
enum Part {
    Fixed(usize),
    Text,
    Bytes,
    Array(Vec<Field>, bool),
    Maybe(Vec<Field>),
    /// Number, what it holds, whether that is a struct.
    Tag(usize, Vec<Field>, bool),
}

#[derive(Debug)]
struct Field {
    part: Part,
    first: i16,
    last: i16,
}

/// The shape of one request at all its versions.
#[derive(Debug)]
pub(crate) struct Shape {
    notation: &'static str,
    fields: OnceLock<Vec<Field>>,
}

impl Shape {
    pub const fn new(notation: &'static str) -> Self {
        Self { notation, fields: OnceLock::new() }
    }

    /// Walks a body to its last field. Gives how many elements all its arrays have.
    pub fn check(&self, body: &[u8], version: i16, flexible: bool) -> Result<usize, ShapeError> {
        let fields = self.fields.get_or_init(|| parse(&mut self.notation.split_ascii_whitespace(), None));
        let mut walk = Walk { body, at: 0, version, flexible, elements: 0 };
        // Bytes after the last field are no fault: librdkafka 2.12 leaves some behind an empty list in Metadata.
        walk.fields(fields)?;
        Ok(walk.elements)
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Shape {
    /// A body of this shape, its values and lengths drawn.
    pub fn sample(&self, version: i16, flexible: bool, choices: &mut crate::fuzz_input::Choices<'_>) -> Vec<u8> {
        fn length(out: &mut Vec<u8>, flexible: bool, short: bool, length: usize) {
            match (flexible, short) {
                (true, _) => out.push(length as u8 + 1),
                (false, true) => out.extend_from_slice(&(length as u16).to_be_bytes()),
                (false, false) => out.extend_from_slice(&(length as u32).to_be_bytes()),
            }
        }
        fn fields(
            out: &mut Vec<u8>,
            of: &[Field],
            (version, flexible, tagged): (i16, bool, bool),
            choices: &mut crate::fuzz_input::Choices<'_>,
        ) {
            for field in of.iter().filter(|f| (f.first..=f.last).contains(&version)) {
                match &field.part {
                    Part::Fixed(size) => {
                        // Mostly small numbers.
                        out.extend(std::iter::repeat_n(0, size - 1));
                        out.push(choices.byte() % 4);
                    }
                    Part::Text | Part::Bytes => {
                        let count = choices.below(12);
                        length(out, flexible, matches!(field.part, Part::Text), count);
                        out.extend((0..count).map(|_| b'a' + choices.byte() % 26));
                    }
                    Part::Array(inner, structs) => {
                        let count = choices.below(4);
                        length(out, flexible, false, count);
                        for _ in 0..count {
                            fields(out, inner, (version, flexible, *structs), choices);
                        }
                    }
                    Part::Maybe(inner) => {
                        let there = choices.byte().is_multiple_of(2);
                        out.push(if there { 1 } else { 255 });
                        if there {
                            fields(out, inner, (version, flexible, true), choices);
                        }
                    }
                    Part::Tag(..) => {}
                }
            }
            if flexible && tagged {
                let known = of.iter().filter(|f| (f.first..=f.last).contains(&version));
                let chosen: Vec<_> = known
                    .filter_map(|f| match &f.part {
                        Part::Tag(number, inner, is_struct) => Some((number, inner, is_struct)),
                        _ => None,
                    })
                    .filter(|_| choices.byte().is_multiple_of(4))
                    .collect();
                out.push(chosen.len() as u8);
                for (number, inner, is_struct) in chosen {
                    let mut value = Vec::new();
                    fields(&mut value, inner, (version, flexible, *is_struct), choices);
                    out.extend([*number as u8, value.len() as u8]);
                    out.extend(value);
                }
            }
        }
        let of = self.fields.get_or_init(|| parse(&mut self.notation.split_ascii_whitespace(), None));
        let mut out = Vec::new();
        fields(&mut out, of, (version, flexible, true), choices);
        out
    }
}

/// Reads fields up to the closing sign. The notations are constants of this crate, which a test reads all.
fn parse(tokens: &mut std::str::SplitAsciiWhitespace<'static>, end: Option<&str>) -> Vec<Field> {
    let mut fields = Vec::new();
    while let Some(token) = tokens.next() {
        let (word, _) = token.split_once('@').unwrap_or((token, ""));
        if Some(word) == end {
            break;
        }
        let (part, versions) = match word {
            "[" | "(" | "{" | "<" | "<<" => {
                let close = match word {
                    "[" => "]",
                    "(" => ")",
                    "<" => ">",
                    "<<" => ">>",
                    _ => "}",
                };
                // The versions stand behind the closing sign, which the inner call consumes: look ahead for it.
                let mut ahead = tokens.clone();
                let mut depth = 0;
                let closing = ahead.find(|t| {
                    let t = t.split('@').next().unwrap_or_default();
                    depth += i32::from(t == word) - i32::from(t == close);
                    depth < 0
                });
                let number = if word.starts_with('<') { tokens.next().and_then(|n| n.parse().ok()) } else { None };
                let inner = parse(tokens, Some(close));
                let part = match (word, number) {
                    ("{", _) => Part::Maybe(inner),
                    (_, Some(number)) => Part::Tag(number, inner, word == "<<"),
                    _ => Part::Array(inner, word == "["),
                };
                (part, closing.unwrap_or_default())
            }
            "s" => (Part::Text, token),
            "b" => (Part::Bytes, token),
            size => (Part::Fixed(size.parse().unwrap_or(0)), token),
        };
        let versions = versions.split_once('@').map(|(_, v)| v).unwrap_or("0+");
        let number = |s: &str| s.parse::<i16>().unwrap_or(0);
        let (first, last) = match (versions.strip_suffix('+'), versions.split_once('-')) {
            (Some(first), _) => (number(first), i16::MAX),
            (None, Some((first, last))) => (number(first), number(last)),
            (None, None) => (number(versions), number(versions)),
        };
        fields.push(Field { part, first, last });
    }
    fields
}

struct Walk<'a> {
    body: &'a [u8],
    at: usize,
    version: i16,
    flexible: bool,
    elements: usize,
}

impl Walk<'_> {
    fn fields(&mut self, fields: &[Field]) -> Result<(), ShapeError> {
        self.plain(fields)?;
        if self.flexible { self.tags(fields) } else { Ok(()) }
    }

    fn plain(&mut self, fields: &[Field]) -> Result<(), ShapeError> {
        let version = self.version;
        for field in fields.iter().filter(|f| (f.first..=f.last).contains(&version)) {
            match &field.part {
                Part::Fixed(size) => self.skip(*size)?,
                Part::Text => {
                    let length = if self.flexible { self.compact()? } else { self.short()? };
                    self.skip(length)?;
                }
                Part::Bytes => {
                    let length = if self.flexible { self.compact()? } else { self.long()? };
                    self.skip(length)?;
                }
                Part::Array(inner, structs) => {
                    let count = if self.flexible { self.compact()? } else { self.long()? };
                    self.elements = self.elements.saturating_add(count);
                    if self.elements > MAX_ELEMENTS {
                        return Err(ShapeError::TooMany);
                    }
                    for _ in 0..count {
                        if *structs { self.fields(inner)? } else { self.plain(inner)? }
                    }
                }
                Part::Maybe(inner) => {
                    let at = self.at;
                    match i8::from_be_bytes(self.take()?) {
                        1 => self.fields(inner)?,
                        present if present < 0 => {}
                        // The decoder takes these for null and clients write none of them.
                        _ => return Err(ShapeError::Length { at }),
                    }
                }
                Part::Tag(..) => {}
            }
        }
        Ok(())
    }

    /// The tagged fields behind a struct of these fields.
    fn tags(&mut self, fields: &[Field]) -> Result<(), ShapeError> {
        let version = self.version;
        for _ in 0..self.varint()? {
            let at = self.at;
            let number = self.varint()?;
            // The decoder takes such a number for a negative one, which it can't write again.
            if i32::try_from(number).is_err() {
                return Err(ShapeError::Length { at });
            }
            let size = self.varint()?;
            let begin = self.at;
            let known = fields.iter().filter(|f| (f.first..=f.last).contains(&version)).find_map(|f| match &f.part {
                Part::Tag(of, inner, is_struct) if *of == number => Some((inner, *is_struct)),
                _ => None,
            });
            match known {
                Some((inner, true)) => self.fields(inner)?,
                Some((inner, false)) => self.plain(inner)?,
                None => self.skip(size)?,
            }
            if self.at - begin != size {
                return Err(ShapeError::Length { at: begin });
            }
        }
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], ShapeError> {
        let found = self.body.get(self.at..).and_then(|rest| rest.first_chunk::<N>());
        let found = *found.ok_or(ShapeError::Short { at: self.at })?;
        self.at += N;
        Ok(found)
    }

    fn skip(&mut self, size: usize) -> Result<(), ShapeError> {
        if size > self.body.len() - self.at {
            return Err(ShapeError::Short { at: self.at });
        }
        self.at += size;
        Ok(())
    }

    fn varint(&mut self) -> Result<usize, ShapeError> {
        let at = self.at;
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let [byte] = self.take::<1>()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map(|v| v as usize).map_err(|_| ShapeError::Length { at });
            }
        }
        Err(ShapeError::Length { at })
    }

    /// Length plus one, nought for null.
    fn compact(&mut self) -> Result<usize, ShapeError> {
        Ok(self.varint()?.saturating_sub(1))
    }

    fn short(&mut self) -> Result<usize, ShapeError> {
        let at = self.at;
        match i16::from_be_bytes(self.take()?) {
            -1 => Ok(0),
            length => usize::try_from(length).map_err(|_| ShapeError::Length { at }),
        }
    }

    fn long(&mut self) -> Result<usize, ShapeError> {
        let at = self.at;
        match i32::from_be_bytes(self.take()?) {
            -1 => Ok(0),
            length => usize::try_from(length).map_err(|_| ShapeError::Length { at }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape::new("s@1+ 4 [ 2 ( s ) b@2+ ]@1-3 { 8 }@3+")
    }

    #[test]
    fn shapes_by_version() {
        let shape = shape();
        for (version, flexible, body, want) in [
            (0, false, &b"\0\0\0\x01"[..], Ok(())),
            (0, false, b"\0\0\0", Err(ShapeError::Short { at: 0 })),
            (0, false, b"\0\0\0\x01x", Ok(())),
            (1, false, b"\0\x02ab\0\0\0\x01\0\0\0\x01\0\x07\0\0\0\x02\0\x01x\xff\xff", Ok(())),
            (1, false, b"\xff\xff\0\0\0\x01\x7f\xff\xff\xff", Err(ShapeError::TooMany)),
            (1, false, b"\xff\xff\0\0\0\x01\x00\x0f\xff\xff", Err(ShapeError::Short { at: 10 })),
            (1, false, b"\xff\xfe\0\0\0\x01\x7f\xff\xff\xff", Err(ShapeError::Length { at: 0 })),
            (2, true, b"\x01\0\0\0\x01\x02\0\x07\x01\x03xy\0\0", Ok(())),
            (3, true, b"\x00\0\0\0\x01\x01\xff\0", Ok(())),
            (3, true, b"\x00\0\0\0\x01\x01\x0112345678\0\x01\x05\x03abc", Ok(())),
            (3, true, b"\x00\0\0\0\x01\x01\0\0", Err(ShapeError::Length { at: 6 })),
            (3, true, b"\x00\0\0\0\x01\x01\x02\0", Err(ShapeError::Length { at: 6 })),
            (3, true, b"\x00\0\0\0\x01\x01\xff\xff\xff\xff\xff\xff\x01", Err(ShapeError::Length { at: 7 })),
        ] {
            assert_eq!(shape.check(body, version, flexible).map(|_| ()), want, "version {version}: {body:?}");
        }
    }

    #[test]
    fn known_tags_have_the_size_of_their_type() {
        let shape = Shape::new("1 < 0 s >@1+ << 1 2 >>@2+");
        for (version, body, want) in [
            (1, &b"\x07\x01\x00\x03\x03ab"[..], Ok(())),
            (1, b"\x07\x01\x00\x02\x03ab", Err(ShapeError::Length { at: 4 })),
            (1, b"\x07\x01\x00\x00\x03ab", Err(ShapeError::Length { at: 4 })),
            (1, b"\x07\x01\x00\x05\x03ab\0\0", Err(ShapeError::Length { at: 4 })),
            (1, b"\x07\x01\x01\x02ab", Ok(())),
            (1, b"\x07\x01\xff\xff\xff\xff\x07\x02ab", Ok(())),
            (1, b"\x07\x01\xff\xff\xff\xff\x0f\x02ab", Err(ShapeError::Length { at: 2 })),
            (2, b"\x07\x01\x01\x02ab", Err(ShapeError::Short { at: 6 })),
            (2, b"\x07\x01\x01\x03ab\0", Ok(())),
        ] {
            assert_eq!(shape.check(body, version, true).map(|_| ()), want, "version {version}: {body:?}");
        }
    }
}
