//! Heartbeats of a consumer group: members join, go on, leave, or are taken out when their time is over.
//!
//! In: heartbeats, the time, a view of the topics. Out: answers. Touches nothing.

use std::collections::BTreeSet;

use super::assign::Assignment;
use super::group::Group;
use super::member::{Member, Touched, check_epoch, fenced_instance};
use super::messages::{Beat, Beaten, LEAVE, LEAVE_STATIC, Rules};
use super::pattern::{Resolved, compile};
use super::reconcile::{Current, Phase};
use super::topics::Topics;
use crate::group::error::GroupError;

impl Group {
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

    /// Time has passed: takes out who is silent, and who does not let go in time.
    pub fn tick(&mut self, now_ms: i64) {
        let over: Vec<(String, &'static str)> = self
            .members
            .iter()
            .filter(|(_, m)| m.due_ms() <= now_ms)
            .map(|(id, m)| {
                let is_over = |by: Option<i64>| by.is_some_and(|by| by <= now_ms);
                let why = if m.expires_at_ms <= now_ms {
                    "no heartbeat within the session time-out"
                } else if is_over(m.revoke_by_ms) {
                    "partitions not revoked within the rebalance time-out"
                } else if is_over(m.join_by_ms) {
                    "not rejoined within the rebalance time-out"
                } else {
                    "no request for the assignment within the rebalance time-out"
                };
                (id.clone(), why)
            })
            .collect();
        for (id, why) in over {
            tracing::info!(group = self.id, member = id, why, "member removed");
            self.remove(&id, now_ms);
        }
    }
}
