//! How Go prints numbers, strings and times: rule templates, group keys and payloads must read as those of
//! Prometheus and Alertmanager do, because tools parse them.
//!
//! In: values. Out: text. Touches nothing.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat};

/// What Go's zero time looks like: the end of an alert that still fires.
pub const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// A number as Go's `%v` prints a float64: shortest digits, with an exponent below 1e-4 and from 1e6 on:
/// `0.25`, `123456`, `1.073741824e+09`, `1e-05`.
pub fn float(value: f64) -> String {
    if let Some(text) = special(value) {
        return text.to_owned();
    }
    let (negative, digits, exponent) = decimal(value);
    if !(-4..6).contains(&exponent) {
        return scientific(negative, &digits, exponent);
    }
    let mut text = String::new();
    if negative {
        text.push('-');
    }
    if exponent < 0 {
        text.push_str("0.");
        for _ in 1..-exponent {
            text.push('0');
        }
        text.push_str(&digits);
        return text;
    }
    let whole = usize::try_from(exponent).unwrap_or(0) + 1;
    for (at, digit) in digits.chars().chain(std::iter::repeat('0')).take(whole.max(digits.len())).enumerate() {
        if at == whole {
            text.push('.');
        }
        text.push(digit);
    }
    text
}

/// A number as Prometheus's API prints the value of an alert (`strconv.FormatFloat(v, 'e', -1, 64)`): `1e+00`, `2.5e-01`.
pub fn float_e(value: f64) -> String {
    if let Some(text) = special(value) {
        return text.to_owned();
    }
    let (negative, digits, exponent) = decimal(value);
    scientific(negative, &digits, exponent)
}

fn special(value: f64) -> Option<&'static str> {
    if value.is_nan() {
        Some("NaN")
    } else if value == f64::INFINITY {
        Some("+Inf")
    } else if value == f64::NEG_INFINITY {
        Some("-Inf")
    } else {
        None
    }
}

/// Sign, shortest digits without zeros at the end, and the power of ten of the first digit.
fn decimal(value: f64) -> (bool, String, i32) {
    let text = format!("{:e}", value.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    (value.is_sign_negative(), digits, exponent.parse().unwrap_or(0))
}

fn scientific(negative: bool, digits: &str, exponent: i32) -> String {
    let mut text = String::new();
    if negative {
        text.push('-');
    }
    for (at, digit) in digits.chars().enumerate() {
        if at == 1 {
            text.push('.');
        }
        text.push(digit);
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    // Writing to a String can't fail.
    write!(text, "e{sign}{:02}", exponent.unsigned_abs()).ok();
    text
}

/// A string as Go's `%q` prints it: double quotes, escapes for quotes, backslashes and what does not print.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => {
                write!(out, "\\x{:02x}", c as u32).ok();
            }
            c if prints(c) => out.push(c),
            c if (c as u32) < 0x1_0000 => {
                write!(out, "\\u{:04x}", c as u32).ok();
            }
            c => {
                write!(out, "\\U{:08x}", c as u32).ok();
            }
        }
    }
    out.push('"');
    out
}

/// Nearly Go's `unicode.IsPrint`: no controls, no blanks but the space, no marks of order, no private or unset ends.
fn prints(c: char) -> bool {
    let code = c as u32;
    !(c.is_control()
        || (c != ' ' && c.is_whitespace())
        || matches!(code, 0xad | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x206f | 0xfeff | 0xfff9..=0xfffb)
        || matches!(code, 0xe000..=0xf8ff | 0xf_0000..)
        || code & 0xfffe == 0xfffe)
}

/// A time as Go's RFC3339Nano in UTC: the fraction without zeros at its end, none when whole.
pub fn time(ns: i64) -> String {
    let time = DateTime::from_timestamp_nanos(ns).naive_utc();
    let mut text = time.format("%Y-%m-%dT%H:%M:%S").to_string();
    let fraction = ns.rem_euclid(1_000_000_000);
    if fraction != 0 {
        let digits = format!("{fraction:09}");
        text.push('.');
        text.push_str(digits.trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// A time as the Alertmanager API prints it: milliseconds, always three digits, UTC.
pub fn time_ms(ns: i64) -> String {
    DateTime::from_timestamp_nanos(ns).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// JSON as Go's encoder writes it: `<`, `>`, `&` and the two line separators escaped, a line end behind.
pub fn json_line(value: &impl serde::Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let text = serde_json::to_string(value)?;
    let mut out = String::with_capacity(text.len() + 64);
    for c in text.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out.push('\n');
    Ok(out.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_go_prints_them() {
        for (value, want) in [
            (0.0, "0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.25, "0.25"),
            (1.0 / 3.0, "0.3333333333333333"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (100.0, "100"),
            (123_456.0, "123456"),
            (999_999.5, "999999.5"),
            (1e20, "1e+20"),
            (1e21, "1e+21"),
            (1_000_000.0, "1e+06"),
            (1_234_567.0, "1.234567e+06"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(float(value), want, "{value}");
        }
        for (value, want) in [(0.0, "0e+00"), (1.0, "1e+00"), (0.25, "2.5e-01"), (-1e100, "-1e+100")] {
            assert_eq!(float_e(value), want);
        }
    }

    #[test]
    fn strings_quote_as_go_quotes_them() {
        for (text, want) in [
            ("a", r#""a""#),
            ("a\"b\\c\n\t\u{1}", r#""a\"b\\c\n\t\x01""#),
            ("größe", r#""größe""#),
            ("a\u{200b}b\u{a0}", r#""a\u200bb\u00a0""#),
        ] {
            assert_eq!(quote(text), want);
        }
    }

    #[test]
    fn times_drop_zeros_at_the_end_of_the_fraction() {
        for (ns, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_500_000_000, "1970-01-01T00:00:01.5Z"),
            (1, "1970-01-01T00:00:00.000000001Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
        ] {
            assert_eq!(time(ns), want);
        }
        assert_eq!(time_ms(1_500_000_000), "1970-01-01T00:00:01.500Z");
    }
}
