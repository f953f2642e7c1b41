//! `filter`: one bucket of the documents that match a query.
//!
//! In: a query, documents. Out: the bucket. Touches nothing.

use super::super::document::Doc;
use super::super::dsl::{self, Context};
use super::super::error::ApiError;
use super::super::query::Query;
use super::body::Body;
use super::bucket::{Below, Bucket};

/// Settings.
#[derive(Debug, Clone)]
pub struct Filter {
    query: Query,
}

impl Filter {
    /// Reads the settings.
    pub fn parse(body: Body<'_>, context: Context<'_>) -> Result<Self, ApiError> {
        Ok(Self { query: dsl::parse(body.json, context)? })
    }

    /// Takes one document.
    pub fn collect(&self, bucket: &mut Bucket, below: &dyn Below, doc: &Doc<'_>) -> Result<(), ApiError> {
        if self.query.matches(doc) { bucket.take(below, doc) } else { Ok(()) }
    }
}
