//! Records on disk: alerts held, silences, and what each integration was sent of each group.
//!
//! In: entries of deduplication. Out: the same after a restart. Touches the trees `sent`, `alerts` and `silences` of the notifier's
//! store. A crash between the receiver's answer and the record repeats a page; never the other way round.

use std::collections::HashMap;
use std::sync::Arc;

use crate::alert::Alert;
use crate::dedup::SentRecord;
use crate::silence::Silence;
use millrace_log::alert::Fingerprint;
use millrace_log::store::{Change, Store, StoreError, Tree};

/// State of the notifier on disk.
#[derive(Debug, Clone)]
pub struct Records {
    store: Arc<Store>,
    sent: Tree,
    alerts: Tree,
    silences: Tree,
}

/// Whose entry: receiver, type and number of the integration, key of the group.
pub fn entry_key(receiver: &str, kind: &str, number: usize, group_key: &str) -> String {
    format!("{receiver}\u{1f}{kind}\u{1f}{number}\u{1f}{group_key}")
}

impl Records {
    /// Opens the trees. Blocks.
    pub fn open(store: Store) -> Result<Self, StoreError> {
        let (sent, alerts, silences) = (store.tree("sent")?, store.tree("alerts")?, store.tree("silences")?);
        Ok(Self { store: Arc::new(store), sent, alerts, silences })
    }

    /// Entries that have not expired; the others are removed. Blocks.
    pub fn entries(&self, now_ns: i64) -> Result<HashMap<String, SentRecord>, StoreError> {
        let (good, old): (Vec<_>, Vec<_>) =
            self.sent.all::<SentRecord>()?.into_iter().partition(|(_, entry)| entry.expires_at_ns > now_ns);
        self.sent.apply(old.into_iter().map(|(key, _)| Change::<SentRecord>::Remove(key)))?;
        Ok(good.into_iter().map(|(key, entry)| (String::from_utf8_lossy(&key).into_owned(), entry)).collect())
    }

    /// Alerts as they were. Blocks.
    pub fn alerts(&self) -> Result<Vec<Alert>, StoreError> {
        Ok(self.alerts.all::<Alert>()?.into_iter().map(|(_, alert)| alert).collect())
    }

    /// Records what was sent. Blocks until it is on the disk.
    pub fn sent(&self, key: &str, entry: &SentRecord) -> Result<(), StoreError> {
        self.sent.apply([Change::Put(key.as_bytes().to_vec(), entry)])?;
        self.store.sync()
    }

    /// Removes entries that have expired. Blocks.
    pub fn forget(&self, keys: &[String]) -> Result<(), StoreError> {
        self.sent.apply(keys.iter().map(|key| Change::<SentRecord>::Remove(key.as_bytes().to_vec())))
    }

    /// Keeps alerts. Blocks until they are on the disk.
    pub fn keep(&self, alerts: &[Alert]) -> Result<(), StoreError> {
        let key = |alert: &Alert| alert.fingerprint().0.to_be_bytes().to_vec();
        self.alerts.apply(alerts.iter().map(|alert| Change::Put(key(alert), alert)))?;
        self.store.sync()
    }

    /// Drops alerts that are over and notified. Blocks.
    pub fn drop_alerts(&self, fingerprints: &[Fingerprint]) -> Result<(), StoreError> {
        self.alerts.apply(fingerprints.iter().map(|f| Change::<Alert>::Remove(f.0.to_be_bytes().to_vec())))?;
        self.store.sync()
    }

    /// Silences as they were. Blocks.
    pub fn silences(&self) -> Result<Vec<Silence>, StoreError> {
        Ok(self.silences.all::<Silence>()?.into_iter().map(|(_, silence)| silence).collect())
    }

    /// Keeps silences. Blocks until they are on the disk.
    pub fn keep_silences(&self, silences: &[Silence]) -> Result<(), StoreError> {
        self.silences.apply(silences.iter().map(|silence| Change::Put(silence.id.as_bytes().to_vec(), silence)))?;
        self.store.sync()
    }

    /// Drops silences that were over long ago. Blocks.
    pub fn drop_silences(&self, ids: &[String]) -> Result<(), StoreError> {
        self.silences.apply(ids.iter().map(|id| Change::<Silence>::Remove(id.as_bytes().to_vec())))
    }

    /// Returns when everything is on the disk. Blocks.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.store.sync()
    }
}
