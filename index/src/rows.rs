//! Building batches of rows, and the two questions that every part of the index answers alike: does a stream match,
//! may a line match.
//!
//! In: rows one by one. Out: [`RowBatch`]es whose streams are named once. Touches nothing.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use millrace_log::record::{DocIdentity, Labels, Position, SourceId};

use crate::scan::{Kind, LabelMatcher, LineNeedle, Order, Row, RowBatch, StreamInfo};

/// Rows that one batch holds at most.
pub const BATCH_ROWS: usize = 4096;
/// Bytes of lines after which a batch is full.
pub const BATCH_BYTES: usize = 1 << 20;

/// Collects rows into one batch.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    streams: Vec<StreamInfo>,
    known: HashMap<StreamInfo, u32>,
    text: BytesMut,
    rows: Vec<Row>,
}

impl BatchBuilder {
    /// The number of a stream in the batch; adds it if it is new.
    pub fn stream(&mut self, info: &StreamInfo) -> u32 {
        if let Some(&number) = self.known.get(info) {
            return number;
        }
        let number = u32::try_from(self.streams.len()).unwrap_or(u32::MAX);
        self.streams.push(info.clone());
        self.known.insert(info.clone(), number);
        number
    }

    /// Adds a row of a stream that [`BatchBuilder::stream`] gave the number of.
    #[allow(clippy::too_many_arguments)] // The fields of a row, in its order.
    pub fn push(
        &mut self,
        stream: u32,
        time_ns: i64,
        line: &[u8],
        metadata: Option<Labels>,
        source: SourceId,
        position: Position,
        doc: Option<Arc<DocIdentity>>,
    ) {
        let start = u32::try_from(self.text.len()).unwrap_or(u32::MAX);
        self.text.extend_from_slice(line);
        let end = u32::try_from(self.text.len()).unwrap_or(u32::MAX);
        self.rows.push(Row { stream, time_ns, line: start..end, metadata, source, position, doc });
    }

    /// Copies a row of another batch; `stream` is its number here.
    pub fn copy(&mut self, stream: u32, from: &RowBatch, row: &Row) {
        let (metadata, doc) = (row.metadata.clone(), row.doc.clone());
        self.push(stream, row.time_ns, from.line(row), metadata, row.source, row.position, doc);
    }

    /// Rows so far.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether it is time to hand the batch on.
    pub fn is_full(&self) -> bool {
        self.rows.len() >= BATCH_ROWS || self.text.len() >= BATCH_BYTES
    }

    /// The batch; the builder is empty again.
    pub fn take(&mut self) -> RowBatch {
        self.known.clear();
        RowBatch {
            streams: std::mem::take(&mut self.streams),
            text: Bytes::from(std::mem::take(&mut self.text)),
            rows: std::mem::take(&mut self.rows),
        }
    }
}

/// Whether a stream agrees with all matchers; an absent label is the empty string.
pub fn stream_matches(matchers: &[LabelMatcher], labels: &Labels) -> bool {
    matchers.iter().all(|m| m.matches(labels.get(&m.name).unwrap_or_default()))
}

/// Whether an event is of the kind asked for.
pub fn kind_matches(kind: Kind, is_document: bool) -> bool {
    match kind {
        Kind::All => true,
        Kind::Lines => !is_document,
        Kind::Documents => is_document,
    }
}

/// Order of two rows, oldest first: by time, then source, then position.
pub fn compare(a: (i64, SourceId, Position), b: (i64, SourceId, Position)) -> Ordering {
    a.cmp(&b)
}

/// Order of two rows in the order of a plan ([`Order::Any`] counts as forward).
pub fn compare_in(order: Order, a: (i64, SourceId, Position), b: (i64, SourceId, Position)) -> Ordering {
    match order {
        Order::Forward | Order::Any => a.cmp(&b),
        Order::Backward => b.cmp(&a),
    }
}

/// What rows are ordered by.
pub fn key(row: &Row) -> (i64, SourceId, Position) {
    (row.time_ns, row.source, row.position)
}

/// Needles made ready for many lines.
#[derive(Debug)]
pub struct Needles {
    exact: Vec<memchr::memmem::Finder<'static>>,
}

impl Needles {
    /// Needles without regard to case are left to the caller's own filter: a line that passes may still not match.
    pub fn new(needles: &[LineNeedle]) -> Self {
        let exact = needles
            .iter()
            .filter(|n| !n.ignore_case)
            .map(|n| memchr::memmem::Finder::new(&n.text).into_owned())
            .collect();
        Self { exact }
    }

    /// Whether a line contains all of them.
    pub fn may_match(&self, line: &[u8]) -> bool {
        self.exact.iter().all(|finder| finder.find(line).is_some())
    }
}

/// Passes on whose rows of a batch `keep` says yes to; the batch itself if that is all of them.
pub fn retain(batch: RowBatch, mut keep: impl FnMut(&Row) -> bool) -> RowBatch {
    let mut dropped = false;
    let kept: Vec<bool> = batch
        .rows
        .iter()
        .map(|row| {
            let yes = keep(row);
            dropped |= !yes;
            yes
        })
        .collect();
    if !dropped {
        return batch;
    }
    let RowBatch { streams, text, rows } = batch;
    let rows = rows.into_iter().zip(kept).filter_map(|(row, yes)| yes.then_some(row)).collect();
    RowBatch { streams, text, rows }
}
