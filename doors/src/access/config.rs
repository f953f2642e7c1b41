//! The section `access:`: who may use the HTTP endpoints.
//!
//! In: YAML as the binary read it. Out: typed values with defaults, and faults that types can't say. Touches nothing:
//! files are read by `book.rs`.

use millrace_log::network::Network;
use millrace_log::record::is_topic_name;
use millrace_log::value::{Faults, Secret, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::grant::{check_rights, check_tenants, own_tenant};
use super::oidc::config::OidcConfig;
use crate::identity::Role;

/// Who may use the HTTP endpoints: Loki API and page, Elasticsearch API, Alertmanager API, HTTP sources of the agent
/// without `auth` of their own, status. Without any login, endpoints on loopback are open to this host.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccessConfig {
    /// Bearer tokens and API keys, as created by `millrace token create`.
    pub tokens: Vec<TokenConfig>,
    /// Users with passwords.
    pub users: Vec<UserConfig>,
    /// Clients that are known by their certificates; needs `tls.client_auth` of the listener.
    pub certificates: Vec<CertificateConfig>,
    /// A reverse proxy that logs users in.
    pub proxy: Option<ProxyConfig>,
    /// A login provider (OpenID Connect), for the page and for tokens.
    pub oidc: Option<OidcConfig>,
    /// Host names by which browsers and proxies reach the endpoints, besides IP addresses and `localhost`. Endpoints on
    /// loopback answer no other names; other endpoints answer any name unless some are listed here.
    pub hosts: Vec<String>,
    /// Allows HTTP endpoints and Kafka listeners beyond loopback without a login: everybody who reaches them may read and change everything.
    pub insecure: bool,
    /// What becomes of audit events: logins, refusals, deletions, reloads.
    pub audit: AuditConfig,
}

/// Audit events are written to the process log and, as JSON, to a topic of the log.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// Topic, created with one partition at the first event. Empty: events are written to the process log only.
    pub topic: String,
    /// How long the topic keeps events, if it is created.
    pub retention: Span,
    /// How to reach the log. Left out: as `aggregator.kafka` or `agent.kafka` do, or by a listener of the broker in this
    /// process that needs no login.
    pub kafka: Option<AuditKafkaConfig>,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { topic: "millrace.audit".to_owned(), retention: Span::secs(90 * 24 * 3600), kafka: None }
    }
}

millrace_log::kafka_section! {
    /// How to reach the log to which audit events are written.
    pub struct AuditKafkaConfig {}
}

impl AuditConfig {
    fn check(&self, faults: &mut Faults) {
        if !self.topic.is_empty() && !is_topic_name(&self.topic) {
            faults.add("topic", format!("invalid topic name `{}`", self.topic));
        }
        if self.retention < Span::secs(3600) {
            faults.add("retention", format!("is {}: must be at least 1h", self.retention));
        }
        if let Some(kafka) = &self.kafka {
            faults.within("kafka", |f| kafka.connection().check(f));
        }
    }
}

/// A token. `hash` is what `millrace token create` prints; the token itself is stored nowhere.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// Name for log lines and `millrace token list`.
    pub name: String,
    /// `sha256:…`, or `file:PATH` or `env:NAME` to read it from.
    pub hash: Secret,
    /// What it may do: `read`, `write`, `silence`, `admin`.
    pub roles: Vec<Role>,
    /// Tenants that it is for; `*`: all.
    #[serde(default = "own_tenant")]
    pub tenants: Vec<String>,
    /// Stream selector such as `{team="pay"}` that is added to every query; only with the role `read`.
    #[serde(default)]
    pub selector: String,
    /// Day or time (RFC 3339) at which it expires, e.g. `2027-01-31`.
    #[serde(default)]
    pub expires: String,
}

