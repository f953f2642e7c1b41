//! Runs the transforms of a lane's hauls, and sends what became of the events: to the lane's partition, to other topics,
//! to the dead letters, or nowhere.
//!
//! In: hauls of sources with transforms. Out: acknowledged progress, once every record of every destination is taken.
//! Touches the network through the producer, the state when a topic is met for the first time. Programs run on a thread
//! for blocking work; what they made is held for as many records and bytes as one request takes, and is sent again as it
//! is when a request fails: a program runs once on each event.
//!
//! Order: each destination gets its records in the order of the queue. A source has one partition in every topic, found
//! from its id and the number of partitions that the topic had when the agent first met it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use millrace_log::dead_letter::dead_letter;
use millrace_log::native::encode::{HeaderRef, Records};
use millrace_log::record::{
    CONTENT_JSON, Fixed, HEADER_CONTENT_TYPE, HEADER_FIXED, HEADER_LABELS, HEADER_META, HEADER_TENANT, Position,
    TopicPartition, kafka_timestamp_ms,
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::error::AgentError;
use crate::ledger::{Lost, REASON_DEAD_LETTER};
use crate::producer::{Backoff, Haul, Lane, META_INVALID, Place, Sent, is_invalid, small, taken};
use crate::source::partition_of;
use crate::tap::{Stage, View};
use crate::transform::{self, Content, Input, Shaped, To, Worker};

/// Destinations of one batch that are written to at the same time.
const AT_ONCE: usize = 16;
/// Pieces, and bytes of them, that go through a chain at a time.
const SLICE: (usize, usize) = (128, 256 << 10);
/// Records encoded between two chances for other tasks.
const ENCODE_TURN: usize = 1000;
/// What a record has beside its line, roughly.
const RECORD_OVERHEAD: usize = 256;

/// Topics that transforms name, with the number of partitions that is used of them.
#[derive(Debug)]
pub(crate) struct Routes {
    /// For topics that must be made.
    make_with: i32,
    known: Mutex<HashMap<Arc<str>, i32>>,
}

impl Routes {
    pub fn new(make_with: i32) -> Self {
        Self { make_with, known: Mutex::default() }
    }
}

/// What became of some neighbouring pieces.
struct Batch {
    /// In order.
    places: Vec<Place>,
    shaped: Vec<Shaped>,
    /// Where the next batch starts; `None`: all are done.
    next: Option<Place>,
}

impl Batch {
    fn get(&self, place: &Place) -> Option<&Shaped> {
        self.shaped.get(self.places.binary_search(place).ok()?)
    }
}

/// Where records of one request go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Destination {
    /// A partition for lines.
    Lines(TopicPartition),
    /// The dead letters.
    Dead,
}

/// What a destination did not take for now, and must be looked at anew; and what was refused for good.
#[derive(Default)]
struct Rest {
    open: Vec<Place>,
    dead: Vec<Place>,
}

/// Runs the transforms from a place on, until a request is full.
fn shape(hauls: &[Haul], from: Place, limits: (usize, usize), abort: &CancellationToken, worker: &mut Worker) -> Batch {
    let (max_records, max_bytes) = limits;
    let mut batch = Batch { places: Vec::new(), shaped: Vec::new(), next: None };
    let mut bytes = 0;
    let (first, mut piece) = (from.0 as usize, from.1 as usize);
    for (h, haul) in hauls.iter().enumerate().skip(first) {
        let source = &haul.source;
        let mut origin = None;
        let Some(chain) = source.chain() else { continue };
        let id = source.identity().id;
        let [a, b, c, d, e, f, g, i, ..] = id.0;
        let seed = u64::from_le_bytes([a, b, c, d, e, f, g, i]);
        while piece < haul.pieces.len() {
            if batch.places.len() >= max_records || bytes >= max_bytes || abort.is_cancelled() {
                batch.next = Some((small(h), small(piece)));
                return batch;
            }
            let start = piece;
            let mut slice = 0;
            let labels = haul.labels(start);
            // Neighbours mostly have the same.
            if origin.as_ref().is_none_or(|(of, _)| of != labels) {
                origin = Some((labels.clone(), transform::origin(labels, &source.name(), source.kind())));
            }
            while let Some(next) = haul.pieces.get(piece)
                && haul.labels(piece) == labels
                && piece - start < SLICE.0.min(max_records)
                && (slice == 0 || slice + (next.len as usize) < SLICE.1)
            {
                slice += next.len as usize;
                piece += 1;
            }
            let inputs = (start..piece).map(|p| {
                let piece = haul.pieces[p];
                let at = piece.start as usize;
                Input {
                    line: haul.window.slice(at..at + piece.len as usize),
                    time_ns: haul.time_ns(p).0,
                    meta: haul.meta(p).cloned(),
                    seed: seed ^ haul.offset(p),
                }
            });
            let before = batch.shaped.len();
            if let Some((_, origin)) = &origin {
                chain.run(origin, inputs, worker, &mut batch.shaped);
            }
            batch.places.extend((start..piece).map(|p| (small(h), small(p))));
            bytes += slice + batch.shaped.iter().skip(before).map(Shaped::size).sum::<usize>();
        }
        piece = 0;
    }
    batch
}

