//! HTTP listeners as a whole: what stands between the network and the routes of an API.
//!
//! In: [`HttpSettings`], [`LiveRoutes`]. Out: answers, until the stop. Touches the network, and the files of
//! certificates and secrets.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::config::{ClientAuth, ConnectionLimits, Login, RequestLimits, TlsConfig};
use crate::connection;
use crate::guard::Guard;
use crate::listener::{Bound, Connection};
use crate::login::{Gate, LoginError};
use crate::refusal::{Render, plain};
use crate::routes::LiveRoutes;
use crate::stream::peer_of;
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
    /// The listener's own login, which may do everything.
    pub login: Login,
    /// Logins of all listeners of the process. `None`: only its own.
    pub access: Option<Access>,
    /// Whether people log in by a form.
    pub has_page: bool,
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
            access: None,
            has_page: false,
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
    /// Other hosts would get in without a login.
    #[error(
        "{name} would be open to other hosts without a login on {address}: bind `{key}` to 127.0.0.1, configure \
         `access`, or set `access.insecure: true`"
    )]
    Exposed {
        /// Which listener.
        name: String,
        /// The address as configured.
        address: String,
        /// The key of the configuration.
        key: &'static str,
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

/// Who gets in by a listener.
#[derive(Clone)]
pub struct Privacy {
    guard: Arc<Guard>,
    is_closed: bool,
}

impl Privacy {
    /// Whether only this host gets in, or only who logs in or shows a certificate.
    pub fn is_private(&self) -> bool {
        self.is_closed || self.guard.gate().is_required()
    }
}

/// A listener that is bound and does not answer yet.
pub struct HttpListener {
    bound: Bound,
    guard: Arc<Guard>,
    connections: ConnectionLimits,
    requires_certificate: bool,
}

impl HttpListener {
    /// Reads certificates and secrets, and binds. Blocks. Refuses where other hosts would get in without a login.
    pub fn open(settings: HttpSettings) -> Result<Self, OpenError> {
        let name = || settings.name.clone();
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
        let is_loopback = bound.address().ip().is_loopback();
        let is_exposed = !is_loopback && !requires_certificate;
        let gate = Gate::open(&settings.name, &settings.login, settings.access, is_exposed);
        let gate = gate.map_err(|source| OpenError::Login { name: name(), source })?;
        if gate.is_open_by_mistake() {
            return Err(OpenError::Exposed { name: name(), address: settings.listen, key: settings.key });
        }
        let guard = Guard::new(gate, settings.tenants, settings.requests, settings.render);
        let guard = Arc::new(guard.reached_by(is_loopback, settings.has_page));
        let opened = Self { bound, guard, connections: settings.connections, requires_certificate };
        if !opened.privacy().is_private() {
            let (listener, bound) = (&**opened.bound.name(), opened.address());
            tracing::warn!(listener, %bound, "open to other hosts without a login (access.insecure): everybody who reaches it may read and change everything");
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

    /// Who gets in, also later.
    pub fn privacy(&self) -> Privacy {
        let is_closed = self.requires_certificate || self.address().ip().is_loopback();
        Privacy { guard: Arc::clone(&self.guard), is_closed }
    }

    /// Answers by routes, which may be replaced meanwhile, until `stop`; then takes no more connections, ends those that
    /// are idle, and lets the others have their answers for as long as the limits say.
    ///
    /// Boxed: compiled in this crate, not again in each that serves.
    pub fn serve(self, routes: impl Into<LiveRoutes>, stop: CancellationToken) -> BoxFuture<'static, io::Result<()>> {
        self.serve_until(routes.into(), stop).boxed()
    }

    async fn serve_until(self, routes: LiveRoutes, stop: CancellationToken) -> io::Result<()> {
        let Self { bound, guard, connections: limits, .. } = self;
        let app = guard.mount(routes);
        let (shared, token) = (Arc::new(limits.clone()), stop.clone());
        let serve = move |Connection { stream, peer, seat }| {
            let (app, limits, stop) = (app.clone(), Arc::clone(&shared), token.clone());
            async move {
                let peer = Arc::new(peer_of(&stream, peer));
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
