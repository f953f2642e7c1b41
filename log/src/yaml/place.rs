//! Where a value of a configuration stands: file, line and column, or a variable of the environment.
//!
//! In: positions from the reader. Out: a text for people, `FILE:LINE:COLUMN`. Touches nothing.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File {
        /// Path as given.
        file: Arc<str>,
        /// From 1; 0 when the file as a whole is meant.
        line: usize,
        /// In characters, from 1.
        column: usize,
    },
    /// In a variable of the environment.
    Variable(Arc<str>),
}

impl Place {
    /// A file as a whole.
    pub fn of_file(path: &Path) -> Self {
        Self::File { file: path.display().to_string().into(), line: 0, column: 0 }
    }

    /// The line, from 1; 0 where there is none.
    pub fn line(&self) -> usize {
        match self {
            Self::File { line, .. } => *line,
            Self::Variable(_) => 0,
        }
    }

    /// The column in characters, from 1; 0 where there is none.
    pub fn column(&self) -> usize {
        match self {
            Self::File { column, .. } => *column,
            Self::Variable(_) => 0,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line: 0, .. } => f.write_str(file),
            Self::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}
