//! Logins as they are in force: the section `access` with the hashes that its files hold.
//!
//! In: settings, credentials of requests. Out: whose they are. Touches files and variables that hashes are read from,
//! once.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName};
use millrace_log::network::Network;
use millrace_log::value::{Secret, ValueError};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::config::{AccessConfig, expiry_ms};
use super::grant::rights;
use super::hash::{EntryDigest, HashError, PasswordDigest, REVOKED, TokenHash};
use super::oidc::plan::{Plan, PlanError};
use crate::identity::{Identity, Rights, Role};
use crate::stream::Peer;

/// Why logins can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// A hash can't be read.
    #[error("{key}: {source}")]
    Secret {
        /// Path of the key below `access`.
        key: String,
        /// Why.
        #[source]
        source: ValueError,
    },
    /// What was read is no hash.
    #[error("{key}: {source}")]
    Hash {
        /// Path of the key below `access`.
        key: String,
        /// Why.
        #[source]
        source: HashError,
    },
    /// The login provider can't be used.
    #[error("{}: {source}", .source.key())]
    Oidc {
        /// Why.
        #[source]
        source: PlanError,
    },
}

impl BookError {
    /// Path of the key below `access`.
    pub fn key(&self) -> &str {
        match self {
            Self::Secret { key, .. } | Self::Hash { key, .. } => key,
            Self::Oidc { source } => source.key(),
        }
    }

    /// Whether a file or a variable can't be read, which is reported for secrets of all sections alike.
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::Secret { .. } | Self::Oidc { source: PlanError::Secret(_) | PlanError::File { .. } })
    }
}

/// What a request shows to be let in.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Given {
    /// Nothing.
    Nothing,
    /// A token, whatever scheme it came by.
    Token(String),
    /// User and password; the password may be a token.
    Password { user: String, password: String },
    /// A header that can't be read.
    Unreadable,
}

impl Given {
    /// Of the header `Authorization`.
    pub fn of(headers: &HeaderMap) -> Self {
        let Some(value) = headers.get(http::header::AUTHORIZATION) else { return Self::Nothing };
        let Ok(value) = value.to_str() else { return Self::Unreadable };
        let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
        let rest = rest.trim();
        let decoded = || String::from_utf8(STANDARD.decode(rest).ok()?).ok();
        let given = match scheme.to_ascii_lowercase().as_str() {
            _ if rest.is_empty() => None,
            "bearer" => Some(Self::Token(rest.to_owned())),
            // Elasticsearch's clients send base64 of `id:key`, scripts the key as it is.
            "apikey" => {
                let pair = decoded().and_then(|pair| Some(pair.split_once(':')?.1.to_owned()));
                Some(Self::Token(pair.unwrap_or_else(|| rest.to_owned())))
            }
            "basic" => decoded().and_then(|pair| {
                let (user, password) = pair.split_once(':')?;
                Some(Self::Password { user: user.to_owned(), password: password.to_owned() })
            }),
            _ => None,
        };
        given.unwrap_or(Self::Unreadable)
    }
}

struct Token {
    hash: TokenHash,
    expires_ms: Option<i64>,
    identity: Identity,
    entry: EntryDigest,
}

struct User {
    digest: Option<PasswordDigest>,
    identity: Identity,
    entry: EntryDigest,
}

#[derive(Debug)]
enum Wanted {
    Subject(String),
    San(String),
}

struct Proxy {
    networks: Vec<Network>,
    header: HeaderName,
    /// Of users who are not listed.
    others: Option<Rights>,
}

/// Logins as they are in force.
#[derive(Default)]
pub struct Book {
    tokens: Vec<Token>,
    users: Vec<User>,
    certificates: Vec<(Wanted, Identity)>,
    proxy: Option<Proxy>,
    /// How people log in by a provider.
    pub(super) oidc: Option<Arc<Plan>>,
    /// Names that endpoints are reached by.
    pub(crate) hosts: Vec<String>,
    /// Whether endpoints may be open to other hosts without a login.
    pub(crate) insecure: bool,
    /// The configuration decides: its last token may be a revoked one, which is not in `tokens`.
    has_logins: bool,
    /// Passwords that were right, by their HMAC: those of other logins than these count for nothing.
    pub(super) right: Mutex<HashMap<[u8; 32], Instant>>,
}

/// What ends sessions when it changes.
fn entry(hash: &str, roles: &[Role], tenants: &[String], more: [&str; 2]) -> EntryDigest {
    let (roles, tenants) = (format!("{roles:?}"), format!("{tenants:?}"));
    EntryDigest::of([hash, &roles, &tenants].into_iter().chain(more))
}

fn revealed(key: String, secret: &Secret) -> Result<(String, String), BookError> {
    match secret.reveal() {
        Ok(text) => Ok((key, text.trim().to_owned())),
        Err(source) => Err(BookError::Secret { key, source }),
    }
}

