//! Record batches where they stand on disk, so that they go to a client without passing through our memory.
//!
//! In: places that [`super::log`] has found, for many partitions at once. Out: [`Stored`], which the kernel can send from its
//! file, or which is read piece by piece. Touches segments' files, on the storage's threads for reading.

use std::cell::RefCell;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use bytes::Bytes;

use super::segment::Stretch;
use super::txn::AbortedTxn;
use millrace_log::fs::File;

/// Read at once to get bytes into the kernel's memory.
const WARM_BYTES: usize = 64 << 10;

/// Whole record batches that stand one after the other in a file. It stays readable when its segment is deleted.
#[derive(Clone)]
pub struct Stored {
    file: Arc<dyn File>,
    at: u64,
    bytes: usize,
    records: u64,
}

/// What was found, see [`super::ReadResult`].
#[derive(Debug, Clone)]
pub struct Located {
    /// The batches; `None` at the end of the log.
    pub stored: Option<Stored>,
    /// One past the last offset that consumers may see.
    pub high_watermark: i64,
    /// One past the last offset outside of open transactions.
    pub last_stable_offset: i64,
    /// Earliest offset.
    pub log_start_offset: i64,
    /// Transactions that were aborted and have records among these; only for [`super::Isolation::Committed`].
    pub aborted: Vec<AbortedTxn>,
}

impl Stored {
    pub(super) fn new(file: Arc<dyn File>, Stretch { at, bytes, records, .. }: Stretch) -> Self {
        Self { file, at, bytes, records }
    }

    /// Bytes of a file that exists for nothing else.
    #[cfg(test)]
    pub fn of(bytes: Vec<u8>) -> Self {
        let fs = millrace_log::fs::SimFs::new();
        let path = std::path::Path::new("stored");
        fs.set_content(path, bytes.clone());
        let file = millrace_log::fs::Filesystem::open(&fs, path).expect("it was just made");
        Self { file, at: 0, bytes: bytes.len(), records: 0 }
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// How many records, as their batches say.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The file for the kernel to send from, and the place of the first byte in it; `None` if only [`Self::read`] is left.
    pub fn handle(&self) -> Option<(BorrowedFd<'_>, u64)> {
        Some((self.file.handle()?, self.at))
    }

    /// Reads a part. Blocks.
    pub fn read(&self, from: usize, bytes: usize) -> io::Result<Bytes> {
        let mut part = vec![0; bytes.min(self.bytes.saturating_sub(from))];
        if self.file.read_at(self.at + from as u64, &mut part)? < part.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(part.into())
    }

    /// Gets the bytes into the kernel's memory if they are not, so that who sends them waits for no disk. Blocks.
    pub(super) fn warm(&self) -> io::Result<()> {
        thread_local! {
            static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        if self.file.is_in_memory(self.at, self.bytes) {
            return Ok(());
        }
        ROOM.with_borrow_mut(|room| {
            room.resize(WARM_BYTES, 0);
            let mut done = 0;
            while done < self.bytes {
                let read = self.file.read_at(self.at + done as u64, room)?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                done += read;
            }
            Ok(())
        })
    }
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stored({} bytes at {})", self.bytes, self.at)
    }
}
