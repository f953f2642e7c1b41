//! The file-system trait: what storage asks of a disk, and two helpers over it for small files.
//!
//! In: paths, bytes, places. Out: the same, or errors of the disk. Touches what its implementations touch.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open file; all calls name their place, so that readers and the writer share one handle.
pub trait File: Send + Sync {
    /// Reads up to the buffer's length at a place; fewer bytes only at the end of the file.
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Writes all slices, one after the other, from a place on. After an error any prefix may have been written.
    fn write_at(&self, at: u64, slices: &mut [IoSlice<'_>]) -> io::Result<()>;

    /// Bytes in the file.
    fn len(&self) -> io::Result<u64>;

    /// Whether it holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Cuts the file.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Forces content and length to disk (not its name in the folder: [`Filesystem::sync_dir`]).
    fn sync_data(&self) -> io::Result<()>;

    /// The system's handle, by which the kernel can send the content on by itself; `None` if there is none.
    fn handle(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Whether reading these bytes would not wait for the disk, by a few samples.
    fn is_in_memory(&self, at: u64, bytes: usize) -> bool {
        let _ = (at, bytes);
        true
    }
}

/// Held for as long as the folder is in use.
pub trait Lock: Send + Sync {}

/// What a folder lists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// Name within the folder.
    pub name: String,
    /// Whether it is a folder itself.
    pub is_dir: bool,
}

/// What is known of a file or folder without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Bytes in the file; of no meaning for a folder.
    pub len: u64,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// A file system.
pub trait Filesystem: Send + Sync + 'static {
    /// Makes a file, empty, for reading and writing; an existing one is emptied.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// The same; `AlreadyExists` if there is something of that name.
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Opens an existing file for reading (and for [`File::sync_data`]), also where writing is not permitted.
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Length and kind of a file or folder; `NotFound` if there is none.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;

    /// The path under which the operating system has this file or folder, so that it can be mapped into memory; `None`
    /// if it is not one of the operating system's.
    fn system_path(&self, path: &Path) -> Option<PathBuf> {
        let _ = path;
        None
    }

    /// Renames, replacing what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes a folder with everything in it. After an error any part of it may be gone.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Makes one folder; `AlreadyExists` if there is something of that name.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes a folder and those above it.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// What stands in a folder, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;

    /// Forces names made, renamed and removed in a folder to disk.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Bytes that may still be written below a folder.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;

    /// Takes the exclusive lock of a file, which it makes; `WouldBlock` with the holder's words if it is taken.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
}

/// Reads a whole small file.
pub fn read_all(fs: &dyn Filesystem, path: &Path) -> io::Result<Vec<u8>> {
    let file = fs.open_read(path)?;
    let len = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; len];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Replaces a small file as a whole: after a crash it holds the old or the new content, durable on return.
pub fn replace(fs: &dyn Filesystem, path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".tmp");
    let fresh = PathBuf::from(fresh);
    let file = fs.create(&fresh)?;
    file.write_at(0, &mut [IoSlice::new(content)])?;
    file.sync_data()?;
    fs.rename(&fresh, path)?;
    fs.sync_dir(dir)
}
