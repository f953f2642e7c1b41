//! Sends what was read: one lane for each partition, one request of a lane at a time.
//!
//! In: [`Load`]s from the reading thread and from sources that are pushed to, through one bounded queue per lane. Out:
//! acknowledged progress of sources, dead letters. Touches the network through [`BatchProducer`], the state only when a source must go on under a new id.
//!
//! Order: a lane keeps the order of its queue, and all records of a source go through one lane, so positions of a
//! source rise on the log. What the log refuses for now is sent again until it is taken; the queue fills, memory's
//! share is used up, reading stops: nothing is dropped. What it refuses for good goes to the dead letters one by one.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use millrace_log::client::{BatchProducer, ClientError};
use millrace_log::clock::SharedClock;
use millrace_log::dead_letter::dead_letter;
use millrace_log::native::encode::{HeaderRef, Records};
use millrace_log::record::{
    Fixed, HEADER_FIXED, HEADER_LABELS, HEADER_META, HEADER_TENANT, Position, Record, TopicPartition,
    kafka_timestamp_ms,
};
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::condition::Conditions;
use crate::container::Stream;
use crate::dispatch::Routes;
use crate::error::AgentError;
use crate::feed::{Done, Feed};
use crate::flow::{Behind, Flow};
use crate::ledger::{Count, Lost, REASON_CUT, REASON_DEAD_LETTER};
use crate::metrics::{AgentMetrics, Reason};
use crate::source::{Anchor, Taken};
use crate::split::Piece;
use crate::state::State;
use crate::tap::Taps;
use crate::transform::Worker;
use crate::watch::Wake;

/// How the records of a haul are numbered.
#[derive(Debug)]
pub(crate) enum Numbers {
    /// By where they stand in the file, whose byte at the window's start is this one.
    Offsets(u64),
    /// One after the other, from this number.
    From(u64),
    /// Each by its own, rising.
    Own(Vec<u64>),
}

/// What one read took from one file, or what one stream of a push has.
#[derive(Debug)]
pub(crate) struct Haul {
    pub source: Arc<dyn Feed>,
    /// Header `labels`.
    pub labels: Bytes,
    /// Header `labels` of records of a container's streams, where they are told apart.
    pub streams: Option<Streams>,
    /// Header `tenant`, if there is one.
    pub tenant: Option<Bytes>,
    /// The bytes read; pieces point into it.
    pub window: Bytes,
    pub numbers: Numbers,
    pub pieces: Vec<Piece>,
    /// Event times found in the lines, one for each piece; empty if none is asked for.
    pub times: Vec<Option<i64>>,
    /// Header `meta`, one for each piece; empty if none has any.
    pub metas: Vec<Option<Bytes>>,
    /// Where the next haul starts.
    pub to: Anchor,
    pub taken: Taken,
    /// When it was read.
    pub read_ns: i64,
    /// Its share of the memory.
    pub cost: usize,
    /// Its share of what files that are behind may have in the lane.
    pub behind: Option<Behind>,
    /// Who waits for the acknowledgement.
    pub done: Option<Done>,
}

/// What a lane's queue takes at once.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // most are of files, and a queue is short
pub(crate) enum Load {
    One(Haul),
    /// What one push has for this lane, so that its streams need one place in the queue.
    Many(Vec<Haul>),
}

impl Load {
    fn add_to(self, pending: &mut VecDeque<Haul>) {
        match self {
            Self::One(haul) => pending.push_back(haul),
            Self::Many(hauls) => pending.extend(hauls),
        }
    }
}

/// Labels of records by the stream of a container.
#[derive(Debug)]
pub(crate) struct Streams {
    /// Of its standard output, of its standard error.
    pub labels: Arc<[Bytes; 2]>,
    /// Of each piece.
    pub of: Vec<Stream>,
}

impl Haul {
    /// Header `labels` of a piece.
    pub fn labels(&self, piece: usize) -> &Bytes {
        let Some(streams) = &self.streams else { return &self.labels };
        let [out, err] = &*streams.labels;
        match streams.of.get(piece) {
            Some(Stream::Out) => out,
            Some(Stream::Err) => err,
            _ => &self.labels,
        }
    }

