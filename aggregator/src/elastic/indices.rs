//! Which indices there are, and what clients ask about them: names and patterns, fields and their kinds, health.
//!
//! In: names of a path (`logs-*,-logs-old,millrace-logs`). Out: a [`Selection`]; JSON of `_field_caps`, `_mapping`,
//! `_cat/indices`. Touches nothing but the index. Kinds of fields are those of the newest documents: there are no
//! mappings yet that were declared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt as _;
use millrace_log::record::Tenant;
use serde_json::{Map, Value as Json, json};

use super::document::{Doc, MESSAGE, TIMESTAMP, TOPIC_PREFIX};
use super::error::ApiError;
use super::query::wildcard;
use super::state::ElasticState;
use millrace_index::scan::{Budget, Kind, LabelMatcher, MatchOp, Order, Plan};

/// Newest documents that kinds of fields are taken from.
const SAMPLE: usize = 2000;

/// Indices that a path names.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Every index.
    all: bool,
    includes: Vec<regex::Regex>,
    excludes: Vec<regex::Regex>,
    text: String,
}

impl Selection {
    /// Reads the part of a path; empty, `_all` and `*` mean every index.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut found = Self { text: text.to_owned(), ..Self::default() };
        for name in text.split(',').filter(|n| !n.is_empty()) {
            let (list, pattern) = match name.strip_prefix('-') {
                Some(rest) => (&mut found.excludes, rest),
                None => (&mut found.includes, name),
            };
            if matches!(pattern, "_all" | "*") {
                found.all = true;
                continue;
            }
            if pattern.starts_with('_') {
                return Err(ApiError {
                    status: 400,
                    kind: "invalid_index_name_exception",
                    reason: format!("Invalid index name [{pattern}], must not start with '_'."),
                });
            }
            list.push(
                regex::Regex::new(&format!("^{}$", wildcard(pattern)))
                    .map_err(|e| ApiError::argument(e.to_string()))?,
            );
        }
        found.all |= found.includes.is_empty();
        Ok(found)
    }

    /// Whether an index is among them.
    pub fn holds(&self, index: &str) -> bool {
        (self.all || self.includes.iter().any(|p| p.is_match(index)))
            && !self.excludes.iter().any(|p| p.is_match(index))
    }

    /// Which events can be in them at all.
    pub fn kind(&self) -> Kind {
        let only_topics = !self.all
            && self.includes.iter().all(|p| p.as_str().starts_with(&format!("^{}", regex::escape(TOPIC_PREFIX))));
        if only_topics { Kind::Lines } else { Kind::All }
    }

    /// A name without patterns that is no index is an error.
    pub fn check(&self, known: &BTreeSet<String>, ignore_unavailable: bool) -> Result<(), ApiError> {
        if ignore_unavailable {
            return Ok(());
        }
        let plain =
            self.text.split(',').filter(|n| !n.is_empty() && !n.contains('*') && !n.starts_with('-') && *n != "_all");
        match plain.into_iter().find(|n| !known.contains(*n)) {
            Some(name) => Err(ApiError::no_index(name)),
            None => Ok(()),
        }
    }
}

/// All indices of a tenant: one per topic that has lines, one per client index, with their document counts.
pub async fn list(state: &ElasticState, budget: &Budget, tenant: &Tenant) -> Result<BTreeMap<String, u64>, ApiError> {
    let mut found = BTreeMap::new();
    for topic in &*state.topics {
        found.insert(format!("{TOPIC_PREFIX}{topic}"), 0);
    }
    let lines = Plan { kind: Kind::Lines, ..everything(budget, tenant, Order::Any, None) };
    for (stream, stats) in state.store.streams(lines).await? {
        *found.entry(format!("{TOPIC_PREFIX}{}", stream.topic)).or_default() += stats.entries;
    }
    for index in state.store.doc_indices(tenant) {
        found.insert(index.name, index.documents);
    }
    Ok(found)
}

fn everything(budget: &Budget, tenant: &Tenant, order: Order, expect: Option<usize>) -> Plan {
    Plan {
        tenant: tenant.clone(),
        matchers: Vec::new(),
        start_ns: i64::MIN,
        end_ns: i64::MAX,
        needles: Vec::new(),
        kind: Kind::All,
        order,
        expect,
        budget: budget.clone(),
    }
}

