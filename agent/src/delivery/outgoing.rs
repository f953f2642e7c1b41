//! Records of one request: a part of the batches at hand, as they were read or with transforms applied.
//!
//! In: batches, the first record, limits. Out: [`Outgoing`]. Touches nothing. Transforms take CPU time: for sources that
//! have some this runs on a thread for blocking work.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::batch::SourceBatch;
use crate::tap::View;
use crate::transform::{self, Content, Destination, Input, Transformed, Worker};

/// Pieces, and bytes of them, that go through a chain at a time.
const SLICE: (usize, usize) = (128, 256 << 10);

/// A record: which batch, which piece of it.
pub(super) type RecordAt = (u32, u32);

/// Records and bytes of lines in one request at most, about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub records: usize,
    pub bytes: usize,
}

/// Neighbouring records that are sent together, each known by its index here.
pub(super) struct Outgoing {
    batches: Arc<Vec<SourceBatch>>,
    records: Vec<RecordAt>,
    /// What transforms made of each; empty: all go as they were read.
    transformed: Vec<Transformed>,
    /// The first record that is left for the next request; `None`: all are here.
    next: Option<RecordAt>,
}

impl Outgoing {
    fn new(batches: &Arc<Vec<SourceBatch>>) -> Self {
        Self { batches: Arc::clone(batches), records: Vec::new(), transformed: Vec::new(), next: None }
    }

    /// Records from `from` on, as they were read.
    pub fn as_read(batches: &Arc<Vec<SourceBatch>>, from: RecordAt, limits: Limits) -> Self {
        let mut outgoing = Self::new(batches);
        let all: usize = batches.iter().map(|batch| batch.pieces.len()).sum();
        outgoing.records.reserve(all.min(limits.records));
        let mut bytes = 0;
        let mut first = from.1 as usize;
        for (b, batch) in batches.iter().enumerate().skip(from.0 as usize) {
            for (p, piece) in batch.pieces.iter().enumerate().skip(std::mem::take(&mut first)) {
                if outgoing.records.len() >= limits.records || bytes >= limits.bytes {
                    outgoing.next = Some((small(b), small(p)));
                    return outgoing;
                }
                outgoing.records.push((small(b), small(p)));
                bytes += piece.span as usize;
            }
        }
        outgoing
    }

    /// Records from `from` on, through the transforms of their sources.
    pub fn transform(
        batches: &Arc<Vec<SourceBatch>>,
        from: RecordAt,
        limits: Limits,
        abort: &CancellationToken,
        worker: &mut Worker,
    ) -> Self {
        let mut outgoing = Self::new(batches);
        let mut bytes = 0;
        let mut piece = from.1 as usize;
        for (b, batch) in batches.iter().enumerate().skip(from.0 as usize) {
            let source = &batch.source;
            let mut origin = None;
            let Some(chain) = source.chain() else { continue };
            let [id @ .., _, _, _, _, _, _, _, _] = source.identity().id.0;
            let seed = u64::from_le_bytes(id);
            while piece < batch.pieces.len() {
                if outgoing.records.len() >= limits.records || bytes >= limits.bytes || abort.is_cancelled() {
                    outgoing.next = Some((small(b), small(piece)));
                    return outgoing;
                }
                let start = piece;
                let mut slice = 0;
                let labels = batch.labels(start);
                // Neighbours mostly have the same labels.
                if origin.as_ref().is_none_or(|(of, _)| of != labels) {
                    origin = Some((labels.clone(), transform::origin(labels, &source.name(), source.kind())));
                }
                while let Some(next) = batch.pieces.get(piece)
                    && batch.labels(piece) == labels
                    && piece - start < SLICE.0.min(limits.records)
                    && (slice == 0 || slice + (next.len as usize) < SLICE.1)
                {
                    slice += next.len as usize;
                    piece += 1;
                }
                let inputs = (start..piece).map(|p| {
                    let piece = batch.pieces[p];
                    let at = piece.start as usize;
                    Input {
                        line: batch.window.slice(at..at + piece.len as usize),
                        time_ns: batch.time_ns(p).0,
                        meta: batch.meta(p).cloned(),
                        seed: seed ^ batch.position(p),
                    }
                });
                let before = outgoing.transformed.len();
                if let Some((_, origin)) = &origin {
                    chain.run(origin, inputs, worker, &mut outgoing.transformed);
                }
                outgoing.records.extend((start..piece).map(|p| (small(b), small(p))));
                bytes += slice + outgoing.transformed.iter().skip(before).map(Transformed::size).sum::<usize>();
            }
            piece = 0;
        }
        outgoing
    }

