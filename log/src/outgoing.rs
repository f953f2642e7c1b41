//! Requests to other systems by HTTP: where they may go. The one way in which clients for receivers and exports are made.
//!
//! In: the section `outgoing`, URLs. Out: requests, or why their host is refused. Touches the network: names are resolved
//! here, and what they resolve to is checked before it is connected to, so that a name whose address changes gets around
//! nothing. TLS is verified; redirects are followed to the same host only, or not at all.
//!
//! Through a proxy (`HTTPS_PROXY`) it is the proxy that resolves names: then names and literal addresses of URLs are checked, and
//! the addresses of the proxy itself.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::network::Network;
use crate::value::Faults;

/// Link-local addresses, and those at which clouds give credentials to whoever asks: AWS, Google, Azure, Alibaba, Oracle;
/// and the first as they are written through NAT64.
const GUARDED: [&str; 8] = [
    "169.254.0.0/16",
    "fe80::/10",
    "fd00:ec2::254",
    "fd20:ce::254",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "64:ff9b::a9fe:0/112",
];
/// Redirects in a row.
const MAX_REDIRECTS: usize = 10;

/// Where requests of this process may go: those of receivers of alerts, and of exports. Without `allow_hosts`, to every host
/// except link-local addresses (169.254.0.0/16, fe80::/10) and the metadata addresses of clouds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OutgoingConfig {
    /// If not empty, the only hosts: names (`hooks.example.org`), all names below one (`*.example.org`), addresses or
    /// networks (`10.0.0.0/8`). Link-local and metadata addresses are included only if one of them, or a network of
    /// nothing else, is listed.
    pub allow_hosts: Vec<String>,
    /// Hosts that requests never go to, written in the same way.
    pub deny_hosts: Vec<String>,
}

impl OutgoingConfig {
    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        for (key, hosts) in [("allow_hosts", &self.allow_hosts), ("deny_hosts", &self.deny_hosts)] {
            for (i, host) in hosts.iter().enumerate() {
                if Entry::parse(host).is_none() {
                    let text = format!(
                        "invalid host `{host}`: expected a name, *.example.org, an address, or a network such as 10.0.0.0/8"
                    );
                    faults.add(&format!("{key}[{i}]"), text);
                }
            }
        }
    }
}

/// An entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Name(String),
    /// With its dot.
    Below(String),
    Network(Network),
}

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        if let Some(network) = Network::parse(text.trim_matches(['[', ']'])) {
            return Some(Self::Network(network));
        }
        let (name, is_below) = match text.strip_prefix('*') {
            Some(rest) => (rest.strip_prefix('.')?, true),
            None => (text, false),
        };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let is_name = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if !name.split('.').all(is_name) {
            return None;
        }
        Some(if is_below { Self::Below(format!(".{name}")) } else { Self::Name(name) })
    }

    fn has_name(&self, name: &str) -> bool {
        match self {
            Self::Name(own) => own == name,
            Self::Below(end) => name.ends_with(end.as_str()),
            Self::Network(_) => false,
        }
    }

    fn has_address(&self, address: IpAddr) -> bool {
        matches!(self, Self::Network(network) if network.has(address))
    }
}

/// Why a request is not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// The host is listed.
    #[error("requests to {host} are forbidden by `outgoing.deny_hosts`")]
    Denied {
        /// Name or address.
        host: String,
    },
    /// Others are listed.
    #[error(
        "requests to {host} are forbidden: `outgoing.allow_hosts` lists other hosts only; add it there if it is meant"
    )]
    NotAllowed {
        /// Name or address.
        host: String,
    },
    /// Nobody writes such an address down by chance.
    #[error(
        "requests to {host} are forbidden: {address} is a link-local or metadata address; list the address in \
         `outgoing.allow_hosts` if it is meant"
    )]
    Guarded {
        /// Name or address.
        host: String,
        /// What it resolves to.
        address: IpAddr,
    },
    /// What is no URL of a host.
    #[error("invalid URL: expected http:// or https:// and a host")]
    Url,
}

#[derive(Debug)]
struct Rules {
    allow: Vec<Entry>,
    deny: Vec<Entry>,
    guarded: Vec<Network>,
}

impl Rules {
    /// Whether a name may be resolved: an address may still be refused.
    fn check_name(&self, name: &str) -> Result<(), Forbidden> {
        let host = || name.to_owned();
        if self.deny.iter().any(|entry| entry.has_name(name)) {
            return Err(Forbidden::Denied { host: host() });
        }
        let may_be_allowed = |entry: &Entry| entry.has_name(name) || matches!(entry, Entry::Network(_));
        if !self.allow.is_empty() && !self.allow.iter().any(may_be_allowed) {
            return Err(Forbidden::NotAllowed { host: host() });
        }
        Ok(())
    }

    /// Whether an address of a name may be connected to. For a literal address the name is the address.
    fn check_address(&self, name: &str, address: IpAddr) -> Result<(), Forbidden> {
        let host = || if name.parse() == Ok(address) { name.to_owned() } else { format!("{name} ({address})") };
        if self.deny.iter().any(|entry| entry.has_address(address)) {
            return Err(Forbidden::Denied { host: host() });
        }
        let is_named = |guard: &Network| {
            let listed = |entry: &Entry| matches!(entry, Entry::Network(network) if network.has(address) && guard.contains(network));
            self.allow.iter().any(listed)
        };
        if self.guarded.iter().any(|guard| guard.has(address) && !is_named(guard)) {
            return Err(Forbidden::Guarded { host: name.to_owned(), address });
        }
        let is_allowed = |entry: &Entry| entry.has_name(name) || entry.has_address(address);
        if !self.confined() || self.allow.iter().any(is_allowed) {
            return Ok(());
        }
        Err(Forbidden::NotAllowed { host: host() })
    }

