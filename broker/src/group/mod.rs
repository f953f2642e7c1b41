//! The group coordinator: all consumer groups of the broker, their committed offsets, and the topic that keeps both.
//!
//! In: requests of the broker's door, with the clock's time. Out: answers. Touches the partitioned log, in the topic
//! `__consumer_offsets`: commits are appended and flushed before they are answered, and read back at the start. Leaves
//! the rules of membership to [`state`] and the codes of the wire to the door.
//!
//! The topic is bounded without compaction: when a partition has grown, all that lives in it is written again and what
//! stands before is deleted ([`Coordinator::compact`]).

/// One classic group: members, generations, rebalances.
pub mod state;
/// One group of the new protocol: epochs, assignors, reconciliation.
pub mod consumer;
/// What members ask, by either protocol.
pub mod members;
/// Settings of single groups.
pub mod settings;
mod slot;
/// Records of the topic that keeps offsets and classic groups.
pub mod offsets;
/// Records of groups of the new protocol.
pub mod records;
/// Offsets committed within transactions.
mod transactions;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt as _;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::storage::{AppendKind, CommittedOffset, Partition, ReadError, Storage, StorageError, Topic, TopicSettings};
use members::View;
pub use members::{ConsumerDescription, ConsumerMember, Description, Listed, Sight};
use millrace_log::clock::SharedClock;
use millrace_log::record::TopicPartition;
use millrace_log::value::{Faults, Span};
use offsets::{Committed, Entry};
use records::Record;
use slot::{Held, Slot, Stored};
use state::{Group, GroupError, Limits, Member, State};
pub use transactions::Committer;

/// Where offsets and groups are kept.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";
const OFFSETS_PARTITIONS: i32 = 4;
/// Entries per batch when much is written at once.
const ENTRIES_PER_BATCH: usize = 500;
/// Groups whose changes are written at the same time.
const KEPT_AT_ONCE: usize = 64;

/// Which groups may change from one protocol to the other while they have members (`group.consumer.migration.policy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MigrationPolicy {
    /// Both ways.
    #[default]
    Bidirectional,
    /// Classic groups become consumer groups when a member of the new protocol joins.
    Upgrade,
    /// Consumer groups become classic ones when the last member of the new protocol leaves.
    Downgrade,
    /// None.
    Disabled,
}

impl MigrationPolicy {
    /// Kafka's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bidirectional => "bidirectional",
            Self::Upgrade => "upgrade",
            Self::Downgrade => "downgrade",
            Self::Disabled => "disabled",
        }
    }
}

/// Consumer groups.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GroupConfig {
    /// How long the first rebalance of an empty group waits for more members (`group.initial.rebalance.delay.ms`).
    pub initial_rebalance_delay: Span,
    /// Shortest session that members may ask for (`group.min.session.timeout.ms`).
    pub min_session_timeout: Span,
    /// Longest session that members may ask for (`group.max.session.timeout.ms`).
    pub max_session_timeout: Span,
    /// Most members in a group (`group.max.size`).
    pub max_members: usize,
    /// Session of members of the consumer protocol (`group.consumer.session.timeout.ms`); a group may say otherwise.
    pub consumer_session_timeout: Span,
    /// Shortest session that a group may be set to (`group.consumer.min.session.timeout.ms`).
    pub consumer_min_session_timeout: Span,
    /// Longest session that a group may be set to (`group.consumer.max.session.timeout.ms`).
    pub consumer_max_session_timeout: Span,
    /// Time between heartbeats of the consumer protocol (`group.consumer.heartbeat.interval.ms`).
    pub consumer_heartbeat_interval: Span,
    /// Shortest interval that a group may be set to (`group.consumer.min.heartbeat.interval.ms`).
    pub consumer_min_heartbeat_interval: Span,
    /// Longest interval that a group may be set to (`group.consumer.max.heartbeat.interval.ms`).
    pub consumer_max_heartbeat_interval: Span,
    /// Which groups may change from one protocol to the other while they have members: `bidirectional`, `upgrade` (to
    /// the consumer protocol), `downgrade` or `disabled` (`group.consumer.migration.policy`).
    pub migration_policy: MigrationPolicy,
    /// Time after which offsets of a group without members are forgotten (`offsets.retention.minutes`).
    pub offsets_retention: Span,
    /// Longest note with a commit, in bytes (`offset.metadata.max.bytes`).
    pub max_commit_metadata_bytes: usize,
    /// Size of a partition of `__consumer_offsets` at which it is written anew with what still counts.
    pub compact_at: millrace_log::value::ByteSize,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            initial_rebalance_delay: Span::secs(0),
            min_session_timeout: Span::secs(6),
            max_session_timeout: Span::secs(1800),
            max_members: 2000,
            consumer_session_timeout: Span::secs(45),
            consumer_min_session_timeout: Span::secs(45),
            consumer_max_session_timeout: Span::secs(60),
            consumer_heartbeat_interval: Span::secs(5),
            consumer_min_heartbeat_interval: Span::secs(5),
            consumer_max_heartbeat_interval: Span::secs(15),
            migration_policy: MigrationPolicy::Bidirectional,
            offsets_retention: Span::secs(7 * 24 * 3600),
            max_commit_metadata_bytes: 4096,
            compact_at: millrace_log::value::ByteSize::mib(32),
        }
    }
}

