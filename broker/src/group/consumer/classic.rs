//! Members of the classic protocol in a group of the new one, and groups that change from one kind to the other
//! (KIP-848, online migration). Pure.
//!
//! In: joins, syncs, heartbeats and leaves of the classic protocol. Out: their answers, given at once: nobody waits for
//! others, as the server assigns. A classic member must join again when its epoch is behind, when it must let go
//! of partitions, or when those it waits for are free. A classic group whose members are plain consumers becomes a
//! consumer group when the first member of the consumer protocol joins, and one again when the last of those leaves.
//!
//! Metadata of such members is the consumers' own format: version i16, topics, user data, owned partitions (1 and
//! later), generation (2 and later), rack (3 and later); big-endian.

use std::collections::BTreeSet;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::assign::Assignment;
use super::group::Group;
use super::member::{Classic, Member, fenced_instance};
use super::messages::Rules;
use super::reconcile::{Current, Phase};
use super::topics::Topics;
use crate::group::classic::{self, Join, Joined, Limits, Sync, Synced};
use crate::group::error::GroupError;

/// Protocol type of plain consumers.
pub const CONSUMER: &str = "consumer";

/// What a classic consumer says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subscription {
    /// Format version.
    pub version: i16,
    /// Topics by name.
    pub topics: Vec<String>,
    /// What it owns.
    pub owned: Vec<(String, Vec<i32>)>,
    /// Rack of the client.
    pub rack_id: Option<String>,
}

