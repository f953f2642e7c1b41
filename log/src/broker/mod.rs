//! The embedded broker: to any Kafka client, Apache Kafka 4.1 on one node.
//!
//! In: connections. Out: what clients ask for, from the segments of [`crate::storage`] and the groups of
//! [`crate::group`]. Touches the network (one listener) and, through storage, the data folder. One task per
//! connection; requests of a connection are answered in order, produce requests overlap while they wait for the disk.
//! What differs from Kafka is listed in `log/compat.md`.

mod apis;
mod config;
mod connection;
mod context;
mod dispatch;
mod error;
mod identity;
mod sessions;
mod topics;
mod wire;

mod k00_produce;
mod k01_fetch;
mod k02_list_offsets;
mod k03_metadata;
mod k08_offset_commit;
mod k09_offset_fetch;
mod k10_find_coordinator;
mod k11_join_group;
mod k12_heartbeat;
mod k13_leave_group;
mod k14_sync_group;
mod k15_describe_groups;
mod k16_list_groups;
mod k17_sasl_handshake;
mod k18_api_versions;
mod k19_create_topics;
mod k20_delete_topics;
mod k21_delete_records;
mod k22_init_producer_id;
mod k23_offset_for_leader_epoch;
mod k32_describe_configs;
mod k33_alter_configs;
mod k35_describe_log_dirs;
mod k37_create_partitions;
mod k42_delete_groups;
mod k43_elect_leaders;
mod k44_incremental_alter_configs;
mod k46_list_partition_reassignments;
mod k47_offset_delete;
mod k60_describe_cluster;
mod k61_describe_producers;
mod k75_describe_topic_partitions;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::{MetricType, family::Family};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use config::BrokerConfig;
pub use error::BrokerError;

use crate::clock::SharedClock;
use crate::group::Coordinator;
use crate::metrics::{BrokerMetrics, CauseLabel};
use crate::storage::{Filesystem, Storage};
use context::Core;

/// Time between two looks at the sessions of group members.
const GROUP_TICK: Duration = Duration::from_millis(100);
/// Time between two looks at expired offsets.
const GROUP_TIDY: Duration = Duration::from_secs(60);
/// Time that open connections have for their last answers at a stop.
const DRAIN: Duration = Duration::from_secs(5);
/// Pause after the system refused a connection (mostly: out of file handles).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The broker, opened and not yet serving, or serving.
pub struct Broker {
    core: Arc<Core>,
    listener: Mutex<Option<TcpListener>>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Broker({})", self.core.config.listen)
    }
}

impl Broker {
    /// Opens the data folder, recovers what is in it and loads the groups.
    pub async fn open(
        config: BrokerConfig,
        data_dir: &Path,
        fs: Arc<dyn Filesystem>,
        clock: SharedClock,
        registry: &mut Registry,
    ) -> Result<Self, BrokerError> {
        let metrics = BrokerMetrics::register(registry);
        let mut settings = config.storage.clone();
        settings.retention_age = config.retention.age;
        settings.retention_size = config.retention.size;
        let (dir, time) = (data_dir.to_owned(), Arc::clone(&clock));
        let opened = tokio::task::spawn_blocking(move || {
            let storage = Storage::open(&dir, Arc::clone(&fs), time, settings)?;
            let identity = identity::Identity::open(fs, &dir)?;
            Ok::<_, BrokerError>((storage, identity))
        });
        let (storage, identity) = opened.await.map_err(|panic| BrokerError::State {
            path: data_dir.to_owned(),
            what: "opened",
            reason: panic.to_string(),
        })??;
        storage.metrics().register(registry);
        let groups = Coordinator::open(Arc::clone(&storage), Arc::clone(&clock), config.group.clone()).await?;
        let budget = usize::try_from(config.request_memory.0).unwrap_or(usize::MAX) / wire::frame::BUDGET_UNIT_BYTES;
        let core = Arc::new(Core {
            sessions: sessions::FetchSessions::new(config.max_fetch_sessions),
            budget: Arc::new(Semaphore::new(budget.min(Semaphore::MAX_PERMITS))),
            creating: tokio::sync::Mutex::new(()),
            stop: CancellationToken::new(),
            data_dir: data_dir.to_owned(),
            groups,
            identity,
            storage,
            metrics,
            config,
        });
        registry.register_collector(Box::new(Watermarks(Arc::downgrade(&core))));
        Ok(Self { core, listener: Mutex::new(None) })
    }

