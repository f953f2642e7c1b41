//! Places of settings: file, line and column, or the variable that they come from; and what is wrong there.
//!
//! Touches nothing.

use std::fmt;
use std::sync::Arc;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File {
        /// Path as given on the command line.
        file: Arc<str>,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
    },
    /// In a variable of the environment.
    Variable(Arc<str>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// One fault with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocatedFault {
    /// File, line and column, or the variable.
    pub place: Place,
    /// What is wrong and what to do.
    pub message: String,
}

impl LocatedFault {
    /// Joins the two.
    pub fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into() }
    }
}

impl fmt::Display for LocatedFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}
