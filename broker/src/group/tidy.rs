//! What the group coordinator does as time passes: ends sessions and rebalances, keeps changes, forgets expired offsets, and
//! compacts the partitions of `__consumer_offsets` when they have grown.
//!
//! In: the time. Out: entries in the log. Touches the log through the coordinator.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use futures::StreamExt as _;

use super::classic::State;
use super::commits::forget;
use super::consumer;
use super::coordinator::{Coordinator, ENTRIES_PER_BATCH, append};
use super::error::GroupError;
use super::offsets::{OFFSETS_TOPIC, OffsetsEntry};
use super::records::GroupRecord;
use super::slot::{self, Held, Slot, Stored};
use super::transactions::gather;
use crate::keyed::partition_for;
use millrace_log::record::TopicPartition;

/// Groups whose changes are written at the same time.
const KEPT_AT_ONCE: usize = 64;

impl Coordinator {
    /// Time has passed: ends sessions and rebalances that are over, and keeps the groups that changed. Only one task
    /// may call it, so that the log has a group's states in their order; a crash loses those since the last call,
    /// which costs the members of the group a rebalance and nothing else.
    pub async fn tick(&self) {
        let now_ms = self.clock.now_ms();
        loop {
            let next = {
                let mut timers = self.timers.lock();
                if timers.peek().is_none_or(|Reverse((at, _))| *at > now_ms) {
                    break;
                }
                timers.pop()
            };
            let Some(Reverse((at, group))) = next else { break };
            self.with(&group, |slot, now_ms| {
                if slot.armed_ms == at {
                    slot.held.tick(now_ms);
                    slot.armed_ms = i64::MAX;
                    self.settle(&group, slot);
                    if slot.armed_ms <= now_ms {
                        // Over its time but not yet to be ended: looked at again with the next tick.
                        self.rearm(&group, slot, now_ms);
                    }
                }
            });
        }
        let changed = std::mem::take(&mut *self.changed.lock());
        // What was not kept is warned of and tried again.
        futures::stream::iter(changed.iter())
            .for_each_concurrent(KEPT_AT_ONCE, |group| async move { drop(self.keep(group).await) })
            .await;
    }

    fn rearm(&self, group: &str, slot: &mut Slot, now_ms: i64) {
        slot.armed_ms = now_ms + 1;
        self.timers.lock().push(Reverse((slot.armed_ms, group.to_owned())));
    }

    /// Forgets what has expired and compacts partitions that have grown. To be called now and then.
    pub async fn tidy(&self) {
        let retention_ms = i64::try_from(self.config.offsets_retention.0.as_millis()).unwrap_or(i64::MAX);
        let now_ms = self.clock.now_ms();
        let mut expired = Vec::new();
        self.each(|id, slot| {
            let entries = expired_of(id, slot, retention_ms, now_ms);
            let is_last = slot.held.is_idle() && entries.len() == slot.offsets.len() && slot.pending.is_empty();
            if is_last || !entries.is_empty() {
                let end = if is_last { slot::deletion(&slot.held) } else { Vec::new() };
                expired.push((id.to_owned(), entries.into_iter().chain(end).collect::<Vec<_>>(), is_last));
            }
        });
        for (group, entries, is_last) in expired {
            match self.write(&group, entries).await {
                Ok(()) if is_last => self.remove_if_idle(&group),
                Ok(()) => {}
                Err(error) => tracing::warn!(group, %error, "can't delete expired offsets, retrying"),
            }
        }
        for at in 0..self.partitions.len() {
            if let Err(error) = self.compact(at).await {
                tracing::warn!(partition = at, %error, "can't compact {OFFSETS_TOPIC}, retrying");
            }
        }
    }

    /// Writes all that lives in a partition again and deletes what stands before.
    async fn compact(&self, at: usize) -> Result<(), GroupError> {
        let (Some(partition), Some(gate)) = (self.partitions.get(at), self.gates.get(at)) else { return Ok(()) };
        if partition.size_bytes() < self.config.compact_at.0 {
            return Ok(());
        }
        // Alone: what has been appended has been applied, nothing comes in between.
        let _alone = gate.write().await;
        let mut living = Vec::new();
        let mut pending = BTreeMap::new();
        self.each(|id, slot| {
            if partition_for(id, self.partitions.len()) == at {
                living.extend(slot.all(self.clock.now_ms()));
                gather(id, slot, &mut pending);
            }
        });
        for group in self.groups_with_settings().into_iter().filter(|g| partition_for(g, self.partitions.len()) == at) {
            let pairs = self.set_settings_of(&group).into_iter().collect();
            living.push(OffsetsEntry::Consumer { group, record: GroupRecord::Settings(Some(pairs)) });
        }
        let end = partition.log_end_offset();
        for some in living.chunks(ENTRIES_PER_BATCH) {
            append(partition, some, self.clock.now_ms()).await?;
        }
        self.append_pending(partition, pending).await?;
        partition.delete_records(end).await.map_err(|e| GroupError::Log(e.to_string()))?;
        Ok(())
    }
}

/// Deletions of offsets that are over their time: of groups without members, and of topics that members do not read.
fn expired_of(id: &str, slot: &Slot, retention_ms: i64, now_ms: i64) -> Vec<OffsetsEntry> {
    let is_idle = slot.held.is_idle();
    let may_expire = |tp: &TopicPartition| match &slot.held {
        _ if is_idle => true,
        Held::Classic(group) => {
            let is_consumer = group.protocol_type.as_deref() == Some(consumer::classic::CONSUMER);
            is_consumer && group.state == State::Stable && !group.reads(&tp.topic)
        }
        Held::Consumer(group) => !group.reads(&tp.topic),
    };
    // Only a classic group that had members counts from the time it was left.
    let left_ms = match &slot.held {
        Held::Classic(group) if is_idle && group.protocol_type.is_some() => slot.held.empty_since_ms(),
        Held::Classic(_) | Held::Consumer(_) => i64::MIN,
    };
    let is_over =
        |stored: &Stored| stored.committed.committed_at_ms.max(left_ms).saturating_add(retention_ms) <= now_ms;
    let old = slot.offsets.iter().filter(|(tp, stored)| is_over(stored) && may_expire(tp));
    old.map(|(tp, _)| forget(id, tp)).collect()
}