    /// Position of a piece in its source.
    pub fn offset(&self, piece: usize) -> u64 {
        match &self.numbers {
            Numbers::Offsets(base) => base + u64::from(self.pieces[piece].start),
            Numbers::From(first) => first + piece as u64,
            Numbers::Own(numbers) => numbers[piece],
        }
    }

    /// Header `meta` of a piece.
    pub fn meta(&self, piece: usize) -> Option<&Bytes> {
        self.metas.get(piece)?.as_ref()
    }

    /// Records, and bytes of what they were made from.
    fn size(&self) -> (usize, usize) {
        (self.pieces.len(), usize::try_from(self.taken.count.bytes).unwrap_or(usize::MAX))
    }

    /// Event time of a piece, and whether it was found in the line.
    pub fn time_ns(&self, piece: usize) -> (i64, bool) {
        match self.times.get(piece).copied().flatten() {
            Some(found) => (found, true),
            // Lines read at once get a nanosecond each, in order: clients page through answers by time.
            None => (self.read_ns.saturating_add(i64::try_from(piece).unwrap_or_default()), false),
        }
    }
}

/// Memory for what was read or pushed and not yet acknowledged: one for the agent.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    max: usize,
    /// Calls those who wait in async code; the reading thread has its own call.
    room: Notify,
}

impl Budget {
    pub fn new(max: usize) -> Self {
        Self { used: AtomicUsize::new(0), max, room: Notify::new() }
    }

    /// Takes a share if there is room; one share is always given, however large.
    pub fn take(&self, cost: usize) -> bool {
        self.take_more(cost, 0)
    }

    /// Takes more for who has a share already: as if it were asked for at once.
    fn take_more(&self, cost: usize, had: usize) -> bool {
        let add = |used: usize| (used <= had || used + cost <= self.max).then_some(used + cost);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).is_ok()
    }

    /// Takes what is used already, whether or not there is room.
    pub fn take_anyway(&self, cost: usize) {
        self.used.fetch_add(cost, Ordering::AcqRel);
    }

    async fn wait(&self, cost: usize, had: usize) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // Before looking, so that no call is missed between the look and the wait.
            room.as_mut().enable();
            if self.take_more(cost, had) {
                return;
            }
            room.await;
        }
    }

    pub fn give(&self, cost: usize) {
        if cost > 0 {
            self.used.fetch_sub(cost, Ordering::AcqRel);
            self.room.notify_waiters();
        }
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    pub fn max(&self) -> usize {
        self.max
    }
}

/// A share of the memory, given back unless it is kept.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    cost: usize,
}

impl Share {
    pub fn take(budget: &Arc<Budget>, cost: usize) -> Option<Self> {
        budget.take(cost).then(|| Self { budget: budget.clone(), cost })
    }

    /// None yet.
    pub fn none(budget: &Arc<Budget>) -> Self {
        Self { budget: budget.clone(), cost: 0 }
    }

    /// Takes more until it has so much, if there is room.
    pub fn grow_to(&mut self, cost: usize) -> bool {
        let more = cost.saturating_sub(self.cost);
        let grown = more == 0 || self.budget.take_more(more, self.cost);
        if grown {
            self.cost += more;
        }
        grown
    }

    /// Has exactly so much from now on, whether or not there is room.
    pub fn set(&mut self, cost: usize) {
        self.budget.take_anyway(cost);
        self.budget.give(std::mem::replace(&mut self.cost, cost));
    }

    /// Waits until it has so much.
    pub async fn wait_for(&mut self, cost: usize) {
        let more = cost.saturating_sub(self.cost);
        if more > 0 {
            self.budget.wait(more, self.cost).await;
            self.cost += more;
        }
    }

    /// Who keeps it gives it back.
    pub fn keep(mut self) -> usize {
        std::mem::take(&mut self.cost)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.give(self.cost);
    }
}

/// What lanes share.
pub(crate) struct LaneParts {
    pub producer: Arc<dyn BatchProducer>,
    pub state: Arc<State>,
    pub clock: SharedClock,
    pub budget: Arc<Budget>,
    pub wake: Wake,
    pub metrics: AgentMetrics,
    pub batch_records: usize,
    pub retry_initial: Duration,
    pub retry_max: Duration,
    pub dead_letter_topic: Arc<str>,
    /// Topics that transforms name.
    pub routes: Routes,
    pub conditions: Conditions,
    pub taps: Taps,
}

