//! Section `agent.kafka`: which log and topic to write to, and by which client.
//!
//! In: YAML as the binary read it. Out: typed values with defaults, and the client. Touches nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_log::client::{BatchProducer, ClientError, ConnectionConfig, RdProducer};
use millrace_log::native::WireProducer;
use millrace_log::record::is_topic_name;
use millrace_log::value::{Faults, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checks::TOPIC_RULE;

/// Who speaks Kafka's protocol for the agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Client {
    /// Millrace's own producer.
    #[default]
    Native,
    /// librdkafka.
    Librdkafka,
}

/// Which log and which topic.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaConfig {
    /// Bootstrap addresses of the brokers, `host:port`.
    pub brokers: Vec<String>,
    /// TLS to the brokers.
    pub tls: bool,
    /// File with the certificates of the authorities to trust, PEM. Empty: those of the system.
    pub ca_file: String,
    /// File with this client's own certificate and those between it and its authority, PEM, for listeners that require
    /// one.
    pub cert_file: String,
    /// File with the private key of `cert_file`, PEM, not encrypted.
    pub key_file: String,
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`. Empty: no authentication.
    pub sasl_mechanism: String,
    /// User for SASL.
    pub sasl_username: String,
    /// Password for SASL.
    pub sasl_password: Secret,
    /// Which client writes to the log: `native` is Millrace's own and takes a fraction of the CPU and memory,
    /// `librdkafka` supports more settings.
    pub client: Client,
    /// Further settings of librdkafka by their own names; they need `client: librdkafka`.
    pub options: BTreeMap<String, String>,
    /// Topic that lines are sent to; created if it does not exist.
    pub topic: String,
    /// Number of partitions if the topic must be created.
    pub partitions: i32,
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
            client: Client::Native,
            options: of.options,
            topic: "logs".to_owned(),
            partitions: 4,
        }
    }
}

impl KafkaConfig {
    /// The client that writes to the log. Both repeat for ever, unless `options` say otherwise: giving a record up while
    /// later ones go through would break the order of positions.
    pub fn producer(&self) -> Result<Arc<dyn BatchProducer>, ClientError> {
        let connection = self.connection();
        Ok(match self.client {
            Client::Native => Arc::new(WireProducer::new(&connection, None)?),
            Client::Librdkafka => Arc::new(RdProducer::new(&connection)?),
        })
    }

    /// The part that says how to reach the log.
    pub fn connection(&self) -> ConnectionConfig {
        let mut options = self.options.clone();
        if self.client == Client::Librdkafka {
            options.entry("message.timeout.ms".to_owned()).or_insert_with(|| "0".to_owned());
        }
        ConnectionConfig {
            brokers: self.brokers.clone(),
            tls: self.tls,
            ca_file: self.ca_file.clone(),
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            sasl_mechanism: self.sasl_mechanism.clone(),
            sasl_username: self.sasl_username.clone(),
            sasl_password: self.sasl_password.clone(),
            options,
        }
    }

    pub(super) fn check(&self, faults: &mut Faults) {
        self.connection().check(faults);
        if self.client == Client::Native && !self.options.is_empty() {
            faults.add("options", "require `client: librdkafka`: add it, or remove them");
        }
        if !is_topic_name(&self.topic) {
            faults.add("topic", TOPIC_RULE);
        }
        if !(1..=10_000).contains(&self.partitions) {
            faults.add("partitions", format!("is {}: expected 1 to 10000", self.partitions));
        }
    }
}