/// A user with a password.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UserConfig {
    /// Name to log in with.
    pub name: String,
    /// Argon2 hash of the password (`millrace token create --password`), or `file:PATH` or `env:NAME` to read it from.
    /// Empty: the user comes through `proxy` only.
    #[serde(default)]
    pub hash: Secret,
    /// What the user may do: `read`, `write`, `silence`, `admin`.
    pub roles: Vec<Role>,
    /// Tenants that the user is for; `*`: all.
    #[serde(default = "own_tenant")]
    pub tenants: Vec<String>,
    /// Stream selector such as `{team="pay"}` that is added to every query; only with the role `read`.
    #[serde(default)]
    pub selector: String,
}

/// A client that is known by its certificate.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateConfig {
    /// Name for log lines.
    pub name: String,
    /// Subject as RFC 4514 writes it, e.g. `CN=agent-7,O=Example`.
    #[serde(default)]
    pub subject: String,
    /// Alternative name in the certificate: DNS name, e-mail address or URI.
    #[serde(default)]
    pub san: String,
    /// What it may do: `read`, `write`, `silence`, `admin`.
    pub roles: Vec<Role>,
    /// Tenants that it is for; `*`: all.
    #[serde(default = "own_tenant")]
    pub tenants: Vec<String>,
    /// Stream selector such as `{team="pay"}` that is added to every query; only with the role `read`.
    #[serde(default)]
    pub selector: String,
}

/// A reverse proxy that logs users in and names them in a header. The header counts from these addresses only.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    /// Addresses of the proxy, e.g. `10.0.0.7` or `10.0.0.0/24`.
    pub addresses: Vec<String>,
    /// Header that names the user.
    #[serde(default = "user_header")]
    pub header: String,
    /// What users may do who are not listed in `users`: `read`, `write`, `silence`, `admin`. Empty: they are refused.
    #[serde(default)]
    pub roles: Vec<Role>,
    /// Tenants of these users; `*`: all.
    #[serde(default = "own_tenant")]
    pub tenants: Vec<String>,
}

fn user_header() -> String {
    "X-Forwarded-User".to_owned()
}

impl AccessConfig {
    /// Whether no login is configured.
    pub fn is_open(&self) -> bool {
        self.tokens.is_empty()
            && self.users.is_empty()
            && self.certificates.is_empty()
            && self.proxy.is_none()
            && self.oidc.is_none()
    }

    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        let mut names: Vec<&str> = Vec::new();
        let name = |key: &str, name: &str, faults: &mut Faults| {
            if name.is_empty() {
                faults.add(&format!("{key}.name"), "is empty: name it");
            } else if name.contains(|c: char| c.is_control() || c == ':') {
                faults.add(&format!("{key}.name"), "must not contain `:` or control characters");
            }
        };
        for (i, token) in self.tokens.iter().enumerate() {
            let key = format!("tokens[{i}]");
            name(&key, &token.name, faults);
            if names.contains(&token.name.as_str()) {
                faults.add(&format!("{key}.name"), format!("`{}` is named twice", token.name));
            }
            names.push(&token.name);
            faults.within(&key, |f| {
                check_rights(&token.roles, &token.tenants, &token.selector, f);
                if token.hash == Secret::default() {
                    f.add("hash", "is empty: set it to what `millrace token create` prints");
                }
                if !token.expires.is_empty() && expiry_ms(&token.expires).is_none() {
                    let text =
                        format!("invalid time `{}`: expected e.g. 2027-01-31 or 2027-01-31T12:00:00Z", token.expires);
                    f.add("expires", text);
                }
            });
        }
        let mut names: Vec<&str> = Vec::new();
        for (i, user) in self.users.iter().enumerate() {
            let key = format!("users[{i}]");
            name(&key, &user.name, faults);
            if names.contains(&user.name.as_str()) {
                faults.add(&format!("{key}.name"), format!("`{}` is named twice", user.name));
            }
            names.push(&user.name);
            faults.within(&key, |f| {
                check_rights(&user.roles, &user.tenants, &user.selector, f);
                if user.hash == Secret::default() && self.proxy.is_none() {
                    f.add("hash", "is empty: set it to what `millrace token create --password` prints");
                }
            });
        }
        for (i, certificate) in self.certificates.iter().enumerate() {
            let key = format!("certificates[{i}]");
            name(&key, &certificate.name, faults);
            faults.within(&key, |f| {
                check_rights(&certificate.roles, &certificate.tenants, &certificate.selector, f);
                if certificate.subject.is_empty() == certificate.san.is_empty() {
                    f.add("subject", "set either `subject` or `san`");
                }
            });
        }
        if let Some(proxy) = &self.proxy {
            faults.within("proxy", |f| proxy.check(f));
        }
        if let Some(oidc) = &self.oidc {
            faults.within("oidc", |f| oidc.check(f));
        }
        faults.within("audit", |f| self.audit.check(f));
        for (i, host) in self.hosts.iter().enumerate() {
            if host.is_empty() || host.contains(['/', ' ', '@']) {
                let text =
                    format!("invalid host `{host}`: expected a name such as logs.example.org, without scheme or path");
                faults.add(&format!("hosts[{i}]"), text);
            }
        }
    }
}

