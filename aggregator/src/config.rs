//! The section `aggregator:` of the configuration.
//!
//! In: YAML as the binary read it. Out: typed values with defaults, and faults that types can't say. Touches nothing.

use std::net::SocketAddr;

use millrace_log::client::ConnectionConfig;
use millrace_log::record::is_topic_name;
use millrace_log::value::{ByteSize, Faults, Secret, Span};
use millrace_logql::storage::QueryLimits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ingest::IngestConfig;

/// Topics to index, and the APIs over it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AggregatorConfig {
    /// The log to read.
    pub kafka: KafkaConfig,
    /// Loki API, page, `/metrics` and `/ready`.
    pub http: HttpConfig,
    /// Elasticsearch API.
    pub elasticsearch: ElasticsearchConfig,
    /// How events that arrive by HTTP are taken.
    pub ingest: IngestConfig,
    /// When the index deletes; never, unless told.
    pub retention: RetentionConfig,
    /// How events are kept and what queries may cost.
    pub index: IndexConfig,
}

impl AggregatorConfig {
    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        faults.within("kafka", |f| self.kafka.check(f));
        faults.within("http", |f| self.http.check(f));
        faults.within("elasticsearch", |f| self.elasticsearch.check(f));
        faults.within("ingest", |f| self.ingest.check(f));
        faults.within("retention", |f| self.retention.check(f));
        faults.within("index", |f| self.index.check(f));
    }
}

/// Which log and which topics.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaConfig {
    /// Addresses `host:port` to start from.
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
    /// Further settings of librdkafka by their own names.
    pub options: std::collections::BTreeMap<String, String>,
    /// Topics to index. One that does not exist yet is waited for.
    pub topics: Vec<String>,
    /// Topic that HTTP pushes are written to.
    pub push_topic: String,
    /// Partitions of the push topic if it has to be made.
    pub push_partitions: i32,
    /// Group whose offsets show how far the index is. The catalog, not the group, says where to read on.
    pub group: String,
    /// Topic for records that can't be read.
    pub dead_letter_topic: String,
    /// How often new partitions and topics are looked for.
    pub discover_interval: Span,
    /// Records taken from the client at once.
    pub batch_records: usize,
    /// Batches that may wait between consumer and index.
    pub queue_batches: usize,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        let of = ConnectionConfig::default();
        Self {
            brokers: of.brokers,
            tls: of.tls,
            ca_file: of.ca_file,
            cert_file: of.cert_file,
            key_file: of.key_file,
            sasl_mechanism: of.sasl_mechanism,
            sasl_username: of.sasl_username,
            sasl_password: of.sasl_password,
            options: of.options,
            topics: vec!["logs".to_owned()],
            push_topic: "logs".to_owned(),
            push_partitions: 4,
            group: "millrace".to_owned(),
            dead_letter_topic: "millrace.dlq".to_owned(),
            discover_interval: Span::secs(5),
            batch_records: 5000,
            queue_batches: 4,
        }
    }
}

impl KafkaConfig {
    /// The part that says how to reach the log.
    pub fn connection(&self) -> ConnectionConfig {
        ConnectionConfig {
            brokers: self.brokers.clone(),
            tls: self.tls,
            ca_file: self.ca_file.clone(),
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            sasl_mechanism: self.sasl_mechanism.clone(),
            sasl_username: self.sasl_username.clone(),
            sasl_password: self.sasl_password.clone(),
            options: self.options.clone(),
        }
    }

