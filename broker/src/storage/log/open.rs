//! Opens the log of one partition: finishes what a crash cut short, opens or recovers its segments, restores producers.
//!
//! In: a partition's folder. Out: a [`Log`] in a sound state. Touches the folder through [`Filesystem`].

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::aborted::find_aborted;
use super::state::{Log, LogContext, Unstable, Writer};
use crate::storage::batch::Header;
use crate::storage::layout::{CLEANED_FILE, START_FILE, offset_of, path_of};
use crate::storage::limits::SharedLimits;
use crate::storage::marker::Marker;
use crate::storage::producer::Producers;
use crate::storage::segment::{self, Segment};
use crate::storage::swap;
use crate::storage::txn::{AbortedTxn, OpenTxn};
use millrace_log::fs::{self, Filesystem};

impl Log {
    /// Opens a partition's folder, or makes it. `clean`: the last stop was orderly, batches need no check.
    pub fn open(dir: &Path, context: LogContext, limits: SharedLimits, clean: bool) -> io::Result<Self> {
        let fs = &*context.fs;
        let now_ms = context.clock.now_ms();
        fs.create_dir_all(dir)?;
        swap::recover(fs, dir)?;
        let mut cleaned = 0;
        let mut bases = Vec::new();
        let mut snapshots = Vec::new();
        let mut stored_start = 0;
        for entry in fs.list(dir)? {
            let path = dir.join(&entry.name);
            if let Some(base) = offset_of(&entry.name, "log") {
                bases.push(base);
            } else if let Some(offset) = offset_of(&entry.name, "producers") {
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
            segment::remove_files(fs, dir, first)?;
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
            && fs.open(&path_of(dir, last, "log"))?.len()? == 0
        {
            // Begun right before the crash, or left by a try on a full disk after which the one before was written on.
            taken_back = Some(last);
            bases.pop();
            least_end = least_end.max(last);
            tracing::debug!(dir = %dir.display(), before, last, "removed an empty segment at the end");
        }
        let (mut segments, producers) = Self::open_segments(dir, &context, &bases, &mut snapshots, clean, now_ms)?;
        if let Some(base) = taken_back {
            let before = segments.values().next_back().cloned().filter(|before| before.end() < base);
            if let Some(before) = before {
                // Compaction has taken the last records: only the name of the empty one says where offsets go on.
                before.finish_indexes(fs);
                before.rest();
                segments.insert(base, Arc::new(Segment::create(fs, dir, base, now_ms)?));
            } else {
                segment::remove_files(fs, dir, base)?;
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
            context,
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
        context: &LogContext,
        bases: &[i64],
        snapshots: &mut [i64],
        clean: bool,
        now_ms: i64,
    ) -> io::Result<(BTreeMap<i64, Arc<Segment>>, Producers)> {
        let fs = &*context.fs;
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
                (None, Some(_)) => recover(context, dir, base, next_base, now_ms, |_, _| None)?,
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
            let path = path_of(dir, offset, "producers");
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
                None => tracing::warn!(file = %path.display(), "state of producers is damaged, rebuilding it"),
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
            let segment = recover(context, dir, last_base, None, now_ms, note)?;
            segments.insert(last_base, Arc::new(segment));
        }
        find_aborted(dir, fs, &segments)?;
        Ok((segments, producers))
    }
}

fn recover(
    context: &LogContext,
    dir: &Path,
    base: i64,
    next_base: Option<i64>,
    now_ms: i64,
    on_batch: impl FnMut(&Header, Option<Marker>) -> Option<AbortedTxn>,
) -> io::Result<Segment> {
    let (segment, report) = Segment::recover(&*context.fs, dir, base, next_base, now_ms, on_batch)?;
    if report.cut > 0 {
        context.metrics.torn_bytes.inc_by(report.cut);
        let segment = segment.path().display();
        tracing::warn!(%segment, bytes = report.cut, "truncated a torn write at the end, it was never acknowledged");
    }
    for hole in &report.holes {
        context.metrics.holes.inc();
        segment::report(hole);
        segment::quarantine(&*context.fs, hole);
    }
    Ok(segment)
}

fn read_start(fs: &dyn Filesystem, path: &Path) -> io::Result<i64> {
    // Written as a whole or not at all, so damage is the disk's; serving from the first segment on is then the best.
    Ok(read_number(fs, path)?.unwrap_or_else(|| {
        tracing::error!(file = %path.display(), "is damaged: deleted records may reappear");
        0
    }))
}

fn read_number(fs: &dyn Filesystem, path: &Path) -> io::Result<Option<i64>> {
    let bytes = fs::read_all(fs, path)?;
    let number = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
    Ok(number.filter(|n| *n >= 0))
}
