//! The broker as a whole: opens the data folder, binds the listeners, runs every task, stops in order.
//!
//! In: the configuration and the data folder. Out: [`Broker`]. Touches the network (its listeners) and, through storage, the
//! data folder. One task per connection; requests of a connection are answered in order, produce requests overlap while
//! they wait for the disk.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::group::Coordinator;
use crate::metrics::{BrokerMetrics, names};
use crate::protocol::access::Access;
use crate::protocol::client_configs::ClientConfigs;
use crate::protocol::collector::BrokerCollector;
use crate::protocol::config::BrokerConfig;
use crate::protocol::context::Core;
use crate::protocol::disconnect::CAUSES;
use crate::protocol::error::BrokerError;
use crate::protocol::fetch_sessions::FetchSessions;
use crate::protocol::identity::Identity;
use crate::protocol::listener::Listener;
use crate::protocol::listener::limits::LimitReached;
use crate::protocol::wire::frame::BUDGET_UNIT_BYTES;
use crate::protocol::{accept, declared_topics, upkeep};
use crate::storage::Storage;
use crate::transaction::{Coordinator as Transactions, ProducerIds};
use millrace_log::clock::SharedClock;
use millrace_log::fs::Filesystem;

/// Requests that name very much and are handled at the same time.
const HEAVY_TURNS: usize = 2;

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
            let listeners = of.all_listeners().into_iter().map(|one| Ok(Arc::new(Listener::open(one)?)));
            let listeners = listeners.collect::<Result<Vec<_>, BrokerError>>()?;
            let storage = Storage::open(&dir, Arc::clone(&fs), time, settings)?;
            let identity = Identity::open(Arc::clone(&fs), &dir)?;
            let client_configs = ClientConfigs::open(Arc::clone(&fs), &dir)?;
            let access = Access::open(&of, fs, &dir, denied)?;
            Ok::<_, BrokerError>((listeners, storage, identity, client_configs, access))
        });
        let (listeners, storage, identity, client_configs, access) = opened.await.map_err(|panic| {
            BrokerError::State { path: data_dir.to_owned(), what: "opened", reason: panic.to_string() }
        })??;
        storage.metrics().register(registry);
        for listener in &listeners {
            let causes = CAUSES.into_iter().chain(LimitReached::ALL.map(LimitReached::cause));
            let mechanisms = listener.sasl().into_iter().flat_map(|sasl| sasl.mechanisms.iter().map(|m| m.name()));
            metrics.expose_listener(listener.name, causes, mechanisms);
        }
        declared_topics::apply(&storage, &config.topics, config.default_partitions).await?;
        let groups = Coordinator::open(Arc::clone(&storage), Arc::clone(&clock), config.group.clone()).await?;
        let identity = Arc::new(identity);
        let ids: Arc<dyn ProducerIds> = Arc::<Identity>::clone(&identity);
        let (of, time) = (Arc::clone(&storage), Arc::clone(&clock));
        let transactions = Transactions::open(of, time, config.transaction.clone(), ids).await?;
        transactions.metrics().register(registry);
        registry.register(names::GROUP_REBALANCES, "Rebalances of groups", groups.rebalances());
        let budget = usize::try_from(config.request_memory.0).unwrap_or(usize::MAX) / BUDGET_UNIT_BYTES;
        let core = Arc::new(Core {
            sessions: FetchSessions::new(config.max_fetch_sessions),
            budget: Arc::new(Semaphore::new(budget.min(Semaphore::MAX_PERMITS))),
            heavy: Arc::new(Semaphore::new(HEAVY_TURNS)),
            creating: tokio::sync::Mutex::new(()),
            stop: CancellationToken::new(),
            data_dir: data_dir.to_owned(),
            open_connections: AtomicUsize::new(0),
            listeners,
            access,
            client_configs,
            groups,
            transactions,
            identity,
            storage,
            metrics,
            config,
        });
        registry.register_collector(Box::new(BrokerCollector(Arc::downgrade(&core))));
        let readers: std::sync::Weak<Core> = Arc::downgrade(&core);
        core.storage.ask_committed_offsets(readers);
        Ok(Self { core, bound: Mutex::default() })
    }

    /// Takes the ports; clients that connect from now on wait for [`Self::run`]. Gives the first listener's address.
    pub async fn bind(&self) -> Result<SocketAddr, BrokerError> {
        let mut bound = Vec::new();
        for listener in &self.core.listeners {
            let listen = listener.config.listen.clone();
            let fault = |source: std::io::Error| match source.kind() {
                std::io::ErrorKind::AddrInUse => BrokerError::PortInUse { listen: listen.clone() },
                _ => BrokerError::Listen { listen: listen.clone(), source },
            };
            let socket = TcpListener::bind(&listen).await.map_err(fault)?;
            let address = socket.local_addr().map_err(fault)?;
            if !address.ip().is_loopback() && !listener.config.has_login() {
                tracing::warn!(
                    listener = listener.name, %address,
                    "Kafka listener is open to other hosts without authentication: bind it to 127.0.0.1, or set `sasl` or `tls.client_auth: required` in `broker.listeners`"
                );
            }
            bound.push((Arc::clone(listener), socket, address));
        }
        let first = bound.first().map(|(_, _, address)| *address).ok_or(BrokerError::NotBound)?;
        *self.bound.lock() = bound.into_iter().map(|(listener, socket, _)| (listener, socket)).collect();
        Ok(first)
    }

    /// Name and address of each listener; empty before [`Self::bind`] and once it runs.
    pub fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        let bound = self.bound.lock();
        bound.iter().filter_map(|(listener, socket)| Some((listener.name, socket.local_addr().ok()?))).collect()
    }

    /// The log below, for those in the same process who look at it without the wire.
    pub fn storage(&self) -> &Arc<Storage> {
        &self.core.storage
    }

    /// Serves until cancelled; then lets open connections finish, flushes everything and returns.
    ///
    /// Boxed: compiled in this crate, not again in each that runs it.
    pub fn run(&self, token: CancellationToken) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.serve_until(token).boxed()
    }

    async fn serve_until(&self, token: CancellationToken) -> Result<(), BrokerError> {
        let bound = std::mem::take(&mut *self.bound.lock());
        if bound.is_empty() {
            return Err(BrokerError::NotBound);
        }
        let core = &self.core;
        let storage_token = CancellationToken::new();
        let mut storage = JoinSet::new();
        storage.spawn(Arc::clone(&core.storage).run(storage_token.clone()).boxed());
        let mut ticks = JoinSet::new();
        ticks.spawn(upkeep::keep_groups(Arc::clone(core)).boxed());
        ticks.spawn(upkeep::keep_transactions(Arc::clone(core)).boxed());
        ticks.spawn(upkeep::keep_certificates(Arc::clone(core)).boxed());
        let mut accepting = JoinSet::new();
        for (listener, socket) in bound {
            accepting.spawn(accept::serve(Arc::clone(core), listener, socket).boxed());
        }
        let mut failed = None;
        tokio::select! {
            () = token.cancelled() => {}
            Some(ended) = storage.join_next() => failed = Some(ended),
        }
        core.stop.cancel();
        core.groups.close();
        while accepting.join_next().await.is_some() {}
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

#[cfg(test)]
mod tests;
