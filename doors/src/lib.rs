//! HTTP listeners: the one way by which requests reach any API of Millrace.
//!
//! In: settings of a listener ([`serve::HttpSettings`]), the logins of the process ([`access::Access`]), and the
//! [`routes::Routes`] of the crate that answers. Out: requests of clients that are known, with a role that the route
//! asks for, for a tenant that is theirs, within limits. Touches the network and the files of certificates and secrets. What requests mean is left to the routers; syslog takes connections from [`listener`]
//! without HTTP, and the broker uses [`tls`] under a protocol of its own.
//!
//! A router can't be reached past the checks: [`serve::HttpListener::serve`] is the only function that answers requests,
//! and it takes [`routes::Routes`] only, each of which says what it needs. (`clippy.toml` bans `axum::serve` and hyper's builders
//! elsewhere.)
//!
//! Modules stand in the order in which a connection and then its requests meet them. A new check of requests is a module
//! beside `login` and a line in `guard::Guarded`.
//!
//! Depends on `millrace-log` for words that all share and that must not exist twice: [`millrace_log::record::Tenant`]
//! in requests, `Secret`, `Faults` and `ValueError` in settings, `PushError` for its HTTP status.

/// Settings: logins and TLS as users write them, limits of connections and requests.
pub mod config;
/// Who asks, and what they may do.
pub mod identity;
/// Counts of what was refused.
pub mod metrics;
/// Answers of requests that are turned away.
pub mod refusal;
/// TLS of a listener: certificates from files, read again when they change.
pub mod tls;
/// A client's stream, plain or under TLS, and who its certificate names.
pub mod stream;
/// Rate limit of log lines.
mod seldom;
/// How many connections there may be, in all and of one address, and which make room for others.
pub mod seats;
/// Listening and accepting: connection limits, handshakes, certificate reload, drain.
pub mod listener;
/// How fast a client must be: heads, idle connections, answers that are not read.
mod pace;
/// HTTP/1.1 and HTTP/2 on one connection, with time limits for slow clients.
mod connection;
/// Limits of requests: size and pace of bodies, requests answered at once.
pub mod limits;
/// Who may come in, for all listeners of a process: tokens, users, certificates, a proxy's header, sessions.
pub mod access;
/// Who may come in, for one listener: its own login beside those of all.
pub mod login;
/// Whose data a request is about.
pub mod tenant;
/// Defence against web pages: names of the endpoint, `Origin`, content types.
pub mod browser;
/// Routes with what their callers must be allowed to do.
pub mod routes;
/// The login page as HTML, cookies and redirects.
mod login_form;
/// Logins by a provider, in the browser.
mod oidc_page;
/// The page by which people log in, and the end of their session.
mod login_page;
/// One debug line per request.
mod access_log;
/// Answers that last.
pub mod lasting;
/// The checks in front of a router, in their order.
pub mod guard;
/// Listeners with all of it.
pub mod serve;

/// What is fuzzed, with what must hold.
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
