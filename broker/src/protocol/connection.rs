//! One connection: frames in, answers out, in the order of the requests.
//!
//! In: a stream whose client is known ([`crate::protocol::listener::entry`]). Out: answers on it. Touches the socket. Produce requests overlap while they wait for the disk; any
//! other request waits for those before it and holds up those behind it, as in Kafka. Ends on hang-up, on anything that
//! is no Kafka request, when nothing moves for too long, and at the stop after the last answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use millrace_doors::seats::Sitting;
use rustix::fs::sendfile;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::either::Either;

use crate::metrics::EndLabel;
use crate::protocol::admission::Admitted;
use crate::protocol::context::Core;
use crate::protocol::disconnect::{CAUSES, Disconnect};
use crate::protocol::dispatch::{self, Answer};
use crate::protocol::handshake::{Again, Entered, enter, leave};
use crate::protocol::listener::Listener;
use crate::protocol::listener::stream::{WRITE_PIECE_BYTES, Writer, write};
use crate::protocol::throttle;
use crate::protocol::wire::Request;
use crate::protocol::wire::frame::Frame;
use crate::protocol::wire::reply::Reply;
use crate::storage::{Stored, read_stored};

/// Time that requests in hand get when their client has hung up.
const HANG_UP_GRACE: Duration = Duration::from_secs(1);

/// Serves a connection to its end.
pub(crate) async fn serve(
    core: Arc<Core>,
    listener: Arc<Listener>,
    mut admitted: Admitted,
    stream: TcpStream,
    from: SocketAddr,
) {
    let result = match enter(&core, &listener, &mut admitted, stream, from).await {
        Ok(mut entered) => {
            let result = answer_all(&core, &mut entered, &admitted.sitting()).await;
            leave(&mut entered.writer).await;
            result
        }
        Err(ended) => Err(ended),
    };
    let ended = result.err().unwrap_or(Disconnect::Stop);
    tracing::debug!(listener = listener.name, %from, reason = %ended, "connection ended");
    debug_assert!(CAUSES.contains(&ended.cause()), "series of all causes are exposed from the start");
    let label = EndLabel { listener: listener.name, cause: ended.cause() };
    core.metrics.connections_ended.get_or_create(&label).inc();
}

type Pending = FuturesOrdered<BoxFuture<'static, Answer>>;

