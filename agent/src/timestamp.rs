//! Finds the event time in a line, as a source's `timestamp` option says.
//!
//! In: a line, the time of reading. Out: ns since 1970, or nothing (then the time of reading is taken). Touches nothing.

use chrono::format::{Item, Parsed, StrftimeItems, parse_and_remainder};
use chrono::{DateTime, Datelike as _, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, Offset as _, TimeZone, Utc};
use millrace_log::value::Faults;
use regex::bytes::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checks::check_regex;
use crate::error::AgentError;

/// How to find the event time in a line.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TimestampConfig {
    /// `rfc3339`, `unix` (seconds, with or without a fraction), `unix_ms`, `unix_us`, `unix_ns`, or a strftime pattern
    /// such as `%d/%b/%Y:%H:%M:%S %z`.
    pub format: String,
    /// Regular expression whose group `time` (or first group, or whole match) is the time. Without `regex` and `field`
    /// the time is at the start of the line.
    pub regex: Option<String>,
    /// Name of the field of a JSON line that holds the time.
    pub field: Option<String>,
    /// Offset for times without one: `UTC`, `+02:00`, `-0530`.
    pub timezone: String,
}

impl Default for TimestampConfig {
    fn default() -> Self {
        Self { format: "rfc3339".to_owned(), regex: None, field: None, timezone: "UTC".to_owned() }
    }
}

impl TimestampConfig {
    pub(crate) fn check(&self, faults: &mut Faults) {
        if self.regex.is_some() && self.field.is_some() {
            faults.add("field", "can't be combined with `regex`");
        }
        if let Some(pattern) = &self.regex {
            check_regex("regex", pattern, faults);
        }
        if let Err(message) = check_format(&self.format) {
            faults.add("format", message);
        }
        if offset(&self.timezone).is_none() {
            faults.add(
                "timezone",
                format!("invalid offset `{}`: expected `UTC`, or one such as `+02:00`", self.timezone),
            );
        }
    }
}

/// Reads times out of lines.
#[derive(Debug)]
pub struct TimeReader {
    place: TimePosition,
    format: Format,
    offset: FixedOffset,
}

#[derive(Debug)]
enum TimePosition {
    LineStart,
    Regex(Regex, Option<usize>),
    Field(String),
}

#[derive(Debug)]
enum Format {
    Rfc3339,
    /// Units in a second.
    Unix(i64),
    Pattern(Vec<Item<'static>>),
}

fn pattern(format: &str) -> Option<Vec<Item<'static>>> {
    StrftimeItems::new(format).parse_to_owned().ok()
}

/// Whether a format can be read.
pub fn check_format(format: &str) -> Result<(), String> {
    match format {
        "rfc3339" | "unix" | "unix_ms" | "unix_us" | "unix_ns" => Ok(()),
        _ if format.contains('%') && pattern(format).is_some() => Ok(()),
        _ => Err(format!(
            "invalid format `{format}`: expected rfc3339, unix, unix_ms, unix_us, unix_ns or a strftime pattern such as `%Y-%m-%d %H:%M:%S`"
        )),
    }
}

/// Reads `UTC`, `Z`, `+02:00` or `-0530`.
pub fn offset(text: &str) -> Option<FixedOffset> {
    if text.eq_ignore_ascii_case("utc") || text == "Z" {
        return Some(Utc.fix());
    }
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let digits = digits.replace(':', "");
    if digits.len() != 4 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: i32 = digits.parse().ok()?;
    FixedOffset::east_opt(sign * (number / 100 * 3600 + number % 100 * 60))
}

impl TimeReader {
    /// From the configuration.
    pub fn new(config: &TimestampConfig) -> Result<Self, AgentError> {
        let wrong =
            |key: &str, reason: String| AgentError::Setting { key: format!("sources[].timestamp.{key}"), reason };
        let place = match (&config.regex, &config.field) {
            (Some(text), _) => {
                let regex = Regex::new(text)
                    .map_err(|source| AgentError::Regex { pattern: text.clone(), source: Box::new(source) })?;
                let named = regex.capture_names().position(|name| name == Some("time"));
                let group = named.or_else(|| (regex.captures_len() > 1).then_some(1));
                TimePosition::Regex(regex, group)
            }
            (None, Some(field)) => TimePosition::Field(field.clone()),
            (None, None) => TimePosition::LineStart,
        };
        let format = match config.format.as_str() {
            "rfc3339" => Format::Rfc3339,
            "unix" => Format::Unix(1),
            "unix_ms" => Format::Unix(1_000),
            "unix_us" => Format::Unix(1_000_000),
            "unix_ns" => Format::Unix(1_000_000_000),
            text => Format::Pattern(pattern(text).ok_or_else(|| wrong("format", format!("invalid format `{text}`")))?),
        };
        let offset = offset(&config.timezone)
            .ok_or_else(|| wrong("timezone", format!("invalid offset `{}`", config.timezone)))?;
        Ok(Self { place, format, offset })
    }

