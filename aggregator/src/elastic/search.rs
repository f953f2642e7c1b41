//! `_search`, `_msearch`, `_count`: a request becomes a plan, the rows found become hits and aggregations.
//!
//! In: path (which indices), parameters, body. Out: the answer as JSON. Touches nothing but the index.
//! Memory is bounded: only the best `from + size` hits are kept, aggregations have their own limits.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;

use futures::StreamExt as _;
use millrace_log::record::Tenant;
use serde_json::{Map, Value as Json, json};
use tokio_util::sync::CancellationToken;

use super::ElasticState;
use super::aggs::{self, Collected, Specs};
use super::document::{Doc, TIMESTAMP, Value, number_json};
use super::error::ApiError;
use super::indices::Selection;
use super::query::{self, Context, Query};
use millrace_index::scan::{Kind, Order, Plan, RowBatch};

/// `index.max_result_window`.
const MAX_WINDOW: usize = 10_000;
/// Hits are counted exactly up to here unless asked otherwise.
const TRACK_TOTAL: u64 = 10_000;
const DEFAULT_SIZE: usize = 10;

/// A request as checked.
pub struct Request {
    selection: Selection,
    query: Query,
    aggs: Specs,
    from: usize,
    size: usize,
    sort: Vec<SortBy>,
    after: Option<Vec<SortValue>>,
    /// What hits must match too, aggregations must not.
    post_filter: Option<Query>,
    source: SourceFilter,
    fields: Vec<String>,
    /// Count up to; `None`: not at all.
    track_total: Option<u64>,
    totals_as_number: bool,
    version: bool,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct SortBy {
    field: String,
    descending: bool,
    missing_first: bool,
    /// Stands in for a missing value.
    missing: Option<SortValue>,
}

/// A value that hits are ordered by.
#[derive(Debug, Clone, PartialEq)]
enum SortValue {
    Missing,
    Number(f64),
    Text(String),
}

enum SourceFilter {
    All,
    None,
    Some { includes: Vec<regex::Regex>, excludes: Vec<regex::Regex> },
}

/// A hit that is among the best so far.
struct Hit {
    keys: Vec<SortValue>,
    /// Ties: the order in which they were found.
    number: u64,
    index: String,
    id: String,
    source: Json,
    fields: Option<Json>,
    sort: Arc<[SortBy]>,
}

impl Hit {
    fn order(&self, other: &Self) -> Ordering {
        compare_keys(&self.sort, &self.keys, &other.keys).then(self.number.cmp(&other.number))
    }
}

impl PartialEq for Hit {
    fn eq(&self, other: &Self) -> bool {
        self.order(other).is_eq()
    }
}
impl Eq for Hit {}
impl PartialOrd for Hit {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Hit {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order(other)
    }
}

fn compare_keys(sort: &[SortBy], a: &[SortValue], b: &[SortValue]) -> Ordering {
    for ((by, a), b) in sort.iter().zip(a).zip(b) {
        let order = match (a, b) {
            (SortValue::Missing, SortValue::Missing) => Ordering::Equal,
            (SortValue::Missing, _) => {
                if by.missing_first {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
            (_, SortValue::Missing) => {
                if by.missing_first {
                    Ordering::Greater
                } else {
                    Ordering::Less
                }
            }
            (SortValue::Number(a), SortValue::Number(b)) => directed(a.total_cmp(b), by.descending),
            (SortValue::Text(a), SortValue::Text(b)) => directed(a.cmp(b), by.descending),
            // Numbers before texts, whatever the direction.
            (SortValue::Number(_), SortValue::Text(_)) => Ordering::Less,
            (SortValue::Text(_), SortValue::Number(_)) => Ordering::Greater,
        };
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

fn directed(order: Ordering, descending: bool) -> Ordering {
    if descending { order.reverse() } else { order }
}

/// Parameters of the address that matter to a search.
pub type UrlParams = std::collections::HashMap<String, String>;

impl Request {
    /// Reads and checks a body; `params` are those of the address.
    pub fn parse(selection: Selection, params: &UrlParams, body: &Json, now_ns: i64) -> Result<Self, ApiError> {
        let context = Context::new(now_ns);
        let none = Map::new();
        let object = match body {
            Json::Null => &none,
            Json::Object(object) => object,
            _ => return Err(ApiError::parsing("the body must be an object")),
        };
        let mut found = Self {
            selection,
            query: Query::All,
            aggs: Specs::default(),
            from: number(params.get("from"))?.unwrap_or(0),
            size: number(params.get("size"))?.unwrap_or(DEFAULT_SIZE),
            sort: params.get("sort").map(|text| sort_of_url(text)).unwrap_or_default(),
            after: None,
            post_filter: None,
            source: source_of_url(params)?,
            fields: Vec::new(),
            track_total: track_total(
                &params.get("track_total_hits").map_or(Json::Null, |t| serde_json::from_str(t).unwrap_or(Json::Null)),
            )?,
            totals_as_number: params.get("rest_total_hits_as_int").is_some_and(|v| v != "false"),
            version: params.get("version").is_some_and(|v| v != "false"),
        };
        if let Some(text) = params.get("q") {
            let and = params.get("default_operator").is_some_and(|o| o.eq_ignore_ascii_case("and"));
            found.query = super::query_string::parse(text, &[], and, now_ns)?;
        }
        // What the address says counts more than the body.
        let of_url = |key: &str| params.contains_key(key);
        let mut after = None;
        for (key, value) in object {
            match key.as_str() {
                "query" => found.query = query::parse(value, context)?,
                "aggs" | "aggregations" => found.aggs = aggs::parse(value, context)?,
                "from" if of_url("from") => drop(count(key, value)?),
                "size" if of_url("size") => drop(count(key, value)?),
                "from" => found.from = count(key, value)?,
                "size" => found.size = count(key, value)?,
                "sort" => found.sort = sort_of(value)?,
                "post_filter" => found.post_filter = Some(query::parse(value, context)?),
                "search_after" => after = Some(value),
                "_source" => found.source = source_filter(value)?,
                "fields" | "docvalue_fields" => found.fields.extend(field_names(value)?),
                "track_total_hits" => found.track_total = track_total(value)?,
                "version" => found.version = value == &Json::Bool(true),
                // They change nothing in what is found.
                "highlight"
                | "stored_fields"
                | "track_scores"
                | "explain"
                | "timeout"
                | "preference"
                | "profile"
                | "seq_no_primary_term"
                | "indices_boost"
                | "terminate_after"
                | "stats" => {}
                "script_fields" | "runtime_mappings" if value.as_object().is_some_and(Map::is_empty) => {}
                known @ ("script_fields" | "runtime_mappings" | "collapse" | "rescore" | "suggest" | "min_score"
                | "slice" | "pit" | "ext" | "knn") => {
                    return Err(ApiError::not_yet(known));
                }
                other => return Err(ApiError::parsing(format!("Unknown key for a value in [{other}]."))),
            }
        }
        if found.from.saturating_add(found.size) > MAX_WINDOW {
            return Err(ApiError::argument(format!(
                "Result window is too large, from + size must be less than or equal to: [{MAX_WINDOW}] but was [{}]. Page with search_after.",
                found.from.saturating_add(found.size)
            )));
        }
        if let Some(value) = after {
            if found.from > 0 {
                return Err(ApiError::argument("`from` parameter must be set to 0 when `search_after` is used."));
            }
            let values = value
                .as_array()
                .filter(|v| v.len() == found.sort.len())
                .ok_or_else(|| ApiError::argument("search_after must have as many values as sort"))?;
            found.after =
                Some(found.sort.iter().zip(values).map(|(by, v)| after_value(&by.field, v)).collect::<Result<_, _>>()?);
        }
        Ok(found)
    }

    fn plan(&self, tenant: Tenant, state: &ElasticState, cancel: CancellationToken) -> Plan {
        let (mut start_ns, mut end_ns) = (i64::MIN, i64::MAX);
        self.query.narrow(&mut start_ns, &mut end_ns);
        let by_time = self.sort.first().filter(|by| by.field == TIMESTAMP);
        // The total counts what lies before the page too: only without it is the rest enough.
        let page_only = self.track_total.is_none() && self.aggs.is_empty();
        if page_only
            && let (Some(by), Some(SortValue::Number(ms))) = (by_time, self.after.as_ref().and_then(|a| a.first()))
        {
            let ns = (*ms as i64).saturating_mul(1_000_000);
            if by.descending { end_ns = end_ns.min(ns.saturating_add(1_000_000)) } else { start_ns = start_ns.max(ns) }
        }
        let kind = self.selection.kind();
        let mut needles = Vec::new();
        if kind == Kind::Lines {
            self.query.needles(&mut needles);
        }
        let ordered = self.size > 0 && self.aggs.is_empty();
        let order = match by_time {
            Some(by) if ordered => {
                if by.descending {
                    Order::Backward
                } else {
                    Order::Forward
                }
            }
            None if ordered && self.sort.is_empty() => Order::Backward,
            _ => Order::Any,
        };
        Plan {
            tenant,
            matchers: Vec::new(),
            start_ns,
            end_ns,
            needles,
            kind,
            order,
            expect: (order != Order::Any).then_some(self.from + self.size),
            limits: state.limits.clone(),
            cancel,
        }
    }
}

fn number(text: Option<&String>) -> Result<Option<usize>, ApiError> {
    text.map(|t| t.parse().map_err(|_| ApiError::argument(format!("Failed to parse int parameter with value [{t}]"))))
        .transpose()
}

fn count(key: &str, value: &Json) -> Result<usize, ApiError> {
    let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
    number
        .and_then(|n| usize::try_from(n).ok())
        .ok_or_else(|| ApiError::argument(format!("[{key}] parameter cannot be negative or no number, found {value}")))
}

fn track_total(value: &Json) -> Result<Option<u64>, ApiError> {
    match value {
        Json::Null => Ok(Some(TRACK_TOTAL)),
        Json::Bool(true) => Ok(Some(u64::MAX)),
        Json::Bool(false) => Ok(None),
        Json::Number(n) => {
            n.as_u64().map(Some).ok_or_else(|| ApiError::argument("[track_total_hits] parameter must be positive"))
        }
        _ => Err(ApiError::parsing("[track_total_hits] must be a boolean or a number")),
    }
}

fn sort_of_url(text: &str) -> Vec<SortBy> {
    text.split(',')
        .map(|part| {
            let (field, direction) = part.rsplit_once(':').unwrap_or((part, "asc"));
            SortBy { field: field.to_owned(), descending: direction == "desc", ..SortBy::default() }
        })
        .collect()
}

fn sort_of(value: &Json) -> Result<Vec<SortBy>, ApiError> {
    let items: Vec<&Json> = match value {
        Json::Array(items) => items.iter().collect(),
        one => vec![one],
    };
    let mut found = Vec::new();
    for item in items {
        match item {
            Json::String(field) => {
                found.push(SortBy { field: field.clone(), descending: field == "_score", ..SortBy::default() })
            }
            Json::Object(fields) => {
                for (field, options) in fields {
                    let direction = options.as_str().or_else(|| options.get("order").and_then(Json::as_str));
                    let descending = match direction {
                        Some("desc") => true,
                        Some("asc") => false,
                        None => field == "_score",
                        Some(other) => {
                            return Err(ApiError::argument(format!("No enum constant for sort order [{other}]")));
                        }
                    };
                    if options.get("nested").is_some() || field == "_script" || field == "_geo_distance" {
                        return Err(ApiError::not_yet("sort by script, distance or nested"));
                    }
                    let (missing_first, missing) = match options.get("missing") {
                        None => (false, None),
                        Some(Json::String(place)) if place == "_first" => (true, None),
                        Some(Json::String(place)) if place == "_last" => (false, None),
                        Some(value) => (false, Some(after_value(field, value)?)),
                    };
                    found.push(SortBy { field: field.clone(), descending, missing_first, missing });
                }
            }
            _ => return Err(ApiError::parsing("malformed sort format, either start with array, object or string")),
        }
    }
    Ok(found)
}

fn after_value(field: &str, value: &Json) -> Result<SortValue, ApiError> {
    match value {
        Json::Null => Ok(SortValue::Missing),
        Json::Number(n) => Ok(n.as_f64().map_or(SortValue::Missing, SortValue::Number)),
        Json::String(text) if field == TIMESTAMP => super::time::parse(text)
            .map(|ns| SortValue::Number(ns.div_euclid(1_000_000) as f64))
            .ok_or_else(|| ApiError::parsing(format!("failed to parse date field [{text}]"))),
        Json::String(text) => Ok(SortValue::Text(text.clone())),
        Json::Bool(b) => Ok(SortValue::Number(f64::from(u8::from(*b)))),
        _ => Err(ApiError::parsing("[search_after] values must be texts, numbers or null")),
    }
}

fn patterns(list: &[String]) -> Result<Vec<regex::Regex>, ApiError> {
    list.iter()
        .map(|p| {
            regex::Regex::new(&format!("^{}(\\..*)?$", query::wildcard(p)))
                .map_err(|e| ApiError::argument(e.to_string()))
        })
        .collect()
}

fn names(value: Option<&Json>) -> Vec<String> {
    match value {
        Some(Json::String(one)) => one.split(',').map(str::to_owned).collect(),
        Some(Json::Array(items)) => items.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

fn source_filter(value: &Json) -> Result<SourceFilter, ApiError> {
    match value {
        Json::Bool(true) => Ok(SourceFilter::All),
        Json::Bool(false) => Ok(SourceFilter::None),
        Json::Object(object) => {
            let of = |a: &str, b: &str| names(object.get(a).or_else(|| object.get(b)));
            Ok(SourceFilter::Some {
                includes: patterns(&of("includes", "include"))?,
                excludes: patterns(&of("excludes", "exclude"))?,
            })
        }
        list => Ok(SourceFilter::Some { includes: patterns(&names(Some(list)))?, excludes: Vec::new() }),
    }
}

fn source_of_url(params: &UrlParams) -> Result<SourceFilter, ApiError> {
    let list = |key: &str| names(params.get(key).map(|t| Json::from(t.as_str())).as_ref());
    match params.get("_source").map(String::as_str) {
        Some("false") => Ok(SourceFilter::None),
        Some("true") => Ok(SourceFilter::All),
        Some(text) => source_filter(&Json::from(text)),
        None if params.contains_key("_source_includes") || params.contains_key("_source_excludes") => {
            Ok(SourceFilter::Some {
                includes: patterns(&list("_source_includes"))?,
                excludes: patterns(&list("_source_excludes"))?,
            })
        }
        None => Ok(SourceFilter::All),
    }
}

fn field_names(value: &Json) -> Result<Vec<String>, ApiError> {
    let items = value.as_array().ok_or_else(|| ApiError::parsing("[fields] must be a list"))?;
    items
        .iter()
        .map(|item| {
            item.as_str()
                .or_else(|| item.get("field")?.as_str())
                .map(str::to_owned)
                .ok_or_else(|| ApiError::parsing("[fields] entries must name a field"))
        })
        .collect()
}

impl SourceFilter {
    fn of(&self, doc: &Doc<'_>) -> Json {
        match self {
            Self::None => Json::Null,
            Self::All => doc.source(),
            Self::Some { includes, excludes } => {
                let Json::Object(source) = doc.source() else { return Json::Null };
                Json::Object(filtered(source, "", includes, excludes))
            }
        }
    }
}

fn filtered(
    object: Map<String, Json>,
    prefix: &str,
    includes: &[regex::Regex],
    excludes: &[regex::Regex],
) -> Map<String, Json> {
    let mut out = Map::new();
    for (name, value) in object {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        if excludes.iter().any(|p| p.is_match(&path)) {
            continue;
        }
        let wanted = includes.is_empty() || includes.iter().any(|p| p.is_match(&path));
        match value {
            Json::Object(inner) if !wanted || !excludes.is_empty() => {
                let all = if wanted { &[] } else { includes };
                let inner = filtered(inner, &path, all, excludes);
                if wanted || !inner.is_empty() {
                    out.insert(name, inner.into());
                }
            }
            value if wanted => drop(out.insert(name, value)),
            _ => {}
        }
    }
    out
}

/// What grows while batches come in.
struct Search {
    request: Arc<Request>,
    best: BinaryHeap<Hit>,
    sort: Arc<[SortBy]>,
    total: u64,
    collected: Collected,
    fault: Option<ApiError>,
}

impl Search {
    /// Takes a batch; `false` when nothing that comes can change the answer.
    fn take(&mut self, batch: &RowBatch) -> bool {
        let request = Arc::clone(&self.request);
        let window = request.from + request.size;
        for row in &batch.rows {
            let Some(doc) = Doc::new(batch, row) else { continue };
            if !request.selection.holds(&doc.index()) || !request.query.matches(&doc) {
                continue;
            }
            if !request.aggs.is_empty()
                && let Err(fault) = request.aggs.collect(&mut self.collected, &doc)
            {
                self.fault = Some(fault);
                return false;
            }
            if request.post_filter.as_ref().is_some_and(|query| !query.matches(&doc)) {
                continue;
            }
            self.total += 1;
            if request.size > 0 {
                self.offer(&doc, window);
            }
        }
        // In order of the sort: what comes later is no better; and the count has reached what is tracked.
        // Documents without a time are sorted last and may stand anywhere.
        let timed = self.sort.is_empty()
            || self.best.peek().is_some_and(|worst| worst.keys.first() != Some(&SortValue::Missing));
        let ordered = timed
            && self.sort.iter().all(|by| !by.missing_first && by.missing.is_none())
            && self.sort.len() <= 1
            && self.request.aggs.is_empty()
            && request.size > 0
            && request.in_time_order();
        let counted = request.track_total.is_none_or(|limit| self.total > limit);
        !(ordered && counted && self.best.len() >= window && request.after.is_none())
    }

    fn offer(&mut self, doc: &Doc<'_>, window: usize) {
        let keys: Vec<SortValue> = self.sort.iter().map(|by| sort_value(doc, by)).collect();
        if let Some(after) = &self.request.after
            && compare_keys(&self.sort, &keys, after).is_le()
        {
            return;
        }
        if self.best.len() >= window
            && let Some(worst) = self.best.peek()
            && compare_keys(&self.sort, &keys, &worst.keys).is_ge()
        {
            return;
        }
        let fields = (!self.request.fields.is_empty()).then(|| fields_of(doc, &self.request.fields));
        self.best.push(Hit {
            keys,
            number: self.total,
            index: doc.index().into_owned(),
            id: doc.id().into_owned(),
            source: self.request.source.of(doc),
            fields,
            sort: Arc::clone(&self.sort),
        });
        if self.best.len() > window {
            self.best.pop();
        }
    }

    fn answer(self, took_ms: u64) -> Result<Json, ApiError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let request = self.request;
        let sorted = !request.sort.is_empty();
        let score = if sorted { Json::Null } else { json!(1.0) };
        let hits: Vec<Json> = self
            .best
            .into_sorted_vec()
            .into_iter()
            .skip(request.from)
            .map(|hit| {
                let mut out = Map::new();
                out.insert("_index".to_owned(), hit.index.into());
                out.insert("_id".to_owned(), hit.id.into());
                if request.version {
                    out.insert("_version".to_owned(), 1.into());
                }
                out.insert("_score".to_owned(), score.clone());
                if !matches!(request.source, SourceFilter::None) {
                    out.insert("_source".to_owned(), hit.source);
                }
                if let Some(fields) = hit.fields.filter(|f| f.as_object().is_some_and(|f| !f.is_empty())) {
                    out.insert("fields".to_owned(), fields);
                }
                if sorted {
                    let keys = hit.keys.into_iter().map(|key| match key {
                        SortValue::Missing => Json::Null,
                        SortValue::Number(n) => number_json(n),
                        SortValue::Text(text) => text.into(),
                    });
                    out.insert("sort".to_owned(), keys.collect());
                }
                Json::Object(out)
            })
            .collect();
        let max_score = if hits.is_empty() || sorted { Json::Null } else { json!(1.0) };
        let mut all = Map::new();
        if let Some(limit) = request.track_total {
            let (value, relation) = if self.total > limit { (limit, "gte") } else { (self.total, "eq") };
            let total =
                if request.totals_as_number { json!(value) } else { json!({"value": value, "relation": relation}) };
            all.insert("total".to_owned(), total);
        }
        all.insert("max_score".to_owned(), max_score);
        all.insert("hits".to_owned(), hits.into());
        let mut out = json!({
            "took": took_ms,
            "timed_out": false,
            "_shards": {"total": 1, "successful": 1, "skipped": 0, "failed": 0},
            "hits": all,
        });
        if !request.aggs.is_empty() {
            out["aggregations"] = request.aggs.answer(self.collected)?;
        }
        Ok(out)
    }
}

impl Request {
    fn in_time_order(&self) -> bool {
        self.sort.first().is_none_or(|by| by.field == TIMESTAMP)
    }
}

fn fields_of(doc: &Doc<'_>, wanted: &[String]) -> Json {
    let mut out = Map::new();
    for field in wanted {
        let values: Vec<Json> = doc
            .values(field)
            .iter()
            .map(|value| match value {
                Value::Number(n) => number_json(*n),
                Value::Bool(b) => Json::Bool(*b),
                other => other.text().into(),
            })
            .collect();
        if !values.is_empty() {
            out.insert(field.clone(), values.into());
        }
    }
    Json::Object(out)
}

fn sort_value(doc: &Doc<'_>, by: &SortBy) -> SortValue {
    match by.field.as_str() {
        // Documents have no other order of their own than that of time.
        "_doc" | "_shard_doc" => return SortValue::Number(doc.time_ns() as f64),
        "_score" => return SortValue::Number(1.0),
        _ => {}
    }
    let values = doc.values(&by.field).into_iter().map(|value| match value {
        Value::Text(text) => SortValue::Text(text.into_owned()),
        Value::Time(ns) => SortValue::Number(ns.div_euclid(1_000_000) as f64),
        other => other.number().map_or(SortValue::Missing, SortValue::Number),
    });
    // Of several values the smallest counts upwards, the largest downwards.
    let one = std::slice::from_ref(by);
    values
        .min_by(|a, b| compare_keys(one, std::slice::from_ref(a), std::slice::from_ref(b)))
        .or_else(|| by.missing.clone())
        .unwrap_or(SortValue::Missing)
}

/// Runs a request to its end.
pub async fn run(state: &ElasticState, tenant: Tenant, request: Request) -> Result<Json, ApiError> {
    let _place = state.queries.acquire().await.map_err(|_| ApiError::argument("the server stops"))?;
    let begun = tokio::time::Instant::now();
    let cancel = CancellationToken::new();
    // A client that goes away drops this future and with it the scan.
    let _guard = cancel.clone().drop_guard();
    let mut rows = state.store.scan(request.plan(tenant, state, cancel)).await?;
    let sort: Arc<[SortBy]> = request.sort.clone().into();
    let mut search = Search {
        request: Arc::new(request),
        best: BinaryHeap::new(),
        sort,
        total: 0,
        collected: Collected::default(),
        fault: None,
    };
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        let (back, more) = tokio::task::spawn_blocking(move || {
            let more = search.take(&batch);
            (search, more)
        })
        .await
        .map_err(|_| ApiError {
            status: 500,
            kind: "search_phase_execution_exception",
            reason: "a search broke off".to_owned(),
        })?;
        search = back;
        if !more {
            break;
        }
    }
    search.answer(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// `_count`: only how many.
pub async fn count_of(
    state: &ElasticState,
    tenant: Tenant,
    selection: Selection,
    params: &UrlParams,
    body: &Json,
) -> Result<Json, ApiError> {
    let mut body = body.clone();
    if let Json::Object(object) = &mut body {
        if let Some(other) = object.keys().find(|key| *key != "query") {
            return Err(ApiError::parsing(format!("request does not support [{other}]")));
        }
        object.insert("size".to_owned(), 0.into());
    } else {
        body = json!({"size": 0});
    }
    let mut request = Request::parse(selection, params, &body, state.clock.now_ns())?;
    request.track_total = Some(u64::MAX);
    request.totals_as_number = true;
    let answer = run(state, tenant, request).await?;
    Ok(json!({"count": answer["hits"]["total"], "_shards": answer["_shards"]}))
}
