//! Fetch (key 1), versions 4 to 18. Gives whole record batches as stored, waiting for them if asked to.
//!
//! Behaviour: partitions are read in the order asked, under `max_bytes` for all and `partition_max_bytes` for each; the
//! first batch found comes whole whatever its size (KIP-74). With less than `min_bytes` the answer waits until more
//! comes or `max_wait_ms` is over; an error is answered at once. Versions: 7 sessions (KIP-227), 9 leader epochs, 12
//! flexible, 13 topic ids (KIP-516), 15 and later what only replicas send. Read-committed readers get what stands before
//! the last stable offset and the list of aborted transactions in it, and wait for that offset to move (KIP-98).

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::select_all;
use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::fetch_response::{AbortedTransaction, FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::{FetchRequest, FetchResponse, ProducerId};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::{Context, check_epoch};
use crate::protocol::error::{Code, read_code};
use crate::protocol::fetch_sessions::{Named, Plan, SentState, Wanted};
use crate::storage::{Ask, Isolation, Located, Partition, Stored, locate_all};

/// Pause before reading again where more than one byte is waited for: lets small batches add up.
const GATHER: Duration = Duration::from_millis(5);

/// One partition while the fetch lasts.
struct Slot {
    name: Named,
    wanted: Wanted,
    partition: Result<(Arc<Partition>, watch::Receiver<i64>), Code>,
    isolation: Isolation,
    /// Read up to this high watermark, or last stable offset.
    seen: i64,
    data: Result<Option<Located>, Code>,
}

impl Slot {
    fn new(cx: &Context, name: Named, wanted: Wanted, isolation: Isolation) -> Self {
        let partition = find(cx, &name, &wanted.asked).map(|partition| {
            let watch = match isolation {
                Isolation::Uncommitted => partition.watch(),
                Isolation::Committed => partition.watch_stable(),
            };
            (partition, watch)
        });
        Self { name, wanted, partition, isolation, seen: -1, data: Ok(None) }
    }

    fn bytes(&self) -> usize {
        let stored = self.data.as_ref().ok().and_then(Option::as_ref).and_then(|data| data.stored.as_ref());
        stored.map_or(0, Stored::len)
    }

    fn failed(&self) -> bool {
        self.partition.is_err() || self.data.is_err()
    }

    /// What must be looked for, if there is news since the last look.
    fn ask(&mut self) -> Option<Ask> {
        let bytes = self.bytes();
        let Ok((partition, watch)) = &mut self.partition else { return None };
        let mark = *watch.borrow_and_update();
        if self.seen == mark && bytes > 0 {
            return None;
        }
        self.seen = mark;
        let from = self.wanted.asked.fetch_offset;
        let last_stable_offset = partition.last_stable_offset();
        let (log_start_offset, high_watermark) = (partition.log_start_offset(), partition.high_watermark());
        let is_held_back =
            self.isolation == Isolation::Committed && from >= last_stable_offset && from < high_watermark;
        if (from == high_watermark || is_held_back) && from >= log_start_offset {
            let (stored, aborted) = (None, Vec::new());
            self.data = Ok(Some(Located { stored, high_watermark, last_stable_offset, log_start_offset, aborted }));
            return None;
        }
        self.data = Ok(None);
        let max_bytes = usize::try_from(self.wanted.asked.partition_max_bytes).unwrap_or(0);
        Some(Ask { partition: Arc::clone(partition), from, max_bytes })
    }

    fn sent(&self) -> Option<SentState> {
        let data = self.data.as_ref().ok()?.as_ref()?;
        self.partition
            .is_ok()
            .then_some(SentState { high_watermark: data.high_watermark, log_start_offset: data.log_start_offset })
    }

    fn has_news(&self) -> bool {
        self.failed() || self.bytes() > 0 || self.sent() != self.wanted.sent
    }

    /// The answer, and the records that belong to it.
    fn answer(self, cx: &Context) -> (PartitionData, Option<Stored>) {
        let answer = PartitionData::default().with_partition_index(self.name.partition);
        let (partition, data) = match (self.partition, self.data) {
            (Ok((partition, _)), Ok(Some(data))) => (partition, data),
            (Ok(_), Ok(None)) => return (failed(answer, Code::UnknownServerError), None),
            (Err(code), _) | (_, Err(code)) => return (failed(answer, code), None),
        };
        if let Some(stored) = &data.stored {
            cx.core.metrics.bytes_out.inc_by(stored.len() as u64);
            cx.core.metrics.records_out.inc_by(stored.records());
            partition.traffic().gave(stored.len() as u64, stored.records());
        }
        let aborted = data.aborted.iter().map(|txn| {
            AbortedTransaction::default()
                .with_producer_id(ProducerId(txn.producer_id))
                .with_first_offset(txn.first_offset)
        });
        let is_committed = self.isolation == Isolation::Committed;
        let answer = answer
            .with_high_watermark(data.high_watermark)
            .with_last_stable_offset(data.last_stable_offset)
            .with_aborted_transactions(is_committed.then(|| aborted.collect()));
        let answer = if cx.version >= 5 { answer.with_log_start_offset(data.log_start_offset) } else { answer };
        (answer, data.stored)
    }
}

fn failed(answer: PartitionData, code: Code) -> PartitionData {
    answer.with_error_code(code.code()).with_high_watermark(-1).with_aborted_transactions(None)
}

fn find(cx: &Context, name: &Named, asked: &FetchPartition) -> Result<Arc<Partition>, Code> {
    let partition = if cx.version >= 13 {
        let topic = cx.core.storage.topic_by_id(name.id).ok_or(Code::UnknownTopicId)?;
        cx.allowed(Operation::Read, Resource::Topic(topic.name()))?;
        topic.partition(name.partition).ok_or(Code::UnknownTopicOrPartition)?
    } else {
        cx.allowed(Operation::Read, Resource::Topic(&name.topic.0))?;
        let partition = cx.partition(&name.topic.0, name.partition)?;
        // Before version 10 consumers do not know zstd, with which the broker may have compressed.
        let topic = (cx.version < 10).then(|| cx.core.storage.topic(&name.topic.0)).flatten();
        if topic.is_some_and(|topic| topic.settings().wants_zstd()) {
            return Err(Code::UnsupportedCompressionType);
        }
        partition
    };
    check_epoch(&partition, asked.current_leader_epoch)?;
    Ok(partition)
}

/// Looks into the partitions with news; gives how many bytes there are in all.
async fn read(slots: &mut [Slot], max_bytes: usize, isolation: Isolation) -> usize {
    let (places, asks): (Vec<usize>, Vec<Ask>) =
        slots.iter_mut().enumerate().filter_map(|(place, slot)| Some((place, slot.ask()?))).unzip();
    let kept: usize = slots.iter().map(Slot::bytes).sum();
    let located = locate_all(asks, max_bytes.saturating_sub(kept), kept == 0, isolation).await;
    for (place, located) in places.into_iter().zip(located) {
        if let Some(slot) = slots.get_mut(place) {
            slot.data = located.map(Some).map_err(|e| read_code(&e));
        }
    }
    slots.iter().map(Slot::bytes).sum()
}

/// Answers a fetch; the records of each partition apart, in the order of the answer.
pub(crate) async fn handle(cx: &Context, request: FetchRequest) -> (FetchResponse, Vec<Option<Stored>>) {
    let Plan { session_id, is_incremental, partitions } = match cx.core.sessions.plan(&request) {
        Ok(plan) => plan,
        Err(code) => return (FetchResponse::default().with_error_code(code.code()), Vec::new()),
    };
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let deadline = Instant::now() + wait;
    let max_bytes = usize::try_from(request.max_bytes.max(0)).unwrap_or(0);
    let max_bytes = max_bytes.min(usize::try_from(cx.core.config.max_fetch_size.0).unwrap_or(usize::MAX));
    let min_bytes = usize::try_from(request.min_bytes.max(0)).unwrap_or(0).min(max_bytes);
    let isolation = if request.isolation_level == 1 { Isolation::Committed } else { Isolation::Uncommitted };
    let slot = |(name, wanted)| Slot::new(cx, name, wanted, isolation);
    let mut slots: Vec<Slot> = partitions.into_iter().map(slot).collect();
    loop {
        let total = read(&mut slots, max_bytes, isolation).await;
        let is_enough = total >= min_bytes || slots.iter().any(Slot::failed);
        if is_enough || Instant::now() >= deadline || cx.core.stop.is_cancelled() {
            break;
        }
        let watches = slots.iter_mut().filter_map(|slot| slot.partition.as_mut().ok());
        let changes: Vec<_> = watches.map(|(_, watch)| watch.changed().boxed()).collect();
        if changes.is_empty() {
            tokio::select! {
                () = cx.core.stop.cancelled() => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
            break;
        }
        tokio::select! {
            () = cx.core.stop.cancelled() => {}
            () = tokio::time::sleep_until(deadline) => {}
            (changed, _, _) = select_all(changes) => {
                if changed.is_err() {
                    // The partition was deleted meanwhile: the client's next fetch gets that error.
                    break;
                }
                if min_bytes > 1 {
                    tokio::time::sleep_until(deadline.min(Instant::now() + GATHER)).await;
                }
            }
        }
    }
    if session_id != 0 {
        let sent = slots.iter().filter_map(|slot| Some((slot.name.clone(), slot.sent()?, slot.bytes() > 0)));
        let sent: Vec<_> = sent.collect();
        cx.core.sessions.note_sent(session_id, sent);
    }
    let mut responses: Vec<FetchableTopicResponse> = Vec::new();
    let mut records = Vec::with_capacity(slots.len());
    for slot in slots.into_iter().filter(|slot| !is_incremental || slot.has_news()) {
        let name = slot.name.clone();
        let (answer, stored) = slot.answer(cx);
        records.push(stored);
        match responses.last_mut() {
            Some(topic) if topic.topic == name.topic && topic.topic_id == name.id => topic.partitions.push(answer),
            _ => {
                let topic = FetchableTopicResponse::default().with_partitions(vec![answer]);
                responses.push(if cx.version >= 13 {
                    topic.with_topic_id(name.id)
                } else {
                    topic.with_topic(name.topic)
                });
            }
        }
    }
    (FetchResponse::default().with_session_id(session_id).with_responses(responses), records)
}
