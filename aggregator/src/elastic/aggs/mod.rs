//! Aggregations: JSON to a tree, documents collected into it, the answer as JSON. One file per aggregation, each with its
//! settings, `parse`, `collect` and `answer`; this one joins them.
//!
//! In: the `aggs` of a request, matching documents. Out: `aggregations` of the answer. Touches nothing.
//! Executed: terms, date_histogram, histogram, range, filter, filters, missing; avg, min, max, sum, value_count, stats,
//! cardinality (exact), percentiles (exact). Everything else is refused by name.
//! Source: "Aggregations" of the Elasticsearch 7.10 reference.

/// Buckets, accumulators, keys, limits.
mod bucket;
/// Settings that several aggregations read in the same way.
mod body;
/// `cardinality`
mod cardinality;
/// `date_histogram`
mod date_histogram;
/// `filter`
mod filter;
/// `filters`
mod filters;
/// `histogram`
mod histogram;
/// `avg`, `min`, `max`, `sum`
mod metric;
/// `missing`
mod missing;
/// `percentiles`
mod percentiles;
/// `range`
mod range;
/// `stats`
mod stats;
/// `terms`
mod terms;
/// `value_count`
mod value_count;

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value as Json};

use super::document::Doc;
use super::dsl::Context;
use super::error::ApiError;
use body::Body;
pub use bucket::Collected;
use bucket::{Accumulator, Below, Bucket, Left, MAX_BUCKETS, Summary};
use millrace_index::scan::Watch;

const MAX_DEPTH: usize = 10;

/// Named aggregations of one level.
#[derive(Debug, Clone, Default)]
pub struct Specs(Vec<(String, Spec)>);

#[derive(Debug, Clone)]
struct Spec {
    kind: Kind,
    /// Given back as it came.
    meta: Option<Json>,
    below: Specs,
}

#[derive(Debug, Clone)]
enum Kind {
    Cardinality(cardinality::Cardinality),
    DateHistogram(date_histogram::DateHistogram),
    Filter(filter::Filter),
    Filters(filters::Filters),
    Histogram(histogram::Histogram),
    Metric(metric::Metric),
    Missing(missing::Missing),
    Percentiles(percentiles::Percentiles),
    Range(range::Range),
    Stats(stats::Stats),
    Terms(terms::Terms),
    ValueCount(value_count::ValueCount),
}

/// Reads the object below `aggs`.
pub fn parse(json: &Json, context: Context<'_>) -> Result<Specs, ApiError> {
    level(json, context, 0)
}

fn level(json: &Json, context: Context<'_>, depth: usize) -> Result<Specs, ApiError> {
    if depth > MAX_DEPTH {
        return Err(ApiError::argument(format!("aggregations are nested deeper than {MAX_DEPTH}")));
    }
    let object = json.as_object().ok_or_else(|| ApiError::parsing("[aggs] must be an object"))?;
    let mut specs = Vec::new();
    for (name, body) in object {
        let body =
            body.as_object().ok_or_else(|| ApiError::parsing(format!("aggregation [{name}] must be an object")))?;
        context.bounds.add_aggregation()?;
        let mut below = Specs::default();
        if name.is_empty() || name.contains(['[', ']', '>']) {
            return Err(ApiError::parsing(format!(
                "Invalid aggregation name [{name}]. Aggregation names can contain any character except '[', ']', and '>'"
            )));
        }
        let mut meta = None;
        let mut kind = None;
        for (key, value) in body {
            match key.as_str() {
                "aggs" | "aggregations" => below = level(value, context, depth + 1)?,
                "meta" => meta = Some(value.clone()),
                other if kind.is_some() => {
                    return Err(ApiError::parsing(format!(
                        "Found two aggregation type definitions in [{name}], the second is [{other}]"
                    )));
                }
                other => kind = Some(Kind::parse(other, Body { name, json: value }, context)?),
            }
        }
        let kind = kind.ok_or_else(|| ApiError::parsing(format!("Missing definition for aggregation [{name}]")))?;
        if !kind.has_buckets() && !below.0.is_empty() {
            return Err(ApiError {
                status: 500,
                kind: "aggregation_initialization_exception",
                reason: format!("Aggregator [{name}] cannot accept sub-aggregations"),
            });
        }
        specs.push((name.clone(), Spec { kind, meta, below }));
    }
    Ok(Specs(specs))
}

