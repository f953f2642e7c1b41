//! Live records for whoever wants to look: as they were read, as the log has them, and what was dropped.
//!
//! In: records on their way ([`View`]). Out: [`Seen`] records, through a bounded queue for each [`Tap`]. Touches nothing.
//!
//! Looking never slows the agent. While nobody looks, a batch costs one look at a number. A tap that is too slow, or whose
//! filter takes more than a tenth of the time, misses records and can ask how many ([`Tap::missed`]); nothing waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use millrace_log::record::{Labels, Tenant, TopicPartition};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// Taps at once.
const MAX_TAPS: usize = 16;
/// Records that wait for one at most.
const QUEUE: usize = 1024;
/// Bytes that wait for one at most.
const QUEUE_BYTES: usize = 4 << 20;
/// Longer lines are shown up to here.
const MAX_SHOWN: usize = 64 << 10;
/// Filtering may take so much of each [`TURN`].
const FILTER_TIME: Duration = Duration::from_millis(100);
/// See [`FILTER_TIME`].
const TURN: Duration = Duration::from_secs(1);

/// Where a record is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// As its source had it, before transforms.
    Read,
    /// As the log has taken it.
    Sent,
    /// Dropped by a transform, or on its way to the dead letters.
    Dropped,
}

/// A record, to be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Where.
    pub stage: Stage,
    /// `file`, or the type of another source.
    pub kind: String,
    /// The file, or the name of another source.
    pub source: String,
    /// Its place in the source: with the id of the source, what identifies the record.
    pub position: u64,
    /// Event time, ns since 1970.
    pub time_ns: i64,
    /// Topic and partition, once it is there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub topic: Option<String>,
    /// Why it was dropped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Labels of its stream.
    pub labels: BTreeMap<String, String>,
    /// Structured metadata.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub metadata: BTreeMap<String, String>,
    /// The line; bytes that are no UTF-8 are U+FFFD.
    pub line: String,
    /// Bytes of the line that are not shown here.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub not_shown: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde asks
fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl Seen {
    fn size(&self) -> usize {
        let pairs = self.labels.iter().chain(&self.metadata).map(|(n, v)| n.len() + v.len() + 48).sum::<usize>();
        size_of::<Self>() + self.line.len() + self.source.len() + pairs
    }
}

/// Decides by labels, metadata and line which records are shown.
pub type TapFilter = Arc<dyn Fn(&Labels, &Labels, i64, &[u8]) -> bool + Send + Sync>;

/// What to look at.
#[derive(Clone, Default)]
pub struct TapOptions {
    /// Whose records.
    pub tenant: Tenant,
    /// Stages; empty: all.
    pub stages: Vec<Stage>,
    /// Part of the source's name; empty: all sources.
    pub source: String,
    /// Which records; `None`: all.
    pub filter: Option<TapFilter>,
}

/// Somebody looks: gives records until the agent stops, and ends when it is dropped.
pub struct Tap {
    records: mpsc::Receiver<Seen>,
    counts: Arc<Counts>,
}

impl Tap {
    /// The next record; `None`: the agent has stopped.
    pub async fn next(&mut self) -> Option<Seen> {
        let seen = self.records.recv().await?;
        self.counts.waiting.fetch_sub(seen.size(), Ordering::AcqRel);
        Some(seen)
    }

    /// Records that might have been of interest and were not shown, since the last call.
    pub fn missed(&self) -> u64 {
        self.counts.missed.swap(0, Ordering::AcqRel)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.counts.gone.store(true, Ordering::Release);
    }
}

/// What both sides of a tap know.
#[derive(Default)]
struct Counts {
    /// Bytes in the queue.
    waiting: AtomicUsize,
    missed: AtomicU64,
    /// Nobody looks any longer.
    gone: AtomicBool,
}

/// The agent's side of a tap.
struct Looker {
    options: TapOptions,
    records: mpsc::Sender<Seen>,
    counts: Arc<Counts>,
    /// When this turn began, and how long filtering took in it.
    turn: Mutex<(Instant, Duration)>,
}

/// A record on its way, borrowed.
pub(crate) struct View<'a> {
    /// Whose it is, as the record's header has it; absent: the default tenant.
    pub tenant: Option<&'a [u8]>,
    pub position: u64,
    pub time_ns: i64,
    pub labels: &'a [u8],
    pub metadata: Option<&'a [u8]>,
    pub line: &'a [u8],
    pub topic: Option<&'a TopicPartition>,
    pub reason: Option<&'a str>,
}

/// Why nobody more can look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TapError {
    /// Too many do.
    #[error("{MAX_TAPS} taps are open already: end one of them")]
    TooMany,
    /// The agent has stopped.
    #[error("the agent has stopped")]
    Stopped,
}

#[derive(Default)]
struct Lookers {
    open: RwLock<Vec<Arc<Looker>>>,
    /// Length of `open`: what a batch looks at.
    count: AtomicUsize,
    closed: AtomicBool,
}

