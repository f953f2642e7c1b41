//! Errors of exports: what keeps them from starting.
//!
//! In: causes. Out: one text for people. Touches nothing.

use millrace_log::client::ClientError;
use millrace_log::value::ValueError;

/// Why an export can't start.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A secret can't be read.
    #[error("export `{name}` can't read its secret")]
    Secret {
        /// Name of the export.
        name: String,
        /// The cause.
        #[source]
        source: ValueError,
    },
    /// The HTTP client can't be made.
    #[error("export `{name}` can't make its HTTP client")]
    Client {
        /// Name of the export.
        name: String,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// The log can't be read.
    #[error("export `{name}` can't read the log")]
    Log {
        /// Name of the export.
        name: String,
        /// The cause.
        #[source]
        source: ClientError,
    },
}
