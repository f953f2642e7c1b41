//! Compaction of one partition: of each key only the last record stays.
//!
//! In: a [`Log`] whose topic says `compact`, the clock's time, an amount of memory. Out: rewritten segments put in
//! the place of the old ones. Touches the partition's folder; [`super::swap`] holds the names. Blocking, on threads of its
//! own; appends and reads go on beside it. Leaves choosing partitions and waiting to [`super::Storage`].
//!
//! One pass, as Apache Kafka does it (KIP-58, KIP-354, KIP-534):
//! 1. The dirty part (from where the last pass ended up to the active segment, the last stable offset and
//!    `min.compaction.lag.ms`) is read, and the last offset of each key noted until memory is full.
//! 2. All segments up to there are rewritten, small neighbours as one. A record stays if it is the last of its key and
//!    no tombstone whose time is over. A batch in which a tombstone stays gets its horizon: from then on it may go.
//! 3. Records of aborted transactions go at once; a marker goes when no record of its transaction is left and its own
//!    horizon has passed.
//! 4. The last batch of each producer stays, if need be without records, so that its sequence is still known.
//! 5. Where it ended is noted in `clean-offset`.
//!
//! Offsets never change; a batch that loses records keeps its first and last.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::batch::{HEADER, Header};
use super::keymap::KeyMap;
use super::log::{CompactionView, Log};
use super::marker;
use super::records::Records;
use super::rewrite;
use super::segment::Segment;
use super::swap;
use super::txn::AbortedTxn;

/// Written at once to a new segment.
const RUN_BYTES: usize = 1 << 20;
/// Written between two syncs, so that the last one does not hold up the producers' own.
const SYNC_BYTES: u64 = 16 << 20;

/// How much a partition needs compaction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Need {
    /// Share of bytes that were not compacted yet.
    pub ratio: f64,
    /// A record has waited longer than `max.compaction.lag.ms`.
    pub overdue: bool,
}

/// What a pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cleaned {
    /// Bytes of the segments that were gone through.
    pub read_bytes: u64,
    /// Bytes that this freed.
    pub freed_bytes: u64,
    /// Whether memory was full before the dirty part ended: another pass is due.
    pub more: bool,
}

/// What the log says about when and what to compact.
struct Plan {
    view: CompactionView,
    dirty_from: i64,
    until: i64,
}

impl Plan {
    /// `None` if there is nothing to do.
    fn of(log: &Log, now_ms: i64) -> Option<Self> {
        let view = log.compaction_view()?;
        let first = view.segments.first()?.base;
        let dirty_from = if (first..=view.active_base).contains(&view.cleaned) { view.cleaned } else { first };
        let dirty_from = dirty_from.max(view.start);
        let mut until = view.active_base.min(view.last_stable_offset);
        if view.limits.min_compaction_lag_ms > 0 {
            let young = |segment: &&Arc<Segment>| {
                segment.end() > dirty_from
                    && segment.newest_ms() > now_ms.saturating_sub(view.limits.min_compaction_lag_ms)
            };
            until = until.min(view.segments.iter().find(young).map_or(i64::MAX, |segment| segment.base));
        }
        (until > dirty_from).then_some(Self { view, dirty_from, until })
    }
}

/// How much a log needs compaction, `None` if it does not.
pub(super) fn need(log: &Log, now_ms: i64) -> Option<Need> {
    let Plan { view, dirty_from, until } = Plan::of(log, now_ms)?;
    let size = |from: i64, until: i64| -> u64 {
        let within = |segment: &&Arc<Segment>| segment.end() > from && segment.base < until;
        view.segments.iter().filter(within).map(|segment| segment.len()).sum()
    };
    let (clean, dirty) = (size(i64::MIN, dirty_from), size(dirty_from, until));
    let dirty_segments = view.segments.iter().filter(|segment| segment.end() > dirty_from && segment.base < until);
    let oldest_ms = dirty_segments.filter_map(|segment| segment.first_ms()).min();
    let lag_ms = oldest_ms.map_or(0, |oldest_ms| now_ms.saturating_sub(oldest_ms));
    let overdue = lag_ms > view.limits.max_compaction_lag_ms && dirty > 0;
    let ratio = if dirty == 0 { 0.0 } else { dirty as f64 / (clean + dirty) as f64 };
    (overdue || ratio > view.limits.min_dirty_ratio).then_some(Need { ratio, overdue })
}

