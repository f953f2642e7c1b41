//! Retention and DeleteRecords of one partition: what is deleted from the front of the log.
//!
//! In: limits of the topic, the time, committed offsets of consumer groups. Out: what was deleted unread. Touches segments
//! and `log-start-offset`.

use std::io;
use std::sync::atomic::Ordering;

use super::state::{Log, Writer, read_error};
use crate::storage::committed_offsets::{CommittedOffset, DeletedUnread};
use crate::storage::error::{AppendError, ReadError};
use crate::storage::layout::START_FILE;
use crate::storage::limits::Limits;
use millrace_log::fs;
use millrace_log::record::Offset;

impl Log {
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

    /// Deletes what is older or more than the topic keeps; forgets idle producers. `readers` returns who has read how far,
    /// and is asked only if something is to go, without a lock held. Returns what was deleted unread.
    pub fn retain(
        &self,
        now_ms: i64,
        readers: impl FnOnce() -> Vec<CommittedOffset>,
    ) -> Result<Vec<DeletedUnread>, AppendError> {
        let limits = self.limits.read().clone();
        let mut writer = self.writer.lock();
        if let Some(refusal) = &*self.refusal.borrow() {
            return Err(refusal.clone());
        }
        writer.producers.expire(now_ms.saturating_sub(self.context.producer_expiry_ms));
        drop(writer);
        if !limits.delete || self.expired_before(&limits, now_ms, Offset::MAX).is_none() {
            return Ok(Vec::new());
        }
        let readers = readers();
        let slowest = readers.iter().map(|reader| reader.offset).min().unwrap_or(Offset::MAX);
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
            tracing::error!(dir = %self.dir.display(), error = %e, "retention can't delete, retrying");
            return Ok(Vec::new());
        }
        drop(writer);
        let unread = |reader: CommittedOffset| DeletedUnread {
            group: reader.group,
            from_offset: reader.offset.max(Offset::new(start)),
            to_offset: Offset::new(before),
        };
        Ok(readers.into_iter().map(unread).filter(|unread| unread.from_offset < unread.to_offset).collect())
    }

    /// The offset before which retention deletes, if it does. What the slowest reader has not read may stay longer.
    fn expired_before(&self, limits: &Limits, now_ms: i64, slowest: Offset) -> Option<i64> {
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
            let is_held = slowest < Offset::new(segment.end())
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

    /// Moves the earliest offset up, durably, then removes segments that lie wholly before it.
    fn drop_before(&self, writer: &Writer, before: i64) -> io::Result<()> {
        let fs = &*self.context.fs;
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
            self.context.metrics.deleted_bytes.inc_by(segment.len());
        }
        fs.sync_dir(&self.dir)
    }
}
