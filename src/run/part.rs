//! The parts of a process: their order, what each stands on, and what of the configuration makes each.
//!
//! In: settings. Out: whether a part is wanted, and the values by which a change of its configuration is seen. Touches
//! nothing.

use serde_json::Value as Json;

use crate::config::Settings;

/// A part of a process. Parts start in this order, but for the APIs, which begin last, and stop in reverse of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The partitioned log with its listeners.
    Broker,
    /// Audit events to the log.
    Audit,
    /// Copies of records from topic to topic.
    Routes,
    /// Log to index, pushes by HTTP, queries.
    Index,
    /// Alerts to people.
    Notifier,
    /// Rule files to alerts.
    Rules,
    /// HTTP listeners.
    Apis,
    /// Consumers that feed other systems.
    Exports,
    /// Files and other sources to topics.
    Agent,
}

/// What of the configuration a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every section that there is.
    Sections,
    /// The routes of the section `broker` alone, on the log that it describes.
    Routes,
}

impl Part {
    /// The parts that are started one by one; listeners are bound before them and served after them.
    pub const IN_ORDER: [Self; 8] =
        [Self::Broker, Self::Audit, Self::Routes, Self::Index, Self::Notifier, Self::Rules, Self::Exports, Self::Agent];

    /// As logs and metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Audit => "audit events",
            Self::Routes => "routes",
            Self::Index => "index",
            Self::Notifier => "notifier",
            Self::Rules => "rules",
            Self::Apis => "APIs",
            Self::Exports => "exports",
            Self::Agent => "agent",
        }
    }

    /// Parts that hold handles of this one, and start again with it.
    pub fn dependents(self) -> &'static [Self] {
        match self {
            Self::Index | Self::Notifier => &[Self::Rules],
            _ => &[],
        }
    }

    /// The values that make this part: while they stay equal it need not start again. `None` where the settings have no
    /// such part. Values of files that a part can take over while it runs are not among them: [`Self::files`].
    pub fn values(self, settings: &Settings, scope: Scope) -> Option<Json> {
        let config = &settings.config;
        let value = |path: &[&str]| settings.value(path).clone();
        let connection = || [value(&["aggregator", "kafka"]), value(&["agent", "kafka"])];
        if scope == Scope::Routes && self != Self::Routes {
            return None;
        }
        let own = match self {
            Self::Broker => {
                config.broker.as_ref()?;
                vec![without(value(&["broker"]), &["routes", "routing", "http", "http_tls"])]
            }
            Self::Routes => {
                config.broker.as_ref().filter(|broker| !broker.routes.is_empty())?;
                let own = [value(&["broker", "routes"]), value(&["broker", "routing"])];
                let listeners = ["listen", "advertised", "listeners"].map(|key| value(&["broker", key]));
                own.into_iter().chain(listeners).chain(connection()).collect()
            }
            Self::Audit => {
                let has_log = config.broker.is_some() || config.aggregator.is_some() || config.agent.is_some();
                let audit = &config.access.audit;
                (!audit.topic.is_empty() && (has_log || audit.kafka.is_some())).then_some(())?;
                let listeners = ["listen", "advertised", "listeners"].map(|key| value(&["broker", key]));
                [vec![value(&["access", "audit"])], listeners.to_vec(), connection().to_vec()].concat()
            }
            Self::Index => {
                config.aggregator.as_ref()?;
                // The listeners of both APIs are no part of it, what their handlers hold is.
                let listener = &["listen", "auth", "tls", "max_requests", "limits"];
                vec![
                    without(value(&["aggregator"]), &["http", "elasticsearch"]),
                    without(value(&["aggregator", "http"]), listener),
                    without(value(&["aggregator", "elasticsearch"]), listener),
                ]
            }
            Self::Notifier => {
                let by_rules = config.rules.is_some() && config.aggregator.is_some();
                (config.notify.is_some() || by_rules).then_some(())?;
                // With `tls`, which makes the scheme of its links.
                vec![value(&["notify"]), value(&["outgoing"])]
            }
            Self::Rules => {
                config.aggregator.as_ref()?;
                config.rules.as_ref()?;
                // Links lead to where the page is.
                let page = ["listen", "tls"].map(|key| value(&["aggregator", "http", key]));
                [vec![value(&["rules"]), value(&["aggregator", "index", "query"])], page.to_vec()].concat()
            }
            Self::Apis => return None,
            Self::Exports => {
                config.aggregator.as_ref().filter(|_| !config.exports.is_empty())?;
                vec![value(&["exports"]), value(&["outgoing"]), value(&["aggregator", "kafka"])]
            }
            Self::Agent => {
                config.agent.as_ref()?;
                vec![without(value(&["agent"]), &["http", "http_auth", "http_tls"])]
            }
        };
        Some(Json::from([vec![value(&["data_dir"])], own].concat()))
    }

    /// The files that this part reads again while it runs.
    pub fn files(self, settings: &Settings) -> &Json {
        match self {
            Self::Rules => settings.value(&["files of rules"]),
            Self::Notifier => settings.value(&["files of notify"]),
            _ => &Json::Null,
        }
    }
}

/// A value without some of its keys.
pub fn without(mut value: Json, keys: &[&str]) -> Json {
    if let Json::Object(map) = &mut value {
        map.retain(|key, _| !keys.contains(&key.as_str()));
    }
    value
}
