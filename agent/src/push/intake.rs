//! The way in for sources that are no files: batches of records, each with a receipt for the log's acknowledgement.
//!
//! In: lines with labels, and maybe times, metadata, tenants. Out: [`Load`]s into the lanes' queues. Touches the state,
//! where numbers must be reserved. See [`crate::push`] for what holds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millrace_log::clock::SharedClock;
use millrace_log::record::{Labels, Tenant};
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot, watch};

use super::Rejected;
use super::receiver::{Inlet, Receiver, Stream};
use super::spool::{Frame, Job, SpoolDoor};
use crate::error::AgentError;
use crate::feed::Done;
use crate::ledger::Count;
use crate::metrics::{AgentMetrics, Reason, Refused};
use crate::producer::{Budget, Haul, Load, Numbers, Share, is_invalid};
use crate::source::{Anchor, Taken};
use crate::split::Piece;
use crate::state::State;
use crate::tap::Taps;

/// A haul that has so much is followed by another.
const HAUL_BYTES: usize = 256 << 10;
/// Records in a haul at most.
const HAUL_RECORDS: usize = 4096;
/// Memory that a haul takes besides its bytes.
const HAUL_COST: usize = 768;
/// Memory that a record takes besides its bytes.
const RECORD_COST: usize = 48;

/// Where a receiver's records go.
#[derive(Debug)]
pub(crate) struct Outlets {
    pub lanes: Vec<mpsc::Sender<Load>>,
    pub inlets: Vec<Arc<Inlet>>,
    /// Who waits for room in several lanes holds it: two that wait for each other's would wait for ever.
    pub turn: Arc<tokio::sync::Mutex<()>>,
}

/// Whether records are taken.
#[derive(Debug, Clone)]
pub(crate) enum Gate {
    /// The log did not say yet how many partitions there are.
    NotYet,
    Open(Arc<Outlets>),
    Closed,
}

/// What all intakes of an agent share.
pub(crate) struct Shared {
    pub budget: Arc<Budget>,
    pub state: Arc<State>,
    pub clock: SharedClock,
    pub metrics: AgentMetrics,
    pub taps: Taps,
    /// Whether there is a spool.
    pub spooled: bool,
    /// The way into it, until the agent stops.
    pub spool: RwLock<Option<Arc<SpoolDoor>>>,
}

impl Shared {
    fn spool(&self) -> Result<Option<Arc<SpoolDoor>>, Rejected> {
        let door = self.spool.read().clone();
        if self.spooled && door.is_none() { Err(Rejected::Stopping) } else { Ok(door) }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shared({:?})", self.budget)
    }
}

/// The way in for one source. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Intake {
    receiver: Arc<Receiver>,
    gate: watch::Receiver<Gate>,
    shared: Arc<Shared>,
}

/// One record as its source has it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Line<'a> {
    /// The line, without its line end.
    pub text: &'a [u8],
    /// Event time, ns since 1970. `None`: found in the line if the source's `timestamp` says how, else the time of now.
    pub time_ns: Option<i64>,
    /// Structured metadata.
    pub metadata: Option<&'a Labels>,
}

/// Comes true when the log has a batch.
#[derive(Debug)]
pub struct Receipt {
    answer: oneshot::Receiver<bool>,
    spooled: bool,
}

impl Receipt {
    /// Waits until the log has the batch, or it is sure that this run of the agent will not bring it there.
    pub async fn acknowledged(self) -> Result<(), Rejected> {
        match self.answer.await {
            Ok(true) => Ok(()),
            Ok(false) if self.spooled => Err(Rejected::Spool),
            Ok(false) | Err(_) => Err(Rejected::Stopping),
        }
    }
}

impl Intake {
    pub(crate) fn new(receiver: Arc<Receiver>, gate: watch::Receiver<Gate>, shared: Arc<Shared>) -> Self {
        Self { receiver, gate, shared }
    }

    /// The source's name.
    pub fn name(&self) -> &str {
        &self.receiver.settings.name
    }

    /// Longest line; longer ones are cut and marked.
    pub fn max_line(&self) -> usize {
        self.receiver.settings.max_line
    }