/// A record in a lane's batch: which haul, which piece.
pub(crate) type Place = (u32, u32);

/// How a request ended.
pub(crate) enum Sent {
    All,
    /// These were not taken and may be sent again.
    Again(Vec<Place>, ClientError),
    /// These were refused for good.
    Never(Vec<Place>, ClientError),
}

/// Records encoded between two chances for other tasks.
const ENCODE_TURN: usize = 1000;
/// What a record has beside its line, roughly: key, labels, the fixed header, lengths.
const RECORD_OVERHEAD: usize = 256;
/// Header `meta` of a line that is no UTF-8: the log keeps its bytes, who shows it puts U+FFFD.
pub(crate) const META_INVALID: &[u8] = br#"{"encoding":"invalid"}"#;

/// Whether a line is no UTF-8; a character that was cut at the limit does not make it so.
pub(crate) fn is_invalid(line: &[u8], cut: bool) -> bool {
    std::str::from_utf8(line).is_err_and(|error| !(cut && error.error_len().is_none()))
}

/// What is left of a request without those that failed.
pub(crate) fn taken(group: &[Place], failed: &[Place]) -> Vec<Place> {
    let failed: HashSet<Place> = failed.iter().copied().collect();
    group.iter().copied().filter(|place| !failed.contains(place)).collect()
}

/// An answer that takes longer is told.
const SLOW: Duration = Duration::from_secs(15);

/// Runs one lane until its queue is closed and empty, or `abort`.
pub(crate) async fn lane(
    parts: Arc<LaneParts>,
    to: TopicPartition,
    mut queue: mpsc::Receiver<Load>,
    flow: Arc<Flow>,
    abort: CancellationToken,
) -> Result<(), AgentError> {
    let mut lane = Lane { parts, to, worker: None, flow };
    let work = async {
        let mut pending: VecDeque<Haul> = VecDeque::new();
        loop {
            let first = match pending.pop_front() {
                Some(first) => first,
                None => match queue.recv().await {
                    Some(load) => {
                        load.add_to(&mut pending);
                        continue;
                    }
                    None => break,
                },
            };
            let transformed = first.source.chain().is_some();
            let (mut records, mut bytes) = first.size();
            let mut hauls = vec![first];
            while records < lane.parts.batch_records && bytes < lane.most() {
                if pending.is_empty() {
                    let Ok(more) = queue.try_recv() else { break };
                    more.add_to(&mut pending);
                }
                let Some(more) = pending.pop_front_if(|more| more.source.chain().is_some() == transformed) else {
                    break;
                };
                records += more.size().0;
                bytes += more.size().1;
                hauls.push(more);
            }
            if transformed {
                lane.deliver_transformed(hauls, &abort).await?;
                continue;
            }
            let dead = lane.deliver(&hauls).await?;
            let reason: Arc<str> = REASON_DEAD_LETTER.into();
            let mut lost = vec![Lost::new(); hauls.len()];
            for (h, p) in dead {
                let piece = hauls[h as usize].pieces[p as usize];
                *lost[h as usize].entry(reason.clone()).or_default() += piece.count();
            }
            lane.settle(&hauls, &lost);
        }
        Ok(())
    };
    tokio::select! {
        biased;
        () = abort.cancelled() => Ok(()),
        done = work => done,
    }
}

pub(crate) struct Lane {
    pub parts: Arc<LaneParts>,
    pub to: TopicPartition,
    /// For sources with transforms; made when it is first needed.
    pub worker: Option<Worker>,
    flow: Arc<Flow>,
}

impl Lane {
    /// Bytes of lines in the next request, about.
    pub fn most(&self) -> usize {
        self.flow.batch_bytes()
    }

