//! A group of either kind with its offsets, and what of it the log lacks.
//!
//! In: changes of the group. Out: entries for the log. Touches nothing. Leaves rules to [`super::classic`] and
//! [`super::consumer`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::classic::{Group, Limits, State};
use super::consumer::{self, Changes, Topics};
use super::offsets::{Committed, KeptGroup, KeptMember, OffsetsEntry};
use super::records::GroupRecord;
use millrace_log::record::{Offset, TopicPartition};

/// A committed offset and where the log has it.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// Offset of the record that says so: of two commits the later one in the log counts.
    pub at: Offset,
    pub committed: Committed,
}

/// A group of either kind.
#[derive(Debug)]
pub(super) enum Held {
    Classic(Box<Group>),
    Consumer(Box<consumer::Group>),
}

impl Held {
    /// Whether nobody is in it nor on the way in.
    pub fn is_idle(&self) -> bool {
        match self {
            Self::Classic(group) => group.is_idle(),
            Self::Consumer(group) => group.members.is_empty(),
        }
    }

    /// Kafka's name of its state.
    pub fn state(&self) -> &'static str {
        match self {
            Self::Classic(group) => group.state.name(),
            Self::Consumer(group) => group.state(),
        }
    }

    /// `consumer`, `connect` …
    pub fn protocol_type(&self) -> String {
        match self {
            Self::Classic(group) => group.protocol_type.clone().unwrap_or_default(),
            Self::Consumer(_) => consumer::classic::CONSUMER.to_owned(),
        }
    }

    /// Kafka's name of its kind.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Classic(_) => "classic",
            Self::Consumer(_) => "consumer",
        }
    }

    /// Whether any member reads a topic.
    pub fn reads(&self, topic: &str) -> bool {
        match self {
            Self::Classic(group) => group.reads(topic),
            Self::Consumer(group) => group.reads(topic),
        }
    }

    /// Since when nobody is in it.
    pub const fn empty_since_ms(&self) -> i64 {
        match self {
            Self::Classic(group) => group.empty_since_ms,
            Self::Consumer(group) => group.empty_since_ms,
        }
    }

    /// The earliest time at which [`Self::tick`] has something to do.
    pub fn due_ms(&self) -> i64 {
        match self {
            Self::Classic(group) => group.due_ms(),
            Self::Consumer(group) => group.due_ms(),
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ms: i64) {
        match self {
            Self::Classic(group) => group.tick(now_ms),
            Self::Consumer(group) => group.tick(now_ms),
        }
    }

    const fn rebalances(&self) -> u64 {
        match self {
            Self::Classic(group) => group.rebalances,
            Self::Consumer(group) => group.rebalances,
        }
    }
}

/// Offsets of one group within the open transaction of one producer.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub epoch: i16,
    pub offsets: BTreeMap<TopicPartition, Stored>,
}

/// What was taken to be written, to be put back if it could not be.
#[derive(Debug)]
pub(super) struct Taken {
    changes: Option<Changes>,
    kept: Option<u64>,
    tombstones: usize,
}

/// A group with its offsets.
#[derive(Debug)]
pub(super) struct Slot {
    pub held: Held,
    pub offsets: BTreeMap<TopicPartition, Stored>,
    /// Offsets of open transactions, by producer id.
    pub pending: BTreeMap<i64, Pending>,
    /// How many changes of a classic group the log has.
    pub kept: u64,
    /// Taken out of the map: whoever still holds it looks again.
    pub is_gone: bool,
    /// When the timer looks at it; `i64::MAX` for never.
    pub armed_ms: i64,
    /// Held while changes are written, so that the log has them in their order.
    pub write_lock: Arc<tokio::sync::Mutex<()>>,
    /// Deletions that the log lacks.
    tombstones: Vec<OffsetsEntry>,
    counted_rebalances: u64,
}

impl Slot {
    pub fn new(group: Group) -> Self {
        Self {
            held: Held::Classic(Box::new(group)),
            offsets: BTreeMap::new(),
            pending: BTreeMap::new(),
            kept: 0,
            is_gone: false,
            armed_ms: i64::MAX,
            write_lock: Arc::default(),
            tombstones: Vec::new(),
            counted_rebalances: 0,
        }
    }

    pub(super) fn id(&self) -> &str {
        match &self.held {
            Held::Classic(group) => &group.id,
            Held::Consumer(group) => &group.id,
        }
    }

    /// Rebalances since the last call.
    pub fn new_rebalances(&mut self) -> u64 {
        let all = self.held.rebalances();
        all - std::mem::replace(&mut self.counted_rebalances, all).min(all)
    }

