//! Partition sender: delivers what one queue holds, one request at a time, in order.
//!
//! In: the queue of one partition. Out: settled batches. Touches the network through the producer, and the state where a
//! source must go on under a new id. See [`super`] for what holds.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use futures::StreamExt as _;
use millrace_log::dead_letter::dead_letter;
use millrace_log::native::encode::Records;
use millrace_log::record::{Record, TopicPartition};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::context::DeliveryContext;
use super::dead_letters::send_to_dead_letters;
use super::encode::encode;
use super::outgoing::{Limits, Outgoing, RecordAt};
use super::request::{Sent, send};
use super::retry::Backoff;
use super::topics;
use crate::batch::{BatchSource, Flow, QueuedBatches, SourceBatch, partition_of};
use crate::error::AgentError;
use crate::ledger::{Count, Lost, REASON_CUT, REASON_DEAD_LETTER};
use crate::metrics::Reason;
use crate::tap::Stage;
use crate::transform::{Destination, Worker};

/// Destinations of one request that are written to at the same time.
const AT_ONCE: usize = 16;

/// Sends what one queue holds: most of it to one partition.
pub(crate) struct PartitionSender {
    context: Arc<DeliveryContext>,
    to: TopicPartition,
    /// For sources with transforms; made when it is first needed.
    worker: Option<Worker>,
    flow: Arc<Flow>,
}

/// What became of records of one destination.
#[derive(Default)]
struct GroupResult {
    /// They belong to another destination now.
    open: Vec<u32>,
    /// They were refused for good, and are dead letters.
    refused: Vec<u32>,
}

impl PartitionSender {
    pub fn new(context: Arc<DeliveryContext>, to: TopicPartition, flow: Arc<Flow>) -> Self {
        Self { context, to, worker: None, flow }
    }

    /// Runs until the queue is closed and empty, or `abort`.
    pub async fn run(
        mut self,
        mut queue: mpsc::Receiver<QueuedBatches>,
        abort: CancellationToken,
    ) -> Result<(), AgentError> {
        let deliver_all = async {
            let mut pending = VecDeque::new();
            while let Some(batches) = self.next_batches(&mut queue, &mut pending).await {
                self.deliver(batches, &abort).await?;
            }
            Ok(())
        };
        tokio::select! {
            biased;
            () = abort.cancelled() => Ok(()),
            done = deliver_all => done,
        }
    }

    /// As many batches as fill one request, of those that wait; all of them with transforms, or none. `None`: the queue
    /// is closed and empty.
    async fn next_batches(
        &self,
        queue: &mut mpsc::Receiver<QueuedBatches>,
        pending: &mut VecDeque<SourceBatch>,
    ) -> Option<Vec<SourceBatch>> {
        let add = |pending: &mut VecDeque<SourceBatch>, queued| match queued {
            QueuedBatches::One(batch) => pending.push_back(batch),
            QueuedBatches::Many(batches) => pending.extend(batches),
        };
        let first = loop {
            match pending.pop_front() {
                Some(first) => break first,
                None => add(pending, queue.recv().await?),
            }
        };
        let has_transforms = first.source.chain().is_some();
        let (mut records, mut bytes) = first.size();
        let mut batches = vec![first];
        while records < self.context.batch_records && bytes < self.flow.batch_bytes() {
            if pending.is_empty() {
                let Ok(more) = queue.try_recv() else { break };
                add(pending, more);
            }
            let Some(more) = pending.pop_front_if(|more| more.source.chain().is_some() == has_transforms) else {
                break;
            };
            records += more.size().0;
            bytes += more.size().1;
            batches.push(more);
        }
        Some(batches)
    }

    /// Delivers every record of the batches, then settles them.
    async fn deliver(&mut self, batches: Vec<SourceBatch>, abort: &CancellationToken) -> Result<(), AgentError> {
        let has_transforms = batches.first().is_some_and(|batch| batch.source.chain().is_some());
        let batches = Arc::new(batches);
        let mut losses = vec![Lost::new(); batches.len()];
        let mut from = Some((0, 0));
        while let Some(start) = from {
            let outgoing = match has_transforms {
                true => self.transform(&batches, start, abort).await?,
                false => {
                    // What files gave fits mostly into one request; a push may have much more.
                    let bytes = self.flow.batch_bytes() / 4 * 5;
                    Outgoing::as_read(&batches, start, Limits { records: self.context.batch_records, bytes })
                }
            };
            self.dispatch(&outgoing, &mut losses).await?;
            from = outgoing.next();
        }
        self.settle(&batches, &losses);
        Ok(())
    }

