//! Credentials: texts not to be shown, as written or in files that are read at each use.
//!
//! In: what a configuration says. Out: the text itself. Touches the files, by reading.

use std::fmt;
use std::path::PathBuf;

/// A text not to be shown: as written, or in a file that is read at each use.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// As written.
    Literal(String),
    /// The content of a file, without blanks around it.
    File(PathBuf),
}

impl Credential {
    /// The text itself. Blocks where it is in a file.
    pub fn reveal(&self) -> std::io::Result<String> {
        match self {
            Self::Literal(text) => Ok(text.clone()),
            Self::File(path) => std::fs::read_to_string(path).map(|text| text.trim().to_owned()),
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("***"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}
