//! What a hit shows of its document: `_source` with patterns, `fields`, `docvalue_fields`.
//!
//! In: JSON of a request, documents. Out: JSON of a hit. Touches nothing.

use serde_json::{Map, Value as Json};

use super::super::document::{Doc, Value};
use super::super::error::ApiError;
use super::super::query;
use super::params::UrlParams;

/// Which parts of `_source` a hit has.
pub enum SourceFilter {
    /// All.
    All,
    /// None.
    None,
    /// By patterns of paths.
    Some {
        /// Any of these; none: all.
        includes: Vec<regex::Regex>,
        /// None of these.
        excludes: Vec<regex::Regex>,
    },
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

/// Reads `_source` of a body.
pub fn of_body(value: &Json) -> Result<SourceFilter, ApiError> {
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

/// Reads `_source`, `_source_includes`, `_source_excludes` of the address.
pub fn of_url(params: &UrlParams) -> Result<SourceFilter, ApiError> {
    let list = |key: &str| names(params.get(key).map(|t| Json::from(t.as_str())).as_ref());
    match params.get("_source").map(String::as_str) {
        Some("false") => Ok(SourceFilter::None),
        Some("true") => Ok(SourceFilter::All),
        Some(text) => of_body(&Json::from(text)),
        None if params.contains_key("_source_includes") || params.contains_key("_source_excludes") => {
            Ok(SourceFilter::Some {
                includes: patterns(&list("_source_includes"))?,
                excludes: patterns(&list("_source_excludes"))?,
            })
        }
        None => Ok(SourceFilter::All),
    }
}

/// Reads `fields` or `docvalue_fields`.
pub fn field_names(value: &Json) -> Result<Vec<String>, ApiError> {
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
    /// The `_source` of a hit.
    pub fn of(&self, doc: &Doc<'_>) -> Json {
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

/// The `fields` of a hit.
pub fn fields_of(doc: &Doc<'_>, wanted: &[String]) -> Json {
    let mut out = Map::new();
    for field in wanted {
        let values: Vec<Json> = doc
            .values(field)
            .iter()
            .map(|value| match value {
                Value::Number(n) => n.json(),
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
