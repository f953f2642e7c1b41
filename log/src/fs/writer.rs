//! A file of the file-system trait as [`io::Write`], from its start on.
//!
//! In: bytes. Out: the same in the file, one behind the other. Touches that file. Put it into a [`io::BufWriter`] where
//! writes are small; leaves syncing to [`File::sync_data`].

use std::io::{self, IoSlice, Write};
use std::sync::Arc;

use super::filesystem::File;

/// Writes a file from its start on.
pub struct FileWriter {
    file: Arc<dyn File>,
    at: u64,
}

impl FileWriter {
    /// Begins at the start of the file.
    pub fn new(file: Arc<dyn File>) -> Self {
        Self { file, at: 0 }
    }

    /// The file.
    pub fn file(&self) -> &dyn File {
        &*self.file
    }
}

impl std::fmt::Debug for FileWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileWriter").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Write for FileWriter {
    /// Writes all or fails; what is written after a failure takes the same place.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(self.at, &mut [IoSlice::new(bytes)])?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Filesystem as _, RealFs, SimFs, read_all};
    use super::*;

    #[test]
    fn bytes_follow_each_other_also_after_a_failed_write() {
        let (fs, path) = (SimFs::new(), Path::new("/f"));
        let mut writer = FileWriter::new(fs.create_new(path).unwrap());
        writer.write_all(b"ab").unwrap();
        fs.tear_next_write(1);
        writer.write_all(b"xyz").unwrap_err();
        writer.write_all(b"cd").unwrap();
        writer.file().sync_data().unwrap();
        assert_eq!(read_all(&fs, path).unwrap(), b"abcd");

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let mut writer = io::BufWriter::with_capacity(3, FileWriter::new(RealFs.create_new(&path).unwrap()));
        for part in [&b"a"[..], b"bcde", b"", b"fg"] {
            writer.write_all(part).unwrap();
        }
        writer.flush().unwrap();
        assert_eq!(read_all(&RealFs, &path).unwrap(), b"abcdefg");
    }
}
