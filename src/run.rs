//! Builds the parts of a process, plugs their traits together, starts and stops them in order.
//!
//! In: a checked [`Config`]. Out: a running [`Process`] with its addresses. Touches everything, through the rooms.
//!
//! Doors are bound before anything else, so that a port in use stops the start before a folder is touched. Then, in
//! the order of [`crate::stages`]: broker, aggregator with its catalog, notifier, rules, APIs, exports, agent.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use millrace_agent::tap::Taps;
use millrace_agent::{Agent, AgentConfig, AgentError, LedgerHandle};
use millrace_aggregator::config::AggregatorConfig;
use millrace_aggregator::elastic::{self, Accepted, ElasticState, Templates};
use millrace_aggregator::ingest::{Ingest, IngestRun};
use millrace_aggregator::loki::{self, LokiLimits, LokiState};
use millrace_aggregator::run::{Aggregator, AggregatorError};
use millrace_aggregator::web::{self, AlertList, AlertRow, NoAlerts, PageState};
use millrace_broker::storage::StorageError;
use millrace_broker::{Broker, BrokerError};
use millrace_doors::config::Login;
use millrace_doors::serve::{HttpListener, HttpSettings, OpenError};
use millrace_exports::config::ExportConfig;
use millrace_exports::elastic_bulk::{ElasticBulk, Trouble};
use millrace_exports::metrics::ExportMetrics;
use millrace_index::logql::LogqlStorage;
use millrace_index::scan::EventStore;
use millrace_log::client::{BatchProducer, ConnectionConfig, DELIVERY_TIMEOUT, WireProducer};
use millrace_log::clock::{SharedClock, SystemClock};
use millrace_log::fs::RealFs;
use millrace_log::store::StoreError;
use millrace_logql::Engine;
use millrace_notify::{Inbox, Notifier, NotifyError};
use millrace_rules::{QueryEvaluator, Rules, RulesError};
use millrace_streams::route::{self, RouteLedger, RouteMetrics};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::config::broker_section::BrokerSection;
use crate::exit::{Code, Failure};
use crate::ledger::{LedgerView, agent_hop, index_hop, route_hop};
use crate::stages::{StageResult, Stages};
use crate::status::{Notes, ReadyCheck, Registries, status_routes};
use crate::tap::tap_route;

/// What a stage gets at the stop before it is cut off. The agent bounds its own draining below that.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How long the start waits for the log to say how many partitions the push topic has.
const TOPIC_PATIENCE: Duration = Duration::from_secs(5);

/// Raises the limit of open files to what the system allows: segments, splits and tailed files are many.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!(%error, now = limit.current, "limit of open files can't be raised: raise it with ulimit -n or LimitNOFILE");
    }
}

/// Where the doors are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Kafka protocol.
    pub kafka: Option<SocketAddr>,
    /// Loki API, page, `/metrics`, `/ready`.
    pub http: Option<SocketAddr>,
    /// Elasticsearch API.
    pub elasticsearch: Option<SocketAddr>,
    /// Alertmanager API.
    pub alertmanager: Option<SocketAddr>,
    /// `/metrics`, `/ready` and the ledger of a broker, router or agent alone.
    pub status: Option<SocketAddr>,
}

impl Addresses {
    /// Name and address of each door that is open.
    pub fn named(&self) -> Vec<(&'static str, String)> {
        let web = |address: SocketAddr| format!("http://{address}");
        [
            ("page", self.http.map(web)),
            ("loki", self.http.map(web)),
            ("elastic", self.elasticsearch.map(web)),
            ("alerts", self.alertmanager.map(web)),
            ("status", self.status.map(web)),
            ("kafka", self.kafka.map(|address| address.to_string())),
        ]
        .into_iter()
        .filter_map(|(name, address)| Some((name, address?)))
        .collect()
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.named().into_iter().map(|(name, address)| format!("{name}={address}")).collect();
        f.write_str(&all.join(" "))
    }
}

/// Everything that runs.
pub struct Process {
    stages: Stages,
    addresses: Addresses,
}

/// Doors that are bound and not yet served.
#[derive(Default)]
struct Doors {
    http: Option<HttpListener>,
    elasticsearch: Option<HttpListener>,
    alertmanager: Option<HttpListener>,
    status: Option<HttpListener>,
}

