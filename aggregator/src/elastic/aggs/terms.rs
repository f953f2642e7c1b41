//! `terms`: a bucket per value of a field, exact.
//!
//! In: settings, documents. Out: `buckets`, the most frequent ones first unless `order` says otherwise. Touches nothing.

use std::cmp::Ordering;
use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use super::super::document::Doc;
use super::super::error::ApiError;
use super::body::{Body, scalar};
use super::bucket::{Below, Bucket, Key, Left, MAX_KEYS, too_many_values};

/// Settings.
#[derive(Debug, Clone)]
pub struct Terms {
    field: String,
    size: usize,
    min_count: u64,
    order: Vec<(String, bool)>,
    missing: Option<String>,
    include: Option<regex::Regex>,
}

impl Terms {
    /// Reads the settings.
    pub fn parse(body: Body<'_>) -> Result<Self, ApiError> {
        let size = body.number("size").unwrap_or(10.0);
        if size <= 0.0 {
            return Err(ApiError::argument(format!(
                "[size] must be greater than 0. Found [{size}] in [{}]",
                body.name
            )));
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
        Ok(Self {
            field: body.field()?,
            size: size as usize,
            min_count: body.min_count(1),
            order: order(body.get("order"))?,
            missing: body.text("missing"),
            include,
        })
    }

    /// Takes one document.
    pub fn collect(
        &self,
        name: &str,
        buckets: &mut HashMap<Key, Bucket>,
        below: &dyn Below,
        doc: &Doc<'_>,
    ) -> Result<(), ApiError> {
        let mut keys: Vec<Key> = doc.values(&self.field).iter().map(Key::of).collect();
        keys.sort_unstable();
        keys.dedup();
        if let (true, Some(missing)) = (keys.is_empty(), &self.missing) {
            keys.push(Key::Text(missing.clone()));
        }
        for key in keys {
            if self.include.as_ref().is_some_and(|regex| !matches!(&key, Key::Text(text) if regex.is_match(text))) {
                continue;
            }
            if buckets.len() >= MAX_KEYS && !buckets.contains_key(&key) {
                return Err(too_many_values(name));
            }
            if !buckets.contains_key(&key) {
                doc.hold(key.memory())?;
            }
            buckets.entry(key).or_default().take(below, doc)?;
        }
        Ok(())
    }

    /// The answer.
    pub fn answer(
        &self,
        buckets: HashMap<Key, Bucket>,
        below: &dyn Below,
        left: &mut Left<'_>,
    ) -> Result<Json, ApiError> {
        let order = &self.order;
        let by_metric = order.iter().any(|(key, _)| !key.starts_with('_'));
        let mut plain: Vec<(Key, Bucket)> = buckets.into_iter().filter(|(_, b)| b.count >= self.min_count).collect();
        let total: u64 = plain.iter().map(|(_, b)| b.count).sum();
        if !by_metric {
            // Only what is shown is worked out.
            let before = |a: &(Key, Bucket), b: &(Key, Bucket)| {
                compare(order, (&a.0, a.1.count, &Json::Null), (&b.0, b.1.count, &Json::Null))
            };
            if plain.len() > self.size {
                plain.select_nth_unstable_by(self.size, before);
                plain.truncate(self.size);
            }
            plain.sort_by(before);
        }
        let mut all: Vec<(Key, u64, Json)> = Vec::with_capacity(plain.len());
        for (key, bucket) in plain {
            let count = bucket.count;
            let mut head = Map::new();
            match &key {
                Key::Text(text) => drop(head.insert("key".to_owned(), text.as_str().into())),
                Key::Number(n) => drop(head.insert("key".to_owned(), n.json())),
                Key::Bool(b) => {
                    head.insert("key".to_owned(), i32::from(*b).into());
                    head.insert("key_as_string".to_owned(), b.to_string().into());
                }
            }
            all.push((key, count, bucket.answer(below, head, left)?));
        }
        if by_metric {
            all.sort_by(|a, b| compare(order, (&a.0, a.1, &a.2), (&b.0, b.1, &b.2)));
            all.truncate(self.size);
        }
        let shown: u64 = all.iter().map(|(_, count, _)| count).sum();
        let list: Vec<Json> = all.into_iter().map(|(.., json)| json).collect();
        Ok(json!({"doc_count_error_upper_bound": 0, "sum_other_doc_count": total - shown, "buckets": list}))
    }
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

fn compare(order: &[(String, bool)], a: (&Key, u64, &Json), b: (&Key, u64, &Json)) -> Ordering {
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
                    (None, None) => Ordering::Equal,
                    (None, Some(_)) => return Ordering::Greater,
                    (Some(_), None) => return Ordering::Less,
                }
            }
        };
        let found = if *ascending { found } else { found.reverse() };
        if found.is_ne() {
            return found;
        }
    }
    Ordering::Equal
}
