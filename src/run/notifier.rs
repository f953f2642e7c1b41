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
use crate::exit::{Code, Failure};
use crate::stages::{STOP_LIMIT, Stages};

/// Opens the notifier and runs it.
pub async fn start(config: &Config, site: &Site, stages: &mut Stages<Part>) -> Result<Arc<Notifier>, Failure> {
    let outgoing = Outgoing::new(&config.outgoing);
    let open = || {
        let (notify, data_dir) = (config.notify.clone().unwrap_or_default(), config.data_dir.clone());
        let (clock, outgoing) = (Arc::clone(&site.clock), outgoing.clone());
        async move {
            let opened = tokio::task::spawn_blocking(move || {
                let mut registry = Registry::default();
                let notifier = Notifier::open(notify, &data_dir, clock, &outgoing, &mut registry).map_err(Some)?;
                Ok((notifier, registry))
            });
            opened.await.unwrap_or(Err(None))
        }
    };
    let in_use = |error: &Option<NotifyError>| match error {
        Some(error @ NotifyError::Store(StoreError::InUse { .. })) => Some(error.to_string()),
        _ => None,
    };
    let (notifier, registry) = site.open(open, in_use).await.map_err(|error| match error {
        Some(error) => notify_failure(error),
        None => Failure::text(Code::Failed, "opening the notifier was aborted"),
    })?;
    site.registries.put(Part::Notifier.name(), registry);
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
                "nobody will be paged: receiver `{}` of {} has no integration; fill it in and reload",
                routing.route.receiver,
                file.display()
            ),
        }
    });
    if let Some(text) = &text {
        tracing::warn!("{text}");
    }
    site.notices.set("notify", text);
}
