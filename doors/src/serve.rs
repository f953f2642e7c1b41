//! HTTP listeners as a whole: what stands between the network and a router.
//!
//! In: [`HttpSettings`], an [`axum::Router`]. Out: answers, until the stop. Touches the network, and the files of
//! certificates and secrets.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::config::{ClientAuth, ConnectionLimits, Login, RequestLimits, TlsConfig};
use crate::connection;
use crate::guard::Guard;
use crate::listener::{Bound, Connection};
use crate::login::{LoginError, authenticator};
use crate::refusal::{Render, plain};
use crate::tenant::TenantRule;
use crate::tls::{Tls, TlsError};

/// Protocols for ALPN.
const PROTOCOLS: [&str; 2] = ["h2", "http/1.1"];

/// Everything that a listener is opened with.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// Name for errors and log lines, e.g. `Loki API`.
    pub name: String,
    /// The key of the configuration that sets `listen`.
    pub key: &'static str,
    /// Address, `host:port`; port 0 takes a free one.
    pub listen: String,
    /// TLS. `None`: plain text.
    pub tls: Option<TlsConfig>,
    /// Who may come in.
    pub login: Login,
    /// How tenants are found.
    pub tenants: TenantRule,
    /// Limits of connections.
    pub connections: ConnectionLimits,
    /// Limits of requests.
    pub requests: RequestLimits,
    /// How refusals are written.
    pub render: Render,
}

impl HttpSettings {
    /// With defaults for all but name, key and address.
    pub fn new(name: impl Into<String>, key: &'static str, listen: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            key,
            listen: listen.into(),
            tls: None,
            login: Login::default(),
            tenants: TenantRule::default(),
            connections: ConnectionLimits::default(),
            requests: RequestLimits::default(),
            render: plain,
        }
    }
}

/// Why a listener can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the port.
    #[error(
        "{name} can't listen on {address}: the port is in use; stop the other process, or set `{key}` to another port"
    )]
    InUse {
        /// Which listener.
        name: String,
        /// The address as configured.
        address: String,
        /// The key of the configuration.
        key: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Any other fault of the address.
    #[error("{name} can't listen on {address}: {source}; check `{key}`")]
    Bind {
        /// Which listener.
        name: String,
        /// The address as configured.
        address: String,
        /// The key of the configuration.
        key: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Certificates.
    #[error("TLS of {name} can't be used: {source}")]
    Tls {
        /// Which listener.
        name: String,
        /// The cause.
        #[source]
        source: TlsError,
    },
    /// Logins.
    #[error("login of {name} can't be used: {source}")]
    Login {
        /// Which listener.
        name: String,
        /// The cause.
        #[source]
        source: LoginError,
    },
}

/// A listener that is bound and does not answer yet.
pub struct HttpListener {
    bound: Bound,
    guard: Arc<Guard>,
    connections: ConnectionLimits,
    requires_certificate: bool,
}

impl HttpListener {
    /// Reads certificates and secrets, and binds. Blocks. Warns where other hosts get in without a login.
    pub fn open(settings: HttpSettings) -> Result<Self, OpenError> {
        let name = || settings.name.clone();
        let login = authenticator(&settings.login).map_err(|source| OpenError::Login { name: name(), source })?;
        let requires_certificate = settings.tls.as_ref().is_some_and(|tls| tls.client_auth == ClientAuth::Required);
        let tls = settings.tls.clone().map(|tls| Tls::open_for(tls, &PROTOCOLS)).transpose();
        let tls = tls.map_err(|source| OpenError::Tls { name: name(), source })?;
        let bound = Bound::open(&settings.name, &settings.listen, tls).map_err(|source| {
            let (name, address, key) = (name(), settings.listen.clone(), settings.key);
            match source.kind() {
                io::ErrorKind::AddrInUse => OpenError::InUse { name, address, key, source },
                _ => OpenError::Bind { name, address, key, source },
            }
        })?;
        let guard = Guard::new(&settings.name, login, settings.tenants, settings.requests, settings.render);
        let opened = Self { bound, guard: Arc::new(guard), connections: settings.connections, requires_certificate };
        if !opened.is_private() {
            let (listener, bound) = (&**opened.bound.name(), opened.address());
            tracing::warn!(listener, %bound, "open to other hosts without authentication: bind it to 127.0.0.1 or set a login");
        }
        Ok(opened)
    }

    /// [`HttpListener::open`] on a thread for blocking work.
    pub async fn open_async(settings: HttpSettings) -> Result<Self, OpenError> {
        let (name, key, address) = (settings.name.clone(), settings.key, settings.listen.clone());
        match tokio::task::spawn_blocking(move || Self::open(settings)).await {
            Ok(opened) => opened,
            Err(error) => Err(OpenError::Bind { name, address, key, source: io::Error::other(error) }),
        }
    }

    /// The address that it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.bound.address()
    }

    /// Whether clients speak TLS.
    pub fn has_tls(&self) -> bool {
        self.bound.has_tls()
    }

    /// Whether only this host gets in, or only who logs in or shows a certificate.
    pub fn is_private(&self) -> bool {
        self.guard.requires_login() || self.requires_certificate || self.address().ip().is_loopback()
    }

    /// Answers by a router until `stop`; then takes no more connections, ends those that are idle, and lets the others
    /// have their answers for as long as the limits say.
    ///
    /// Boxed: compiled in this crate, not again in each that serves.
    pub fn serve(self, router: Router, stop: CancellationToken) -> BoxFuture<'static, io::Result<()>> {
        self.serve_until(router, stop).boxed()
    }

    async fn serve_until(self, router: Router, stop: CancellationToken) -> io::Result<()> {
        let Self { bound, guard, connections: limits, .. } = self;
        let app = guard.mount(router);
        let (shared, token) = (Arc::new(limits.clone()), stop.clone());
        let serve = move |Connection { stream, peer, seat }| {
            let (app, limits, stop) = (app.clone(), Arc::clone(&shared), token.clone());
            async move {
                let peer = Arc::new(stream.peer(peer));
                let answer = move |request| {
                    let (app, peer) = (app.clone(), Arc::clone(&peer));
                    async move { app.answer(&peer, request).await }
                };
                connection::serve(stream, Some(seat), &limits, stop, answer).await;
            }
        };
        bound.run(&limits, &stop, serve).await
    }
}