    /// The event time of a line in ns since 1970. A time without a year is in the year nearest to `read_ns`.
    pub fn read(&self, line: &[u8], read_ns: i64) -> Option<i64> {
        match &self.place {
            TimePosition::LineStart => {
                let text = prefix(line);
                self.parse(text.trim_start_matches([' ', '[', '"']), read_ns, true)
            }
            TimePosition::Regex(regex, None) => self.parse_bytes(regex.find(line)?.as_bytes(), read_ns),
            TimePosition::Regex(regex, Some(group)) => {
                self.parse_bytes(regex.captures(line)?.get(*group)?.as_bytes(), read_ns)
            }
            TimePosition::Field(name) => {
                #[derive(serde::Deserialize)]
                #[serde(untagged)]
                enum Value {
                    Text(String),
                    Number(serde_json::Number),
                }
                let fields: std::collections::HashMap<String, &serde_json::value::RawValue> =
                    serde_json::from_slice(line).ok()?;
                match serde_json::from_str(fields.get(name)?.get()).ok()? {
                    Value::Text(text) => self.parse(&text, read_ns, false),
                    Value::Number(number) => self.parse(&number.to_string(), read_ns, false),
                }
            }
        }
    }

    fn parse_bytes(&self, bytes: &[u8], read_ns: i64) -> Option<i64> {
        self.parse(std::str::from_utf8(bytes).ok()?, read_ns, false)
    }

    /// With `remainder`, something may follow the time.
    fn parse(&self, text: &str, read_ns: i64, remainder: bool) -> Option<i64> {
        match &self.format {
            Format::Rfc3339 => {
                let time = if remainder { text.split([' ', '\t', ']', '"', ',', '|']).next()? } else { text };
                match DateTime::parse_from_rfc3339(time) {
                    Ok(time) => Some(saturating_ns(&time)),
                    // No zone: in the source's own.
                    Err(_) => {
                        let time: NaiveDateTime = time.parse().ok()?;
                        self.local(time)
                    }
                }
            }
            Format::Unix(units) => {
                let end =
                    text.bytes().position(|b| !b.is_ascii_digit() && b != b'.' && b != b'-').unwrap_or(text.len());
                let (number, rest) = text.split_at_checked(end)?;
                if !remainder && !rest.is_empty() {
                    return None;
                }
                unix(number, *units)
            }
            Format::Pattern(items) => {
                let mut parsed = Parsed::new();
                let rest = parse_and_remainder(&mut parsed, text, items.iter()).ok()?;
                if !remainder && !rest.is_empty() {
                    return None;
                }
                self.resolve(parsed, read_ns)
            }
        }
    }

    fn local(&self, time: NaiveDateTime) -> Option<i64> {
        Some(saturating_ns(&self.offset.from_local_datetime(&time).single()?))
    }

    fn resolve(&self, parsed: Parsed, read_ns: i64) -> Option<i64> {
        if let Some(seconds) = parsed.timestamp() {
            let nanos = i64::from(parsed.nanosecond().unwrap_or(0));
            return Some(seconds.saturating_mul(1_000_000_000).saturating_add(nanos));
        }
        let zone = parsed.offset().and_then(FixedOffset::east_opt).unwrap_or(self.offset);
        let read = DateTime::from_timestamp_nanos(read_ns).with_timezone(&zone);
        let time = parsed.to_naive_time().unwrap_or(NaiveTime::MIN);
        let known_year = parsed.year().is_some() || parsed.year_mod_100().is_some() || parsed.isoyear().is_some();
        let candidates: Vec<NaiveDate> = if known_year {
            vec![parsed.to_naive_date().ok()?]
        } else if parsed.month().is_some() {
            let (month, day) = (parsed.month()?, parsed.day()?);
            (read.year() - 1..=read.year() + 1).filter_map(|year| NaiveDate::from_ymd_opt(year, month, day)).collect()
        } else {
            let today = read.date_naive();
            [today.pred_opt(), Some(today), today.succ_opt()].into_iter().flatten().collect()
        };
        candidates
            .into_iter()
            .filter_map(|date| Some(saturating_ns(&zone.from_local_datetime(&date.and_time(time)).single()?)))
            .min_by_key(|ns| ns.abs_diff(read_ns))
    }
}

