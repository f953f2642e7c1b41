//! One way in for everything that arrives by HTTP: events go to the log, and are acknowledged when the log has them.
//!
//! In: [`PushEvent`]s from the doors (Loki push, `_bulk`, page). Out: records on the push topic; for each event the
//! source (this instance) and its position there. Touches its own folder (source id and counter) and the log, through
//! a [`BatchProducer`]. Leaves decoding, validation and ids of documents to the doors.
//!
//! # Order and loss
//! A stream keeps its order: its partition is a hash of tenant and labels, and one task per partition numbers and sends
//! what waits for it, one batch at a time. The index drops an event whose position is at or below the highest it has
//! of that source in that partition, so:
//! - records that may or may not be in the log are sent again under the same numbers (a second copy is dropped);
//! - a failed record with a durable one behind it can't be sent again under its number (the index would drop it): its
//!   request gets [`IngestError::Unconfirmed`], and the client's repeat gets new numbers;
//! - numbers come from blocks reserved on disk before use: after a crash the counter jumps ahead and reuses nothing.
//!
//! Equal (tenant, labels, time, line) is written once, as Loki stores it once, within one request and over requests as
//! far as this instance remembers ([`IngestConfig::remember_events`]): so a repeat after a lost answer adds only what is
//! missing. After a restart, or over several instances, equal pushes are written again.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use millrace_log::client::{BatchProducer, WantedTopic};
use millrace_log::clock::SharedClock;
use millrace_log::record::{Labels, Position, SourceId, Tenant};
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How pushes are taken.
mod config;
/// One event, valid.
mod event;
/// Why a push was not acknowledged.
mod error;
/// Metrics of pushes.
mod metrics;
/// The durable counter.
mod positions;
/// What the log took last.
mod recent;
/// How much may wait for the log.
mod room;
/// What waits for a partition.
mod parcel;
/// One task per partition.
mod send;

pub use config::IngestConfig;
pub use error::IngestError;
pub use event::PushEvent;

use metrics::Metrics;
use parcel::Parcel;
use positions::Positions;
use recent::{Key, Recent};
use room::Room;

/// Where an event of a request went.
#[derive(Debug, Clone, Copy)]
enum Destination {
    /// The log has an equal one there.
    Known(Position),
    /// Into the parcel for a partition, as which of its events.
    Sent { partition: usize, at: usize },
}

/// The way in. Shared by the doors.
pub struct Ingest {
    source: SourceId,
    partitions: Vec<mpsc::Sender<Parcel>>,
    room: Arc<Room>,
    recent: Arc<Recent>,
    config: IngestConfig,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Ingest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ingest({}, {} partitions)", self.source, self.partitions.len())
    }
}

/// The sending half of [`Ingest`]: run it for as long as pushes are to be taken.
pub struct IngestRun {
    workers: Vec<send::Worker>,
}

impl Ingest {
    /// Opens the folder (made if new) and reserves numbers; nothing is sent before [`IngestRun::run`].
    /// `partitions` is the number of partitions of `topic`, as [`BatchProducer::ensure_topic`] said.
    /// Blocks on the disk: call it before serving.
    pub fn open(
        dir: &Path,
        producer: Arc<dyn BatchProducer>,
        topic: &str,
        partitions: i32,
        clock: SharedClock,
        config: IngestConfig,
        registry: &mut Registry,
    ) -> Result<(Arc<Self>, IngestRun), IngestError> {
        let positions = Arc::new(Positions::open(dir)?);
        let metrics = Arc::new(Metrics::register(registry));
        let recent = Arc::new(Recent::new(config.remember_events));
        let source = positions.source();
        let mut senders = Vec::new();
        let mut workers = Vec::new();
        let wanted = Arc::new(WantedTopic::new(Arc::clone(&producer), topic.into(), partitions, partitions.max(1)));
        for partition in 0..partitions.max(1) {
            let (sender, parcels) = mpsc::channel(config.queue_requests.max(1));
            senders.push(sender);
            workers.push(send::Worker {
                parcels,
                to: millrace_log::record::TopicPartition::new(topic, partition),
                producer: Arc::clone(&producer),
                topic: Arc::clone(&wanted),
                positions: Arc::clone(&positions),
                clock: Arc::clone(&clock),
                give_up_after: config.give_up_after.0,
                recent: Arc::clone(&recent),
                metrics: Arc::clone(&metrics),
            });
        }
        let room = Arc::new(Room::new(&config, Arc::clone(&metrics)));
        Ok((Arc::new(Self { source, partitions: senders, room, recent, config, metrics }), IngestRun { workers }))
    }

    /// The limits that doors check before they hand over events.
    pub fn config(&self) -> &IngestConfig {
        &self.config
    }

