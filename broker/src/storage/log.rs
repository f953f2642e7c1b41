//! The segments of one partition: appends in order, flushes, reads, deletes from the front. Blocking; see
//! [`super::partition`] for the side that async code calls.
//!
//! In: batches of clients, offsets. Out: batches as stored. Touches the partition's folder `<topic>-<number>`:
//! segments, `<offset>.producers` (see [`super::producer`]), and `log-start-offset` (a number as text: earliest offset).
//!
//! Invariants: only the last segment is written, all before it were synced when it was begun, so recovery after a crash
//! looks at the last one alone. What the high watermark has passed is as durable as the flush policy promises. After a
//! failed fsync nothing is known of what the disk holds, so the partition takes no more until the next start.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::sync::watch;

use super::batch::{self, Header, Marker};
use super::error::{AppendError, ReadError};
use super::health::Health;
use super::limits::{Limits, SharedLimits};
use super::metrics::StorageMetrics;
use super::partition::{AppendKind, Appended, Isolation, OpenTxn, ReadResult, TimestampOffset, Verification};
use super::producer::Producers;
use super::segment::{self, Hole, Segment};
use super::stored::{Located, Stored};
use super::swap;
use super::txn::AbortedTxn;
use super::unread::{CommittedOffset, PassedUnread};
use crate::config::FlushPolicy;
use millrace_log::clock::SharedClock;
use millrace_log::fs::{self, Filesystem};

pub(super) const START_FILE: &str = "log-start-offset";
/// A number as text: what stands before was compacted.
const CLEANED_FILE: &str = "clean-offset";

/// Further files of a partition's folder, whole names.
pub(super) const OTHER_FILES: [&str; 1] = [CLEANED_FILE];

/// What logs of one storage share.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub fs: Arc<dyn Filesystem>,
    pub clock: SharedClock,
    pub flush: FlushPolicy,
    pub producer_expiry_ms: i64,
    pub metrics: StorageMetrics,
    pub health: Arc<Health>,
}

struct Writer {
    active: Arc<Segment>,
    producers: Producers,
}

/// A transaction that holds the last stable offset back.
#[derive(Debug, Clone, Copy)]
struct Unstable {
    producer_id: i64,
    /// Where its marker stands, once it does; it counts when the high watermark has passed it.
    marker: Option<i64>,
}

/// What compaction goes by.
pub(super) struct CompactionView {
    pub limits: Arc<Limits>,
    /// All but the active one.
    pub segments: Vec<Arc<Segment>>,
    pub active_base: i64,
    pub start: i64,
    pub last_stable_offset: i64,
    /// Where the last pass ended.
    pub cleaned: i64,
}

/// All segments of one partition.
pub(super) struct Log {
    dir: PathBuf,
    around: Surroundings,
    limits: SharedLimits,
    writer: Mutex<Writer>,
    segments: RwLock<BTreeMap<i64, Arc<Segment>>>,
    start: AtomicI64,
    end: AtomicI64,
    synced: AtomicI64,
    high_watermark: watch::Sender<i64>,
    /// Transactions by first offset. Held while high watermark and last stable offset move, for no disk work.
    unstable: Mutex<BTreeMap<i64, Unstable>>,
    last_stable: watch::Sender<i64>,
    /// Markers appended since the start.
    markers: AtomicU64,
    refusal: watch::Sender<Option<AppendError>>,
    /// Held while names of finished segments change on disk.
    names: Mutex<()>,
    /// Held by a compaction.
    compacting: Mutex<()>,
    cleaned: AtomicI64,
}

