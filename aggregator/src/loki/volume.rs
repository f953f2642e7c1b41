//! `/index/volume` and `/index/volume_range`: bytes of lines by labels.
//!
//! In: a selector, `targetLabels`, `aggregateBy` (`series` or `labels`), `limit`, for ranges `step`. Out: a vector (from
//! the catalog: whole splits count) or a matrix (counted line by line). The label sets are those of the target labels,
//! else of the labels that the selector names, else whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

use axum::response::Response;
use futures::TryStreamExt as _;
use millrace_log::record::Labels;
use millrace_logql::LabelPairs;
use millrace_logql::storage::{LabelMatcher, MatchOp};

use super::error::LokiError;
use super::params::{DEFAULT_LIMIT, Params, QUERY_SINCE};
use super::state::{Scoped, Whose};
use super::{json, selector};

/// How bytes are added up.
struct By {
    /// Each name for itself, else label sets.
    names: bool,
    /// Only these names; empty: all.
    only: BTreeSet<String>,
}

impl By {
    fn read(params: &Params, matchers: &mut Vec<LabelMatcher>) -> Result<Self, LokiError> {
        let names = match params.get("aggregateBy") {
            "" | "series" => false,
            "labels" => true,
            _ => return Err(LokiError::bad("invalid aggregation option")),
        };
        let mut only: BTreeSet<String> = params
            .all("targetLabels")
            .flat_map(|list| list.split(','))
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        if only.is_empty() {
            if !names {
                only = matchers.iter().map(|m| m.name.clone()).collect();
            }
        } else {
            // Streams without a target label don't count.
            for name in &only {
                if !matchers.iter().any(|m| m.name == *name) {
                    let some = LabelMatcher::new(name.clone(), MatchOp::Regex, ".+");
                    matchers.push(some.map_err(|e| LokiError::Bad(e.to_string()))?);
                }
            }
        }
        Ok(Self { names, only })
    }

    /// What the bytes of a stream count for.
    fn keys(&self, labels: &Labels) -> Vec<LabelPairs> {
        let mine = || labels.iter().filter(|(name, _)| self.only.is_empty() || self.only.contains(*name));
        if self.names {
            mine().map(|(name, _)| vec![(name.to_owned(), String::new())]).collect()
        } else {
            vec![mine().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()]
        }
    }
}

/// The largest first; equal ones by labels.
fn largest<T>(sums: BTreeMap<LabelPairs, T>, size: impl Fn(&T) -> u64, limit: usize) -> Vec<(LabelPairs, T)> {
    let mut all: Vec<_> = sums.into_iter().collect();
    all.sort_by_key(|(_, sum)| std::cmp::Reverse(size(sum)));
    all.truncate(limit);
    all
}

pub(super) async fn volume(Scoped(state): Scoped, Whose(tenant): Whose, params: Params) -> Result<Response, LokiError> {
    let bounds = params.bounds(state.clock.now_ns(), QUERY_SINCE)?;
    let limit = params.limit(DEFAULT_LIMIT)?;
    let mut matchers = selector::parse(params.get("query"))?;
    let by = By::read(&params, &mut matchers)?;
    let found =
        state.run(&tenant, |budget| state.store.streams(selector::plan(&tenant, matchers, bounds, budget))).await?;
    let mut sums: BTreeMap<LabelPairs, u64> = BTreeMap::new();
    for (stream, stats) in found {
        for key in by.keys(&stream.labels) {
            *sums.entry(key).or_default() += stats.bytes;
        }
    }
    let mut out = String::from(r#"{"status":"success","data":{"resultType":"vector","result":["#);
    for (i, (labels, bytes)) in largest(sums, |bytes| *bytes, limit).into_iter().enumerate() {
        json::comma(&mut out, i);
        out.push_str(r#"{"metric":"#);
        json::labels(&mut out, &labels);
        out.push_str(r#","value":["#);
        json::seconds(&mut out, bounds.1);
        write!(out, r#","{bytes}"]}}"#).ok();
    }
    out.push_str("]}}");
    Ok(json::answer(out))
}

pub(super) async fn volume_range(
    Scoped(state): Scoped,
    Whose(tenant): Whose,
    params: Params,
) -> Result<Response, LokiError> {
    let bounds = params.bounds(state.clock.now_ns(), QUERY_SINCE)?;
    let step = params.step(bounds.0, bounds.1)?;
    let limit = params.limit(DEFAULT_LIMIT)?;
    let mut matchers = selector::parse(params.get("query"))?;
    let by = By::read(&params, &mut matchers)?;
    let request = state.begin(&tenant).await?;
    let plan = selector::plan(&tenant, matchers, bounds, request.budget().clone());
    let store = Arc::clone(&state.store);
    let sums = request
        .budget()
        .compute(async move {
            let budget = plan.budget.clone();
            let mut batches = store.scan(plan).await?;
            let mut keys_of: HashMap<Labels, Vec<LabelPairs>> = HashMap::new();
            let mut sums: BTreeMap<LabelPairs, BTreeMap<i64, u64>> = BTreeMap::new();
            while let Some(batch) = budget.within(batches.try_next()).await?? {
                // Bytes by (stream, bucket) first: label sets are compared once per batch.
                let mut local: HashMap<(u32, i64), u64> = HashMap::new();
                for row in &batch.rows {
                    let bucket = row.time_ns.saturating_sub(bounds.0) / step;
                    *local.entry((row.stream, bucket)).or_default() += u64::from(row.line.end - row.line.start);
                }
                for ((stream, bucket), bytes) in local {
                    let Some(stream) = batch.streams.get(stream as usize) else { continue };
                    let keys = keys_of.entry(stream.labels.clone()).or_insert_with(|| by.keys(&stream.labels));
                    for key in keys {
                        *sums.entry(key.clone()).or_default().entry(bucket).or_default() += bytes;
                    }
                }
            }
            Ok::<_, LokiError>(sums)
        })
        .await
        .unwrap_or(Err(LokiError::Stopping))?;
    // Loki answers an empty range with an empty vector.
    if sums.is_empty() {
        return Ok(json::answer(r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#.to_owned()));
    }
    let mut out = String::from(r#"{"status":"success","data":{"resultType":"matrix","result":["#);
    let series = largest(sums, |buckets| buckets.values().sum(), limit);
    for (i, (labels, buckets)) in series.into_iter().enumerate() {
        json::comma(&mut out, i);
        out.push_str(r#"{"metric":"#);
        json::labels(&mut out, &labels);
        out.push_str(r#","values":["#);
        // What stands at the very end belongs to the last bucket.
        let last = (bounds.1.saturating_sub(bounds.0) - 1).max(0) / step;
        let mut points: BTreeMap<i64, u64> = BTreeMap::new();
        for (bucket, bytes) in buckets {
            *points.entry(bucket.min(last)).or_default() += bytes;
        }
        for (i, (bucket, bytes)) in points.into_iter().enumerate() {
            json::comma(&mut out, i);
            let end = bounds.0.saturating_add(step.saturating_mul(bucket + 1));
            out.push('[');
            json::seconds(&mut out, if end >= bounds.1 { bounds.1 } else { end - 1_000_000 });
            write!(out, r#","{bytes}"]"#).ok();
        }
        out.push_str("]}");
    }
    out.push_str("]}}");
    Ok(json::answer(out))
}