/// One pass over a log with so much memory for keys; `None` if it was stopped or there was nothing to do.
pub(super) fn clean(log: &Log, now_ms: i64, memory: usize, stop: &dyn Fn() -> bool) -> io::Result<Option<Cleaned>> {
    let _alone = log.begin_compaction();
    let stop = || stop() || log.refuses();
    let Some(Plan { view, dirty_from, until }) = Plan::of(log, now_ms) else { return Ok(None) };
    let keys = u64::try_from(until - dirty_from).unwrap_or(u64::MAX);
    let Some(known) = note_keys(log, &view, (dirty_from, until), KeyMap::new(memory, keys), &stop)? else {
        return Ok(None);
    };
    let mut cleaned = Cleaned { more: known.until < until, ..Cleaned::default() };
    let within: Vec<_> = view.segments.iter().filter(|segment| segment.base < known.until).cloned().collect();
    let from = view.segments.first().map_or(0, |segment| segment.base);
    let mut pass = Pass {
        log,
        now_ms,
        delete_retention_ms: view.limits.delete_retention_ms,
        transactions: Transactions::new(log, from, within.last().map_or(from, |segment| segment.end()))?,
        last_batches: log.last_batches(),
        known,
    };
    for group in groups(&within, view.limits.segment_bytes) {
        let before: u64 = group.iter().map(|segment| segment.len()).sum();
        let Some(after) = pass.rewrite(group, &stop)? else { return Ok(None) };
        cleaned.read_bytes += before;
        cleaned.freed_bytes += before.saturating_sub(after);
    }
    log.keep_cleaned(pass.known.until);
    Ok(Some(cleaned))
}

/// Segments that follow each other and fit into one.
fn groups(segments: &[Arc<Segment>], segment_bytes: u64) -> Vec<&[Arc<Segment>]> {
    let mut groups = Vec::new();
    let mut from = 0;
    while let Some(first) = segments.get(from) {
        let mut bytes = first.len();
        let mut to = from + 1;
        while let Some(next) = segments.get(to) {
            bytes = bytes.saturating_add(next.len());
            if bytes > segment_bytes || next.end() - first.base > i64::from(i32::MAX) {
                break;
            }
            to += 1;
        }
        groups.extend(segments.get(from..to));
        from = to;
    }
    groups
}

/// The last offset of each key, known for all records below an offset.
struct Known {
    keys: KeyMap,
    until: i64,
}

/// Step 1. `None` if it was stopped.
fn note_keys(
    log: &Log,
    view: &CompactionView,
    (from, until): (i64, i64),
    mut keys: KeyMap,
    stop: &dyn Fn() -> bool,
) -> io::Result<Option<Known>> {
    let mut transactions = Transactions::new(log, from, until)?;
    let mut known_until = from;
    let mut stopped = false;
    for segment in view.segments.iter().filter(|segment| segment.end() > from && segment.base < until) {
        let mut full = false;
        segment.batches(log.fs(), from, |header, batch| {
            if stop() {
                stopped = true;
                return Ok(ControlFlow::Break(()));
            }
            if header.base_offset >= until {
                return Ok(ControlFlow::Break(()));
            }
            let gone = transactions.meet(header, batch);
            if !gone && !header.is_control() {
                match note_batch(&mut keys, header, batch, from) {
                    Ok(true) => {}
                    Ok(false) => {
                        full = true;
                        return Ok(ControlFlow::Break(()));
                    }
                    Err(e) => log_unreadable(segment, header, &e),
                }
            }
            known_until = header.next_offset();
            Ok(ControlFlow::Continue(()))
        })?;
        if stopped {
            return Ok(None);
        }
        if full {
            break;
        }
        known_until = known_until.max(segment.end().min(until));
    }
    if known_until <= from && keys.len() > 0 {
        return Err(io::Error::other("one batch has more keys than fit into cleaner_memory: raise it"));
    }
    Ok(Some(Known { keys, until: known_until }))
}

