//! What members ask of the coordinator, by either protocol, and what describes them.
//!
//! In: joins, syncs, heartbeats, leaves. Out: answers; those of the new protocol only when what they say is in the log.
//! Touches the log through the coordinator. Decides here which kind a group is of: an empty group becomes what its first
//! member speaks, a classic group of plain consumers becomes a consumer group when a member of the new protocol joins,
//! and a classic group again when the last of those has left.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use uuid::Uuid;

use super::consumer::{self, Assignment, Beat, Beaten, Rules, Topics};
use super::offsets::KeptMember;
use super::slot::{Held, Slot, kept};
use super::state::{GroupError, Join, Joined, Later, State, Sync, Synced, now_or_later};
use super::{Coordinator, MigrationPolicy};
use crate::storage::Storage;

/// What `describe` tells of a classic group.
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

/// What there is to say of a member of a group of the new protocol.
#[derive(Debug, Clone)]
pub struct ConsumerMember {
    /// Its id.
    pub id: String,
    /// Who it is, what it reads and what it has.
    pub member: consumer::Member,
    /// What it shall have.
    pub target: Assignment,
}

/// What there is to say of a group of the new protocol.
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

/// What a client may see of the topics.
#[derive(Clone, Copy)]
pub struct Sight<'a> {
    /// Changes with the rules that `sees` follows.
    pub version: u64,
    /// Whether it may know of a topic of this name.
    pub sees: &'a (dyn Fn(&str) -> bool + std::marker::Sync),
}

impl Sight<'_> {
    /// Everything.
    pub const ALL: Sight<'static> = Sight { version: 0, sees: &|_| true };
}

impl std::fmt::Debug for Sight<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sight({})", self.version)
    }
}

/// Topics of the log as groups see them, and as the client does that asks, if one does.
pub(super) struct View<'a>(pub &'a Storage, pub Option<Sight<'a>>);

impl Topics for View<'_> {
    fn version(&self) -> u64 {
        self.0.topics_version()
    }

    fn topic(&self, name: &str) -> Option<(Uuid, i32)> {
        self.0.topic(name).map(|topic| (topic.id(), topic.partition_count()))
    }

    fn name(&self, id: Uuid) -> Option<String> {
        self.0.topic_by_id(id).map(|topic| topic.name().to_owned())
    }

    fn sight(&self) -> Option<u64> {
        // Each of the two only goes up, so that their sum changes with either.
        self.1.map(|sight| self.version().wrapping_add(sight.version))
    }

    fn names(&self) -> Vec<String> {
        let sees = |name: &str| self.1.is_some_and(|sight| (sight.sees)(name));
        self.0.topics().iter().map(|topic| topic.name()).filter(|name| sees(name)).map(str::to_owned).collect()
    }
}

impl Coordinator {
    fn fresh_id() -> String {
        uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
    }

    pub(super) fn check_open(&self) -> Result<(), GroupError> {
        if self.is_closed.load(Ordering::Acquire) { Err(GroupError::NotCoordinator) } else { Ok(()) }
    }

    fn check_group(&self, group: &str) -> Result<(), GroupError> {
        self.check_open()?;
        if group.is_empty() { Err(GroupError::InvalidGroupId) } else { Ok(()) }
    }

    /// What members of a group of the new protocol are held to.
    pub(super) fn rules(&self, group: &str) -> Rules {
        let settings = self.settings_of(group);
        Rules {
            session_ms: i64::from(settings.session_ms),
            heartbeat_ms: settings.heartbeat_ms,
            max_members: self.config.max_members,
        }
    }

    /// A member joins; the answer may take as long as the rebalance.
    pub async fn join(&self, group: &str, join: Join) -> Result<Joined, GroupError> {
        self.check_group(group)?;
        let join = Join { fresh_id: Self::fresh_id(), ..join };
        let (limits, rules) = (self.config.limits(), self.rules(group));
        let mut is_consumer = false;
        let mut enter = |slot: &mut Slot, now_ms: i64| -> Later<Joined> {
            if slot.held.is_idle() && matches!(slot.held, Held::Consumer(_)) {
                slot.become_kind(Held::Classic(Box::new(super::state::Group::new(group, limits, now_ms))));
            }
            is_consumer = matches!(slot.held, Held::Consumer(_));
            match &mut slot.held {
                Held::Classic(classic) => classic.join(join.clone(), now_ms),
                Held::Consumer(consumer) => {
                    let view = View(&self.storage, None);
                    now_or_later(consumer.classic_join(join.clone(), limits, rules, &view, now_ms))
                }
            }
        };
        let later = if join.member_id.is_empty() {
            self.change_new(group, &mut enter)
        } else {
            self.change(group, enter).ok_or(GroupError::UnknownMember)?
        };
        if is_consumer {
            self.keep(group).await?;
        }
        let joined = later.await.unwrap_or(Err(self.gone()));
        if joined.is_err() {
            self.remove_if_untouched(group);
        }
        joined
    }

    /// Why a waiting member gets no answer: its group was taken away, or the broker stops.
    fn gone(&self) -> GroupError {
        if self.is_closed.load(Ordering::Acquire) { GroupError::NotCoordinator } else { GroupError::NotAvailable }
    }