/// Kinds of fields by name: `keyword`, `text`, `long`, `double`, `boolean`, `date`.
pub type Fields = BTreeMap<String, &'static str>;

/// Fields of each index that a selection holds, from its newest documents.
///
/// One scan over all of them serves the usual case. What it saw too little of, because other indices have the newest
/// documents, is asked for by itself.
pub async fn fields(
    state: &ElasticState,
    budget: &Budget,
    tenant: &Tenant,
    selection: &Selection,
) -> Result<BTreeMap<String, Fields>, ApiError> {
    let inner = || [("_id", "_id"), ("_index", "_index"), ("_source", "_source")].map(|(n, k)| (n.to_owned(), k));
    let mut wanted: BTreeMap<String, Seen> = list(state, budget, tenant)
        .await?
        .into_iter()
        .filter(|(name, _)| selection.holds(name))
        .map(|(name, documents)| (name, Seen { documents, seen: 0, fields: Fields::from(inner()) }))
        .collect();
    let plan = Plan { kind: selection.kind(), ..everything(budget, tenant, Order::Backward, Some(SAMPLE)) };
    sample(state, plan, &mut wanted).await?;
    let unsure: Vec<String> = wanted.iter().filter(|(_, seen)| seen.is_too_little()).map(|(n, _)| n.clone()).collect();
    for name in unsure {
        for matchers in streams_of(state, budget, tenant, &name).await? {
            let kind = if name.starts_with(TOPIC_PREFIX) { Kind::Lines } else { Kind::Documents };
            let plan = Plan { kind, matchers, ..everything(budget, tenant, Order::Backward, Some(SAMPLE)) };
            if let Some((name, mut seen)) = wanted.remove_entry(&name) {
                // The newest ones are counted anew.
                seen.seen = 0;
                let mut one = BTreeMap::from([(name, seen)]);
                sample(state, plan, &mut one).await?;
                wanted.extend(one);
            }
        }
    }
    Ok(wanted.into_iter().map(|(name, seen)| (name, seen.fields)).collect())
}

/// What is known of the fields of one index.
struct Seen {
    documents: u64,
    seen: usize,
    fields: Fields,
}

impl Seen {
    fn is_too_little(&self) -> bool {
        self.seen < SAMPLE && (self.seen as u64) < self.documents
    }
}

/// Takes the fields of the newest documents of a plan.
async fn sample(state: &ElasticState, plan: Plan, wanted: &mut BTreeMap<String, Seen>) -> Result<(), ApiError> {
    let (store, budget, mut seen) = (Arc::clone(&state.store), plan.budget.clone(), std::mem::take(wanted));
    let work = async move {
        let watch = plan.budget.watch();
        let mut rows = store.scan(plan).await?;
        let mut rows_seen = 0;
        while rows_seen < SAMPLE
            && let Some(batch) = rows.next().await
        {
            let batch = batch?;
            for row in &batch.rows {
                watch.step(row.line.len())?;
                let Some(doc) = Doc::new(&batch, row, &watch) else { continue };
                if let Some(index) = seen.get_mut(doc.index().as_ref()) {
                    rows_seen += 1;
                    index.take(&doc);
                }
            }
        }
        // A document that was not read to its end would make the mapping too short.
        watch.check()?;
        Ok::<_, ApiError>(seen)
    };
    *wanted = budget.compute(work).await.unwrap_or_else(|| Err(ApiError::ended_early()))?;
    Ok(())
}

impl Seen {
    fn take(&mut self, doc: &Doc<'_>) {
        self.seen += 1;
        doc.for_each_field(|name, value| {
            let kind = kind_of(name, value);
            let known = self.fields.entry(name.to_owned()).or_insert(kind);
            if (*known, kind) == ("long", "double") {
                *known = kind;
            }
        });
    }
}

/// Streams of a topic whose lines are asked one by one at most.
const STREAMS: usize = 16;

