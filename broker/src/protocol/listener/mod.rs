//! Listeners: address, TLS, SASL and limits of one, as it runs.
//!
//! In: the configuration. Out: [`Listener`], shared by its connections. Touches the files of certificates. Connections are
//! accepted in [`crate::protocol::accept`].

/// Streams, plain or under TLS.
pub(crate) mod stream;
/// Limits of a listener: connections by address, failed logins, request rates.
pub(crate) mod limits;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::config::listener::{ListenerConfig, SaslConfig, host_and_port};
use crate::protocol::error::BrokerError;
use crate::protocol::listener::limits::{ListenerLimits, Rate};
use millrace_doors::tls::Tls;

/// Time between two log lines of the same kind: clients must not be able to fill the log.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// Lets through one log line in a while.
#[derive(Debug)]
pub(crate) struct LogLimit {
    began: Instant,
    /// Milliseconds since `began`, plus one; nought before the first.
    last: AtomicU64,
}

impl LogLimit {
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

/// One listener as it runs.
#[derive(Debug)]
pub(crate) struct Listener {
    /// For metrics: names are few and live as long as the process.
    pub name: &'static str,
    pub config: ListenerConfig,
    advertised: Option<(String, i32)>,
    pub tls: Option<Tls>,
    /// Its connections by address, failed logins, request rates.
    pub limits: Arc<ListenerLimits>,
    /// Log lines that clients cause.
    pub log_limit: LogLimit,
}

impl Listener {
    /// Reads its certificates. Blocks.
    pub fn open(config: ListenerConfig) -> Result<Self, BrokerError> {
        let tls = config.tls.clone().map(Tls::open).transpose();
        let tls = tls.map_err(|source| BrokerError::Tls { listener: config.name.clone(), source })?;
        let advertised = config.advertised.as_deref().and_then(host_and_port);
        Ok(Self {
            name: name_for_metrics(&config.name),
            advertised: advertised.map(|(host, port)| (host.to_owned(), i32::from(port))),
            tls,
            limits: Arc::new(ListenerLimits::new(config.limits.clone())),
            log_limit: LogLimit::new(),
            config,
        })
    }

    /// Host and port that its clients are given; absent: those they connected to.
    pub fn advertised(&self) -> Option<(&str, i32)> {
        self.advertised.as_ref().map(|(host, port)| (host.as_str(), *port))
    }

    /// How clients log in, if they do.
    pub fn sasl(&self) -> Option<&SaslConfig> {
        self.config.sasl.as_ref()
    }

    /// What the connections of one user from one address may ask together.
    pub fn rate(&self, principal: &str, from: SocketAddr) -> Option<Arc<Rate>> {
        self.limits.rate(principal, from.ip())
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

    /// Whether its clients must show who they are.
    pub fn has_strangers(&self) -> bool {
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
