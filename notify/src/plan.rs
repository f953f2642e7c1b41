//! The plan at work: the routing of `alertmanager.yml`, with the integrations of the route's receiver.
//!
//! In: the file, and where webhooks may go. Out: what a reload replaces as one. Touches the file.

use std::sync::Arc;

use millrace_log::outgoing::Outgoing;

use crate::config::NotifyConfig;
use crate::error::NotifyError;
use crate::integration::Integration;
use crate::metrics::NotifyMetrics;
use crate::receiver_log::LogReceiver;
use crate::receiver_webhook::WebhookReceiver;
use crate::routing::Routing;

/// The configuration at work, with the integrations of the route's receiver.
pub(crate) struct Plan {
    /// What `alertmanager.yml` says.
    pub(crate) routing: Routing,
    /// Of the route's receiver, in order.
    pub(crate) integrations: Vec<Arc<dyn Integration>>,
}

impl Plan {
    /// Reads the file that the configuration names.
    pub(crate) fn read(config: &NotifyConfig, outgoing: &Outgoing) -> Result<Self, NotifyError> {
        let routing = match &config.config_file {
            Some(path) => Routing::read(path)?,
            None => Routing::default(),
        };
        let mut integrations: Vec<Arc<dyn Integration>> = Vec::new();
        for receiver in routing.receivers.iter().filter(|r| r.name == routing.route.receiver) {
            if receiver.log {
                integrations.push(Arc::new(LogReceiver));
            }
            for webhook in &receiver.webhooks {
                integrations.push(Arc::new(WebhookReceiver::new(webhook.clone(), outgoing, config.timeout.0)?));
            }
        }
        if integrations.is_empty() {
            tracing::warn!(
                receiver = routing.route.receiver,
                "the receiver has no integration: alerts are held, nobody is paged"
            );
        }
        Ok(Self { routing, integrations })
    }

    /// Exposes the series of all integrations.
    pub(crate) fn expose(&self, metrics: &NotifyMetrics) {
        for integration in &self.integrations {
            metrics.expose(&self.routing.route.receiver, integration.kind());
        }
    }
}
