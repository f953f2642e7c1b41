//! Settings of listeners: logins and TLS as users write them in YAML, and the limits that crates give their listeners.
//!
//! In: YAML as the binary read it. Out: typed values with defaults, and faults that types can't say. Touches nothing:
//! files are read by `tls.rs`, secrets by `login.rs`.

use std::time::Duration;

use millrace_log::value::{Faults, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who may use an API: whoever has the token, or the user with the password. Nobody is refused while it is empty.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Login {
    /// Bearer token or API key; empty: none.
    pub token: Secret,
    /// User of basic authentication; empty: none.
    pub username: String,
    /// Password of basic authentication.
    pub password: Secret,
}

impl Login {
    /// Whether no login is required.
    pub fn is_open(&self) -> bool {
        self.username.is_empty() && self.token == Secret::default()
    }

    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        let has_password = self.password != Secret::default();
        if !self.username.is_empty() && !has_password {
            faults.add("password", "is empty: a user needs a password");
        }
        if self.username.is_empty() && has_password {
            faults.add("username", "is empty: a password needs a user");
        }
    }
}

/// TLS of a listener. The files are read again when they change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// File with the listener's certificate chain, PEM.
    pub cert_file: String,
    /// File with the certificate's private key, PEM.
    pub key_file: String,
    /// File with the certificate authorities for clients' certificates, PEM; required with `client_auth`.
    pub client_ca_file: String,
    /// Whether clients are asked for a certificate: `none`, `requested` or `required`. Its subject names the user,
    /// e.g. `User:CN=agent-7`, unless the listener has SASL.
    pub client_auth: ClientAuth,
}

/// Whether clients must present a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// No certificate is requested.
    #[default]
    None,
    /// A certificate is requested; a client without one is `User:ANONYMOUS`.
    Requested,
    /// A client without a certificate is rejected.
    Required,
}

impl TlsConfig {
    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        for (key, path) in [("cert_file", &self.cert_file), ("key_file", &self.key_file)] {
            if path.is_empty() {
                faults.add(key, "is missing: set it to a PEM file");
            }
        }
        match (self.client_auth, self.client_ca_file.is_empty()) {
            (ClientAuth::None, false) => {
                faults.add("client_auth", "is `none`, so client_ca_file has no effect: set it to `required`");
            }
            (ClientAuth::Requested | ClientAuth::Required, true) => {
                faults.add(
                    "client_ca_file",
                    "is missing: set it to a PEM file with the certificate authorities for clients",
                );
            }
            _ => {}
        }
    }
}

/// How many connections a listener takes, and how long they may make it wait.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// Connections at once; others wait to be accepted.
    pub max: usize,
    /// Connections of one address at once; others are closed, unless one of them makes room.
    pub max_per_address: usize,
    /// How long a connection waits for its client before it may have to make room for another.
    pub shed_after: Duration,
    /// Time for the TLS handshake.
    pub handshake: Duration,
    /// Time from the first byte of a request's head to its last, and from the start of a connection to its first request.
    pub head: Duration,
    /// Time without a request after which a connection is closed (HTTP/1.1; those of HTTP/2 must answer pings instead).
    pub idle: Duration,
    /// Time for which a client may leave an answer unread.
    pub write: Duration,
    /// Time that requests have for their answers at a stop. `None`: the caller bounds it.
    pub drain: Option<Duration>,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max: 2000,
            max_per_address: 1000,
            shed_after: Duration::from_secs(1),
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            // Above the 90 s for which Go's and other clients keep an idle connection: they should close first.
            idle: Duration::from_secs(120),
            write: Duration::from_secs(60),
            // Live tails never end by themselves.
            drain: Some(Duration::from_secs(2)),
        }
    }
}

/// How large requests of a listener may be, how fast their bodies must come, and how many are answered at once.
#[derive(Debug, Clone)]
pub struct RequestLimits {
    /// Bytes of a body as sent.
    pub max_body: u64,
    /// The key of the configuration that sets `max_body`.
    pub max_body_key: &'static str,
    /// Time that the listener waits for a client's body, all its waits together, besides what `body_rate` adds.
    pub body_wait: Duration,
    /// Bytes per second that earn further time. 0: none do.
    pub body_rate: u64,
    /// The key of the configuration that sets `body_wait`; empty: there is none.
    pub body_wait_key: &'static str,
    /// Requests answered at once; others wait once they are there as a whole.
    pub max_concurrent: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            max_body: 16 << 20,
            max_body_key: "max_body",
            body_wait: Duration::from_secs(15),
            body_rate: 8 << 10,
            body_wait_key: "",
            max_concurrent: 256,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_logins_and_incomplete_tls_are_reported() {
        let login = |token: &str, username: &str, password: &str| Login {
            token: Secret::new(token),
            username: username.to_owned(),
            password: Secret::new(password),
        };
        for (login, is_open, want) in [
            (login("", "", ""), true, vec![]),
            (login("t", "", ""), false, vec![]),
            (login("", "u", "p"), false, vec![]),
            (login("", "u", ""), false, vec!["password"]),
            (login("", "", "p"), true, vec!["username"]),
        ] {
            let mut faults = Faults::default();
            login.check(&mut faults);
            let found: Vec<String> = faults.into_vec().into_iter().map(|fault| fault.path).collect();
            assert_eq!((login.is_open(), found), (is_open, want.iter().map(|s| (*s).to_owned()).collect()));
        }
        let tls = TlsConfig { client_auth: ClientAuth::Required, ..TlsConfig::default() };
        let mut faults = Faults::default();
        tls.check(&mut faults);
        let found: Vec<String> = faults.into_vec().into_iter().map(|fault| fault.path).collect();
        assert_eq!(found, ["cert_file", "key_file", "client_ca_file"]);
    }
}
