//! All silences in memory, and which alerts they mute.
//!
//! In: silences that are on disk, alerts. Out: ids of those that mute an alert. Touches nothing. Which silences match an alert
//! is remembered: a new silence is compared once with each alert, whenever that is next looked at.

use std::collections::{BTreeMap, HashMap};

use millrace_log::alert::{Fingerprint, LabelSet};

use crate::matcher::all_match;
use crate::silence::{Silence, SilenceError, SilenceState};

/// Bytes that all silences may have together.
const MAX_WEIGHT: usize = 256 << 20;

/// Silences that match an alert, up to a version.
#[derive(Debug, Default)]
struct Marks {
    version: u64,
    ids: Vec<String>,
}

/// A silence with the version at which its matchers were new.
#[derive(Debug)]
struct Kept {
    silence: Silence,
    version: u64,
    weight: usize,
}

/// All silences.
#[derive(Debug, Default)]
pub(crate) struct Silences {
    kept: HashMap<String, Kept>,
    by_version: BTreeMap<u64, String>,
    version: u64,
    weight: usize,
    marks: HashMap<Fingerprint, Marks>,
}

impl Silences {
    /// What a request would change: the silence itself, and one that it replaces and ends. Changes nothing.
    pub(crate) fn plan(&self, new: Silence, max: usize, now_ns: i64) -> Result<Vec<Silence>, SilenceError> {
        new.check(now_ns)?;
        let mut changed = Vec::new();
        if !new.id.is_empty() {
            let Some(old) = self.get(&new.id) else { return Err(SilenceError::NotFound) };
            if old.may_become(&new, now_ns) {
                return Ok(vec![Silence { updated_at_ns: now_ns, ..new }]);
            }
            if old.state(now_ns) != SilenceState::Expired {
                changed.push(old.expired(now_ns));
            }
        }
        let held = self.kept.len();
        if held >= max || self.weight + new.weight() > MAX_WEIGHT {
            return Err(SilenceError::Full { held, max });
        }
        let starts_at_ns = new.starts_at_ns.max(now_ns);
        let silence = Silence { id: Silence::new_id(), starts_at_ns, updated_at_ns: now_ns, ..new };
        // The new one stands first.
        changed.insert(0, silence);
        Ok(changed)
    }

    /// Takes a silence in, or anew.
    pub(crate) fn put(&mut self, silence: Silence) {
        let weight = silence.weight();
        self.weight += weight;
        if let Some(kept) = self.kept.get_mut(&silence.id)
            && kept.silence.matchers == silence.matchers
        {
            self.weight -= kept.weight;
            kept.silence = silence;
            kept.weight = weight;
            return;
        }
        self.version += 1;
        let (version, id) = (self.version, silence.id.clone());
        self.by_version.insert(version, id.clone());
        if let Some(old) = self.kept.insert(id, Kept { silence, version, weight }) {
            self.by_version.remove(&old.version);
            self.weight -= old.weight;
        }
    }

    /// Lets go of a silence.
    pub(crate) fn remove(&mut self, id: &str) {
        if let Some(old) = self.kept.remove(id) {
            self.by_version.remove(&old.version);
            self.weight -= old.weight;
        }
    }

    /// One by its id.
    pub(crate) fn get(&self, id: &str) -> Option<&Silence> {
        self.kept.get(id).map(|kept| &kept.silence)
    }

    /// All, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Silence> {
        self.kept.values().map(|kept| &kept.silence)
    }

    /// Ids of the silences that mute an alert, sorted.
    pub(crate) fn mute(&mut self, fingerprint: Fingerprint, labels: &LabelSet, now_ns: i64) -> Vec<String> {
        if self.kept.is_empty() {
            return Vec::new();
        }
        let marks = self.marks.entry(fingerprint).or_default();
        for (version, id) in self.by_version.range(marks.version + 1..) {
            marks.version = *version;
            if self.kept.get(id).is_some_and(|kept| all_match(&kept.silence.matchers, labels)) {
                marks.ids.push(id.clone());
            }
        }
        let state = |id: &String| self.kept.get(id).map(|kept| kept.silence.state(now_ns));
        marks.ids.retain(|id| state(id).is_some_and(|state| state != SilenceState::Expired));
        let mut active: Vec<String> =
            marks.ids.iter().filter(|id| state(id) == Some(SilenceState::Active)).cloned().collect();
        active.sort_unstable();
        active
    }

    /// Lets go of what is remembered of an alert.
    pub(crate) fn forget_alert(&mut self, fingerprint: Fingerprint) {
        self.marks.remove(&fingerprint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::Matcher;

    fn silence(id: &str, matchers: &str, starts_at_ns: i64, ends_at_ns: i64) -> Silence {
        Silence {
            id: id.to_owned(),
            matchers: Matcher::parse_list(matchers).unwrap(),
            starts_at_ns,
            ends_at_ns,
            updated_at_ns: 0,
            created_by: "kim".into(),
            comment: String::new(),
        }
    }

    #[test]
    fn alerts_are_muted_by_what_is_active_whenever_it_came() {
        let labels: LabelSet = [("a", "1"), ("b", "2")].map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        let fingerprint = Fingerprint::of(&labels);
        let mut silences = Silences::default();
        let ids = |silences: &mut Silences, now_ns| silences.mute(fingerprint, &labels, now_ns).join(" ");
        assert_eq!(ids(&mut silences, 10), "");
        silences.put(silence("y", "a=1", 5, 20));
        silences.put(silence("n", "a=2", 5, 20));
        assert_eq!(ids(&mut silences, 10), "y");
        silences.put(silence("x", "b=~\".+\"", 15, 40));
        assert_eq!((ids(&mut silences, 10), ids(&mut silences, 16)), ("y".into(), "x y".into()));
        // Longer, with the same matchers.
        silences.put(silence("y", "a=1", 5, 50));
        assert_eq!(ids(&mut silences, 30), "x y");
        silences.remove("x");
        assert_eq!((ids(&mut silences, 30), ids(&mut silences, 50)), ("y".into(), String::new()));
        let weight: usize = silences.all().map(Silence::weight).sum();
        assert_eq!(silences.weight, weight);
    }

    #[test]
    fn changes_end_what_they_replace() {
        let mut silences = Silences::default();
        silences.put(silence("x", "a=1", 5, 20));
        let plan = |silence: Silence, max| silences.plan(silence, max, 10);
        let ids = |list: Vec<Silence>| list.iter().map(|s| (s.id.len(), s.ends_at_ns)).collect::<Vec<_>>();
        assert_eq!(ids(plan(silence("x", "a=1", 5, 30), 1).unwrap()), [(1, 30)]);
        assert_eq!(ids(plan(silence("x", "a=2", 5, 30), 2).unwrap()), [(36, 30), (1, 10)]);
        assert!(matches!(plan(silence("y", "a=2", 5, 30), 2), Err(SilenceError::NotFound)));
        assert!(matches!(plan(silence("", "a=2", 5, 30), 1), Err(SilenceError::Full { held: 1, max: 1 })));
        let new = plan(silence("", "a=2", 5, 30), 2).unwrap();
        assert_eq!((new.len(), new[0].starts_at_ns, new[0].updated_at_ns), (1, 10, 10));
    }
}
