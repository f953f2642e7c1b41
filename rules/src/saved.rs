//! States of alerts and times of evaluations on disk.
//!
//! In: changes of states. Out: `Ok` once they are synced; after a restart the states by the key of their rule. Touches
//! the folder `rules/` of the data folder: tree `states` with the alerts, tree `turns` with the time of each group's last
//! evaluation. Async methods do their disk work on other threads.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use millrace_log::alert::Fingerprint;
use millrace_log::store::{Change, Store, StoreError, Tree, run_blocking};
use serde::{Deserialize, Serialize};

use crate::file::Group;
use crate::state::{ActiveAlert, Alerts, State};

/// After a longer time without evaluations `for` starts again: nobody knows whether the series was there meanwhile.
const OUTAGE_TOLERANCE_NS: i64 = 3600 * 1_000_000_000;

/// When a group was last evaluated.
#[derive(Debug, Serialize, Deserialize)]
struct LastEvaluation {
    at_ns: i64,
}

/// The states on disk.
#[derive(Debug)]
pub struct SavedStates {
    store: Arc<Store>,
    states: Tree,
    evaluations: Tree,
}

impl SavedStates {
    /// Opens the folder. Blocks.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let store = Store::open(folder)?;
        let (states, evaluations) = (store.tree("states")?, store.tree("turns")?);
        Ok(Self { store: Arc::new(store), states, evaluations })
    }

    /// States by key of the rule. Pending ones are dropped if their group was not evaluated for too long. Blocks.
    pub fn load(&self, now_ns: i64) -> Result<HashMap<String, Alerts>, StoreError> {
        let last: HashMap<Vec<u8>, LastEvaluation> = self.evaluations.all()?.into_iter().collect();
        let mut loaded: HashMap<String, Alerts> = HashMap::new();
        for (key, alert) in self.states.all::<ActiveAlert>()? {
            let Some((rule, fingerprint)) = split_state_key(&key) else { continue };
            let group = rule.split('\u{1f}').take(2).collect::<Vec<_>>().join("\u{1f}");
            let seen_ns = last.get(group.as_bytes()).map(|t| t.at_ns).unwrap_or(alert.active_at_ns);
            if alert.state == State::Pending && now_ns.saturating_sub(seen_ns) > OUTAGE_TOLERANCE_NS {
                self.states.apply([Change::<ActiveAlert>::Remove(key)])?;
                continue;
            }
            loaded.entry(rule).or_default().insert(fingerprint, alert);
        }
        Ok(loaded)
    }

    /// Writes changed alerts of a rule, removes those without a state, and syncs.
    pub async fn save(
        &self,
        rule_key: &str,
        changes: Vec<(Fingerprint, Option<ActiveAlert>)>,
    ) -> Result<(), StoreError> {
        let (states, store) = (self.states.clone(), self.store.clone());
        let changes: Vec<(Vec<u8>, Option<ActiveAlert>)> =
            changes.into_iter().map(|(f, alert)| (state_key(rule_key, f), alert)).collect();
        run_blocking(move || {
            states.apply(changes.iter().map(|(key, alert)| match alert {
                Some(alert) => Change::Put(key.clone(), alert),
                None => Change::Remove(key.clone()),
            }))?;
            store.sync()
        })
        .await
    }

    /// Removes alerts, and syncs.
    pub async fn remove(&self, keys: Vec<Vec<u8>>) -> Result<(), StoreError> {
        let (states, store) = (self.states.clone(), self.store.clone());
        run_blocking(move || {
            states.apply(keys.into_iter().map(Change::<ActiveAlert>::Remove))?;
            store.sync()
        })
        .await
    }

    /// Removes one alert; synced with the next change. Blocks.
    pub fn remove_now(&self, key: Vec<u8>) -> Result<(), StoreError> {
        self.states.apply([Change::<ActiveAlert>::Remove(key)])
    }

    /// Notes when a group was evaluated. Not synced on purpose: after a crash it only says for how long rules were not
    /// evaluated.
    pub async fn note_evaluation(&self, group: &Group, at_ns: i64) -> Result<(), StoreError> {
        let (evaluations, key) = (self.evaluations.clone(), group_key(group).into_bytes());
        let last = LastEvaluation { at_ns };
        run_blocking(move || evaluations.apply([Change::Put(key, &last)])).await
    }

    /// Returns when all changes made before are on the disk.
    pub async fn sync(&self) -> Result<(), StoreError> {
        let store = self.store.clone();
        run_blocking(move || store.sync()).await
    }
}

/// Identity of a group over restarts: file and name.
pub fn group_key(group: &Group) -> String {
    format!("{}\u{1f}{}", group.file.display(), group.name)
}

/// Key of an alert in the tree `states`.
pub fn state_key(rule: &str, fingerprint: Fingerprint) -> Vec<u8> {
    format!("{rule}\u{1f}{fingerprint}").into_bytes()
}

fn split_state_key(key: &[u8]) -> Option<(String, Fingerprint)> {
    let (rule, fingerprint) = std::str::from_utf8(key).ok()?.rsplit_once('\u{1f}')?;
    Some((rule.to_owned(), Fingerprint(u64::from_str_radix(fingerprint, 16).ok()?)))
}
