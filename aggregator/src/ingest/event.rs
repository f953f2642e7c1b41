//! One event as an API hands it over, already valid.
//!
//! Touches nothing.

use bytes::Bytes;
use millrace_log::record::{DocIdentity, Labels, Tenant};

/// One event as a door hands it over, already valid.
#[derive(Debug, Clone, PartialEq)]
pub struct PushEvent {
    /// Whose it is.
    pub tenant: Tenant,
    /// Event time, ns since 1970.
    pub time_ns: i64,
    /// Labels of its stream, within the bounds of [`Labels::check`].
    pub labels: Labels,
    /// Structured metadata.
    pub metadata: Labels,
    /// The line.
    pub line: Bytes,
    /// Elasticsearch identity, for documents.
    pub doc: Option<Box<DocIdentity>>,
}

impl PushEvent {
    /// Memory that it takes, roughly: what in-flight limits count.
    pub(super) fn cost(&self) -> usize {
        let metadata: usize = self.metadata.iter().map(|(n, v)| n.len() + v.len() + 48).sum();
        self.line.len() + metadata + 160
    }
}