    fn check(&self, faults: &mut Faults) {
        self.connection().check(faults);
        if self.topics.is_empty() {
            faults.add("topics", "is empty: name at least one topic to index");
        }
        for (i, topic) in self.topics.iter().enumerate() {
            if self.topics.iter().take(i).any(|other| other == topic) {
                faults.add(&format!("topics[{i}]"), format!("`{topic}` is named twice"));
            }
            if *topic == self.dead_letter_topic {
                faults.add(&format!("topics[{i}]"), "is the dead-letter topic, which can't be indexed");
            }
            check_topic(&format!("topics[{i}]"), topic, faults);
        }
        check_topic("push_topic", &self.push_topic, faults);
        check_topic("dead_letter_topic", &self.dead_letter_topic, faults);
        if self.group.is_empty() {
            faults.add("group", "is empty: name the consumer group whose offsets show the lag");
        }
        at_least("push_partitions", i64::from(self.push_partitions), 1, faults);
        at_least("batch_records", as_i64(self.batch_records), 1, faults);
        at_least("queue_batches", as_i64(self.queue_batches), 1, faults);
        not_zero("discover_interval", self.discover_interval, faults);
    }
}

/// Kafka's own rule for names of topics.
fn check_topic(key: &str, topic: &str, faults: &mut Faults) {
    if !is_topic_name(topic) {
        faults.add(key, format!("`{topic}` is no topic: 1 to 249 letters, digits or characters of `._-` expected"));
    }
}

/// The Loki API and the page.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address and port. Beyond loopback, set `auth`.
    pub listen: String,
    /// Who may ask; nobody is refused while it is empty.
    pub auth: AuthConfig,
    /// Bytes of one request's body at most, as sent.
    pub max_body: ByteSize,
    /// Bytes of one request's body at most, decompressed.
    pub max_body_decompressed: ByteSize,
    /// Requests answered at once; others wait.
    pub max_requests: usize,
    /// Live tails at once.
    pub max_tails: usize,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:3100".to_owned(),
            auth: AuthConfig::default(),
            max_body: ByteSize::mib(16),
            max_body_decompressed: ByteSize::mib(128),
            max_requests: 256,
            max_tails: 64,
        }
    }
}

impl HttpConfig {
    fn check(&self, faults: &mut Faults) {
        check_listen("listen", &self.listen, faults);
        faults.within("auth", |f| self.auth.check(f));
        at_least("max_body", as_i64(self.max_body.0), 1024, faults);
        at_least("max_body_decompressed", as_i64(self.max_body_decompressed.0), 1024, faults);
        at_least("max_requests", as_i64(self.max_requests), 1, faults);
        at_least("max_tails", as_i64(self.max_tails), 1, faults);
    }
}

/// Who may ask an API.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// User of basic authentication; empty: none.
    pub username: String,
    /// Password of basic authentication.
    pub password: Secret,
    /// Bearer token or API key; empty: none.
    pub token: Secret,
}

impl AuthConfig {
    /// Whether nothing is asked for.
    pub fn is_open(&self) -> bool {
        self.username.is_empty() && self.token == Secret::default()
    }

    fn check(&self, faults: &mut Faults) {
        if !self.username.is_empty() && self.password == Secret::default() {
            faults.add("password", "is empty: a user needs a password");
        }
    }
}

/// The Elasticsearch API.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ElasticsearchConfig {
    /// Address and port. Beyond loopback, set `auth`.
    pub listen: String,
    /// Who may ask; nobody is refused while it is empty.
    pub auth: AuthConfig,
    /// Bytes of one request's body at most, as sent.
    pub max_body: ByteSize,
    /// Bytes of one request's body at most, decompressed.
    pub max_body_decompressed: ByteSize,
    /// Requests answered at once; others wait.
    pub max_requests: usize,
}

impl Default for ElasticsearchConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9200".to_owned(),
            auth: AuthConfig::default(),
            max_body: ByteSize::mib(100),
            max_body_decompressed: ByteSize::mib(256),
            max_requests: 256,
        }
    }
}

impl ElasticsearchConfig {
    fn check(&self, faults: &mut Faults) {
        check_listen("listen", &self.listen, faults);
        faults.within("auth", |f| self.auth.check(f));
        at_least("max_body", as_i64(self.max_body.0), 1024, faults);
        at_least("max_body_decompressed", as_i64(self.max_body_decompressed.0), 1024, faults);
        at_least("max_requests", as_i64(self.max_requests), 1, faults);
    }
}

