//! Starts the index: log to index, pushes by HTTP, and the handlers of the Loki and Elasticsearch APIs and the page.
//!
//! In: the section `aggregator`. Out: a running index, its engine and its routes. Touches the index's folder and the log.

use std::sync::Arc;
use std::time::Duration;

use millrace_aggregator::config::AggregatorConfig;
use millrace_aggregator::elastic::{self, Accepted, ElasticState, Templates};
use millrace_aggregator::ingest::{Ingest, IngestRun};
use millrace_aggregator::loki::{self, LokiLimits, LokiState};
use millrace_aggregator::queries::{Capacity, Limits, PlaceLimits, Queries};
use millrace_aggregator::run::{Aggregator, AggregatorError};
use millrace_aggregator::web::{self, PageState};
use millrace_doors::routes::Routes;
use millrace_index::logql::LogqlStorage;
use millrace_index::scan::EventStore;
use millrace_log::client::{BatchProducer, ConnectionConfig, DELIVERY_TIMEOUT, WireProducer};
use millrace_log::record::Tenant;
use millrace_logql::Engine;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::failure::aggregator_failure;
use super::part::Part;
use super::rules::CurrentAlerts;
use super::site::Site;
use crate::config::Config;
use crate::exit::{Code, Failure};
use crate::stages::{STOP_LIMIT, Stages};

/// How long the start waits for the log to say how many partitions the push topic has.
const TOPIC_PATIENCE: Duration = Duration::from_secs(5);

/// An index that runs.
pub struct RunningIndex {
    /// Counts, and whether it is ready.
    pub aggregator: Arc<Aggregator>,
    /// Queries.
    pub engine: Engine,
    /// Loki API and page.
    pub loki: Routes,
    /// Elasticsearch API.
    pub elastic: Routes,
    /// Ends tails and queries: they never end by themselves.
    pub shutdown: CancellationToken,
}

/// Opens the index and runs it.
pub async fn start(
    config: &Config,
    aggregator_config: &AggregatorConfig,
    alerts: &CurrentAlerts,
    site: &Site,
    stages: &mut Stages<Part>,
) -> Result<RunningIndex, Failure> {
    let open = || async {
        let mut registry = Registry::default();
        let (settings, clock) = (aggregator_config.clone(), Arc::clone(&site.clock));
        Ok((Aggregator::open(settings, &config.data_dir, clock, &mut registry).await?, registry))
    };
    let in_use = |error: &AggregatorError| matches!(error, AggregatorError::InUse { .. });
    let (aggregator, registry) = site.open(Part::Index, open, in_use).await.map_err(aggregator_failure)?;
    let aggregator = Arc::new(aggregator);
    site.registries.put(Part::Index.name(), registry);
    let store = aggregator.store();
    let producer = producer(&aggregator_config.kafka.connection())?;
    // Creates the topic if it is new: the consumer finds it at its first look, not seconds later.
    let (ingest, pushes) = open_ingest(config, aggregator_config, producer, site).await?;
    let running = Arc::clone(&aggregator);
    stages.start(Part::Index, "aggregator", STOP_LIMIT, |token| async move { Ok(running.run(token).await?) });
    stages.start(Part::Index, "pushes", STOP_LIMIT, |token| async move {
        pushes.run(token).await;
        Ok(())
    });

    let events: Arc<dyn EventStore> = store.clone();
    let engine = Engine::new(Arc::new(LogqlStorage(Arc::clone(&events))));
    let shutdown = CancellationToken::new();
    let query = &aggregator_config.index.query;
    let named = || query.tenants.iter().filter_map(|(name, own)| Some((Tenant::new(name).ok()?, own)));
    let limits = Limits {
        all: query.limits(),
        tenants: named().map(|(tenant, _)| (tenant.clone(), query.limits_of(tenant.as_str()))).collect(),
    };
    let places = PlaceLimits {
        concurrent: query.max_concurrent,
        per_tenant: query.per_tenant(),
        of_tenants: named().filter_map(|(tenant, own)| Some((tenant, own.max_concurrent?))).collect(),
        queued: query.max_queued,
    };
    let capacity = Capacity { places, memory: query.max_memory_total.0 };
    let queries = Queries::new(limits, capacity, shutdown.clone());
    let mut registry = Registry::default();
    queries.register(&mut registry);
    site.registries.put("queries", registry);
    let cost = LokiLimits::from(aggregator_config);
    let shared = Arc::new(engine.clone());
    let clock = || Arc::clone(&site.clock);
    let page_store = Arc::clone(&events);
    let state = LokiState::new(events, Arc::clone(&shared), Arc::clone(&ingest), clock(), cost, queries.clone());
    let alerts = Arc::new(alerts.clone());
    let page = PageState { store: page_store, engine: shared, alerts, clock: clock(), queries: queries.clone() };
    let elastic = elastic::router(ElasticState {
        store,
        ingest,
        accepted: Arc::new(Accepted::default()),
        templates: Arc::new(Templates::default()),
        topics: aggregator_config.kafka.topics.clone().into(),
        clock: clock(),
        queries,
        max_body: aggregator_config.elasticsearch.max_body.0,
        max_body_decompressed: aggregator_config.elasticsearch.max_body_decompressed.0,
        budget: millrace_log::push::DecodeBudget::of_process(),
    });
    let loki = Routes::new().merge(loki::router(state)).merge(web::router(page));
    Ok(RunningIndex { aggregator, engine, loki, elastic, shutdown })
}

/// A producer for the log.
pub fn producer(connection: &ConnectionConfig) -> Result<Arc<dyn BatchProducer>, Failure> {
    let producer = WireProducer::new(connection, Some(DELIVERY_TIMEOUT));
    Ok(Arc::new(producer.map_err(|error| Failure::new(Code::Config, error))?))
}

/// The way in for pushes by HTTP: numbered durably, written to the log.
async fn open_ingest(
    config: &Config,
    aggregator: &AggregatorConfig,
    producer: Arc<dyn BatchProducer>,
    site: &Site,
) -> Result<(Arc<Ingest>, IngestRun), Failure> {
    let kafka = &aggregator.kafka;
    let asked =
        tokio::time::timeout(TOPIC_PATIENCE, producer.ensure_topic(&kafka.push_topic, kafka.push_partitions)).await;
    let partitions = match asked {
        Ok(Ok(partitions)) => partitions,
        Ok(Err(error)) => {
            tracing::warn!(%error, "pushes wait for the log; indexed data can still be searched");
            kafka.push_partitions
        }
        Err(_) => {
            tracing::warn!(
                brokers = kafka.brokers.join(","),
                "log does not answer: pushes wait for it; indexed data can still be searched"
            );
            kafka.push_partitions
        }
    };
    let folder = config.data_dir.join("index").join("pushes");
    let (topic, clock, settings) = (kafka.push_topic.clone(), Arc::clone(&site.clock), aggregator.ingest.clone());
    let mut registry = Registry::default();
    let opened = tokio::task::spawn_blocking(move || {
        let ingest = Ingest::open(&folder, producer, &topic, partitions, clock, settings, &mut registry);
        (ingest, registry)
    });
    let (ingest, registry) = opened.await?;
    site.registries.put("pushes", registry);
    ingest.map_err(|error| Failure::new(Code::Data, error))
}
