//! Records of one stream of a push: collected line by line, then on their way as a batch or as a frame of the spool.
//!
//! In: lines; frames of the spool. Out: [`SourceBatch`]es, [`Frame`]s. Touches nothing.

use std::sync::Arc;

use bytes::Bytes;
use millrace_log::record::Labels;

use super::frame::Frame;
use super::streams::Stream;
use crate::batch::{Anchor, BatchSource, Positions, SourceBatch};
use crate::ledger::{Count, Taken};
use crate::split::{Piece, is_invalid_utf8};

/// Bytes of records that fill a batch; more go into another one.
const BATCH_BYTES: usize = 256 << 10;
/// Records in a batch at most.
const BATCH_RECORDS: usize = 4096;
/// Memory that a batch takes besides its records.
pub(super) const BATCH_COST: usize = 768;
/// Memory that a record takes besides its bytes.
const RECORD_COST: usize = 48;
/// Memory that metadata takes besides its bytes.
const META_COST: usize = 32;

/// One record as its source has it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Line<'a> {
    /// The line, without its line end.
    pub text: &'a [u8],
    /// Event time, ns since 1970. `None`: found in the line if the source's `timestamp` says how, else the time of now.
    pub time_ns: Option<i64>,
    /// Structured metadata.
    pub metadata: Option<&'a Labels>,
}

/// Records of one stream, as long as a batch.
#[derive(Debug)]
pub(super) struct StreamRecords {
    pub stream: Stream,
    window: Vec<u8>,
    pieces: Vec<Piece>,
    times: Vec<Option<i64>>,
    metas: Vec<Option<Bytes>>,
    /// Empty unless the source numbers its records itself.
    numbers: Vec<u64>,
    skipped: u64,
}

impl StreamRecords {
    pub fn new(stream: &Stream) -> Self {
        Self {
            stream: stream.clone(),
            window: Vec::new(),
            pieces: Vec::new(),
            times: Vec::new(),
            metas: Vec::new(),
            numbers: Vec::new(),
            skipped: 0,
        }
    }

    /// Whether a record with so many bytes must go into another batch.
    pub fn is_full(&self, more: usize) -> bool {
        self.pieces.len() >= BATCH_RECORDS || !self.pieces.is_empty() && self.window.len() + more > BATCH_BYTES
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Bytes of lines.
    pub fn bytes(&self) -> u64 {
        self.window.len() as u64 + self.skipped
    }

    /// The first and the last number of the source's own.
    pub fn own_numbers(&self) -> Option<(u64, u64)> {
        Some((*self.numbers.first()?, *self.numbers.last()?))
    }

    /// Adds a line, cut at `max_line`; `number` is one of the source's own. Returns the memory that it takes.
    pub fn add(&mut self, line: Line<'_>, time: Option<i64>, number: Option<u64>, max_line: usize) -> usize {
        let cut = line.text.len() > max_line;
        let text = line.text.get(..max_line).unwrap_or(line.text);
        let meta = line.metadata.filter(|metadata| !metadata.is_empty()).map(|metadata| {
            if is_invalid_utf8(text, cut) {
                return Bytes::from(metadata.with("encoding", "invalid").to_json());
            }
            Bytes::from(metadata.to_json())
        });
        let meta_cost = meta.as_ref().map_or(0, |meta| meta.len() + META_COST);
        let n = self.pieces.len();
        put(&mut self.times, n, time);
        put(&mut self.metas, n, meta);
        self.numbers.extend(number);
        let (start, len) = (small(self.window.len()), small(text.len()));
        self.pieces.push(Piece { start, len, span: len, lines: 1, cut });
        self.window.extend_from_slice(text);
        self.skipped += (line.text.len() - text.len()) as u64;
        text.len() + text.len() / 4 + RECORD_COST + meta_cost
    }

    /// Nothing more is added.
    pub fn finish(self, read_ns: i64) -> PushedRecords {
        let Self { stream, window, pieces, times, metas, numbers, skipped } = self;
        PushedRecords {
            labels: stream.0.labels.clone(),
            tenant: stream.0.tenant.clone(),
            window: window.into(),
            pieces,
            times,
            metas,
            numbers,
            skipped,
            read_ns,
        }
    }
}

/// Adds the value of record `n` to a list that is empty until the first record has one.
fn put<T: Clone>(list: &mut Vec<Option<T>>, n: usize, value: Option<T>) {
    if value.is_some() && list.is_empty() {
        list.resize(n, None);
    }
    if value.is_some() || !list.is_empty() {
        list.push(value);
    }
}

fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Records of one stream, complete.
#[derive(Debug)]
pub(super) struct PushedRecords {
    labels: Bytes,
    tenant: Option<Bytes>,
    window: Bytes,
    pieces: Vec<Piece>,
    times: Vec<Option<i64>>,
    metas: Vec<Option<Bytes>>,
    numbers: Vec<u64>,
    skipped: u64,
    read_ns: i64,
}

impl PushedRecords {
    /// What they count for in the ledger.
    pub fn count(&self) -> Count {
        let records = self.pieces.len() as u64;
        Count { lines: records, bytes: self.window.len() as u64 + self.skipped, records }
    }

    /// How many of them are cut.
    pub fn cut_lines(&self) -> u64 {
        self.pieces.iter().filter(|piece| piece.cut).count() as u64
    }

    /// For the sender of a partition; numbers rise from `first` unless the source has its own. Without a share of memory.
    pub fn into_batch(self, source: Arc<dyn BatchSource>, first: u64) -> SourceBatch {
        let taken = Taken { count: self.count(), skipped: self.skipped };
        let own = !self.numbers.is_empty();
        SourceBatch {
            source,
            labels: self.labels,
            streams: None,
            tenant: self.tenant,
            window: self.window,
            positions: if own { Positions::Own(self.numbers) } else { Positions::From(first) },
            pieces: self.pieces,
            times: self.times,
            metas: self.metas,
            to: Anchor::default(),
            taken,
            read_ns: self.read_ns,
            cost: 0,
            behind: None,
            ack: None,
        }
    }

    /// For the spool.
    pub fn into_frame(self, source: &str, hash: u32, partition: Option<usize>, first: u64) -> Frame {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let cut = self.pieces.iter().enumerate().filter(|(_, piece)| piece.cut).map(|(n, _)| n).collect();
        Frame {
            source: source.to_owned(),
            labels: text(&self.labels),
            tenant: self.tenant.as_ref().map(text),
            hash,
            partition,
            first,
            own: self.numbers,
            read_ns: self.read_ns,
            lens: self.pieces.iter().map(|piece| piece.len).collect(),
            cut,
            times: self.times,
            metas: self.metas.iter().map(|meta| meta.as_ref().map(text)).collect(),
            skipped: self.skipped,
            window: self.window,
        }
    }

    /// From the spool.
    pub fn from_frame(frame: Frame) -> Self {
        let mut start = 0;
        let mut pieces: Vec<Piece> = Vec::with_capacity(frame.lens.len());
        for len in &frame.lens {
            pieces.push(Piece { start, len: *len, span: *len, lines: 1, cut: false });
            start += len;
        }
        for cut in frame.cut {
            if let Some(piece) = pieces.get_mut(cut) {
                piece.cut = true;
            }
        }
        Self {
            labels: frame.labels.into(),
            tenant: frame.tenant.map(Bytes::from),
            window: frame.window,
            pieces,
            times: frame.times,
            metas: frame.metas.into_iter().map(|meta| meta.map(Bytes::from)).collect(),
            numbers: frame.own,
            skipped: frame.skipped,
            read_ns: frame.read_ns,
        }
    }
}
