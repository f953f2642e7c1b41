//! Offsets committed within transactions: kept apart until the marker of the transaction says whether they count (KIP-98).
//!
//! In: commits of producers, markers. Out: answers. Touches the log: commits are batches of the producer's transaction in
//! `__consumer_offsets`, markers end it there as in any partition, so that reading the topic again gives the same state.
//! Leaves to [`crate::transaction`] whether a transaction is open and how it ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::commits::{Commit, Committer};
use super::coordinator::{Coordinator, ENTRIES_PER_BATCH};
use super::error::GroupError;
use super::offsets::{self, OFFSETS_TOPIC, OffsetsEntry};
use super::slot::{Held, Slot};
use crate::keyed::partition_for;
use crate::storage::{AppendError, AppendKind, Marker, Partition, Verification, marker_batch};
use millrace_log::record::{Offset, TopicPartition};

/// Adds the offsets of a group's open transactions that would count if they were committed.
pub(super) fn gather(group: &str, slot: &Slot, into: &mut BTreeMap<(i64, i16), Vec<OffsetsEntry>>) {
    for (producer_id, pending) in &slot.pending {
        for (tp, stored) in &pending.offsets {
            if slot.offsets.get(tp).is_some_and(|newer| newer.at > stored.at) {
                continue;
            }
            into.entry((*producer_id, pending.epoch)).or_default().push(OffsetsEntry::Offset {
                group: group.to_owned(),
                topic: tp.topic.to_string(),
                partition: tp.partition,
                value: Some(stored.committed.clone()),
            });
        }
    }
}

impl Coordinator {
    /// The partition of [`OFFSETS_TOPIC`] that a transaction with offsets of the group is part of.
    pub fn partition_of(&self, group: &str) -> TopicPartition {
        let number = partition_for(group, self.partitions.len());
        TopicPartition::new(OFFSETS_TOPIC, i32::try_from(number).unwrap_or(0))
    }

    /// To be asked for before the transaction coordinator is asked whether the transaction is open.
    pub fn verification(&self, group: &str) -> Option<Verification> {
        self.partitions.get(partition_for(group, self.partitions.len())).map(|partition| partition.verification())
    }

    /// Checks that a commit within a transaction may be taken.
    pub fn may_commit_in_transaction(&self, group: &str, from: Committer<'_>) -> Result<(), GroupError> {
        let Committer { member, instance, generation, .. } = from;
        let check = |slot: &mut Slot, now_ms| match &mut slot.held {
            Held::Classic(group) => group.may_commit_in_transaction(member, instance, generation, now_ms),
            Held::Consumer(_) if generation < 0 && member.is_empty() && instance.is_none() => Ok(()),
            Held::Consumer(group) => group.may_commit(member, generation, true),
        };
        match self.with(group, check) {
            Some(answer) => answer,
            // A group that does not manage its members.
            None if generation < 0 => Ok(()),
            None => Err(GroupError::IllegalGeneration),
        }
    }

    /// Keeps offsets of a producer's open transaction; durable when it returns. They count once it is committed.
    pub async fn commit_in_transaction(
        &self,
        group: &str,
        from: Committer<'_>,
        producer: (i64, i16),
        verification: Verification,
        commits: Vec<Commit>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        self.may_commit_in_transaction(group, from)?;
        let (answers, entries) = self.entries(group, commits);
        if entries.is_empty() {
            return Ok(answers);
        }
        let at = partition_for(group, self.partitions.len());
        let (Some(partition), Some(gate)) = (self.partitions.get(at), self.gates.get(at)) else {
            return Err(GroupError::NotAvailable);
        };
        let batch = offsets::batch(&entries, Some(producer), self.clock.now_ms());
        let batch = batch.map_err(|e| GroupError::Log(e.to_string()))?;
        // What is appended counts as pending before a marker can come: that waits for all who have the gate.
        let pass = gate.read().await;
        let kind = AppendKind::InternalTransaction(verification);
        let appended = partition.append(batch, kind).await.map_err(|e| refusal(&e))?;
        for (entry, at) in entries.into_iter().zip(appended.base_offset..) {
            self.apply_pending(Offset::new(at), entry, producer);
        }
        drop(pass);
        partition.flushed(appended.last_offset).await.map_err(|e| refusal(&e))?;
        Ok(answers)
    }

    /// Ends the transaction of a producer in one partition of [`OFFSETS_TOPIC`]; durable when it returns.
    pub async fn end_transaction(
        &self,
        number: i32,
        (producer_id, epoch): (i64, i16),
        marker: Marker,
    ) -> Result<(), AppendError> {
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        let (Some(partition), Some(gate)) = (self.partitions.get(at), self.gates.get(at)) else {
            return Err(AppendError::Deleted);
        };
        let alone = gate.write().await;
        let batch = marker_batch(producer_id, epoch, marker, self.clock.now_ms());
        let appended = partition.append(batch, AppendKind::Internal).await?;
        // Decided before, by the transaction's own log: it may count before it is durable here.
        self.resolve(number, producer_id, marker.commit);
        drop(alone);
        partition.flushed(appended.last_offset).await
    }

    /// Whether an open transaction holds another offset of a partition (KIP-447).
    pub fn is_unstable(&self, group: &str, tp: &TopicPartition) -> bool {
        let has = |slot: &mut Slot, _| slot.pending.values().any(|pending| pending.offsets.contains_key(tp));
        self.with(group, has).unwrap_or(false)
    }

    /// Rewrites offsets of open transactions, as part of them.
    pub(super) async fn append_pending(
        &self,
        partition: &Arc<Partition>,
        pending: BTreeMap<(i64, i16), Vec<OffsetsEntry>>,
    ) -> Result<(), GroupError> {
        for (producer, entries) in pending {
            for some in entries.chunks(ENTRIES_PER_BATCH) {
                let batch = offsets::batch(some, Some(producer), self.clock.now_ms());
                let batch = batch.map_err(|e| GroupError::Log(e.to_string()))?;
                let kind = AppendKind::InternalTransaction(partition.verification());
                let appended = partition.append(batch, kind).await.map_err(|e| refusal(&e))?;
                partition.flushed(appended.last_offset).await.map_err(|e| refusal(&e))?;
            }
        }
        Ok(())
    }
}

fn refusal(error: &AppendError) -> GroupError {
    match error {
        AppendError::TxnState { .. } => GroupError::TxnState,
        AppendError::Fenced { .. } => GroupError::FencedProducer,
        other => GroupError::Log(other.to_string()),
    }
}
