//! Intake: the way into the agent for sources that are not files, batch by batch, each with a receipt.
//!
//! In: lines with labels, and maybe times, metadata, tenants. Out: batches in the queues of the senders, or in the spool.
//! Touches the state, where numbers must be reserved. See `push/mod.rs` for what holds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millrace_doors::identity::Client;
use millrace_log::clock::SharedClock;
use millrace_log::record::{Labels, Tenant};
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot, watch};

use super::exit::{Exit, Gate, Outlets, Room};
use super::receiver::Receiver;
use super::records::{BATCH_COST, Line, StreamRecords};
use super::rejected::Rejected;
use super::spool::{Job, SpoolQueue};
use super::streams::Stream;
use crate::batch::{BatchAck, MemoryBudget, MemoryShare, QueuedBatches, SourceBatch};
use crate::error::AgentError;
use crate::ledger::Count;
use crate::metrics::{AgentMetrics, Reason, Refused};
use crate::state::State;
use crate::tap::Taps;

/// What all intakes of an agent share.
pub(crate) struct IntakeContext {
    pub budget: Arc<MemoryBudget>,
    pub state: Arc<State>,
    pub clock: SharedClock,
    pub metrics: AgentMetrics,
    pub taps: Taps,
    /// Whether there is a spool.
    pub spooled: bool,
    /// The queue of its writer, until the agent stops.
    pub spool: RwLock<Option<Arc<SpoolQueue>>>,
}

impl IntakeContext {
    fn spool(&self) -> Result<Option<Arc<SpoolQueue>>, Rejected> {
        let spool = self.spool.read().clone();
        if self.spooled && spool.is_none() { Err(Rejected::Stopping) } else { Ok(spool) }
    }
}

impl std::fmt::Debug for IntakeContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IntakeContext({:?})", self.budget)
    }
}

/// The way in for one source. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Intake {
    receiver: Arc<Receiver>,
    gate: watch::Receiver<Gate>,
    context: Arc<IntakeContext>,
    /// Who sends what comes by it; `None`: the source itself.
    client: Option<Client>,
}

/// Comes true when the log has a batch.
#[derive(Debug)]
pub struct Receipt {
    answer: oneshot::Receiver<bool>,
    spooled: bool,
}

impl Receipt {
    /// Waits until the log has the batch, or it is certain that this run of the agent will not bring it there.
    pub async fn acknowledged(self) -> Result<(), Rejected> {
        match self.answer.await {
            Ok(true) => Ok(()),
            Ok(false) if self.spooled => Err(Rejected::Spool),
            Ok(false) | Err(_) => Err(Rejected::Stopping),
        }
    }
}

impl Intake {
    pub(crate) fn new(receiver: Arc<Receiver>, gate: watch::Receiver<Gate>, context: Arc<IntakeContext>) -> Self {
        Self { receiver, gate, context, client: None }
    }

    /// The same for one of the source's clients, who share its streams.
    #[must_use]
    pub fn of(&self, client: Option<Client>) -> Self {
        Self { client, ..self.clone() }
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
        self.context.clock.now_ns()
    }

    /// The stream of these labels and this tenant; the source's own labels win, its own tenant stands in for none.
    pub fn stream(&self, labels: &Labels, tenant: Option<&Tenant>) -> Result<Stream, Rejected> {
        self.stream_of(self.client.as_ref(), labels, tenant)
    }

    /// The same for a client of the source.
    pub fn stream_of(
        &self,
        client: Option<&Client>,
        labels: &Labels,
        tenant: Option<&Tenant>,
    ) -> Result<Stream, Rejected> {
        let before = self.receiver.streams();
        let stream = self.receiver.stream(labels, tenant, client, self.context.clock.now_ms());
        let after = self.receiver.streams();
        if before != after {
            let (before, after) = (i64::try_from(before).unwrap_or_default(), i64::try_from(after).unwrap_or_default());
            self.context.metrics.push_streams.inc_by(after - before);
        }
        stream.inspect_err(|error| self.refused(error))
    }

    /// An empty batch.
    pub fn batch(&self) -> Batch {
        Batch {
            intake: self.clone(),
            parts: Vec::new(),
            open: HashMap::new(),
            share: MemoryShare::none(&self.context.budget),
            cost: 0,
            read_ns: self.now_ns(),
        }
    }