/// What the parts leave for the status routes and the ledger.
#[derive(Default)]
struct Insight {
    agent: Option<LedgerHandle>,
    taps: Option<Taps>,
    index: Option<Arc<Aggregator>>,
    routes: Option<RouteLedger>,
    ready: Vec<ReadyCheck>,
    /// Filled when exports start, which is after the doors.
    exports: Arc<Mutex<Vec<Trouble>>>,
}

impl Insight {
    /// What is wrong although the process does its work.
    fn notes(&self) -> Vec<Notes> {
        let (exports, index) = (Arc::clone(&self.exports), self.index.clone());
        let exports = move || exports.lock().iter().filter_map(Trouble::text).collect::<Vec<String>>();
        let damaged = move || {
            let splits = index.iter().flat_map(|aggregator| aggregator.store().all_damaged());
            splits.map(|split| split.to_string()).collect::<Vec<String>>()
        };
        vec![Arc::new(exports), Arc::new(damaged)]
    }
}

impl Process {
    /// Starts every role that the configuration has.
    pub async fn start(mut config: Config) -> Result<Self, Failure> {
        raise_file_limit();
        let clock = SystemClock::shared();
        let registry = Registries::default();
        let mut addresses = Addresses::default();
        let mut doors = bind_doors(&config, &mut addresses).await?;
        let mut stages = Stages::default();
        let started = Self::start_parts(&mut config, &mut doors, &mut stages, &mut addresses, &registry, &clock).await;
        match started {
            Ok(()) => Ok(Self { stages, addresses }),
            Err(failure) => {
                // What was started already is stopped in order.
                stages.stop().await;
                Err(failure)
            }
        }
    }

    /// Only the routes of the configuration, on the log that it names.
    pub async fn route(mut config: Config) -> Result<Self, Failure> {
        raise_file_limit();
        let mut stages = Stages::default();
        let connection = config.log_connection();
        let broker = config.broker.take().unwrap_or_default();
        let mut insight = Insight::default();
        let registry = Registries::default();
        let mut addresses = Addresses::default();
        let door = broker_door(&broker, &mut addresses).await?;
        let clock = SystemClock::shared();
        start_routes(&broker, &connection, &mut stages, &registry, &clock, &mut insight)?;
        serve_status_door(door, &mut stages, &registry, &mut insight);
        Ok(Self { stages, addresses })
    }

    async fn start_parts(
        config: &mut Config,
        doors: &mut Doors,
        stages: &mut Stages,
        addresses: &mut Addresses,
        registry: &Registries,
        clock: &SharedClock,
    ) -> Result<(), Failure> {
        std::fs::create_dir_all(&config.data_dir).map_err(|error| {
            Failure::new(
                Code::Data,
                anyhow::Error::new(error).context(format!(
                    "data folder {} can't be made: choose another with `data_dir` or --data-dir",
                    config.data_dir.display()
                )),
            )
        })?;
        let data_dir = config.data_dir.clone();
        let mut insight = Insight::default();
        if let Some(broker) = config.broker.clone() {
            let configured: Vec<String> = broker.server.all_listeners().into_iter().map(|door| door.listen).collect();
            // Each room fills a registry of its own: opening is asynchronous, a lock must not be held over it.
            let mut part = Registry::default();
            let folder = data_dir.join("log");
            let opened = Broker::open(broker.server, &folder, RealFs::shared(), Arc::clone(clock), &mut part);
            let broker = opened.await.map_err(broker_failure)?;
            let address = broker.bind().await.map_err(broker_failure)?;
            addresses.kafka = Some(address);
            let storage = Arc::clone(broker.storage());
            insight.ready.push(Arc::new(move || storage.writable().map_err(|fault| fault.to_string())));
            for (configured, (_, address)) in configured.iter().zip(broker.addresses()) {
                point_at(config, configured, address);
            }
            stages.start("broker", STOP_LIMIT, |token| async move { Ok(broker.run(token).await?) });
            merge(registry, part);
        }
        if let Some(broker) = &config.broker {
            // In front of everything that writes, so that they stop after it.
            start_routes(broker, &local_connection(config, addresses), stages, registry, clock, &mut insight)?;
        }
        // Opened before the doors are served, run last: the page of a process can show its agent's ledger.
        let agent = match &config.agent {
            Some(agent) => Some(open_agent(agent, &data_dir, registry, clock, &mut insight).await?),
            None => None,
        };
        if let Some(aggregator) = &config.aggregator {
            start_aggregator(config, aggregator, doors, stages, addresses, registry, clock, &mut insight).await?;
        } else if let Some(listener) = doors.alertmanager.take() {
            let notifier = open_notifier(config, registry, clock).await?;
            let router = notifier.router();
            stages.start("notifier", STOP_LIMIT, |token| async move { Ok(notifier.run(token).await?) });
            start_listener(stages, "Alertmanager API", listener, router);
        }
        serve_status_door(doors.status.take(), stages, registry, &mut insight);
        if let Some(agent) = agent {
            stages.start("agent", STOP_LIMIT, |token| async move { Ok(agent.run(token).await?) });
        }
        Ok(())
    }

