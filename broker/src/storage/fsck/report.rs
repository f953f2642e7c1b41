//! What a check of a data folder finds: findings with their severity and cure, and what each partition holds.
//!
//! In: findings. Out: a report, also as JSON. Touches nothing.

use std::path::PathBuf;

use serde::Serialize;

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
    /// A file left by a write or an interrupted compaction.
    LeftOver,
    /// A file that does not belong to the log.
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
