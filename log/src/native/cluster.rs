//! Cluster metadata: which broker leads which partition, who coordinates a group or a transaction, and the connections.
//!
//! In: addresses to start from. Out: connections to leaders, coordinators or any broker; topics and their partitions.
//! Touches the network through [`Connection`]. What it knows is forgotten when a broker says that it is wrong, or does
//! not answer. Leaves repeating to its callers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    CreateTopicsRequest, FindCoordinatorRequest, FindCoordinatorResponse, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use parking_lot::Mutex;

use super::connection::{Connection, Manner, checked};
use super::error::WireError;
use crate::kafka::ClientOptions;
use crate::record::TopicPartition;
use crate::topic_id::TopicId;

/// How long a broker may take for an answer that needs no disk.
const ANSWER: Duration = Duration::from_secs(10);
/// Versions of Metadata: 4 can ask without creating topics.
const METADATA: (i16, i16) = (4, 12);
/// Versions of CreateTopics: 4 takes -1 for the broker's own number of replicas.
const CREATE_TOPICS: (i16, i16) = (4, 7);
/// Versions of FindCoordinator: 1 distinguishes groups and transactions.
const FIND_COORDINATOR: (i16, i16) = (1, 4);

/// What a connection is for: long waits of one kind must not hold up the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Use {
    /// Short questions, and batches.
    Requests,
    /// Fetches, which a broker may hold back.
    Fetches,
    /// Membership in a group: joining waits for the others.
    Group,
}

/// Whose coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Coordinates {
    /// A consumer group's.
    Group,
    /// A transactional id's.
    Transaction,
}

/// The leader of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leader {
    /// Its node id.
    pub node: i32,
    /// Its epoch, -1 where the broker does not say.
    pub epoch: i32,
    /// The id of the partition's topic; `None` where the log has none.
    pub topic_id: Option<TopicId>,
}

#[derive(Debug, Default)]
struct Known {
    /// Address of each node.
    nodes: HashMap<i32, Arc<str>>,
    leaders: HashMap<TopicPartition, Leader>,
    coordinators: HashMap<(Coordinates, String), Arc<str>>,
    /// Open connections by address and use.
    connections: HashMap<(Arc<str>, Use), Arc<Connection>>,
    /// Where the next look for metadata begins.
    turn: usize,
}

/// One cluster as this client sees it.
#[derive(Debug)]
pub(crate) struct Cluster {
    bootstrap: Vec<Arc<str>>,
    manner: Manner,
    known: Mutex<Known>,
}

impl Cluster {
    pub fn new(brokers: &[String], manner: Manner) -> Self {
        let bootstrap = brokers.iter().map(|address| address.as_str().into()).collect();
        Self { bootstrap, manner, known: Mutex::default() }
    }

    /// The settings of the connection.
    pub fn options(&self) -> &ClientOptions {
        &self.manner.options
    }

    /// The addresses to start from.
    pub fn brokers(&self) -> String {
        self.bootstrap.join(",")
    }

    /// A connection to the broker that leads a partition; `UNKNOWN_TOPIC_OR_PARTITION` if there is none such.
    pub async fn leader(&self, of: &TopicPartition) -> Result<Arc<Connection>, WireError> {
        if self.known_leader(of).is_none() {
            let missing = match self.metadata(&[&of.topic]).await?.get(&*of.topic) {
                None => Some(format!("topic `{}` does not exist", of.topic)),
                Some(partitions) if partitions.contains(&of.partition) => None,
                Some(_) => Some(format!("topic `{}` has no partition {}", of.topic, of.partition)),
            };
            if let Some(missing) = missing {
                return Err(WireError::refused(Code::UnknownTopicOrPartition, Some(&missing)));
            }
        }
        let leader = self.known_leader(of).ok_or(WireError::NoLeader)?;
        self.node(leader.node, Use::Requests).await
    }

    /// The leader of a partition as far as it is known.
    pub fn known_leader(&self, of: &TopicPartition) -> Option<Leader> {
        self.known.lock().leaders.get(of).copied()
    }

    /// The id of a partition's topic as of the last look; `None`: not known, or the log has none.
    pub fn topic_id(&self, of: &TopicPartition) -> Option<TopicId> {
        self.known_leader(of)?.topic_id
    }

    /// A connection to a node.
    pub async fn node(&self, node: i32, to: Use) -> Result<Arc<Connection>, WireError> {
        let address = self.known.lock().nodes.get(&node).cloned();
        self.connection(&address.ok_or(WireError::NoLeader)?, to).await
    }

    /// What was known of a partition is wrong.
    pub fn forget(&self, of: &TopicPartition) {
        self.known.lock().leaders.remove(of);
    }

    /// A connection to the coordinator of a group or a transactional id.
    pub async fn coordinator(&self, kind: Coordinates, key: &str, to: Use) -> Result<Arc<Connection>, WireError> {
        let known = self.known.lock().coordinators.get(&(kind, key.to_owned())).cloned();
        let address = match known {
            Some(address) => address,
            None => self.find_coordinator(kind, key).await?,
        };
        self.connection(&address, to).await
    }

    async fn find_coordinator(&self, kind: Coordinates, key: &str) -> Result<Arc<str>, WireError> {
        let key_type = match kind {
            Coordinates::Group => 0,
            Coordinates::Transaction => 1,
        };
        let request = |version| {
            let request = FindCoordinatorRequest::default().with_key_type(key_type);
            let key = StrBytes::from_string(key.to_owned());
            if version >= 4 { request.with_coordinator_keys(vec![key]) } else { request.with_key(key) }
        };
        let connection = self.any().await?;
        let answer: FindCoordinatorResponse = connection.call_as(request, FIND_COORDINATOR, ANSWER).await?;
        let (code, message, host, port) = match answer.coordinators.into_iter().next() {
            Some(of) => (of.error_code, of.error_message, of.host, of.port),
            None => (answer.error_code, answer.error_message, answer.host, answer.port),
        };
        checked(code, message.as_ref().map(StrBytes::as_str))?;
        let address: Arc<str> = format!("{host}:{port}").into();
        self.known.lock().coordinators.insert((kind, key.to_owned()), Arc::clone(&address));
        Ok(address)
    }

