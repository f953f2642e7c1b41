//! Snapshots of sled that were never finished. sled 0.34 writes `snap.N.generating` when it opens a database, and renames it; where
//! the disk was full the file stays, is taken for the newest snapshot, and the database can't be opened any more ("corrupted
//! data"), although everything is in its log.
//!
//! In: the folder of a database that nobody has open. Out: `Ok` once it holds none of them. Touches these files.

use std::io;
use std::path::Path;

/// Removes them. To be called by whoever holds the folder's lock, before each opening. Blocks.
pub(crate) fn clear_unfinished(folder: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(path = %path.display(), "removing an unfinished snapshot of a database: was the disk full?");
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}
