//! Who may use a listener: its own login, which may do everything, and the logins of all listeners ([`Access`]).
//!
//! In: heads of requests. Out: who asks ([`Identity`]), or a refusal with 401 or 429. Touches the files and variables
//! that secrets of the listener's own login are read from, once.

use std::sync::Arc;

use base64::Engine as _;
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use millrace_log::value::ValueError;

use crate::access::hash::{EntryDigest, is_equal};
use crate::access::session::{Basis, Kind, Session};
use crate::access::{Access, Denied};
use crate::config::Login;
use crate::identity::Identity;
use crate::refusal::Refusal;
use crate::stream::Peer;

/// Why logins can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// A secret can't be read.
    #[error(transparent)]
    Secret(#[from] ValueError),
    /// A secret is configured, and nothing is in it: nobody could tell whether that means everybody.
    #[error("`{key}` is empty in its file or environment variable: put the secret there, or remove the key")]
    Empty {
        /// `token` or `password`.
        key: &'static str,
    },
}

/// Lets in whoever has the token or the password of a [`Login`].
pub struct Credentials {
    /// Whole values of `Authorization` that are let in, with the name of who sends them.
    values: Vec<(String, Arc<str>)>,
    challenge: Vec<&'static str>,
}

impl Credentials {
    /// Reads the secrets now, so that a missing file stops the start. Blocks.
    pub fn new(login: &Login) -> Result<Self, LoginError> {
        let mut values = Vec::new();
        let mut challenge = Vec::new();
        if login.token != millrace_log::value::Secret::default() {
            let token = revealed(login.token.reveal()?, "token")?;
            let who: Arc<str> = "token".into();
            values.push((format!("Bearer {token}"), Arc::clone(&who)));
            values.push((format!("ApiKey {token}"), who));
            challenge.push(BEARER);
        }
        if !login.username.is_empty() {
            let password = revealed(login.password.reveal()?, "password")?;
            values.push((basic(&login.username, &password), login.username.as_str().into()));
            challenge.push(BASIC);
        }
        Ok(Self { values, challenge })
    }

    /// Who sends this value of `Authorization`. Compares with all of them.
    fn of(&self, given: &[u8]) -> Option<&Arc<str>> {
        self.values
            .iter()
            .fold(None, |found, (want, who)| if is_equal(want.as_bytes(), given) { Some(who) } else { found })
    }

    /// What ends sessions of a name when it changes.
    fn entry(&self, name: &str) -> Option<EntryDigest> {
        let own: Vec<&str> =
            self.values.iter().filter(|(_, who)| &**who == name).map(|(value, _)| value.as_str()).collect();
        (!own.is_empty()).then(|| EntryDigest::of(own))
    }
}

fn revealed(secret: String, key: &'static str) -> Result<String, LoginError> {
    if secret.is_empty() { Err(LoginError::Empty { key }) } else { Ok(secret) }
}

/// Value of `Authorization` for user and password (RFC 7617).
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

/// Ways to log in, as `WWW-Authenticate` lists them.
const BEARER: &str = "Bearer";
const BASIC: &str = r#"Basic realm="millrace""#;

/// What lets requests of one listener in: its own login, and those of all listeners.
pub struct Gate {
    /// Name of the listener.
    pub(crate) listener: Arc<str>,
    own: Option<Credentials>,
    /// Logins of all listeners.
    pub(crate) access: Option<Access>,
    /// Whether other hosts reach the listener, and need no certificate for it.
    is_exposed: bool,
}

/// Who was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entered {
    pub who: Identity,
    /// On what a session could begin.
    pub basis: Option<Basis>,
    /// The session that they came by.
    pub session: Option<Session>,
}

impl Gate {
    /// Reads the secrets of the listener's own login. Blocks.
    pub fn open(listener: &str, login: &Login, access: Option<Access>, is_exposed: bool) -> Result<Self, LoginError> {
        let own = if login.is_open() { None } else { Some(Credentials::new(login)?) };
        Ok(Self { listener: listener.into(), own, access, is_exposed })
    }

    /// Whether anybody is refused.
    pub fn is_required(&self) -> bool {
        self.own.is_some() || self.access.as_ref().is_some_and(|access| !access.is_open())
    }

    /// Whether everybody who reaches the listener may do everything, and nobody said that this is meant.
    pub fn is_open_by_mistake(&self) -> bool {
        let is_meant = self.access.as_ref().is_some_and(|access| access.book().insecure);
        self.is_exposed && !self.is_required() && !is_meant
    }

