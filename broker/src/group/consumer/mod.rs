//! One consumer group of the new protocol (KIP-848), where the server assigns and members are told by heartbeats. Pure:
//! no I/O, no clock of its own.
//!
//! In: heartbeats and leaves, each with the time in ms and a view of the topics; `tick` as time goes by. Out: answers,
//! and which members changed since it was last asked ([`Group::take_changes`]), for the log. Touches nothing. Leaves
//! members of the classic protocol in such a group to [`classic`], records to [`super::offsets`], codes to the door.
//!
//! Three epochs: the group's goes up with every change of members, subscriptions or topics; the target's follows when
//! the assignor has shared out anew; each member's follows when it has let go of what it lost ([`reconcile`]). States
//! as Kafka names them: Empty, Assigning (target behind the group), Reconciling (members behind the target), Stable.

/// The server's assignors.
pub mod assign;
/// Members of the classic protocol in such a group; changes from one kind of group to the other.
pub mod classic;
/// One step of a member towards its target.
pub mod reconcile;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use regex::{Regex, RegexBuilder};
use uuid::Uuid;

use super::state::GroupError;
pub use assign::{ASSIGNORS, Assignment};
use assign::{Reader, Spec};
pub use reconcile::{Current, Phase};

/// Epoch of a heartbeat that leaves for good.
pub const LEAVE: i32 = -1;
/// Epoch of a heartbeat of a static member that will be back.
pub const LEAVE_STATIC: i32 = -2;
/// Most memory that a pattern may take once compiled: patterns come from clients.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// The topics of the broker as groups see them.
pub trait Topics {
    /// Changes whenever a topic is made, grown or deleted.
    fn version(&self) -> u64;
    /// Id and number of partitions.
    fn topic(&self, name: &str) -> Option<(Uuid, i32)>;
    /// Name of a topic by id.
    fn name(&self, id: Uuid) -> Option<String>;
    /// Changes whenever the names that whoever asks may see could have changed; absent where nobody asks, as when a
    /// member is taken for dead: patterns then stand for what they stood for.
    fn sight(&self) -> Option<u64>;
    /// All names that whoever asks may see.
    fn names(&self) -> Vec<String>;
}

/// What members of a group are held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Time without heartbeats after which a member is taken for dead.
    pub session_ms: i64,
    /// Time between heartbeats that members are told.
    pub heartbeat_ms: i32,
    /// Most members.
    pub max_members: usize,
}

/// A heartbeat; what is absent has not changed.
#[derive(Debug, Clone, Default)]
pub struct Beat {
    /// Id of the member; may be empty when joining with version 0.
    pub member_id: String,
    /// 0 joins, [`LEAVE`] and [`LEAVE_STATIC`] leave, else the epoch it was told.
    pub epoch: i32,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// Rack of the client.
    pub rack_id: Option<String>,
    /// Time it may take to let go of partitions.
    pub rebalance_timeout_ms: Option<i32>,
    /// As the client calls itself.
    pub client_id: String,
    /// Where from, with a leading slash as Kafka shows it.
    pub client_host: String,
    /// Topics by name.
    pub topics: Option<Vec<String>>,
    /// Topics by pattern.
    pub regex: Option<String>,
    /// The assignor it likes.
    pub assignor: Option<String>,
    /// What it owns.
    pub owned: Option<Assignment>,
    /// A fresh unique id, used if the member needs one.
    pub fresh_id: String,
}

/// Answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beaten {
    /// Whom it is for.
    pub member_id: String,
    /// The epoch it is in.
    pub epoch: i32,
    /// When to beat again; 0 for who leaves.
    pub heartbeat_ms: i32,
    /// All it may read, where that changed or was asked for.
    pub assigned: Option<Assignment>,
}

