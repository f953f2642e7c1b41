//! Start of the group coordinator: makes `__consumer_offsets` if need be, and reads back what it holds.
//!
//! In: records of the topic. Out: a [`Coordinator`] with all groups and offsets. Touches the log.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

use super::classic::{Group, Member};
use super::config::GroupConfig;
use super::coordinator::{Coordinator, CoordinatorError};
use super::offsets::{self, OFFSETS_TOPIC, OffsetsEntry};
use super::records::GroupRecord;
use super::slot::{Held, store};
use crate::keyed::partition_for;
use crate::storage::{Partition, Storage, StorageError, TopicSettings};
use millrace_log::clock::SharedClock;
use millrace_log::record::{Offset, TopicPartition};

const OFFSETS_PARTITIONS: i32 = 4;

impl Coordinator {
    /// Makes the topic if need be and reads all that it holds.
    pub async fn open(
        storage: Arc<Storage>,
        clock: SharedClock,
        config: GroupConfig,
    ) -> Result<Self, CoordinatorError> {
        let topic = match storage.topic(OFFSETS_TOPIC) {
            Some(topic) => topic,
            None => {
                let mut settings = TopicSettings::default();
                // What is not deleted by age: the coordinator itself removes what no longer counts.
                settings.set("cleanup.policy", "compact").map_err(StorageError::from)?;
                settings.set("segment.bytes", "8388608").map_err(StorageError::from)?;
                storage.create_topic(OFFSETS_TOPIC, OFFSETS_PARTITIONS, settings).await?
            }
        };
        let partitions = topic.partitions();
        let gates = partitions.iter().map(|_| tokio::sync::RwLock::new(())).collect();
        let coordinator = Self {
            storage,
            clock,
            config,
            groups: Mutex::default(),
            settings: Mutex::default(),
            timers: Mutex::default(),
            changed: Mutex::default(),
            is_closed: AtomicBool::new(false),
            rebalances: Counter::default(),
            gates,
            partitions,
            in_transactions: Mutex::default(),
        };
        for partition in &coordinator.partitions {
            coordinator.load(partition).await?;
        }
        let loaded: Vec<_> = coordinator.groups.lock().iter().map(|(id, s)| (id.clone(), Arc::clone(s))).collect();
        for (id, slot) in loaded {
            let session_ms = coordinator.rules(&id).session_ms;
            let mut slot = slot.lock();
            if slot.is_void() {
                coordinator.groups.lock().remove(&id);
                continue;
            }
            if let Held::Consumer(group) = &mut slot.held {
                group.restored(session_ms, coordinator.clock.now_ms());
            }
            coordinator.settle(&id, &mut slot);
        }
        Ok(coordinator)
    }

    pub(super) async fn load(&self, partition: &Arc<Partition>) -> Result<(), CoordinatorError> {
        let mut from = partition.log_start_offset();
        while from < partition.high_watermark() {
            let read = partition.read(from, 4 << 20, true).await?;
            let batches = offsets::batches(read.records);
            let Some(next) = batches.last().map(|batch| batch.next_offset) else { break };
            for batch in batches {
                if let (Some((producer_id, _)), Some(marker)) = (batch.producer, batch.marker) {
                    self.resolve(partition.number(), producer_id, marker.commit);
                }
                match batch.entries {
                    Ok(entries) => entries.into_iter().for_each(|(at, entry)| match batch.producer {
                        Some(producer) => self.apply_pending(Offset::new(at), entry, producer),
                        None => self.apply(Offset::new(at), entry),
                    }),
                    Err(error) => tracing::error!(
                        partition = partition.number(),
                        before = batch.next_offset,
                        %error,
                        "can't read some committed offsets: their groups continue from older ones"
                    ),
                }
            }
            from = next;
        }
        Ok(())
    }

