//! Runs queries over a store.
//!
//! In: [`RangeQuery`] and [`InstantQuery`]. Out: [`Answered`]. Touches the store and the wall clock (for limits only).

use std::sync::Arc;

use crate::answer::{Answered, InstantQuery, RangeQuery};
use crate::error::QueryError;
use crate::storage::Storage;

/// Answers queries over one store. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    storage: Arc<dyn Storage>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}

impl Engine {
    /// An engine over this store.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage }
    }

    /// The store, for questions that are no queries (`series`, `index/stats`).
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Answers a query over a range of time: streams or a matrix.
    pub async fn query_range(&self, query: RangeQuery) -> Result<Answered, QueryError> {
        let expr = crate::parse(&query.query)?;
        Err(QueryError::NotYet { what: "this query".to_owned(), span: expr.span() })
    }

    /// Answers a metric query at one moment: a vector or a scalar.
    pub async fn query_instant(&self, query: InstantQuery) -> Result<Answered, QueryError> {
        let expr = crate::parse(&query.query)?;
        Err(QueryError::NotYet { what: "this query".to_owned(), span: expr.span() })
    }
}
