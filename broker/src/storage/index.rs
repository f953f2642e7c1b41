//! The two sparse indexes of a segment, in Kafka's own layout: `.index` (offset to position) and `.timeindex` (time to offset).
//!
//! In: entries in rising order. Out: the last entry at or below a bound. Touches one file each through [`Filesystem`];
//! new entries wait in memory and are written in groups, as an index can always be rebuilt from its segment.
//!
//! `.index`: entries of 8 bytes, big-endian: last offset of a batch less the segment's base (u32), position of that batch (u32).
//! `.timeindex`: entries of 12 bytes: largest timestamp so far (i64), last offset of the batch that has it, less the base (u32).

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_log::fs::{File, Filesystem};

/// Entries that wait in memory before they are written.
const GROUP: usize = 512;

/// One entry of fixed size.
pub(super) trait IndexEntry: Copy {
    const SIZE: usize;
    fn write(self, out: &mut Vec<u8>);
    fn read(bytes: &[u8]) -> Option<Self>;
    /// Whether `self` may follow `before`.
    fn follows(&self, before: &Self) -> bool;
}

/// Where the batch with this last offset begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OffsetEntry {
    pub relative: u32,
    pub position: u32,
}

/// The largest timestamp up to this offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimeEntry {
    pub timestamp_ms: i64,
    pub relative: u32,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

impl IndexEntry for OffsetEntry {
    const SIZE: usize = 8;

    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.relative.to_be_bytes());
        out.extend_from_slice(&self.position.to_be_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self { relative: u32_at(bytes, 0)?, position: u32_at(bytes, 4)? })
    }

    fn follows(&self, before: &Self) -> bool {
        self.relative > before.relative && self.position > before.position
    }
}

impl IndexEntry for TimeEntry {
    const SIZE: usize = 12;

    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.timestamp_ms.to_be_bytes());
        out.extend_from_slice(&self.relative.to_be_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let timestamp_ms = bytes.get(..8)?.try_into().ok().map(i64::from_be_bytes)?;
        Some(Self { timestamp_ms, relative: u32_at(bytes, 8)? })
    }

    fn follows(&self, before: &Self) -> bool {
        self.timestamp_ms > before.timestamp_ms && self.relative > before.relative
    }
}

/// One index file. Its handle is kept while it grows; a finished one is opened for each look, as there may be thousands.
pub(super) struct Index<E> {
    path: PathBuf,
    file: Option<Arc<dyn File>>,
    on_disk: u64,
    pending: Vec<E>,
    last: Option<E>,
}