    /// Where the doors are.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Waits until a stage ends although nobody stopped it.
    pub async fn ended_early(&mut self) -> (&'static str, StageResult) {
        self.stages.ended_early().await
    }

    /// Stops everything in reverse order.
    pub async fn stop(self) -> Result<(), Failure> {
        let mut first = None;
        for stage in self.stages.stop().await {
            if let Err(error) = stage.result {
                tracing::error!(stage = stage.name, error = format!("{error:#}"), "stage ended with an error");
                first.get_or_insert(error.context(format!("{} failed at its stop", stage.name)));
            }
        }
        first.map_or(Ok(()), |error| Err(Failure::new(Code::Failed, error)))
    }
}

async fn bind_doors(config: &Config, addresses: &mut Addresses) -> Result<Doors, Failure> {
    let mut doors = Doors::default();
    if let Some(broker) = &config.broker {
        doors.status = broker_door(broker, addresses).await?;
    }
    if let Some(agent) = &config.agent
        && let Some(listen) = &agent.http
        && doors.status.is_none()
        && config.aggregator.is_none()
    {
        doors.status = Some(status_door("agent's status", "agent.http", listen, &agent.http_auth, addresses).await?);
    }
    if let Some(aggregator) = &config.aggregator {
        let part = &aggregator.http;
        let mut settings = HttpSettings::new("Loki API", "aggregator.http.listen", &part.listen);
        settings.login = part.auth.clone();
        settings.requests.max_body = part.max_body.0;
        settings.requests.max_body_key = "aggregator.http.max_body";
        settings.requests.max_concurrent = part.max_requests;
        let listener = open_listener(settings).await?;
        addresses.http = Some(listener.address());
        doors.http = Some(listener);
        let part = &aggregator.elasticsearch;
        let mut settings = HttpSettings::new("Elasticsearch API", "aggregator.elasticsearch.listen", &part.listen);
        settings.login = part.auth.clone();
        settings.requests.max_body = part.max_body.0;
        settings.requests.max_body_key = "aggregator.elasticsearch.max_body";
        settings.requests.max_concurrent = part.max_requests;
        let listener = open_listener(settings).await?;
        addresses.elasticsearch = Some(listener.address());
        doors.elasticsearch = Some(listener);
    }
    if let Some(notify) = &config.notify {
        let listener = open_listener(HttpSettings::new("Alertmanager API", "notify.listen", &notify.listen)).await?;
        addresses.alertmanager = Some(listener.address());
        doors.alertmanager = Some(listener);
    }
    Ok(doors)
}

async fn open_listener(settings: HttpSettings) -> Result<HttpListener, Failure> {
    HttpListener::open_async(settings).await.map_err(|error| {
        let code = match &error {
            OpenError::InUse { .. } | OpenError::Bind { .. } => Code::Unavailable,
            OpenError::Tls { .. } | OpenError::Login { .. } => Code::Config,
        };
        Failure::new(code, error)
    })
}

/// Answers by a router until the stop.
fn start_listener(stages: &mut Stages, name: &'static str, listener: HttpListener, router: Router) {
    stages.start(name, STOP_LIMIT, |token| async move { Ok(listener.serve(router, token).await?) });
}

