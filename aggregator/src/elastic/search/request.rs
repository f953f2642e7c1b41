//! A search as asked: body and parameters of the address, checked, and the plan that they make.
//!
//! In: path (which indices), parameters, body. Out: [`Request`]; a [`Plan`] for the index. Touches nothing.

use millrace_log::record::Tenant;
use serde_json::{Map, Value as Json};

use super::super::aggs::{self, Specs};
use super::super::bounds::{Bounds, MAX_SORT_KEYS};
use super::super::document::TIMESTAMP;
use super::super::dsl::{self, Context};
use super::super::error::ApiError;
use super::super::indices::Selection;
use super::super::query::Query;
use super::super::query_string;
use super::params::UrlParams;
use super::sort::{self, SortBy, SortValue};
use super::source::{self, SourceFilter};
use millrace_index::scan::{Budget, Kind, Order, Plan};

/// `index.max_result_window`.
const MAX_WINDOW: usize = 10_000;
/// Hits are counted exactly up to here unless asked otherwise.
const TRACK_TOTAL: u64 = 10_000;
const DEFAULT_SIZE: usize = 10;

/// A request as checked.
pub struct Request {
    /// Indices asked.
    pub selection: Selection,
    /// What documents must match.
    pub query: Query,
    /// Aggregations.
    pub aggs: Specs,
    /// Hits left out at the beginning.
    pub from: usize,
    /// Hits shown at most.
    pub size: usize,
    /// Order of hits.
    pub sort: Vec<SortBy>,
    /// Hits begin behind these keys.
    pub after: Option<Vec<SortValue>>,
    /// What hits must match too, aggregations must not.
    pub post_filter: Option<Query>,
    /// What hits show of `_source`.
    pub source: SourceFilter,
    /// Fields shown beside it.
    pub fields: Vec<String>,
    /// Count up to; `None`: not at all.
    pub track_total: Option<u64>,
    /// `total` as in Elasticsearch 6.
    pub totals_as_number: bool,
    /// Hits have a `_version`.
    pub version: bool,
}

impl Request {
    /// Reads and checks a body; `params` are those of the address.
    pub fn parse(selection: Selection, params: &UrlParams, body: &Json, now_ns: i64) -> Result<Self, ApiError> {
        let bounds = Bounds::default();
        let context = Context::new(now_ns, &bounds);
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
            sort: params.get("sort").map(|text| sort::of_url(text)).unwrap_or_default(),
            after: None,
            post_filter: None,
            source: source::of_url(params)?,
            fields: Vec::new(),
            track_total: track_total(
                &params.get("track_total_hits").map_or(Json::Null, |t| serde_json::from_str(t).unwrap_or(Json::Null)),
            )?,
            totals_as_number: params.get("rest_total_hits_as_int").is_some_and(|v| v != "false"),
            version: params.get("version").is_some_and(|v| v != "false"),
        };
        if let Some(text) = params.get("q") {
            let and = params.get("default_operator").is_some_and(|o| o.eq_ignore_ascii_case("and"));
            found.query = query_string::parse(text, &[], and, now_ns, &bounds)?;
        }
        // What the address says counts more than the body.
        let of_url = |key: &str| params.contains_key(key);
        let mut after = None;
        for (key, value) in object {
            match key.as_str() {
                "query" => found.query = dsl::parse(value, context)?,
                "aggs" | "aggregations" => found.aggs = aggs::parse(value, context)?,
                "from" if of_url("from") => drop(count(key, value)?),
                "size" if of_url("size") => drop(count(key, value)?),
                "from" => found.from = count(key, value)?,
                "size" => found.size = count(key, value)?,
                "sort" => found.sort = sort::of_body(value)?,
                "post_filter" => found.post_filter = Some(dsl::parse(value, context)?),
                "search_after" => after = Some(value),
                "_source" => found.source = source::of_body(value)?,
                "fields" | "docvalue_fields" => found.fields.extend(source::field_names(value)?),
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
        if found.sort.len() > MAX_SORT_KEYS {
            let (keys, allowed) = (found.sort.len(), MAX_SORT_KEYS);
            return Err(ApiError::argument(format!("[sort] has {keys} keys, {allowed} are allowed")));
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
            found.after = Some(
                found
                    .sort
                    .iter()
                    .zip(values)
                    .map(|(by, v)| sort::after_value(&by.field, v))
                    .collect::<Result<_, _>>()?,
            );
        }
        Ok(found)
    }

    /// What the index is asked.
    pub fn plan(&self, tenant: Tenant, budget: Budget) -> Plan {
        let (mut start_ns, mut end_ns) = (i64::MIN, i64::MAX);
        self.query.narrow(&mut start_ns, &mut end_ns);
        // The total counts what lies before the page too: only without it is the rest enough.
        if self.track_total.is_none() && self.aggs.is_empty() {
            self.narrow_to_page(&mut start_ns, &mut end_ns);
        }
        let kind = self.selection.kind();
        let mut needles = Vec::new();
        if kind == Kind::Lines {
            self.query.needles(&mut needles);
        }
        let order = match sort::follows_rows(&self.sort).or_else(|| self.newest_first()) {
            Some(newest_first) if self.size > 0 && self.aggs.is_empty() => {
                if newest_first {
                    Order::Backward
                } else {
                    Order::Forward
                }
            }
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
            budget,
        }
    }

    /// For sorts that begin with the time: rows in that order fill the page soonest.
    fn newest_first(&self) -> Option<bool> {
        self.sort.first().filter(|by| by.field == TIMESTAMP).map(|by| by.descending)
    }

    /// Leaves out the time before the first key of `search_after`.
    fn narrow_to_page(&self, start_ns: &mut i64, end_ns: &mut i64) {
        let (Some(by), Some(after)) = (self.sort.first(), self.after.as_ref().and_then(|after| after.first())) else {
            return;
        };
        let (first, last) = match after {
            SortValue::IndexPosition(place) => (place.time_ns, place.time_ns),
            // The whole millisecond: others of it may come behind the keys. Documents without a time are sorted last,
            // whatever time they are filed under; lines have one.
            SortValue::Number(ms) if by.field == TIMESTAMP && self.selection.kind() == Kind::Lines => {
                let ns = ms.as_i64().saturating_mul(1_000_000);
                (ns, ns.saturating_add(999_999))
            }
            _ => return,
        };
        if by.descending {
            *end_ns = (*end_ns).min(last.saturating_add(1));
        } else {
            *start_ns = (*start_ns).max(first);
        }
    }
}

fn number(text: Option<&String>) -> Result<Option<usize>, ApiError> {
    text.map(|t| t.parse().map_err(|_| ApiError::argument(format!("Failed to parse int parameter with value [{t}]"))))
        .transpose()
}

fn count(key: &str, value: &Json) -> Result<usize, ApiError> {
    let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
    number.and_then(|n| usize::try_from(n).ok()).ok_or_else(|| {
        ApiError::argument(format!("[{key}] parameter must be a whole number, 0 or more, found {value}"))
    })
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