impl ProxyConfig {
    fn check(&self, faults: &mut Faults) {
        if self.addresses.is_empty() {
            faults.add("addresses", "is empty: list the addresses of the proxy");
        }
        for (i, address) in self.addresses.iter().enumerate() {
            if Network::parse(address).is_none() {
                let text = format!("invalid address `{address}`: expected e.g. 10.0.0.7 or 10.0.0.0/24");
                faults.add(&format!("addresses[{i}]"), text);
            }
        }
        if http::HeaderName::try_from(self.header.as_str()).is_err() {
            faults.add("header", format!("invalid header name `{}`", self.header));
        }
        check_tenants(&self.tenants, faults);
    }
}

/// How long before its end a token is reported.
const SOON_MS: i64 = 14 * DAY_MS;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// What should be known of the end of a token: that it is past, or near.
pub(super) fn expiry_note(end_ms: i64, now_ms: i64) -> Option<String> {
    let time = chrono::DateTime::from_timestamp_millis(end_ms)?;
    let time = time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    match end_ms.saturating_sub(now_ms) {
        left if left <= 0 => Some(format!("expired at {time}: the token is refused; replace it or remove its entry")),
        left if left < SOON_MS => {
            let days = left / DAY_MS;
            let within = match days {
                0 => "within a day".to_owned(),
                1 => "in 1 day".to_owned(),
                more => format!("in {more} days"),
            };
            Some(format!("expires {within}, at {time}: replace the token before (`millrace token create`)"))
        }
        _ => None,
    }
}

impl AccessConfig {
    /// Reports what is most likely not meant so: tokens that have expired, or soon will.
    pub fn warn(&self, now_ms: i64, warnings: &mut Faults) {
        for (i, token) in self.tokens.iter().enumerate() {
            if let Some(note) = expiry_ms(&token.expires).and_then(|end_ms| expiry_note(end_ms, now_ms)) {
                warnings.add(&format!("tokens[{i}].expires"), note);
            }
        }
    }
}

