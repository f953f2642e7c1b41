//! Damaged bytes within a segment: the list that readers use to skip them, and their quarantine.
//!
//! In: places that hold no batch. Out: [`Hole`]s, in memory and in `<base>.holes` (JSON). Touches that file and the copies
//! `damaged/<base>.<position>.bytes` in the partition's folder, through [`Filesystem`].

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::storage::layout::DAMAGED_DIR;
use millrace_log::fs::{self, Filesystem};

/// Copied at once.
const CHUNK: usize = 1 << 20;

/// Damaged bytes within a segment, with what they held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hole {
    /// The segment's file.
    pub file: PathBuf,
    /// First damaged byte.
    pub position: u64,
    /// How many bytes.
    pub bytes: u64,
    /// First offset that is missing.
    pub from_offset: i64,
    /// First offset that is there again.
    pub to_offset: i64,
}

#[derive(Default)]
pub(super) struct Holes {
    pub(super) list: Vec<Hole>,
    /// Another segment has its name: what is found in this one is no longer kept.
    pub(super) is_replaced: bool,
}

impl From<Vec<Hole>> for Holes {
    fn from(list: Vec<Hole>) -> Self {
        Self { list, is_replaced: false }
    }
}

/// Copies damaged bytes to a file of their own, for whoever wants to look at them or save what is in them:
/// `damaged/<base>.<position>.bytes` in the partition's folder.
pub(crate) fn quarantine(fs: &dyn Filesystem, hole: &Hole) {
    match copy(fs, hole) {
        Ok(()) => {}
        // The bytes still stand in the segment, which is served all the same.
        Err(e) => {
            tracing::warn!(segment = %hole.file.display(), error = %e, "can't copy damaged bytes to quarantine")
        }
    }
}

pub(super) fn quarantine_path(hole: &Hole) -> Option<PathBuf> {
    let base = hole.file.file_stem()?.to_str()?;
    Some(hole.file.parent()?.join(DAMAGED_DIR).join(format!("{base}.{}.bytes", hole.position)))
}

fn copy(fs: &dyn Filesystem, hole: &Hole) -> io::Result<()> {
    let Some(path) = quarantine_path(hole) else { return Ok(()) };
    let dir = path.parent().unwrap_or(Path::new("."));
    fs.create_dir_all(dir)?;
    let from = fs.open(&hole.file)?;
    let to = fs.create(&path)?;
    let mut chunk = vec![0; CHUNK];
    let mut done = 0;
    while done < hole.bytes {
        let want = usize::try_from(hole.bytes - done).unwrap_or(CHUNK).min(CHUNK);
        let read = from.read_at(hole.position + done, chunk.get_mut(..want).unwrap_or_default())?;
        if read == 0 {
            break;
        }
        to.write_at(done, &mut [IoSlice::new(chunk.get(..read).unwrap_or_default())])?;
        done += read as u64;
    }
    to.sync_data()?;
    fs.sync_dir(dir)
}

/// Says that data is damaged, with all that is needed to look at it.
pub(crate) fn report(hole: &Hole) {
    tracing::error!(
        segment = %hole.file.display(),
        position = hole.position,
        bytes = hole.bytes,
        from_offset = hole.from_offset,
        to_offset = hole.to_offset,
        "quarantined damaged bytes: records of these offsets are lost, the rest is served; check the disk"
    );
}

/// Keeps the list of a segment's holes beside it; without holes there is no file.
pub(super) fn write_list(fs: &dyn Filesystem, segment: &Path, holes: &[Hole]) -> io::Result<()> {
    let path = segment.with_extension("holes");
    if holes.is_empty() {
        return match fs.remove(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
    }
    let json = serde_json::to_vec(holes).map_err(io::Error::other)?;
    fs::replace(fs, &path, &json)
}