impl Log {
    /// Opens a partition's folder, or makes it. `clean`: the last stop was orderly, batches need no check.
    pub fn open(dir: &Path, around: Surroundings, limits: SharedLimits, clean: bool) -> io::Result<Self> {
        let fs = &*around.fs;
        let now_ms = around.clock.now_ms();
        fs.create_dir_all(dir)?;
        swap::recover(fs, dir)?;
        let mut cleaned = 0;
        let mut bases = Vec::new();
        let mut snapshots = Vec::new();
        let mut stored_start = 0;
        for entry in fs.list(dir)? {
            let path = dir.join(&entry.name);
            if let Some(base) = segment::offset_of(&entry.name, "log") {
                bases.push(base);
            } else if let Some(offset) = segment::offset_of(&entry.name, "producers") {
                snapshots.push(offset);
            } else if entry.name == START_FILE {
                stored_start = read_start(fs, &path)?;
            } else if entry.name == CLEANED_FILE {
                // Without it everything is compacted once more.
                cleaned = read_number(fs, &path)?.unwrap_or(0);
            } else if entry.name.ends_with(".tmp") {
                fs.remove(&path)?;
            }
        }
        // Left over from a deletion that a crash cut short.
        while let [first, second, ..] = *bases.as_slice() {
            if second > stored_start {
                break;
            }
            remove_files(fs, dir, first)?;
            bases.remove(0);
        }
        if bases.is_empty() {
            Segment::create(fs, dir, stored_start, now_ms)?;
            fs.sync_dir(dir)?;
            bases.push(stored_start);
        }
        let mut least_end = stored_start;
        let mut taken_back = None;
        if !clean
            && let [.., before, last] = *bases.as_slice()
            && fs.open(&segment::path_of(dir, last, "log"))?.len()? == 0
        {
            // Begun right before the crash, or left by a try on a full disk after which the one before was written on.
            taken_back = Some(last);
            bases.pop();
            least_end = least_end.max(last);
            tracing::debug!(dir = %dir.display(), before, last, "an empty segment at the end is taken back");
        }
        let (mut segments, producers) = Self::open_segments(dir, &around, &bases, &mut snapshots, clean, now_ms)?;
        if let Some(base) = taken_back {
            let before = segments.values().next_back().cloned().filter(|before| before.end() < base);
            if let Some(before) = before {
                // Compaction has taken the last records: only the name of the empty one says where offsets go on.
                before.finish_indexes(fs);
                before.rest();
                segments.insert(base, Arc::new(Segment::create(fs, dir, base, now_ms)?));
            } else {
                remove_files(fs, dir, base)?;
            }
            fs.sync_dir(dir)?;
        }
        let active = segments.values().next_back().cloned().ok_or(io::ErrorKind::NotFound)?;
        active.reopen_aborted(fs)?;
        let start = stored_start.max(bases.first().copied().unwrap_or(0));
        let end = active.end().max(start).max(least_end);
        let open = |txn: OpenTxn| (txn.first_offset, Unstable { producer_id: txn.producer_id, marker: None });
        let unstable: BTreeMap<i64, Unstable> = producers.open().map(open).collect();
        let markers = AtomicU64::new(producers.markers());
        let last_stable = unstable.keys().next().map_or(end, |first| (*first).clamp(start, end));
        Ok(Self {
            dir: dir.to_owned(),
            around,
            limits,
            writer: Mutex::new(Writer { active, producers }),
            segments: RwLock::new(segments),
            start: AtomicI64::new(start),
            end: AtomicI64::new(end),
            synced: AtomicI64::new(end),
            high_watermark: watch::Sender::new(end),
            unstable: Mutex::new(unstable),
            last_stable: watch::Sender::new(last_stable),
            markers,
            refusal: watch::Sender::new(None),
            names: Mutex::default(),
            compacting: Mutex::default(),
            cleaned: AtomicI64::new(cleaned),
        })
    }

    fn open_segments(
        dir: &Path,
        around: &Surroundings,
        bases: &[i64],
        snapshots: &mut [i64],
        clean: bool,
        now_ms: i64,
    ) -> io::Result<(BTreeMap<i64, Arc<Segment>>, Producers)> {
        let fs = &*around.fs;
        let mut segments = BTreeMap::new();
        let mut last_known = None;
        for (at, base) in bases.iter().copied().enumerate() {
            let next_base = bases.get(at + 1).copied();
            let trusted = clean || next_base.is_some();
            let opened = if trusted { Segment::open(fs, dir, base, next_base, now_ms)? } else { None };
            let segment = match (opened, next_base) {
                (Some(segment), _) => segment,
                // The last one is gone through below, together with the producers.
                (None, None) => break,
                (None, Some(_)) => recover(around, dir, base, next_base, now_ms, |_, _| None)?,
            };
            match next_base {
                Some(_) => segment.rest(),
                None => last_known = Some(segment.end()),
            }
            segments.insert(base, Arc::new(segment));
        }
        let last_base = bases.last().copied().unwrap_or(0);
        let usable = last_known.unwrap_or(last_base);
        snapshots.sort_unstable();
        let mut producers = Producers::default();
        let mut from = bases.first().copied().unwrap_or(0);
        for offset in snapshots.iter().rev().copied() {
            let path = segment::path_of(dir, offset, "producers");
            if offset > usable {
                // Of a stop after which the segment was written on; what it says is in the segment.
                fs.remove(&path)?;
                continue;
            }
            match Producers::decode(&fs::read_all(fs, &path)?, offset) {
                Some(read) => {
                    (producers, from) = (read, offset);
                    break;
                }
                None => tracing::warn!(file = %path.display(), "state of producers is damaged, it is made again"),
            }
        }
        for segment in segments.values().filter(|segment| segment.end() > from) {
            segment.headers(fs, from, |header, marker| {
                if header.base_offset >= from {
                    producers.update(header, marker, now_ms);
                }
            })?;
        }
        if last_known.is_none() {
            let note = |header: &Header, marker: Option<Marker>| {
                let ended = if header.base_offset >= from { producers.update(header, marker, now_ms) } else { None };
                ended.and_then(|ended| ended.aborted())
            };
            let segment = recover(around, dir, last_base, None, now_ms, note)?;
            segments.insert(last_base, Arc::new(segment));
        }
        find_aborted(dir, fs, &segments)?;
        Ok((segments, producers))
    }

    /// Appends whole batches, all or none.
    pub fn append(&self, bytes: Bytes, kind: AppendKind) -> Result<Appended, AppendError> {
        let appended = self.try_append(bytes, kind);
        match &appended {
            Ok(Appended { duplicate: true, .. }) => self.around.metrics.repeated_batches.inc(),
            Ok(_) => 0,
            Err(_) => self.around.metrics.refused_batches.inc(),
        };
        appended
    }

