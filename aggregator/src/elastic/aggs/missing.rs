//! `missing`: one bucket of the documents without a value in a field.
//!
//! In: settings, documents. Out: the bucket. Touches nothing.

use super::super::document::Doc;
use super::super::error::ApiError;
use super::body::Body;
use super::bucket::{Below, Bucket};

/// Settings.
#[derive(Debug, Clone)]
pub struct Missing {
    field: String,
}

impl Missing {
    /// Reads the settings.
    pub fn parse(body: Body<'_>) -> Result<Self, ApiError> {
        Ok(Self { field: body.field()? })
    }

    /// Takes one document.
    pub fn collect(&self, bucket: &mut Bucket, below: &dyn Below, doc: &Doc<'_>) -> Result<(), ApiError> {
        if doc.values(&self.field).is_empty() { bucket.take(below, doc) } else { Ok(()) }
    }
}
