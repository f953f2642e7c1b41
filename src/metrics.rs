//! Metrics of the process: one registry for each part, exposed together at `/metrics`.
//!
//! In: registries of the parts as they start. Out: the text of the exposition. Touches nothing.

use std::fmt;
use std::sync::Arc;

use millrace_log::push::DecodeBudget;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

/// Name of the counter of failed reloads (`_total` is added).
const RELOAD_FAILURES: &str = "millrace_config_reload_failures";
/// Name of the gauge of the last reload.
const LAST_RELOAD_SUCCESSFUL: &str = "millrace_config_last_reload_successful";

/// The registries of all parts, in the order of their first start. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registries(Arc<Mutex<Vec<(&'static str, Registry)>>>);

impl Registries {
    /// Exposes the metrics of a part. A part that starts again starts its counters again, as a new process would.
    pub fn put(&self, part: &'static str, registry: Registry) {
        let mut all = self.0.lock();
        match all.iter_mut().find(|(name, _)| *name == part) {
            Some((_, old)) => *old = registry,
            None => all.push((part, registry)),
        }
    }

    /// No longer exposes a part that was stopped.
    pub fn remove(&self, part: &'static str) {
        self.0.lock().retain(|(name, _)| *name != part);
    }

    /// The exposition of all parts.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        for (_, registry) in self.0.lock().iter() {
            text::encode_registry(&mut out, registry)?;
        }
        text::encode_eof(&mut out)?;
        Ok(out)
    }
}

/// How reloads of the configuration went.
#[derive(Debug, Clone, Default)]
pub struct ReloadMetrics {
    /// Reloads that were refused, or after which a part runs with its previous configuration.
    pub failures: Counter,
    /// 1 if the last reload, or the start, took over the whole configuration.
    pub last_successful: Gauge,
}

impl ReloadMetrics {
    /// Registers both; the start counts as successful.
    pub fn register(registries: &Registries) -> Self {
        let metrics = Self::default();
        metrics.last_successful.set(1);
        let mut registry = Registry::default();
        registry.register(
            RELOAD_FAILURES,
            "Configuration reloads that were rejected or only partly applied",
            metrics.failures.clone(),
        );
        registry.register(
            LAST_RELOAD_SUCCESSFUL,
            "1 if the last reload applied the whole configuration, otherwise 0",
            metrics.last_successful.clone(),
        );
        registries.put("config", registry);
        metrics
    }
}

/// Memory for decoding bodies, as of the scrape.
#[derive(Debug)]
struct DecodeMemory(DecodeBudget);

impl Collector for DecodeMemory {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (used, limit, refused) = self.0.state();
        for (name, help, bytes) in [
            ("millrace_decode_memory_bytes", "Memory reserved for bodies that are decoded", used),
            ("millrace_decode_memory_limit_bytes", "Limit of that memory (`limits.decode_memory`)", limit),
        ] {
            let gauge = ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let help = "Bodies refused for want of memory to decode them";
        let name = "millrace_decode_memory_refusals";
        ConstCounter::new(refused).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
    }
}

/// Exposes the memory for decoding bodies.
pub fn put_decode_memory(registries: &Registries, budget: DecodeBudget) {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(DecodeMemory(budget)));
    registries.put("limits", registry);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_exposed_together_and_replaced_when_they_start_again() {
        let registries = Registries::default();
        let metrics = ReloadMetrics::register(&registries);
        metrics.failures.inc();
        let budget = DecodeBudget::new(100);
        let _reserved = budget.begin().grow(101);
        put_decode_memory(&registries, budget);
        let part = |name: &str| {
            let mut registry = Registry::default();
            registry.register(name, "Something", Counter::<u64>::default());
            registry
        };
        registries.put("broker", part("a"));
        registries.put("broker", part("b"));
        registries.put("agent", part("c"));
        registries.remove("agent");
        let text = registries.encode().unwrap();
        assert!(text.contains("millrace_config_reload_failures_total 1\n"), "{text}");
        assert!(text.contains("millrace_config_last_reload_successful 1\n"), "{text}");
        for line in ["bytes 0", "limit_bytes 100", "refusals_total 1"] {
            assert!(text.contains(&format!("\nmillrace_decode_memory_{line}\n")), "{text}");
        }
        assert!(text.contains("\nb_total 0\n") && !text.contains("a_total") && !text.contains("c_total"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
