//! Turns fetched records into searchable events: decodes, drops what is there already, cuts parts for publication.
//!
//! In: [`Fetched`] stretches. Out: chunks for the index, sealed [`Part`]s for the publisher, both bounded. Touches the
//! list of documents; runs on one named thread. Leaves splits, catalog and dead-letter topic to the publisher.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use millrace_log::client::Consumed;
use millrace_log::clock::SharedClock;
use millrace_log::dead_letter::dead_letter;
use millrace_log::record::{
    Decoder, Event, Labels, MAX_KAFKA_LAG_MS, Position, Record, RecordError, SourceId, Tenant, TopicPartition,
};

use crate::catalog::{SourceKey, SourceState};
use crate::config::IndexConfig;
use crate::docs::{DocChanges, DocPlace, Documents};
use crate::head::{Chunk, ChunkBuilder};
use crate::ledger::{Book, TopicCounts};
use crate::live::Sealed;
use crate::metrics::{Metrics, PartitionLabel, TopicLabel};
use crate::progress::{Fetched, Progress};
use crate::state::StateError;
use crate::store::Index;
use millrace_log::consume::{Hole, Interval};

/// Bytes of lines after which a chunk is closed, so that places in it fit 32 bits.
const CHUNK_BYTES: usize = 64 << 20;
/// How often sources that have gone quiet are looked for.
const FORGET_EVERY_MS: i64 = 3600 * 1000;

/// Everything consumed between two publications.
#[derive(Debug, Default)]
pub struct Part {
    /// Its number in the index.
    pub number: u64,
    /// The events.
    pub chunks: Sealed,
    /// What was consumed, one stretch per partition.
    pub intervals: BTreeMap<TopicPartition, Interval>,
    /// Holes before these stretches.
    pub holes: Vec<Hole>,
    /// New states of the sources that had events.
    pub sources: Vec<(SourceKey, SourceState)>,
    /// Sources to forget.
    pub forgotten: Vec<SourceKey>,
    /// Records for the dead-letter topic.
    pub dead_letters: Vec<Record>,
    /// Changes of documents.
    pub docs: DocChanges,
    /// Counts by topic.
    pub counts: BTreeMap<String, TopicCounts>,
    /// Bytes of lines.
    pub line_bytes: usize,
    /// Bytes of memory.
    pub memory: usize,
    /// When its first record came, ms since 1970.
    pub since_ms: i64,
}

impl Part {
    fn is_empty(&self) -> bool {
        self.intervals.is_empty() && self.forgotten.is_empty()
    }
}

/// The indexer's thread: everything it owns.
#[derive(Debug)]
pub struct Indexer {
    index: Arc<Index>,
    docs: Arc<Documents>,
    sources: HashMap<SourceKey, Known>,
    /// Sources that had events since the last part, each once.
    touched: Vec<SourceKey>,
    decoder: Decoder,
    clock: SharedClockDebug,
    config: IndexConfig,
    part: Part,
    forget_at_ms: i64,
    book: Arc<Book>,
    progress: Arc<Progress>,
    metrics: Arc<Metrics>,
}

/// A source and whether it had events since the last part.
#[derive(Debug, Clone, Copy)]
struct Known {
    state: SourceState,
    touched: bool,
}

/// A clock has nothing to print.
struct SharedClockDebug(SharedClock);

impl std::fmt::Debug for SharedClockDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// What the indexer shares with other parts.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Where events become searchable.
    pub index: Arc<Index>,
    /// Live documents.
    pub docs: Arc<Documents>,
    /// The ledger.
    pub book: Arc<Book>,
    /// How far reading is.
    pub progress: Arc<Progress>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

