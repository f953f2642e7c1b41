//! The parts of a process that run now: started, stopped and replaced one by one, and the routes that lead to them.
//!
//! In: settings. Out: running parts; after a reload, what was taken over and what was not. Touches everything, through
//! the parts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use axum::http::StatusCode;
use millrace_doors::access::Access;
use millrace_doors::access::config::AuditKafkaConfig;
use millrace_doors::routes::{Need, Routes};
use millrace_log::consume::ConsumerStatus;
use millrace_log::outgoing::Outgoing;
use millrace_log::push::DecodeBudget;
use millrace_notify::Notifier;
use millrace_rules::Rules;
use millrace_streams::route::RouteLedger;
use parking_lot::Mutex;
use serde_json::Value as Json;
use tokio_util::sync::CancellationToken;

use super::addresses::Addresses;
use super::agent::CurrentAgent;
use super::broker::{self, RunningBroker, log_connection, pointed};
use super::index::{self, RunningIndex};
use super::insight::Insight;
use super::listeners::{Api, Listeners};
use super::part::{Part, Scope, without};
use super::rules::{self, CurrentAlerts};
use super::site::Site;
use super::{agent, audit, exports, notifier, routes};
use crate::config::{Config, Settings};
use crate::exit::{Code, Failure};
use crate::stages::{STOP_LIMIT, Stages};

/// What a part was started with.
struct Started {
    values: Json,
    files: Json,
    settings: Arc<Settings>,
}

/// What became of a reload.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What runs with the new configuration and did not before.
    pub changed: Vec<String>,
    /// What runs with its previous configuration, and why.
    pub refused: Vec<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (changed, refused) = (self.changed.join(", "), self.refused.join("; "));
        match (changed.as_str(), refused.as_str()) {
            ("", "") => f.write_str("the last reload changed nothing"),
            (_, "") => write!(f, "the last reload changed {changed}"),
            ("", _) => write!(f, "the last reload failed: {refused}"),
            _ => write!(f, "the last reload changed {changed}, but failed in part: {refused}"),
        }
    }
}

/// All parts.
pub struct Parts {
    /// Their tasks.
    pub stages: Stages<Part>,
    /// Where they listen.
    pub addresses: Addresses,
    /// What they share.
    pub site: Site,
    scope: Scope,
    listeners: Listeners,
    /// The section `access` that is in force.
    logins: Json,
    started: BTreeMap<Part, Started>,
    broker: Option<RunningBroker>,
    routes: Option<RouteLedger>,
    index: Option<RunningIndex>,
    notifier: Option<Arc<Notifier>>,
    rules: Option<Arc<Rules>>,
    agent: Option<CurrentAgent>,
    exports: Vec<(String, ConsumerStatus)>,
    alerts: CurrentAlerts,
    /// Ends tails and queries of the index that runs now.
    queries: Arc<Mutex<CancellationToken>>,
}

impl Parts {
    /// None yet.
    pub fn new(site: Site, scope: Scope) -> Self {
        Self {
            stages: Stages::default(),
            addresses: Addresses::default(),
            site,
            scope,
            listeners: Listeners::default(),
            logins: Json::Null,
            started: BTreeMap::new(),
            broker: None,
            routes: None,
            index: None,
            notifier: None,
            rules: None,
            agent: None,
            exports: Vec::new(),
            alerts: CurrentAlerts::default(),
            queries: Arc::default(),
        }
    }

    /// Rules that are not there fire nothing and look like an all-clear: that stays in sight.
    fn note_warnings(&self, settings: &Settings) {
        let about_rules = settings.warnings.iter().filter(|warning| warning.message.starts_with("rules"));
        let texts: Vec<&str> = about_rules.map(|warning| &*warning.message).collect();
        self.site.notices.set("rules", (!texts.is_empty()).then(|| texts.join("; ")));
    }

    /// Starts everything that the settings have.
    pub async fn start(&mut self, settings: Settings) -> Result<(), Failure> {
        self.note_warnings(&settings);
        let settings = Arc::new(settings);
        DecodeBudget::of_process().set_limit(settings.config.limits.decode_memory.0);
        let logins = self.site.access.clone();
        take_over_logins(logins, &settings).await.map_err(|error| Failure::text(Code::Config, error))?;
        self.logins = logins_of(&settings);
        let opened = self.listeners.take_over(&settings, self.scope, &self.site.access).await;
        if let Some((_, failure)) = opened.failures.into_iter().next() {
            return Err(failure);
        }
        self.listeners.fill(&mut self.addresses);
        for part in Part::IN_ORDER {
            self.start_part(part, &settings).await?;
        }
        self.serve();
        let access = self.site.access.clone();
        self.stages.start(Part::Apis, "login provider", STOP_LIMIT, |token| async move {
            access.keep_provider_known(&token).await;
            Ok(())
        });
        let queries = Arc::clone(&self.queries);
        self.stages.start(Part::Apis, "queries", STOP_LIMIT, |token| async move {
            token.cancelled().await;
            queries.lock().cancel();
            Ok(())
        });
        Ok(())
    }

