//! Why a query could not be answered: one enum for the whole room; the text is for a person with a pager.

use crate::budget::OverBudget;
use crate::storage::StorageError;
use crate::syntax::error::ParseError;
use crate::syntax::tree::Span;

/// Why a query could not be answered. Doors map it: the client's fault is everything but [`QueryError::Storage`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueryError {
    /// The text is no LogQL.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// Part of LogQL, but not executed by this version: refused, never answered wrongly.
    #[error("{what} is not supported yet (at byte {})", span.start)]
    NotYet {
        /// Name of the part.
        what: String,
        /// Where it stands.
        span: Span,
    },
    /// Lines failed in the pipeline of a metric query.
    #[error(
        "pipeline error: '{error}' for series: '{series}'.\nUse a label filter to intentionally skip this error. (e.g | __error__!=\"{error}\").\nTo skip all potential errors you can match empty errors. (e.g __error__=\"\")\nThe label filter can also be specified after unwrap. (e.g | unwrap latency | __error__=\"\" )"
    )]
    Pipeline {
        /// Value of `__error__`.
        error: String,
        /// Labels of the first series that failed.
        series: String,
    },
    /// A limit of the query was met.
    #[error("query would exceed {limit} ({allowed} allowed): narrow the time range or the stream selector")]
    Limit {
        /// Name of the limit as in the configuration.
        limit: &'static str,
        /// Its value, for people.
        allowed: String,
    },
    /// Two sides of an operator don't fit together at run time.
    #[error("{message}")]
    Matching {
        /// What does not fit, as Loki says it.
        message: String,
    },
    /// A parameter of the request makes no sense.
    #[error("{message}")]
    Parameter {
        /// What is wrong and what to write instead.
        message: String,
    },
    /// Requests together hold all the memory there is for them.
    #[error(
        "queries together need more than `aggregator.index.query.max_memory_total` ({allowed} bytes): repeat the query later"
    )]
    Crowded {
        /// Size of that memory in bytes.
        allowed: u64,
    },
    /// Nobody waits for the answer any more.
    #[error("query was cancelled")]
    Cancelled,
    /// The store failed.
    #[error(transparent)]
    Storage(StorageError),
}

impl From<StorageError> for QueryError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Limit { limit, allowed } => Self::Limit { limit, allowed },
            StorageError::Crowded { allowed } => Self::Crowded { allowed },
            StorageError::Cancelled => Self::Cancelled,
            failed @ StorageError::Failed { .. } => Self::Storage(failed),
        }
    }
}

impl From<OverBudget> for QueryError {
    fn from(over: OverBudget) -> Self {
        StorageError::from(over).into()
    }
}
