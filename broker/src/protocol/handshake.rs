//! From a new connection to a client who is known: the TLS handshake, then SASL.
//!
//! In: a socket. Out: frames and a writer, with the principal. Touches the socket. All of it has `login_timeout`; before
//! the client is known only ApiVersions, SaslHandshake and SaslAuthenticate are answered, in frames of 512 KiB at most.
//! Anything else ends the connection, as in Kafka.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::either::Either;

use crate::metrics::LoginLabel;
use crate::protocol::access::Principal;
use crate::protocol::access::login::{Login, LoginFault, LoginStep};
use crate::protocol::admission::Admitted;
use crate::protocol::context::{Core, Peer, Session};
use crate::protocol::disconnect::Disconnect;
use crate::protocol::listener::Listener;
use crate::protocol::listener::stream::{self, Reader, Writer, write};
use crate::protocol::wire::Request;
use crate::protocol::wire::frame::FrameReader;
use crate::protocol::{dispatch, sasl};
use millrace_doors::tls::principal;

/// Largest frame of a client who is not known yet (`sasl.server.max.receive.size`).
const MAX_LOGIN_FRAME: usize = 512 << 10;

/// A connection whose client is known.
#[derive(Debug)]
pub(crate) struct Entered {
    pub frames: FrameReader<Reader>,
    pub writer: Writer,
    pub session: Session,
    pub sasl: Sasl,
}

/// Where a connection stands with SASL, for later logins on it.
#[derive(Debug, Default)]
pub(crate) struct Sasl {
    login: Login,
    /// When the client must have logged in again.
    expires: Option<Instant>,
}

/// What became of a SASL request after the first login.
#[derive(Debug)]
pub(crate) enum Again {
    /// Not for SASL: dispatch it.
    Other,
    /// An answer; the connection goes on.
    Answer(Bytes),
    /// A last answer; then the connection ends.
    Last(Bytes, Disconnect),
}

impl Sasl {
    /// Whether the client should have logged in again.
    pub fn is_expired(&self) -> bool {
        self.expires.is_some_and(|at| Instant::now() >= at)
    }

    /// Handles a later login on a connection (KIP-368). Requests other than SASL's end an expired session.
    pub async fn again(&mut self, core: &Core, session: &Session, request: &Request) -> Result<Again, Disconnect> {
        let lifetime = session.listener.sasl().and_then(|sasl| sasl.session_lifetime);
        match request.key {
            ApiKey::SaslHandshake if lifetime.is_some() => {
                let (answer, result) = sasl::choose(&session.listener, &mut self.login, true, &request.decode()?);
                let answer = request.answer(&answer)?;
                Ok(match result {
                    Ok(()) => Again::Answer(answer),
                    Err(ended) => Again::Last(answer, ended),
                })
            }
            ApiKey::SaslAuthenticate if self.login.is_under_way() => {
                let answered = sasl::step(core, session, &mut self.login, Some(&session.who), request)?;
                Ok(match answered.result {
                    Ok(user) => {
                        if user.is_some() {
                            self.expires = answered.expires;
                        }
                        Again::Answer(answered.answer)
                    }
                    Err(fault) => {
                        let ended = failed(core, session, &self.login, fault).await;
                        Again::Last(answered.answer, ended)
                    }
                })
            }
            _ if self.is_expired() => Err(Disconnect::Expired),
            _ => Ok(Again::Other),
        }
    }
}