    /// The group becomes one of the other kind; the log gets deletions of it as it was.
    pub fn become_kind(&mut self, fresh: Held) {
        self.tombstones.extend(deletion(&self.held));
        self.held = fresh;
        self.counted_rebalances = 0;
        // A classic group always has a change to keep, so that it is written once more.
        self.kept = u64::MAX;
    }

    /// A consumer group of which only classic members are left becomes a classic one.
    pub fn downgrade(&mut self, limits: Limits, topics: &dyn Topics, now_ms: i64) {
        let Held::Consumer(group) = &self.held else { return };
        if group.is_all_classic() {
            tracing::info!(group = group.id, "only classic members are left: converted to a classic group");
            let fresh = group.to_classic(limits, topics, now_ms);
            self.become_kind(Held::Classic(Box::new(fresh)));
        }
    }

    /// Whether there is something that the log lacks.
    pub fn has_changes(&self) -> bool {
        !self.tombstones.is_empty()
            || match &self.held {
                Held::Classic(group) => group.changes != self.kept,
                Held::Consumer(group) => group.has_changes(),
            }
    }

    /// Whether nothing of it need be kept.
    pub fn is_void(&self) -> bool {
        self.held.is_idle() && self.offsets.is_empty() && self.pending.is_empty()
    }

    /// Partitions with an offset, also within open transactions.
    pub fn partitions(&self) -> BTreeSet<TopicPartition> {
        let pending = self.pending.values().flat_map(|pending| pending.offsets.keys());
        self.offsets.keys().chain(pending).cloned().collect()
    }

    /// An offset counts, or no longer does.
    pub fn store(&mut self, tp: TopicPartition, at: Offset, value: Option<Committed>) {
        if value.is_none() {
            self.pending.values_mut().for_each(|pending| drop(pending.offsets.remove(&tp)));
        }
        store(&mut self.offsets, tp, at, value);
    }

    /// Whether nothing has ever happened in it that is worth keeping.
    pub fn is_untouched(&self) -> bool {
        self.held.is_idle()
            && self.offsets.is_empty()
            && !self.has_changes()
            && self.kept == 0
            && matches!(self.held, Held::Classic(_))
    }

    /// Takes what the log lacks.
    pub fn take(&mut self, now_ms: i64) -> (Vec<OffsetsEntry>, Taken) {
        let mut entries = self.tombstones.clone();
        let mut taken = Taken { changes: None, kept: None, tombstones: entries.len() };
        match &mut self.held {
            Held::Classic(group) if group.changes != self.kept => {
                entries.push(OffsetsEntry::Group { group: group.id.clone(), value: Some(kept(group, now_ms)) });
                taken.kept = Some(group.changes);
            }
            Held::Classic(_) => {}
            Held::Consumer(group) => {
                let changes = group.take_changes();
                entries.extend(entries_of(group, &changes));
                taken.changes = Some(changes);
            }
        }
        (entries, taken)
    }

    /// What was taken is in the log, or is not.
    pub fn settle(&mut self, taken: Taken, is_written: bool) {
        if is_written {
            self.tombstones.drain(..taken.tombstones.min(self.tombstones.len()));
            if let (Some(kept), Held::Classic(_)) = (taken.kept, &self.held) {
                self.kept = kept;
            }
        } else if let (Some(changes), Held::Consumer(group)) = (taken.changes, &mut self.held) {
            group.put_back(changes);
        }
    }

    /// All that there is, to be written again.
    pub fn all(&self, now_ms: i64) -> Vec<OffsetsEntry> {
        let offsets = self.offsets.iter().map(|(tp, stored)| OffsetsEntry::Offset {
            group: self.id().to_owned(),
            topic: tp.topic.to_string(),
            partition: tp.partition,
            value: Some(stored.committed.clone()),
        });
        let mut entries: Vec<OffsetsEntry> = offsets.collect();
        match &self.held {
            Held::Classic(group) => {
                entries.push(OffsetsEntry::Group { group: group.id.clone(), value: Some(kept(group, now_ms)) });
            }
            Held::Consumer(group) => entries.extend(entries_of(group, &group.all())),
        }
        entries
    }

