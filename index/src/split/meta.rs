//! What a split says of itself: [`SplitMeta`] for the catalog, and the list of files with sizes and checksums.
//!
//! In: counts of the writer. Out: `split.json` and back. Touches that file. Leaves the pruning by it to catalog and reader.

use std::io::{self, IoSlice};
use std::path::Path;

use millrace_log::fs::{File, Filesystem, read_all};
use millrace_log::record::{Labels, Tenant};
use serde::{Deserialize, Serialize};

use super::error::SplitError;
use super::version::FORMAT_VERSION;

/// Streams that a [`SplitMeta`] lists at most; the split itself keeps all of them.
pub const MAX_META_STREAMS: usize = 1000;

/// Description of a split: small enough to be kept in the catalog.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SplitMeta {
    /// [`FORMAT_VERSION`] of the writer.
    pub version: u32,
    /// Name of the tenant.
    pub tenant: String,
    /// Number of events.
    pub rows: u64,
    /// Bytes of their lines.
    pub raw_bytes: u64,
    /// Bytes of the folder's files.
    pub disk_bytes: u64,
    /// Time of the oldest event, ns since 1970; 0 without events.
    pub min_time_ns: i64,
    /// Time of the newest event (inclusive), ns since 1970; 0 without events.
    pub max_time_ns: i64,
    /// Events with an Elasticsearch identity.
    pub documents: u64,
    /// Number of streams, also of those not listed.
    pub streams_total: u64,
    /// The first [`MAX_META_STREAMS`] streams by labels and topic. Shorter than `streams_total`: ask the reader.
    pub streams: Vec<StreamMeta>,
}

/// One stream of a split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamMeta {
    /// Labels, sorted by name.
    pub labels: Vec<(String, String)>,
    /// Topic it came through.
    pub topic: String,
    /// Number of events.
    pub rows: u64,
    /// Bytes of their lines.
    pub bytes: u64,
    /// Events with an Elasticsearch identity.
    pub documents: u64,
    /// Time of the oldest event.
    pub min_time_ns: i64,
    /// Time of the newest event, inclusive.
    pub max_time_ns: i64,
}

impl SplitMeta {
    /// Whether an event of [start, end) may be in the split.
    pub fn overlaps(&self, start_ns: i64, end_ns: i64) -> bool {
        self.rows > 0 && self.min_time_ns < end_ns && self.max_time_ns >= start_ns
    }

    /// Whether `streams` lists all.
    pub fn lists_all_streams(&self) -> bool {
        self.streams.len() as u64 == self.streams_total
    }

    pub(crate) fn belongs_to(&self, tenant: &Tenant) -> bool {
        self.tenant == tenant.as_str()
    }
}

impl StreamMeta {
    /// The labels as the rest of the program holds them.
    pub fn labels(&self) -> Labels {
        Labels::new(self.labels.iter().map(|(n, v)| (n.as_str(), v.as_str())))
    }
}

/// A file of the split beside `split.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileEntry {
    /// Path inside the folder, with `/`.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its CRC-32C.
    pub crc32c: u32,
}

/// Content of `split.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Number of `words-N`.
    pub word_folders: u32,
    /// All other files.
    pub files: Vec<FileEntry>,
    /// What the catalog gets as well.
    pub meta: SplitMeta,
}

const NAME: &str = "split.json";
/// A manifest holds at most [`MAX_META_STREAMS`] streams of a few KiB and some dozen files.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// Just the version, which is read before the rest is understood.
#[derive(Deserialize)]
struct Versioned {
    meta: VersionedMeta,
}

#[derive(Deserialize)]
struct VersionedMeta {
    version: u32,
}

