//! Numbers with units as Go and Loki read and write them: durations, sizes, floats, quoted text.
//!
//! In: text. Out: values, and back. Touches nothing.

const NS: i128 = 1;
const US: i128 = 1_000 * NS;
const MS: i128 = 1_000 * US;
const SECOND: i128 = 1_000 * MS;
const MINUTE: i128 = 60 * SECOND;
const HOUR: i128 = 60 * MINUTE;
const DAY: i128 = 24 * HOUR;

/// Units of Prometheus's durations, in the only order in which they may stand.
const PROMETHEUS_UNITS: [(&str, i128); 7] =
    [("y", 365 * DAY), ("w", 7 * DAY), ("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", SECOND), ("ms", MS)];

/// Units of Go's durations.
const GO_UNITS: [(&str, i128); 8] =
    [("ns", NS), ("us", US), ("µs", US), ("μs", US), ("ms", MS), ("s", SECOND), ("m", MINUTE), ("h", HOUR)];

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(end)
}

/// Reads `1h30m`, `5m`, `1d`: whole numbers with units from large to small, each once. Nanoseconds.
pub fn prometheus_duration(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut units = PROMETHEUS_UNITS.iter();
    let mut total: i128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (digits, behind) = split_digits(rest);
        let count: i128 = digits.parse::<u64>().ok()?.into();
        let letters = behind.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, behind) = behind.split_at(letters);
        let (_, size) = units.by_ref().find(|(name, _)| *name == unit)?;
        total = total.checked_add(count.checked_mul(*size)?)?;
        rest = behind;
    }
    i64::try_from(total).ok()
}

/// Reads `-1.5h2m`, `850us`: Go's `time.ParseDuration`. Nanoseconds.
pub fn go_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (whole, behind) = split_digits(rest);
        let (fraction, behind) = match behind.strip_prefix('.') {
            Some(behind) => split_digits(behind),
            None => ("", behind),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = behind.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let (_, size) = GO_UNITS.iter().find(|(name, _)| *name == unit)?;
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()?.into() };
        total = total.checked_add(whole.checked_mul(*size)?)?;
        // Digits finer than a nanosecond are cut.
        total = total.checked_add(fraction_of(fraction, *size))?;
        rest = behind;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// `0.fraction * size`, cut to a whole number.
fn fraction_of(fraction: &str, size: i128) -> i128 {
    let mut value: i128 = 0;
    let mut scale: i128 = 1;
    for digit in fraction.bytes().take(18) {
        value = value * 10 + i128::from(digit - b'0');
        scale *= 10;
    }
    value * size / scale
}

/// Either form.
pub fn duration(text: &str) -> Option<i64> {
    prometheus_duration(text).or_else(|| go_duration(text))
}

/// Either form, with a sign before it.
pub fn duration_signed(text: &str) -> Option<i64> {
    match text.strip_prefix('-') {
        Some(rest) => duration(rest).map(|ns| -ns),
        None => duration(text),
    }
}

/// Writes a duration as Prometheus does: `1h30m`; what it can't say, as Go does.
pub fn show_prometheus_duration(ns: i64) -> String {
    let (sign, mut rest) = if ns < 0 { ("-", -i128::from(ns)) } else { ("", i128::from(ns)) };
    if rest == 0 {
        return "0s".to_owned();
    }
    if rest % MS != 0 {
        return show_go_duration(ns);
    }
    let mut text = sign.to_owned();
    // As Prometheus: years and weeks only when nothing remains, so that `90d` stays `90d`.
    for (unit, size, exact) in [
        ("y", 365 * DAY, true),
        ("w", 7 * DAY, true),
        ("d", DAY, false),
        ("h", HOUR, false),
        ("m", MINUTE, false),
        ("s", SECOND, false),
        ("ms", MS, false),
    ] {
        if exact && rest % size != 0 {
            continue;
        }
        let count = rest / size;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
            rest -= count * size;
        }
    }
    text
}

/// Writes a duration as Go does: `1h2m3.5s`, `850µs`.
pub fn show_go_duration(ns: i64) -> String {
    if ns == 0 {
        return "0s".to_owned();
    }
    let sign = if ns < 0 { "-" } else { "" };
    let abs = i128::from(ns).abs();
    if abs < SECOND {
        let (size, unit) = if abs < US {
            (NS, "ns")
        } else if abs < MS {
            (US, "µs")
        } else {
            (MS, "ms")
        };
        return format!("{sign}{}{unit}", decimal(abs, size));
    }
    let (hours, rest) = (abs / HOUR, abs % HOUR);
    let (minutes, rest) = (rest / MINUTE, rest % MINUTE);
    let seconds = decimal(rest, SECOND);
    if hours > 0 {
        format!("{sign}{hours}h{minutes}m{seconds}s")
    } else if minutes > 0 {
        format!("{sign}{minutes}m{seconds}s")
    } else {
        format!("{sign}{seconds}s")
    }
}

