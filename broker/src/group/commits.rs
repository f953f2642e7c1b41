//! Committed offsets: kept, fetched, deleted, and how far groups are behind.
//!
//! In: commits of members and others. Out: answers, once they are durable; lags. Touches the log through the coordinator.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::coordinator::Coordinator;
use super::error::GroupError;
use super::offsets::{Committed, OffsetsEntry};
use super::slot::{self, Held, Slot};
use crate::storage::{CommittedOffset, Topic};
use millrace_log::record::{Offset, TopicPartition};

/// One partition of a commit.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Which partition.
    pub partition: TopicPartition,
    /// Where reading continues.
    pub offset: Offset,
    /// Epoch of the last record read, -1 if not said.
    pub leader_epoch: i32,
    /// A note.
    pub metadata: String,
}

/// Who asks for a commit, as far as it says.
#[derive(Debug, Clone, Copy)]
pub struct Committer<'a> {
    /// Member id, empty for none.
    pub member: &'a str,
    /// `group.instance.id` of a static member.
    pub instance: Option<&'a str>,
    /// Generation or member epoch, negative for none.
    pub generation: i32,
    /// Whether it came by a version that knows member epochs: OffsetCommit 9, and every commit in a transaction.
    pub knows_epochs: bool,
}

impl Coordinator {
    /// Keeps offsets: durable when it returns. Each partition has its own answer.
    pub async fn commit(
        &self,
        group: &str,
        who: Committer<'_>,
        commits: Vec<Commit>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        self.check_open()?;
        let may = |slot: &mut Slot, now_ms: i64| match &mut slot.held {
            Held::Classic(group) => group.may_commit(who.member, who.instance, who.generation, now_ms),
            Held::Consumer(group) => group.may_commit(who.member, who.generation, who.knows_epochs),
        };
        let allowed = if who.generation < 0 {
            self.with_new(group, may)
        } else {
            self.with(group, may).unwrap_or_else(|| {
                let missing = || GroupError::NoGroup(format!("Group {group} not found."));
                Err(if who.knows_epochs { missing() } else { GroupError::IllegalGeneration })
            })
        };
        if allowed.is_err() {
            self.remove_if_untouched(group);
        }
        allowed?;
        let (answers, entries) = self.entries(group, commits);
        self.write(group, entries).await?;
        Ok(answers)
    }

    /// What to write for commits, and the answer to each.
    pub(super) fn entries(
        &self,
        group: &str,
        commits: Vec<Commit>,
    ) -> (Vec<Result<(), GroupError>>, Vec<OffsetsEntry>) {
        let now_ms = self.clock.now_ms();
        let fits = |c: &Commit| c.metadata.len() <= self.config.max_commit_metadata_bytes;
        let answers = commits.iter().map(|c| fits(c).then_some(()).ok_or(GroupError::MetadataTooLarge)).collect();
        let entries: Vec<OffsetsEntry> = commits
            .into_iter()
            .filter(fits)
            .map(|c| OffsetsEntry::Offset {
                group: group.to_owned(),
                topic: c.partition.topic.to_string(),
                partition: c.partition.partition,
                value: Some(Committed {
                    offset: c.offset,
                    leader_epoch: c.leader_epoch,
                    metadata: c.metadata,
                    committed_at_ms: now_ms,
                }),
            })
            .collect();
        (answers, entries)
    }

    /// Offsets of a group: of the partitions asked for, `None` where there is none; or all.
    pub fn committed(
        &self,
        group: &str,
        partitions: Option<&[TopicPartition]>,
    ) -> Vec<(TopicPartition, Option<Committed>)> {
        let of = |slot: &Slot| match partitions {
            Some(list) => {
                list.iter().map(|tp| (tp.clone(), slot.offsets.get(tp).map(|s| s.committed.clone()))).collect()
            }
            None => slot.offsets.iter().map(|(tp, s)| (tp.clone(), Some(s.committed.clone()))).collect(),
        };
        self.with(group, |slot, _| of(slot))
            .unwrap_or_else(|| partitions.unwrap_or_default().iter().map(|tp| (tp.clone(), None)).collect())
    }

