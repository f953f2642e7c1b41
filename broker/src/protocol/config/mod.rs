//! Broker settings: addresses, limits, topics created on first use, groups, storage.
//!
//! In: the section `broker` of the configuration. Out: typed settings with their defaults. Touches nothing.

/// Listeners, SASL, limits, users.
pub(crate) mod listener;
/// Whether roles of the same process can connect to their own broker.
mod clients;
/// Topics that the configuration declares.
pub(crate) mod topics;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{RetentionConfig, StorageConfig};
use crate::group::GroupConfig;
use crate::transaction::TransactionConfig;
use clients::check_client;
use listener::{AuthorizationConfig, LimitsConfig, ListenerConfig, UserConfig, check_addresses, check_users};
use millrace_doors::config::TlsConfig;
use millrace_log::client::ConnectionConfig;
use millrace_log::value::{ByteSize, Faults, Span};
use topics::{ConfiguredSettings, TopicConfig};

const DEFAULT_LISTEN: &str = "127.0.0.1:9092";

/// The embedded broker.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BrokerConfig {
    /// Address to listen on, `host:port`; port 0 takes a free one.
    pub listen: String,
    /// Address that clients are given, `host:port`. Absent: the one they connected to.
    pub advertised: Option<String>,
    /// Several listeners, each with its own address, TLS, SASL and limits; `listen`, `advertised` and `limits` are then
    /// not used.
    pub listeners: Vec<ListenerConfig>,
    /// Limits of the listener at `listen`.
    pub limits: LimitsConfig,
    /// Users for SASL with their passwords; others are created by clients (`kafka-configs.sh`, SCRAM).
    pub users: Vec<UserConfig>,
    /// Access rules.
    pub authorization: AuthorizationConfig,
    /// Partitions of topics that are created without a number.
    pub default_partitions: i32,
    /// Whether a topic is created when a client first asks for it by name.
    pub auto_create_topics: bool,
    /// Largest request that is accepted.
    pub max_frame_size: ByteSize,
    /// Memory for all requests above 1 MiB together; further ones wait.
    pub request_memory: ByteSize,
    /// Largest fetch response, whatever the client asks for.
    pub max_fetch_size: ByteSize,
    /// Produce requests of one connection that may wait for the disk; further ones are not read yet.
    pub max_in_flight: usize,
    /// Most connections at the same time; further ones are closed at once.
    pub max_connections: usize,
    /// Fetch sessions kept; a new one replaces the least recently used.
    pub max_fetch_sessions: usize,
    /// Time without a request after which a connection is closed.
    pub idle_timeout: Span,
    /// Time without progress after which a connection with a partly sent request or a partly read response is closed.
    pub stall_timeout: Span,
    /// Consumer groups.
    pub group: GroupConfig,
    /// Transactions.
    pub transaction: TransactionConfig,
    /// How long records are kept, unless a topic says otherwise.
    pub retention: RetentionConfig,
    /// Segments, flushing, retention.
    pub storage: StorageConfig,
    /// Defaults of topic settings, by Kafka's names; they take precedence over `retention` and `storage`.
    pub default_topic_config: ConfiguredSettings,
    /// Topics by name, created at the start if they are missing; partitions are added and settings changed as given here,
    /// never removed. E.g. `logs: {partitions: 8, config: {retention.ms: 86400000}}`.
    pub topics: BTreeMap<String, TopicConfig>,
    /// Address for `/metrics`, `/ready` and the ledger, `host:port`, where the role `aggregator` with its own is not in
    /// the process. Absent: none.
    pub http: Option<String>,
    /// TLS of this address. Left out: plain text.
    pub http_tls: Option<TlsConfig>,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            listen: DEFAULT_LISTEN.to_owned(),
            advertised: None,
            listeners: Vec::new(),
            limits: LimitsConfig::default(),
            users: Vec::new(),
            authorization: AuthorizationConfig::default(),
            default_partitions: 4,
            auto_create_topics: true,
            max_frame_size: ByteSize::mib(100),
            request_memory: ByteSize::mib(512),
            max_fetch_size: ByteSize::mib(55),
            max_in_flight: 64,
            max_connections: 2000,
            max_fetch_sessions: 1000,
            idle_timeout: Span::secs(600),
            stall_timeout: Span::secs(60),
            group: GroupConfig::default(),
            transaction: TransactionConfig::default(),
            retention: RetentionConfig::default(),
            storage: StorageConfig::default(),
            default_topic_config: ConfiguredSettings::default(),
            topics: BTreeMap::new(),
            http: None,
            http_tls: None,
        }
    }
}