/// Roles of this process that name the embedded broker's configured address get the one it was bound to: with port 0
/// the two differ.
fn point_at(config: &mut Config, configured: &str, address: SocketAddr) {
    let point = |brokers: &mut Vec<String>| {
        for broker in brokers.iter_mut().filter(|broker| **broker == configured) {
            *broker = address.to_string();
        }
    };
    if let Some(agent) = &mut config.agent {
        point(&mut agent.kafka.brokers);
    }
    if let Some(aggregator) = &mut config.aggregator {
        point(&mut aggregator.kafka.brokers);
    }
    for ExportConfig::Elasticsearch(export) in &mut config.exports {
        point(&mut export.kafka.brokers);
    }
    for route in config.broker.iter_mut().flat_map(|broker| &mut broker.routes) {
        if let Some(kafka) = &mut route.kafka {
            point(&mut kafka.brokers);
        }
    }
}

fn merge(registries: &Registries, part: Registry) {
    registries.lock().push(part);
}

fn producer(connection: &ConnectionConfig) -> Result<Arc<dyn BatchProducer>, Failure> {
    let producer = WireProducer::new(connection, Some(DELIVERY_TIMEOUT));
    Ok(Arc::new(producer.map_err(|error| Failure::new(Code::Config, error))?))
}

async fn open_agent(
    config: &AgentConfig,
    data_dir: &Path,
    registry: &Registries,
    clock: &SharedClock,
    insight: &mut Insight,
) -> Result<Agent, Failure> {
    let producer = config.kafka.producer().map_err(|error| Failure::new(Code::Config, error))?;
    let (config, folder, clock) = (config.clone(), data_dir.join("agent"), Arc::clone(clock));
    let registry = Arc::clone(registry);
    let opened = tokio::task::spawn_blocking(move || {
        let mut part = Registry::default();
        let agent = Agent::open(config, &folder, producer, clock, &mut part);
        merge(&registry, part);
        agent
    });
    let agent = opened.await?.map_err(|error| {
        let code = match &error {
            AgentError::InUse { .. } | AgentError::Newer { .. } | AgentError::File { .. } => Code::Data,
            AgentError::Listen { .. } => Code::Unavailable,
            AgentError::Glob { .. } | AgentError::Regex { .. } | AgentError::Setting { .. } => Code::Config,
            _ => Code::Failed,
        };
        Failure::new(code, error)
    })?;
    insight.agent = Some(agent.ledger());
    insight.taps = Some(agent.taps());
    Ok(agent)
}

async fn open_notifier(config: &Config, registry: &Registries, clock: &SharedClock) -> Result<Arc<Notifier>, Failure> {
    let (notify, data_dir) = (config.notify.clone().unwrap_or_default(), config.data_dir.clone());
    let (registry, clock) = (Arc::clone(registry), Arc::clone(clock));
    let opened = tokio::task::spawn_blocking(move || -> Result<_, Failure> {
        let mut part = Registry::default();
        let client = reqwest::Client::builder().build().map_err(|error| {
            let text = "client of the receivers can't be made: are the system's certificates there (ca-certificates)?";
            Failure::new(Code::Config, anyhow::Error::new(error).context(text))
        })?;
        let notifier = Notifier::open(notify, &data_dir, clock, &client, &mut part).map_err(notify_failure)?;
        merge(&registry, part);
        Ok(notifier)
    });
    opened.await?
}

