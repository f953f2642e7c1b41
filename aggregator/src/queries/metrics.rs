//! How many requests are under way, wait, and were refused, for `/metrics`.
//!
//! In: refusals; places and memory, looked at when metrics are asked for. Out: series. Touches nothing.

use std::fmt;

use millrace_index::scan::MemoryPool;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::places::Places;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// Counters of requests.
#[derive(Debug, Clone, Default)]
pub(super) struct QueryMetrics {
    refused: Family<Reason, Counter>,
}

impl QueryMetrics {
    /// Exposes them, with zeros for these reasons.
    pub fn register(&self, registry: &mut Registry, reasons: &[&'static str], places: Places, memory: MemoryPool) {
        for reason in reasons {
            drop(self.refused.get_or_create(&Reason { reason }));
        }
        registry.register("millrace_queries_refused", "Queries refused before they began", self.refused.clone());
        registry.register_collector(Box::new(Now { places, memory }));
    }

    /// Counts a request that was refused.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }
}

/// As of the scrape.
#[derive(Debug)]
struct Now {
    places: Places,
    memory: MemoryPool,
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (running, waiting) = self.places.counts();
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let bytes = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        for (name, help, value) in [
            ("millrace_queries_running", "Queries under way", number(running)),
            ("millrace_queries_waiting", "Queries that wait for others to end", number(waiting)),
            ("millrace_queries_memory_bytes", "Memory that all queries hold", bytes(self.memory.used())),
            (
                "millrace_queries_memory_limit_bytes",
                "Limit of that memory (`aggregator.index.query.max_memory_total`)",
                bytes(self.memory.max()),
            ),
        ] {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let help = "Queries ended because all together needed more memory than that";
        let shed = encoder.encode_descriptor("millrace_queries_shed", help, None, MetricType::Counter)?;
        ConstCounter::new(self.memory.shed()).encode(shed)
    }
}
