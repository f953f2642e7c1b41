//! `range`: a bucket per given range of numbers, [from, to).
//!
//! In: settings, documents. Out: `buckets` in the order of the request. Touches nothing.

use serde_json::{Map, Value as Json, json};

use super::super::document::Doc;
use super::super::error::ApiError;
use super::body::{Body, number, scalar};
use super::bucket::{Below, Bucket, Left, listed, numeric};

/// Settings.
#[derive(Debug, Clone)]
pub struct Range {
    field: String,
    /// Key, if the request gives one, first number, number behind the last.
    ranges: Vec<(Option<String>, Option<f64>, Option<f64>)>,
    keyed: bool,
}

impl Range {
    /// Reads the settings.
    pub fn parse(body: Body<'_>) -> Result<Self, ApiError> {
        let ranges = body
            .get("ranges")
            .and_then(Json::as_array)
            .ok_or_else(|| ApiError::argument(format!("No [ranges] specified for the [{}] aggregation", body.name)))?;
        let bound = |range: &Json, key: &str| range.get(key).and_then(number);
        let ranges = ranges.iter().map(|r| (r.get("key").and_then(scalar), bound(r, "from"), bound(r, "to"))).collect();
        Ok(Self { field: body.field()?, ranges, keyed: body.keyed() })
    }

    /// Buckets without documents.
    pub fn start(&self) -> Vec<Bucket> {
        self.ranges.iter().map(|_| Bucket::default()).collect()
    }

    /// Takes one document.
    pub fn collect(&self, buckets: &mut [Bucket], below: &dyn Below, doc: &Doc<'_>) -> Result<(), ApiError> {
        for number in doc.values(&self.field).iter().filter_map(numeric) {
            for ((_, from, to), bucket) in self.ranges.iter().zip(buckets.iter_mut()) {
                if from.is_none_or(|from| number >= from) && to.is_none_or(|to| number < to) {
                    bucket.take(below, doc)?;
                }
            }
        }
        Ok(())
    }

    /// The answer.
    pub fn answer(&self, buckets: Vec<Bucket>, below: &dyn Below, left: &mut Left<'_>) -> Result<Json, ApiError> {
        let mut all = Vec::new();
        for ((key, from, to), bucket) in self.ranges.iter().zip(buckets) {
            let text = |bound: &Option<f64>| bound.map_or_else(|| "*".to_owned(), |n| json!(n).to_string());
            let key = key.clone().unwrap_or_else(|| format!("{}-{}", text(from), text(to)));
            let mut head = Map::new();
            if !self.keyed {
                head.insert("key".to_owned(), key.clone().into());
            }
            for (name, bound) in [("from", from), ("to", to)] {
                head.extend(bound.map(|n| (name.to_owned(), json!(n))));
            }
            all.push((key, bucket.answer(below, head, left)?));
        }
        Ok(json!({"buckets": listed(all, self.keyed)}))
    }
}
