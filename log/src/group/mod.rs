//! The group coordinator: all consumer groups of the broker, their committed offsets, and the topic that keeps both.
//!
//! In: requests of the broker's door, with the clock's time. Out: answers. Touches the partitioned log, in the topic
//! `__consumer_offsets`: commits are appended and flushed before they are answered, and read back at the start. Leaves
//! the rules of membership to [`state`] and the codes of the wire to the door.
//!
//! The topic is bounded without compaction: when a partition has grown, all that lives in it is written again and what
//! stands before is deleted ([`Coordinator::compact`]).

/// One group: members, generations, rebalances.
pub mod state;
/// Records of the topic that keeps offsets and groups.
pub mod offsets;
/// Offsets committed within transactions.
mod transactions;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::SharedClock;
use crate::record::TopicPartition;
use crate::storage::{AppendKind, CommittedOffset, Partition, ReadError, Storage, StorageError, TopicSettings};
use crate::value::{Faults, Span};
use offsets::{Committed, Entry, KeptGroup, KeptMember};
use state::{Group, GroupError, Join, Joined, Later, Limits, Member, State, Sync, Synced};
pub use transactions::Committer;

/// Where offsets and groups are kept.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";
const OFFSETS_PARTITIONS: i32 = 4;
/// Bytes per batch when all is written again.
const ENTRIES_PER_BATCH: usize = 500;

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
    /// Time after which offsets of a group without members are forgotten (`offsets.retention.minutes`).
    pub offsets_retention: Span,
    /// Longest note with a commit, in bytes (`offset.metadata.max.bytes`).
    pub max_commit_metadata_bytes: usize,
    /// Size of a partition of `__consumer_offsets` at which it is written anew with what still counts.
    pub compact_at: crate::value::ByteSize,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            initial_rebalance_delay: Span::secs(0),
            min_session_timeout: Span::secs(6),
            max_session_timeout: Span::secs(1800),
            max_members: 2000,
            offsets_retention: Span::secs(7 * 24 * 3600),
            max_commit_metadata_bytes: 4096,
            compact_at: crate::value::ByteSize::mib(32),
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

#[derive(Debug, Clone)]
struct Stored {
    /// Offset of the record that says so: of two commits the later one in the log counts.
    at: i64,
    committed: Committed,
}

/// A group with its offsets.
#[derive(Debug)]
struct Slot {
    group: Group,
    offsets: BTreeMap<TopicPartition, Stored>,
    /// Offsets of open transactions, by producer id.
    pending: BTreeMap<i64, transactions::Pending>,
    /// How many changes of the group the log has.
    kept: u64,
    /// Taken out of the map: whoever still holds it looks again.
    is_gone: bool,
}

impl Slot {
    /// Whether nothing of it need be kept.
    fn is_void(&self) -> bool {
        self.group.is_idle() && self.offsets.is_empty() && self.pending.is_empty()
    }

    /// Partitions with an offset, also within open transactions.
    fn partitions(&self) -> BTreeSet<TopicPartition> {
        let pending = self.pending.values().flat_map(|pending| pending.offsets.keys());
        self.offsets.keys().chain(pending).cloned().collect()
    }

    /// An offset counts, or no longer does.
    fn store(&mut self, tp: TopicPartition, at: i64, value: Option<Committed>) {
        if value.is_none() {
            self.pending.values_mut().for_each(|pending| drop(pending.offsets.remove(&tp)));
        }
        store(&mut self.offsets, tp, at, value);
    }
}

