//! Listening and accepting: a bound address, limits of connections, TLS handshakes, certificate reload, drain.
//!
//! In: an address, certificates. Out: connections, one task each. Touches the network and the files of certificates.
//! What is spoken on a connection is left to the caller: HTTP to `connection.rs`, syslog to the agent.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::config::ConnectionLimits;
use crate::seats::{Place, Seat, Seats};
use crate::seldom::Seldom;
use crate::stream::{self, Stream};
use crate::tls::Tls;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;
/// How often the files of certificates are looked at.
const CERTIFICATES: Duration = Duration::from_secs(5);
/// Pause after the system refused a connection (mostly: out of file handles).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener that is bound and does not accept yet.
#[derive(Debug)]
pub struct Bound {
    name: Arc<str>,
    socket: StdListener,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Connection {
    /// Both directions.
    pub stream: Stream,
    /// The client's address.
    pub peer: SocketAddr,
    /// To be kept as long as the connection is open.
    pub seat: Seat,
}

impl Bound {
    /// Binds; `host:0` takes a free port. Blocks.
    pub fn open(name: &str, listen: &str, tls: Option<Tls>) -> io::Result<Self> {
        let socket = StdListener::bind(listen)?;
        // The standard library keeps 128: too few when many clients come back at once.
        rustix::net::listen(&socket, BACKLOG)?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok(Self { name: name.into(), socket, address, tls: tls.map(Arc::new) })
    }

    /// Name in log lines.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The address that it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether clients speak TLS.
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Accepts until `stop`; each connection gets a task that runs `serve`, which must end soon after `stop` by itself.
    /// Returns when all have ended, or when `drain` is over. An error is one of the socket at the start.
    pub async fn run<F, W>(self, limits: &ConnectionLimits, stop: &CancellationToken, serve: F) -> io::Result<()>
    where
        F: Fn(Connection) -> W + Send + Sync + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let Self { name, socket, tls, .. } = self;
        let socket = TcpListener::from_std(socket)?;
        let (serve, seats) = (Arc::new(serve), Seats::new(limits));
        let mut connections = JoinSet::new();
        let mut certificates = tokio::time::interval(CERTIFICATES);
        certificates.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (failed, crowded, shaky) = (Seldom::default(), Seldom::default(), Arc::new(Seldom::default()));
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next() => {
                    report(&name, ended);
                    continue;
                }
                _ = certificates.tick(), if tls.is_some() => {
                    refresh(&name, tls.as_ref()).await;
                    continue;
                }
                accepted = accept(&socket, &seats) => accepted,
            };
            let (socket, peer, place) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if let Some(count) = failed.another() {
                        tracing::warn!(listener = &*name, %error, count, "connections can't be accepted: is the limit of open files high enough?");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(seat) = seats.seat(place, peer.ip()) else {
                if let Some(count) = crowded.another() {
                    let limit = limits.max_per_address;
                    tracing::warn!(listener = &*name, %peer, count, limit, "connections refused: too many from one address");
                }
                continue;
            };
            let (serve, tls, stop, name) = (Arc::clone(&serve), tls.clone(), stop.clone(), Arc::clone(&name));
            let shaky = Arc::clone(&shaky);
            let within = limits.handshake;
            // Boxed: a task is compiled for each kind of scheduler, and this one holds all that is served.
            let served = async move {
                // Small answers must not wait for more. A socket that refuses is as good as gone, and fails at its use.
                socket.set_nodelay(true).ok();
                let opened = tokio::select! {
                    () = stop.cancelled() => return,
                    opened = tokio::time::timeout(within, stream::open(socket, tls.as_deref())) => opened,
                };
                let error = match opened {
                    Ok(Ok(stream)) => return serve(Connection { stream, peer, seat }).await,
                    Ok(Err(error)) => error,
                    Err(_) => io::Error::from(io::ErrorKind::TimedOut),
                };
                if let Some(count) = shaky.another() {
                    tracing::warn!(listener = &*name, %peer, %error, count, "tls handshake failed");
                }
            };
            connections.spawn(served.boxed());
        }
        drop(socket);
        let drained = async {
            while let Some(ended) = connections.join_next().await {
                report(&name, ended);
            }
        };
        match limits.drain {
            None => drained.await,
            Some(within) => {
                if tokio::time::timeout(within, drained).await.is_err() {
                    tracing::debug!(listener = &*name, open = connections.len(), "connections are closed at the stop");
                }
                connections.shutdown().await;
            }
        }
        Ok(())
    }
}

