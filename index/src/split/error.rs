//! Errors of splits: what can't be written, opened or read, where, and what helps.
//!
//! Touches nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_log::record::{Position, SourceId};
use millrace_logql::budget::OverBudget;
use millrace_logql::storage::StorageError;

use super::version::FORMAT_VERSION;

/// Codes of the operating system that are about the process or the disk, not about the file: the process has too many files open,
/// the system has, memory or mappings are used up, the disk did not answer.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;
const ENOMEM: i32 = 12;
const EIO: i32 = 5;

/// Why a split can't be written, opened or read.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// The operating system refused.
    #[error("{action} {path} failed: {source}{}", help(source), path = path.display())]
    Io {
        /// What was being done: "writing", "reading".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
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
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// Why the word index in a folder can't be read: what the operating system refused, or what stands in the files.
    pub(super) fn words(path: &Path, source: tantivy::TantivyError) -> Self {
        match refused_by_system(&source) {
            Some(source) => Self::io("reading word index", path)(source),
            None => Self::Words { path: path.to_owned(), source },
        }
    }

    /// Whether the split itself is at fault (it should be set aside), not the question or the moment.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Version { .. } | Self::Words { .. })
    }

    /// Whether the system refused for a reason that concerns the file or its disk, and may last: not because the process or
    /// the system had too many files open or too little memory.
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Io { source, .. } => !matches!(source.raw_os_error(), Some(EMFILE | ENFILE | ENOMEM)),
            _ => false,
        }
    }

    /// The file or folder that can't be written, opened or read.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Io { path, .. }
            | Self::Exists { path }
            | Self::Damaged { path, .. }
            | Self::Version { path, .. }
            | Self::Words { path, .. } => Some(path),
            Self::TooLong { .. } | Self::TooMany { .. } | Self::Tenants { .. } | Self::OverBudget(_) => None,
        }
    }
}

/// The error of the operating system behind one of Tantivy's, if there is one. What Tantivy finds wrong in a file, also as an
/// `io::Error`, has no code of the system's.
fn refused_by_system(error: &tantivy::TantivyError) -> Option<io::Error> {
    use tantivy::TantivyError as E;
    use tantivy::directory::error::{LockError, OpenDirectoryError, OpenReadError};
    let (E::IoError(source)
    | E::OpenReadError(OpenReadError::IoError { io_error: source, .. })
    | E::OpenDirectoryError(OpenDirectoryError::IoError { io_error: source, .. })
    | E::LockFailure(LockError::IoError(source), _)) = error
    else {
        return None;
    };
    source.raw_os_error().map(io::Error::from_raw_os_error)
}

/// What helps against an error that is not about the file.
fn help(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(EMFILE) => {
            "; the split is not damaged: raise the limit of open files of the process (`LimitNOFILE` of the service) or lower \
             `aggregator.index.open_splits`"
        }
        Some(ENFILE) => "; the split is not damaged: raise the system's limit of open files (`fs.file-max`)",
        Some(ENOMEM) => {
            "; the split is not damaged: give the process more memory or mappings (`vm.max_map_count`) or lower \
             `aggregator.index.open_splits`"
        }
        Some(EIO) => "; the disk did not answer: look at the kernel's log (`dmesg`)",
        _ => "",
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
