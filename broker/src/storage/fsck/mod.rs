//! Checks a data folder that is not in use, explains what it finds, and repairs what it can without losing a record.
//!
//! In: the folder, through [`Filesystem`]. Out: a [`FsckReport`]. Takes the folder's lock; without `repair` it changes
//! nothing else. Leaves printing and exit codes to the command line, and single batches to [`super`].
//!
//! What repair does: it quarantines damaged bytes and lists them so that readers skip them, cuts torn writes (which
//! were never acknowledged), makes indexes again, finishes what a crash cut short, drops state that the next start makes
//! again, and writes the catalog from the folders where the catalog itself is lost. It never removes a sound batch.

/// What is found.
mod report;
/// Entries of index files.
mod index_entries;
/// The folder as a whole.
mod check;
/// One segment.
mod segment;
/// One partition.
mod partition;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use crate::storage::catalog;
use crate::storage::error::StorageError;
use crate::storage::layout::{CLEAN_FILE, LOCK_FILE, partition_of};
use check::{Check, Subject};
use millrace_log::fs::Filesystem;
pub use report::{Finding, FindingKind, FsckOptions, FsckReport, PartitionReport, Severity};

/// Checks the folder `dir` of a log (the one with VERSION and `topics.json`), and repairs it if asked to.
///
/// Fails if the folder is in use, is none, or was written by a newer version; damage is a finding and no failure.
pub fn fsck(dir: &Path, fs: &dyn Filesystem, options: FsckOptions) -> Result<FsckReport, StorageError> {
    let entries = fs.list(dir).map_err(StorageError::io("read", dir))?;
    let has = |name: &str| entries.iter().any(|entry| entry.name == name);
    if !has(catalog::VERSION_FILE) && !has(catalog::CATALOG_FILE) {
        return Err(StorageError::NoLog { path: dir.to_owned() });
    }
    let _lock = fs.lock(&dir.join(LOCK_FILE)).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => StorageError::InUse { path: dir.to_owned(), holder: e.to_string() },
        _ => StorageError::io("lock", dir)(e),
    })?;
    let report =
        FsckReport { dir: dir.to_owned(), clean_stop: has(CLEAN_FILE), partitions: Vec::new(), findings: Vec::new() };
    let mut check = Check { fs, dir, repair: options.repair, lacks_aborted: false, report };
    check.version()?;
    let folders: BTreeMap<String, (String, i32)> = entries
        .iter()
        .filter(|entry| entry.is_dir)
        .filter_map(|entry| Some((entry.name.clone(), partition_of(&entry.name)?)))
        .collect();
    let topics = check.catalog(&folders)?;
    for entry in entries.iter().filter(|entry| !entry.is_dir && entry.name.ends_with(".tmp")) {
        check.left_over(&Subject::default(), &dir.join(&entry.name), "an interrupted write");
    }
    let mut owned = BTreeSet::new();
    for topic in &topics {
        let wanted = options.topics.is_empty() || options.topics.contains(&topic.name);
        for number in 0..topic.partitions {
            let folder = format!("{}-{number}", topic.name);
            let subject = Subject { topic: Some(topic.name.clone()), partition: Some(number) };
            if wanted && !topic.deleting {
                check.partition(&subject, &dir.join(&folder), folders.contains_key(&folder))?;
            }
            owned.insert(folder);
        }
        if wanted && topic.deleting {
            check.report.findings.push(Finding {
                severity: Severity::Note,
                kind: FindingKind::Deleting,
                topic: Some(topic.name.clone()),
                partition: None,
                path: dir.to_owned(),
                position: None,
                bytes: None,
                offsets: None,
                what: format!("topic {} is being deleted", topic.name),
                cure: "the next start finishes it".to_owned(),
                repaired: false,
            });
        }
    }
    if options.topics.is_empty() {
        folders.keys().filter(|folder| !owned.contains(*folder)).try_for_each(|folder| check.orphan(folder))?;
    }
    Ok(check.report)
}
