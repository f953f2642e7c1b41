//! Starts the embedded broker, and leads the other parts to where it listens.
//!
//! In: the section `broker`. Out: a running broker; its addresses in the configuration of the other parts. Touches the
//! log's folder and the network, through the broker.

use std::net::SocketAddr;
use std::sync::Arc;

use millrace_broker::storage::StorageError;
use millrace_broker::{Broker, BrokerConfig, BrokerError, ListenerConfig};
use millrace_exports::config::ExportConfig;
use millrace_log::client::ConnectionConfig;
use millrace_log::fs::RealFs;
use prometheus_client::registry::Registry;

use super::failure::broker_failure;
use super::part::Part;
use super::site::Site;
use crate::config::{Config, reachable};
use crate::exit::{Code, Failure};
use crate::stages::{STOP_LIMIT, Stages};
use crate::status::ReadyCheck;

/// A broker that runs.
pub struct RunningBroker {
    /// Where it listens: as configured, and as bound.
    pub listens: Vec<(String, SocketAddr)>,
    /// Whether it can write.
    pub ready: ReadyCheck,
}

/// Opens the log and serves it.
pub async fn start(
    broker: &BrokerConfig,
    config: &Config,
    site: &Site,
    stages: &mut Stages<Part>,
) -> Result<RunningBroker, Failure> {
    let configured_listeners = broker.all_listeners();
    let configured: Vec<String> = configured_listeners.iter().map(|listener| listener.listen.clone()).collect();
    let folder = config.data_dir.join("log");
    let open = || async {
        // Each part fills a registry of its own: opening is asynchronous, a lock must not be held over it.
        let mut registry = Registry::default();
        let clock = Arc::clone(&site.clock);
        let broker = Broker::open(broker.clone(), &folder, RealFs::shared(), clock, &mut registry).await?;
        Ok((broker, registry))
    };
    let in_use = |error: &BrokerError| matches!(error, BrokerError::Storage(StorageError::InUse { .. }));
    let (broker, registry) = site.open(Part::Broker, open, in_use).await.map_err(broker_failure)?;
    broker.bind().await.map_err(broker_failure)?;
    check_exposed(&broker, &configured_listeners, config.access.insecure)?;
    let storage = Arc::clone(broker.storage());
    let running = RunningBroker {
        listens: configured.into_iter().zip(broker.addresses().into_iter().map(|(_, address)| address)).collect(),
        ready: Arc::new(move || storage.writable().map_err(|fault| fault.to_string())),
    };
    stages.start(Part::Broker, "broker", STOP_LIMIT, |token| async move { Ok(broker.run(token).await?) });
    site.registries.put(Part::Broker.name(), registry);
    Ok(running)
}

/// Names may lead to addresses that other hosts reach: only now is it known.
fn check_exposed(broker: &Broker, configured: &[ListenerConfig], is_insecure: bool) -> Result<(), Failure> {
    for ((_, address), listener) in broker.addresses().into_iter().zip(configured) {
        if !is_insecure && !address.ip().is_loopback() && !listener.has_login() {
            return Err(Failure::text(Code::Config, format!("broker: {}", listener.open_text(address))));
        }
    }
    Ok(())
}

/// The configuration with the addresses that the broker was bound to: with port 0 they differ from those written.
pub fn pointed(config: &Config, broker: Option<&RunningBroker>) -> Config {
    let mut config = config.clone();
    for (configured, address) in broker.iter().flat_map(|broker| &broker.listens) {
        point_at(&mut config, configured, *address);
    }
    config
}

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
    if let Some(kafka) = &mut config.access.audit.kafka {
        point(&mut kafka.brokers);
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

/// How routes without a Kafka of their own reach the log.
pub fn log_connection(config: &Config, broker: Option<&RunningBroker>) -> ConnectionConfig {
    let mut connection = config.log_connection();
    let bound = broker.and_then(|broker| broker.listens.first());
    if let ([configured], Some((_, address))) = (connection.brokers.as_mut_slice(), bound)
        && configured.ends_with(":0")
    {
        *configured = reachable(&address.to_string());
    }
    connection
}