async fn answer_all(core: &Arc<Core>, entered: &mut Entered, sitting: &Sitting) -> Result<(), Disconnect> {
    let Entered { frames, writer, session, sasl } = entered;
    let rate = session.listener.rate(&session.who.name, session.peer.from);
    // Until when nothing more is read, as the client asks more often than it may.
    let mut muted: Option<Instant> = None;
    let mut pending = Pending::new();
    let mut is_alone = false;
    let mut held: Option<(Request, Frame)> = None;
    let mut is_stopping = false;
    let mut is_idle = false;
    loop {
        if let Some((request, _)) = &held {
            let overlaps = dispatch::overlaps(request);
            let may_start =
                if overlaps { !is_alone && pending.len() < core.config.max_in_flight } else { pending.is_empty() };
            if may_start && let Some((request, frame)) = held.take() {
                let again = if session.listener.sasl().is_some() {
                    sasl.again(core, session, &request).await?
                } else {
                    Again::Other
                };
                match again {
                    Again::Other => {}
                    Again::Answer(answer) => {
                        write(writer, &answer, core.config.stall_timeout.0).await?;
                        continue;
                    }
                    Again::Last(answer, ended) => {
                        write(writer, &answer, core.config.stall_timeout.0).await?;
                        return Err(ended);
                    }
                }
                is_alone = !overlaps;
                let budget = frame.budget;
                drop(frame.bytes);
                let wait = rate.as_ref().map_or(Duration::ZERO, |rate| rate.take());
                if !wait.is_zero() {
                    core.metrics.throttled.inc();
                    muted = Some(Instant::now() + wait);
                }
                let (key, version) = (request.key, request.version);
                let answer = dispatch::start(core, session, request).await?;
                pending.push_back(Box::pin(async move {
                    let answer = answer.await;
                    drop(budget);
                    if wait.is_zero() {
                        return answer;
                    }
                    Ok(answer?.map(|Reply { head, rest }| Reply {
                        head: throttle::set_throttle_time(head, key, version, wait),
                        rest,
                    }))
                }));
            }
        }
        if is_stopping && pending.is_empty() {
            return Ok(());
        }
        // While answers are due their client may be silent for as long as they take.
        if is_idle != (pending.is_empty() && held.is_none()) {
            is_idle = !is_idle;
            if is_idle { sitting.waits() } else { sitting.works() }
        }
        let patience = if pending.is_empty() { core.config.idle_timeout.0 } else { Duration::MAX };
        tokio::select! {
            biased;
            () = core.stop.cancelled(), if !is_stopping => is_stopping = true,
            () = sitting.leave(), if is_idle => return Err(Disconnect::Shed),
            Some(answer) = pending.next(), if !pending.is_empty() => {
                if pending.is_empty() {
                    is_alone = false;
                }
                if let Some(reply) = answer? {
                    send(core, writer, &reply).await?;
                }
            }
            () = sleep_until(muted.unwrap_or_else(Instant::now)), if muted.is_some() => muted = None,
            frame = frames.next(patience), if held.is_none() && muted.is_none() && !is_stopping => match frame {
                Err(gone) => {
                    // What was asked for before the client left is done (a last commit, a leave), though nobody waits.
                    let done = async { while pending.next().await.is_some() {} };
                    if timeout(HANG_UP_GRACE, done).await.is_err() {
                        tracing::debug!(from = %session.peer.from, "a waiting request ends with its client");
                    }
                    return Err(gone.into());
                }
                Ok(frame) => {
                    match Request::read(frame.bytes.clone()) {
                        Ok(request) => held = Some((request, frame)),
                        Err(fault) => match dispatch::unserved(&fault) {
                            // ApiVersions alone is answered whatever its version: clients start with their newest.
                            Some(answer) => write(writer, &answer, core.config.stall_timeout.0).await?,
                            None => return Err(fault.into()),
                        },
                    }
                }
            },
        }
    }
}

/// Sends an answer with the records that belong to it.
async fn send(core: &Core, writer: &mut Writer, reply: &Reply) -> Result<(), Disconnect> {
    let patience = core.config.stall_timeout.0;
    write(writer, &reply.head, patience).await?;
    for (stored, after) in &reply.rest {
        if !send_from_file(writer, stored, patience).await? {
            let mut done = 0;
            while done < stored.len() {
                let read = read_stored(&core.storage, stored, done, WRITE_PIECE_BYTES).await;
                let piece = read.map_err(Disconnect::Records)?;
                write(writer, &piece, patience).await?;
                done += piece.len();
            }
        }
        write(writer, after, patience).await?;
    }
    Ok(())
}

/// Has the kernel send records from their file; `false` where it can't, as under TLS.
async fn send_from_file(writer: &Writer, stored: &Stored, patience: Duration) -> Result<bool, Disconnect> {
    let (Either::Left(half), Some((file, mut at))) = (writer, stored.handle()) else { return Ok(false) };
    let stream: &TcpStream = half.as_ref();
    let mut left = stored.len();
    while left > 0 {
        let piece = left.min(WRITE_PIECE_BYTES);
        let sending = stream.async_io(Interest::WRITABLE, || Ok(sendfile(stream, file, Some(&mut at), piece)?));
        let sent = timeout(patience, sending).await.map_err(|_| Disconnect::Stalled)?.map_err(Disconnect::Write)?;
        if sent == 0 {
            return Err(Disconnect::Records(std::io::ErrorKind::UnexpectedEof.into()));
        }
        left -= sent;
    }
    Ok(true)
}
