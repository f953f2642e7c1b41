//! Texts and bytes as records of `__consumer_offsets` hold them: lengths first, big-endian.
//!
//! In: texts, bytes. Out: their layout, and back. Touches nothing.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// Longest text that fits the layout.
const MAX_TEXT: usize = i16::MAX as usize;

pub(super) fn put_text(out: &mut BytesMut, text: &str) {
    // Longer names and notes can't come: the wire's own lengths and the limits on metadata forbid it.
    let bytes = text.as_bytes().get(..text.len().min(MAX_TEXT)).unwrap_or_default();
    out.put_i16(i16::try_from(bytes.len()).unwrap_or(i16::MAX));
    out.put_slice(bytes);
}

pub(super) fn put_nullable(out: &mut BytesMut, text: Option<&str>) {
    match text {
        Some(text) => put_text(out, text),
        None => out.put_i16(-1),
    }
}

pub(super) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
    out.put_slice(bytes);
}

pub(super) fn nullable(from: &mut Bytes) -> Option<Option<String>> {
    let Ok(length) = usize::try_from(from.try_get_i16().ok()?) else { return Some(None) };
    if from.len() < length {
        return None;
    }
    String::from_utf8(from.split_to(length).to_vec()).ok().map(Some)
}

pub(super) fn text(from: &mut Bytes) -> Option<String> {
    nullable(from).map(Option::unwrap_or_default)
}

pub(super) fn bytes(from: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(from.try_get_i32().ok()?).ok()?;
    (from.len() >= length).then(|| from.split_to(length))
}
