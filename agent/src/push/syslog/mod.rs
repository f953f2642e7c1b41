//! `type: syslog`: messages by UDP (RFC 5426), TCP (RFC 6587) and TLS (RFC 5425).
//!
//! In: datagrams and connections. Out: batches through the intake. Touches the network, the certificates' files and
//! `/proc/self/net`, where the kernel says what it dropped. Leaves framing to `frames.rs`, messages to `message.rs`.
//!
//! # What can be promised
//! Syslog has no acknowledgements. A TCP client is not read from while the agent has no room, so that it waits itself; what
//! a killed agent had read and not yet brought to the log is lost (with `agent.spool` only what was not yet in the spool).
//! A UDP client can't be made to wait: what finds no room for [`UDP_WAIT`] is dropped and counted in the ledger, and what
//! the kernel dropped before the agent could read it is counted too, under the reason `kernel`.

use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use millrace_doors::config::ConnectionLimits;
use millrace_doors::identity::Client;
use millrace_doors::listener::{Bound, Connection};
use millrace_doors::tls::Tls;
use millrace_log::record::Labels;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use self::frames::{Frames, trimmed};
use self::message::MessageReader;
use super::intake::{Batch, Intake};
use super::records::Line;
use super::rejected::Rejected;
use super::source::PushSource;
use super::streams::Stream;
use crate::config::syslog::{SyslogSource, syslog_name};
use crate::error::AgentError;
use crate::timestamp::offset;

/// Messages out of streams.
mod frames;
/// What a message says.
mod message;
/// What is fuzzed.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;

/// A datagram can't be larger.
const MAX_DATAGRAM: usize = 64 << 10;
/// Datagrams handed in at once at most.
const DATAGRAMS: usize = 1000;
/// How long datagrams that were read wait for room; meanwhile the kernel keeps the next ones.
const UDP_WAIT: Duration = Duration::from_millis(500);
/// What the kernel is asked to keep of datagrams; it gives `net.core.rmem_max` at most.
const UDP_BUFFER: usize = 8 << 20;
/// How often the kernel is asked what it dropped.
const DROPS_EVERY: Duration = Duration::from_secs(5);
/// Bytes handed in at once, about.
const BATCH_BYTES: usize = 256 << 10;
/// Bytes read from a connection at a time.
const READ: usize = 16 << 10;
/// Head of a message, besides its text.
const HEAD_ROOM: usize = 8 << 10;
/// How long a connection that finds no memory is not read from.
const ROOM_PAUSE: Duration = Duration::from_millis(50);

/// The source, bound.
pub(super) struct Syslog {
    udp: Option<StdUdpSocket>,
    tcp: Option<Bound>,
    shared: SyslogContext,
}

/// The way in, and the stream of what fits into no other.
#[derive(Clone)]
struct Way {
    intake: Intake,
    plain: Stream,
}

/// What all connections have.
#[derive(Clone)]
struct SyslogContext {
    name: Arc<str>,
    config: Arc<SyslogSource>,
    reader: Arc<MessageReader>,
}

impl Syslog {
    /// Binds. Blocks.
    pub fn open(config: &SyslogSource) -> Result<Self, AgentError> {
        let name = syslog_name(config);
        let wrong = |key: &str, reason: String| AgentError::Setting { key: format!("sources[{name}].{key}"), reason };
        let zone = offset(&config.timezone).ok_or_else(|| {
            wrong("timezone", format!("invalid offset `{}`: expected one such as +02:00", config.timezone))
        })?;
        let tls = match &config.tls {
            None => None,
            Some(tls) => Some(Tls::open_one_way(tls.clone()).map_err(|e| wrong("tls", e.to_string()))?),
        };
        let listen = |key: &'static str, address: &str| {
            let (name, address) = (name.clone(), address.to_owned());
            move |source| AgentError::Listen { name, key, address, source }
        };
        let udp = match config.udp.as_str() {
            "" => None,
            address => {
                let socket = StdUdpSocket::bind(address).map_err(listen("udp", address))?;
                socket.set_nonblocking(true).map_err(listen("udp", address))?;
                if let Err(error) = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, UDP_BUFFER) {
                    tracing::warn!(source = name, %error, "can't enlarge the receive buffer for datagrams");
                }
                Some(socket)
            }
        };
        let tcp = match config.tcp.as_str() {
            "" => None,
            address => Some(Bound::open(&name, address, tls).map_err(listen("tcp", address))?),
        };
        tracing::info!(
            source = name,
            udp = config.udp,
            tcp = config.tcp,
            tls = config.tls.is_some(),
            "listening for syslog"
        );
        let reader = Arc::new(MessageReader::new(config.format, zone, config.label_fields.clone()));
        Ok(Self { udp, tcp, shared: SyslogContext { name: name.into(), config: Arc::new(config.clone()), reader } })
    }
}

