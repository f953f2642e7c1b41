//! The doors of the broker: listeners with their own addresses, TLS, logins and limits.
//!
//! In: the configuration, connections. Out: connections whose client is known, one task each. Touches the network and
//! the files of certificates. A connection over a limit is closed at once and counted; what a connection asks is left
//! to [`super::connection`].

/// Whether roles of the same process get in.
pub(super) mod clients;
/// What a listener can be told.
pub(super) mod config;
/// From a new connection to a client who is known.
pub(super) mod entry;
/// Streams, plain or under TLS.
pub(super) mod stream;
mod tally;
/// Certificates.
pub(super) mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::config::{ListenerConfig, SaslConfig, host_and_port};
use self::tally::Tally;
pub(super) use self::tally::{Rate, Seat};
use super::connection;
use super::context::Core;
use super::error::BrokerError;
use crate::metrics::EndLabel;

/// Pause after the system refused a connection (mostly: out of file handles).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time that open connections have for their last answers at a stop.
pub(super) const DRAIN: Duration = Duration::from_secs(5);
/// Time between two looks at the files of certificates.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(5);
/// Time between two log lines of the same kind: clients must not be able to fill the log.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// Lets through one log line in a while.
#[derive(Debug)]
pub(super) struct Seldom {
    began: Instant,
    /// Milliseconds since `began`, plus one; nought before the first.
    last: AtomicU64,
}

impl Seldom {
    fn new() -> Self {
        Self { began: Instant::now(), last: AtomicU64::new(0) }
    }

    /// Whether it is time again.
    pub fn may(&self) -> bool {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        let last = self.last.load(Ordering::Relaxed);
        let pause = u64::try_from(LOG_PAUSE.as_millis()).unwrap_or(u64::MAX);
        (last == 0 || now.saturating_sub(last) >= pause)
            && self.last.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// One door as it runs.
#[derive(Debug)]
pub(super) struct Listener {
    /// For metrics: names are few and live as long as the process.
    pub name: &'static str,
    pub config: ListenerConfig,
    advertised: Option<(String, i32)>,
    tls: Option<tls::Tls>,
    tally: Arc<Tally>,
    seldom: Seldom,
}

impl Listener {
    /// Reads its certificates. Blocks.
    pub fn open(config: ListenerConfig) -> Result<Self, BrokerError> {
        let tls = config.tls.clone().map(tls::Tls::open).transpose();
        let tls = tls.map_err(|source| BrokerError::Tls { listener: config.name.clone(), source })?;
        let advertised = config.advertised.as_deref().and_then(host_and_port);
        Ok(Self {
            name: name_for_metrics(&config.name),
            advertised: advertised.map(|(host, port)| (host.to_owned(), i32::from(port))),
            tls,
            tally: Arc::new(Tally::new(config.limits.clone())),
            seldom: Seldom::new(),
            config,
        })
    }

    /// Host and port that its clients are told; absent: those they reached it by.
    pub fn advertised(&self) -> Option<(&str, i32)> {
        self.advertised.as_ref().map(|(host, port)| (host.as_str(), *port))
    }

    /// How clients log in, if they do.
    pub fn sasl(&self) -> Option<&SaslConfig> {
        self.config.sasl.as_ref()
    }

    /// What the connections of one user from one address may ask together.
    pub fn rate(&self, principal: &str, from: SocketAddr) -> Option<Arc<Rate>> {
        self.tally.rate(principal, from.ip())
    }

    /// Kafka's name of its security.
    pub fn protocol(&self) -> &'static str {
        match (&self.config.tls, &self.config.sasl) {
            (None, None) => "PLAINTEXT",
            (Some(_), None) => "SSL",
            (None, Some(_)) => "SASL_PLAINTEXT",
            (Some(_), Some(_)) => "SASL_SSL",
        }
    }

    fn has_strangers(&self) -> bool {
        self.tls.is_some() || self.config.sasl.is_some()
    }
}

/// Labels of metrics are static; a process opens few listeners, and those of the same name share theirs.
fn name_for_metrics(name: &str) -> &'static str {
    static NAMES: parking_lot::Mutex<Vec<&'static str>> = parking_lot::Mutex::new(Vec::new());
    let mut names = NAMES.lock();
    if let Some(known) = names.iter().find(|known| **known == name) {
        return known;
    }
    let leaked: &'static str = Box::leak(name.to_owned().into_boxed_str());
    names.push(leaked);
    leaked
}

/// Takes connections until the stop; then lets them finish.
pub(super) async fn serve(core: Arc<Core>, listener: Arc<Listener>, socket: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = core.stop.cancelled() => break,
            accepted = socket.accept() => match accepted {
                Ok((stream, from)) => {
                    let Some(seat) = admit(&core, &listener, from) else { continue };
                    connections.spawn(connection::serve(Arc::clone(&core), Arc::clone(&listener), seat, stream, from));
                }
                Err(error) => {
                    if listener.seldom.may() {
                        tracing::warn!(listener = listener.name, %error, "connections can't be accepted: is the limit of open files high enough?");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(socket);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::warn!(
            listener = listener.name,
            open = connections.len(),
            "connections are closed before their last answer"
        );
    }
    connections.shutdown().await;
}

/// A seat in the listener and one in the broker.
#[derive(Debug)]
pub(super) struct Admitted {
    seat: Seat,
    core: Arc<Core>,
    listener: &'static str,
}

impl Admitted {
    /// The client has shown who it is.
    pub fn is_known_now(&mut self) {
        self.seat.is_known_now();
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.core.open.fetch_sub(1, Ordering::Relaxed);
        self.core.metrics.connections.get_or_create(&crate::metrics::ListenerLabel { listener: self.listener }).dec();
    }
}

fn admit(core: &Arc<Core>, listener: &Arc<Listener>, from: SocketAddr) -> Option<Admitted> {
    let seat = listener.tally.seat(from.ip(), listener.has_strangers());
    let (cause, setting) = match seat {
        Ok(seat) => {
            if core.open.fetch_add(1, Ordering::Relaxed) < core.config.max_connections {
                let label = crate::metrics::ListenerLabel { listener: listener.name };
                core.metrics.connections.get_or_create(&label).inc();
                return Some(Admitted { seat, core: Arc::clone(core), listener: listener.name });
            }
            core.open.fetch_sub(1, Ordering::Relaxed);
            ("limit", "max_connections")
        }
        Err(full) => (full.cause(), full.setting()),
    };
    core.metrics.connections_ended.get_or_create(&EndLabel { listener: listener.name, cause }).inc();
    if listener.seldom.may() {
        tracing::warn!(listener = listener.name, %from, setting, "connection refused: the limit is reached");
    }
    None
}

/// Looks at the files of certificates now and then, until the stop.
pub(super) async fn keep_certificates(core: Arc<Core>) {
    let mut check = tokio::time::interval(CERTIFICATE_CHECK);
    check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            _ = check.tick() => {}
        }
        for listener in core.doors.iter().filter(|listener| listener.tls.is_some()) {
            let of = Arc::clone(listener);
            let refreshed = tokio::task::spawn_blocking(move || of.tls.as_ref().map(tls::Tls::refresh)).await;
            match refreshed {
                Ok(Some(Ok(true))) => tracing::info!(listener = listener.name, "new certificates are in force"),
                Ok(Some(Err(error))) => {
                    tracing::error!(listener = listener.name, %error, "new certificates can't be used, the old ones stay in force");
                }
                _ => {}
            }
        }
    }
}
