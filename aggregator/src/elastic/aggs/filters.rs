//! `filters`: a bucket per given query, named or in a list.
//!
//! In: queries, documents. Out: `buckets` in the order of the request. Touches nothing. There is no bucket for others.

use serde_json::{Map, Value as Json, json};

use super::super::document::Doc;
use super::super::dsl::{self, Context};
use super::super::error::ApiError;
use super::super::query::Query;
use super::body::Body;
use super::bucket::{Below, Bucket, Left, listed};

/// Settings.
#[derive(Debug, Clone)]
pub struct Filters {
    filters: Vec<(Option<String>, Query)>,
}

impl Filters {
    /// Reads the settings.
    pub fn parse(body: Body<'_>, context: Context<'_>) -> Result<Self, ApiError> {
        if body.get("other_bucket").is_some() || body.get("other_bucket_key").is_some() {
            return Err(ApiError::not_yet("other_bucket"));
        }
        let filters = match body.get("filters") {
            Some(Json::Object(named)) => named
                .iter()
                .map(|(n, q)| Ok((Some(n.clone()), dsl::parse(q, context)?)))
                .collect::<Result<_, ApiError>>()?,
            Some(Json::Array(list)) => {
                list.iter().map(|q| Ok((None, dsl::parse(q, context)?))).collect::<Result<_, ApiError>>()?
            }
            _ => return Err(ApiError::parsing(format!("[filters] is missing in [{}]", body.name))),
        };
        Ok(Self { filters })
    }

    /// Buckets without documents.
    pub fn start(&self) -> Vec<Bucket> {
        self.filters.iter().map(|_| Bucket::default()).collect()
    }

    /// Takes one document.
    pub fn collect(&self, buckets: &mut [Bucket], below: &dyn Below, doc: &Doc<'_>) -> Result<(), ApiError> {
        for ((_, query), bucket) in self.filters.iter().zip(buckets.iter_mut()) {
            if query.matches(doc) {
                bucket.take(below, doc)?;
            }
        }
        Ok(())
    }

    /// The answer.
    pub fn answer(&self, buckets: Vec<Bucket>, below: &dyn Below, left: &mut Left<'_>) -> Result<Json, ApiError> {
        let keyed = self.filters.iter().all(|(name, _)| name.is_some());
        let mut all = Vec::new();
        for ((name, _), bucket) in self.filters.iter().zip(buckets) {
            all.push((name.clone().unwrap_or_default(), bucket.answer(below, Map::new(), left)?));
        }
        Ok(json!({"buckets": listed(all, keyed)}))
    }
}