/// The aggregator with everything that stands on its index.
#[allow(clippy::too_many_arguments)] // the parts of one process, used once
async fn start_aggregator(
    config: &Config,
    aggregator_config: &AggregatorConfig,
    doors: &mut Doors,
    stages: &mut Stages,
    addresses: &Addresses,
    registry: &Registries,
    clock: &SharedClock,
    insight: &mut Insight,
) -> Result<(), Failure> {
    let data_dir = &config.data_dir;
    let connection = aggregator_config.kafka.connection();
    let mut part = Registry::default();
    let opened = Aggregator::open(aggregator_config.clone(), data_dir, Arc::clone(clock), &mut part).await;
    let aggregator = Arc::new(opened.map_err(aggregator_failure)?);
    merge(registry, part);
    let store = aggregator.store();
    insight.index = Some(Arc::clone(&aggregator));
    let check = Arc::clone(&aggregator);
    insight.ready.push(Arc::new(move || check.ready()));
    let producer = producer(&connection)?;
    // Makes the topic if it is new: the consumer finds it at its first look, not seconds later.
    let (ingest, pushes) = open_ingest(aggregator_config, data_dir, Arc::clone(&producer), clock, registry).await?;
    stages.start("aggregator", STOP_LIMIT, |token| async move { Ok(aggregator.run(token).await?) });
    stages.start("pushes", STOP_LIMIT, |token| async move {
        pushes.run(token).await;
        Ok(())
    });

    let limits = aggregator_config.index.query.limits();
    let events: Arc<dyn EventStore> = store.clone();
    let engine = Engine::new(Arc::new(LogqlStorage(Arc::clone(&events))));
    let (alerts, api_routes) = start_alerts(config, doors, stages, addresses, registry, clock, &engine).await?;

    if let Some(listener) = doors.http.take() {
        let engine = Arc::new(engine);
        // Ends tails and queries with the door: they never end by themselves.
        let shutdown = CancellationToken::new();
        let cost = LokiLimits::from(aggregator_config);
        let page = PageState {
            store: Arc::clone(&events),
            engine: Arc::clone(&engine),
            alerts,
            clock: Arc::clone(clock),
            limits: limits.clone(),
        };
        let state = LokiState::new(events, engine, Arc::clone(&ingest), Arc::clone(clock), cost, shutdown.clone());
        let router = Router::new()
            .merge(loki::router(state))
            .merge(web::router(page))
            .merge(api_routes)
            .merge(status_routes(Arc::clone(registry), insight.ready.clone(), insight.notes()))
            .merge(ledger_route(insight))
            .merge(tap_route(insight.taps.clone(), listener.is_private()));
        stages.start("Loki API", STOP_LIMIT, |token| async move {
            let ending = token.clone();
            let serving = listener.serve(router, token);
            tokio::pin!(serving);
            tokio::select! {
                ended = &mut serving => return Ok(ended?),
                () = ending.cancelled() => shutdown.cancel(),
            }
            Ok(serving.await?)
        });
    }
    if let Some(listener) = doors.elasticsearch.take() {
        let state = ElasticState {
            store,
            ingest,
            accepted: Accepted::default(),
            templates: Templates::default(),
            topics: aggregator_config.kafka.topics.clone(),
            clock: Arc::clone(clock),
            limits,
            queries: Semaphore::new(aggregator_config.index.query.max_concurrent),
            max_body_bytes: usize::try_from(aggregator_config.elasticsearch.max_body_decompressed.0)
                .unwrap_or(usize::MAX),
        };
        let router = elastic::router(state);
        start_listener(stages, "Elasticsearch API", listener, router);
    }
    start_exports(config, producer, stages, registry, clock, insight)
}

/// Notifier and rules, with the list of alerts for the page and the routes of the rule state.
async fn start_alerts(
    config: &Config,
    doors: &mut Doors,
    stages: &mut Stages,
    addresses: &Addresses,
    registry: &Registries,
    clock: &SharedClock,
    engine: &Engine,
) -> Result<(Arc<dyn AlertList>, Router), Failure> {
    if config.rules.is_none() && config.notify.is_none() {
        return Ok((Arc::new(NoAlerts), Router::new()));
    }
    let notifier = open_notifier(config, registry, clock).await?;
    let api = notifier.router();
    let running = Arc::clone(&notifier);
    stages.start("notifier", STOP_LIMIT, |token| async move { Ok(running.run(token).await?) });
    if let Some(listener) = doors.alertmanager.take() {
        start_listener(stages, "Alertmanager API", listener, api);
    }
    let Some(mut rules_config) = config.rules.clone() else {
        return Ok((Arc::new(NoAlerts), Router::new()));
    };
    if let Some(address) = addresses.http
        && rules_config.external_url == millrace_rules::RulesConfig::default().external_url
    {
        // The default names the default port: links must lead to where the page is.
        rules_config.external_url = format!("http://{address}");
    }
    let limits = config.aggregator.clone().unwrap_or_default().index.query.limits();
    // How far agents elsewhere lag nobody knows: evaluations stand at the clock.
    let evaluator = QueryEvaluator::new(engine.clone(), limits, || i64::MAX);
    let (data_dir, clock, registry) = (config.data_dir.clone(), Arc::clone(clock), Arc::clone(registry));
    let opened = tokio::task::spawn_blocking(move || {
        let mut part = Registry::default();
        let rules =
            Rules::open(rules_config, &data_dir, Arc::new(evaluator), Arc::new(Inbox(notifier)), clock, &mut part);
        merge(&registry, part);
        rules
    });
    let rules = opened.await?.map_err(rules_failure)?;
    let routes = rules.router();
    let running = Arc::clone(&rules);
    stages.start("rules", STOP_LIMIT, |token| async move { Ok(running.run(token).await?) });
    Ok((Arc::new(RuleAlerts(rules)), routes))
}

