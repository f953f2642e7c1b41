//! State of a classic group: members, generation, leader; and checks of who speaks.
//!
//! In: changes by the files beside this one. Out: what the group is and who is in it. Touches nothing.

use std::collections::BTreeMap;

use super::member::{Member, subscribed_topics};
use super::messages::answer;
use crate::group::error::GroupError;

/// Where a group is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No members; offsets may be there.
    Empty,
    /// Waits for members to join.
    Preparing,
    /// Waits for the leader to assign.
    Completing,
    /// All members have their assignment.
    Stable,
}

impl State {
    /// As Kafka's tools print it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Preparing => "PreparingRebalance",
            Self::Completing => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// What groups are held to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a first rebalance waits for more members.
    pub initial_rebalance_delay_ms: i64,
    /// Shortest session.
    pub min_session_ms: i32,
    /// Longest session.
    pub max_session_ms: i32,
    /// Most members.
    pub max_members: usize,
}

/// One group.
#[derive(Debug)]
pub struct Group {
    /// Its name.
    pub id: String,
    /// Where it is.
    pub state: State,
    /// Present generation, 0 before the first.
    pub generation: i32,
    /// `consumer`, `connect` …; none before the first member.
    pub protocol_type: Option<String>,
    /// Strategy in use.
    pub protocol: Option<String>,
    /// Who assigns.
    pub leader: Option<String>,
    /// In the order they came.
    pub members: Vec<Member>,
    /// When it was last Empty with nobody left, for the expiry of offsets.
    pub empty_since_ms: i64,
    /// Counts the changes of what [`super::offsets`] keeps of it.
    pub changes: u64,
    /// How often a rebalance began.
    pub rebalances: u64,
    /// Ids given out that have not come back yet, with the time they are forgotten.
    pub(super) pending: BTreeMap<String, i64>,
    pub(super) deadline_ms: i64,
    pub(super) is_initial: bool,
    pub(super) initial_grew: bool,
    pub(super) initial_left_ms: i64,
    pub(super) limits: Limits,
}

impl Group {
    /// An empty group.
    pub fn new(id: &str, limits: Limits, now_ms: i64) -> Self {
        Self {
            id: id.to_owned(),
            state: State::Empty,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: Vec::new(),
            empty_since_ms: now_ms,
            changes: 0,
            rebalances: 0,
            pending: BTreeMap::new(),
            deadline_ms: i64::MAX,
            is_initial: false,
            initial_grew: false,
            initial_left_ms: 0,
            limits,
        }
    }

    /// Takes up a group as it was read from the log, with members whose sessions start over.
    pub fn restore(&mut self, generation: i32, protocol: (Option<String>, Option<String>), leader: Option<String>) {
        (self.protocol_type, self.protocol) = protocol;
        self.generation = generation;
        self.leader = leader.filter(|id| self.members.iter().any(|m| m.id == *id));
        self.state = if self.members.is_empty() { State::Empty } else { State::Stable };
    }

    /// Answers all who wait, because the group goes on elsewhere or in another way.
    pub fn release(&mut self, reason: &GroupError) {
        for member in &mut self.members {
            answer(member.join.take(), Err(reason.clone()));
            answer(member.sync.take(), Err(reason.clone()));
        }
    }

    /// The earliest time at which [`Self::tick`] has something to do.
    pub fn due_ms(&self) -> i64 {
        let members = self.members.iter().map(|m| m.expires_at_ms);
        members.chain(self.pending.values().copied()).fold(self.deadline_ms, i64::min)
    }

    /// Whether nobody is in it nor on the way in.
    pub fn is_idle(&self) -> bool {
        self.members.is_empty() && self.pending.is_empty()
    }

    /// Whether anybody who reads a topic is in it, as far as members of type `consumer` say.
    pub fn reads(&self, topic: &str) -> bool {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        self.members.iter().any(|m| subscribed_topics(&m.metadata(protocol)).iter().any(|t| t == topic))
    }

    pub(super) fn find(&mut self, id: &str) -> Option<&mut Member> {
        self.members.iter_mut().find(|m| m.id == id)
    }

    pub(super) fn static_id(&self, instance: &str) -> Option<String> {
        self.members.iter().find(|m| m.instance_id.as_deref() == Some(instance)).map(|m| m.id.clone())
    }

    /// Checks who speaks: the member id, and that nobody took over its static id.
    pub(super) fn known(&mut self, id: &str, instance: Option<&str>) -> Result<&mut Member, GroupError> {
        if let Some(instance) = instance {
            match self.static_id(instance) {
                None => return Err(GroupError::UnknownMember),
                Some(owner) if owner != id => return Err(GroupError::FencedInstance),
                Some(_) => {}
            }
        }
        self.find(id).ok_or(GroupError::UnknownMember)
    }

    /// Checks that a commit may be taken: from a member of this generation, or from outside while nobody is in.
    pub fn may_commit(
        &mut self,
        id: &str,
        instance: Option<&str>,
        generation: i32,
        now_ms: i64,
    ) -> Result<(), GroupError> {
        if generation < 0 && self.state == State::Empty {
            return Ok(());
        }
        let (state, current) = (self.state, self.generation);
        let member = self.known(id, instance)?;
        if generation != current {
            return Err(GroupError::IllegalGeneration);
        }
        match state {
            State::Empty => Err(GroupError::UnknownMember),
            State::Completing => {
                member.seen(now_ms);
                Err(GroupError::RebalanceInProgress)
            }
            State::Stable | State::Preparing => {
                member.seen(now_ms);
                Ok(())
            }
        }
    }

    /// The same for a commit within a transaction: older producers say nothing of a member, and then none is asked for
    /// (KIP-447).
    pub fn may_commit_in_transaction(
        &mut self,
        id: &str,
        instance: Option<&str>,
        generation: i32,
        now_ms: i64,
    ) -> Result<(), GroupError> {
        if generation < 0 && id.is_empty() && instance.is_none() {
            return Ok(());
        }
        let current = self.generation;
        let member = self.known(id, instance)?;
        if generation != current {
            return Err(GroupError::IllegalGeneration);
        }
        member.seen(now_ms);
        Ok(())
    }
}
