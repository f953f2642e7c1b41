//! The producer that agent and HTTP doors use by themselves: whole batches of one partition, encoded without a copy for
//! each record, idempotent, `acks=all`, zstd.
//!
//! In: batches for one partition. Out: their offsets once they are durable. Touches the network. The other client is
//! [`crate::client::RdProducer`] over librdkafka: it costs 2 µs a record with our two headers, which is most of what an
//! agent does; this one encodes the records of a batch in one pass.
//!
//! # Exactly once within a session
//! One batch of a partition is on its way at a time, under a producer id of its own and the next sequence number
//! (KIP-98). What was not answered is sent again under the same number until it is: the broker answers a repetition with
//! the offset of the first. A batch given up (time-out, cancelled by its caller) leaves open whether it was stored: then
//! the partition goes on under a fresh producer id, and the caller's own numbers (source and position) tell copies apart.

/// Records straight into batches.
pub mod encode;
mod cluster;
pub(crate) mod connection;
mod error;
mod login;
mod tls;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use error::WireError;

use crate::client::{BatchProducer, ClientError, ConnectionConfig, until_listed};
use crate::record::{Record, TopicPartition};
use cluster::Cluster;
use connection::{Fault, Manner, checked};
use encode::{Compressed, Records, Turn, Zstd};

/// How long one request may take (`request.timeout.ms`).
const REQUEST: Duration = Duration::from_secs(30);
/// First and longest wait between two tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
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

/// Producer over the wire protocol itself.
#[derive(Debug)]
pub struct WireProducer {
    cluster: Cluster,
    brokers: String,
    give_up: Option<Duration>,
    lanes: Mutex<HashMap<TopicPartition, Arc<Lane>>>,
}

impl WireProducer {
    /// Checks what the connection needs; connects when there is something to send. Settings of librdkafka
    /// (`kafka.options`) mean nothing to it: a connection that has some needs the other client. A batch is tried for
    /// `give_up` before its caller is told (`delivery.timeout.ms`), or for ever.
    pub fn new(config: &ConnectionConfig, give_up: Option<Duration>) -> Result<Self, ClientError> {
        let fault = |Fault { key, reason }| ClientError::Connection { key, reason };
        let manner = Manner::of(config).map_err(fault)?;
        // Read once, so that a secret that is not there is told now and not at the first line.
        config.sasl_password.reveal()?;
        let cluster = Cluster::new(&config.brokers, manner);
        Ok(Self { cluster, brokers: config.brokers.join(","), give_up, lanes: Mutex::default() })
    }

    fn lane(&self, to: &TopicPartition) -> Arc<Lane> {
        let mut lanes = self.lanes.lock();
        let lane = lanes.entry(to.clone());
        Arc::clone(lane.or_insert_with(|| Arc::new(Lane { gate: Semaphore::new(1), sequence: Mutex::default() })))
    }

