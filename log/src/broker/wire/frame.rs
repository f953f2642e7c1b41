//! Frames: four bytes of length (big-endian, signed), then that many bytes of a request.
//!
//! In: an async reader. Out: whole frames. A frame is only given memory as its bytes arrive, and above 1 MiB it takes
//! its part of a budget that all connections share, so that many large requests wait for each other instead of
//! taking all memory. `next` may be dropped and called again at any time: what was read is kept.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Frames up to this size need nothing of the shared budget.
const FREE_BYTES: usize = 1 << 20;
/// The budget is counted in pieces of this size.
pub(in super::super) const BUDGET_UNIT_BYTES: usize = 1024;

/// Why no more frames come.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum FrameError {
    #[error("the client hung up")]
    Closed,
    #[error("announced a request of {announced} bytes, {max} are allowed (no Kafka client, or raise max_frame_size)")]
    Size { announced: i32, max: usize },
    #[error("reading failed: {0}")]
    Io(#[from] io::Error),
}

/// A whole frame without its length; holds its part of the budget.
#[derive(Debug)]
pub(in super::super) struct Frame {
    pub bytes: Bytes,
    pub budget: Option<OwnedSemaphorePermit>,
}

/// Takes frames off a stream.
#[derive(Debug)]
pub(in super::super) struct FrameReader<R> {
    reader: R,
    buffer: BytesMut,
    max: usize,
    budget: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub fn new(reader: R, max: usize, budget: Arc<Semaphore>) -> Self {
        Self { reader, buffer: BytesMut::new(), max, budget, held: None }
    }

    /// Whether the beginning of a frame is here and its end is not.
    pub fn is_inside_frame(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next frame.
    pub async fn next(&mut self) -> Result<Frame, FrameError> {
        loop {
            let mut missing = 4usize.saturating_sub(self.buffer.len());
            if let Some(head) = self.buffer.first_chunk::<4>() {
                let announced = i32::from_be_bytes(*head);
                let length = match usize::try_from(announced) {
                    Ok(length) if length <= self.max => length,
                    _ => return Err(FrameError::Size { announced, max: self.max }),
                };
                if self.buffer.len() >= 4 + length {
                    let mut bytes = self.buffer.split_to(4 + length).freeze();
                    drop(bytes.split_to(4));
                    return Ok(Frame { bytes, budget: self.held.take() });
                }
                if length > FREE_BYTES && self.buffer.len() >= FREE_BYTES && self.held.is_none() {
                    let units = u32::try_from(length.div_ceil(BUDGET_UNIT_BYTES)).unwrap_or(u32::MAX);
                    // The budget is never closed; without it the frame would be read for free.
                    self.held = Arc::clone(&self.budget).acquire_many_owned(units).await.ok();
                }
                missing = 4 + length - self.buffer.len();
            }
            // Memory follows what has come, at most doubling it.
            self.buffer.reserve(missing.min(self.buffer.len().max(16 << 10)));
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Err(FrameError::Closed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(4 << 10))
    }

    #[tokio::test]
    async fn frames_come_whole_however_the_bytes_come() {
        let (mut client, server) = tokio::io::duplex(3);
        let sent = tokio::io::AsyncWriteExt::write_all(&mut client, b"\0\0\0\x03abc\0\0\0\0\0\0\0\x02de");
        let mut frames = FrameReader::new(server, 100, budget());
        let read = async {
            let mut got = Vec::new();
            for _ in 0..3 {
                got.push(frames.next().await.unwrap().bytes);
            }
            got
        };
        let (sent, got) = tokio::join!(sent, read);
        sent.unwrap();
        assert_eq!(got, ["abc", "", "de"]);
        drop(client);
        assert!(matches!(frames.next().await, Err(FrameError::Closed)));
    }

    #[tokio::test]
    async fn lengths_out_of_range_end_the_stream() {
        for announced in [-1, 101, i32::MAX, i32::from_be_bytes(*b"GET ")] {
            let bytes = announced.to_be_bytes();
            let mut frames = FrameReader::new(&bytes[..], 100, budget());
            assert!(matches!(frames.next().await, Err(FrameError::Size { .. })), "{announced}");
        }
    }

    #[tokio::test]
    async fn a_large_frame_waits_for_the_budget_only_once_it_comes() {
        let budget = Arc::new(Semaphore::new(2 << 10));
        let mut bytes = (2i32 << 20).to_be_bytes().to_vec();
        bytes.resize(4 + (2 << 20), b'x');
        let mut announced = FrameReader::new(&bytes[..4], 8 << 20, Arc::clone(&budget));
        assert!(matches!(announced.next().await, Err(FrameError::Closed)));
        assert_eq!(budget.available_permits(), 2 << 10, "an announcement takes nothing");
        let mut frames = FrameReader::new(&bytes[..], 8 << 20, Arc::clone(&budget));
        let frame = frames.next().await.unwrap();
        assert_eq!((frame.bytes.len(), budget.available_permits()), (2 << 20, 0));
        drop(frame);
        assert_eq!(budget.available_permits(), 2 << 10);
    }
}
