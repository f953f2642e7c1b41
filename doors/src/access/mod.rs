//! The section `access` in force: one for all HTTP endpoints of a process, replaced at a reload.
//!
//! In: what requests show to be let in. Out: who asks, or a refusal with 401 or 429. Touches files of hashes when they
//! are read, and the clock. Failed logins are counted, logged and handed to the [`Audit`]; passwords of an address that
//! failed often are not looked at for a while.

/// What those who look after a process want to see later.
pub mod audit;
/// Settings.
pub mod config;
/// Hashes of tokens and passwords.
pub mod hash;
/// Failed logins of each address.
mod throttle;
/// Sessions of the page.
pub mod session;
/// Logins with their hashes.
pub mod book;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderMap;
use millrace_log::clock::SharedClock;
use parking_lot::RwLock;
use ring::hmac;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use audit::changes;
pub use audit::{Audit, AuditEvent};
use book::{Book, BookError, Given};
use config::AccessConfig;
use hash::HashError;
use session::{Kind, Sessions};
use throttle::Throttle;

use crate::identity::Identity;
use crate::metrics::{HttpMetrics, Of};
use crate::seldom::Seldom;
use crate::stream::Peer;

/// Passwords that are hashed at once: each takes a core and 19 MiB.
const HASHED_AT_ONCE: usize = 2;
/// Passwords that wait to be hashed; beyond them clients come again.
const WAITING: usize = 32;
/// How long a password that was right is not hashed again: clients send it with each request.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Passwords that are remembered.
const MAX_REMEMBERED: usize = 1024;

/// Why nobody is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// Nothing was shown.
    Nothing,
    /// What was shown is wrong.
    Wrong,
    /// Nobody looked: so many seconds to wait.
    Wait(u32),
}

struct Shared {
    book: RwLock<Arc<Book>>,
    throttle: Throttle,
    sessions: Sessions,
    clock: SharedClock,
    hashing: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    key: hmac::Key,
    audit: RwLock<Option<Arc<dyn Audit>>>,
    /// Whether logins were read before: the first are not a change.
    is_known: AtomicBool,
    failed: Seldom,
    metrics: HttpMetrics,
}

/// Logins of all HTTP endpoints. Cheap to clone.
#[derive(Clone)]
pub struct Access(Arc<Shared>);

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Access")
    }
}

impl Access {
    /// Without any login, until it is [replaced](Self::replace).
    pub fn new(clock: SharedClock) -> Result<Self, HashError> {
        Ok(Self(Arc::new(Shared {
            book: RwLock::default(),
            throttle: Throttle::default(),
            sessions: Sessions::new()?,
            clock,
            hashing: Arc::new(Semaphore::new(HASHED_AT_ONCE)),
            waiting: Arc::new(Semaphore::new(WAITING)),
            key: hmac::Key::new(hmac::HMAC_SHA256, &hash::random::<32>()?),
            audit: RwLock::default(),
            is_known: AtomicBool::new(false),
            failed: Seldom::default(),
            metrics: HttpMetrics::default(),
        })))
    }

    /// Takes over other logins, for all listeners at once. Blocks.
    pub fn replace(&self, config: &AccessConfig) -> Result<(), BookError> {
        let book = Arc::new(Book::read(config)?);
        let before = std::mem::replace(&mut *self.0.book.write(), Arc::clone(&book));
        if self.0.is_known.swap(true, Ordering::Relaxed) {
            for detail in changes(&before.logins(), &book.logins()) {
                self.note(AuditEvent { event: AuditEvent::TOKEN, detail, ..AuditEvent::default() });
            }
        }
        Ok(())
    }

    /// Has events go somewhere.
    pub fn audited_by(&self, audit: Arc<dyn Audit>) {
        *self.0.audit.write() = Some(audit);
    }

    /// Hands over an event.
    pub fn note(&self, event: AuditEvent) {
        if let Some(audit) = &*self.0.audit.read() {
            audit.note(event.bounded());
        }
    }

    /// Whether no login is configured.
    pub fn is_open(&self) -> bool {
        !self.0.book.read().has_logins()
    }

    /// Counts of all listeners.
    pub fn metrics(&self) -> &HttpMetrics {
        &self.0.metrics
    }

    pub(crate) fn book(&self) -> Arc<Book> {
        Arc::clone(&self.0.book.read())
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.0.clock.now_ms()
    }

