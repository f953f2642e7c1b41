//! Errors of splits: what can't be written, opened or read, where, and what helps.
//!
//! Touches nothing.

use std::path::PathBuf;
use std::sync::Arc;

use millrace_log::record::{Position, SourceId};
use millrace_logql::budget::OverBudget;
use millrace_logql::storage::StorageError;

use super::version::FORMAT_VERSION;

/// Why a split can't be written, opened or read.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// The operating system refused.
    #[error("{action} {path} failed: {source}", path = path.display())]
    Io {
        /// What was being done: "writing", "reading".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The folder of a new split is there already: a split is never changed.
    #[error("split folder {path} exists already: splits are never changed; remove it if the catalog does not list it", path = path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// A file is not what was written.
    #[error(
        "{path}{} is damaged: {reason}; restore the file from a copy, or remove the split from the catalog and read its events from the topic again",
        block.map(|b| format!(", block {b},")).unwrap_or_default(), path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The block of rows, where one is concerned.
        block: Option<u32>,
        /// What does not fit.
        reason: &'static str,
    },
    /// Written by a newer Millrace.
    #[error("{path} has format version {found}, this program reads {FORMAT_VERSION}: run the version that wrote it, or a newer one", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u32,
    },
    /// A line that no split can hold.
    #[error(
        "line of {bytes} bytes at {source_id}@{position} is longer than a split can hold ({allowed} bytes): send it to the dead letters"
    )]
    TooLong {
        /// Length of the line with its metadata.
        bytes: usize,
        /// Longest length allowed.
        allowed: usize,
        /// Where it came from.
        source_id: SourceId,
        /// Its place there.
        position: Position,
    },
    /// More blocks or streams than a split can number.
    #[error("a split can't hold more than {allowed} {what}: cut splits smaller (`aggregator.index`)")]
    TooMany {
        /// Blocks, streams.
        what: &'static str,
        /// The bound.
        allowed: u64,
    },
    /// The word index failed.
    #[error("word index {path} failed: {source}", path = path.display())]
    Words {
        /// The folder of the index.
        path: PathBuf,
        /// What Tantivy says.
        #[source]
        source: tantivy::TantivyError,
    },
    /// Splits of several tenants can't be merged.
    #[error("splits of tenants {first} and {other} can't be merged")]
    Tenants {
        /// Tenant of the first split.
        first: String,
        /// Another one.
        other: String,
    },
    /// The plan's budget is used up, or was cancelled.
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
}

impl SplitError {
    pub(crate) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// Whether the split itself is at fault (it should be set aside), not the question or the moment.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Version { .. } | Self::Words { .. })
    }
}

impl From<SplitError> for StorageError {
    fn from(error: SplitError) -> Self {
        match error {
            SplitError::OverBudget(over) => over.into(),
            other => Self::Failed { what: "a split".to_owned(), source: Arc::new(other) },
        }
    }
}