/// The rules' alerts as the page shows them.
struct RuleAlerts(Arc<Rules>);

impl AlertList for RuleAlerts {
    fn alerts(&self) -> Vec<AlertRow> {
        let row = |alert: millrace_rules::AlertView| AlertRow {
            state: match alert.state {
                millrace_rules::State::Pending => "pending",
                millrace_rules::State::Firing => "firing",
                millrace_rules::State::Resolved => "resolved",
            }
            .to_owned(),
            name: alert.alert,
            labels: alert.labels.into_iter().filter(|(name, _)| name != "alertname").collect(),
            value: alert.value,
            since_ns: alert.resolved_at_ns.or(alert.fired_at_ns).unwrap_or(alert.active_at_ns),
            summary: alert.annotations.get("summary").cloned().unwrap_or_default(),
            link: alert.link,
        };
        self.0.alerts().into_iter().map(row).collect()
    }
}

async fn open_ingest(
    config: &AggregatorConfig,
    data_dir: &Path,
    producer: Arc<dyn BatchProducer>,
    clock: &SharedClock,
    registry: &Registries,
) -> Result<(Arc<Ingest>, IngestRun), Failure> {
    let kafka = &config.kafka;
    let asked =
        tokio::time::timeout(TOPIC_PATIENCE, producer.ensure_topic(&kafka.push_topic, kafka.push_partitions)).await;
    let partitions = match asked {
        Ok(Ok(partitions)) => partitions,
        Ok(Err(error)) => {
            tracing::warn!(%error, "pushes wait for the log; searches of what is indexed go on");
            kafka.push_partitions
        }
        Err(_) => {
            tracing::warn!(
                brokers = kafka.brokers.join(","),
                "log does not answer: pushes wait for it; searches of what is indexed go on"
            );
            kafka.push_partitions
        }
    };
    let (folder, topic, clock) = (data_dir.join("index").join("pushes"), kafka.push_topic.clone(), Arc::clone(clock));
    let settings = config.ingest.clone();
    let mut own = Registry::default();
    let opened = tokio::task::spawn_blocking(move || {
        let ingest = Ingest::open(&folder, producer, &topic, partitions, clock, settings, &mut own);
        (ingest, own)
    });
    let (ingest, own) = opened.await?;
    merge(registry, own);
    ingest.map_err(|error| Failure::new(Code::Data, error))
}

fn start_exports(
    config: &Config,
    dead_letters: Arc<dyn BatchProducer>,
    stages: &mut Stages,
    registry: &Registries,
    clock: &SharedClock,
    insight: &Insight,
) -> Result<(), Failure> {
    if config.exports.is_empty() {
        return Ok(());
    }
    let mut part = Registry::default();
    let metrics = ExportMetrics::register(&mut part);
    merge(registry, part);
    for ExportConfig::Elasticsearch(export) in config.exports.iter().cloned() {
        let made = ElasticBulk::new(export, Arc::clone(&dead_letters), Arc::clone(clock), metrics.clone());
        let export = made.map_err(|error| Failure::new(Code::Config, error))?;
        insight.exports.lock().push(export.trouble());
        stages.start("export", STOP_LIMIT, |token| async move { Ok(export.run(token).await?) });
    }
    Ok(())
}

/// How routes without a Kafka of their own reach the broker of this process.
fn local_connection(config: &Config, addresses: &Addresses) -> ConnectionConfig {
    let mut connection = config.log_connection();
    if let ([configured], Some(address)) = (connection.brokers.as_mut_slice(), addresses.kafka)
        && configured.ends_with(":0")
    {
        *configured = crate::config::reachable(&address.to_string());
    }
    connection
}