    /// The first record that is left for the next request.
    pub fn next(&self) -> Option<RecordAt> {
        self.next
    }

    /// Indices of all records.
    pub fn indices(&self) -> std::ops::Range<u32> {
        0..small(self.records.len())
    }

    /// Number of its batch.
    pub fn batch_index(&self, index: u32) -> usize {
        self.records[index as usize].0 as usize
    }

    /// The batch and the piece of a record.
    pub fn record(&self, index: u32) -> (&SourceBatch, usize) {
        let (batch, piece) = self.records[index as usize];
        (&self.batches[batch as usize], piece as usize)
    }

    /// What transforms made of a record; `None`: it goes as it was read.
    pub fn transformed(&self, index: u32) -> Option<&Transformed> {
        self.transformed.get(index as usize)
    }

    /// Where a record goes.
    pub fn destination(&self, index: u32) -> &Destination {
        self.transformed(index).map_or(&Destination::Default, |transformed| &transformed.to)
    }

    /// Whether all records go as they were read, and so to one partition.
    pub fn is_as_read(&self) -> bool {
        self.transformed.is_empty()
    }

    /// A record as it is sent, for live tail.
    pub fn view<'a>(
        &'a self,
        index: u32,
        to: Option<&'a millrace_log::record::TopicPartition>,
        reason: Option<&'a str>,
    ) -> View<'a> {
        let (batch, piece) = self.record(index);
        let mut view = batch.view(piece, to, reason);
        if let Some(transformed) = self.transformed(index) {
            view.time_ns = transformed.time_ns.unwrap_or(view.time_ns);
            view.labels = transformed.labels.as_deref().unwrap_or(view.labels);
            view.metadata = transformed.meta.as_deref();
            if let Content::Text(bytes) | Content::Json(bytes) = &transformed.content {
                view.line = bytes;
            }
        }
        view
    }
}

fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use bytes::Bytes;
    use millrace_log::record::SourceId;

    use super::*;
    use crate::batch::{Anchor, BatchSource, Identity, Positions};
    use crate::error::AgentError;
    use crate::ledger::{Lost, Taken};
    use crate::split::Piece;
    use crate::state::State;
    use crate::transform::Chain;

    #[derive(Debug)]
    struct Plain;

    impl BatchSource for Plain {
        fn identity(&self) -> Identity {
            Identity::new(SourceId([7; 16]))
        }

        fn chain(&self) -> Option<&Arc<Chain>> {
            None
        }

        fn name(&self) -> Cow<'_, str> {
            "plain".into()
        }

        fn kind(&self) -> &'static str {
            "test"
        }

        fn settle(&self, _: Anchor, _: Taken, _: &Lost) {}

        fn move_on(&self, _: &State) -> Result<(), AgentError> {
            Ok(())
        }
    }

    /// A batch of lines of ten bytes each.
    fn batch(lines: u32) -> SourceBatch {
        let piece = |n: u32| Piece { start: n * 10, len: 9, span: 10, lines: 1, cut: false };
        SourceBatch {
            source: Arc::new(Plain),
            labels: Bytes::new(),
            streams: None,
            tenant: None,
            window: vec![b'x'; lines as usize * 10].into(),
            positions: Positions::Offsets(0),
            pieces: (0..lines).map(piece).collect(),
            times: Vec::new(),
            metas: Vec::new(),
            to: Anchor::default(),
            taken: Taken::default(),
            read_ns: 0,
            cost: 0,
            behind: None,
            ack: None,
        }
    }

    #[test]
    fn requests_are_bounded_and_together_hold_each_record_once_in_order() {
        let all: Vec<RecordAt> = [(0, 5), (1, 0), (2, 1), (3, 7)]
            .into_iter()
            .flat_map(|(batch, pieces)| (0..pieces).map(move |piece| (batch, piece)))
            .collect();
        for (records, bytes, requests) in [(100, 1000, 1), (4, 1000, 4), (1, 1000, 13), (100, 40, 4), (3, 20, 7)] {
            let batches = Arc::new(vec![batch(5), batch(0), batch(1), batch(7)]);
            let (mut found, mut count, mut from) = (Vec::new(), 0, Some((0, 0)));
            while let Some(start) = from {
                let outgoing = Outgoing::as_read(&batches, start, Limits { records, bytes });
                assert!(outgoing.indices().len() <= records && outgoing.indices().len() * 10 < bytes + 10);
                found.extend_from_slice(&outgoing.records);
                count += 1;
                from = outgoing.next();
            }
            assert_eq!((&found, count), (&all, requests), "{records} records, {bytes} bytes");
        }
    }
}
