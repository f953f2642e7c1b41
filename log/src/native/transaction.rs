//! Transactions of one producer (KIP-98, KIP-360, KIP-447): its id and epoch, the partitions and offsets in the open
//! transaction, batches, the end.
//!
//! In: a transactional id; batches, offsets. Out: a transaction that becomes visible as a whole, or not at all. Touches the
//! network through [`Cluster`]. Each step is repeated while that may help, within a limit; what is refused comes back with
//! the step at which it was. Leaves records and what to do after a failure to [`crate::client::transactional`].
//!
//! Sequence numbers start at 0 with each epoch. A transaction that failed is aborted only when nothing of it is on its way
//! any more, and the next one begins under a new epoch: a batch that comes late is refused by its epoch, or belongs to what
//! is aborted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, EndTxnRequest, GroupId, InitProducerIdRequest, ProduceRequest,
    ProducerId, TransactionalId, TxnOffsetCommitRequest,
};
use kafka_protocol::protocol::StrBytes;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::cluster::{Cluster, Coordinates, Use};
use super::connection::checked;
use super::encode::{Compressed, Turn};
use super::error::WireError;
use super::offsets::{Committer, Patience, by_topic, coordinator_moved, text, topic_name};
use crate::record::TopicPartition;

/// Versions: those of the first protocol of transactions, which every broker speaks; the second (KIP-890) begins with
/// Produce 12, AddPartitionsToTxn 4 is for brokers, EndTxn 5 and TxnOffsetCommit 5.
const INIT_PRODUCER_ID: (i16, i16) = (0, 4);
const ADD_PARTITIONS: (i16, i16) = (0, 3);
const ADD_OFFSETS: (i16, i16) = (0, 3);
const TXN_OFFSET_COMMIT: (i16, i16) = (0, 4);
const END_TXN: (i16, i16) = (0, 4);
const PRODUCE: (i16, i16) = (7, 11);

/// A batch that was not taken.
#[derive(Debug, Clone)]
pub(crate) struct BatchRefused {
    pub error: WireError,
    /// Which of its records the broker names, and why; none: it does not say.
    pub records: Vec<(usize, String)>,
}

#[derive(Debug, Default)]
struct State {
    /// Producer id and epoch; none before the start.
    identity: Option<(i64, i16)>,
    sequences: HashMap<TopicPartition, i32>,
}

/// The producer of one transactional id.
#[derive(Debug)]
pub(crate) struct Transactions {
    cluster: Arc<Cluster>,
    id: String,
    timeout: Duration,
    /// How long a step may take.
    step: Duration,
    state: Mutex<State>,
}

impl Transactions {
    pub fn new(cluster: Arc<Cluster>, id: &str, timeout: Duration, step: Duration) -> Self {
        Self { cluster, id: id.to_owned(), timeout, step, state: Mutex::default() }
    }

    fn id(&self) -> TransactionalId {
        TransactionalId(text(&self.id))
    }

    fn identity(&self) -> Result<(i64, i16), WireError> {
        self.state.lock().identity.ok_or(WireError::Ended)
    }

    /// Repeats what the transaction's coordinator is asked for.
    async fn repeat<T, F>(&self, limit: Duration, act: impl Fn() -> F) -> Result<T, WireError>
    where
        F: Future<Output = Result<T, WireError>>,
    {
        let mut patience = Patience::of(&self.cluster, limit);
        loop {
            match act().await {
                Err(error) if coordinator_moved(&self.cluster, Coordinates::Transaction, &self.id, &error) => {
                    if !patience.again().await {
                        return Err(error);
                    }
                }
                answer => return answer,
            }
        }
    }

