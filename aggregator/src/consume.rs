//! Reads all partitions of the configured topics, from where the catalog says.
//!
//! In: records of the log through [`LogReader`]. Out: [`Fetched`] stretches through a bounded channel; offsets of the
//! group, once published. Touches the network, from one named thread. Leaves the meaning of records to the indexer.
//!
//! Intervals are made of positions: what lies between the last record and the next is control records or compacted
//! ones. When the log's start has passed a position, the stretch between is a hole: it travels with the next records
//! and is recorded with them. When the log's end lies before a position, the topic was made anew: a new epoch begins.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use millrace_log::client::{ClientError, Consumed, StartAt, WireConsumer};
use millrace_log::clock::SharedClock;
use millrace_log::record::TopicPartition;
use tokio_util::sync::CancellationToken;

use crate::config::KafkaConfig;
use millrace_index::catalog::PartitionState;
use millrace_index::interval::{Hole, HoleCause, Interval};
use millrace_index::metrics::{Metrics, PartitionLabel};
use millrace_index::progress::{Command, Fetched, Progress};

/// What the consumer thread asks of the log. Calls block.
pub trait LogReader: Send + 'static {
    /// Partitions of a topic, empty if there is no such topic.
    fn partitions(&self, topic: &str) -> Result<Vec<i32>, ClientError>;

    /// Log start offset and high watermark.
    fn watermarks(&self, of: &TopicPartition) -> Result<(i64, i64), ClientError>;

    /// Replaces what is read.
    fn assign(&mut self, partitions: &[(TopicPartition, StartAt)]) -> Result<(), ClientError>;

    /// Records that are there, or come within `timeout`.
    fn poll_batch(&mut self, max: usize, timeout: Duration) -> Result<Vec<Consumed>, ClientError>;

    /// Everything before this offset was handed out or is not for readers, such as control records; `None`: not known.
    fn position(&self, _of: &TopicPartition) -> Option<i64> {
        None
    }

    /// Shows the group's offsets.
    fn commit(&self, next: &[(TopicPartition, i64)]) -> Result<(), ClientError>;
}

impl LogReader for WireConsumer {
    fn partitions(&self, topic: &str) -> Result<Vec<i32>, ClientError> {
        Self::partitions(self, topic)
    }

    fn watermarks(&self, of: &TopicPartition) -> Result<(i64, i64), ClientError> {
        Self::watermarks(self, of)
    }

    fn assign(&mut self, partitions: &[(TopicPartition, StartAt)]) -> Result<(), ClientError> {
        Self::assign(self, partitions)
    }

    fn poll_batch(&mut self, max: usize, timeout: Duration) -> Result<Vec<Consumed>, ClientError> {
        Self::poll_batch(self, max, timeout)
    }

    fn position(&self, of: &TopicPartition) -> Option<i64> {
        Self::position(self, of)
    }

    fn commit(&self, next: &[(TopicPartition, i64)]) -> Result<(), ClientError> {
        Self::commit(self, next)
    }
}

/// Where one partition is read.
#[derive(Debug)]
struct Place {
    epoch: u64,
    next: i64,
    hole: Option<Hole>,
}

/// The consumer's thread: everything it owns.
pub struct Consumer {
    reader: Box<dyn LogReader>,
    config: KafkaConfig,
    clock: SharedClock,
    known: HashMap<TopicPartition, PartitionState>,
    places: BTreeMap<TopicPartition, Place>,
    /// High watermarks that someone waits for.
    awaited: Vec<(TopicPartition, i64)>,
    inbox: Receiver<Command>,
    progress: Arc<Progress>,
    metrics: Arc<Metrics>,
    cancel: CancellationToken,
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("places", &self.places).finish_non_exhaustive()
    }
}

/// How long nothing may come from a log within reach until what is left below a high watermark counts as control
/// records, which are never handed out.
const DRAINED: Duration = Duration::from_secs(2);
/// How long one poll waits: also how soon commands are seen.
const POLL: Duration = Duration::from_millis(50);
/// How long to wait before the log is asked again after a fault.
const RETRY_MS: i64 = 1000;

impl Consumer {
    /// Reads on from `known`. `None` if there is one for this progress already.
    pub fn new(
        reader: Box<dyn LogReader>,
        config: KafkaConfig,
        clock: SharedClock,
        known: HashMap<TopicPartition, PartitionState>,
        progress: Arc<Progress>,
        metrics: Arc<Metrics>,
        cancel: CancellationToken,
    ) -> Option<Self> {
        let inbox = progress.take_inbox()?;
        let (places, awaited) = (BTreeMap::new(), Vec::new());
        Some(Self { reader, config, clock, known, places, awaited, inbox, progress, metrics, cancel })
    }

    /// Reads until cancelled or until nobody takes what is read; then serves commands until told to stop. Blocking.
    pub fn run(mut self, out: SyncSender<Vec<Fetched>>) {
        self.read(out);
        while let Ok(command) = self.inbox.recv() {
            if self.obey(command) {
                break;
            }
        }
    }

