//! Fetching ahead: one task asks the leaders of the assigned partitions for records, within a limit of bytes.
//!
//! In: partitions with their positions. Out: a queue of [`Event`]s, in order for each partition, read by any thread. Touches
//! the network through [`Cluster`]. What was fetched stays compressed until it is read, so that the limit counts what
//! really waits. Each leader has one request on its way. Leaves records and transactions to [`super::stream`].
//!
//! Faults of the network, leaders that move and topics that are not there yet are waited for, longer each time. What lasts
//! for other reasons is reported each time. A position out of the log's range stops its partition until a new position is
//! set; so does a topic that was deleted and created anew, where the log has ids of topics. An assignment that is replaced takes with it whatever is still on its way: events carry its number.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::FetchResponse;
use kafka_protocol::messages::fetch_response::PartitionData;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::cluster::Cluster;
use super::connection::checked;
use super::error::WireError;
use super::fetch_request::{Asked, ask, whole_batches};
pub use super::fetch_state::StartAt;
pub(crate) use super::fetch_state::{Event, Fetched, Start};
use super::fetch_state::{Place, State};
use super::offsets::{End, end_of};
use crate::kafka::ClientOptions;
use crate::record::TopicPartition;
use crate::topic_id::TopicId;

/// A topic that is not there is reported after so many looks.
const PATIENT_LOOKS: u32 = 20;
/// Bytes of one batch that are asked for at most.
const MAX_BATCH: i32 = 128 << 20;

/// How to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FetchSettings {
    /// Records of open and aborted transactions are left out.
    pub committed_only: bool,
    /// Ends are events.
    pub report_ends: bool,
}

/// The queue between the task that fetches and the thread that reads.
#[derive(Debug)]
pub(crate) struct Fetching {
    settings: FetchSettings,
    options: ClientOptions,
    state: Mutex<State>,
    filled: Condvar,
    changed: Notify,
    recreated: Notify,
}

/// What a request of the task came to.
enum Done {
    Fetched {
        node: i32,
        assignment: u64,
        asked: BTreeMap<TopicPartition, i64>,
        answer: Result<FetchResponse, WireError>,
    },
    Looked {
        answer: Result<(), WireError>,
    },
    Started {
        tp: TopicPartition,
        assignment: u64,
        answer: Result<i64, WireError>,
    },
    Ranged {
        tp: TopicPartition,
        assignment: u64,
        offset: i64,
        answer: Result<i64, WireError>,
    },
}

impl Fetching {
    pub fn new(settings: FetchSettings, options: &ClientOptions) -> Self {
        Self {
            settings,
            options: options.clone(),
            state: Mutex::default(),
            filled: Condvar::new(),
            changed: Notify::new(),
            recreated: Notify::new(),
        }
    }

    pub fn committed_only(&self) -> bool {
        self.settings.committed_only
    }

    /// Bytes that the records of a batch may have decompressed.
    pub fn unpacked_bytes(&self) -> usize {
        self.options.unpacked_bytes
    }

    /// Replaces what is read; the number of the new assignment.
    pub fn assign(&self, starts: &[Start]) -> u64 {
        let mut state = self.state.lock();
        state.assignment += 1;
        state.queue.clear();
        state.queued = 0;
        state.look_at = None;
        state.places = starts.iter().map(|(tp, start, id)| (tp.clone(), self.place(*start, *id))).collect();
        let assignment = state.assignment;
        drop(state);
        self.changed.notify_one();
        assignment
    }

    fn place(&self, start: StartAt, topic_id: Option<TopicId>) -> Place {
        Place::new(start, topic_id, self.options.backoff.0, self.options.partition_max_bytes)
    }