impl Indexer {
    /// Starts from the catalog's positions.
    pub fn new(
        shared: Shared,
        sources: HashMap<SourceKey, SourceState>,
        clock: SharedClock,
        config: IndexConfig,
    ) -> Self {
        let Shared { index, docs, book, progress, metrics } = shared;
        let forget_at_ms = clock.now_ms();
        let clock = SharedClockDebug(clock);
        let sources = sources.into_iter().map(|(key, state)| (key, Known { state, touched: false })).collect();
        let (touched, decoder, part) = (Vec::new(), Decoder::default(), Part::default());
        Self { index, docs, sources, touched, decoder, clock, config, part, forget_at_ms, book, progress, metrics }
    }

    /// Works until the consumer ends, then seals what is there. Blocking.
    pub fn run(mut self, input: Receiver<Vec<Fetched>>, out: &SyncSender<Part>) -> Result<(), StateError> {
        loop {
            match input.recv_timeout(Duration::from_millis(50)) {
                Ok(batch) => {
                    self.metrics.queue_batches.dec();
                    for fetched in batch {
                        if self.must_seal_before(&fetched) && !self.seal(out) {
                            return Ok(());
                        }
                        self.take(fetched)?;
                        if self.is_full() && !self.seal(out) {
                            return Ok(());
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.seal(out);
                    return Ok(());
                }
            }
            if self.is_old() && !self.seal(out) {
                return Ok(());
            }
        }
    }

    /// A part has one stretch without a hole per partition.
    fn must_seal_before(&self, fetched: &Fetched) -> bool {
        match self.part.intervals.get(&fetched.interval.topic_partition()) {
            None => false,
            Some(so_far) => {
                fetched.hole.is_some() || so_far.epoch != fetched.interval.epoch || so_far.to != fetched.interval.from
            }
        }
    }

    fn is_full(&self) -> bool {
        let split_bytes = usize::try_from(self.config.split_bytes.0).unwrap_or(usize::MAX);
        self.part.line_bytes >= split_bytes || self.part.memory >= split_bytes.saturating_mul(2)
    }

    fn is_old(&self) -> bool {
        let age_ms = i64::try_from(self.config.split_age.0.as_millis()).unwrap_or(i64::MAX);
        !self.part.is_empty() && self.clock.0.now_ms() - self.part.since_ms >= age_ms
    }

    /// Hands the part on, waiting while the publisher is behind. False when there is no publisher any more.
    fn seal(&mut self, out: &SyncSender<Part>) -> bool {
        self.forget_idle();
        if self.part.is_empty() {
            return true;
        }
        let (number, chunks) = self.index.seal();
        let mut sources = Vec::with_capacity(self.touched.len());
        for key in self.touched.drain(..) {
            if let Some(known) = self.sources.get_mut(&key) {
                known.touched = false;
                sources.push((key, known.state));
            }
        }
        let part = Part { number, chunks, sources, ..std::mem::take(&mut self.part) };
        out.send(part).is_ok()
    }

    fn forget_idle(&mut self) {
        let now_ms = self.clock.0.now_ms();
        self.metrics.sources.set(i64::try_from(self.sources.len()).unwrap_or(i64::MAX));
        if now_ms < self.forget_at_ms {
            return;
        }
        self.forget_at_ms = now_ms + FORGET_EVERY_MS;
        let idle_ms = i64::try_from(self.config.source_idle.0.as_millis()).unwrap_or(i64::MAX);
        let part = &mut self.part;
        self.sources.retain(|key, known| {
            let keep = now_ms.saturating_sub(known.state.seen_ms) < idle_ms;
            if !keep {
                part.forgotten.push(key.clone());
            }
            keep
        });
    }

    /// Makes the events of one stretch searchable.
    pub fn take(&mut self, fetched: Fetched) -> Result<(), StateError> {
        let Fetched { interval, hole, records } = fetched;
        let tp = interval.topic_partition();
        let now_ms = self.clock.0.now_ms();
        if self.part.is_empty() {
            self.part.since_ms = now_ms;
        }
        let mut counts = TopicCounts::default();
        let mut chunks: Vec<ChunkBuilder> = Vec::new();
        let mut by_tenant: HashMap<Tenant, (usize, usize)> = HashMap::new();
        for mut consumed in records {
            let bytes = consumed.record.value.as_ref().map_or(0, bytes::Bytes::len);
            counts.read.add(bytes);
            let event = match (consumed.unreadable.take(), self.decoder.decode(&consumed.record)) {
                (Some(reason), _) => Err(reason.into_string()),
                (None, Ok(event)) => Ok(event),
                (None, Err(RecordError::Foreign)) => Ok(foreign(&interval, &consumed, now_ms)),
                (None, Err(error)) => Err(error.to_string()),
            };
            let event = match event.and_then(|event| self.bounded(event)) {
                Ok(event) => within_time(event, consumed.record.timestamp_ms, now_ms),
                Err(reason) => {
                    counts.dead_letter.add(bytes);
                    self.bury(consumed, &reason, now_ms);
                    continue;
                }
            };
            let key = SourceKey { partition: tp.clone(), source: event.source };
            // Nothing was seen of a new one: position 0.0 is still new.
            let known = self.sources.entry(key).or_insert(Known {
                state: SourceState { seen_ms: i64::MIN, ..SourceState::default() },
                touched: false,
            });
            if !known.touched {
                known.touched = true;
                self.touched.push(SourceKey { partition: tp.clone(), source: event.source });
            }
            let state = &mut known.state;
            let is_new = state.seen_ms == i64::MIN || event.position > state.position();
            state.seen_ms = now_ms;
            if is_new {
                (state.offset, state.sub) = (event.position.offset, event.position.sub);
                state.stored.add(bytes);
            } else {
                state.duplicate.add(bytes);
            }
            if !is_new {
                counts.duplicate.add(bytes);
                continue;
            }
            counts.stored.add(bytes);
            if let Some(doc) = &event.doc {
                let place = DocPlace { source: event.source, position: event.position, time_ns: event.time_ns };
                self.docs.consumed(&event.tenant, doc, place, &mut self.part.docs)?;
            }
            let (at, size) = by_tenant.entry(event.tenant.clone()).or_insert((usize::MAX, 0));
            if *at == usize::MAX || *size > CHUNK_BYTES {
                (*at, *size) = (chunks.len(), 0);
                chunks.push(ChunkBuilder::new(event.tenant.clone()));
            }
            *size += bytes;
            if let Some(chunk) = chunks.get_mut(*at) {
                chunk.push(&interval.topic, event);
            }
        }
        let chunks: Vec<Arc<Chunk>> = chunks.into_iter().map(|c| Arc::new(c.finish())).collect();
        for chunk in &chunks {
            self.part.line_bytes += chunk.line_bytes();
            self.part.memory += chunk.memory();
            self.metrics.head_bytes.inc_by(i64::try_from(chunk.memory()).unwrap_or_default());
        }
        self.index.append(chunks);
        self.count(&interval, counts);
        let next = interval.to;
        match self.part.intervals.get_mut(&tp) {
            Some(so_far) => so_far.to = next,
            None => {
                self.part.intervals.insert(tp.clone(), interval);
            }
        }
        self.part.holes.extend(hole);
        self.progress.searchable([(tp, next)]);
        Ok(())
    }

    fn count(&mut self, interval: &Interval, counts: TopicCounts) {
        let topic = interval.topic.to_string();
        self.book.add(&topic, counts);
        let label = TopicLabel { topic: topic.clone() };
        self.metrics.read.get_or_create(&label).inc_by(counts.read.lines);
        self.metrics.read_bytes.get_or_create(&label).inc_by(counts.read.bytes);
        self.metrics.duplicates.get_or_create(&label).inc_by(counts.duplicate.lines);
        let partition = PartitionLabel { topic: topic.clone(), partition: interval.partition };
        self.metrics.position.get_or_create(&partition).set(interval.to);
        *self.part.counts.entry(topic).or_default() += counts;
    }

    /// A line within the limit, cut if need be; why a document can't be taken, of which a part would be no document.
    fn bounded(&self, mut event: Event) -> Result<Event, String> {
        let max = usize::try_from(self.config.max_line_bytes.0).unwrap_or(usize::MAX);
        let bytes = event.line.len();
        if bytes <= max {
            return Ok(event);
        }
        if event.doc.is_some() {
            return Err(format!("document has {bytes} bytes, {max} are allowed (`aggregator.index.max_line_bytes`)"));
        }
        // Not within a character.
        let is_inside = |at: &usize| event.line.get(*at).is_some_and(|byte| byte & 0xc0 == 0x80);
        let end = (max.saturating_sub(3)..=max).rev().find(|at| !is_inside(at)).unwrap_or(max);
        event.line.truncate(end);
        event.cut = true;
        event.metadata = event.metadata.with("truncated", "true").with("truncated_bytes", &(bytes - end).to_string());
        self.metrics.cut_lines.inc();
        self.metrics.cut_bytes.inc_by((bytes - end) as u64);
        Ok(event)
    }

    fn bury(&mut self, consumed: Consumed, reason: &str, now_ms: i64) {
        let Consumed { partition, offset, record, .. } = consumed;
        tracing::warn!(%partition, offset, reason, "record can't be read: it goes to the dead letters");
        let letter = dead_letter(record, "decode", reason, &format!("{partition}@{offset}"), now_ms);
        self.part.memory += letter.value.as_ref().map_or(0, bytes::Bytes::len) + 512;
        self.part.dead_letters.push(letter);
    }
}

/// An event at a time that queries can ask for: the end of their range is exclusive, and what is beyond ns since 1970 was
/// put at the nearest end of them. Such an event is at the time when it was read, with a mark.
fn within_time(mut event: Event, record_ms: i64, now_ms: i64) -> Event {
    // The time of the record is that of reading, less a day for times that are further back.
    let read_ms = match event.time_ns {
        i64::MAX => record_ms,
        i64::MIN => record_ms.saturating_add(MAX_KAFKA_LAG_MS),
        _ => return event,
    };
    event.metadata = event.metadata.with("timestamp", "out_of_range");
    event.time_ns = read_ms.clamp(0, now_ms.max(0)).saturating_mul(1_000_000);
    event
}

/// A record of another producer, as one line of the stream `{topic="…"}`.
fn foreign(interval: &Interval, consumed: &Consumed, now_ms: i64) -> Event {
    let ms = if consumed.record.timestamp_ms > 0 { consumed.record.timestamp_ms } else { now_ms };
    Event {
        tenant: Tenant::default(),
        time_ns: ms.saturating_mul(1_000_000),
        labels: Labels::new([("topic", &*interval.topic)]),
        metadata: Labels::default(),
        line: consumed.record.value.clone().unwrap_or_default(),
        source: foreign_source(interval),
        position: Position::at(consumed.offset.unsigned_abs()),
        doc: None,
        cut: false,
        time_from_line: false,
    }
}

/// The same id for all records of one life of a partition: FNV-1a (128 bits) of topic, partition and epoch.
fn foreign_source(interval: &Interval) -> SourceId {
    let number = interval.partition.to_be_bytes();
    let epoch = interval.epoch.to_be_bytes();
    let bytes = interval.topic.bytes().chain([0]).chain(number).chain(epoch);
    let hash = bytes.fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    SourceId(hash.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_sources_differ_by_topic_partition_and_life() {
        let at = |topic: &str, partition, epoch| {
            foreign_source(&Interval { topic: topic.into(), partition, epoch, from: 0, to: 1, topic_id: None })
        };
        assert_eq!(at("a", 0, 0), at("a", 0, 0));
        let all = [at("a", 0, 0), at("b", 0, 0), at("a", 1, 0), at("a", 0, 1)];
        let unique: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(unique.len(), all.len());
    }
}