    /// Every group with a committed offset on a partition, for retention, which may wait for the slowest.
    pub fn committed_on(&self, topic: &str, partition: i32) -> Vec<CommittedOffset> {
        let wanted = TopicPartition::new(topic, partition);
        let mut found = Vec::new();
        self.each(|group, slot| {
            let offset = slot.offsets.get(&wanted).map(|stored| stored.committed.offset);
            if let Some(offset) = offset.filter(|offset| *offset >= Offset::ZERO) {
                found.push(CommittedOffset { group: group.to_owned(), offset });
            }
        });
        found
    }

    /// Removes a group without members, with its offsets.
    pub async fn delete(&self, group: &str) -> Result<(), GroupError> {
        let entries = self.with(group, |slot, _| {
            if !slot.held.is_idle() {
                return Err(GroupError::NotEmpty);
            }
            let forget = |tp: &TopicPartition| forget(group, tp);
            let mut entries: Vec<OffsetsEntry> = slot.partitions().iter().map(forget).collect();
            entries.extend(slot::deletion(&slot.held));
            Ok(entries)
        });
        self.write(group, entries.unwrap_or(Err(GroupError::NotFound))?).await?;
        self.remove_if_idle(group);
        Ok(())
    }

    /// Forgets offsets of partitions, except of topics that members read.
    pub async fn delete_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Result<(), bool>>, GroupError> {
        let answers: Vec<Result<(), bool>> = self
            .with(group, |slot, _| {
                partitions.iter().map(|tp| if slot.held.reads(&tp.topic) { Err(true) } else { Ok(()) }).collect()
            })
            .ok_or(GroupError::NotFound)?;
        let free = partitions.iter().zip(&answers).filter(|(_, answer)| answer.is_ok());
        let entries = free.map(|(tp, _)| forget(group, tp)).collect();
        self.write(group, entries).await?;
        Ok(answers)
    }

    /// A topic is gone: so are the offsets of all groups for it.
    pub async fn forget_topic(&self, topic: &str) {
        let mut gone = Vec::new();
        self.each(|id, slot| {
            let entries: Vec<_> =
                slot.partitions().iter().filter(|tp| &*tp.topic == topic).map(|tp| forget(id, tp)).collect();
            if !entries.is_empty() {
                gone.push((id.to_owned(), entries));
            }
        });
        for (group, entries) in gone {
            if let Err(error) = self.write(&group, entries).await {
                tracing::warn!(group, topic, %error, "offsets of a deleted topic are kept until the group expires");
            }
        }
    }

    /// Groups' offsets, for metrics: group, partition, records behind the high watermark. Of more than `most` those that
    /// are furthest behind, and how many are left out.
    pub fn lags(&self, most: usize) -> (Vec<(String, TopicPartition, i64)>, usize) {
        let mut lags: BinaryHeap<Reverse<(i64, String, TopicPartition)>> = BinaryHeap::new();
        let mut left_out = 0;
        self.each(|id, slot| {
            let mut topic: Option<Arc<Topic>> = None;
            for (tp, stored) in &slot.offsets {
                if topic.as_ref().is_none_or(|topic| topic.name() != &*tp.topic) {
                    topic = self.storage.topic(&tp.topic);
                }
                if let Some(partition) = topic.as_ref().and_then(|topic| topic.partition(tp.partition)) {
                    let behind = Offset::new(partition.high_watermark()).since(stored.committed.offset);
                    let behind = behind.max(0);
                    let is_full = lags.len() >= most;
                    left_out += usize::from(is_full);
                    if is_full && lags.peek().is_none_or(|Reverse((least, ..))| *least >= behind) {
                        continue;
                    }
                    if is_full {
                        lags.pop();
                    }
                    lags.push(Reverse((behind, id.to_owned(), tp.clone())));
                }
            }
        });
        (lags.into_iter().map(|Reverse((behind, id, tp))| (id, tp, behind)).collect(), left_out)
    }
}

pub(super) fn forget(group: &str, tp: &TopicPartition) -> OffsetsEntry {
    OffsetsEntry::Offset { group: group.to_owned(), topic: tp.topic.to_string(), partition: tp.partition, value: None }
}
