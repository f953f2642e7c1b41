//! Streams and entries of a push as they were sent, whatever form they came in.
//!
//! Out: [`PushStream`], [`PushEntry`]. Touches nothing.

use bytes::Bytes;

use crate::record::Labels;

/// One stream of a push as it was sent.
#[derive(Debug, Clone, PartialEq)]
pub struct PushStream {
    /// Names and values, or why they can't be read.
    pub labels: Result<Vec<(String, String)>, String>,
    /// Its entries.
    pub entries: Vec<PushEntry>,
}

/// One entry of a push as it was sent.
#[derive(Debug, Clone, PartialEq)]
pub struct PushEntry {
    /// Event time, ns since 1970; `None` if it is beyond what ns since 1970 can say.
    pub time_ns: Option<i64>,
    /// The line.
    pub line: Bytes,
    /// Structured metadata.
    pub metadata: Labels,
}
