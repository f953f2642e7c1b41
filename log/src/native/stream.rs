//! Records out of what was fetched, one by one: decompressed when they are needed, without those of aborted transactions.
//!
//! In: the queue of [`Fetching`]. Out: [`Item`]s, in order for each partition. Touches nothing. Control batches and
//! filtered records are passed over; the position behind them is known all the same ([`Item::Position`]).
//!
//! Aborted transactions (KIP-98): an answer names the producer and first offset of each aborted transaction in it. From
//! that offset to the producer's abort marker its transactional batches are skipped.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::decode::{BatchHeader, Block, DecodeError, HeaderIter, Spot};
use super::error::WireError;
use super::fetch::{Event, Fetched, Fetching};
use super::unpack::Unpacker;
use crate::record::TopicPartition;

/// What comes next.
#[derive(Debug)]
pub(crate) enum Item {
    /// A record of the current partition; its bytes are in the stream until the next call.
    Record(Spot),
    /// Everything before this offset was handed out or is not for readers.
    Position { tp: TopicPartition, next: i64 },
    /// The end of a partition, for now.
    End { tp: TopicPartition },
    /// The position of a partition is gone; it is read on after [`Fetching::seek`] or a new assignment.
    OutOfRange { tp: TopicPartition, offset: i64, log_start: i64 },
    /// The topic of a partition was created anew; it is read on after [`Fetching::restart`] or a new assignment.
    Recreated { tp: TopicPartition },
    /// Records that can't be read, passed over: offsets from `from` to before `to`, with their batch as it came.
    Unreadable { tp: TopicPartition, from: i64, to: i64, batch: Bytes, error: DecodeError },
    /// A partition can't be read at the moment.
    Failed { tp: TopicPartition, error: WireError },
}

#[derive(Debug)]
struct Chunk {
    fetched: Fetched,
    /// Bytes of it that were read.
    at: usize,
    /// Where the batch that was read last begins.
    batch: usize,
    /// Producers whose batches are skipped, and the transactions that come later, the last first.
    aborting: HashSet<i64>,
    aborted: Vec<(i64, i64)>,
}

/// Reads what a [`Fetching`] gives.
#[derive(Debug)]
pub(crate) struct RecordStream {
    fetching: Arc<Fetching>,
    assignment: u64,
    chunk: Option<Chunk>,
    block: Option<(Block, i64)>,
    empty: Bytes,
    nowhere: TopicPartition,
    unpacker: Unpacker,
}

impl RecordStream {
    pub fn new(fetching: Arc<Fetching>) -> Self {
        Self {
            fetching,
            assignment: 0,
            chunk: None,
            block: None,
            empty: Bytes::new(),
            nowhere: TopicPartition::new("", -1),
            unpacker: Unpacker::default(),
        }
    }

    /// The assignment of what came last.
    pub fn assignment(&self) -> u64 {
        self.assignment
    }

    /// The partition of the record that came last.
    pub fn partition(&self) -> &TopicPartition {
        self.chunk.as_ref().map_or(&self.nowhere, |chunk| &chunk.fetched.tp)
    }

    fn bytes(&self) -> &Bytes {
        self.block.as_ref().map_or(&self.empty, |(block, _)| block.bytes())
    }

    /// A part of the record that came last.
    pub fn slice(&self, range: Range<usize>) -> Bytes {
        self.bytes().slice(range)
    }

    /// The same where it may be null.
    pub fn optional(&self, range: Option<Range<usize>>) -> Option<Bytes> {
        range.map(|range| self.slice(range))
    }

