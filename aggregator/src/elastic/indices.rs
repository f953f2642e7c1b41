//! Which indices there are, and what clients ask about them: names and patterns, fields and their kinds, health.
//!
//! In: names of a path (`logs-*,-logs-old,millrace-logs`). Out: a [`Selection`]; JSON of `_field_caps`, `_mapping`,
//! `_cat/indices`. Touches nothing but the index. Kinds of fields are those of the newest documents: there are no
//! mappings yet that were declared.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt as _;
use millrace_log::record::Tenant;
use serde_json::{Map, Value as Json, json};
use tokio_util::sync::CancellationToken;

use super::ElasticState;
use super::document::{Doc, MESSAGE, TIMESTAMP, TOPIC_PREFIX};
use super::error::ApiError;
use super::query::wildcard;
use millrace_index::scan::{Kind, Order, Plan};

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
pub async fn list(state: &ElasticState, tenant: &Tenant) -> Result<BTreeMap<String, u64>, ApiError> {
    let mut found = BTreeMap::new();
    for topic in &state.topics {
        found.insert(format!("{TOPIC_PREFIX}{topic}"), 0);
    }
    let lines = Plan { kind: Kind::Lines, ..everything(state, tenant, Order::Any, None) };
    for (stream, stats) in state.store.streams(lines).await? {
        *found.entry(format!("{TOPIC_PREFIX}{}", stream.topic)).or_default() += stats.entries;
    }
    for index in state.store.doc_indices(tenant) {
        found.insert(index.name, index.documents);
    }
    Ok(found)
}

fn everything(state: &ElasticState, tenant: &Tenant, order: Order, expect: Option<usize>) -> Plan {
    Plan {
        tenant: tenant.clone(),
        matchers: Vec::new(),
        start_ns: i64::MIN,
        end_ns: i64::MAX,
        needles: Vec::new(),
        kind: Kind::All,
        order,
        expect,
        limits: state.limits.clone(),
        cancel: CancellationToken::new(),
    }
}

/// Kinds of fields by name: `keyword`, `text`, `long`, `double`, `boolean`, `date`.
pub async fn fields(
    state: &ElasticState,
    tenant: &Tenant,
    selection: &Selection,
) -> Result<BTreeMap<String, &'static str>, ApiError> {
    let mut found =
        BTreeMap::from([("_id".to_owned(), "_id"), ("_index".to_owned(), "_index"), ("_source".to_owned(), "_source")]);
    let plan = Plan { kind: selection.kind(), ..everything(state, tenant, Order::Backward, Some(SAMPLE)) };
    let cancel = plan.cancel.clone();
    let _guard = cancel.drop_guard();
    let mut rows = state.store.scan(plan).await?;
    let mut seen = 0;
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        for doc in batch.rows.iter().filter_map(|row| Doc::new(&batch, row)).filter(|doc| selection.holds(&doc.index()))
        {
            seen += 1;
            doc.for_each_field(|name, value| {
                let kind = kind_of(name, value);
                let known = found.entry(name.to_owned()).or_insert(kind);
                if (*known, kind) == ("long", "double") {
                    *known = kind;
                }
            });
        }
        if seen >= SAMPLE {
            break;
        }
    }
    Ok(found)
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

/// The answer of `_field_caps`; `wanted` are patterns.
pub fn field_caps(indices: &[String], fields: &BTreeMap<String, &'static str>, wanted: &Selection) -> Json {
    let mut out = Map::new();
    for (name, kind) in fields.iter().filter(|(name, _)| wanted.holds(name)) {
        let inner = matches!(*kind, "_id" | "_index" | "_source");
        let aggregatable = !matches!(*kind, "text" | "_source" | "_id");
        let caps = json!({*kind: {"type": kind, "metadata_field": inner, "searchable": *kind != "_source", "aggregatable": aggregatable}});
        out.insert(name.clone(), caps);
    }
    json!({"indices": indices, "fields": out})
}

/// The answer of `_mapping`: the same fields as a tree.
pub fn mappings(indices: &[String], fields: &BTreeMap<String, &'static str>) -> Json {
    let mut properties = Map::new();
    for (name, kind) in fields.iter().filter(|(name, _)| !name.starts_with('_')) {
        insert(&mut properties, name, kind);
    }
    let one = json!({"mappings": {"properties": properties}});
    Json::Object(indices.iter().map(|index| (index.clone(), one.clone())).collect())
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