fn text(from: &mut &[u8]) -> Option<Option<String>> {
    let Ok(length) = usize::try_from(from.try_get_i16().ok()?) else { return Some(None) };
    let (text, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(Some(String::from_utf8(text.to_vec()).ok()?))
}

fn skip_bytes(from: &mut &[u8]) -> Option<()> {
    if let Ok(length) = usize::try_from(from.try_get_i32().ok()?) {
        *from = from.get(length..)?;
    }
    Some(())
}

/// How many topics follow; `None` if they are too many.
fn count(from: &mut &[u8]) -> Option<i32> {
    from.try_get_i32().ok().filter(|count| *count <= classic::MAX_SUBSCRIBED)
}

fn partitions(from: &mut &[u8]) -> Option<Vec<(String, Vec<i32>)>> {
    let mut list = Vec::new();
    for _ in 0..count(from)? {
        let topic = text(from)??;
        let mut numbers = Vec::new();
        for _ in 0..from.try_get_i32().ok()? {
            numbers.push(from.try_get_i32().ok()?);
        }
        list.push((topic, numbers));
    }
    Some(list)
}

/// Reads the metadata of a classic consumer; fields of newer versions are ignored.
pub fn subscription(mut from: &[u8]) -> Option<Subscription> {
    let from = &mut from;
    let mut read = Subscription { version: from.try_get_i16().ok()?, ..Subscription::default() };
    for _ in 0..count(from)? {
        read.topics.push(text(from)??);
    }
    skip_bytes(from)?;
    if read.version >= 1 {
        read.owned = partitions(from)?;
    }
    if read.version >= 2 {
        from.try_get_i32().ok()?;
    }
    if read.version >= 3 {
        read.rack_id = text(from)?;
    }
    Some(read)
}

/// Reads an assignment that a leader made.
pub fn assignment(mut from: &[u8]) -> Option<Vec<(String, Vec<i32>)>> {
    if from.is_empty() {
        return Some(Vec::new());
    }
    from.try_get_i16().ok()?;
    partitions(&mut from)
}

fn encode(version: i16, assigned: &Assignment, topics: &dyn Topics) -> Bytes {
    let mut out = BytesMut::new();
    // Newest known format: later ones have the same fields.
    out.put_i16(version.clamp(0, 3));
    let named: Vec<_> = assigned.iter().filter_map(|(id, list)| Some((topics.name(*id)?, list))).collect();
    out.put_i32(i32::try_from(named.len()).unwrap_or(0));
    for (name, list) in named {
        out.put_i16(i16::try_from(name.len()).unwrap_or(0));
        out.put_slice(name.as_bytes());
        out.put_i32(i32::try_from(list.len()).unwrap_or(0));
        list.iter().for_each(|p| out.put_i32(*p));
    }
    out.put_i32(-1);
    out.freeze()
}

fn by_id(named: &[(String, Vec<i32>)], topics: &dyn Topics) -> Assignment {
    let mut assignment = Assignment::new();
    for (name, list) in named {
        if let Some((id, _)) = topics.topic(name)
            && !list.is_empty()
        {
            assignment.entry(id).or_default().extend(list);
        }
    }
    assignment
}

fn version_of(protocols: &[(String, Bytes)]) -> i16 {
    protocols.first().and_then(|(_, metadata)| metadata.first_chunk::<2>()).map_or(0, |v| i16::from_be_bytes(*v))
}

impl Group {
    /// Whether members are left and all of them are classic: time to become a classic group.
    pub fn is_all_classic(&self) -> bool {
        !self.members.is_empty() && self.members.values().all(|m| m.classic.is_some())
    }

    fn agrees(&self, join: &Join) -> bool {
        if join.protocol_type != CONSUMER || join.protocols.is_empty() {
            return false;
        }
        join.protocols.iter().any(|(name, _)| {
            let others = self.members.iter().filter(|(id, _)| **id != join.member_id);
            others.filter_map(|(_, m)| m.classic.as_ref()).all(|c| c.protocols.iter().any(|(n, _)| n == name))
        })
    }

    /// A classic member joins, or joins again.
    pub fn classic_join(
        &mut self,
        join: Join,
        limits: Limits,
        rules: Rules,
        topics: &dyn Topics,
        now_ms: i64,
    ) -> Result<Joined, GroupError> {
        if !(limits.min_session_ms..=limits.max_session_ms).contains(&join.session_timeout_ms) {
            return Err(GroupError::InvalidSessionTimeout);
        }
        let is_new = join.member_id.is_empty();
        let id = if is_new {
            format!("{}-{}", join.instance_id.as_deref().unwrap_or(&join.client_id), join.fresh_id)
        } else {
            join.member_id.clone()
        };
        self.check_room(&id, rules.max_members)?;
        if !self.agrees(&join) {
            return Err(GroupError::InconsistentProtocol);
        }
        let said = join.protocols.first().and_then(|(_, metadata)| subscription(metadata));
        let said = said.ok_or(GroupError::InconsistentProtocol)?;
        if is_new && join.require_known_id && join.instance_id.is_none() {
            return Err(GroupError::MemberIdRequired(id));
        }
        match join.instance_id.as_deref().map(|instance| (instance, self.static_id(instance).cloned())) {
            None if self.members.contains_key(&id) => {}
            None => self.add(&id, now_ms),
            Some((_, None)) if is_new => self.add(&id, now_ms),
            Some((_, None)) => return Err(GroupError::UnknownMember),
            Some((_, Some(old))) if is_new => self.replace(&old, &id, self.assignment_epoch),
            Some((instance, Some(owner))) if owner != id => return Err(fenced_instance(&id, instance, &owner)),
            Some(_) => {}
        }
        let protocol = join.protocols.first().map(|(name, _)| name.clone());
        let member = self.members.get(&id).ok_or(GroupError::UnknownMember)?;
        let fresh = Member {
            instance_id: join.instance_id,
            rack_id: said.rack_id.or_else(|| member.rack_id.clone()),
            client_id: join.client_id,
            client_host: join.client_host,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            topics: said.topics.into_iter().collect(),
            classic: Some(Classic { session_timeout_ms: join.session_timeout_ms, protocols: join.protocols }),
            revoke_by_ms: None,
            ..member.clone()
        };
        let resubscribed = self.put(&id, fresh);
        self.advance(resubscribed, topics);
        self.reconcile(&id, Some(&by_id(&said.owned, topics)), now_ms);
        let member = self.members.get_mut(&id).ok_or(GroupError::UnknownMember)?;
        member.expires_at_ms = now_ms + i64::from(join.session_timeout_ms);
        member.join_by_ms = None;
        member.sync_by_ms = Some(now_ms + i64::from(join.rebalance_timeout_ms));
        Ok(Joined {
            generation: member.current.epoch,
            protocol_type: Some(CONSUMER.to_owned()),
            protocol,
            leader: String::new(),
            member_id: id,
            members: Vec::new(),
            skip_assignment: false,
        })
    }

    /// Finds a classic member and checks what it says of itself.
    fn classic(&mut self, id: &str, instance: Option<&str>, generation: i32) -> Result<&mut Member, GroupError> {
        if let Some(instance) = instance {
            match self.static_id(instance) {
                None => return Err(GroupError::UnknownMember),
                Some(owner) if owner != id => return Err(fenced_instance(id, instance, owner)),
                Some(_) => {}
            }
        }
        let member = self.members.get_mut(id).filter(|m| m.classic.is_some()).ok_or(GroupError::UnknownMember)?;
        if member.current.epoch == generation { Ok(member) } else { Err(GroupError::IllegalGeneration) }
    }

    /// A classic member asks for its assignment.
    pub fn classic_sync(&mut self, sync: &Sync, topics: &dyn Topics, now_ms: i64) -> Result<Synced, GroupError> {
        let epoch = self.epoch;
        let member = self.classic(&sync.member_id, sync.instance_id.as_deref(), sync.generation)?;
        let classic = member.classic.clone().unwrap_or_default();
        let protocol = classic.protocols.first().map(|(name, _)| name.clone());
        let differs = sync.protocol_type.as_deref().is_some_and(|t| t != CONSUMER)
            || sync.protocol.as_ref().is_some_and(|p| Some(p) != protocol.as_ref());
        if differs {
            return Err(GroupError::InconsistentProtocol);
        }
        if epoch > member.current.epoch && member.current.phase != Phase::Unrevoked {
            member.join_by_ms.get_or_insert(now_ms + i64::from(member.rebalance_timeout_ms));
            return Err(GroupError::RebalanceInProgress);
        }
        member.sync_by_ms = None;
        member.expires_at_ms = now_ms + i64::from(classic.session_timeout_ms);
        let assignment = encode(version_of(&classic.protocols), &member.current.assigned, topics);
        Ok(Synced { protocol_type: Some(CONSUMER.to_owned()), protocol, assignment })
    }

    /// A heartbeat of a classic member; returns whether to join again.
    pub fn classic_heartbeat(
        &mut self,
        id: &str,
        instance: Option<&str>,
        generation: i32,
        now_ms: i64,
    ) -> Result<(), GroupError> {
        let epoch = self.epoch;
        let waits_in_vain = self.members.get(id).is_some_and(|m| {
            let lacks = self.target.get(id).into_iter().flatten().flat_map(|(t, list)| list.iter().map(|p| (*t, *p)));
            let mut lacks = lacks.filter(|(t, p)| !m.current.assigned.get(t).is_some_and(|own| own.contains(p)));
            m.current.phase == Phase::Unreleased && lacks.any(|(t, p)| !self.is_free(t, p))
        });
        let member = self.classic(id, instance, generation)?;
        let session = member.classic.as_ref().map_or(0, |c| i64::from(c.session_timeout_ms));
        member.expires_at_ms = now_ms + session;
        let behind = member.current.epoch < epoch
            || member.current.phase == Phase::Unrevoked
            || (member.current.phase == Phase::Unreleased && !waits_in_vain);
        if behind {
            member.join_by_ms.get_or_insert(now_ms + i64::from(member.rebalance_timeout_ms));
            return Err(GroupError::RebalanceInProgress);
        }
        Ok(())
    }

    /// A member is taken out by the classic protocol; a static one may be named by its instance id alone, whatever its
    /// protocol. Returns the id of who left.
    pub fn classic_leave(&mut self, id: &str, instance: Option<&str>, now_ms: i64) -> Result<String, GroupError> {
        let id = match instance {
            Some(instance) => {
                let owner = self.static_id(instance).cloned().ok_or(GroupError::UnknownMember)?;
                if !id.is_empty() && owner != id {
                    return Err(fenced_instance(id, instance, &owner));
                }
                owner
            }
            None => id.to_owned(),
        };
        let by_instance = instance.is_some();
        if !self.members.get(&id).is_some_and(|m| by_instance || m.classic.is_some()) {
            return Err(GroupError::UnknownMember);
        }
        self.remove(&id, now_ms);
        Ok(id)
    }

    /// The classic group that this one becomes when only classic members are left: they must join again.
    pub fn to_classic(&self, limits: Limits, topics: &dyn Topics, now_ms: i64) -> classic::Group {
        let mut group = classic::Group::new(&self.id, limits, now_ms);
        for (id, m) in &self.members {
            let classic = m.classic.clone().unwrap_or_default();
            let sessions = (classic.session_timeout_ms, m.rebalance_timeout_ms);
            let mut member = classic::Member::restored(id.clone(), m.instance_id.clone(), sessions, now_ms);
            member.client_id.clone_from(&m.client_id);
            member.client_host.clone_from(&m.client_host);
            member.assignment = encode(version_of(&classic.protocols), &m.current.assigned, topics);
            member.protocols = classic.protocols;
            group.members.push(member);
        }
        group.adopt(self.epoch, CONSUMER, now_ms);
        group
    }

    /// The consumer group that a classic one becomes; `None` where its members are not plain consumers.
    pub fn from_classic(group: &classic::Group, topics: &dyn Topics, now_ms: i64) -> Option<Self> {
        if group.protocol_type.as_deref() != Some(CONSUMER) {
            return None;
        }
        let mut fresh = Self::new(&group.id, now_ms);
        fresh.epoch = group.generation;
        fresh.assignment_epoch = group.generation;
        let protocol = group.protocol.as_deref().or_else(|| {
            let first = group.members.first().and_then(|m| m.protocols.first());
            first.map(|(name, _)| name.as_str())
        });
        for m in &group.members {
            let said = subscription(&m.metadata(protocol.unwrap_or_default()))?;
            let assigned = by_id(&assignment(&m.assignment)?, topics);
            let member = Member {
                instance_id: m.instance_id.clone(),
                rack_id: said.rack_id,
                client_id: m.client_id.clone(),
                client_host: m.client_host.clone(),
                rebalance_timeout_ms: m.rebalance_timeout_ms,
                topics: said.topics.into_iter().collect::<BTreeSet<_>>(),
                classic: Some(Classic { session_timeout_ms: m.session_timeout_ms, protocols: m.protocols.clone() }),
                current: Current { epoch: group.generation, assigned: assigned.clone(), ..Current::default() },
                previous_epoch: group.generation,
                ..Member::default()
            };
            fresh.members.insert(m.id.clone(), member);
            fresh.target.insert(m.id.clone(), assigned);
        }
        fresh.restored(0, now_ms);
        fresh.put_back(fresh.all());
        Some(fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn metadata_of_consumers_is_read_at_every_version() {
        let v0 = b"\0\0\0\0\0\x02\0\x01a\0\x02bc\xff\xff\xff\xff";
        let v1 = b"\0\x01\0\0\0\x01\0\x01a\0\0\0\x01u\0\0\0\x01\0\x01a\0\0\0\x02\0\0\0\0\0\0\0\x05";
        let v3 = [b"\0\x03\0\0\0\0\xff\xff\xff\xff\0\0\0\0\0\0\0\x07\0\x01r".as_slice()].concat();
        for (bytes, topics, owned, rack) in [
            (v0.as_slice(), &["a", "bc"][..], vec![], None),
            (v1, &["a"], vec![("a".to_owned(), vec![0, 5])], None),
            (&v3, &[], vec![], Some("r".to_owned())),
        ] {
            let read = subscription(bytes).unwrap();
            assert_eq!(
                (read.topics.iter().map(String::as_str).collect::<Vec<_>>().as_slice(), read.owned),
                (topics, owned)
            );
            assert_eq!(read.rack_id, rack);
        }
        assert_eq!(subscription(b"\0\x01\x7f\xff\xff\xff"), None);
        assert_eq!(assignment(b""), Some(vec![]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_metadata_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            drop(subscription(&bytes));
            drop(assignment(&bytes));
        }
    }
}