impl GroupConfig {
    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        if self.min_session_timeout > self.max_session_timeout {
            let message = format!("is longer than max_session_timeout ({})", self.max_session_timeout);
            faults.add("min_session_timeout", message);
        }
        for (key, least, value, most) in [
            (
                "consumer_session_timeout",
                self.consumer_min_session_timeout,
                self.consumer_session_timeout,
                self.consumer_max_session_timeout,
            ),
            (
                "consumer_heartbeat_interval",
                self.consumer_min_heartbeat_interval,
                self.consumer_heartbeat_interval,
                self.consumer_max_heartbeat_interval,
            ),
        ] {
            if !(least..=most).contains(&value) {
                faults.add(key, format!("is {value}: must lie between its min ({least}) and its max ({most})"));
            }
        }
        if self.consumer_heartbeat_interval >= self.consumer_session_timeout {
            let message = format!("must be shorter than consumer_session_timeout ({})", self.consumer_session_timeout);
            faults.add("consumer_heartbeat_interval", message);
        }
        if self.max_members == 0 {
            faults.add("max_members", "must be at least 1");
        }
        if self.offsets_retention.0.is_zero() {
            faults.add("offsets_retention", "must be longer than zero, e.g. `7d`");
        }
    }

    fn limits(&self) -> Limits {
        let ms = |span: Span| i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX);
        let short = |span: Span| i32::try_from(ms(span)).unwrap_or(i32::MAX);
        Limits {
            initial_rebalance_delay_ms: ms(self.initial_rebalance_delay),
            min_session_ms: short(self.min_session_timeout),
            max_session_ms: short(self.max_session_timeout),
            max_members: self.max_members,
        }
    }
}

/// Why the coordinator can't start.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// The topic can't be made.
    #[error("topic {OFFSETS_TOPIC} can't be made")]
    Topic(#[from] StorageError),
    /// The topic can't be read.
    #[error("topic {OFFSETS_TOPIC} can't be read")]
    Read(#[from] ReadError),
}

/// One partition of a commit.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Which partition.
    pub partition: TopicPartition,
    /// Offset to go on from.
    pub offset: i64,
    /// Epoch of the last record read, -1 if not said.
    pub leader_epoch: i32,
    /// A note.
    pub metadata: String,
}

/// All groups.
pub struct Coordinator {
    storage: Arc<Storage>,
    clock: SharedClock,
    config: GroupConfig,
    groups: Mutex<HashMap<String, Arc<Mutex<Slot>>>>,
    settings: Mutex<HashMap<String, BTreeMap<String, String>>>,
    /// When to look at which group; a time that is not the one its group is armed with is out of date.
    timers: Mutex<BinaryHeap<Reverse<(i64, String)>>>,
    /// Groups with changes that the log lacks.
    changed: Mutex<BTreeSet<String>>,
    is_closed: AtomicBool,
    rebalances: Counter,
    /// One gate per partition of the topic: commits pass together, compaction alone.
    gates: Vec<tokio::sync::RwLock<()>>,
    partitions: Vec<Arc<Partition>>,
    /// Groups with offsets in the open transaction of a producer.
    in_transactions: Mutex<HashMap<i64, BTreeSet<String>>>,
}

impl std::fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Coordinator({} groups)", self.groups.lock().len())
    }
}

