//! The list of what the index has: splits, how far each partition was consumed, the highest position of each source,
//! holes. One publication is one transaction.
//!
//! In: [`Publication`]s and [`Replacement`]s. Out: [`CatalogState`] at the start. Touches nothing: `sled_catalog` keeps it.
//! Leaves to others: the folders of splits, what is searchable at the moment.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use millrace_log::consume::{Hole, Interval};
use millrace_log::record::{Position, SourceId, TopicPartition};
use millrace_log::topic_id::TopicId;
use serde::{Deserialize, Serialize};

use crate::ledger::{Amount, Ledger, TopicCounts};
use crate::split::SplitMeta;
use crate::state::StateError;

/// Name of a split and of its folder: time of its making and a random part, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SplitId(Arc<str>);

impl SplitId {
    /// A new one, later ones sort behind.
    pub fn new(now_ms: i64) -> Self {
        Self(format!("{:012x}-{:016x}", now_ms.max(0), rand::random::<u64>()).into())
    }

    /// The folder's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SplitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One split as the catalog lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SplitRecord {
    /// Its name and that of its folder.
    pub id: SplitId,
    /// How many merges it went through.
    pub level: u8,
    /// When it was published, ms since 1970; of merged ones the latest of their inputs.
    pub published_ms: i64,
    /// What was consumed for it; empty for merged ones.
    pub intervals: Vec<Interval>,
    /// What it says of itself.
    pub meta: SplitMeta,
}

/// How far one partition was consumed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// Which life of the partition.
    pub epoch: u64,
    /// Where reading began.
    pub start: i64,
    /// Where to read on.
    pub next: i64,
    /// The id of the topic in that life; rows of earlier versions, and those of logs without ids, have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<TopicId>,
    /// The publication that wrote this, so that one that is repeated after a lost answer is known.
    pub publication: String,
}

/// One source in one partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceKey {
    /// The partition that it writes to.
    pub partition: TopicPartition,
    /// The source.
    pub source: SourceId,
}

/// What is known of one source in one partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    /// Highest position consumed: offset,
    pub offset: u64,
    /// and sub-number.
    pub sub: u32,
    /// When its last event was consumed, ms since 1970.
    pub seen_ms: i64,
    /// Its events in the index.
    pub stored: Amount,
    /// Its events that came again.
    pub duplicate: Amount,
}

impl SourceState {
    /// The highest position.
    pub fn position(&self) -> Position {
        Position { offset: self.offset, sub: self.sub }
    }
}

/// All that one publication makes durable together.
#[derive(Debug, Clone, Default)]
pub struct Publication {
    /// Its own random name.
    pub id: String,
    /// New splits, one per tenant; none if all records were duplicates or dead letters.
    pub splits: Vec<SplitRecord>,
    /// What was consumed, at most one stretch per partition.
    pub intervals: Vec<Interval>,
    /// Holes that lie before these stretches.
    pub holes: Vec<Hole>,
    /// Sources that had events, with their new highest positions.
    pub sources: Vec<(SourceKey, SourceState)>,
    /// Sources to forget.
    pub forgotten: Vec<SourceKey>,
    /// Counts to add, by topic.
    pub counts: BTreeMap<String, TopicCounts>,
}

/// Splits that take the place of others, or of nothing (retention).
#[derive(Debug, Clone, Default)]
pub struct Replacement {
    /// Tenant of all of them.
    pub tenant: String,
    /// Splits that go.
    pub removed: Vec<SplitId>,
    /// Splits that come.
    pub added: Vec<SplitRecord>,
    /// Rows left out because a newer document took their place.
    pub replaced: Amount,
    /// Rows removed by retention.
    pub expired: Amount,
}

/// All that the catalog has, as it is read at the start.
#[derive(Debug, Clone, Default)]
pub struct CatalogState {
    /// Splits of all tenants.
    pub splits: Vec<SplitRecord>,
    /// The present life of each partition.
    pub partitions: HashMap<TopicPartition, PartitionState>,
    /// Highest positions.
    pub sources: HashMap<SourceKey, SourceState>,
    /// Counts and holes.
    pub ledger: Ledger,
}

/// Why the catalog refused.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Disk or sled.
    #[error("catalog failed")]
    State(#[from] StateError),
    /// A row is not what was written.
    #[error("catalog has a damaged row in `{tree}`: restore the folder `index/catalog` from a copy")]
    Damaged {
        /// Which tree.
        tree: &'static str,
        /// What the JSON reader says.
        #[source]
        source: serde_json::Error,
    },
    /// Offsets would be counted twice: a bug, never to be skipped over.
    #[error(
        "offsets [{}, {}) of {}-{} overlap what was published before (next is {next}, epoch {epoch}): nothing was written; this is a bug, please report it",
        interval.from, interval.to, interval.topic, interval.partition
    )]
    Overlap {
        /// What was to be published.
        interval: Interval,
        /// Where the catalog stands.
        next: i64,
        /// Its epoch.
        epoch: u64,
    },
    /// Offsets would be left out without a word: a bug, never to be skipped over.
    #[error(
        "offsets [{next}, {}) of {}-{} would be skipped without a hole: nothing was written; this is a bug, please report it",
        interval.from, interval.topic, interval.partition
    )]
    Gap {
        /// What was to be published.
        interval: Interval,
        /// Where the catalog stands.
        next: i64,
    },
    /// A split to be replaced is not there (any more).
    #[error("split {id} is not in the catalog: nothing was replaced")]
    Missing {
        /// Its name.
        id: SplitId,
    },
    /// The process is ending.
    #[error("catalog was stopped")]
    Stopped,
}

impl CatalogError {
    /// Whether repeating can't help: a bug or damage.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Overlap { .. } | Self::Gap { .. } | Self::Damaged { .. } | Self::Stopped)
    }
}

/// Where publications are made durable. Async and fallible: a shared catalog of several aggregators fits behind it.
#[async_trait::async_trait]
pub trait Catalog: Send + Sync + 'static {
    /// All there is.
    async fn load(&self) -> Result<CatalogState, CatalogError>;

    /// Highest positions and counts of all sources, as of the last publication.
    async fn sources(&self) -> Result<HashMap<SourceKey, SourceState>, CatalogError>;

    /// Writes a publication, durable when it returns; all of it or nothing. Repeating the same one does nothing.
    async fn publish(&self, publication: Publication) -> Result<(), CatalogError>;

    /// Replaces splits, durable when it returns; all of it or nothing.
    async fn replace(&self, replacement: Replacement) -> Result<(), CatalogError>;
}
