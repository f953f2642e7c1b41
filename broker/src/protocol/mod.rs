//! The embedded broker: to any Kafka client, Apache Kafka 4.1 on one node.
//!
//! In: connections. Out: what clients ask for, from the segments of [`crate::storage`], the groups of [`crate::group`] and
//! the transactions of [`crate::transaction`]. Touches the network (its listeners) and, through storage, the data folder. One task per
//! connection; requests of a connection are answered in order, produce requests overlap while they wait for the disk.
//! What differs from Kafka is listed in `broker/compat.md`.

/// What the doors of other parts share with the broker's listeners.
pub(crate) mod tls {
    pub use super::door::config::{ClientAuth, TlsConfig};
    pub use super::door::tls::{Tls, TlsError};
}
mod access;
mod apis;
mod config;
mod connection;
mod context;
mod declared;
mod dispatch;
mod door;
mod error;
mod identity;
mod sessions;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod throttle;
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
mod k24_add_partitions_to_txn;
mod k25_add_offsets_to_txn;
mod k26_end_txn;
mod k27_write_txn_markers;
mod k28_txn_offset_commit;
mod k29_describe_acls;
mod k30_create_acls;
mod k31_delete_acls;
mod k32_describe_configs;
mod k33_alter_configs;
mod k35_describe_log_dirs;
mod k36_sasl_authenticate;
mod k37_create_partitions;
mod k42_delete_groups;
mod k43_elect_leaders;
mod k44_incremental_alter_configs;
mod k46_list_partition_reassignments;
mod k47_offset_delete;
mod k48_describe_client_quotas;
mod k49_alter_client_quotas;
mod k50_describe_user_scram_credentials;
mod k51_alter_user_scram_credentials;
mod k60_describe_cluster;
mod k61_describe_producers;
mod k65_describe_transactions;
mod k66_list_transactions;
mod k68_consumer_group_heartbeat;
mod k69_consumer_group_describe;
mod k74_list_config_resources;
mod k75_describe_topic_partitions;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::{MetricType, family::Family};
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use config::BrokerConfig;
pub use declared::{ConfiguredSettings, TopicConfig};
pub use door::config::{
    AuthorizationConfig, ClientAuth, LimitsConfig, ListenerConfig, Mechanism, SaslConfig, TlsConfig, UserConfig,
};
pub use door::tls::TlsError;
pub use error::BrokerError;

use crate::group::Coordinator;
use crate::metrics::BrokerMetrics;
use crate::storage::{CommittedOffset, CommittedOffsets, Storage};
use crate::transaction::{Coordinator as Transactions, ProducerIds, Standing};
use context::Core;
use door::Listener;
use millrace_log::clock::SharedClock;
use millrace_log::fs::Filesystem;

/// Requests that name very much and are handled at the same time.
const HEAVY_TURNS: usize = 2;
/// Time between two looks at the sessions of group members.
const GROUP_TICK: Duration = Duration::from_millis(100);
/// Time between two looks at expired offsets.
const GROUP_TIDY: Duration = Duration::from_secs(60);

