//! Addresses that the process listens on, after binding: for the log, for people and for tests.
//!
//! In: what was bound. Out: names and addresses. Touches nothing.

use std::fmt;
use std::net::SocketAddr;

/// Where the doors are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Kafka protocol.
    pub kafka: Option<SocketAddr>,
    /// Loki API, page, `/metrics`, `/ready`.
    pub http: Option<SocketAddr>,
    /// Elasticsearch API.
    pub elasticsearch: Option<SocketAddr>,
    /// Alertmanager API.
    pub alertmanager: Option<SocketAddr>,
    /// `/metrics`, `/ready` and the ledger of a broker, router or agent alone.
    pub status: Option<SocketAddr>,
}

impl Addresses {
    /// Name and address of each door that is open.
    pub fn named(&self) -> Vec<(&'static str, String)> {
        let web = |address: SocketAddr| format!("http://{address}");
        [
            ("page", self.http.map(web)),
            ("loki", self.http.map(web)),
            ("elastic", self.elasticsearch.map(web)),
            ("alerts", self.alertmanager.map(web)),
            ("status", self.status.map(web)),
            ("kafka", self.kafka.map(|address| address.to_string())),
        ]
        .into_iter()
        .filter_map(|(name, address)| Some((name, address?)))
        .collect()
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.named().into_iter().map(|(name, address)| format!("{name}={address}")).collect();
        f.write_str(&all.join(" "))
    }
}