/// When a token ends, ms since 1970.
pub fn expiry_ms(text: &str) -> Option<i64> {
    if let Ok(time) = chrono::DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp_millis());
    }
    let day = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(day.and_hms_opt(0, 0, 0)?.and_utc().timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_expiry_are_days_or_moments() {
        for (text, want) in [
            ("1970-01-02", Some(86_400_000)),
            ("1970-01-01T00:00:01Z", Some(1000)),
            ("1970-01-01T01:00:01+01:00", Some(1000)),
            ("tomorrow", None),
            ("", None),
        ] {
            assert_eq!(expiry_ms(text), want, "{text}");
        }
    }

    #[test]
    fn tokens_that_have_expired_or_soon_will_are_reported() {
        let now_ms = expiry_ms("2027-01-10T12:00:00Z").unwrap();
        for (expires, want) in [
            ("", None),
            ("2027-02-01", None),
            ("2027-01-24T12:00:00Z", None),
            ("2027-01-24T11:59:59Z", Some("expires in 13 days, at 2027-01-24T11:59:59Z")),
            ("2027-01-12", Some("expires in 1 day, at 2027-01-12T00:00:00Z")),
            ("2027-01-11", Some("expires within a day, at 2027-01-11T00:00:00Z")),
            ("2027-01-10T12:00:00Z", Some("expired at 2027-01-10T12:00:00Z: the token is refused")),
            ("2026-01-01", Some("expired at 2026-01-01T00:00:00Z")),
        ] {
            let token = TokenConfig {
                name: "t".to_owned(),
                hash: Secret::new("x"),
                roles: vec![Role::Read],
                tenants: own_tenant(),
                selector: String::new(),
                expires: expires.to_owned(),
            };
            let config = AccessConfig { tokens: vec![token], ..AccessConfig::default() };
            let mut warnings = Faults::default();
            config.warn(now_ms, &mut warnings);
            let found = warnings.into_vec();
            assert_eq!(found.len(), usize::from(want.is_some()), "{expires}: {found:?}");
            if let (Some(found), Some(want)) = (found.first(), want) {
                assert!(found.path == "tokens[0].expires" && found.message.starts_with(want), "{expires}: {found:?}");
            }
        }
    }

    #[test]
    fn faults_name_their_keys() {
        let token =
            |name: &str, hash: &str, roles: Vec<Role>, tenant: &str, selector: &str, expires: &str| TokenConfig {
                name: name.to_owned(),
                hash: Secret::new(hash),
                roles,
                tenants: vec![tenant.to_owned()],
                selector: selector.to_owned(),
                expires: expires.to_owned(),
            };
        let user = |name: &str| UserConfig {
            name: name.to_owned(),
            hash: Secret::default(),
            roles: vec![Role::Read],
            tenants: Vec::new(),
            selector: String::new(),
        };
        let config = AccessConfig {
            tokens: vec![
                token("a", "sha256:x", vec![Role::Read], "*", "{a=\"b\"}", "2027-01-31"),
                token("a", "", vec![], "a/b", "", "soon"),
                token("b", "x", vec![Role::Read, Role::Write], "default", "{a=\"b\"}", ""),
            ],
            users: vec![user("u:v")],
            certificates: vec![CertificateConfig {
                name: "c".to_owned(),
                subject: String::new(),
                san: String::new(),
                roles: vec![Role::Write],
                tenants: own_tenant(),
                selector: String::new(),
            }],
            hosts: vec!["https://x".to_owned()],
            ..AccessConfig::default()
        };
        let mut faults = Faults::default();
        config.check(&mut faults);
        let found: Vec<String> = faults.into_vec().into_iter().map(|fault| fault.path).collect();
        let want = [
            "tokens[1].name",
            "tokens[1].roles",
            "tokens[1].tenants[0]",
            "tokens[1].hash",
            "tokens[1].expires",
            "tokens[2].selector",
            "users[0].name",
            "users[0].tenants",
            "users[0].hash",
            "certificates[0].subject",
            "hosts[0]",
        ];
        assert_eq!(found, want);
        let proxy = ProxyConfig {
            addresses: vec!["x".to_owned()],
            header: "a b".to_owned(),
            roles: Vec::new(),
            tenants: own_tenant(),
        };
        let mut faults = Faults::default();
        AccessConfig { proxy: Some(proxy), users: vec![user("u")], ..AccessConfig::default() }.check(&mut faults);
        let found: Vec<String> = faults.into_vec().into_iter().map(|fault| fault.path).collect();
        assert_eq!(found, ["users[0].tenants", "proxy.addresses[0]", "proxy.header"]);
    }
}