    /// Applies transforms, on a thread for blocking work.
    async fn transform(
        &mut self,
        batches: &Arc<Vec<SourceBatch>>,
        start: RecordAt,
        abort: &CancellationToken,
    ) -> Result<Outgoing, AgentError> {
        let mut worker = self.worker.take().unwrap_or_default();
        worker.now_ns = self.context.clock.now_ns();
        let limits = Limits { records: self.context.batch_records, bytes: self.flow.batch_bytes() };
        let (batches, abort) = (Arc::clone(batches), abort.clone());
        let done = tokio::task::spawn_blocking(move || {
            let outgoing = Outgoing::transform(&batches, start, limits, &abort, &mut worker);
            (worker, outgoing)
        });
        let (worker, outgoing) = done.await.map_err(|_| AgentError::Ended { part: "transforms" })?;
        self.worker = Some(worker);
        Ok(outgoing)
    }

    /// Sends records to all their destinations, and notes what each batch lost.
    async fn dispatch(&self, outgoing: &Outgoing, losses: &mut [Lost]) -> Result<(), AgentError> {
        let dead_letter_reason: Arc<str> = REASON_DEAD_LETTER.into();
        let mut lose = |index: u32, reason: &Arc<str>| {
            let (batch, piece) = outgoing.record(index);
            if let Some(lost) = losses.get_mut(outgoing.batch_index(index)) {
                *lost.entry(reason.clone()).or_default() += batch.pieces[piece].count();
            }
        };
        let mut dead: Vec<u32> = Vec::new();
        let lines: Vec<u32> = match outgoing.is_as_read() {
            true => outgoing.indices().collect(),
            false => {
                let mut stays = |index: &u32| match outgoing.destination(*index) {
                    Destination::Default | Destination::Topic(_) => true,
                    Destination::Dropped(reason) => {
                        lose(*index, reason);
                        false
                    }
                    Destination::DeadLetter(_) => {
                        lose(*index, &dead_letter_reason);
                        dead.push(*index);
                        false
                    }
                };
                outgoing.indices().filter(|index| stays(index)).collect()
            }
        };
        self.show_dropped(outgoing);
        let (refused, ()) = tokio::try_join!(self.send_lines(outgoing, lines), async {
            if !dead.is_empty() {
                let records = self.failed_by_transforms(outgoing, &dead).await;
                send_to_dead_letters(&self.context, &self.flow, records).await;
            }
            Ok(())
        })?;
        refused.into_iter().for_each(|index| lose(index, &dead_letter_reason));
        Ok(())
    }

    /// Sends until every record is taken or refused for good; returns those that were refused.
    async fn send_lines(&self, outgoing: &Outgoing, mut open: Vec<u32>) -> Result<Vec<u32>, AgentError> {
        let mut refused = Vec::new();
        while !open.is_empty() {
            let groups = self.by_partition(outgoing, open).await?;
            let sends = groups.into_iter().map(|(to, indices)| self.send_to(outgoing, to, indices));
            let results: Vec<Result<GroupResult, AgentError>> =
                futures::stream::iter(sends).buffer_unordered(AT_ONCE).collect().await;
            open = Vec::new();
            for result in results {
                let result = result?;
                open.extend(result.open);
                refused.extend(result.refused);
            }
            open.sort_unstable();
        }
        Ok(refused)
    }

    /// Sorts records by the partition they go to; the order within a partition stays.
    async fn by_partition(
        &self,
        outgoing: &Outgoing,
        open: Vec<u32>,
    ) -> Result<Vec<(TopicPartition, Vec<u32>)>, AgentError> {
        if outgoing.is_as_read() {
            return Ok(vec![(self.to.clone(), open)]);
        }
        let mut groups: Vec<(TopicPartition, Vec<u32>)> = Vec::new();
        let mut known: HashMap<TopicPartition, usize> = HashMap::new();
        for index in open {
            let to = match outgoing.destination(index) {
                Destination::Topic(topic) => {
                    let partitions = topics::partitions(&self.context, topic, false).await?;
                    let id = outgoing.record(index).0.source.identity().id;
                    TopicPartition::new(topic.clone(), partition_of(id, partitions))
                }
                _ => self.to.clone(),
            };
            // Neighbours mostly go to the same partition.
            match groups.last_mut() {
                Some((last, indices)) if *last == to => indices.push(index),
                _ => {
                    let at = *known.entry(to.clone()).or_insert_with(|| {
                        groups.push((to, Vec::new()));
                        groups.len() - 1
                    });
                    groups[at].1.push(index);
                }
            }
        }
        Ok(groups)
    }

