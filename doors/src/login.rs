//! Logins of HTTP clients: bearer tokens, API keys, users with passwords (RFC 7617).
//!
//! In: heads of requests. Out: who asks ([`Identity`]), or a refusal with 401. Touches the files and variables that
//! secrets are read from, once.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use millrace_log::value::ValueError;

use crate::config::Login;
use crate::refusal::Refusal;
use crate::stream::Peer;

/// Who asks. In the extensions of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name for log lines.
    pub name: Arc<str>,
}

impl Identity {
    /// Nobody in particular.
    pub const ANONYMOUS: &'static str = "anonymous";
}

/// Why logins can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// A secret can't be read.
    #[error(transparent)]
    Secret(#[from] ValueError),
    /// A secret is configured, and nothing is in it: nobody could tell whether that means everybody.
    #[error("`{key}` is empty where its value is read from: put the secret there, or leave the key out")]
    Empty {
        /// `token` or `password`.
        key: &'static str,
    },
}

/// Decides who may come in. One for each listener; further ways to log in are implementations of it.
#[async_trait]
pub trait Authenticate: Send + Sync + 'static {
    /// Who asks, or the refusal.
    async fn authenticate(&self, head: &Parts, peer: &Peer) -> Result<Identity, Refusal>;

    /// Whether anybody is refused: a listener without should stay on loopback.
    fn is_required(&self) -> bool;
}

/// Lets everybody in: for loopback. Whoever shows a certificate has its name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Open;

#[async_trait]
impl Authenticate for Open {
    async fn authenticate(&self, _: &Parts, peer: &Peer) -> Result<Identity, Refusal> {
        let name = peer.certificate.clone().unwrap_or_else(|| Identity::ANONYMOUS.into());
        Ok(Identity { name })
    }

    fn is_required(&self) -> bool {
        false
    }
}

/// Lets in whoever has the token or the password of a [`Login`].
pub struct Credentials {
    /// Whole values of `Authorization` that are let in, with the name of who sends them.
    values: Vec<(String, Identity)>,
    challenge: HeaderValue,
}

impl Credentials {
    /// Reads the secrets now, so that a missing file stops the start. Blocks.
    pub fn new(login: &Login) -> Result<Self, LoginError> {
        let mut values = Vec::new();
        let mut challenges = Vec::new();
        if login.token != millrace_log::value::Secret::default() {
            let token = revealed(login.token.reveal()?, "token")?;
            let who = Identity { name: "token".into() };
            values.push((format!("Bearer {token}"), who.clone()));
            values.push((format!("ApiKey {token}"), who));
            challenges.push("Bearer");
        }
        if !login.username.is_empty() {
            let password = revealed(login.password.reveal()?, "password")?;
            values.push((basic(&login.username, &password), Identity { name: login.username.as_str().into() }));
            challenges.push(r#"Basic realm="millrace""#);
        }
        let challenge = HeaderValue::from_str(&challenges.join(", ")).unwrap_or(HeaderValue::from_static("Bearer"));
        Ok(Self { values, challenge })
    }
}

fn revealed(secret: String, key: &'static str) -> Result<String, LoginError> {
    if secret.is_empty() { Err(LoginError::Empty { key }) } else { Ok(secret) }
}

/// Value of `Authorization` for user and password (RFC 7617).
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

/// Compares in full whatever differs, so that the time says nothing.
fn is_equal(want: &[u8], given: &[u8]) -> bool {
    want.len() == given.len() && want.iter().zip(given).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[async_trait]
impl Authenticate for Credentials {
    async fn authenticate(&self, head: &Parts, _: &Peer) -> Result<Identity, Refusal> {
        let given = head.headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let found = self.values.iter().fold(None, |found, (want, who)| {
            let is_this = is_equal(want.as_bytes(), given);
            if is_this { Some(who) } else { found }
        });
        found.cloned().ok_or_else(|| {
            let text = "login required: send a token, or user and password, in the header `Authorization`";
            let mut refusal = Refusal::new(StatusCode::UNAUTHORIZED, text);
            refusal.challenge = Some(self.challenge.clone());
            refusal
        })
    }

    fn is_required(&self) -> bool {
        true
    }
}

/// What a [`Login`] requires. Blocks where secrets are in files.
pub fn authenticator(login: &Login) -> Result<Arc<dyn Authenticate>, LoginError> {
    if login.is_open() { Ok(Arc::new(Open)) } else { Ok(Arc::new(Credentials::new(login)?)) }
}

#[cfg(test)]
mod tests {
    use millrace_log::value::Secret;

    use super::*;

    async fn ask(authenticate: &dyn Authenticate, authorization: Option<&str>) -> Result<String, Refusal> {
        let builder = http::Request::builder().uri("/");
        let builder = authorization.iter().fold(builder, |b, value| b.header("Authorization", *value));
        let (head, ()) = builder.body(()).unwrap().into_parts();
        let peer = Peer { address: "127.0.0.1:1".parse().unwrap(), certificate: None };
        Ok(authenticate.authenticate(&head, &peer).await?.name.to_string())
    }

    #[tokio::test]
    async fn tokens_and_passwords_are_checked() {
        let login = Login { token: Secret::new("s3cret"), username: "grafana".to_owned(), password: Secret::new("pw") };
        let both = authenticator(&login).unwrap();
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
            let found = ask(&*both, given).await;
            assert_eq!(found.as_deref().ok(), want, "{given:?}");
            if let Err(refusal) = found {
                assert_eq!((refusal.status.as_u16(), refusal.text.contains("login required")), (401, true));
                assert_eq!(refusal.challenge.unwrap(), r#"Bearer, Basic realm="millrace""#);
            }
        }
        assert!(both.is_required());
        let user = authenticator(&Login { token: Secret::default(), ..login.clone() }).unwrap();
        assert!(ask(&*user, Some("Bearer ")).await.is_err(), "no token is none that is empty");
        let open = authenticator(&Login::default()).unwrap();
        assert_eq!((ask(&*open, None).await.unwrap().as_str(), open.is_required()), ("anonymous", false));
    }

    #[test]
    fn secrets_that_are_missing_or_empty_stop_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let login = Login { token: Secret::new(format!("file:{}", path.display())), ..Login::default() };
        assert!(matches!(Credentials::new(&login), Err(LoginError::Secret(_))));
        std::fs::write(&path, "\n").unwrap();
        let Err(error) = authenticator(&login) else { panic!("an empty token lets everybody in") };
        assert!(error.to_string().contains("`token` is empty"), "{error}");
        std::fs::write(&path, "s3cret\n").unwrap();
        assert!(Credentials::new(&login).is_ok());
    }
}
