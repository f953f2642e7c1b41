//! `histogram`: a bucket per step of a number.
//!
//! In: settings, documents. Out: `buckets` in order of their keys, empty ones between them unless `min_doc_count` is
//! above 0. Touches nothing.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::super::document::Doc;
use super::super::error::ApiError;
use super::body::Body;
use super::bucket::{Below, Bucket, KEY_BYTES, Left, MAX_BUCKETS, listed, numeric, too_many_buckets, too_many_values};

/// Settings.
#[derive(Debug, Clone)]
pub struct Histogram {
    field: String,
    interval: f64,
    offset: f64,
    min_count: u64,
    missing: Option<f64>,
    extended: Option<(f64, f64)>,
    hard: (Option<f64>, Option<f64>),
    keyed: bool,
}

impl Histogram {
    /// Reads the settings.
    pub fn parse(body: Body<'_>) -> Result<Self, ApiError> {
        let interval = body.number("interval").filter(|interval| *interval > 0.0);
        let interval = interval.ok_or_else(|| ApiError::argument("[interval] must be >0 for histogram aggregation"))?;
        let bound = |of: &str, key: &str| body.get(of)?.get(key)?.as_f64();
        Ok(Self {
            field: body.field()?,
            interval,
            offset: body.number("offset").unwrap_or(0.0),
            min_count: body.min_count(0),
            missing: body.number("missing"),
            extended: bound("extended_bounds", "min").zip(bound("extended_bounds", "max")),
            hard: (bound("hard_bounds", "min"), bound("hard_bounds", "max")),
            keyed: body.keyed(),
        })
    }

    fn step(&self, number: f64) -> i64 {
        ((number - self.offset) / self.interval).floor() as i64
    }

    /// Takes one document.
    pub fn collect(
        &self,
        name: &str,
        buckets: &mut BTreeMap<i64, Bucket>,
        below: &dyn Below,
        doc: &Doc<'_>,
    ) -> Result<(), ApiError> {
        let values = doc.values(&self.field);
        let numbers = values.iter().filter_map(numeric);
        for number in numbers.chain(self.missing.filter(|_| values.is_empty())) {
            let step = self.step(number);
            let start = step as f64 * self.interval + self.offset;
            let low = self.hard.0.is_some_and(|low| start + self.interval <= low);
            if low || self.hard.1.is_some_and(|high| start > high) {
                continue;
            }
            if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(&step) {
                return Err(too_many_values(name));
            }
            if !buckets.contains_key(&step) {
                doc.hold(KEY_BYTES)?;
            }
            buckets.entry(step).or_default().take(below, doc)?;
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
        let first = buckets.keys().next().copied();
        let first = first.into_iter().chain(self.extended.map(|(low, _)| self.step(low))).min();
        let last = buckets.keys().next_back().copied();
        let last = last.into_iter().chain(self.extended.map(|(_, high)| self.step(high))).max();
        if let (0, Some(first), Some(last)) = (self.min_count, first, last) {
            if last.saturating_sub(first) > MAX_BUCKETS as i64 {
                return Err(too_many_buckets());
            }
            for step in first..=last {
                buckets.entry(step).or_default();
            }
        }
        let mut all = Vec::new();
        for (step, bucket) in buckets.into_iter().filter(|(_, b)| b.count >= self.min_count) {
            let key = json!(step as f64 * self.interval + self.offset);
            let head = Map::from_iter([("key".to_owned(), key.clone())]);
            all.push((key.to_string(), bucket.answer(below, head, left)?));
        }
        Ok(json!({"buckets": listed(all, self.keyed)}))
    }
}
