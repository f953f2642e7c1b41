//! Times and numbers for people.
//!
//! In: numbers. Out: texts and `<time>` elements in UTC, which the script turns into local time if the reader wants that.
//! Touches nothing.

use chrono::{DateTime, SecondsFormat};
use maud::{Markup, html};

/// Day and time to the millisecond, UTC.
pub fn clock(time_ns: i64) -> String {
    DateTime::from_timestamp_nanos(time_ns).format("%m-%d %H:%M:%S%.3f").to_string()
}

/// Year, day and time to the second, UTC.
pub fn date(time_ns: i64) -> String {
    DateTime::from_timestamp_nanos(time_ns).format("%Y-%m-%d %H:%M:%S").to_string()
}

/// All digits.
pub fn rfc3339(time_ns: i64) -> String {
    DateTime::from_timestamp_nanos(time_ns).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

/// To the millisecond.
pub fn rfc3339_millis(time_ns: i64) -> String {
    DateTime::from_timestamp_nanos(time_ns).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Time of a line.
pub fn clock_tag(time_ns: i64) -> Markup {
    html! { time datetime=(rfc3339(time_ns)) { (clock(time_ns)) } }
}

/// A time with its year.
pub fn date_tag(time_ns: i64) -> Markup {
    html! { time.date datetime=(rfc3339(time_ns)) { (date(time_ns)) } }
}

/// Whole numbers with separators and without a fraction, others with three digits.
pub fn number(value: f64) -> String {
    if value.fract() != 0.0 || value.abs() >= 1e15 {
        return format!("{value:.3}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut out = String::from(if value < 0.0 { "-" } else { "" });
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_easy_to_read() {
        for (value, want) in [
            (0.0, "0"),
            (999.0, "999"),
            (1000.0, "1,000"),
            (-1234567.0, "-1,234,567"),
            (0.5, "0.500"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(number(value), want);
        }
    }
}