    /// Takes the port; clients that connect from now on wait for [`Self::run`].
    pub async fn bind(&self) -> Result<SocketAddr, BrokerError> {
        let listen = self.core.config.listen.clone();
        let fault = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::AddrInUse => BrokerError::PortInUse { listen: listen.clone() },
            _ => BrokerError::Listen { listen: listen.clone(), source },
        };
        let listener = TcpListener::bind(&listen).await.map_err(fault)?;
        let address = listener.local_addr().map_err(fault)?;
        *self.listener.lock() = Some(listener);
        Ok(address)
    }

    /// The log below, for those in the same process who look at it without the wire.
    pub fn storage(&self) -> &Arc<Storage> {
        &self.core.storage
    }

    /// Serves until cancelled; then lets open connections finish, flushes everything and returns.
    pub async fn run(&self, token: CancellationToken) -> Result<(), BrokerError> {
        let listener = self.listener.lock().take().ok_or(BrokerError::NotBound)?;
        let core = &self.core;
        let storage_token = CancellationToken::new();
        let mut storage = JoinSet::new();
        storage.spawn(Arc::clone(&core.storage).run(storage_token.clone()));
        let mut ticks = JoinSet::new();
        ticks.spawn(keep_groups(Arc::clone(core)));
        let mut connections = JoinSet::new();
        let mut failed = None;
        loop {
            tokio::select! {
                () = token.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) if connections.len() < core.config.max_connections => {
                        connections.spawn(connection::serve(Arc::clone(core), stream, from));
                    }
                    Ok((_, from)) => {
                        core.metrics.connections_ended.get_or_create(&CauseLabel { cause: "limit" }).inc();
                        tracing::warn!(%from, max = core.config.max_connections, "connection refused: raise broker.max_connections");
                    }
                    Err(error) => {
                        tracing::warn!(%error, "connections can't be accepted: is the limit of open files high enough?");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
                Some(ended) = storage.join_next() => {
                    failed = Some(ended);
                    break;
                }
            }
        }
        drop(listener);
        core.stop.cancel();
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!(open = connections.len(), "connections are closed before their last answer");
        }
        connections.shutdown().await;
        while ticks.join_next().await.is_some() {}
        storage_token.cancel();
        let ended = match failed {
            Some(ended) => Some(ended),
            None => storage.join_next().await,
        };
        match ended {
            Some(Ok(result)) => Ok(result?),
            Some(Err(panic)) => {
                let path = core.data_dir.clone();
                Err(BrokerError::State { path, what: "kept in order", reason: panic.to_string() })
            }
            None => Ok(()),
        }
    }
}

/// Sessions, rebalances and expiry of groups, until the stop; then what changed last is kept.
async fn keep_groups(core: Arc<Core>) {
    let mut tick = tokio::time::interval(GROUP_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut tidied = tokio::time::Instant::now();
    loop {
        tokio::select! {
            () = core.stop.cancelled() => break,
            _ = tick.tick() => {}
        }
        core.groups.tick().await;
        if tidied.elapsed() >= GROUP_TIDY {
            tidied = tokio::time::Instant::now();
            core.groups.tidy().await;
        }
    }
    core.groups.tick().await;
}

/// Gauges by labels.
type Gauges = Family<Vec<(String, String)>, Gauge>;

/// High watermarks and lags, asked for when somebody looks.
#[derive(Debug)]
struct Watermarks(std::sync::Weak<Core>);

impl Collector for Watermarks {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(core) = self.0.upgrade() else { return Ok(()) };
        let (marks, sizes, lags) = (Gauges::default(), Gauges::default(), Gauges::default());
        for topic in core.storage.topics() {
            for partition in topic.partitions() {
                let labels = vec![
                    ("topic".to_owned(), topic.name().to_owned()),
                    ("partition".to_owned(), partition.number().to_string()),
                ];
                marks.get_or_create(&labels).set(partition.high_watermark());
                sizes.get_or_create(&labels).set(i64::try_from(partition.size_bytes()).unwrap_or(i64::MAX));
            }
        }
        for (group, tp, lag) in core.groups.lags() {
            let labels = vec![
                ("group".to_owned(), group),
                ("topic".to_owned(), tp.topic.to_string()),
                ("partition".to_owned(), tp.partition.to_string()),
            ];
            lags.get_or_create(&labels).set(lag);
        }
        for (name, help, family) in [
            ("millrace_log_high_watermark_offset", "One past the last offset that consumers see", &marks),
            ("millrace_log_partition_size_bytes", "Bytes in the segments of a partition", &sizes),
            ("millrace_log_group_lag_records", "Records between a group's offset and the high watermark", &lags),
        ] {
            family.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let groups = i64::try_from(core.groups.list().len()).unwrap_or(i64::MAX);
        ConstGauge::new(groups).encode(encoder.encode_descriptor(
            "millrace_log_groups",
            "Consumer groups",
            None,
            MetricType::Gauge,
        )?)
    }
}

#[cfg(test)]
mod tests;
