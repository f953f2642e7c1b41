//! Numbers, sizes and times as people read them, the same in every command.
//!
//! In: numbers. Out: short texts. Touches nothing.

/// `1.5GiB`: three digits and the unit that configuration takes.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count}B");
    }
    #[allow(clippy::cast_precision_loss)] // three digits are shown
    let mut amount = count as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in UNITS.into_iter().skip(1) {
        if amount < 999.5 {
            break;
        }
        amount /= 1024.0;
        unit = next;
    }
    let digits = if amount < 9.995 { 2 } else { usize::from(amount < 99.95) };
    let text = format!("{amount:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// Milliseconds as the largest units that say it whole: `7d`, `1h30m`; -1 is `for ever`.
pub fn span_ms(ms: i64) -> String {
    let Ok(mut rest) = u64::try_from(ms) else { return "for ever".to_owned() };
    if rest == 0 {
        return "0".to_owned();
    }
    let mut text = String::new();
    for (unit, length) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        if rest >= length {
            text.push_str(&format!("{}{unit}", rest / length));
            rest %= length;
        }
    }
    text
}

/// A number of events in a few characters.
#[allow(clippy::cast_precision_loss)] // shown with few digits
pub fn count(number: u64) -> String {
    match number {
        0..100_000 => number.to_string(),
        100_000..10_000_000 => format!("{:.1}k", number as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1}M", number as f64 / 1e6),
        _ => format!("{:.1}G", number as f64 / 1e9),
    }
}

/// Events by the second in a few characters.
pub fn rate(per_s: f64) -> String {
    if per_s < 10.0 { format!("{per_s:.1}") } else { format!("{per_s:.0}") }
}

/// RFC 3339 in UTC; `None`: beyond what a calendar has.
pub fn time(ms: i64) -> Option<String> {
    let time = chrono::DateTime::from_timestamp_millis(ms)?;
    Some(time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}

/// One line of at most so many characters: control characters become a dot.
pub fn shortened(text: &str, limit: usize) -> String {
    let mut out: String =
        text.chars().take(limit).map(|c| if c.is_control() || c == '\u{fffd}' { '.' } else { c }).collect();
    if text.chars().nth(limit).is_some() {
        out.pop();
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_to_one_line() {
        assert_eq!(shortened("a\nb", 5), "a.b");
        assert_eq!(shortened("äbcdef", 4), "äbc…");
        assert_eq!(shortened("abcd", 4), "abcd");
    }

    #[test]
    fn numbers_for_people() {
        for (count, want) in
            [(0, "0B"), (1023, "1023B"), (1024, "1KiB"), (1536, "1.5KiB"), (1 << 30, "1GiB"), (123_456_789, "118MiB")]
        {
            assert_eq!(bytes(count), want);
        }
        for (ms, want) in [(-1, "for ever"), (0, "0"), (604_800_000, "7d"), (5_400_000, "1h30m"), (250, "250ms")] {
            assert_eq!(span_ms(ms), want);
        }
    }

    #[test]
    fn counts_and_rates_are_short() {
        for (number, want) in
            [(0, "0"), (99_999, "99999"), (100_000, "100.0k"), (12_345_678, "12.3M"), (u64::MAX, "18446744073.7G")]
        {
            assert_eq!(count(number), want);
        }
        for (per_s, want) in [(0.0, "0.0"), (9.94, "9.9"), (10.4, "10"), (1e6, "1000000")] {
            assert_eq!(rate(per_s), want);
        }
    }
}
