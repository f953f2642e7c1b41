//! Checks a data folder that is not in use, explains what it finds, and repairs what it can without losing a record.
//!
//! In: the folder, through [`Filesystem`]. Out: a [`FsckReport`]. Takes the folder's lock; without `repair` it changes
//! nothing else. Leaves printing and exit codes to the command line, and single batches to [`super::segment`].
//!
//! What repair does: it sets damaged bytes aside and lists them so that readers pass over them, cuts torn writes (which
//! were never acknowledged), makes indexes again, finishes what a crash cut short, drops state that the next start makes
//! again, and writes the catalog from the folders where the catalog itself is lost. It never removes a sound batch.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::catalog::{self, Catalog, TopicEntry};
use super::error::StorageError;
use super::index::{IndexEntry, OffsetEntry, TimeEntry};
use super::log::{self, START_FILE};
use super::producer::Producers;
use super::segment::{self, Hole, INDEX_INTERVAL, Met, Segment};
use super::swap;
use super::txn::TxnIndex;
use crate::config::TopicSettings;
use millrace_log::fs::{self, Filesystem};

/// What to check.
#[derive(Debug, Clone, Default)]
pub struct FsckOptions {
    /// Whether to repair what can be repaired.
    pub repair: bool,
    /// Only these topics; empty for all.
    pub topics: Vec<String>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing to worry about; the next start deals with it.
    Note,
    /// Something is wrong that costs no record.
    Warning,
    /// Records are lost or can't be reached.
    Error,
}

/// What kind of thing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// VERSION is missing or says nothing.
    Version,
    /// `topics.json` is missing or can't be understood.
    Catalog,
    /// A topic that was being deleted.
    Deleting,
    /// A partition's folder is missing.
    MissingPartition,
    /// A folder that no topic owns.
    Orphan,
    /// Damaged bytes in the middle of a segment.
    Hole,
    /// A torn write at the end.
    TornTail,
    /// An index that does not fit its segment.
    Index,
    /// The list of holes can't be read.
    HoleList,
    /// The file with the earliest offset can't be read.
    LogStart,
    /// A snapshot of producers that is damaged or of no use.
    Snapshot,
    /// A file left by a write or a compaction that was cut short.
    LeftOver,
    /// A file that is none of ours.
    Unknown,
    /// A file that can't be read at all.
    Unreadable,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub kind: FindingKind,
    /// The topic, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The partition, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    /// The file or folder.
    pub path: PathBuf,
    /// First byte within the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// How many bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// First offset concerned and the first after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offsets: Option<(i64, i64)>,
    /// What is wrong, in one line.
    pub what: String,
    /// What helps, in one line.
    pub cure: String,
    /// Whether it has been repaired in this run.
    pub repaired: bool,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(position) = self.position {
            write!(f, " at byte {position}")?;
        }
        write!(f, ": {}", self.what)?;
        if self.repaired { write!(f, " (repaired)") } else { write!(f, "; {}", self.cure) }
    }
}

/// What a partition holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionReport {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// Segments.
    pub segments: usize,
    /// Bytes in them.
    pub bytes: u64,
    /// Sound batches.
    pub batches: u64,
    /// Records in those.
    pub records: u64,
    /// Earliest offset.
    pub log_start_offset: i64,
    /// Offset after the last sound batch.
    pub log_end_offset: i64,
}

/// What was found in a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FsckReport {
    /// The folder.
    pub dir: PathBuf,
    /// Whether the last stop was orderly.
    pub clean_stop: bool,
    /// Partitions in order of topic and number.
    pub partitions: Vec<PartitionReport>,
    /// Findings in the order of the folder.
    pub findings: Vec<Finding>,
}

impl FsckReport {
    /// The worst that is left, `None` if there is nothing.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().filter(|finding| !finding.repaired).map(|finding| finding.severity).max()
    }

    /// Whether nothing worse than a note is left.
    pub fn is_sound(&self) -> bool {
        self.worst().is_none_or(|worst| worst == Severity::Note)
    }
}