    /// Writes events to the log; returns, in their order, where each stands once the log has all of them.
    /// Equal events without identity share one place. On an error some of them may be in the log nevertheless.
    /// Dropping the call does not undo it.
    pub async fn append(&self, events: Vec<PushEvent>) -> Result<Vec<(SourceId, Position)>, IngestError> {
        let count = events.len() as u64;
        let answer = self.append_inner(events).await;
        if answer.is_err() {
            self.metrics.refused.inc_by(count);
        }
        answer
    }

    async fn append_inner(&self, events: Vec<PushEvent>) -> Result<Vec<(SourceId, Position)>, IngestError> {
        let Some(first) = events.first() else { return Ok(Vec::new()) };
        let cost: usize = events.iter().map(PushEvent::cost).sum();
        // A request is of one tenant.
        let room = Arc::new(self.room.take(&first.tenant, cost as u64)?);
        let keys: Vec<Option<Key>> = events.iter().map(|event| self.recent.key(event)).collect();
        let known = self.recent.find(&keys);
        let mut places: Vec<Destination> = Vec::with_capacity(events.len());
        let mut parcels: Vec<(Vec<PushEvent>, Vec<Option<Key>>)> = vec![Default::default(); self.partitions.len()];
        let mut seen: HashMap<Key, Destination> = HashMap::with_capacity(events.len());
        let mut last: Option<(Labels, Tenant, usize)> = None;
        let mut equal = 0;
        for ((event, key), known) in events.into_iter().zip(keys).zip(known) {
            let twin = known.map(Destination::Known).or_else(|| key.and_then(|key| seen.get(&key).copied()));
            if let Some(twin) = twin {
                places.push(twin);
                equal += 1;
                continue;
            }
            let partition = match &last {
                Some((labels, tenant, partition)) if *labels == event.labels && *tenant == event.tenant => *partition,
                _ => {
                    let partition = self.partition_of(&event.tenant, &event.labels);
                    last = Some((event.labels.clone(), event.tenant.clone(), partition));
                    partition
                }
            };
            let Some((events, keys)) = parcels.get_mut(partition) else { return Err(IngestError::Stopping) };
            let place = Destination::Sent { partition, at: events.len() };
            if let Some(key) = key {
                seen.insert(key, place);
            }
            places.push(place);
            events.push(event);
            keys.push(key);
        }
        drop(seen);
        self.metrics.equal.inc_by(equal);
        let mut waiting = Vec::new();
        for (partition, (events, keys)) in parcels.into_iter().enumerate() {
            if events.is_empty() {
                continue;
            }
            let Some(sender) = self.partitions.get(partition) else { return Err(IngestError::Stopping) };
            let (reply, answer) = oneshot::channel();
            match sender.try_send(Parcel { events, keys, reply, room: Arc::clone(&room) }) {
                Ok(()) => waiting.push((partition, answer)),
                Err(mpsc::error::TrySendError::Full(_)) => {
                    return Err(IngestError::Full { max: self.config.max_in_flight });
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return Err(IngestError::Stopping),
            }
        }
        drop(room);
        let mut positions: Vec<Vec<Position>> = self.partitions.iter().map(|_| Vec::new()).collect();
        let wait = async {
            for (partition, answer) in waiting {
                let found = answer.await.map_err(|_| IngestError::Stopping)??;
                if let Some(slot) = positions.get_mut(partition) {
                    *slot = found;
                }
            }
            Ok::<(), IngestError>(())
        };
        // The worker gives up by itself after that time; a producer that never answers must not hold the client.
        let patience = self.config.give_up_after.0 + Duration::from_secs(1);
        match tokio::time::timeout(patience, wait).await {
            Ok(done) => done?,
            Err(_) => return Err(IngestError::Late { after: self.config.give_up_after }),
        }
        places
            .into_iter()
            .map(|place| match place {
                Destination::Known(position) => Some((self.source, position)),
                Destination::Sent { partition, at } => positions.get(partition)?.get(at).map(|p| (self.source, *p)),
            })
            .collect::<Option<Vec<_>>>()
            .ok_or(IngestError::Stopping)
    }

    fn partition_of(&self, tenant: &Tenant, labels: &Labels) -> usize {
        let hash = crc32c::crc32c_append(crc32c::crc32c(tenant.as_str().as_bytes()), labels.to_json().as_bytes());
        hash as usize % self.partitions.len().max(1)
    }
}

impl IngestRun {
    /// Sends what doors append until cancelled; then takes nothing new, finishes what waits and returns.
    ///
    /// Boxed: compiled in this crate, not again in each that runs it.
    pub fn run(self, cancel: CancellationToken) -> BoxFuture<'static, ()> {
        self.send_until(cancel).boxed()
    }

    async fn send_until(self, cancel: CancellationToken) {
        let mut tasks = JoinSet::new();
        for worker in self.workers {
            tasks.spawn(worker.run(cancel.clone()).boxed());
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a task that sends pushed events panicked: this is a bug");
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