    /// Takes the id, or a new epoch of it: aborts what is open, and whoever had it before is refused from now on. With an
    /// epoch of its own it is refused itself if another has taken the id in the meantime.
    pub async fn start(&self) -> Result<(), WireError> {
        let known = self.state.lock().identity;
        let started = self.repeat(self.step, || async move {
            let connection = self.cluster.coordinator(Coordinates::Transaction, &self.id, Use::Requests).await?;
            let request = |version: i16| {
                let (producer_id, epoch) = known.filter(|_| version >= 3).unwrap_or((-1, -1));
                InitProducerIdRequest::default()
                    .with_transactional_id(Some(self.id()))
                    .with_transaction_timeout_ms(i32::try_from(self.timeout.as_millis()).unwrap_or(i32::MAX))
                    .with_producer_id(ProducerId(producer_id))
                    .with_producer_epoch(epoch)
            };
            let answer = connection.call_as(request, INIT_PRODUCER_ID, self.step).await?;
            checked(answer.error_code, None)?;
            Ok((answer.producer_id.0, answer.producer_epoch))
        });
        let identity = started.await?;
        let mut state = self.state.lock();
        state.identity = Some(identity);
        state.sequences.clear();
        Ok(())
    }

    /// Makes partitions part of the open transaction, or opens one with them.
    pub async fn add_partitions(&self, partitions: &[TopicPartition]) -> Result<(), WireError> {
        if partitions.is_empty() {
            return Ok(());
        }
        let (producer_id, epoch) = self.identity()?;
        let topics = by_topic(partitions.iter().map(|tp| (tp.clone(), ())));
        let topics = topics.into_iter().map(|(topic, all)| {
            let partitions = all.into_iter().map(|(partition, ())| partition).collect();
            AddPartitionsToTxnTopic::default().with_name(topic_name(&topic)).with_partitions(partitions)
        });
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(self.id())
            .with_v3_and_below_producer_id(ProducerId(producer_id))
            .with_v3_and_below_producer_epoch(epoch)
            .with_v3_and_below_topics(topics.collect());
        let request = &request;
        let added = self.repeat(self.step, || async move {
            let connection = self.cluster.coordinator(Coordinates::Transaction, &self.id, Use::Requests).await?;
            let answer = connection.call(request, ADD_PARTITIONS, self.step).await?;
            let mut not_attempted = None;
            for part in answer.results_by_topic_v3_and_below.iter().flat_map(|topic| &topic.results_by_partition) {
                match checked(part.partition_error_code, None) {
                    // The others' error says why.
                    Err(error) if error.code() == Some(Code::OperationNotAttempted) => not_attempted = Some(error),
                    result => result?,
                }
            }
            not_attempted.map_or(Ok(()), Err)
        });
        added.await
    }

    /// Sends a batch of the open transaction until it is stored, refused for good, or `stop` says that it is not worth
    /// another attempt. One batch of a partition at a time.
    pub async fn send(
        &self,
        to: &TopicPartition,
        batch: &Compressed,
        stop: &CancellationToken,
    ) -> Result<(), BatchRefused> {
        let bare = |error| BatchRefused { error, records: Vec::new() };
        let (producer_id, epoch) = self.identity().map_err(bare)?;
        let sequence = self.state.lock().sequences.get(to).copied().unwrap_or(0);
        let turn = Turn { producer_id, epoch, sequence };
        let mut patience = Patience::of(&self.cluster, self.step);
        loop {
            match self.try_send(to, batch, turn).await {
                Ok(()) => {
                    self.state.lock().sequences.insert(to.clone(), turn.after(batch.count).sequence);
                    return Ok(());
                }
                Err(refused) if refused.error.is_retriable() => {
                    self.cluster.forget(to);
                    tokio::select! {
                        () = stop.cancelled() => return Err(refused),
                        again = patience.again() => if !again {
                            return Err(refused);
                        }
                    }
                }
                Err(refused) => return Err(refused),
            }
        }
    }

