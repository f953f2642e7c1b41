//! Metrics of pushes: `millrace_ingest_*`.
//!
//! Touches nothing.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Names of the metrics, without the prefix `millrace_ingest_` (and `_total` behind those of counters).
mod names {
    pub const ACKNOWLEDGED_LINES: &str = "acknowledged_lines";
    pub const ACKNOWLEDGED_BYTES: &str = "acknowledged_bytes";
    pub const EQUAL_LINES: &str = "equal_lines";
    pub const UNACKNOWLEDGED_LINES: &str = "unacknowledged_lines";
    pub const OVER_RATE_BYTES: &str = "over_rate_bytes";
    pub const RETRIES: &str = "retries";
    pub const RECREATED_TOPICS: &str = "recreated_topics";
    pub const IN_FLIGHT_BYTES: &str = "in_flight_bytes";
}

/// Metrics of the room.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Pushed events that the log has.
    pub events: Counter,
    /// Bytes of their lines.
    pub bytes: Counter,
    /// Pushed events left out as equal to another.
    pub equal: Counter,
    /// Pushed events answered with an error.
    pub refused: Counter,
    /// Bytes of pushes rejected because their tenant pushed more than it may.
    pub over_rate: Counter,
    /// Batches sent again.
    pub retries: Counter,
    /// Times that the push topic was missing and was created again.
    pub recreated: Counter,
    /// Bytes that wait for the log.
    pub in_flight: Gauge,
}

impl Metrics {
    /// Makes them known.
    pub fn register(registry: &mut Registry) -> Self {
        let m = Self::default();
        let r = registry.sub_registry_with_prefix("millrace_ingest");
        r.register(names::ACKNOWLEDGED_LINES, "Pushed events that the log has acknowledged", m.events.clone());
        r.register(names::ACKNOWLEDGED_BYTES, "Bytes of pushed lines that the log has acknowledged", m.bytes.clone());
        r.register(
            names::EQUAL_LINES,
            "Pushed events dropped as duplicates of events accepted shortly before",
            m.equal.clone(),
        );
        r.register(names::UNACKNOWLEDGED_LINES, "Pushed events answered with an error", m.refused.clone());
        let help = "Bytes of pushes rejected because their tenant pushed more than `max_rate`";
        r.register(names::OVER_RATE_BYTES, help, m.over_rate.clone());
        r.register(names::RETRIES, "Batches sent again after a failure", m.retries.clone());
        let help = "Times that the push topic was missing in the log and was created again";
        r.register(names::RECREATED_TOPICS, help, m.recreated.clone());
        r.register(names::IN_FLIGHT_BYTES, "Bytes of pushed events that wait for the log", m.in_flight.clone());
        m
    }
}