    fn read(&mut self, out: SyncSender<Vec<Fetched>>) {
        let mut look_again_ms = i64::MIN;
        let mut quiet_since = Instant::now();
        while !self.cancel.is_cancelled() {
            loop {
                match self.inbox.try_recv() {
                    Ok(command) => {
                        if matches!(command, Command::HighWatermarks(_)) {
                            // Whoever waits may have written to a topic that was made a moment ago.
                            look_again_ms = i64::MIN;
                            quiet_since = Instant::now();
                        }
                        if self.obey(command) {
                            return;
                        }
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            let now_ms = self.clock.now_ms();
            if now_ms >= look_again_ms {
                look_again_ms = now_ms + self.discover();
            }
            if self.places.is_empty() {
                std::thread::sleep(POLL);
                continue;
            }
            match self.reader.poll_batch(self.config.batch_records, POLL) {
                Ok(records) if records.is_empty() => {
                    self.pass_read_positions();
                    if !self.awaited.is_empty() && quiet_since.elapsed() > DRAINED {
                        self.pass_control_records();
                        quiet_since = Instant::now();
                    }
                }
                Ok(records) => {
                    quiet_since = Instant::now();
                    let fetched = self.sort(records);
                    self.metrics.queue_batches.inc();
                    if !fetched.is_empty() && out.send(fetched).is_err() {
                        return;
                    }
                }
                Err(ClientError::OutOfRange { .. }) => {
                    if let Err(error) = self.find_lost() {
                        self.note(&error);
                        look_again_ms = i64::MIN;
                        std::thread::sleep(POLL);
                    }
                }
                Err(ClientError::Unreadable { topic_partition, to, reason, .. }) => {
                    self.skip_unreadable(&topic_partition, to, &reason);
                }
                Err(error) => {
                    self.note(&error);
                    // The next look at the topics says whether the log is back.
                    look_again_ms = i64::MIN;
                    std::thread::sleep(POLL);
                }
            }
        }
    }

    fn note(&self, error: &ClientError) {
        tracing::warn!(%error, "reading the log failed, trying again");
        self.progress.trouble(Some(error.to_string()));
    }

    /// True if it was told to stop.
    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Stop => return true,
            Command::Commit(next) => {
                if let Err(error) = self.reader.commit(&next) {
                    tracing::debug!(%error, "group offsets not committed: lag displays are behind");
                }
            }
            Command::HighWatermarks(answer) => {
                let mut highs = Ok(Vec::new());
                for topic in &self.config.topics {
                    let found = self.reader.partitions(topic).and_then(|partitions| {
                        partitions
                            .into_iter()
                            .map(|p| TopicPartition::new(topic.as_str(), p))
                            .map(|tp| {
                                self.reader.watermarks(&tp).map(|(low, high)| (tp, if high > low { high } else { 0 }))
                            })
                            .collect::<Result<Vec<_>, _>>()
                    });
                    match (&mut highs, found) {
                        (Ok(all), Ok(found)) => all.extend(found),
                        (Ok(_), Err(error)) => highs = Err(error),
                        (Err(_), _) => {}
                    }
                }
                self.awaited = highs.as_ref().map(Clone::clone).unwrap_or_default();
                // Whoever asked may have gone.
                answer.send(highs).ok();
            }
        }
        false
    }

    /// What lies between the last record and the reader's position holds nothing for the index.
    fn pass_read_positions(&mut self) {
        let (places, reader, progress) = (&self.places, &self.reader, &self.progress);
        self.awaited.retain(|(tp, high)| {
            let is_short = places.get(tp).is_some_and(|place| place.next < *high);
            let passed = is_short && reader.position(tp).is_some_and(|position| position >= *high);
            if passed {
                progress.searchable([(tp.clone(), *high)]);
            }
            !passed
        });
    }

    /// Whoever waits for a high watermark need not wait for records that nobody will ever be given.
    fn pass_control_records(&mut self) {
        for (tp, high) in std::mem::take(&mut self.awaited) {
            let is_short = self.places.get(&tp).is_some_and(|place| place.next < high);
            // Nothing came though the log is within reach.
            if is_short && self.reader.watermarks(&tp).is_ok() {
                self.progress.searchable([(tp, high)]);
            }
        }
    }

    /// Looks for partitions that are not read yet; gives back when to look again, in ms.
    fn discover(&mut self) -> i64 {
        let interval_ms = i64::try_from(self.config.discover_interval.0.as_millis()).unwrap_or(i64::MAX);
        match self.add_new() {
            Ok(added) => {
                self.progress.positions_known();
                if added > 0 {
                    tracing::info!(partitions = self.places.len(), new = added, "reading the log");
                }
                interval_ms
            }
            Err(error) => {
                self.note(&error);
                RETRY_MS
            }
        }
    }

    fn add_new(&mut self) -> Result<usize, ClientError> {
        let mut new = Vec::new();
        for topic in &self.config.topics {
            let name: Arc<str> = topic.as_str().into();
            for partition in self.reader.partitions(topic)? {
                let tp = TopicPartition::new(Arc::clone(&name), partition);
                if !self.places.contains_key(&tp) {
                    let (low, high) = self.reader.watermarks(&tp)?;
                    let place = match self.known.get(&tp) {
                        // What was there before the first start was never promised to anyone.
                        None => Place { epoch: 0, next: low, hole: None },
                        Some(state) => self.place_in(&tp, state.epoch, state.next, None, (low, high)),
                    };
                    new.push((tp, place));
                }
            }
        }
        let added = new.len();
        if added > 0 {
            self.progress.searchable(new.iter().map(|(tp, place)| (tp.clone(), place.next)));
            self.places.extend(new);
            self.assign()?;
        }
        Ok(added)
    }

    /// Where to read on within the log's range.
    fn place_in(
        &self,
        tp: &TopicPartition,
        epoch: u64,
        next: i64,
        hole: Option<Hole>,
        (low, high): (i64, i64),
    ) -> Place {
        if next > high {
            tracing::warn!(partition = %tp, next, high, low,
                "the log ends before the position of the index: the topic was made anew or cut; reading it from its start");
            return Place { epoch: epoch + 1, next: low, hole: None };
        }
        if next >= low {
            return Place { epoch, next, hole };
        }
        let from = hole.as_ref().map_or(next, |h| h.interval.from);
        let interval = Interval { topic: Arc::clone(&tp.topic), partition: tp.partition, epoch, from, to: low };
        tracing::error!(partition = %tp, from, to = low,
            "the log's retention removed records before they were read: they are not in the index; give topics a longer retention or the index more time");
        let label = PartitionLabel { topic: tp.topic.to_string(), partition: tp.partition };
        self.metrics.hole_offsets.get_or_create(&label).inc_by((low - next).unsigned_abs());
        let found_ms = self.clock.now_ms();
        Place { epoch, next: low, hole: Some(Hole { interval, cause: HoleCause::Retention, found_ms }) }
    }

    /// Records that can't be read are a hole, and reading goes on behind them.
    fn skip_unreadable(&mut self, tp: &TopicPartition, to: i64, reason: &str) {
        let Some(place) = self.places.get_mut(tp).filter(|place| place.next < to) else { return };
        tracing::error!(partition = %tp, from = place.next, to, reason,
            "records of the log can't be read: they are not in the index; look at them with `millrace broker consume`");
        let label = PartitionLabel { topic: tp.topic.to_string(), partition: tp.partition };
        self.metrics.hole_offsets.get_or_create(&label).inc_by((to - place.next).unsigned_abs());
        let from = place.hole.as_ref().map_or(place.next, |hole| hole.interval.from);
        let interval = Interval { topic: Arc::clone(&tp.topic), partition: tp.partition, epoch: place.epoch, from, to };
        place.next = to;
        place.hole = Some(Hole { interval, cause: HoleCause::Unreadable, found_ms: self.clock.now_ms() });
    }

    fn assign(&mut self) -> Result<(), ClientError> {
        let all: Vec<_> = self.places.iter().map(|(tp, p)| (tp.clone(), StartAt::Offset(p.next))).collect();
        self.reader.assign(&all)
    }

    /// The log is out of reach of a position: finds which, notes holes, reads on.
    fn find_lost(&mut self) -> Result<(), ClientError> {
        let mut moved = Vec::new();
        for (tp, place) in &self.places {
            let range = self.reader.watermarks(tp)?;
            let new = self.place_in(tp, place.epoch, place.next, place.hole.clone(), range);
            if (new.epoch, new.next) != (place.epoch, place.next) {
                moved.push((tp.clone(), new));
            }
        }
        self.places.extend(moved);
        self.assign()
    }

    /// Groups records by partition and moves the positions on.
    fn sort(&mut self, records: Vec<Consumed>) -> Vec<Fetched> {
        let mut groups: BTreeMap<TopicPartition, Vec<Consumed>> = BTreeMap::new();
        for record in records {
            match groups.get_mut(&record.partition) {
                Some(group) => group.push(record),
                None => {
                    groups.insert(record.partition.clone(), vec![record]);
                }
            }
        }
        let mut all = Vec::with_capacity(groups.len());
        for (tp, mut records) in groups {
            let Some(place) = self.places.get_mut(&tp) else { continue };
            // Left from before a new assignment.
            records.retain(|r| r.offset >= place.next);
            let Some(last) = records.last() else { continue };
            let interval = Interval {
                topic: Arc::clone(&tp.topic),
                partition: tp.partition,
                epoch: place.epoch,
                from: place.next,
                to: last.offset + 1,
            };
            place.next = interval.to;
            all.push(Fetched { interval, hole: place.hole.take(), records });
        }
        all
    }
}