    /// Sends every record of the hauls; returns those that went to the dead letters. Does not end before all are taken.
    async fn deliver(&self, hauls: &[Haul]) -> Result<HashSet<Place>, AgentError> {
        let mut dead = HashSet::new();
        let mut groups: VecDeque<Vec<Place>> = VecDeque::new();
        // What files gave fits mostly into one request; a push may have much more.
        let most_bytes = self.most() / 4 * 5;
        let mut group: Vec<Place> = Vec::with_capacity(hauls.iter().map(|h| h.pieces.len()).sum());
        let mut bytes = 0;
        for (h, haul) in hauls.iter().enumerate() {
            for (p, piece) in haul.pieces.iter().enumerate() {
                if group.len() >= self.parts.batch_records || bytes >= most_bytes {
                    groups.push_back(std::mem::take(&mut group));
                    bytes = 0;
                }
                group.push((small(h), small(p)));
                bytes += piece.span as usize;
            }
        }
        if !group.is_empty() {
            groups.push_back(group);
        }
        let mut backoff = Backoff::new(&self.parts);
        while let Some(group) = groups.pop_front() {
            let records = self.encode(hauls, &group).await;
            match self.send(&self.to, records, &group).await {
                Sent::All => {
                    self.show_sent(hauls, &group, &[]);
                    backoff.reset(&self.to);
                }
                Sent::Again(failed, error) => {
                    self.show_sent(hauls, &group, &failed);
                    self.keep_order(hauls, &group, &failed).await?;
                    groups.push_front(failed);
                    self.parts.metrics.retries.inc();
                    backoff.wait(&self.to, &error).await;
                }
                Sent::Never(failed, error) => match failed[..] {
                    [place] => {
                        let Some(record) = self.encode(hauls, &failed).await.to_records().pop() else { continue };
                        let reason = error.to_string();
                        self.bury(record, &self.to, &reason).await;
                        self.parts.taps.sent(hauls, &failed, &self.to, Some(&reason));
                        dead.insert(place);
                    }
                    // One of them spoils the request for all: find out which.
                    _ => {
                        self.show_sent(hauls, &group, &failed);
                        self.keep_order(hauls, &group, &failed).await?;
                        for place in failed.into_iter().rev() {
                            groups.push_front(vec![place]);
                        }
                    }
                },
            }
        }
        Ok(dead)
    }

    /// To whoever looks.
    fn show_sent(&self, hauls: &[Haul], group: &[Place], failed: &[Place]) {
        let taps = &self.parts.taps;
        if !taps.is_idle() {
            taps.sent(hauls, &taken(group, failed), &self.to, None);
        }
    }

    pub async fn send(&self, to: &TopicPartition, records: Records, group: &[Place]) -> Sent {
        let answer = self.parts.producer.send_encoded(to, records);
        tokio::pin!(answer);
        let (mut silent, began) = (None, tokio::time::Instant::now());
        let answer = loop {
            match tokio::time::timeout(SLOW, &mut answer).await {
                Ok(answer) => break answer,
                Err(_) => {
                    silent.get_or_insert_with(|| Trouble::new(&self.parts.conditions, to)).tell("log does not answer");
                    tracing::warn!(partition = %to, records = group.len(), "log does not answer, the agent waits and stops reading: is the broker running and `kafka.brokers` right?");
                }
            }
        };
        self.flow.answered(began.elapsed());
        match answer {
            Ok(_) => Sent::All,
            Err(error) => {
                let ClientError::Refused { failed, retriable, source, .. } = &error else {
                    return Sent::Again(group.to_vec(), error);
                };
                let places: Vec<Place> = failed.iter().filter_map(|i| group.get(*i).copied()).collect();
                if places.is_empty() {
                    return if failed.is_empty() { Sent::All } else { Sent::Again(group.to_vec(), error) };
                }
                if *retriable || !blames_record(source.rdkafka_error_code()) {
                    Sent::Again(places, error)
                } else {
                    Sent::Never(places, error)
                }
            }
        }
    }

    /// A source some of whose failed records stand before taken ones goes on under a new id.
    /// Answers whether one did.
    pub async fn keep_order(&self, hauls: &[Haul], group: &[Place], failed: &[Place]) -> Result<bool, AgentError> {
        let failed: HashSet<Place> = failed.iter().copied().collect();
        let mut waiting: HashSet<usize> = HashSet::new();
        let mut overtaken: Vec<Arc<dyn Feed>> = Vec::new();
        for place in group {
            let source = &hauls[place.0 as usize].source;
            let number = Arc::as_ptr(source).cast::<()>() as usize;
            if failed.contains(place) {
                waiting.insert(number);
            } else if waiting.remove(&number) && !overtaken.iter().any(|s| Arc::ptr_eq(s, source)) {
                overtaken.push(source.clone());
            }
        }
        let moved = !overtaken.is_empty();
        for source in overtaken {
            let state = self.parts.state.clone();
            tracing::error!(source = %source.name(), partition = %self.to, "log took later lines of a source before earlier ones: it goes on under a new source id, some lines may come twice; leave kafka.options enable.idempotence and message.timeout.ms as they are");
            self.parts.metrics.moved_sources.inc();
            match tokio::task::spawn_blocking(move || source.move_on(&state)).await {
                Ok(moved) => moved?,
                Err(_) => return Err(AgentError::Ended { part: "writer of positions" }),
            }
        }
        Ok(moved)
    }

