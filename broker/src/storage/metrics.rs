//! Metrics of segment storage.
//!
//! In: counts. Out: metrics in the registry of the process. Touches nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::committed_offsets::UnreadDeletions;

/// Names of the metrics (`_total` is added behind those of counters, the unit behind those with one).
#[allow(missing_docs)] // each stands beside its help text below
pub mod names {
    pub const APPENDED_BYTES: &str = "millrace_log_appended_bytes";
    pub const APPENDED_RECORDS: &str = "millrace_log_appended_records";
    pub const REFUSED_BATCHES: &str = "millrace_log_refused_batches";
    pub const REPEATED_BATCHES: &str = "millrace_log_repeated_batches";
    pub const READ_BYTES: &str = "millrace_log_read_bytes";
    pub const HOLES: &str = "millrace_log_holes";
    pub const TORN_BYTES: &str = "millrace_log_torn_bytes";
    pub const DELETED_BYTES: &str = "millrace_log_deleted_bytes";
    pub const COMPACTIONS: &str = "millrace_log_compactions";
    pub const FAILED_COMPACTIONS: &str = "millrace_log_failed_compactions";
    pub const COMPACTED_BYTES: &str = "millrace_log_compacted_bytes";
    pub const UNREAD_PASSED_RECORDS: &str = "millrace_log_unread_passed_records";
    pub const FLUSH: &str = "millrace_log_flush";
    pub const DAMAGED_PLACES: &str = "millrace_log_damaged_places";
    pub const FAILED_PARTITIONS: &str = "millrace_log_failed_partitions";
}

/// Counters of segment storage; clones count together.
#[derive(Debug, Clone)]
pub struct StorageMetrics {
    /// Bytes of record batches appended.
    pub appended_bytes: Counter,
    /// Records appended.
    pub appended_records: Counter,
    /// Batches refused.
    pub refused_batches: Counter,
    /// Batches that were there already.
    pub repeated_batches: Counter,
    /// Bytes read for consumers.
    pub read_bytes: Counter,
    /// Seconds that forcing data to disk took.
    pub flush_seconds: Histogram,
    /// Damaged places set aside.
    pub holes: Counter,
    /// Bytes of torn tails cut at the start.
    pub torn_bytes: Counter,
    /// Bytes deleted by retention or on demand.
    pub deleted_bytes: Counter,
    /// Passes of compaction.
    pub compactions: Counter,
    /// Passes of compaction that failed.
    pub failed_compactions: Counter,
    /// Bytes freed by compaction.
    pub compacted_bytes: Counter,
    /// Records that retention deleted before a group had read them.
    pub(super) unread_passed: UnreadDeletions,
    /// Damaged places that readers skip, as of the last check of retention.
    pub damaged_places: Gauge,
    /// Partitions that refuse writes because the disk failed.
    pub failed_partitions: Gauge,
}

impl Default for StorageMetrics {
    fn default() -> Self {
        Self {
            appended_bytes: Counter::default(),
            appended_records: Counter::default(),
            refused_batches: Counter::default(),
            repeated_batches: Counter::default(),
            read_bytes: Counter::default(),
            flush_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
            holes: Counter::default(),
            torn_bytes: Counter::default(),
            deleted_bytes: Counter::default(),
            compactions: Counter::default(),
            failed_compactions: Counter::default(),
            compacted_bytes: Counter::default(),
            unread_passed: UnreadDeletions::default(),
            damaged_places: Gauge::default(),
            failed_partitions: Gauge::default(),
        }
    }
}

impl StorageMetrics {
    /// Shows them in a registry.
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            (names::APPENDED_BYTES, "Bytes of record batches appended", &self.appended_bytes),
            (names::APPENDED_RECORDS, "Records appended", &self.appended_records),
            (names::REFUSED_BATCHES, "Record batches refused", &self.refused_batches),
            (names::REPEATED_BATCHES, "Duplicate record batches of idempotent producers", &self.repeated_batches),
            (names::READ_BYTES, "Bytes read for consumers", &self.read_bytes),
            (names::HOLES, "Damaged places in segments that were quarantined", &self.holes),
            (names::TORN_BYTES, "Bytes of torn writes cut at the start", &self.torn_bytes),
            (names::DELETED_BYTES, "Bytes deleted by retention or on demand", &self.deleted_bytes),
            (names::COMPACTIONS, "Passes of compaction over a partition", &self.compactions),
            (names::FAILED_COMPACTIONS, "Passes of compaction that failed", &self.failed_compactions),
            (names::COMPACTED_BYTES, "Bytes freed by compaction", &self.compacted_bytes),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            names::UNREAD_PASSED_RECORDS,
            "Records that retention deleted before a group had read them",
            self.unread_passed.clone(),
        );
        registry.register_with_unit(names::FLUSH, "Time of an fsync", Unit::Seconds, self.flush_seconds.clone());
        registry.register(
            names::DAMAGED_PLACES,
            "Damaged places in segments that readers skip, as of the last check of retention",
            self.damaged_places.clone(),
        );
        registry.register(
            names::FAILED_PARTITIONS,
            "Partitions that refuse writes because the disk failed",
            self.failed_partitions.clone(),
        );
    }
}

/// What clients sent to a partition and took from it since the start; counted by the handlers, added up by topic when
/// somebody looks.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes of record batches taken.
    pub bytes_in: AtomicU64,
    /// Records taken.
    pub records_in: AtomicU64,
    /// Bytes of record batches given.
    pub bytes_out: AtomicU64,
    /// Records given.
    pub records_out: AtomicU64,
}

impl Traffic {
    /// A batch was taken.
    pub fn took(&self, bytes: u64, records: u64) {
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
        self.records_in.fetch_add(records, Ordering::Relaxed);
    }

    /// Batches were given.
    pub fn gave(&self, bytes: u64, records: u64) {
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
        self.records_out.fetch_add(records, Ordering::Relaxed);
    }
}