    fn try_append(&self, bytes: Bytes, kind: AppendKind) -> Result<Appended, AppendError> {
        let limits = self.limits.read().clone();
        let now_ms = self.around.clock.now_ms();
        // The costly part (CRC, and another codec where the topic asks for one) needs no lock.
        let mut batches = batch::take_apart(bytes, kind, &limits, now_ms)?;
        let total: u64 = batches.iter().map(|batch| batch.header.size() as u64).sum();
        let append_time_ms = limits.log_append_time.then_some(now_ms);

        let mut writer = self.writer.lock();
        if let Some(refusal) = &*self.refusal.borrow() {
            return Err(refusal.clone());
        }
        for batch in &batches {
            // Most batches have no producer: nothing to look up.
            if batch.header.producer_id >= 0
                && let Some(repeat) = writer.producers.check(&batch.header, batch.marker(), kind)?
            {
                return Ok(Appended {
                    base_offset: repeat.base_offset,
                    last_offset: repeat.last_offset,
                    log_append_time_ms: if limits.log_append_time { repeat.timestamp_ms } else { -1 },
                    log_start_offset: self.start(),
                    duplicate: true,
                });
            }
        }
        let base_offset = self.end();
        let mut next = base_offset;
        let mut records = 0;
        let mut record_ms = i64::MIN;
        for batch in &mut batches {
            batch.place(next, append_time_ms);
            next = batch.header.next_offset();
            record_ms = record_ms.max(batch.header.max_timestamp);
            records += u64::try_from(batch.header.count).unwrap_or(0);
        }
        let active = &writer.active;
        let full = active.len() > 0
            && (active.len().saturating_add(total) > limits.segment_bytes
                || active.is_aged(now_ms, record_ms, limits.most_segment_ms(), limits.segment_jitter_ms)
                || next - active.base > i64::from(i32::MAX));
        if full {
            self.roll(&mut writer)?;
        }
        if let Err(e) = writer.active.append(&batches) {
            let undone = writer.active.undo();
            return Err(match undone {
                Ok(()) if e.kind() == io::ErrorKind::StorageFull => self.full(),
                _ => self.fail("write", &e),
            });
        }
        for batch in batches.iter().filter(|batch| batch.header.producer_id >= 0) {
            self.note_producer(&mut writer, &batch.header, batch.marker(), now_ms);
        }
        self.end.store(next, Ordering::Release);
        if self.around.flush != FlushPolicy::Always {
            self.publish(next);
        }
        drop(writer);
        self.around.health.wrote();
        self.around.metrics.appended_bytes.inc_by(total);
        self.around.metrics.appended_records.inc_by(records);
        Ok(Appended {
            base_offset,
            last_offset: next - 1,
            log_append_time_ms: append_time_ms.unwrap_or(-1),
            log_start_offset: self.start(),
            duplicate: false,
        })
    }

    /// Takes note of who wrote a batch that now stands in the active segment, before anybody can read it.
    fn note_producer(&self, writer: &mut MutexGuard<'_, Writer>, header: &Header, marker: Option<Marker>, now_ms: i64) {
        let ended = writer.producers.update(header, marker, now_ms);
        self.markers.store(writer.producers.markers(), Ordering::Release);
        if let Some(ended) = ended {
            if let Some(aborted) = ended.aborted() {
                writer.active.add_aborted(aborted);
            }
            let marker = Some(ended.last_offset);
            self.unstable.lock().insert(ended.first_offset, Unstable { producer_id: ended.producer_id, marker });
        } else if header.is_transactional() && marker.is_none() {
            let begun = writer.producers.txn_of(header.producer_id) == Some(header.base_offset);
            if begun {
                let open = Unstable { producer_id: header.producer_id, marker: None };
                self.unstable.lock().insert(header.base_offset, open);
            }
        }
    }

    /// Forces all that was appended so far to disk, and lets consumers see it. Call it from one thread at a time.
    pub fn sync(&self) -> Result<(), AppendError> {
        let writer = self.writer.lock();
        if let Some(refusal) = &*self.refusal.borrow() {
            return Err(refusal.clone());
        }
        let (active, end) = (writer.active.clone(), self.end());
        drop(writer);
        if end > self.synced.load(Ordering::Acquire) {
            self.force(&active).map_err(|e| self.fail("fsync", &e))?;
            self.passed(end);
        }
        Ok(())
    }

    /// The idempotent producers it knows.
    pub fn producers(&self) -> Vec<super::producer::ProducerState> {
        self.writer.lock().producers.list()
    }

    /// Whether so many more bytes would make it begin a segment, and wait for the disk to have the one before.
    pub fn begins_segment(&self, bytes: usize) -> bool {
        let most = self.limits.read().segment_bytes;
        let segments = self.segments.read();
        segments.values().next_back().is_some_and(|active| active.len().saturating_add(bytes as u64) > most)
    }

    /// Whether something waits for a flush.
    pub fn is_dirty(&self) -> bool {
        self.end() > self.synced.load(Ordering::Acquire) && self.refusal.borrow().is_none()
    }