    async fn try_send(&self, to: &TopicPartition, batch: &Compressed, turn: Turn) -> Result<(), BatchRefused> {
        let bare = |error| BatchRefused { error, records: Vec::new() };
        let leader = self.cluster.leader(to).await.map_err(bare)?;
        let limit = self.cluster.options().request_timeout;
        let part = PartitionProduceData::default()
            .with_index(to.partition)
            .with_records(Some(batch.transactional_batch(turn)));
        let topic = TopicProduceData::default().with_name(topic_name(&to.topic)).with_partition_data(vec![part]);
        let request = ProduceRequest::default()
            .with_transactional_id(Some(self.id()))
            .with_acks(-1)
            .with_timeout_ms(i32::try_from(limit.as_millis()).unwrap_or(i32::MAX))
            .with_topic_data(vec![topic]);
        let answer = leader.call(&request, PRODUCE, limit + Duration::from_secs(1)).await.map_err(bare)?;
        let part = answer.responses.into_iter().flat_map(|topic| topic.partition_responses).next();
        let part = part.ok_or_else(|| {
            let cause = "the partition is not in it".to_owned();
            bare(WireError::Answer { address: self.cluster.brokers(), cause })
        })?;
        match Code::try_from_code(part.error_code) {
            None | Some(Code::DuplicateSequenceNumber) => Ok(()),
            Some(code) => {
                let records = part.record_errors.iter().map(|one| {
                    let said = one.batch_index_error_message.as_ref().map(StrBytes::to_string);
                    (usize::try_from(one.batch_index).unwrap_or(0), said.unwrap_or_default())
                });
                let records = records.collect();
                let error = WireError::refused(code, part.error_message.as_ref().map(StrBytes::as_str));
                Err(BatchRefused { error, records })
            }
        }
    }

    /// Makes a group's offsets part of the open transaction: the next record of each partition.
    pub async fn add_offsets(
        &self,
        group: &str,
        by: &Committer,
        next: &[(TopicPartition, i64)],
    ) -> Result<(), WireError> {
        let (producer_id, epoch) = self.identity()?;
        let request = AddOffsetsToTxnRequest::default()
            .with_transactional_id(self.id())
            .with_producer_id(ProducerId(producer_id))
            .with_producer_epoch(epoch)
            .with_group_id(GroupId(text(group)));
        let request = &request;
        let added = self.repeat(self.step, || async move {
            let connection = self.cluster.coordinator(Coordinates::Transaction, &self.id, Use::Requests).await?;
            let answer = connection.call(request, ADD_OFFSETS, self.step).await?;
            checked(answer.error_code, None)
        });
        added.await?;
        let topics = by_topic(next.iter().cloned()).into_iter().map(|(topic, all)| {
            let parts = all.into_iter().map(|(partition, offset)| {
                TxnOffsetCommitRequestPartition::default()
                    .with_partition_index(partition)
                    .with_committed_offset(offset)
                    .with_committed_metadata(Some(by.metadata(&topic)))
            });
            TxnOffsetCommitRequestTopic::default().with_name(topic_name(&topic)).with_partitions(parts.collect())
        });
        let topics: Vec<_> = topics.collect();
        let request = |version: i16| {
            let request = TxnOffsetCommitRequest::default()
                .with_transactional_id(self.id())
                .with_group_id(GroupId(text(group)))
                .with_producer_id(ProducerId(producer_id))
                .with_producer_epoch(epoch)
                .with_topics(topics.clone());
            if version < 3 {
                return request;
            }
            request
                .with_generation_id(by.generation)
                .with_member_id(text(&by.member_id))
                .with_group_instance_id(by.instance_id.as_deref().map(text))
        };
        let mut patience = Patience::of(&self.cluster, self.step);
        loop {
            let attempt = async {
                let connection = self.cluster.coordinator(Coordinates::Group, group, Use::Requests).await?;
                let answer = connection.call_as(request, TXN_OFFSET_COMMIT, self.step).await?;
                for part in answer.topics.iter().flat_map(|topic| &topic.partitions) {
                    checked(part.error_code, None)?;
                }
                Ok(())
            };
            match attempt.await {
                Err(error) if coordinator_moved(&self.cluster, Coordinates::Group, group, &error) => {
                    if !patience.again().await {
                        return Err(error);
                    }
                }
                answer => return answer,
            }
        }
    }

    /// Commits or aborts the open transaction.
    pub async fn end(&self, commit: bool, limit: Duration) -> Result<(), WireError> {
        let (producer_id, epoch) = self.identity()?;
        let request = EndTxnRequest::default()
            .with_transactional_id(self.id())
            .with_producer_id(ProducerId(producer_id))
            .with_producer_epoch(epoch)
            .with_committed(commit);
        let request = &request;
        let ended = self.repeat(limit, || async move {
            let connection = self.cluster.coordinator(Coordinates::Transaction, &self.id, Use::Requests).await?;
            let answer = connection.call(request, END_TXN, limit).await?;
            checked(answer.error_code, None)
        });
        ended.await
    }
}
