//! The only way to the log, embedded or real: produces batches of one partition, consumes assigned partitions.
//!
//! In: [`Record`]s and positions. Out: acknowledged offsets; batches of consumed records with their offsets.
//! Touches the network through librdkafka. Leaves the meaning of records to [`crate::record`], and the agent's own
//! producer behind the same trait to [`crate::native`].

/// Copies records from topic to topic in transactions.
pub mod copier;
/// Reads one topic for people and tools.
pub mod reader;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use rdkafka::util::Timeout;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::native::encode::Records;
use crate::record::{HeaderName, Record, TopicPartition};
use crate::value::{Faults, Secret};

/// How to reach the log: the `kafka:` part that every role shares.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionConfig {
    /// Addresses `host:port` to start from; with the role `broker` in the same process, its own address.
    pub brokers: Vec<String>,
    /// TLS to the brokers.
    pub tls: bool,
    /// File with the certificates of the authorities to trust, PEM. Empty: those of the system.
    pub ca_file: String,
    /// File with this client's own certificate and those between it and its authority, PEM, for listeners that ask for one.
    pub cert_file: String,
    /// File with the private key of `cert_file`, PEM, not encrypted.
    pub key_file: String,
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`. Empty: no authentication.
    pub sasl_mechanism: String,
    /// User for SASL.
    pub sasl_username: String,
    /// Password for SASL.
    pub sasl_password: Secret,
    /// Further settings of librdkafka by their own names, for what has no key here.
    pub options: BTreeMap<String, String>,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            brokers: vec!["127.0.0.1:9092".to_owned()],
            tls: false,
            ca_file: String::new(),
            cert_file: String::new(),
            key_file: String::new(),
            sasl_mechanism: String::new(),
            sasl_username: String::new(),
            sasl_password: Secret::default(),
            options: BTreeMap::new(),
        }
    }
}

impl ConnectionConfig {
    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        if self.brokers.is_empty() {
            faults.add("brokers", "is empty: name at least one address as host:port");
        }
        for (i, broker) in self.brokers.iter().enumerate() {
            let port = broker.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none() {
                faults.add(&format!("brokers[{i}]"), format!("`{broker}` is no address: expected host:port"));
            }
        }
        if !["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].contains(&self.sasl_mechanism.as_str()) {
            faults.add("sasl_mechanism", "expected PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512");
        }
        match (self.cert_file.is_empty(), self.key_file.is_empty()) {
            (false, true) => faults.add("key_file", "is missing: name the file with the private key of `cert_file`"),
            (true, false) => faults.add("cert_file", "is missing: name the file with the certificate of `key_file`"),
            (false, false) if !self.tls => faults.add("cert_file", "means nothing without TLS: set `tls: true`"),
            _ => {}
        }
    }

    /// librdkafka's settings for this connection; secrets are read now.
    pub fn client(&self) -> Result<ClientConfig, ClientError> {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", self.brokers.join(","));
        client.set("client.id", "millrace");
        let protocol = match (self.tls, self.sasl_mechanism.is_empty()) {
            (false, true) => "plaintext",
            (true, true) => "ssl",
            (false, false) => "sasl_plaintext",
            (true, false) => "sasl_ssl",
        };
        client.set("security.protocol", protocol);
        if !self.ca_file.is_empty() {
            client.set("ssl.ca.location", &self.ca_file);
        }
        if !self.cert_file.is_empty() {
            client.set("ssl.certificate.location", &self.cert_file);
            client.set("ssl.key.location", &self.key_file);
        }
        if !self.sasl_mechanism.is_empty() {
            client.set("sasl.mechanism", &self.sasl_mechanism);
            client.set("sasl.username", &self.sasl_username);
            client.set("sasl.password", self.sasl_password.reveal()?);
        }
        for (name, value) in &self.options {
            client.set(name, value);
        }
        Ok(client)
    }
}

/// Why the log could not be reached, or refused.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A secret of the connection can't be read.
    #[error(transparent)]
    Secret(#[from] crate::value::ValueError),
    /// librdkafka refused a setting.
    #[error("client of the log can't be made: check `kafka.options`")]
    Setup(#[source] KafkaError),
    /// The connection can't be made as configured.
    #[error("`kafka.{key}`: {reason}")]
    Connection {
        /// The key at fault.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// No answer: the call may be repeated.
    #[error("log at {brokers} does not answer: is the broker running and the address right?")]
    Unreachable {
        /// The addresses tried.
        brokers: String,
        /// The cause.
        #[source]
        source: KafkaError,
    },
    /// A batch was not taken, or not whole: the records at `failed` may be sent again (`retriable`) or never.
    #[error("{topic_partition} refused {} of {count} records: {source}", failed.len())]
    Refused {
        /// Where to.
        topic_partition: TopicPartition,
        /// Size of the batch.
        count: usize,
        /// Indexes into the batch.
        failed: Vec<usize>,
        /// Whether sending them again may succeed.
        retriable: bool,
        /// The first cause.
        #[source]
        source: KafkaError,
    },
    /// The topic does not exist and could not be made.
    #[error("topic `{topic}` can't be made: {reason}")]
    Topic {
        /// Its name.
        topic: String,
        /// What the broker said.
        reason: String,
    },
    /// The consumed position is gone: retention passed it.
    #[error("offset {offset} of {topic_partition} is out of the log's range: retention removed it")]
    OutOfRange {
        /// Which partition.
        topic_partition: TopicPartition,
        /// The offset asked for, -1 if unknown.
        offset: i64,
    },
}

/// Takes whole batches of one partition. Stands between the agent (or the HTTP doors) and a client.
#[async_trait::async_trait]
pub trait BatchProducer: Send + Sync + 'static {
    /// Sends a batch in order; returns the offset of its first record when all are durable (acks=all).
    /// On [`ClientError::Refused`] the records that are not named are durable.
    async fn send(&self, to: &TopicPartition, batch: Vec<Record>) -> Result<i64, ClientError>;

    /// The same with records that are encoded already.
    async fn send_encoded(&self, to: &TopicPartition, records: Records) -> Result<i64, ClientError> {
        self.send(to, records.to_records()).await
    }

    /// No records, with the memory of those sent to this partition before, where the client keeps it.
    fn spare(&self, _to: &TopicPartition) -> Records {
        Records::default()
    }

    /// Number of partitions of a topic, made with `partitions` if it does not exist.
    async fn ensure_topic(&self, topic: &str, partitions: i32) -> Result<i32, ClientError>;
}

/// Waits for a topic that was just made; its number of partitions. Made is not yet listed: other nodes of a real cluster
/// learn of it a moment later.
pub(crate) async fn until_listed<F>(topic: &str, partitions: impl Fn() -> F) -> Result<i32, ClientError>
where
    F: Future<Output = Result<i32, ClientError>>,
{
    let deadline = tokio::time::Instant::now() + LISTED;
    loop {
        let known = partitions().await?;
        if known > 0 {
            return Ok(known);
        }
        if tokio::time::Instant::now() > deadline {
            let reason = format!("made, but not listed after {} s", LISTED.as_secs());
            return Err(ClientError::Topic { topic: topic.to_owned(), reason });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How long a topic that was made may take to be listed.
const LISTED: Duration = Duration::from_secs(15);

/// Silent context: errors come back from the calls; librdkafka's log lines go to `tracing`.
#[derive(Debug, Default)]
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for Quiet {}

/// Idempotent producer over librdkafka: acks=all, zstd.
pub struct RdProducer {
    producer: FutureProducer<Quiet>,
    config: ConnectionConfig,
}

impl std::fmt::Debug for RdProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RdProducer({})", self.config.brokers.join(","))
    }
}

impl RdProducer {
    /// Makes the client; connects in the background.
    pub fn new(config: &ConnectionConfig) -> Result<Self, ClientError> {
        let mut client = config.client()?;
        for (name, value) in [
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("compression.type", "zstd"),
            ("linger.ms", "5"),
            ("batch.size", "1000000"),
            ("batch.num.messages", "100000"),
            ("queue.buffering.max.messages", "500000"),
            ("queue.buffering.max.kbytes", "262144"),
            ("message.timeout.ms", "120000"),
        ] {
            if !config.options.contains_key(name) {
                client.set(name, value);
            }
        }
        let producer = client.create_with_context(Quiet).map_err(ClientError::Setup)?;
        Ok(Self { producer, config: config.clone() })
    }
}

fn retriable(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as C;
    !matches!(
        error.rdkafka_error_code(),
        Some(
            C::MessageSizeTooLarge
                | C::InvalidMessage
                | C::InvalidTimestamp
                | C::InvalidRecord
                | C::PolicyViolation
                | C::TopicAuthorizationFailed
                | C::ClusterAuthorizationFailed
                | C::InvalidTopic
                | C::UnknownPartition
        )
    )
}

#[async_trait::async_trait]
impl BatchProducer for RdProducer {
    async fn send(&self, to: &TopicPartition, batch: Vec<Record>) -> Result<i64, ClientError> {
        let count = batch.len();
        let mut waiting = Vec::with_capacity(count);
        let mut failed = Vec::new();
        let mut cause = None;
        for (i, record) in batch.iter().enumerate() {
            let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
            for (name, value) in &record.headers {
                headers = headers.insert(rdkafka::message::Header { key: name, value: Some(value.as_ref()) });
            }
            let mut message: FutureRecord<'_, [u8], [u8]> =
                FutureRecord::to(&to.topic).partition(to.partition).timestamp(record.timestamp_ms).headers(headers);
            if let Some(key) = &record.key {
                message = message.key(key.as_ref());
            }
            if let Some(value) = &record.value {
                message = message.payload(value.as_ref());
            }
            // A full local queue is the only refusal worth waiting for: what is in it leaves by itself.
            loop {
                match self.producer.send_result(message) {
                    Ok(delivery) => {
                        waiting.push((i, delivery));
                        break;
                    }
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                        message = back;
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Err((error, _)) => {
                        failed.push(i);
                        cause.get_or_insert(error);
                        break;
                    }
                }
            }
        }
        let mut first = i64::MAX;
        for (i, delivery) in waiting {
            match delivery.await {
                Ok(Ok(at)) => first = first.min(at.offset),
                Ok(Err((error, _))) => {
                    failed.push(i);
                    cause.get_or_insert(error);
                }
                Err(_) => {
                    failed.push(i);
                    cause.get_or_insert(KafkaError::Canceled);
                }
            }
        }
        failed.sort_unstable();
        match cause {
            None => Ok(first),
            Some(source) => Err(ClientError::Refused {
                topic_partition: to.clone(),
                count,
                failed,
                retriable: retriable(&source),
                source,
            }),
        }
    }

    async fn ensure_topic(&self, topic: &str, partitions: i32) -> Result<i32, ClientError> {
        let known = self.partitions(topic).await?;
        if known > 0 {
            return Ok(known);
        }
        let admin: AdminClient<Quiet> = self.config.client()?.create_with_context(Quiet).map_err(ClientError::Setup)?;
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
        let answers = admin.create_topics([&new], &options).await.map_err(|source| self.unreachable(source))?;
        for answer in answers {
            match answer {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(ClientError::Topic { topic, reason: code.to_string() }),
            }
        }
        until_listed(topic, || self.partitions(topic)).await
    }
}

impl RdProducer {
    fn unreachable(&self, source: KafkaError) -> ClientError {
        ClientError::Unreachable { brokers: self.config.brokers.join(","), source }
    }

    /// Number of partitions, 0 if there is no such topic. Asks for all topics: asking for one would make it.
    async fn partitions(&self, topic: &str) -> Result<i32, ClientError> {
        let producer = self.producer.clone();
        let name = topic.to_owned();
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = producer.client().fetch_metadata(None, METADATA_TIMEOUT)?;
            let found = metadata.topics().iter().find(|t| t.name() == name && t.error().is_none());
            Ok(found.map_or(0, |t| i32::try_from(t.partitions().len()).unwrap_or(i32::MAX)))
        });
        match asked.await {
            Ok(answer) => answer.map_err(|source| self.unreachable(source)),
            Err(_) => Err(self.unreachable(KafkaError::Canceled)),
        }
    }
}

const METADATA_TIMEOUT: Duration = Duration::from_secs(10);

/// A record as it stands on the log.
#[derive(Debug, Clone)]
pub struct Consumed {
    /// Which partition.
    pub partition: TopicPartition,
    /// Its offset there.
    pub offset: i64,
    /// The record.
    pub record: Record,
}

/// Where to start reading a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// The oldest record there is.
    Earliest,
    /// What comes from now on.
    Latest,
    /// This offset; if it is gone, [`ClientError::OutOfRange`] comes from the next poll.
    Offset(i64),
}

/// Reads assigned partitions (no group membership). Its calls block: use it on a thread of its own.
pub struct RdConsumer {
    consumer: BaseConsumer<Quiet>,
    config: ConnectionConfig,
}

impl std::fmt::Debug for RdConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RdConsumer({})", self.config.brokers.join(","))
    }
}

impl RdConsumer {
    /// Makes the client; `group` is where [`RdConsumer::commit`] writes offsets.
    pub fn new(config: &ConnectionConfig, group: &str) -> Result<Self, ClientError> {
        let mut client = config.client()?;
        for (name, value) in [
            ("group.id", group),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "error"),
            ("fetch.wait.max.ms", "100"),
            ("queued.max.messages.kbytes", "65536"),
            ("queued.min.messages", "20000"),
            ("allow.auto.create.topics", "false"),
        ] {
            if !config.options.contains_key(name) {
                client.set(name, value);
            }
        }
        let consumer = client.create_with_context(Quiet).map_err(ClientError::Setup)?;
        Ok(Self { consumer, config: config.clone() })
    }

    fn unreachable(&self, source: KafkaError) -> ClientError {
        ClientError::Unreachable { brokers: self.config.brokers.join(","), source }
    }

    /// Partitions of a topic, empty if there is no such topic.
    pub fn partitions(&self, topic: &str) -> Result<Vec<i32>, ClientError> {
        let metadata =
            self.consumer.fetch_metadata(None, METADATA_TIMEOUT).map_err(|source| self.unreachable(source))?;
        let found = metadata.topics().iter().find(|t| t.name() == topic);
        Ok(found.map(|t| t.partitions().iter().map(|p| p.id()).collect()).unwrap_or_default())
    }

    /// Log start offset and high watermark of a partition.
    pub fn watermarks(&self, of: &TopicPartition) -> Result<(i64, i64), ClientError> {
        self.consumer
            .fetch_watermarks(&of.topic, of.partition, METADATA_TIMEOUT)
            .map_err(|source| self.unreachable(source))
    }

    /// Replaces what is read.
    pub fn assign(&self, partitions: &[(TopicPartition, StartAt)]) -> Result<(), ClientError> {
        let mut list = TopicPartitionList::new();
        for (tp, start) in partitions {
            let offset = match start {
                StartAt::Earliest => KafkaOffset::Beginning,
                StartAt::Latest => KafkaOffset::End,
                StartAt::Offset(offset) => KafkaOffset::Offset(*offset),
            };
            list.add_partition_offset(&tp.topic, tp.partition, offset).map_err(ClientError::Setup)?;
        }
        self.consumer.assign(&list).map_err(|source| self.unreachable(source))
    }

    /// Waits up to `timeout` for a first record, then takes what is there, `max` at most.
    /// Empty when nothing came. Passing faults of the network are not errors: the client goes on by itself.
    pub fn poll_batch(&self, max: usize, timeout: Duration) -> Result<Vec<Consumed>, ClientError> {
        let mut batch = Vec::new();
        let mut wait = timeout;
        while batch.len() < max {
            let Some(message) = self.consumer.poll(Timeout::After(wait)) else { break };
            wait = Duration::ZERO;
            match message {
                Ok(message) => batch.push(Consumed {
                    partition: TopicPartition::new(message.topic(), message.partition()),
                    offset: message.offset(),
                    record: to_record(&message),
                }),
                Err(error) => match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::AutoOffsetReset) if batch.is_empty() => {
                        return Err(self.first_out_of_range());
                    }
                    Some(RDKafkaErrorCode::AutoOffsetReset) => break,
                    _ => tracing::debug!(%error, "consumer"),
                },
            }
        }
        Ok(batch)
    }

    /// librdkafka does not say which partition lost its offset: asks for the ranges of all.
    fn first_out_of_range(&self) -> ClientError {
        let positions = self.consumer.position().map(|list| {
            list.elements()
                .iter()
                .map(|e| (TopicPartition::new(e.topic(), e.partition()), e.offset()))
                .collect::<Vec<_>>()
        });
        for (topic_partition, position) in positions.unwrap_or_default() {
            let offset = position.to_raw().unwrap_or(-1);
            if let Ok((low, high)) = self.watermarks(&topic_partition)
                && offset >= 0
                && !(low..=high).contains(&offset)
            {
                return ClientError::OutOfRange { topic_partition, offset };
            }
        }
        ClientError::OutOfRange { topic_partition: TopicPartition::new("", -1), offset: -1 }
    }

    /// Tells the broker how far the group is, for lag displays; the catalog is what counts.
    pub fn commit(&self, next: &[(TopicPartition, i64)]) -> Result<(), ClientError> {
        let mut list = TopicPartitionList::new();
        for (tp, offset) in next {
            list.add_partition_offset(&tp.topic, tp.partition, KafkaOffset::Offset(*offset))
                .map_err(ClientError::Setup)?;
        }
        self.consumer.commit(&list, rdkafka::consumer::CommitMode::Sync).map_err(|source| self.unreachable(source))
    }

    /// Offsets that the group committed; `None` where it never did.
    pub fn committed(&self, of: &[TopicPartition]) -> Result<Vec<Option<i64>>, ClientError> {
        let mut list = TopicPartitionList::new();
        for tp in of {
            list.add_partition(&tp.topic, tp.partition);
        }
        let answer =
            self.consumer.committed_offsets(list, METADATA_TIMEOUT).map_err(|source| self.unreachable(source))?;
        let offset_of = |tp: &TopicPartition| match answer.find_partition(&tp.topic, tp.partition)?.offset() {
            KafkaOffset::Offset(offset) => Some(offset),
            _ => None,
        };
        Ok(of.iter().map(offset_of).collect())
    }
}

/// Copies a message out of librdkafka's buffers.
fn to_record(message: &rdkafka::message::BorrowedMessage<'_>) -> Record {
    let headers = message.headers().map(|headers| {
        headers.iter().map(|h| (known_name(h.key), h.value.map(Bytes::copy_from_slice).unwrap_or_default())).collect()
    });
    Record {
        timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
        key: message.key().map(Bytes::copy_from_slice),
        value: message.payload().map(Bytes::copy_from_slice),
        headers: headers.unwrap_or_default(),
    }
}

/// Names of ours need no copy.
fn known_name(name: &str) -> HeaderName {
    use crate::record::{HEADER_DOC, HEADER_FIXED, HEADER_LABELS, HEADER_META, HEADER_TENANT};
    match [HEADER_LABELS, HEADER_FIXED, HEADER_META, HEADER_TENANT, HEADER_DOC].into_iter().find(|known| *known == name)
    {
        Some(known) => known.into(),
        None => name.to_owned().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_a_connection_name_the_key() {
        let of = ConnectionConfig::default;
        let (cert_file, key_file) = ("own.pem".to_owned(), "own.key".to_owned());
        for (config, want) in [
            (of(), &[][..]),
            (ConnectionConfig { brokers: vec!["kafka".to_owned()], ..of() }, &["brokers[0]"]),
            (ConnectionConfig { brokers: Vec::new(), ..of() }, &["brokers"]),
            (ConnectionConfig { sasl_mechanism: "SCRAM".to_owned(), ..of() }, &["sasl_mechanism"]),
            (ConnectionConfig { tls: true, cert_file: cert_file.clone(), ..of() }, &["key_file"]),
            (ConnectionConfig { tls: true, key_file: key_file.clone(), ..of() }, &["cert_file"]),
            (ConnectionConfig { cert_file: cert_file.clone(), key_file: key_file.clone(), ..of() }, &["cert_file"]),
            (ConnectionConfig { tls: true, cert_file, key_file, ..of() }, &[]),
        ] {
            let mut faults = Faults::default();
            config.check(&mut faults);
            let paths: Vec<String> = faults.into_vec().into_iter().map(|f| f.path).collect();
            assert_eq!(paths, want, "{config:?}");
        }
    }
}
