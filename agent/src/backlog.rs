//! How much waits in files while nothing is read, because the log was not reached since the start.
//!
//! In: entries of the configuration, what the state remembers of files. Out: bytes, about: a packed file counts as it is,
//! and a file is recognised by device and inode alone. Touches folders, reading only.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use millrace_log::record::SourceId;

use crate::discover::{FileKey, Globs, scan};
use crate::file_settings::FileSettings;
use crate::state::SourceState;

/// Files that will be read.
pub(crate) struct Backlog {
    entries: Vec<Arc<FileSettings>>,
    /// Up to where files were acknowledged; `None`: to their end.
    known: HashMap<FileKey, Option<u64>>,
}

impl Backlog {
    pub fn new(entries: &[Arc<FileSettings>], remembered: &[(SourceId, SourceState)]) -> Self {
        let known = remembered.iter().map(|(_, state)| {
            let key = FileKey { device: state.device, inode: state.inode };
            (key, (!state.finished).then_some(state.checkpoint.offset))
        });
        Self { entries: entries.to_vec(), known: known.collect() }
    }

    /// Bytes that are there and not acknowledged. Blocks.
    pub fn bytes(&self) -> u64 {
        let globs: Vec<&Globs> = self.entries.iter().map(|entry| &entry.globs).collect();
        let mut seen = HashSet::new();
        let mut sum: u64 = 0;
        for file in scan(&globs).files {
            let (key, size) = (FileKey::of(&file.metadata), file.metadata.len());
            if !seen.insert(key) {
                continue;
            }
            let is_skipped = file.rotated_from.is_some() || self.entries.get(file.entry).is_some_and(|e| e.from_end);
            sum += match self.known.get(&key) {
                Some(Some(acknowledged)) => size.saturating_sub(*acknowledged),
                Some(None) => 0,
                None if is_skipped => 0,
                None => size,
            };
        }
        sum
    }
}
