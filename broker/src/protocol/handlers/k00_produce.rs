//! Produce (key 0), versions 3 to 13. Appends record batches of many partitions; each has its own answer.
//!
//! Behaviour: batches are checked and appended in the order of the requests of a connection. acks=-1 is answered when
//! they are flushed, acks=1 when they are written, acks=0 never: a failure then ends the connection, as Kafka does it.
//! A repeated batch of an idempotent producer gets the offset of the first. Versions: 5 log start offset, 7 zstd,
//! 8 errors by record (KIP-467), 9 flexible, 10 leader for the client to find, 12 transactions v2, 13 topic ids
//! (KIP-516). A transactional batch must belong to an open transaction that its partition is part of (KIP-890); from version
//! 12 on writing adds the partition. The epoch of its producer must be the latest (INVALID_PRODUCER_EPOCH).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::future::join_all;
use kafka_protocol::messages::produce_request::TopicProduceData;
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse, TopicName};
use uuid::Uuid;

use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::{Code, append_code, txn_code};
use crate::protocol::internal_topics::is_internal;
use crate::protocol::wire::{RequestFault, count_records, text};
use crate::storage::{AppendError, AppendKind, Appended, BatchProducer, Partition, Topic, append_all};
use crate::transaction::state::{ProducerEpoch, Protocol, TxnError};
use millrace_log::record::TopicPartition;

/// What was appended and waits for its flush.
pub(crate) struct Started {
    acks: i16,
    topics: Vec<(TopicName, Uuid, Vec<Part>)>,
}

struct Part {
    index: i32,
    began: Instant,
    /// The partition, and once it is there what came of the append.
    result: Result<(Arc<Partition>, Option<Appended>), Refused>,
    /// Records of the batch, for errors that name one.
    records: u64,
    bytes: u64,
}

struct Refused {
    code: Code,
    message: String,
    /// Records of the batch that are to blame, if known.
    places: Vec<i32>,
}

impl From<AppendError> for Refused {
    fn from(error: AppendError) -> Self {
        let (code, message) = (append_code(&error), error.to_string());
        let places = match error {
            AppendError::NoKey { places } => places,
            AppendError::Record { place, .. }
            | AppendError::Unpacked { place: Some(place), .. }
            | AppendError::Timestamp { place: Some(place), .. } => vec![place],
            _ => Vec::new(),
        };
        Self { code, message, places }
    }
}

impl From<Code> for Refused {
    fn from(code: Code) -> Self {
        Self { code, message: code.to_string(), places: Vec::new() }
    }
}

/// Appends all that the request brings.
pub(crate) async fn start(cx: &Context, request: ProduceRequest) -> Started {
    let acks = request.acks;
    let transaction = Transaction::begin(cx, &request).await;
    let mut topics = Vec::with_capacity(request.topic_data.len());
    let mut wanted = Vec::new();
    for data in request.topic_data {
        let topic = transaction.as_ref().map_err(|code| *code).and_then(|of| Ok((of, find(cx, &data)?)));
        let mut parts = Vec::with_capacity(data.partition_data.len());
        for part in data.partition_data {
            let batches = part.records.unwrap_or_default();
            let (records, bytes) = (count_records(&batches), batches.len() as u64);
            let admitted = if cx.version < 7 && is_zstd(&batches) {
                Err(Code::UnsupportedCompressionType.into())
            } else {
                admit(cx, acks, &topic, part.index, &batches)
            };
            let result = admitted.map(|(partition, kind)| {
                wanted.push((Arc::clone(&partition), batches, kind));
                (partition, None)
            });
            parts.push(Part { index: part.index, began: Instant::now(), result, records, bytes });
        }
        topics.push((data.name, data.topic_id, parts));
    }
    // Outcomes come in the order of what was wanted.
    let mut outcomes = append_all(wanted).await.into_iter();
    for part in topics.iter_mut().flat_map(|(_, _, parts)| parts) {
        let Ok((partition, appended)) = &mut part.result else { continue };
        match outcomes.next().unwrap_or(Err(AppendError::Closed)) {
            Ok(outcome) => {
                if !outcome.duplicate {
                    partition.traffic().took(part.bytes, part.records);
                    cx.core.metrics.bytes_in.inc_by(part.bytes);
                    cx.core.metrics.records_in.inc_by(part.records);
                }
                *appended = Some(outcome);
            }
            Err(error) => part.result = Err(error.into()),
        }
    }
    Started { acks, topics }
}