    /// Records that the source had to drop: the ledger counts them as read and dropped, under a reason of one word.
    pub fn dropped(&self, reason: &'static str, lines: u64, bytes: u64) {
        self.receiver.lose(&reason.into(), Count { lines, bytes, records: lines });
        let (m, reason) = (&self.context.metrics, Reason { reason: reason.into() });
        m.read_lines.inc_by(lines);
        m.read_bytes.inc_by(bytes);
        m.dropped_lines.get_or_create(&reason).inc_by(lines);
        m.dropped_bytes.get_or_create(&reason).inc_by(bytes);
    }

    /// What the source asked to be kept for its next start: a cursor of its own.
    pub fn bookmark(&self) -> Option<Bytes> {
        self.receiver.bookmark()
    }

    /// Keeps a cursor; durable with the next checkpoint. To be called when the receipts of everything before it have come
    /// true.
    pub fn keep_bookmark(&self, bookmark: Bytes) {
        self.receiver.keep_bookmark(bookmark);
    }

    /// The same, durable when this returns.
    pub async fn keep_bookmark_now(&self, bookmark: Bytes) -> Result<(), AgentError> {
        self.receiver.keep_bookmark_now(bookmark, &self.context.state).await
    }

    /// Number of partitions that records are spread over. Waits for the log; with a spool, 0 if it was never reached.
    pub(crate) async fn partitions(&self) -> Result<usize, Rejected> {
        match self.context.spool()? {
            Some(_) => Ok(self.receiver.partition_count()),
            None => Ok(self.wait_for_outlets().await?.queues.len()),
        }
    }

    /// The agent's counters.
    pub(crate) fn metrics(&self) -> &AgentMetrics {
        &self.context.metrics
    }

    /// Whether pushes are taken: `Err` while the log was not reached yet, and at the stop.
    pub fn ready(&self) -> Result<(), Rejected> {
        self.exit_now().map(drop)
    }

    /// Where batches go, if that is known now.
    fn exit_now(&self) -> Result<Exit, Rejected> {
        if let Some(spool) = self.context.spool()? {
            return Ok(Exit::Spool(spool));
        }
        match &*self.gate.borrow() {
            Gate::Open(outlets) => Ok(Exit::Queues(Arc::clone(outlets))),
            Gate::NotYet => Err(Rejected::NotReady),
            Gate::Closed => Err(Rejected::Stopping),
        }
    }

    /// Where batches go, once it is known.
    async fn exit(&self) -> Result<Exit, Rejected> {
        match self.context.spool()? {
            Some(spool) => Ok(Exit::Spool(spool)),
            None => self.wait_for_outlets().await.map(Exit::Queues),
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
        self.context.metrics.refused.get_or_create(&refused).inc();
    }
}

/// Records that are handed in together and acknowledged together. The order of a stream's records stays.
#[derive(Debug)]
pub struct Batch {
    intake: Intake,
    parts: Vec<StreamRecords>,
    /// The part that takes a stream's next record.
    open: HashMap<usize, usize>,
    share: MemoryShare,
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
        self.add(at, line, None);
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
        self.add(at, line, Some(number));
    }

    fn begin(&mut self, stream: &Stream) -> usize {
        self.parts.push(StreamRecords::new(stream));
        self.cost += BATCH_COST;
        let at = self.parts.len() - 1;
        self.open.insert(Arc::as_ptr(&stream.0) as usize, at);
        at
    }

    fn add(&mut self, at: usize, line: Line<'_>, number: Option<u64>) {
        let settings = &self.intake.receiver.settings;
        let time = line.time_ns.or_else(|| {
            let text = line.text.get(..settings.max_line).unwrap_or(line.text);
            let found = settings.time.as_ref()?.read(text, self.read_ns);
            if found.is_none() {
                self.intake.context.metrics.untimed_lines.inc();
            }
            found
        });
        self.cost += self.parts[at].add(line, time, number, settings.max_line);
    }

