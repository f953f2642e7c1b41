//! Joins of a classic group: new members, returning ones, static ones (KIP-345), ids given out first (KIP-394).
//!
//! In: joins, the time. Out: answers, now or when the rebalance is complete. Touches nothing.

use tokio::sync::oneshot;

use super::group::{Group, State};
use super::member::Member;
use super::messages::{Join, Joined, Later, answer, now_or_later};
use crate::group::error::GroupError;

impl Group {
    /// A member joins, or joins again.
    pub fn join(&mut self, join: Join, now_ms: i64) -> Later<Joined> {
        match self.try_join(join, now_ms) {
            Ok(later) => later,
            Err(error) => now_or_later(Err(error)),
        }
    }

    fn try_join(&mut self, join: Join, now_ms: i64) -> Result<Later<Joined>, GroupError> {
        if !(self.limits.min_session_ms..=self.limits.max_session_ms).contains(&join.session_timeout_ms) {
            return Err(GroupError::InvalidSessionTimeout);
        }
        let is_new = join.member_id.is_empty() || self.pending.contains_key(&join.member_id);
        if is_new && self.members.len() + self.pending.len() >= self.limits.max_members {
            let returns = join.instance_id.as_deref().is_some_and(|i| self.static_id(i).is_some())
                || self.pending.contains_key(&join.member_id);
            if !returns {
                return Err(GroupError::Full);
            }
        }
        if !self.agrees(&join) {
            return Err(GroupError::InconsistentProtocol);
        }
        if join.member_id.is_empty() {
            let prefix = join.instance_id.as_deref().unwrap_or(&join.client_id);
            let id = format!("{prefix}-{}", join.fresh_id);
            if let Some(instance) = &join.instance_id {
                return Ok(match self.static_id(instance) {
                    Some(old) => self.replace_static(&old, id, join, now_ms),
                    None => self.add(id, join, now_ms),
                });
            }
            if join.require_known_id {
                self.pending.insert(id.clone(), now_ms + i64::from(join.session_timeout_ms));
                return Err(GroupError::MemberIdRequired(id));
            }
            return Ok(self.add(id, join, now_ms));
        }
        if join.instance_id.is_none() && self.pending.remove(&join.member_id).is_some() {
            let id = join.member_id.clone();
            return Ok(self.add(id, join, now_ms));
        }
        let is_leader = self.leader.as_deref() == Some(join.member_id.as_str());
        let state = self.state;
        let member = self.known(&join.member_id, join.instance_id.as_deref())?;
        let unchanged = member.protocols == join.protocols;
        match state {
            State::Empty => Err(GroupError::UnknownMember),
            State::Completing if unchanged => {
                member.seen(now_ms);
                Ok(now_or_later(Ok(self.present(&join.member_id, is_leader))))
            }
            State::Stable if unchanged && !is_leader => {
                member.seen(now_ms);
                Ok(now_or_later(Ok(self.present(&join.member_id, false))))
            }
            State::Preparing | State::Completing | State::Stable => Ok(self.rejoin(join, now_ms)),
        }
    }

    fn agrees(&self, join: &Join) -> bool {
        if join.protocol_type.is_empty() || join.protocols.is_empty() {
            return false;
        }
        if self.members.is_empty() {
            return true;
        }
        self.protocol_type.as_deref() == Some(join.protocol_type.as_str())
            && join.protocols.iter().any(|(name, _)| {
                self.members
                    .iter()
                    .filter(|m| m.id != join.member_id)
                    .all(|m| m.protocols.iter().any(|(theirs, _)| theirs == name))
            })
    }

    fn add(&mut self, id: String, join: Join, now_ms: i64) -> Later<Joined> {
        let (tx, rx) = oneshot::channel();
        let mut member = Member::restored(
            id.clone(),
            join.instance_id,
            (join.session_timeout_ms, join.rebalance_timeout_ms),
            now_ms,
        );
        member.client_id = join.client_id;
        member.client_host = join.client_host;
        member.protocols = join.protocols;
        member.join = Some(tx);
        member.has_synced = false;
        self.pending.remove(&id);
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type);
        }
        self.members.push(member);
        self.leader.get_or_insert(id);
        self.initial_grew = true;
        self.rebalance(now_ms);
        rx
    }

    fn rejoin(&mut self, join: Join, now_ms: i64) -> Later<Joined> {
        let (tx, rx) = oneshot::channel();
        if let Some(member) = self.find(&join.member_id) {
            member.protocols = join.protocols;
            member.session_timeout_ms = join.session_timeout_ms;
            member.rebalance_timeout_ms = join.rebalance_timeout_ms;
            member.client_id = join.client_id;
            member.client_host = join.client_host;
            member.seen(now_ms);
            // A repeated join replaces the one that still waits; its connection is gone.
            answer(member.join.replace(tx), Err(GroupError::RebalanceInProgress));
        }
        self.rebalance(now_ms);
        rx
    }

    /// A static member is back under a new member id; the old id is fenced (KIP-345).
    fn replace_static(&mut self, old: &str, id: String, join: Join, now_ms: i64) -> Later<Joined> {
        let old_leader = self.leader.clone().unwrap_or_default();
        let was_leader = old_leader == old;
        if was_leader {
            self.leader = Some(id.clone());
        }
        let can_skip = join.can_skip_assignment;
        if let Some(member) = self.find(old) {
            answer(member.join.take(), Err(GroupError::FencedInstance));
            answer(member.sync.take(), Err(GroupError::FencedInstance));
            member.id.clone_from(&id);
            member.protocols.clone_from(&join.protocols);
            member.session_timeout_ms = join.session_timeout_ms;
            member.rebalance_timeout_ms = join.rebalance_timeout_ms;
            member.client_id.clone_from(&join.client_id);
            member.client_host.clone_from(&join.client_host);
            member.seen(now_ms);
        }
        self.changes += 1;
        if self.state == State::Stable && self.choose() == self.protocol {
            let mut joined = self.present(&id, was_leader && can_skip);
            if was_leader && can_skip {
                joined.skip_assignment = true;
            } else {
                // With the old leader id in its answer, a returning leader does not assign again.
                joined.leader = old_leader;
            }
            return now_or_later(Ok(joined));
        }
        self.rejoin(Join { member_id: id, ..join }, now_ms)
    }
}
