//! Admin session: connections to the brokers of a cluster, and the one that each request has to go to.
//!
//! In: a [`ConnectionConfig`], requests. Out: answers, or an error that names broker, thing and cure. Touches the network.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{FindCoordinatorRequest, FindCoordinatorResponse, MetadataRequest, MetadataResponse};
use kafka_protocol::protocol::{Request, StrBytes};

use super::error::{self, AdminError};
use crate::kafka::ConnectionConfig;
use crate::native::connection::{Connection, Manner};
use crate::native::offsets::{text, topic_name};

/// How long a connection or an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long a coordinator may take to come up, and leaders to settle.
pub(super) const SETTLE: Duration = Duration::from_secs(20);
pub(super) const RETRY: Duration = Duration::from_millis(200);

/// One client. Its calls want it for themselves: answers come one after the other.
pub struct Admin {
    config: ConnectionConfig,
    manner: Manner,
    /// Addresses by node id, as the cluster tells them.
    pub(super) nodes: BTreeMap<i32, String>,
    connections: HashMap<String, Connection>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Admin({})", self.config.brokers.join(","))
    }
}

/// A question that is written once its version is known: a field that a version lacks can't be sent.
pub(super) type Question<'q, R> = &'q (dyn Fn(i16) -> R + Sync);

impl Admin {
    /// Connects to the first address that answers and learns the cluster's nodes.
    pub async fn connect(config: &ConnectionConfig) -> Result<Self, AdminError> {
        config.sasl_password.reveal()?;
        let manner = Manner::of(config).map_err(|fault| AdminError::Setup { reason: fault.to_string() })?;
        let mut admin = Self { config: config.clone(), manner, nodes: BTreeMap::new(), connections: HashMap::new() };
        admin.metadata(Some(&[])).await?;
        Ok(admin)
    }

    /// The addresses that it was told.
    pub fn brokers(&self) -> String {
        self.config.brokers.join(",")
    }

    /// Host and port of a node.
    pub fn address_of(&self, node: i32) -> Option<&str> {
        self.nodes.get(&node).map(String::as_str)
    }

    /// Metadata of the named topics, or of all.
    pub(super) async fn metadata(&mut self, topics: Option<&[&str]>) -> Result<MetadataResponse, AdminError> {
        let named = topics.map(|topics| {
            topics.iter().map(|t| MetadataRequestTopic::default().with_name(Some(topic_name(t)))).collect()
        });
        let request = MetadataRequest::default().with_topics(named).with_allow_auto_topic_creation(false);
        let answer = self.ask_any(&request, 12).await?;
        self.nodes = answer.brokers.iter().map(|b| (b.node_id.0, format!("{}:{}", b.host, b.port))).collect();
        Ok(answer)
    }

    /// Asks the first broker that answers; an error that every broker would give comes at once.
    pub(super) async fn ask_any<R: Request + Clone + Sync>(
        &mut self,
        request: &R,
        most: i16,
    ) -> Result<R::Response, AdminError> {
        self.ask_any_as(&|_| request.clone(), most).await
    }

    /// The same with a question whose fields depend on the version.
    pub(super) async fn ask_any_as<R: Request>(
        &mut self,
        request: Question<'_, R>,
        most: i16,
    ) -> Result<R::Response, AdminError> {
        let mut addresses: Vec<String> = self.nodes.values().cloned().collect();
        addresses.extend(self.config.brokers.iter().cloned());
        // Those with an open connection first.
        addresses.sort_by_key(|address| !self.connections.contains_key(address));
        let mut last = None;
        for address in addresses {
            match self.ask_at(&address, request, most).await {
                Err(error @ (AdminError::Unreachable { .. } | AdminError::Silent { .. })) => last = Some(error),
                answer => return answer,
            }
        }
        Err(last.unwrap_or(AdminError::NoBroker))
    }

    /// Asks a certain node.
    pub(super) async fn ask_node<R: Request + Clone + Sync>(
        &mut self,
        node: i32,
        request: &R,
        most: i16,
    ) -> Result<R::Response, AdminError> {
        self.ask_node_as(node, &|_| request.clone(), most).await
    }

    pub(super) async fn ask_node_as<R: Request>(
        &mut self,
        node: i32,
        request: Question<'_, R>,
        most: i16,
    ) -> Result<R::Response, AdminError> {
        let address = self.nodes.get(&node).cloned().ok_or(AdminError::UnknownNode { node })?;
        self.ask_at(&address, request, most).await
    }

    async fn ask_at<R: Request>(
        &mut self,
        address: &str,
        request: Question<'_, R>,
        most: i16,
    ) -> Result<R::Response, AdminError> {
        let fault = |error| AdminError::of(error, &self.config);
        let connection = match self.connections.remove(address) {
            Some(open) if !open.is_broken() => open,
            _ => Connection::open(address, &self.manner).await.map_err(fault)?,
        };
        let version = connection.version::<R>(R::VERSIONS.min, most.min(R::VERSIONS.max)).map_err(fault)?;
        let answer = connection.call_version(&request(version), version, PATIENCE).await.map_err(fault);
        self.connections.insert(address.to_owned(), connection);
        answer
    }

    /// The node that keeps a group; waits while it comes up.
    pub(super) async fn coordinator(&mut self, group: &str) -> Result<i32, AdminError> {
        let request = |version: i16| match version {
            ..=3 => FindCoordinatorRequest::default().with_key(text(group)),
            _ => FindCoordinatorRequest::default().with_coordinator_keys(vec![text(group)]),
        };
        let deadline = tokio::time::Instant::now() + SETTLE;
        loop {
            let answer: FindCoordinatorResponse = self.ask_any_as(&request, 4).await?;
            let (code, message, node, host, port) = match answer.coordinators.into_iter().next() {
                Some(c) => (c.error_code, c.error_message, c.node_id.0, c.host, c.port),
                None => (answer.error_code, answer.error_message, answer.node_id.0, answer.host, answer.port),
            };
            if code == 0 {
                self.nodes.entry(node).or_insert_with(|| format!("{host}:{port}"));
                return Ok(node);
            }
            if !error::passes(code) || tokio::time::Instant::now() > deadline {
                return Err(self.refused(format!("coordinator of group `{group}`"), code, message.as_ref()));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    pub(super) fn refused(&self, what: impl Into<String>, code: i16, message: Option<&StrBytes>) -> AdminError {
        AdminError::refused(&self.brokers(), what.into(), code, message.map(StrBytes::as_str))
    }

    pub(super) fn accept(
        &self,
        what: impl FnOnce() -> String,
        code: i16,
        message: Option<&StrBytes>,
    ) -> Result<(), AdminError> {
        if code == 0 { Ok(()) } else { Err(self.refused(what(), code, message)) }
    }
}
