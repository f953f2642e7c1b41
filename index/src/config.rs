//! Settings of the index: when splits are cut, merged and dropped, and what one query may cost.
//!
//! In: the parts `index` and `retention` of the section `aggregator:`. Out: typed values with defaults, and faults that types
//! can't say. Touches nothing.

use millrace_log::value::{ByteSize, Faults, Span};
use millrace_logql::storage::QueryLimits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Queries at once that a configuration may ask for: each holds a thread for blocking work, of which the runtime has 512, and
/// waits for others.
const MOST_CONCURRENT: usize = 256;

/// Retention of the index. Without `age` and `size` nothing is deleted.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// A split is deleted when its newest event is older than this. Absent: no limit.
    pub age: Option<Span>,
    /// The oldest splits are deleted when all splits together take more than this on disk. Absent: no limit.
    pub size: Option<ByteSize>,
}

impl RetentionConfig {
    /// Reports what types can\'t say.
    pub fn check(&self, faults: &mut Faults) {
        if self.age.is_some_and(|age| age < Span::secs(60)) {
            faults.add("age", "is below a minute: events would go before anyone can ask for them");
        }
        if self.size.is_some_and(|size| size < ByteSize::mib(1)) {
            faults.add("size", "is below 1MiB: events would go before anyone can ask for them");
        }
    }
}

/// Storage of events, and limits of queries.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IndexConfig {
    /// Bytes of lines after which a split is written.
    pub split_bytes: ByteSize,
    /// Age of the oldest event in memory after which a split is written.
    pub split_age: Span,
    /// Bytes of one line at most. Longer lines are cut and marked; longer documents go to the dead letters.
    pub max_line_bytes: ByteSize,
    /// Memory for events that are not yet in a split. When it is used up, reading from the log pauses.
    pub head_bytes: ByteSize,
    /// Number of splits of one tenant and level that are merged into one.
    pub merge_splits: usize,
    /// Maximum bytes of lines in a merged split.
    pub merge_bytes: ByteSize,
    /// Maximum time range of a merged split. Retention deletes whole splits.
    pub merge_span: Span,
    /// Interval of merging and retention.
    pub upkeep_interval: Span,
    /// Time without events after which a source is forgotten: its later events are not recognised as duplicates. Set it to the
    /// topic's retention and a week.
    pub source_idle: Span,
    /// Maximum number of splits that queries keep open.
    pub open_splits: usize,
    /// Number of threads that read splits for queries. 0: one per CPU.
    pub query_threads: usize,
    /// Number of batches that a live tail may lag behind; beyond it, the oldest are dropped.
    pub tail_batches: usize,
    /// Limits of one query.
    pub query: QueryConfig,
}

impl Default for IndexConfig {
    fn default() -> Self {
        Self {
            split_bytes: ByteSize::mib(64),
            split_age: Span::secs(30),
            max_line_bytes: ByteSize::mib(8),
            head_bytes: ByteSize::mib(256),
            merge_splits: 8,
            merge_bytes: ByteSize::mib(1024),
            merge_span: Span::secs(24 * 3600),
            upkeep_interval: Span::secs(5),
            source_idle: Span::secs(14 * 24 * 3600),
            open_splits: 256,
            query_threads: 0,
            tail_batches: 256,
            query: QueryConfig::default(),
        }
    }
}

impl IndexConfig {
    /// Threads that read splits.
    pub fn threads(&self) -> usize {
        match self.query_threads {
            0 => std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            n => n,
        }
    }

