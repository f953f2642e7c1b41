//! Metrics of rules.
//!
//! In: events of evaluations. Out: counters and gauges in the program's registry. Touches nothing else.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// A group of rules.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct GroupLabels {
    /// Name of the group.
    pub group: String,
}

/// Metrics of rules.
#[derive(Debug, Clone, Default)]
pub struct RulesMetrics {
    /// Evaluations of a rule.
    pub evaluations: Family<GroupLabels, Counter>,
    /// Evaluations that failed; states were kept.
    pub failures: Family<GroupLabels, Counter>,
    /// Turns that were left out because the ones before took too long.
    pub missed_turns: Family<GroupLabels, Counter>,
    /// Milliseconds that the last turn of a group took.
    pub turn_ms: Family<GroupLabels, Gauge>,
    /// Milliseconds by which the last evaluation of a group stayed behind its turn, waiting for lines.
    pub delay_ms: Family<GroupLabels, Gauge>,
    /// Reports that the notifier did not take; they are repeated.
    pub send_failures: Counter,
    /// States that could not be made durable.
    pub store_failures: Counter,
    /// Templates that failed; the default text was shown.
    pub template_failures: Counter,
    /// Reloads refused for faults of files.
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
        registry.register("millrace_rules_evaluations", "Evaluations of a rule", own.evaluations.clone());
        registry.register("millrace_rules_evaluation_failures", "Evaluations that failed", own.failures.clone());
        registry.register("millrace_rules_missed_turns", "Turns left out", own.missed_turns.clone());
        registry.register("millrace_rules_turn_milliseconds", "Time that the last turn took", own.turn_ms.clone());
        registry.register(
            "millrace_rules_delay_milliseconds",
            "How far behind its turn a group was evaluated",
            own.delay_ms.clone(),
        );
        registry.register(
            "millrace_rules_send_failures",
            "Reports not taken by the notifier",
            own.send_failures.clone(),
        );
        registry.register("millrace_rules_store_failures", "States that could not be kept", own.store_failures.clone());
        registry.register("millrace_rules_template_failures", "Templates that failed", own.template_failures.clone());
        registry.register("millrace_rules_reload_failures", "Reloads refused", own.reload_failures.clone());
        registry.register("millrace_rules_alerts_pending", "Alerts pending", own.pending.clone());
        registry.register("millrace_rules_alerts_firing", "Alerts firing", own.firing.clone());
        Arc::new(own)
    }
}
