//! How receivers are reached by HTTP: Alertmanager's `http_config`.
//!
//! In: what a configuration says. Out: plain values. Touches nothing.

use crate::credential::Credential;

/// How a receiver is reached by HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// What it is shown.
    pub auth: Auth,
    /// Whether redirects are followed.
    pub follow_redirects: bool,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { auth: Auth::None, follow_redirects: true }
    }
}

/// What a server is shown to let us in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// Nothing.
    None,
    /// User and password.
    Basic {
        /// User.
        username: String,
        /// Password.
        password: Credential,
    },
    /// `Authorization: KIND CREDENTIALS`.
    Header {
        /// Kind, as `Bearer`.
        kind: String,
        /// The rest.
        credentials: Credential,
    },
}

/// The header `Authorization: Bearer TOKEN`.
pub(crate) fn bearer(credentials: Credential) -> Auth {
    Auth::Header { kind: "Bearer".to_owned(), credentials }
}