    /// Straight from the bytes that were read into a record batch: nothing is allocated for a line.
    async fn encode(&self, hauls: &[Haul], places: &[Place]) -> Records {
        let piece_of = |(h, p): &Place| &hauls[*h as usize].pieces[*p as usize];
        let size = |place: &Place| {
            let meta = hauls[place.0 as usize].meta(place.1 as usize).map_or(0, Bytes::len);
            piece_of(place).len as usize + meta + RECORD_OVERHEAD
        };
        let bytes: usize = places.iter().map(size).sum();
        let mut records = self.parts.producer.spare(&self.to);
        records.reserve(bytes, places.len());
        let mut at = usize::MAX;
        let mut identity = None;
        for (n, (h, p)) in places.iter().enumerate() {
            let haul = &hauls[*h as usize];
            if at != *h as usize {
                at = *h as usize;
                identity = Some(haul.source.identity());
            }
            let Some(identity) = &identity else { continue };
            let piece = haul.pieces[*p as usize];
            let (time_ns, time_from_line) = haul.time_ns(*p as usize);
            let position = Position::at(haul.offset(*p as usize));
            let cut = piece.cut;
            let fixed = Fixed { time_ns, source: identity.id, position, cut, time_from_line }.encode();
            let labels = (HEADER_LABELS.as_bytes(), &haul.labels(*p as usize)[..]);
            let fixed = (HEADER_FIXED.as_bytes(), &fixed[..]);
            let start = piece.start as usize;
            let line = &haul.window[start..start + piece.len as usize];
            let mut headers: [HeaderRef<'_>; 4] = [labels; 4];
            let mut count = 1;
            if let Some(meta) = haul.meta(*p as usize) {
                headers[count] = (HEADER_META.as_bytes(), &meta[..]);
                count += 1;
            } else if is_invalid(line, cut) {
                headers[count] = (HEADER_META.as_bytes(), META_INVALID);
                count += 1;
            }
            if let Some(tenant) = &haul.tenant {
                headers[count] = (HEADER_TENANT.as_bytes(), &tenant[..]);
                count += 1;
            }
            headers[count] = fixed;
            let time_ms = kafka_timestamp_ms(time_ns, haul.read_ns.div_euclid(1_000_000));
            records.push(time_ms, Some(&identity.key), Some(line), &headers[..=count]);
            if n % ENCODE_TURN == ENCODE_TURN - 1 {
                tokio::task::yield_now().await;
            }
        }
        records
    }

    /// Sends a record that the log refuses for good to the dead letters; does not end before it is there.
    pub async fn bury(&self, record: Record, from: &TopicPartition, reason: &str) {
        let parts = &self.parts;
        tracing::error!(partition = %from, reason, topic = %parts.dead_letter_topic, "log refuses a record for good, it goes to the dead letters");
        let mut record = dead_letter(record, "agent", reason, &from.to_string(), parts.clock.now_ms());
        let to = TopicPartition::new(parts.dead_letter_topic.clone(), 0);
        let mut backoff = Backoff::new(parts);
        loop {
            let made = parts.producer.ensure_topic(&to.topic, 1).await;
            let error = match made {
                Err(error) => error,
                Ok(_) => match self.send(&to, Records::from_records(std::slice::from_ref(&record)), &[(0, 0)]).await {
                    Sent::All => return,
                    Sent::Again(_, error) => error,
                    Sent::Never(_, error) => {
                        // Too large even for the dead letters: its head is better than nothing.
                        let value = record.value.take().unwrap_or_default();
                        let len = value.len();
                        if len > 1024 {
                            record.headers.push(("cut_from_bytes".into(), len.to_string().into()));
                            record.value = Some(value.slice(..len / 2));
                            continue;
                        }
                        record.value = Some(value);
                        error
                    }
                },
            };
            parts.metrics.retries.inc();
            backoff.wait(&to, &error).await;
        }
    }

    /// All hauls are acknowledged, but for what each of them lost.
    pub fn settle(&self, hauls: &[Haul], losses: &[Lost]) {
        let m = &self.parts.metrics;
        for (haul, losses) in hauls.iter().zip(losses) {
            haul.source.settle(haul.to, haul.taken, losses);
            let all = haul.taken.count;
            let mut lost = Count::default();
            for (reason, count) in losses {
                lost += *count;
                let reason = Reason { reason: reason.to_string().into() };
                m.dropped_lines.get_or_create(&reason).inc_by(count.lines);
                m.dropped_bytes.get_or_create(&reason).inc_by(count.bytes);
            }
            m.sent_lines.inc_by(all.lines - lost.lines);
            m.sent_bytes.inc_by(all.bytes - lost.bytes - haul.taken.skipped);
            m.sent_records.inc_by(all.records - lost.records);
            if haul.taken.skipped > 0 {
                m.dropped_bytes.get_or_create(&Reason { reason: REASON_CUT.into() }).inc_by(haul.taken.skipped);
            }
            m.waiting_lines.dec_by(i64::try_from(all.lines).unwrap_or(i64::MAX));
            self.parts.budget.give(haul.cost);
            if let Some(behind) = &haul.behind {
                behind.give();
            }
            if let Some(done) = &haul.done {
                done.settle();
            }
        }
        m.waiting_bytes.set(i64::try_from(self.parts.budget.used()).unwrap_or(i64::MAX));
        self.parts.wake.room();
    }
}

pub(crate) fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Whether the record itself is refused; what is refused for want of a right or a topic is waited for.
fn blames_record(code: Option<RDKafkaErrorCode>) -> bool {
    use RDKafkaErrorCode as C;
    matches!(
        code,
        Some(
            C::MessageSizeTooLarge
                | C::InvalidMessage
                | C::InvalidMessageSize
                | C::InvalidTimestamp
                | C::InvalidRecord
                | C::PolicyViolation
        )
    )
}

/// Waits between attempts, longer each time, and tells once when trouble starts and once when it ends.
pub(crate) struct Backoff {
    initial: Duration,
    max: Duration,
    next: Duration,
    attempts: u64,
    conditions: Conditions,
    trouble: Option<Trouble>,
}

/// What the log says about a partition, shown until this is dropped.
struct Trouble {
    conditions: Conditions,
    of: String,
}

impl Trouble {
    fn new(conditions: &Conditions, of: &TopicPartition) -> Self {
        Self { conditions: conditions.clone(), of: of.to_string() }
    }