/// Notes the keys of one batch; `false` if there is no room for all of them.
fn note_batch(keys: &mut KeyMap, header: &Header, batch: &[u8], from: i64) -> io::Result<bool> {
    let mut records = Records::open(header, batch)?;
    while let Some(head) = records.next()? {
        let offset = header.base_offset.saturating_add(head.offset_delta);
        let Some(length) = head.key.filter(|_| offset >= from) else { continue };
        let mut hasher = keys.hasher();
        records.key(length, |piece| hasher.write(piece))?;
        if !keys.put(hasher.finish(), offset) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn log_unreadable(segment: &Segment, header: &Header, cause: &io::Error) {
    tracing::warn!(
        segment = %segment.path().display(),
        offset = header.base_offset,
        error = %cause,
        "can't decompress records: compaction keeps this batch as it is"
    );
}

/// What becomes of a batch.
enum Verdict {
    Stay,
    Go,
    StayEmpty,
    Rewrite { kept: Vec<bool>, delete_horizon_ms: Option<i64> },
}

/// Steps 2 to 4.
struct Pass<'a> {
    log: &'a Log,
    now_ms: i64,
    delete_retention_ms: i64,
    known: Known,
    transactions: Transactions,
    /// Epoch and last offset of each producer, `None` if it has only written a marker.
    last_batches: HashMap<i64, (i16, Option<i64>)>,
}

impl Pass<'_> {
    /// Rewrites a group of segments; returns their new size, `None` if it was stopped.
    fn rewrite(&mut self, group: &[Arc<Segment>], stop: &dyn Fn() -> bool) -> io::Result<Option<u64>> {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return Ok(Some(0)) };
        let (fs, dir) = (self.log.fs(), self.log.dir());
        let (base, until) = (first.base, last.end());
        let written = self.write(group, base, until, stop);
        let (fresh, changed) = match written {
            Ok(Some(written)) => written,
            Ok(None) => return swap::discard(fs, dir, base).map(|()| None),
            Err(e) => {
                // What can't be removed now goes at the next try or start.
                let _leftover = swap::discard(fs, dir, base);
                return Err(e);
            }
        };
        let len = fresh.len();
        if !changed && group.len() == 1 {
            return swap::discard(fs, dir, base).map(|()| Some(len));
        }
        if !self.log.replace(group, fresh, until)? {
            // Retention was faster.
            swap::discard(fs, dir, base)?;
        }
        Ok(Some(len))
    }

    /// A new segment, and whether it differs.
    fn write(
        &mut self,
        group: &[Arc<Segment>],
        base: i64,
        until: i64,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<Option<(Segment, bool)>> {
        let (log, fs) = (self.log, self.log.fs());
        let mut fresh = Segment::create_cleaned(fs, log.dir(), base, self.now_ms)?;
        let (mut run, mut headers) = (Vec::with_capacity(RUN_BYTES), Vec::new());
        let (mut stopped, mut changed, mut since_sync) = (false, false, 0);
        for segment in group {
            segment.batches(fs, segment.base, |header, batch| {
                if stop() {
                    stopped = true;
                    return Ok(ControlFlow::Break(()));
                }
                let verdict = self.judge(header, batch).unwrap_or_else(|e| {
                    log_unreadable(segment, header, &e);
                    Verdict::Stay
                });
                let rewritten = match verdict {
                    Verdict::Stay => {
                        run.extend_from_slice(batch);
                        headers.push(*header);
                        None
                    }
                    Verdict::Go => {
                        changed = true;
                        None
                    }
                    Verdict::StayEmpty => Some(rewrite::empty(header)),
                    Verdict::Rewrite { kept, delete_horizon_ms } => {
                        Some(rewrite::rebuild(header, batch, &kept, delete_horizon_ms)?)
                    }
                };
                if let Some((header, bytes)) = rewritten {
                    changed = true;
                    run.extend_from_slice(&bytes);
                    headers.push(header);
                }
                if run.len() >= RUN_BYTES {
                    fresh.append_run(&headers, &run)?;
                    since_sync += run.len() as u64;
                    run.clear();
                    headers.clear();
                    if since_sync >= SYNC_BYTES {
                        fresh.sync()?;
                        since_sync = 0;
                    }
                }
                Ok(ControlFlow::Continue(()))
            })?;
            if stopped {
                return Ok(None);
            }
        }
        fresh.append_run(&headers, &run)?;
        fresh.finish_cleaned(fs, until, std::mem::take(&mut self.transactions.kept))?;
        Ok(Some((fresh, changed)))
    }

    fn judge(&mut self, header: &Header, batch: &[u8]) -> io::Result<Verdict> {
        let may_go = self.transactions.meet(header, batch);
        let horizon_passed = header.delete_horizon_ms().is_some_and(|horizon_ms| horizon_ms <= self.now_ms);
        let all_go = may_go && (!header.is_control() || horizon_passed);
        let (mut kept, mut any, mut all, mut tombstones) = (Vec::new(), false, true, false);
        if !all_go {
            let mut records = Records::open(header, batch)?;
            while let Some(head) = records.next()? {
                let offset = header.base_offset.saturating_add(head.offset_delta);
                let keep = if header.is_control() || offset >= self.known.until {
                    true
                } else if let Some(length) = head.key {
                    let mut hasher = self.known.keys.hasher();
                    records.key(length, |piece| hasher.write(piece))?;
                    let is_last = self.known.keys.get(hasher.finish()).is_none_or(|last| offset >= last);
                    let has_value = is_last && records.has_value()?;
                    tombstones |= is_last && !has_value && !horizon_passed;
                    is_last && (has_value || !horizon_passed)
                } else {
                    // Of before the topic was compacted.
                    false
                };
                kept.push(keep);
                any |= keep;
                all &= keep;
            }
        }
        if any {
            let is_done = tombstones || (may_go && header.is_control());
            let horizon = is_done && header.delete_horizon_ms().is_none();
            if all && !horizon {
                return Ok(Verdict::Stay);
            }
            let horizon_ms = self.now_ms.saturating_add(self.delete_retention_ms);
            return Ok(Verdict::Rewrite { kept, delete_horizon_ms: horizon.then_some(horizon_ms) });
        }
        let last = self.last_batches.get(&header.producer_id).filter(|_| header.producer_id >= 0);
        let is_last = last.is_some_and(|(epoch, last)| match last {
            Some(last) => *last == header.last_offset(),
            None => header.is_control() && *epoch == header.producer_epoch,
        });
        Ok(match (is_last, header.count) {
            (true, 0) => Verdict::Stay,
            (true, _) => Verdict::StayEmpty,
            (false, _) => Verdict::Go,
        })
    }
}

