//! Feeds what is in the spool to the senders, in order, and deletes what the log has.
//!
//! In: frames of [`super::spool`]. Out: [`QueuedBatches`]s with the ids and numbers that their records were given once and for all:
//! what is read again after a crash is a repeat that the index knows. Touches the spool's folder and the state, which
//! keeps how far the log has it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, StreamExt as _};
use millrace_log::fs::Filesystem;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::frame::{Frame, path_of, read};
use super::receiver::{Receiver, ReceiverPartition, Receivers, Settings};
use super::records::{BATCH_COST, PushedRecords};
use super::spool::SpoolEnd;
use crate::batch::{BatchAck, MemoryBudget, MemoryShare, QueuedBatches};
use crate::error::AgentError;
use crate::metrics::AgentMetrics;
use crate::state::State;
use crate::tap::Taps;

/// Bytes read from a segment at a time.
const READ: u64 = 1 << 20;

/// What feeding works with.
pub(crate) struct Feeder {
    pub fs: Arc<dyn Filesystem>,
    pub folder: PathBuf,
    /// Segments that were there at the start.
    pub old: Vec<SpoolEnd>,
    /// The first segment of this run.
    pub first_new: u64,
    pub end: watch::Receiver<SpoolEnd>,
    pub space: Arc<MemoryBudget>,
    pub budget: Arc<MemoryBudget>,
    pub state: Arc<State>,
    pub metrics: AgentMetrics,
    pub taps: Taps,
    pub receivers: Receivers,
    pub topic: Arc<str>,
    pub queues: Vec<mpsc::Sender<QueuedBatches>>,
    /// Memory of what may be in the queues at a time.
    pub most: usize,
}

/// A place in the spool: everything before it is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct SpoolCursor {
    segment: u64,
    offset: u64,
}

/// What is in the queues, in order.
#[derive(Default)]
struct Flight {
    answers: FuturesOrdered<BoxFuture<'static, Option<SpoolCursor>>>,
    /// Segment and memory of each.
    frames: VecDeque<(u64, usize)>,
    bytes: usize,
}

impl Flight {
    fn push(&mut self, place: SpoolCursor, cost: usize, answer: oneshot::Receiver<bool>) {
        self.frames.push_back((place.segment, cost));
        self.bytes += cost;
        self.answers.push_back(Box::pin(async move { matches!(answer.await, Ok(true)).then_some(place) }));
    }

    /// Waits until the log has the first of them; `None` if there is none, or the agent stops.
    async fn settle(&mut self, state: &State) -> Result<Option<()>, AgentError> {
        let Some(Some(place)) = self.answers.next().await else { return Ok(None) };
        if let Some((_, cost)) = self.frames.pop_front() {
            self.bytes -= cost;
        }
        state.keep_spool_cursor(place.segment, place.offset).map(Some)
    }
}

/// Where feeding stands.
struct FeedState {
    at: SpoolCursor,
    /// The lowest segment that may be there.
    oldest: u64,
    flight: Flight,
    partitions: HashMap<String, (Arc<Receiver>, Vec<Arc<ReceiverPartition>>)>,
}

