//! Listener settings: addresses, TLS, SASL, limits; users and super users.
//!
//! In: `broker.listeners`, `broker.limits`, `broker.users` and `broker.authorization` of the configuration. Out: typed
//! settings with their defaults, faults with the path of their key. Touches nothing: files are read by `millrace-doors`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use millrace_doors::config::{ClientAuth, TlsConfig};
use millrace_log::value::{Faults, Secret, Span};

/// One listener of the broker.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerConfig {
    /// Name in metrics and log lines, e.g. `internal`.
    pub name: String,
    /// Address to listen on, `host:port`; port 0 takes a free one.
    pub listen: String,
    /// Address that clients of this listener are given, `host:port`. Absent: the one they connected to.
    pub advertised: Option<String>,
    /// TLS. Absent: plain text.
    pub tls: Option<TlsConfig>,
    /// Authentication by SASL. Absent: none but a client certificate.
    pub sasl: Option<SaslConfig>,
    /// Limits of this listener.
    pub limits: LimitsConfig,
}

impl ListenerConfig {
    /// Whether clients must say who they are.
    pub fn has_login(&self) -> bool {
        let requires = |tls: &TlsConfig| tls.client_auth == ClientAuth::Required;
        self.sasl.is_some() || self.tls.as_ref().is_some_and(requires)
    }

    /// What to say of one that other hosts reach at an address, without a login.
    pub fn open_text(&self, address: impl std::fmt::Display) -> String {
        format!(
            "address `{address}` is open to other hosts and has no login: configure a listener with `sasl` or with \
             `tls.client_auth: required`, listen on 127.0.0.1, or set `access.insecure: true`"
        )
    }
}

/// SASL of a listener.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SaslConfig {
    /// Ways to log in: `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`.
    pub mechanisms: Vec<Mechanism>,
    /// Time after which clients must log in again on the same connection (`connections.max.reauth.ms`). Absent: never.
    pub session_lifetime: Option<Span>,
}

impl Default for SaslConfig {
    fn default() -> Self {
        Self { mechanisms: vec![Mechanism::Scram512, Mechanism::Scram256], session_lifetime: None }
    }
}

/// A way to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Mechanism {
    /// Name and password as they are.
    #[serde(rename = "PLAIN")]
    Plain,
    /// Salted challenge and response with SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    Scram256,
    /// Salted challenge and response with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    Scram512,
}

impl Mechanism {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Scram256 => "SCRAM-SHA-256",
            Self::Scram512 => "SCRAM-SHA-512",
        }
    }
}

/// Limits for the clients of a listener.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Most connections of the listener at the same time, within `broker.max_connections`; further ones are closed.
    pub max_connections: usize,
    /// Most connections from one address.
    pub max_connections_per_address: usize,
    /// Most connections that are not yet authenticated (TLS, SASL); one address may hold half of them.
    pub max_unauthenticated: usize,
    /// Time limit for TLS handshake and SASL login together.
    pub login_timeout: Span,
    /// Delay before a failed login is answered, doubled with each further one from the same address up to 32 times.
    pub failed_login_delay: Span,
    /// Requests per second of one user from one address; above it responses carry a throttle time, and the connection is
    /// not read meanwhile. Absent: no limit.
    pub max_requests_per_second: Option<u32>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_connections: 2000,
            max_connections_per_address: 1000,
            max_unauthenticated: 200,
            login_timeout: Span::secs(10),
            failed_login_delay: Span(std::time::Duration::from_millis(100)),
            max_requests_per_second: None,
        }
    }
}

/// A user who logs in with a password of the configuration, by any mechanism.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UserConfig {
    /// Name; in access rules `User:` stands before it.
    pub name: String,
    /// Password, as it is, `env:NAME` or `file:PATH`.
    pub password: Secret,
}

/// Access rules (ACLs). The rules themselves are created by clients, e.g. with `kafka-acls.sh`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuthorizationConfig {
    /// Whether rules are enforced; if not, every client may do everything.
    pub enabled: bool,
    /// Principals that may do everything, e.g. `User:admin` or `User:CN=admin,O=Example`.
    pub super_users: Vec<String>,
    /// Whether everybody may use resources without rules (`allow.everyone.if.no.acl.found`).
    pub allow_everyone_if_no_acl: bool,
}

impl LimitsConfig {
    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        for (key, count) in [
            ("max_connections", self.max_connections),
            ("max_connections_per_address", self.max_connections_per_address),
        ] {
            if count == 0 {
                faults.add(key, "must be at least 1");
            }
        }
        if self.max_unauthenticated < 2 {
            faults.add("max_unauthenticated", "must be at least 2");
        }
        if self.login_timeout.0.is_zero() {
            faults.add("login_timeout", "must be longer than zero, e.g. `10s`");
        }
        if self.failed_login_delay.0.as_secs() > 10 {
            faults.add("failed_login_delay", "must be at most 10s: it is doubled with each failure");
        }
        if self.max_requests_per_second == Some(0) {
            faults.add("max_requests_per_second", "must be at least 1; leave it out for no limit");
        }
    }
}

impl ListenerConfig {
    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if self.name.is_empty() || !self.name.chars().all(is_word) {
            faults.add("name", format!("invalid name `{}`: expected letters, digits, `-`, `_`", self.name));
        }
        check_addresses(&self.listen, self.advertised.as_deref(), faults);
        if let Some(tls) = &self.tls {
            faults.within("tls", |faults| tls.check(faults));
        }
        if let Some(sasl) = &self.sasl {
            if sasl.mechanisms.is_empty() {
                faults.add("sasl.mechanisms", "is empty: name at least one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512");
            }
            if sasl.session_lifetime.is_some_and(|span| span.0.as_secs() < 1) {
                faults.add("sasl.session_lifetime", "must be at least 1s");
            }
        }
        faults.within("limits", |faults| self.limits.check(faults));
    }
}

/// Checks where to listen and what to tell clients.
pub(crate) fn check_addresses(listen: &str, advertised: Option<&str>, faults: &mut Faults) {
    if host_and_port(listen).is_none() {
        faults.add("listen", format!("invalid address `{listen}`: expected host:port"));
    }
    if let Some(advertised) = advertised
        && host_and_port(advertised).is_none_or(|(_, port)| port == 0)
    {
        faults.add("advertised", format!("invalid address `{advertised}`: expected host:port"));
    }
}

/// Checks the users.
pub(crate) fn check_users(users: &[UserConfig], faults: &mut Faults) {
    for (i, user) in users.iter().enumerate() {
        faults.within(&format!("[{i}]"), |faults| {
            if user.name.is_empty() {
                faults.add("name", "is empty");
            }
            if users.iter().take(i).any(|other| other.name == user.name) {
                faults.add("name", format!("duplicate user `{}`", user.name));
            }
            match user.password.reveal() {
                Ok(password) if password.is_empty() => faults.add("password", "is empty"),
                _ => {}
            }
        });
    }
}

impl AuthorizationConfig {
    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        for (i, user) in self.super_users.iter().enumerate() {
            if user.split_once(':').is_none_or(|(kind, name)| kind.is_empty() || name.is_empty()) {
                faults.add(&format!("super_users[{i}]"), format!("invalid principal `{user}`: expected User:NAME"));
            }
        }
    }
}

/// Host and port of `host:port`; a host may stand in brackets (IPv6).
pub(crate) fn host_and_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    Some((bare, port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
}
