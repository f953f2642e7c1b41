//! Settings that several aggregations read in the same way: the field, numbers, flags.
//!
//! In: the body of one aggregation. Out: typed settings, or Elasticsearch's error. Touches nothing.

use serde_json::Value as Json;

use super::super::error::ApiError;

/// One aggregation as sent: its name and the object below its type.
#[derive(Debug, Clone, Copy)]
pub struct Body<'j> {
    /// The name that the request gives it.
    pub name: &'j str,
    /// Its settings.
    pub json: &'j Json,
}

impl<'j> Body<'j> {
    /// The field; scripts are refused.
    pub fn field(&self) -> Result<String, ApiError> {
        if self.json.get("script").is_some() {
            return Err(ApiError::not_yet("script"));
        }
        let field = self.json.get("field").and_then(Json::as_str);
        field.map(str::to_owned).ok_or_else(|| {
            ApiError::argument(format!(
                "Required one of fields [field, script], but none were specified in [{}]",
                self.name
            ))
        })
    }

    /// A setting as sent.
    pub fn get(&self, key: &str) -> Option<&'j Json> {
        self.json.get(key)
    }

    /// A number, maybe written as text.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.get(key).and_then(number)
    }

    /// A text, a number or a boolean as text.
    pub fn text(&self, key: &str) -> Option<String> {
        self.get(key).and_then(scalar)
    }

    /// `min_doc_count`.
    pub fn min_count(&self, default: u64) -> u64 {
        self.number("min_doc_count").map_or(default, |n| n as u64)
    }

    /// `keyed: true`.
    pub fn keyed(&self) -> bool {
        self.get("keyed") == Some(&Json::Bool(true))
    }
}

/// A number, maybe written as text.
pub fn number(json: &Json) -> Option<f64> {
    json.as_f64().or_else(|| json.as_str()?.parse().ok())
}

/// A scalar as text.
pub fn scalar(json: &Json) -> Option<String> {
    match json {
        Json::String(text) => Some(text.clone()),
        Json::Number(_) | Json::Bool(_) => Some(json.to_string()),
        _ => None,
    }
}