/// `value / size` without needless zeros; `size` is a power of ten.
fn decimal(value: i128, size: i128) -> String {
    let (whole, rest) = (value / size, value % size);
    if rest == 0 {
        return whole.to_string();
    }
    let width = size.to_string().len() - 1;
    let fraction = format!("{rest:0width$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

/// Units of sizes in lower case, as go-humanize reads them.
const SIZE_UNITS: [(&str, u64); 26] = [
    ("", 1),
    ("b", 1),
    ("k", 1_000),
    ("kb", 1_000),
    ("ki", 1 << 10),
    ("kib", 1 << 10),
    ("m", 1_000_000),
    ("mb", 1_000_000),
    ("mi", 1 << 20),
    ("mib", 1 << 20),
    ("g", 1_000_000_000),
    ("gb", 1_000_000_000),
    ("gi", 1 << 30),
    ("gib", 1 << 30),
    ("t", 1_000_000_000_000),
    ("tb", 1_000_000_000_000),
    ("ti", 1 << 40),
    ("tib", 1 << 40),
    ("p", 1_000_000_000_000_000),
    ("pb", 1_000_000_000_000_000),
    ("pi", 1 << 50),
    ("pib", 1 << 50),
    ("e", 1_000_000_000_000_000_000),
    ("eb", 1_000_000_000_000_000_000),
    ("ei", 1 << 60),
    ("eib", 1 << 60),
];

/// Reads `12KiB`, `1.5 MB`, `77000`: go-humanize's `ParseBytes`.
pub fn bytes(text: &str) -> Option<u64> {
    let end = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.' || *b == b',').count();
    let (number, unit) = text.split_at(end);
    let number: f64 = if number.contains(',') { number.replace(',', "").parse().ok()? } else { number.parse().ok()? };
    let unit = unit.trim().to_lowercase();
    let (_, size) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    let value = number * *size as f64;
    (value < u64::MAX as f64).then_some(value as u64)
}

/// Writes a size: as go-humanize does where that says the same, else in bytes.
pub fn show_bytes(value: u64) -> String {
    let text = show_bytes_rounded(value);
    if bytes(&text) == Some(value) { text } else { format!("{value}B") }
}

fn show_bytes_rounded(value: u64) -> String {
    if value < 10 {
        return format!("{value}B");
    }
    let (mut unit, mut size) = ("B", 1f64);
    for next in ["kB", "MB", "GB", "TB", "PB", "EB"] {
        if (value as f64) < size * 1000.0 {
            break;
        }
        unit = next;
        size *= 1000.0;
    }
    let shown = (value as f64 / size * 10.0 + 0.5).floor() / 10.0;
    if shown < 10.0 { format!("{shown:.1}{unit}") } else { format!("{shown:.0}{unit}") }
}

/// Writes a number as Go's `%v`: shortest digits, an exponent for large and small.
pub fn show_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    format!("{value}")
}

/// Quotes a text as Go's `strconv.Quote`.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if is_printable(c) => quoted.push(c),
            c if u32::from(c) < 0x1_0000 => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

/// Near to Go's `unicode.IsPrint`: no controls, no blanks but the ASCII one, no marks of format, no private use.
fn is_printable(c: char) -> bool {
    let code = u32::from(c);
    c == ' '
        || !(c.is_control()
            || c.is_whitespace()
            || code == 0xad
            || (0x200b..=0x200f).contains(&code)
            || (0x202a..=0x202e).contains(&code)
            || (0x2060..=0x206f).contains(&code)
            || code == 0xfeff
            || (0xe000..=0xf8ff).contains(&code)
            || (0xfff0..=0xfffb).contains(&code)
            || (0xfffe..=0xffff).contains(&code)
            || code >= 0xe0000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    #[test]
    fn durations_are_read() {
        for (text, want) in [
            ("5m", Some(300 * S)),
            ("1h30m", Some(5400 * S)),
            ("30m1h", None),
            ("1d", Some(86_400 * S)),
            ("1y1ms", Some(365 * 86_400 * S + 1_000_000)),
            ("0", Some(0)),
            ("", None),
            ("5", None),
            ("5x", None),
            ("1.5h", None),
            ("99999999999y", None),
        ] {
            assert_eq!(prometheus_duration(text), want, "{text}");
        }
        for (text, want) in [
            ("1.5h", Some(5400 * S)),
            ("-1m", Some(-60 * S)),
            ("850us", Some(850_000)),
            ("1h2m3.5s", Some(3723 * S + S / 2)),
            (".5s", Some(S / 2)),
            ("1d", None),
            ("s", None),
            (".s", None),
            ("1.123456789123s", Some(S + 123_456_789)),
        ] {
            assert_eq!(go_duration(text), want, "{text}");
        }
    }

    #[test]
    fn durations_are_shown() {
        for (ns, prometheus, go) in [
            (0, "0s", "0s"),
            (300 * S, "5m", "5m0s"),
            (90 * 86_400 * S, "90d", "2160h0m0s"),
            (-5400 * S, "-1h30m", "-1h30m0s"),
            (850_000, "850µs", "850µs"),
            (1_500_000_000, "1s500ms", "1.5s"),
            (14 * 86_400 * S, "2w", "336h0m0s"),
        ] {
            assert_eq!(show_prometheus_duration(ns), prometheus);
            assert_eq!(show_go_duration(ns), go);
        }
    }

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, want) in [
            ("1KB", Some(1000)),
            ("1KiB", Some(1024)),
            ("1.5 MB", Some(1_500_000)),
            ("77000", Some(77_000)),
            ("1,000B", Some(1000)),
            ("5ZB", None),
            ("B", None),
        ] {
            assert_eq!(bytes(text), want, "{text}");
        }
        for (value, want) in
            [(0, "0B"), (1000, "1.0kB"), (12_288, "12288B"), (640_000, "640kB"), (1 << 40, "1099511627776B")]
        {
            assert_eq!(show_bytes(value), want);
        }
    }

    #[test]
    fn numbers_are_shown_as_go_does() {
        for (value, want) in [
            (5.0, "5"),
            (-1.25, "-1.25"),
            (0.99, "0.99"),
            (1e6, "1e+06"),
            (123_456.5, "123456.5"),
            (1e-7, "1e-07"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(show_float(value), want);
        }
    }
}