impl Feeder {
    /// Runs until `stop`; then waits for what is in the queues. What the log does not take is fed again at the next start.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), AgentError> {
        let start = self.old.first().map_or(self.first_new, |first| first.segment);
        let mut at = SpoolCursor { segment: start, offset: 0 };
        let state = self.state.clone();
        let known = tokio::task::spawn_blocking(move || state.spool_cursor()).await;
        let known = known.unwrap_or(Err(AgentError::Ended { part: "feeder of the spool" }))?;
        if let Some((segment, offset)) = known {
            at = at.max(SpoolCursor { segment, offset });
        }
        let mut progress = FeedState { at, oldest: start, flight: Flight::default(), partitions: HashMap::new() };
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                more = self.step(&mut progress) => if !more? {
                    break;
                },
            }
        }
        self.queues.clear();
        while progress.flight.settle(&self.state).await?.is_some() {}
        Ok(())
    }

    /// Feeds the next frames, or waits for them. `false`: there will be none.
    async fn step(&mut self, p: &mut FeedState) -> Result<bool, AgentError> {
        let needed = p.flight.frames.front().map_or(p.at.segment, |(segment, _)| *segment);
        p.oldest = self.forget(p.oldest, needed).await?;
        let end = *self.end.borrow_and_update();
        let (limit, sealed) = self.limit(p.at.segment, end).await?;
        if p.at.offset >= limit {
            if sealed {
                p.at = SpoolCursor { segment: p.at.segment + 1, offset: 0 };
                return Ok(true);
            }
            return tokio::select! {
                changed = self.end.changed() => Ok(changed.is_ok()),
                settled = p.flight.settle(&self.state), if !p.flight.frames.is_empty() => Ok(settled?.is_some()),
            };
        }
        let (path, from) = (path_of(&self.folder, p.at.segment), p.at.offset);
        let (frames, damages) =
            self.blocking("reading", &path, move |fs, path| read(fs, path, from, limit, READ)).await?;
        let mut next = frames.last().map_or(from, |(_, next)| *next);
        for damage in damages {
            self.metrics.spool_damaged_bytes.inc_by(damage.to - damage.from);
            tracing::error!(path = %path.display(), offset = damage.from, bytes = damage.to - damage.from, "spool is damaged here: the records at this offset are lost, the others are sent; check the disk");
            next = next.max(damage.to);
        }
        for (frame, behind) in frames {
            let place = SpoolCursor { segment: p.at.segment, offset: behind };
            if !self.feed(p, frame, place).await? {
                return Ok(false);
            }
        }
        // A file that is shorter than it was cannot be waited for.
        p.at.offset = if next > from { next } else { limit };
        Ok(true)
    }

    async fn feed(&self, p: &mut FeedState, frame: Frame, place: SpoolCursor) -> Result<bool, AgentError> {
        let cost = frame.window.len() + frame.window.len() / 4 + BATCH_COST;
        while p.flight.bytes > 0 && p.flight.bytes + cost > self.most {
            if p.flight.settle(&self.state).await?.is_none() {
                return Ok(false);
            }
        }
        let (receiver, partitions) = self.partitions(&mut p.partitions, &frame.source).await?;
        if place.segment < self.first_new {
            // Spooled by an earlier run, which counted it for itself.
            let count = frame.count();
            receiver.took(count);
            self.metrics.count_read(count.lines, count.bytes);
        }
        let mut share = MemoryShare::none(&self.budget);
        share.wait_for(cost).await;
        let count = self.queues.len();
        let partition = frame.partition.filter(|partition| *partition < count);
        let partition = partition.unwrap_or(frame.hash as usize % count.max(1));
        let (Some(queue), Some(source)) = (self.queues.get(partition), partitions.get(partition)) else {
            return Ok(false);
        };
        let Ok(permit) = queue.reserve().await else { return Ok(false) };
        let (mut acks, answer) = BatchAck::parts(1);
        let first = frame.first;
        let mut batch = PushedRecords::from_frame(frame).into_batch(Arc::clone(source) as _, first);
        batch.cost = share.keep();
        batch.ack = acks.pop();
        batch.show_read(&self.taps);
        permit.send(QueuedBatches::One(batch));
        p.flight.push(place, cost, answer);
        Ok(true)
    }

    /// How far a segment goes, and whether it grows no more.
    async fn limit(&self, segment: u64, end: SpoolEnd) -> Result<(u64, bool), AgentError> {
        if let Some(old) = self.old.iter().find(|old| old.segment == segment) {
            return Ok((old.len, true));
        }
        if segment >= end.segment {
            return Ok((end.len, false));
        }
        let path = path_of(&self.folder, segment);
        let len = self.blocking("reading", &path, |fs, path| exists(fs.open(path).and_then(|file| file.len()))).await?;
        Ok((len.unwrap_or(0), true))
    }

    /// Runs a call to the file system on a thread for blocking work.
    async fn blocking<T: Send + 'static>(
        &self,
        what: &'static str,
        path: &Path,
        call: impl FnOnce(&dyn Filesystem, &Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, AgentError> {
        let (fs, owned) = (Arc::clone(&self.fs), path.to_owned());
        let done = tokio::task::spawn_blocking(move || call(&*fs, &owned)).await;
        let done = done.map_err(|_| AgentError::Ended { part: "reader of the spool" })?;
        done.map_err(|source| AgentError::File { what, path: path.to_owned(), source })
    }

    /// Deletes segments before one that is still needed.
    async fn forget(&self, oldest: u64, needed: u64) -> Result<u64, AgentError> {
        for segment in oldest..needed {
            let path = path_of(&self.folder, segment);
            let removed = |fs: &dyn Filesystem, path: &Path| {
                let len = exists(fs.open(path).and_then(|file| file.len()))?;
                exists(fs.remove(path))?;
                Ok(len.unwrap_or(0))
            };
            let len = self.blocking("removing", &path, removed).await?;
            self.space.give(usize::try_from(len).unwrap_or(usize::MAX));
            self.metrics.spool_bytes.set(i64::try_from(self.space.used()).unwrap_or(i64::MAX));
        }
        Ok(oldest.max(needed))
    }

    /// The receiver of a source, also of one that the configuration has no more.
    async fn partitions<'i>(
        &self,
        known: &'i mut HashMap<String, (Arc<Receiver>, Vec<Arc<ReceiverPartition>>)>,
        name: &str,
    ) -> Result<&'i (Arc<Receiver>, Vec<Arc<ReceiverPartition>>), AgentError> {
        if !known.contains_key(name) {
            let found = self.receivers.read().iter().find(|receiver| &*receiver.settings.name == name).cloned();
            let (state, topic, count, key) =
                (self.state.clone(), self.topic.clone(), self.queues.len(), name.to_owned());
            let made = tokio::task::spawn_blocking(move || {
                let receiver = match found {
                    Some(receiver) => receiver,
                    None => Receiver::open(Settings::orphan(&key), &state)?,
                };
                let partitions = receiver.partitions(&topic, count, &state)?;
                state.sync()?;
                Ok::<_, AgentError>((receiver, partitions))
            });
            let made = made.await.unwrap_or(Err(AgentError::Ended { part: "writer of positions" }))?;
            let mut receivers = self.receivers.write();
            if !receivers.iter().any(|receiver| Arc::ptr_eq(receiver, &made.0)) {
                receivers.push(made.0.clone());
            }
            drop(receivers);
            known.insert(name.to_owned(), made);
        }
        known.get(name).ok_or(AgentError::Ended { part: "feeder of the spool" })
    }
}

/// `None` if there is no such file.
fn exists<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
