//! Reads JSON from the front and stops at the first fault, as Loki's reader does; shared by `json` and `unpack`.
//!
//! In: bytes. Out: fields of an object one by one, as slices of the bytes. Touches nothing.

use std::borrow::Cow;

/// A value as it stands in the text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'l> {
    /// Between the quotes, escapes not read.
    String(&'l [u8]),
    /// As written.
    Number(&'l [u8]),
    Bool(bool),
    Null,
    /// With its braces.
    Object(&'l [u8]),
    /// With its brackets.
    Array(&'l [u8]),
}

pub(super) const BAD_OBJECT: &str = "Value looks like object, but can't find closing '}' symbol";
const BAD_ARRAY: &str = "Value is array, but can't find closing ']' symbol";
const BAD_STRING: &str = "Value is string, but can't find closing '\"' symbol";
const BAD_VALUE: &str = "Value looks like Number/Boolean/None, but can't find its end: ',' or '}' symbol";
const BAD_JSON: &str = "Malformed JSON error";
const UNKNOWN_VALUE: &str = "Unknown value type";

/// What a visitor wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    GoOn,
    Enough,
}

fn blanks(text: &[u8]) -> &[u8] {
    let count = text.iter().take_while(|b| matches!(b, b' ' | b'\n' | b'\r' | b'\t')).count();
    text.get(count..).unwrap_or_default()
}

/// Splits behind the closing quote; `text` starts behind the opening one.
fn string(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut from = 0;
    loop {
        let at = from + memchr::memchr2(b'"', b'\\', text.get(from..)?)?;
        if text.get(at) == Some(&b'"') {
            return Some((text.get(..at)?, text.get(at + 1..)?));
        }
        from = at + 2;
    }
}

/// Length of a block with its marks; strings inside may hold them.
fn block(text: &[u8], open: u8, close: u8) -> Option<usize> {
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(&b) = text.get(at) {
        if b == b'"' {
            let (_, rest) = string(text.get(at + 1..)?)?;
            at = text.len() - rest.len();
            continue;
        }
        if b == open {
            depth += 1;
        } else if b == close {
            depth -= 1;
            if depth == 0 {
                return Some(at + 1);
            }
        }
        at += 1;
    }
    None
}

/// The value at the front, and what follows.
pub(super) fn value(text: &[u8]) -> Result<(Value<'_>, &[u8]), &'static str> {
    let text = blanks(text);
    let cut = |length: usize| (text.get(..length).unwrap_or_default(), text.get(length..).unwrap_or_default());
    match text.first() {
        None => Err(BAD_JSON),
        Some(b'"') => {
            let (inside, rest) = string(text.get(1..).unwrap_or_default()).ok_or(BAD_STRING)?;
            Ok((Value::String(inside), rest))
        }
        Some(b'{') => {
            let (object, rest) = cut(block(text, b'{', b'}').ok_or(BAD_OBJECT)?);
            Ok((Value::Object(object), rest))
        }
        Some(b'[') => {
            let (array, rest) = cut(block(text, b'[', b']').ok_or(BAD_ARRAY)?);
            Ok((Value::Array(array), rest))
        }
        Some(first) => {
            let ends = |b: &u8| matches!(b, b' ' | b'\n' | b'\r' | b'\t' | b',' | b'}' | b']');
            let (word, rest) = cut(text.iter().position(ends).ok_or(BAD_VALUE)?);
            match (first, word) {
                (_, b"true") => Ok((Value::Bool(true), rest)),
                (_, b"false") => Ok((Value::Bool(false), rest)),
                (_, b"null") => Ok((Value::Null, rest)),
                (b'0'..=b'9' | b'-', number) => Ok((Value::Number(number), rest)),
                _ => Err(UNKNOWN_VALUE),
            }
        }
    }
}

/// Visits the fields of an object. What stands behind a fault is not visited.
pub(super) fn fields<'l>(
    text: &'l [u8],
    mut visit: impl FnMut(&'l [u8], Value<'l>) -> Result<Flow, &'static str>,
) -> Result<Flow, &'static str> {
    let mut rest = blanks(blanks(text).strip_prefix(b"{").ok_or(BAD_OBJECT)?);
    loop {
        match rest.first() {
            Some(b'"') => {}
            // Also behind a comma.
            Some(b'}') => return Ok(Flow::GoOn),
            _ => return Err(BAD_OBJECT),
        }
        let (key, behind) = string(rest.get(1..).unwrap_or_default()).ok_or(BAD_JSON)?;
        let behind = blanks(behind).strip_prefix(b":").ok_or(BAD_JSON)?;
        let (found, behind) = value(behind)?;
        if visit(key, found)? == Flow::Enough {
            return Ok(Flow::Enough);
        }
        match blanks(behind) {
            [b'}', ..] => return Ok(Flow::GoOn),
            [b',', behind @ ..] => rest = blanks(behind),
            [] => return Err(BAD_ARRAY),
            _ => return Err(BAD_OBJECT),
        }
    }
}

/// The n-th element of an array.
pub(super) fn element(array: &[u8], index: usize) -> Option<Value<'_>> {
    let mut rest = blanks(array).strip_prefix(b"[")?;
    for at in 0.. {
        if blanks(rest).first() == Some(&b']') {
            return None;
        }
        let (found, behind) = value(rest).ok()?;
        if at == index {
            return Some(found);
        }
        rest = blanks(behind).strip_prefix(b",")?;
    }
    None
}

