//! The plan at work: the routing of `alertmanager.yml`, with the integrations of all receivers.
//!
//! In: the file, and where webhooks may go. Out: what a reload replaces as one. Touches the file.

use std::collections::HashMap;
use std::sync::Arc;

use millrace_log::outgoing::Outgoing;

use crate::config::NotifyConfig;
use crate::error::NotifyError;
use crate::integration::Integration;
use crate::metrics::NotifyMetrics;
use crate::receiver_log::LogReceiver;
use crate::receiver_webhook::WebhookReceiver;
use crate::routing::{Receiver, Routing};

/// The configuration at work, with its integrations.
pub(crate) struct Plan {
    /// What `alertmanager.yml` says.
    pub(crate) routing: Arc<Routing>,
    /// Of each receiver by its name, in order.
    pub(crate) integrations: HashMap<String, Vec<Arc<dyn Integration>>>,
}

impl Plan {
    /// Reads the file that the configuration names.
    pub(crate) fn read(config: &NotifyConfig, outgoing: &Outgoing) -> Result<Self, NotifyError> {
        let routing = match &config.config_file {
            Some(path) => Routing::read(path)?,
            None => Routing::default(),
        };
        let mut integrations = HashMap::new();
        for receiver in &routing.receivers {
            let mut list: Vec<Arc<dyn Integration>> = Vec::new();
            if receiver.log {
                list.push(Arc::new(LogReceiver));
            }
            for webhook in &receiver.webhooks {
                list.push(Arc::new(WebhookReceiver::new(webhook.clone(), outgoing, config.timeout.0)?));
            }
            if list.is_empty() && routing.routes.iter().any(|route| route.receiver == receiver.name) {
                tracing::warn!(
                    receiver = receiver.name,
                    "the receiver has no integration: alerts that are routed to it are held, nobody is paged"
                );
            }
            integrations.insert(receiver.name.clone(), list);
        }
        Ok(Self { routing: Arc::new(routing), integrations })
    }

    /// With the same integrations for each receiver.
    pub(crate) fn with(routing: Routing, integrations: &[Arc<dyn Integration>]) -> Self {
        let of = |receiver: &Receiver| (receiver.name.clone(), integrations.to_vec());
        Self { integrations: routing.receivers.iter().map(of).collect(), routing: Arc::new(routing) }
    }

    /// Exposes the series of all integrations.
    pub(crate) fn expose(&self, metrics: &NotifyMetrics) {
        for (receiver, integrations) in &self.integrations {
            for integration in integrations {
                metrics.expose(receiver, integration.kind());
            }
        }
    }
}