    /// Reads a partition that was out of range on from the log's start or end.
    pub fn seek(&self, assignment: u64, tp: &TopicPartition, start: StartAt, log_start: i64) {
        let mut state = self.state.lock();
        if state.assignment == assignment
            && let Some(place) = state.places.get_mut(tp)
        {
            let start = if start == StartAt::Latest { start } else { StartAt::Offset(log_start) };
            *place = self.place(start, place.topic_id);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Reads a partition whose topic was created anew from its start.
    pub fn restart(&self, assignment: u64, tp: &TopicPartition) {
        let new = self.place(StartAt::Earliest, None);
        if let Some(place) = self.state.lock().current(assignment, tp) {
            *place = new;
        }
        self.changed.notify_one();
    }

    /// Waits until the topic of a partition was created anew.
    pub async fn recreated(&self) {
        self.recreated.notified().await;
    }

    /// The number of the current assignment.
    pub fn assignment(&self) -> u64 {
        self.state.lock().assignment
    }

    /// The partitions that are read.
    pub fn assigned(&self) -> Vec<TopicPartition> {
        self.state.lock().places.keys().cloned().collect()
    }

    /// The end of a partition as of the last answer; `None` as long as there was none.
    pub fn end(&self, of: &TopicPartition) -> Option<i64> {
        self.state.lock().places.get(of)?.end
    }

    /// The next event with the number of its assignment; waits for it. Blocks.
    pub fn next(&self, wait: Duration) -> Option<(u64, Event)> {
        let until = std::time::Instant::now() + wait;
        let mut state = self.state.lock();
        loop {
            if let Some(first) = state.queue.pop_front() {
                state.queued = state.queued.saturating_sub(first.bytes);
                if let Event::Fetched(fetched) = &first.event
                    && let Some(place) = state.places.get_mut(&fetched.tp)
                {
                    place.queued = place.queued.saturating_sub(first.bytes);
                    drop(state);
                    self.changed.notify_one();
                }
                return Some((first.assignment, first.event));
            }
            if wait.is_zero() || self.filled.wait_until(&mut state, until).timed_out() {
                return None;
            }
        }
    }

    /// Fetches for as long as it is run.
    pub async fn run(self: Arc<Self>, cluster: Arc<Cluster>) {
        let mut requests: JoinSet<Done> = JoinSet::new();
        let mut busy_nodes: HashSet<i32> = HashSet::new();
        let mut looking = false;
        loop {
            let next_at = self.plan(&cluster, &mut requests, &mut busy_nodes, &mut looking);
            let sleep = async {
                match next_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep => {}
                Some(done) = requests.join_next(), if !requests.is_empty() => {
                    // A request that broke off is one that was cancelled: the runtime ends.
                    let Ok(done) = done else { return };
                    self.take(&cluster, done, &mut requests, &mut busy_nodes, &mut looking);
                }
            }
        }
    }

    /// Sends what can be asked now; when to plan again at the latest.
    fn plan(
        &self,
        cluster: &Arc<Cluster>,
        requests: &mut JoinSet<Done>,
        busy_nodes: &mut HashSet<i32>,
        looking: &mut bool,
    ) -> Option<Instant> {
        let now = Instant::now();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut next_at: Option<Instant> = None;
        let mut sooner = |at: Instant| next_at = Some(next_at.map_or(at, |known| known.min(at)));
        let mut unknown: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut by_node: BTreeMap<i32, Vec<Asked>> = BTreeMap::new();
        let mut recreated = Vec::new();
        let assignment = state.assignment;
        let has_room = state.queued < self.options.queue_bytes;
        let first = state.turn.checked_rem(state.places.len()).unwrap_or(0);
        let names: Vec<TopicPartition> = state.places.keys().cloned().collect();
        for tp in names.iter().cycle().skip(first).take(names.len()) {
            let Some(place) = state.places.get_mut(tp) else { continue };
            if place.busy || place.stopped {
                continue;
            }
            if let Some(at) = place.retry_at {
                if at > now {
                    sooner(at);
                    continue;
                }
                place.retry_at = None;
            }
            let Some(leader) = cluster.known_leader(tp) else {
                unknown.insert(Arc::clone(&tp.topic));
                continue;
            };
            if !place.is_of(leader.topic_id) {
                place.stopped = true;
                recreated.push(tp.clone());
                continue;
            }
            let Some(position) = place.position else {
                place.busy = true;
                let end = match place.start {
                    StartAt::Latest => End::Latest { committed_only: self.settings.committed_only },
                    StartAt::Earliest | StartAt::Offset(_) => End::Start,
                };
                let (tp, cluster) = (tp.clone(), Arc::clone(cluster));
                requests.spawn(async move {
                    let answer = end_of(&cluster, &tp, end).await;
                    Done::Started { tp, assignment, answer }
                });
                continue;
            };
            if has_room && place.queued < place.max_bytes.unsigned_abs() as usize && !busy_nodes.contains(&leader.node)
            {
                place.busy = true;
                let (tp, epoch, topic_id) = (tp.clone(), leader.epoch, place.topic_id);
                let asked = Asked { tp, position, epoch, max_bytes: place.max_bytes, topic_id };
                by_node.entry(leader.node).or_default().push(asked);
            }
        }
        for tp in recreated {
            self.push(state, Event::Recreated { tp }, 0);
            self.recreated.notify_one();
        }
        state.turn = state.turn.wrapping_add(1);
        if !unknown.is_empty() && !*looking {
            match state.look_at {
                Some(at) if at > now => sooner(at),
                _ => {
                    *looking = true;
                    let cluster = Arc::clone(cluster);
                    requests.spawn(async move {
                        let topics: Vec<&str> = unknown.iter().map(|topic| &**topic).collect();
                        Done::Looked { answer: cluster.metadata(&topics).await.map(|_| ()) }
                    });
                }
            }
        }
        for (node, parts) in by_node {
            busy_nodes.insert(node);
            let (cluster, options) = (Arc::clone(cluster), self.options.clone());
            let committed_only = self.settings.committed_only;
            requests.spawn(async move {
                let asked = parts.iter().map(|asked| (asked.tp.clone(), asked.position)).collect();
                let answer = ask(&cluster, node, committed_only, &options, parts).await;
                Done::Fetched { node, assignment, asked, answer }
            });
        }
        next_at
    }

    fn take(
        &self,
        cluster: &Arc<Cluster>,
        done: Done,
        requests: &mut JoinSet<Done>,
        busy_nodes: &mut HashSet<i32>,
        looking: &mut bool,
    ) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        match done {
            Done::Looked { answer } => {
                *looking = false;
                if let Err(error) = &answer {
                    tracing::debug!(%error, "looking for leaders failed");
                }
                // Those that were found are asked at once, the others are looked for again after a while.
                state.look_at = Some(Instant::now() + self.options.backoff.0.max(Duration::from_millis(100)));
                let reported = answer.err().filter(|error| error.code().is_some());
                let mut failed = Vec::new();
                for (tp, place) in &mut state.places {
                    if place.stopped || cluster.known_leader(tp).is_some() {
                        place.misses = 0;
                        continue;
                    }
                    place.misses += 1;
                    self.pause(place);
                    if let Some(error) = &reported {
                        failed.push((tp.clone(), error.clone()));
                    } else if place.misses.is_multiple_of(PATIENT_LOOKS) {
                        failed.push((tp.clone(), WireError::refused(Code::UnknownTopicOrPartition, None)));
                    }
                }
                for (tp, error) in failed {
                    self.push(state, Event::Failed { tp, error }, 0);
                }
            }
            Done::Started { tp, assignment, answer } => {
                let Some(place) = state.current(assignment, &tp) else { return };
                place.busy = false;
                match answer {
                    Ok(offset) => place.position = Some(offset),
                    Err(error) => self.fail(cluster, state, tp, error),
                }
            }
            Done::Ranged { tp, assignment, offset, answer } => {
                let Some(place) = state.current(assignment, &tp) else { return };
                place.busy = false;
                match answer {
                    Ok(log_start) => {
                        place.stopped = true;
                        self.push(state, Event::OutOfRange { tp, offset, log_start }, 0);
                    }
                    Err(error) => self.fail(cluster, state, tp, error),
                }
            }
            Done::Fetched { node, assignment, asked, answer } => {
                busy_nodes.remove(&node);
                if assignment != state.assignment {
                    return;
                }
                let answer = answer.and_then(|answer| checked(answer.error_code, None).map(|()| answer));
                match answer {
                    Ok(answer) => self.sort(cluster, state, asked, answer, requests),
                    Err(error) => {
                        for tp in asked.into_keys() {
                            if let Some(place) = state.places.get_mut(&tp) {
                                place.busy = false;
                            }
                            self.fail(cluster, state, tp, error.clone());
                        }
                    }
                }
            }
        }
    }

    /// Takes the partitions of an answer one by one.
    fn sort(
        &self,
        cluster: &Arc<Cluster>,
        state: &mut State,
        mut asked: BTreeMap<TopicPartition, i64>,
        answer: FetchResponse,
        requests: &mut JoinSet<Done>,
    ) {
        let assignment = state.assignment;
        for topic in answer.responses {
            let name: Arc<str> = topic.topic.as_str().into();
            for part in topic.partitions {
                let Some((tp, from)) =
                    asked.remove_entry(&TopicPartition::new(Arc::clone(&name), part.partition_index))
                else {
                    continue;
                };
                let Some(place) = state.places.get_mut(&tp) else { continue };
                place.busy = false;
                match Code::try_from_code(part.error_code) {
                    None => self.records(state, tp, from, part),
                    Some(Code::OffsetOutOfRange) => {
                        place.busy = true;
                        let cluster = Arc::clone(cluster);
                        requests.spawn(async move {
                            let answer = end_of(&cluster, &tp, End::Start).await;
                            Done::Ranged { tp, assignment, offset: from, answer }
                        });
                    }
                    Some(code) => self.fail(cluster, state, tp, WireError::refused(code, None)),
                }
            }
        }
        // A broker that leaves one out says nothing about it.
        for tp in asked.into_keys() {
            if let Some(place) = state.places.get_mut(&tp) {
                place.busy = false;
                self.pause(place);
            }
        }
    }

    fn records(&self, state: &mut State, tp: TopicPartition, from: i64, part: PartitionData) {
        let Some(place) = state.places.get_mut(&tp) else { return };
        place.wait = self.options.backoff.0;
        let records = part.records.unwrap_or_default();
        let (whole, next) = whole_batches(&records);
        let next = next.map_or(from, |next| next.max(from));
        if whole == 0 && !records.is_empty() {
            // The first batch is larger than what was asked for (brokers before KIP-74).
            place.max_bytes = place.max_bytes.saturating_mul(2);
            if place.max_bytes > MAX_BATCH {
                place.max_bytes = self.options.partition_max_bytes;
                place.wait = self.options.backoff.1;
                self.pause(place);
                let cause = format!("a batch at offset {from} is cut, or larger than {MAX_BATCH} bytes");
                let error = WireError::Answer { address: tp.to_string(), cause };
                self.push(state, Event::Failed { tp, error }, 0);
            }
            return;
        }
        place.position = Some(next);
        let end = if self.settings.committed_only { part.last_stable_offset } else { part.high_watermark };
        place.end = Some(end);
        let at_end = self.settings.report_ends && next >= end && place.told_end != Some(next);
        if at_end {
            place.told_end = Some(next);
        }
        if whole > 0 {
            place.queued += whole;
            let aborted = part.aborted_transactions.unwrap_or_default();
            let aborted = aborted.iter().map(|one| (one.producer_id.0, one.first_offset)).collect();
            let fetched = Fetched { tp: tp.clone(), from, next, records: records.slice(..whole), aborted };
            self.push(state, Event::Fetched(fetched), whole);
        }
        if at_end {
            self.push(state, Event::End { tp }, 0);
        }
    }

    /// Waits before the partition is asked for again, and says so if it may last.
    fn fail(&self, cluster: &Cluster, state: &mut State, tp: TopicPartition, error: WireError) {
        let Some(place) = state.places.get_mut(&tp) else { return };
        tracing::debug!(partition = %tp, %error, "fetching failed, trying again");
        cluster.forget(&tp);
        self.pause(place);
        let is_missing = matches!(error.code(), Some(Code::UnknownTopicOrPartition | Code::UnknownTopicId));
        if is_missing {
            place.misses += 1;
        }
        let lasts = match error.code() {
            Some(_) if is_missing => place.misses.is_multiple_of(PATIENT_LOOKS),
            Some(code) => !code.is_retriable(),
            None => !error.is_retriable(),
        };
        if lasts {
            self.push(state, Event::Failed { tp, error }, 0);
        }
    }

    fn pause(&self, place: &mut Place) {
        place.pause(self.options.backoff.1);
    }

    fn push(&self, state: &mut State, event: Event, bytes: usize) {
        if state.push(event, bytes) {
            self.filled.notify_one();
        }
    }
}