    /// Changes what differs from what runs. A part that can't start as it should goes back to how it was; an error is
    /// one that can't even do that.
    pub async fn take_over(&mut self, settings: Settings) -> Result<Outcome, Failure> {
        self.note_warnings(&settings);
        let settings = Arc::new(settings);
        DecodeBudget::of_process().set_limit(settings.config.limits.decode_memory.0);
        let mut outcome = Outcome::default();
        if self.logins != logins_of(&settings) {
            match take_over_logins(self.site.access.clone(), &settings).await {
                Ok(()) => {
                    self.logins = logins_of(&settings);
                    outcome.changed.push("logins".to_owned());
                }
                Err(error) => outcome.refused.push(format!("the previous logins remain active: {error}")),
            }
        }
        let mut taken_over = self.listeners.take_over(&settings, self.scope, &self.site.access).await;
        outcome.changed.append(&mut taken_over.changed);
        for (api, failure) in taken_over.failures {
            outcome.refused.push(format!("{} keeps its previous listener: {failure}", api.name()));
        }
        self.listeners.fill(&mut self.addresses);
        let changed = self.changed(&settings);
        let mut before = BTreeMap::new();
        for part in changed.iter().rev() {
            before.extend(self.stop_part(*part).await.map(|started| (*part, started)));
        }
        let mut has_gone_back = false;
        for part in changed {
            let started = before.remove(&part);
            // Those that find the log by the broker's listeners stay with the ones that are there.
            if has_gone_back
                && matches!(part, Part::Audit | Part::Routes)
                && let Some(started) = &started
            {
                self.start_part(part, &started.settings).await?;
                if part.values(&settings, self.scope).as_ref() != Some(&started.values) {
                    let name = part.name();
                    outcome
                        .refused
                        .push(format!("{name} keeps running with its previous configuration, as the broker does"));
                }
                continue;
            }
            let refused = outcome.refused.len();
            self.replace_part(part, &settings, started, &mut outcome).await?;
            has_gone_back |= part == Part::Broker && outcome.refused.len() > refused;
        }
        self.read_files(&settings, &mut outcome).await;
        self.serve();
        Ok(outcome)
    }

    /// The routes behind a listener.
    #[cfg(test)]
    pub fn routes_of(&self, api: Api) -> Vec<millrace_doors::routes::Listed> {
        self.listeners.routes_of(api)
    }

    /// Stops everything in reverse order.
    pub async fn stop(self) -> Result<(), Failure> {
        let mut first = None;
        let stopped = self.stages.stop().await;
        self.site.audit.close();
        for stage in stopped {
            if let Err(error) = stage.result {
                tracing::error!(stage = stage.name, error = format!("{error:#}"), "stage ended with an error");
                first.get_or_insert(error.context(format!("{} failed when it was stopped", stage.name)));
            }
        }
        first.map_or(Ok(()), |error| Err(error.into()))
    }

    /// The parts whose values differ, and those that stand on them, in the order of the start.
    fn changed(&self, settings: &Settings) -> BTreeSet<Part> {
        let differs = |part: &Part| {
            self.started.get(part).map(|started| &started.values) != part.values(settings, self.scope).as_ref()
        };
        let mut changed: BTreeSet<Part> = Part::IN_ORDER.into_iter().filter(differs).collect();
        for part in changed.clone() {
            let running = |part: &&Part| self.started.contains_key(part);
            changed.extend(part.dependents().iter().filter(running));
        }
        let elsewhere = |config: &Config| {
            config
                .broker
                .as_ref()
                .is_some_and(|broker| broker.server.all_listeners().iter().any(|d| d.listen.ends_with(":0")))
        };
        if changed.contains(&Part::Broker) && elsewhere(&settings.config) {
            // It will be at another port, which all others must know.
            changed.extend(Part::IN_ORDER);
        }
        changed
    }