/// What only members of the classic protocol have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Classic {
    /// Time without heartbeats after which it is taken for dead.
    pub session_timeout_ms: i32,
    /// Strategies in order of preference with metadata.
    pub protocols: Vec<(String, Bytes)>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// Rack of the client.
    pub rack_id: Option<String>,
    /// As the client calls itself.
    pub client_id: String,
    /// Where from.
    pub client_host: String,
    /// Time it may take to let go of partitions.
    pub rebalance_timeout_ms: i32,
    /// Topics by name.
    pub topics: BTreeSet<String>,
    /// Topics by pattern.
    pub regex: Option<String>,
    /// The assignor it likes.
    pub assignor: Option<String>,
    /// Present for members of the classic protocol.
    pub classic: Option<Classic>,
    /// What it has.
    pub current: Current,
    /// The epoch before, which is taken once more in case the answer was lost.
    pub previous_epoch: i32,
    pub(super) expires_at_ms: i64,
    /// Until when it must have let go of what it was told to.
    pub(super) revoke_by_ms: Option<i64>,
    /// Until when a classic member must have joined again.
    pub(super) join_by_ms: Option<i64>,
    /// Until when a classic member must have asked for its assignment.
    pub(super) sync_by_ms: Option<i64>,
}

impl Member {
    fn due_ms(&self) -> i64 {
        let waits = [self.revoke_by_ms, self.join_by_ms, self.sync_by_ms];
        waits.into_iter().flatten().fold(self.expires_at_ms, i64::min)
    }
}

/// What of a member has changed since it was last written to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Touched {
    /// Who it is and what it reads.
    pub member: bool,
    /// What it shall have.
    pub target: bool,
    /// What it has.
    pub current: bool,
}

impl Touched {
    const ALL: Self = Self { member: true, target: true, current: true };
}

/// What has changed since it was last written to the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// The group's epoch.
    pub epoch: bool,
    /// The target's epoch.
    pub assignment_epoch: bool,
    /// Members by id, also those who are gone.
    pub members: BTreeMap<String, Touched>,
    /// Patterns, also those that are gone.
    pub regexes: BTreeSet<String>,
}

impl Changes {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Puts changes back that could not be written.
    pub fn merge(&mut self, other: Self) {
        self.epoch |= other.epoch;
        self.assignment_epoch |= other.assignment_epoch;
        self.regexes.extend(other.regexes);
        for (id, t) in other.members {
            let own = self.members.entry(id).or_default();
            *own = Touched {
                member: own.member | t.member,
                target: own.target | t.target,
                current: own.current | t.current,
            };
        }
    }
}

/// A pattern and what it stands for.
#[derive(Debug, Clone)]
pub struct Resolved {
    pattern: Option<Regex>,
    /// Names of topics.
    pub topics: BTreeSet<String>,
    /// What was in sight when it was held against the topics ([`Topics::sight`]); absent: not held against them yet.
    pub seen: Option<u64>,
}

/// One group.
#[derive(Debug)]
pub struct Group {
    /// Its name.
    pub id: String,
    /// Goes up with every change of members, subscriptions or topics.
    pub epoch: i32,
    /// The group's epoch that the target belongs to.
    pub assignment_epoch: i32,
    /// Tells whether the topics that are read have changed.
    pub metadata_hash: i64,
    /// Members by id.
    pub members: BTreeMap<String, Member>,
    /// What members shall have.
    pub target: BTreeMap<String, Assignment>,
    /// Patterns that members read by.
    pub regexes: BTreeMap<String, Resolved>,
    /// When it was last left by all.
    pub empty_since_ms: i64,
    /// How often partitions were shared out anew.
    pub rebalances: u64,
    owners: HashMap<(Uuid, i32), String>,
    /// Version of the topics at the last look.
    seen_topics: Option<u64>,
    changes: Changes,
}

/// Compiles a pattern that must fit the whole name.
fn compile(pattern: &str) -> Result<Regex, GroupError> {
    RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(MAX_PATTERN_BYTES).build().map_err(|e| {
        let reason = match e {
            regex::Error::Syntax(text) => text.lines().last().unwrap_or_default().trim().replace("error: ", ""),
            other => other.to_string(),
        };
        GroupError::InvalidRegex(format!(
            "SubscribedTopicRegex `{pattern}` is not a valid regular expression: {reason}."
        ))
    })
}

