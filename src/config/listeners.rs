//! Addresses that the roles of one process listen on, and those that exclude each other.
//!
//! In: a configuration with its values. Out: faults of addresses that two listeners want. Touches nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use millrace_log::value::Faults;
use serde_json::Value as Json;

use super::types::Config;

/// One address that something listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Path of its key.
    pub key: String,
    /// As written.
    pub address: String,
    /// Datagrams, not connections.
    pub is_udp: bool,
    /// Whether the logins of `access` are for it.
    pub is_http: bool,
}

impl Listener {
    /// Whether other hosts reach it, as far as the address alone says.
    pub fn is_exposed(&self) -> bool {
        is_exposed(&self.address)
    }
}

/// Whether other hosts reach an address, as far as it alone says.
pub fn is_exposed(address: &str) -> bool {
    match host_and_port(address) {
        Some((Host::Address(address), _)) => !address.is_loopback(),
        Some((Host::Name(_), _)) | None => false,
    }
}

/// What a listener speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Udp,
    Tcp,
    Http,
}

/// All addresses of a configuration, in the order of the start. `values` are those of the whole configuration.
pub fn listeners(config: &Config, values: &Json) -> Vec<Listener> {
    let mut all = Vec::new();
    let mut add = |key: String, address: &str, kind: Kind| {
        if !address.is_empty() {
            all.push(Listener {
                key,
                address: address.to_owned(),
                is_udp: kind == Kind::Udp,
                is_http: kind == Kind::Http,
            });
        }
    };
    if let Some(broker) = &config.broker {
        if broker.server.listeners.is_empty() {
            add("broker.listen".to_owned(), &broker.server.listen, Kind::Tcp);
        }
        for (i, listener) in broker.server.listeners.iter().enumerate() {
            add(format!("broker.listeners[{i}].listen"), &listener.listen, Kind::Tcp);
        }
        add("broker.http".to_owned(), broker.server.http.as_deref().unwrap_or_default(), Kind::Http);
    }
    if let Some(aggregator) = &config.aggregator {
        add("aggregator.http.listen".to_owned(), &aggregator.http.listen, Kind::Http);
        add("aggregator.elasticsearch.listen".to_owned(), &aggregator.elasticsearch.listen, Kind::Http);
    }
    if let Some(notify) = &config.notify {
        add("notify.listen".to_owned(), &notify.listen, Kind::Http);
    }
    if let Some(agent) = &config.agent {
        // Beside an aggregator or a broker with a listener of its own, the agent's is not opened.
        let has_other = config.aggregator.is_some() || config.broker.as_ref().is_some_and(|b| b.server.http.is_some());
        if !has_other {
            add("agent.http".to_owned(), agent.http.as_deref().unwrap_or_default(), Kind::Http);
        }
        let sources = values.pointer("/agent/sources").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
        for (i, source) in sources.iter().enumerate() {
            for key in ["listen", "http", "grpc", "tcp", "udp"] {
                let address = source.get(key).and_then(Json::as_str).unwrap_or_default();
                let kind = match key {
                    "udp" => Kind::Udp,
                    "tcp" => Kind::Tcp,
                    _ => Kind::Http,
                };
                add(format!("agent.sources[{i}].{key}"), address, kind);
            }
        }
    }
    all
}

/// Reports each address that an earlier listener has already.
pub fn check(listeners: &[Listener], faults: &mut Faults) {
    for (i, later) in listeners.iter().enumerate() {
        let taken = listeners.iter().take(i).find(|earlier| {
            earlier.is_udp == later.is_udp
                && excludes(&earlier.address, &later.address)
                && !is_of_one_otlp(earlier, later)
        });
        if let Some(earlier) = taken {
            let address = &later.address;
            let message = if earlier.address == *address {
                format!("address `{address}` is already used by `{}`: choose another port", earlier.key)
            } else {
                format!(
                    "address `{address}` conflicts with `{}` of `{}`: choose another port",
                    earlier.address, earlier.key
                )
            };
            faults.add(&later.key, message);
        }
    }
}

/// Whether two listeners are those of one OTLP source at one address: the source reports that itself.
fn is_of_one_otlp(a: &Listener, b: &Listener) -> bool {
    let source = a.key.strip_suffix(".http");
    source.is_some() && source == b.key.strip_suffix(".grpc") && a.address == b.address
}

/// Whether two addresses can't be listened on at the same time.
fn excludes(a: &str, b: &str) -> bool {
    let (Some((a, a_port)), Some((b, b_port))) = (host_and_port(a), host_and_port(b)) else { return false };
    if a_port != b_port || a_port == 0 {
        return false;
    }
    match (a, b) {
        (Host::Address(a), Host::Address(b)) => {
            // `[::]` takes addresses of both versions; `0.0.0.0` all of version 4.
            let covers = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
            a == b || covers(a, b) || covers(b, a)
        }
        (Host::Address(all), Host::Name(_)) | (Host::Name(_), Host::Address(all)) => all.is_unspecified(),
        (Host::Name(a), Host::Name(b)) => a.eq_ignore_ascii_case(b),
    }
}

enum Host<'a> {
    Address(IpAddr),
    Name(&'a str),
}

fn host_and_port(address: &str) -> Option<(Host<'_>, u16)> {
    if let Ok(address) = address.parse::<SocketAddr>() {
        return Some((Host::Address(address.ip()), address.port()));
    }
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok()?;
    Some(match host {
        "localhost" => (Host::Address(IpAddr::V4(Ipv4Addr::LOCALHOST)), port),
        "" | "*" => (Host::Address(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), port),
        name => (Host::Name(name), port),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_exclude_each_other_where_the_kernel_says_so() {
        for (a, b, want) in [
            ("127.0.0.1:3100", "127.0.0.1:3100", true),
            ("127.0.0.1:3100", "127.0.0.1:3101", false),
            ("127.0.0.1:3100", "127.0.0.2:3100", false),
            ("0.0.0.0:3100", "127.0.0.1:3100", true),
            ("127.0.0.1:3100", "0.0.0.0:3100", true),
            ("[::]:3100", "127.0.0.1:3100", true),
            ("[::]:3100", "[::1]:3100", true),
            ("0.0.0.0:3100", "[::1]:3100", false),
            ("localhost:3100", "127.0.0.1:3100", true),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("log.example:9092", "LOG.example:9092", true),
            ("log.example:9092", "127.0.0.1:9092", false),
            ("log.example:9092", "0.0.0.0:9092", true),
            ("nothing", "nothing", false),
        ] {
            assert_eq!(excludes(a, b), want, "{a} {b}");
        }
    }
}
