//! Metrics of rules: `millrace_rules_*`.
//!
//! In: events of evaluations. Out: counters and gauges in the program's registry. Touches nothing else.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

/// Names of the metrics (`_total` is added behind those of counters).
#[allow(missing_docs)] // each stands beside its help text below
pub mod names {
    pub const EVALUATIONS: &str = "millrace_rules_evaluations";
    pub const EVALUATION_FAILURES: &str = "millrace_rules_evaluation_failures";
    pub const MISSED_EVALUATIONS: &str = "millrace_rules_missed_evaluations";
    pub const LAST_EVALUATION_SECONDS: &str = "millrace_rules_last_evaluation_seconds";
    pub const OVERDUE_SECONDS: &str = "millrace_rules_overdue_seconds";
    pub const DELAY_SECONDS: &str = "millrace_rules_delay_seconds";
    pub const SEND_FAILURES: &str = "millrace_rules_send_failures";
    pub const STORE_FAILURES: &str = "millrace_rules_store_failures";
    pub const TEMPLATE_FAILURES: &str = "millrace_rules_template_failures";
    pub const RELOAD_FAILURES: &str = "millrace_rules_reload_failures";
    pub const ALERTS_PENDING: &str = "millrace_rules_alerts_pending";
    pub const ALERTS_FIRING: &str = "millrace_rules_alerts_firing";
}

/// A group of rules.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct GroupLabels {
    /// Name of the group.
    pub group: String,
}

/// A gauge of seconds for each group.
type Seconds = Family<GroupLabels, Gauge<f64, AtomicU64>>;

/// Metrics of rules.
#[derive(Debug, Clone, Default)]
pub struct RulesMetrics {
    /// Evaluations of a rule.
    pub evaluations: Family<GroupLabels, Counter>,
    /// Evaluations that failed; states are unchanged.
    pub failures: Family<GroupLabels, Counter>,
    /// Evaluations of a group that were skipped because the ones before took too long.
    pub missed_evaluations: Family<GroupLabels, Counter>,
    /// Duration of a group's last evaluation.
    pub evaluation_seconds: Seconds,
    /// How far the time of a group's last evaluation lies before the time it was due, waiting for lines.
    pub delay_seconds: Seconds,
    /// Reports that the notifier did not accept; they are repeated.
    pub send_failures: Counter,
    /// States that could not be made durable.
    pub store_failures: Counter,
    /// Templates that failed; the default text was used.
    pub template_failures: Counter,
    /// Reloads rejected for errors in files.
    pub reload_failures: Counter,
    /// Alerts pending.
    pub pending: Gauge,
    /// Alerts firing.
    pub firing: Gauge,
}

impl RulesMetrics {
    /// Makes them known.
    pub fn register(registry: &mut Registry) -> Arc<Self> {
        let own = Self::default();
        let r = registry;
        r.register(names::EVALUATIONS, "Evaluations of a rule", own.evaluations.clone());
        r.register(names::EVALUATION_FAILURES, "Evaluations of a rule that failed", own.failures.clone());
        let help = "Evaluations of a group that were skipped, because its queries take longer than its interval";
        r.register(names::MISSED_EVALUATIONS, help, own.missed_evaluations.clone());
        let help = "Duration of the last evaluation of a group";
        r.register(names::LAST_EVALUATION_SECONDS, help, own.evaluation_seconds.clone());
        let help =
            "How far the last evaluation of a group lay in the past, to wait for lines that were not indexed yet";
        r.register(names::DELAY_SECONDS, help, own.delay_seconds.clone());
        r.register(names::SEND_FAILURES, "Reports that the notifier did not accept", own.send_failures.clone());
        r.register(names::STORE_FAILURES, "States of alerts that could not be saved", own.store_failures.clone());
        r.register(names::TEMPLATE_FAILURES, "Templates that failed", own.template_failures.clone());
        r.register(names::RELOAD_FAILURES, "Reloads of rule files that were rejected", own.reload_failures.clone());
        r.register(names::ALERTS_PENDING, "Alerts pending", own.pending.clone());
        r.register(names::ALERTS_FIRING, "Alerts firing", own.firing.clone());
        Arc::new(own)
    }

    /// Exposes how late groups are; `late` says it of each by name, 0 for those in time.
    pub fn register_overdue(
        registry: &mut Registry,
        late: impl Fn() -> Vec<(String, Duration)> + Send + Sync + 'static,
    ) {
        registry.register_collector(Box::new(OverdueNow(Box::new(late))));
    }

    /// Exposes the series of a group from the start, as zero.
    pub fn expose_group(&self, group: &str) {
        let labels = GroupLabels { group: group.to_owned() };
        for counter in [&self.evaluations, &self.failures, &self.missed_evaluations] {
            drop(counter.get_or_create(&labels));
        }
        for gauge in [&self.evaluation_seconds, &self.delay_seconds] {
            drop(gauge.get_or_create(&labels));
        }
    }
}

/// Groups that are late, as of the scrape.
struct OverdueNow(Box<dyn Fn() -> Vec<(String, Duration)> + Send + Sync>);

impl fmt::Debug for OverdueNow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OverdueNow")
    }
}

impl Collector for OverdueNow {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        // Groups of several files may have one name.
        let mut by_name = BTreeMap::<String, Duration>::new();
        for (group, late) in (self.0)() {
            let latest = by_name.entry(group).or_default();
            *latest = late.max(*latest);
        }
        let help = "How long ago the evaluation of a group was due that has not ended; 0 if it is in time";
        let mut all = encoder.encode_descriptor(names::OVERDUE_SECONDS, help, None, MetricType::Gauge)?;
        for (group, late) in by_name {
            ConstGauge::new(late.as_secs_f64()).encode(all.encode_family(&GroupLabels { group })?)?;
        }
        Ok(())
    }
}
