//! Points in time as people write them on the command line.
//!
//! In: text. Out: milliseconds since 1970. Side effects: reads the clock for spans such as `2h`.

use crate::exit::Failure;

/// A time in ms since 1970: RFC 3339, ms since 1970, a date, or a span before now such as `2h`.
pub fn time_ms(text: &str) -> Result<i64, Failure> {
    let text = text.trim();
    if let Ok(ms) = text.parse::<i64>() {
        return Ok(ms);
    }
    if let Ok(time) = chrono::DateTime::parse_from_rfc3339(text) {
        return Ok(time.timestamp_millis());
    }
    for form in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M"] {
        if let Ok(time) = chrono::NaiveDateTime::parse_from_str(text, form) {
            return Ok(time.and_utc().timestamp_millis());
        }
    }
    if let Ok(date) = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Ok(date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_millis());
    }
    if let Ok(span) = millrace_log::value::Span::parse(text.trim_start_matches('-')) {
        let now = millrace_log::clock::Clock::now_ns(&millrace_log::clock::SystemClock) / 1_000_000;
        return Ok(now.saturating_sub(i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX)));
    }
    Err(Failure::text(
        crate::exit::Code::Usage,
        format!("`{text}` is not a time: expected 2026-02-03T04:05:06Z, ms since 1970, or a span such as `2h`"),
    ))
}