    /// Who sent a request.
    pub(crate) async fn identify(&self, head: &Parts, peer: &Peer) -> Result<Entered, Refusal> {
        let entered = |who: Identity, kind: Option<Kind>| {
            let basis = kind.map(|kind| Basis::of(kind, &*who.name));
            Ok(Entered { who, basis, session: None })
        };
        if !self.is_required() {
            if self.is_open_by_mistake() {
                let text = "this endpoint is open to other hosts and has no login: configure `access`";
                return Err(Refusal::new(StatusCode::UNAUTHORIZED, text));
            }
            let name = peer.certificate.clone().unwrap_or_else(|| Identity::ANONYMOUS.into());
            return entered(Identity::unlimited(name), None);
        }
        let given = head.headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        if let (Some(own), Some(given)) = (&self.own, given)
            && let Some(name) = own.of(given)
        {
            return entered(Identity::unlimited(Arc::clone(name)), Some(Kind::Own));
        }
        let Some(access) = &self.access else { return Err(self.refusal(head, given.is_some())) };
        let denied = if access.is_open() {
            match given {
                None => Denied::Nothing,
                Some(_) => access.throttled(access.address(&head.headers, peer)).unwrap_or(Denied::Wrong),
            }
        } else {
            match access.identify(&head.headers, peer).await {
                Ok((kind, who)) => return entered(who, kind),
                Err(denied) => denied,
            }
        };
        match denied {
            Denied::Nothing => match self.returning(access, head) {
                Some((who, session)) => Ok(Entered { who, basis: None, session: Some(session) }),
                None => Err(self.refusal(head, false)),
            },
            Denied::Wrong => {
                access.failed(&self.listener, access.address(&head.headers, peer), &head.headers);
                Err(self.refusal(head, true))
            }
            Denied::Wait(seconds) => {
                let text = format!("too many failed logins from this address: try again in {seconds} s");
                let mut refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, text);
                refusal.retry_after = Some(seconds);
                Err(refusal)
            }
            Denied::Forbidden(user) => {
                let text = "the token is valid, but none of its groups has an entry in access.oidc.grants";
                // The audit event is that of the refusal.
                access.count_failed(&self.listener, access.address(&head.headers, peer), &user, text);
                Err(Refusal { user, ..Refusal::new(StatusCode::FORBIDDEN, text) })
            }
            Denied::Unavailable => {
                let text = "the token can't be checked: the login provider can't be reached; try again";
                let mut refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text);
                refusal.retry_after = Some(5);
                Err(refusal)
            }
        }
    }

    /// Whether a request would still be let in as who it was. Counts nothing as a failed login.
    pub(crate) async fn knows(&self, head: &Parts, peer: &Peer, who: &Identity) -> bool {
        if !self.is_required() {
            return !self.is_open_by_mistake();
        }
        let given = head.headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        if let (Some(own), Some(given)) = (&self.own, given)
            && own.of(given).is_some()
        {
            return true;
        }
        let Some(access) = self.access.as_ref().filter(|access| !access.is_open()) else { return false };
        match access.identify(&head.headers, peer).await {
            Ok((_, found)) => found == *who,
            Err(Denied::Nothing) => self.returning(access, head).is_some_and(|(found, _)| found == *who),
            // Nothing says that it has ended.
            Err(Denied::Unavailable | Denied::Wait(_)) => true,
            Err(Denied::Wrong | Denied::Forbidden(_)) => false,
        }
    }

    /// What the configuration has for somebody, which ends their session when it changes.
    pub(crate) fn entry(&self, access: &Access, kind: Kind, name: &str) -> Option<EntryDigest> {
        match kind {
            Kind::Own => self.own.as_ref()?.entry(name),
            kind => access.entry(kind, name),
        }
    }

    /// Whether people have a password or a token for the form.
    pub(crate) fn has_form(&self) -> bool {
        self.own.is_some() || self.access.as_ref().is_some_and(|access| access.book().has_form())
    }

    /// The session of a request, be it due to be renewed.
    pub(crate) fn session(&self, access: &Access, head: &Parts) -> Option<Session> {
        let entry = |kind: Kind, name: &str| self.entry(access, kind, name);
        access.sessions().of(&head.headers, access.now_ms(), entry)
    }

    /// Whether a request has a session that the login provider is to renew.
    pub(crate) fn is_due(&self, head: &Parts) -> bool {
        let access = self.access.as_ref();
        access.is_some_and(|access| self.session(access, head).is_some_and(|session| access.is_due(&session.of)))
    }

    /// Who comes back with a session.
    pub(crate) fn returning(&self, access: &Access, head: &Parts) -> Option<(Identity, Session)> {
        let session = self.session(access, head).filter(|session| !access.is_due(&session.of))?;
        let basis = &session.of.basis;
        let who = match basis.kind {
            Kind::Own => Identity::unlimited(basis.name.as_str()),
            _ => access.returning(basis)?,
        };
        Some((who, session))
    }

    fn refusal(&self, head: &Parts, is_wrong: bool) -> Refusal {
        let text = if is_wrong {
            "login failed: the token is unknown or expired, or the user name or password is wrong"
        } else {
            "login required: send a token, or user and password, in the header `Authorization`"
        };
        let mut refusal = Refusal::new(StatusCode::UNAUTHORIZED, text);
        let own = self.own.iter().flat_map(|own| own.challenge.iter().copied());
        let all = self.access.iter().filter(|access| !access.is_open()).flat_map(|_| [BEARER, BASIC]);
        // Scripts of the page send people to the form; browsers would ask for a password in a window of their own.
        let is_script = head.headers.get("sec-fetch-dest").is_some_and(|dest| dest == "empty");
        let mut ways: Vec<&str> = own.chain(all).filter(|way| !is_script || *way == BEARER).collect();
        ways.sort_unstable_by(|a, b| b.cmp(a));
        ways.dedup();
        refusal.challenge = HeaderValue::from_str(&ways.join(", ")).ok().filter(|ways| !ways.is_empty());
        refusal
    }
}