    /// Takes up a record of a group of the consumer protocol as the log has it.
    pub fn apply(&mut self, record: GroupRecord, now_ms: i64) {
        let deletes = matches!(
            record,
            GroupRecord::Epoch(None)
                | GroupRecord::Member(_, None)
                | GroupRecord::AssignmentEpoch(None)
                | GroupRecord::Target(_, None)
                | GroupRecord::Current(_, None)
                | GroupRecord::Regex(_, None)
        );
        if matches!(self.held, Held::Classic(_)) {
            if deletes {
                return;
            }
            self.held = Held::Consumer(Box::new(consumer::Group::new(self.id(), now_ms)));
        }
        let Held::Consumer(group) = &mut self.held else { return };
        match record {
            GroupRecord::Epoch(Some((epoch, hash))) => (group.epoch, group.metadata_hash) = (epoch, hash),
            GroupRecord::AssignmentEpoch(epoch) => group.assignment_epoch = epoch.unwrap_or(0),
            GroupRecord::Member(id, Some(fresh)) => {
                let (current, previous_epoch) =
                    group.members.remove(&id).map(|m| (m.current, m.previous_epoch)).unwrap_or_default();
                group.members.insert(id, consumer::Member { current, previous_epoch, ..*fresh });
            }
            GroupRecord::Member(id, None) => drop(group.members.remove(&id)),
            GroupRecord::Target(id, Some(target)) => drop(group.target.insert(id, target)),
            GroupRecord::Target(id, None) => drop(group.target.remove(&id)),
            GroupRecord::Current(id, Some((current, previous))) => {
                if let Some(member) = group.members.get_mut(&id) {
                    (member.current, member.previous_epoch) = (current, previous);
                }
            }
            GroupRecord::Regex(pattern, topics) => group.restore_regex(&pattern, topics),
            GroupRecord::Epoch(None) | GroupRecord::Current(_, None) | GroupRecord::Settings(_) => {}
        }
    }
}

/// Entries that say what has changed.
fn entries_of(group: &consumer::Group, changes: &Changes) -> Vec<OffsetsEntry> {
    let mut entries = Vec::new();
    let mut put = |record: GroupRecord| entries.push(OffsetsEntry::Consumer { group: group.id.clone(), record });
    for pattern in &changes.regexes {
        put(GroupRecord::Regex(pattern.clone(), group.regexes.get(pattern).map(|r| r.topics.clone())));
    }
    for (id, touched) in &changes.members {
        match group.members.get(id) {
            Some(member) if touched.member => put(GroupRecord::Member(id.clone(), Some(Box::new(member.clone())))),
            Some(_) => {}
            None => {
                put(GroupRecord::Current(id.clone(), None));
                put(GroupRecord::Target(id.clone(), None));
                put(GroupRecord::Member(id.clone(), None));
            }
        }
    }
    if changes.epoch {
        put(GroupRecord::Epoch(Some((group.epoch, group.metadata_hash))));
    }
    let living = |touch: fn(&consumer::Touched) -> bool| {
        changes.members.iter().filter(move |(_, t)| touch(t)).filter_map(|(id, _)| Some((id, group.members.get(id)?)))
    };
    for (id, _) in living(|t| t.target) {
        put(GroupRecord::Target(id.clone(), Some(group.target.get(id).cloned().unwrap_or_default())));
    }
    if changes.assignment_epoch {
        put(GroupRecord::AssignmentEpoch(Some(group.assignment_epoch)));
    }
    for (id, member) in living(|t| t.current) {
        put(GroupRecord::Current(id.clone(), Some((member.current.clone(), member.previous_epoch))));
    }
    entries
}

/// Entries that make the log forget a group; its offsets stay.
pub(super) fn deletion(held: &Held) -> Vec<OffsetsEntry> {
    match held {
        Held::Classic(group) => vec![OffsetsEntry::Group { group: group.id.clone(), value: None }],
        Held::Consumer(group) => {
            let mut records = Vec::new();
            for id in group.members.keys() {
                records.extend([
                    GroupRecord::Current(id.clone(), None),
                    GroupRecord::Target(id.clone(), None),
                    GroupRecord::Member(id.clone(), None),
                ]);
            }
            records.extend(group.regexes.keys().map(|pattern| GroupRecord::Regex(pattern.clone(), None)));
            records.extend([GroupRecord::AssignmentEpoch(None), GroupRecord::Epoch(None)]);
            let entry = |record| OffsetsEntry::Consumer { group: group.id.clone(), record };
            records.into_iter().map(entry).collect()
        }
    }
}

/// A classic group as the log keeps it.
pub(super) fn kept(group: &Group, now_ms: i64) -> KeptGroup {
    let protocol = group.protocol.clone().unwrap_or_default();
    KeptGroup {
        protocol_type: group.protocol_type.clone().unwrap_or_default(),
        generation: group.generation,
        protocol: group.protocol.clone(),
        leader: group.leader.clone(),
        state_since_ms: if group.state == State::Empty { group.empty_since_ms } else { now_ms },
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

/// Of two commits the later one in the log counts.
pub(super) fn store(
    offsets: &mut BTreeMap<TopicPartition, Stored>,
    tp: TopicPartition,
    at: Offset,
    value: Option<Committed>,
) {
    if offsets.get(&tp).is_some_and(|stored| stored.at > at) {
        return;
    }
    match value {
        Some(committed) => drop(offsets.insert(tp, Stored { at, committed })),
        None => drop(offsets.remove(&tp)),
    }
}