/// The topic that data is for, if the client may write to it.
fn find(cx: &Context, data: &TopicProduceData) -> Result<Arc<Topic>, Code> {
    if cx.version >= 13 {
        let topic = cx.core.storage.topic_by_id(data.topic_id).ok_or(Code::UnknownTopicId)?;
        cx.allowed(Operation::Write, Resource::Topic(topic.name()))?;
        return Ok(topic);
    }
    cx.allowed(Operation::Write, Resource::Topic(&data.name.0))?;
    cx.core.storage.topic(&data.name.0).ok_or(Code::UnknownTopicOrPartition)
}

/// What a request has to do with transactions.
enum Transaction {
    /// Nothing.
    None,
    /// Batches of this id; with the producers whose partitions could not be added, and why.
    Of { id: String, refused: BTreeMap<ProducerEpoch, TxnError> },
}

impl Transaction {
    /// Looks for transactional batches; adds their partitions to the transaction if the version says that writing does so.
    /// Such batches need a transactional id, and the right to use it.
    async fn begin(cx: &Context, request: &ProduceRequest) -> Result<Self, Code> {
        let mut partitions: BTreeMap<ProducerEpoch, Vec<TopicPartition>> = BTreeMap::new();
        for data in &request.topic_data {
            for part in &data.partition_data {
                let of = part.records.as_deref().and_then(BatchProducer::of);
                let Some(of) = of.filter(|of| of.is_transactional) else { continue };
                let listed = partitions.entry((of.producer_id, of.epoch)).or_default();
                if let Ok(topic) = find(cx, data)
                    && topic.partition(part.index).is_some()
                {
                    listed.push(TopicPartition::new(topic.name(), part.index));
                }
            }
        }
        if partitions.is_empty() {
            return Ok(Self::None);
        }
        let id = request.transactional_id.as_ref().ok_or(Code::TransactionalIdAuthorizationFailed)?;
        cx.allowed(Operation::Write, Resource::TransactionalId(&id.0))?;
        let id = id.0.to_string();
        let mut refused = BTreeMap::new();
        if cx.version >= 12 {
            for (producer, partitions) in partitions {
                if let Err(error) = cx.core.transactions.add(&id, producer, &partitions, Protocol::Two).await {
                    refused.insert(producer, error);
                }
            }
        }
        Ok(Self::Of { id, refused })
    }

    /// How a batch is to be appended to a partition.
    fn admit(&self, cx: &Context, partition: &Partition, of: Option<BatchProducer>) -> Result<AppendKind, Refused> {
        let (id, refused, of) = match (self, of) {
            (Self::None, _) | (_, None) => return Ok(AppendKind::Client),
            (Self::Of { id, refused }, Some(of)) => (id, refused, of),
        };
        if !of.is_transactional {
            return Ok(AppendKind::Client);
        }
        let producer = (of.producer_id, of.epoch);
        // Asked for first: a marker after this moment refuses the batch.
        let verification = partition.verification();
        let verified = match refused.get(&producer) {
            Some(error) => Err(error.clone()),
            None => {
                let tp = TopicPartition::new(partition.topic(), partition.number());
                cx.core.transactions.verify(id, producer, &tp)
            }
        };
        match verified {
            Ok(()) => Ok(AppendKind::Transaction(verification)),
            Err(error) => {
                Err(Refused { places: Vec::new(), code: refusal(cx.version, &error), message: error.to_string() })
            }
        }
    }
}

/// What a client of this version understands of a refusal by the transaction coordinator.
fn refusal(version: i16, error: &TxnError) -> Code {
    match error {
        TxnError::Fenced => Code::InvalidProducerEpoch,
        TxnError::NotAdded if version < 11 => Code::InvalidTxnState,
        // Retriable, and makes nobody look for another leader.
        TxnError::Concurrent if version < 12 => Code::NotEnoughReplicas,
        TxnError::NotAvailable(_) => Code::NotEnoughReplicas,
        other => txn_code(other),
    }
}