    /// Flushes, completes indexes, keeps the state of producers; refuses appends from then on.
    pub fn close(&self) -> Result<(), AppendError> {
        self.sync()?;
        let writer = self.writer.lock();
        self.refuse(AppendError::Closed);
        drop(self.compacting.lock());
        writer.active.finish_indexes(&*self.around.fs);
        if let Err(e) = self.keep_producers(&writer) {
            tracing::warn!(dir = %self.dir.display(), error = %e, "state of producers can't be kept, it will be made again");
        }
        Ok(())
    }

    /// Refuses everything from now on: the partition is deleted.
    pub fn delete(&self) {
        let writer = self.writer.lock();
        self.refusal.send_replace(Some(AppendError::Deleted));
        drop(writer);
        // Its files go next: a compaction must not write new ones.
        drop(self.compacting.lock());
    }

    /// Reads whole batches below the high watermark, or the last stable offset.
    pub fn read(
        &self,
        from: i64,
        max_bytes: usize,
        min_one: bool,
        isolation: Isolation,
    ) -> Result<ReadResult, ReadError> {
        let Located { stored, high_watermark, last_stable_offset, log_start_offset, aborted } =
            self.locate(from, max_bytes, min_one, isolation)?;
        let records = match stored {
            Some(stored) => stored.read(0, stored.len()).map_err(|e| read_error(&self.dir, &e))?,
            None => Bytes::new(),
        };
        Ok(ReadResult { records, high_watermark, last_stable_offset, log_start_offset, aborted })
    }

    /// Finds whole batches below the high watermark, or the last stable offset, without reading them.
    pub fn locate(
        &self,
        from: i64,
        max_bytes: usize,
        min_one: bool,
        isolation: Isolation,
    ) -> Result<Located, ReadError> {
        self.check_not_deleted()?;
        // In this order: the last stable offset is never above the high watermark.
        let last_stable_offset = self.last_stable_offset();
        let high_watermark = self.high_watermark();
        let until = match isolation {
            Isolation::Uncommitted => high_watermark,
            Isolation::Committed => last_stable_offset,
        };
        let log_start_offset = self.start();
        if from < log_start_offset || from > self.end().max(high_watermark) {
            return Err(ReadError::OutOfRange { offset: from, log_start_offset, high_watermark });
        }
        let mut stored = None;
        let mut next_offset = from;
        let mut base = from;
        while base < until {
            // The segment that holds the place; after a hole at its end, the next one.
            let segments = self.segments.read();
            let segment = segments.range(..=base).next_back().map(|(_, segment)| segment.clone());
            let after = segments.range(base.saturating_add(1)..).next().map(|(base, _)| *base);
            drop(segments);
            if let Some(segment) = segment {
                let found = segment.locate(&*self.around.fs, from, until, max_bytes, min_one);
                if let Some(found) = found.map_err(|e| read_error(segment.path(), &e))? {
                    next_offset = found.next_offset;
                    stored = (found.bytes > 0).then(|| Stored::new(segment.file().clone(), found));
                    break;
                }
            }
            match after {
                Some(after) => base = after,
                None => break,
            }
        }
        let bytes = stored.as_ref().map_or(0, Stored::len);
        self.around.metrics.read_bytes.inc_by(bytes as u64);
        let aborted = match isolation {
            Isolation::Committed if bytes > 0 => self.aborted(from, next_offset)?,
            _ => Vec::new(),
        };
        Ok(Located { stored, high_watermark, last_stable_offset, log_start_offset, aborted })
    }

    /// Aborted transactions with records in a range of offsets, in the order of their markers.
    pub fn aborted(&self, from: i64, until: i64) -> Result<Vec<AbortedTxn>, ReadError> {
        let mut aborted = Vec::new();
        let mut base = from;
        loop {
            // From the segment that holds `from` on: markers stand behind what they end.
            let segments = self.segments.read();
            let segment = segments.range(..=base).next_back().or_else(|| segments.range(base..).next());
            let segment = segment.map(|(_, segment)| segment.clone());
            let next =
                segment.as_ref().and_then(|found| segments.range(found.base + 1..).next()).map(|(base, _)| *base);
            drop(segments);
            if let Some(segment) = segment.filter(|segment| segment.has_aborted()) {
                let list = self.aborted_in(&segment).map_err(|e| read_error(segment.path(), &e))?;
                aborted.extend(list.iter().filter(|txn| txn.overlaps(from, until)));
                // Nothing that began before this offset is decided later.
                if list.last().is_some_and(|last| last.last_stable_offset >= until) {
                    return Ok(aborted);
                }
            }
            match next {
                Some(next) => base = next,
                None => return Ok(aborted),
            }
        }
    }

    /// Aborted transactions whose markers stand in a segment; made again from the batches if its list is damaged.
    fn aborted_in(&self, segment: &Segment) -> io::Result<Vec<AbortedTxn>> {
        let fs = &*self.around.fs;
        match segment.aborted(fs) {
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {}
            list => return list,
        }
        tracing::warn!(segment = %segment.path().display(), "list of aborted transactions is damaged: it is made again from all segments before; check the disk");
        let segments = self.segments.read().clone();
        let mut found = Vec::new();
        scan_aborted(fs, segments.range(..=segment.base).map(|(_, of)| &**of), |of, list| {
            if of.base == segment.base {
                found = list;
            }
        })?;
        segment.mend_aborted(found.clone());
        Ok(found)
    }