    /// The time of now, ns since 1970.
    pub fn now_ns(&self) -> i64 {
        self.shared.clock.now_ns()
    }

    /// The stream of these labels and this tenant; the source's own labels win, its own tenant stands in for none.
    pub fn stream(&self, labels: &Labels, tenant: Option<&Tenant>) -> Result<Stream, Rejected> {
        let before = self.receiver.streams();
        let stream = self.receiver.stream(labels, tenant, self.shared.clock.now_ms());
        let after = self.receiver.streams();
        if before != after {
            let (before, after) = (i64::try_from(before).unwrap_or_default(), i64::try_from(after).unwrap_or_default());
            self.shared.metrics.push_streams.inc_by(after - before);
        }
        stream.inspect_err(|error| self.refused(error))
    }

    /// An empty batch.
    pub fn batch(&self) -> Batch {
        Batch {
            intake: self.clone(),
            parts: Vec::new(),
            open: HashMap::new(),
            share: Share::none(&self.shared.budget),
            cost: 0,
            read_ns: self.now_ns(),
        }
    }

    /// Records that the source had to drop: the ledger counts them as read and dropped, under a reason of one word.
    pub fn dropped(&self, reason: &'static str, lines: u64, bytes: u64) {
        self.receiver.lose(&reason.into(), Count { lines, bytes, records: lines });
        let (m, reason) = (&self.shared.metrics, Reason { reason: reason.into() });
        m.read_lines.inc_by(lines);
        m.read_bytes.inc_by(bytes);
        m.dropped_lines.get_or_create(&reason).inc_by(lines);
        m.dropped_bytes.get_or_create(&reason).inc_by(bytes);
    }

    /// What the source asked to be kept for its next start: a cursor of its own.
    pub fn bookmark(&self) -> Option<Bytes> {
        self.receiver.bookmark()
    }

    /// Keeps a cursor; durable with the next checkpoint. To be called when the receipts of all that it stands behind
    /// have come true.
    pub fn keep_bookmark(&self, bookmark: Bytes) {
        self.receiver.keep_bookmark(bookmark);
    }

    /// The same, durable when this returns.
    pub async fn keep_bookmark_now(&self, bookmark: Bytes) -> Result<(), AgentError> {
        self.receiver.keep_bookmark_now(bookmark, &self.shared.state).await
    }

    /// Number of partitions that records are spread over. Waits for the log; with a spool, 0 if it was never reached.
    pub(crate) async fn lanes(&self) -> Result<usize, Rejected> {
        match self.shared.spool()? {
            Some(_) => Ok(self.receiver.lane_count()),
            None => Ok(self.wait_for_outlets().await?.lanes.len()),
        }
    }

    /// The agent's counters.
    pub(crate) fn metrics(&self) -> &AgentMetrics {
        &self.shared.metrics
    }

    /// Whether pushes are taken: `Err` while the log was not reached yet, and at the stop.
    pub fn ready(&self) -> Result<(), Rejected> {
        match self.shared.spool()? {
            Some(_) => Ok(()),
            None => self.outlets().map(drop),
        }
    }

    fn outlets(&self) -> Result<Arc<Outlets>, Rejected> {
        match &*self.gate.borrow() {
            Gate::Open(outlets) => Ok(Arc::clone(outlets)),
            Gate::NotYet => Err(Rejected::NotReady),
            Gate::Closed => Err(Rejected::Stopping),
        }
    }

    async fn wait_for_outlets(&self) -> Result<Arc<Outlets>, Rejected> {
        let mut gate = self.gate.clone();
        let found = gate.wait_for(|gate| !matches!(gate, Gate::NotYet)).await.map_err(|_| Rejected::Stopping)?;
        match &*found {
            Gate::Open(outlets) => Ok(Arc::clone(outlets)),
            _ => Err(Rejected::Stopping),
        }
    }

    /// Counts a refusal.
    pub(crate) fn refused(&self, why: &Rejected) {
        let refused = Refused { source: self.name().to_owned(), reason: why.reason() };
        self.shared.metrics.refused.get_or_create(&refused).inc();
    }
}

