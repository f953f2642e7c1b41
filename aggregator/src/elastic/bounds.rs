//! How much one request may ask for: clauses of a query, aggregations. Counted while the request is read, before anything is
//! compiled.
//!
//! In: each clause and aggregation as it is met. Out: Elasticsearch's error when there are too many. Touches nothing.
//! Source: `indices.query.bool.max_clause_count` of the Elasticsearch 7.10 reference; as in later versions, all clauses of a
//! query count together, nested ones too.

use std::cell::Cell;

use super::error::ApiError;

/// Clauses of one query at most.
pub const MAX_CLAUSES: usize = 1024;
/// Clauses of all queries of one request (`query`, `post_filter`, filters of aggregations) at most.
const MAX_REQUEST_CLAUSES: usize = 4 * MAX_CLAUSES;
/// Aggregations of one request at most, nested ones too. Elasticsearch has no such limit; each costs work on every document.
pub const MAX_AGGREGATIONS: usize = 500;

/// Bytes of all compiled expressions of one request at most: 2048 short ones. Elasticsearch bounds their length only.
const MAX_REGEX_BYTES: usize = 32 << 20;

/// Keys of a sort at most. Elasticsearch has no such limit; each is read from every document.
pub const MAX_SORT_KEYS: usize = 32;

/// Counts of one request.
#[derive(Debug, Default)]
pub struct Bounds {
    query: Cell<usize>,
    request: Cell<usize>,
    aggregations: Cell<usize>,
    regex_bytes: Cell<usize>,
}

impl Bounds {
    /// Another query of the request begins.
    pub fn begin_query(&self) {
        self.query.set(0);
    }

    /// Counts clauses of the query at hand: a query that is not a `bool` is one; a `match` has one for each word.
    pub fn add_clauses(&self, count: usize) -> Result<(), ApiError> {
        self.query.set(self.query.get().saturating_add(count));
        self.request.set(self.request.get().saturating_add(count));
        for (found, allowed) in [(self.query.get(), MAX_CLAUSES), (self.request.get(), MAX_REQUEST_CLAUSES)] {
            if found > allowed {
                let reason = format!("maxClauseCount is set to {allowed}");
                return Err(ApiError { status: 400, kind: "too_many_clauses", reason });
            }
        }
        Ok(())
    }

    /// Counts a compiled expression (`regexp`, `wildcard`, `prefix`) by the memory that it takes.
    pub fn add_regex(&self, bytes: usize) -> Result<(), ApiError> {
        self.regex_bytes.set(self.regex_bytes.get().saturating_add(bytes));
        if self.regex_bytes.get() > MAX_REGEX_BYTES {
            return Err(ApiError::argument(format!(
                "expressions of the request take more than {MAX_REGEX_BYTES} bytes compiled: use fewer or shorter ones"
            )));
        }
        Ok(())
    }

    /// Counts one aggregation.
    pub fn add_aggregation(&self) -> Result<(), ApiError> {
        self.aggregations.set(self.aggregations.get() + 1);
        if self.aggregations.get() > MAX_AGGREGATIONS {
            return Err(ApiError::argument(format!(
                "Trying to create too many aggregations. Must be less than or equal to: [{MAX_AGGREGATIONS}]"
            )));
        }
        Ok(())
    }
}