/// A record as a transform left it, to be looked at: sent to a topic, or dropped.
fn view<'a>(haul: &'a Haul, piece: usize, shaped: &'a Shaped, topic: Option<&'a TopicPartition>) -> Option<View<'a>> {
    let reason = match (&shaped.to, topic) {
        (To::Dropped(reason), None) => Some(&**reason),
        (To::Dead(reason), None) => Some(reason.as_str()),
        (To::Home | To::Topic(_), Some(_)) => None,
        // Dead letters are shown as what was dropped.
        _ => return None,
    };
    let at = haul.pieces.get(piece)?;
    let start = at.start as usize;
    Some(View {
        position: haul.offset(piece),
        time_ns: shaped.time_ns.unwrap_or_else(|| haul.time_ns(piece).0),
        labels: shaped.labels.as_ref().unwrap_or_else(|| haul.labels(piece)),
        metadata: shaped.meta.as_deref(),
        line: match &shaped.content {
            Content::Line => haul.window.get(start..start + at.len as usize)?,
            Content::Text(bytes) | Content::Json(bytes) => bytes,
        },
        topic,
        reason,
    })
}

impl Lane {
    /// Transforms and sends every record of the hauls, then settles them. Does not end before all are taken.
    pub async fn deliver_transformed(&mut self, hauls: Vec<Haul>, abort: &CancellationToken) -> Result<(), AgentError> {
        let hauls = Arc::new(hauls);
        let mut lost = vec![Lost::new(); hauls.len()];
        let mut from = Some((0, 0));
        while let Some(start) = from {
            let mut worker = self.worker.take().unwrap_or_default();
            worker.now_ns = self.parts.clock.now_ns();
            let limits = (self.parts.batch_records, self.most());
            let (job, abort) = (hauls.clone(), abort.clone());
            let done = tokio::task::spawn_blocking(move || {
                let batch = shape(&job, start, limits, &abort, &mut worker);
                (worker, batch)
            });
            let (worker, batch) = done.await.map_err(|_| AgentError::Ended { part: "transforms" })?;
            self.worker = Some(worker);
            self.dispatch(&hauls, &batch, &mut lost).await?;
            from = batch.next;
        }
        self.settle(&hauls, &lost);
        Ok(())
    }

    /// Sends a batch to all its destinations, and notes what was lost of each haul.
    async fn dispatch(&self, hauls: &[Haul], batch: &Batch, lost: &mut [Lost]) -> Result<(), AgentError> {
        let dead_reason: Arc<str> = REASON_DEAD_LETTER.into();
        let mut lose = |place: &Place, reason: &Arc<str>| {
            if let Some(lost) = lost.get_mut(place.0 as usize) {
                *lost.entry(reason.clone()).or_default() += hauls[place.0 as usize].pieces[place.1 as usize].count();
            }
        };
        let mut open = Vec::with_capacity(batch.places.len());
        for (place, shaped) in batch.places.iter().zip(&batch.shaped) {
            match &shaped.to {
                To::Dropped(reason) => lose(place, reason),
                To::Dead(_) => {
                    lose(place, &dead_reason);
                    open.push(*place);
                }
                To::Home | To::Topic(_) => open.push(*place),
            }
        }
        self.show(hauls, batch, &batch.places, None);
        while !open.is_empty() {
            let groups = self.destinations(hauls, batch, &open).await?;
            let sends = groups.into_iter().map(|(to, places)| self.send_to(hauls, batch, to, places));
            let rests: Vec<Result<Rest, AgentError>> =
                futures::stream::iter(sends).buffer_unordered(AT_ONCE).collect().await;
            open.clear();
            for rest in rests {
                let rest = rest?;
                open.extend(rest.open);
                rest.dead.iter().for_each(|place| lose(place, &dead_reason));
            }
            open.sort_unstable();
        }
        Ok(())
    }

