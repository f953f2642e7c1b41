//! Requests of group members by either protocol: joins, syncs, heartbeats, leaves.
//!
//! In: joins, syncs, heartbeats, leaves. Out: answers; those of the consumer protocol only when what they say is in the log.
//! Touches the log through the coordinator. Decides here which kind a group is of: an empty group becomes what its first
//! member speaks, a classic group of plain consumers becomes a consumer group when a member of the consumer protocol joins,
//! and a classic group again when the last of those has left.

use std::sync::atomic::Ordering;

use super::classic::{Join, Joined, Later, State, Sync, Synced, now_or_later};
use super::config::MigrationPolicy;
use super::consumer::{self, Beat, Beaten};
use super::coordinator::Coordinator;
use super::error::GroupError;
use super::slot::{Held, Slot};
use super::topic_view::{Sight, View};

impl Coordinator {
    fn fresh_id() -> String {
        uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
    }

    fn check_group(&self, group: &str) -> Result<(), GroupError> {
        self.check_open()?;
        if group.is_empty() { Err(GroupError::InvalidGroupId) } else { Ok(()) }
    }

    /// A member joins; the answer may take as long as the rebalance.
    pub async fn join(&self, group: &str, join: Join) -> Result<Joined, GroupError> {
        self.check_group(group)?;
        let join = Join { fresh_id: Self::fresh_id(), ..join };
        let (limits, rules) = (self.config.limits(), self.rules(group));
        let mut is_consumer = false;
        let mut enter = |slot: &mut Slot, now_ms: i64| -> Later<Joined> {
            if slot.held.is_idle() && matches!(slot.held, Held::Consumer(_)) {
                slot.become_kind(Held::Classic(Box::new(super::classic::Group::new(group, limits, now_ms))));
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

    /// A heartbeat of a classic member.
    pub fn heartbeat(
        &self,
        group: &str,
        member: &str,
        instance: Option<&str>,
        generation: i32,
    ) -> Result<(), GroupError> {
        self.check_group(group)?;
        // Sets no time-out that the timer does not know, but one: that of a classic member who must join again.
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

    /// A heartbeat of the consumer protocol. What it changes is in the log when it is answered. `needs_id`: it came at
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

    /// Makes a group one of the consumer protocol, if it may be.
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
            tracing::info!(group, members = classic.members.len(), "converted a classic group to a consumer group");
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
}
