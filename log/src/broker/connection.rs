//! One connection: frames in, answers out, in the order of the requests.
//!
//! In: a stream. Out: answers on it. Touches the socket. Produce requests overlap while they wait for the disk; any
//! other request waits for those before it and holds up those behind it, as in Kafka. Ends on hang-up, on anything that
//! is no Kafka request, when nothing moves for too long, and at the stop after the last answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::context::{Core, Peer};
use super::dispatch;
use super::wire::Request;
use super::wire::RequestFault;
use super::wire::frame::{Frame, FrameError, FrameReader};
use crate::metrics::CauseLabel;

/// A slow client must make progress on each piece of an answer.
const WRITE_PIECE_BYTES: usize = 256 << 10;

/// Time that requests in hand get when their client has hung up.
const HANG_UP_GRACE: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Request(#[from] RequestFault),
    #[error("nothing asked for too long")]
    Idle,
    #[error("nothing sent or read for too long within a request or an answer")]
    Stalled,
    #[error("writing failed: {0}")]
    Write(std::io::Error),
}

impl Ended {
    /// For the metric; `None` where the client just left.
    const fn cause(&self) -> Option<&'static str> {
        match self {
            Self::Frame(FrameError::Closed | FrameError::Io(_)) | Self::Write(_) => None,
            Self::Frame(FrameError::Size { .. }) => Some("garbage"),
            Self::Request(RequestFault::UnservedVersion { .. } | RequestFault::UnknownKey(_)) => Some("unsupported"),
            Self::Request(RequestFault::Unacknowledged(_)) => Some("unacknowledged"),
            Self::Request(_) => Some("malformed"),
            Self::Idle => Some("idle"),
            Self::Stalled => Some("stalled"),
        }
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(core: Arc<Core>, stream: TcpStream, from: SocketAddr) {
    core.metrics.connections.inc();
    let result = match stream.local_addr() {
        Ok(to) => answer_all(&core, stream, Peer { from, to }).await,
        Err(error) => Err(Ended::Write(error)),
    };
    core.metrics.connections.dec();
    if let Err(ended) = result {
        tracing::debug!(%from, reason = %ended, "connection ended");
        if let Some(cause) = ended.cause() {
            core.metrics.connections_ended.get_or_create(&CauseLabel { cause }).inc();
        }
    }
}

type Pending = FuturesOrdered<BoxFuture<'static, Result<Option<Bytes>, RequestFault>>>;

async fn answer_all(core: &Arc<Core>, stream: TcpStream, peer: Peer) -> Result<(), Ended> {
    // Without it small answers wait for the client's delayed acknowledgements. A socket that refuses is as good as gone.
    stream.set_nodelay(true).map_err(Ended::Write)?;
    let (reader, mut writer) = stream.into_split();
    let max = usize::try_from(core.config.max_frame_size.0).unwrap_or(usize::MAX);
    let mut frames = FrameReader::new(reader, max, Arc::clone(&core.budget));
    let mut pending = Pending::new();
    let mut is_alone = false;
    let mut held: Option<(Request, Frame)> = None;
    let mut is_stopping = false;
    loop {
        if let Some((request, _)) = &held {
            let overlaps = dispatch::overlaps(request);
            let may_start =
                if overlaps { !is_alone && pending.len() < core.config.max_in_flight } else { pending.is_empty() };
            if may_start && let Some((request, frame)) = held.take() {
                is_alone = !overlaps;
                let budget = frame.budget;
                drop(frame.bytes);
                let answer = dispatch::start(core, peer, request).await?;
                pending.push_back(Box::pin(async move {
                    let answer = answer.await;
                    drop(budget);
                    answer
                }));
            }
        }
        if is_stopping && pending.is_empty() {
            return Ok(());
        }
        let patience = match (frames.is_inside_frame(), pending.is_empty()) {
            (true, _) => core.config.stall_timeout.0,
            (false, true) => core.config.idle_timeout.0,
            (false, false) => Duration::MAX,
        };
        tokio::select! {
            biased;
            () = core.stop.cancelled(), if !is_stopping => is_stopping = true,
            Some(answer) = pending.next(), if !pending.is_empty() => {
                if pending.is_empty() {
                    is_alone = false;
                }
                if let Some(bytes) = answer? {
                    write(&mut writer, &bytes, core.config.stall_timeout.0).await?;
                }
            }
            frame = within(patience, frames.next()), if held.is_none() && !is_stopping => match frame {
                Some(Err(gone)) => {
                    // What was asked for before the client left is done (a last commit, a leave), though nobody waits.
                    let done = async { while pending.next().await.is_some() {} };
                    if timeout(HANG_UP_GRACE, done).await.is_err() {
                        tracing::debug!(from = %peer.from, "a waiting request ends with its client");
                    }
                    return Err(gone.into());
                }
                Some(Ok(frame)) => {
                    match Request::read(frame.bytes.clone()) {
                        Ok(request) => held = Some((request, frame)),
                        Err(fault) => match dispatch::unserved(&fault) {
                            // ApiVersions alone is answered whatever its version: clients start with their newest.
                            Some(answer) => write(&mut writer, &answer, core.config.stall_timeout.0).await?,
                            None => return Err(fault.into()),
                        },
                    }
                }
                None if frames.is_inside_frame() => return Err(Ended::Stalled),
                None => return Err(Ended::Idle),
            },
        }
    }
}

async fn within<T>(patience: Duration, work: impl Future<Output = T>) -> Option<T> {
    match Instant::now().checked_add(patience) {
        Some(_) => timeout(patience, work).await.ok(),
        None => Some(work.await),
    }
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8], patience: Duration) -> Result<(), Ended> {
    for piece in bytes.chunks(WRITE_PIECE_BYTES) {
        timeout(patience, writer.write_all(piece)).await.map_err(|_| Ended::Stalled)?.map_err(Ended::Write)?;
    }
    Ok(())
}
