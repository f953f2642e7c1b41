//! One segment: a file of record batches one after the other, with its two sparse indexes, its aborted transactions and
//! the list of its holes.
//!
//! In: placed batches; offsets and times to look for. Out: whole batches as stored. Touches `<base>.log`, `.index`,
//! `.timeindex`, `.txnindex` and `.holes` through [`Filesystem`]. Leaves order, flushes and retention to [`super::log`].
//!
//! `<base>` is the offset of the first record in 20 digits. The `.log` holds batches as in [`super::batch`], nothing else.
//! Recovery: bytes at the end that are no whole batch with a right CRC are a torn write and are cut. Such bytes with a
//! sound batch after them are damage: they stay where they are, are listed in `.holes` (JSON) and passed over by readers.

use std::io::{self, IoSlice};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::batch::{self, HEADER, Header, Incoming, Marker};
use super::index::{Index, OffsetEntry, TimeEntry};
use super::partition::TimestampOffset;
use super::swap;
use super::txn::{AbortedTxn, TxnIndex};
use millrace_log::fs::{self, File, Filesystem};

/// Bytes between two entries of the indexes, as Kafka's default.
pub(super) const INDEX_INTERVAL: u64 = 4096;
/// Read at once where a file is gone through.
const CHUNK: usize = 1 << 20;
/// Read at once where headers are looked for, as the index leads to a place some batches before what is wanted.
const SLACK: usize = 8192;
/// Batches above this size are passed over one by one when headers are looked for.
const FEW: usize = 1024;

/// Where copies of damaged bytes are kept, within the partition's folder.
pub(super) const DAMAGED_DIR: &str = "damaged";
/// Endings of the files that stand beside a segment.
pub(super) const COMPANIONS: [&str; 4] = ["index", "timeindex", "txnindex", "holes"];

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

/// What recovery did to a segment.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    /// Bytes of a torn tail that were cut.
    pub cut: u64,
    /// Holes found.
    pub holes: Vec<Hole>,
}

#[derive(Debug, Clone, Copy)]
struct Tail {
    len: u64,
    end: i64,
    /// The largest timestamp and the last offset of its batch.
    max: Option<TimestampOffset>,
    begun_ms: i64,
    /// Largest timestamp of its first batch.
    first_ms: Option<i64>,
}

struct Indexes {
    offsets: Index<OffsetEntry>,
    times: Index<TimeEntry>,
    since_entry: u64,
}

/// Whole batches that stand one after the other in a segment's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub at: u64,
    pub bytes: usize,
    pub records: u64,
    /// After the last of them.
    pub next_offset: i64,
}

/// Where a batch begins, and the offset it must begin with.
#[derive(Clone, Copy)]
struct Place {
    at: u64,
    expected: i64,
}

impl Place {
    fn after(position: u64, header: &Header) -> Self {
        Self { at: position + header.size() as u64, expected: header.next_offset() }
    }
}

/// What a walk through the bytes of a segment meets, in order.
pub(super) enum Met {
    /// A sound batch, with what it says of a transaction.
    Batch { position: u64, header: Header, marker: Option<Marker> },
    /// Bytes that are no batch, with a sound one after them.
    Damage(Hole),
    /// Bytes that are no batch, at the end: a torn write.
    Torn { position: u64, bytes: u64 },
}

/// Goes through every batch of a segment's file and changes nothing. With `next_base`, the base of the segment after it,
/// it was finished: a bad end is then damage and no torn write.
pub(super) fn walk(
    file: &dyn File,
    path: &Path,
    base: i64,
    next_base: Option<i64>,
    mut each: impl FnMut(Met),
) -> io::Result<()> {
    let len = file.len()?;
    let mut scan = Scan::new(file, len, CHUNK);
    // What lies further away is no offset of this segment, whatever stands behind it: the CRC leaves offsets out.
    let most = base.saturating_add(i64::from(i32::MAX) + 1);
    let limit = Some(next_base.map_or(most, |next| next.min(most)));
    let (mut position, mut from_offset) = (0, base);
    while position < len {
        if let Some(header) = scan.sound_batch(position, from_offset, limit)? {
            let marker = scan.marker(position, &header)?;
            each(Met::Batch { position, header, marker });
            position += header.size() as u64;
            from_offset = header.next_offset();
            continue;
        }
        let (to, to_offset) = match (scan.resync(position, from_offset, limit)?, next_base) {
            (Some((to, header)), _) => (to, header.base_offset),
            (None, Some(next)) => (len, next),
            (None, None) => {
                each(Met::Torn { position, bytes: len - position });
                break;
            }
        };
        let bytes = to - position;
        each(Met::Damage(Hole { file: path.to_owned(), position, bytes, from_offset, to_offset }));
        (position, from_offset) = (to, to_offset);
    }
    Ok(())
}

