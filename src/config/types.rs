//! The whole configuration as types: one section for each role, and what holds between sections.
//!
//! In: values from the file. Out: [`Config`], the faults that types can't express. Touches nothing.

use std::path::PathBuf;

use millrace_agent::config::AgentConfig;
use millrace_aggregator::config::AggregatorConfig;
use millrace_doors::access::config::AccessConfig;
use millrace_exports::config::ExportConfig;
use millrace_log::client::ConnectionConfig;
use millrace_log::outgoing::OutgoingConfig;
use millrace_log::push::budget::DEFAULT_BYTES;
use millrace_log::value::{ByteSize, Faults};
use millrace_notify::NotifyConfig;
use millrace_rules::RulesConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::broker_section::BrokerSection;
use super::damage::Damage;

/// The whole configuration. Leaving a section out leaves that role out; `run` without a file has them all.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Folder for everything that is kept: `log/ index/ agent/ rules/ notify/`.
    pub data_dir: PathBuf,
    /// Who may use the HTTP endpoints.
    pub access: AccessConfig,
    /// Tails files into the log.
    pub agent: Option<AgentConfig>,
    /// The embedded log; left out when `brokers` name a real Kafka.
    pub broker: Option<BrokerSection>,
    /// Reads the log, indexes it, answers queries.
    pub aggregator: Option<AggregatorConfig>,
    /// Evaluates rule files.
    pub rules: Option<RulesConfig>,
    /// Notifies people: groups alerts and sends them to receivers.
    pub notify: Option<NotifyConfig>,
    /// Where receivers of alerts and exports may send requests.
    pub outgoing: OutgoingConfig,
    /// What all requests of the process may take together.
    pub limits: LimitsConfig,
    /// Consumers that feed other systems.
    pub exports: Vec<ExportConfig>,
    /// Stream jobs: none are built yet, so the list must be empty.
    pub streams: Vec<Json>,
}

/// Limits of the process, whatever the endpoint.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Memory for bodies of pushes while they are decoded: bodies that take more are refused (413), those for which there is
    /// no room now are to be sent again (429). It is reserved by the number of elements in a body, before they are made.
    pub decode_memory: ByteSize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { decode_memory: ByteSize(DEFAULT_BYTES) }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/millrace"),
            access: AccessConfig::default(),
            agent: None,
            broker: None,
            aggregator: None,
            rules: None,
            notify: None,
            outgoing: OutgoingConfig::default(),
            limits: LimitsConfig::default(),
            exports: Vec::new(),
            streams: Vec::new(),
        }
    }
}

impl Config {
    /// Every role with its defaults.
    pub fn embedded() -> Self {
        Self {
            agent: Some(AgentConfig::default()),
            broker: Some(BrokerSection::default()),
            aggregator: Some(AggregatorConfig::default()),
            rules: Some(RulesConfig::default()),
            notify: Some(NotifyConfig::default()),
            ..Self::default()
        }
    }

    /// How this configuration's own parts reach their log: with the broker in it, its address; logins and TLS as its
    /// consumers have them.
    pub fn log_connection(&self) -> ConnectionConfig {
        let known = [
            self.aggregator.as_ref().map(|aggregator| aggregator.kafka.connection()),
            self.agent.as_ref().map(|agent| {
                // What it tells its producer is of no use to others.
                ConnectionConfig { options: std::collections::BTreeMap::new(), ..agent.kafka.connection() }
            }),
        ];
        let mut known = known.into_iter().flatten();
        let Some(broker) = &self.broker else { return known.next().unwrap_or_default() };
        let doors = broker.server.all_listeners();
        let reaches = |c: &ConnectionConfig| c.brokers.iter().any(|b| doors.iter().any(|door| door.listen == *b));
        if let Some(found) = known.find(reaches) {
            return found;
        }
        // Without anybody to imitate: the first door that asks for nothing, else the first.
        let open = doors.iter().find(|door| door.tls.is_none() && door.sasl.is_none()).or(doors.first());
        let address = open.map(|door| door.advertised.clone().unwrap_or_else(|| reachable(&door.listen)));
        let tls = open.is_some_and(|door| door.tls.is_some());
        ConnectionConfig { brokers: address.into_iter().collect(), tls, ..ConnectionConfig::default() }
    }