    /// What was known of a coordinator is wrong.
    pub fn forget_coordinator(&self, kind: Coordinates, key: &str) {
        self.known.lock().coordinators.remove(&(kind, key.to_owned()));
    }

    /// Any broker that answers.
    pub async fn any(&self) -> Result<Arc<Connection>, WireError> {
        let addresses = {
            let mut known = self.known.lock();
            known.turn = known.turn.wrapping_add(1);
            // Brokers that were met, then those to start from; each look begins at another one.
            let mut all: Vec<Arc<str>> = known.nodes.values().cloned().collect();
            all.sort_unstable();
            let turn = known.turn.checked_rem(all.len()).unwrap_or(0);
            all.rotate_left(turn);
            all.extend(self.bootstrap.iter().filter(|address| !known.nodes.values().any(|a| a == *address)).cloned());
            all
        };
        let mut last = WireError::NoLeader;
        for address in addresses {
            match self.connection(&address, Use::Requests).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connection(&self, address: &Arc<str>, to: Use) -> Result<Arc<Connection>, WireError> {
        let key = (Arc::clone(address), to);
        if let Some(open) = self.known.lock().connections.get(&key)
            && !open.is_broken()
        {
            return Ok(Arc::clone(open));
        }
        let fresh = Connection::open(address, &self.manner).await;
        let mut known = self.known.lock();
        // Another task may have been faster: one connection for all keeps the broker's number of them low.
        match (known.connections.get(&key), fresh) {
            (Some(open), _) if !open.is_broken() => Ok(Arc::clone(open)),
            (_, Ok(fresh)) => {
                let fresh = Arc::new(fresh);
                known.connections.insert(key, Arc::clone(&fresh));
                Ok(fresh)
            }
            (_, Err(error)) => {
                known.connections.remove(&key);
                Err(error)
            }
        }
    }

    /// Asks for partitions and leaders of topics; the partitions of each in order, without those topics that don't exist.
    pub async fn metadata(&self, topics: &[&str]) -> Result<BTreeMap<String, Vec<i32>>, WireError> {
        let asked = topics.iter().map(|topic| {
            let name = TopicName(StrBytes::from_string((*topic).to_owned()));
            MetadataRequestTopic::default().with_name(Some(name))
        });
        let request =
            MetadataRequest::default().with_topics(Some(asked.collect())).with_allow_auto_topic_creation(false);
        let mut again = true;
        loop {
            match self.any().await?.call(&request, METADATA, ANSWER).await {
                // The connection may have been closed while it was idle: that is no sign that the broker is away.
                Err(WireError::Lost { .. }) if std::mem::take(&mut again) => {}
                answer => return self.learn(&answer?),
            }
        }
    }

    fn learn(&self, answer: &MetadataResponse) -> Result<BTreeMap<String, Vec<i32>>, WireError> {
        let mut known = self.known.lock();
        known.nodes.clear();
        for node in &answer.brokers {
            known.nodes.insert(node.node_id.0, format!("{}:{}", node.host, node.port).into());
        }
        let mut found = BTreeMap::new();
        for topic in &answer.topics {
            let Some(name) = topic.name.as_ref() else { continue };
            match Code::try_from_code(topic.error_code) {
                None => {}
                Some(Code::UnknownTopicOrPartition) => continue,
                Some(code) => return Err(WireError::refused(code, None)),
            }
            let shared: Arc<str> = name.as_str().into();
            let mut partitions: Vec<i32> = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let place = TopicPartition::new(Arc::clone(&shared), partition.partition_index);
                let (node, epoch) = (partition.leader_id.0, partition.leader_epoch);
                let leader = Leader { node, epoch, topic_id: TopicId::of(topic.topic_id) };
                if leader.node >= 0 {
                    known.leaders.insert(place, leader);
                } else {
                    known.leaders.remove(&place);
                }
                partitions.push(partition.partition_index);
            }
            partitions.sort_unstable();
            found.insert(name.to_string(), partitions);
        }
        Ok(found)
    }

    /// Partitions of a topic in order, empty if there is no such topic. Creates none.
    pub async fn partitions(&self, topic: &str) -> Result<Vec<i32>, WireError> {
        Ok(self.metadata(&[topic]).await?.remove(topic).unwrap_or_default())
    }

    /// Creates a topic with the cluster's own number of replicas; one that exists is fine.
    pub async fn create(&self, topic: &str, partitions: i32) -> Result<(), WireError> {
        let new = CreatableTopic::default()
            .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
            .with_num_partitions(partitions)
            .with_replication_factor(-1);
        let limit = i32::try_from(ANSWER.as_millis()).unwrap_or(i32::MAX);
        let request = CreateTopicsRequest::default().with_topics(vec![new]).with_timeout_ms(limit);
        // A broker of a cluster that is not the controller passes it on (KIP-590), so any will do.
        let answer = self.any().await?.call(&request, CREATE_TOPICS, ANSWER * 2).await?;
        let Some(created) = answer.topics.first() else { return Ok(()) };
        match Code::try_from_code(created.error_code) {
            Some(Code::TopicAlreadyExists) => Ok(()),
            _ => checked(created.error_code, created.error_message.as_ref().map(StrBytes::as_str)),
        }
    }
}