    /// Sends to one partition until all is taken, refused for good, or belongs elsewhere now.
    async fn send_to(
        &self,
        outgoing: &Outgoing,
        to: TopicPartition,
        indices: Vec<u32>,
    ) -> Result<GroupResult, AgentError> {
        let context = &*self.context;
        let is_routed = to.topic != self.to.topic;
        let mut backoff = Backoff::new(context);
        let mut result = GroupResult::default();
        let mut groups = VecDeque::from([indices]);
        while let Some(group) = groups.pop_front() {
            let created = context.topic.created();
            let records = encode(outgoing, &group, context.producer.spare(&to)).await;
            match send(context, &self.flow, &to, records).await {
                Sent::All => {
                    self.show_sent(outgoing, &group, &to);
                    backoff.reset(&to);
                }
                Sent::Retry(failed, error) => {
                    let (failed, moved) = self.partly_taken(outgoing, &to, &group, &failed).await?;
                    groups.push_front(failed);
                    context.metrics.retries.inc();
                    backoff.wait(&to, &error).await;
                    if !is_routed && error.is_topic_missing() {
                        self.create_again(&to, created, &mut backoff).await;
                    }
                    // The topic may have been created anew, and a source under a new id may have another partition.
                    if is_routed && (moved || self.has_changed(&to.topic).await?) {
                        result.open = groups.into_iter().flatten().collect();
                        return Ok(result);
                    }
                }
                Sent::Refused(failed, error) => {
                    let reason = error.to_string();
                    if let [failed] = failed[..]
                        && let Some(index) = group.get(failed).copied()
                    {
                        self.show_sent(outgoing, &without(&group, &[index]), &to);
                        self.refused_for_good(outgoing, index, &to, &reason).await;
                        result.refused.push(index);
                        continue;
                    }
                    // One of them spoils the request for all: find out which.
                    let (failed, moved) = self.partly_taken(outgoing, &to, &group, &failed).await?;
                    failed.into_iter().rev().for_each(|index| groups.push_front(vec![index]));
                    if is_routed && moved {
                        result.open = groups.into_iter().flatten().collect();
                        return Ok(result);
                    }
                }
            }
        }
        Ok(result)
    }

    /// Creates the topic of the configuration as at the start; one that can't be created yet is tried again after a wait.
    async fn create_again(&self, to: &TopicPartition, seen: u64, backoff: &mut Backoff) {
        match self.context.topic.create_again(seen).await {
            Ok(created) => {
                self.context.metrics.recreated_topics.inc_by(u64::from(created));
            }
            Err(error) => backoff.wait(to, &error).await,
        }
    }

    /// The log took a group without those at `failed`. Returns these, and whether a source goes on under a new id.
    async fn partly_taken(
        &self,
        outgoing: &Outgoing,
        to: &TopicPartition,
        group: &[u32],
        failed: &[usize],
    ) -> Result<(Vec<u32>, bool), AgentError> {
        let failed: Vec<u32> = failed.iter().filter_map(|at| group.get(*at).copied()).collect();
        if failed.len() == group.len() {
            return Ok((failed, false));
        }
        self.show_sent(outgoing, &without(group, &failed), to);
        let moved = self.keep_order(outgoing, group, &failed).await?;
        Ok((failed, moved))
    }

    /// A source some of whose failed records stand before taken ones goes on under a new id. Whether one did.
    async fn keep_order(&self, outgoing: &Outgoing, group: &[u32], failed: &[u32]) -> Result<bool, AgentError> {
        let failed: HashSet<u32> = failed.iter().copied().collect();
        let mut waiting: HashSet<usize> = HashSet::new();
        let mut overtaken: Vec<Arc<dyn BatchSource>> = Vec::new();
        for index in group {
            let source = &outgoing.record(*index).0.source;
            let number = Arc::as_ptr(source).cast::<()>() as usize;
            if failed.contains(index) {
                waiting.insert(number);
            } else if waiting.remove(&number) && !overtaken.iter().any(|known| Arc::ptr_eq(known, source)) {
                overtaken.push(source.clone());
            }
        }
        let moved = !overtaken.is_empty();
        for source in overtaken {
            let state = self.context.state.clone();
            tracing::error!(source = %source.name(), partition = %self.to, "log took later lines of a source before earlier ones: the source continues under a new source id, some lines may be stored twice; do not change enable.idempotence and message.timeout.ms in kafka.options");
            self.context.metrics.moved_sources.inc();
            match tokio::task::spawn_blocking(move || source.move_on(&state)).await {
                Ok(moved) => moved?,
                Err(_) => return Err(AgentError::Ended { part: "writer of positions" }),
            }
        }
        Ok(moved)
    }

    /// Whether another number of partitions of a topic is used now; creates the topic if it is gone.
    async fn has_changed(&self, topic: &Arc<str>) -> Result<bool, AgentError> {
        let before = self.context.routed.known(topic);
        Ok(Some(topics::partitions(&self.context, topic, true).await?) != before)
    }