/// FNV-1a: the same at every start and in every version, as it is kept in the log.
fn hash(parts: impl Iterator<Item = (String, Uuid, i32)>) -> i64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for (name, id, partitions) in parts {
        add(name.as_bytes());
        add(id.as_bytes());
        add(&partitions.to_be_bytes());
    }
    i64::from_be_bytes(hash.to_be_bytes())
}

/// Checks what can be said of a heartbeat without its group. `needs_id`: version 1 and later.
pub fn check(group: &str, beat: &Beat, needs_id: bool) -> Result<(), GroupError> {
    let invalid = |text: &str| Err(GroupError::InvalidRequest(text.to_owned()));
    if beat.member_id.is_empty() && (needs_id || beat.epoch > 0 || beat.epoch == LEAVE) {
        return invalid("MemberId can't be empty.");
    }
    if group.is_empty() {
        return invalid("GroupId can't be empty.");
    }
    if beat.instance_id.as_deref() == Some("") {
        return invalid("InstanceId can't be empty.");
    }
    if beat.rack_id.as_deref() == Some("") {
        return invalid("RackId can't be empty.");
    }
    if beat.epoch == 0 {
        if beat.rebalance_timeout_ms.is_none() {
            return invalid("RebalanceTimeoutMs must be provided in first request.");
        }
        if beat.owned.as_ref().is_none_or(|owned| !owned.is_empty()) {
            return invalid("TopicPartitions must be empty when (re-)joining.");
        }
        if beat.topics.is_none() && beat.regex.is_none() {
            return invalid("Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.");
        }
    } else if beat.epoch == LEAVE_STATIC {
        if beat.instance_id.is_none() {
            return invalid("InstanceId can't be null.");
        }
    } else if beat.epoch < LEAVE_STATIC {
        return invalid("MemberEpoch is invalid.");
    }
    if let Some(assignor) = beat.assignor.as_deref().filter(|name| !ASSIGNORS.contains(name)) {
        let known = ASSIGNORS.join(", ");
        let text = format!("ServerAssignor {assignor} is not supported. Supported assignors: {known}.");
        return Err(GroupError::UnsupportedAssignor(text));
    }
    match beat.regex.as_deref() {
        Some(pattern) if !pattern.is_empty() => compile(pattern).map(drop),
        _ => Ok(()),
    }
}

impl Group {
    /// A group without members.
    pub fn new(id: &str, now_ms: i64) -> Self {
        Self {
            id: id.to_owned(),
            epoch: 0,
            assignment_epoch: 0,
            metadata_hash: 0,
            members: BTreeMap::new(),
            target: BTreeMap::new(),
            regexes: BTreeMap::new(),
            empty_since_ms: now_ms,
            rebalances: 0,
            owners: HashMap::new(),
            seen_topics: None,
            changes: Changes::default(),
        }
    }

    /// To be called when all of it has been read from the log: sessions begin anew.
    pub fn restored(&mut self, session_ms: i64, now_ms: i64) {
        self.seen_topics = None;
        self.changes = Changes::default();
        self.target.retain(|id, _| self.members.contains_key(id));
        self.owners.clear();
        for (id, member) in &mut self.members {
            let classic = member.classic.as_ref().map(|c| i64::from(c.session_timeout_ms));
            member.expires_at_ms = now_ms + classic.unwrap_or(session_ms);
            let revokes = member.current.phase == Phase::Unrevoked && member.classic.is_none();
            member.revoke_by_ms = revokes.then_some(now_ms + i64::from(member.rebalance_timeout_ms));
            self.owners.extend(member.current.held().map(|tp| (tp, id.clone())));
        }
    }

