//! Starts the routes: copies of records from topic to topic.
//!
//! In: the section `broker.routes`. Out: a running stage and its ledger. Touches the log, through its client.

use millrace_log::client::ConnectionConfig;
use millrace_streams::route::{self, RouteLedger, RouteMetrics};
use prometheus_client::registry::Registry;

use super::part::Part;
use super::site::Site;
use crate::config::broker_section::BrokerSection;
use crate::exit::{Code, Failure};
use crate::stages::{STOP_LIMIT, Stages};

/// Starts all routes of a broker.
pub fn start(
    broker: &BrokerSection,
    connection: &ConnectionConfig,
    site: &Site,
    stages: &mut Stages<Part>,
) -> Result<RouteLedger, Failure> {
    let mut registry = Registry::default();
    let metrics = RouteMetrics::register(&mut registry);
    let router = route::Router::new(&broker.routes, &broker.routing, connection, &metrics, &site.clock)
        .map_err(|error| Failure::new(Code::Config, error))?;
    site.registries.put(Part::Routes.name(), registry);
    let ledger = router.ledger();
    stages.start(Part::Routes, "routes", STOP_LIMIT, |token| async move { Ok(router.run(token).await?) });
    Ok(ledger)
}