    fn tell(&self, what: &str) {
        self.conditions.trouble(&self.of, Some(what.to_owned()));
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.conditions.trouble(&self.of, None);
    }
}

impl Backoff {
    pub fn new(parts: &LaneParts) -> Self {
        let (initial, max) = (parts.retry_initial, parts.retry_max);
        Self { initial, max, next: initial, attempts: 0, conditions: parts.conditions.clone(), trouble: None }
    }

    pub async fn wait(&mut self, to: &TopicPartition, error: &ClientError) {
        self.attempts += 1;
        let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        let trouble = self.trouble.get_or_insert_with(|| Trouble::new(&self.conditions, to));
        trouble.tell(&format!("{error}: {cause} (attempt {})", self.attempts));
        if self.attempts == 1 || self.attempts.is_multiple_of(30) {
            tracing::warn!(partition = %to, %error, cause, attempts = self.attempts, "log did not take lines, they are sent again until it does");
        }
        // Half to whole: lanes of many hosts don't come back at the same moment.
        let wait = self.next.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        self.next = (self.next * 2).min(self.max);
        tokio::time::sleep(wait).await;
    }

    pub fn reset(&mut self, to: &TopicPartition) {
        if self.attempts > 0 {
            tracing::info!(partition = %to, attempts = self.attempts, "log takes lines again");
        }
        self.attempts = 0;
        self.next = self.initial;
        self.trouble = None;
    }
}
