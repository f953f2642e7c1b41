//! Appends to one partition: batches in their order, flushes, new segments, the state of producers.
//!
//! In: batches of clients and coordinators. Out: where they went, or why not. Touches the active segment, and
//! `<offset>.producers` (see [`crate::storage::producer`]).

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::MutexGuard;

use super::state::{Log, Unstable, Writer};
use crate::config::FlushPolicy;
use crate::storage::append::{AppendKind, Appended};
use crate::storage::batch::Header;
use crate::storage::error::AppendError;
use crate::storage::incoming;
use crate::storage::layout::{offset_of, path_of};
use crate::storage::marker::Marker;
use crate::storage::segment::{self, Segment};
use millrace_log::fs;

impl Log {
    /// Appends whole batches, all or none.
    pub fn append(&self, bytes: Bytes, kind: AppendKind) -> Result<Appended, AppendError> {
        let appended = self.try_append(bytes, kind);
        match &appended {
            Ok(Appended { duplicate: true, .. }) => self.context.metrics.repeated_batches.inc(),
            Ok(_) => 0,
            Err(_) => self.context.metrics.refused_batches.inc(),
        };
        appended
    }

    fn try_append(&self, bytes: Bytes, kind: AppendKind) -> Result<Appended, AppendError> {
        let limits = self.limits.read().clone();
        let now_ms = self.context.clock.now_ms();
        // The costly part (CRC, and another codec where the topic asks for one) needs no lock.
        let mut batches = incoming::take_apart(bytes, kind, &limits, now_ms)?;
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
        if self.context.flush != FlushPolicy::Always {
            self.publish(next);
        }
        drop(writer);
        self.context.health.wrote();
        self.context.metrics.appended_bytes.inc_by(total);
        self.context.metrics.appended_records.inc_by(records);
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

    fn force(&self, segment: &Segment) -> io::Result<()> {
        // How long it took is no time of day: no clock to move in tests.
        let begun = Instant::now();
        segment.sync()?;
        self.context.metrics.flush_seconds.observe(begun.elapsed().as_secs_f64());
        Ok(())
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

    /// Begins a new segment; the one before is durable from then on.
    pub(super) fn roll(&self, writer: &mut MutexGuard<'_, Writer>) -> Result<(), AppendError> {
        let fs = &*self.context.fs;
        let end = self.end();
        self.force(&writer.active).map_err(|e| self.fail("fsync", &e))?;
        self.passed(end);
        writer.active.finish_indexes(&*self.context.fs);
        let fresh = Segment::create(fs, &self.dir, end, self.context.clock.now_ms());
        let fresh = match fresh.and_then(|fresh| fs.sync_dir(&self.dir).map(|()| fresh)) {
            Ok(fresh) => Arc::new(fresh),
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                // The old one may still take a smaller batch, so nothing of the new one may stay.
                segment::remove_files(fs, &self.dir, end).map_err(|e| self.fail("remove an empty segment in", &e))?;
                return Err(self.full());
            }
            Err(e) => return Err(self.fail("create a segment in", &e)),
        };
        self.segments.write().insert(end, fresh.clone());
        writer.active.rest();
        writer.active = fresh;
        if let Err(e) = self.keep_producers(writer) {
            tracing::warn!(dir = %self.dir.display(), error = %e, "can't write the state of producers, it will be rebuilt");
        }
        Ok(())
    }

    /// Begins a new segment.
    #[cfg(test)]
    pub fn roll_now(&self) -> Result<(), AppendError> {
        self.roll(&mut self.writer.lock())
    }

    /// Writes the state of producers as of the end, and removes older ones but one.
    fn keep_producers(&self, writer: &Writer) -> io::Result<()> {
        let fs = &*self.context.fs;
        let end = self.end();
        fs::replace(fs, &path_of(&self.dir, end, "producers"), &writer.producers.encode(end))?;
        let mut kept: Vec<i64> =
            fs.list(&self.dir)?.iter().filter_map(|entry| offset_of(&entry.name, "producers")).collect();
        kept.sort_unstable();
        kept.truncate(kept.len().saturating_sub(2));
        for offset in kept {
            fs.remove(&path_of(&self.dir, offset, "producers"))?;
        }
        Ok(())
    }

    /// Flushes, completes indexes, keeps the state of producers; refuses appends from then on.
    pub fn close(&self) -> Result<(), AppendError> {
        self.sync()?;
        let writer = self.writer.lock();
        self.refuse(AppendError::Closed);
        drop(self.compacting.lock());
        writer.active.finish_indexes(&*self.context.fs);
        if let Err(e) = self.keep_producers(&writer) {
            tracing::warn!(dir = %self.dir.display(), error = %e, "can't write the state of producers, it will be rebuilt");
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
}