    /// A record that the log refuses for good becomes a dead letter.
    async fn refused_for_good(&self, outgoing: &Outgoing, index: u32, to: &TopicPartition, reason: &str) {
        let context = &*self.context;
        tracing::error!(partition = %to, reason, topic = %context.dead_letter_topic, "log refused a record, it is sent to the dead-letter topic");
        let records = encode(outgoing, &[index], Records::default()).await.to_records();
        let wrap = |record| dead_letter(record, "agent", reason, &to.to_string(), context.clock.now_ms());
        send_to_dead_letters(context, &self.flow, records.into_iter().map(wrap).collect()).await;
        self.show(outgoing, &[index], Stage::Dropped, Some(to), |_| Some(reason));
    }

    /// Dead letters of transforms, each with the reason that its step gave.
    async fn failed_by_transforms(&self, outgoing: &Outgoing, indices: &[u32]) -> Vec<Record> {
        let records = encode(outgoing, indices, Records::default()).await.to_records();
        let (now_ms, from) = (self.context.clock.now_ms(), self.to.to_string());
        let wrap = |(record, index): (Record, &u32)| {
            let reason = reason_of(outgoing.destination(*index)).unwrap_or_default();
            dead_letter(record, "transform", reason, &from, now_ms)
        };
        records.into_iter().zip(indices).map(wrap).collect()
    }

    fn show_sent(&self, outgoing: &Outgoing, indices: &[u32], to: &TopicPartition) {
        self.show(outgoing, indices, Stage::Sent, Some(to), |_| None);
    }

    /// Shows what transforms dropped or failed on.
    fn show_dropped(&self, outgoing: &Outgoing) {
        if outgoing.is_as_read() || self.context.taps.is_idle() {
            return;
        }
        let reason = |index| reason_of(outgoing.destination(index));
        let dropped: Vec<u32> = outgoing.indices().filter(|index| reason(*index).is_some()).collect();
        self.show(outgoing, &dropped, Stage::Dropped, None, reason);
    }

    /// Shows records to open taps.
    fn show<'r>(
        &self,
        outgoing: &'r Outgoing,
        indices: &[u32],
        stage: Stage,
        to: Option<&TopicPartition>,
        reason: impl Fn(u32) -> Option<&'r str>,
    ) {
        let taps = &self.context.taps;
        if taps.is_idle() {
            return;
        }
        for run in indices.chunk_by(|a, b| outgoing.batch_index(*a) == outgoing.batch_index(*b)) {
            let Some(first) = run.first() else { continue };
            let source = &outgoing.record(*first).0.source;
            let views = run.iter().map(|index| outgoing.view(*index, to, reason(*index)));
            taps.show(stage, source.kind(), &source.name(), views);
        }
    }

    /// All batches are acknowledged, except for what each of them lost.
    fn settle(&self, batches: &[SourceBatch], losses: &[Lost]) {
        let m = &self.context.metrics;
        for (batch, losses) in batches.iter().zip(losses) {
            batch.source.settle(batch.to, batch.taken, losses);
            let all = batch.taken.count;
            let mut lost = Count::default();
            for (reason, count) in losses {
                lost += *count;
                let reason = Reason { reason: reason.to_string().into() };
                m.dropped_lines.get_or_create(&reason).inc_by(count.lines);
                m.dropped_bytes.get_or_create(&reason).inc_by(count.bytes);
            }
            m.sent_lines.inc_by(all.lines - lost.lines);
            m.sent_bytes.inc_by(all.bytes - lost.bytes - batch.taken.skipped);
            m.sent_records.inc_by(all.records - lost.records);
            if batch.taken.skipped > 0 {
                m.dropped_bytes.get_or_create(&Reason { reason: REASON_CUT.into() }).inc_by(batch.taken.skipped);
            }
            m.waiting_lines.dec_by(i64::try_from(all.lines).unwrap_or(i64::MAX));
            self.context.budget.give(batch.cost);
            if let Some(behind) = &batch.behind {
                behind.give();
            }
            if let Some(ack) = &batch.ack {
                ack.settle();
            }
        }
        m.waiting_bytes.set(i64::try_from(self.context.budget.used()).unwrap_or(i64::MAX));
        self.context.wake.room();
    }
}

/// Why a record is not sent to a topic for lines.
fn reason_of(destination: &Destination) -> Option<&str> {
    match destination {
        Destination::Dropped(reason) => Some(reason),
        Destination::DeadLetter(reason) => Some(reason),
        Destination::Default | Destination::Topic(_) => None,
    }
}

/// A group without some of its records.
fn without(group: &[u32], left_out: &[u32]) -> Vec<u32> {
    let left_out: HashSet<u32> = left_out.iter().copied().collect();
    group.iter().copied().filter(|index| !left_out.contains(index)).collect()
}