#[cfg(test)]
mod tests {
    use millrace_log::value::Secret;

    use super::*;
    use crate::access::config::AccessConfig;

    fn head(authorization: Option<&str>) -> Parts {
        let builder = http::Request::builder().uri("/");
        let builder = authorization.iter().fold(builder, |b, value| b.header("Authorization", *value));
        builder.body(()).unwrap().into_parts().0
    }

    fn peer() -> Peer {
        Peer { address: "127.0.0.1:1".parse().unwrap(), certificate: None, is_tls: false, names: Arc::new([]) }
    }

    fn gate(login: &Login) -> Gate {
        Gate::open("test", login, None, false).unwrap()
    }

    async fn ask(gate: &Gate, authorization: Option<&str>) -> Result<String, Refusal> {
        Ok(gate.identify(&head(authorization), &peer()).await?.who.name.to_string())
    }

    #[tokio::test]
    async fn tokens_and_passwords_are_checked() {
        let login = Login { token: Secret::new("s3cret"), username: "grafana".to_owned(), password: Secret::new("pw") };
        let both = gate(&login);
        for (given, want) in [
            (None, None),
            (Some(""), None),
            (Some("Bearer"), None),
            (Some("Bearer "), None),
            (Some("Bearer wrong!"), None),
            (Some("bearer s3cret"), None),
            (Some("Bearer s3cret "), None),
            (Some("Bearer s3cret"), Some("token")),
            (Some("ApiKey s3cret"), Some("token")),
            (Some("Basic Z3JhZmFuYTpwdw=="), Some("grafana")),
            (Some("Basic Z3JhZmFuYTpvdGhlcg=="), None),
        ] {
            let found = ask(&both, given).await;
            assert_eq!(found.as_deref().ok(), want, "{given:?}");
            if let Err(refusal) = found {
                let text = if given.is_some() { "login failed" } else { "login required" };
                assert_eq!((refusal.status.as_u16(), refusal.text.contains(text)), (401, true));
                assert_eq!(refusal.challenge.unwrap(), r#"Bearer, Basic realm="millrace""#);
            }
        }
        assert!(both.is_required());
        let user = gate(&Login { token: Secret::default(), ..login.clone() });
        assert!(ask(&user, Some("Bearer ")).await.is_err(), "no token is none that is empty");
        let open = gate(&Login::default());
        assert_eq!((ask(&open, None).await.unwrap().as_str(), open.is_required()), ("anonymous", false));
    }

    #[tokio::test]
    async fn listeners_that_other_hosts_reach_are_open_only_where_that_is_meant() {
        let access = Access::new(millrace_log::clock::SystemClock::shared()).unwrap();
        for (is_exposed, insecure, want) in [(false, false, true), (true, false, false), (true, true, true)] {
            access.replace(&AccessConfig { insecure, ..AccessConfig::default() }).unwrap();
            let gate = Gate::open("test", &Login::default(), Some(access.clone()), is_exposed).unwrap();
            assert_eq!((ask(&gate, None).await.is_ok(), gate.is_open_by_mistake()), (want, !want), "{is_exposed}");
        }
    }

    #[test]
    fn secrets_that_are_missing_or_empty_stop_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let login = Login { token: Secret::new(format!("file:{}", path.display())), ..Login::default() };
        assert!(matches!(Credentials::new(&login), Err(LoginError::Secret(_))));
        std::fs::write(&path, "\n").unwrap();
        let Err(error) = Credentials::new(&login) else { panic!("an empty token lets everybody in") };
        assert!(error.to_string().contains("`token` is empty"), "{error}");
        std::fs::write(&path, "s3cret\n").unwrap();
        assert!(Credentials::new(&login).is_ok());
    }
}
