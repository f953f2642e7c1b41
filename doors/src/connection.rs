//! HTTP/1.1 and HTTP/2 on one connection, with time limits for clients that are slow with their requests' heads, idle, or
//! do not read their answers.
//!
//! In: a stream, a function that answers requests. Out: answers. Touches the stream. Bodies have limits of their own
//! (`limits.rs`). A connection that became another protocol (WebSocket) keeps its seat and is left to whoever took it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use futures::FutureExt as _;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::ConnectionLimits;
use crate::pace::{Answering, Pace, Paced};
use crate::seats::Seat;

/// Requests of one connection at once (HTTP/2).
const MAX_STREAMS: u32 = 64;
/// Bytes of a request's head.
const MAX_HEAD: u32 = 64 << 10;

/// Tasks of a connection's requests (HTTP/2): they end with it.
#[derive(Debug, Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let mut tasks = self.0.lock();
        while tasks.try_join_next().is_some() {}
        // Boxed: a task is compiled for each kind of scheduler, and this one holds the whole API.
        tasks.spawn(task.boxed());
    }
}

/// Answers requests until the client ends, breaks a time limit, or `stop`; then what is under way is answered.
#[allow(clippy::disallowed_methods)] // the one place that answers HTTP
pub(crate) async fn serve<S, F, W>(
    stream: S,
    seat: Option<Seat>,
    limits: &ConnectionLimits,
    stop: CancellationToken,
    answer: F,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Body>) -> W + Send + Sync + 'static,
    W: Future<Output = Response> + Send + 'static,
{
    let pace = Pace::new(limits, seat.as_ref().map(|seat| Arc::clone(seat.sitting())));
    let tasks = Tasks::default();
    let mut builder = Builder::new(tasks.clone());
    // Heads are timed by `pace`: hyper's timer starts after the first 24 bytes only, and takes idle connections for slow.
    let max_head = usize::try_from(MAX_HEAD).unwrap_or(usize::MAX);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None::<Duration>).max_buf_size(max_head);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.head)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD);
    let of = Arc::clone(&pace);
    let service = service_fn(move |request: Request<Incoming>| {
        let answering = Answering::begin(&of);
        let answered = answer(request.map(|body| answering.receive(Body::new(body))));
        let of = Arc::clone(&of);
        async move {
            let answer = answered.await;
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                of.upgraded();
            }
            Ok::<_, Infallible>(answer.map(|body| answering.until_sent(body)))
        }
    });
    let stream = TokioIo::new(Paced::new(stream, seat, &pace));
    let connection = builder.serve_connection_with_upgrades(stream, service);
    tokio::pin!(connection);
    let (mut stopping, mut leaving) = (false, false);
    let ended = loop {
        let check = pace.next_check(Instant::now());
        tokio::select! {
            ended = &mut connection => break ended,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = pace.leave(), if !leaving => {
                if pace.is_waiting() {
                    tracing::debug!("connection is closed to make room for others");
                    break Ok(());
                }
                leaving = true;
                connection.as_mut().graceful_shutdown();
            }
            () = sleep_until(check) => {
                if let Some(cause) = pace.broken(Instant::now()) {
                    tracing::debug!(cause, "connection is closed");
                    break Ok(());
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
    // Requests of a client that is gone have nobody to answer to.
    tasks.0.lock().abort_all();
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    fn limits() -> ConnectionLimits {
        let secs = Duration::from_secs;
        ConnectionLimits { head: secs(10), idle: secs(100), write: secs(30), ..ConnectionLimits::default() }
    }

    /// `/large` is answered with more than fits into the stream, anything else after the body was read.
    async fn answer(request: Request<Body>) -> Response {
        if request.uri().path() == "/large" {
            return vec![b'x'; 1 << 20].into_response();
        }
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        format!("{} bytes", body.len()).into_response()
    }

    fn start(stop: &CancellationToken) -> (DuplexStream, tokio::task::JoinHandle<Duration>) {
        let (client, server) = tokio::io::duplex(4 << 10);
        let stop = stop.clone();
        let began = Instant::now();
        #[allow(clippy::disallowed_methods)] // a test
        let ended = tokio::spawn(async move {
            serve(server, None, &limits(), stop, answer).await;
            began.elapsed()
        });
        (client, ended)
    }

    async fn answered(client: &mut DuplexStream) -> String {
        let mut text = Vec::new();
        while !text.ends_with(b" bytes") {
            assert!(client.read_buf(&mut text).await.unwrap() > 0, "{}", String::from_utf8_lossy(&text));
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn slow_heads_end_their_connection() {
        let never = CancellationToken::new();
        // Nothing at all, not even the bytes by which the version is recognised, and one byte a second.
        for first in [
            "",
            "G",
            "GET / HTTP/1.1
host: x
x-slow: ",
        ] {
            let (mut client, ended) = start(&never);
            client.write_all(first.as_bytes()).await.unwrap();
            let slow = async {
                while client.write_all(b"x").await.is_ok() && !first.is_empty() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            let took = if first.is_empty() { ended.await.unwrap() } else { tokio::join!(ended, slow).0.unwrap() };
            assert_eq!(took.as_secs(), 10, "`{first}`");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connections_stay_for_a_while_and_slow_second_heads_do_not() {
        let never = CancellationToken::new();
        let get = b"GET / HTTP/1.1
host: x

";
        let (mut client, ended) = start(&never);
        client.write_all(get).await.unwrap();
        assert!(answered(&mut client).await.starts_with("HTTP/1.1 200"));
        tokio::time::sleep(Duration::from_secs(90)).await;
        client.write_all(get).await.unwrap();
        assert!(answered(&mut client).await.ends_with("0 bytes"), "longer than a head may take");
        assert_eq!(ended.await.unwrap().as_secs(), 190);

        let (mut client, ended) = start(&never);
        client.write_all(get).await.unwrap();
        answered(&mut client).await;
        tokio::time::sleep(Duration::from_secs(50)).await;
        client.write_all(b"GET /").await.unwrap();
        assert_eq!(ended.await.unwrap().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_nobody_reads_end_their_connection() {
        let (mut client, ended) = start(&CancellationToken::new());
        client
            .write_all(
                b"GET /large HTTP/1.1
host: x

",
            )
            .await
            .unwrap();
        assert_eq!(ended.await.unwrap().as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_lets_what_is_under_way_be_answered() {
        let stop = CancellationToken::new();
        let (mut client, ended) = start(&stop);
        client
            .write_all(
                b"POST / HTTP/1.1
host: x
content-length: 4

ab",
            )
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.cancel();
        tokio::time::sleep(Duration::from_secs(1)).await;
        client.write_all(b"cd").await.unwrap();
        assert!(answered(&mut client).await.ends_with("4 bytes"));
        assert_eq!(ended.await.unwrap().as_secs(), 2);

        let (_idle, ended) = start(&stop);
        assert_eq!(ended.await.unwrap().as_secs(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn heads_that_are_too_large_are_refused() {
        let (mut client, ended) = start(&CancellationToken::new());
        let head = format!("GET / HTTP/1.1\r\nhost: x\r\nx-large: {}\r\n\r\n", "x".repeat(100 << 10));
        client.write_all(head.as_bytes()).await.ok();
        let mut text = Vec::new();
        client.read_to_end(&mut text).await.ok();
        assert!(text.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&text));
        ended.await.unwrap();
    }
}
