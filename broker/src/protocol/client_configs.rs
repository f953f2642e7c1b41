//! Client quotas (KIP-546) and client metrics subscriptions (KIP-714): checked as Kafka does, kept, described.
//!
//! In: changes by clients. Out: what is kept. Touches `client_configs.json` in the data folder: a change is durable before
//! it is answered. Neither is enforced: how much clients may ask is set by `limits` of a listener, and clients don't send
//! metrics here.
//!
//! Layout: one JSON object `{"version": 1, "quotas": [{"entity": {type: name or null}, "values": {key: number}}],
//! "subscriptions": {name: {key: value}}}`; a newer version is refused.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::protocol::error::{BrokerError, Code, Refusal};
use crate::protocol::state_file::{read, replace};
use millrace_log::fs::Filesystem;

const VERSION: u32 = 1;
/// Most entities with quotas: bounds memory and the time of a change.
const MAX_QUOTAS: usize = 10_000;
/// Most client metrics subscriptions.
const MAX_SUBSCRIPTIONS: usize = 1000;

/// Whom quotas are for: `user`, `client-id` or `ip`, each with a name, or `None` for the default.
pub(crate) type Entity = BTreeMap<String, Option<String>>;
/// Quotas by key.
pub(crate) type Quotas = BTreeMap<String, f64>;

/// Settings of a client metrics subscription: name, default, whether it is a number, what it does.
pub(crate) const SUBSCRIPTION_SETTINGS: [(&str, &str, bool, &str); 3] = [
    ("interval.ms", "300000", true, "accepted, without effect: clients are not asked for metrics"),
    ("match", "", false, "accepted, without effect: clients are not asked for metrics"),
    ("metrics", "", false, "accepted, without effect: clients are not asked for metrics"),
];

