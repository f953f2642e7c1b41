//! Parameters of the address, and the time range that they name: the last hour, say, or from a time to a time.
//!
//! In: parameters, now. Out: [`Range`]. Touches nothing.

use chrono::NaiveDateTime;
use serde::Deserialize;

use super::text::rfc3339_millis;
use crate::loki::params;

/// Parameters of the address.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Params {
    query: Option<String>,
    range: Option<String>,
    from: Option<String>,
    to: Option<String>,
    limit: Option<String>,
    tail: Option<String>,
    alert: Option<String>,
}

/// Ranges to choose from: name, text, seconds.
pub const RANGES: [(&str, &str, i64); 7] = [
    ("5m", "last 5 minutes", 300),
    ("15m", "last 15 minutes", 900),
    ("1h", "last hour", 3600),
    ("6h", "last 6 hours", 6 * 3600),
    ("24h", "last day", 24 * 3600),
    ("7d", "last 7 days", 7 * 24 * 3600),
    ("30d", "last 30 days", 30 * 24 * 3600),
];

const DEFAULT_RANGE: (&str, &str, i64) = RANGES[2];
const DEFAULT_LINES: usize = 200;
/// Lines of one page at most.
pub const MAX_LINES: usize = 2000;

fn given(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default().trim()
}

impl Params {
    /// The text of the box without blanks around it.
    pub fn query(&self) -> &str {
        given(&self.query)
    }

    /// Lines to show at most.
    pub fn limit(&self) -> usize {
        given(&self.limit).parse().unwrap_or(DEFAULT_LINES).clamp(1, MAX_LINES)
    }

    /// Whether the page follows new lines instead of showing old ones.
    pub fn is_tail(&self) -> bool {
        matches!(given(&self.tail), "1" | "true")
    }

    /// The alert whose link this is.
    pub fn alert(&self) -> &str {
        given(&self.alert)
    }
}

/// Time range of a page, in bars of equal width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Name as in [`RANGES`]; `None`: from a time to a time.
    pub name: Option<&'static str>,
    /// First nanosecond.
    pub start_ns: i64,
    /// Exclusive.
    pub end_ns: i64,
    /// Width of one bar, whole milliseconds; [`BARS`] of them fill the range.
    pub step_ns: i64,
}

/// Bars of one page.
pub const BARS: i64 = 60;
const MILLI: i64 = 1_000_000;
const SECOND: i64 = 1_000_000_000;

impl Range {
    /// The range that the parameters name. The name of a range counts more than times.
    pub fn of(params: &Params, now_ns: i64) -> Result<Self, String> {
        let wanted = given(&params.range);
        if let Some(known) = RANGES.into_iter().find(|(name, ..)| *name == wanted) {
            return Ok(Self::last(known, now_ns));
        }
        let (from, to) = (given(&params.from), given(&params.to));
        if from.is_empty() && to.is_empty() {
            return Ok(Self::latest(now_ns));
        }
        // One nanosecond beyond now: a line of this very moment belongs to it.
        let end_ns = time("to", to, now_ns.saturating_add(1))?;
        let start_ns = time("from", from, end_ns.saturating_sub(3600 * SECOND))?;
        if start_ns >= end_ns {
            return Err(format!("the time range is empty: `from` {from} is not before `to` {to}"));
        }
        Ok(Self::between(start_ns, end_ns))
    }

    /// The range of a page that asks for none.
    pub fn latest(now_ns: i64) -> Self {
        Self::last(DEFAULT_RANGE, now_ns)
    }

    fn last((name, _, seconds): (&'static str, &'static str, i64), now_ns: i64) -> Self {
        let end_ns = now_ns.saturating_add(1);
        let span_ns = seconds * SECOND;
        Self { name: Some(name), start_ns: end_ns.saturating_sub(span_ns), end_ns, step_ns: span_ns / BARS }
    }

    /// From a time to a time; the end moves by some milliseconds, so that the bars fill the range.
    pub fn between(start_ns: i64, end_ns: i64) -> Self {
        let span_ns = end_ns.saturating_sub(start_ns).max(1);
        let unit = BARS * MILLI;
        let step_ns = (span_ns / unit + i64::from(span_ns % unit != 0)) * MILLI;
        Self { name: None, start_ns, end_ns: start_ns.saturating_add(BARS.saturating_mul(step_ns)), step_ns }
    }

    /// Its length.
    pub fn span_ns(&self) -> i64 {
        self.end_ns.saturating_sub(self.start_ns)
    }

