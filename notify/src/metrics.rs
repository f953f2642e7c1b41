//! Metrics of the notifier.
//!
//! In: events of it. Out: counters and gauges in the program's registry. Touches nothing else.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

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
