//! The section `access` in force: one for all HTTP endpoints of a process, replaced at a reload.
//!
//! In: what requests show to be let in. Out: who asks, or a refusal with 401 or 429. Touches files of hashes when they
//! are read, and the clock. Failed logins are counted, logged and handed to the [`Audit`]; passwords of an address that
//! failed often are not looked at for a while.

/// What those who look after a process want to see later.
pub mod audit;
/// Roles, tenants and selector of a login.
mod grant;
/// Hashes of tokens and passwords.
pub mod hash;
/// Ids that must not be used again.
mod ended;
/// Sessions of the page.
pub mod session;
/// Logins by a provider.
pub mod oidc;
/// Settings.
pub mod config;
/// Failed logins of each address.
mod throttle;
/// Logins with their hashes.
pub mod book;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use millrace_log::clock::SharedClock;
use parking_lot::RwLock;
use ring::hmac;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use audit::changes;
pub use audit::{Audit, AuditEvent};
use book::{Book, BookError, Given};
use config::{AccessConfig, expiry_note};
use hash::{EntryDigest, HashError};
use oidc::attempt::Attempts;
use oidc::{FETCH_EVERY, Failed, Oidc};
use session::{Basis, Kind, SessionRef, Sessions};
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
/// Codes of the login provider that are redeemed at once: each waits for the provider.
const REDEEMED_AT_ONCE: usize = 16;
/// How often it is looked whether the provider is to be asked: at once after a failure that a token found.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Passwords that are remembered.
const MAX_REMEMBERED: usize = 1024;

/// Why nobody is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Denied {
    /// Nothing was shown.
    Nothing,
    /// What was shown is wrong.
    Wrong,
    /// Nobody looked: so many seconds to wait.
    Wait(u32),
    /// The login provider knows this user, and there are no roles for anybody like them.
    Forbidden(String),
    /// The login provider would have to be asked, and does not answer.
    Unavailable,
}