impl Book {
    /// Reads the hashes. Blocks.
    pub fn read(config: &AccessConfig) -> Result<Self, BookError> {
        let mut tokens = Vec::new();
        for (i, token) in config.tokens.iter().enumerate() {
            let (key, text) = revealed(format!("tokens[{i}].hash"), &token.hash)?;
            if text == REVOKED {
                continue;
            }
            let hash = TokenHash::parse(&text).map_err(|source| BookError::Hash { key, source })?;
            let entry = entry(&text, &token.roles, &token.tenants, [&token.selector, &token.expires]);
            let rights = rights(&token.roles, &token.tenants, &token.selector);
            // A time that can't be read was reported by the check; until then the token is over.
            let expires_ms = (!token.expires.is_empty()).then(|| expiry_ms(&token.expires).unwrap_or(0));
            tokens.push(Token {
                hash,
                expires_ms,
                identity: Identity { name: token.name.as_str().into(), rights },
                entry,
            });
        }
        let mut users = Vec::new();
        for (i, user) in config.users.iter().enumerate() {
            let (mut digest, mut hash) = (None, String::new());
            if user.hash != Secret::default() {
                let (key, text) = revealed(format!("users[{i}].hash"), &user.hash)?;
                digest = Some(PasswordDigest::parse(&text).map_err(|source| BookError::Hash { key, source })?);
                hash = text;
            }
            let entry = entry(&hash, &user.roles, &user.tenants, [&user.selector, ""]);
            let rights = rights(&user.roles, &user.tenants, &user.selector);
            users.push(User { digest, identity: Identity { name: user.name.as_str().into(), rights }, entry });
        }
        let certificates = config.certificates.iter().map(|certificate| {
            let wanted = if certificate.san.is_empty() {
                Wanted::Subject(format!("User:{}", certificate.subject))
            } else {
                Wanted::San(certificate.san.clone())
            };
            let rights = rights(&certificate.roles, &certificate.tenants, &certificate.selector);
            (wanted, Identity { name: certificate.name.as_str().into(), rights })
        });
        let proxy = config.proxy.as_ref().and_then(|proxy| {
            Some(Proxy {
                networks: proxy.addresses.iter().filter_map(|address| Network::parse(address)).collect(),
                header: HeaderName::try_from(proxy.header.as_str()).ok()?,
                others: (!proxy.roles.is_empty()).then(|| rights(&proxy.roles, &proxy.tenants, "")),
            })
        });
        let oidc = config.oidc.as_ref().map(Plan::read).transpose().map_err(|source| BookError::Oidc { source })?;
        Ok(Self {
            tokens,
            users,
            certificates: certificates.collect(),
            proxy,
            oidc: oidc.map(Arc::new),
            hosts: config.hosts.clone(),
            insecure: config.insecure,
            has_logins: !config.is_open(),
            right: Mutex::default(),
        })
    }

    /// All logins by what they are, each with everything that makes it, to see what a reload changes.
    pub(super) fn logins(&self) -> BTreeMap<String, String> {
        let tokens = self.tokens.iter().map(|token| {
            let made_of = format!("{} {:?} {:?}", token.hash, token.expires_ms, token.identity.rights);
            (format!("token `{}`", token.identity.name), made_of)
        });
        let users = self.users.iter().map(|user| {
            let digest = user.digest.as_ref().map(PasswordDigest::as_str);
            (format!("user `{}`", user.identity.name), format!("{digest:?} {:?}", user.identity.rights))
        });
        let certificates = self.certificates.iter().map(|(wanted, identity)| {
            (format!("certificate `{}`", identity.name), format!("{wanted:?} {:?}", identity.rights))
        });
        let providers = self
            .oidc
            .iter()
            .map(|plan| (format!("login provider `{}`", plan.config.issuer), format!("{:?}", plan.config)));
        tokens.chain(users).chain(certificates).chain(providers).collect()
    }

    /// Names of tokens with their ends, ms since 1970; those without are left out.
    pub(super) fn token_ends(&self) -> impl Iterator<Item = (&str, i64)> {
        self.tokens.iter().filter_map(|token| Some((&*token.identity.name, token.expires_ms?)))
    }

    /// Whether the configuration has any login, be it revoked or expired.
    pub fn has_logins(&self) -> bool {
        self.has_logins
    }

    /// Whose token this is. Compares with all of them.
    pub(crate) fn token(&self, token: &str, now_ms: i64) -> Option<Identity> {
        let hash = TokenHash::of(token);
        let found = self.tokens.iter().fold(None, |found, own| if own.hash.is(&hash) { Some(own) } else { found });
        found.filter(|own| own.expires_ms.is_none_or(|end| now_ms < end)).map(|own| own.identity.clone())
    }

    /// Who has this name, and the digest of the password.
    pub(crate) fn user(&self, name: &str) -> Option<(PasswordDigest, Identity)> {
        let user = self.users.iter().find(|user| &*user.identity.name == name)?;
        Some((user.digest.clone()?, user.identity.clone()))
    }

