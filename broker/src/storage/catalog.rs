//! Topic catalog: `topics.json` in the data folder, beside VERSION.
//!
//! In: topics with ids, partitions and settings. Out: the same after a restart. Touches two small files, replaced as a whole
//! so that a crash leaves the old or the new. A topic is written here after its folders are made, and marked as `deleting`
//! before they go, so that either half done is finished at the next start.
//!
//! Format 1 of the data folder: VERSION holds the number as text. `topics.json` holds `{"topics": [...]}` as below. A new
//! format raises VERSION, which older versions refuse.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::StorageError;
use crate::config::TopicSettings;
use millrace_log::fs::{self, Filesystem};

/// The format that this version writes.
pub(super) const FORMAT: u32 = 1;

pub(super) const VERSION_FILE: &str = "VERSION";
pub(super) const CATALOG_FILE: &str = "topics.json";

/// One topic as kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TopicEntry {
    pub name: String,
    #[serde(with = "id_text")]
    pub id: Uuid,
    pub partitions: i32,
    pub settings: TopicSettings,
    #[serde(default)]
    pub deleting: bool,
}

/// All topics as kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Catalog {
    pub topics: Vec<TopicEntry>,
}

/// Ids as text.
mod id_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de};
    use uuid::Uuid;

    pub fn serialize<S: Serializer>(id: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Uuid, D::Error> {
        Uuid::parse_str(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl Catalog {
    /// Checks VERSION, and reads the catalog; in a new folder makes both.
    pub fn open(fs: &dyn Filesystem, dir: &Path) -> Result<Self, StorageError> {
        let path = dir.join(VERSION_FILE);
        let bytes = match fs::read_all(fs, &path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let catalog = Self::default();
                catalog.write(fs, dir)?;
                fs::replace(fs, &path, format!("{FORMAT}\n").as_bytes()).map_err(StorageError::io("write", &path))?;
                return Ok(catalog);
            }
            Err(e) => return Err(StorageError::io("read", &path)(e)),
        };
        let found = String::from_utf8_lossy(&bytes).trim().to_owned();
        match found.parse::<u32>() {
            Ok(FORMAT) => {}
            Ok(newer) if newer > FORMAT => {
                return Err(StorageError::Newer { path: dir.to_owned(), found, known: FORMAT });
            }
            _ => return Err(StorageError::Damaged { path, reason: format!("invalid version `{found}`") }),
        }
        let path = dir.join(CATALOG_FILE);
        let bytes = fs::read_all(fs, &path).map_err(StorageError::io("read", &path))?;
        serde_json::from_slice(&bytes).map_err(|e| StorageError::Damaged { path, reason: e.to_string() })
    }

    /// Replaces what is kept; durable on return.
    pub fn write(&self, fs: &dyn Filesystem, dir: &Path) -> Result<(), StorageError> {
        let path = dir.join(CATALOG_FILE);
        let mut json =
            serde_json::to_vec_pretty(self).map_err(|e| StorageError::io("write", &path)(io::Error::other(e)))?;
        json.push(b'\n');
        fs::replace(fs, &path, &json).map_err(StorageError::io("write", &path))
    }

    pub fn find(&mut self, name: &str) -> Option<&mut TopicEntry> {
        self.topics.iter_mut().find(|topic| topic.name == name)
    }
}