/// Which transactions records belong to, batch after batch.
#[derive(Default)]
struct Transactions {
    /// Aborted ones that begin later, by first offset.
    later: VecDeque<AbortedTxn>,
    /// Aborted ones whose marker is still to come, by producer: whether a batch of theirs was met.
    aborting: HashMap<i64, (AbortedTxn, bool)>,
    /// Aborted ones of which a batch was met, by the time their marker is: readers need to know them for a while.
    kept: Vec<AbortedTxn>,
    /// Producers of which a batch was met that is not aborted.
    committing: HashSet<i64>,
}

impl Transactions {
    fn new(log: &Log, from: i64, until: i64) -> io::Result<Self> {
        let mut later = log.aborted(from, until).map_err(io::Error::other)?;
        later.sort_unstable_by_key(|txn| txn.first_offset);
        Ok(Self { later: later.into(), ..Self::default() })
    }

    /// Takes note of the next batch. Whether its records may go: those of an aborted transaction, or a marker whose
    /// transaction has no batch left.
    fn meet(&mut self, header: &Header, batch: &[u8]) -> bool {
        while let Some(next) = self.later.pop_front_if(|next| next.first_offset <= header.last_offset()) {
            self.aborting.insert(next.producer_id, (next, false));
        }
        if header.is_control() {
            let marker = batch.get(HEADER..).and_then(|records| marker::marker(header, records));
            return match marker.map(|marker| marker.commit) {
                // Emptied before.
                None => header.count == 0,
                Some(true) => !self.committing.remove(&header.producer_id),
                Some(false) => {
                    let met = self.aborting.remove(&header.producer_id).filter(|(_, met)| *met);
                    self.kept.extend(met.map(|(txn, _)| txn));
                    met.is_none()
                }
            };
        }
        if !header.is_transactional() {
            return false;
        }
        match self.aborting.get_mut(&header.producer_id) {
            Some((_, met)) => {
                *met = true;
                true
            }
            None => {
                self.committing.insert(header.producer_id);
                false
            }
        }
    }
}
