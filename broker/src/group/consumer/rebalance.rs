//! Rebalances of a consumer group: topics and patterns looked at, partitions shared out, members moved to their target.
//!
//! In: changes of subscriptions, a view of the topics. Out: the next epochs, target and current assignments. Touches nothing.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::assign::{self, Assignment, Reader, Spec};
use super::group::Group;
use super::reconcile::{self, Current, Phase};
use super::topics::Topics;

/// FNV-1a: the same at every start and in every version, as it is kept in the log.
fn hash(parts: impl Iterator<Item = (String, Uuid, i32)>) -> i64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for (name, id, partitions) in parts {
        add(name.as_bytes());
        add(id.as_bytes());
        add(&partitions.to_be_bytes());
    }
    i64::from_be_bytes(hash.to_be_bytes())
}

impl Group {
    /// Looks at topics that have changed, bumps the epoch if need be, and reassigns when the epoch has moved on.
    pub(super) fn advance(&mut self, resubscribed: bool, topics: &dyn Topics) {
        let version = topics.version();
        let resolved = self.resolve(topics);
        if resubscribed || resolved || self.seen_topics != Some(version) {
            self.seen_topics = Some(version);
            let read: BTreeSet<&String> =
                self.members.values().flat_map(|m| m.topics.iter().chain(self.by_pattern(m))).collect();
            let found = read.into_iter().filter_map(|name| {
                let (id, partitions) = topics.topic(name)?;
                Some((name.clone(), id, partitions))
            });
            let fresh = hash(found);
            if resubscribed || fresh != self.metadata_hash {
                self.metadata_hash = fresh;
                self.bump();
            }
        }
        if self.epoch > self.assignment_epoch {
            self.share_out(topics);
        }
    }

    /// Holds patterns against what the asking member may see, if that may have changed. As in Kafka, what a pattern
    /// stands for is shared by the group: whoever asks first after a change decides. Returns whether any changed.
    fn resolve(&mut self, topics: &dyn Topics) -> bool {
        let sight = topics.sight();
        if sight.is_none() || self.regexes.values().all(|r| r.seen == sight) {
            return false;
        }
        let names = topics.names();
        let mut has_changed = false;
        for (pattern, resolved) in &mut self.regexes {
            let fits = |name: &&String| resolved.pattern.as_ref().is_some_and(|p| p.is_match(name));
            let found: BTreeSet<String> = names.iter().filter(fits).cloned().collect();
            if found != resolved.topics {
                resolved.topics = found;
                self.changes.regexes.insert(pattern.clone());
                has_changed = true;
            }
            resolved.seen = sight;
        }
        has_changed
    }

    pub(super) fn bump(&mut self) {
        self.epoch = self.epoch.saturating_add(1);
        self.changes.epoch = true;
    }

    fn share_out(&mut self, topics: &dyn Topics) {
        let mut spec = Spec::default();
        for (id, member) in &self.members {
            let mut reader = Reader {
                had: self.target.get(id).cloned().unwrap_or_default(),
                instance_id: member.instance_id.clone(),
                ..Reader::default()
            };
            for name in member.topics.iter().chain(self.by_pattern(member)) {
                if let Some((topic, partitions)) = topics.topic(name) {
                    spec.partitions.insert(topic, partitions);
                    reader.topics.insert(topic);
                }
            }
            spec.members.insert(id.clone(), reader);
        }
        for reader in spec.members.values_mut() {
            for (topic, partitions) in &mut reader.had {
                let count = spec.partitions.get(topic).copied().unwrap_or(0);
                partitions.retain(|p| *p < count);
            }
        }
        let target = assign::assign(self.assignor(), &spec);
        for id in self.members.keys() {
            if self.target.get(id) != target.get(id) {
                self.changes.members.entry(id.clone()).or_default().target = true;
            }
        }
        self.target = target;
        self.assignment_epoch = self.epoch;
        self.changes.assignment_epoch = true;
        self.rebalances += 1;
    }

    /// Moves a member towards its target.
    pub(super) fn reconcile(&mut self, id: &str, owned: Option<&Assignment>, now_ms: i64) {
        let Some(member) = self.members.get(id) else { return };
        if self.is_reconciled(member) {
            return;
        }
        let none = Assignment::new();
        let target = self.target.get(id).unwrap_or(&none);
        let is_free = |topic, partition| !self.owners.contains_key(&(topic, partition));
        let next = reconcile::next(&member.current, target, self.assignment_epoch, owned, is_free);
        if next == member.current {
            return;
        }
        self.set_current(id, next, now_ms);
    }

    pub(super) fn set_current(&mut self, id: &str, next: Current, now_ms: i64) {
        let Some(member) = self.members.get_mut(id) else { return };
        let before: Vec<(Uuid, i32)> = member.current.held().collect();
        member.previous_epoch = member.current.epoch;
        let revokes = next.phase == Phase::Unrevoked && member.classic.is_none();
        member.revoke_by_ms = revokes.then_some(now_ms + i64::from(member.rebalance_timeout_ms));
        member.current = next;
        let after: Vec<(Uuid, i32)> = member.current.held().collect();
        for tp in before {
            if self.owners.get(&tp).is_some_and(|owner| owner == id) {
                self.owners.remove(&tp);
            }
        }
        self.owners.extend(after.into_iter().map(|tp| (tp, id.to_owned())));
        self.touch(id).current = true;
    }
}
