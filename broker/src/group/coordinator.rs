//! State of the group coordinator: all groups by name, timers, and the partitions of `__consumer_offsets`.
//!
//! In: changes of groups. Out: groups to work on, one at a time; their entries in the log. Touches the log: entries are
//! appended and flushed before they count.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

use super::classic::Group;
use super::config::{GroupConfig, MigrationPolicy};
use super::error::GroupError;
use super::offsets::{self, OFFSETS_TOPIC, OffsetsEntry};
use super::slot::{Held, Slot};
use super::topic_view::View;
use crate::keyed::partition_for;
use crate::storage::{AppendKind, Partition, ReadError, Storage, StorageError};
use millrace_log::clock::SharedClock;
use millrace_log::record::{Offset, TopicPartition};

/// Entries per batch when much is written at once.
pub(super) const ENTRIES_PER_BATCH: usize = 500;

/// Why the coordinator can't start.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// The topic can't be made.
    #[error("can't create topic {OFFSETS_TOPIC}")]
    Topic(#[from] StorageError),
    /// The topic can't be read.
    #[error("can't read topic {OFFSETS_TOPIC}")]
    Read(#[from] ReadError),
}

/// All groups.
pub struct Coordinator {
    pub(super) storage: Arc<Storage>,
    pub(super) clock: SharedClock,
    pub(super) config: GroupConfig,
    pub(super) groups: Mutex<HashMap<String, Arc<Mutex<Slot>>>>,
    pub(super) settings: Mutex<HashMap<String, BTreeMap<String, String>>>,
    /// When to look at which group; a time that is not the one its group is armed with is out of date.
    pub(super) timers: Mutex<BinaryHeap<Reverse<(i64, String)>>>,
    /// Groups with changes that the log lacks.
    pub(super) changed: Mutex<BTreeSet<String>>,
    pub(super) is_closed: AtomicBool,
    pub(super) rebalances: Counter,
    /// One gate per partition of the topic: commits pass together, compaction alone.
    pub(super) gates: Vec<tokio::sync::RwLock<()>>,
    pub(super) partitions: Vec<Arc<Partition>>,
    /// Groups with offsets in the open transaction of a producer.
    pub(super) in_transactions: Mutex<HashMap<i64, BTreeSet<String>>>,
}

impl std::fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Coordinator({} groups)", self.groups.lock().len())
    }
}

impl Coordinator {
    /// Counts rebalances, for metrics.
    pub fn rebalances(&self) -> Counter {
        self.rebalances.clone()
    }

    fn slot(&self, group: &str) -> Option<Arc<Mutex<Slot>>> {
        self.groups.lock().get(group).cloned()
    }

    pub(super) fn slot_or_new(&self, group: &str) -> Arc<Mutex<Slot>> {
        let mut groups = self.groups.lock();
        if let Some(slot) = groups.get(group) {
            return Arc::clone(slot);
        }
        let fresh = Group::new(group, self.config.limits(), self.clock.now_ms());
        let slot = Arc::new(Mutex::new(Slot::new(fresh)));
        groups.insert(group.to_owned(), Arc::clone(&slot));
        slot
    }

    /// Works on a group that exists.
    pub(super) fn with<T>(&self, group: &str, work: impl FnOnce(&mut Slot, i64) -> T) -> Option<T> {
        let slot = self.slot(group)?;
        let mut slot = slot.lock();
        (!slot.is_gone).then(|| work(&mut slot, self.clock.now_ms()))
    }

    /// Works on a group, made if need be.
    pub(super) fn with_new<T>(&self, group: &str, mut work: impl FnMut(&mut Slot, i64) -> T) -> T {
        loop {
            let slot = self.slot_or_new(group);
            let mut slot = slot.lock();
            if !slot.is_gone {
                return work(&mut slot, self.clock.now_ms());
            }
        }
    }

    /// As [`Self::with`], for what may change members or set time-outs.
    pub(super) fn change<T>(&self, group: &str, work: impl FnOnce(&mut Slot, i64) -> T) -> Option<T> {
        self.with(group, |slot, now_ms| {
            let result = work(slot, now_ms);
            self.settle(group, slot);
            result
        })
    }

    /// As [`Self::with_new`], for what may change members or set time-outs.
    pub(super) fn change_new<T>(&self, group: &str, mut work: impl FnMut(&mut Slot, i64) -> T) -> T {
        self.with_new(group, |slot, now_ms| {
            let result = work(slot, now_ms);
            self.settle(group, slot);
            result
        })
    }

