//! Syncs of a classic group: the leader brings the assignment, members get theirs.
//!
//! In: syncs, the time. Out: answers, now or when the leader has assigned. Touches nothing.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::group::{Group, State};
use super::messages::{Later, Sync, Synced, answer, now_or_later};
use crate::group::error::GroupError;

impl Group {
    /// A member asks for its assignment; the leader brings all of them.
    pub fn sync(&mut self, sync: Sync, now_ms: i64) -> Later<Synced> {
        match self.try_sync(sync, now_ms) {
            Ok(later) => later,
            Err(error) => now_or_later(Err(error)),
        }
    }

    fn try_sync(&mut self, sync: Sync, now_ms: i64) -> Result<Later<Synced>, GroupError> {
        let (state, generation) = (self.state, self.generation);
        let differs = |asked: &Option<String>, ours: &Option<String>| asked.is_some() && asked != ours;
        let inconsistent = differs(&sync.protocol_type, &self.protocol_type) || differs(&sync.protocol, &self.protocol);
        let is_leader = self.leader.as_deref() == Some(sync.member_id.as_str());
        let member = self.known(&sync.member_id, sync.instance_id.as_deref())?;
        if sync.generation != generation {
            return Err(GroupError::IllegalGeneration);
        }
        if inconsistent {
            return Err(GroupError::InconsistentProtocol);
        }
        match state {
            State::Empty => Err(GroupError::UnknownMember),
            State::Preparing => Err(GroupError::RebalanceInProgress),
            State::Stable => {
                member.seen(now_ms);
                member.has_synced = true;
                let assignment = member.assignment.clone();
                Ok(now_or_later(Ok(self.synced(assignment))))
            }
            State::Completing => {
                let (tx, rx) = oneshot::channel();
                member.has_synced = true;
                member.seen(now_ms);
                answer(member.sync.replace(tx), Err(GroupError::RebalanceInProgress));
                if is_leader {
                    self.assign(&sync.assignments, now_ms);
                }
                Ok(rx)
            }
        }
    }

    fn synced(&self, assignment: Bytes) -> Synced {
        Synced { protocol_type: self.protocol_type.clone(), protocol: self.protocol.clone(), assignment }
    }

    fn assign(&mut self, assignments: &[(String, Bytes)], now_ms: i64) {
        self.state = State::Stable;
        self.changes += 1;
        let (protocol_type, protocol) = (self.protocol_type.clone(), self.protocol.clone());
        for member in &mut self.members {
            let given = assignments.iter().find(|(id, _)| *id == member.id);
            member.assignment = given.map(|(_, bytes)| bytes.clone()).unwrap_or_default();
            if member.sync.is_some() {
                member.seen(now_ms);
            }
            let synced = Synced {
                protocol_type: protocol_type.clone(),
                protocol: protocol.clone(),
                assignment: member.assignment.clone(),
            };
            answer(member.sync.take(), Ok(synced));
        }
    }
}