/// The next connection, once there is a place for it.
async fn accept(socket: &TcpListener, seats: &Seats) -> io::Result<(TcpStream, SocketAddr, Place)> {
    let place = seats.place().await?;
    let (stream, peer) = socket.accept().await?;
    Ok((stream, peer, place))
}

/// Takes new certificates where the files have changed.
async fn refresh(name: &str, tls: Option<&Arc<Tls>>) {
    let Some(tls) = tls.cloned() else { return };
    match tokio::task::spawn_blocking(move || tls.refresh()).await {
        Ok(Ok(true)) => tracing::info!(listener = name, "new certificates are in force"),
        Ok(Err(error)) => {
            tracing::error!(listener = name, %error, "new certificates can't be used, the old ones stay in force");
        }
        Ok(Ok(false)) | Err(_) => {}
    }
}

/// A panic ends one connection and not the listener.
fn report(name: &str, ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(listener = name, %error, "a request ended in a panic: this is a bug, its connection is closed");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn limits(max: usize, max_per_address: usize, drain: Option<Duration>) -> ConnectionLimits {
        ConnectionLimits { max, max_per_address, drain, ..ConnectionLimits::default() }
    }

    /// Answers with a byte and holds the connection until its client or the listener ends.
    async fn hold(mut connection: Connection, stop: CancellationToken) {
        connection.stream.write_all(b"!").await.unwrap();
        let mut buffer = [0; 1];
        tokio::select! {
            _ = connection.stream.read(&mut buffer) => {}
            () = stop.cancelled() => {}
        }
    }

    async fn answered(address: SocketAddr) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut answer = [0; 1];
        (stream.read(&mut answer).await.unwrap_or(0) == 1).then_some(stream)
    }

    fn start(limits: ConnectionLimits) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<io::Result<()>>) {
        let bound = Bound::open("test", "127.0.0.1:0", None).unwrap();
        let (address, stop) = (bound.address(), CancellationToken::new());
        let token = stop.clone();
        #[allow(clippy::disallowed_methods)] // a test
        let running = tokio::spawn(async move {
            let held = token.clone();
            bound.run(&limits, &token, move |connection| hold(connection, held.clone())).await
        });
        (address, stop, running)
    }

    #[tokio::test]
    async fn connections_over_the_limit_wait_and_those_of_one_address_are_closed() {
        let (address, stop, running) = start(limits(3, 2, None));
        let first = answered(address).await.expect("a place");
        let _second = answered(address).await.expect("a place");
        assert!(answered(address).await.is_none(), "a third of one address is closed");
        drop(first);
        // Its place is free once the listener has seen the end.
        while answered(address).await.is_none() {}
        stop.cancel();
        running.await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "nothing is accepted any more");

        let (address, stop, running) = start(limits(1, 9, None));
        let first = answered(address).await.expect("a place");
        let mut second = TcpStream::connect(address).await.unwrap();
        let mut answer = [0; 1];
        let early = tokio::time::timeout(Duration::from_millis(50), second.read(&mut answer)).await;
        assert!(early.is_err(), "waits for a place");
        drop(first);
        assert_eq!(second.read(&mut answer).await.unwrap(), 1);
        stop.cancel();
        running.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn connections_that_do_not_end_are_closed_when_the_drain_is_over() {
        let bound = Bound::open("test", "127.0.0.1:0", None).unwrap();
        let (address, stop) = (bound.address(), CancellationToken::new());
        let token = stop.clone();
        let limits = limits(9, 9, Some(Duration::from_millis(20)));
        let serve = |mut connection: Connection| async move {
            connection.stream.write_all(b"!").await.unwrap();
            std::future::pending::<()>().await;
        };
        let client = async {
            let mut stream = answered(address).await.expect("a place");
            stop.cancel();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.ok();
        };
        let (ended, ()) = tokio::join!(bound.run(&limits, &token, serve), client);
        ended.unwrap();
    }
}