#[async_trait]
impl PushSource for Syslog {
    async fn run(self: Box<Self>, intake: Intake, stop: CancellationToken) -> Result<(), AgentError> {
        let Self { udp, tcp, shared } = *self;
        let plain = intake.stream(&Labels::default(), None);
        let plain = plain.map_err(|why| AgentError::Setting {
            key: format!("sources[{}].labels", shared.name),
            reason: why.to_string(),
        })?;
        let way = Way { intake, plain };
        let datagrams = async {
            match udp {
                None => Ok(()),
                Some(socket) => shared.datagrams(socket, &way, &stop).await,
            }
        };
        let connections = async {
            match tcp {
                None => Ok(()),
                Some(bound) => shared.connections(bound, &way, &stop).await,
            }
        };
        tokio::try_join!(datagrams, connections).map(drop)
    }
}

impl SyslogContext {
    fn failed(&self, key: &'static str, address: &str) -> impl FnOnce(std::io::Error) -> AgentError {
        let (name, address) = (self.name.to_string(), address.to_owned());
        move |source| AgentError::Listen { name, key, address, source }
    }

    async fn datagrams(&self, socket: StdUdpSocket, way: &Way, stop: &CancellationToken) -> Result<(), AgentError> {
        let intake = &way.intake;
        let inode = rustix::fs::fstat(&socket).map(|stat| stat.st_ino).unwrap_or_default();
        let socket = UdpSocket::from_std(socket).map_err(self.failed("udp", &self.config.udp))?;
        let mut drops = Drops { inode, seen: 0 };
        let mut look = tokio::time::interval(DROPS_EVERY);
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = look.tick() => {
                    drops.count(intake).await;
                    continue;
                }
                ready = socket.readable() => ready.map_err(self.failed("udp", &self.config.udp))?,
            }
            let mut batch = intake.batch();
            let mut bytes = 0;
            while batch.len() < DATAGRAMS && batch.cost() < BATCH_BYTES {
                match socket.try_recv_from(&mut buffer) {
                    Ok((len, peer)) => {
                        bytes += len as u64;
                        let message = bytes::Bytes::copy_from_slice(buffer.get(..len).unwrap_or_default());
                        self.add(&mut batch, way, &trimmed(message), peer);
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        // An answer of ICMP to nobody in particular.
                        tracing::debug!(source = &*self.name, %error, "datagram can't be read");
                        break;
                    }
                }
            }
            let lines = batch.len() as u64;
            if lines > 0
                && let Err(why) = batch.send_within(UDP_WAIT).await
            {
                tracing::warn!(source = &*self.name, %why, lines, "dropped datagrams: use TCP where nothing may be lost");
                intake.dropped(why.reason(), lines, bytes);
            }
        }
        drops.count(intake).await;
        Ok(())
    }

    async fn connections(&self, bound: Bound, way: &Way, stop: &CancellationToken) -> Result<(), AgentError> {
        let max = self.config.max_connections;
        // A client that is idle stays: it has nothing to say yet. The agent bounds its stop itself.
        let limits = ConnectionLimits { max, max_per_address: max, drain: None, ..ConnectionLimits::default() };
        let (shared, way, token) = (self.clone(), way.clone(), stop.clone());
        let serve = move |Connection { stream, peer, seat }| {
            let (shared, way, stop) = (shared.clone(), way.clone(), token.clone());
            async move {
                let _seat = seat;
                shared.connection(stream, peer, &way, &stop).await;
            }
        };
        bound.run(&limits, stop, serve).await.map_err(self.failed("tcp", &self.config.tcp))
    }

    async fn connection(
        &self,
        mut stream: impl AsyncRead + Unpin,
        peer: SocketAddr,
        way: &Way,
        stop: &CancellationToken,
    ) {
        let intake = &way.intake;
        let mut frames = Frames::new(self.config.framing, intake.max_line() + HEAD_ROOM);
        loop {
            let mut batch = intake.batch();
            // What a connection holds is part of the agent's memory.
            while !batch.reserve(frames.len() + 2 * READ) {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(ROOM_PAUSE) => {}
                }
            }
            frames.buffer().reserve(READ);
            let read = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                read = stream.read_buf(frames.buffer()) => read,
            };
            let ended = match read {
                Ok(0) => true,
                Ok(_) => false,
                Err(error) => {
                    tracing::info!(source = &*self.name, %peer, %error, "connection lost");
                    true
                }
            };
            let mut broken = false;
            loop {
                match frames.next() {
                    Ok(Some(message)) => self.add(&mut batch, way, &message, peer),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(source = &*self.name, %peer, %error, "closing connection");
                        broken = true;
                        break;
                    }
                }
            }
            if ended && let Some(message) = frames.finish() {
                self.add(&mut batch, way, &message, peer);
            }
            if !self.deliver(batch, intake, peer).await || ended || broken {
                break;
            }
            let lost = frames.take_lost();
            if lost > 0 {
                intake.dropped(crate::ledger::REASON_CUT, 0, lost);
            }
        }
        let lost = frames.take_lost();
        if lost > 0 {
            intake.dropped(crate::ledger::REASON_CUT, 0, lost);
        }
    }

    /// Hands in, waiting for room. `false`: nothing more can be.
    async fn deliver(&self, batch: Batch, intake: &Intake, peer: SocketAddr) -> bool {
        let lines = batch.len() as u64;
        if lines == 0 {
            return true;
        }
        let bytes = batch.bytes();
        match batch.send().await {
            Ok(_) => true,
            Err(why) => {
                tracing::error!(source = &*self.name, %peer, %why, lines, "lost messages of a client, closing its connection");
                intake.dropped(why.reason(), lines, bytes);
                false
            }
        }
    }

    fn add(&self, batch: &mut Batch, Way { intake, plain }: &Way, message: &[u8], peer: SocketAddr) {
        if message.is_empty() {
            return;
        }
        let read = self.reader.read(message, &peer.ip().to_string(), intake.now_ns());
        let found = intake.stream_of(Some(&Client::at(peer.ip())), &read.labels, None);
        let line = |metadata| Line { text: read.text, time_ns: read.time_ns, metadata: Some(metadata) };
        match found {
            Ok(stream) => batch.push(&stream, line(&read.metadata)),
            // Too many hosts or programs, or a name that no label takes: the message goes on, with its fields beside it.
            Err(Rejected::TooManyStreams { .. } | Rejected::Labels { .. }) => {
                let fields = read.labels.iter().chain(read.metadata.iter());
                let metadata = Labels::new(fields.map(|(name, value)| (name.to_owned(), value.to_owned())));
                batch.push(plain, line(&metadata));
            }
            Err(why) => intake.dropped(why.reason(), 1, message.len() as u64),
        }
    }
}

