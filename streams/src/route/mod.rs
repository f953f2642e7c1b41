//! Routes: copies records from topic to topic by their labels, each exactly once, on the embedded log or a real Kafka.
//!
//! In: `broker.routes` and `broker.routing`. Out: records in other topics, byte for byte; dead letters for those that a
//! target refuses for good; counts. Touches the network through the loop of
//! [`millrace_log::consume`] and [`millrace_log::admin`]. Routes with the same source on the same Kafka share one pass: one consumer group, one
//! transaction for all their copies.

/// Settings of routes.
pub mod config;
/// Counts, for `/metrics` and the ledger.
mod metrics;
/// Which records: label matchers, asked once per set of labels.
mod selector;
/// Why routes can't run.
mod error;
/// Topics that are written.
mod targets;
/// What each record becomes.
mod copies;
/// Copies in transactions.
mod delivery;
/// One pass over one topic.
mod pass;

use std::sync::Arc;

use config::{RouteConfig, RoutingConfig};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use millrace_log::client::ConnectionConfig;
use millrace_log::clock::SharedClock;
use millrace_log::consume::ConsumerStatus;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use error::RouteError;
pub use metrics::RouteMetrics;
pub use selector::{Selector, SelectorError};

use pass::Pass;

/// All routes of a process.
pub struct Router {
    passes: Vec<Pass>,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Router({} passes)", self.passes.len())
    }
}

/// How a router is, pass by pass, while it runs and after.
#[derive(Debug, Clone, Default)]
pub struct RouteLedger(Vec<(String, ConsumerStatus)>);

impl RouteLedger {
    /// The topic that each pass reads, and how it is.
    pub fn passes(&self) -> impl Iterator<Item = (&str, &ConsumerStatus)> {
        self.0.iter().map(|(from, status)| (from.as_str(), status))
    }
}

impl Router {
    /// Joins routes to passes. `local` is the Kafka of routes that name none.
    pub fn new(
        routes: &[RouteConfig],
        routing: &RoutingConfig,
        local: &ConnectionConfig,
        metrics: &RouteMetrics,
        clock: &SharedClock,
    ) -> Result<Self, RouteError> {
        let mut passes: Vec<Pass> = Vec::new();
        for route in routes {
            let matched = Selector::parse(&route.selector);
            let selector = matched.map_err(|source| RouteError::Match { route: route.label(), source })?;
            let connection = route.kafka.as_ref().unwrap_or(local);
            match passes.iter_mut().find(|pass| pass.reads(&route.from, connection)) {
                Some(pass) => pass.add(route, selector),
                None => {
                    let mut pass = Pass::new(&route.from, connection, routing, metrics.clone(), Arc::clone(clock));
                    pass.add(route, selector);
                    passes.push(pass);
                }
            }
        }
        Ok(Self { passes })
    }

    /// How each pass is, for the ledger.
    pub fn ledger(&self) -> RouteLedger {
        RouteLedger(self.passes.iter().map(|pass| (pass.from().to_owned(), pass.status())).collect())
    }

    /// Routes until cancelled; then ends the transactions it has begun.
    ///
    /// Boxed: compiled in this crate, not again in each that runs it.
    pub fn run(self, token: CancellationToken) -> BoxFuture<'static, Result<(), RouteError>> {
        self.route_until(token).boxed()
    }

    async fn route_until(self, token: CancellationToken) -> Result<(), RouteError> {
        let mut passes = JoinSet::new();
        for pass in self.passes {
            passes.spawn(pass.run(token.clone()).boxed());
        }
        while let Some(ended) = passes.join_next().await {
            ended.map_err(|error| RouteError::Broken { from: error.to_string() })?;
        }
        Ok(())
    }
}