    /// After a change: sets the timer, counts, and remembers what the log lacks.
    pub(super) fn settle(&self, group: &str, slot: &mut Slot) {
        let policy = self.config.migration_policy;
        if matches!(policy, MigrationPolicy::Bidirectional | MigrationPolicy::Downgrade) {
            slot.downgrade(self.config.limits(), &View(&self.storage, None), self.clock.now_ms());
        }
        let due_ms = slot.held.due_ms();
        if due_ms < slot.armed_ms {
            slot.armed_ms = due_ms;
            self.timers.lock().push(Reverse((due_ms, group.to_owned())));
        }
        if slot.has_changes() {
            self.changed.lock().insert(group.to_owned());
        }
        self.rebalances.inc_by(slot.new_rebalances());
    }

    /// Looks at every group, one after the other.
    pub(super) fn each(&self, mut look: impl FnMut(&str, &mut Slot)) {
        let slots: Vec<_> = self.groups.lock().iter().map(|(id, slot)| (id.clone(), Arc::clone(slot))).collect();
        for (id, slot) in slots {
            let mut slot = slot.lock();
            if !slot.is_gone {
                look(&id, &mut slot);
            }
        }
    }

    /// The broker stops: waiting members are sent to look for the coordinator again, and so are later requests.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.each(|_, slot| {
            if let Held::Classic(group) = &mut slot.held {
                group.release(&GroupError::NotCoordinator);
            }
        });
    }

    pub(super) fn check_open(&self) -> Result<(), GroupError> {
        if self.is_closed.load(Ordering::Acquire) { Err(GroupError::NotCoordinator) } else { Ok(()) }
    }

    /// Appends entries of one group, waits until they are safe, and lets them count.
    pub(super) async fn write(&self, group: &str, entries: Vec<OffsetsEntry>) -> Result<(), GroupError> {
        if entries.is_empty() {
            return Ok(());
        }
        let at = partition_for(group, self.partitions.len());
        let (Some(partition), Some(gate)) = (self.partitions.get(at), self.gates.get(at)) else {
            return Err(GroupError::NotAvailable);
        };
        let _pass = gate.read().await;
        // One batch, so that after a crash all of it is there or nothing.
        let first = append(partition, &entries, self.clock.now_ms()).await?;
        for (entry, at) in entries.into_iter().zip(first..) {
            if let OffsetsEntry::Offset { group, topic, partition, value } = entry {
                let tp = TopicPartition::new(topic, partition);
                self.with_new(&group, |slot, _| slot.store(tp.clone(), Offset::new(at), value.clone()));
            }
        }
        Ok(())
    }

    /// Writes what the log lacks of a group. What can't be written now is tried again at the next tick.
    pub(super) async fn keep(&self, group: &str) -> Result<(), GroupError> {
        let Some(lock) = self.with(group, |slot, _| Arc::clone(&slot.write_lock)) else { return Ok(()) };
        let _guard = lock.lock().await;
        let Some((entries, taken)) = self.with(group, Slot::take) else { return Ok(()) };
        let written = self.write(group, entries).await;
        self.with(group, |slot, _| slot.settle(taken, written.is_ok()));
        if let Err(error) = &written {
            tracing::warn!(group, %error, "state of the group not written, retrying");
            self.changed.lock().insert(group.to_owned());
        }
        written
    }

    pub(super) fn remove_if_idle(&self, group: &str) {
        let mut groups = self.groups.lock();
        let Some(slot) = groups.get(group).cloned() else { return };
        let mut slot = slot.lock();
        slot.pending.retain(|_, pending| !pending.offsets.is_empty());
        if slot.is_void() {
            slot.is_gone = true;
            groups.remove(group);
        }
    }

    /// Takes out a group that was only made to be refused.
    pub(super) fn remove_if_untouched(&self, group: &str) {
        let mut groups = self.groups.lock();
        let Some(slot) = groups.get(group).cloned() else { return };
        let mut slot = slot.lock();
        if slot.is_untouched() {
            slot.is_gone = true;
            groups.remove(group);
        }
    }
}

pub(super) async fn append(
    partition: &Arc<Partition>,
    entries: &[OffsetsEntry],
    now_ms: i64,
) -> Result<i64, GroupError> {
    let log = |e: &dyn std::fmt::Display| GroupError::Log(e.to_string());
    let batch = offsets::batch(entries, None, now_ms).map_err(|e| log(&e))?;
    let appended = partition.append(batch, AppendKind::Internal).await.map_err(|e| log(&e))?;
    partition.flushed(appended.last_offset).await.map_err(|e| log(&e))?;
    Ok(appended.base_offset)
}