    /// Headers of the record that came last.
    pub fn headers(&self, spot: &Spot) -> HeaderIter<'_> {
        HeaderIter::new(self.bytes().get(spot.headers.clone()).unwrap_or_default(), spot.header_count)
    }

    /// The bytes that a part of [`Self::headers`] stands in, as a slice of its own.
    pub fn slice_of(&self, part: &[u8]) -> Bytes {
        if part.is_empty() { Bytes::new() } else { self.bytes().slice_ref(part) }
    }

    /// Drops what is left of an assignment that was replaced.
    pub fn refresh(&mut self) {
        if self.fetching.assignment() != self.assignment {
            (self.chunk, self.block) = (None, None);
        }
    }

    /// What comes next; waits for it. Blocks.
    pub fn next(&mut self, wait: Duration) -> Option<Item> {
        loop {
            if let Some(item) = self.next_of_chunk() {
                return Some(item);
            }
            let (assignment, event) = self.fetching.next(wait)?;
            self.assignment = assignment;
            match event {
                Event::Fetched(fetched) => {
                    let mut aborted = fetched.aborted.clone();
                    aborted.sort_unstable_by_key(|(_, first)| std::cmp::Reverse(*first));
                    self.chunk = Some(Chunk { fetched, at: 0, batch: 0, aborting: HashSet::new(), aborted });
                }
                Event::End { tp } => return Some(Item::End { tp }),
                Event::OutOfRange { tp, offset, log_start } => {
                    return Some(Item::OutOfRange { tp, offset, log_start });
                }
                Event::Recreated { tp } => return Some(Item::Recreated { tp }),
                Event::Failed { tp, error } => return Some(Item::Failed { tp, error }),
            }
        }
    }

    fn next_of_chunk(&mut self) -> Option<Item> {
        loop {
            let chunk = self.chunk.as_mut()?;
            if let Some((block, _)) = &mut self.block {
                match block.next() {
                    Some(Ok(spot)) if spot.offset < chunk.fetched.from => continue,
                    Some(Ok(spot)) => {
                        chunk.fetched.from = spot.offset.saturating_add(1);
                        return Some(Item::Record(spot));
                    }
                    Some(Err(error)) => {
                        let to = self.block.take().map_or(0, |(_, to)| to);
                        return Some(unreadable(chunk, to, error));
                    }
                    None => {
                        if let Some((_, next)) = self.block.take() {
                            chunk.fetched.from = chunk.fetched.from.max(next);
                        }
                    }
                }
            }
            let rest = chunk.fetched.records.get(chunk.at..).unwrap_or_default();
            let Some(header) = BatchHeader::read(rest) else {
                let Chunk { fetched, .. } = self.chunk.take()?;
                return Some(Item::Position { tp: fetched.tp, next: fetched.next });
            };
            (chunk.batch, chunk.at) = (chunk.at, chunk.at + header.size);
            if header.last_offset < chunk.fetched.from {
                continue;
            }
            if self.fetching.committed_only() {
                while let Some((producer, _)) = chunk.aborted.pop_if(|(_, first)| *first <= header.last_offset) {
                    chunk.aborting.insert(producer);
                }
            }
            let next = header.last_offset.saturating_add(1);
            let is_aborted = header.is_transactional() && chunk.aborting.contains(&header.producer_id);
            if is_aborted && !header.is_control() {
                chunk.fetched.from = next;
                continue;
            }
            match Block::open(header, rest, &mut self.unpacker, self.fetching.unpacked_bytes()) {
                Ok(mut block) if header.is_control() => {
                    chunk.fetched.from = next;
                    if is_abort_marker(&mut block) {
                        chunk.aborting.remove(&header.producer_id);
                    }
                }
                Ok(block) => self.block = Some((block, next)),
                Err(error) => return Some(unreadable(chunk, next, error)),
            }
        }
    }
}

fn unreadable(chunk: &mut Chunk, to: i64, error: DecodeError) -> Item {
    let from = std::mem::replace(&mut chunk.fetched.from, to);
    let batch = chunk.fetched.records.slice(chunk.batch..chunk.at);
    Item::Unreadable { tp: chunk.fetched.tp.clone(), from, to, batch, error }
}

/// The key of a control record: version i16, type i16 (0: abort, 1: commit).
fn is_abort_marker(block: &mut Block) -> bool {
    let Some(Ok(spot)) = block.next() else { return false };
    let key = spot.key.and_then(|range| block.bytes().get(range));
    matches!(key, Some([_, _, 0, 0, ..]))
}
