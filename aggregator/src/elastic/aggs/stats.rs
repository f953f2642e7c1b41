//! `stats`: count, least, greatest, mean and sum of the values of a field.
//!
//! In: settings, documents. Out: the five numbers. Touches nothing.

use serde_json::{Value as Json, json};

use super::super::document::Doc;
use super::super::error::ApiError;
use super::body::Body;
use super::bucket::Summary;

/// Settings.
#[derive(Debug, Clone)]
pub struct Stats {
    field: String,
    missing: Option<f64>,
}

impl Stats {
    /// Reads the settings.
    pub fn parse(body: Body<'_>) -> Result<Self, ApiError> {
        Ok(Self { field: body.field()?, missing: body.number("missing") })
    }

    /// Takes one document.
    pub fn collect(&self, summary: &mut Summary, doc: &Doc<'_>) {
        summary.add(doc, &self.field, self.missing);
    }

    /// The answer.
    pub fn answer(&self, summary: &Summary) -> Json {
        json!({
            "count": summary.count,
            "min": summary.some(summary.min),
            "max": summary.some(summary.max),
            "avg": summary.some(summary.sum / summary.count as f64),
            "sum": summary.sum,
        })
    }
}
