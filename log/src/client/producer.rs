//! Idempotent producer: whole batches of one partition, encoded without a copy for each record, `acks=all`, zstd.
//!
//! In: batches for one partition. Out: their offsets once they are durable. Touches the network. librdkafka costs 2 µs a
//! record with our two headers, which would be most of what an agent does; this one encodes the records of a batch in one
//! pass.
//!
//! # Exactly once within a session
//! One batch of a partition is on its way at a time, under a producer id of its own and the next sequence number
//! (KIP-98). What was not answered is sent again under the same number until it is: the broker answers a repetition with
//! the offset of the first. A batch given up (time-out, cancelled by its caller) leaves open whether it was stored: then
//! the partition goes on under a fresh producer id, and the caller's own numbers (source and position) tell copies apart.
//! A batch whose topic does not exist goes back to its caller soon, however long it may be tried: no wait creates a topic.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest};
use kafka_protocol::protocol::StrBytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::api::BatchProducer;
use super::error::ClientError;
use super::setup::connect;
use crate::kafka::ConnectionConfig;
use crate::native::cluster::Cluster;
use crate::native::connection::checked;
use crate::native::encode::{Compressed, Records, Turn, Zstd};
use crate::native::error::WireError;
use crate::native::offsets::topic_name;
use crate::record::{Record, TopicPartition};

/// How long a batch is tried where its caller wants an answer in the end.
pub const DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);
/// Records that come one by one are sent in batches of about so many bytes: the usual `max.message.bytes` takes them.
const BATCH_BYTES: usize = 1_000_000;
/// How long a topic that was created may take to be listed.
const LISTED: Duration = Duration::from_secs(15);
/// How long a topic may be missing before its caller is told: nodes of a cluster learn of a new one after each other.
const MISSING: Duration = Duration::from_secs(2);
/// Larger memory than that is not kept for the next batch of a partition.
const SPARE: usize = 16 << 20;
/// Versions of Produce: 7 takes zstd; 12 and 13 bring nothing that is needed here.
const PRODUCE: (i16, i16) = (7, 11);
const INIT_PRODUCER_ID: (i16, i16) = (0, 4);

/// Sequence of one partition.
#[derive(Debug, Default)]
struct Sequence {
    /// Producer id and epoch, and the next number; `None`: to be asked for.
    next: Option<Turn>,
    /// A batch under `next` may be on its way: cleared when its fate is known.
    open: bool,
    /// Why the last attempt of the batch on its way failed.
    error: Option<WireError>,
    zstd: Option<Zstd>,
    /// Memory of a batch that was sent.
    spare: Records,
}

/// One partition that is written to.
#[derive(Debug)]
struct Lane {
    /// One batch at a time.
    gate: Semaphore,
    sequence: Mutex<Sequence>,
}

/// Producer over the wire protocol.
#[derive(Debug)]
pub struct WireProducer {
    cluster: Cluster,
    brokers: String,
    give_up: Option<Duration>,
    lanes: Mutex<HashMap<TopicPartition, Arc<Lane>>>,
}

impl WireProducer {
    /// Checks what the connection needs; connects when there is something to send. A batch is tried for `give_up` before
    /// its caller gets an error, or for ever; `message.timeout.ms` of `kafka.options` goes before that.
    pub fn new(config: &ConnectionConfig, give_up: Option<Duration>) -> Result<Self, ClientError> {
        let cluster = connect(config)?;
        let give_up = cluster.options().delivery_timeout.unwrap_or(give_up);
        Ok(Self { cluster, brokers: config.brokers.join(","), give_up, lanes: Mutex::default() })
    }

    fn lane(&self, to: &TopicPartition) -> Arc<Lane> {
        let mut lanes = self.lanes.lock();
        let lane = lanes.entry(to.clone());
        Arc::clone(lane.or_insert_with(|| Arc::new(Lane { gate: Semaphore::new(1), sequence: Mutex::default() })))
    }

