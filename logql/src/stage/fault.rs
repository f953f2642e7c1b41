//! Why a stage can't be compiled.
//!
//! Touches nothing.

use crate::error::QueryError;
use crate::syntax::tree::Span;

/// A stage that can't be compiled: what is wrong with it.
#[derive(Debug)]
pub(crate) enum StageFault {
    /// The text is wrong.
    Wrong(String),
    /// Not built.
    NotYet(&'static str),
}

impl From<String> for StageFault {
    fn from(message: String) -> Self {
        Self::Wrong(message)
    }
}

impl StageFault {
    /// The error of a query.
    pub(crate) fn at(self, span: Span) -> QueryError {
        match self {
            Self::Wrong(message) => QueryError::Parameter { message },
            Self::NotYet(what) => QueryError::NotYet { what: what.to_owned(), span },
        }
    }
}