    /// Takes a pattern as it was read from the log.
    pub fn restore_regex(&mut self, pattern: &str, topics: Option<BTreeSet<String>>) {
        match topics {
            Some(topics) => {
                let resolved = Resolved { pattern: compile(pattern).ok(), topics, seen: None };
                self.regexes.insert(pattern.to_owned(), resolved);
            }
            None => drop(self.regexes.remove(pattern)),
        }
    }

    /// Kafka's name of its state.
    pub fn state(&self) -> &'static str {
        if self.members.is_empty() {
            "Empty"
        } else if self.epoch > self.assignment_epoch {
            "Assigning"
        } else if self.members.values().any(|m| !self.is_reconciled(m)) {
            "Reconciling"
        } else {
            "Stable"
        }
    }

    fn is_reconciled(&self, member: &Member) -> bool {
        member.current.phase == Phase::Stable && member.current.epoch == self.assignment_epoch
    }

    /// What has changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Puts changes back that could not be written.
    pub fn put_back(&mut self, changes: Changes) {
        self.changes.merge(changes);
    }

    /// Whether there is something to write.
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Everything, to be written to the log again.
    pub fn all(&self) -> Changes {
        Changes {
            epoch: true,
            assignment_epoch: true,
            members: self.members.keys().map(|id| (id.clone(), Touched::ALL)).collect(),
            regexes: self.regexes.keys().cloned().collect(),
        }
    }

    /// The earliest time at which [`Self::tick`] has something to do.
    pub fn due_ms(&self) -> i64 {
        self.members.values().map(Member::due_ms).min().unwrap_or(i64::MAX)
    }

    /// Whether any member reads a topic.
    pub fn reads(&self, topic: &str) -> bool {
        self.members.values().any(|m| m.topics.contains(topic) || self.by_pattern(m).any(|t| t == topic))
    }

    fn by_pattern<'a>(&'a self, member: &'a Member) -> impl Iterator<Item = &'a String> {
        member.regex.as_ref().and_then(|r| self.regexes.get(r)).into_iter().flat_map(|r| &r.topics)
    }

    /// The assignor that most members like, the first if nobody says.
    pub fn assignor(&self) -> &str {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for name in self.members.values().filter_map(|m| m.assignor.as_deref()) {
            *votes.entry(name).or_default() += 1;
        }
        let most =
            votes.into_iter().max_by_key(|(name, count)| (*count, ASSIGNORS.iter().rev().position(|a| a == name)));
        most.map_or(ASSIGNORS.first().copied().unwrap_or_default(), |(name, _)| name)
    }

    pub(super) fn static_id(&self, instance: &str) -> Option<&String> {
        self.members.iter().find(|(_, m)| m.instance_id.as_deref() == Some(instance)).map(|(id, _)| id)
    }

    pub(super) fn touch(&mut self, id: &str) -> &mut Touched {
        self.changes.members.entry(id.to_owned()).or_default()
    }

    fn unknown(&self, id: &str) -> GroupError {
        GroupError::NoMember(format!("Member {id} is not a member of group {}.", self.id))
    }

    pub(super) fn check_room(&self, id: &str, max: usize) -> Result<(), GroupError> {
        if self.members.len() >= max && !self.members.contains_key(id) { Err(GroupError::Full) } else { Ok(()) }
    }

    /// A heartbeat: joins, goes on, or leaves.
    pub fn beat(&mut self, beat: Beat, rules: Rules, topics: &dyn Topics, now_ms: i64) -> Result<Beaten, GroupError> {
        if matches!(beat.epoch, LEAVE | LEAVE_STATIC) {
            return self.leave(&beat, now_ms);
        }
        let id = if beat.member_id.is_empty() { beat.fresh_id.clone() } else { beat.member_id.clone() };
        self.check_room(&id, rules.max_members)?;
        self.enter(&id, &beat, now_ms)?;
        let before = self.members.get(&id).map(|m| m.current.assigned.clone()).unwrap_or_default();
        let is_full = beat.rebalance_timeout_ms.is_some()
            && (beat.topics.is_some() || beat.regex.is_some())
            && beat.owned.is_some();
        let tells = beat.epoch == 0 || is_full;
        let owned = beat.owned.clone();
        let resubscribed = self.update(&id, beat)?;
        self.advance(resubscribed, topics);
        self.reconcile(&id, owned.as_ref(), now_ms);
        let unknown = self.unknown(&id);
        let member = self.members.get_mut(&id).ok_or(unknown)?;
        member.expires_at_ms = now_ms + rules.session_ms;
        let assigned = (tells || member.current.assigned != before).then(|| member.current.assigned.clone());
        Ok(Beaten { member_id: id, epoch: member.current.epoch, heartbeat_ms: rules.heartbeat_ms, assigned })
    }

    /// Finds the member that speaks, or takes in a new one.
    fn enter(&mut self, id: &str, beat: &Beat, now_ms: i64) -> Result<(), GroupError> {
        let owner = beat.instance_id.as_deref().map(|instance| (instance, self.static_id(instance).cloned()));
        match (owner, beat.epoch) {
            (None, epoch) => {
                if let Some(member) = self.members.get(id) {
                    return check_epoch(member, epoch, beat.owned.as_ref());
                }
                if epoch != 0 {
                    return Err(self.unknown(id));
                }
                self.add(id, now_ms);
            }
            (Some((_, None)), 0) => self.add(id, now_ms),
            (Some((instance, Some(owner))), 0) => {
                let active = self.members.get(&owner).is_some_and(|m| m.current.epoch != LEAVE_STATIC);
                if active {
                    return Err(GroupError::UnreleasedInstance(format!(
                        "Static member {id} with instance id {instance} cannot join the group because the instance id \
                         is owned by {owner} member."
                    )));
                }
                self.replace(&owner, id, 0);
            }
            (Some((instance, None)), _) => {
                return Err(GroupError::NoMember(format!("Instance id {instance} is unknown.")));
            }
            (Some((instance, Some(owner))), epoch) => {
                if owner != id {
                    return Err(fenced_instance(id, instance, &owner));
                }
                let member = self.members.get(id).ok_or_else(|| self.unknown(id))?;
                check_epoch(member, epoch, beat.owned.as_ref())?;
            }
        }
        Ok(())
    }

    pub(super) fn add(&mut self, id: &str, now_ms: i64) {
        let member = Member { previous_epoch: -1, expires_at_ms: now_ms, ..Member::default() };
        self.members.insert(id.to_owned(), member);
        *self.touch(id) = Touched::ALL;
    }

    /// A static member is back under a new id: it takes over all that the old one has.
    pub(super) fn replace(&mut self, old: &str, id: &str, epoch: i32) {
        let Some(mut member) = self.members.remove(old) else { return };
        member.current = Current { epoch, assigned: member.current.assigned, ..Current::default() };
        member.previous_epoch = 0;
        (member.revoke_by_ms, member.join_by_ms, member.sync_by_ms) = (None, None, None);
        self.owners.retain(|_, owner| owner != old);
        self.owners.extend(member.current.held().map(|tp| (tp, id.to_owned())));
        if let Some(target) = self.target.remove(old) {
            self.target.insert(id.to_owned(), target);
        }
        self.members.insert(id.to_owned(), member);
        *self.touch(old) = Touched::ALL;
        *self.touch(id) = Touched::ALL;
    }

    /// Takes over what a heartbeat says about its member. Returns whether its subscription has changed.
    fn update(&mut self, id: &str, beat: Beat) -> Result<bool, GroupError> {
        if let Some(pattern) = beat.regex.as_deref().filter(|p| !p.is_empty() && !self.regexes.contains_key(*p)) {
            let resolved = Resolved { pattern: Some(compile(pattern)?), topics: BTreeSet::new(), seen: None };
            self.regexes.insert(pattern.to_owned(), resolved);
            self.changes.regexes.insert(pattern.to_owned());
        }
        let unknown = self.unknown(id);
        let member = self.members.get_mut(id).ok_or(unknown)?;
        let mut fresh = Member {
            instance_id: beat.instance_id.or_else(|| member.instance_id.clone()),
            rack_id: beat.rack_id.or_else(|| member.rack_id.clone()),
            client_id: beat.client_id,
            client_host: beat.client_host,
            assignor: beat.assignor.or_else(|| member.assignor.clone()),
            classic: None,
            ..member.clone()
        };
        fresh.rebalance_timeout_ms = beat.rebalance_timeout_ms.unwrap_or(fresh.rebalance_timeout_ms);
        if let Some(names) = beat.topics {
            fresh.topics = names.into_iter().collect();
        }
        if let Some(pattern) = beat.regex {
            fresh.regex = Some(pattern).filter(|p| !p.is_empty());
        }
        if member.classic.is_some() {
            (fresh.join_by_ms, fresh.sync_by_ms) = (None, None);
        }
        Ok(self.put(id, fresh))
    }

    /// Replaces a member's description. Returns whether its subscription has changed.
    pub(super) fn put(&mut self, id: &str, fresh: Member) -> bool {
        let Some(member) = self.members.get_mut(id) else { return false };
        let is_new = self.changes.members.get(id).is_some_and(|t| t.member) && member.previous_epoch < 0;
        let resubscribed = is_new || member.topics != fresh.topics || member.regex != fresh.regex;
        let old_regex = member.regex.clone().filter(|old| fresh.regex.as_ref() != Some(old));
        let changed = *member != fresh;
        *member = fresh;
        if changed {
            self.touch(id).member = true;
        }
        if let Some(old) = old_regex {
            self.drop_regex(&old);
        }
        resubscribed
    }

    fn drop_regex(&mut self, pattern: &str) {
        if !self.members.values().any(|m| m.regex.as_deref() == Some(pattern)) && self.regexes.remove(pattern).is_some()
        {
            self.changes.regexes.insert(pattern.to_owned());
        }
    }

    /// Looks at topics that have changed, bumps the epoch if need be, and shares out anew when the epoch has moved on.
    pub(super) fn advance(&mut self, resubscribed: bool, topics: &dyn Topics) {
        let version = topics.version();
        let resolved = self.resolve(topics);
        if resubscribed || resolved || self.seen_topics != Some(version) {
            self.seen_topics = Some(version);
            let read: BTreeSet<&String> =
                self.members.values().flat_map(|m| m.topics.iter().chain(self.by_pattern(m))).collect();
            let found = read.into_iter().filter_map(|name| {
                let (id, partitions) = topics.topic(name)?;
                Some((name.clone(), id, partitions))
            });
            let fresh = hash(found);
            if resubscribed || fresh != self.metadata_hash {
                self.metadata_hash = fresh;
                self.bump();
            }
        }
        if self.epoch > self.assignment_epoch {
            self.share_out(topics);
        }
    }

    /// Holds patterns against what the asking member may see, if that may have changed. As in Kafka, what a pattern
    /// stands for is shared by the group: whoever asks first after a change decides. Returns whether any changed.
    fn resolve(&mut self, topics: &dyn Topics) -> bool {
        let sight = topics.sight();
        if sight.is_none() || self.regexes.values().all(|r| r.seen == sight) {
            return false;
        }
        let names = topics.names();
        let mut has_changed = false;
        for (pattern, resolved) in &mut self.regexes {
            let fits = |name: &&String| resolved.pattern.as_ref().is_some_and(|p| p.is_match(name));
            let found: BTreeSet<String> = names.iter().filter(fits).cloned().collect();
            if found != resolved.topics {
                resolved.topics = found;
                self.changes.regexes.insert(pattern.clone());
                has_changed = true;
            }
            resolved.seen = sight;
        }
        has_changed
    }

    fn bump(&mut self) {
        self.epoch = self.epoch.saturating_add(1);
        self.changes.epoch = true;
    }

    fn share_out(&mut self, topics: &dyn Topics) {
        let mut spec = Spec::default();
        for (id, member) in &self.members {
            let mut reader = Reader {
                had: self.target.get(id).cloned().unwrap_or_default(),
                instance_id: member.instance_id.clone(),
                ..Reader::default()
            };
            for name in member.topics.iter().chain(self.by_pattern(member)) {
                if let Some((topic, partitions)) = topics.topic(name) {
                    spec.partitions.insert(topic, partitions);
                    reader.topics.insert(topic);
                }
            }
            spec.members.insert(id.clone(), reader);
        }
        for reader in spec.members.values_mut() {
            for (topic, partitions) in &mut reader.had {
                let count = spec.partitions.get(topic).copied().unwrap_or(0);
                partitions.retain(|p| *p < count);
            }
        }
        let target = assign::assign(self.assignor(), &spec);
        for id in self.members.keys() {
            if self.target.get(id) != target.get(id) {
                self.changes.members.entry(id.clone()).or_default().target = true;
            }
        }
        self.target = target;
        self.assignment_epoch = self.epoch;
        self.changes.assignment_epoch = true;
        self.rebalances += 1;
    }

    /// Moves a member towards its target.
    pub(super) fn reconcile(&mut self, id: &str, owned: Option<&Assignment>, now_ms: i64) {
        let Some(member) = self.members.get(id) else { return };
        if self.is_reconciled(member) {
            return;
        }
        let none = Assignment::new();
        let target = self.target.get(id).unwrap_or(&none);
        let is_free = |topic, partition| !self.owners.contains_key(&(topic, partition));
        let next = reconcile::next(&member.current, target, self.assignment_epoch, owned, is_free);
        if next == member.current {
            return;
        }
        self.set_current(id, next, now_ms);
    }

    pub(super) fn set_current(&mut self, id: &str, next: Current, now_ms: i64) {
        let Some(member) = self.members.get_mut(id) else { return };
        let before: Vec<(Uuid, i32)> = member.current.held().collect();
        member.previous_epoch = member.current.epoch;
        let revokes = next.phase == Phase::Unrevoked && member.classic.is_none();
        member.revoke_by_ms = revokes.then_some(now_ms + i64::from(member.rebalance_timeout_ms));
        member.current = next;
        let after: Vec<(Uuid, i32)> = member.current.held().collect();
        for tp in before {
            if self.owners.get(&tp).is_some_and(|owner| owner == id) {
                self.owners.remove(&tp);
            }
        }
        self.owners.extend(after.into_iter().map(|tp| (tp, id.to_owned())));
        self.touch(id).current = true;
    }

    pub(super) fn is_free(&self, topic: Uuid, partition: i32) -> bool {
        !self.owners.contains_key(&(topic, partition))
    }

    fn leave(&mut self, beat: &Beat, now_ms: i64) -> Result<Beaten, GroupError> {
        let id = &beat.member_id;
        let answer = Beaten { member_id: id.clone(), epoch: beat.epoch, heartbeat_ms: 0, assigned: None };
        if let Some(instance) = beat.instance_id.as_deref() {
            match self.static_id(instance) {
                None => return Err(GroupError::NoMember(format!("Instance id {instance} is unknown."))),
                Some(owner) if owner != id => return Err(fenced_instance(id, instance, owner)),
                Some(_) => {}
            }
            if beat.epoch == LEAVE_STATIC {
                if let Some(member) = self.members.get(id) {
                    let next = Current { epoch: LEAVE_STATIC, revoking: Assignment::new(), ..member.current.clone() };
                    self.set_current(id, Current { phase: Phase::Stable, ..next }, now_ms);
                }
                return Ok(answer);
            }
        }
        if !self.members.contains_key(id) {
            return Err(self.unknown(id));
        }
        self.remove(id, now_ms);
        Ok(answer)
    }

    /// Takes a member out; what it had is free.
    pub(super) fn remove(&mut self, id: &str, now_ms: i64) {
        let Some(member) = self.members.remove(id) else { return };
        self.target.remove(id);
        for tp in member.current.held() {
            if self.owners.get(&tp).is_some_and(|owner| owner == id) {
                self.owners.remove(&tp);
            }
        }
        *self.touch(id) = Touched::ALL;
        if let Some(pattern) = member.regex {
            self.drop_regex(&pattern);
        }
        self.bump();
        if self.members.is_empty() {
            self.empty_since_ms = now_ms;
        }
    }

    /// Time has gone by: takes out who is silent, and who does not let go in time.
    pub fn tick(&mut self, now_ms: i64) {
        let over: Vec<(String, &'static str)> = self
            .members
            .iter()
            .filter(|(_, m)| m.due_ms() <= now_ms)
            .map(|(id, m)| {
                let is_over = |by: Option<i64>| by.is_some_and(|by| by <= now_ms);
                let why = if m.expires_at_ms <= now_ms {
                    "no heartbeat within its session"
                } else if is_over(m.revoke_by_ms) {
                    "it has not let go of its partitions within its rebalance time-out"
                } else if is_over(m.join_by_ms) {
                    "it has not joined again within its rebalance time-out"
                } else {
                    "it has not asked for its assignment within its rebalance time-out"
                };
                (id.clone(), why)
            })
            .collect();
        for (id, why) in over {
            tracing::info!(group = self.id, member = id, why, "member is gone");
            self.remove(&id, now_ms);
        }
    }

    /// Checks that a commit may be taken; `can_be_new`: it came at a version that members of this protocol must use.
    pub fn may_commit(&self, id: &str, epoch: i32, can_be_new: bool) -> Result<(), GroupError> {
        if epoch < 0 && self.members.is_empty() {
            return Ok(());
        }
        let member = self.members.get(id).ok_or_else(|| self.unknown(id))?;
        if member.classic.is_none() && !can_be_new {
            return Err(GroupError::UnsupportedVersion);
        }
        self.at_epoch(member, epoch)
    }

    /// Checks that a fetch of offsets may be answered.
    pub fn may_fetch(&self, id: Option<&str>, epoch: i32) -> Result<(), GroupError> {
        let Some(id) = id.filter(|id| !id.is_empty() || epoch >= 0) else {
            return Ok(());
        };
        let member = self.members.get(id).ok_or_else(|| self.unknown(id))?;
        self.at_epoch(member, epoch)
    }

    fn at_epoch(&self, member: &Member, epoch: i32) -> Result<(), GroupError> {
        if epoch == member.current.epoch {
            return Ok(());
        }
        Err(if member.classic.is_some() { GroupError::IllegalGeneration } else { GroupError::StaleEpoch })
    }
}

pub(super) fn fenced_instance(id: &str, instance: &str, owner: &str) -> GroupError {
    GroupError::FencedBy(format!("Static member {id} with instance id {instance} was fenced by member {owner}."))
}

/// A member must speak in its epoch, or in the one before while it owns nothing that it should not.
fn check_epoch(member: &Member, epoch: i32, owned: Option<&Assignment>) -> Result<(), GroupError> {
    let current = member.current.epoch;
    let fenced = |how: &str| {
        GroupError::FencedEpoch(format!(
            "The consumer group member has a {how} member epoch ({epoch}) than the one known by the group coordinator \
             ({current}). The member must abandon all its partitions and rejoin."
        ))
    };
    match epoch.cmp(&current) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(fenced("greater")),
        std::cmp::Ordering::Less => {
            let none = BTreeSet::new();
            let assigned = &member.current.assigned;
            let is_subset =
                owned.is_some_and(|owned| owned.iter().all(|(t, p)| p.is_subset(assigned.get(t).unwrap_or(&none))));
            if epoch == member.previous_epoch && is_subset { Ok(()) } else { Err(fenced("smaller")) }
        }
    }
}

#[cfg(test)]
mod tests;