    async fn replace_part(
        &mut self,
        part: Part,
        settings: &Arc<Settings>,
        before: Option<Started>,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let name = part.name();
        let failure = match self.start_part(part, settings).await {
            Ok(true) => {
                outcome.changed.push(name.to_owned());
                return Ok(());
            }
            Ok(false) => {
                outcome.changed.extend(before.is_some().then(|| format!("{name} (stopped)")));
                return Ok(());
            }
            Err(failure) => failure,
        };
        // What it has started before it failed would be in the way.
        self.stop_part(part).await;
        let Some(before) = before else {
            outcome.refused.push(format!("{name} is not started: {failure}"));
            return Ok(());
        };
        self.start_part(part, &before.settings).await?;
        outcome.refused.push(format!("{name} keeps running with its previous configuration: {failure}"));
        Ok(())
    }

    /// Has parts that stay read the files again that they can take over while they run.
    async fn read_files(&mut self, settings: &Arc<Settings>, outcome: &mut Outcome) {
        let stale = |started: &Started, part: Part| started.files != *part.files(settings);
        if let (Some(rules), Some(started)) = (self.rules.clone(), self.started.get_mut(&Part::Rules))
            && stale(started, Part::Rules)
        {
            match tokio::task::spawn_blocking(move || rules.reload()).await {
                Ok(Ok(count)) => {
                    started.files = Part::Rules.files(settings).clone();
                    outcome.changed.push(format!("rule files ({count} rules)"));
                }
                Ok(Err(faults)) => {
                    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
                    outcome.refused.push(format!("the previous rules remain active: {}", faults.join("\n")));
                }
                Err(error) => outcome.refused.push(format!("the previous rules remain active: {error}")),
            }
        }
        if let (Some(notifier), Some(started)) = (self.notifier.clone(), self.started.get_mut(&Part::Notifier))
            && stale(started, Part::Notifier)
        {
            let again = Arc::clone(&notifier);
            match tokio::task::spawn_blocking(move || again.reload().map_err(|error| error.to_string())).await {
                Ok(Ok(())) => {
                    started.files = Part::Notifier.files(settings).clone();
                    notifier::note(&notifier, &settings.config, &self.site);
                    outcome.changed.push("alertmanager.yml".to_owned());
                }
                Ok(Err(error)) => {
                    outcome.refused.push(format!("the previous alertmanager.yml remains active: {error}"))
                }
                Err(error) => outcome.refused.push(format!("the previous alertmanager.yml remains active: {error}")),
            }
        }
    }

    /// Starts a part; false where the settings have none.
    async fn start_part(&mut self, part: Part, settings: &Arc<Settings>) -> Result<bool, Failure> {
        let Some(values) = part.values(settings, self.scope) else {
            if part == Part::Audit {
                self.site.audit.written(false);
            }
            return Ok(false);
        };
        let config = pointed(&settings.config, self.broker.as_ref());
        if self.scope == Scope::Sections {
            create_data_dir(&config)?;
        }
        let (site, stages) = (&self.site, &mut self.stages);
        match part {
            Part::Broker => {
                let broker = config.broker.clone().unwrap_or_default().server;
                let running = broker::start(&broker, &config, site, stages).await?;
                self.addresses.kafka = running.listens.first().map(|(_, address)| *address);
                self.broker = Some(running);
            }
            Part::Audit => {
                let own = config.access.audit.kafka.as_ref().map(AuditKafkaConfig::connection);
                let connection = own.unwrap_or_else(|| log_connection(&config, self.broker.as_ref()));
                audit::start(&config.access.audit, connection, site, stages)?;
            }
            Part::Routes => {
                let broker = config.broker.clone().unwrap_or_default();
                let connection = log_connection(&config, self.broker.as_ref());
                self.routes = Some(routes::start(&broker, &connection, site, stages)?);
            }
            Part::Index => {
                let aggregator = config.aggregator.clone().unwrap_or_default();
                let index = index::start(&config, &aggregator, &self.alerts, site, stages).await?;
                *self.queries.lock() = index.shutdown.clone();
                self.index = Some(index);
            }
            Part::Notifier => self.notifier = Some(notifier::start(&config, site, stages).await?),
            Part::Rules => {
                let (Some(index), Some(notifier)) = (&self.index, &self.notifier) else { return Ok(false) };
                let page = self.addresses.http;
                let rules = rules::start(&config, &index.engine, notifier, page, site, stages).await?;
                self.alerts.set(Some(Arc::clone(&rules)));
                self.rules = Some(rules);
            }
            Part::Apis => return Ok(false),
            Part::Exports => {
                let connection = config.aggregator.clone().unwrap_or_default().kafka.connection();
                self.exports = exports::start(
                    &config.exports,
                    &Outgoing::new(&config.outgoing),
                    &index::producer(&connection)?,
                    site,
                    stages,
                )?;
            }
            Part::Agent => {
                let config_of_agent = config.agent.clone().unwrap_or_default();
                self.agent = Some(agent::start(&config_of_agent, &config.data_dir, site, stages).await?);
            }
        }
        let started = Started { values, files: part.files(settings).clone(), settings: Arc::clone(settings) };
        self.started.insert(part, started);
        Ok(true)
    }