    /// Sends batches one after the other; one that the broker finds too large in halves.
    async fn deliver(&self, to: &TopicPartition, batches: Vec<Records>) -> Result<i64, (Vec<usize>, WireError)> {
        let lane = self.lane(to);
        let total = batches.iter().map(Records::len).sum();
        let ended = || ((0..total).collect(), WireError::Ended);
        let _alone = lane.gate.acquire().await.map_err(|_| ended())?;
        {
            let mut sequence = lane.sequence.lock();
            sequence.error = None;
            // The one before was given up in the middle: nobody knows whether it is stored.
            if std::mem::take(&mut sequence.open) {
                sequence.next = None;
            }
        }
        let deadline = self.give_up.map(|limit| Instant::now() + limit);
        let mut first = None;
        let mut at = 0;
        let mut rest = Vec::with_capacity(batches.len());
        for records in batches {
            let count = records.len();
            rest.push((at, records));
            at += count;
        }
        rest.reverse();
        let mut refused = Vec::new();
        let mut cause = None;
        while let Some((at, records)) = rest.pop() {
            if records.is_empty() {
                continue;
            }
            let count = records.len();
            let kept = lane.sequence.lock().zstd.take();
            let options = self.cluster.options();
            let mut zstd = kept.unwrap_or_else(|| Zstd::new(options.compress, options.compression_level));
            let records = Arc::new(records);
            let plain = Arc::clone(&records);
            // Compression takes milliseconds for a batch: other tasks must not wait for it.
            let packed = tokio::task::spawn_blocking(move || (plain.compress(&mut zstd), zstd)).await;
            let (packed, zstd) = packed.map_err(|_| ended())?;
            lane.sequence.lock().zstd = Some(zstd);
            let sent = self.repeat(to, &lane, &packed, deadline).await;
            lane.sequence.lock().error = None;
            match sent {
                Ok(offset) => first = first.or(Some(offset)),
                Err(WireError::Refused { code: Code::MessageTooLarge | Code::RecordListTooLarge, .. }) if count > 1 => {
                    let half = count / 2;
                    rest.push((at + half, records.part(half..count)));
                    rest.push((at, records.part(0..half)));
                    continue;
                }
                Err(error) => {
                    refused.extend(at..at + count);
                    let again = !error.blames_records();
                    cause = Some(error);
                    if again {
                        // What stands behind must not overtake it.
                        refused.extend(at + count..total);
                        break;
                    }
                }
            }
            if let Some(mut spare) = Arc::into_inner(records)
                && spare.capacity() <= SPARE
            {
                spare.clear();
                lane.sequence.lock().spare = spare;
            }
        }
        match cause {
            None => Ok(first.unwrap_or(-1)),
            Some(cause) => Err((refused, cause)),
        }
    }

    /// Sends a batch until it is stored, refused for good, or its time is over.
    async fn repeat(
        &self,
        to: &TopicPartition,
        lane: &Lane,
        packed: &Compressed,
        deadline: Option<Instant>,
    ) -> Result<i64, WireError> {
        let (mut wait, longest) = self.cluster.options().backoff;
        let mut missing_since = None;
        for attempt in 1u64.. {
            let error = match self.attempt(to, lane, packed).await {
                Ok(offset) => return Ok(offset),
                Err(error) => error,
            };
            match verdict(&error) {
                Verdict::Refused => {
                    lane.sequence.lock().open = false;
                    return Err(error);
                }
                Verdict::NewProducer => {
                    tracing::debug!(partition = %to, %error, "goes on under a new producer id");
                    let mut sequence = lane.sequence.lock();
                    (sequence.next, sequence.open) = (None, false);
                }
                Verdict::Again => self.cluster.forget(to),
            }
            if error.code() == Some(Code::UnknownTopicOrPartition) {
                let since = *missing_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= MISSING {
                    // Nobody else creates it. Numbers of before mean nothing to a topic that is created anew.
                    let mut sequence = lane.sequence.lock();
                    (sequence.next, sequence.open) = (None, false);
                    return Err(error);
                }
            } else {
                missing_since = None;
            }
            if deadline.is_some_and(|deadline| Instant::now() + wait > deadline) {
                return Err(error);
            }
            lane.sequence.lock().error = Some(error.clone());
            // A leader that moves is no news; what lasts is.
            if attempt == 5 || attempt % 60 == 0 {
                tracing::warn!(partition = %to, %error, attempt, "log does not take a batch, it is sent again until it does");
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(longest);
        }
        Err(WireError::NoLeader)
    }

    async fn attempt(&self, to: &TopicPartition, lane: &Lane, packed: &Compressed) -> Result<i64, WireError> {
        let leader = self.cluster.leader(to).await?;
        let limit = self.cluster.options().request_timeout;
        let known = {
            let sequence = lane.sequence.lock();
            sequence.next
        };
        let turn = match known {
            Some(turn) => turn,
            None => {
                let request =
                    InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(-1);
                let answer = leader.call(&request, INIT_PRODUCER_ID, limit).await?;
                checked(answer.error_code, None)?;
                let turn = Turn { producer_id: answer.producer_id.0, epoch: answer.producer_epoch, sequence: 0 };
                lane.sequence.lock().next = Some(turn);
                turn
            }
        };
        lane.sequence.lock().open = true;
        let part = PartitionProduceData::default().with_index(to.partition).with_records(Some(packed.batch(turn)));
        let topic = TopicProduceData::default().with_name(topic_name(&to.topic)).with_partition_data(vec![part]);
        let request = ProduceRequest::default()
            .with_transactional_id(None)
            .with_acks(-1)
            .with_timeout_ms(i32::try_from(limit.as_millis()).unwrap_or(i32::MAX))
            .with_topic_data(vec![topic]);
        let answer = leader.call(&request, PRODUCE, limit + Duration::from_secs(1)).await?;
        let part = answer.responses.into_iter().flat_map(|topic| topic.partition_responses).next();
        let part = part.ok_or_else(|| WireError::Answer {
            address: self.brokers.clone(),
            cause: "the partition is not in it".to_owned(),
        })?;
        let offset = match Code::try_from_code(part.error_code) {
            // Stored before, so long ago that the broker no longer knows where.
            Some(Code::DuplicateSequenceNumber) => -1,
            _ => {
                checked(part.error_code, part.error_message.as_ref().map(StrBytes::as_str))?;
                part.base_offset
            }
        };
        let mut sequence = lane.sequence.lock();
        sequence.next = Some(turn.after(packed.count));
        sequence.open = false;
        Ok(offset)
    }
}

/// What a failed attempt means for the next.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Again,
    NewProducer,
    Refused,
}