    /// Who has logged in before: a token or a user by name.
    pub(crate) fn returning(&self, is_token: bool, name: &str, now_ms: i64) -> Option<Identity> {
        if is_token {
            let token = self.tokens.iter().find(|token| &*token.identity.name == name)?;
            return token.expires_ms.is_none_or(|end| now_ms < end).then(|| token.identity.clone());
        }
        self.user(name).map(|(_, identity)| identity)
    }

    /// What the configuration has for a token or a user by name.
    pub(crate) fn entry(&self, is_token: bool, name: &str) -> Option<EntryDigest> {
        if is_token {
            return self.tokens.iter().find(|token| &*token.identity.name == name).map(|token| token.entry);
        }
        self.users.iter().find(|user| &*user.identity.name == name).map(|user| user.entry)
    }

    /// Whether people have passwords or tokens for the form.
    pub(crate) fn has_form(&self) -> bool {
        !self.tokens.is_empty() || self.users.iter().any(|user| user.digest.is_some())
    }

    /// Who has a certificate with this subject and these names.
    pub(crate) fn certificate(&self, subject: &str, names: &[String]) -> Option<Identity> {
        let found = self.certificates.iter().find(|(wanted, _)| match wanted {
            Wanted::Subject(wanted) => wanted == subject,
            Wanted::San(wanted) => names.contains(wanted),
        });
        found.map(|(_, identity)| identity.clone())
    }

    /// Whether an address is one of the proxy's.
    pub(crate) fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxy.as_ref().is_some_and(|proxy| proxy.networks.iter().any(|network| network.has(address)))
    }

    /// The client's address: behind the trusted proxy, the last one that it names.
    pub(crate) fn client_address(&self, headers: &HeaderMap, peer: &Peer) -> IpAddr {
        let own = peer.address.ip();
        if !self.is_proxy(own) {
            return own;
        }
        let named = headers.get("x-forwarded-for").and_then(|value| value.to_str().ok());
        named.and_then(|named| named.rsplit(',').next()?.trim().parse().ok()).unwrap_or(own)
    }

    /// The header by which the trusted proxy names users.
    pub(crate) fn proxy_header(&self) -> Option<&HeaderName> {
        self.proxy.as_ref().map(|proxy| &proxy.header)
    }

    /// Whom the proxy names. `Some(None)`: somebody who may not come in.
    pub(crate) fn proxied(&self, address: IpAddr, headers: &HeaderMap) -> Option<Option<Identity>> {
        let proxy = self.proxy.as_ref().filter(|_| self.is_proxy(address))?;
        let name = headers.get(&proxy.header)?.to_str().ok()?.trim();
        let listed = self.users.iter().find(|user| &*user.identity.name == name).map(|user| user.identity.clone());
        let other = || proxy.others.clone().map(|rights| Identity { name: Arc::from(name), rights });
        Some(listed.or_else(other).filter(|_| !name.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_from_every_scheme() {
        let token = |token: &str| Given::Token(token.to_owned());
        for (value, want) in [
            ("Bearer mlr_x", token("mlr_x")),
            ("bearer  mlr_x ", token("mlr_x")),
            ("ApiKey mlr_x", token("mlr_x")),
            // base64 of `id:mlr_x`
            ("ApiKey aWQ6bWxyX3g=", token("mlr_x")),
            ("Basic dTpwOnE=", Given::Password { user: "u".to_owned(), password: "p:q".to_owned() }),
            ("Basic dQ==", Given::Unreadable),
            ("Basic ???", Given::Unreadable),
            ("Bearer", Given::Unreadable),
            ("Digest x", Given::Unreadable),
            ("", Given::Unreadable),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", value.parse().unwrap());
            assert!(Given::of(&headers) == want, "{value}");
        }
        assert!(Given::of(&HeaderMap::new()) == Given::Nothing);
    }

    #[test]
    fn hashes_that_can_not_be_used_name_their_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hash");
        let config = |hash: &str| AccessConfig {
            tokens: vec![crate::access::config::TokenConfig {
                name: "t".to_owned(),
                hash: Secret::new(hash),
                roles: vec![Role::Read],
                tenants: vec!["default".to_owned()],
                selector: String::new(),
                expires: String::new(),
            }],
            ..AccessConfig::default()
        };
        let file = format!("file:{}", path.display());
        for (content, hash) in [(None, file.as_str()), (Some("x"), &file), (None, "sha256:00")] {
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let Err(error) = Book::read(&config(hash)) else { panic!("{hash}") };
            assert_eq!(error.key(), "tokens[0].hash");
        }
        std::fs::write(&path, format!("{}\n", TokenHash::of("mlr_x"))).unwrap();
        let book = Book::read(&config(&file)).unwrap();
        assert!(book.token("mlr_x", 0).is_some() && book.token("mlr_y", 0).is_none());
        std::fs::write(&path, "revoked\n").unwrap();
        assert!(Book::read(&config(&file)).unwrap().token("mlr_x", 0).is_none());
    }
}