/// Records of one stream, as long as a haul.
#[derive(Debug)]
struct Part {
    stream: Stream,
    window: Vec<u8>,
    pieces: Vec<Piece>,
    times: Vec<Option<i64>>,
    metas: Vec<Option<Bytes>>,
    /// Empty unless the source numbers its records itself.
    numbers: Vec<u64>,
    skipped: u64,
}

impl Part {
    fn new(stream: &Stream) -> Self {
        Self {
            stream: stream.clone(),
            window: Vec::new(),
            pieces: Vec::new(),
            times: Vec::new(),
            metas: Vec::new(),
            numbers: Vec::new(),
            skipped: 0,
        }
    }

    fn is_full(&self, more: usize) -> bool {
        self.pieces.len() >= HAUL_RECORDS || !self.pieces.is_empty() && self.window.len() + more > HAUL_BYTES
    }

    fn count(&self) -> Count {
        let bytes = self.window.len() as u64 + self.skipped;
        Count { lines: self.pieces.len() as u64, bytes, records: self.pieces.len() as u64 }
    }
}

/// Records that are handed in together and acknowledged together. The order of a stream's records stays.
#[derive(Debug)]
pub struct Batch {
    intake: Intake,
    parts: Vec<Part>,
    /// The part that takes a stream's next record.
    open: HashMap<usize, usize>,
    share: Share,
    cost: usize,
    read_ns: i64,
}

impl Batch {
    /// Adds a record.
    pub fn push(&mut self, stream: &Stream, line: Line<'_>) {
        let number = Arc::as_ptr(&stream.0) as usize;
        let room = line.text.len().min(self.intake.max_line());
        let at = match self.open.get(&number) {
            Some(at) if !self.parts[*at].is_full(room) => *at,
            _ => self.begin(stream),
        };
        self.add(at, line);
    }

    /// Adds a record under a number of the source's own: numbers rise within a batch and from batch to batch, over
    /// restarts too. A source numbers all of its records or none.
    pub fn push_numbered(&mut self, stream: &Stream, number: u64, line: Line<'_>) {
        let room = line.text.len().min(self.intake.max_line());
        // Within a partition numbers must rise: only neighbours share a part.
        let at = match self.parts.last() {
            Some(last) if Arc::ptr_eq(&last.stream.0, &stream.0) && !last.is_full(room) => self.parts.len() - 1,
            _ => self.begin(stream),
        };
        self.parts[at].numbers.push(number);
        self.add(at, line);
    }

    fn begin(&mut self, stream: &Stream) -> usize {
        self.parts.push(Part::new(stream));
        self.cost += HAUL_COST;
        let at = self.parts.len() - 1;
        self.open.insert(Arc::as_ptr(&stream.0) as usize, at);
        at
    }

    fn add(&mut self, at: usize, line: Line<'_>) {
        let settings = &self.intake.receiver.settings;
        let part = &mut self.parts[at];
        let cut = line.text.len() > settings.max_line;
        let text = line.text.get(..settings.max_line).unwrap_or(line.text);
        let time = line.time_ns.or_else(|| {
            let found = settings.time.as_ref()?.read(text, self.read_ns);
            if found.is_none() {
                self.intake.shared.metrics.untimed_lines.inc();
            }
            found
        });
        let n = part.pieces.len();
        if time.is_some() && part.times.is_empty() {
            part.times.resize(n, None);
        }
        if time.is_some() || !part.times.is_empty() {
            part.times.push(time);
        }
        let meta = line.metadata.filter(|metadata| !metadata.is_empty()).map(|metadata| {
            if is_invalid(text, cut) {
                return Bytes::from(metadata.with("encoding", "invalid").to_json());
            }
            Bytes::from(metadata.to_json())
        });
        self.cost += text.len() + text.len() / 4 + RECORD_COST + meta.as_ref().map_or(0, |meta| meta.len() + 32);
        if meta.is_some() && part.metas.is_empty() {
            part.metas.resize(n, None);
        }
        if meta.is_some() || !part.metas.is_empty() {
            part.metas.push(meta);
        }
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (start, len) = (small(part.window.len()), small(text.len()));
        part.pieces.push(Piece { start, len, span: len, lines: 1, cut });
        part.window.extend_from_slice(text);
        part.skipped += (line.text.len() - text.len()) as u64;
    }