/// When the index deletes.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Whole splits go when their newest event is older. Left out: nothing goes by age.
    pub age: Option<Span>,
    /// The oldest splits go when all together take more on disk. Left out: nothing goes by size.
    pub size: Option<ByteSize>,
}

impl RetentionConfig {
    fn check(&self, faults: &mut Faults) {
        if self.age.is_some_and(|age| age < Span::secs(60)) {
            faults.add("age", "is below a minute: events would go before anyone can ask for them");
        }
        if self.size.is_some_and(|size| size < ByteSize::mib(1)) {
            faults.add("size", "is below 1MiB: events would go before anyone can ask for them");
        }
    }
}

/// How events are kept.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IndexConfig {
    /// Bytes of lines after which a split is cut.
    pub split_bytes: ByteSize,
    /// Age of its first event after which a split is cut.
    pub split_age: Span,
    /// Bytes of memory for events that are not yet in a split. When full, reading waits (and so, in the end, the files).
    pub head_bytes: ByteSize,
    /// Splits of one tenant and level that are merged into one.
    pub merge_splits: usize,
    /// Bytes of lines of a merged split at most.
    pub merge_bytes: ByteSize,
    /// Time that a merged split may cover, so that retention can still drop it.
    pub merge_span: Span,
    /// How often merging and retention look around.
    pub upkeep_interval: Span,
    /// A source without events for this long is forgotten. Take the topic's retention and a week: a source that comes
    /// back after that is taken as new.
    pub source_idle: Span,
    /// Splits that queries keep open.
    pub open_splits: usize,
    /// Threads that read splits for queries. 0: one per CPU.
    pub query_threads: usize,
    /// Batches that a live tail may lag behind before it loses the oldest.
    pub tail_batches: usize,
    /// What one query may cost.
    pub query: QueryConfig,
}

impl Default for IndexConfig {
    fn default() -> Self {
        Self {
            split_bytes: ByteSize::mib(64),
            split_age: Span::secs(30),
            head_bytes: ByteSize::mib(256),
            merge_splits: 8,
            merge_bytes: ByteSize::mib(1024),
            merge_span: Span::secs(24 * 3600),
            upkeep_interval: Span::secs(5),
            source_idle: Span::secs(14 * 24 * 3600),
            open_splits: 256,
            query_threads: 0,
            tail_batches: 256,
            query: QueryConfig::default(),
        }
    }
}

impl IndexConfig {
    /// Threads that read splits.
    pub fn threads(&self) -> usize {
        match self.query_threads {
            0 => std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            n => n,
        }
    }

    fn check(&self, faults: &mut Faults) {
        at_least("split_bytes", as_i64(self.split_bytes.0), 1024, faults);
        not_zero("split_age", self.split_age, faults);
        if self.head_bytes.0 < self.split_bytes.0.saturating_mul(2) {
            faults.add("head_bytes", "must be at least twice `split_bytes`: one part is written while the next fills");
        }
        at_least("merge_splits", as_i64(self.merge_splits), 2, faults);
        not_zero("merge_span", self.merge_span, faults);
        not_zero("upkeep_interval", self.upkeep_interval, faults);
        not_zero("source_idle", self.source_idle, faults);
        at_least("open_splits", as_i64(self.open_splits), 1, faults);
        at_least("tail_batches", as_i64(self.tail_batches), 1, faults);
        faults.within("query", |f| self.query.check(f));
    }
}

/// What one query may cost. A query that would exceed it gets an error that names the limit.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueryConfig {
    /// Wall time.
    pub timeout: Span,
    /// Bytes of lines read.
    pub max_bytes_read: ByteSize,
    /// Series that a metric query may make.
    pub max_series: usize,
    /// Entries that a log query may ask for.
    pub max_entries: usize,
    /// Bytes held in memory.
    pub max_memory: ByteSize,
    /// Queries answered at once; others wait.
    pub max_concurrent: usize,
}

