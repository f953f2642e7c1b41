//! What routes have done, for `/metrics` by route and by pass.
//!
//! Out: metrics `millrace_route_…`. Touches nothing.

use millrace_log::consume::{ConsumerMetrics, ConsumerStatus, Pause};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
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
    /// Holes, lag and pauses of passes.
    pub consumer: ConsumerMetrics,
}

impl RouteMetrics {
    /// Names them `millrace_route_…`.
    pub fn register(registry: &mut Registry) -> Self {
        let mut all = Self::default();
        let room = registry.sub_registry_with_prefix("millrace_route");
        room.register("records", "Records copied to the target, in committed transactions", all.records.clone());
        room.register("bytes", "Bytes of keys and values of the copies", all.bytes.clone());
        let help = "Records that a target refused for good, sent to the dead letters";
        room.register("dead_letter_records", help, all.dead_letter_records.clone());
        room.register("read_records", "Records read, whether a route took them or not", all.read_records.clone());
        room.register("transactions", "Transactions committed", all.transactions.clone());
        let help = "Transactions given up and begun anew";
        room.register("aborted_transactions", help, all.aborted_transactions.clone());
        all.consumer = ConsumerMetrics::register(room);
        all
    }

    /// How a pass is, with its holes, lag and pauses among these metrics.
    pub(super) fn status(&self, name: &PassName) -> ConsumerStatus {
        let owner = vec![("from".to_owned(), name.from.clone()), ("group".to_owned(), name.group.clone())];
        let reasons = [Pause::Log, Pause::Fenced, Pause::DeadLetters, Pause::Transaction];
        ConsumerStatus::new(&format!("routes of `{}`", name.from), owner, &self.consumer, &reasons)
    }
}