impl<E: IndexEntry> Index<E> {
    /// An empty one in a new file. On a full disk without a file as yet: its entries wait in memory.
    pub fn create(fs: &dyn Filesystem, path: &Path) -> io::Result<Self> {
        let file = match fs.create(path) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                // What an older one says must not be taken for this one's.
                match fs.remove(path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => None,
                }
            }
            Err(e) => return Err(e),
        };
        Ok(Self { path: path.to_owned(), file, on_disk: 0, pending: Vec::new(), last: None })
    }

    /// An existing one; `None` if it is missing or can't be an index: rebuild it.
    pub fn open(fs: &dyn Filesystem, path: &Path) -> io::Result<Option<Self>> {
        let file = match fs.open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let len = file.len()?;
        if len % E::SIZE as u64 != 0 {
            return Ok(None);
        }
        let on_disk = len / E::SIZE as u64;
        let mut last: Option<E> = None;
        if let Some(at) = on_disk.checked_sub(1) {
            last = Some(get(&*file, at)?);
            if at > 0 && !last.is_some_and(|last| get(&*file, at - 1).is_ok_and(|before| last.follows(&before))) {
                return Ok(None);
            }
        }
        Ok(Some(Self { path: path.to_owned(), file: Some(file), on_disk, pending: Vec::new(), last }))
    }

    /// Its file has got another name.
    pub fn moved(&mut self, path: &Path) {
        self.path = path.to_owned();
    }

    /// The last entry.
    pub fn last(&self) -> Option<E> {
        self.last
    }

    /// Adds an entry unless it does not rise.
    pub fn push(&mut self, entry: E) {
        if self.last.is_none_or(|last| entry.follows(&last)) {
            self.pending.push(entry);
            self.last = Some(entry);
        }
    }

    /// Writes waiting entries once they are many. A failure is none: they wait on, and can be rebuilt.
    pub fn write_some(&mut self) {
        if self.pending.len() >= GROUP
            && self.file.is_some()
            && let Err(e) = self.write_pending()
        {
            tracing::debug!(error = %e, "index entries wait in memory");
        }
    }

    /// Writes all waiting entries, and makes the file if there was no space for it before.
    pub fn write_out(&mut self, fs: &dyn Filesystem) -> io::Result<()> {
        if self.file.is_none() && self.on_disk == 0 {
            self.file = Some(fs.create(&self.path)?);
        }
        self.write_pending()
    }

    fn write_pending(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(self.pending.len() * E::SIZE);
        self.pending.iter().for_each(|entry| entry.write(&mut bytes));
        self.handle()?.write_at(self.on_disk * E::SIZE as u64, &mut [IoSlice::new(&bytes)])?;
        self.on_disk += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// Forces the file to disk.
    pub fn sync(&self) -> io::Result<()> {
        self.handle()?.sync_data()
    }

    /// Gives the handle back: nothing will be added any more.
    pub fn rest(&mut self) {
        if self.pending.is_empty() && self.on_disk > 0 {
            self.file = None;
        }
    }

    fn handle(&self) -> io::Result<&dyn File> {
        self.file.as_deref().ok_or_else(|| io::Error::other("index is finished"))
    }

    /// The last entry for which `at_or_below` holds; it must hold for a prefix of the entries.
    pub fn floor(&self, fs: &dyn Filesystem, at_or_below: impl Fn(&E) -> bool) -> io::Result<Option<E>> {
        let waiting = self.pending.partition_point(&at_or_below);
        if let Some(entry) = waiting.checked_sub(1).and_then(|at| self.pending.get(at)) {
            return Ok(Some(*entry));
        }
        let (mut low, mut high) = (0, self.on_disk);
        if high == 0 {
            return Ok(None);
        }
        let opened;
        let file = match &self.file {
            Some(file) => file,
            None => match fs.open(&self.path) {
                Ok(file) => {
                    opened = file;
                    &opened
                }
                // Deleted with its segment, which a reader still holds: it goes through it from the beginning.
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(e),
            },
        };
        let mut found = None;
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = get(&**file, middle)?;
            if at_or_below(&entry) {
                found = Some(entry);
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(found)
    }
}

fn get<E: IndexEntry>(file: &dyn File, at: u64) -> io::Result<E> {
    let mut bytes = [0; 16];
    let place = bytes.get_mut(..E::SIZE).unwrap_or_default();
    let read = file.read_at(at * E::SIZE as u64, place)?;
    E::read(place).filter(|_| read == E::SIZE).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_log::fs::SimFs;

    #[test]
    fn entries_are_found_in_memory_and_on_disk() {
        let fs = SimFs::new();
        let path = Path::new("00000000000000000000.index");
        let entry = |n: u32| OffsetEntry { relative: n * 10, position: n * 100 };
        let mut index = Index::create(&fs, path).unwrap();
        for written in [0, 3, 7, 10] {
            let mut n = index.last().map_or(0, |last: OffsetEntry| last.relative / 10 + 1);
            while n < written {
                index.push(entry(n));
                n += 1;
            }
            index.push(OffsetEntry { relative: 0, position: 0 });
            for (bound, want) in [(0, 0), (9, 0), (10, 1), (65, 6), (1000, written.max(1) - 1)] {
                let got = index.floor(&fs, |e| e.relative <= bound).unwrap();
                let want = want.min(written.max(1) - 1);
                assert_eq!(got, Some(entry(want)), "{written} {bound}");
            }
            if written == 7 {
                index.write_out(&fs).unwrap();
            }
        }
        index.write_out(&fs).unwrap();
        index.rest();
        assert_eq!(index.floor(&fs, |e| e.relative <= 42).unwrap(), Some(entry(4)));
        assert_eq!(fs.content(path).unwrap().len(), 80);
        let index = Index::<OffsetEntry>::open(&fs, path).unwrap().unwrap();
        assert_eq!(index.last(), Some(entry(9)));
    }

    #[test]
    fn what_can_be_no_index_is_refused() {
        let fs = SimFs::new();
        let path = Path::new("x.index");
        assert!(Index::<OffsetEntry>::open(&fs, path).unwrap().is_none(), "missing");
        for (content, want) in [(vec![0; 7], false), (vec![0; 16], false), (vec![], true), (vec![0; 8], true)] {
            fs.set_content(path, content.clone());
            assert_eq!(Index::<OffsetEntry>::open(&fs, path).unwrap().is_some(), want, "{content:?}");
        }
    }
}
