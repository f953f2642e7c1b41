//! TxnOffsetCommit (key 28), versions 0 to 5. Keeps how far a group has read, to count when the transaction commits.
//!
//! Behaviour: durable when answered; until the end of the transaction readers see the offset before, or are told to wait
//! (OffsetFetch with `require_stable`). Versions: 2 leader epochs, 3 flexible, group member and generation (KIP-447), 4
//! TRANSACTION_ABORTABLE, 5 the second protocol of KIP-890: AddOffsetsToTxn is not needed before.

use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{TxnOffsetCommitRequest, TxnOffsetCommitResponse};

use crate::group::{Commit, Committer};
use crate::protocol::access::{Operation, Resource};
use crate::protocol::context::Context;
use crate::protocol::error::{Code, group_code, group_number, txn_code};
use crate::transaction::state::{Protocol, TxnError};
use millrace_log::record::{Offset, TopicPartition};

/// Partition indexes of a topic, with their place in the commit, or why they have none.
type CommitIndexes = Vec<(i32, Result<usize, Code>)>;

fn refusal(version: i16, error: &TxnError) -> Code {
    match error {
        TxnError::Fenced => Code::InvalidProducerEpoch,
        TxnError::NotAdded if version < 4 => Code::InvalidTxnState,
        other => txn_code(other),
    }
}

async fn commit(
    cx: &Context,
    request: &TxnOffsetCommitRequest,
    commits: Vec<Commit>,
) -> Result<Vec<Result<(), crate::group::GroupError>>, Code> {
    let (groups, transactions) = (&cx.core.groups, &cx.core.transactions);
    let producer = (request.producer_id.0, request.producer_epoch);
    let is_versed = cx.version >= 3;
    let from = Committer {
        member: if is_versed { &request.member_id } else { "" },
        instance: request.group_instance_id.as_deref().filter(|_| is_versed),
        generation: if is_versed { request.generation_id } else { -1 },
        knows_epochs: true,
    };
    cx.allowed(Operation::Write, Resource::TransactionalId(&request.transactional_id))?;
    cx.allowed(Operation::Read, Resource::Group(&request.group_id))?;
    if request.group_id.is_empty() {
        return Err(Code::InvalidGroupId);
    }
    let partition = groups.partition_of(&request.group_id);
    if cx.version >= 5 {
        let added =
            transactions.add(&request.transactional_id, producer, std::slice::from_ref(&partition), Protocol::Two);
        added.await.map_err(|e| refusal(cx.version, &e))?;
    }
    let verification = groups.verification(&request.group_id).ok_or(Code::CoordinatorNotAvailable)?;
    transactions.verify(&request.transactional_id, producer, &partition).map_err(|e| refusal(cx.version, &e))?;
    let committed = groups.commit_in_transaction(&request.group_id, from, producer, verification, commits).await;
    committed.map_err(|e| group_code(&e))
}

/// Answers.
pub(crate) async fn handle(cx: &Context, mut request: TxnOffsetCommitRequest) -> TxnOffsetCommitResponse {
    let mut commits = Vec::new();
    let mut topics: Vec<(_, CommitIndexes)> = Vec::with_capacity(request.topics.len());
    for topic in std::mem::take(&mut request.topics) {
        let name: std::sync::Arc<str> = (&*topic.name.0).into();
        let mut places = Vec::with_capacity(topic.partitions.len());
        for p in topic.partitions {
            let known = cx
                .allowed(Operation::Read, Resource::Topic(&name))
                .and_then(|()| cx.partition(&name, p.partition_index).map(|_| commits.len()));
            places.push((p.partition_index, known));
            if known.is_ok() {
                commits.push(Commit {
                    partition: TopicPartition::new(std::sync::Arc::clone(&name), p.partition_index),
                    offset: Offset::new(p.committed_offset),
                    leader_epoch: p.committed_leader_epoch,
                    metadata: p.committed_metadata.as_ref().map(ToString::to_string).unwrap_or_default(),
                });
            }
        }
        topics.push((topic.name, places));
    }
    let answers = if commits.is_empty() { Ok(Vec::new()) } else { commit(cx, &request, commits).await };
    let code = |place: Result<usize, Code>| match (&answers, place) {
        (_, Err(code)) => code.code(),
        (Err(code), _) => code.code(),
        (Ok(list), Ok(at)) => list.get(at).map_or(0, group_number),
    };
    let topics = topics.into_iter().map(|(name, places)| {
        let partitions = places.into_iter().map(|(index, place)| {
            TxnOffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code(place))
        });
        TxnOffsetCommitResponseTopic::default().with_name(name).with_partitions(partitions.collect())
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}