/// Seconds (or smaller units) with an optional fraction, exactly.
fn unix(text: &str, units: i64) -> Option<i64> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let per_unit = 1_000_000_000 / units;
    // More digits than this are no time, however far away.
    let mut ns = whole.parse::<i128>().ok()?.saturating_mul(per_unit.into());
    let mut scale = per_unit;
    for digit in fraction.bytes() {
        if !digit.is_ascii_digit() {
            return None;
        }
        scale /= 10;
        ns = ns.saturating_add((i64::from(digit - b'0') * scale).into());
    }
    let ns = if negative { -ns } else { ns };
    Some(i64::try_from(ns).unwrap_or(if negative { i64::MIN } else { i64::MAX }))
}

/// A time in ns since 1970; the nearest end of what these can say for one before 1677 or after 2262. The index puts such
/// events at the time when they were read, with a mark.
pub fn saturating_ns<Z: TimeZone>(time: &DateTime<Z>) -> i64 {
    time.timestamp_nanos_opt().unwrap_or(if time.timestamp() < 0 { i64::MIN } else { i64::MAX })
}

/// The readable start of a line: times stand within the first bytes.
fn prefix(line: &[u8]) -> &str {
    let head = &line[..line.len().min(128)];
    match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: i64 = 1_767_225_600_000_000_000; // 2026-01-01T00:00:00Z

    #[test]
    fn times_are_found() {
        let day = 86_400_000_000_000;
        /// Format, regex, field, time zone, line, wanted time.
        type Case = (&'static str, Option<&'static str>, Option<&'static str>, &'static str, &'static str, Option<i64>);
        let table: &[Case] = &[
            ("rfc3339", None, None, "UTC", "2026-01-01T00:00:01.5Z hello", Some(READ + 1_500_000_000)),
            ("rfc3339", None, None, "UTC", "[2026-01-01T01:00:00+01:00] hello", Some(READ)),
            ("rfc3339", None, None, "+01:00", "2026-01-01T01:00:00 no zone", Some(READ)),
            ("rfc3339", None, None, "UTC", "no time", None),
            ("rfc3339", None, Some("ts"), "UTC", r#"{"ts":"2026-01-01T00:00:00Z","a":[1]}"#, Some(READ)),
            ("unix", None, Some("ts"), "UTC", r#"{"ts":1767225600.25}"#, Some(READ + 250_000_000)),
            ("unix_ms", None, Some("ts"), "UTC", r#"{"ts":1767225600001}"#, Some(READ + 1_000_000)),
            ("unix_ns", Some(r"t=(\d+)"), None, "UTC", "x t=1767225600000000007 y", Some(READ + 7)),
            ("unix", None, Some("ts"), "UTC", r#"{"ts":null}"#, None),
            ("unix", None, Some("ts"), "UTC", "not json", None),
            (
                "%d/%b/%Y:%H:%M:%S %z",
                Some(r"\[(?<time>[^\]]+)\]"),
                None,
                "UTC",
                "1.2.3.4 - - [01/Jan/2026:02:00:00 +0200] GET",
                Some(READ),
            ),
            ("%Y-%m-%d %H:%M:%S,%3f", None, None, "UTC", "2026-01-01 00:00:00,123 INFO", Some(READ + 123_000_000)),
            ("%b %e %H:%M:%S", None, None, "UTC", "Dec 31 00:00:00 host app: x", Some(READ - day)),
            ("%b %e %H:%M:%S", None, None, "UTC", "Jan  2 00:00:00 host app: x", Some(READ + day)),
            ("%H:%M:%S", None, None, "UTC", "23:59:59 x", Some(READ - 1_000_000_000)),
            ("%s", None, None, "UTC", "1767225600 x", Some(READ)),
            // Beyond what ns since 1970 can say.
            ("rfc3339", None, None, "UTC", "9999-12-31T00:00:00Z x", Some(i64::MAX)),
            ("rfc3339", None, None, "UTC", "0001-01-01T00:00:00 x", Some(i64::MIN)),
            ("unix", None, None, "UTC", "99999999999 x", Some(i64::MAX)),
            ("unix", None, None, "UTC", "-99999999999999999999 x", Some(i64::MIN)),
            ("unix_ns", None, None, "UTC", "9223372036854775807 x", Some(i64::MAX)),
            ("%s", None, None, "UTC", "99999999999 x", Some(i64::MAX)),
            ("%Y-%m-%d", None, None, "UTC", "3000-01-01 x", Some(i64::MAX)),
        ];
        for (format, regex, field, timezone, line, want) in table {
            let config = TimestampConfig {
                format: (*format).to_owned(),
                regex: regex.map(str::to_owned),
                field: field.map(str::to_owned),
                timezone: (*timezone).to_owned(),
            };
            check_format(format).unwrap();
            assert_eq!(TimeReader::new(&config).unwrap().read(line.as_bytes(), READ), *want, "{format} {line}");
        }
        assert!(check_format("%Q").is_err() && check_format("iso").is_err());
    }
}