    /// Number of its records.
    pub fn len(&self) -> usize {
        self.parts.iter().map(StreamRecords::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Bytes of its lines.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(StreamRecords::bytes).sum()
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
            let exit = intake.exit_now()?;
            if !self.share.grow_to(self.cost) {
                return Err(Rejected::Full { what: "memory (agent.max_waiting_bytes)" });
            }
            let room = exit.room_now(self.cost, |count| self.partitions(count))?;
            match self.hand_in(room) {
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
        let exit = intake.exit().await?;
        self.share.wait_for(self.cost).await;
        loop {
            // Some in hand, so that an `offer` finds numbers as well.
            let wanted = (self.len() as u64).saturating_mul(2);
            let reserved = intake.receiver.reserve(wanted, &intake.context.state).await;
            reserved.map_err(|error| Rejected::State { source: Arc::new(error) })?;
            let room = exit.room(self.cost, |count| self.partitions(count)).await?;
            match self.hand_in(room) {
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

    /// The partitions that it has something for, of so many.
    fn partitions(&self, count: usize) -> Vec<usize> {
        let mut partitions: Vec<usize> = self.parts.iter().map(|part| part.stream.partition(count)).collect();
        partitions.sort_unstable();
        partitions.dedup();
        partitions
    }

    /// Numbers the records and hands them on. Given back with no error if there are not enough numbers.
    #[allow(clippy::result_large_err)] // moved on at once
    fn hand_in(self, room: Room<'_>) -> Result<Receipt, (Self, Option<Rejected>)> {
        let records = self.len() as u64;
        let own = self.parts.first().and_then(StreamRecords::own_numbers).map(|(first, _)| first);
        let last = self.parts.last().and_then(StreamRecords::own_numbers).map(|(_, last)| last);
        let receiver = Arc::clone(&self.intake.receiver);
        let spooled = matches!(room, Room::Spool { .. });
        let (acks, answer) = BatchAck::parts(if spooled { 1 } else { self.parts.len() });
        // Whatever is numbered under the lock stands in the queue before the lock is given up: numbers rise there.
        let mut back = Some((self, room));
        let give = |first: u64| match back.take() {
            Some((batch, Room::Queues { outlets, permits })) => batch.enqueue(outlets, permits, acks, first),
            Some((batch, Room::Spool { permit, space })) => permit.send(batch.into_job(first, acks, space)),
            None => {}
        };
        let given = match own {
            None => receiver.number(records, give).ok_or(None),
            Some(first) => receiver.own_numbers(first, last.unwrap_or(first), || give(first)).map_err(Some),
        };
        match (given, back) {
            (Err(error), Some((batch, _))) => Err((batch, error)),
            _ => Ok(Receipt { answer, spooled }),
        }
    }

    /// For the writer of the spool.
    fn into_job(self, first: u64, acks: Vec<BatchAck>, space: MemoryShare) -> Job {
        let receiver = Arc::clone(&self.intake.receiver);
        let count = match &*self.intake.gate.borrow() {
            Gate::Open(outlets) => Some(outlets.queues.len()),
            _ => None,
        };
        let mut next = first;
        let frame = |part: StreamRecords| {
            let hash = part.stream.0.hash;
            let partition = match count {
                Some(count) => Some(part.stream.partition(count)),
                None => receiver.partition_of(hash),
            };
            let first = next;
            next += part.len() as u64;
            let records = part.finish(self.read_ns);
            self.intake.context.metrics.cut_lines.inc_by(records.cut_lines());
            records.into_frame(&receiver.settings.name, hash, partition, first)
        };
        let frames = self.parts.into_iter().map(frame).collect();
        Job { frames, acks, receiver: Arc::clone(&self.intake.receiver), memory: self.share, space }
    }

    /// Into the queues of the senders.
    fn enqueue(
        self,
        outlets: &Outlets,
        permits: Vec<(usize, mpsc::Permit<'_, QueuedBatches>)>,
        acks: Vec<BatchAck>,
        first: u64,
    ) {
        let context = &self.intake.context;
        let mut next = first;
        let mut queued: HashMap<usize, Vec<SourceBatch>> = HashMap::new();
        let (mut count, mut cut) = (Count::default(), 0);
        // What is left over from an estimate goes back; the last part gets what can't be divided.
        let (mut left, parts) = (self.cost, self.parts.len().max(1));
        let share = left / parts;
        let held = self.share.keep();
        context.budget.give(held.saturating_sub(self.cost));
        for (n, (part, ack)) in self.parts.into_iter().zip(acks).enumerate() {
            let partition = part.stream.partition(outlets.queues.len());
            let Some(source) = outlets.partitions.get(partition) else { continue };
            let first = next;
            next += part.len() as u64;
            let records = part.finish(self.read_ns);
            count += records.count();
            cut += records.cut_lines();
            let mut batch = records.into_batch(Arc::clone(source) as _, first);
            batch.cost = if n + 1 == parts { left } else { share };
            batch.ack = Some(ack);
            left -= batch.cost;
            queued.entry(partition).or_default().push(batch);
        }
        self.intake.receiver.took(count);
        context.metrics.count_read(count.lines, count.bytes);
        context.metrics.cut_lines.inc_by(cut);
        for (partition, permit) in permits {
            if let Some(batches) = queued.remove(&partition) {
                batches.iter().for_each(|batch| batch.show_read(&context.taps));
                permit.send(QueuedBatches::Many(batches));
            }
        }
    }
}