    /// Whether no section starts anything.
    pub fn has_no_role(&self) -> bool {
        self.agent.is_none()
            && self.broker.is_none()
            && self.aggregator.is_none()
            && self.notify.is_none()
            && self.exports.is_empty()
    }

    /// Asks every room, and what lies between rooms.
    pub(super) fn check(&self, damage: &Damage, faults: &mut Faults) {
        if self.data_dir.as_os_str().is_empty() {
            faults.add("data_dir", "is empty: name a folder");
        }
        if self.limits.decode_memory < ByteSize::mib(1) {
            faults.add("limits.decode_memory", format!("is {}: must be at least 1MiB", self.limits.decode_memory));
        }
        faults.within("access", |f| check_access(&self.access, f));
        faults.within("outgoing", |f| self.outgoing.check(f));
        if let Some(agent) = &self.agent {
            faults.within("agent", |f| agent.check(f));
        }
        if let Some(broker) = &self.broker {
            faults.within("broker", |f| broker.check(f));
        }
        // Listeners that can't be read ask for other logins than they seem to.
        if let Some(broker) = self.broker.as_ref().filter(|_| !damage.is_in("broker")) {
            if let Some(agent) = &self.agent {
                faults.within("agent.kafka", |f| broker.server.check_client(&agent.kafka.connection(), f));
            }
            if let Some(aggregator) = &self.aggregator {
                faults.within("aggregator.kafka", |f| broker.server.check_client(&aggregator.kafka.connection(), f));
            }
            if let Some(kafka) = &self.access.audit.kafka {
                faults.within("access.audit.kafka", |f| broker.server.check_client(&kafka.connection(), f));
            }
            for (i, ExportConfig::Elasticsearch(export)) in self.exports.iter().enumerate() {
                faults.within(&format!("exports[{i}].kafka"), |f| {
                    broker.server.check_client(&export.kafka.connection(), f)
                });
            }
        }
        if let Some(aggregator) = &self.aggregator {
            faults.within("aggregator", |f| aggregator.check(f));
        }
        if let Some(rules) = &self.rules {
            faults.within("rules", |f| rules.check(f));
            if self.aggregator.is_none() {
                faults.add("rules", "rules are evaluated by queries and need the section `aggregator` beside them");
            }
        }
        if let Some(notify) = &self.notify {
            faults.within("notify", |f| notify.check(f));
        }
        faults.within("exports", |f| millrace_exports::config::check(&self.exports, f));
        if !self.streams.is_empty() {
            faults.add("streams", "stream jobs are not built yet: remove the entries, or run them in Flink or Kafka Streams on the topics");
        }
    }
}

/// What the section says, and selectors, whose language it does not know.
fn check_access(access: &AccessConfig, faults: &mut Faults) {
    access.check(faults);
    let tokens = access.tokens.iter().map(|token| ("tokens", &token.selector));
    let users = access.users.iter().map(|user| ("users", &user.selector));
    let certificates = access.certificates.iter().map(|certificate| ("certificates", &certificate.selector));
    let grants = access.oidc.iter().flat_map(|oidc| &oidc.grants).map(|grant| ("oidc.grants", &grant.selector));
    for list in [tokens.collect::<Vec<_>>(), users.collect(), certificates.collect(), grants.collect()] {
        for (i, (key, selector)) in list.into_iter().enumerate() {
            if !selector.is_empty()
                && let Err(error) = millrace_logql::selector_matchers(selector)
            {
                faults.add(&format!("{key}[{i}].selector"), format!("invalid stream selector: {error}"));
            }
        }
    }
}

/// An address to connect to: a listener on all addresses is reached by the loopback one.
pub fn reachable(listen: &str) -> String {
    match listen.rsplit_once(':') {
        Some(("0.0.0.0" | "*", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => listen.to_owned(),
    }
}
