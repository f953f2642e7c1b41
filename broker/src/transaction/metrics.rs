//! Metrics of transactions: how they end, how long their markers take, how many are open and for how long.
//!
//! In: endings and markers from the [`super::Coordinator`], which counts where a state is written. Out: metrics in the
//! registry of the process. Touches nothing. What stands open is asked for when somebody looks ([`super::Coordinator::standing`]).

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::state::State;

/// Names of the metrics (`_total` is added behind those of counters, the unit behind those with one).
#[allow(missing_docs)] // each stands beside its help text below
pub mod names {
    pub const TRANSACTIONS_ENDED: &str = "millrace_log_transactions_ended";
    pub const TRANSACTION_MARKER: &str = "millrace_log_transaction_marker";
    pub const TRANSACTION_FAILED_MARKERS: &str = "millrace_log_transaction_failed_markers";
}

/// Who has a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndedBy {
    /// Its producer.
    Producer,
    /// A producer that has started with the same transactional id.
    Successor,
    /// The broker, for its age.
    Timeout,
}

/// Names how transactions ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EndingLabel {
    /// `commit`, `abort` (asked by its producer), `fenced` (a new producer of the same id) or `timeout`.
    pub outcome: &'static str,
}

/// Counters of transactions; clones count together.
#[derive(Debug, Clone)]
pub struct TransactionMetrics {
    ended: Family<EndingLabel, Counter>,
    /// Time to write one marker and flush it.
    pub(super) marker_seconds: Histogram,
    /// Markers that could not be written, and are tried again.
    pub(super) failed_markers: Counter,
}

impl Default for TransactionMetrics {
    fn default() -> Self {
        let metrics = Self {
            ended: Family::default(),
            marker_seconds: Histogram::new(exponential_buckets(0.0005, 2.0, 16)),
            failed_markers: Counter::default(),
        };
        for outcome in ["commit", "abort", "fenced", "timeout"] {
            // Shown from the start, with zero.
            drop(metrics.ended.get_or_create(&EndingLabel { outcome }));
        }
        metrics
    }
}

impl TransactionMetrics {
    /// Makes them known.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            names::TRANSACTIONS_ENDED,
            "Transactions ended, by outcome: by the producer, fenced by a new one, or timed out",
            self.ended.clone(),
        );
        registry.register_with_unit(
            names::TRANSACTION_MARKER,
            "Time to write and flush the marker of an ended transaction in one partition",
            Unit::Seconds,
            self.marker_seconds.clone(),
        );
        registry.register(
            names::TRANSACTION_FAILED_MARKERS,
            "Markers that could not be written: retried, and read_committed readers wait for them",
            self.failed_markers.clone(),
        );
    }

    /// A transaction was decided.
    pub(super) fn ended(&self, state: State, by: EndedBy) {
        let outcome = match (state, by) {
            (State::PrepareCommit, _) => "commit",
            (State::PrepareAbort, EndedBy::Producer) => "abort",
            (State::PrepareAbort, EndedBy::Successor) => "fenced",
            (State::PrepareAbort, EndedBy::Timeout) => "timeout",
            _ => return,
        };
        self.ended.get_or_create(&EndingLabel { outcome }).inc();
    }
}

/// What stands in the coordinator at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// Transactional ids by the name of their state, also states without any.
    pub by_state: Vec<(&'static str, i64)>,
    /// Transactions that have begun and whose markers do not all stand: read_committed readers wait for them.
    pub open: i64,
    /// How long the oldest of those has been open, ms.
    pub longest_ms: i64,
}
