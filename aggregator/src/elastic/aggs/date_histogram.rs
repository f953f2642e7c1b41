//! `date_histogram`: a bucket per interval of time, fixed or of the calendar, in a time zone.
//!
//! In: settings, documents. Out: `buckets` in order of time, empty ones between them unless `min_doc_count` is above 0.
//! Touches nothing.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::super::document::{Doc, Value};
use super::super::error::ApiError;
use super::super::time::{self, Interval, Zone};
use super::body::Body;
use super::bucket::{Below, Bucket, KEY_BYTES, Left, MAX_BUCKETS, listed, too_many_buckets, too_many_values};

/// Settings. Times are milliseconds since 1970.
#[derive(Debug, Clone)]
pub struct DateHistogram {
    field: String,
    interval: Interval,
    zone: Zone,
    offset_ms: i64,
    min_count: u64,
    extended: Option<(i64, i64)>,
    hard: (Option<i64>, Option<i64>),
    keyed: bool,
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Iso,
    EpochMillis,
}

impl DateHistogram {
    /// Reads the settings.
    pub fn parse(body: Body<'_>) -> Result<Self, ApiError> {
        let zone = match body.text("time_zone") {
            None => Zone::default(),
            Some(name) => {
                Zone::parse(&name).ok_or_else(|| ApiError::argument(format!("unknown time zone [{name}]")))?
            }
        };
        let bound = |of: &str, key: &str| {
            let value = body.get(of)?.get(key)?;
            value
                .as_i64()
                .or_else(|| value.as_str()?.parse().ok())
                .or_else(|| time::parse(value.as_str()?).map(|ns| ns / 1_000_000))
        };
        let format = match body.text("format").as_deref() {
            None | Some("strict_date_optional_time" | "date_optional_time" | "iso8601") => Format::Iso,
            Some("epoch_millis") => Format::EpochMillis,
            Some(_) => return Err(ApiError::not_yet("format of date_histogram")),
        };
        Ok(Self {
            interval: interval(&body)?,
            field: body.field()?,
            zone,
            offset_ms: offset(&body)?,
            min_count: body.min_count(0),
            extended: bound("extended_bounds", "min").zip(bound("extended_bounds", "max")),
            hard: (bound("hard_bounds", "min"), bound("hard_bounds", "max")),
            keyed: body.keyed(),
            format,
        })
    }

    fn start_of(&self, ms: i64) -> i64 {
        self.interval.bucket(ms, self.zone, self.offset_ms)
    }

    /// Takes one document.
    pub fn collect(
        &self,
        name: &str,
        buckets: &mut BTreeMap<i64, Bucket>,
        below: &dyn Below,
        doc: &Doc<'_>,
    ) -> Result<(), ApiError> {
        for time_ns in doc.values(&self.field).iter().filter_map(Value::time_ns) {
            let start = self.start_of(time_ns.div_euclid(1_000_000));
            // A bucket counts if it holds one of the bounds or lies between them.
            let low = self.hard.0.is_some_and(|low| start < self.start_of(low));
            if low || self.hard.1.is_some_and(|high| start >= high) {
                continue;
            }
            if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(&start) {
                return Err(too_many_values(name));
            }
            if !buckets.contains_key(&start) {
                doc.hold(KEY_BYTES)?;
            }
            buckets.entry(start).or_default().take(below, doc)?;
        }
        Ok(())
    }

    /// The answer.
    pub fn answer(
        &self,
        mut buckets: BTreeMap<i64, Bucket>,
        below: &dyn Below,
        left: &mut Left<'_>,
    ) -> Result<Json, ApiError> {
        if self.min_count == 0 {
            let first = buckets.keys().next().copied();
            let last = buckets.keys().next_back().copied();
            let low = self.extended.map(|(low, _)| self.start_of(low));
            let high = self.extended.map(|(_, high)| self.start_of(high));
            let from = [first, low].into_iter().flatten().min();
            let to = [last, high].into_iter().flatten().max();
            if let (Some(mut at), Some(to)) = (from, to) {
                while at <= to {
                    if buckets.len() > MAX_BUCKETS {
                        return Err(too_many_buckets());
                    }
                    buckets.entry(at).or_default();
                    at = self.interval.next(at, self.zone, self.offset_ms);
                }
            }
        }
        let mut all = Vec::new();
        for (start, bucket) in buckets.into_iter().filter(|(_, b)| b.count >= self.min_count) {
            let text = match self.format {
                Format::Iso => self.zone.iso_millis(start),
                Format::EpochMillis => start.to_string(),
            };
            let head =
                Map::from_iter([("key_as_string".to_owned(), text.clone().into()), ("key".to_owned(), start.into())]);
            all.push((text, bucket.answer(below, head, left)?));
        }
        Ok(json!({"buckets": listed(all, self.keyed)}))
    }
}

fn interval(body: &Body<'_>) -> Result<Interval, ApiError> {
    let bad = |text: &str| {
        ApiError::argument(format!("failed to parse setting [date_histogram.interval] with value [{text}]"))
    };
    match (body.text("fixed_interval"), body.text("calendar_interval"), body.text("interval")) {
        (Some(t), None, None) => Interval::fixed(&t).ok_or_else(|| bad(&t)),
        (None, Some(t), None) => Interval::calendar(&t).ok_or_else(|| {
            ApiError::argument(format!("The supplied interval [{t}] could not be parsed as a calendar interval."))
        }),
        (None, None, Some(t)) => Interval::calendar(&t).or_else(|| Interval::fixed(&t)).ok_or_else(|| bad(&t)),
        (None, None, None) => Err(ApiError::argument(format!(
            "Required one of fields [interval, calendar_interval, fixed_interval] in [{}]",
            body.name
        ))),
        _ => Err(ApiError::argument("Cannot use more than one of [interval], [calendar_interval], [fixed_interval]")),
    }
}

fn offset(body: &Body<'_>) -> Result<i64, ApiError> {
    let Some(text) = body.text("offset") else { return Ok(0) };
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.trim_start_matches('+')),
    };
    match Interval::fixed(rest) {
        Some(Interval::Fixed(ms)) => Ok(sign * ms),
        _ if rest == "0" => Ok(0),
        _ => Err(ApiError::argument(format!("failed to parse offset [{text}]"))),
    }
}
