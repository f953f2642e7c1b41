//! Splits: immutable folders that hold the events of one tenant and a stretch of time, found by stream, time and words.
//!
//! In: events ([`StoredEvent`]) that the index publishes; splits to merge. Out: [`SplitMeta`] for the catalog, and rows
//! in the order a [`super::scan::Plan`] asks for. Touches the one folder it is given, and is blocking throughout: call
//! it from a thread of its own or `spawn_blocking`. Leaves to others: which splits exist and which are to be deleted
//! (catalog), which document replaces which (index), time-outs (cancel the plan).
//!
//! # Layout of a folder
//! | file | content |
//! |---|---|
//! | `lines` | rows in blocks, sorted by (stream, time, source, position), with the tables of blocks and streams: see `line_store` |
//! | `filters` | for each block a Bloom filter of its words with digits: see `words` |
//! | `words-N/` | Tantivy indices whose documents are blocks and whose terms are the other words: see `words` |
//! | `split.json` | [`SplitMeta`], then size and CRC-32C of every other file: written last, so a folder without it is garbage |
//!
//! Everything is fsynced, the folders too, before a write returns. A split is never changed. The version in
//! `split.json` covers all files: a reader refuses versions that it does not know and never guesses.
//!
//! # Measured
//! `benches/split.rs`, 200 MB of real lines with varied numbers in 160 streams, one thread, release: 100 MB per
//! CPU-second to write, as much to merge; 0.23 of the lines' bytes on disk (lines 0.18, filters 0.05, words 0.003).
//! A rare word, a part of one, or a pasted id 2 to 4 ms; the newest 100 lines 0.4 ms; three digits, for which every line
//! is looked at, 170 ms; all rows in order of time 0.4 s.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use millrace_log::record::{DocIdentity, Event, Labels, Position, SourceId};
use millrace_logql::storage::StorageError;

pub use super::scan::StreamInfo;
pub use merge::merge;
pub use meta::{FORMAT_VERSION, MAX_META_STREAMS, SplitMeta, StreamMeta};
pub use reader::{SplitReader, SplitScan};
pub use writer::SplitWriter;

/// Description of a split for the catalog, and the list of its files.
mod meta;
/// Rows in compressed blocks.
mod line_store;
/// Which blocks may hold a text.
mod words;
/// Sorts events and writes a split.
mod writer;
/// Answers plans from a split.
mod reader;
/// Joins splits, leaving rows out where asked.
mod merge;
#[cfg(test)]
mod tests;

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
    /// A limit of the plan was met.
    #[error("query would exceed {limit} ({allowed} allowed): narrow the time range or the stream selector")]
    Limit {
        /// Name of the limit as in the configuration.
        limit: &'static str,
        /// Its value, for people.
        allowed: String,
    },
    /// The plan's token was cancelled.
    #[error("query was cancelled")]
    Cancelled,
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
            SplitError::Limit { limit, allowed } => Self::Limit { limit, allowed },
            SplitError::Cancelled => Self::Cancelled,
            other => Self::Failed { what: "a split".to_owned(), source: Arc::new(other) },
        }
    }
}
