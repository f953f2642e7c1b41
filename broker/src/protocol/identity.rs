//! The broker's own small state: the cluster's id, and which producer ids have been given out.
//!
//! In: the data folder. Out: ids. Touches `broker.json` in it through the file-system seam: replaced as a whole, synced
//! before anything relies on it. Producer ids are reserved in blocks, so that a crash skips ids and never repeats one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::protocol::error::BrokerError;
use crate::protocol::state_file::{read, replace};
use millrace_log::fs::Filesystem;

/// Producer ids reserved with one write.
const BLOCK: i64 = 1000;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    cluster_id: String,
    /// The first id of which nothing is known on disk yet.
    next_producer_id: i64,
}

struct Ids {
    kept: Kept,
    next: i64,
}

/// Cluster id and producer ids.
pub(crate) struct Identity {
    fs: Arc<dyn Filesystem>,
    path: PathBuf,
    cluster_id: String,
    ids: Mutex<Ids>,
}

/// 16 random bytes as Kafka writes a cluster id: base64 for URLs, without padding.
fn fresh_cluster_id() -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = u128::from_be_bytes(rand::random());
    let sign = |i: u32| {
        let six = if i < 21 { bits >> (122 - 6 * i) } else { bits << 4 };
        char::from(SIGNS.get((six & 63) as usize).copied().unwrap_or(b'A'))
    };
    // 21 signs of 6 bits, the last holds 2 bits.
    (0..22).map(sign).collect()
}

impl Identity {
    /// Reads the file, or makes it. Blocks.
    pub fn open(fs: Arc<dyn Filesystem>, dir: &Path) -> Result<Self, BrokerError> {
        let path = dir.join("broker.json");
        let fault = |what, reason: String| BrokerError::State { path: path.clone(), what, reason };
        let kept = match read(&*fs, &path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| fault("read", format!("{e}; restore it from a backup, or move the folder away")))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Kept { cluster_id: fresh_cluster_id(), next_producer_id: 0 }
            }
            Err(e) => return Err(fault("read", e.to_string())),
        };
        let ids = Mutex::new(Ids { next: kept.next_producer_id, kept: kept.clone() });
        let identity = Self { fs, path, cluster_id: kept.cluster_id, ids };
        identity.reserve(&mut identity.ids.lock())?;
        Ok(identity)
    }

    fn reserve(&self, ids: &mut Ids) -> Result<(), BrokerError> {
        let fault = |reason: String| BrokerError::State { path: self.path.clone(), what: "written", reason };
        let kept = Kept { next_producer_id: ids.next + BLOCK, ..ids.kept.clone() };
        let bytes = serde_json::to_vec(&kept).map_err(|e| fault(e.to_string()))?;
        replace(&*self.fs, &self.path, &bytes).map_err(|e| fault(e.to_string()))?;
        ids.kept = kept;
        Ok(())
    }

    /// Id of the cluster, made once.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// A producer id that was never given out before. Blocks once in a thousand calls.
    pub fn producer_id(&self) -> Result<i64, BrokerError> {
        let mut ids = self.ids.lock();
        if ids.next >= ids.kept.next_producer_id {
            self.reserve(&mut ids)?;
        }
        ids.next += 1;
        Ok(ids.next - 1)
    }
}

impl crate::transaction::ProducerIds for Identity {
    fn next(&self) -> Result<i64, String> {
        self.producer_id().map_err(|error| {
            tracing::error!(%error, "no producer id can be given");
            error.to_string()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_log::fs::RealFs;

    #[test]
    fn producer_ids_never_come_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut seen = std::collections::HashSet::new();
        let mut cluster = None;
        for _ in 0..3 {
            let identity = Identity::open(RealFs::shared(), dir.path()).unwrap();
            assert_eq!(cluster.get_or_insert(identity.cluster_id().to_owned()), identity.cluster_id());
            for _ in 0..1500 {
                assert!(seen.insert(identity.producer_id().unwrap()));
            }
        }
        assert_eq!(cluster.unwrap().len(), 22);
    }

    #[test]
    fn a_damaged_file_names_itself_and_the_cure() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("broker.json"), "{").unwrap();
        let error = Identity::open(RealFs::shared(), dir.path()).err().unwrap().to_string();
        assert!(error.contains("broker.json") && error.contains("backup"), "{error}");
    }
}
