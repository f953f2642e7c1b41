//! Metrics of the notifier: `millrace_notify_*`.
//!
//! In: events of it. Out: counters and gauges in the program's registry. Touches nothing else.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Names of the metrics (`_total` is added behind those of counters).
#[allow(missing_docs)] // each stands beside its help text below
pub mod names {
    pub const ALERTS_RECEIVED: &str = "millrace_notify_alerts_received";
    pub const ALERTS_REFUSED: &str = "millrace_notify_alerts_refused";
    pub const ALERTS: &str = "millrace_notify_alerts";
    pub const GROUPS: &str = "millrace_notify_groups";
    pub const GROUPS_DUE: &str = "millrace_notify_groups_due";
    pub const MESSAGES_SENT: &str = "millrace_notify_messages_sent";
    pub const ATTEMPTS_FAILED: &str = "millrace_notify_attempts_failed";
    pub const MESSAGES_FAILED: &str = "millrace_notify_messages_failed";
    pub const ALERTS_MUTED: &str = "millrace_notify_alerts_muted";
    pub const SILENCES: &str = "millrace_notify_silences";
    pub const STORE_FAILURES: &str = "millrace_notify_store_failures";
}

/// An integration of a receiver.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct IntegrationLabels {
    /// Name of the receiver.
    pub receiver: String,
    /// Type of the integration: `webhook`, `log`.
    pub integration: String,
}

/// What mutes alerts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Muting {
    /// Time intervals of the route.
    Time,
    /// A silence.
    Silence,
    /// Another alert.
    Inhibition,
}

/// What muted alerts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MutingLabels {
    /// `time`, `silence` or `inhibition`.
    pub by: &'static str,
}

/// Silences of a state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabels {
    /// `active`, `pending` or `expired`.
    pub state: &'static str,
}

/// Metrics of the notifier.
#[derive(Debug, Clone, Default)]
pub struct NotifyMetrics {
    /// Reports accepted.
    pub received: Counter,
    /// Reports rejected: not valid, or too many.
    pub refused: Counter,
    /// Alerts held.
    pub alerts: Gauge,
    /// Groups held.
    pub groups: Gauge,
    /// Groups that are due and wait for others to be sent.
    pub due: Gauge,
    /// Messages delivered.
    pub sent: Family<IntegrationLabels, Counter>,
    /// Attempts at delivering that failed, those that were repeated included.
    pub attempts_failed: Family<IntegrationLabels, Counter>,
    /// Messages given up until the group's next flush.
    pub failed: Family<IntegrationLabels, Counter>,
    /// Alerts left out of messages, each time a group was flushed.
    pub muted: Family<MutingLabels, Counter>,
    /// Silences held.
    pub silences: Family<StateLabels, Gauge>,
    /// States that could not be made durable.
    pub store_failures: Counter,
}

impl NotifyMetrics {
    /// Makes them known.
    pub fn register(registry: &mut Registry) -> Arc<Self> {
        let own = Self::default();
        let r = registry;
        r.register(names::ALERTS_RECEIVED, "Reports of alerts accepted", own.received.clone());
        r.register(names::ALERTS_REFUSED, "Reports of alerts rejected", own.refused.clone());
        r.register(names::ALERTS, "Alerts held", own.alerts.clone());
        r.register(names::GROUPS, "Groups of alerts held", own.groups.clone());
        r.register(names::GROUPS_DUE, "Groups that are due and wait for others to be sent", own.due.clone());
        r.register(names::MESSAGES_SENT, "Messages delivered", own.sent.clone());
        r.register(names::ATTEMPTS_FAILED, "Attempts to deliver that failed", own.attempts_failed.clone());
        let help = "Messages that could not be delivered before the next flush of their group";
        r.register(names::MESSAGES_FAILED, help, own.failed.clone());
        let help = "Alerts left out of notifications of flushed groups";
        r.register(names::ALERTS_MUTED, help, own.muted.clone());
        r.register(names::SILENCES, "Silences held", own.silences.clone());
        for muting in [Muting::Time, Muting::Silence, Muting::Inhibition] {
            own.muted(muting, 0);
        }
        r.register(names::STORE_FAILURES, "States that could not be saved", own.store_failures.clone());
        Arc::new(own)
    }

    /// Counts alerts that were left out of a message.
    pub(crate) fn muted(&self, by: Muting, count: usize) {
        let by = match by {
            Muting::Time => "time",
            Muting::Silence => "silence",
            Muting::Inhibition => "inhibition",
        };
        self.muted.get_or_create(&MutingLabels { by }).inc_by(count as u64);
    }

    /// Exposes the series of an integration from the start, as zero.
    pub fn expose(&self, receiver: &str, integration: &str) {
        let labels = IntegrationLabels { receiver: receiver.to_owned(), integration: integration.to_owned() };
        for counter in [&self.sent, &self.attempts_failed, &self.failed] {
            drop(counter.get_or_create(&labels));
        }
    }
}