/// Notes a failed login and waits a while before it is told.
async fn failed(core: &Core, session: &Session, login: &Login, fault: LoginFault) -> Disconnect {
    let mechanism = login.mechanism().map_or("none", |m| m.name());
    let label = LoginLabel { listener: session.listener.name, mechanism };
    core.metrics.failed_logins.get_or_create(&label).inc();
    if session.listener.log_limit.may() {
        tracing::warn!(listener = session.listener.name, from = %session.peer.from, mechanism, reason = %fault, "login failed");
    }
    let pause = session.listener.limits.failed(session.peer.from.ip());
    tokio::select! {
        () = core.stop.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
    Disconnect::Login(fault)
}

/// Lets a client in.
pub(crate) async fn enter(
    core: &Arc<Core>,
    listener: &Arc<Listener>,
    admitted: &mut Admitted,
    stream: TcpStream,
    from: SocketAddr,
) -> Result<Entered, Disconnect> {
    let to = stream.local_addr().map_err(Disconnect::Write)?;
    // Without it small answers wait for the client's delayed acknowledgements. A socket that refuses is as good as gone.
    stream.set_nodelay(true).map_err(Disconnect::Write)?;
    let deadline = Instant::now() + listener.config.limits.login_timeout.0;
    let mut who = None;
    let (reader, writer) = match &listener.tls {
        None => stream::plain(stream),
        Some(tls) => {
            let accepted = stoppable(core, timeout_at(deadline, tls.accept(stream))).await?;
            let stream = accepted.map_err(|_| Disconnect::LoginTimeout)?.map_err(Disconnect::Tls)?;
            who = principal(&stream);
            stream::tls(stream)
        }
    };
    let session = Session {
        peer: Peer { from, to },
        listener: Arc::clone(listener),
        who: who.map_or_else(|| core.access.anonymous(), |name| core.access.principal(name)),
    };
    let max = usize::try_from(core.config.max_frame_size.0).unwrap_or(usize::MAX);
    let frames = FrameReader::new(reader, max, Arc::clone(&core.budget), core.config.stall_timeout.0);
    let mut entered = Entered { frames, writer, session, sasl: Sasl::default() };
    if listener.sasl().is_some() {
        entered.frames.set_max(max.min(MAX_LOGIN_FRAME));
        let logged_in = stoppable(core, timeout_at(deadline, log_in(core, &mut entered, deadline))).await?;
        entered.session.who = logged_in.map_err(|_| Disconnect::LoginTimeout)??;
        entered.frames.set_max(max);
    }
    admitted.is_known_now();
    Ok(entered)
}

async fn stoppable<T>(core: &Core, work: impl Future<Output = T>) -> Result<T, Disconnect> {
    tokio::select! {
        () = core.stop.cancelled() => Err(Disconnect::Stop),
        done = work => Ok(done),
    }
}

/// The first login of a connection.
async fn log_in(core: &Arc<Core>, entered: &mut Entered, deadline: Instant) -> Result<Arc<Principal>, Disconnect> {
    let Entered { frames, writer, session, sasl } = entered;
    let patience = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    // Version 0 of the handshake is followed by bare tokens in frames of their own.
    let mut is_bare = false;
    loop {
        // The caller keeps the time.
        let frame = frames.next(Duration::MAX).await?;
        if is_bare && sasl.login.is_under_way() {
            match sasl.login.token(&core.access, &frame.bytes) {
                Ok(LoginStep::Challenge(token)) => write(writer, &bare(&token), patience).await?,
                Ok(LoginStep::Done { last, user }) => {
                    write(writer, &bare(&last), patience).await?;
                    sasl.expires = sasl::expiry(session).map(|(at, _)| at);
                    return Ok(core.access.principal(format!("User:{user}")));
                }
                Err(fault) => return Err(failed(core, session, &sasl.login, fault).await),
            }
            continue;
        }
        let request = match Request::read(frame.bytes) {
            Ok(request) => request,
            Err(fault) => match dispatch::unserved(&fault) {
                Some(answer) => {
                    write(writer, &answer, patience).await?;
                    continue;
                }
                None => return Err(fault.into()),
            },
        };
        match request.key {
            ApiKey::ApiVersions if !sasl.login.is_under_way() => {
                let answer = dispatch::start(core, session, request).await?.await?;
                write(writer, &answer.unwrap_or_default().head, patience).await?;
            }
            ApiKey::SaslHandshake if !sasl.login.is_under_way() => {
                is_bare = request.version == 0;
                let (answer, result) = sasl::choose(&session.listener, &mut sasl.login, false, &request.decode()?);
                write(writer, &request.answer(&answer)?, patience).await?;
                result?;
            }
            ApiKey::SaslAuthenticate if sasl.login.is_under_way() => {
                let answered = sasl::step(core, session, &mut sasl.login, None, &request)?;
                match answered.result {
                    Ok(user) => {
                        write(writer, &answered.answer, patience).await?;
                        if let Some(who) = user {
                            sasl.expires = answered.expires;
                            return Ok(who);
                        }
                    }
                    Err(fault) => {
                        let ended = failed(core, session, &sasl.login, fault).await;
                        write(writer, &answered.answer, patience).await?;
                        return Err(ended);
                    }
                }
            }
            key => return Err(Disconnect::Unauthenticated(key)),
        }
    }
}

/// A token in a frame of its own.
fn bare(token: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(4 + token.len());
    frame.put_u32(u32::try_from(token.len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(token);
    frame.freeze()
}

/// Says goodbye under TLS, so that the client sees an end and not a cut.
pub(crate) async fn leave(writer: &mut Writer) {
    use tokio::io::AsyncWriteExt as _;
    if let Either::Right(half) = writer {
        // A client that is gone can't be told.
        drop(timeout(Duration::from_secs(1), half.shutdown()).await);
    }
}