    /// Sorts records by where they go; the order within a destination stays.
    async fn destinations(
        &self,
        hauls: &[Haul],
        batch: &Batch,
        open: &[Place],
    ) -> Result<Vec<(Destination, Vec<Place>)>, AgentError> {
        let mut groups: Vec<(Destination, Vec<Place>)> = Vec::new();
        let mut index: HashMap<Destination, usize> = HashMap::new();
        for place in open {
            let destination = match batch.get(place).map(|shaped| &shaped.to) {
                Some(To::Topic(topic)) => {
                    let partitions = self.partitions(topic, false).await?;
                    let id = hauls[place.0 as usize].source.identity().id;
                    Destination::Lines(TopicPartition::new(topic.clone(), partition_of(id, partitions)))
                }
                Some(To::Dead(_)) => Destination::Dead,
                _ => Destination::Lines(self.to.clone()),
            };
            // Neighbours mostly go the same way.
            match groups.last_mut() {
                Some((last, places)) if *last == destination => places.push(*place),
                _ => {
                    let at = *index.entry(destination.clone()).or_insert_with(|| {
                        groups.push((destination, Vec::new()));
                        groups.len() - 1
                    });
                    groups[at].1.push(*place);
                }
            }
        }
        Ok(groups)
    }

    /// Sends until all is taken, refused for good, or belongs elsewhere now.
    async fn send_to(
        &self,
        hauls: &[Haul],
        batch: &Batch,
        destination: Destination,
        places: Vec<Place>,
    ) -> Result<Rest, AgentError> {
        let parts = &self.parts;
        let to = match &destination {
            Destination::Lines(to) => to.clone(),
            Destination::Dead => TopicPartition::new(parts.dead_letter_topic.clone(), 0),
        };
        let mut backoff = Backoff::new(parts);
        if destination == Destination::Dead {
            while let Err(error) = parts.producer.ensure_topic(&to.topic, 1).await {
                parts.metrics.retries.inc();
                backoff.wait(&to, &error).await;
            }
        }
        let mut rest = Rest::default();
        let mut groups: VecDeque<Vec<Place>> = VecDeque::from([places]);
        while let Some(group) = groups.pop_front() {
            let records = match destination {
                Destination::Dead => Records::from_records(&self.dead_letters(hauls, batch, &group).await),
                Destination::Lines(_) => self.encode_shaped(hauls, batch, &group, self.parts.producer.spare(&to)).await,
            };
            match self.send(&to, records, &group).await {
                Sent::All => {
                    self.show(hauls, batch, &group, Some(&to));
                    backoff.reset(&to);
                }
                Sent::Again(failed, error) => {
                    self.show(hauls, batch, &taken(&group, &failed), Some(&to));
                    let moved = destination != Destination::Dead && self.keep_order(hauls, &group, &failed).await?;
                    groups.push_front(failed);
                    parts.metrics.retries.inc();
                    backoff.wait(&to, &error).await;
                    // The topic may have been made anew, and a source that goes on under a new id may live elsewhere.
                    let elsewhere = to.topic != self.to.topic && destination != Destination::Dead && {
                        let before = parts.routes.known.lock().get(&to.topic).copied();
                        Some(self.partitions(&to.topic, true).await?) != before
                    };
                    if moved || elsewhere {
                        rest.open = groups.into_iter().flatten().collect();
                        return Ok(rest);
                    }
                }
                Sent::Never(failed, error) => match failed[..] {
                    [place] => {
                        let record = match destination {
                            Destination::Dead => self.dead_letters(hauls, batch, &failed).await.pop(),
                            Destination::Lines(_) => {
                                self.encode_shaped(hauls, batch, &failed, Records::default()).await.to_records().pop()
                            }
                        };
                        if let Some(record) = record {
                            self.bury(record, &to, &error.to_string()).await;
                        }
                        // Dead letters are counted already.
                        if destination != Destination::Dead {
                            rest.dead.push(place);
                        }
                    }
                    // One of them spoils the request for all: find out which.
                    _ => {
                        self.show(hauls, batch, &taken(&group, &failed), Some(&to));
                        let moved = destination != Destination::Dead && self.keep_order(hauls, &group, &failed).await?;
                        for place in failed.into_iter().rev() {
                            groups.push_front(vec![place]);
                        }
                        if moved {
                            rest.open = groups.into_iter().flatten().collect();
                            return Ok(rest);
                        }
                    }
                },
            }
        }
        Ok(rest)
    }

    /// To whoever looks: what the log took, or without a topic what transforms dropped.
    fn show(&self, hauls: &[Haul], batch: &Batch, places: &[Place], to: Option<&TopicPartition>) {
        let taps = &self.parts.taps;
        if taps.is_idle() {
            return;
        }
        for run in places.chunk_by(|a, b| a.0 == b.0) {
            let Some(haul) = run.first().and_then(|place| hauls.get(place.0 as usize)) else { continue };
            let views = run.iter().filter_map(|place| view(haul, place.1 as usize, batch.get(place)?, to));
            let stage = if to.is_some() { Stage::Sent } else { Stage::Dropped };
            taps.show(stage, &*haul.source, views);
        }
    }

