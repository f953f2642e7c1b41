//! Starts the notifier: alerts to people.
//!
//! In: the section `notify`. Out: a running notifier; a notice where nobody would be paged. Touches the notifier's folder
//! and `alertmanager.yml`.

use std::sync::Arc;

use millrace_log::outgoing::Outgoing;
use millrace_log::store::StoreError;
use millrace_notify::{Notifier, NotifyError};
use prometheus_client::registry::Registry;

use super::failure::notify_failure;
use super::part::Part;
use super::site::Site;
use crate::config::Config;
use crate::exit::Failure;
use crate::stages::{STOP_LIMIT, Stages};

/// Opens the notifier and runs it.
pub async fn start(config: &Config, site: &Site, stages: &mut Stages<Part>) -> Result<Arc<Notifier>, Failure> {
    let outgoing = Outgoing::new(&config.outgoing);
    let (notify, data_dir) = (config.notify.clone().unwrap_or_default(), config.data_dir.clone());
    let clock = Arc::clone(&site.clock);
    let make = move |registry: &mut Registry| {
        Notifier::open(notify.clone(), &data_dir, Arc::clone(&clock), &outgoing, registry)
    };
    let in_use = |error: &NotifyError| matches!(error, NotifyError::Store(StoreError::InUse { .. }));
    let opened = site.open_blocking(Part::Notifier, Arc::new(make), in_use).await;
    let notifier = opened.map_err(|error| error.failure(Part::Notifier, notify_failure))?;
    note(&notifier, config, site);
    let running = Arc::clone(&notifier);
    stages.start(Part::Notifier, "notifier", STOP_LIMIT, |token| async move { Ok(running.run(token).await?) });
    Ok(notifier)
}

/// Says so where nobody would be paged.
pub fn note(notifier: &Notifier, config: &Config, site: &Site) {
    let routing = notifier.routing();
    let text = (!routing.notifies_somebody()).then(|| {
        match config.notify.as_ref().and_then(|notify| notify.config_file.as_ref()) {
            None => "nobody will be paged: alerts are only written to this process's log until `notify.config_file` \
                     names an alertmanager.yml"
                .to_owned(),
            Some(file) => format!(
                "nobody will be paged: receiver `{}` of {} has no integration, nor has another of a route; fill it in and reload",
                routing.root_receiver(),
                file.display()
            ),
        }
    });
    if let Some(text) = &text {
        tracing::warn!("{text}");
    }
    site.notices.set("notify", text);
}
