//! The section `aggregator:` of the configuration.
//!
//! In: YAML as the binary read it. Out: typed values with defaults, and faults that types can't say. Touches nothing.

use std::net::SocketAddr;

use millrace_doors::config::{Login, TlsConfig};
use millrace_index::config::{IndexConfig, RetentionConfig};
use millrace_log::record::is_topic_name;
use millrace_log::value::{ByteSize, Faults, Span};
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
    /// Events that are pushed by HTTP.
    pub ingest: IngestConfig,
    /// Retention of the index. Without `age` and `size` nothing is deleted.
    pub retention: RetentionConfig,
    /// Storage of events, and limits of queries.
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

millrace_log::kafka_section! {
    /// Which log and which topics.
    pub struct KafkaConfig {
        /// Topics to index. A topic that does not exist yet is indexed once it is created.
        pub topics: Vec<String> = vec!["logs".to_owned()],
        /// Topic that HTTP pushes are written to.
        pub push_topic: String = "logs".to_owned(),
        /// Number of partitions if the push topic must be created.
        pub push_partitions: i32 = 4,
        /// Consumer group whose committed offsets show the progress of the index. Reading continues at the positions in the
        /// catalog, not at these offsets.
        pub group: String = "millrace".to_owned(),
        /// Topic for records that can't be read (dead letters).
        pub dead_letter_topic: String = "millrace.dlq".to_owned(),
        /// Interval between checks for new topics and partitions.
        pub discover_interval: Span = Span::secs(5),
        /// Maximum number of records in one batch from the client.
        pub batch_records: usize = 5000,
        /// Maximum number of batches waiting between consumer and index.
        pub queue_batches: usize = 4,
    }
}

impl KafkaConfig {
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
        faults.at_least("push_partitions", self.push_partitions, 1);
        faults.at_least("batch_records", self.batch_records, 1);
        faults.at_least("queue_batches", self.queue_batches, 1);
        faults.not_zero("discover_interval", self.discover_interval);
    }
}

/// Kafka's own rule for names of topics.
fn check_topic(key: &str, topic: &str, faults: &mut Faults) {
    if !is_topic_name(topic) {
        faults.add(
            key,
            format!("invalid topic name `{topic}`: 1 to 249 letters, digits or characters of `._-` expected"),
        );
    }
}

/// The Loki API and the page.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address and port. Beyond loopback, a login is required: see `access`.
    pub listen: String,
    /// A login that may do everything, besides those of `access`.
    pub auth: Login,
    /// TLS. Left out: plain text.
    pub tls: Option<TlsConfig>,
    /// Maximum size of a request body as sent.
    pub max_body: ByteSize,
    /// Maximum size of a decompressed request body.
    pub max_body_decompressed: ByteSize,
    /// Maximum number of concurrent requests; others wait.
    pub max_requests: usize,
    /// Maximum number of concurrent live tails.
    pub max_tails: usize,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:3100".to_owned(),
            auth: Login::default(),
            tls: None,
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
        if let Some(tls) = &self.tls {
            faults.within("tls", |f| tls.check(f));
        }
        faults.at_least("max_body", self.max_body.0, 1024);
        faults.at_least("max_body_decompressed", self.max_body_decompressed.0, 1024);
        faults.at_least("max_requests", self.max_requests, 1);
        faults.at_least("max_tails", self.max_tails, 1);
    }
}

/// The Elasticsearch API.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ElasticsearchConfig {
    /// Address and port. Beyond loopback, a login is required: see `access`.
    pub listen: String,
    /// A login that may do everything, besides those of `access`.
    pub auth: Login,
    /// TLS. Left out: plain text.
    pub tls: Option<TlsConfig>,
    /// Maximum size of a request body as sent.
    pub max_body: ByteSize,
    /// Maximum size of a decompressed request body.
    pub max_body_decompressed: ByteSize,
    /// Maximum number of concurrent requests; others wait.
    pub max_requests: usize,
}

impl Default for ElasticsearchConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9200".to_owned(),
            auth: Login::default(),
            tls: None,
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
        if let Some(tls) = &self.tls {
            faults.within("tls", |f| tls.check(f));
        }
        faults.at_least("max_body", self.max_body.0, 1024);
        faults.at_least("max_body_decompressed", self.max_body_decompressed.0, 1024);
        faults.at_least("max_requests", self.max_requests, 1);
    }
}

fn check_listen(key: &str, listen: &str, faults: &mut Faults) {
    let host_and_port = listen.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if listen.parse::<SocketAddr>().is_err() && host_and_port.is_none() {
        faults.add(key, format!("invalid address `{listen}`: expected host:port, as in 127.0.0.1:3100"));
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