/// Text of a string value: escapes read; "" where they can't be, or where it is no text.
pub(super) fn text(inside: &[u8]) -> Cow<'_, str> {
    if memchr::memchr(b'\\', inside).is_none() {
        let text = std::str::from_utf8(inside).unwrap_or("");
        return Cow::Borrowed(if text.contains('\u{fffd}') { "" } else { text });
    }
    let text = unescape(inside).unwrap_or_default();
    if text.contains('\u{fffd}') { Cow::Borrowed("") } else { Cow::Owned(text) }
}

/// Reads escapes of JSON.
pub(super) fn unescape(inside: &[u8]) -> Option<String> {
    let mut out = Vec::with_capacity(inside.len());
    let mut rest = inside;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(rest.get(..at)?);
        let escape = *rest.get(at + 1)?;
        rest = rest.get(at + 2..)?;
        match escape {
            b'"' | b'\\' | b'/' | b'\'' => out.push(escape),
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'u' => {
                let mut code = u32::from(hex4(rest)?);
                rest = rest.get(4..)?;
                if (0xd800..0xdc00).contains(&code) {
                    let low = u32::from(hex4(rest.strip_prefix(b"\\u")?)?);
                    if !(0xdc00..0xe000).contains(&low) {
                        return None;
                    }
                    code = 0x1_0000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                    rest = rest.get(6..)?;
                }
                let c = char::from_u32(code)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return None,
        }
    }
    out.extend_from_slice(rest);
    String::from_utf8(out).ok()
}

fn hex4(text: &[u8]) -> Option<u16> {
    let digits = std::str::from_utf8(text.get(..4)?).ok()?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<(String, String)>, Option<&'static str>) {
        let mut found = Vec::new();
        let end = fields(text.as_bytes(), |key, value| {
            found.push((String::from_utf8_lossy(key).into_owned(), format!("{value:?}").chars().take(6).collect()));
            Ok(Flow::GoOn)
        });
        (found, end.err())
    }

    #[test]
    fn reads_from_the_front_until_a_fault() {
        for (text, count, fault) in [
            (r#"{"a":1,"b":"x"} trailing"#, 2, None),
            (r#"{"a":1,}"#, 1, None),
            ("{}", 0, None),
            ("{bad:1}", 0, Some(BAD_OBJECT)),
            ("null", 0, Some(BAD_OBJECT)),
            ("", 0, Some(BAD_OBJECT)),
            (r#"{"a":1,"msg":"cut off"#, 1, Some(BAD_STRING)),
            (r#"{"a":{"b":1"#, 0, Some(BAD_OBJECT)),
            (r#"{"a":x}"#, 0, Some(UNKNOWN_VALUE)),
            (r#"{"a":1"#, 0, Some(BAD_VALUE)),
            (r#"{"a":"1""#, 1, Some(BAD_ARRAY)),
            (r#"{"a" 1}"#, 0, Some(BAD_JSON)),
        ] {
            let (found, error) = read(text);
            assert_eq!((found.len(), error), (count, fault), "{text}");
        }
    }

    #[test]
    fn escapes_are_read() {
        for (inside, want) in [
            (r"a\nb", "a\nb"),
            (r"\u00e9 \ud83d\ude00", "é 😀"),
            (r"\ud83d", ""),
            (r"\z", ""),
            ("plain", "plain"),
            (r"\ufffd", ""),
        ] {
            assert_eq!(text(inside.as_bytes()), want, "{inside}");
        }
    }

    #[test]
    fn elements_are_found() {
        let array = br#"[1, "x", {"a":[2]}, [3,4]]"#;
        assert_eq!(element(array, 1), Some(Value::String(b"x")));
        assert_eq!(element(array, 3), Some(Value::Array(b"[3,4]")));
        assert_eq!(element(array, 4), None);
        assert_eq!(element(b"[]", 0), None);
    }
}
