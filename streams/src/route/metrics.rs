//! What routes have done: for `/metrics` by route, for the ledger by pass.
//!
//! Out: metrics `millrace_route_…`; counts of which `read = copied + unmatched + dead letters + waiting`. Touches nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Which route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteName {
    /// Its configured name.
    pub route: String,
}

/// Which pass.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PassName {
    /// The topic it reads.
    pub from: String,
    /// Its consumer group.
    pub group: String,
}

/// Numbers of all routes; clones count together.
#[derive(Debug, Clone, Default)]
pub struct RouteMetrics {
    /// Copies in committed transactions.
    pub records: Family<RouteName, Counter>,
    /// Bytes of their keys and values.
    pub bytes: Family<RouteName, Counter>,
    /// Records sent to the dead letters instead.
    pub dead_letter_records: Family<RouteName, Counter>,
    /// Records read in committed transactions.
    pub read_records: Family<PassName, Counter>,
    /// Committed transactions.
    pub transactions: Family<PassName, Counter>,
    /// Transactions that were given up and begun anew.
    pub aborted_transactions: Family<PassName, Counter>,
    /// Records between the group's offsets and the ends.
    pub lag_records: Family<PassName, Gauge>,
}

impl RouteMetrics {
    /// Names them `millrace_route_…`.
    pub fn register(registry: &mut Registry) -> Self {
        let all = Self::default();
        let room = registry.sub_registry_with_prefix("millrace_route");
        room.register("records", "Records copied to the target, in committed transactions", all.records.clone());
        room.register("bytes", "Bytes of keys and values of the copies", all.bytes.clone());
        let help = "Records that a target refused for good, sent to the dead letters";
        room.register("dead_letter_records", help, all.dead_letter_records.clone());
        room.register("read_records", "Records read, whether a route took them or not", all.read_records.clone());
        room.register("transactions", "Transactions committed", all.transactions.clone());
        let help = "Transactions given up and begun anew";
        room.register("aborted_transactions", help, all.aborted_transactions.clone());
        let help = "Records between the offsets of the routes' group and the ends of their source";
        room.register("lag_records", help, all.lag_records.clone());
        all
    }
}

/// What one pass has done since the start.
#[derive(Debug, Default)]
pub struct RouteCounts {
    pub(super) from: String,
    pub(super) copied: AtomicU64,
    pub(super) unmatched: AtomicU64,
    pub(super) dead: AtomicU64,
    pub(super) waiting: AtomicU64,
    /// Records in the topic that it has not read; `u64::MAX`: not known yet.
    pub(super) behind: AtomicU64,
}

impl RouteCounts {
    /// The topic it reads.
    pub fn from(&self) -> &str {
        &self.from
    }

    /// Records that went on, at least to one target.
    pub fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    /// Records that no route takes.
    pub fn unmatched(&self) -> u64 {
        self.unmatched.load(Ordering::Relaxed)
    }

    /// Records that went to the dead letters only.
    pub fn dead(&self) -> u64 {
        self.dead.load(Ordering::Relaxed)
    }

    /// Records that stand in the topic and are not copied yet, as of the last look at its end; `None`: nobody looked yet.
    pub fn behind(&self) -> Option<u64> {
        Some(self.behind.load(Ordering::Relaxed)).filter(|behind| *behind != u64::MAX)
    }

    /// Records of the transaction that is open.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}