    /// Whether requests go to listed hosts only. Lists of nothing but guarded addresses lift their guard, and confine nothing.
    fn confined(&self) -> bool {
        let is_guarded = |entry: &Entry| matches!(entry, Entry::Network(network) if self.guarded.iter().any(|g| g.contains(network)));
        !self.allow.iter().all(is_guarded)
    }

    fn check_url(&self, url: &Url) -> Result<(), Forbidden> {
        let host = url.host().filter(|_| matches!(url.scheme(), "http" | "https")).ok_or(Forbidden::Url)?;
        match host {
            url::Host::Domain(name) => self.check_name(&name.trim_end_matches('.').to_ascii_lowercase()),
            url::Host::Ipv4(address) => self.check_address(&address.to_string(), address.into()),
            url::Host::Ipv6(address) => self.check_address(&address.to_string(), address.into()),
        }
    }
}

/// Resolves names by the system, and leaves out what must not be connected to.
struct CheckedResolver {
    rules: Arc<Rules>,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let rules = Arc::clone(&self.rules);
        let name = name.as_str().trim_end_matches('.').to_ascii_lowercase();
        Box::pin(async move {
            rules.check_name(&name)?;
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let (mut good, mut refused) = (Vec::<SocketAddr>::new(), None);
            for address in found {
                match rules.check_address(&name, address.ip()) {
                    Ok(()) => good.push(address),
                    Err(forbidden) => refused = Some(forbidden),
                }
            }
            match refused {
                Some(forbidden) if good.is_empty() => Err(forbidden.into()),
                _ => Ok(Box::new(good.into_iter()) as Addrs),
            }
        })
    }
}

/// Follows redirects to the same host, also from `http` to `https`, that keep method and body: another host would get what was
/// meant for this one, and a GET without the body would be answered although nothing was delivered.
fn same_host(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let (next, previous) = (attempt.url(), attempt.previous().last());
    let is_same = previous.is_some_and(|previous| {
        next.host_str() == previous.host_str() && (next.scheme() == previous.scheme() || next.scheme() == "https")
    });
    if !is_same {
        let host: String = next.host_str().unwrap_or("nowhere").chars().take(200).collect();
        return attempt.error(format!("the server redirects to another host, {host}: set the URL to that address"));
    }
    if !matches!(attempt.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT) {
        let to = previous.map_or_else(String::new, |previous| shown(next, previous));
        let status = attempt.status();
        let text = format!(
            "the server redirects with {status} to {to}, where a request without its body would be sent: set the URL to that \
             address, or let the server answer 307 or 308"
        );
        return attempt.error(text);
    }
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error("the server redirects without end");
    }
    attempt.follow()
}

/// Where a redirect leads, without what may be secret: query, login, and a path with a part of the one before, which may hold a
/// token.
fn shown(next: &Url, previous: &Url) -> String {
    let parts =
        |url: &Url| url.path().split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let before = parts(previous);
    let path = if next.path() == previous.path() {
        " (the same path)".to_owned()
    } else if parts(next).iter().any(|part| before.contains(part)) {
        " (another path)".to_owned()
    } else {
        next.path().chars().take(200).collect()
    };
    format!("{}{path}", next.origin().ascii_serialization())
}

/// Makes clients that keep to the section `outgoing`. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Outgoing(Arc<Rules>);

impl Default for Outgoing {
    fn default() -> Self {
        Self::new(&OutgoingConfig::default())
    }
}

impl Outgoing {
    /// By its settings. Entries that can't be read were reported by their check; here they allow nothing.
    pub fn new(config: &OutgoingConfig) -> Self {
        let never = || Entry::Name(String::new());
        let allow = config.allow_hosts.iter().map(|host| Entry::parse(host).unwrap_or_else(never)).collect();
        let deny = config.deny_hosts.iter().filter_map(|host| Entry::parse(host)).collect();
        let guarded = GUARDED.iter().filter_map(|network| Network::parse(network)).collect();
        Self(Arc::new(Rules { allow, deny, guarded }))
    }

    /// A client. Whole requests may take `timeout`, if there is one.
    pub fn client(&self, redirects: Redirects, timeout: Option<Duration>) -> Result<OutgoingClient, reqwest::Error> {
        let policy = match redirects {
            Redirects::SameHost => Policy::custom(same_host),
            Redirects::None => Policy::none(),
        };
        let resolver = Arc::new(CheckedResolver { rules: Arc::clone(&self.0) });
        let builder = reqwest::Client::builder().dns_resolver(resolver).redirect(policy);
        let builder = timeout.into_iter().fold(builder, |builder, timeout| builder.timeout(timeout));
        Ok(OutgoingClient { rules: Arc::clone(&self.0), client: builder.build()? })
    }
}

/// Which redirects are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redirects {
    /// Those to the same host that keep method and body (307, 308); others are errors.
    SameHost,
    /// None.
    None,
}

/// Sends requests to where they may go. Cheap to clone.
#[derive(Debug, Clone)]
pub struct OutgoingClient {
    rules: Arc<Rules>,
    client: reqwest::Client,
}

impl OutgoingClient {
    /// A request, unless its host is refused by name or is an address that is.
    pub fn request(&self, method: Method, url: &str) -> Result<RequestBuilder, Forbidden> {
        let url = Url::parse(url).map_err(|_| Forbidden::Url)?;
        self.rules.check_url(&url)?;
        Ok(self.client.request(method, url))
    }
}

#[cfg(test)]
mod tests;