    /// Stops a part and lets go of everything that holds its folder; what it was started with.
    async fn stop_part(&mut self, part: Part) -> Option<Started> {
        let started = self.started.remove(&part);
        match part {
            Part::Broker => drop(self.broker.take()),
            Part::Routes => drop(self.routes.take()),
            Part::Index => {
                if let Some(index) = self.index.take() {
                    index.shutdown.cancel();
                }
            }
            Part::Notifier => drop(self.notifier.take()),
            Part::Rules => {
                self.alerts.set(None);
                drop(self.rules.take());
            }
            Part::Agent => drop(self.agent.take()),
            Part::Exports => self.exports.clear(),
            Part::Audit | Part::Apis => {}
        }
        self.connect();
        for stage in self.stages.stop_where(|of| of == part).await {
            if let Err(error) = stage.result {
                tracing::error!(stage = stage.name, error = format!("{error:#}"), "stage ended with an error");
            }
        }
        self.site.registries.remove(part.name());
        started
    }

    /// Leads requests to the parts that run now, and serves what is not served yet.
    fn serve(&mut self) {
        self.connect();
        self.listeners.serve(&mut self.stages);
    }

    fn connect(&self) {
        let insight = self.insight();
        for api in self.listeners.apis() {
            let status = || insight.router(&self.site, self.listeners.is_private(api));
            let router = match (api, &self.index, &self.notifier) {
                (Api::Loki, Some(index), _) => {
                    let rules = self.rules.as_ref().map(|rules| rules.router()).unwrap_or_default();
                    index.loki.clone().merge(rules).merge(status())
                }
                (Api::Elasticsearch, Some(index), _) => index.elastic.clone(),
                (Api::Alertmanager, _, Some(notifier)) => notifier.router(),
                (Api::Status, ..) => status(),
                (Api::Loki, None, _) => restarting().merge(status()),
                (Api::Elasticsearch, None, _) | (Api::Alertmanager, _, None) => restarting(),
            };
            self.listeners.route(api, router);
        }
    }

    fn insight(&self) -> Insight {
        let mut insight = Insight { routes: self.routes.clone(), exports: self.exports.clone(), ..Insight::default() };
        insight.notifier.clone_from(&self.notifier);
        insight.rules.clone_from(&self.rules);
        insight.ready.extend(self.broker.as_ref().map(|broker| Arc::clone(&broker.ready)));
        match &self.index {
            Some(index) => {
                let aggregator = Arc::clone(&index.aggregator);
                insight.ready.push(Arc::new(move || aggregator.ready()));
                insight.index = Some(Arc::clone(&index.aggregator));
            }
            None if self.listeners.apis().any(|api| api == Api::Loki) => {
                insight.ready.push(Arc::new(|| Err("the index is starting".to_owned())));
            }
            None => {}
        }
        insight.agent.clone_from(&self.agent);
        if let Some(agent) = self.agent.clone() {
            insight.ready.push(Arc::new(move || agent.ready().map_err(|reason| format!("agent: {reason}"))));
        }
        insight
    }
}

/// The section `access` without what is a part of its own.
fn logins_of(settings: &Settings) -> Json {
    without(settings.value(&["access"]).clone(), &["audit"])
}

/// Puts the section `access` in force for all listeners.
async fn take_over_logins(access: Access, settings: &Arc<Settings>) -> Result<(), String> {
    let settings = Arc::clone(settings);
    let replaced = tokio::task::spawn_blocking(move || access.replace(&settings.config.access));
    replaced.await.map_err(|error| error.to_string())?.map_err(|error| format!("access.{error}"))
}

/// What is answered while the part behind an API starts again.
fn restarting() -> Routes {
    Routes::new().fallback(Need::LoginJoined, || async {
        (StatusCode::SERVICE_UNAVAILABLE, "restarting with a new configuration: retry\n")
    })
}

fn create_data_dir(config: &Config) -> Result<(), Failure> {
    std::fs::create_dir_all(&config.data_dir).map_err(|error| {
        let text = format!(
            "can't create the data folder {}: choose another with `data_dir` or --data-dir",
            config.data_dir.display()
        );
        Failure::new(Code::Data, anyhow::Error::new(error).context(text))
    })
}
