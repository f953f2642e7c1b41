//! What all aggregations share: buckets with aggregations below them, accumulators, keys of values, limits.
//!
//! In: matching documents. Out: counts by bucket, written as JSON by the aggregation that made them. Touches nothing.
//! Leaves to others: which kinds there are ([`Below`] is implemented by the tree that knows them).

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value as Json};

use super::super::document::{Doc, Value};
use super::super::error::ApiError;
use super::super::number::Number;
use millrace_index::scan::Watch;

/// Buckets of one answer at most, as `search.max_buckets`.
pub const MAX_BUCKETS: usize = 65_536;
/// Memory of a bucket or a distinct value besides its text.
pub const KEY_BYTES: usize = 160;
/// Distinct values that `cardinality` and `terms` hold at most.
pub const MAX_KEYS: usize = 1_000_000;

/// Aggregations below a bucket.
pub trait Below {
    /// Whether there are none.
    fn is_empty(&self) -> bool;

    /// Takes one document of the bucket.
    fn collect(&self, into: &mut Collected, doc: &Doc<'_>) -> Result<(), ApiError>;

    /// Their answers by name.
    fn answer(&self, collected: Collected, left: &mut Left<'_>) -> Result<Map<String, Json>, ApiError>;
}

/// What the answer may still have.
pub struct Left<'w> {
    /// Buckets.
    pub buckets: usize,
    /// Looks at the time.
    pub watch: &'w Watch,
}

/// What the documents of one bucket add up to, an accumulator per aggregation. Empty before the first document.
#[derive(Debug, Default)]
pub struct Collected(pub Vec<Accumulator>);

/// What one aggregation holds while documents come in.
#[derive(Debug)]
pub enum Accumulator {
    /// Buckets by value.
    Keyed(HashMap<Key, Bucket>),
    /// Buckets by the number of their step or the time of their start.
    Steps(BTreeMap<i64, Bucket>),
    /// A fixed list of buckets.
    List(Vec<Bucket>),
    /// All values.
    Numbers(Vec<f64>),
    /// Values added up.
    Summary(Summary),
    /// Distinct values.
    Distinct(HashSet<Key>),
}

/// Count, sum, least and greatest of some numbers.
#[derive(Debug)]
pub struct Summary {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// Infinite if there are none.
    pub min: f64,
    /// Infinite if there are none.
    pub max: f64,
}

impl Default for Summary {
    fn default() -> Self {
        Self { count: 0, sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }
}

impl Summary {
    /// Adds the values of a field, or what stands in for them if there are none.
    pub fn add(&mut self, doc: &Doc<'_>, field: &str, missing: Option<f64>) {
        let values = doc.values(field);
        let numbers = values.iter().filter_map(numeric);
        for number in numbers.chain(missing.filter(|_| values.is_empty())) {
            self.count += 1;
            self.sum += number;
            self.min = self.min.min(number);
            self.max = self.max.max(number);
        }
    }

    /// A number that only exists if there were values.
    pub fn some(&self, number: f64) -> Json {
        if self.count == 0 { Json::Null } else { Json::from(number) }
    }
}

/// Documents that have something in common.
#[derive(Debug, Default)]
pub struct Bucket {
    /// How many.
    pub count: u64,
    below: Collected,
}

impl Bucket {
    /// Counts a document, here and below.
    pub fn take(&mut self, below: &dyn Below, doc: &Doc<'_>) -> Result<(), ApiError> {
        self.count += 1;
        if below.is_empty() { Ok(()) } else { below.collect(&mut self.below, doc) }
    }

    /// `head`, then the count, then the answers from below.
    pub fn answer(self, below: &dyn Below, head: Map<String, Json>, left: &mut Left<'_>) -> Result<Json, ApiError> {
        left.buckets = left.buckets.checked_sub(1).ok_or_else(too_many_buckets)?;
        let mut out = head;
        out.insert("doc_count".to_owned(), self.count.into());
        out.extend(below.answer(self.below, left)?);
        Ok(Json::Object(out))
    }
}

/// A list of buckets, or an object by key.
pub fn listed(all: Vec<(String, Json)>, keyed: bool) -> Json {
    if keyed { Json::Object(all.into_iter().collect()) } else { all.into_iter().map(|(_, json)| json).collect() }
}

/// The answer would have too many buckets.
pub fn too_many_buckets() -> ApiError {
    ApiError {
        status: 503,
        kind: "too_many_buckets_exception",
        reason: format!("Trying to create too many buckets. Must be less than or equal to: [{MAX_BUCKETS}]"),
    }
}

/// An aggregation would hold too many values.
pub fn too_many_values(name: &str) -> ApiError {
    ApiError {
        status: 503,
        kind: "too_many_buckets_exception",
        reason: format!(
            "aggregation [{name}] has more than {MAX_KEYS} distinct values: narrow the query or the time range"
        ),
    }
}

/// A value that documents are grouped by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// `true` or `false`.
    Bool(bool),
    /// Any number.
    Number(Number),
    /// Text or keyword.
    Text(String),
}

impl Key {
    /// Memory that it takes as a bucket or a distinct value, about.
    pub fn memory(&self) -> usize {
        match self {
            Self::Text(text) => KEY_BYTES + text.len(),
            Self::Bool(_) | Self::Number(_) => KEY_BYTES,
        }
    }

    /// The key of a value. Times are milliseconds.
    pub fn of(value: &Value<'_>) -> Self {
        match value {
            Value::Text(text) => Self::Text(text.clone().into_owned()),
            Value::Bool(b) => Self::Bool(*b),
            Value::Number(n) => Self::Number(*n),
            Value::Time(ns) => Self::Number(ns.div_euclid(1_000_000).into()),
        }
    }
}

/// Numbers and times; texts count if they read as numbers, as in a field mapped as keyword.
pub fn numeric(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Text(text) => text.parse().ok(),
        other => other.number(),
    }
}
