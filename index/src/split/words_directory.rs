//! One folder of Tantivy over the file-system trait.
//!
//! In: files as Tantivy writes them, each once. Out: their content. Touches that folder.
//!
//! Nothing is synced here: a split counts only with its `split.json`, whose writer syncs every file and folder before
//! ([`super::meta::Manifest::write`]); syncs of Tantivy's own, a dozen for each index, would be in vain. Reading takes whole
//! files into memory: on the operating system's disk they are mapped instead (`words`). Tantivy keeps of most errors only
//! the text, so the first error of writing is kept here, with its file.

use std::io::{self, BufWriter, IoSlice, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_log::fs::{FileWriter, Filesystem, read_all};
use parking_lot::Mutex;
use tantivy::directory::error::{DeleteError, OpenReadError, OpenWriteError};
use tantivy::directory::{
    AntiCallToken, Directory, FileHandle, OwnedBytes, TerminatingWrite, WatchCallback, WatchHandle, WritePtr,
};

use super::error::SplitError;

/// A folder of Tantivy.
#[derive(Clone)]
pub(super) struct WordsDirectory {
    fs: Arc<dyn Filesystem>,
    dir: PathBuf,
    not_written: NotWritten,
}

/// The first error of writing, until it is taken.
#[derive(Debug, Clone, Default)]
struct NotWritten(Arc<Mutex<Option<SplitError>>>);

impl NotWritten {
    /// Keeps the error if it is the first. Gives Tantivy one of the same kind.
    fn keep(&self, action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> io::Error {
        move |error| {
            let kind = error.kind();
            self.0.lock().get_or_insert_with(|| SplitError::io(action, path)(error));
            kind.into()
        }
    }
}

impl WordsDirectory {
    /// The folder must exist.
    pub fn new(fs: &Arc<dyn Filesystem>, dir: &Path) -> Self {
        Self { fs: Arc::clone(fs), dir: dir.to_owned(), not_written: NotWritten::default() }
    }

    /// Why something could not be written, if that was it; otherwise Tantivy itself failed.
    pub fn error(&self, source: tantivy::TantivyError) -> SplitError {
        let not_written = self.not_written.0.lock().take();
        not_written.unwrap_or_else(|| SplitError::words(&self.dir, source))
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        read_all(&*self.fs, &self.dir.join(path)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => OpenReadError::FileDoesNotExist(path.to_owned()),
            _ => OpenReadError::wrap_io_error(error, path.to_owned()),
        })
    }
}

impl std::fmt::Debug for WordsDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WordsDirectory").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// A file that is written.
struct WordsFile {
    file: FileWriter,
    path: PathBuf,
    not_written: NotWritten,
}

impl Write for WordsFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).map_err(self.not_written.keep("writing", &self.path))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl TerminatingWrite for WordsFile {
    fn terminate_ref(&mut self, _: AntiCallToken) -> io::Result<()> {
        self.file.flush()
    }
}

impl Directory for WordsDirectory {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        Ok(Arc::new(OwnedBytes::new(self.read(path)?)))
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        self.fs.remove(&self.dir.join(path)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => DeleteError::FileDoesNotExist(path.to_owned()),
            _ => DeleteError::IoError { io_error: Arc::new(error), filepath: path.to_owned() },
        })
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        match self.fs.metadata(&self.dir.join(path)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(OpenReadError::wrap_io_error(error, path.to_owned())),
        }
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        let at = self.dir.join(path);
        let file = self.fs.create_new(&at).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => OpenWriteError::FileAlreadyExists(path.to_owned()),
            _ => OpenWriteError::wrap_io_error(self.not_written.keep("creating", &at)(error), path.to_owned()),
        })?;
        let not_written = self.not_written.clone();
        Ok(BufWriter::new(Box::new(WordsFile { file: FileWriter::new(file), path: at, not_written })))
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        self.read(path)
    }

    /// Atomic for readers of the folder; nobody else reads it while it is written.
    fn atomic_write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let to = self.dir.join(path);
        let fresh = to.with_extension("tmp");
        let write = || {
            self.fs.create(&fresh)?.write_at(0, &mut [IoSlice::new(content)])?;
            self.fs.rename(&fresh, &to)
        };
        write().map_err(self.not_written.keep("writing", &to))
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    /// Indices are never changed once they are written.
    fn watch(&self, _: WatchCallback) -> tantivy::Result<WatchHandle> {
        Ok(WatchHandle::empty())
    }
}