struct Shared {
    book: RwLock<Arc<Book>>,
    /// The login provider.
    oidc: RwLock<Option<Arc<Oidc>>>,
    /// Another one was configured.
    other_provider: Notify,
    attempts: Attempts,
    /// Codes that are redeemed now.
    redeeming: Semaphore,
    throttle: Throttle,
    sessions: Sessions,
    clock: SharedClock,
    hashing: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    key: hmac::Key,
    audit: RwLock<Option<Arc<dyn Audit>>>,
    /// Whether logins were read before: the first are not a change.
    is_known: AtomicBool,
    /// Logins were read anew.
    reloads: watch::Sender<()>,
    failed: Seldom,
    refused_tokens: Seldom,
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
            oidc: RwLock::default(),
            other_provider: Notify::new(),
            attempts: Attempts::new()?,
            redeeming: Semaphore::new(REDEEMED_AT_ONCE),
            throttle: Throttle::default(),
            sessions: Sessions::new()?,
            clock,
            hashing: Arc::new(Semaphore::new(HASHED_AT_ONCE)),
            waiting: Arc::new(Semaphore::new(WAITING)),
            key: hmac::Key::new(hmac::HMAC_SHA256, &hash::random::<32>()?),
            audit: RwLock::default(),
            is_known: AtomicBool::new(false),
            reloads: watch::Sender::new(()),
            failed: Seldom::default(),
            refused_tokens: Seldom::default(),
            metrics: HttpMetrics::default(),
        })))
    }

    /// Takes over other logins, for all listeners at once. Blocks.
    pub fn replace(&self, config: &AccessConfig) -> Result<(), BookError> {
        let book = Arc::new(Book::read(config)?);
        let oidc_before = self.oidc();
        let oidc = book.oidc.clone().map(|plan| Arc::new(Oidc::new(plan, oidc_before.as_deref(), &self.0.metrics)));
        if oidc.is_none() {
            self.0.metrics.oidc_failing.set(0);
        }
        self.0.metrics.expire_tokens(book.token_ends());
        *self.0.oidc.write() = oidc;
        self.0.other_provider.notify_one();
        let before = std::mem::replace(&mut *self.0.book.write(), Arc::clone(&book));
        if self.0.is_known.swap(true, Ordering::Relaxed) {
            for detail in changes(&before.logins(), &book.logins()) {
                self.note(AuditEvent { event: AuditEvent::TOKEN, detail, ..AuditEvent::default() });
            }
        }
        self.0.reloads.send_replace(());
        Ok(())
    }

    /// Keeps description and keys of the login provider up to date until `stop`, and asks again while it is down.
    pub async fn keep_provider_known(&self, stop: &CancellationToken) {
        loop {
            let oidc = self.oidc();
            let looking = async {
                if let Some(oidc) = &oidc {
                    oidc.look_after().await;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.0.other_provider.notified() => {}
                () = looking => {}
            }
        }
    }

    /// What those who look after the process should know although it works.
    pub fn notice(&self) -> Option<String> {
        self.oidc()?.notice()
    }

    /// Tokens that have expired, or soon will. For administrators: it names tokens.
    pub fn expiring_tokens(&self) -> Vec<String> {
        let (book, now_ms) = (self.book(), self.now_ms());
        let note = |(name, end_ms)| Some(format!("token `{name}` {}", expiry_note(end_ms, now_ms)?));
        book.token_ends().filter_map(note).collect()
    }

    pub(crate) fn oidc(&self) -> Option<Arc<Oidc>> {
        self.0.oidc.read().clone()
    }

    pub(crate) fn attempts(&self) -> &Attempts {
        &self.0.attempts
    }

    pub(crate) fn redeeming(&self) -> &Semaphore {
        &self.0.redeeming
    }

    /// Says when logins were read anew.
    pub(crate) fn reloads(&self) -> watch::Receiver<()> {
        self.0.reloads.subscribe()
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
        self.book().client_address(headers, peer)
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
                if let Some(found) = book.token(&token, self.now_ms()) {
                    return Ok((Some(Kind::Token), found));
                }
                match self.oidc().filter(|_| oidc::is_token(&token)) {
                    Some(oidc) => self.bearer(&oidc, &token).await.map(|who| (None, who)),
                    None => Err(Denied::Wrong),
                }
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

    /// Whom a token of the login provider is for. No session begins by it: it ends by itself, soon.
    async fn bearer(&self, oidc: &Oidc, token: &str) -> Result<Identity, Denied> {
        match oidc.bearer(token, self.now_ms()).await {
            Ok(known) => Ok(known.identity),
            Err(Failed { status, text, user }) => {
                if let Some(count) = self.0.refused_tokens.another() {
                    tracing::warn!(user, reason = text, count, "token of the login provider refused");
                }
                Err(match status {
                    StatusCode::UNAUTHORIZED => Denied::Wrong,
                    StatusCode::FORBIDDEN => Denied::Forbidden(user),
                    _ => Denied::Unavailable,
                })
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
        let user: String = match Given::of(headers) {
            Given::Password { user, .. } => user.chars().take(100).collect(),
            _ => String::new(),
        };
        self.login_failed(listener, address, user, "");
    }

    /// Counts and logs a failed login.
    pub(crate) fn count_failed(&self, listener: &str, address: IpAddr, user: &str, reason: &str) {
        self.0.metrics.failed_logins.get_or_create(&Of { listener: listener.to_owned() }).inc();
        if let Some(count) = self.0.failed.another() {
            tracing::warn!(listener, %address, user, reason, count, "login failed");
        }
    }

    /// Counts and reports a failed login that guesses nothing: its address is not slowed down.
    pub(crate) fn login_failed(&self, listener: &str, address: IpAddr, user: String, reason: &str) {
        self.count_failed(listener, address, &user, reason);
        self.note_failed(listener, address, user, reason);
    }

    /// Hands over the audit event of a failed login.
    pub(crate) fn note_failed(&self, listener: &str, address: IpAddr, user: String, reason: &str) {
        let (address, listener, detail) = (Some(address), listener.to_owned(), reason.to_owned());
        let event = AuditEvent::LOGIN_FAILED;
        self.note(AuditEvent { event, user, address, listener, detail, ..AuditEvent::default() });
    }

    /// What the configuration has for somebody who logged in by this kind and name; sessions end when it changes.
    pub(crate) fn entry(&self, kind: Kind, name: &str) -> Option<EntryDigest> {
        match kind {
            Kind::Own => None,
            Kind::Token => self.book().entry(true, name),
            Kind::User => self.book().entry(false, name),
            Kind::Oidc => Some(self.oidc()?.plan.entry),
        }
    }

    /// Who comes back with a session; `None` also where a login of the listener itself began it.
    pub(crate) fn returning(&self, basis: &Basis) -> Option<Identity> {
        match basis.kind {
            Kind::Own => None,
            Kind::Token => self.book().returning(true, &basis.name, self.now_ms()),
            Kind::User => self.book().returning(false, &basis.name, self.now_ms()),
            Kind::Oidc => self.oidc()?.returning(&basis.name, &basis.grants),
        }
    }

    /// Whether a session is to be renewed by the login provider before anything else. While it can't be reached, only
    /// those that were not yet due when that began go on without it: an older cookie may be that of somebody whom it
    /// would not let in any more.
    pub(crate) fn is_due(&self, session: &SessionRef) -> bool {
        let Some(oidc) = self.oidc().filter(|_| session.basis.kind == Kind::Oidc) else { return false };
        let outage = oidc.provider.failing_for().map_or(Duration::ZERO, |down| down + FETCH_EVERY);
        let lasts = oidc.plan.config.recheck.0.saturating_add(outage);
        self.now_ms().saturating_sub(session.began_ms()) >= i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX)
    }

    /// Ends a session: its cookie is refused from now on.
    pub(crate) fn end(&self, listener: &str, address: IpAddr, session: &SessionRef, detail: &str) {
        self.0.sessions.end(session, self.now_ms());
        let (user, address, listener) = (session.basis.name.clone(), Some(address), listener.to_owned());
        let (event, detail) = (AuditEvent::LOGOUT, detail.to_owned());
        self.note(AuditEvent { event, user, address, listener, detail, ..AuditEvent::default() });
    }
}

#[cfg(test)]
mod tests;