/// What `describe` tells of a group.
#[derive(Debug, Clone)]
pub struct Description {
    /// Kafka's name of its state.
    pub state: &'static str,
    /// `consumer`, `connect` …
    pub protocol_type: String,
    /// Strategy in use.
    pub protocol: String,
    /// Members: id, instance id, client id, host, metadata, assignment.
    pub members: Vec<KeptMember>,
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
            gates,
            partitions,
            in_transactions: Mutex::default(),
        };
        for partition in &coordinator.partitions {
            coordinator.load(partition).await?;
        }
        coordinator.groups.lock().retain(|_, slot| !slot.lock().is_void());
        Ok(coordinator)
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
                slot.group = fresh;
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
        let slot = Arc::new(Mutex::new(Slot {
            group: fresh,
            offsets: BTreeMap::new(),
            pending: BTreeMap::new(),
            kept: 0,
            is_gone: false,
        }));
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

    fn fresh_id() -> String {
        uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
    }

    /// A member joins; the answer may take as long as the rebalance.
    pub async fn join(&self, group: &str, join: Join) -> Result<Joined, GroupError> {
        if group.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        let join = Join { fresh_id: Self::fresh_id(), ..join };
        let later: Later<Joined> = if join.member_id.is_empty() {
            self.with_new(group, |slot, now_ms| slot.group.join(join.clone(), now_ms))
        } else {
            self.with(group, |slot, now_ms| slot.group.join(join, now_ms)).ok_or(GroupError::UnknownMember)?
        };
        later.await.unwrap_or(Err(GroupError::NotAvailable))
    }

    /// A member asks for its assignment, the leader brings all; waits for the leader.
    pub async fn sync(&self, group: &str, sync: Sync) -> Result<Synced, GroupError> {
        if group.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        let later: Later<Synced> =
            self.with(group, |slot, now_ms| slot.group.sync(sync, now_ms)).ok_or(GroupError::UnknownMember)?;
        later.await.unwrap_or(Err(GroupError::NotAvailable))
    }

    /// A sign of life.
    pub fn heartbeat(
        &self,
        group: &str,
        member: &str,
        instance: Option<&str>,
        generation: i32,
    ) -> Result<(), GroupError> {
        if group.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        self.with(group, |slot, now_ms| slot.group.heartbeat(member, instance, generation, now_ms))
            .unwrap_or(Err(GroupError::UnknownMember))
    }

    /// Members go, each with its own answer.
    pub fn leave(
        &self,
        group: &str,
        members: &[(String, Option<String>)],
    ) -> Result<Vec<Result<String, GroupError>>, GroupError> {
        if group.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        let answers = self.with(group, |slot, now_ms| {
            members.iter().map(|(id, instance)| slot.group.leave(id, instance.as_deref(), now_ms)).collect()
        });
        Ok(answers.unwrap_or_else(|| members.iter().map(|_| Err(GroupError::UnknownMember)).collect()))
    }

    /// Keeps offsets: durable when it returns. Each partition has its own answer.
    pub async fn commit(
        &self,
        group: &str,
        member: &str,
        instance: Option<&str>,
        generation: i32,
        commits: Vec<Commit>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        let allowed = if generation < 0 && member.is_empty() && instance.is_none() {
            self.with_new(group, |slot, now_ms| slot.group.may_commit(member, instance, generation, now_ms))
        } else {
            self.with(group, |slot, now_ms| slot.group.may_commit(member, instance, generation, now_ms))
                .unwrap_or(Err(if generation < 0 { GroupError::UnknownMember } else { GroupError::IllegalGeneration }))
        };
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
        let first = append(partition, &entries, self.clock.now_ms()).await?;
        for (entry, at) in entries.into_iter().zip(first..) {
            if let Entry::Offset { group, topic, partition, value } = entry {
                let tp = TopicPartition::new(topic, partition);
                self.with_new(&group, |slot, _| slot.store(tp.clone(), at, value.clone()));
            }
        }
        Ok(())
    }

    /// Writes the state of a group. What can't be written now is tried again at the next tick.
    async fn keep(&self, group: &str) {
        let found = self.with(group, |slot, now_ms| {
            let entry = Entry::Group { group: group.to_owned(), value: Some(kept(&slot.group, now_ms)) };
            (entry, slot.group.changes)
        });
        let Some((entry, changes)) = found else { return };
        match self.write(group, vec![entry]).await {
            Ok(()) => drop(self.with(group, |slot, _| slot.kept = changes)),
            Err(error) => tracing::warn!(group, %error, "state of the group is not kept yet"),
        }
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
        let slots: Vec<_> = self.groups.lock().iter().map(|(id, slot)| (id.clone(), Arc::clone(slot))).collect();
        let of = |(group, slot): (String, Arc<Mutex<Slot>>)| {
            let offset = slot.lock().offsets.get(&wanted)?.committed.offset;
            (offset >= 0).then_some(CommittedOffset { group, offset })
        };
        slots.into_iter().filter_map(of).collect()
    }

    /// Names of all groups with state and protocol type, sorted.
    pub fn list(&self) -> Vec<(String, &'static str, String)> {
        let slots: Vec<_> = self.groups.lock().iter().map(|(id, slot)| (id.clone(), Arc::clone(slot))).collect();
        let mut list: Vec<_> = slots
            .into_iter()
            .filter_map(|(id, slot)| {
                let slot = slot.lock();
                (!slot.is_gone)
                    .then(|| (id, slot.group.state.name(), slot.group.protocol_type.clone().unwrap_or_default()))
            })
            .collect();
        list.sort();
        list
    }

    /// What there is to say of a group, `None` if it does not exist.
    pub fn describe(&self, group: &str) -> Option<Description> {
        self.with(group, |slot, now_ms| {
            let kept = kept(&slot.group, now_ms);
            let protocol = match slot.group.state {
                State::Stable => kept.protocol.unwrap_or_default(),
                _ => String::new(),
            };
            let mut members = kept.members;
            if slot.group.state != State::Stable {
                for member in &mut members {
                    member.subscription = Bytes::new();
                    member.assignment = Bytes::new();
                }
            }
            Description { state: slot.group.state.name(), protocol_type: kept.protocol_type, protocol, members }
        })
    }

    /// Removes a group without members, with its offsets.
    pub async fn delete(&self, group: &str) -> Result<(), GroupError> {
        let entries = self.with(group, |slot, _| {
            if !slot.group.is_idle() {
                return Err(GroupError::NotEmpty);
            }
            let forget = |tp: &TopicPartition| forget(group, tp);
            let mut entries: Vec<Entry> = slot.partitions().iter().map(forget).collect();
            entries.push(Entry::Group { group: group.to_owned(), value: None });
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

    /// Forgets offsets of partitions, except of topics that members read.
    pub async fn delete_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Result<(), bool>>, GroupError> {
        let answers: Vec<Result<(), bool>> = self
            .with(group, |slot, _| {
                partitions.iter().map(|tp| if slot.group.reads(&tp.topic) { Err(true) } else { Ok(()) }).collect()
            })
            .ok_or(GroupError::NotFound)?;
        let free = partitions.iter().zip(&answers).filter(|(_, answer)| answer.is_ok());
        let entries = free.map(|(tp, _)| forget(group, tp)).collect();
        self.write(group, entries).await?;
        Ok(answers)
    }

    /// A topic is gone: so are the offsets of all groups for it.
    pub async fn forget_topic(&self, topic: &str) {
        for (group, _, _) in self.list() {
            let gone = self.with(&group, |slot, _| {
                let partitions = slot.partitions();
                partitions.iter().filter(|tp| &*tp.topic == topic).map(|tp| forget(&group, tp)).collect::<Vec<_>>()
            });
            if let Err(error) = self.write(&group, gone.unwrap_or_default()).await {
                tracing::warn!(group, topic, %error, "offsets of a deleted topic are kept until the group expires");
            }
        }
    }

    /// Time has gone by: ends sessions and rebalances that are over, and keeps the groups that changed. Only one task
    /// may call it, so that the log has a group's states in their order; a crash loses those since the last call,
    /// which costs the members of the group a rebalance and nothing else.
    pub async fn tick(&self) {
        let slots: Vec<_> = self.groups.lock().iter().map(|(id, slot)| (id.clone(), Arc::clone(slot))).collect();
        let mut changed = Vec::new();
        for (id, slot) in slots {
            let mut slot = slot.lock();
            slot.group.tick(self.clock.now_ms());
            if slot.group.changes != slot.kept {
                changed.push(id);
            }
        }
        futures::future::join_all(changed.iter().map(|id| self.keep(id))).await;
    }

    /// Forgets what has expired and writes partitions anew that have grown. To be called now and then.
    pub async fn tidy(&self) {
        let retention_ms = i64::try_from(self.config.offsets_retention.0.as_millis()).unwrap_or(i64::MAX);
        for (group, _, _) in self.list() {
            let expired = self.with(&group, |slot, now_ms| {
                let since = |stored: &Stored| stored.committed.committed_at_ms.max(slot.group.empty_since_ms);
                let is_over = |stored: &Stored| since(stored).saturating_add(retention_ms) <= now_ms;
                if !slot.group.is_idle() {
                    return (Vec::new(), false);
                }
                let old = slot.offsets.iter().filter(|(_, stored)| is_over(stored));
                let mut entries: Vec<Entry> = old.map(|(tp, _)| forget(&group, tp)).collect();
                let is_last = entries.len() == slot.offsets.len() && slot.pending.is_empty();
                if is_last {
                    entries.push(Entry::Group { group: group.clone(), value: None });
                }
                (entries, is_last)
            });
            let Some((entries, is_last)) = expired else { continue };
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
        for (group, _, _) in self.list() {
            if place(&group, self.partitions.len()) != at {
                continue;
            }
            self.with(&group, |slot, now_ms| {
                living.extend(slot.offsets.iter().map(|(tp, stored)| Entry::Offset {
                    group: group.clone(),
                    topic: tp.topic.to_string(),
                    partition: tp.partition,
                    value: Some(stored.committed.clone()),
                }));
                living.push(Entry::Group { group: group.clone(), value: Some(kept(&slot.group, now_ms)) });
                transactions::gather(&group, slot, &mut pending);
            });
        }
        let end = partition.log_end_offset();
        for some in living.chunks(ENTRIES_PER_BATCH) {
            append(partition, some, self.clock.now_ms()).await?;
        }
        self.append_pending(partition, pending).await?;
        partition.delete_records(end).await.map_err(|e| GroupError::Log(e.to_string()))?;
        Ok(())
    }

    /// Every group's offsets, for metrics: group, partition, records behind the high watermark.
    pub fn lags(&self) -> Vec<(String, TopicPartition, i64)> {
        let mut lags = Vec::new();
        for (group, _, _) in self.list() {
            for (tp, committed) in self.committed(&group, None) {
                let partition = self.storage.topic(&tp.topic).and_then(|topic| topic.partition(tp.partition));
                if let (Some(partition), Some(committed)) = (partition, committed) {
                    lags.push((group.clone(), tp, (partition.high_watermark() - committed.offset).max(0)));
                }
            }
        }
        lags
    }
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

fn kept(group: &Group, now_ms: i64) -> KeptGroup {
    let protocol = group.protocol.clone().unwrap_or_default();
    KeptGroup {
        protocol_type: group.protocol_type.clone().unwrap_or_default(),
        generation: group.generation,
        protocol: group.protocol.clone(),
        leader: group.leader.clone(),
        state_since_ms: if group.members.is_empty() { group.empty_since_ms } else { now_ms },
        members: group
            .members
            .iter()
            .map(|m| KeptMember {
                id: m.id.clone(),
                instance_id: m.instance_id.clone(),
                client_id: m.client_id.clone(),
                client_host: m.client_host.clone(),
                rebalance_timeout_ms: m.rebalance_timeout_ms,
                session_timeout_ms: m.session_timeout_ms,
                subscription: m.metadata(&protocol),
                assignment: m.assignment.clone(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests;