impl Default for QueryConfig {
    fn default() -> Self {
        let limits = QueryLimits::default();
        Self {
            timeout: Span(limits.timeout),
            max_bytes_read: ByteSize(limits.max_bytes_read),
            max_series: limits.max_series,
            max_entries: limits.max_entries,
            max_memory: ByteSize(limits.max_memory_bytes),
            max_concurrent: 16,
        }
    }
}

impl QueryConfig {
    /// The same as queries carry it.
    pub fn limits(&self) -> QueryLimits {
        QueryLimits {
            timeout: self.timeout.0,
            max_bytes_read: self.max_bytes_read.0,
            max_series: self.max_series,
            max_entries: self.max_entries,
            max_memory_bytes: self.max_memory.0,
        }
    }

    fn check(&self, faults: &mut Faults) {
        not_zero("timeout", self.timeout, faults);
        at_least("max_bytes_read", as_i64(self.max_bytes_read.0), 1, faults);
        at_least("max_series", as_i64(self.max_series), 1, faults);
        at_least("max_entries", as_i64(self.max_entries), 1, faults);
        at_least("max_memory", as_i64(self.max_memory.0), 1 << 20, faults);
        at_least("max_concurrent", as_i64(self.max_concurrent), 1, faults);
    }
}

fn as_i64(n: impl TryInto<i64>) -> i64 {
    n.try_into().unwrap_or(i64::MAX)
}

fn at_least(key: &str, found: i64, least: i64, faults: &mut Faults) {
    if found < least {
        faults.add(key, format!("is {found}, at least {least} is needed"));
    }
}

fn not_zero(key: &str, span: Span, faults: &mut Faults) {
    if span.0.is_zero() {
        faults.add(key, "must not be zero");
    }
}

fn check_listen(key: &str, listen: &str, faults: &mut Faults) {
    let host_and_port = listen.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if listen.parse::<SocketAddr>().is_err() && host_and_port.is_none() {
        faults.add(key, format!("`{listen}` is no address: expected host:port, as in 127.0.0.1:3100"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(config: &AggregatorConfig) -> Vec<String> {
        let mut faults = Faults::default();
        config.check(&mut faults);
        faults.into_vec().into_iter().map(|f| f.path).collect()
    }

    #[test]
    fn the_sample_of_the_design_reads() {
        let config: AggregatorConfig = serde_json::from_value(serde_json::json!({
            "kafka": {"brokers": ["127.0.0.1:9092"], "topics": ["logs"], "group": "millrace"},
            "http": {"listen": "127.0.0.1:3100"},
            "elasticsearch": {"listen": "127.0.0.1:9200"},
            "retention": {"age": "30d", "size": "50GiB"},
        }))
        .unwrap();
        assert_eq!(faults_of(&config), Vec::<String>::new());
        assert_eq!(config.retention.age, Some(Span::secs(30 * 24 * 3600)));
        assert!(serde_json::from_str::<AggregatorConfig>(r#"{"retentoin": {}}"#).is_err());
    }

    #[test]
    fn defaults_are_sound_and_delete_nothing() {
        let config = AggregatorConfig::default();
        assert_eq!(faults_of(&config), Vec::<String>::new());
        assert!(config.retention.age.is_none() && config.retention.size.is_none());
    }

    #[test]
    fn every_fault_names_its_key() {
        let mut config = AggregatorConfig::default();
        config.kafka.topics = vec!["logs".into(), "logs".into(), "a b".into(), "millrace.dlq".into()];
        config.kafka.group = String::new();
        config.http.listen = "3100".into();
        config.http.auth.username = "grafana".into();
        config.retention.age = Some(Span::secs(1));
        config.index.head_bytes = ByteSize::mib(1);
        config.index.query.timeout = Span::default();
        assert_eq!(
            faults_of(&config),
            [
                "kafka.topics[1]",
                "kafka.topics[2]",
                "kafka.topics[3]",
                "kafka.group",
                "http.listen",
                "http.auth.password",
                "retention.age",
                "index.head_bytes",
                "index.query.timeout",
            ]
        );
    }
}
