//! One task per partition: numbers what waits, sends it as one batch, tells those who wait.
//!
//! In: parcels of the doors. Out: records on one partition, answers to the parcels. Touches the log through a
//! [`BatchProducer`]. The rules of numbering and repeating stand in the parent module.

use std::sync::Arc;
use std::time::Duration;

use millrace_log::client::{BatchProducer, ClientError, WantedTopic};
use millrace_log::clock::SharedClock;
use millrace_log::record::{self, Event, Position, Record, SourceId, TopicPartition};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::IngestError;
use super::event::PushEvent;
use super::metrics::Metrics;
use super::parcel::Parcel;
use super::positions::Positions;
use super::recent::Recent;

/// Events of one batch, about: whole parcels are never divided.
const BATCH_EVENTS: usize = 10_000;
/// Bytes of one batch, about.
const BATCH_BYTES: usize = 8 << 20;
/// Batches above this are encoded on a blocking thread.
const ENCODE_INLINE: usize = 200;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

pub(super) struct Worker {
    pub(super) parcels: mpsc::Receiver<Parcel>,
    pub(super) to: TopicPartition,
    pub(super) producer: Arc<dyn BatchProducer>,
    pub(super) topic: Arc<WantedTopic>,
    pub(super) positions: Arc<Positions>,
    pub(super) clock: SharedClock,
    pub(super) give_up_after: Duration,
    pub(super) recent: Arc<Recent>,
    pub(super) metrics: Arc<Metrics>,
}

/// What became of one record of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Durable,
    /// Not in the log, or not known to be, with a durable record behind it.
    Passed,
    Failed,
}

/// What became of a batch.
struct Outcome {
    fates: Vec<Fate>,
    /// Why records failed.
    error: Option<IngestError>,
}