    /// The parameters of this range.
    pub fn parameters(&self) -> Vec<(&'static str, String)> {
        match self.name {
            Some(name) => vec![("range", name.to_owned())],
            None => vec![("from", rfc3339_millis(self.start_ns)), ("to", rfc3339_millis(self.end_ns))],
        }
    }

    /// The time before it, after it, and three times as much around it.
    pub fn neighbours(&self) -> [(&'static str, Self); 3] {
        let (start, end, span) = (self.start_ns, self.end_ns, self.span_ns());
        [
            ("earlier", Self::between(start.saturating_sub(span), start)),
            ("later", Self::between(end, end.saturating_add(span))),
            ("wider", Self::between(start.saturating_sub(span), end.saturating_add(span))),
        ]
    }
}

/// Reads a time: as Loki does, or day and time of a clock that shows UTC.
fn time(name: &str, text: &str, default: i64) -> Result<i64, String> {
    let clock = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"];
    let naive = clock.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
    if let Some(ns) = naive.and_then(|naive| naive.and_utc().timestamp_nanos_opt()) {
        return Ok(ns);
    }
    params::time(text, default).map_err(|_| {
        format!("invalid time `{text}` in `{name}`: expected 2026-03-01 12:00:00 (UTC) or 2026-03-01T12:00:00Z")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_772_366_400 * SECOND;

    fn params(pairs: &[(&str, &str)]) -> Params {
        let pairs = pairs.iter().map(|(n, v)| ((*n).to_owned(), serde_json::Value::from(*v)));
        serde_json::from_value(pairs.collect()).unwrap()
    }

    #[test]
    fn named_ranges_end_now_and_have_sixty_bars() {
        for (name, want, seconds) in
            [("5m", "5m", 300), ("7d", "7d", 604_800), ("nonsense", "1h", 3600), ("", "1h", 3600)]
        {
            let range = Range::of(&params(&[("range", name)]), NOW).unwrap();
            assert_eq!((range.name, range.end_ns, range.span_ns()), (Some(want), NOW + 1, seconds * SECOND));
            assert_eq!(range.span_ns() / range.step_ns, BARS);
        }
    }

    #[test]
    fn exact_times_are_read_in_several_forms() {
        let from = NOW - 300 * SECOND;
        for text in [
            "2026-03-01T11:55:00Z",
            "2026-03-01T12:55:00+01:00",
            "2026-03-01 11:55",
            "2026-03-01 11:55:00.000",
            "1772366100",
        ] {
            let range = Range::of(&params(&[("from", text), ("to", "2026-03-01T12:00:00Z")]), 0).unwrap();
            assert_eq!((range.start_ns, range.end_ns, range.name), (from, NOW, None), "{text}");
        }
        // Open ends: an hour, up to now.
        let range = Range::of(&params(&[("to", "2026-03-01T12:00:00Z")]), 0).unwrap();
        assert_eq!((range.start_ns, range.end_ns), (NOW - 3600 * SECOND, NOW));
        let range = Range::of(&params(&[("from", "2026-03-01T11:55:00Z")]), NOW).unwrap();
        assert_eq!(range.start_ns, from);
        // Chosen by name again: the times in the form are those of the page before.
        assert_eq!(
            Range::of(&params(&[("range", "5m"), ("from", "2026-03-01T11:55:00Z")]), NOW).unwrap().name,
            Some("5m")
        );
        for (pairs, want) in [
            ([("from", "yesterday"), ("to", "")], "invalid time `yesterday` in `from`"),
            ([("from", "2026-03-01 12:00"), ("to", "2026-03-01 11:00")], "the time range is empty"),
        ] {
            let error = Range::of(&params(&pairs), NOW).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn bars_fill_ranges_of_any_length() {
        for span in [1, 999, MILLI, 59 * MILLI, 61 * MILLI, 12_345_678_901, 400 * 86_400 * SECOND] {
            let range = Range::between(NOW, NOW + span);
            assert_eq!(range.span_ns(), BARS * range.step_ns);
            assert!(range.span_ns() >= span && range.span_ns() < span + BARS * MILLI, "{span}");
            assert_eq!(range.step_ns % MILLI, 0);
        }
    }

    #[test]
    fn line_counts_are_bounded() {
        for (given, want) in [("", 200), ("0", 1), ("50", 50), ("1000000", 2000), ("many", 200)] {
            assert_eq!(params(&[("limit", given)]).limit(), want);
        }
    }
}