/// What the kernel dropped of a socket's datagrams, as `/proc/self/net/udp` and `udp6` say.
struct Drops {
    inode: u64,
    seen: u64,
}

impl Drops {
    async fn count(&mut self, intake: &Intake) {
        let inode = self.inode;
        let found = tokio::task::spawn_blocking(move || {
            let tables = ["/proc/self/net/udp", "/proc/self/net/udp6"];
            tables.iter().find_map(|path| drops_in(&std::fs::read_to_string(path).ok()?, inode))
        });
        let Ok(Some(total)) = found.await else { return };
        let new = total.saturating_sub(self.seen);
        if new > 0 {
            self.seen = total;
            tracing::warn!(
                source = intake.name(),
                datagrams = new,
                "kernel dropped datagrams before they could be read: raise net.core.rmem_max, or use TCP"
            );
            intake.dropped("kernel", new, 0);
        }
    }
}

/// The last column of the socket's row.
fn drops_in(table: &str, inode: u64) -> Option<u64> {
    let row = table.lines().skip(1).map(|row| row.split_ascii_whitespace().collect::<Vec<_>>());
    let mut rows = row.filter(|row| row.get(9).and_then(|field| field.parse().ok()) == Some(inode));
    rows.next()?.get(12)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_stand_in_the_row_of_the_socket() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            12: 0100007F:1538 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 0\n\
            13: 0100007F:1539 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0000000000000000 19\n";
        assert_eq!((drops_in(table, 4711), drops_in(table, 4712), drops_in(table, 1)), (Some(0), Some(19), None));
    }
}