impl BrokerConfig {
    /// All listeners; the short form is one without name, TLS and SASL.
    pub fn all_listeners(&self) -> Vec<ListenerConfig> {
        if !self.listeners.is_empty() {
            return self.listeners.clone();
        }
        vec![ListenerConfig {
            name: "default".to_owned(),
            listen: self.listen.clone(),
            advertised: self.advertised.clone(),
            tls: None,
            sasl: None,
            limits: self.limits.clone(),
        }]
    }

    /// Reports what keeps a role of the same process out of this broker; keys are those of its `kafka:` section.
    pub fn check_client(&self, client: &ConnectionConfig, faults: &mut Faults) {
        check_client(&self.all_listeners(), &self.users, client, faults);
    }

    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        if self.listeners.is_empty() {
            check_addresses(&self.listen, self.advertised.as_deref(), faults);
        } else if self.advertised.is_some() || self.listen != DEFAULT_LISTEN {
            let key = if self.advertised.is_some() { "advertised" } else { "listen" };
            faults.add(key, "has no effect with `listeners`: add it to them");
        }
        for (i, listener) in self.listeners.iter().enumerate() {
            faults.within(&format!("listeners[{i}]"), |faults| {
                listener.check(faults);
                if self.listeners.iter().take(i).any(|other| other.name == listener.name) {
                    faults.add("name", format!("duplicate listener `{}`", listener.name));
                }
            });
        }
        faults.within("limits", |faults| self.limits.check(faults));
        faults.within("users", |faults| check_users(&self.users, faults));
        faults.within("authorization", |faults| self.authorization.check(faults));
        if self.retention.age.0.is_zero() {
            faults.add("retention.age", "must not be zero: no record would be kept");
        }
        if !(1..=10_000).contains(&self.default_partitions) {
            faults.add("default_partitions", "must lie between 1 and 10000");
        }
        if self.max_frame_size < self.storage.max_message_size {
            let message = format!(
                "is {}: must not be below storage.max_message_size ({}), or such messages can't be sent",
                self.max_frame_size, self.storage.max_message_size
            );
            faults.add("max_frame_size", message);
        }
        if self.max_frame_size.0 > 1 << 30 {
            faults.add("max_frame_size", "must be at most 1GiB");
        }
        if self.request_memory < self.max_frame_size {
            let message = format!("is {}: must hold one request (max_frame_size)", self.request_memory);
            faults.add("request_memory", message);
        }
        if !(1 << 20..=1 << 30).contains(&self.max_fetch_size.0) {
            faults.add("max_fetch_size", "must lie between 1MiB and 1GiB");
        }
        for (key, count) in [
            ("max_in_flight", self.max_in_flight),
            ("max_connections", self.max_connections),
            ("max_fetch_sessions", self.max_fetch_sessions),
        ] {
            if count == 0 {
                faults.add(key, "must be at least 1");
            }
        }
        for (key, span) in [("idle_timeout", self.idle_timeout), ("stall_timeout", self.stall_timeout)] {
            if span.0.is_zero() {
                faults.add(key, "must be longer than zero, e.g. `60s`");
            }
        }
        faults.within("group", |faults| self.group.check(faults));
        faults.within("transaction", |faults| self.transaction.check(faults));
        faults.within("storage", |faults| self.storage.check(faults));
        faults.within("default_topic_config", |faults| self.default_topic_config.check(faults));
        faults.within("topics", |faults| topics::check(&self.topics, faults));
        if let Some(tls) = &self.http_tls {
            faults.within("http_tls", |f| tls.check(f));
        }
        if let Some(http) = &self.http
            && listener::host_and_port(http).is_none()
        {
            faults.add("http", format!("invalid address `{http}`: expected host:port"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use listener::host_and_port;

    #[test]
    fn defaults_are_sound_and_faults_name_their_key() {
        let mut faults = Faults::default();
        BrokerConfig::default().check(&mut faults);
        assert!(faults.is_empty(), "{faults:?}");
        let config = BrokerConfig {
            listen: "9092".to_owned(),
            advertised: Some("host:0".to_owned()),
            default_partitions: 0,
            max_in_flight: 0,
            ..BrokerConfig::default()
        };
        config.check(&mut faults);
        let paths: Vec<String> = faults.into_vec().into_iter().map(|f| f.path).collect();
        assert_eq!(paths, ["listen", "advertised", "default_partitions", "max_in_flight"]);
    }

    #[test]
    fn addresses() {
        for (address, want) in [
            ("a:1", Some(("a", 1))),
            ("[::1]:9092", Some(("::1", 9092))),
            (":1", None),
            ("a", None),
            ("a:b", None),
            ("a:70000", None),
        ] {
            assert_eq!(host_and_port(address), want, "{address}");
        }
    }
}