    fn apply(&self, at: Offset, entry: OffsetsEntry) {
        let now_ms = self.clock.now_ms();
        match entry {
            OffsetsEntry::Offset { group, topic, partition, value } => {
                let slot = self.slot_or_new(&group);
                let mut slot = slot.lock();
                slot.store(TopicPartition::new(topic, partition), at, value);
            }
            OffsetsEntry::Group { group, value } => {
                let slot = self.slot_or_new(&group);
                let mut slot = slot.lock();
                let has_value = value.is_some();
                let kept = value.unwrap_or_default();
                let mut fresh = Group::new(&group, self.config.limits(), kept.state_since_ms);
                let protocol = kept.protocol.clone().unwrap_or_default();
                for m in kept.members {
                    let sessions = (m.session_timeout_ms, m.rebalance_timeout_ms);
                    let mut member = Member::restored(m.id, m.instance_id, sessions, now_ms);
                    member.client_id = m.client_id;
                    member.client_host = m.client_host;
                    member.protocols = vec![(protocol.clone(), m.subscription)];
                    member.assignment = m.assignment;
                    fresh.members.push(member);
                }
                let protocol_type = Some(kept.protocol_type).filter(|t| !t.is_empty());
                fresh.restore(kept.generation, (protocol_type, kept.protocol), kept.leader);
                let is_other = matches!(slot.held, Held::Consumer(_));
                if has_value || !is_other {
                    slot.held = Held::Classic(Box::new(fresh));
                }
            }
            OffsetsEntry::Consumer { group, record: GroupRecord::Settings(pairs) } => {
                self.take_settings(&group, pairs.unwrap_or_default().into_iter().collect());
            }
            OffsetsEntry::Consumer { group, record } => {
                let is_end = record == GroupRecord::Epoch(None);
                let slot = self.slot_or_new(&group);
                let mut slot = slot.lock();
                if is_end {
                    if matches!(slot.held, Held::Consumer(_)) {
                        slot.held = Held::Classic(Box::new(Group::new(&group, self.config.limits(), now_ms)));
                    }
                } else {
                    slot.apply(record, now_ms);
                }
            }
        }
    }

    /// An offset within an open transaction was read or written.
    pub(super) fn apply_pending(&self, at: Offset, entry: OffsetsEntry, (producer_id, epoch): (i64, i16)) {
        let OffsetsEntry::Offset { group, topic, partition, value } = entry else {
            return self.apply(at, entry);
        };
        let tp = TopicPartition::new(topic, partition);
        self.with_new(&group, |slot, _| {
            let pending = slot.pending.entry(producer_id).or_default();
            pending.epoch = epoch;
            store(&mut pending.offsets, tp.clone(), at, value.clone());
        });
        self.in_transactions.lock().entry(producer_id).or_default().insert(group);
    }

    /// A marker was read or written: pending offsets of a producer count, or are forgotten.
    pub(super) fn resolve(&self, number: i32, producer_id: i64, commit: bool) {
        let is_here =
            |group: &String| i32::try_from(partition_for(group, self.partitions.len())).is_ok_and(|at| at == number);
        let mut in_transactions = self.in_transactions.lock();
        let Some(groups) = in_transactions.get_mut(&producer_id) else { return };
        let here: Vec<String> = groups.iter().filter(|group| is_here(group)).cloned().collect();
        groups.retain(|group| !is_here(group));
        if groups.is_empty() {
            in_transactions.remove(&producer_id);
        }
        drop(in_transactions);
        for group in here {
            self.with(&group, |slot, _| {
                let pending = slot.pending.remove(&producer_id).unwrap_or_default();
                for (tp, stored) in pending.offsets.into_iter().filter(|_| commit) {
                    store(&mut slot.offsets, tp, stored.at, Some(stored.committed));
                }
            });
            self.remove_if_idle_and_new(&group);
        }
    }

    /// A group that only an aborted transaction has made is none.
    fn remove_if_idle_and_new(&self, group: &str) {
        if self.with(group, |slot, _| slot.is_untouched()).unwrap_or(false) {
            self.remove_if_idle(group);
        }
    }
}
