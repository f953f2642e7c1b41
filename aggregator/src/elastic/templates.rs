//! Index templates: kept and given back, so that log shippers that install one at their start go on.
//!
//! In: `_index_template` requests. Out: the same JSON. Touches nothing: templates live in memory, per tenant, bounded,
//! and are gone after a restart (shippers install them again). They do not change how documents are read: values are
//! what they are in each document. `compat.md` says so to users.

use std::collections::BTreeMap;

use millrace_log::record::Tenant;
use parking_lot::RwLock;
use serde_json::{Value, json};

use super::error::ApiError;
use super::query::wildcard;

/// Templates of one tenant at most.
const MAX_TEMPLATES: usize = 1000;

/// Templates by tenant and name.
#[derive(Debug, Default)]
pub struct Templates(RwLock<BTreeMap<Tenant, BTreeMap<String, Value>>>);

/// There is no such template.
pub fn missing(name: &str) -> ApiError {
    ApiError {
        status: 404,
        kind: "resource_not_found_exception",
        reason: format!("index template matching [{name}] not found"),
    }
}

/// Whether a template says what it applies to, and nothing of another shape.
fn check(name: &str, body: &Value) -> Result<(), ApiError> {
    let invalid = |why: &str| {
        Err(ApiError {
            status: 400,
            kind: "invalid_index_template_exception",
            reason: format!("index_template [{name}] invalid, cause [{why}]"),
        })
    };
    if name.is_empty() || name.starts_with('_') || name.contains(|c: char| c.is_whitespace() || ",*#".contains(c)) {
        return invalid("name must not start with _ or hold blanks, commas, # or *");
    }
    let Some(object) = body.as_object() else { return Err(ApiError::parsing("a template must be an object")) };
    for key in object.keys() {
        if !matches!(
            key.as_str(),
            "index_patterns"
                | "template"
                | "priority"
                | "version"
                | "composed_of"
                | "data_stream"
                | "_meta"
                | "allow_auto_create"
        ) {
            return Err(ApiError {
                status: 400,
                kind: "x_content_parse_exception",
                reason: format!("[index_template] unknown field [{key}]"),
            });
        }
    }
    match object.get("index_patterns") {
        Some(Value::String(_)) => Ok(()),
        Some(Value::Array(list)) if !list.is_empty() && list.iter().all(Value::is_string) => Ok(()),
        _ => Err(ApiError::argument("Required [index_patterns]: a list of patterns of names")),
    }
}

impl Templates {
    /// Installs or replaces one.
    pub fn put(&self, who: Tenant, name: String, mut body: Value) -> Result<(), ApiError> {
        check(&name, &body)?;
        if body["index_patterns"].is_string() {
            body["index_patterns"] = json!([body["index_patterns"]]);
        }
        if body.get("composed_of").is_none() {
            body["composed_of"] = json!([]);
        }
        let mut all = self.0.write();
        let mine = all.entry(who).or_default();
        if mine.len() >= MAX_TEMPLATES && !mine.contains_key(&name) {
            return Err(ApiError::argument(format!("cannot store more than {MAX_TEMPLATES} templates")));
        }
        mine.insert(name, body);
        Ok(())
    }

    /// Those that a pattern names, with their names.
    pub fn listed(&self, who: &Tenant, pattern: &str) -> Result<Vec<Value>, ApiError> {
        let regex =
            regex::Regex::new(&format!("^{}$", wildcard(pattern))).map_err(|e| ApiError::argument(e.to_string()))?;
        let all = self.0.read();
        let mine = all.get(who).into_iter().flatten().filter(|(name, _)| regex.is_match(name));
        Ok(mine.map(|(name, body)| json!({"name": name, "index_template": body})).collect())
    }

    /// Removes one; whether there was one.
    pub fn remove(&self, who: &Tenant, name: &str) -> bool {
        self.0.write().get_mut(who).and_then(|mine| mine.remove(name)).is_some()
    }
}