fn verdict(error: &WireError) -> Verdict {
    match error {
        WireError::Refused { code, .. } => match code {
            Code::OutOfOrderSequenceNumber
            | Code::UnknownProducerId
            | Code::InvalidProducerEpoch
            | Code::InvalidProducerIdMapping
            | Code::ProducerFenced => Verdict::NewProducer,
            code if code.is_retriable() => Verdict::Again,
            _ => Verdict::Refused,
        },
        WireError::Version { .. } | WireError::Login { .. } | WireError::Ended => Verdict::Refused,
        _ => Verdict::Again,
    }
}

#[async_trait::async_trait]
impl BatchProducer for WireProducer {
    async fn send(&self, to: &TopicPartition, batch: Vec<Record>) -> Result<i64, ClientError> {
        let mut batches = Vec::new();
        let (mut from, mut bytes) = (0, 0);
        for (i, record) in batch.iter().enumerate() {
            let size = size_of(record);
            if i > from && bytes + size > BATCH_BYTES {
                batches.push(Records::from_records(batch.get(from..i).unwrap_or_default()));
                (from, bytes) = (i, 0);
            }
            bytes += size;
        }
        batches.push(Records::from_records(batch.get(from..).unwrap_or_default()));
        self.send_all(to, batches).await
    }

    async fn send_encoded(&self, to: &TopicPartition, records: Records) -> Result<i64, ClientError> {
        self.send_all(to, vec![records]).await
    }

    fn spare(&self, to: &TopicPartition) -> Records {
        std::mem::take(&mut self.lane(to).sequence.lock().spare)
    }

    fn last_error(&self, to: &TopicPartition) -> Option<WireError> {
        let lane = self.lanes.lock().get(to).cloned();
        lane.and_then(|lane| lane.sequence.lock().error.clone())
    }

    async fn ensure_topic(&self, topic: &str, partitions: i32) -> Result<i32, ClientError> {
        let fault = |error: WireError| match error {
            WireError::Refused { message, .. } => ClientError::Topic { topic: topic.to_owned(), reason: message },
            error => ClientError::unreachable(&self.brokers, error),
        };
        let count = |known: Vec<i32>| i32::try_from(known.len()).unwrap_or(i32::MAX);
        let known = count(self.cluster.partitions(topic).await.map_err(fault)?);
        if known > 0 {
            return Ok(known);
        }
        self.cluster.create(topic, partitions).await.map_err(fault)?;
        // Created is not yet listed: other nodes of a cluster learn of it a moment later.
        let deadline = Instant::now() + LISTED;
        loop {
            let known = count(self.cluster.partitions(topic).await.map_err(fault)?);
            if known > 0 {
                return Ok(known);
            }
            if Instant::now() > deadline {
                let reason = format!("created, but not listed after {} s", LISTED.as_secs());
                return Err(ClientError::Topic { topic: topic.to_owned(), reason });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn probe(&self, topic: &str) -> Result<(), ClientError> {
        match self.cluster.partitions(topic).await {
            Ok(_) => Ok(()),
            // That is an answer.
            Err(WireError::Refused { .. }) => Ok(()),
            Err(error) => Err(ClientError::unreachable(&self.brokers, error)),
        }
    }
}

impl WireProducer {
    async fn send_all(&self, to: &TopicPartition, batches: Vec<Records>) -> Result<i64, ClientError> {
        let count = batches.iter().map(Records::len).sum();
        self.deliver(to, batches).await.map_err(|(failed, source)| ClientError::Refused {
            topic_partition: to.clone(),
            count,
            failed,
            retriable: !source.blames_records(),
            source,
        })
    }
}

/// Bytes of a record, about.
fn size_of(record: &Record) -> usize {
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    record.key.as_ref().map_or(0, bytes::Bytes::len) + record.value.as_ref().map_or(0, bytes::Bytes::len) + headers + 16
}