impl Manifest {
    /// Lists, reads and syncs every file of the folder, then writes `split.json`, and syncs the folders. The length of
    /// all files is put into `meta`.
    pub fn write(fs: &dyn Filesystem, dir: &Path, word_folders: u32, mut meta: SplitMeta) -> Result<Self, SplitError> {
        let mut files = Vec::new();
        list(fs, dir, dir, &mut files)?;
        files.sort_by(|a: &FileEntry, b| a.path.cmp(&b.path));
        meta.disk_bytes = files.iter().map(|f| f.bytes).sum();
        let mut manifest = Self { word_folders, files, meta };
        // The manifest counts itself; its length changes with the number by a digit at most.
        let own = manifest.encode().len() as u64;
        manifest.meta.disk_bytes += own;
        let path = dir.join(NAME);
        let file = fs.create_new(&path).map_err(SplitError::io("creating", &path))?;
        file.write_at(0, &mut [IoSlice::new(&manifest.encode())]).map_err(SplitError::io("writing", &path))?;
        file.sync_data().map_err(SplitError::io("syncing", &path))?;
        sync_folder(fs, dir)?;
        if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_folder(fs, parent)?;
        }
        Ok(manifest)
    }

    /// One line of JSON, and a second one with its CRC-32C.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("numbers, texts and lists are always JSON");
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(format!("\n{crc:08x}\n").as_bytes());
        bytes
    }

    /// Reads `split.json` and compares its checksum, and the lengths of all files.
    pub fn read(fs: &dyn Filesystem, dir: &Path) -> Result<Self, SplitError> {
        let path = dir.join(NAME);
        let damaged = |reason| SplitError::Damaged { path: path.clone(), block: None, reason };
        let not_read = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => damaged("it is missing: the split was not written to its end"),
            _ => SplitError::Io { action: "reading", path: path.clone(), source },
        };
        if fs.metadata(&path).map_err(not_read)?.len > MAX_MANIFEST_BYTES {
            return Err(damaged("it is longer than it can be"));
        }
        let bytes = read_all(fs, &path).map_err(not_read)?;
        let mut lines = bytes.split_inclusive(|&b| b == b'\n');
        let (Some(json), Some(crc), None) = (lines.next(), lines.next(), lines.next()) else {
            return Err(damaged("it has not two lines"));
        };
        let json = json.strip_suffix(b"\n").unwrap_or(json);
        if format!("{:08x}\n", crc32c::crc32c(json)).as_bytes() != crc {
            return Err(damaged("its checksum does not fit"));
        }
        let versioned: Versioned = serde_json::from_slice(json).map_err(|_| damaged("it names no version"))?;
        if versioned.meta.version != FORMAT_VERSION {
            return Err(SplitError::Version { path, found: versioned.meta.version });
        }
        let manifest: Self = serde_json::from_slice(json).map_err(|_| damaged("it has other fields than expected"))?;
        for entry in &manifest.files {
            let path = dir.join(&entry.path);
            let found = fs.metadata(&path).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => {
                    SplitError::Damaged { path: path.clone(), block: None, reason: "it is missing" }
                }
                _ => SplitError::Io { action: "reading", path: path.clone(), source },
            })?;
            if found.len != entry.bytes {
                let reason = "it has another length than when it was written";
                return Err(SplitError::Damaged { path, block: None, reason });
            }
        }
        Ok(manifest)
    }

    /// Reads the files whose path is wanted and compares their checksums.
    pub fn verify(&self, fs: &dyn Filesystem, dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<(), SplitError> {
        for entry in self.files.iter().filter(|f| wanted(&f.path)) {
            let path = dir.join(&entry.path);
            let file = fs.open_read(&path).map_err(SplitError::io("opening", &path))?;
            if checksum(&*file, &path)? != (entry.bytes, entry.crc32c) {
                return Err(SplitError::Damaged { path, block: None, reason: "its checksum does not fit" });
            }
        }
        Ok(())
    }
}

/// Lists the files under `dir`, and syncs them and their folders.
fn list(fs: &dyn Filesystem, root: &Path, dir: &Path, into: &mut Vec<FileEntry>) -> Result<(), SplitError> {
    for entry in fs.list(dir).map_err(SplitError::io("listing", dir))? {
        let path = dir.join(&entry.name);
        if entry.is_dir {
            list(fs, root, &path, into)?;
            continue;
        }
        let file = fs.open_read(&path).map_err(SplitError::io("opening", &path))?;
        let (bytes, crc32c) = checksum(&*file, &path)?;
        file.sync_data().map_err(SplitError::io("syncing", &path))?;
        let inside = path.strip_prefix(root).unwrap_or(&path);
        into.push(FileEntry { path: inside.to_string_lossy().into_owned(), bytes, crc32c });
    }
    if dir != root {
        sync_folder(fs, dir)?;
    }
    Ok(())
}

/// Length and CRC-32C of a file.
fn checksum(file: &dyn File, path: &Path) -> Result<(u64, u32), SplitError> {
    let len = usize::try_from(file.len().map_err(SplitError::io("reading", path))?).unwrap_or(usize::MAX);
    let mut buffer = vec![0; len.clamp(1, 256 << 10)];
    let (mut bytes, mut crc) = (0, 0);
    loop {
        let read = file.read_at(bytes, &mut buffer).map_err(SplitError::io("reading", path))?;
        bytes += read as u64;
        crc = crc32c::crc32c_append(crc, &buffer[..read]);
        if read < buffer.len() {
            return Ok((bytes, crc));
        }
    }
}

fn sync_folder(fs: &dyn Filesystem, dir: &Path) -> Result<(), SplitError> {
    fs.sync_dir(dir).map_err(SplitError::io("syncing", dir))
}
