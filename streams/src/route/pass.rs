//! One pass over one topic for all routes that read it: a consumer whose delivery copies in transactions.
//!
//! In: records of the topic, by the loop of [`millrace_log::consume`]. Out: copies, dead letters, counts. Touches the network. A
//! thread of its own does the work; after a failure it begins anew with new clients from the committed offsets.

use std::sync::Arc;
use std::time::Duration;

use millrace_log::client::ConnectionConfig;
use millrace_log::client::group::{GroupReader, GroupSettings};
use millrace_log::client::transactional::{TransactionWriter, WriterSettings};
use millrace_log::clock::SharedClock;
use millrace_log::consume::{Consumer, ConsumerSettings, ConsumerStatus, Control, Pause, Setback, sessions};
use tokio_util::sync::CancellationToken;

use super::config::{RouteConfig, RoutingConfig};
use super::copies::{Route, Verdicts};
use super::delivery::{FENCED_HINT, Scene, ToTargets, setback};
use super::metrics::{PassName, RouteMetrics, RouteName};
use super::selector::Selector;
use super::targets::Targets;

/// A pass before it runs.
pub(super) struct Pass {
    connection: ConnectionConfig,
    scene: Scene,
}

impl Pass {
    pub fn new(
        from: &str,
        connection: &ConnectionConfig,
        routing: &RoutingConfig,
        metrics: RouteMetrics,
        clock: SharedClock,
    ) -> Self {
        let name = PassName { from: from.to_owned(), group: format!("{}-{from}", routing.group) };
        let status = metrics.status(&name);
        let routes = Vec::new();
        Self {
            connection: connection.clone(),
            scene: Scene { name, routing: routing.clone(), routes, metrics, status, clock },
        }
    }

    pub fn reads(&self, from: &str, connection: &ConnectionConfig) -> bool {
        let same = |a: &ConnectionConfig, b: &ConnectionConfig| {
            a.brokers == b.brokers && a.sasl_username == b.sasl_username && a.tls == b.tls && a.options == b.options
        };
        self.scene.name.from == from && same(&self.connection, connection)
    }

    pub fn add(&mut self, route: &RouteConfig, selector: Selector) {
        self.scene.routes.push(Route {
            name: route.label(),
            to: route.to.as_str().into(),
            selector,
            drop_labels: route.drop_labels.clone(),
        });
    }

    /// The topic that it reads.
    pub fn from(&self) -> &str {
        &self.scene.name.from
    }

    /// How it is: shared, as it is at any moment.
    pub fn status(&self) -> ConsumerStatus {
        self.scene.status.clone()
    }

    /// Copies until cancelled.
    pub async fn run(self, token: CancellationToken) {
        let Self { connection, scene } = self;
        for route in &scene.routes {
            // Shown from the start, with zero.
            let name = RouteName { route: route.name.clone() };
            for counter in [&scene.metrics.records, &scene.metrics.bytes, &scene.metrics.dead_letter_records] {
                drop(counter.get_or_create(&name));
            }
        }
        let metrics = &scene.metrics;
        for counter in [&metrics.read_records, &metrics.transactions, &metrics.aborted_transactions] {
            drop(counter.get_or_create(&scene.name));
        }
        let scene = Arc::new(scene);
        let waits = (scene.routing.min_backoff.0, scene.routing.max_backoff.0);
        let session = || session(&connection, Arc::clone(&scene), token.clone());
        sessions(&scene.status, waits, &token, session).await;
    }
}

/// One session: targets, clients, the loop.
async fn session(connection: &ConnectionConfig, scene: Arc<Scene>, token: CancellationToken) -> Result<(), Setback> {
    let names: Vec<Arc<str>> = scene.routes.iter().map(|route| Arc::clone(&route.to)).collect();
    let targets = tokio::select! {
        () = token.cancelled() => return Ok(()),
        targets = Targets::prepare(&scene.name.from, connection, &scene.routing, &names) => targets,
    };
    let targets = targets.map_err(|error| Setback::Delivery { pause: Pause::Log, source: Box::new(error) })?;
    let connection = connection.clone();
    let copying = tokio::task::spawn_blocking(move || copy(&connection, scene, targets, token));
    copying.await.unwrap_or_else(|_| {
        Err(Setback::Delivery { pause: Pause::Transaction, source: "the copying thread broke off".into() })
    })
}

/// Blocks: reads and copies until cancelled.
fn copy(
    connection: &ConnectionConfig,
    scene: Arc<Scene>,
    targets: Targets,
    token: CancellationToken,
) -> Result<(), Setback> {
    let PassName { from, group } = &scene.name;
    let identity = format!("{group}-{}", scene.routing.instance);
    let settings =
        GroupSettings { topics: vec![from.clone()], group: group.clone(), identity: identity.clone(), refresh: None };
    let reader = GroupReader::open(connection, settings)?;
    let settings = WriterSettings {
        transaction_timeout: scene.routing.transaction_timeout.0,
        max_batch_bytes: targets.max_batch_bytes,
    };
    let writer = TransactionWriter::open(&reader, settings).map_err(setback)?;
    reader.join();
    tracing::info!(from, group, routes = scene.routes.len(), "routes run");
    let settings = ConsumerSettings {
        topics: vec![from.clone()],
        discover_interval: Duration::MAX,
        identity,
        kind: "router",
        fenced_hint: FENCED_HINT,
    };
    let (clock, status) = (Arc::clone(&scene.clock), scene.status.clone());
    let verdicts = Verdicts::default();
    let delivery = ToTargets { scene, writer, targets, verdicts, careful: 0, attempt: None };
    Consumer::new(reader, delivery, settings, clock, status, Control::default(), token).run()
}