    /// Open transactions by first offset, also those whose marker the high watermark has not passed.
    pub fn open_transactions(&self) -> Vec<OpenTxn> {
        let unstable = self.unstable.lock();
        unstable.iter().map(|(first, txn)| OpenTxn { first_offset: *first, producer_id: txn.producer_id }).collect()
    }

    /// A moment in the order of appends, see [`Verification`].
    pub fn verification(&self) -> Verification {
        Verification(self.markers.load(Ordering::Acquire))
    }

    /// The first record dated at or after a time.
    pub fn offset_for_time(&self, timestamp_ms: i64) -> Result<Option<TimestampOffset>, ReadError> {
        self.check_not_deleted()?;
        let (start, until) = (self.start(), self.high_watermark());
        let segments: Vec<_> = self.segments.read().values().cloned().collect();
        for segment in segments {
            if segment.end() <= start || segment.max_timestamp().is_none_or(|max| max.timestamp_ms < timestamp_ms) {
                continue;
            }
            let hit = segment.first_at_or_after(&*self.around.fs, timestamp_ms, start, until);
            if let Some(hit) = hit.map_err(|e| read_error(segment.path(), &e))? {
                return Ok(Some(hit));
            }
        }
        Ok(None)
    }

    /// The first record with the largest timestamp.
    pub fn max_timestamp(&self) -> Result<Option<TimestampOffset>, ReadError> {
        self.check_not_deleted()?;
        let segments = self.segments.read();
        let largest = segments.values().filter_map(|segment| segment.max_timestamp()).map(|max| max.timestamp_ms).max();
        drop(segments);
        match largest {
            // Records without a timestamp have none that is the largest.
            Some(timestamp_ms) if timestamp_ms >= 0 => self.offset_for_time(timestamp_ms),
            _ => Ok(None),
        }
    }

    /// Deletes records before an offset, -1 for all below the high watermark.
    pub fn delete_records(&self, before: i64) -> Result<i64, ReadError> {
        self.check_not_deleted()?;
        let mut writer = self.writer.lock();
        let high_watermark = self.high_watermark();
        let before = if before == -1 { high_watermark } else { before };
        if before < 0 || before > high_watermark {
            return Err(ReadError::OutOfRange { offset: before, log_start_offset: self.start(), high_watermark });
        }
        if before > self.start() {
            if before == self.end() && writer.active.len() > 0 {
                self.roll(&mut writer)
                    .map_err(|e| ReadError::Io { path: self.dir.clone(), cause: e.to_string().into() })?;
            }
            self.drop_before(&writer, before).map_err(|e| read_error(&self.dir, &e))?;
        }
        Ok(self.start())
    }

    /// Deletes what is older or more than the topic keeps; forgets idle producers. `readers` tells who has read how far,
    /// and is asked only if something is to go, without a lock held. Returns what was deleted unread.
    pub fn retain(
        &self,
        now_ms: i64,
        readers: impl FnOnce() -> Vec<CommittedOffset>,
    ) -> Result<Vec<PassedUnread>, AppendError> {
        let limits = self.limits.read().clone();
        let mut writer = self.writer.lock();
        if let Some(refusal) = &*self.refusal.borrow() {
            return Err(refusal.clone());
        }
        writer.producers.expire(now_ms.saturating_sub(self.around.producer_expiry_ms));
        drop(writer);
        if !limits.delete || self.expired_before(&limits, now_ms, i64::MAX).is_none() {
            return Ok(Vec::new());
        }
        let readers = readers();
        let slowest = readers.iter().map(|reader| reader.offset).min().unwrap_or(i64::MAX);
        let Some(before) = self.expired_before(&limits, now_ms, slowest) else { return Ok(Vec::new()) };
        let mut writer = self.writer.lock();
        if let Some(refusal) = &*self.refusal.borrow() {
            return Err(refusal.clone());
        }
        if before == self.end() && writer.active.len() > 0 {
            self.roll(&mut writer)?;
        }
        let start = self.start();
        if let Err(e) = self.drop_before(&writer, before) {
            tracing::error!(dir = %self.dir.display(), error = %e, "retention can't delete, it will try again");
            return Ok(Vec::new());
        }
        drop(writer);
        let passed = |reader: CommittedOffset| PassedUnread {
            group: reader.group,
            from_offset: reader.offset.max(start),
            to_offset: before,
        };
        Ok(readers.into_iter().map(passed).filter(|passed| passed.from_offset < passed.to_offset).collect())
    }