    /// Reports what types can\'t say.
    pub fn check(&self, faults: &mut Faults) {
        faults.at_least("split_bytes", self.split_bytes.0, 1024);
        faults.not_zero("split_age", self.split_age);
        if !(1024..=256 << 20).contains(&self.max_line_bytes.0) {
            faults.add("max_line_bytes", format!("is {}: must lie between 1KiB and 256MiB", self.max_line_bytes));
        }
        if self.head_bytes.0 < self.split_bytes.0.saturating_mul(2) {
            faults.add("head_bytes", "must be at least twice `split_bytes`: one part is written while the next fills");
        }
        faults.at_least("merge_splits", self.merge_splits, 2);
        faults.not_zero("merge_span", self.merge_span);
        faults.not_zero("upkeep_interval", self.upkeep_interval);
        faults.not_zero("source_idle", self.source_idle);
        faults.at_least("open_splits", self.open_splits, 1);
        faults.at_least("tail_batches", self.tail_batches, 1);
        faults.within("query", |f| self.query.check(f));
    }
}

/// Limits of one query. A query that would exceed one gets an error that names the limit.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueryConfig {
    /// Maximum duration.
    pub timeout: Span,
    /// Maximum bytes of lines read.
    pub max_bytes_read: ByteSize,
    /// Maximum number of series of a metric query.
    pub max_series: usize,
    /// Maximum number of entries of a log query.
    pub max_entries: usize,
    /// Maximum memory.
    pub max_memory: ByteSize,
    /// Maximum memory of all queries of the APIs and the page together; those of rules are not counted. Beyond it, the
    /// newest queries are ended with an error.
    pub max_memory_total: ByteSize,
    /// Maximum number of concurrent queries, 256 at most; others wait.
    pub max_concurrent: usize,
    /// Maximum number of concurrent queries of one tenant. Left out: three quarters of `max_concurrent`, so that other
    /// tenants' queries need not wait for the end of a long one.
    pub max_concurrent_per_tenant: Option<usize>,
    /// Maximum number of queries of one tenant that wait; further ones are refused (429).
    pub max_queued: usize,
}

impl Default for QueryConfig {
    fn default() -> Self {
        let limits = QueryLimits::default();
        Self {
            timeout: Span(limits.timeout),
            max_bytes_read: ByteSize(limits.max_bytes_read),
            max_series: limits.max_series,
            max_entries: limits.max_entries,
            max_memory: ByteSize(limits.max_memory_bytes),
            max_memory_total: ByteSize(2 << 30),
            max_concurrent: 16,
            max_concurrent_per_tenant: None,
            max_queued: 100,
        }
    }
}

impl QueryConfig {
    /// The same as queries carry it.
    pub fn limits(&self) -> QueryLimits {
        QueryLimits {
            timeout: self.timeout.0,
            max_bytes_read: self.max_bytes_read.0,
            max_series: self.max_series,
            max_entries: self.max_entries,
            max_memory_bytes: self.max_memory.0,
        }
    }

    /// The number of concurrent queries that one tenant may have.
    pub fn per_tenant(&self) -> usize {
        self.max_concurrent_per_tenant.unwrap_or(self.max_concurrent - self.max_concurrent / 4)
    }

    /// Reports what types can\'t say.
    pub fn check(&self, faults: &mut Faults) {
        faults.not_zero("timeout", self.timeout);
        faults.at_least("max_bytes_read", self.max_bytes_read.0, 1);
        faults.at_least("max_series", self.max_series, 1);
        faults.at_least("max_entries", self.max_entries, 1);
        faults.at_least("max_memory", self.max_memory.0, 1 << 20);
        if self.max_memory_total < self.max_memory {
            faults
                .add("max_memory_total", "must be at least `max_memory`: one query could use up what there is for all");
        }
        faults.at_least("max_concurrent", self.max_concurrent, 1);
        faults.at_least("max_queued", self.max_queued, 1);
        if let Some(per_tenant) = self.max_concurrent_per_tenant {
            faults.at_least("max_concurrent_per_tenant", per_tenant, 1);
            if per_tenant > self.max_concurrent {
                faults.add("max_concurrent_per_tenant", "must be `max_concurrent` at most");
            }
        }
        if self.max_concurrent > MOST_CONCURRENT {
            let message = format!("is {}: at most {MOST_CONCURRENT}, each query takes threads", self.max_concurrent);
            faults.add("max_concurrent", message);
        }
    }
}
