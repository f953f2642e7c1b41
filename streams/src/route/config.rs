//! Routes: which records are copied from topic to topic. The settings.
//!
//! In: `broker.routes` and `broker.routing` of the configuration. Out: typed settings with their defaults. Touches
//! nothing. Leaves the meaning of `match` to the router, who knows LogQL.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use millrace_log::client::ConnectionConfig;
use millrace_log::record::is_topic_name;
use millrace_log::value::{ByteSize, Faults, Span};

/// One route: records of a topic whose labels agree are copied to another topic.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteConfig {
    /// Name in metrics, log lines and dead letters. Empty: `FROM-to-TO`.
    pub name: String,
    /// Topic to read.
    pub from: String,
    /// Topic to write; made with as many partitions as `from` has if it is missing.
    pub to: String,
    /// Which records, by their labels, as LogQL selects streams: `{service="checkout", level=~"error|warn"}`.
    /// Empty: all.
    #[serde(rename = "match")]
    pub selector: String,
    /// Labels that the copies don't have.
    pub drop_labels: Vec<String>,
    /// Another Kafka to route on. Absent: this broker.
    pub kafka: Option<ConnectionConfig>,
}

impl RouteConfig {
    /// What it is called.
    pub fn label(&self) -> String {
        if self.name.is_empty() { format!("{}-to-{}", self.from, self.to) } else { self.name.clone() }
    }
}

/// How routes run. Those with the same `from` on the same Kafka share one pass over it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RoutingConfig {
    /// Begin of the names of consumer groups: `GROUP-FROM`. Their offsets say where to read on.
    pub group: String,
    /// Name of this router among others with the same routes, which share the work. A router takes over from an
    /// earlier one of the same name at once: two at the same time must have two names.
    pub instance: String,
    /// Records of one transaction at most.
    pub max_records: usize,
    /// Bytes of one transaction at most.
    pub max_bytes: ByteSize,
    /// How long a transaction is filled.
    pub linger: Span,
    /// Time after which the broker gives up a transaction of a router that is gone.
    pub transaction_timeout: Span,
    /// Topic for records that a target refuses for good. Empty: the route waits until somebody helps.
    pub dead_letter_topic: String,
    /// First wait after a failure; doubles up to `max_backoff`.
    pub min_backoff: Span,
    /// Longest wait after failures. It is tried for ever.
    pub max_backoff: Span,
}

impl Default for RoutingConfig {
    fn default() -> Self {
        Self {
            group: "millrace-route".to_owned(),
            instance: "1".to_owned(),
            max_records: 10_000,
            max_bytes: ByteSize::mib(16),
            linger: Span::millis(100),
            transaction_timeout: Span::secs(60),
            dead_letter_topic: "millrace.dlq".to_owned(),
            min_backoff: Span::millis(500),
            max_backoff: Span::secs(30),
        }
    }
}

impl RoutingConfig {
    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        for (key, text) in [("group", &self.group), ("instance", &self.instance)] {
            if text.is_empty() {
                faults.add(key, "is empty: groups and transactions are named by it");
            }
        }
        if !(1..=1_000_000).contains(&self.max_records) {
            faults.add("max_records", "must lie between 1 and 1000000");
        }
        if !(ByteSize::mib(1)..=ByteSize::mib(512)).contains(&self.max_bytes) {
            faults.add("max_bytes", "must lie between 1MiB and 512MiB");
        }
        if !(Span::secs(1)..=Span::secs(900)).contains(&self.transaction_timeout) {
            faults.add("transaction_timeout", "must lie between 1s and 15m");
        }
        if self.linger.0 * 2 > self.transaction_timeout.0 {
            faults.add("linger", "must be at most half of transaction_timeout");
        }
        for (key, span) in [("min_backoff", self.min_backoff), ("max_backoff", self.max_backoff)] {
            if span.0.is_zero() {
                faults.add(key, "must not be zero");
            }
        }
    }
}

/// Reports what types can't say.
pub fn check(routes: &[RouteConfig], faults: &mut Faults) {
    for (i, route) in routes.iter().enumerate() {
        faults.within(&format!("[{i}]"), |faults| {
            for (key, topic) in [("from", &route.from), ("to", &route.to)] {
                if !is_topic_name(topic) {
                    faults.add(key, format!("invalid topic name `{topic}`"));
                }
            }
            if route.from == route.to {
                faults.add("to", "is the topic that is read: the copies would be copied again, for ever");
            }
            if routes.iter().take(i).any(|other| other.label() == route.label()) {
                faults.add("name", format!("`{}` names two routes: metrics tell them apart by it", route.label()));
            }
            if let Some(kafka) = &route.kafka {
                faults.within("kafka", |faults| kafka.check(faults));
            }
        });
    }
    for (i, route) in routes.iter().enumerate() {
        if let Some(cycle) = cycle(routes, route) {
            faults.add(&format!("[{i}].to"), format!("records would go round for ever: {}", cycle.join(" → ")));
            break;
        }
    }
}

/// The topics from a route back to where it began, if there is such a way on the same Kafka.
fn cycle(routes: &[RouteConfig], first: &RouteConfig) -> Option<Vec<String>> {
    let brokers = |route: &RouteConfig| route.kafka.as_ref().map(|kafka| kafka.brokers.clone());
    let mut ways = vec![vec![first.from.clone(), first.to.clone()]];
    while let Some(way) = ways.pop() {
        let at = way.last()?;
        if *at == first.from {
            // The shortest loop, a topic onto itself, is told before.
            return (way.len() > 2).then_some(way);
        }
        let next = routes.iter().filter(|r| r.from == *at && brokers(r) == brokers(first));
        for route in next.filter(|r| r.to == first.from || !way.contains(&r.to)) {
            ways.push(way.iter().cloned().chain([route.to.clone()]).collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_routes_name_their_keys() {
        let route =
            |from: &str, to: &str| RouteConfig { from: from.to_owned(), to: to.to_owned(), ..RouteConfig::default() };
        let routes =
            [route("a", "a"), route("a", "b c"), route("b", "c"), route("c", "d"), route("d", "b"), route("b", "c")];
        let mut faults = Faults::default();
        check(&routes, &mut faults);
        let paths: Vec<String> = faults.into_vec().into_iter().map(|f| f.path).collect();
        assert_eq!(paths, ["[0].to", "[1].to", "[5].name", "[2].to"]);
        let mut faults = Faults::default();
        RoutingConfig::default().check(&mut faults);
        check(&[route("logs", "errors"), route("logs", "audit"), route("errors", "pages")], &mut faults);
        assert!(faults.is_empty(), "{faults:?}");
    }
}
