//! Go's literals: quoted and raw texts, characters, numbers.
//!
//! In: tokens as written. Out: values, or nothing where they are invalid. Touches nothing.

use crate::tree::OperandKind;

/// The value of `"…"`.
pub(crate) fn quoted(token: &str) -> Option<String> {
    let inside = token.strip_prefix('"')?.strip_suffix('"')?;
    let mut bytes: Vec<u8> = Vec::with_capacity(inside.len());
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => escape(&mut chars, '"', &mut bytes)?,
            c => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The value of `` `…` ``: Go drops carriage returns.
pub(crate) fn raw(token: &str) -> String {
    token.trim_matches('`').replace('\r', "")
}

/// The value of `'c'`.
pub(crate) fn character(token: &str) -> Option<char> {
    let inside = token.strip_prefix('\'')?.strip_suffix('\'')?;
    let mut chars = inside.chars();
    let c = match chars.next()? {
        '\\' => {
            let mut bytes = Vec::new();
            escape(&mut chars, '\'', &mut bytes)?;
            match bytes.as_slice() {
                [byte] => char::from(*byte),
                _ => std::str::from_utf8(&bytes).ok()?.chars().next()?,
            }
        }
        c => c,
    };
    chars.next().is_none().then_some(c)
}

fn escape(chars: &mut std::str::Chars<'_>, quote: char, out: &mut Vec<u8>) -> Option<()> {
    let letter = chars.next()?;
    let mut digits = |count: usize, radix: u32, first: u32| -> Option<u32> {
        let mut value = first;
        for _ in 0..count {
            value = value.checked_mul(radix)?.checked_add(chars.next()?.to_digit(radix)?)?;
        }
        Some(value)
    };
    let byte = match letter {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' => b'\\',
        'x' => u8::try_from(digits(2, 16, 0)?).ok()?,
        'u' | 'U' => {
            let c = char::from_u32(digits(if letter == 'u' { 4 } else { 8 }, 16, 0)?)?;
            out.extend(c.encode_utf8(&mut [0; 4]).bytes());
            return Some(());
        }
        c if c == quote => u8::try_from(c).ok()?,
        c => u8::try_from(digits(2, 8, c.to_digit(8)?)?).ok()?,
    };
    out.push(byte);
    Some(())
}

/// A number as written: whole where it has neither point nor exponent.
pub(crate) fn number(text: &str) -> Option<OperandKind> {
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let lower = digits.to_ascii_lowercase();
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = lower.strip_prefix(prefix) {
            return i64::from_str_radix(digits, radix).ok().map(|n| OperandKind::Int(sign * n));
        }
    }
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        let octal = digits.len() > 1 && digits.starts_with('0');
        let value = i64::from_str_radix(digits, if octal { 8 } else { 10 }).ok()?;
        return Some(OperandKind::Int(sign * value));
    }
    let value: f64 = lower.parse().ok()?;
    let value = if sign < 0 { -value } else { value };
    value.is_finite().then_some(OperandKind::Float(value))
}