    /// The offset before which retention deletes, if it does. What the slowest reader has not read may stay longer.
    fn expired_before(&self, limits: &Limits, now_ms: i64, slowest: i64) -> Option<i64> {
        let high_watermark = self.high_watermark();
        let segments: Vec<_> = self.segments.read().values().cloned().collect();
        let active_base = segments.last()?.base;
        let mut size: u64 = segments.iter().map(|segment| segment.len()).sum();
        let mut before = None;
        for segment in segments {
            let len = segment.len();
            // Emptied by compaction: it only stands for its offsets.
            let is_empty = len == 0 && segment.base != active_base;
            let age_ms = u64::try_from(now_ms.saturating_sub(segment.newest_ms())).unwrap_or(0);
            let too_old = limits.retention_ms.is_some_and(|most| age_ms > most);
            let too_much = limits.retention_bytes.is_some_and(|most| size.saturating_sub(len) >= most && size > most);
            let is_held = slowest < segment.end()
                && limits.hold_bytes.is_none_or(|most| size <= most)
                && limits.hold_ms.is_none_or(|most| age_ms <= most);
            let goes = is_empty || (len > 0 && (too_old || too_much) && !is_held);
            if segment.end() > high_watermark || !goes {
                break;
            }
            size -= len;
            before = Some(segment.end());
        }
        before
    }

    /// What compaction goes by; `None` if the topic is not compacted, or no longer written.
    pub fn compaction_view(&self) -> Option<CompactionView> {
        let limits = self.limits.read().clone();
        if !limits.compact || self.refuses() {
            return None;
        }
        let segments = self.segments.read();
        let active_base = segments.keys().next_back().copied()?;
        let segments = segments.range(..active_base).map(|(_, segment)| segment.clone()).collect();
        let cleaned = self.cleaned.load(Ordering::Acquire);
        let last_stable_offset = self.last_stable_offset();
        Some(CompactionView { limits, segments, active_base, start: self.start(), last_stable_offset, cleaned })
    }

