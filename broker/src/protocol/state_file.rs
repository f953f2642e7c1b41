//! Small state files in the data folder: read whole, replaced atomically and durably.
//!
//! In: a path, the new content. Out: the content. Touches one file through the file-system seam: a new file is written and
//! synced, then renamed over the old one, so that after a crash one of the two is there, whole.

use std::io::{self, IoSlice};
use std::path::Path;

use millrace_log::fs::Filesystem;

/// A whole file.
pub(crate) fn read(fs: &dyn Filesystem, path: &Path) -> io::Result<Vec<u8>> {
    let file = fs.open(path)?;
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(0)];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Puts a file with new content in the place of an old one, durably.
pub(crate) fn replace(fs: &dyn Filesystem, path: &Path, content: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("json.tmp");
    let file = fs.create(&fresh)?;
    file.write_at(0, &mut [IoSlice::new(content)])?;
    file.sync_data()?;
    fs.rename(&fresh, path)?;
    fs.sync_dir(path.parent().unwrap_or(Path::new(".")))
}
