//! What doors (Loki, Elasticsearch, page) ask of the index, and what it answers: plans in, batches of rows out.
//!
//! In: a [`Plan`]. Out: [`RowBatch`]es in the order asked for, over recent events and splits alike. Touches nothing
//! itself. Leaves parsing of lines, aggregation and everything that is said in LogQL or the Elasticsearch DSL to the
//! doors.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use millrace_log::record::{DocIdentity, Labels, Position, SourceId, Tenant};
pub use millrace_logql::aggregate::{Aggregation, GroupBy, LineTest, NoPartial, Partial, StreamGroups, Windows};
pub use millrace_logql::budget::{Asker, Budget, OverBudget, Watch};
pub use millrace_logql::pool::MemoryPool;
pub use millrace_logql::storage::{LabelMatcher, LineNeedle, MatchOp, Order, QueryLimits, Stats, StorageError};

/// One question to the index.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Whose events.
    pub tenant: Tenant,
    /// All must match the labels of the stream.
    pub matchers: Vec<LabelMatcher>,
    /// Event time in ns since 1970: [start, end).
    pub start_ns: i64,
    /// Exclusive.
    pub end_ns: i64,
    /// Every wanted line contains each of these; lines that don't may still come.
    pub needles: Vec<LineNeedle>,
    /// Which events.
    pub kind: Kind,
    /// Order of the rows over all batches; ties by (source, position).
    pub order: Order,
    /// Rows after which the caller will usually stop.
    pub expect: Option<usize>,
    /// What the request may still cost: the index counts bytes read and memory, and looks at it inside its loops. Dropping
    /// the stream ends the scan as well.
    pub budget: Budget,
}

/// Which events a plan asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// Lines and the live documents of client indices.
    #[default]
    All,
    /// Only lines that did not come by `_bulk`.
    Lines,
    /// Only documents that came by `_bulk`.
    Documents,
}

/// One event of a batch.
#[derive(Debug, Clone)]
pub struct Row {
    /// Index into [`RowBatch::streams`].
    pub stream: u32,
    /// Event time, ns since 1970.
    pub time_ns: i64,
    /// Bytes of the line in [`RowBatch::text`].
    pub line: Range<u32>,
    /// Structured metadata; `None` for most.
    pub metadata: Option<Labels>,
    /// Where it came from.
    pub source: SourceId,
    /// Its place there.
    pub position: Position,
    /// Elasticsearch identity, for documents.
    pub doc: Option<Arc<DocIdentity>>,
}

/// Labels of a stream and the topic that it came through (index `millrace-<topic>` of the Elasticsearch API).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StreamInfo {
    /// Labels of the stream.
    pub labels: Labels,
    /// Topic it came through.
    pub topic: Arc<str>,
}

/// Neighbouring rows in the order asked for. Replaced and deleted documents are left out.
#[derive(Debug, Clone, Default)]
pub struct RowBatch {
    /// Streams that the rows name.
    pub streams: Vec<StreamInfo>,
    /// Lines, one after the other, as written (may be no UTF-8).
    pub text: Bytes,
    /// The rows.
    pub rows: Vec<Row>,
}

impl RowBatch {
    /// The line of a row of this batch.
    pub fn line(&self, row: &Row) -> &[u8] {
        self.text.get(row.line.start as usize..row.line.end as usize).unwrap_or_default()
    }
}

/// A split that is damaged, missing or unreadable: what it has is in no answer until that ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "split {split} is damaged, missing or unreadable and was left out: up to {rows} events from {} to {}",
    time(*.min_ns),
    time(*.max_ns)
)]
pub struct DamagedSplit {
    /// Its id, the name of its folder.
    pub split: String,
    /// How many events it has.
    pub rows: u64,
    /// Time of its first event, ns since 1970.
    pub min_ns: i64,
    /// Time of its last event.
    pub max_ns: i64,
}

fn time(ns: i64) -> String {
    chrono::DateTime::from_timestamp_nanos(ns).to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// Batches as they are found.
pub type RowStream = Pin<Box<dyn Stream<Item = Result<RowBatch, StorageError>> + Send>>;

/// Counts a row of a batch; `false` if it needs more than counting.
pub(crate) fn count(
    partial: &mut Partial,
    groups: &mut StreamGroups,
    batch: &RowBatch,
    row: &Row,
) -> Result<bool, OverBudget> {
    let Some(stream) = batch.streams.get(row.stream as usize) else { return Ok(true) };
    let (line, metadata) = (batch.line(row), row.metadata.as_ref().map(Labels::pairs));
    let labels = stream.labels.pairs();
    match partial.add(groups, row.stream as usize, labels, metadata, row.time_ns, line, line.len()) {
        Ok(()) => Ok(true),
        Err(NoPartial::NeedsRows) => Ok(false),
        Err(NoPartial::Over(over)) => Err(over),
    }
}

/// The index as its doors see it.
#[async_trait::async_trait]
pub trait EventStore: Send + Sync + 'static {
    /// Rows that a plan asks for, in order.
    async fn scan(&self, plan: Plan) -> Result<RowStream, StorageError>;

    /// What the rows of a plan add up to, by windows of time and labels: each part of the store by itself, then merged.
    /// `None`: a row needs more than counting, the caller scans instead. This form reads all rows.
    async fn aggregate(&self, plan: Plan, aggregation: Arc<Aggregation>) -> Result<Option<Partial>, StorageError> {
        let budget = plan.budget.clone();
        let mut partial = Partial::new(aggregation, &budget)?;
        let mut batches = self.scan(plan).await?;
        while let Some(batch) = budget.within(batches.next()).await? {
            let batch = batch?;
            let mut groups = StreamGroups::default();
            for row in &batch.rows {
                if !count(&mut partial, &mut groups, &batch, row)? {
                    return Ok(None);
                }
            }
        }
        Ok(Some(partial))
    }

    /// Streams that match and have a row in the range (the whole range of a split may count), with their sizes.
    async fn streams(&self, plan: Plan) -> Result<Vec<(StreamInfo, Stats)>, StorageError>;

    /// Damaged splits of a tenant that overlap [start, end): every answer that they are missing from names them.
    fn damaged(&self, _tenant: &Tenant, _start_ns: i64, _end_ns: i64) -> Vec<DamagedSplit> {
        Vec::new()
    }

    /// Rows as they become searchable, in no order. A slow reader loses the oldest and is told how many
    /// batches ([`tokio::sync::broadcast::error::RecvError::Lagged`]).
    fn subscribe(&self) -> tokio::sync::broadcast::Receiver<Arc<(Tenant, RowBatch)>>;

    /// Matchers that rows of [`EventStore::subscribe`] must match; scans know them by themselves.
    fn confines(&self) -> &[LabelMatcher] {
        &[]
    }

    /// Waits until the index has passed the high watermarks of the moment of the call (`_refresh`, `/flush`).
    async fn caught_up(&self, at_most: std::time::Duration) -> Result<(), StorageError>;
}
