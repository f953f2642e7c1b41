//! Builds the parts of a process, plugs their traits together, starts and stops them in order, and changes the parts
//! whose configuration has changed.
//!
//! In: checked [`Settings`]. Out: a running [`Process`] with its addresses. Touches everything, through the parts.
//!
//! Listeners are bound before anything else, so that a port in use stops the start before a folder is touched. Then, in
//! the order of [`part::Part`]: broker, audit, routes, index, notifier, rules, exports, agent; then the listeners are served.

/// Where the process listens.
mod addresses;
/// Exit codes of parts that can't be opened.
mod failure;
/// What those who look after a process should know although it works.
mod notices;
/// The parts, their order, and what makes each.
mod part;
/// What all parts share.
mod site;
/// HTTP listeners.
mod listeners;
/// The embedded broker.
mod broker;
/// Audit events to the log.
mod audit;
/// Copies of records from topic to topic.
mod routes;
/// Alerts to people.
mod notifier;
/// Rule files to alerts.
mod rules;
/// Log to index, and the handlers of its APIs.
mod index;
/// Consumers that feed other systems.
mod exports;
/// Files and other sources to topics.
mod agent;
/// `/metrics`, `/ready`, the ledger.
mod insight;
/// The parts that run now.
mod parts;

use millrace_doors::access::{Access, AuditEvent};
use millrace_log::clock::SystemClock;
use millrace_log::push::DecodeBudget;
use prometheus_client::registry::Registry;

pub use addresses::Addresses;
pub use parts::Outcome;

use notices::Notices;
use part::Scope;
use parts::Parts;
use site::Site;

use crate::audit::AuditQueue;
use crate::config::{Config, Settings};
use crate::exit::{Code, Failure};
use crate::metrics::{Registries, ReloadMetrics, put_decode_memory};
use crate::stages::StageResult;

/// Everything that runs.
pub struct Process {
    parts: Parts,
    reloads: ReloadMetrics,
}

impl Process {
    /// Starts every role that the settings have.
    pub async fn start(settings: Settings) -> Result<Self, Failure> {
        Self::start_scope(settings, Scope::Sections).await
    }

    /// Starts every role of a configuration that was put together by code.
    pub async fn start_config(config: Config) -> Result<Self, Failure> {
        Self::start(Settings::try_from(config)?).await
    }

    /// Only the routes of the configuration, on the log that it names.
    pub async fn route(settings: Settings) -> Result<Self, Failure> {
        Self::start_scope(settings, Scope::Routes).await
    }

    async fn start_scope(settings: Settings, scope: Scope) -> Result<Self, Failure> {
        raise_file_limit();
        let registries = Registries::default();
        let reloads = ReloadMetrics::register(&registries);
        put_decode_memory(&registries, DecodeBudget::of_process());
        let clock = SystemClock::shared();
        let access = Access::new(std::sync::Arc::clone(&clock)).map_err(|error| Failure::new(Code::Failed, error))?;
        let mut registry = Registry::default();
        access.metrics().register(&mut registry);
        registries.put("http", registry);
        let audit = AuditQueue::new(std::sync::Arc::clone(&clock));
        access.audited_by(std::sync::Arc::new(audit.clone()));
        registries.put("audit events", audit.registry());
        let site = Site { access, audit, clock, registries, notices: Notices::default() };
        let mut parts = Parts::new(site, scope);
        match parts.start(settings).await {
            Ok(()) => Ok(Self { parts, reloads }),
            Err(failure) => {
                // What was started already is stopped in order; what it says then is logged.
                drop(parts.stop().await);
                Err(failure)
            }
        }
    }

    /// Changes the parts whose settings have changed; the others go on. An error ends the process: a part can run
    /// neither as it should nor as it did.
    pub async fn reload(&mut self, settings: Settings) -> Result<Outcome, Failure> {
        let outcome = self.parts.take_over(settings).await?;
        self.note(&outcome);
        let changed = if outcome.changed.is_empty() { "nothing".to_owned() } else { outcome.changed.join(", ") };
        let refused = outcome.refused.iter().map(|text| format!("; refused: {text}"));
        self.audit_reload(format!("SIGHUP; changed: {changed}{}", refused.collect::<String>()));
        Ok(outcome)
    }

    /// Notes that a new configuration was refused as a whole.
    pub fn refuse(&self, failure: &Failure) {
        let refused = vec![format!("all parts keep running with the previous configuration: {failure}")];
        self.note(&Outcome { refused, ..Outcome::default() });
        self.audit_reload(format!("SIGHUP; refused: {failure}"));
    }

    fn audit_reload(&self, detail: String) {
        self.parts.site.access.note(AuditEvent { event: AuditEvent::RELOAD, detail, ..AuditEvent::default() });
    }

    fn note(&self, outcome: &Outcome) {
        let failed = !outcome.refused.is_empty();
        if failed {
            self.reloads.failures.inc();
        }
        self.reloads.last_successful.set(i64::from(!failed));
        self.parts.site.notices.set("reload", failed.then(|| outcome.to_string()));
    }

    /// Where the process listens.
    pub fn addresses(&self) -> &Addresses {
        &self.parts.addresses
    }

    /// Waits until a stage ends although nobody stopped it.
    pub async fn ended_early(&mut self) -> (&'static str, StageResult) {
        self.parts.stages.ended_early().await
    }

    /// Stops everything in reverse order.
    pub async fn stop(self) -> Result<(), Failure> {
        self.parts.stop().await
    }
}

/// Raises the limit of open files to what the system allows: segments, splits and tailed files are many.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!(%error, now = limit.current, "limit of open files can't be raised: raise it with ulimit -n or LimitNOFILE");
    }
}

#[cfg(test)]
mod tests;