/// Whether a batch is compressed with zstd: 4 in the lowest bits of the attributes at byte 21.
fn is_zstd(records: &[u8]) -> bool {
    records.get(22).is_some_and(|attributes| attributes & 0x07 == 4)
}

/// The partition that a batch goes to, and how, if it may.
fn admit(
    cx: &Context,
    acks: i16,
    topic: &Result<(&Transaction, Arc<Topic>), Code>,
    index: i32,
    records: &Bytes,
) -> Result<(Arc<Partition>, AppendKind), Refused> {
    if !(-1..=1).contains(&acks) {
        return Err(Code::InvalidRequiredAcks.into());
    }
    let (transaction, topic) = topic.as_ref().map_err(|code| *code)?;
    if is_internal(topic.name()) {
        return Err(Code::InvalidTopicException.into());
    }
    let partition = topic.partition(index).ok_or(Code::UnknownTopicOrPartition)?;
    if records.is_empty() {
        let message = "the request holds no record batch".to_owned();
        return Err(Refused { code: Code::InvalidRecord, message, places: Vec::new() });
    }
    let kind = transaction.admit(cx, &partition, BatchProducer::of(records))?;
    Ok((partition, kind))
}

/// Waits for the flush as far as `acks` asks, and answers.
pub(crate) async fn finish(cx: &Context, started: Started) -> Result<Option<ProduceResponse>, RequestFault> {
    let acks = started.acks;
    let mut responses = Vec::with_capacity(started.topics.len());
    for (name, id, parts) in started.topics {
        let answers = join_all(parts.into_iter().map(|part| answer(cx, acks, part))).await;
        if acks == 0
            && let Some(failed) = answers.iter().find(|a| a.error_code != 0)
        {
            let reason = failed.error_message.as_ref().map(ToString::to_string).unwrap_or_default();
            return Err(RequestFault::Unacknowledged(format!("{}-{}: {reason}", name.0, failed.index)));
        }
        let answers = answers.into_iter().map(|mut a| {
            if cx.version < 8 {
                a.record_errors.clear();
                a.error_message = None;
            }
            a
        });
        let response = TopicProduceResponse::default().with_partition_responses(answers.collect());
        responses.push(if cx.version >= 13 { response.with_topic_id(id) } else { response.with_name(name) });
    }
    Ok((acks != 0).then(|| ProduceResponse::default().with_responses(responses)))
}

async fn answer(cx: &Context, acks: i16, part: Part) -> PartitionProduceResponse {
    let answer = PartitionProduceResponse::default().with_index(part.index);
    let result = match part.result {
        Ok((partition, Some(appended))) if acks == -1 => match partition.flushed(appended.last_offset).await {
            Ok(()) => {
                cx.core.metrics.flush_seconds.observe(part.began.elapsed().as_secs_f64());
                Ok(appended)
            }
            Err(error) => Err(error.into()),
        },
        Ok((_, Some(appended))) => Ok(appended),
        // Each has had its outcome.
        Ok((_, None)) => Err(AppendError::Closed.into()),
        Err(refused) => Err(refused),
    };
    match result {
        Ok(appended) => {
            let answer =
                answer.with_base_offset(appended.base_offset).with_log_append_time_ms(appended.log_append_time_ms);
            if cx.version >= 5 { answer.with_log_start_offset(appended.log_start_offset) } else { answer }
        }
        Err(Refused { code, message, mut places }) => {
            // A batch of one record leaves no doubt which one is meant.
            if code == Code::InvalidTimestamp && part.records == 1 {
                places = vec![0];
            }
            let record_errors = places.into_iter().map(|place| {
                BatchIndexAndErrorMessage::default()
                    .with_batch_index(place)
                    .with_batch_index_error_message(Some(text(&message)))
            });
            let record_errors = record_errors.collect();
            answer
                .with_error_code(code.code())
                .with_base_offset(-1)
                .with_log_append_time_ms(-1)
                .with_record_errors(record_errors)
                .with_error_message(Some(text(&message)))
        }
    }
}
