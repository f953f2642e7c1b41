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
        r.register("millrace_log_in_bytes", "Bytes of record batches produced", metrics.bytes_in.clone());
        r.register("millrace_log_in_records", "Records produced", metrics.records_in.clone());
        r.register("millrace_log_out_bytes", "Bytes of record batches fetched", metrics.bytes_out.clone());
        r.register("millrace_log_out_records", "Records fetched", metrics.records_out.clone());
        r.register_with_unit(
            "millrace_log_request",
            "Time from a complete request to its response, including the waits of long polls and joins",
            Unit::Seconds,
            metrics.request_seconds.clone(),
        );
        r.register_with_unit(
            "millrace_log_produce_wait",
            "Time from an append to its flush, as producers with acks=all wait for it",
            Unit::Seconds,
            metrics.flush_seconds.clone(),
        );
        r.register("millrace_log_connections", "Open connections", metrics.connections.clone());
        r.register(
            "millrace_log_connections_ended",
            "Connections closed or rejected, by cause",
            metrics.connections_ended.clone(),
        );
        r.register("millrace_log_failed_logins", "SASL logins that failed", metrics.failed_logins.clone());
        r.register("millrace_log_denied", "Accesses denied by ACLs", metrics.denied.clone());
        r.register(
            "millrace_log_throttled_requests",
            "Requests of clients above their rate limit",
            metrics.throttled.clone(),
        );
        metrics
    }
}
