//! Metrics of pushes: `millrace_ingest_*`.
//!
//! Touches nothing.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

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
        r.register("acknowledged_lines", "Pushed events that the log has", m.events.clone());
        r.register("acknowledged_bytes", "Bytes of the lines of pushed events that the log has", m.bytes.clone());
        r.register(
            "equal_lines",
            "Pushed events left out: equal to another that was taken shortly before",
            m.equal.clone(),
        );
        r.register("unacknowledged_lines", "Pushed events answered with an error", m.refused.clone());
        r.register("retries", "Batches that had to be sent again", m.retries.clone());
        let help = "Times that the push topic was missing in the log and was created again";
        r.register("recreated_topics", help, m.recreated.clone());
        r.register("in_flight_bytes", "Bytes of pushed events that wait for the log", m.in_flight.clone());
        m
    }
}