impl Worker {
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        loop {
            let first = tokio::select! {
                biased;
                parcel = self.parcels.recv() => parcel,
                () = cancel.cancelled(), if !self.parcels.is_closed() => {
                    // What waits is finished, nothing new comes in.
                    self.parcels.close();
                    continue;
                }
            };
            let Some(first) = first else { return };
            let mut batch = vec![first];
            let mut events = batch[0].events.len();
            let mut bytes: usize = batch[0].events.iter().map(PushEvent::cost).sum();
            while events < BATCH_EVENTS && bytes < BATCH_BYTES {
                let Ok(more) = self.parcels.try_recv() else { break };
                events += more.events.len();
                bytes += more.events.iter().map(PushEvent::cost).sum::<usize>();
                batch.push(more);
            }
            self.send(batch, &cancel).await;
        }
    }

    async fn send(&self, parcels: Vec<Parcel>, cancel: &CancellationToken) {
        let count: usize = parcels.iter().map(|p| p.events.len()).sum();
        let first = match self.positions.take(count as u64).await {
            Ok(first) => first,
            Err(error) => {
                for parcel in parcels {
                    parcel.reply.send(Err(error.clone())).ok();
                }
                return;
            }
        };
        let mut replies = Vec::with_capacity(parcels.len());
        let mut events = Vec::with_capacity(count);
        for parcel in parcels {
            let bytes: usize = parcel.events.iter().map(|e| e.line.len()).sum();
            replies.push((parcel.reply, parcel.keys, bytes, parcel.room));
            events.extend(parcel.events);
        }
        let (source, read_ms) = (self.positions.source(), self.clock.now_ms());
        let records = if count <= ENCODE_INLINE {
            encode(events, source, first, read_ms)
        } else {
            match tokio::task::spawn_blocking(move || encode(events, source, first, read_ms)).await {
                Ok(records) => records,
                Err(_) => {
                    for (reply, ..) in replies {
                        reply.send(Err(IngestError::Stopping)).ok();
                    }
                    return;
                }
            }
        };
        let outcome = self.deliver(records, cancel).await;
        let mut fates = outcome.fates.into_iter();
        let mut at = first;
        for (reply, keys, bytes, _room) in replies {
            let len = keys.len();
            let mine: Vec<Fate> = fates.by_ref().take(len).collect();
            let positions: Vec<Position> = (at..).take(len).map(Position::at).collect();
            at += len as u64;
            let durable = mine.iter().zip(keys).zip(&positions).filter(|((fate, _), _)| **fate == Fate::Durable);
            self.recent.note(durable.filter_map(|((_, key), position)| Some((key?, *position))));
            let answer = if mine.iter().all(|f| *f == Fate::Durable) {
                self.metrics.events.inc_by(len as u64);
                self.metrics.bytes.inc_by(bytes as u64);
                Ok(positions)
            } else {
                let failed = mine.iter().filter(|f| **f != Fate::Durable).count();
                match &outcome.error {
                    Some(error) if mine.contains(&Fate::Failed) => Err(error.clone()),
                    _ => Err(IngestError::Unconfirmed { failed }),
                }
            };
            // Nobody may wait any more: the events are in the log all the same.
            reply.send(answer).ok();
        }
    }

    /// Creates the topic as at the start; why that failed, if it did.
    async fn create_again(&self, seen: u64, deadline: Instant) -> Option<ClientError> {
        match tokio::time::timeout_at(deadline, self.topic.create_again(seen)).await {
            Ok(Ok(created)) => {
                self.metrics.recreated.inc_by(u64::from(created));
                None
            }
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        }
    }

    /// Why these records are not in the log in time: what it answered, if it did.
    fn late(&self, pending: &[usize]) -> IngestError {
        let after = millrace_log::value::Span(self.give_up_after);
        let Some(source) = self.producer.last_error(&self.to) else { return IngestError::Late { after } };
        let (topic_partition, count) = (self.to.clone(), pending.len());
        let failed = (0..count).collect();
        let refused = ClientError::Refused { topic_partition, count, failed, retriable: true, source };
        IngestError::Unavailable { source: Arc::new(refused) }
    }

    /// Sends records until all are durable, refused, passed by others, or the time is up.
    async fn deliver(&self, records: Vec<Record>, cancel: &CancellationToken) -> Outcome {
        let deadline = Instant::now() + self.give_up_after;
        let mut fates = vec![Fate::Durable; records.len()];
        let mut pending: Vec<usize> = (0..records.len()).collect();
        let mut pause = FIRST_PAUSE;
        loop {
            let created = self.topic.created();
            let batch: Vec<Record> = pending.iter().filter_map(|i| records.get(*i).cloned()).collect();
            // The producer's own patience may be longer than ours. What it still sends after that is dropped by the
            // index if a later number came first, and else is in the log without having been acknowledged.
            let error = match tokio::time::timeout_at(deadline, self.producer.send(&self.to, batch)).await {
                Ok(Ok(_)) => return Outcome { fates, error: None },
                Ok(Err(error)) => error,
                Err(_) => {
                    let error = self.late(&pending);
                    mark(&mut fates, &pending, Fate::Failed);
                    return Outcome { fates, error: Some(error) };
                }
            };
            let (failed, retriable): (Vec<usize>, bool) = match &error {
                ClientError::Refused { failed, retriable, .. } => {
                    (failed.iter().filter_map(|i| pending.get(*i).copied()).collect(), *retriable)
                }
                _ => (pending.clone(), true),
            };
            // Both lists rise: the first place from the end where they differ is the last durable record.
            let last_durable = {
                let mut failed = failed.iter().rev();
                pending.iter().rev().find(|i| failed.next() != Some(*i)).copied()
            };
            let (passed, again): (Vec<usize>, Vec<usize>) =
                failed.iter().copied().partition(|i| last_durable.is_some_and(|durable| *i < durable));
            let error = match error.is_topic_missing() {
                true => self.create_again(created, deadline).await.unwrap_or(error),
                false => error,
            };
            let cause = Arc::new(error);
            if !retriable {
                mark(&mut fates, &failed, Fate::Failed);
                tracing::warn!(partition = %self.to, error = %cause, "log rejected pushed events");
                return Outcome { fates, error: Some(IngestError::Refused { source: cause }) };
            }
            mark(&mut fates, &passed, Fate::Passed);
            pending = again;
            if pending.is_empty() {
                return Outcome { fates, error: None };
            }
            self.metrics.retries.inc();
            if cancel.is_cancelled() || Instant::now() + pause >= deadline {
                mark(&mut fates, &pending, Fate::Failed);
                tracing::warn!(partition = %self.to, error = %cause, "cannot send pushed events in time, clients will send them again");
                return Outcome { fates, error: Some(IngestError::Unavailable { source: cause }) };
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = cancel.cancelled() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

fn mark(fates: &mut [Fate], which: &[usize], fate: Fate) {
    for i in which {
        if let Some(slot) = fates.get_mut(*i) {
            *slot = fate;
        }
    }
}

fn encode(events: Vec<PushEvent>, source: SourceId, first: u64, read_ms: i64) -> Vec<Record> {
    let number = |(i, event): (u64, PushEvent)| {
        let PushEvent { tenant, time_ns, labels, metadata, line, doc } = event;
        let position = Position::at(i);
        let event =
            Event { tenant, time_ns, labels, metadata, line, source, position, doc, cut: false, time_from_line: true };
        record::encode(&event, read_ms)
    };
    (first..).zip(events).map(number).collect()
}