/// Checks the folder `dir` of a log (the one with VERSION and `topics.json`), and repairs it if asked to.
///
/// Fails if the folder is in use, is none, or was written by a newer version; damage is a finding and no failure.
pub fn fsck(dir: &Path, fs: &dyn Filesystem, options: FsckOptions) -> Result<FsckReport, StorageError> {
    let entries = fs.list(dir).map_err(StorageError::io("read", dir))?;
    let has = |name: &str| entries.iter().any(|entry| entry.name == name);
    if !has(catalog::VERSION_FILE) && !has(catalog::CATALOG_FILE) {
        return Err(StorageError::NoLog { path: dir.to_owned() });
    }
    let _lock = fs.lock(&dir.join(super::LOCK_FILE)).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => StorageError::InUse { path: dir.to_owned(), holder: e.to_string() },
        _ => StorageError::io("lock", dir)(e),
    })?;
    let report = FsckReport {
        dir: dir.to_owned(),
        clean_stop: has(super::CLEAN_FILE),
        partitions: Vec::new(),
        findings: Vec::new(),
    };
    let mut check = Check { fs, dir, repair: options.repair, lacks_aborted: false, report };
    check.version()?;
    let folders: BTreeMap<String, (String, i32)> = entries
        .iter()
        .filter(|entry| entry.is_dir)
        .filter_map(|entry| Some((entry.name.clone(), partition_of(&entry.name)?)))
        .collect();
    let topics = check.catalog(&folders)?;
    for entry in entries.iter().filter(|entry| !entry.is_dir && entry.name.ends_with(".tmp")) {
        check.left_over(&Place::default(), &dir.join(&entry.name), "a write that was cut short");
    }
    let mut owned = BTreeSet::new();
    for topic in &topics {
        let wanted = options.topics.is_empty() || options.topics.contains(&topic.name);
        for number in 0..topic.partitions {
            let folder = format!("{}-{number}", topic.name);
            let place = Place { topic: Some(topic.name.clone()), partition: Some(number) };
            if wanted && !topic.deleting {
                check.partition(&place, &dir.join(&folder), folders.contains_key(&folder))?;
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

/// Topic and number of a partition's folder.
fn partition_of(folder: &str) -> Option<(String, i32)> {
    let (topic, number) = folder.rsplit_once('-')?;
    let plain = number == "0" || (number.bytes().all(|b| b.is_ascii_digit()) && !number.starts_with('0'));
    let number = number.parse().ok().filter(|n| plain && (0..super::MAX_PARTITIONS).contains(n))?;
    millrace_log::record::is_topic_name(topic).then(|| (topic.to_owned(), number))
}

/// Whom a finding is about.
#[derive(Debug, Clone, Default)]
struct Place {
    topic: Option<String>,
    partition: Option<i32>,
}

struct Check<'a> {
    fs: &'a dyn Filesystem,
    dir: &'a Path,
    repair: bool,
    /// A list of aborted transactions of the partition at hand is to be made again.
    lacks_aborted: bool,
    report: FsckReport,
}

impl Check<'_> {
    /// Notes a finding; `repair` is tried if asked for, and its failure told.
    fn find(
        &mut self,
        (severity, kind): (Severity, FindingKind),
        place: &Place,
        path: &Path,
        (what, cure): (String, &str),
        repair: impl FnOnce(&dyn Filesystem) -> io::Result<bool>,
    ) -> &mut Finding {
        let mut cure = cure.to_owned();
        let repaired = self.repair
            && repair(self.fs).unwrap_or_else(|e| {
                cure = format!("repairing it failed ({e}): {cure}");
                false
            });
        self.report.findings.push(Finding {
            severity,
            kind,
            topic: place.topic.clone(),
            partition: place.partition,
            path: path.to_owned(),
            position: None,
            bytes: None,
            offsets: None,
            what,
            cure,
            repaired,
        });
        self.report.findings.last_mut().expect("it was just put there")
    }

    fn left_over(&mut self, place: &Place, path: &Path, of: &str) {
        let what = (format!("is left over from {of}"), "the next start removes it, or repair does");
        self.find((Severity::Note, FindingKind::LeftOver), place, path, what, |fs| match fs.remove(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(true),
        });
    }

    fn version(&mut self) -> Result<(), StorageError> {
        let path = self.dir.join(catalog::VERSION_FILE);
        let found = match fs::read_all(self.fs, &path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(StorageError::io("read", &path)(e)),
        };
        match found.parse::<u32>() {
            Ok(catalog::FORMAT) => return Ok(()),
            Ok(newer) if newer > catalog::FORMAT => {
                return Err(StorageError::Newer { path: self.dir.to_owned(), found, known: catalog::FORMAT });
            }
            _ => {}
        }
        let what = if found.is_empty() { "is missing or empty".to_owned() } else { format!("`{found}` is no version") };
        let what = (what, "repair writes the version that the rest of the folder has");
        self.find((Severity::Error, FindingKind::Version), &Place::default(), &path, what, |fs| {
            fs::replace(fs, &path, format!("{}\n", catalog::FORMAT).as_bytes()).map(|()| true)
        });
        Ok(())
    }

    /// The topics; from the folders where the catalog is lost.
    fn catalog(&mut self, folders: &BTreeMap<String, (String, i32)>) -> Result<Vec<TopicEntry>, StorageError> {
        let path = self.dir.join(catalog::CATALOG_FILE);
        let read = match fs::read_all(self.fs, &path) {
            Ok(bytes) => serde_json::from_slice::<Catalog>(&bytes).map_err(|e| format!("can't be understood ({e})")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err("is missing".to_owned()),
            Err(e) => return Err(StorageError::io("read", &path)(e)),
        };
        let reason = match read {
            Ok(catalog) => return Ok(catalog.topics),
            Err(reason) => reason,
        };
        let mut counts: BTreeMap<&str, i32> = BTreeMap::new();
        for (topic, number) in folders.values() {
            let count = counts.entry(topic).or_default();
            *count = (*count).max(number + 1);
        }
        let entry = |(name, partitions): (&str, i32)| TopicEntry {
            name: name.to_owned(),
            id: uuid::Builder::from_random_bytes(rand::random()).into_uuid(),
            partitions,
            settings: TopicSettings::default(),
            deleting: false,
        };
        let rebuilt = Catalog { topics: counts.into_iter().map(entry).collect() };
        let (fs, dir) = (self.fs, self.dir);
        let what = (
            format!("the catalog {reason}"),
            "restore it from a backup; repair makes it again from the folders, with new ids and without settings",
        );
        self.find((Severity::Error, FindingKind::Catalog), &Place::default(), &path, what, |_| {
            match fs.rename(&path, &dir.join(format!("{}.damaged", catalog::CATALOG_FILE))) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            rebuilt.write(fs, dir).map(|()| true).map_err(io::Error::other)
        });
        Ok(rebuilt.topics)
    }

    fn orphan(&mut self, folder: &str) -> Result<(), StorageError> {
        let path = self.dir.join(folder);
        let entries = self.fs.list(&path).map_err(StorageError::io("read", &path))?;
        let mut bytes = 0;
        for entry in entries.iter().filter(|entry| entry.name.ends_with(".log")) {
            bytes += self.fs.open(&path.join(&entry.name)).and_then(|file| file.len()).unwrap_or(0);
        }
        let of = FindingKind::Orphan;
        if bytes == 0 {
            let what = ("holds no records, and no topic owns it".to_owned(), "repair removes it");
            self.find((Severity::Note, of), &Place::default(), &path, what, |fs| {
                fs.remove_dir_all(&path)?;
                Ok(true)
            });
        } else {
            let what = (
                format!("holds {bytes} bytes of records, and no topic of the catalog owns it"),
                "move it away if the topic was deleted; else stop, make the topic again, and put it back",
            );
            self.find((Severity::Warning, of), &Place::default(), &path, what, |_| Ok(false)).bytes = Some(bytes);
        }
        Ok(())
    }

    fn partition(&mut self, place: &Place, dir: &Path, exists: bool) -> Result<(), StorageError> {
        if !exists {
            let what = (
                "the partition's folder is missing".to_owned(),
                "restore it from a backup; the next start begins it anew, empty",
            );
            self.find((Severity::Error, FindingKind::MissingPartition), place, dir, what, |_| Ok(false));
            return Ok(());
        }
        let entries = self.fs.list(dir).map_err(StorageError::io("read", dir))?;
        if self.repair {
            // What it does is told below, from the names as they were.
            swap::recover(self.fs, dir).map_err(StorageError::io("finish a compaction in", dir))?;
        }
        let (mut bases, mut snapshots, mut start) = (Vec::new(), Vec::new(), 0);
        let (mut companions, mut replaced) = (Vec::new(), Vec::new());
        for entry in &entries {
            let path = dir.join(&entry.name);
            let name = entry.name.as_str();
            if entry.is_dir {
                if name != segment::DAMAGED_DIR {
                    self.unknown(place, &path);
                }
            } else if let Some(base) = segment::offset_of(name, "log") {
                // A compaction that is finished by now has replaced some.
                if !self.repair || self.fs.open(&path).is_ok() {
                    bases.push(base);
                }
            } else if let Some(offset) = segment::offset_of(name, "producers") {
                snapshots.push(offset);
            } else if let Some(base) = segment::COMPANIONS.iter().find_map(|ending| segment::offset_of(name, ending)) {
                companions.push((base, path));
            } else if name == START_FILE {
                start = self.log_start(place, &path, &entries)?;
            } else if name.ends_with(".tmp") {
                self.left_over(place, &path, "a write that was cut short");
            } else if let Some((base, until)) = swap::range_of(name) {
                replaced.push(base..until);
                let what = (
                    "a compaction that was cut short when its result counted already".to_owned(),
                    "the next start finishes it, or repair does",
                );
                self.find((Severity::Note, FindingKind::LeftOver), place, &path, what, |_| Ok(true));
            } else if name.ends_with(".cleaned") {
                self.left_over(place, &path, "a compaction that was cut short");
            } else if !log::OTHER_FILES.contains(&name) {
                self.unknown(place, &path);
            }
        }
        bases.sort_unstable();
        for (base, path) in companions.into_iter().filter(|(base, _)| !bases.contains(base)) {
            self.left_over(place, &path, &format!("the segment of offset {base}, which is gone"));
        }
        let mut sum = PartitionReport {
            topic: place.topic.clone().unwrap_or_default(),
            partition: place.partition.unwrap_or(0),
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
                    "lies before the earliest offset: a deletion that was cut short".to_owned(),
                    "the next start removes it",
                );
                let path = segment::path_of(dir, base, "log");
                self.find((Severity::Note, FindingKind::LeftOver), place, &path, what, |_| Ok(false));
                continue;
            }
            // It counts no more, and what stands beside it may be gone already: the start puts the new one in its place.
            if !self.repair && replaced.iter().any(|range| range.contains(&base)) {
                continue;
            }
            self.segment(place, dir, (base, next_base), &mut sum)?;
        }
        if self.repair && std::mem::take(&mut self.lacks_aborted) {
            find_aborted(self.fs, dir, &bases).map_err(StorageError::io("repair", dir))?;
        }
        for offset in snapshots {
            self.snapshot(place, &segment::path_of(dir, offset, "producers"), offset);
        }
        self.report.partitions.push(sum);
        Ok(())
    }

    fn unknown(&mut self, place: &Place, path: &Path) {
        let what = ("is none of ours".to_owned(), "it is left alone; move it away if nobody needs it here");
        self.find((Severity::Note, FindingKind::Unknown), place, path, what, |_| Ok(false));
    }

    fn log_start(&mut self, place: &Place, path: &Path, entries: &[fs::Entry]) -> Result<i64, StorageError> {
        let bytes = fs::read_all(self.fs, path).map_err(StorageError::io("read", path))?;
        let number = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
        if let Some(start) = number.filter(|n| *n >= 0) {
            return Ok(start);
        }
        let first = entries.iter().filter_map(|entry| segment::offset_of(&entry.name, "log")).min().unwrap_or(0);
        let what = (
            "does not hold the earliest offset: records that were deleted may show again".to_owned(),
            "delete them again after the next start; repair writes the offset of the first segment",
        );
        self.find((Severity::Warning, FindingKind::LogStart), place, path, what, |fs| {
            fs::replace(fs, path, format!("{first}\n").as_bytes()).map(|()| true)
        });
        Ok(0)
    }

    fn snapshot(&mut self, place: &Place, path: &Path, offset: i64) {
        let sound = fs::read_all(self.fs, path).is_ok_and(|bytes| Producers::decode(&bytes, offset).is_some());
        if !sound {
            let what = (
                "the state of producers as of this offset is damaged".to_owned(),
                "the next start takes an older one or makes it from the segments; repair removes it",
            );
            self.find((Severity::Warning, FindingKind::Snapshot), place, path, what, |fs| {
                fs.remove(path).map(|()| true)
            });
        }
    }

    fn segment(
        &mut self,
        place: &Place,
        dir: &Path,
        (base, next_base): (i64, Option<i64>),
        sum: &mut PartitionReport,
    ) -> Result<(), StorageError> {
        let fs = self.fs;
        let path = segment::path_of(dir, base, "log");
        // The last segment is gone through and indexed anew at a start after a crash.
        let is_finished = next_base.is_some() || self.report.clean_stop;
        let mut offsets = Entries::<OffsetEntry>::read(fs, &segment::path_of(dir, base, "index"));
        let mut times = Entries::<TimeEntry>::read(fs, &segment::path_of(dir, base, "timeindex"));
        let (mut holes, mut torn, mut since_entry, mut max_ms) = (Vec::new(), None, 0, i64::MIN);
        let mut end = base;
        let file = match fs.open(&path) {
            Ok(file) => file,
            Err(e) => return self.unreadable(place, &path, &e),
        };
        let walked = segment::walk(&*file, &path, base, next_base, |met| match met {
            Met::Batch { position, header, .. } => {
                max_ms = max_ms.max(header.max_timestamp);
                let has_entry = offsets.meet(|entry| {
                    let at = u64::from(entry.position);
                    (at <= position).then(|| at == position && base + i64::from(entry.relative) == header.last_offset())
                });
                times.meet(|entry| {
                    let last = base + i64::from(entry.relative);
                    (last <= header.last_offset()).then(|| last == header.last_offset() || entry.timestamp_ms <= max_ms)
                });
                if has_entry {
                    since_entry = 0;
                } else if since_entry > INDEX_INTERVAL {
                    offsets.fault.get_or_insert("has too few entries");
                }
                since_entry += header.size() as u64;
                sum.batches += 1;
                sum.records += u64::try_from(header.count).unwrap_or(0);
                end = header.next_offset();
            }
            Met::Damage(hole) => holes.push(hole),
            Met::Torn { position, bytes } => torn = Some((position, bytes)),
        });
        match walked.and_then(|()| file.len()) {
            Ok(len) => sum.bytes += len,
            Err(e) => return self.unreadable(place, &path, &e),
        }
        sum.segments += 1;
        sum.log_end_offset = sum.log_end_offset.max(end);
        let known = self.known_holes(place, &segment::path_of(dir, base, "holes"));
        let mut recover = false;
        for hole in &holes {
            recover |= !known.contains(&hole.position);
            self.hole(place, hole, known.contains(&hole.position));
        }
        if let Some((position, bytes)) = torn {
            recover = true;
            let what = (
                format!("{bytes} bytes of a torn write at the end, which was never acknowledged"),
                "the next start cuts them, or repair does",
            );
            let kind = (if is_finished { Severity::Error } else { Severity::Note }, FindingKind::TornTail);
            let finding = self.find(kind, place, &path, what, |_| Ok(true));
            (finding.position, finding.bytes) = (Some(position), Some(bytes));
        }
        if is_finished {
            for (ending, fault) in [("index", offsets.verdict()), ("timeindex", times.verdict())] {
                let Some(fault) = fault else { continue };
                recover = true;
                let what = (fault.to_owned(), "the next start or the first look makes it again, or repair does");
                let path = segment::path_of(dir, base, ending);
                self.find((Severity::Warning, FindingKind::Index), place, &path, what, |_| Ok(true));
            }
        }
        if next_base.is_some() {
            self.aborted(place, &segment::path_of(dir, base, "txnindex"), (base, end.max(next_base.unwrap_or(end))))?;
        }
        if recover && self.repair {
            let recovered = Segment::recover(fs, dir, base, next_base, 0, |_, _| None);
            recovered.map_err(StorageError::io("repair", &path))?;
            // Which transactions were aborted there only the whole partition can tell.
            match fs.remove(&segment::path_of(dir, base, "txnindex")) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(StorageError::io("remove the transaction index of", &path)(e));
                }
                _ => self.lacks_aborted = true,
            }
            holes.iter().for_each(|hole| segment::set_aside(fs, hole));
        }
        Ok(())
    }

    fn aborted(&mut self, place: &Place, path: &Path, (base, end): (i64, i64)) -> Result<(), StorageError> {
        let index = TxnIndex::open(self.fs, path, base, end).map_err(StorageError::io("read", path))?;
        if index.is_missing() {
            let what = (
                "the list of aborted transactions is missing or damaged".to_owned(),
                "the next start makes it again from the batches, or repair does",
            );
            self.find((Severity::Warning, FindingKind::Index), place, path, what, |_| Ok(true));
            self.lacks_aborted = true;
        }
        Ok(())
    }

    fn unreadable(&mut self, place: &Place, path: &Path, cause: &io::Error) -> Result<(), StorageError> {
        let what = (format!("can't be read ({cause})"), "check the disk; restore the file from a backup");
        self.find((Severity::Error, FindingKind::Unreadable), place, path, what, |_| Ok(false));
        Ok(())
    }

    /// Positions that readers pass over already.
    fn known_holes(&mut self, place: &Place, path: &Path) -> BTreeSet<u64> {
        let bytes = match fs::read_all(self.fs, path) {
            Ok(bytes) => bytes,
            Err(_) => return BTreeSet::new(),
        };
        match serde_json::from_slice::<Vec<Hole>>(&bytes) {
            Ok(holes) => holes.into_iter().map(|hole| hole.position).collect(),
            Err(e) => {
                let what = (
                    format!("the list of damaged places can't be understood ({e})"),
                    "the next start makes it again, or repair does",
                );
                self.find((Severity::Warning, FindingKind::HoleList), place, path, what, |fs| {
                    fs.remove(path).map(|()| true)
                });
                BTreeSet::new()
            }
        }
    }

    fn hole(&mut self, place: &Place, hole: &Hole, is_known: bool) {
        let Hole { position, bytes, from_offset, to_offset, .. } = *hole;
        let lost = format!("{bytes} damaged bytes, the records [{from_offset}, {to_offset}) are lost");
        let (severity, what, cure) = if is_known {
            (Severity::Warning, format!("{lost}; set aside before"), "readers pass over it; check the disk")
        } else {
            (Severity::Error, lost, "check the disk; restore the file from a backup, or let repair set the bytes aside")
        };
        let kind = (severity, FindingKind::Hole);
        let finding = self.find(kind, place, &hole.file.clone(), (what, cure), |_| Ok(!is_known));
        finding.position = Some(position);
        finding.bytes = Some(bytes);
        finding.offsets = Some((from_offset, to_offset));
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

/// The entries of an index file, compared with the batches as they come by.
struct Entries<E> {
    entries: std::iter::Peekable<std::vec::IntoIter<E>>,
    fault: Option<&'static str>,
}

impl<E: IndexEntry> Entries<E> {
    fn read(fs: &dyn Filesystem, path: &Path) -> Self {
        let (bytes, mut fault) = match fs::read_all(fs, path) {
            Ok(bytes) => (bytes, None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => (Vec::new(), Some("is missing")),
            Err(_) => (Vec::new(), Some("can't be read")),
        };
        let chunks = bytes.chunks_exact(E::SIZE);
        if !chunks.remainder().is_empty() {
            fault = Some("ends within an entry");
        }
        let entries: Vec<E> = chunks.filter_map(E::read).collect();
        if !entries.is_sorted_by(|before, after| after.follows(before)) {
            fault = Some("has entries that do not rise");
        }
        Self { entries: entries.into_iter().peekable(), fault }
    }

    /// Takes the entries that are due: `judge` says `None` for one that comes later, else whether it is right.
    /// Returns whether a right one was among them.
    fn meet(&mut self, judge: impl Fn(&E) -> Option<bool>) -> bool {
        let mut met = false;
        while let Some(right) = self.entries.peek().and_then(&judge) {
            self.entries.next();
            met |= right;
            if !right {
                self.fault.get_or_insert("has an entry that does not fit the segment");
            }
        }
        met
    }

    fn verdict(mut self) -> Option<&'static str> {
        let rest = self.entries.next().is_some();
        self.fault.or(rest.then_some("has entries beyond the end of the segment"))
    }
}