    /// Sends the records of one batch; if the broker finds it too large, in halves.
    async fn deliver(&self, to: &TopicPartition, records: Records) -> Result<i64, (Vec<usize>, WireError)> {
        let lane = self.lane(to);
        let total = records.len();
        let ended = || ((0..total).collect(), WireError::Lost { address: self.brokers.clone() });
        let _alone = lane.gate.acquire().await.map_err(|_| ended())?;
        {
            let mut sequence = lane.sequence.lock();
            // The one before was given up in the middle: nobody knows whether it is stored.
            if std::mem::take(&mut sequence.open) {
                sequence.next = None;
            }
        }
        let deadline = self.give_up.map(|limit| Instant::now() + limit);
        let mut first = None;
        let mut rest = vec![(0, records)];
        let mut refused = Vec::new();
        let mut cause = None;
        while let Some((at, records)) = rest.pop() {
            if records.is_empty() {
                continue;
            }
            let count = records.len();
            let mut zstd = lane.sequence.lock().zstd.take().unwrap_or_default();
            let records = Arc::new(records);
            let plain = Arc::clone(&records);
            // Compression takes milliseconds for a batch: other tasks must not wait for it.
            let packed = tokio::task::spawn_blocking(move || (plain.compress(&mut zstd), zstd)).await;
            let (packed, zstd) = packed.map_err(|_| ended())?;
            lane.sequence.lock().zstd = Some(zstd);
            match self.repeat(to, &lane, &packed, deadline).await {
                Ok(offset) => first = first.or(Some(offset)),
                Err(WireError::Refused { code: Code::MessageTooLarge | Code::RecordListTooLarge, .. }) if count > 1 => {
                    let half = count / 2;
                    rest.push((at + half, records.part(half..count)));
                    rest.push((at, records.part(0..half)));
                    continue;
                }
                Err(error) => {
                    refused.extend(at..at + count);
                    let again = !blames_records(&error);
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
        let mut wait = BACKOFF.0;
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
            if deadline.is_some_and(|deadline| Instant::now() + wait > deadline) {
                return Err(error);
            }
            // A leader that moves is no news; what lasts is.
            if attempt == 5 || attempt % 60 == 0 {
                tracing::warn!(partition = %to, %error, attempt, "log does not take a batch, it is sent again until it does");
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
        Err(WireError::NoLeader)
    }

    async fn attempt(&self, to: &TopicPartition, lane: &Lane, packed: &Compressed) -> Result<i64, WireError> {
        let leader = self.cluster.leader(to).await?;
        let known = {
            let sequence = lane.sequence.lock();
            sequence.next
        };
        let turn = match known {
            Some(turn) => turn,
            None => {
                let request =
                    InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(-1);
                let answer = leader.call(&request, INIT_PRODUCER_ID, REQUEST).await?;
                checked(answer.error_code, None)?;
                let turn = Turn { producer_id: answer.producer_id.0, epoch: answer.producer_epoch, sequence: 0 };
                lane.sequence.lock().next = Some(turn);
                turn
            }
        };
        lane.sequence.lock().open = true;
        let part = PartitionProduceData::default().with_index(to.partition).with_records(Some(packed.batch(turn)));
        let topic = TopicProduceData::default()
            .with_name(TopicName(StrBytes::from_string(to.topic.to_string())))
            .with_partition_data(vec![part]);
        let request = ProduceRequest::default()
            .with_transactional_id(None)
            .with_acks(-1)
            .with_timeout_ms(i32::try_from(REQUEST.as_millis()).unwrap_or(i32::MAX))
            .with_topic_data(vec![topic]);
        let answer = leader.call(&request, PRODUCE, REQUEST + Duration::from_secs(1)).await?;
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
        // Sequences wrap to 0 after the largest.
        let next = (i64::from(turn.sequence) + i64::from(packed.count)) & i64::from(i32::MAX);
        sequence.next = Some(Turn { sequence: i32::try_from(next).unwrap_or(0), ..turn });
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
        WireError::Version { .. } | WireError::Login { .. } => Verdict::Refused,
        _ => Verdict::Again,
    }
}

/// Whether the records themselves are refused, not the moment, the right or the connection.
fn blames_records(error: &WireError) -> bool {
    matches!(
        error,
        WireError::Refused {
            code: Code::MessageTooLarge
                | Code::RecordListTooLarge
                | Code::CorruptMessage
                | Code::InvalidRecord
                | Code::InvalidTimestamp
                | Code::PolicyViolation
                | Code::UnsupportedForMessageFormat,
            ..
        }
    )
}

#[async_trait::async_trait]
impl BatchProducer for WireProducer {
    async fn send(&self, to: &TopicPartition, batch: Vec<Record>) -> Result<i64, ClientError> {
        self.send_encoded(to, Records::from_records(&batch)).await
    }

    async fn send_encoded(&self, to: &TopicPartition, records: Records) -> Result<i64, ClientError> {
        let count = records.len();
        self.deliver(to, records).await.map_err(|(failed, error)| ClientError::Refused {
            topic_partition: to.clone(),
            count,
            failed,
            retriable: !blames_records(&error),
            source: error.to_kafka(),
        })
    }

    fn spare(&self, to: &TopicPartition) -> Records {
        std::mem::take(&mut self.lane(to).sequence.lock().spare)
    }

    async fn ensure_topic(&self, topic: &str, partitions: i32) -> Result<i32, ClientError> {
        let fault = |error: WireError| match error {
            WireError::Refused { message, .. } => ClientError::Topic { topic: topic.to_owned(), reason: message },
            error => ClientError::Unreachable { brokers: self.brokers.clone(), source: error.to_kafka() },
        };
        let known = self.cluster.partitions(topic).await.map_err(fault)?;
        if known > 0 {
            return Ok(known);
        }
        self.cluster.create(topic, partitions).await.map_err(fault)?;
        until_listed(topic, || async { self.cluster.partitions(topic).await.map_err(fault) }).await
    }
}
