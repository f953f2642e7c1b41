//! Metrics of rules and notifier.
//!
//! In: events of both. Out: counters and gauges in the program's registry. Touches nothing else.

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

/// A way of telling people.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct IntegrationLabels {
    /// Name of the receiver.
    pub receiver: String,
    /// Type of the integration: `webhook`, `log`.
    pub integration: String,
}

/// Metrics of the notifier.
#[derive(Debug, Clone, Default)]
pub struct NotifyMetrics {
    /// Reports taken.
    pub received: Counter,
    /// Reports refused: not valid, or too many.
    pub refused: Counter,
    /// Alerts held.
    pub alerts: Gauge,
    /// Groups held.
    pub groups: Gauge,
    /// Messages delivered.
    pub sent: Family<IntegrationLabels, Counter>,
    /// Attempts at delivering that failed, those that were repeated included.
    pub attempts_failed: Family<IntegrationLabels, Counter>,
    /// Messages given up until the group's next turn.
    pub failed: Family<IntegrationLabels, Counter>,
    /// States that could not be made durable.
    pub store_failures: Counter,
}

impl NotifyMetrics {
    /// Makes them known.
    pub fn register(registry: &mut Registry) -> Arc<Self> {
        let own = Self::default();
        registry.register("millrace_notify_alerts_received", "Reports taken", own.received.clone());
        registry.register("millrace_notify_alerts_refused", "Reports refused", own.refused.clone());
        registry.register("millrace_notify_alerts", "Alerts held", own.alerts.clone());
        registry.register("millrace_notify_groups", "Groups held", own.groups.clone());
        registry.register("millrace_notify_messages_sent", "Messages delivered", own.sent.clone());
        registry.register("millrace_notify_attempts_failed", "Attempts that failed", own.attempts_failed.clone());
        registry.register(
            "millrace_notify_messages_failed",
            "Messages given up until the next turn",
            own.failed.clone(),
        );
        registry.register(
            "millrace_notify_store_failures",
            "States that could not be kept",
            own.store_failures.clone(),
        );
        Arc::new(own)
    }
}
