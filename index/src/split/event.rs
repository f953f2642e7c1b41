//! One event as a split keeps it.
//!
//! Touches nothing.

use std::sync::Arc;

use bytes::Bytes;
use millrace_log::record::{DocIdentity, Event, Labels, Position, SourceId};

use crate::scan::StreamInfo;

/// One event as a split keeps it. The tenant is the split's.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    /// Labels of its stream and the topic that it came through.
    pub stream: StreamInfo,
    /// Event time, ns since 1970.
    pub time_ns: i64,
    /// Where it came from.
    pub source: SourceId,
    /// Its place there.
    pub position: Position,
    /// The line as written; may be no UTF-8.
    pub line: Bytes,
    /// Structured metadata, empty for most.
    pub metadata: Labels,
    /// Elasticsearch identity, for documents.
    pub doc: Option<Arc<DocIdentity>>,
    /// The agent cut the line at its limit.
    pub cut: bool,
    /// The event time was found in the line.
    pub time_from_line: bool,
}

impl StoredEvent {
    /// Takes an event that came through a topic; its tenant is left to the caller.
    pub fn new(event: Event, topic: Arc<str>) -> Self {
        Self {
            stream: StreamInfo { labels: event.labels, topic },
            time_ns: event.time_ns,
            source: event.source,
            position: event.position,
            line: event.line,
            metadata: event.metadata,
            doc: event.doc.map(Arc::from),
            cut: event.cut,
            time_from_line: event.time_from_line,
        }
    }
}