impl Kind {
    fn parse(kind: &str, body: Body<'_>, context: Context<'_>) -> Result<Self, ApiError> {
        let metric = |number| metric::Metric::parse(body, number).map(Self::Metric);
        match kind {
            "avg" => metric(metric::Number::Avg),
            "cardinality" => cardinality::Cardinality::parse(body).map(Self::Cardinality),
            "date_histogram" => date_histogram::DateHistogram::parse(body).map(Self::DateHistogram),
            "filter" => filter::Filter::parse(body, context).map(Self::Filter),
            "filters" => filters::Filters::parse(body, context).map(Self::Filters),
            "histogram" => histogram::Histogram::parse(body).map(Self::Histogram),
            "max" => metric(metric::Number::Max),
            "min" => metric(metric::Number::Min),
            "missing" => missing::Missing::parse(body).map(Self::Missing),
            "percentiles" => percentiles::Percentiles::parse(body).map(Self::Percentiles),
            "range" => range::Range::parse(body).map(Self::Range),
            "stats" => stats::Stats::parse(body).map(Self::Stats),
            "sum" => metric(metric::Number::Sum),
            "terms" => terms::Terms::parse(body).map(Self::Terms),
            "value_count" => value_count::ValueCount::parse(body).map(Self::ValueCount),
            known if NOT_YET.contains(&known) => Err(ApiError::not_yet(known)),
            other => Err(ApiError::parsing(format!("Unknown aggregation type [{other}]"))),
        }
    }

    fn has_buckets(&self) -> bool {
        match self {
            Self::DateHistogram(_)
            | Self::Filter(_)
            | Self::Filters(_)
            | Self::Histogram(_)
            | Self::Missing(_)
            | Self::Range(_)
            | Self::Terms(_) => true,
            Self::Cardinality(_) | Self::Metric(_) | Self::Percentiles(_) | Self::Stats(_) | Self::ValueCount(_) => {
                false
            }
        }
    }

    /// An accumulator without documents.
    fn start(&self) -> Accumulator {
        match self {
            Self::Terms(_) => Accumulator::Keyed(HashMap::new()),
            Self::DateHistogram(_) | Self::Histogram(_) => Accumulator::Steps(BTreeMap::new()),
            Self::Range(range) => Accumulator::List(range.start()),
            Self::Filters(filters) => Accumulator::List(filters.start()),
            Self::Filter(_) | Self::Missing(_) => Accumulator::List(vec![Bucket::default()]),
            Self::Metric(_) | Self::Stats(_) | Self::ValueCount(_) => Accumulator::Summary(Summary::default()),
            Self::Percentiles(_) => Accumulator::Numbers(Vec::new()),
            Self::Cardinality(_) => Accumulator::Distinct(HashSet::new()),
        }
    }
}

impl Spec {
    fn collect(&self, name: &str, into: &mut Accumulator, doc: &Doc<'_>) -> Result<(), ApiError> {
        let below = &self.below;
        match (&self.kind, into) {
            (Kind::Terms(kind), Accumulator::Keyed(buckets)) => kind.collect(name, buckets, below, doc),
            (Kind::DateHistogram(kind), Accumulator::Steps(buckets)) => kind.collect(name, buckets, below, doc),
            (Kind::Histogram(kind), Accumulator::Steps(buckets)) => kind.collect(name, buckets, below, doc),
            (Kind::Range(kind), Accumulator::List(buckets)) => kind.collect(buckets, below, doc),
            (Kind::Filters(kind), Accumulator::List(buckets)) => kind.collect(buckets, below, doc),
            (Kind::Filter(kind), Accumulator::List(buckets)) => match buckets.first_mut() {
                Some(bucket) => kind.collect(bucket, below, doc),
                None => Ok(()),
            },
            (Kind::Missing(kind), Accumulator::List(buckets)) => match buckets.first_mut() {
                Some(bucket) => kind.collect(bucket, below, doc),
                None => Ok(()),
            },
            (Kind::Metric(kind), Accumulator::Summary(summary)) => {
                kind.collect(summary, doc);
                Ok(())
            }
            (Kind::Stats(kind), Accumulator::Summary(summary)) => {
                kind.collect(summary, doc);
                Ok(())
            }
            (Kind::ValueCount(kind), Accumulator::Summary(summary)) => {
                kind.collect(summary, doc);
                Ok(())
            }
            (Kind::Percentiles(kind), Accumulator::Numbers(numbers)) => kind.collect(name, numbers, doc),
            (Kind::Cardinality(kind), Accumulator::Distinct(keys)) => kind.collect(name, keys, doc),
            // Accumulators are made from the specs they stand beside.
            _ => {
                debug_assert!(false, "accumulator of another kind");
                Ok(())
            }
        }
    }

