//! Sessions of a classic group: heartbeats, leaves, members and rebalances whose time is over.
//!
//! In: heartbeats, leaves, the time. Out: answers; members that are gone. Touches nothing.

use super::group::{Group, State};
use super::messages::answer;
use crate::group::error::GroupError;

impl Group {
    /// A heartbeat; returns whether to join again.
    pub fn heartbeat(
        &mut self,
        id: &str,
        instance: Option<&str>,
        generation: i32,
        now_ms: i64,
    ) -> Result<(), GroupError> {
        let (state, current) = (self.state, self.generation);
        let member = self.known(id, instance)?;
        if generation != current {
            return Err(GroupError::IllegalGeneration);
        }
        match state {
            State::Empty => Err(GroupError::UnknownMember),
            State::Preparing => {
                member.seen(now_ms);
                Err(GroupError::RebalanceInProgress)
            }
            State::Completing | State::Stable => {
                member.seen(now_ms);
                Ok(())
            }
        }
    }

    /// A member goes; a static one may be named by its instance id alone. Returns the id of who left.
    pub fn leave(&mut self, id: &str, instance: Option<&str>, now_ms: i64) -> Result<String, GroupError> {
        if instance.is_none() && self.pending.remove(id).is_some() {
            self.after_removal(now_ms);
            return Ok(id.to_owned());
        }
        let id = match instance {
            Some(instance) if id.is_empty() => self.static_id(instance).ok_or(GroupError::UnknownMember)?,
            _ => id.to_owned(),
        };
        self.known(&id, instance)?;
        self.remove(&id, now_ms);
        Ok(id)
    }

    pub(super) fn remove(&mut self, id: &str, now_ms: i64) {
        let Some(at) = self.members.iter().position(|m| m.id == id) else { return };
        let member = self.members.remove(at);
        answer(member.join, Err(GroupError::UnknownMember));
        answer(member.sync, Err(GroupError::UnknownMember));
        if self.leader.as_deref() == Some(id) {
            self.leader = self.members.first().map(|m| m.id.clone());
        }
        self.changes += 1;
        self.after_removal(now_ms);
    }

    fn after_removal(&mut self, now_ms: i64) {
        match self.state {
            State::Empty => {}
            State::Stable | State::Completing | State::Preparing if self.members.is_empty() => {
                if self.pending.is_empty() || self.state != State::Preparing {
                    self.generation = self.generation.wrapping_add(1).max(1);
                    self.become_empty(now_ms);
                }
            }
            State::Stable | State::Completing | State::Preparing => self.rebalance(now_ms),
        }
    }

    /// Time has passed: ends sessions and waits that are over.
    pub fn tick(&mut self, now_ms: i64) {
        let pending = self.pending.len();
        self.pending.retain(|_, until| *until > now_ms);
        if pending != self.pending.len() {
            self.after_removal(now_ms);
        }
        let expired: Vec<String> = self
            .members
            .iter()
            .filter(|m| !m.is_waiting() && m.expires_at_ms <= now_ms)
            .map(|m| m.id.clone())
            .collect();
        for id in expired {
            tracing::info!(group = self.id, member = id, "member removed: no heartbeat within the session time-out");
            self.remove(&id, now_ms);
        }
        if now_ms < self.deadline_ms {
            return;
        }
        match self.state {
            State::Preparing if self.is_initial && self.initial_grew && self.initial_left_ms > 0 => {
                let more = self.limits.initial_rebalance_delay_ms.min(self.initial_left_ms);
                self.initial_left_ms -= more;
                self.initial_grew = false;
                self.deadline_ms = now_ms + more;
            }
            State::Preparing => {
                self.pending.clear();
                self.complete(now_ms);
            }
            State::Completing => {
                self.deadline_ms = i64::MAX;
                let late: Vec<String> = self.members.iter().filter(|m| !m.has_synced).map(|m| m.id.clone()).collect();
                for id in late {
                    self.remove(&id, now_ms);
                }
            }
            State::Empty | State::Stable => self.deadline_ms = i64::MAX,
        }
    }
}