    /// The client's address: behind the trusted proxy, the last one that it names.
    pub(crate) fn address(&self, headers: &HeaderMap, peer: &Peer) -> IpAddr {
        let own = peer.address.ip();
        if !self.book().is_proxy(own) {
            return own;
        }
        let named = headers.get("x-forwarded-for").and_then(|value| value.to_str().ok());
        named.and_then(|named| named.rsplit(',').next()?.trim().parse().ok()).unwrap_or(own)
    }

    /// Who shows these credentials, a certificate, or is named by the proxy. Failures are not counted here.
    pub(crate) async fn identify(&self, headers: &HeaderMap, peer: &Peer) -> Result<(Option<Kind>, Identity), Denied> {
        let book = self.book();
        if let Some(named) = book.proxied(peer.address.ip(), headers) {
            return named.map(|who| (None, who)).ok_or(Denied::Wrong);
        }
        match Given::of(headers) {
            Given::Nothing => {
                let subject = peer.certificate.as_deref();
                let known = subject.and_then(|subject| book.certificate(subject, &peer.names));
                known.map(|who| (None, who)).ok_or(Denied::Nothing)
            }
            Given::Unreadable => Err(Denied::Wrong),
            Given::Token(token) => {
                let found = book.token(&token, self.now_ms());
                found.map(|who| (Some(Kind::Token), who)).ok_or(Denied::Wrong)
            }
            Given::Password { user, password } => {
                if let Some(found) = book.token(&password, self.now_ms()) {
                    return Ok((Some(Kind::Token), found));
                }
                let address = self.address(headers, peer);
                self.password(&book, address, &user, password).await.map(|who| (Some(Kind::User), who))
            }
        }
    }

    async fn password(&self, book: &Book, address: IpAddr, user: &str, password: String) -> Result<Identity, Denied> {
        // Unknown users are turned away at once: names are no secret, and hashing for them would cost a core.
        let Some((digest, who)) = book.user(user) else { return Err(self.throttled(address).unwrap_or(Denied::Wrong)) };
        let mut tag = [0; 32];
        tag.copy_from_slice(hmac::sign(&self.0.key, format!("{user}\0{password}").as_bytes()).as_ref());
        let is_remembered = book.right.lock().get(&tag).is_some_and(|since| since.elapsed() < REMEMBERED);
        if is_remembered {
            return Ok(who);
        }
        if let Some(denied) = self.throttled(address) {
            return Err(denied);
        }
        let Ok(waiting) = Arc::clone(&self.0.waiting).try_acquire_owned() else { return Err(Denied::Wait(1)) };
        let Ok(hashing) = Arc::clone(&self.0.hashing).acquire_owned().await else { return Err(Denied::Wait(1)) };
        // The places belong to the hashing, which goes on when its client has gone.
        let compare = move || {
            let _places = (waiting, hashing);
            digest.is_of(&password)
        };
        let is_right = tokio::task::spawn_blocking(compare).await.unwrap_or(false);
        if !is_right {
            return Err(Denied::Wrong);
        }
        self.0.throttle.succeeded(address);
        let mut right = book.right.lock();
        if right.len() >= MAX_REMEMBERED {
            right.clear();
        }
        right.insert(tag, Instant::now());
        Ok(who)
    }

    /// Whether passwords of an address are not looked at now.
    pub(crate) fn throttled(&self, address: IpAddr) -> Option<Denied> {
        let wait = self.0.throttle.wait(address)?;
        Some(Denied::Wait(u32::try_from(wait.as_secs().saturating_add(1)).unwrap_or(u32::MAX)))
    }

    /// Counts and reports a failed login.
    pub(crate) fn failed(&self, listener: &str, address: IpAddr, headers: &HeaderMap) {
        self.0.throttle.failed(address);
        self.0.metrics.failed_logins.get_or_create(&Of { listener: listener.to_owned() }).inc();
        let user = match Given::of(headers) {
            Given::Password { user, .. } => user.chars().take(100).collect(),
            _ => String::new(),
        };
        if let Some(count) = self.0.failed.another() {
            tracing::warn!(listener, %address, user, count, "login failed");
        }
        let (address, listener) = (Some(address), listener.to_owned());
        self.note(AuditEvent { event: AuditEvent::LOGIN_FAILED, user, address, listener, ..AuditEvent::default() });
    }

    /// Who comes back with a session; `None` also where a login of the listener itself began it.
    pub(crate) fn returning(&self, kind: Kind, name: &str) -> Option<Identity> {
        match kind {
            Kind::Own => None,
            Kind::Token => self.book().returning(true, name, self.now_ms()),
            Kind::User => self.book().returning(false, name, self.now_ms()),
        }
    }
}

#[cfg(test)]
mod tests;
