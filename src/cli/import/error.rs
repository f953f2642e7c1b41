//! Errors of an import as a whole, and reading of the files.
//!
//! In: paths. Out: text, or why a file is not read. Side effects: reads files.

use std::path::Path;

/// Largest file that is read.
const MAX_BYTES: u64 = 16 << 20;

/// Why a file was not converted.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is larger than any configuration.
    #[error("{path} has {bytes} bytes; configurations of up to {MAX_BYTES} bytes are read")]
    Large {
        /// The file.
        path: String,
        /// Its size.
        bytes: u64,
    },
    /// Its syntax is invalid.
    #[error("{0}")]
    Syntax(String),
    /// It is a configuration of another program.
    #[error("{path} is not a configuration of {format}: expected {expected}")]
    Other {
        /// The file.
        path: String,
        /// The program.
        format: &'static str,
        /// What its files have.
        expected: &'static str,
    },
}

/// Reads a file.
pub fn read(path: &Path) -> Result<String, ImportError> {
    let name = || path.display().to_string();
    let failed = |source| ImportError::Read { path: name(), source };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > MAX_BYTES {
        return Err(ImportError::Large { path: name(), bytes });
    }
    let text = std::fs::read(path).map_err(failed)?;
    String::from_utf8(text).map_err(|_| ImportError::Syntax(format!("{}: not UTF-8", name())))
}