    /// One compaction at a time; a partition that closes or is deleted waits for it.
    pub fn begin_compaction(&self) -> MutexGuard<'_, ()> {
        self.compacting.lock()
    }

    /// Whether nothing is taken any more.
    pub fn refuses(&self) -> bool {
        self.refusal.borrow().is_some()
    }

    /// The last batch of each producer.
    pub fn last_batches(&self) -> HashMap<i64, (i16, Option<i64>)> {
        self.writer.lock().producers.last_batches()
    }

    /// Puts a new segment, written as `.cleaned`, in the place of others that follow each other up to `until`.
    /// `false`: some of them are gone by now.
    pub fn replace(&self, old: &[Arc<Segment>], mut fresh: Segment, until: i64) -> io::Result<bool> {
        let fs = self.fs();
        let base = fresh.base;
        let _names = self.names.lock();
        let stand = |segments: &BTreeMap<i64, Arc<Segment>>| {
            old.iter().all(|old| segments.get(&old.base).is_some_and(|now| Arc::ptr_eq(now, old)))
        };
        if !stand(&self.segments.read()) || self.refuses() {
            return Ok(false);
        }
        // Readers of the old ones must not look for files that are gone, or for those of the new one.
        old.iter().try_for_each(|segment| segment.hold_aborted(fs))?;
        swap::commit(fs, &self.dir, base, until)?;
        fresh.settle(&self.dir);
        let fresh = Arc::new(fresh);
        let mut segments = self.segments.write();
        for segment in old {
            segments.remove(&segment.base);
        }
        segments.insert(base, fresh.clone());
        drop(segments);
        old.iter().for_each(|segment| segment.retire());
        // From here on only the next start could sort out what is half done.
        swap::finish(fs, &self.dir, base, until).inspect_err(|e| {
            self.fail("put a compacted segment in place in", e);
        })?;
        fresh.rest();
        Ok(true)
    }

    /// Forgets idle producers.
    #[cfg(test)]
    pub fn expire_producers(&self, ids: &[i64]) {
        self.writer.lock().producers.forget(ids);
    }

    /// Begins a new segment.
    #[cfg(test)]
    pub fn roll_now(&self) -> Result<(), AppendError> {
        self.roll(&mut self.writer.lock())
    }

    /// Notes where a compaction ended.
    pub fn keep_cleaned(&self, offset: i64) {
        self.cleaned.store(offset, Ordering::Release);
        let written = fs::replace(self.fs(), &self.dir.join(CLEANED_FILE), format!("{offset}\n").as_bytes());
        if let Err(e) = written {
            tracing::warn!(dir = %self.dir.display(), error = %e, "can't note how far it is compacted: that is done again after a restart");
        }
    }

    /// A failure to read, told with the folder.
    pub fn read_error(&self, cause: &io::Error) -> ReadError {
        read_error(&self.dir, cause)
    }

    /// What it counts into.
    pub fn metrics(&self) -> &StorageMetrics {
        &self.around.metrics
    }

    /// The partition's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where it lies.
    pub fn fs(&self) -> &dyn Filesystem {
        &*self.around.fs
    }

    /// Bytes in all segments.
    pub fn size_bytes(&self) -> u64 {
        self.segments.read().values().map(|segment| segment.len()).sum()
    }

    /// Holes found so far.
    pub fn holes(&self) -> Vec<Hole> {
        self.segments.read().values().flat_map(|segment| segment.holes()).collect()
    }

    /// Checks every batch of every segment; returns all holes.
    pub fn verify(&self) -> Result<Vec<Hole>, ReadError> {
        let segments: Vec<_> = self.segments.read().values().cloned().collect();
        let mut holes = Vec::new();
        for segment in segments {
            let found = segment.verify(&*self.around.fs);
            holes.extend(found.map_err(|e| read_error(segment.path(), &e))?);
        }
        Ok(holes)
    }

    /// Earliest offset.
    pub fn start(&self) -> i64 {
        self.start.load(Ordering::Acquire)
    }

    /// Offset after the last record written.
    pub fn end(&self) -> i64 {
        self.end.load(Ordering::Acquire)
    }

    /// Offset after the last record that consumers may see.
    pub fn high_watermark(&self) -> i64 {
        *self.high_watermark.borrow()
    }

    /// Offset before which every transaction has ended, at most the high watermark.
    pub fn last_stable_offset(&self) -> i64 {
        // With the lock, so that who has seen a high watermark also sees what became stable with it.
        let _still = self.unstable.lock();
        *self.last_stable.borrow()
    }

    /// The last stable offset as it moves.
    pub fn watch_stable(&self) -> watch::Receiver<i64> {
        self.last_stable.subscribe()
    }

    /// The high watermark as it moves.
    pub fn watch(&self) -> watch::Receiver<i64> {
        self.high_watermark.subscribe()
    }

    /// Why nothing is taken any more, once that is so.
    pub fn watch_refusal(&self) -> watch::Receiver<Option<AppendError>> {
        self.refusal.subscribe()
    }

    fn check_not_deleted(&self) -> Result<(), ReadError> {
        match &*self.refusal.borrow() {
            Some(AppendError::Deleted) => Err(ReadError::Deleted),
            _ => Ok(()),
        }
    }

    fn force(&self, segment: &Segment) -> io::Result<()> {
        // How long it took is no time of day: no clock to move in tests.
        let begun = Instant::now();
        segment.sync()?;
        self.around.metrics.flush_seconds.observe(begun.elapsed().as_secs_f64());
        Ok(())
    }

    fn passed(&self, end: i64) {
        self.synced.fetch_max(end, Ordering::AcqRel);
        self.publish(end);
    }

    fn publish(&self, end: i64) {
        let raise = |mark: &watch::Sender<i64>, to: i64| {
            mark.send_if_modified(|mark| {
                let moved = to > *mark;
                *mark = to.max(*mark);
                moved
            });
        };
        let mut unstable = self.unstable.lock();
        raise(&self.high_watermark, end);
        let high_watermark = self.high_watermark();
        while let Some(first) = unstable.first_entry() {
            if first.get().marker.is_none_or(|marker| marker >= high_watermark) {
                break;
            }
            first.remove();
        }
        let first = unstable.keys().next().map_or(high_watermark, |first| (*first).max(self.start()));
        raise(&self.last_stable, first.min(high_watermark));
    }

    /// Begins a new segment; the one before is durable from then on.
    fn roll(&self, writer: &mut MutexGuard<'_, Writer>) -> Result<(), AppendError> {
        let fs = &*self.around.fs;
        let end = self.end();
        self.force(&writer.active).map_err(|e| self.fail("fsync", &e))?;
        self.passed(end);
        writer.active.finish_indexes(&*self.around.fs);
        let fresh = Segment::create(fs, &self.dir, end, self.around.clock.now_ms());
        let fresh = match fresh.and_then(|fresh| fs.sync_dir(&self.dir).map(|()| fresh)) {
            Ok(fresh) => Arc::new(fresh),
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                // The old one may still take a smaller batch, so nothing of the new one may stay.
                remove_files(fs, &self.dir, end).map_err(|e| self.fail("remove an empty segment in", &e))?;
                return Err(self.full());
            }
            Err(e) => return Err(self.fail("create a segment in", &e)),
        };
        self.segments.write().insert(end, fresh.clone());
        writer.active.rest();
        writer.active = fresh;
        if let Err(e) = self.keep_producers(writer) {
            tracing::warn!(dir = %self.dir.display(), error = %e, "state of producers can't be kept, it will be made again");
        }
        Ok(())
    }

    /// Writes the state of producers as of the end, and removes older ones but one.
    fn keep_producers(&self, writer: &Writer) -> io::Result<()> {
        let fs = &*self.around.fs;
        let end = self.end();
        fs::replace(fs, &segment::path_of(&self.dir, end, "producers"), &writer.producers.encode(end))?;
        let mut kept: Vec<i64> =
            fs.list(&self.dir)?.iter().filter_map(|entry| segment::offset_of(&entry.name, "producers")).collect();
        kept.sort_unstable();
        kept.truncate(kept.len().saturating_sub(2));
        for offset in kept {
            fs.remove(&segment::path_of(&self.dir, offset, "producers"))?;
        }
        Ok(())
    }

    /// Moves the earliest offset up, durably, then removes segments that lie wholly before it.
    fn drop_before(&self, writer: &Writer, before: i64) -> io::Result<()> {
        let fs = &*self.around.fs;
        let _names = self.names.lock();
        match fs::replace(fs, &self.dir.join(START_FILE), format!("{before}\n").as_bytes()) {
            // Deleting is what helps now, and the first segment's name says the same.
            Err(e) if e.kind() == io::ErrorKind::StorageFull && self.segments.read().contains_key(&before) => {}
            written => written?,
        }
        self.start.fetch_max(before, Ordering::AcqRel);
        // An open transaction that lost its beginning holds back only what is left of it.
        self.publish(self.high_watermark());
        let mut segments = self.segments.write();
        let mut gone = Vec::new();
        while let Some(first) = segments.first_entry() {
            if first.get().end() > before || first.get().base == writer.active.base {
                break;
            }
            gone.push(first.remove());
        }
        drop(segments);
        for segment in &gone {
            segment.remove(fs)?;
            self.around.metrics.deleted_bytes.inc_by(segment.len());
        }
        fs.sync_dir(&self.dir)
    }

    fn full(&self) -> AppendError {
        self.around.health.refused();
        tracing::error!(dir = %self.dir.display(), "disk is full: new data is refused until there is space");
        AppendError::Full { path: self.dir.clone() }
    }

    /// Refuses appends from now on, for the first reason there is.
    fn refuse(&self, reason: AppendError) -> bool {
        self.refusal.send_if_modified(|refusal| {
            let first = refusal.is_none();
            // Before anybody can see the refusal and ask.
            if first && matches!(reason, AppendError::Failed { .. }) {
                self.around.metrics.failed_partitions.inc();
            }
            refusal.get_or_insert(reason);
            first
        })
    }

    fn fail(&self, what: &'static str, cause: &io::Error) -> AppendError {
        let path = self.dir.clone();
        let failed = AppendError::Failed { path, cause: format!("{what}: {cause}").into() };
        if self.refuse(failed.clone()) {
            tracing::error!(dir = %self.dir.display(), what, error = %cause, "partition takes no more until restarted");
        }
        failed
    }
}

