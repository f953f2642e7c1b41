//! What is searchable: the splits that the catalog lists and the chunks of recent events, and which of them concern a plan.
//!
//! In: catalog rows, chunks. Out: one consistent view of a tenant's events. Touches nothing.
//!
//! A scan copies its part of the list (counted references) and never looks again: whatever is swapped meanwhile, each row is
//! in exactly one chunk or split of its copy. A folder is deleted only when no copy names its split any more ([`LiveSplit`]
//! counts as the pin).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::catalog::SplitRecord;
use crate::head::{self, Chunk};
use crate::rows;
use crate::scan::{DamagedSplit, Plan, StreamInfo};

/// A split that is searched. Whoever holds one keeps its folder.
#[derive(Debug)]
pub struct LiveSplit {
    /// What the catalog says of it.
    pub record: SplitRecord,
    /// Its folder.
    pub dir: PathBuf,
    /// Its streams, label sets shared with other splits (those of `record.meta` are emptied).
    pub(crate) streams: Vec<LiveStream>,
    /// Whether `streams` is the whole list; otherwise the reader is asked.
    pub(crate) lists_all: bool,
    pub(crate) set_aside: AtomicBool,
    /// The system refused to read it; upkeep reads it again until it can be read.
    pub(crate) unreadable: AtomicBool,
}

/// A stream of a split.
#[derive(Debug)]
pub(crate) struct LiveStream {
    pub(crate) info: StreamInfo,
    pub(crate) rows: u64,
    pub(crate) documents: u64,
    pub(crate) bytes: u64,
    pub(crate) min_ns: i64,
    pub(crate) max_ns: i64,
}

impl LiveSplit {
    /// Whether a row of the plan may be in it.
    pub(crate) fn concerns(&self, plan: &Plan) -> bool {
        let meta = &self.record.meta;
        if self.set_aside.load(Ordering::Relaxed) || !meta.overlaps(plan.start_ns, plan.end_ns) {
            return false;
        }
        if head::rows_of_kind(plan.kind, meta.rows, meta.documents) == 0 {
            return false;
        }
        !self.lists_all || self.streams.iter().any(|s| s.concerns(plan))
    }

    /// What is missing from answers when it is damaged.
    pub(crate) fn damage(&self) -> DamagedSplit {
        let meta = &self.record.meta;
        let (min_ns, max_ns) = (meta.min_time_ns, meta.max_time_ns);
        DamagedSplit { split: self.record.id.to_string(), rows: meta.rows, min_ns, max_ns }
    }

    /// Whether it was found damaged, or could not be read for long: queries go on without it.
    pub fn is_set_aside(&self) -> bool {
        self.set_aside.load(Ordering::Relaxed)
    }

    /// Whether the system refused to read it, and upkeep has not read it since.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.unreadable.load(Ordering::Relaxed)
    }
}

impl LiveStream {
    /// Whether a row of the plan may be in it.
    pub(crate) fn concerns(&self, plan: &Plan) -> bool {
        self.min_ns < plan.end_ns
            && self.max_ns >= plan.start_ns
            && head::rows_of_kind(plan.kind, self.rows, self.documents) > 0
            && rows::stream_matches(&plan.matchers, &self.info.labels)
    }
}

/// Chunks of one part that is being published.
pub type Sealed = Arc<Vec<Arc<Chunk>>>;

/// The list of all that is searchable.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// The part that fills.
    pub(crate) active: Vec<Arc<Chunk>>,
    /// Parts that are being published, with their numbers.
    pub(crate) sealed: Vec<(u64, Sealed)>,
    /// By tenant.
    pub(crate) splits: HashMap<String, Vec<Arc<LiveSplit>>>,
    /// Number of the next sealed part.
    pub(crate) next_part: u64,
}

impl Live {
    /// Chunks of recent events.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = &Arc<Chunk>> {
        self.sealed.iter().flat_map(|(_, part)| part.iter()).chain(&self.active)
    }

    /// Lists splits under their tenants.
    pub(crate) fn add(&mut self, splits: Vec<Arc<LiveSplit>>) {
        for split in splits {
            self.splits.entry(split.record.meta.tenant.clone()).or_default().push(split);
        }
    }
}

/// One consistent view of a tenant's events.
pub(crate) struct Snapshot {
    /// Recent events that may concern the plan.
    pub(crate) chunks: Vec<Arc<Chunk>>,
    /// Splits that do.
    pub(crate) splits: Vec<Arc<LiveSplit>>,
    /// Changes of documents up to here are seen.
    pub(crate) change: u64,
}