/// One segment.
pub(super) struct Segment {
    pub base: i64,
    path: PathBuf,
    file: Arc<dyn File>,
    tail: RwLock<Tail>,
    indexes: RwLock<Indexes>,
    txns: RwLock<TxnIndex>,
    holes: RwLock<Holes>,
    /// Drawn once, so that segments of many partitions do not end at the same time.
    jitter: u32,
}

#[derive(Default)]
struct Holes {
    list: Vec<Hole>,
    /// Another segment has its name: what is found in this one is no longer kept.
    is_replaced: bool,
}

impl From<Vec<Hole>> for Holes {
    fn from(list: Vec<Hole>) -> Self {
        Self { list, is_replaced: false }
    }
}

/// Path of a segment's file.
pub(super) fn path_of(dir: &Path, base: i64, ending: &str) -> PathBuf {
    dir.join(format!("{base:020}.{ending}"))
}

/// The offset in the name of one of our files, if it ends so.
pub(super) fn offset_of(name: &str, ending: &str) -> Option<i64> {
    let digits = name.strip_suffix(ending)?.strip_suffix('.')?;
    if digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

impl Segment {
    /// A new, empty one. Its name is durable only after the folder has been synced.
    pub fn create(fs: &dyn Filesystem, dir: &Path, base: i64, now_ms: i64) -> io::Result<Self> {
        Self::create_at(fs, |ending| path_of(dir, base, ending), base, now_ms)
    }

    /// A new, empty one that does not count yet, under names that end in `.cleaned`.
    pub fn create_cleaned(fs: &dyn Filesystem, dir: &Path, base: i64, now_ms: i64) -> io::Result<Self> {
        Self::create_at(fs, |ending| swap::cleaned_path(dir, base, ending), base, now_ms)
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

    /// It is the one that is written: its list of aborted transactions is complete again only when it is finished.
    pub fn reopen_aborted(&self, fs: &dyn Filesystem) -> io::Result<()> {
        self.txns.write().reopen(fs)
    }

    /// Its files are about to go, those who read it go on.
    pub fn hold_aborted(&self, fs: &dyn Filesystem) -> io::Result<()> {
        self.txns.write().hold(fs)
    }

    /// Another one stands in its place; those who read it go on.
    pub fn retire(&self) {
        self.holes.write().is_replaced = true;
    }

    /// Opens one that was finished: trusts its batches, checks that the indexes fit. `next_base` is the base of the segment
    /// after it. `None`: it does not fit, recover it.
    pub fn open(
        fs: &dyn Filesystem,
        dir: &Path,
        base: i64,
        next_base: Option<i64>,
        now_ms: i64,
    ) -> io::Result<Option<Self>> {
        let path = path_of(dir, base, "log");
        let file = fs.open(&path)?;
        let len = file.len()?;
        let (Some(offsets), Some(times)) = (
            Index::<OffsetEntry>::open(fs, &path_of(dir, base, "index"))?,
            Index::<TimeEntry>::open(fs, &path_of(dir, base, "timeindex"))?,
        ) else {
            return Ok(None);
        };
        let holes: Vec<Hole> = match fs::read_all(fs, &path_of(dir, base, "holes")) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(holes) => holes,
                Err(_) => return Ok(None),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e),
        };
        // From the last entry on the batches must lead exactly to the end, and none of them have been due for an entry.
        let mut at = offsets.last().map_or(0, |entry| u64::from(entry.position));
        let mut expected = base;
        let mut since_entry = 0;
        let mut max = times.last().map(|entry| TimestampOffset {
            timestamp_ms: entry.timestamp_ms,
            offset: base.saturating_add(entry.relative.into()),
        });
        let mut scan = Scan::new(&*file, len, SLACK);
        let mut first = true;
        while at < len {
            if let Some(hole) = holes.iter().find(|hole| hole.position == at) {
                at = at.saturating_add(hole.bytes);
                continue;
            }
            let header = scan.header(at)?.filter(|h| h.is_sound() && h.base_offset >= expected);
            let Some(header) = header.filter(|h| at.saturating_add(h.size() as u64) <= len) else {
                return Ok(None);
            };
            if let Some(entry) = offsets.last().filter(|_| first)
                && header.last_offset() != base.saturating_add(entry.relative.into())
            {
                return Ok(None);
            }
            if !first && since_entry > INDEX_INTERVAL {
                return Ok(None);
            }
            raise(&mut max, &header);
            since_entry += header.size() as u64;
            expected = header.next_offset();
            at += header.size() as u64;
            first = false;
        }
        if at != len || (!first && times.last().is_none()) || next_base.is_some_and(|next| next < expected) {
            return Ok(None);
        }
        let end = next_base.unwrap_or(expected.max(holes.last().map_or(base, |hole| hole.to_offset)));
        let first_ms = scan.header(0)?.map(|h| h.max_timestamp);
        let begun_ms = first_ms.unwrap_or(now_ms).clamp(0, now_ms.max(0));
        let txns = TxnIndex::open(fs, &path_of(dir, base, "txnindex"), base, end)?;
        Ok(Some(Self {
            base,
            txns: RwLock::new(txns),
            path,
            file,
            tail: RwLock::new(Tail { len, end, max, begun_ms, first_ms }),
            indexes: RwLock::new(Indexes { offsets, times, since_entry }),
            holes: RwLock::new(holes.into()),
            jitter: rand::random(),
        }))
    }

    /// Goes through every batch, makes the indexes again, and brings the end to a sound state. With `next_base` the
    /// segment was finished: a bad end is then damage and no torn write, and nothing is cut. `on_batch` is told each batch
    /// in order, with what it says of a transaction, and tells the transaction that it aborts.
    pub fn recover(
        fs: &dyn Filesystem,
        dir: &Path,
        base: i64,
        next_base: Option<i64>,
        now_ms: i64,
        mut on_batch: impl FnMut(&Header, Option<Marker>) -> Option<AbortedTxn>,
    ) -> io::Result<(Self, Recovered)> {
        let path = path_of(dir, base, "log");
        let file = fs.open(&path)?;
        let mut indexes = Indexes {
            offsets: Index::create(fs, &path_of(dir, base, "index"))?,
            times: Index::create(fs, &path_of(dir, base, "timeindex"))?,
            since_entry: 0,
        };
        let mut tail = Tail { len: 0, end: base, max: None, begun_ms: now_ms, first_ms: None };
        let mut report = Recovered::default();
        let mut aborted = Vec::new();
        walk(&*file, &path, base, next_base, |met| match met {
            Met::Batch { position, header, marker } => {
                if position == 0 {
                    tail.begun_ms = header.max_timestamp.clamp(0, now_ms.max(0));
                    tail.first_ms = Some(header.max_timestamp);
                }
                indexes.note(base, &header, position, &mut tail.max);
                aborted.extend(on_batch(&header, marker));
                tail.end = header.next_offset();
                tail.len = position + header.size() as u64;
            }
            Met::Damage(hole) => {
                tail.len = hole.position + hole.bytes;
                tail.end = hole.to_offset;
                report.holes.push(hole);
            }
            Met::Torn { bytes, .. } => report.cut = bytes,
        })?;
        if let Some(next) = next_base {
            tail.end = next;
        }
        if report.cut > 0 {
            file.truncate(tail.len)?;
        }
        // What stands here may never have been synced, and is what we tell consumers from now on.
        file.sync_data()?;
        let txn_path = path_of(dir, base, "txnindex");
        let txns = match next_base {
            // Where its transactions began may stand in segments before it: whoever calls knows.
            Some(next) => TxnIndex::open(fs, &txn_path, base, next)?,
            None => {
                let mut txns = TxnIndex::fresh(&txn_path, base);
                txns.replace(aborted);
                txns
            }
        };
        let segment = Self {
            base,
            txns: RwLock::new(txns),
            path,
            file,
            tail: RwLock::new(tail),
            indexes: RwLock::new(indexes),
            holes: RwLock::new(report.holes.clone().into()),
            jitter: rand::random(),
        };
        if let Err(e) = segment.keep_holes(fs, &report.holes) {
            tracing::warn!(segment = %segment.path.display(), error = %e, "the list of holes can't be written");
        }
        segment.finish_indexes(fs);
        Ok((segment, report))
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
            tracing::warn!(segment = %self.path.display(), error = %e, "indexes can't be written, they will be made again");
        }
    }

    /// Nothing will be appended any more: frees what only appends need.
    pub fn rest(&self) {
        let mut indexes = self.indexes.write();
        indexes.offsets.rest();
        indexes.times.rest();
        self.txns.write().rest();
    }

    /// Transactions whose abort markers stand in it, in the order of the markers.
    pub fn aborted(&self, fs: &dyn Filesystem) -> io::Result<Vec<AbortedTxn>> {
        self.txns.read().list(fs)
    }

    /// Whether there are any; without looking at the disk.
    pub fn has_aborted(&self) -> bool {
        !self.txns.read().is_empty()
    }

    /// Adds one whose marker was appended.
    pub fn add_aborted(&self, txn: AbortedTxn) {
        self.txns.write().push(txn);
    }

    /// Whether the file of aborted transactions is missing or can't be right.
    pub fn lacks_aborted(&self) -> bool {
        self.txns.read().is_missing()
    }

    /// Takes the list as it was made again from the batches, and keeps it; with `rest` on disk only.
    pub fn set_aborted(&self, fs: &dyn Filesystem, list: Vec<AbortedTxn>, rest: bool) {
        let mut txns = self.txns.write();
        txns.replace(list);
        if let Err(e) = txns.write_out(fs) {
            tracing::warn!(segment = %self.path.display(), error = %e, "aborted transactions can't be written, they will be looked for again");
        }
        if rest {
            txns.rest();
        }
    }

    /// Takes the list as it was made again while others read. In memory only: the files may be another segment's by now.
    pub fn mend_aborted(&self, list: Vec<AbortedTxn>) {
        self.txns.write().replace(list);
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

    /// Goes through every batch from an offset on, checked by its CRC, with its bytes. Notes holes and passes over them.
    pub fn batches(
        &self,
        fs: &dyn Filesystem,
        from: i64,
        mut each: impl FnMut(&Header, &[u8]) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<()> {
        let Tail { len, end, .. } = *self.tail.read();
        let mut scan = Scan::new(&*self.file, len, CHUNK);
        let Place { mut at, mut expected } = self.place_of(fs, &mut scan, from)?;
        while at < len {
            if let Some(hole) = self.hole_at(at) {
                at += hole.bytes;
                expected = hole.to_offset;
                continue;
            }
            let Some(header) = scan.sound_batch(at, expected, Some(end))? else {
                let hole = self.damaged(fs, &mut scan, at, expected)?;
                at += hole.bytes;
                expected = hole.to_offset;
                continue;
            };
            if header.last_offset() >= from
                && let Some(bytes) = scan.bytes(at, header.size())?
                && each(&header, bytes)?.is_break()
            {
                return Ok(());
            }
            at += header.size() as u64;
            expected = header.next_offset();
        }
        Ok(())
    }

    /// Where whole batches stand from the one that holds `from` (or the next after it) on, all below `until`; `None` if
    /// there is none from there to the segment's end. Holes that are met are noted and passed over. Reads headers only.
    pub fn locate(
        &self,
        fs: &dyn Filesystem,
        from: i64,
        until: i64,
        max_bytes: usize,
        min_one: bool,
    ) -> io::Result<Option<Stretch>> {
        let len = self.len();
        let mut scan = Scan::new(&*self.file, len, SLACK);
        let place = self.place_of(fs, &mut scan, from)?;
        let Some((start, first)) = self.seek(fs, &mut scan, place, |h| h.last_offset() >= from)? else {
            return Ok(None);
        };
        let mut found = Stretch { at: start, bytes: 0, records: 0, next_offset: first.base_offset };
        if first.base_offset >= until || (first.size() > max_bytes && !min_one) {
            return Ok(Some(found));
        }
        let limit = max_bytes.max(first.size()) as u64;
        let mut end = start;
        let mut expected = first.base_offset;
        // At the first damage it stops: the next read begins there and passes over it.
        while let Some(header) = scan.header(end)? {
            let next = end + header.size() as u64;
            let whole = header.is_sound() && next - start <= limit && next <= len;
            if !whole || header.base_offset >= until || (end != start && self.hole_at(end).is_some()) {
                break;
            }
            // A gap is what compaction leaves, or damage: there the CRC decides.
            if header.base_offset != expected && scan.sound_batch(end, expected, Some(self.end()))?.is_none() {
                break;
            }
            expected = header.next_offset();
            found.records += u64::try_from(header.count).unwrap_or(0);
            end = next;
            if end - start >= limit {
                break;
            }
            // Large batches: nothing but their headers. Small ones: many at once.
            scan.chunk = if header.size() > FEW { HEADER } else { SLACK };
        }
        found.bytes = usize::try_from(end - start).unwrap_or(usize::MAX);
        found.next_offset = expected;
        Ok(Some(found))
    }

    /// The same batches, read.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn read(
        &self,
        fs: &dyn Filesystem,
        from: i64,
        until: i64,
        max_bytes: usize,
        min_one: bool,
    ) -> io::Result<Option<Bytes>> {
        let Some(found) = self.locate(fs, from, until, max_bytes, min_one)? else { return Ok(None) };
        let mut bytes = vec![0; found.bytes];
        self.file.read_at(found.at, &mut bytes)?;
        Ok(Some(bytes.into()))
    }

    /// Its file, for those who read what was located.
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// The first record from `start` on and below `until` that is dated at or after a time.
    pub fn first_at_or_after(
        &self,
        fs: &dyn Filesystem,
        timestamp_ms: i64,
        start: i64,
        until: i64,
    ) -> io::Result<Option<TimestampOffset>> {
        let before = self.indexes.read().times.floor(fs, |entry| entry.timestamp_ms < timestamp_ms)?;
        let mut scan = Scan::new(&*self.file, self.len(), CHUNK / 16);
        let before = match before {
            // As with offsets: what a wrong index says must not hide a record.
            Some(entry) if !self.is_true(fs, &mut scan, entry)? => {
                tracing::warn!(segment = %self.path.display(), "time index is wrong and passed over: the next start makes it again");
                None
            }
            before => before,
        };
        let from = before.map_or(self.base, |entry| self.base.saturating_add(entry.relative.into()) + 1).max(start);
        let mut at = self.place_of(fs, &mut scan, from)?;
        let wanted = |h: &Header| h.last_offset() >= from && h.max_timestamp >= timestamp_ms;
        while let Some((position, header)) = self.seek(fs, &mut scan, at, wanted)? {
            if header.base_offset >= until {
                return Ok(None);
            }
            let Some(bytes) = scan.bytes(position, header.size())? else { return Ok(None) };
            match batch::first_at_or_after(&header, &Bytes::copy_from_slice(bytes), timestamp_ms, start) {
                Ok(Some(hit)) => return Ok(Some(hit)),
                // A header that promises more than its records keep.
                Ok(None) => {}
                Err(e) => {
                    let path = self.path.display();
                    tracing::warn!(segment = %path, position, error = %e, "records can't be unpacked to find a time");
                    return Ok(Some(TimestampOffset {
                        timestamp_ms: header.max_timestamp,
                        offset: header.base_offset,
                    }));
                }
            }
            at = Place::after(position, &header);
        }
        Ok(None)
    }

    /// Tells each batch's header, in order, from an offset on, with what it says of a transaction.
    pub fn headers(
        &self,
        fs: &dyn Filesystem,
        from: i64,
        mut each: impl FnMut(&Header, Option<Marker>),
    ) -> io::Result<()> {
        let mut scan = Scan::new(&*self.file, self.len(), CHUNK);
        let mut at = self.place_of(fs, &mut scan, from)?;
        while let Some((position, header)) = self.seek(fs, &mut scan, at, |h| h.last_offset() >= from)? {
            let marker = scan.marker(position, &header)?;
            each(&header, marker);
            at = Place::after(position, &header);
        }
        Ok(())
    }

    /// Checks every batch with its CRC; notes and returns the holes.
    pub fn verify(&self, fs: &dyn Filesystem) -> io::Result<Vec<Hole>> {
        let Tail { len, end, .. } = *self.tail.read();
        let mut scan = Scan::new(&*self.file, len, CHUNK);
        let (mut at, mut expected) = (0, self.base);
        while at < len {
            if let Some(hole) = self.hole_at(at) {
                at += hole.bytes;
                expected = hole.to_offset;
            } else if let Some(header) = scan.sound_batch(at, expected, Some(end))? {
                at += header.size() as u64;
                expected = header.next_offset();
            } else {
                let hole = self.damaged(fs, &mut scan, at, expected)?;
                at += hole.bytes;
                expected = hole.to_offset;
            }
        }
        Ok(self.holes())
    }

    /// Removes its files, with the copies of its damaged bytes; those who read it go on.
    pub fn remove(&self, fs: &dyn Filesystem) -> io::Result<()> {
        for path in self.holes().iter().filter_map(aside_path) {
            match fs.remove(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        for ending in ["index", "timeindex", "txnindex", "holes"] {
            match fs.remove(&self.path.with_extension(ending)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        fs.remove(&self.path)
    }

    /// Where to begin to look for an offset. An index entry counts only if its batch is there: a wrong index, or damage
    /// at that place, must not hide sound batches before it.
    fn place_of(&self, fs: &dyn Filesystem, scan: &mut Scan<'_>, offset: i64) -> io::Result<Place> {
        let mut bound = offset.saturating_sub(self.base);
        while bound > 0 {
            let entry = self.indexes.read().offsets.floor(fs, |entry| i64::from(entry.relative) <= bound)?;
            let Some(entry) = entry else { break };
            let (at, last) = (entry.position.into(), self.base.saturating_add(entry.relative.into()));
            if let Some(header) = scan.header(at)?.filter(|h| h.is_sound() && h.last_offset() == last) {
                return Ok(Place { at, expected: header.base_offset });
            }
            bound = i64::from(entry.relative) - 1;
        }
        Ok(Place { at: 0, expected: self.base })
    }

    /// Whether the batch that an entry of the time index names has that timestamp.
    fn is_true(&self, fs: &dyn Filesystem, scan: &mut Scan<'_>, entry: TimeEntry) -> io::Result<bool> {
        let offset = self.base.saturating_add(entry.relative.into());
        let place = self.place_of(fs, scan, offset)?;
        let batch = self.seek(fs, scan, place, |header| header.last_offset() >= offset)?;
        Ok(batch
            .is_some_and(|(_, header)| header.last_offset() == offset && header.max_timestamp == entry.timestamp_ms))
    }

    fn hole_at(&self, position: u64) -> Option<Hole> {
        self.holes.read().list.iter().find(|hole| hole.position == position).cloned()
    }

    /// From a batch's beginning on, the first batch that is wanted. Passes over holes.
    ///
    /// Without reading all bytes: a batch is taken for sound if its offsets are those that must come here. If they are not,
    /// its CRC and its follower decide, as the CRC itself leaves out the offset.
    fn seek(
        &self,
        fs: &dyn Filesystem,
        scan: &mut Scan<'_>,
        Place { mut at, mut expected }: Place,
        wanted: impl Fn(&Header) -> bool,
    ) -> io::Result<Option<(u64, Header)>> {
        let end = self.end();
        while at < scan.len {
            if let Some(hole) = self.hole_at(at) {
                at += hole.bytes;
                expected = hole.to_offset;
                continue;
            }
            let header = scan.header(at)?.filter(Header::is_sound);
            let header = match header.filter(|h| at + h.size() as u64 <= scan.len) {
                Some(header) if header.base_offset == expected => Some(header),
                _ => scan.sound_batch(at, expected, Some(end))?,
            };
            match header {
                Some(header) if wanted(&header) => return Ok(Some((at, header))),
                Some(header) => {
                    at += header.size() as u64;
                    expected = header.next_offset();
                }
                None => {
                    let hole = self.damaged(fs, scan, at, expected)?;
                    at += hole.bytes;
                    expected = hole.to_offset;
                }
            }
        }
        Ok(None)
    }

    /// Sets bytes aside that are no batch, up to the next sound one.
    fn damaged(&self, fs: &dyn Filesystem, scan: &mut Scan<'_>, position: u64, from_offset: i64) -> io::Result<Hole> {
        let end = self.end();
        let (to, to_offset) = match scan.resync(position, from_offset, Some(end))? {
            Some((to, header)) => (to, header.base_offset),
            None => (scan.len, end),
        };
        let hole = Hole { file: self.path.clone(), position, bytes: to - position, from_offset, to_offset };
        tell(&hole);
        set_aside(fs, &hole);
        let mut holes = self.holes.write();
        if !holes.list.iter().any(|known| known.position == position) {
            holes.list.push(hole.clone());
            holes.list.sort_by_key(|hole| hole.position);
        }
        // Held while it is written: a segment that takes this one's place must not get its holes.
        if !holes.is_replaced
            && let Err(e) = self.keep_holes(fs, &holes.list)
        {
            tracing::warn!(segment = %self.path.display(), error = %e, "the list of holes can't be written");
        }
        Ok(hole)
    }

    fn keep_holes(&self, fs: &dyn Filesystem, holes: &[Hole]) -> io::Result<()> {
        let path = self.path.with_extension("holes");
        if holes.is_empty() {
            return match fs.remove(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            };
        }
        let json = serde_json::to_vec(holes).map_err(io::Error::other)?;
        fs::replace(fs, &path, &json)
    }
}

/// Copies damaged bytes to a file of their own, for whoever wants to look at them or save what is in them:
/// `damaged/<base>.<position>.bytes` in the partition's folder.
pub(super) fn set_aside(fs: &dyn Filesystem, hole: &Hole) {
    match copy_aside(fs, hole) {
        Ok(()) => {}
        // The bytes still stand in the segment, which is served all the same.
        Err(e) => tracing::warn!(segment = %hole.file.display(), error = %e, "damaged bytes can't be copied aside"),
    }
}

fn aside_path(hole: &Hole) -> Option<PathBuf> {
    let base = hole.file.file_stem()?.to_str()?;
    Some(hole.file.parent()?.join(DAMAGED_DIR).join(format!("{base}.{}.bytes", hole.position)))
}

fn copy_aside(fs: &dyn Filesystem, hole: &Hole) -> io::Result<()> {
    let Some(path) = aside_path(hole) else { return Ok(()) };
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
pub(super) fn tell(hole: &Hole) {
    tracing::error!(
        segment = %hole.file.display(),
        position = hole.position,
        bytes = hole.bytes,
        from_offset = hole.from_offset,
        to_offset = hole.to_offset,
        "damaged bytes are set aside: records of these offsets are lost, the rest is served; check the disk"
    );
}

impl Indexes {
    fn note(&mut self, base: i64, header: &Header, position: u64, max: &mut Option<TimestampOffset>) {
        raise(max, header);
        if self.since_entry > INDEX_INTERVAL
            && let (Ok(relative), Ok(position)) =
                (u32::try_from(header.last_offset().saturating_sub(base)), u32::try_from(position))
        {
            self.offsets.push(OffsetEntry { relative, position });
            if let Some(entry) = max.and_then(|max| time_entry(base, max)) {
                self.times.push(entry);
            }
            self.since_entry = 0;
        }
        self.since_entry += header.size() as u64;
    }
}

fn time_entry(base: i64, max: TimestampOffset) -> Option<TimeEntry> {
    let relative = u32::try_from(max.offset.saturating_sub(base)).ok()?;
    Some(TimeEntry { timestamp_ms: max.timestamp_ms, relative })
}

fn raise(max: &mut Option<TimestampOffset>, header: &Header) {
    if max.is_none_or(|max| header.max_timestamp > max.timestamp_ms) {
        *max = Some(TimestampOffset { timestamp_ms: header.max_timestamp, offset: header.last_offset() });
    }
}

/// Goes through a file with few large reads.
struct Scan<'a> {
    file: &'a dyn File,
    len: u64,
    chunk: usize,
    at: u64,
    window: Vec<u8>,
}

impl<'a> Scan<'a> {
    fn new(file: &'a dyn File, len: u64, chunk: usize) -> Self {
        Self { file, len, chunk: chunk.max(HEADER), at: 0, window: Vec::new() }
    }

    /// These bytes, or `None` if the file ends before.
    fn bytes(&mut self, at: u64, count: usize) -> io::Result<Option<&[u8]>> {
        let end = at.saturating_add(count as u64);
        if end > self.len {
            return Ok(None);
        }
        if at < self.at || end > self.at + self.window.len() as u64 {
            let rest = usize::try_from(self.len - at).unwrap_or(usize::MAX);
            let want = count.max(self.chunk).min(rest);
            if want <= self.window.capacity() {
                self.window.resize(want, 0);
            } else {
                // A fresh one comes zeroed from the system for free.
                self.window = vec![0; want];
            }
            self.at = at;
            let read = self.file.read_at(at, &mut self.window)?;
            self.window.truncate(read);
        }
        let from = usize::try_from(at - self.at).unwrap_or(usize::MAX);
        Ok(self.window.get(from..from.saturating_add(count)))
    }

    fn header(&mut self, at: u64) -> io::Result<Option<Header>> {
        Ok(self.bytes(at, HEADER)?.and_then(Header::parse))
    }

    /// What the batch at this place says of a transaction.
    fn marker(&mut self, at: u64, header: &Header) -> io::Result<Option<Marker>> {
        if !header.is_control() {
            return Ok(None);
        }
        let records = self.bytes(at, header.size())?.and_then(|batch| batch.get(HEADER..));
        Ok(records.and_then(|records| batch::marker(header, records)))
    }

    /// The batch at this place, if it is one in every respect.
    fn sound_batch(&mut self, at: u64, expected: i64, end: Option<i64>) -> io::Result<Option<Header>> {
        let Some(header) = self.header(at)?.filter(|h| h.is_sound() && h.base_offset >= expected) else {
            return Ok(None);
        };
        if end.is_some_and(|end| header.next_offset() > end) {
            return Ok(None);
        }
        let Some(bytes) = self.bytes(at, header.size())? else { return Ok(None) };
        if !batch::crc_holds(&header, bytes) {
            return Ok(None);
        }
        if header.base_offset > expected {
            // The CRC leaves out the offset. A batch that reaches past its follower has a damaged one.
            let follower = self.header(at + header.size() as u64)?.filter(Header::is_sound);
            if follower.is_some_and(|next| next.base_offset >= expected && next.base_offset < header.next_offset()) {
                return Ok(None);
            }
        }
        Ok(Some(header))
    }

    /// The next place after this one where a sound batch begins.
    fn resync(&mut self, at: u64, expected: i64, end: Option<i64>) -> io::Result<Option<(u64, Header)>> {
        // Most often the length is right, and the next batch is where it says. Looking there first keeps a record that
        // holds a batch itself from being taken for one.
        if let Some(header) = self.header(at)? {
            let next = at.saturating_add(header.size() as u64);
            if header.length > 0
                && let Some(found) = self.sound_batch(next, expected, end)?
            {
                return Ok(Some((next, found)));
            }
        }
        let mut place = at + 1;
        while place + HEADER as u64 <= self.len {
            let span = usize::try_from(self.len - place).unwrap_or(usize::MAX).min(CHUNK);
            let Some(bytes) = self.bytes(place, span)? else { return Ok(None) };
            let candidates: Vec<u64> = memchr::memchr_iter(2, bytes)
                .filter_map(|magic| magic.checked_sub(16))
                .filter(|start| {
                    let header = bytes.get(*start..).and_then(Header::parse);
                    // Offsets of one segment span 31 bits.
                    header.is_none_or(|h| {
                        h.is_sound() && h.base_offset >= expected && h.base_offset - expected <= i64::from(i32::MAX)
                    })
                })
                .map(|start| place + start as u64)
                .collect();
            for candidate in candidates {
                if let Some(found) = self.sound_batch(candidate, expected, end)? {
                    return Ok(Some((candidate, found)));
                }
            }
            if span < CHUNK {
                break;
            }
            place += (span - HEADER) as u64;
        }
        Ok(None)
    }
}
