//! What transforms made of an event: where it goes, and the parts of its record that changed.
//!
//! In: [`super::event`]. Out: what delivery sends. Touches nothing.

use std::sync::Arc;

use bytes::Bytes;

/// Where an event goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Destination {
    /// The topic of the configuration.
    #[default]
    Default,
    /// Another topic.
    Topic(Arc<str>),
    /// The dead letters, with the reason.
    DeadLetter(String),
    /// Nowhere, with the reason that the ledger counts.
    Dropped(Arc<str>),
}

impl Destination {
    /// Whether the next step has anything to do with it.
    pub fn is_alive(&self) -> bool {
        matches!(self, Self::Default | Self::Topic(_))
    }
}

/// The value of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// The line as it was read.
    Line,
    /// Another text.
    Text(Bytes),
    /// A JSON object.
    Json(Bytes),
}

/// What became of an event; `None` is what the source says of all its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transformed {
    pub to: Destination,
    pub content: Content,
    /// Header `labels`.
    pub labels: Option<Bytes>,
    /// Header `meta`.
    pub meta: Option<Bytes>,
    pub time_ns: Option<i64>,
}

impl Transformed {
    /// As it was read.
    pub fn unchanged() -> Self {
        Self { to: Destination::Default, content: Content::Line, labels: None, meta: None, time_ns: None }
    }

    /// Memory of what it holds beyond the line.
    pub fn size(&self) -> usize {
        let content = match &self.content {
            Content::Line => 0,
            Content::Text(bytes) | Content::Json(bytes) => bytes.len(),
        };
        content + self.labels.as_ref().map_or(0, Bytes::len) + self.meta.as_ref().map_or(0, Bytes::len)
    }
}