fn recover(
    around: &Surroundings,
    dir: &Path,
    base: i64,
    next_base: Option<i64>,
    now_ms: i64,
    on_batch: impl FnMut(&Header, Option<Marker>) -> Option<AbortedTxn>,
) -> io::Result<Segment> {
    let (segment, report) = Segment::recover(&*around.fs, dir, base, next_base, now_ms, on_batch)?;
    if report.cut > 0 {
        around.metrics.torn_bytes.inc_by(report.cut);
        let segment = segment.path().display();
        tracing::warn!(%segment, bytes = report.cut, "cut a torn write at the end, it was never acknowledged");
    }
    for hole in &report.holes {
        around.metrics.holes.inc();
        segment::tell(hole);
        segment::set_aside(&*around.fs, hole);
    }
    Ok(segment)
}

/// Makes the lists of aborted transactions again where a finished segment has none, by going through all batches: where a
/// transaction began may stand many segments before its marker.
pub(super) fn find_aborted(dir: &Path, fs: &dyn Filesystem, segments: &BTreeMap<i64, Arc<Segment>>) -> io::Result<()> {
    let Some(last_lacking) = segments.values().filter(|segment| segment.lacks_aborted()).map(|s| s.base).next_back()
    else {
        return Ok(());
    };
    // Segments without a batch hold no marker, so a new partition has nothing to recover.
    if segments.range(..=last_lacking).any(|(_, segment)| segment.len() > 0) {
        tracing::info!(dir = %dir.display(), "list of aborted transactions is missing: rebuilding it from all segments");
    }
    scan_aborted(fs, segments.range(..=last_lacking).map(|(_, segment)| &**segment), |segment, aborted| {
        if segment.lacks_aborted() {
            let is_finished = segments.range(segment.base + 1..).next().is_some();
            segment.set_aborted(fs, aborted, is_finished);
        }
    })
}

/// Goes through all batches of segments that follow each other from the first on, and tells for each which transactions
/// it has the abort markers of.
fn scan_aborted<'s>(
    fs: &dyn Filesystem,
    segments: impl Iterator<Item = &'s Segment>,
    mut found: impl FnMut(&Segment, Vec<AbortedTxn>),
) -> io::Result<()> {
    let mut producers = Producers::default();
    for segment in segments {
        let mut aborted = Vec::new();
        segment.headers(fs, segment.base, |header, marker| {
            // When is of no interest: nothing of these producers is kept.
            aborted.extend(producers.update(header, marker, 0).and_then(|ended| ended.aborted()));
        })?;
        found(segment, aborted);
    }
    Ok(())
}

fn read_start(fs: &dyn Filesystem, path: &Path) -> io::Result<i64> {
    // Written as a whole or not at all, so damage is the disk's; serving from the first segment on is then the best.
    Ok(read_number(fs, path)?.unwrap_or_else(|| {
        tracing::error!(file = %path.display(), "is damaged: deleted records may show again");
        0
    }))
}

fn read_number(fs: &dyn Filesystem, path: &Path) -> io::Result<Option<i64>> {
    let bytes = fs::read_all(fs, path)?;
    let number = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
    Ok(number.filter(|n| *n >= 0))
}

fn remove_files(fs: &dyn Filesystem, dir: &Path, base: i64) -> io::Result<()> {
    for ending in ["index", "timeindex", "txnindex", "holes", "log"] {
        match fs.remove(&segment::path_of(dir, base, ending)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

fn read_error(path: &Path, cause: &io::Error) -> ReadError {
    ReadError::Io { path: path.to_owned(), cause: cause.to_string().into() }
}