/// Properties of a client by which a subscription selects it.
const MATCHED: [&str; 6] = [
    "client_instance_id",
    "client_id",
    "client_software_name",
    "client_software_version",
    "client_source_address",
    "client_source_port",
];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptQuotas {
    entity: Entity,
    values: Quotas,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    quotas: Vec<KeptQuotas>,
    subscriptions: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct State {
    quotas: BTreeMap<Entity, Quotas>,
    subscriptions: BTreeMap<String, BTreeMap<String, String>>,
}

/// Which entities a client asks for.
#[derive(Debug, Clone)]
pub(crate) enum EntityMatch {
    /// The one of this name.
    Named(String),
    /// The default.
    Default,
    /// Any.
    Any,
}

/// Quotas and subscriptions in force.
pub(crate) struct ClientConfigs {
    fs: Arc<dyn Filesystem>,
    path: PathBuf,
    state: RwLock<Arc<State>>,
    /// Held while a change is written, so that changes follow each other.
    writing: tokio::sync::Mutex<()>,
}

impl ClientConfigs {
    /// Reads the file, if there is one. Blocks.
    pub fn open(fs: Arc<dyn Filesystem>, dir: &Path) -> Result<Self, BrokerError> {
        let path = dir.join("client_configs.json");
        let fault = |reason: String| BrokerError::State { path: path.clone(), what: "read", reason };
        let state = match read(&*fs, &path) {
            Ok(bytes) => {
                let file: File = serde_json::from_slice(&bytes)
                    .map_err(|e| fault(format!("{e}; restore it from a backup, or move it away")))?;
                if file.version != VERSION {
                    return Err(fault(format!("version {} is not supported (supported: {VERSION})", file.version)));
                }
                let quotas = file.quotas.into_iter().map(|kept| (kept.entity, kept.values)).collect();
                State { quotas, subscriptions: file.subscriptions }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => State::default(),
            Err(e) => return Err(fault(e.to_string())),
        };
        Ok(Self { fs, path, state: RwLock::new(Arc::new(state)), writing: tokio::sync::Mutex::new(()) })
    }

    async fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> Result<T, BrokerError> {
        let _writing = self.writing.lock().await;
        let before = Arc::clone(&self.state.read());
        let mut next = (*before).clone();
        let result = change(&mut next);
        if next == *before {
            return Ok(result);
        }
        let fault = |reason: String| BrokerError::State { path: self.path.clone(), what: "written", reason };
        let quotas = next.quotas.iter();
        let quotas = quotas.map(|(entity, values)| KeptQuotas { entity: entity.clone(), values: values.clone() });
        let file = File { version: VERSION, quotas: quotas.collect(), subscriptions: next.subscriptions.clone() };
        let bytes = serde_json::to_vec(&file).map_err(|e| fault(e.to_string()))?;
        let (fs, path) = (Arc::clone(&self.fs), self.path.clone());
        let written = tokio::task::spawn_blocking(move || replace(&*fs, &path, &bytes)).await;
        written.map_err(|panic| fault(panic.to_string()))?.map_err(|e| fault(e.to_string()))?;
        *self.state.write() = Arc::new(next);
        Ok(result)
    }

    /// Quotas of the entities that a filter selects; with `is_strict` only those without further parts.
    pub fn quotas(&self, filter: &BTreeMap<String, EntityMatch>, is_strict: bool) -> Vec<(Entity, Quotas)> {
        let is_wanted = |entity: &Entity| {
            (!is_strict || entity.len() == filter.len())
                && filter.iter().all(|(kind, wanted)| match (entity.get(kind), wanted) {
                    (Some(Some(name)), EntityMatch::Named(wanted)) => name == wanted,
                    (Some(None), EntityMatch::Default) | (Some(_), EntityMatch::Any) => true,
                    _ => false,
                })
        };
        let state = Arc::clone(&self.state.read());
        let found = state.quotas.iter().filter(|(entity, _)| is_wanted(entity));
        found.map(|(entity, values)| (entity.clone(), values.clone())).collect()
    }

    /// Sets quotas of an entity, and removes those with `None`; durable when it returns.
    pub async fn set_quotas(
        &self,
        entity: Entity,
        values: Vec<(String, Option<f64>)>,
    ) -> Result<Result<(), Refusal>, BrokerError> {
        self.change(|state| {
            if !state.quotas.contains_key(&entity) && state.quotas.len() >= MAX_QUOTAS {
                return Err((Code::InvalidRequest, format!("there are quotas for {MAX_QUOTAS} entities, the most")));
            }
            let quotas = state.quotas.entry(entity.clone()).or_default();
            for (key, value) in values {
                match value {
                    Some(value) => drop(quotas.insert(key, value)),
                    None => drop(quotas.remove(&key)),
                }
            }
            if quotas.is_empty() {
                state.quotas.remove(&entity);
            }
            Ok(())
        })
        .await
    }

    /// What is set for a client metrics subscription.
    pub fn subscription(&self, name: &str) -> BTreeMap<String, String> {
        self.state.read().subscriptions.get(name).cloned().unwrap_or_default()
    }

    /// Names of the client metrics subscriptions.
    pub fn subscriptions(&self) -> Vec<String> {
        self.state.read().subscriptions.keys().cloned().collect()
    }

    /// Replaces what is set for a client metrics subscription; durable when it returns.
    pub async fn set_subscription(
        &self,
        name: &str,
        settings: BTreeMap<String, String>,
    ) -> Result<Result<(), Refusal>, BrokerError> {
        self.change(|state| {
            if settings.is_empty() {
                state.subscriptions.remove(name);
                return Ok(());
            }
            if !state.subscriptions.contains_key(name) && state.subscriptions.len() >= MAX_SUBSCRIPTIONS {
                let text = format!("there are {MAX_SUBSCRIPTIONS} client metrics subscriptions, the most");
                return Err((Code::InvalidRequest, text));
            }
            state.subscriptions.insert(name.to_owned(), settings);
            Ok(())
        })
        .await
    }
}

/// Checks whom quotas are for.
pub(crate) fn check_entity(entity: &Entity) -> Result<(), Refusal> {
    let invalid = |text: String| Err((Code::InvalidRequest, text));
    if entity.is_empty() {
        return invalid("Invalid empty client quota entity".to_owned());
    }
    for (kind, name) in entity {
        if !matches!(kind.as_str(), "user" | "client-id" | "ip") {
            return invalid(format!("Unhandled client quota entity type: {kind}"));
        }
        if name.as_deref() == Some("") {
            return invalid(format!("Empty {kind} not supported"));
        }
    }
    if entity.contains_key("ip") && entity.len() > 1 {
        let text = "Invalid quota entity combination, IP entity shouldnot be combined with User or ClientId";
        return invalid(text.to_owned());
    }
    if let Some(Some(ip)) = entity.get("ip")
        && ip.parse::<IpAddr>().is_err()
    {
        return invalid(format!("{ip} is not a valid IP or resolvable host."));
    }
    Ok(())
}

/// Checks a quota of an entity; `None` removes it.
pub(crate) fn check_quota(entity: &Entity, key: &str, value: Option<f64>) -> Result<(), Refusal> {
    let invalid = |text: String| Err((Code::InvalidRequest, text));
    let most = match (entity.contains_key("ip"), key) {
        (true, "connection_creation_rate") => Some(f64::from(i32::MAX)),
        (false, "producer_byte_rate" | "consumer_byte_rate") => Some(i64::MAX as f64),
        (false, "request_percentage" | "controller_mutation_rate") => None,
        _ => return invalid(format!("Invalid configuration key {key}")),
    };
    let Some(value) = value else { return Ok(()) };
    if value.is_nan() || value <= 0.0 {
        return invalid(format!("Quota {key} must be greater than 0"));
    }
    match most {
        Some(most) if value > most => invalid(format!("Proposed value for {key} is too large.")),
        Some(_) if value.fract() != 0.0 => invalid(format!("{key} cannot be a fractional value.")),
        _ => Ok(()),
    }
}

/// Checks the settings of a client metrics subscription.
pub(crate) fn check_subscription(name: &str, settings: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if name.is_empty() {
        return Err((Code::InvalidRequest, "Subscription name can't be empty".to_owned()));
    }
    for (key, value) in settings {
        match key.as_str() {
            "interval.ms" => {
                let Ok(interval) = value.trim().parse::<i32>() else {
                    let text = format!("Invalid value {value} for configuration interval.ms: Not a number of type INT");
                    return Err((Code::InvalidConfig, text));
                };
                if !(100..=3_600_000).contains(&interval) {
                    let text = format!(
                        "Invalid value {interval} for interval.ms, interval must be between 100 and 3600000 (1 hour)"
                    );
                    return Err((Code::InvalidRequest, text));
                }
            }
            "match" => {
                for pattern in value.split(',').map(str::trim).filter(|pattern| !pattern.is_empty()) {
                    let is_valid = pattern.split_once('=').is_some_and(|(property, pattern)| {
                        MATCHED.contains(&property.trim()) && regex::Regex::new(pattern.trim()).is_ok()
                    });
                    if !is_valid {
                        return Err((Code::InvalidConfig, format!("Illegal client matching pattern: {pattern}")));
                    }
                }
            }
            "metrics" => {}
            unknown => {
                return Err((Code::InvalidRequest, format!("Unknown client metrics configuration: {unknown}")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_log::fs::RealFs;

    fn entity(parts: &[(&str, Option<&str>)]) -> Entity {
        parts.iter().map(|(kind, name)| ((*kind).to_owned(), name.map(str::to_owned))).collect()
    }

    #[tokio::test]
    async fn quotas_and_subscriptions_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let user = entity(&[("user", Some("u"))]);
        let client = entity(&[("client-id", None), ("user", Some("u"))]);
        {
            let configs = ClientConfigs::open(RealFs::shared(), dir.path()).unwrap();
            let rate = |value| vec![("producer_byte_rate".to_owned(), value)];
            configs.set_quotas(user.clone(), rate(Some(5.0))).await.unwrap().unwrap();
            configs.set_quotas(client.clone(), rate(Some(7.0))).await.unwrap().unwrap();
            configs.set_quotas(entity(&[("ip", None)]), rate(None)).await.unwrap().unwrap();
            let settings = BTreeMap::from([("interval.ms".to_owned(), "100".to_owned())]);
            configs.set_subscription("m", settings).await.unwrap().unwrap();
        }
        let configs = ClientConfigs::open(RealFs::shared(), dir.path()).unwrap();
        let named = BTreeMap::from([("user".to_owned(), EntityMatch::Named("u".to_owned()))]);
        let found = |is_strict| configs.quotas(&named, is_strict).into_iter().map(|(of, _)| of).collect::<Vec<_>>();
        assert_eq!((found(true), found(false)), (vec![user.clone()], vec![client, user]));
        assert_eq!(configs.subscription("m")["interval.ms"], "100");
        std::fs::write(dir.path().join("client_configs.json"), "{").unwrap();
        let error = ClientConfigs::open(RealFs::shared(), dir.path()).err().unwrap().to_string();
        assert!(error.contains("client_configs.json") && error.contains("backup"), "{error}");
    }

    #[test]
    fn quotas_are_refused_as_in_kafka() {
        let user = [("user", Some("u"))];
        for (of, key, value, want) in [
            (&user[..], "producer_byte_rate", 1.0, None),
            (&user, "request_percentage", 0.5, None),
            (&user, "producer_byte_rate", 0.0, Some("Quota producer_byte_rate must be greater than 0")),
            (&user, "producer_byte_rate", 1.5, Some("producer_byte_rate cannot be a fractional value.")),
            (&user, "connection_creation_rate", 1.0, Some("Invalid configuration key connection_creation_rate")),
            (&[("ip", Some("::1"))], "connection_creation_rate", 1.0, None),
            (&[("ip", Some("x"))], "connection_creation_rate", 1.0, Some("x is not a valid IP or resolvable host.")),
            (&[("user", Some(""))], "producer_byte_rate", 1.0, Some("Empty user not supported")),
            (&[("foo", None)], "producer_byte_rate", 1.0, Some("Unhandled client quota entity type: foo")),
            (&[], "producer_byte_rate", 1.0, Some("Invalid empty client quota entity")),
        ] {
            let of = entity(of);
            let checked = check_entity(&of).and_then(|()| check_quota(&of, key, Some(value)));
            assert_eq!(checked.err().map(|(_, text)| text).as_deref(), want, "{of:?} {key} {value}");
        }
    }
}
