//! Frames: four bytes of length (big-endian, signed), then that many bytes of a request.
//!
//! In: an async reader. Out: whole frames. Up to 1 MiB a frame gets its room at once, which the system fills as bytes arrive;
//! above that it is only given memory as they do, and takes its part of a budget that all connections share, so that many large requests wait for each other instead of
//! taking all memory. `next` may be dropped and called again at any time: what was read is kept.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

/// Frames up to this size need nothing of the shared budget.
const FREE_BYTES: usize = 1 << 20;
/// Room for the beginning of the next frame: at least this, and if the last one was larger up to [`MOST_ROOM`], so that most
/// frames come with one call. Connections that wait hold no more.
const LEAST_ROOM: usize = 16 << 10;
const MOST_ROOM: usize = 64 << 10;
/// A client that sends less than this of a request in the time for a stall is stalled.
const PROGRESS_BYTES: usize = 64 << 10;
/// The budget is counted in pieces of this size.
pub(crate) const BUDGET_UNIT_BYTES: usize = 1024;

/// Why no more frames come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("client closed the connection")]
    Closed,
    #[error("request of {announced} bytes exceeds the limit of {max} (not a Kafka client, or raise max_frame_size)")]
    Size { announced: i32, max: usize },
    #[error("no request within the idle timeout")]
    Idle,
    #[error("request was not sent in time")]
    Stalled,
    #[error("reading failed: {0}")]
    Io(#[from] io::Error),
}

/// A whole frame without its length; holds its part of the budget.
#[derive(Debug)]
pub(crate) struct Frame {
    pub bytes: Bytes,
    pub budget: Option<OwnedSemaphorePermit>,
}

/// Takes frames off a stream.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    reader: R,
    buffer: BytesMut,
    max: usize,
    budget: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    stall: Duration,
    /// Room for a frame like the last one.
    usual: usize,
    /// When so many bytes of the frame were here: a frame must grow from there in time.
    mark: (Instant, usize),
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub fn new(reader: R, max: usize, budget: Arc<Semaphore>, stall: Duration) -> Self {
        let mark = (Instant::now(), 0);
        Self { reader, buffer: BytesMut::new(), max, budget, held: None, stall, usual: LEAST_ROOM, mark }
    }

    /// Takes frames up to another size from now on.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// The next frame, which must begin within `idle`.
    pub async fn next(&mut self, idle: Duration) -> Result<Frame, FrameError> {
        loop {
            let mut missing = 4usize.saturating_sub(self.buffer.len());
            if let Some(head) = self.buffer.first_chunk::<4>() {
                let announced = i32::from_be_bytes(*head);
                let length = match usize::try_from(announced) {
                    Ok(length) if length <= self.max => length,
                    _ => return Err(FrameError::Size { announced, max: self.max }),
                };
                if self.buffer.len() >= 4 + length {
                    self.usual = (4 + length).clamp(LEAST_ROOM, MOST_ROOM);
                    let mut bytes = self.buffer.split_to(4 + length).freeze();
                    self.mark = (Instant::now(), self.buffer.len());
                    drop(bytes.split_to(4));
                    return Ok(Frame { bytes, budget: self.held.take() });
                }
                if length > FREE_BYTES && self.buffer.len() >= FREE_BYTES && self.held.is_none() {
                    let units = u32::try_from(length.div_ceil(BUDGET_UNIT_BYTES)).unwrap_or(u32::MAX);
                    // The budget is never closed; without it the frame would be read for free.
                    self.held = Arc::clone(&self.budget).acquire_many_owned(units).await.ok();
                    self.mark = (Instant::now(), self.buffer.len());
                }
                missing = 4 + length - self.buffer.len();
            }
            // Above what is free, memory follows what has come, at most doubling it.
            let room = match self.buffer.len() {
                0 => self.usual,
                have => missing.min(have.max(FREE_BYTES)),
            };
            self.buffer.reserve(room);
            let before = self.buffer.len();
            let reading = self.reader.read_buf(&mut self.buffer);
            let read = match before {
                // Nobody waits that long.
                0 if idle == Duration::MAX => reading.await?,
                0 => timeout(idle, reading).await.map_err(|_| FrameError::Idle)??,
                _ => timeout_at(self.mark.0 + self.stall, reading).await.map_err(|_| FrameError::Stalled)??,
            };
            if read == 0 {
                return Err(FrameError::Closed);
            }
            if before == 0 || self.buffer.len() >= self.mark.1 + PROGRESS_BYTES {
                self.mark = (Instant::now(), self.buffer.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(60);

    fn budget() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(4 << 10))
    }

    #[tokio::test]
    async fn frames_come_whole_however_the_bytes_come() {
        let (mut client, server) = tokio::io::duplex(3);
        let sent = tokio::io::AsyncWriteExt::write_all(&mut client, b"\0\0\0\x03abc\0\0\0\0\0\0\0\x02de");
        let mut frames = FrameReader::new(server, 100, budget(), STALL);
        let read = async {
            let mut got = Vec::new();
            for _ in 0..3 {
                got.push(frames.next(STALL).await.unwrap().bytes);
            }
            got
        };
        let (sent, got) = tokio::join!(sent, read);
        sent.unwrap();
        assert_eq!(got, ["abc", "", "de"]);
        drop(client);
        assert!(matches!(frames.next(STALL).await, Err(FrameError::Closed)));
    }

    #[tokio::test]
    async fn lengths_out_of_range_end_the_stream() {
        for announced in [-1, 101, i32::MAX, i32::from_be_bytes(*b"GET ")] {
            let bytes = announced.to_be_bytes();
            let mut frames = FrameReader::new(&bytes[..], 100, budget(), STALL);
            assert!(matches!(frames.next(STALL).await, Err(FrameError::Size { .. })), "{announced}");
        }
    }

    #[tokio::test]
    async fn a_large_frame_waits_for_the_budget_only_once_it_comes() {
        let budget = Arc::new(Semaphore::new(2 << 10));
        let mut bytes = (2i32 << 20).to_be_bytes().to_vec();
        bytes.resize(4 + (2 << 20), b'x');
        let mut announced = FrameReader::new(&bytes[..4], 8 << 20, Arc::clone(&budget), STALL);
        assert!(matches!(announced.next(STALL).await, Err(FrameError::Closed)));
        assert_eq!(budget.available_permits(), 2 << 10, "an announcement takes nothing");
        let mut frames = FrameReader::new(&bytes[..], 8 << 20, Arc::clone(&budget), STALL);
        let frame = frames.next(STALL).await.unwrap();
        assert_eq!((frame.bytes.len(), budget.available_permits()), (2 << 20, 0));
        drop(frame);
        assert_eq!(budget.available_permits(), 2 << 10);
    }
}
