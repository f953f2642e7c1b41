//! Reads one topic for people and tools: records as they are, ends of partitions, optionally as a group member.
//!
//! In: a connection, where to begin. Out: one thing after the other. Touches the network through librdkafka. Its calls
//! block: use it on a thread of its own.

use std::time::Duration;

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use rdkafka::util::Timeout;

use super::{ClientError, ConnectionConfig, Quiet};
use crate::record::TopicPartition;

/// A record with everything that Kafka keeps of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRecord {
    /// Which partition.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// ms since 1970, if it has a time.
    pub timestamp_ms: Option<i64>,
    /// Key, `None` for null.
    pub key: Option<Bytes>,
    /// Value, `None` for a tombstone.
    pub value: Option<Bytes>,
    /// Names and values in order; a value may be null.
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// What came.
#[derive(Debug)]
pub enum Met {
    /// A record.
    Record(RawRecord),
    /// The end of a partition, for now.
    End(i32),
    /// Nothing within the time.
    Nothing,
}

/// Reads one topic.
pub struct TopicReader {
    consumer: BaseConsumer<Quiet>,
    topic: String,
    brokers: String,
    member: bool,
}

impl std::fmt::Debug for TopicReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TopicReader({} at {})", self.topic, self.brokers)
    }
}

impl TopicReader {
    /// Makes the client. With `group` as a member of it, from `earliest` or the end where it has no offset.
    pub fn new(
        config: &ConnectionConfig,
        topic: &str,
        group: Option<&str>,
        earliest: bool,
        committed_only: bool,
    ) -> Result<Self, ClientError> {
        let mut client = config.client()?;
        // Assigned partitions need a group's name too; nothing is committed to it.
        let own = format!("millrace-consume-{:08x}", rand::random::<u32>());
        let isolation = if committed_only { "read_committed" } else { "read_uncommitted" };
        let reset = match (group, earliest) {
            (None, _) => "error",
            (Some(_), true) => "earliest",
            (Some(_), false) => "latest",
        };
        for (name, value) in [
            ("group.id", group.unwrap_or(&own)),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", reset),
            ("isolation.level", isolation),
            ("fetch.wait.max.ms", "100"),
            ("queued.max.messages.kbytes", "16384"),
            ("allow.auto.create.topics", "false"),
        ] {
            if !config.options.contains_key(name) {
                client.set(name, value);
            }
        }
        let consumer: BaseConsumer<Quiet> = client.create_with_context(Quiet).map_err(ClientError::Setup)?;
        let reader =
            Self { consumer, topic: topic.to_owned(), brokers: config.brokers.join(","), member: group.is_some() };
        if reader.member {
            reader.consumer.subscribe(&[topic]).map_err(ClientError::Setup)?;
        }
        Ok(reader)
    }

    /// Reads these partitions from these offsets on.
    pub fn assign(&self, starts: &[(i32, i64)]) -> Result<(), ClientError> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in starts {
            list.add_partition_offset(&self.topic, *partition, KafkaOffset::Offset(*offset))
                .map_err(ClientError::Setup)?;
        }
        self.consumer.assign(&list).map_err(|source| self.unreachable(source))
    }

    /// Partitions that the group gave to this member.
    pub fn assigned(&self) -> Vec<i32> {
        let list = self.consumer.assignment().map(|list| list.elements().iter().map(|e| e.partition()).collect());
        list.unwrap_or_default()
    }

    /// The next thing. Passing faults of the network are not errors: the client goes on by itself.
    pub fn next(&self, timeout: Duration) -> Result<Met, ClientError> {
        use RDKafkaErrorCode as C;
        match self.consumer.poll(Timeout::After(timeout)) {
            None => Ok(Met::Nothing),
            Some(Ok(message)) => Ok(Met::Record(RawRecord {
                partition: message.partition(),
                offset: message.offset(),
                timestamp_ms: message.timestamp().to_millis(),
                key: message.key().map(Bytes::copy_from_slice),
                value: message.payload().map(Bytes::copy_from_slice),
                headers: message
                    .headers()
                    .map(|headers| {
                        headers.iter().map(|h| (h.key.to_owned(), h.value.map(Bytes::copy_from_slice))).collect()
                    })
                    .unwrap_or_default(),
            })),
            Some(Err(KafkaError::PartitionEOF(partition))) => Ok(Met::End(partition)),
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(C::AutoOffsetReset) => Err(ClientError::OutOfRange {
                    topic_partition: TopicPartition::new(self.topic.as_str(), -1),
                    offset: -1,
                }),
                Some(
                    C::TopicAuthorizationFailed
                    | C::GroupAuthorizationFailed
                    | C::UnknownTopicOrPartition
                    | C::UnknownPartition
                    | C::SaslAuthenticationFailed
                    | C::Fatal,
                ) => Err(self.unreachable(error)),
                _ => {
                    tracing::debug!(%error, "consumer");
                    Ok(Met::Nothing)
                }
            },
        }
    }

    /// Tells the group how far it is: the next record of each partition.
    pub fn commit(&self, next: &[(i32, i64)]) -> Result<(), ClientError> {
        if !self.member || next.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        for (partition, offset) in next {
            list.add_partition_offset(&self.topic, *partition, KafkaOffset::Offset(*offset))
                .map_err(ClientError::Setup)?;
        }
        self.consumer.commit(&list, CommitMode::Sync).map_err(|source| self.unreachable(source))
    }

    fn unreachable(&self, source: KafkaError) -> ClientError {
        ClientError::Unreachable { brokers: self.brokers.clone(), source }
    }
}