    /// Number of partitions of a topic that a transform named; makes it, and does not end before it is there.
    async fn partitions(&self, topic: &Arc<str>, ask: bool) -> Result<i32, AgentError> {
        let routes = &self.parts.routes;
        if let Some(known) = routes.known.lock().get(topic).copied().filter(|_| !ask) {
            return Ok(known);
        }
        let mut backoff = Backoff::new(&self.parts);
        let found = loop {
            match self.parts.producer.ensure_topic(topic, routes.make_with).await {
                Ok(found) => break found,
                Err(error) => {
                    self.parts.metrics.retries.inc();
                    backoff.wait(&TopicPartition::new(topic.clone(), 0), &error).await;
                }
            }
        };
        let (state, name) = (self.parts.state.clone(), topic.clone());
        let used = tokio::task::spawn_blocking(move || state.partitions_of(&name, found)).await;
        let used = used.map_err(|_| AgentError::Ended { part: "writer of positions" })??;
        routes.known.lock().insert(topic.clone(), used);
        Ok(used)
    }

    /// Writes the shaped records into the memory of `records`.
    async fn encode_shaped(&self, hauls: &[Haul], batch: &Batch, places: &[Place], mut records: Records) -> Records {
        let bytes: usize = places
            .iter()
            .map(|place| {
                let line = hauls[place.0 as usize].pieces[place.1 as usize].len as usize;
                line + batch.get(place).map_or(0, Shaped::size) + RECORD_OVERHEAD
            })
            .sum();
        records.reserve(bytes, places.len());
        let mut at = u32::MAX;
        let mut identity = None;
        for (n, place) in places.iter().enumerate() {
            let (haul, Some(shaped)) = (&hauls[place.0 as usize], batch.get(place)) else { continue };
            if at != place.0 {
                at = place.0;
                identity = Some(haul.source.identity());
            }
            let Some(identity) = &identity else { continue };
            let piece = haul.pieces[place.1 as usize];
            let (read_as, found) = haul.time_ns(place.1 as usize);
            let time_ns = shaped.time_ns.unwrap_or(read_as);
            let position = Position::at(haul.offset(place.1 as usize));
            let time_from_line = found || shaped.time_ns.is_some();
            let fixed = Fixed { time_ns, source: identity.id, position, cut: piece.cut, time_from_line }.encode();
            let start = piece.start as usize;
            let value = match &shaped.content {
                Content::Line => &haul.window[start..start + piece.len as usize],
                Content::Text(bytes) | Content::Json(bytes) => &bytes[..],
            };
            let json = matches!(shaped.content, Content::Json(_));
            let invalid = shaped.content == Content::Line && is_invalid(value, piece.cut);
            let meta = shaped.meta.as_deref().or(invalid.then_some(META_INVALID));
            let labels = shaped.labels.as_ref().unwrap_or_else(|| haul.labels(place.1 as usize));
            let all: [Option<HeaderRef<'_>>; 5] = [
                Some((HEADER_LABELS.as_bytes(), &labels[..])),
                meta.map(|meta| (HEADER_META.as_bytes(), meta)),
                haul.tenant.as_ref().map(|tenant: &Bytes| (HEADER_TENANT.as_bytes(), &tenant[..])),
                json.then_some((HEADER_CONTENT_TYPE.as_bytes(), CONTENT_JSON.as_bytes())),
                Some((HEADER_FIXED.as_bytes(), &fixed[..])),
            ];
            let mut headers: [HeaderRef<'_>; 5] = [(b"", b""); 5];
            let mut count = 0;
            for header in all.into_iter().flatten() {
                headers[count] = header;
                count += 1;
            }
            let time_ms = kafka_timestamp_ms(time_ns, haul.read_ns.div_euclid(1_000_000));
            records.push(time_ms, Some(&identity.key), Some(value), &headers[..count]);
            if n % ENCODE_TURN == ENCODE_TURN - 1 {
                tokio::task::yield_now().await;
            }
        }
        records
    }

    /// Records for the dead letters, each with the reason that its step gave.
    async fn dead_letters(&self, hauls: &[Haul], batch: &Batch, places: &[Place]) -> Vec<millrace_log::record::Record> {
        let records = self.encode_shaped(hauls, batch, places, Records::default()).await.to_records();
        let now_ms = self.parts.clock.now_ms();
        let from = self.to.to_string();
        let reasons = places.iter().map(|place| match batch.get(place).map(|shaped| &shaped.to) {
            Some(To::Dead(reason)) => reason.as_str(),
            _ => "",
        });
        records
            .into_iter()
            .zip(reasons)
            .map(|(record, reason)| dead_letter(record, "transform", reason, &from, now_ms))
            .collect()
    }
}
