//! The operating system's files behind the file-system trait.
//!
//! In: calls of [`Filesystem`]. Out: their results. Touches the disk.

use std::fs::OpenOptions;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::{Errno, ReadWriteFlags};

use super::filesystem::{DirEntry, File, Filesystem, Lock, Metadata};

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealFs;

impl RealFs {
    /// As the storage takes it.
    pub fn shared() -> Arc<dyn Filesystem> {
        Arc::new(Self)
    }
}

/// The kernel reads ahead about so much, so that what is in memory comes in pieces of this size.
const SAMPLE_BYTES: usize = 128 << 10;

struct RealFile(std::fs::File);

impl File for RealFile {
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, mut at: u64, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        // Empty slices at the front would look like a disk that takes nothing.
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            // The kernel takes 1024 slices at most.
            let some = slices.get(..slices.len().min(1024)).unwrap_or_default();
            match rustix::io::pwritev(&self.0, some, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    at += n as u64;
                    IoSlice::advance_slices(&mut slices, n);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.0.metadata().map(|m| m.len())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn handle(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn is_in_memory(&self, at: u64, bytes: usize) -> bool {
        let last = at.saturating_add(bytes as u64).saturating_sub(1);
        let samples = (at..=last).step_by(SAMPLE_BYTES).chain([last]);
        let mut byte = [0];
        samples.into_iter().all(|place| {
            let mut byte = [IoSliceMut::new(&mut byte)];
            // An error other than "would wait" shows again when it is read.
            !matches!(rustix::io::preadv2(&self.0, &mut byte, place, ReadWriteFlags::NOWAIT), Err(Errno::AGAIN))
        })
    }
}

struct RealLock(#[allow(dead_code, reason = "the lock lives as long as the file is open")] std::fs::File);

impl Lock for RealLock {}

impl Filesystem for RealFs {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile(std::fs::File::open(path)?)))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        std::fs::metadata(path).map(|found| Metadata { len: found.len(), is_dir: found.is_dir() })
    }

    fn system_path(&self, path: &Path) -> Option<PathBuf> {
        Some(path.to_owned())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let is_dir = entry.file_type()?.is_dir();
            // Names that are not UTF-8 are not the log's.
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(DirEntry { name, is_dir });
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::File::open(dir)?.sync_all()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {
                // Whose it is, for who comes too late; the lock holds without it, also on a full disk.
                let named = file.set_len(0).and_then(|()| write!(file, "process {}", std::process::id()));
                match named {
                    Err(e) if e.kind() != io::ErrorKind::StorageFull => Err(e),
                    _ => Ok(Box::new(RealLock(file))),
                }
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let read = (&file).take(64).read_to_string(&mut holder);
                let known = read.is_ok() && !holder.is_empty();
                let holder = if known { holder } else { "another process".to_owned() };
                Err(io::Error::new(io::ErrorKind::WouldBlock, holder))
            }
            Err(std::fs::TryLockError::Error(e)) => Err(e),
        }
    }
}
