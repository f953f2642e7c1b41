//! What a split says of itself: [`SplitMeta`] for the catalog, and the list of files with sizes and checksums.
//!
//! In: counts of the writer. Out: `split.json` and back. Touches that file. Leaves the pruning by it to catalog and reader.

use millrace_log::record::{Labels, Tenant};
use serde::{Deserialize, Serialize};

/// Version of the folder's layout: of every file in it.
pub const FORMAT_VERSION: u32 = 1;

/// Streams that a [`SplitMeta`] lists at most; the split itself keeps all of them.
pub const MAX_META_STREAMS: usize = 1000;

/// Description of a split: small enough to be kept in the catalog.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SplitMeta {
    /// [`FORMAT_VERSION`] of the writer.
    pub version: u32,
    /// Name of the tenant.
    pub tenant: String,
    /// Number of events.
    pub rows: u64,
    /// Bytes of their lines.
    pub raw_bytes: u64,
    /// Bytes of the folder's files.
    pub disk_bytes: u64,
    /// Time of the oldest event, ns since 1970; 0 without events.
    pub min_time_ns: i64,
    /// Time of the newest event (inclusive), ns since 1970; 0 without events.
    pub max_time_ns: i64,
    /// Events with an Elasticsearch identity.
    pub documents: u64,
    /// Number of streams, also of those not listed.
    pub streams_total: u64,
    /// The first [`MAX_META_STREAMS`] streams by labels and topic. Shorter than `streams_total`: ask the reader.
    pub streams: Vec<StreamMeta>,
}

/// One stream of a split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamMeta {
    /// Labels, sorted by name.
    pub labels: Vec<(String, String)>,
    /// Topic it came through.
    pub topic: String,
    /// Number of events.
    pub rows: u64,
    /// Bytes of their lines.
    pub bytes: u64,
    /// Events with an Elasticsearch identity.
    pub documents: u64,
    /// Time of the oldest event.
    pub min_time_ns: i64,
    /// Time of the newest event, inclusive.
    pub max_time_ns: i64,
}

impl SplitMeta {
    /// Whether an event of [start, end) may be in the split.
    pub fn overlaps(&self, start_ns: i64, end_ns: i64) -> bool {
        self.rows > 0 && self.min_time_ns < end_ns && self.max_time_ns >= start_ns
    }

    /// Whether `streams` lists all.
    pub fn lists_all_streams(&self) -> bool {
        self.streams.len() as u64 == self.streams_total
    }

    pub(crate) fn belongs_to(&self, tenant: &Tenant) -> bool {
        self.tenant == tenant.as_str()
    }
}

impl StreamMeta {
    /// The labels as the rest of the program holds them.
    pub fn labels(&self) -> Labels {
        Labels::new(self.labels.iter().map(|(n, v)| (n.as_str(), v.as_str())))
    }
}