fn start_routes(
    broker: &BrokerSection,
    connection: &ConnectionConfig,
    stages: &mut Stages,
    registry: &Registries,
    clock: &SharedClock,
    insight: &mut Insight,
) -> Result<(), Failure> {
    if broker.routes.is_empty() {
        return Ok(());
    }
    let mut part = Registry::default();
    let metrics = RouteMetrics::register(&mut part);
    merge(registry, part);
    let router = route::Router::new(&broker.routes, &broker.routing, connection, &metrics, clock)
        .map_err(|error| Failure::new(Code::Config, error))?;
    insight.routes = Some(router.ledger());
    stages.start("routes", STOP_LIMIT, |token| async move { Ok(router.run(token).await?) });
    Ok(())
}

/// The door of a broker or router for those who look after it.
async fn broker_door(broker: &BrokerSection, addresses: &mut Addresses) -> Result<Option<HttpListener>, Failure> {
    let Some(listen) = &broker.server.http else { return Ok(None) };
    status_door("broker's status", "broker.http", listen, &Login::default(), addresses).await.map(Some)
}

/// Binds the door of a process without an aggregator.
async fn status_door(
    door: &'static str,
    key: &'static str,
    listen: &str,
    login: &Login,
    addresses: &mut Addresses,
) -> Result<HttpListener, Failure> {
    let mut settings = HttpSettings::new(door, key, listen);
    settings.login = login.clone();
    let listener = open_listener(settings).await?;
    addresses.status = Some(listener.address());
    Ok(listener)
}

/// `/metrics`, `/ready` and the ledger at that door.
fn serve_status_door(door: Option<HttpListener>, stages: &mut Stages, registry: &Registries, insight: &mut Insight) {
    if let Some(listener) = door {
        let router = Router::new()
            .merge(status_routes(Arc::clone(registry), insight.ready.clone(), insight.notes()))
            .merge(ledger_route(insight))
            .merge(tap_route(insight.taps.clone(), listener.is_private()));
        start_listener(stages, "status", listener, router);
    }
}

/// `GET /api/v1/ledger`.
fn ledger_route(insight: &Insight) -> Router {
    let (agent, index) = (insight.agent.clone(), insight.index.clone());
    let routes = insight.routes.clone();
    let view = move || {
        let (agent, index, routes) = (agent.clone(), index.clone(), routes.clone());
        async move {
            let index = match index {
                Some(aggregator) => Some(index_hop(&aggregator.ledger(), aggregator.behind().await)),
                None => None,
            };
            let agent = agent.map(|handle| agent_hop(&handle.snapshot()));
            let routes = routes.iter().flat_map(|ledger| ledger.passes().map(route_hop));
            axum::Json(LedgerView { hops: agent.into_iter().chain(routes).chain(index).collect() })
        }
    };
    Router::new().route("/api/v1/ledger", get(view))
}

fn broker_failure(error: BrokerError) -> Failure {
    let code = match &error {
        BrokerError::PortInUse { .. } | BrokerError::Listen { .. } => Code::Unavailable,
        BrokerError::Storage(StorageError::InUse { .. } | StorageError::Newer { .. } | StorageError::Io { .. }) => {
            Code::Data
        }
        _ => Code::Failed,
    };
    Failure::new(code, error)
}

fn aggregator_failure(error: AggregatorError) -> Failure {
    let code = match &error {
        AggregatorError::InUse { .. } | AggregatorError::Newer { .. } | AggregatorError::State(_) => Code::Data,
        AggregatorError::Client(_) => Code::Config,
        _ => Code::Failed,
    };
    Failure::new(code, error)
}

fn rules_failure(error: RulesError) -> Failure {
    let code = match &error {
        RulesError::Files { .. } | RulesError::Config { .. } => Code::Config,
        RulesError::Store(source) => store_code(source),
    };
    Failure::new(code, error)
}

fn notify_failure(error: NotifyError) -> Failure {
    let code = match &error {
        NotifyError::Files { .. } | NotifyError::Config { .. } => Code::Config,
        NotifyError::Store(source) => store_code(source),
        NotifyError::Prepare { .. } => Code::Failed,
    };
    Failure::new(code, error)
}

fn store_code(error: &StoreError) -> Code {
    match error {
        StoreError::InUse { .. } | StoreError::Newer { .. } => Code::Data,
        StoreError::File { .. } | StoreError::Database { .. } | StoreError::Encode { .. } => Code::Failed,
    }
}
