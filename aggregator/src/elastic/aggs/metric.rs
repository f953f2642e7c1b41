//! `avg`, `min`, `max`, `sum`: one number of the values of a field.
//!
//! In: settings, documents. Out: `value`, null if there are no values. Touches nothing.

use serde_json::{Value as Json, json};

use super::super::document::Doc;
use super::super::error::ApiError;
use super::body::Body;
use super::bucket::Summary;

/// Which number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// Mean.
    Avg,
    /// Least.
    Min,
    /// Greatest.
    Max,
    /// Sum; 0 if there are no values.
    Sum,
}

/// Settings.
#[derive(Debug, Clone)]
pub struct Metric {
    number: Number,
    field: String,
    missing: Option<f64>,
}

impl Metric {
    /// Reads the settings.
    pub fn parse(body: Body<'_>, number: Number) -> Result<Self, ApiError> {
        Ok(Self { number, field: body.field()?, missing: body.number("missing") })
    }

    /// Takes one document.
    pub fn collect(&self, summary: &mut Summary, doc: &Doc<'_>) {
        summary.add(doc, &self.field, self.missing);
    }

    /// The answer.
    pub fn answer(&self, summary: &Summary) -> Json {
        match self.number {
            Number::Avg => json!({"value": summary.some(summary.sum / summary.count as f64)}),
            Number::Min => json!({"value": summary.some(summary.min)}),
            Number::Max => json!({"value": summary.some(summary.max)}),
            Number::Sum => json!({"value": summary.sum}),
        }
    }
}
