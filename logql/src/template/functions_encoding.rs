//! Template functions on encodings: URLs, base64, quantities, times.
//!
//! In: arguments. Out: texts, numbers, times, or Go's messages. Touches nothing.

use super::arguments::{Arguments, text};
use super::date;
use super::value::Value;
use crate::syntax::go_number;

/// Calls one of them. `None`: the name is not one of these.
pub(super) fn call(name: &str, a: &Arguments<'_>) -> Result<Option<Value>, String> {
    let value = match name {
        "urlencode" | "urlquery" => text(url_encode(a.text(0)?)),
        "urldecode" => url_decode(a.text(0)?).map(Value::Text).map_err(|e| a.failed(e)),
        "bytes" => go_number::bytes(a.text(0)?).map(|b| Value::Float(b as f64)).map_err(|e| a.failed(e)),
        "duration" | "duration_seconds" => {
            go_number::duration(a.text(0)?).map(|ns| Value::Float(ns as f64 / 1e9)).map_err(|e| a.failed(e))
        }
        "unixEpoch" => text(a.time(0)?.div_euclid(1_000_000_000).to_string()),
        "unixEpochMillis" => text(a.time(0)?.div_euclid(1_000_000).to_string()),
        "unixEpochNanos" => text(a.time(0)?.to_string()),
        "unixToTime" => unix_to_time(a.text(0)?).map(Value::Time).map_err(|e| a.failed(e)),
        "date" => match a.value(1) {
            Value::Time(ns) => text(date::format(*ns, a.text(0)?)),
            Value::Int(seconds) => text(date::format(seconds.saturating_mul(1_000_000_000), a.text(0)?)),
            other => Err(a.failed(format!("{} is not a time", other.kind()))),
        },
        "b64enc" => text(base64_encode(a.text(0)?.as_bytes())),
        "b64dec" => text(base64_decode(a.text(0)?)),
        _ => return Ok(None),
    };
    value.map(Some)
}

fn url_encode(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    for byte in source.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn url_decode(source: &str) -> Result<String, String> {
    let mut out = Vec::with_capacity(source.len());
    let mut rest = source.as_bytes();
    while let [byte, behind @ ..] = rest {
        rest = behind;
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let digits = behind.get(..2).and_then(|d| std::str::from_utf8(d).ok());
                match digits.and_then(|d| u8::from_str_radix(d, 16).ok()) {
                    Some(byte) => out.push(byte),
                    None => {
                        let shown = String::from_utf8_lossy(behind.get(..behind.len().min(2)).unwrap_or_default());
                        return Err(format!("invalid URL escape \"%{shown}\""));
                    }
                }
                rest = behind.get(2..).unwrap_or_default();
            }
            byte => out.push(*byte),
        }
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// The number of digits determines the unit.
fn unix_to_time(source: &str) -> Result<i64, String> {
    let number: i64 = source.parse().map_err(|_| {
        let quoted = crate::syntax::quantity::quote(source);
        format!("unable to parse time '{source}': strconv.ParseInt: parsing {quoted}: invalid syntax")
    })?;
    let scale = match source.len() {
        5 => 86_400 * 1_000_000_000,
        10 => 1_000_000_000,
        13 => 1_000_000,
        16 => 1_000,
        19 => 1,
        _ => return Err(format!("unable to parse time '{source}': unknown time format")),
    };
    Ok(number.saturating_mul(scale))
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64_encode(source: &[u8]) -> String {
    let mut out = String::with_capacity(source.len().div_ceil(3) * 4);
    for chunk in source.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, b| (bits << 8) | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let six = usize::try_from((bits >> (18 - 6 * i)) & 63).unwrap_or(0);
            if i <= chunk.len() {
                out.push(char::from(*BASE64.get(six).unwrap_or(&b'A')));
            } else {
                out.push('=');
            }
        }
    }
    out
}

/// With or without padding; invalid base64 gives the text of the error, as in Sprig.
fn base64_decode(source: &str) -> String {
    let mut out = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    let body = source.trim_end_matches('=');
    for (at, byte) in body.bytes().enumerate() {
        let Some(six) = BASE64.iter().position(|b| *b == byte) else {
            return format!("illegal base64 data at input byte {at}");
        };
        bits = (bits << 6) | u32::try_from(six).unwrap_or(0);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from((bits >> count) & 255).unwrap_or(0));
        }
    }
    if body.len() % 4 == 1 {
        return format!("illegal base64 data at input byte {}", body.len() - 1);
    }
    String::from_utf8_lossy(&out).into_owned()
}
