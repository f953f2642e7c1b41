//! State of one segment, and what changes it: creation, appends, flushes, indexes, its removal.
//!
//! In: placed batches. Out: offsets, sizes, times. Touches the segment's files through [`Filesystem`].

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use super::hole::{Hole, Holes, quarantine_path};
use super::indexes::{Indexes, Tail, time_entry};
use crate::storage::batch::Header;
use crate::storage::incoming::Incoming;
use crate::storage::index::Index;
use crate::storage::layout::{COMPANIONS, cleaned_path, path_of};
use crate::storage::read::TimestampOffset;
use crate::storage::txn::{AbortedTxn, TxnIndex};
use millrace_log::fs::{File, Filesystem};

/// One segment.
pub(crate) struct Segment {
    pub base: i64,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn File>,
    pub(super) tail: RwLock<Tail>,
    pub(super) indexes: RwLock<Indexes>,
    pub(super) txns: RwLock<TxnIndex>,
    pub(super) holes: RwLock<Holes>,
    /// Drawn once, so that segments of many partitions do not end at the same time.
    pub(super) jitter: u32,
}

impl Segment {
    /// A new, empty one. Its name is durable only after the folder has been synced.
    pub fn create(fs: &dyn Filesystem, dir: &Path, base: i64, now_ms: i64) -> io::Result<Self> {
        Self::create_at(fs, |ending| path_of(dir, base, ending), base, now_ms)
    }

    /// A new, empty one that does not count yet, under names that end in `.cleaned`.
    pub fn create_cleaned(fs: &dyn Filesystem, dir: &Path, base: i64, now_ms: i64) -> io::Result<Self> {
        Self::create_at(fs, |ending| cleaned_path(dir, base, ending), base, now_ms)
    }

    fn create_at(fs: &dyn Filesystem, path: impl Fn(&str) -> PathBuf, base: i64, now_ms: i64) -> io::Result<Self> {
        let file = fs.create(&path("log"))?;
        let offsets = Index::create(fs, &path("index"))?;
        let times = Index::create(fs, &path("timeindex"))?;
        let txns = TxnIndex::fresh(&path("txnindex"), base);
        Ok(Self {
            base,
            txns: RwLock::new(txns),
            path: path("log"),
            file,
            tail: RwLock::new(Tail { len: 0, end: base, max: None, begun_ms: now_ms, first_ms: None }),
            indexes: RwLock::new(Indexes { offsets, times, since_entry: 0 }),
            holes: RwLock::default(),
            jitter: rand::random(),
        })
    }

    /// Appends placed batches. After an error any part may stand in the file: cut it with [`Self::undo`].
    pub fn append(&self, batches: &[Incoming]) -> io::Result<()> {
        let mut tail = *self.tail.read();
        let mut slices = Vec::with_capacity(2 * batches.len());
        for batch in batches {
            slices.push(IoSlice::new(&batch.head));
            slices.push(IoSlice::new(&batch.body));
        }
        self.file.write_at(tail.len, &mut slices)?;
        let mut indexes = self.indexes.write();
        for Incoming { header, .. } in batches {
            tail.first_ms.get_or_insert(header.max_timestamp);
            indexes.note(self.base, header, tail.len, &mut tail.max);
            tail.len += header.size() as u64;
            tail.end = header.next_offset();
        }
        indexes.offsets.write_some();
        indexes.times.write_some();
        drop(indexes);
        *self.tail.write() = tail;
        Ok(())
    }

    /// Appends batches that stand one after the other, their offsets as they are.
    pub fn append_run(&self, headers: &[Header], bytes: &[u8]) -> io::Result<()> {
        let mut tail = *self.tail.read();
        self.file.write_at(tail.len, &mut [IoSlice::new(bytes)])?;
        let mut indexes = self.indexes.write();
        for header in headers {
            tail.first_ms.get_or_insert(header.max_timestamp);
            indexes.note(self.base, header, tail.len, &mut tail.max);
            tail.len += header.size() as u64;
            tail.end = header.next_offset();
        }
        drop(indexes);
        *self.tail.write() = tail;
        Ok(())
    }

    /// Cuts what a failed append may have left.
    pub fn undo(&self) -> io::Result<()> {
        self.file.truncate(self.tail.read().len)
    }