/// Matchers that find documents of one index: its label, or the labels of some streams of its topic.
async fn streams_of(
    state: &ElasticState,
    budget: &Budget,
    tenant: &Tenant,
    index: &str,
) -> Result<Vec<Vec<LabelMatcher>>, ApiError> {
    let equal = |name: &str, value: &str| {
        LabelMatcher::new(name, MatchOp::Equal, value).map_err(|error| ApiError::argument(error.to_string()))
    };
    let Some(topic) = index.strip_prefix(TOPIC_PREFIX) else { return Ok(vec![vec![equal("index", index)?]]) };
    let lines = Plan { kind: Kind::Lines, ..everything(budget, tenant, Order::Any, None) };
    let streams = state.store.streams(lines).await?;
    streams
        .iter()
        .filter(|(stream, _)| &*stream.topic == topic)
        .take(STREAMS)
        .map(|(stream, _)| stream.labels.iter().map(|(name, value)| equal(name, value)).collect())
        .collect()
}

fn kind_of(name: &str, value: &Json) -> &'static str {
    match value {
        _ if name == TIMESTAMP => "date",
        _ if name == MESSAGE => "text",
        Json::Bool(_) => "boolean",
        Json::Number(n) if n.is_f64() => "double",
        Json::Number(_) => "long",
        _ => "keyword",
    }
}

/// The answer of `_field_caps`; `wanted` are patterns. Indices that disagree about the kind of a field are named with it.
pub fn field_caps(indices: &BTreeMap<String, Fields>, wanted: &Selection) -> Json {
    let mut kinds: BTreeMap<&str, BTreeMap<&'static str, Vec<&str>>> = BTreeMap::new();
    for (index, fields) in indices {
        for (name, kind) in fields.iter().filter(|(name, _)| wanted.holds(name)) {
            kinds.entry(name).or_default().entry(kind).or_default().push(index);
        }
    }
    let mut out = Map::new();
    for (name, kinds) in kinds {
        let agree = kinds.len() == 1;
        let mut caps = Map::new();
        for (kind, of) in kinds {
            let inner = matches!(kind, "_id" | "_index" | "_source");
            let aggregatable = !matches!(kind, "text" | "_source" | "_id");
            let mut one = json!({"type": kind, "metadata_field": inner, "searchable": kind != "_source", "aggregatable": aggregatable});
            if !agree {
                one["indices"] = json!(of);
            }
            caps.insert(kind.to_owned(), one);
        }
        out.insert(name.to_owned(), caps.into());
    }
    let names: Vec<&String> = indices.keys().collect();
    json!({"indices": names, "fields": out})
}

/// The answer of `_mapping`: the fields of each index as a tree.
pub fn mappings(indices: &BTreeMap<String, Fields>) -> Json {
    let one = |fields: &Fields| {
        let mut properties = Map::new();
        for (name, kind) in fields.iter().filter(|(name, _)| !name.starts_with('_')) {
            insert(&mut properties, name, kind);
        }
        json!({"mappings": {"properties": properties}})
    };
    Json::Object(indices.iter().map(|(index, fields)| (index.clone(), one(fields))).collect())
}

fn insert(properties: &mut Map<String, Json>, path: &str, kind: &str) {
    match path.split_once('.') {
        None => drop(properties.entry(path).or_insert_with(|| json!({"type": kind}))),
        Some((head, tail)) => {
            let below = properties.entry(head).or_insert_with(|| json!({"properties": {}}));
            if let Some(inner) = below.get_mut("properties").and_then(Json::as_object_mut) {
                insert(inner, tail, kind);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_patterns_select_indices() {
        for (text, index, want) in [
            ("", "a", true),
            ("_all", "a", true),
            ("logs-*", "logs-app", true),
            ("logs-*", "other", false),
            ("a,b", "b", true),
            ("logs-*,-logs-old", "logs-old", false),
            ("*,-a", "a", false),
            ("*,-a", "b", true),
        ] {
            assert_eq!(Selection::parse(text).unwrap().holds(index), want, "{text} {index}");
        }
        assert_eq!(Selection::parse("millrace-logs").unwrap().kind(), Kind::Lines);
        assert_eq!(Selection::parse("millrace-*").unwrap().kind(), Kind::Lines);
        assert_eq!(Selection::parse("m*").unwrap().kind(), Kind::All);
        assert!(Selection::parse("_nonsense").is_err());
    }
}
