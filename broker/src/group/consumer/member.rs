//! One member of a consumer group, and what of it changed since it was last written to the log.
//!
//! In: what it says of itself. Out: its state, changes. Touches nothing.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::assign::Assignment;
use super::reconcile::Current;
use crate::group::error::GroupError;

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
    pub(crate) expires_at_ms: i64,
    /// Until when it must have revoked what it must give up.
    pub(crate) revoke_by_ms: Option<i64>,
    /// Until when a classic member must have joined again.
    pub(crate) join_by_ms: Option<i64>,
    /// Until when a classic member must have asked for its assignment.
    pub(crate) sync_by_ms: Option<i64>,
}

impl Member {
    pub(super) fn due_ms(&self) -> i64 {
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
    pub(super) const ALL: Self = Self { member: true, target: true, current: true };
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

pub(super) fn fenced_instance(id: &str, instance: &str, owner: &str) -> GroupError {
    GroupError::FencedBy(format!("Static member {id} with instance id {instance} was fenced by member {owner}."))
}

/// A member must speak in its epoch, or in the one before while it owns nothing that it should not.
pub(super) fn check_epoch(member: &Member, epoch: i32, owned: Option<&Assignment>) -> Result<(), GroupError> {
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
