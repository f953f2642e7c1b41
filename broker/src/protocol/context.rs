//! What every handler has at hand: the broker's parts, who asks, and at which version.
//!
//! Out: [`Core`] shared by all connections, [`Context`] of one request. Touches nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use kafka_protocol::messages::BrokerId;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::group::Coordinator;
use crate::metrics::BrokerMetrics;
use crate::protocol::access::{Access, Operation, Principal, Resource};
use crate::protocol::client_configs::ClientConfigs;
use crate::protocol::config::BrokerConfig;
use crate::protocol::error::Code;
use crate::protocol::fetch_sessions::FetchSessions;
use crate::protocol::identity::Identity;
use crate::protocol::listener::Listener;
use crate::storage::{CommittedOffset, CommittedOffsets, Partition, Storage};
use crate::transaction::Coordinator as Transactions;

/// The only node there is.
pub(crate) const NODE: BrokerId = BrokerId(1);

/// The broker's parts.
pub(crate) struct Core {
    pub config: BrokerConfig,
    pub storage: Arc<Storage>,
    pub groups: Coordinator,
    pub access: Access,
    /// Client quotas and client metrics subscriptions.
    pub client_configs: ClientConfigs,
    pub listeners: Vec<Arc<Listener>>,
    /// Open connections of all listeners.
    pub open_connections: AtomicUsize,
    pub transactions: Transactions,
    pub identity: Arc<Identity>,
    pub sessions: FetchSessions,
    pub metrics: BrokerMetrics,
    /// Memory for large requests.
    pub budget: Arc<Semaphore>,
    /// Turns of requests that name so much that they are handled apart.
    pub heavy: Arc<Semaphore>,
    /// Held while topics are checked and made, so that two requests can't make names that collide.
    pub creating: tokio::sync::Mutex<()>,
    pub stop: CancellationToken,
    pub data_dir: PathBuf,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Core({})", self.data_dir.display())
    }
}

/// Both ends of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub from: SocketAddr,
    pub to: SocketAddr,
}

/// What a connection's requests have in common.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub peer: Peer,
    pub listener: Arc<Listener>,
    pub who: Arc<Principal>,
}

/// One request's surroundings.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub core: Arc<Core>,
    pub peer: Peer,
    pub listener: Arc<Listener>,
    /// Who asks.
    pub who: Arc<Principal>,
    pub version: i16,
    pub client_id: String,
}

impl Context {
    /// Host and port that this client is given: those of its listener, or those it connected to.
    pub fn advertised(&self) -> (String, i32) {
        match self.listener.advertised() {
            Some((host, port)) => (host.to_owned(), port),
            None => (self.peer.to.ip().to_canonical().to_string(), i32::from(self.peer.to.port())),
        }
    }

    /// Whether the client may do something; else the code of the refusal. Costs next to nothing while access rules are
    /// not enforced, takes no memory otherwise.
    pub fn allowed(&self, operation: Operation, resource: Resource<'_>) -> Result<(), Code> {
        self.core.access.allowed(&self.who, self.peer.from.ip(), operation, resource)
    }

    /// The same for what is left out of an answer without a word: not counted as a refusal.
    pub fn sees(&self, operation: Operation, resource: Resource<'_>) -> bool {
        self.core.access.allows(&self.who, self.peer.from.ip(), operation, resource)
    }

    /// Whether the client may write to some topic: who may, also may be idempotent (KIP-679).
    pub fn writes_any_topic(&self) -> bool {
        self.core.access.allows_any_topic(&self.who, self.peer.from.ip(), Operation::Write)
    }

    /// What the client may do with a resource, as bits for the answer.
    pub fn operations(&self, resource: Resource<'_>) -> i32 {
        self.core.access.operations(&self.who, self.peer.from.ip(), resource)
    }

    /// What the client may do with the cluster; nothing if it may not even describe it.
    pub fn cluster_operations(&self) -> i32 {
        if self.sees(Operation::Describe, Resource::Cluster) { self.operations(Resource::Cluster) } else { 0 }
    }

    /// Whether the client may make a topic of this name.
    pub fn may_create(&self, name: &str) -> Result<(), Code> {
        if self.sees(Operation::Create, Resource::Cluster) {
            return Ok(());
        }
        self.allowed(Operation::Create, Resource::Topic(name))
    }

    /// A partition by topic and number.
    pub fn partition(&self, topic: &str, number: i32) -> Result<Arc<Partition>, Code> {
        let topic = self.core.storage.topic(topic).ok_or(Code::UnknownTopicOrPartition)?;
        topic.partition(number).ok_or(Code::UnknownTopicOrPartition)
    }
}

/// Checks the leader epoch that a client believes in (KIP-320); -1 says nothing.
pub(crate) fn check_epoch(partition: &Partition, believed: i32) -> Result<(), Code> {
    match believed.cmp(&partition.leader_epoch()) {
        _ if believed < 0 => Ok(()),
        std::cmp::Ordering::Less => Err(Code::FencedLeaderEpoch),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(Code::UnknownLeaderEpoch),
    }
}

/// Retention asks who has read how far.
impl CommittedOffsets for Core {
    fn committed(&self, topic: &str, partition: i32) -> Vec<CommittedOffset> {
        self.groups.committed_on(topic, partition)
    }
}