    /// Forces its content to disk.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Completes and syncs the indexes, at the roll or a clean stop. Failing here only costs time at the next start.
    pub fn finish_indexes(&self, fs: &dyn Filesystem) {
        let max = self.tail.read().max;
        let mut indexes = self.indexes.write();
        if let Some(entry) = max.and_then(|max| time_entry(self.base, max)) {
            indexes.times.push(entry);
        }
        let Indexes { offsets, times, .. } = &mut *indexes;
        let done = offsets.write_out(fs).and_then(|()| times.write_out(fs)).and_then(|()| offsets.sync());
        let done = done.and_then(|()| times.sync());
        // Whether or not the others could be.
        let txns = self.txns.write().write_out(fs);
        if let Err(e) = done.and(txns) {
            tracing::warn!(segment = %self.path.display(), error = %e, "can't write indexes, they will be rebuilt");
        }
    }

    /// Completes one that was begun with [`Self::create_cleaned`], durably but for its name.
    pub fn finish_cleaned(&mut self, fs: &dyn Filesystem, until: i64, aborted: Vec<AbortedTxn>) -> io::Result<()> {
        self.tail.get_mut().end = until;
        self.sync()?;
        self.txns.get_mut().replace(aborted);
        self.finish_indexes(fs);
        Ok(())
    }

    /// Its files get their right names.
    pub fn settle(&mut self, dir: &Path) {
        self.path = path_of(dir, self.base, "log");
        let indexes = self.indexes.get_mut();
        indexes.offsets.moved(&path_of(dir, self.base, "index"));
        indexes.times.moved(&path_of(dir, self.base, "timeindex"));
        self.txns.get_mut().moved(&path_of(dir, self.base, "txnindex"));
    }

    /// Another one stands in its place; those who read it go on.
    pub fn retire(&self) {
        self.holes.write().is_replaced = true;
    }

    /// Nothing will be appended any more: frees what only appends need.
    pub fn rest(&self) {
        let mut indexes = self.indexes.write();
        indexes.offsets.rest();
        indexes.times.rest();
        self.txns.write().rest();
    }

    /// The segment's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in it.
    pub fn len(&self) -> u64 {
        self.tail.read().len
    }

    /// Offset after its last record.
    pub fn end(&self) -> i64 {
        self.tail.read().end
    }

    /// Its largest timestamp, with the last offset of the batch that has it.
    pub fn max_timestamp(&self) -> Option<TimestampOffset> {
        self.tail.read().max
    }

    /// When it was begun.
    pub fn begun_ms(&self) -> i64 {
        self.tail.read().begun_ms
    }

    /// Timestamp of its first batch, if that has one.
    pub fn first_ms(&self) -> Option<i64> {
        self.tail.read().first_ms.filter(|first_ms| *first_ms >= 0)
    }

    /// Its largest timestamp, or when it was begun if its records have none.
    pub fn newest_ms(&self) -> i64 {
        let Tail { max, begun_ms, .. } = *self.tail.read();
        max.map(|max| max.timestamp_ms).filter(|newest_ms| *newest_ms >= 0).unwrap_or(begun_ms)
    }

    /// Whether a new segment is due by age. As in Kafka the records' own time counts, and the clock where they have none.
    pub fn is_aged(&self, now_ms: i64, record_ms: i64, most_ms: i64, jitter_ms: i64) -> bool {
        let waited_ms = match self.first_ms() {
            Some(first_ms) => record_ms.saturating_sub(first_ms),
            None => now_ms.saturating_sub(self.begun_ms()),
        };
        let jitter_ms = i64::from(self.jitter).checked_rem(jitter_ms.min(most_ms)).unwrap_or(0);
        waited_ms > most_ms.saturating_sub(jitter_ms)
    }

    /// Its holes.
    pub fn holes(&self) -> Vec<Hole> {
        self.holes.read().list.clone()
    }

    /// Its file, for those who read what was located.
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// Removes its files, with the copies of its damaged bytes; those who read it go on.
    pub fn remove(&self, fs: &dyn Filesystem) -> io::Result<()> {
        for path in self.holes().iter().filter_map(quarantine_path) {
            match fs.remove(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        for ending in COMPANIONS {
            match fs.remove(&self.path.with_extension(ending)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        fs.remove(&self.path)
    }
}

/// Removes the files of a segment that is not open.
pub(crate) fn remove_files(fs: &dyn Filesystem, dir: &Path, base: i64) -> io::Result<()> {
    for ending in COMPANIONS.into_iter().chain(["log"]) {
        match fs.remove(&path_of(dir, base, ending)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}
