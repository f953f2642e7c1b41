//! `cardinality`: how many distinct values a field has, exact, with a limit of values held.
//!
//! In: settings, documents. Out: `value`. Touches nothing.

use std::collections::HashSet;

use serde_json::{Value as Json, json};

use super::super::document::Doc;
use super::super::error::ApiError;
use super::body::Body;
use super::bucket::{Key, MAX_KEYS, too_many_values};

/// Settings.
#[derive(Debug, Clone)]
pub struct Cardinality {
    field: String,
    missing: Option<String>,
}

impl Cardinality {
    /// Reads the settings.
    pub fn parse(body: Body<'_>) -> Result<Self, ApiError> {
        Ok(Self { field: body.field()?, missing: body.text("missing") })
    }

    /// Takes one document.
    pub fn collect(&self, name: &str, keys: &mut HashSet<Key>, doc: &Doc<'_>) -> Result<(), ApiError> {
        let values = doc.values(&self.field);
        if let (true, Some(missing)) = (values.is_empty(), &self.missing) {
            keys.insert(Key::Text(missing.clone()));
        }
        for key in values.iter().map(Key::of) {
            if !keys.contains(&key) {
                doc.hold(key.memory())?;
                keys.insert(key);
            }
        }
        if keys.len() > MAX_KEYS { Err(too_many_values(name)) } else { Ok(()) }
    }

    /// The answer.
    pub fn answer(&self, keys: &HashSet<Key>) -> Json {
        json!({"value": keys.len()})
    }
}
