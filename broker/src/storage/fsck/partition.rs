//! The check of one partition's folder: its segments, snapshots of producers, earliest offset, and what a crash left over.
//!
//! In: a partition's folder. Out: findings, and a report of what it holds. With `repair` it finishes what was cut short.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::check::{Check, Subject};
use super::report::{FindingKind, PartitionReport, Severity};
use crate::storage::error::StorageError;
use crate::storage::layout::{self, COMPANIONS, DAMAGED_DIR, START_FILE, offset_of, path_of};
use crate::storage::log;
use crate::storage::producer::Producers;
use crate::storage::segment::Segment;
use crate::storage::swap;
use millrace_log::fs::{self, Filesystem};

impl Check<'_> {
    pub(super) fn partition(&mut self, subject: &Subject, dir: &Path, exists: bool) -> Result<(), StorageError> {
        if !exists {
            let what = (
                "the partition's folder is missing".to_owned(),
                "restore it from a backup; the next start creates it, empty",
            );
            self.find((Severity::Error, FindingKind::MissingPartition), subject, dir, what, |_| Ok(false));
            return Ok(());
        }
        let entries = self.fs.list(dir).map_err(StorageError::io("read", dir))?;
        if self.repair {
            // What it does is reported below, from the names as they were.
            swap::recover(self.fs, dir).map_err(StorageError::io("finish a compaction in", dir))?;
        }
        let (mut bases, mut snapshots, mut start) = (Vec::new(), Vec::new(), 0);
        let (mut companions, mut replaced) = (Vec::new(), Vec::new());
        for entry in &entries {
            let path = dir.join(&entry.name);
            let name = entry.name.as_str();
            if entry.is_dir {
                if name != DAMAGED_DIR {
                    self.unknown(subject, &path);
                }
            } else if let Some(base) = offset_of(name, "log") {
                // A compaction that is finished by now has replaced some.
                if !self.repair || self.fs.open(&path).is_ok() {
                    bases.push(base);
                }
            } else if let Some(offset) = offset_of(name, "producers") {
                snapshots.push(offset);
            } else if let Some(base) = COMPANIONS.iter().find_map(|ending| offset_of(name, ending)) {
                companions.push((base, path));
            } else if name == START_FILE {
                start = self.log_start(subject, &path, &entries)?;
            } else if name.ends_with(".tmp") {
                self.left_over(subject, &path, "an interrupted write");
            } else if let Some((base, until)) = swap::range_of(name) {
                replaced.push(base..until);
                let what = (
                    "a compaction that was interrupted after its commit".to_owned(),
                    "the next start or `--repair` finishes it",
                );
                self.find((Severity::Note, FindingKind::LeftOver), subject, &path, what, |_| Ok(true));
            } else if name.ends_with(".cleaned") {
                self.left_over(subject, &path, "an interrupted compaction");
            } else if !layout::OTHER_FILES.contains(&name) {
                self.unknown(subject, &path);
            }
        }
        bases.sort_unstable();
        for (base, path) in companions.into_iter().filter(|(base, _)| !bases.contains(base)) {
            self.left_over(subject, &path, &format!("the segment of offset {base}, which is gone"));
        }
        let mut sum = PartitionReport {
            topic: subject.topic.clone().unwrap_or_default(),
            partition: subject.partition.unwrap_or(0),
            segments: 0,
            bytes: 0,
            batches: 0,
            records: 0,
            log_start_offset: start.max(bases.first().copied().unwrap_or(0)),
            log_end_offset: start.max(bases.last().copied().unwrap_or(0)),
        };
        for (at, base) in bases.iter().copied().enumerate() {
            let next_base = bases.get(at + 1).copied();
            if next_base.is_some_and(|next| next <= start) {
                let what = (
                    "lies before the earliest offset: an interrupted deletion".to_owned(),
                    "the next start removes it",
                );
                let path = path_of(dir, base, "log");
                self.find((Severity::Note, FindingKind::LeftOver), subject, &path, what, |_| Ok(false));
                continue;
            }
            // It counts no more, and what stands beside it may be gone already: the start puts the new one in its subject.
            if !self.repair && replaced.iter().any(|range| range.contains(&base)) {
                continue;
            }
            self.segment(subject, dir, (base, next_base), &mut sum)?;
        }
        if self.repair && std::mem::take(&mut self.lacks_aborted) {
            find_aborted(self.fs, dir, &bases).map_err(StorageError::io("repair", dir))?;
        }
        for offset in snapshots {
            self.snapshot(subject, &path_of(dir, offset, "producers"), offset);
        }
        self.report.partitions.push(sum);
        Ok(())
    }

    fn log_start(&mut self, subject: &Subject, path: &Path, entries: &[fs::DirEntry]) -> Result<i64, StorageError> {
        let bytes = fs::read_all(self.fs, path).map_err(StorageError::io("read", path))?;
        let number = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
        if let Some(start) = number.filter(|n| *n >= 0) {
            return Ok(start);
        }
        let first = entries.iter().filter_map(|entry| offset_of(&entry.name, "log")).min().unwrap_or(0);
        let what = (
            "does not hold the earliest offset: deleted records may reappear".to_owned(),
            "delete them again after the next start; `--repair` writes the offset of the first segment",
        );
        self.find((Severity::Warning, FindingKind::LogStart), subject, path, what, |fs| {
            fs::replace(fs, path, format!("{first}\n").as_bytes()).map(|()| true)
        });
        Ok(0)
    }

    fn snapshot(&mut self, subject: &Subject, path: &Path, offset: i64) {
        let sound = fs::read_all(self.fs, path).is_ok_and(|bytes| Producers::decode(&bytes, offset).is_some());
        if !sound {
            let what = (
                "the state of producers as of this offset is damaged".to_owned(),
                "the next start uses an older one or rebuilds it from the segments; `--repair` removes it",
            );
            self.find((Severity::Warning, FindingKind::Snapshot), subject, path, what, |fs| {
                fs.remove(path).map(|()| true)
            });
        }
    }
}

/// Makes the missing lists of aborted transactions again.
fn find_aborted(fs: &dyn Filesystem, dir: &Path, bases: &[i64]) -> io::Result<()> {
    let mut segments = BTreeMap::new();
    for (at, base) in bases.iter().copied().enumerate() {
        let next_base = bases.get(at + 1).copied();
        let segment = match Segment::open(fs, dir, base, next_base, 0)? {
            Some(segment) => segment,
            None => Segment::recover(fs, dir, base, next_base, 0, |_, _| None)?.0,
        };
        segments.insert(base, Arc::new(segment));
    }
    log::find_aborted(dir, fs, &segments)
}
