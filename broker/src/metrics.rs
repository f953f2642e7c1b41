//! Metrics of the broker: traffic, latencies, connections, logins.
//!
//! Out: metrics in a registry of the process. Touches nothing; the broker's rooms count into it. High watermarks and
//! lags are asked for when somebody looks ([`crate::protocol::Broker::open`] registers the collector).

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Names of the metrics (`_total` is added behind those of counters, the unit behind those with one).
#[allow(missing_docs)] // each stands beside its help text below
pub mod names {
    pub const IN_BYTES: &str = "millrace_log_in_bytes";
    pub const IN_RECORDS: &str = "millrace_log_in_records";
    pub const OUT_BYTES: &str = "millrace_log_out_bytes";
    pub const OUT_RECORDS: &str = "millrace_log_out_records";
    pub const REQUEST: &str = "millrace_log_request";
    pub const PRODUCE_WAIT: &str = "millrace_log_produce_wait";
    pub const CONNECTIONS: &str = "millrace_log_connections";
    pub const CONNECTIONS_ENDED: &str = "millrace_log_connections_ended";
    pub const FAILED_LOGINS: &str = "millrace_log_failed_logins";
    pub const DENIED: &str = "millrace_log_denied";
    pub const THROTTLED_REQUESTS: &str = "millrace_log_throttled_requests";
    pub const HIGH_WATERMARK_OFFSET: &str = "millrace_log_high_watermark_offset";
    pub const PARTITION_SIZE_BYTES: &str = "millrace_log_partition_size_bytes";
    pub const GROUP_LAG_RECORDS: &str = "millrace_log_group_lag_records";
    pub const GROUP_LAGS_LEFT_OUT: &str = "millrace_log_group_lags_left_out";
    pub const TOPIC_IN_BYTES: &str = "millrace_log_topic_in_bytes";
    pub const TOPIC_IN_RECORDS: &str = "millrace_log_topic_in_records";
    pub const TOPIC_OUT_BYTES: &str = "millrace_log_topic_out_bytes";
    pub const TOPIC_OUT_RECORDS: &str = "millrace_log_topic_out_records";
    pub const GROUP_STATES: &str = "millrace_log_group_states";
    pub const GROUPS: &str = "millrace_log_groups";
    pub const TRANSACTION_STATES: &str = "millrace_log_transaction_states";
    pub const OPEN_TRANSACTIONS: &str = "millrace_log_open_transactions";
    pub const LONGEST_OPEN_TRANSACTION: &str = "millrace_log_longest_open_transaction";
    pub const GROUP_REBALANCES: &str = "millrace_log_group_rebalances";
}

/// Names an API as Kafka does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiLabel {
    /// `Produce`, `Fetch` …
    pub api: &'static str,
}

/// Names a listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ListenerLabel {
    /// As configured; `default` for `broker.listen`.
    pub listener: &'static str,
}

/// Names how somebody tried to log in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LoginLabel {
    /// As configured.
    pub listener: &'static str,
    /// `PLAIN`, `SCRAM-SHA-256` …
    pub mechanism: &'static str,
}

/// Names why a connection ended, and where.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EndLabel {
    /// As configured; `default` for `broker.listen`.
    pub listener: &'static str,
    /// `garbage`, `limit`, `stalled` …
    pub cause: &'static str,
}

/// The broker's numbers.
#[derive(Debug, Clone)]
pub struct BrokerMetrics {
    /// Bytes of record batches taken.
    pub bytes_in: Counter,
    /// Records taken.
    pub records_in: Counter,
    /// Bytes of record batches given.
    pub bytes_out: Counter,
    /// Records given.
    pub records_out: Counter,
    /// Time from a complete request to its response, including the waits of long polls and joins.
    pub request_seconds: Family<ApiLabel, Histogram, fn() -> Histogram>,
    /// Time from an append to its flush.
    pub flush_seconds: Histogram,
    /// Open connections.
    pub connections: Family<ListenerLabel, Gauge<i64>>,
    /// Connections that have ended, or were not taken.
    pub connections_ended: Family<EndLabel, Counter<u64, AtomicU64>>,
    /// Logins that failed.
    pub failed_logins: Family<LoginLabel, Counter>,
    /// Requests, or parts of them, that access rules refused.
    pub denied: Counter,
    /// Requests above a client's rate.
    pub throttled: Counter,
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 16))
}

impl BrokerMetrics {
    /// Makes them known.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            bytes_in: Counter::default(),
            records_in: Counter::default(),
            bytes_out: Counter::default(),
            records_out: Counter::default(),
            request_seconds: Family::new_with_constructor(seconds),
            flush_seconds: seconds(),
            connections: Family::default(),
            connections_ended: Family::default(),
            failed_logins: Family::default(),
            denied: Counter::default(),
            throttled: Counter::default(),
        };
        let r = registry;
        r.register(names::IN_BYTES, "Bytes of record batches produced", metrics.bytes_in.clone());
        r.register(names::IN_RECORDS, "Records produced", metrics.records_in.clone());
        r.register(names::OUT_BYTES, "Bytes of record batches fetched", metrics.bytes_out.clone());
        r.register(names::OUT_RECORDS, "Records fetched", metrics.records_out.clone());
        r.register_with_unit(
            names::REQUEST,
            "Time from a complete request to its response, including the waits of long polls and joins",
            Unit::Seconds,
            metrics.request_seconds.clone(),
        );
        r.register_with_unit(
            names::PRODUCE_WAIT,
            "Time from an append to its flush, as producers with acks=all wait for it",
            Unit::Seconds,
            metrics.flush_seconds.clone(),
        );
        r.register(names::CONNECTIONS, "Open connections", metrics.connections.clone());
        r.register(
            names::CONNECTIONS_ENDED,
            "Connections closed or rejected, by cause",
            metrics.connections_ended.clone(),
        );
        r.register(names::FAILED_LOGINS, "SASL logins that failed", metrics.failed_logins.clone());
        r.register(names::DENIED, "Accesses denied by ACLs", metrics.denied.clone());
        r.register(names::THROTTLED_REQUESTS, "Requests of clients above their rate limit", metrics.throttled.clone());
        metrics
    }
    /// Exposes the series of a listener from the start, as zero: ends of connections by cause, failed logins by mechanism.
    pub fn expose_listener(
        &self,
        listener: &'static str,
        causes: impl IntoIterator<Item = &'static str>,
        mechanisms: impl IntoIterator<Item = &'static str>,
    ) {
        drop(self.connections.get_or_create(&ListenerLabel { listener }));
        for cause in causes {
            drop(self.connections_ended.get_or_create(&EndLabel { listener, cause }));
        }
        for mechanism in mechanisms {
            drop(self.failed_logins.get_or_create(&LoginLabel { listener, mechanism }));
        }
    }
}
