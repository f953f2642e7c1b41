//! Aggregations: JSON to a tree of specs, documents collected into it, the answer as JSON.
//!
//! In: the `aggs` of a request, matching documents. Out: `aggregations` of the answer. Touches nothing.
//! Executed: terms, date_histogram, histogram, range, filter, filters, missing; avg, min, max, sum, value_count, stats,
//! cardinality (exact), percentiles (exact). Everything else is refused by name.
//! Source: "Aggregations" of the Elasticsearch 7.10 reference.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value as Json, json};

use super::document::{Doc, Value, number_json};
use super::error::ApiError;
use super::query::{self, Context, Query};
use super::time::{Interval, Zone};

/// Buckets of one answer at most, as `search.max_buckets`.
const MAX_BUCKETS: usize = 65_536;
/// Distinct values that `cardinality` and `terms` hold at most.
const MAX_KEYS: usize = 1_000_000;
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
    Terms {
        field: String,
        size: usize,
        min_count: u64,
        order: Vec<(String, bool)>,
        missing: Option<String>,
        include: Option<regex::Regex>,
    },
    DateHistogram {
        field: String,
        interval: Interval,
        zone: Zone,
        offset_ms: i64,
        min_count: u64,
        bounds: Option<(i64, i64)>,
        hard: (Option<i64>, Option<i64>),
        keyed: bool,
        format: Format,
    },
    Histogram {
        field: String,
        interval: f64,
        offset: f64,
        min_count: u64,
        missing: Option<f64>,
        extended: Option<(f64, f64)>,
        hard: (Option<f64>, Option<f64>),
        keyed: bool,
    },
    Range {
        field: String,
        ranges: Vec<(Option<String>, Option<f64>, Option<f64>)>,
        keyed: bool,
    },
    Filter(Query),
    Filters(Vec<(Option<String>, Query)>),
    Missing(String),
    Metric {
        metric: Metric,
        field: String,
        missing: Option<f64>,
    },
    Percentiles {
        field: String,
        percents: Vec<f64>,
        keyed: bool,
    },
    Cardinality(String, Option<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Metric {
    Avg,
    Min,
    Max,
    Sum,
    ValueCount,
    Stats,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Iso,
    EpochMillis,
}

/// Reads the object below `aggs`.
pub fn parse(json: &Json, context: Context) -> Result<Specs, ApiError> {
    level(json, context, 0)
}

fn level(json: &Json, context: Context, depth: usize) -> Result<Specs, ApiError> {
    if depth > MAX_DEPTH {
        return Err(ApiError::argument(format!("aggregations are nested deeper than {MAX_DEPTH}")));
    }
    let object = json.as_object().ok_or_else(|| ApiError::parsing("[aggs] must be an object"))?;
    let mut specs = Vec::new();
    for (name, body) in object {
        let body =
            body.as_object().ok_or_else(|| ApiError::parsing(format!("aggregation [{name}] must be an object")))?;
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
                other => kind = Some(one(name, other, value, context)?),
            }
        }
        let kind = kind.ok_or_else(|| ApiError::parsing(format!("Missing definition for aggregation [{name}]")))?;
        let is_metric = matches!(kind, Kind::Metric { .. } | Kind::Percentiles { .. } | Kind::Cardinality(..));
        if is_metric && !below.0.is_empty() {
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

fn field(name: &str, body: &Json) -> Result<String, ApiError> {
    if body.get("script").is_some() {
        return Err(ApiError::not_yet("script"));
    }
    let field = body.get("field").and_then(Json::as_str);
    field.map(str::to_owned).ok_or_else(|| {
        ApiError::argument(format!("Required one of fields [field, script], but none were specified in [{name}]"))
    })
}

fn scalar(json: &Json) -> Option<String> {
    match json {
        Json::String(text) => Some(text.clone()),
        Json::Number(_) | Json::Bool(_) => Some(json.to_string()),
        _ => None,
    }
}

fn one(name: &str, kind: &str, body: &Json, context: Context) -> Result<Kind, ApiError> {
    let number = |key: &str| body.get(key).and_then(|v| v.as_f64().or_else(|| v.as_str()?.parse().ok()));
    let min_count = |default: u64| number("min_doc_count").map_or(default, |n| n as u64);
    let keyed = body.get("keyed") == Some(&Json::Bool(true));
    let metric = |metric| Ok(Kind::Metric { metric, field: field(name, body)?, missing: number("missing") });
    match kind {
        "terms" => {
            let size = number("size").unwrap_or(10.0);
            if size <= 0.0 {
                return Err(ApiError::argument(format!("[size] must be greater than 0. Found [{size}] in [{name}]")));
            }
            let include = match body.get("include") {
                None => None,
                Some(Json::String(text)) => Some(text.clone()),
                Some(Json::Array(items)) => {
                    Some(items.iter().filter_map(scalar).map(|t| regex::escape(&t)).collect::<Vec<_>>().join("|"))
                }
                Some(_) => return Err(ApiError::not_yet("include by partition")),
            };
            if body.get("exclude").is_some() {
                return Err(ApiError::not_yet("exclude"));
            }
            let include = include
                .map(|text| regex::Regex::new(&format!("^(?:{text})$")))
                .transpose()
                .map_err(|e| ApiError::argument(e.to_string()))?;
            let missing = body.get("missing").and_then(scalar);
            Ok(Kind::Terms {
                field: field(name, body)?,
                size: size as usize,
                min_count: min_count(1),
                order: order(body.get("order"))?,
                missing,
                include,
            })
        }
        "date_histogram" => date_histogram(name, body, min_count(0), keyed),
        "histogram" => match number("interval") {
            Some(interval) if interval > 0.0 => {
                let bound = |of: &str, key: &str| body.get(of)?.get(key)?.as_f64();
                Ok(Kind::Histogram {
                    field: field(name, body)?,
                    interval,
                    offset: number("offset").unwrap_or(0.0),
                    min_count: min_count(0),
                    missing: number("missing"),
                    extended: bound("extended_bounds", "min").zip(bound("extended_bounds", "max")),
                    hard: (bound("hard_bounds", "min"), bound("hard_bounds", "max")),
                    keyed,
                })
            }
            _ => Err(ApiError::argument("[interval] must be >0 for histogram aggregation")),
        },
        "range" => {
            let ranges = body
                .get("ranges")
                .and_then(Json::as_array)
                .ok_or_else(|| ApiError::argument(format!("No [ranges] specified for the [{name}] aggregation")))?;
            let bound =
                |range: &Json, key: &str| range.get(key).and_then(|v| v.as_f64().or_else(|| v.as_str()?.parse().ok()));
            let ranges =
                ranges.iter().map(|r| (r.get("key").and_then(scalar), bound(r, "from"), bound(r, "to"))).collect();
            Ok(Kind::Range { field: field(name, body)?, ranges, keyed })
        }
        "filter" => Ok(Kind::Filter(query::parse(body, context)?)),
        "filters" => {
            if body.get("other_bucket").is_some() || body.get("other_bucket_key").is_some() {
                return Err(ApiError::not_yet("other_bucket"));
            }
            let filters = match body.get("filters") {
                Some(Json::Object(named)) => named
                    .iter()
                    .map(|(n, q)| Ok((Some(n.clone()), query::parse(q, context)?)))
                    .collect::<Result<_, ApiError>>()?,
                Some(Json::Array(list)) => {
                    list.iter().map(|q| Ok((None, query::parse(q, context)?))).collect::<Result<_, ApiError>>()?
                }
                _ => return Err(ApiError::parsing(format!("[filters] is missing in [{name}]"))),
            };
            Ok(Kind::Filters(filters))
        }
        "missing" => Ok(Kind::Missing(field(name, body)?)),
        "avg" => metric(Metric::Avg),
        "min" => metric(Metric::Min),
        "max" => metric(Metric::Max),
        "sum" => metric(Metric::Sum),
        "value_count" => metric(Metric::ValueCount),
        "stats" => metric(Metric::Stats),
        "cardinality" => Ok(Kind::Cardinality(field(name, body)?, body.get("missing").and_then(scalar))),
        "percentiles" => {
            let percents = match body.get("percents").and_then(Json::as_array) {
                None => vec![1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0],
                Some(list) => list.iter().filter_map(|p| p.as_f64().or_else(|| p.as_str()?.parse().ok())).collect(),
            };
            if percents.is_empty() || percents.iter().any(|p| !(0.0..=100.0).contains(p)) {
                return Err(ApiError::argument("[percents] must be a list of numbers from 0 to 100"));
            }
            Ok(Kind::Percentiles {
                field: field(name, body)?,
                percents,
                keyed: body.get("keyed") != Some(&Json::Bool(false)),
            })
        }
        known @ ("extended_stats"
        | "top_hits"
        | "date_range"
        | "ip_range"
        | "nested"
        | "reverse_nested"
        | "global"
        | "composite"
        | "significant_terms"
        | "rare_terms"
        | "sampler"
        | "adjacency_matrix"
        | "auto_date_histogram"
        | "percentile_ranks"
        | "median_absolute_deviation"
        | "weighted_avg"
        | "scripted_metric"
        | "top_metrics"
        | "derivative"
        | "moving_avg"
        | "moving_fn"
        | "cumulative_sum"
        | "bucket_script"
        | "bucket_selector"
        | "bucket_sort"
        | "serial_diff"
        | "avg_bucket"
        | "max_bucket"
        | "min_bucket"
        | "sum_bucket"
        | "stats_bucket"
        | "extended_stats_bucket"
        | "percentiles_bucket"
        | "multi_terms"
        | "rate"
        | "geo_bounds"
        | "geohash_grid") => Err(ApiError::not_yet(known)),
        other => Err(ApiError::parsing(format!("Unknown aggregation type [{other}]"))),
    }
}

fn date_histogram(name: &str, body: &Json, min_count: u64, keyed: bool) -> Result<Kind, ApiError> {
    let text = |key: &str| body.get(key).and_then(scalar);
    let bad = |text: &str| {
        ApiError::argument(format!("failed to parse setting [date_histogram.interval] with value [{text}]"))
    };
    let interval = match (text("fixed_interval"), text("calendar_interval"), text("interval")) {
        (Some(t), None, None) => Interval::fixed(&t).ok_or_else(|| bad(&t))?,
        (None, Some(t), None) => Interval::calendar(&t).ok_or_else(|| {
            ApiError::argument(format!("The supplied interval [{t}] could not be parsed as a calendar interval."))
        })?,
        (None, None, Some(t)) => Interval::calendar(&t).or_else(|| Interval::fixed(&t)).ok_or_else(|| bad(&t))?,
        (None, None, None) => {
            return Err(ApiError::argument(format!(
                "Required one of fields [interval, calendar_interval, fixed_interval] in [{name}]"
            )));
        }
        _ => {
            return Err(ApiError::argument(
                "Cannot use more than one of [interval], [calendar_interval], [fixed_interval]",
            ));
        }
    };
    let zone = match text("time_zone") {
        None => Zone::default(),
        Some(name) => Zone::parse(&name).ok_or_else(|| ApiError::argument(format!("unknown time zone [{name}]")))?,
    };
    let offset_ms = match text("offset") {
        None => 0,
        Some(t) => {
            let (sign, rest) = match t.strip_prefix('-') {
                Some(rest) => (-1, rest),
                None => (1, t.trim_start_matches('+')),
            };
            match Interval::fixed(rest) {
                Some(Interval::Fixed(ms)) => sign * ms,
                _ if rest == "0" => 0,
                _ => return Err(ApiError::argument(format!("failed to parse offset [{t}]"))),
            }
        }
    };
    let bound = |of: &str, key: &str| {
        let value = body.get(of)?.get(key)?;
        value
            .as_i64()
            .or_else(|| value.as_str()?.parse().ok())
            .or_else(|| super::time::parse(value.as_str()?).map(|ns| ns / 1_000_000))
    };
    let format = match text("format").as_deref() {
        None | Some("strict_date_optional_time" | "date_optional_time" | "iso8601") => Format::Iso,
        Some("epoch_millis") => Format::EpochMillis,
        Some(_) => return Err(ApiError::not_yet("format of date_histogram")),
    };
    Ok(Kind::DateHistogram {
        field: field(name, body)?,
        interval,
        zone,
        offset_ms,
        min_count,
        bounds: bound("extended_bounds", "min").zip(bound("extended_bounds", "max")),
        hard: (bound("hard_bounds", "min"), bound("hard_bounds", "max")),
        keyed,
        format,
    })
}

/// `{"_count": "desc"}`, a list of these.
fn order(json: Option<&Json>) -> Result<Vec<(String, bool)>, ApiError> {
    let entries: Vec<(&String, &Json)> = match json {
        None => return Ok(vec![("_count".to_owned(), false), ("_key".to_owned(), true)]),
        Some(Json::Object(one)) => one.iter().collect(),
        Some(Json::Array(list)) => list.iter().filter_map(Json::as_object).flatten().collect(),
        Some(_) => return Err(ApiError::parsing("[order] must be an object or a list of objects")),
    };
    let mut found = Vec::new();
    for (key, direction) in entries {
        let ascending = match direction.as_str() {
            Some(d) if d.eq_ignore_ascii_case("asc") => true,
            Some(d) if d.eq_ignore_ascii_case("desc") => false,
            _ => return Err(ApiError::parsing(format!("Unknown order direction [{direction}]"))),
        };
        found.push((if key == "_term" { "_key".to_owned() } else { key.clone() }, ascending));
    }
    found.push(("_key".to_owned(), true));
    Ok(found)
}

/// What the documents of one bucket make.
#[derive(Debug, Default)]
pub struct Collected(Vec<Acc>);

#[derive(Debug)]
enum Acc {
    Words(HashMap<Key, Bucket>),
    Steps(BTreeMap<i64, Bucket>),
    List(Vec<Bucket>),
    Numbers(Vec<f64>),
    Sum { count: u64, sum: f64, min: f64, max: f64 },
    Distinct(HashSet<Key>),
}

#[derive(Debug, Default)]
struct Bucket {
    count: u64,
    below: Collected,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Bool(bool),
    /// Order-preserving bits of a number.
    Number(i64),
    Text(String),
}

impl Key {
    fn of(value: &Value<'_>) -> Self {
        match value {
            Value::Text(text) => Self::Text(text.clone().into_owned()),
            Value::Bool(b) => Self::Bool(*b),
            Value::Number(n) => Self::Number(ordered(*n)),
            Value::Time(ns) => Self::Number(ordered(ns.div_euclid(1_000_000) as f64)),
        }
    }
}

/// Bits of a float whose order as integers is that of the numbers; its own inverse on the bits.
fn ordered(n: f64) -> i64 {
    let bits = n.to_bits() as i64;
    if bits < 0 { bits ^ i64::MAX } else { bits }
}

fn unordered(bits: i64) -> f64 {
    f64::from_bits((if bits < 0 { bits ^ i64::MAX } else { bits }) as u64)
}

impl Specs {
    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn start(&self) -> Collected {
        let acc = |spec: &Spec| match &spec.kind {
            Kind::Terms { .. } => Acc::Words(HashMap::new()),
            Kind::DateHistogram { .. } | Kind::Histogram { .. } => Acc::Steps(BTreeMap::new()),
            Kind::Range { ranges, .. } => Acc::List(ranges.iter().map(|_| Bucket::default()).collect()),
            Kind::Filter(_) | Kind::Missing(_) => Acc::List(vec![Bucket::default()]),
            Kind::Filters(filters) => Acc::List(filters.iter().map(|_| Bucket::default()).collect()),
            Kind::Metric { .. } => Acc::Sum { count: 0, sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY },
            Kind::Percentiles { .. } => Acc::Numbers(Vec::new()),
            Kind::Cardinality(..) => Acc::Distinct(HashSet::new()),
        };
        Collected(self.0.iter().map(|(_, spec)| acc(spec)).collect())
    }

    /// Takes one matching document.
    pub fn collect(&self, into: &mut Collected, doc: &Doc<'_>) -> Result<(), ApiError> {
        if into.0.is_empty() {
            *into = self.start();
        }
        for ((name, spec), acc) in self.0.iter().zip(&mut into.0) {
            spec.collect(name, acc, doc)?;
        }
        Ok(())
    }

    /// The `aggregations` of the answer.
    pub fn answer(&self, collected: Collected) -> Result<Json, ApiError> {
        let mut left = MAX_BUCKETS;
        self.level_answer(collected, &mut left)
    }

    fn level_answer(&self, collected: Collected, left: &mut usize) -> Result<Json, ApiError> {
        let collected = if collected.0.is_empty() { self.start() } else { collected };
        let mut out = Map::new();
        for ((name, spec), acc) in self.0.iter().zip(collected.0) {
            let mut answer = spec.answer(acc, left)?;
            if let Some(meta) = &spec.meta {
                answer["meta"] = meta.clone();
            }
            out.insert(name.clone(), answer);
        }
        Ok(Json::Object(out))
    }
}

impl Bucket {
    fn take(&mut self, below: &Specs, doc: &Doc<'_>) -> Result<(), ApiError> {
        self.count += 1;
        if below.is_empty() { Ok(()) } else { below.collect(&mut self.below, doc) }
    }

    fn answer(self, below: &Specs, head: Map<String, Json>, left: &mut usize) -> Result<Json, ApiError> {
        *left = left.checked_sub(1).ok_or_else(too_many_buckets)?;
        let mut out = head;
        out.insert("doc_count".to_owned(), self.count.into());
        if let Json::Object(inner) = below.level_answer(self.below, left)? {
            out.extend(inner);
        }
        Ok(Json::Object(out))
    }
}

fn too_many_buckets() -> ApiError {
    ApiError {
        status: 503,
        kind: "too_many_buckets_exception",
        reason: format!("Trying to create too many buckets. Must be less than or equal to: [{MAX_BUCKETS}]"),
    }
}

fn too_many(name: &str) -> ApiError {
    ApiError {
        status: 503,
        kind: "too_many_buckets_exception",
        reason: format!(
            "aggregation [{name}] meets more than {MAX_KEYS} distinct values: narrow the query or the time range"
        ),
    }
}

impl Spec {
    fn collect(&self, name: &str, acc: &mut Acc, doc: &Doc<'_>) -> Result<(), ApiError> {
        match (&self.kind, acc) {
            (Kind::Terms { field, missing, include, .. }, Acc::Words(buckets)) => {
                let mut keys: Vec<Key> = doc.values(field).iter().map(Key::of).collect();
                keys.sort_unstable();
                keys.dedup();
                if let (true, Some(missing)) = (keys.is_empty(), missing) {
                    keys.push(Key::Text(missing.clone()));
                }
                for key in keys {
                    if include.as_ref().is_some_and(|regex| !matches!(&key, Key::Text(text) if regex.is_match(text))) {
                        continue;
                    }
                    if buckets.len() >= MAX_KEYS && !buckets.contains_key(&key) {
                        return Err(too_many(name));
                    }
                    buckets.entry(key).or_default().take(&self.below, doc)?;
                }
            }
            (Kind::DateHistogram { field, interval, zone, offset_ms, hard, .. }, Acc::Steps(buckets)) => {
                for time_ns in doc.values(field).iter().filter_map(Value::time_ns) {
                    let ms = time_ns.div_euclid(1_000_000);
                    let start = interval.bucket(ms, *zone, *offset_ms);
                    // A bucket counts if it holds one of the bounds or lies between them.
                    let low = hard.0.is_some_and(|low| start < interval.bucket(low, *zone, *offset_ms));
                    if low || hard.1.is_some_and(|high| start >= high) {
                        continue;
                    }
                    if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(&start) {
                        return Err(too_many(name));
                    }
                    buckets.entry(start).or_default().take(&self.below, doc)?;
                }
            }
            (Kind::Histogram { field, interval, offset, missing, hard, .. }, Acc::Steps(buckets)) => {
                let values = doc.values(field);
                let numbers = values.iter().filter_map(numeric);
                for number in numbers.chain(missing.filter(|_| values.is_empty())) {
                    let step = ((number - offset) / interval).floor() as i64;
                    let start = step as f64 * interval + offset;
                    if hard.0.is_some_and(|low| start + interval <= low) || hard.1.is_some_and(|high| start > high) {
                        continue;
                    }
                    if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(&step) {
                        return Err(too_many(name));
                    }
                    buckets.entry(step).or_default().take(&self.below, doc)?;
                }
            }
            (Kind::Range { field, ranges, .. }, Acc::List(buckets)) => {
                for number in doc.values(field).iter().filter_map(numeric) {
                    for ((_, from, to), bucket) in ranges.iter().zip(buckets.iter_mut()) {
                        if from.is_none_or(|from| number >= from) && to.is_none_or(|to| number < to) {
                            bucket.take(&self.below, doc)?;
                        }
                    }
                }
            }
            (Kind::Filter(query), Acc::List(buckets)) => {
                if query.matches(doc)
                    && let Some(bucket) = buckets.first_mut()
                {
                    bucket.take(&self.below, doc)?;
                }
            }
            (Kind::Filters(filters), Acc::List(buckets)) => {
                for ((_, query), bucket) in filters.iter().zip(buckets.iter_mut()) {
                    if query.matches(doc) {
                        bucket.take(&self.below, doc)?;
                    }
                }
            }
            (Kind::Missing(field), Acc::List(buckets)) => {
                if doc.values(field).is_empty()
                    && let Some(bucket) = buckets.first_mut()
                {
                    bucket.take(&self.below, doc)?;
                }
            }
            (Kind::Metric { metric, field, missing }, Acc::Sum { count, sum, min, max }) => {
                let values = doc.values(field);
                if *metric == Metric::ValueCount {
                    *count += values.len() as u64;
                    return Ok(());
                }
                let numbers = values.iter().filter_map(numeric);
                for number in numbers.chain(missing.filter(|_| values.is_empty())) {
                    *count += 1;
                    *sum += number;
                    *min = min.min(number);
                    *max = max.max(number);
                }
            }
            (Kind::Percentiles { field, .. }, Acc::Numbers(numbers)) => {
                numbers.extend(doc.values(field).iter().filter_map(numeric));
                if numbers.len() > 10 * MAX_KEYS {
                    return Err(too_many(name));
                }
            }
            (Kind::Cardinality(field, missing), Acc::Distinct(keys)) => {
                let values = doc.values(field);
                if let (true, Some(missing)) = (values.is_empty(), missing) {
                    keys.insert(Key::Text(missing.clone()));
                }
                keys.extend(values.iter().map(Key::of));
                if keys.len() > MAX_KEYS {
                    return Err(too_many(name));
                }
            }
            // Accumulators are made from the specs they stand beside.
            _ => debug_assert!(false, "accumulator of another kind"),
        }
        Ok(())
    }

    fn answer(&self, acc: Acc, left: &mut usize) -> Result<Json, ApiError> {
        match (&self.kind, acc) {
            (Kind::Terms { size, min_count, order, .. }, Acc::Words(buckets)) => {
                self.terms_answer(buckets, *size, *min_count, order, left)
            }
            (
                Kind::DateHistogram { interval, zone, offset_ms, min_count, bounds, keyed, format, .. },
                Acc::Steps(mut buckets),
            ) => {
                if *min_count == 0 {
                    let first = buckets.keys().next().copied();
                    let last = buckets.keys().next_back().copied();
                    let low = bounds.map(|(low, _)| interval.bucket(low, *zone, *offset_ms));
                    let high = bounds.map(|(_, high)| interval.bucket(high, *zone, *offset_ms));
                    let from = [first, low].into_iter().flatten().min();
                    let to = [last, high].into_iter().flatten().max();
                    if let (Some(mut at), Some(to)) = (from, to) {
                        while at <= to {
                            if buckets.len() > MAX_BUCKETS {
                                return Err(too_many_buckets());
                            }
                            buckets.entry(at).or_default();
                            at = interval.next(at, *zone, *offset_ms);
                        }
                    }
                }
                let mut all = Vec::new();
                for (start, bucket) in buckets.into_iter().filter(|(_, b)| b.count >= *min_count) {
                    let text = match format {
                        Format::Iso => zone.iso_millis(start),
                        Format::EpochMillis => start.to_string(),
                    };
                    let head = Map::from_iter([
                        ("key_as_string".to_owned(), text.clone().into()),
                        ("key".to_owned(), start.into()),
                    ]);
                    all.push((text, bucket.answer(&self.below, head, left)?));
                }
                Ok(json!({"buckets": listed(all, *keyed)}))
            }
            (Kind::Histogram { interval, offset, min_count, extended, keyed, .. }, Acc::Steps(mut buckets)) => {
                let step = |number: f64| ((number - offset) / interval).floor() as i64;
                let first = buckets.keys().next().copied().into_iter().chain(extended.map(|(low, _)| step(low))).min();
                let last =
                    buckets.keys().next_back().copied().into_iter().chain(extended.map(|(_, high)| step(high))).max();
                if let (0, Some(first), Some(last)) = (*min_count, first, last) {
                    if last.saturating_sub(first) > MAX_BUCKETS as i64 {
                        return Err(too_many_buckets());
                    }
                    for step in first..=last {
                        buckets.entry(step).or_default();
                    }
                }
                let mut all = Vec::new();
                for (step, bucket) in buckets.into_iter().filter(|(_, b)| b.count >= *min_count) {
                    let key = json!(step as f64 * interval + offset);
                    let head = Map::from_iter([("key".to_owned(), key.clone())]);
                    all.push((key.to_string(), bucket.answer(&self.below, head, left)?));
                }
                Ok(json!({"buckets": listed(all, *keyed)}))
            }
            (Kind::Range { ranges, keyed, .. }, Acc::List(buckets)) => {
                let mut all = Vec::new();
                for ((key, from, to), bucket) in ranges.iter().zip(buckets) {
                    let text = |bound: &Option<f64>| bound.map_or_else(|| "*".to_owned(), |n| json!(n).to_string());
                    let key = key.clone().unwrap_or_else(|| format!("{}-{}", text(from), text(to)));
                    let mut head = Map::new();
                    if !keyed {
                        head.insert("key".to_owned(), key.clone().into());
                    }
                    for (name, bound) in [("from", from), ("to", to)] {
                        head.extend(bound.map(|n| (name.to_owned(), json!(n))));
                    }
                    all.push((key, bucket.answer(&self.below, head, left)?));
                }
                Ok(json!({"buckets": listed(all, *keyed)}))
            }
            (Kind::Filter(_) | Kind::Missing(_), Acc::List(mut buckets)) => {
                buckets.pop().unwrap_or_default().answer(&self.below, Map::new(), left)
            }
            (Kind::Filters(filters), Acc::List(buckets)) => {
                let keyed = filters.iter().all(|(name, _)| name.is_some());
                let mut all = Vec::new();
                for ((name, _), bucket) in filters.iter().zip(buckets) {
                    all.push((name.clone().unwrap_or_default(), bucket.answer(&self.below, Map::new(), left)?));
                }
                Ok(json!({"buckets": listed(all, keyed)}))
            }
            (Kind::Metric { metric, .. }, Acc::Sum { count, sum, min, max }) => {
                Ok(metric_answer(*metric, count, sum, min, max))
            }
            (Kind::Percentiles { percents, keyed, .. }, Acc::Numbers(mut numbers)) => {
                numbers.sort_unstable_by(f64::total_cmp);
                let all: Vec<(String, Json)> = percents
                    .iter()
                    .map(|p| (json!(p).to_string(), percentile(&numbers, *p).map_or(Json::Null, Json::from)))
                    .collect();
                let values = if *keyed {
                    Json::Object(all.into_iter().collect())
                } else {
                    all.into_iter().zip(percents).map(|((_, value), p)| json!({"key": p, "value": value})).collect()
                };
                Ok(json!({"values": values}))
            }
            (Kind::Cardinality(..), Acc::Distinct(keys)) => Ok(json!({"value": keys.len()})),
            _ => Ok(Json::Null),
        }
    }

    fn terms_answer(
        &self,
        buckets: HashMap<Key, Bucket>,
        size: usize,
        min_count: u64,
        order: &[(String, bool)],
        left: &mut usize,
    ) -> Result<Json, ApiError> {
        let mut all: Vec<(Key, u64, Json)> = Vec::with_capacity(buckets.len());
        let by_metric = order.iter().any(|(key, _)| !key.starts_with('_'));
        let mut plain: Vec<(Key, Bucket)> = buckets.into_iter().filter(|(_, b)| b.count >= min_count).collect();
        let total: u64 = plain.iter().map(|(_, b)| b.count).sum();
        if !by_metric {
            // Only what is shown is worked out.
            plain.sort_by(|a, b| compare(order, (&a.0, a.1.count, &Json::Null), (&b.0, b.1.count, &Json::Null)));
            plain.truncate(size);
        }
        for (key, bucket) in plain {
            let count = bucket.count;
            let mut head = Map::new();
            match &key {
                Key::Text(text) => drop(head.insert("key".to_owned(), text.as_str().into())),
                Key::Number(bits) => drop(head.insert("key".to_owned(), number_json(unordered(*bits)))),
                Key::Bool(b) => {
                    head.insert("key".to_owned(), i32::from(*b).into());
                    head.insert("key_as_string".to_owned(), b.to_string().into());
                }
            }
            all.push((key, count, bucket.answer(&self.below, head, left)?));
        }
        if by_metric {
            all.sort_by(|a, b| compare(order, (&a.0, a.1, &a.2), (&b.0, b.1, &b.2)));
            all.truncate(size);
        }
        let shown: u64 = all.iter().map(|(_, count, _)| count).sum();
        let list: Vec<Json> = all.into_iter().map(|(.., json)| json).collect();
        Ok(json!({"doc_count_error_upper_bound": 0, "sum_other_doc_count": total - shown, "buckets": list}))
    }
}

fn compare(order: &[(String, bool)], a: (&Key, u64, &Json), b: (&Key, u64, &Json)) -> std::cmp::Ordering {
    for (by, ascending) in order {
        let found = match by.as_str() {
            "_count" => a.1.cmp(&b.1),
            "_key" => a.0.cmp(b.0),
            path => {
                let (name, part) = path.split_once('.').unwrap_or((path, "value"));
                let of = |json: &Json| {
                    json.get(name)
                        .and_then(|m| m.get(part).or_else(|| m.pointer(&format!("/values/{part}"))))
                        .and_then(Json::as_f64)
                };
                // A bucket without a value comes last in either direction.
                match (of(a.2), of(b.2)) {
                    (Some(x), Some(y)) => x.total_cmp(&y),
                    (None, None) => std::cmp::Ordering::Equal,
                    (None, Some(_)) => return std::cmp::Ordering::Greater,
                    (Some(_), None) => return std::cmp::Ordering::Less,
                }
            }
        };
        let found = if *ascending { found } else { found.reverse() };
        if found.is_ne() {
            return found;
        }
    }
    std::cmp::Ordering::Equal
}

fn listed(all: Vec<(String, Json)>, keyed: bool) -> Json {
    if keyed { Json::Object(all.into_iter().collect()) } else { all.into_iter().map(|(_, json)| json).collect() }
}

/// Numbers and times; texts are no numbers here, as in a field mapped as keyword.
fn numeric(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Text(text) => text.parse().ok(),
        other => other.number(),
    }
}

fn metric_answer(metric: Metric, count: u64, sum: f64, min: f64, max: f64) -> Json {
    let some = |n: f64| if count == 0 { Json::Null } else { json!(n) };
    match metric {
        Metric::Avg => json!({"value": some(sum / count as f64)}),
        Metric::Min => json!({"value": some(min)}),
        Metric::Max => json!({"value": some(max)}),
        Metric::Sum => json!({"value": sum}),
        Metric::ValueCount => json!({"value": count}),
        Metric::Stats => {
            json!({"count": count, "min": some(min), "max": some(max), "avg": some(sum / count as f64), "sum": sum})
        }
    }
}

/// Linear interpolation between the neighbours, as t-digest does on few values.
fn percentile(sorted: &[f64], percent: f64) -> Option<f64> {
    let at = percent / 100.0 * (sorted.len().checked_sub(1)?) as f64;
    let (low, high) = (sorted.get(at.floor() as usize)?, sorted.get(at.ceil() as usize)?);
    Some(low + (high - low) * at.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_order_as_keys() {
        let numbers = [f64::NEG_INFINITY, -2.5, -1.0, 0.0, 0.5, 200.0, 1e18];
        for pair in numbers.windows(2) {
            assert!(ordered(pair[0]) < ordered(pair[1]), "{pair:?}");
            assert_eq!(unordered(ordered(pair[0])), pair[0]);
        }
    }

    #[test]
    fn percentiles_interpolate() {
        let sorted = [1.0, 2.0, 3.0, 4.0, 5.0];
        for (percent, want) in [(0.0, 1.0), (50.0, 3.0), (25.0, 2.0), (90.0, 4.6), (100.0, 5.0)] {
            assert!((percentile(&sorted, percent).unwrap() - want).abs() < 1e-9, "{percent}");
        }
        assert_eq!(percentile(&[], 50.0), None);
    }

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
            let error = parse(&serde_json::from_str(text).unwrap(), Context::new(0)).unwrap_err();
            assert!(error.reason.contains(want), "{text}: {error}");
        }
    }
}