    /// Number of its records.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.pieces.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Bytes of its lines.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.count().bytes).sum()
    }

    /// Memory that it will take while it waits for the log, about.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// Takes a share of the agent's memory ahead, while a request is still coming in: `false` if there is no room.
    pub fn reserve(&mut self, bytes: usize) -> bool {
        self.share.grow_to(bytes)
    }

    /// Hands the batch in if there is room for it now: for sources that can't wait.
    pub fn offer(mut self) -> Result<Receipt, Rejected> {
        let intake = self.intake.clone();
        let offered = (|| {
            if let Some(door) = intake.shared.spool()? {
                return self.spool_now(&door);
            }
            let outlets = intake.outlets()?;
            if !self.share.grow_to(self.cost) {
                return Err(Rejected::Full { what: "memory (agent.max_waiting_bytes)" });
            }
            let mut permits = Vec::new();
            for lane in self.lanes(outlets.lanes.len()) {
                match outlets.lanes[lane].try_reserve() {
                    Ok(permit) => permits.push((lane, permit)),
                    Err(mpsc::error::TrySendError::Full(())) => {
                        return Err(Rejected::Full { what: "a queue (agent.queue_pieces)" });
                    }
                    Err(mpsc::error::TrySendError::Closed(())) => return Err(Rejected::Stopping),
                }
            }
            match self.dispatch(&outlets, permits) {
                Ok(receipt) => Ok(receipt),
                Err((_, Some(error))) => Err(error),
                // The next block of numbers is not on the disk yet: whoever waits for it brings it there.
                Err((_, None)) => Err(Rejected::Full { what: "the block of numbers" }),
            }
        })();
        offered.inspect_err(|error| intake.refused(error))
    }

    /// Hands the batch in, waiting for room as long as it takes. Dropping the call before it is done hands nothing in.
    pub async fn send(mut self) -> Result<Receipt, Rejected> {
        let intake = self.intake.clone();
        if let Some(door) = intake.shared.spool()? {
            return self.spool(&door).await;
        }
        let outlets = intake.wait_for_outlets().await?;
        self.share.wait_for(self.cost).await;
        loop {
            // Some in hand, so that an `offer` finds numbers as well.
            let wanted = (self.len() as u64).saturating_mul(2);
            let reserved = intake.receiver.reserve(wanted, &intake.shared.state).await;
            reserved.map_err(|error| Rejected::State { source: Arc::new(error) })?;
            let permits = {
                let _turn = outlets.turn.lock().await;
                let mut permits = Vec::new();
                for lane in self.lanes(outlets.lanes.len()) {
                    permits.push((lane, outlets.lanes[lane].reserve().await.map_err(|_| Rejected::Stopping)?));
                }
                permits
            };
            match self.dispatch(&outlets, permits) {
                Ok(receipt) => return Ok(receipt),
                Err((_, Some(error))) => return Err(error),
                // Others took them: once more.
                Err((back, None)) => self = back,
            }
        }
    }

    /// As [`Batch::send`], but refused as [`Rejected::Full`] if there is no room within `patience`.
    pub async fn send_within(self, patience: Duration) -> Result<Receipt, Rejected> {
        let intake = self.intake.clone();
        let sent = match tokio::time::timeout(patience, self.send()).await {
            Ok(sent) => sent,
            Err(_) => match intake.ready() {
                Ok(()) => Err(Rejected::Full { what: "memory or queues (agent.max_waiting_bytes)" }),
                Err(error) => Err(error),
            },
        };
        sent.inspect_err(|error| intake.refused(error))
    }

    /// The lanes that it has something for.
    fn lanes(&self, count: usize) -> Vec<usize> {
        let mut lanes: Vec<usize> = self.parts.iter().map(|part| lane_of(&part.stream, count)).collect();
        lanes.sort_unstable();
        lanes.dedup();
        lanes
    }

    /// Numbers the records and puts them into the queues. Given back with no error if there are not enough numbers.
    #[allow(clippy::result_large_err)] // moved on at once
    fn dispatch(
        self,
        outlets: &Outlets,
        permits: Vec<(usize, mpsc::Permit<'_, Load>)>,
    ) -> Result<Receipt, (Self, Option<Rejected>)> {
        let records = self.len() as u64;
        let (dones, answer) = Done::parts(self.parts.len());
        let receiver = Arc::clone(&self.intake.receiver);
        let own = self.parts.first().and_then(|part| part.numbers.first()).copied();
        let last = self.parts.last().and_then(|part| part.numbers.last()).copied();
        // Whatever is numbered under the lock stands in the queues before the lock is given up: numbers rise there.
        let mut back = Some(self);
        let give = |first: Option<u64>| {
            if let Some(batch) = back.take() {
                batch.enqueue(outlets, permits, dones, first);
            }
        };
        let given = match own {
            None => receiver.number(records, |first| give(Some(first))).ok_or(None),
            Some(first) => receiver.own_numbers(first, last.unwrap_or(first), || give(None)).map_err(Some),
        };
        match (given, back) {
            (Err(error), Some(batch)) => Err((batch, error)),
            _ => Ok(Receipt { answer, spooled: false }),
        }
    }

    fn spool_now(mut self, door: &SpoolDoor) -> Result<Receipt, Rejected> {
        if !self.share.grow_to(self.cost) {
            return Err(Rejected::Full { what: "memory (agent.max_waiting_bytes)" });
        }
        let Some(space) = Share::take(&door.space, self.cost) else {
            return Err(Rejected::Full { what: "the spool (agent.spool.max_bytes)" });
        };
        let Ok(permit) = door.jobs.try_reserve() else { return Err(Rejected::Full { what: "the queue of the spool" }) };
        match self.hand_to(permit, space) {
            Ok(receipt) => Ok(receipt),
            Err((_, _, Some(error))) => Err(error),
            Err((_, _, None)) => Err(Rejected::Full { what: "the block of numbers" }),
        }
    }

    async fn spool(mut self, door: &SpoolDoor) -> Result<Receipt, Rejected> {
        let shared = Arc::clone(&self.intake.shared);
        self.share.wait_for(self.cost).await;
        let mut space = Share::none(&door.space);
        space.wait_for(self.cost).await;
        loop {
            let wanted = (self.len() as u64).saturating_mul(2);
            let reserved = self.intake.receiver.reserve(wanted, &shared.state).await;
            reserved.map_err(|error| Rejected::State { source: Arc::new(error) })?;
            let permit = door.jobs.reserve().await.map_err(|_| Rejected::Stopping)?;
            match self.hand_to(permit, space) {
                Ok(receipt) => return Ok(receipt),
                Err((_, _, Some(error))) => return Err(error),
                // Others took them: once more.
                Err((back, kept, None)) => (self, space) = (back, kept),
            }
        }
    }

    /// Numbers the records and hands them to the spool's writer, in one turn: numbers rise on the disk.
    #[allow(clippy::result_large_err)] // moved on at once
    fn hand_to(self, permit: mpsc::Permit<'_, Job>, space: Share) -> Result<Receipt, (Self, Share, Option<Rejected>)> {
        let records = self.len() as u64;
        let own = self.parts.first().and_then(|part| part.numbers.first()).copied();
        let last = self.parts.last().and_then(|part| part.numbers.last()).copied();
        let receiver = Arc::clone(&self.intake.receiver);
        let (dones, answer) = Done::parts(1);
        let mut back = Some((self, space));
        let give = |first: u64| {
            if let Some((batch, space)) = back.take() {
                permit.send(batch.into_job(first, dones, space));
            }
        };
        let given = match own {
            None => receiver.number(records, give).ok_or(None),
            Some(first) => receiver.own_numbers(first, last.unwrap_or(first), || give(first)).map_err(Some),
        };
        match (given, back) {
            (Err(error), Some((batch, space))) => Err((batch, space, error)),
            _ => Ok(Receipt { answer, spooled: true }),
        }
    }

    fn into_job(self, first: u64, dones: Vec<Done>, space: Share) -> Job {
        let receiver = Arc::clone(&self.intake.receiver);
        let lanes = match &*self.intake.gate.borrow() {
            Gate::Open(outlets) => Some(outlets.lanes.len()),
            _ => None,
        };
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let mut next = first;
        let frame = |part: Part| {
            let hash = part.stream.0.hash;
            let first = next;
            next += part.pieces.len() as u64;
            let cut = part.pieces.iter().enumerate().filter(|(_, piece)| piece.cut).map(|(n, _)| n).collect::<Vec<_>>();
            self.intake.shared.metrics.cut_lines.inc_by(cut.len() as u64);
            Frame {
                source: receiver.settings.name.to_string(),
                labels: text(&part.stream.0.labels),
                tenant: part.stream.0.tenant.as_ref().map(text),
                hash,
                lane: lanes.map_or_else(|| receiver.lane_of(hash), |_| Some(lane_of(&part.stream, lanes.unwrap_or(1)))),
                first,
                own: part.numbers,
                read_ns: self.read_ns,
                lens: part.pieces.iter().map(|piece| piece.len).collect(),
                cut,
                times: part.times,
                metas: part.metas.iter().map(|meta| meta.as_ref().map(text)).collect(),
                skipped: part.skipped,
                window: part.window.into(),
            }
        };
        let frames = self.parts.into_iter().map(frame).collect();
        Job { frames, dones, receiver: Arc::clone(&self.intake.receiver), memory: self.share, space }
    }

    fn enqueue(
        self,
        outlets: &Outlets,
        permits: Vec<(usize, mpsc::Permit<'_, Load>)>,
        dones: Vec<Done>,
        first: Option<u64>,
    ) {
        let intake = &self.intake;
        let mut next = first;
        let mut loads: HashMap<usize, Vec<Haul>> = HashMap::new();
        let (mut count, mut cut) = (Count::default(), 0);
        // What is left over from an estimate goes back; the first haul keeps what can't be told apart.
        let (mut left, parts) = (self.cost, self.parts.len().max(1));
        let share = left / parts;
        let held = self.share.keep();
        intake.shared.budget.give(held.saturating_sub(self.cost));
        for (n, (part, done)) in self.parts.into_iter().zip(dones).enumerate() {
            let lane = lane_of(&part.stream, outlets.lanes.len());
            let Some(inlet) = outlets.inlets.get(lane) else { continue };
            let taken = Taken { count: part.count(), skipped: part.skipped };
            count += taken.count;
            cut += part.pieces.iter().filter(|piece| piece.cut).count() as u64;
            let cost = if n + 1 == parts { left } else { share };
            left -= cost;
            let numbers = match &mut next {
                Some(next) => Numbers::From(std::mem::replace(next, *next + part.pieces.len() as u64)),
                None => Numbers::Own(part.numbers),
            };
            loads.entry(lane).or_default().push(Haul {
                source: Arc::clone(inlet) as _,
                labels: part.stream.0.labels.clone(),
                streams: None,
                tenant: part.stream.0.tenant.clone(),
                window: part.window.into(),
                numbers,
                pieces: part.pieces,
                times: part.times,
                metas: part.metas,
                to: Anchor::default(),
                taken,
                read_ns: self.read_ns,
                cost,
                behind: None,
                done: Some(done),
            });
        }
        intake.receiver.took(count);
        let m = &intake.shared.metrics;
        m.read_lines.inc_by(count.lines);
        m.read_bytes.inc_by(count.bytes);
        m.cut_lines.inc_by(cut);
        m.waiting_lines.inc_by(i64::try_from(count.lines).unwrap_or(i64::MAX));
        for (lane, permit) in permits {
            if let Some(hauls) = loads.remove(&lane) {
                hauls.iter().for_each(|haul| intake.shared.taps.read(haul));
                permit.send(Load::Many(hauls));
            }
        }
    }
}

fn lane_of(stream: &Stream, lanes: usize) -> usize {
    stream.0.hash as usize % lanes.max(1)
}
