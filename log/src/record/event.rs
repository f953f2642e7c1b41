//! One log event.
//!
//! Plain data: made by agents and HTTP endpoints, written and read by [`super::encode`] and [`super::Decoder`]. Touches nothing.

use bytes::Bytes;

use super::identity::{Position, SourceId, Tenant};
use super::labels::Labels;

/// What Elasticsearch clients call a document: its index and id, and how it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct DocIdentity {
    /// Index as named by the client.
    pub index: String,
    /// Given or automatic id.
    pub id: String,
    /// `index` replaces an older document of the id, `create` never does (the door refused it if there was one).
    #[serde(default)]
    pub op: DocOp,
}

/// How a document came in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DocOp {
    /// A new document or a new version of one.
    #[default]
    Index,
    /// A new document.
    Create,
}

/// One log event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Whose it is.
    pub tenant: Tenant,
    /// Event time, ns since 1970.
    pub time_ns: i64,
    /// Labels of its stream.
    pub labels: Labels,
    /// Structured metadata: filterable after `|`, never inside `{}`. Sorted by name.
    pub metadata: Labels,
    /// The line as written, without its line end; may be no UTF-8.
    pub line: Bytes,
    /// Where it came from.
    pub source: SourceId,
    /// Its place there.
    pub position: Position,
    /// Only for documents that came by the Elasticsearch door.
    pub doc: Option<Box<DocIdentity>>,
    /// The agent cut the line at its limit.
    pub cut: bool,
    /// The event time was found in the line (else it is the time of reading).
    pub time_from_line: bool,
}