    fn answer(&self, of: Accumulator, left: &mut Left<'_>) -> Result<Json, ApiError> {
        let below = &self.below;
        match (&self.kind, of) {
            (Kind::Terms(kind), Accumulator::Keyed(buckets)) => kind.answer(buckets, below, left),
            (Kind::DateHistogram(kind), Accumulator::Steps(buckets)) => kind.answer(buckets, below, left),
            (Kind::Histogram(kind), Accumulator::Steps(buckets)) => kind.answer(buckets, below, left),
            (Kind::Range(kind), Accumulator::List(buckets)) => kind.answer(buckets, below, left),
            (Kind::Filters(kind), Accumulator::List(buckets)) => kind.answer(buckets, below, left),
            (Kind::Filter(_) | Kind::Missing(_), Accumulator::List(mut buckets)) => {
                buckets.pop().unwrap_or_default().answer(below, Map::new(), left)
            }
            (Kind::Metric(kind), Accumulator::Summary(summary)) => Ok(kind.answer(&summary)),
            (Kind::Stats(kind), Accumulator::Summary(summary)) => Ok(kind.answer(&summary)),
            (Kind::ValueCount(kind), Accumulator::Summary(summary)) => Ok(kind.answer(&summary)),
            (Kind::Percentiles(kind), Accumulator::Numbers(numbers)) => Ok(kind.answer(numbers)),
            (Kind::Cardinality(kind), Accumulator::Distinct(keys)) => Ok(kind.answer(&keys)),
            _ => Ok(Json::Null),
        }
    }
}

impl Below for Specs {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn collect(&self, into: &mut Collected, doc: &Doc<'_>) -> Result<(), ApiError> {
        if into.0.is_empty() {
            into.0 = self.0.iter().map(|(_, spec)| spec.kind.start()).collect();
        }
        for ((name, spec), accumulator) in self.0.iter().zip(&mut into.0) {
            spec.collect(name, accumulator, doc)?;
        }
        Ok(())
    }

    fn answer(&self, collected: Collected, left: &mut Left<'_>) -> Result<Map<String, Json>, ApiError> {
        // A bucket without documents has the answers of nothing.
        let accumulators = if collected.0.is_empty() {
            self.0.iter().map(|(_, spec)| spec.kind.start()).collect()
        } else {
            collected.0
        };
        let mut out = Map::new();
        for ((name, spec), accumulator) in self.0.iter().zip(accumulators) {
            left.watch.step(0)?;
            let mut answer = spec.answer(accumulator, left)?;
            if let Some(meta) = &spec.meta {
                answer["meta"] = meta.clone();
            }
            out.insert(name.clone(), answer);
        }
        Ok(out)
    }
}

impl Specs {
    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes one matching document.
    pub fn collect(&self, into: &mut Collected, doc: &Doc<'_>) -> Result<(), ApiError> {
        Below::collect(self, into, doc)
    }

    /// The `aggregations` of the answer.
    pub fn answer(&self, collected: Collected, watch: &Watch) -> Result<Json, ApiError> {
        let mut left = Left { buckets: MAX_BUCKETS, watch };
        Below::answer(self, collected, &mut left).map(Json::Object)
    }
}

/// Elasticsearch executes these.
const NOT_YET: [&str; 37] = [
    "extended_stats",
    "top_hits",
    "date_range",
    "ip_range",
    "nested",
    "reverse_nested",
    "global",
    "composite",
    "significant_terms",
    "rare_terms",
    "sampler",
    "adjacency_matrix",
    "auto_date_histogram",
    "percentile_ranks",
    "median_absolute_deviation",
    "weighted_avg",
    "scripted_metric",
    "top_metrics",
    "derivative",
    "moving_avg",
    "moving_fn",
    "cumulative_sum",
    "bucket_script",
    "bucket_selector",
    "bucket_sort",
    "serial_diff",
    "avg_bucket",
    "max_bucket",
    "min_bucket",
    "sum_bucket",
    "stats_bucket",
    "extended_stats_bucket",
    "percentiles_bucket",
    "multi_terms",
    "rate",
    "geo_bounds",
    "geohash_grid",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elastic::bounds::Bounds;

    #[test]
    fn what_is_not_executed_is_refused_by_name() {
        for (text, want) in [
            (r#"{"a": {"derivative": {"buckets_path": "x"}}}"#, "[derivative] is not supported"),
            (r#"{"a": {"nonsense": {}}}"#, "Unknown aggregation type [nonsense]"),
            (r#"{"a": {"terms": {"size": 5}}}"#, "Required one of fields [field, script]"),
            (r#"{"a": {}}"#, "Missing definition for aggregation [a]"),
            (
                r#"{"a": {"date_histogram": {"field": "@timestamp", "fixed_interval": "1x"}}}"#,
                "failed to parse setting",
            ),
        ] {
            let error = parse(&serde_json::from_str(text).unwrap(), Context::new(0, &Bounds::default())).unwrap_err();
            assert!(error.reason.contains(want), "{text}: {error}");
        }
    }
}
