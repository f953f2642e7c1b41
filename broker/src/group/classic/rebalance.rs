//! Rebalances of a classic group: members join, the strategy is chosen, the next generation begins.
//!
//! In: who joined, the time. Out: answers to those who wait. Touches nothing.

use bytes::Bytes;

use super::group::{Group, State};
use super::messages::{Joined, answer};
use crate::group::error::GroupError;

impl Group {
    /// Takes over the members of a group of the consumer protocol, who must join again.
    pub fn adopt(&mut self, generation: i32, protocol_type: &str, now_ms: i64) {
        self.restore(generation, (Some(protocol_type.to_owned()), self.choose()), None);
        self.leader = self.members.first().map(|m| m.id.clone());
        self.changes += 1;
        self.rebalance(now_ms);
    }

    /// Starts a rebalance, or goes on with the one that runs.
    pub(super) fn rebalance(&mut self, now_ms: i64) {
        // Without a delay the first member of a group waits for nobody who only asked for an id.
        let waits_for_pending = self.state != State::Empty;
        if self.state != State::Preparing {
            for member in &mut self.members {
                member.assignment =
                    if self.state == State::Completing { Bytes::new() } else { member.assignment.clone() };
                answer(member.sync.take(), Err(GroupError::RebalanceInProgress));
            }
            self.rebalances += 1;
            self.is_initial = self.state == State::Empty && self.limits.initial_rebalance_delay_ms > 0;
            let timeout = self.rebalance_timeout_ms();
            if self.is_initial {
                let delay = self.limits.initial_rebalance_delay_ms.min(timeout);
                self.initial_left_ms = timeout - delay;
                self.initial_grew = false;
                self.deadline_ms = now_ms + delay;
            } else {
                self.deadline_ms = now_ms + timeout;
            }
            self.state = State::Preparing;
        }
        let none_pending = self.pending.is_empty() || !waits_for_pending;
        if !self.is_initial && none_pending && self.members.iter().all(|m| m.join.is_some()) {
            self.complete(now_ms);
        }
    }

    /// All have joined, or time is over: the next generation begins.
    pub(super) fn complete(&mut self, now_ms: i64) {
        // Who did not come is out; a static member keeps its place until its session ends.
        self.members.retain(|m| m.join.is_some() || m.instance_id.is_some());
        if !self.members.is_empty() && self.members.iter().all(|m| m.join.is_none()) {
            self.deadline_ms = now_ms + self.rebalance_timeout_ms().max(1);
            return;
        }
        self.is_initial = false;
        self.generation = self.generation.wrapping_add(1).max(1);
        if self.members.is_empty() {
            return self.become_empty(now_ms);
        }
        let leader_joined = self.members.iter().any(|m| Some(&m.id) == self.leader.as_ref() && m.join.is_some());
        if !leader_joined {
            self.leader = self.members.iter().find(|m| m.join.is_some()).map(|m| m.id.clone());
        }
        self.protocol = self.choose();
        self.state = State::Completing;
        self.deadline_ms = now_ms + self.rebalance_timeout_ms();
        let answers: Vec<Joined> =
            self.members.iter().map(|m| self.present(&m.id, Some(&m.id) == self.leader.as_ref())).collect();
        for (member, joined) in self.members.iter_mut().zip(answers) {
            member.has_synced = false;
            member.seen(now_ms);
            answer(member.join.take(), Ok(joined));
        }
    }

    pub(super) fn become_empty(&mut self, now_ms: i64) {
        self.state = State::Empty;
        self.protocol = None;
        self.leader = None;
        self.deadline_ms = i64::MAX;
        self.empty_since_ms = now_ms;
        self.changes += 1;
    }

    /// The strategy that most members like best among those that all know.
    pub(super) fn choose(&self) -> Option<String> {
        let known_by_all = |name: &str| self.members.iter().all(|m| m.protocols.iter().any(|(n, _)| n == name));
        let mut votes: Vec<(&str, usize)> = Vec::new();
        for member in &self.members {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| known_by_all(name)) {
                match votes.iter_mut().find(|(voted, _)| voted == name) {
                    Some((_, count)) => *count += 1,
                    None => votes.push((name, 1)),
                }
            }
        }
        let most = votes.iter().map(|(_, count)| *count).max()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| name.to_owned())
    }

    /// The answer to a join for the generation as it is.
    pub(super) fn present(&self, id: &str, with_members: bool) -> Joined {
        let protocol = self.protocol.clone().unwrap_or_default();
        let members = self.members.iter().map(|m| (m.id.clone(), m.instance_id.clone(), m.metadata(&protocol)));
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            member_id: id.to_owned(),
            members: if with_members { members.collect() } else { Vec::new() },
            skip_assignment: false,
        }
    }

    fn rebalance_timeout_ms(&self) -> i64 {
        self.members.iter().map(|m| i64::from(m.rebalance_timeout_ms)).max().unwrap_or(0)
    }
}
