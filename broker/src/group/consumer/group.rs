//! State of a consumer group: epochs, members, target, patterns; and checks of who speaks.
//!
//! In: changes by the files beside this one, records of the log. Out: what the group is, changes to write. Touches nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use uuid::Uuid;

use super::assign::{ASSIGNORS, Assignment};
use super::member::{Changes, Member, Touched};
use super::pattern::{Resolved, compile};
use super::reconcile::Phase;
use crate::group::error::GroupError;

/// One group.
#[derive(Debug)]
pub struct Group {
    /// Its name.
    pub id: String,
    /// Goes up with every change of members, subscriptions or topics.
    pub epoch: i32,
    /// The group's epoch that the target belongs to.
    pub assignment_epoch: i32,
    /// Changes when the topics that are read change.
    pub metadata_hash: i64,
    /// Members by id.
    pub members: BTreeMap<String, Member>,
    /// What members shall have.
    pub target: BTreeMap<String, Assignment>,
    /// Patterns that members read by.
    pub regexes: BTreeMap<String, Resolved>,
    /// When it was last left by all.
    pub empty_since_ms: i64,
    /// How often partitions were reassigned.
    pub rebalances: u64,
    pub(super) owners: HashMap<(Uuid, i32), String>,
    /// Version of the topics at the last look.
    pub(super) seen_topics: Option<u64>,
    pub(super) changes: Changes,
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

    pub(super) fn is_reconciled(&self, member: &Member) -> bool {
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

    pub(super) fn by_pattern<'a>(&'a self, member: &'a Member) -> impl Iterator<Item = &'a String> {
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

    pub(super) fn unknown(&self, id: &str) -> GroupError {
        GroupError::NoMember(format!("Member {id} is not a member of group {}.", self.id))
    }

    pub(super) fn check_room(&self, id: &str, max: usize) -> Result<(), GroupError> {
        if self.members.len() >= max && !self.members.contains_key(id) { Err(GroupError::Full) } else { Ok(()) }
    }

    pub(super) fn is_free(&self, topic: Uuid, partition: i32) -> bool {
        !self.owners.contains_key(&(topic, partition))
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
