//! Descriptions of groups: lists, members, states, counts.
//!
//! In: names of groups. Out: what ListGroups, DescribeGroups and ConsumerGroupDescribe answer. Touches nothing.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::classic::State;
use super::consumer::{self, Assignment};
use super::coordinator::Coordinator;
use super::error::GroupError;
use super::offsets::KeptMember;
use super::slot::{Held, Slot, kept};

/// Description of a classic group.
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

/// Description of a member of a consumer group.
#[derive(Debug, Clone)]
pub struct ConsumerMember {
    /// Its id.
    pub id: String,
    /// Who it is, what it reads and what it has.
    pub member: consumer::Member,
    /// What it shall have.
    pub target: Assignment,
}

/// Description of a consumer group.
#[derive(Debug, Clone)]
pub struct ConsumerDescription {
    /// Kafka's name of its state.
    pub state: &'static str,
    /// Epoch of the group.
    pub epoch: i32,
    /// Epoch of the target.
    pub assignment_epoch: i32,
    /// Assignor in use.
    pub assignor: String,
    /// The members.
    pub members: Vec<ConsumerMember>,
}

/// A group in the list of all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its name.
    pub id: String,
    /// Kafka's name of its state.
    pub state: &'static str,
    /// `consumer`, `connect` …, may be empty.
    pub protocol_type: String,
    /// `classic` or `consumer`.
    pub kind: &'static str,
}

impl Coordinator {
    /// All groups, sorted by name.
    pub fn list(&self) -> Vec<Listed> {
        let mut list = Vec::new();
        self.each(|id, slot| {
            list.push(Listed {
                id: id.to_owned(),
                state: slot.held.state(),
                protocol_type: slot.held.protocol_type(),
                kind: slot.held.kind(),
            });
        });
        list.sort();
        list
    }

    /// Describes a classic group.
    pub fn describe(&self, group: &str) -> Result<Description, GroupError> {
        let describe = |slot: &mut Slot, now_ms: i64| {
            let Held::Classic(classic) = &slot.held else {
                return Err(GroupError::NoGroup(format!("Group {group} is not a classic group.")));
            };
            let kept = kept(classic, now_ms);
            let mut members = kept.members;
            let is_stable = classic.state == State::Stable;
            if !is_stable {
                for member in &mut members {
                    member.subscription = Bytes::new();
                    member.assignment = Bytes::new();
                }
            }
            let protocol = if is_stable { kept.protocol.unwrap_or_default() } else { String::new() };
            Ok(Description { state: classic.state.name(), protocol_type: kept.protocol_type, protocol, members })
        };
        let missing = || Err(GroupError::NoGroup(format!("Group {group} not found.")));
        self.with(group, describe).unwrap_or_else(missing)
    }

    /// Description of a consumer group.
    pub fn describe_consumer(&self, group: &str) -> Result<ConsumerDescription, GroupError> {
        let describe = |slot: &mut Slot, _: i64| {
            let Held::Consumer(consumer) = &slot.held else {
                return Err(GroupError::NoGroup(format!("Group {group} is not a consumer group.")));
            };
            let member = |(id, member): (&String, &consumer::Member)| ConsumerMember {
                id: id.clone(),
                member: member.clone(),
                target: consumer.target.get(id).cloned().unwrap_or_default(),
            };
            Ok(ConsumerDescription {
                state: consumer.state(),
                epoch: consumer.epoch,
                assignment_epoch: consumer.assignment_epoch,
                assignor: consumer.assignor().to_owned(),
                members: consumer.members.iter().map(member).collect(),
            })
        };
        let missing = || Err(GroupError::NoGroup(format!("Group {group} not found.")));
        self.with(group, describe).unwrap_or_else(missing)
    }

    /// How many groups there are of each kind and state, for metrics.
    pub fn counts(&self) -> BTreeMap<(&'static str, &'static str), i64> {
        let mut counts = BTreeMap::new();
        self.each(|_, slot| *counts.entry((slot.held.kind(), slot.held.state())).or_default() += 1);
        counts
    }
}