    /// A member asks for its assignment, the leader brings all; waits for the leader.
    pub async fn sync(&self, group: &str, sync: Sync) -> Result<Synced, GroupError> {
        self.check_group(group)?;
        let later = self.change(group, |slot, now_ms| match &mut slot.held {
            Held::Classic(classic) => classic.sync(sync, now_ms),
            Held::Consumer(consumer) => now_or_later(consumer.classic_sync(&sync, &View(&self.storage, None), now_ms)),
        });
        later.ok_or(GroupError::UnknownMember)?.await.unwrap_or(Err(self.gone()))
    }

    /// A sign of life.
    pub fn heartbeat(
        &self,
        group: &str,
        member: &str,
        instance: Option<&str>,
        generation: i32,
    ) -> Result<(), GroupError> {
        self.check_group(group)?;
        // Sets no time-out that the timer does not know, but one: that of a classic member told to join again.
        let beat = |slot: &mut Slot, now_ms: i64| match &mut slot.held {
            Held::Classic(classic) => (classic.heartbeat(member, instance, generation, now_ms), false),
            Held::Consumer(consumer) => {
                let answer = consumer.classic_heartbeat(member, instance, generation, now_ms);
                let is_told = answer == Err(GroupError::RebalanceInProgress);
                (answer, is_told)
            }
        };
        let (answer, is_told) = self.with(group, beat).unwrap_or((Err(GroupError::UnknownMember), false));
        if is_told {
            self.change(group, |_, _| ());
        }
        answer
    }

    /// Members go, each with its own answer.
    pub fn leave(
        &self,
        group: &str,
        members: &[(String, Option<String>)],
    ) -> Result<Vec<Result<String, GroupError>>, GroupError> {
        self.check_group(group)?;
        let answers = self.change(group, |slot, now_ms| {
            let leave = |(id, instance): &(String, Option<String>)| match &mut slot.held {
                Held::Classic(classic) => classic.leave(id, instance.as_deref(), now_ms),
                Held::Consumer(consumer) => consumer.classic_leave(id, instance.as_deref(), now_ms),
            };
            members.iter().map(leave).collect()
        });
        Ok(answers.unwrap_or_else(|| members.iter().map(|_| Err(GroupError::UnknownMember)).collect()))
    }

    /// A heartbeat of the new protocol. What it changes is in the log when it is answered. `needs_id`: it came at
    /// version 1 or later. Patterns only stand for topics in sight.
    pub async fn beat(&self, group: &str, beat: Beat, needs_id: bool, sight: Sight<'_>) -> Result<Beaten, GroupError> {
        self.check_open()?;
        let beat = Beat { fresh_id: Self::fresh_id(), ..beat };
        consumer::check(group, &beat, needs_id)?;
        let rules = self.rules(group);
        let joins = beat.epoch == 0;
        let view = View(&self.storage, Some(sight));
        let enter = |slot: &mut Slot, now_ms: i64| {
            if joins {
                self.upgrade(slot, group, now_ms)?;
            }
            match &mut slot.held {
                Held::Consumer(consumer) => {
                    let answer = consumer.beat(beat.clone(), rules, &view, now_ms)?;
                    Ok((answer, slot.has_changes()))
                }
                Held::Classic(_) => Err(GroupError::NoGroup(format!("Group {group} is not a consumer group."))),
            }
        };
        let answer = if joins {
            self.change_new(group, enter)
        } else {
            let absent = if beat.epoch > 0 { "Consumer group" } else { "Group" };
            let missing = || Err(GroupError::NoGroup(format!("{absent} {group} not found.")));
            // Most heartbeats change nothing, and then the timer need not be looked at.
            self.with(group, enter).unwrap_or_else(missing)
        };
        match answer {
            Ok((answer, has_changed)) => {
                if has_changed {
                    self.change(group, |_, _| ());
                    self.keep(group).await?;
                }
                Ok(answer)
            }
            Err(error) => {
                if joins {
                    self.remove_if_untouched(group);
                }
                Err(error)
            }
        }
    }

    /// Makes a group one of the new protocol, if it may be.
    fn upgrade(&self, slot: &mut Slot, group: &str, now_ms: i64) -> Result<(), GroupError> {
        let refused = || GroupError::NoGroup(format!("Group {group} is not a consumer group."));
        let Held::Classic(classic) = &mut slot.held else { return Ok(()) };
        let fresh = if classic.state == State::Empty {
            consumer::Group::new(group, now_ms)
        } else {
            let may = matches!(self.config.migration_policy, MigrationPolicy::Bidirectional | MigrationPolicy::Upgrade);
            if !may || classic.members.len() > self.config.max_members {
                return Err(refused());
            }
            let fresh =
                consumer::Group::from_classic(classic, &View(&self.storage, None), now_ms).ok_or_else(refused)?;
            tracing::info!(group, members = classic.members.len(), "classic group becomes a consumer group");
            fresh
        };
        classic.release(&GroupError::RebalanceInProgress);
        slot.become_kind(Held::Consumer(Box::new(fresh)));
        Ok(())
    }

    /// Whether a member may have committed offsets, by the rules of OffsetFetch.
    pub fn may_fetch(&self, group: &str, member: Option<&str>, epoch: i32) -> Result<(), GroupError> {
        self.with(group, |slot, _| match &slot.held {
            Held::Classic(_) => Ok(()),
            Held::Consumer(consumer) => consumer.may_fetch(member, epoch),
        })
        .unwrap_or(Ok(()))
    }

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

    /// What there is to say of a classic group.
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

    /// What there is to say of a group of the new protocol.
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
}