/// Polynomial hash over UTF-16 units, as Kafka places groups.
fn place(group: &str, partitions: usize) -> usize {
    let hash = group.encode_utf16().fold(0i32, |h, unit| h.wrapping_mul(31).wrapping_add(i32::from(unit)));
    usize::try_from(hash & i32::MAX).unwrap_or(0) % partitions.max(1)
}

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

    /// Counts rebalances, for metrics.
    pub fn rebalances(&self) -> Counter {
        self.rebalances.clone()
    }

    async fn load(&self, partition: &Arc<Partition>) -> Result<(), CoordinatorError> {
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
                        Some(producer) => self.apply_pending(at, entry, producer),
                        None => self.apply(at, entry),
                    }),
                    Err(error) => tracing::error!(
                        partition = partition.number(),
                        before = batch.next_offset,
                        %error,
                        "some committed offsets can't be read: their groups go on from older ones"
                    ),
                }
            }
            from = next;
        }
        Ok(())
    }

    fn apply(&self, at: i64, entry: Entry) {
        let now_ms = self.clock.now_ms();
        match entry {
            Entry::Offset { group, topic, partition, value } => {
                let slot = self.slot_or_new(&group);
                let mut slot = slot.lock();
                slot.store(TopicPartition::new(topic, partition), at, value);
            }
            Entry::Group { group, value } => {
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
            Entry::Consumer { group, record: Record::Settings(pairs) } => {
                self.take_settings(&group, pairs.unwrap_or_default().into_iter().collect());
            }
            Entry::Consumer { group, record } => {
                let is_end = record == Record::Epoch(None);
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

    fn slot(&self, group: &str) -> Option<Arc<Mutex<Slot>>> {
        self.groups.lock().get(group).cloned()
    }

    fn slot_or_new(&self, group: &str) -> Arc<Mutex<Slot>> {
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
    fn with<T>(&self, group: &str, work: impl FnOnce(&mut Slot, i64) -> T) -> Option<T> {
        let slot = self.slot(group)?;
        let mut slot = slot.lock();
        (!slot.is_gone).then(|| work(&mut slot, self.clock.now_ms()))
    }

    /// Works on a group, made if need be.
    fn with_new<T>(&self, group: &str, mut work: impl FnMut(&mut Slot, i64) -> T) -> T {
        loop {
            let slot = self.slot_or_new(group);
            let mut slot = slot.lock();
            if !slot.is_gone {
                return work(&mut slot, self.clock.now_ms());
            }
        }
    }

    /// As [`Self::with`], for what may change members or set time-outs.
    fn change<T>(&self, group: &str, work: impl FnOnce(&mut Slot, i64) -> T) -> Option<T> {
        self.with(group, |slot, now_ms| {
            let result = work(slot, now_ms);
            self.settle(group, slot);
            result
        })
    }

    /// As [`Self::with_new`], for what may change members or set time-outs.
    fn change_new<T>(&self, group: &str, mut work: impl FnMut(&mut Slot, i64) -> T) -> T {
        self.with_new(group, |slot, now_ms| {
            let result = work(slot, now_ms);
            self.settle(group, slot);
            result
        })
    }

    /// After a change: sets the timer, counts, and remembers what the log lacks.
    fn settle(&self, group: &str, slot: &mut Slot) {
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
    fn each(&self, mut look: impl FnMut(&str, &mut Slot)) {
        let slots: Vec<_> = self.groups.lock().iter().map(|(id, slot)| (id.clone(), Arc::clone(slot))).collect();
        for (id, slot) in slots {
            let mut slot = slot.lock();
            if !slot.is_gone {
                look(&id, &mut slot);
            }
        }
    }

    /// The broker stops: who waits is told to look for the coordinator again, and so is who asks from now on.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.each(|_, slot| {
            if let Held::Classic(group) = &mut slot.held {
                group.release(&GroupError::NotCoordinator);
            }
        });
    }

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
    fn entries(&self, group: &str, commits: Vec<Commit>) -> (Vec<Result<(), GroupError>>, Vec<Entry>) {
        let now_ms = self.clock.now_ms();
        let fits = |c: &Commit| c.metadata.len() <= self.config.max_commit_metadata_bytes;
        let answers = commits.iter().map(|c| fits(c).then_some(()).ok_or(GroupError::MetadataTooLarge)).collect();
        let entries: Vec<Entry> = commits
            .into_iter()
            .filter(fits)
            .map(|c| Entry::Offset {
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

    /// Appends entries of one group, waits until they are safe, and lets them count.
    async fn write(&self, group: &str, entries: Vec<Entry>) -> Result<(), GroupError> {
        if entries.is_empty() {
            return Ok(());
        }
        let at = place(group, self.partitions.len());
        let (Some(partition), Some(gate)) = (self.partitions.get(at), self.gates.get(at)) else {
            return Err(GroupError::NotAvailable);
        };
        let _pass = gate.read().await;
        // One batch, so that after a crash all of it is there or nothing.
        let first = append(partition, &entries, self.clock.now_ms()).await?;
        for (entry, at) in entries.into_iter().zip(first..) {
            if let Entry::Offset { group, topic, partition, value } = entry {
                let tp = TopicPartition::new(topic, partition);
                self.with_new(&group, |slot, _| slot.store(tp.clone(), at, value.clone()));
            }
        }
        Ok(())
    }

    /// Writes what the log lacks of a group. What can't be written now is tried again at the next tick.
    async fn keep(&self, group: &str) -> Result<(), GroupError> {
        let Some(turn) = self.with(group, |slot, _| Arc::clone(&slot.turn)) else { return Ok(()) };
        let _turn = turn.lock().await;
        let Some((entries, taken)) = self.with(group, Slot::take) else { return Ok(()) };
        let written = self.write(group, entries).await;
        self.with(group, |slot, _| slot.settle(taken, written.is_ok()));
        if let Err(error) = &written {
            tracing::warn!(group, %error, "state of the group is not kept yet");
            self.changed.lock().insert(group.to_owned());
        }
        written
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
            if let Some(offset) = offset.filter(|offset| *offset >= 0) {
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
            let mut entries: Vec<Entry> = slot.partitions().iter().map(forget).collect();
            entries.extend(slot::deletion(&slot.held));
            Ok(entries)
        });
        self.write(group, entries.unwrap_or(Err(GroupError::NotFound))?).await?;
        self.remove_if_idle(group);
        Ok(())
    }

    fn remove_if_idle(&self, group: &str) {
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
    fn remove_if_untouched(&self, group: &str) {
        let mut groups = self.groups.lock();
        let Some(slot) = groups.get(group).cloned() else { return };
        let mut slot = slot.lock();
        if slot.is_untouched() {
            slot.is_gone = true;
            groups.remove(group);
        }
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

    /// Time has gone by: ends sessions and rebalances that are over, and keeps the groups that changed. Only one task
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

    /// Forgets what has expired and writes partitions anew that have grown. To be called now and then.
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
                Err(error) => tracing::warn!(group, %error, "expired offsets stay for now"),
            }
        }
        for at in 0..self.partitions.len() {
            if let Err(error) = self.compact(at).await {
                tracing::warn!(partition = at, %error, "{OFFSETS_TOPIC} is not written anew yet");
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
            if place(id, self.partitions.len()) == at {
                living.extend(slot.all(self.clock.now_ms()));
                transactions::gather(id, slot, &mut pending);
            }
        });
        for group in self.groups_with_settings().into_iter().filter(|g| place(g, self.partitions.len()) == at) {
            let pairs = self.set_settings_of(&group).into_iter().collect();
            living.push(Entry::Consumer { group, record: Record::Settings(Some(pairs)) });
        }
        let end = partition.log_end_offset();
        for some in living.chunks(ENTRIES_PER_BATCH) {
            append(partition, some, self.clock.now_ms()).await?;
        }
        self.append_pending(partition, pending).await?;
        partition.delete_records(end).await.map_err(|e| GroupError::Log(e.to_string()))?;
        Ok(())
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
                    let behind = partition.high_watermark() - stored.committed.offset;
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

    /// How many groups there are of each kind and state, for metrics.
    pub fn counts(&self) -> BTreeMap<(&'static str, &'static str), i64> {
        let mut counts = BTreeMap::new();
        self.each(|_, slot| *counts.entry((slot.held.kind(), slot.held.state())).or_default() += 1);
        counts
    }
}

/// Deletions of offsets that are over their time: of groups without members, and of topics that members do not read.
fn expired_of(id: &str, slot: &Slot, retention_ms: i64, now_ms: i64) -> Vec<Entry> {
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

fn forget(group: &str, tp: &TopicPartition) -> Entry {
    Entry::Offset { group: group.to_owned(), topic: tp.topic.to_string(), partition: tp.partition, value: None }
}

/// Of two commits the later one in the log counts.
fn store(offsets: &mut BTreeMap<TopicPartition, Stored>, tp: TopicPartition, at: i64, value: Option<Committed>) {
    if offsets.get(&tp).is_some_and(|stored| stored.at > at) {
        return;
    }
    match value {
        Some(committed) => drop(offsets.insert(tp, Stored { at, committed })),
        None => drop(offsets.remove(&tp)),
    }
}

async fn append(partition: &Arc<Partition>, entries: &[Entry], now_ms: i64) -> Result<i64, GroupError> {
    let log = |e: &dyn std::fmt::Display| GroupError::Log(e.to_string());
    let batch = offsets::batch(entries, None, now_ms).map_err(|e| log(&e))?;
    let appended = partition.append(batch, AppendKind::Internal).await.map_err(|e| log(&e))?;
    partition.flushed(appended.last_offset).await.map_err(|e| log(&e))?;
    Ok(appended.base_offset)
}

#[cfg(test)]
mod tests;
