//! Which broker leads which partition, and the connections to them.
//!
//! In: addresses to start from. Out: a connection to the leader of a partition; topics and their partitions. Touches
//! the network through [`Connection`]. What it knows of leaders is forgotten when a broker says that it is wrong, or
//! does not answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{CreateTopicsRequest, MetadataRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::{ResponseError as Code, messages::MetadataResponse};
use parking_lot::Mutex;

use super::connection::{Connection, Manner, checked};
use super::error::WireError;
use crate::record::TopicPartition;

/// How long a broker may take for an answer that needs no disk.
const ANSWER: Duration = Duration::from_secs(10);
/// Versions of Metadata: 4 can ask without making topics.
const METADATA: (i16, i16) = (4, 12);
/// Versions of CreateTopics: 4 takes -1 for the broker's own number of replicas.
const CREATE_TOPICS: (i16, i16) = (4, 7);

#[derive(Debug, Default)]
struct Known {
    /// Address of each node.
    nodes: HashMap<i32, Arc<str>>,
    /// Node that leads.
    leaders: HashMap<TopicPartition, i32>,
    /// Open connections by address.
    connections: HashMap<Arc<str>, Arc<Connection>>,
    /// Where the next look for metadata begins.
    turn: usize,
}

/// One cluster as this client sees it.
#[derive(Debug)]
pub(super) struct Cluster {
    bootstrap: Vec<Arc<str>>,
    manner: Manner,
    known: Mutex<Known>,
}

impl Cluster {
    pub fn new(brokers: &[String], manner: Manner) -> Self {
        let bootstrap = brokers.iter().map(|address| address.as_str().into()).collect();
        Self { bootstrap, manner, known: Mutex::default() }
    }

    /// A connection to the broker that leads a partition.
    pub async fn leader(&self, of: &TopicPartition) -> Result<Arc<Connection>, WireError> {
        let known = self.leader_address(of);
        let address = match known {
            Some(address) => address,
            None => {
                self.ask(&of.topic).await?;
                self.leader_address(of).ok_or(WireError::NoLeader)?
            }
        };
        self.connection(&address).await
    }

    fn leader_address(&self, of: &TopicPartition) -> Option<Arc<str>> {
        let known = self.known.lock();
        known.nodes.get(known.leaders.get(of)?).cloned()
    }

    /// What was known of a partition is wrong.
    pub fn forget(&self, of: &TopicPartition) {
        let mut known = self.known.lock();
        if let Some(node) = known.leaders.remove(of) {
            let address = known.nodes.get(&node).cloned();
            if let Some(address) = address
                && known.connections.get(&address).is_some_and(|open| open.is_broken())
            {
                known.connections.remove(&address);
            }
        }
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
            match self.connection(&address).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connection(&self, address: &Arc<str>) -> Result<Arc<Connection>, WireError> {
        if let Some(open) = self.known.lock().connections.get(address)
            && !open.is_broken()
        {
            return Ok(Arc::clone(open));
        }
        let fresh = Arc::new(Connection::open(address, &self.manner).await?);
        let mut known = self.known.lock();
        // Another lane may have been faster: one connection for all keeps the broker's number of them low.
        match known.connections.get(address) {
            Some(open) if !open.is_broken() => Ok(Arc::clone(open)),
            _ => {
                known.connections.insert(Arc::clone(address), Arc::clone(&fresh));
                Ok(fresh)
            }
        }
    }

    /// Asks for a topic's partitions and leaders; its number of partitions, 0 if there is no such topic.
    async fn ask(&self, topic: &str) -> Result<i32, WireError> {
        let name = TopicName(StrBytes::from_string(topic.to_owned()));
        let asked = MetadataRequestTopic::default().with_name(Some(name));
        let request = MetadataRequest::default().with_topics(Some(vec![asked])).with_allow_auto_topic_creation(false);
        let connection = self.any().await?;
        let answer = connection.call(&request, METADATA, ANSWER).await?;
        self.learn(topic, &answer)
    }

    fn learn(&self, topic: &str, answer: &MetadataResponse) -> Result<i32, WireError> {
        let mut known = self.known.lock();
        known.nodes.clear();
        for node in &answer.brokers {
            known.nodes.insert(node.node_id.0, format!("{}:{}", node.host, node.port).into());
        }
        let found = answer.topics.iter().find(|t| t.name.as_ref().is_some_and(|name| name.0.as_str() == topic));
        let Some(found) = found else { return Ok(0) };
        match Code::try_from_code(found.error_code) {
            None => {}
            Some(Code::UnknownTopicOrPartition) => return Ok(0),
            Some(code) => return Err(WireError::refused(code, None)),
        }
        for partition in &found.partitions {
            let place = TopicPartition::new(topic, partition.partition_index);
            if partition.leader_id.0 >= 0 {
                known.leaders.insert(place, partition.leader_id.0);
            } else {
                known.leaders.remove(&place);
            }
        }
        Ok(i32::try_from(found.partitions.len()).unwrap_or(i32::MAX))
    }

    /// Number of partitions of a topic, 0 if there is no such topic. Makes none.
    pub async fn partitions(&self, topic: &str) -> Result<i32, WireError> {
        self.ask(topic).await
    }

    /// Makes a topic with the cluster's own number of replicas; one that is there already is fine.
    pub async fn create(&self, topic: &str, partitions: i32) -> Result<(), WireError> {
        let new = CreatableTopic::default()
            .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
            .with_num_partitions(partitions)
            .with_replication_factor(-1);
        let limit = i32::try_from(ANSWER.as_millis()).unwrap_or(i32::MAX);
        let request = CreateTopicsRequest::default().with_topics(vec![new]).with_timeout_ms(limit);
        // A broker of a cluster that is not the controller passes it on (KIP-590), so any will do.
        let answer = self.any().await?.call(&request, CREATE_TOPICS, ANSWER * 2).await?;
        let Some(made) = answer.topics.first() else { return Ok(()) };
        match Code::try_from_code(made.error_code) {
            Some(Code::TopicAlreadyExists) => Ok(()),
            _ => checked(made.error_code, made.error_message.as_ref().map(StrBytes::as_str)),
        }
    }
}
