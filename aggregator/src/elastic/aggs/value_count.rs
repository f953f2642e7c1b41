//! `value_count`: how many values a field has, of any kind.
//!
//! In: settings, documents. Out: `value`. Touches nothing.

use serde_json::{Value as Json, json};

use super::super::document::Doc;
use super::super::error::ApiError;
use super::body::Body;
use super::bucket::Summary;

/// Settings.
#[derive(Debug, Clone)]
pub struct ValueCount {
    field: String,
}

impl ValueCount {
    /// Reads the settings.
    pub fn parse(body: Body<'_>) -> Result<Self, ApiError> {
        Ok(Self { field: body.field()? })
    }

    /// Takes one document.
    pub fn collect(&self, summary: &mut Summary, doc: &Doc<'_>) {
        summary.count += doc.values(&self.field).len() as u64;
    }

    /// The answer.
    pub fn answer(&self, summary: &Summary) -> Json {
        json!({"value": summary.count})
    }
}
