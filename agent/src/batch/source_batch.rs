//! Batch of records of one source: what one read took from a file, or what one stream of a push holds.
//!
//! In: the bytes that were read, and where each record stands in them. Out: the parts of each record, borrowed. Touches
//! nothing. Records share the bytes of their batch: nothing is allocated for a single line.

use std::sync::Arc;

use bytes::Bytes;
use millrace_log::record::TopicPartition;

use super::ack::BatchAck;
use super::flow::Behind;
use super::source::{Anchor, BatchSource};
use crate::container::Stream;
use crate::ledger::Taken;
use crate::split::Piece;
use crate::tap::{Stage, Taps, View};

/// Positions of the records of a batch in their source.
#[derive(Debug)]
pub(crate) enum Positions {
    /// Byte offsets in the file; the byte at the window's start has this one.
    Offsets(u64),
    /// Consecutive numbers from this one on.
    From(u64),
    /// One number for each record, rising.
    Own(Vec<u64>),
}

/// Records of one source that are sent and acknowledged together.
#[derive(Debug)]
pub(crate) struct SourceBatch {
    pub source: Arc<dyn BatchSource>,
    /// Header `labels`.
    pub labels: Bytes,
    /// Header `labels` for each stream of a container, where streams are labelled.
    pub streams: Option<StreamLabels>,
    /// Header `tenant`, if there is one.
    pub tenant: Option<Bytes>,
    /// The bytes read; pieces point into it.
    pub window: Bytes,
    pub positions: Positions,
    pub pieces: Vec<Piece>,
    /// Event times found in the lines, one for each piece; empty if none are looked for.
    pub times: Vec<Option<i64>>,
    /// Header `meta`, one for each piece; empty if no record has one.
    pub metas: Vec<Option<Bytes>>,
    /// Where the next batch starts.
    pub to: Anchor,
    pub taken: Taken,
    /// When it was read.
    pub read_ns: i64,
    /// Its share of the memory budget.
    pub cost: usize,
    /// Its share of what files that are behind may have on their way to the partition.
    pub behind: Option<Behind>,
    /// Who waits for the acknowledgement.
    pub ack: Option<BatchAck>,
}

/// What the queue of a partition takes at once.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // most are of files, and a queue is short
pub(crate) enum QueuedBatches {
    One(SourceBatch),
    /// What one push has for this partition, so that all its streams take one place in the queue.
    Many(Vec<SourceBatch>),
}

/// Labels of records by the stream of a container.
#[derive(Debug)]
pub(crate) struct StreamLabels {
    /// Of standard output, of standard error.
    pub labels: Arc<[Bytes; 2]>,
    /// Stream of each piece.
    pub of: Vec<Stream>,
}

impl SourceBatch {
    /// Header `labels` of a piece.
    pub fn labels(&self, piece: usize) -> &Bytes {
        let Some(streams) = &self.streams else { return &self.labels };
        let [out, err] = &*streams.labels;
        match streams.of.get(piece) {
            Some(Stream::Out) => out,
            Some(Stream::Err) => err,
            _ => &self.labels,
        }
    }

    /// Position of a piece in its source.
    pub fn position(&self, piece: usize) -> u64 {
        match &self.positions {
            Positions::Offsets(base) => base + u64::from(self.pieces[piece].start),
            Positions::From(first) => first + piece as u64,
            Positions::Own(numbers) => numbers[piece],
        }
    }

    /// Header `meta` of a piece.
    pub fn meta(&self, piece: usize) -> Option<&Bytes> {
        self.metas.get(piece)?.as_ref()
    }

    /// The bytes of a piece.
    pub fn line(&self, piece: usize) -> &[u8] {
        let Piece { start, len, .. } = self.pieces[piece];
        &self.window[start as usize..(start + len) as usize]
    }

    /// Records, and bytes of what they were made from.
    pub fn size(&self) -> (usize, usize) {
        (self.pieces.len(), usize::try_from(self.taken.count.bytes).unwrap_or(usize::MAX))
    }

    /// Event time of a piece, and whether it was found in the line.
    pub fn time_ns(&self, piece: usize) -> (i64, bool) {
        match self.times.get(piece).copied().flatten() {
            Some(found) => (found, true),
            // Lines read at once get a nanosecond each, in order: clients page through answers by time.
            None => (self.read_ns.saturating_add(i64::try_from(piece).unwrap_or_default()), false),
        }
    }

    /// A record as its source has it, for live tail.
    pub fn view<'a>(&'a self, piece: usize, to: Option<&'a TopicPartition>, reason: Option<&'a str>) -> View<'a> {
        View {
            tenant: self.tenant.as_deref(),
            position: self.position(piece),
            time_ns: self.time_ns(piece).0,
            labels: self.labels(piece),
            metadata: self.meta(piece).map(|meta| &meta[..]),
            line: self.line(piece),
            topic: to,
            reason,
        }
    }

    /// Shows all records to open taps, as they were read.
    pub fn show_read(&self, taps: &Taps) {
        if !taps.is_idle() {
            let views = (0..self.pieces.len()).map(|piece| self.view(piece, None, None));
            taps.show(Stage::Read, self.source.kind(), &self.source.name(), views);
        }
    }
}