/// All taps of an agent. Cheap to clone.
#[derive(Clone, Default)]
pub struct Taps(Arc<Lookers>);

impl std::fmt::Debug for Taps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Taps({})", self.0.count.load(Ordering::Relaxed))
    }
}

impl Taps {
    /// Looks at what passes from now on.
    pub fn open(&self, options: TapOptions) -> Result<Tap, TapError> {
        let (sender, records) = mpsc::channel(QUEUE);
        let looker = Arc::new(Looker {
            options,
            records: sender,
            counts: Arc::default(),
            turn: Mutex::new((Instant::now(), Duration::ZERO)),
        });
        let mut open = self.0.open.write();
        if self.0.closed.load(Ordering::Acquire) {
            return Err(TapError::Stopped);
        }
        open.retain(|looker| !looker.counts.gone.load(Ordering::Acquire));
        if open.len() >= MAX_TAPS {
            return Err(TapError::TooMany);
        }
        let counts = looker.counts.clone();
        open.push(looker);
        self.0.count.store(open.len(), Ordering::Release);
        Ok(Tap { records, counts })
    }

    /// Ends all taps, for good.
    pub(crate) fn close(&self) {
        let mut open = self.0.open.write();
        self.0.closed.store(true, Ordering::Release);
        open.clear();
        self.0.count.store(0, Ordering::Release);
    }

    /// Whether nobody looks.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) == 0
    }

    /// Shows records of one source at a stage.
    pub(crate) fn show<'v>(
        &self,
        stage: Stage,
        kind: &str,
        source: &str,
        views: impl Iterator<Item = View<'v>> + Clone,
    ) {
        let mut some_gone = false;
        {
            let open = self.0.open.read();
            for looker in &*open {
                let options = &looker.options;
                if looker.counts.gone.load(Ordering::Acquire) {
                    some_gone = true;
                } else if (options.stages.is_empty() || options.stages.contains(&stage))
                    && source.contains(&options.source)
                {
                    looker.look(stage, kind, source, views.clone());
                }
            }
        }
        if some_gone {
            let mut open = self.0.open.write();
            open.retain(|looker| !looker.counts.gone.load(Ordering::Acquire));
            self.0.count.store(open.len(), Ordering::Release);
        }
    }
}

/// Labels as a header has them.
fn labels_of(header: &[u8]) -> Labels {
    Labels::from_json(header).unwrap_or_default()
}

fn pairs(labels: &Labels) -> BTreeMap<String, String> {
    labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

impl Looker {
    fn look<'v>(&self, stage: Stage, kind: &str, source: &str, views: impl Iterator<Item = View<'v>>) {
        let began = Instant::now();
        let mut left = {
            let mut turn = self.turn.lock();
            if began - turn.0 >= TURN {
                *turn = (began, Duration::ZERO);
            }
            FILTER_TIME.saturating_sub(turn.1)
        };
        // Neighbours mostly share their labels.
        let mut last: Option<(&[u8], Labels)> = None;
        let mut missed = 0;
        let wanted_tenant = self.options.tenant.as_str().as_bytes();
        let views = views.filter(|view| view.tenant.unwrap_or(Tenant::DEFAULT.as_bytes()) == wanted_tenant);
        for (n, view) in views.enumerate() {
            // The clock is looked at now and then only.
            if n % 64 == 63 {
                left = if began.elapsed() < left { left } else { Duration::ZERO };
            }
            if left.is_zero() || self.counts.waiting.load(Ordering::Acquire) > QUEUE_BYTES {
                missed += 1;
                continue;
            }
            let labels = match last.take() {
                Some((header, labels)) if header == view.labels => labels,
                _ => labels_of(view.labels),
            };
            let metadata = view.metadata.map(labels_of).unwrap_or_default();
            let wanted = match &self.options.filter {
                Some(filter) => filter(&labels, &metadata, view.time_ns, view.line),
                None => true,
            };
            if wanted && !self.give(stage, kind, source, &view, &labels, &metadata) {
                missed += 1;
            }
            last = Some((view.labels, labels));
        }
        self.counts.missed.fetch_add(missed, Ordering::AcqRel);
        self.turn.lock().1 += began.elapsed();
    }

    fn give(
        &self,
        stage: Stage,
        kind: &str,
        source: &str,
        view: &View<'_>,
        labels: &Labels,
        metadata: &Labels,
    ) -> bool {
        let Ok(place) = self.records.try_reserve() else { return false };
        let shown = view.line.get(..MAX_SHOWN).unwrap_or(view.line);
        let seen = Seen {
            stage,
            kind: kind.to_owned(),
            source: source.to_owned(),
            position: view.position,
            time_ns: view.time_ns,
            topic: view.topic.map(ToString::to_string),
            reason: view.reason.map(str::to_owned),
            labels: pairs(labels),
            metadata: pairs(metadata),
            line: String::from_utf8_lossy(shown).into_owned(),
            not_shown: view.line.len() - shown.len(),
        };
        self.counts.waiting.fetch_add(seen.size(), Ordering::AcqRel);
        place.send(seen);
        true
    }
}
