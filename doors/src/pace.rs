//! How fast a client must be: time limits for heads of requests, idle connections, and answers that are not read.
//!
//! In: what passes on a connection ([`Paced`]), requests that begin and end ([`Answering`]). Out: whether a limit is
//! broken, and when to look again. Touches the clock.
//!
//! | the connection is | limit |
//! |---|---|
//! | new, nothing came yet | `head` |
//! | within a request's head | `head`, from its first byte |
//! | answering (or reading a body) | none here |
//! | idle after an answer | `idle` |
//! | not taking bytes of an answer | `write`, from the last byte taken |
//!
//! Over HTTP/2 only the first and the last hold: its connections answer pings instead, and its heads are one frame.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::config::ConnectionLimits;
use crate::seats::{Seat, Sitting};

/// Pace of one connection.
#[derive(Debug)]
pub(crate) struct Pace {
    head: Duration,
    idle: Duration,
    write: Duration,
    state: Mutex<State>,
    /// What others see of it.
    sitting: Option<Arc<Sitting>>,
}

#[derive(Debug)]
struct State {
    /// Requests that are being answered.
    answering: usize,
    /// Those of them whose body is still coming.
    receiving: usize,
    /// Anything came.
    is_used: bool,
    /// A request was answered.
    is_proven: bool,
    is_http2: bool,
    /// Since when nothing is under way.
    idle_since: Instant,
    /// Since when a head is coming.
    head_since: Option<Instant>,
    /// Since when the client takes no byte.
    blocked_since: Option<Instant>,
}

impl Pace {
    pub fn new(limits: &ConnectionLimits, sitting: Option<Arc<Sitting>>) -> Arc<Self> {
        let state = State {
            answering: 0,
            receiving: 0,
            is_used: false,
            is_proven: false,
            is_http2: false,
            idle_since: Instant::now(),
            head_since: None,
            blocked_since: None,
        };
        if let Some(sitting) = &sitting {
            sitting.waits();
        }
        Arc::new(Self { head: limits.head, idle: limits.idle, write: limits.write, state: Mutex::new(state), sitting })
    }

    /// Whether everything that is under way waits for the client.
    pub fn is_waiting(&self) -> bool {
        let state = self.state.lock();
        state.answering == state.receiving
    }

    /// Ends when the connection should make room for others.
    pub async fn leave(&self) {
        match &self.sitting {
            Some(sitting) => sitting.leave().await,
            None => std::future::pending().await,
        }
    }

    /// It became another protocol, which answers for itself.
    pub fn upgraded(&self) {
        self.state.lock().answering += 1;
        if let Some(sitting) = &self.sitting {
            sitting.works();
        }
    }

    /// After a change: a wait begins anew with each step.
    fn show(&self, state: &State) {
        let Some(sitting) = &self.sitting else { return };
        if state.answering == state.receiving { sitting.waits() } else { sitting.works() }
    }

    /// When which limit is broken if nothing happens until then.
    fn deadline(&self) -> Option<(Instant, &'static str)> {
        let state = self.state.lock();
        let blocked = state.blocked_since.map(|since| (since + self.write, "the client does not read its answer"));
        let waiting = if state.answering > 0 || (state.is_http2 && state.is_used) {
            None
        } else if let Some(since) = state.head_since {
            Some((since + self.head, "the head of a request took too long"))
        } else if state.is_proven {
            Some((state.idle_since + self.idle, "idle"))
        } else {
            Some((state.idle_since + self.head, "no request arrived"))
        };
        blocked.into_iter().chain(waiting).min_by_key(|(at, _)| *at)
    }

    /// When to look again: whatever begins after `now` breaks its limit after the shortest of them at the earliest.
    pub fn next_check(&self, now: Instant) -> Instant {
        let latest = now + self.head.min(self.idle).min(self.write);
        self.deadline().map_or(latest, |(at, _)| at.min(latest))
    }

    /// Which limit is broken.
    pub fn broken(&self, now: Instant) -> Option<&'static str> {
        self.deadline().filter(|(at, _)| *at <= now).map(|(_, cause)| cause)
    }

    fn read(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        if !state.is_used {
            state.is_used = true;
            // The preface of HTTP/2; no method begins like it.
            state.is_http2 = bytes.starts_with(b"PRI");
        }
        if state.answering == 0 && state.head_since.is_none() {
            state.head_since = Some(Instant::now());
            self.show(&state);
        }
    }

    fn wrote(&self, is_taken: bool) {
        let mut state = self.state.lock();
        if is_taken {
            state.blocked_since = None;
        } else if state.blocked_since.is_none() {
            state.blocked_since = Some(Instant::now());
        }
    }
}

/// A request from its head to the last byte of its answer.
#[derive(Debug)]
pub(crate) struct Answering(Arc<Pace>);

impl Answering {
    pub fn begin(pace: &Arc<Pace>) -> Self {
        let mut state = pace.state.lock();
        state.answering += 1;
        state.head_since = None;
        pace.show(&state);
        drop(state);
        Self(Arc::clone(pace))
    }

    /// The request's body, whose coming is a wait for the client.
    pub fn receive(&self, body: Body) -> Body {
        if hyper::body::Body::is_end_stream(&body) {
            return body;
        }
        let mut state = self.0.state.lock();
        state.receiving += 1;
        self.0.show(&state);
        drop(state);
        Body::new(Received { body, pace: Some(Arc::clone(&self.0)) })
    }

    /// Ends when the body has been handed over.
    pub fn until_sent(self, body: Body) -> Body {
        Body::new(Sent { body, _answering: self })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.answering -= 1;
        state.is_proven = true;
        state.idle_since = Instant::now();
        self.0.show(&state);
    }
}

/// A body that is coming.
struct Received {
    body: Body,
    /// Until it has come, or nobody wants it.
    pace: Option<Arc<Pace>>,
}

impl Received {
    fn done(&mut self) {
        if let Some(pace) = self.pace.take() {
            let mut state = pace.state.lock();
            state.receiving -= 1;
            pace.show(&state);
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.done();
    }
}

impl hyper::body::Body for Received {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) || self.body.is_end_stream() {
            self.done();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct Sent {
    body: Body,
    _answering: Answering,
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that is watched.
#[derive(Debug)]
pub(crate) struct Paced<S> {
    stream: S,
    pace: Arc<Pace>,
    /// Also of one that became another protocol.
    _seat: Option<Seat>,
}

impl<S> Paced<S> {
    pub fn new(stream: S, seat: Option<Seat>, pace: &Arc<Pace>) -> Self {
        Self { stream, pace: Arc::clone(pace), _seat: seat }
    }

    fn wrote<T>(&self, result: Poll<T>) -> Poll<T> {
        self.pace.wrote(result.is_ready());
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.pace.read(buf.filled().get(before..).unwrap_or_default());
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.wrote(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
