//! The best hits of a search, found while batches of rows come in, and the answer that they make.
//!
//! In: a [`Request`], batches. Out: Elasticsearch's JSON. Touches nothing. Memory is bounded: only the best
//! `from + size` hits are kept, aggregations have their own limits.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use super::super::aggs::Collected;
use super::super::document::Doc;
use super::super::error::ApiError;
use super::request::Request;
use super::sort::{self, SortBy, SortValue};
use super::source::{self, SourceFilter};
use millrace_index::scan::{DamagedSplit, RowBatch, Watch};
use millrace_logql::budget::Lease;

/// Memory of a hit besides what grows with its line (parsed, it takes some times as much).
const HIT_BYTES: usize = 1024;

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
    /// Memory of all this.
    _lease: Lease,
}

impl Hit {
    fn order(&self, other: &Self) -> Ordering {
        sort::compare_keys(&self.sort, &self.keys, &other.keys).then(self.number.cmp(&other.number))
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

/// What grows while batches come in.
pub struct Search {
    request: Arc<Request>,
    best: BinaryHeap<Hit>,
    sort: Arc<[SortBy]>,
    total: u64,
    collected: Collected,
    watch: Watch,
}

impl Search {
    /// Without hits yet.
    pub fn new(request: Request, watch: Watch) -> Self {
        let sort: Arc<[SortBy]> = request.sort.clone().into();
        Self {
            request: Arc::new(request),
            best: BinaryHeap::new(),
            sort,
            total: 0,
            collected: Collected::default(),
            watch,
        }
    }

    /// Takes a batch; `false` when nothing that comes can change the answer.
    pub fn take(&mut self, batch: &RowBatch) -> Result<bool, ApiError> {
        let (request, watch) = (Arc::clone(&self.request), self.watch.budget().watch());
        let window = request.from + request.size;
        for row in &batch.rows {
            watch.step(row.line.len())?;
            let Some(doc) = Doc::new(batch, row, &watch) else { continue };
            if !request.selection.holds(&doc.index()) || !request.query.matches(&doc) {
                continue;
            }
            if !request.aggs.is_empty() {
                request.aggs.collect(&mut self.collected, &doc)?;
            }
            if request.post_filter.as_ref().is_some_and(|query| !query.matches(&doc)) {
                continue;
            }
            self.total += 1;
            if request.size > 0 {
                self.offer(&doc, row.line.len(), window)?;
            }
        }
        // Documents have no values once the time is over: what was made of them then is not used.
        watch.check()?;
        // In order of the sort: what comes later is no better; and the count has reached what is tracked.
        // Documents without a time are sorted last and may stand anywhere.
        let timed = self.sort.first().is_none_or(SortBy::is_index_position)
            || self.best.peek().is_some_and(|worst| worst.keys.first() != Some(&SortValue::Missing));
        let ordered =
            timed && sort::follows_rows(&self.sort).is_some() && self.request.aggs.is_empty() && request.size > 0;
        let counted = request.track_total.is_none_or(|limit| self.total > limit);
        Ok(!(ordered && counted && self.best.len() >= window))
    }

    fn offer(&mut self, doc: &Doc<'_>, bytes: usize, window: usize) -> Result<(), ApiError> {
        let keys: Vec<SortValue> = self.sort.iter().map(|by| sort::value_of(doc, by)).collect();
        if let Some(after) = &self.request.after
            && sort::compare_keys(&self.sort, &keys, after).is_le()
        {
            return Ok(());
        }
        if self.best.len() >= window
            && let Some(worst) = self.best.peek()
            && sort::compare_keys(&self.sort, &keys, &worst.keys).is_ge()
        {
            return Ok(());
        }
        let fields = (!self.request.fields.is_empty()).then(|| source::fields_of(doc, &self.request.fields));
        let lease = self.watch.budget().lease(HIT_BYTES + 4 * bytes)?;
        self.best.push(Hit {
            keys,
            number: self.total,
            index: doc.index().into_owned(),
            id: doc.id().into_owned(),
            source: self.request.source.of(doc),
            fields,
            sort: Arc::clone(&self.sort),
            _lease: lease,
        });
        if self.best.len() > window {
            self.best.pop();
        }
        Ok(())
    }

    /// The answer of the search; a damaged split is a shard that failed.
    pub fn answer(self, damaged: &[DamagedSplit], took_ms: u64) -> Result<Json, ApiError> {
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
                    let keys = hit.keys.into_iter().map(SortValue::into_json);
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
            "_shards": {"total": 1 + damaged.len(), "successful": 1, "skipped": 0, "failed": damaged.len()},
            "hits": all,
        });
        if !damaged.is_empty() {
            let failure = |split: &DamagedSplit| {
                let reason = json!({"type": "corrupt_index_exception", "reason": split.to_string()});
                json!({"shard": 0, "index": split.split, "node": "millrace", "reason": reason})
            };
            out["_shards"]["failures"] = damaged.iter().map(failure).collect();
        }
        if !request.aggs.is_empty() {
            out["aggregations"] = request.aggs.answer(self.collected, &self.watch)?;
        }
        Ok(out)
    }
}