/// The broker, opened and not yet serving, or serving.
pub struct Broker {
    core: Arc<Core>,
    bound: Mutex<Vec<(Arc<Listener>, TcpListener)>>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Broker({})", self.core.data_dir.display())
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
        settings.topic_defaults = config.default_topic_config.typed();
        let (dir, time) = (data_dir.to_owned(), Arc::clone(&clock));
        let (of, denied) = (config.clone(), metrics.denied.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let doors = of.doors().into_iter().map(|door| Ok(Arc::new(Listener::open(door)?)));
            let doors = doors.collect::<Result<Vec<_>, BrokerError>>()?;
            let storage = Storage::open(&dir, Arc::clone(&fs), time, settings)?;
            let identity = identity::Identity::open(Arc::clone(&fs), &dir)?;
            let access = access::Access::open(&of, fs, &dir, denied)?;
            Ok::<_, BrokerError>((doors, storage, identity, access))
        });
        let (doors, storage, identity, access) = opened.await.map_err(|panic| BrokerError::State {
            path: data_dir.to_owned(),
            what: "opened",
            reason: panic.to_string(),
        })??;
        storage.metrics().register(registry);
        declared::apply(&storage, &config.topics, config.default_partitions).await?;
        let groups = Coordinator::open(Arc::clone(&storage), Arc::clone(&clock), config.group.clone()).await?;
        let identity = Arc::new(identity);
        let ids: Arc<dyn ProducerIds> = Arc::<identity::Identity>::clone(&identity);
        let (of, time) = (Arc::clone(&storage), Arc::clone(&clock));
        let transactions = Transactions::open(of, time, config.transaction.clone(), ids).await?;
        transactions.metrics().register(registry);
        registry.register("millrace_log_group_rebalances", "Rebalances of groups", groups.rebalances());
        let budget = usize::try_from(config.request_memory.0).unwrap_or(usize::MAX) / wire::frame::BUDGET_UNIT_BYTES;
        let core = Arc::new(Core {
            sessions: sessions::FetchSessions::new(config.max_fetch_sessions),
            budget: Arc::new(Semaphore::new(budget.min(Semaphore::MAX_PERMITS))),
            heavy: Arc::new(Semaphore::new(HEAVY_TURNS)),
            creating: tokio::sync::Mutex::new(()),
            stop: CancellationToken::new(),
            data_dir: data_dir.to_owned(),
            open: AtomicUsize::new(0),
            doors,
            access,
            groups,
            transactions,
            identity,
            storage,
            metrics,
            config,
        });
        registry.register_collector(Box::new(Watermarks(Arc::downgrade(&core))));
        let readers: std::sync::Weak<Core> = Arc::downgrade(&core);
        core.storage.ask_committed_offsets(readers);
        Ok(Self { core, bound: Mutex::default() })
    }

    /// Takes the ports; clients that connect from now on wait for [`Self::run`]. Gives the first listener's address.
    pub async fn bind(&self) -> Result<SocketAddr, BrokerError> {
        let mut bound = Vec::new();
        for door in &self.core.doors {
            let listen = door.config.listen.clone();
            let fault = |source: std::io::Error| match source.kind() {
                std::io::ErrorKind::AddrInUse => BrokerError::PortInUse { listen: listen.clone() },
                _ => BrokerError::Listen { listen: listen.clone(), source },
            };
            let socket = TcpListener::bind(&listen).await.map_err(fault)?;
            let address = socket.local_addr().map_err(fault)?;
            if !address.ip().is_loopback() && !door.config.is_authenticated() {
                tracing::warn!(
                    listener = door.name, %address,
                    "Kafka listener is open to other hosts and asks nobody who they are: bind it to 127.0.0.1, or give it `sasl` or `tls.client_auth: required` in `broker.listeners`"
                );
            }
            bound.push((Arc::clone(door), socket, address));
        }
        let first = bound.first().map(|(_, _, address)| *address).ok_or(BrokerError::NotBound)?;
        *self.bound.lock() = bound.into_iter().map(|(door, socket, _)| (door, socket)).collect();
        Ok(first)
    }

    /// Name and address of each listener; empty before [`Self::bind`] and once it runs.
    pub fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        let bound = self.bound.lock();
        bound.iter().filter_map(|(door, socket)| Some((door.name, socket.local_addr().ok()?))).collect()
    }

    /// The log below, for those in the same process who look at it without the wire.
    pub fn storage(&self) -> &Arc<Storage> {
        &self.core.storage
    }

    /// Serves until cancelled; then lets open connections finish, flushes everything and returns.
    pub async fn run(&self, token: CancellationToken) -> Result<(), BrokerError> {
        let bound = std::mem::take(&mut *self.bound.lock());
        if bound.is_empty() {
            return Err(BrokerError::NotBound);
        }
        let core = &self.core;
        let storage_token = CancellationToken::new();
        let mut storage = JoinSet::new();
        storage.spawn(Arc::clone(&core.storage).run(storage_token.clone()));
        let mut ticks = JoinSet::new();
        ticks.spawn(keep_groups(Arc::clone(core)));
        ticks.spawn(keep_transactions(Arc::clone(core)));
        ticks.spawn(door::keep_certificates(Arc::clone(core)));
        let mut doors = JoinSet::new();
        for (listener, socket) in bound {
            doors.spawn(door::serve(Arc::clone(core), listener, socket));
        }
        let mut failed = None;
        tokio::select! {
            () = token.cancelled() => {}
            Some(ended) = storage.join_next() => failed = Some(ended),
        }
        core.stop.cancel();
        core.groups.close();
        while doors.join_next().await.is_some() {}
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

/// Retention asks who has read how far.
impl CommittedOffsets for Core {
    fn committed(&self, topic: &str, partition: i32) -> Vec<CommittedOffset> {
        self.groups.committed_on(topic, partition)
    }
}

/// Markers, time-outs and expiry of transactions, until the stop.
async fn keep_transactions(core: Arc<Core>) {
    core.transactions.run(&core.groups, core.stop.clone()).await;
}

/// Gauges by labels.
type Gauges = Family<Vec<(String, String)>, Gauge>;
/// Counters by labels.
type Counters = Family<Vec<(String, String)>, Counter>;

/// Most lags of a group on a partition that are told: groups are made by clients, and a page of metrics must stay readable.
const MAX_LAGS: usize = 20_000;

/// High watermarks and lags, asked for when somebody looks.
#[derive(Debug)]
struct Watermarks(std::sync::Weak<Core>);

impl Collector for Watermarks {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(core) = self.0.upgrade() else { return Ok(()) };
        let (marks, sizes, lags) = (Gauges::default(), Gauges::default(), Gauges::default());
        let traffic: [Counters; 4] = Default::default();
        for topic in core.storage.topics() {
            let of = vec![("topic".to_owned(), topic.name().to_owned())];
            let mut sums = [0; 4];
            for partition in topic.partitions() {
                let t = partition.traffic();
                let counted = [&t.bytes_in, &t.records_in, &t.bytes_out, &t.records_out];
                for (sum, count) in sums.iter_mut().zip(counted) {
                    *sum += count.load(Ordering::Relaxed);
                }
            }
            for (family, sum) in traffic.iter().zip(sums) {
                family.get_or_create(&of).inc_by(sum);
            }
            for partition in topic.partitions() {
                let labels = vec![
                    ("topic".to_owned(), topic.name().to_owned()),
                    ("partition".to_owned(), partition.number().to_string()),
                ];
                marks.get_or_create(&labels).set(partition.high_watermark());
                sizes.get_or_create(&labels).set(i64::try_from(partition.size_bytes()).unwrap_or(i64::MAX));
            }
        }
        let (behind, left_out) = core.groups.lags(MAX_LAGS);
        for (group, tp, lag) in behind {
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
        ConstGauge::new(i64::try_from(left_out).unwrap_or(i64::MAX)).encode(encoder.encode_descriptor(
            "millrace_log_group_lags_left_out",
            "Lags of groups on partitions that are not told, as others are larger and there are too many",
            None,
            MetricType::Gauge,
        )?)?;
        for ((name, help), family) in [
            ("millrace_log_topic_in_bytes", "Bytes of record batches produced, by topic"),
            ("millrace_log_topic_in_records", "Records produced, by topic"),
            ("millrace_log_topic_out_bytes", "Bytes of record batches fetched, by topic"),
            ("millrace_log_topic_out_records", "Records fetched, by topic"),
        ]
        .into_iter()
        .zip(&traffic)
        {
            family.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let by_state = Gauges::default();
        let mut groups = 0;
        for ((kind, state), count) in core.groups.counts() {
            groups += count;
            let labels = vec![("type".to_owned(), kind.to_owned()), ("state".to_owned(), state.to_owned())];
            by_state.get_or_create(&labels).set(count);
        }
        let descriptor = encoder.encode_descriptor(
            "millrace_log_group_states",
            "Groups by type and state",
            None,
            MetricType::Gauge,
        )?;
        by_state.encode(descriptor)?;
        ConstGauge::new(groups).encode(encoder.encode_descriptor(
            "millrace_log_groups",
            "Groups of consumers and others",
            None,
            MetricType::Gauge,
        )?)?;
        encode_transactions(&core.transactions.standing(), &mut encoder)
    }
}

/// How transactions stand.
fn encode_transactions(standing: &Standing, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
    let by_state = Gauges::default();
    for (state, count) in &standing.by_state {
        by_state.get_or_create(&vec![("state".to_owned(), (*state).to_owned())]).set(*count);
    }
    by_state.encode(encoder.encode_descriptor(
        "millrace_log_transaction_states",
        "Transactional ids by the state of their last transaction",
        None,
        MetricType::Gauge,
    )?)?;
    ConstGauge::new(standing.open).encode(encoder.encode_descriptor(
        "millrace_log_open_transactions",
        "Transactions whose markers do not all stand: read_committed readers wait for them",
        None,
        MetricType::Gauge,
    )?)?;
    // Seconds lose nothing as a float: 2^53 ms are 285,000 years.
    let seconds = standing.longest_ms as f64 / 1e3;
    ConstGauge::new(seconds).encode(encoder.encode_descriptor(
        "millrace_log_longest_open_transaction",
        "How long the oldest open transaction has been open",
        Some(&Unit::Seconds),
        MetricType::Gauge,
    )?)
}

#[cfg(test)]
mod tests;
