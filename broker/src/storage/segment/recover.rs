//! Opens a segment: trusted with its indexes where these fit, else gone through batch by batch and repaired.
//!
//! In: a segment's files. Out: a [`Segment`] in a sound state, and what was cut or damaged. Touches the files through
//! [`Filesystem`]; a torn tail is cut, and never more.

use std::io;
use std::path::Path;

use parking_lot::RwLock;

use super::hole::{self, Hole};
use super::indexes::{INDEX_INTERVAL, Indexes, Tail, raise};
use super::scan::{Region, SLACK, Scan, walk};
use super::state::Segment;
use crate::storage::batch::Header;
use crate::storage::index::{Index, OffsetEntry, TimeEntry};
use crate::storage::layout::path_of;
use crate::storage::marker::Marker;
use crate::storage::read::TimestampOffset;
use crate::storage::txn::{AbortedTxn, TxnIndex};
use millrace_log::fs::{self, Filesystem};

/// What recovery did to a segment.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// Bytes of a torn tail that were cut.
    pub cut: u64,
    /// Holes found.
    pub holes: Vec<Hole>,
}

impl Segment {
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
    /// segment was finished: a bad end is then damage and no torn write, and nothing is cut. `on_batch` gets each batch
    /// in order, with what it says of a transaction, and returns the transaction that it aborts.
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
            Region::Batch { position, header, marker } => {
                if position == 0 {
                    tail.begun_ms = header.max_timestamp.clamp(0, now_ms.max(0));
                    tail.first_ms = Some(header.max_timestamp);
                }
                indexes.note(base, &header, position, &mut tail.max);
                aborted.extend(on_batch(&header, marker));
                tail.end = header.next_offset();
                tail.len = position + header.size() as u64;
            }
            Region::Damage(hole) => {
                tail.len = hole.position + hole.bytes;
                tail.end = hole.to_offset;
                report.holes.push(hole);
            }
            Region::Torn { bytes, .. } => report.cut = bytes,
        })?;
        if let Some(next) = next_base {
            tail.end = next;
        }
        if report.cut > 0 {
            file.truncate(tail.len)?;
        }
        // What stands here may never have been synced, and is what consumers get from now on.
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
        if let Err(e) = hole::write_list(fs, &segment.path, &report.holes) {
            tracing::warn!(segment = %segment.path.display(), error = %e, "can't write the list of damaged places");
        }
        segment.finish_indexes(fs);
        Ok((segment, report))
    }
}
