//! Reading: in each pass every queued file has one window cut into events and queued for its partition.
//!
//! In: files with their sources. Out: [`SourceBatch`]es. Touches files, reading only, and the state where an end must not
//! move.
//!
//! Fairness: a pass reads `read_bytes` of a file at most, and files that are behind may fill a queue only so far: a line of
//! a file that is not behind never waits for more than that.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::reader::{BATCH_COST, ROOM_WAIT, ReadOutcome, Reader, ReaderParts, Tail, mtime};
use crate::batch::{Anchor, MemoryShare, Positions, QueuedBatches, SourceBatch, StreamLabels};
use crate::condition::Pause;
use crate::content::Size;
use crate::cut::Cut;
use crate::discover::FileKey;
use crate::error::AgentError;
use crate::file_source::Source;
use crate::fingerprint::{Print, TAIL_BYTES};
use crate::ledger::{Count, Taken};
use crate::pool::Window;
use crate::split::Piece;
use crate::writers::Holder;

impl Reader {
    /// Events that have waited long enough, files that have ended, files to close.
    pub(super) fn timers(&mut self, now: Instant) {
        let mut next = now + self.parts.scan_interval;
        let mut ready: Vec<FileKey> = Vec::new();
        for (key, tail) in &mut self.tails {
            if let Some(due) = tail.due(self.parts.rotated_wait) {
                if due <= now {
                    tail.flush |= tail.pending;
                    ready.push(*key);
                    // Looked at again soon, should the queue be full.
                    next = next.min(now + ROOM_WAIT);
                } else {
                    next = next.min(due);
                }
            } else if tail.file.is_some() && tail.source.is_some() && !tail.queued {
                let close = tail.grown + self.parts.close_idle;
                if close <= now {
                    tail.file = None;
                } else {
                    next = next.min(close);
                }
            }
        }
        for key in ready {
            self.enqueue(key);
        }
        self.timer = next;
    }

    /// Reads a window of each queued file. Says whether something was read, what room was missing, whether to stop.
    pub(super) fn read_pass(&mut self) -> Result<Pass, AgentError> {
        let mut pass = Pass::default();
        for _ in 0..self.queue.len() {
            let Some(key) = self.queue.pop_front() else { break };
            let Some(tail) = self.tails.get_mut(&key) else { continue };
            tail.queued = false;
            let outcome = match self.read_file(key) {
                Ok(outcome) => outcome,
                Err(ReadError::Read(error)) => {
                    let path = self.tails.get_mut(&key).map(|tail| {
                        tail.failed = true;
                        tail.path.clone()
                    });
                    self.unreadable(&path.unwrap_or_default(), &error);
                    continue;
                }
                Err(ReadError::State(error)) => return Err(error),
            };
            match outcome {
                ReadOutcome::More => {
                    pass.progress = true;
                    self.enqueue(key);
                }
                ReadOutcome::Idle => {}
                ReadOutcome::Full(why) => {
                    pass.full = Some(why);
                    self.enqueue(key);
                }
                ReadOutcome::Truncated => {
                    pass.progress = true;
                    self.truncated(key)?;
                }
                ReadOutcome::Closed => {
                    pass.closed = true;
                    break;
                }
            }
        }
        Ok(pass)
    }

    /// Reads the next window of a file, cuts it into events and hands these to the sender of its partition.
    fn read_file(&mut self, key: FileKey) -> Result<ReadOutcome, ReadError> {
        let now = Instant::now();
        if !self.open_if_closed(key) {
            // Gone while it was closed: the next scan sees it, or its new name.
            return Ok(ReadOutcome::Idle);
        }
        let (source, size) = match self.remaining(key, now)? {
            Remaining::Nothing(outcome) => return Ok(outcome),
            Remaining::To { source, size } => (source, size),
        };
        let Some(tail) = self.tails.get_mut(&key) else { return Ok(ReadOutcome::Idle) };
        let outcome = read_window(&self.parts, tail, source, size, now)?;
        if matches!(outcome, ReadOutcome::Idle | ReadOutcome::More)
            && tail.pending
            && let Some(due) = tail.due(self.parts.rotated_wait)
        {
            self.timer = self.timer.min(due);
        }
        Ok(outcome)
    }

    /// Whether the file is open now.
    fn open_if_closed(&mut self, key: FileKey) -> bool {
        let Some(tail) = self.tails.get(&key) else { return false };
        if tail.file.is_some() {
            return true;
        }
        let (path, follow) = (tail.path.clone(), tail.settings.follow);
        let Some((file, _)) = self.open(key, &path, follow) else { return false };
        if let Some(tail) = self.tails.get_mut(&key) {
            tail.file = Some(file);
        }
        true
    }

    /// What there is to read of an open file; one that has ended is let go.
    fn remaining(&mut self, key: FileKey, now: Instant) -> Result<Remaining, ReadError> {
        let nothing = |outcome| Ok(Remaining::Nothing(outcome));
        let rotated_wait = self.parts.rotated_wait;
        let Some(tail) = self.tails.get_mut(&key) else { return nothing(ReadOutcome::Idle) };
        let Some(file) = &tail.file else { return nothing(ReadOutcome::Idle) };
        let metadata = file.metadata().map_err(ReadError::Read)?;
        tail.failed = false;
        if metadata.len() != tail.stored {
            (tail.grown, tail.flush) = (now, false);
            tail.stored = metadata.len();
        }
        let size = match file.measure().map_err(ReadError::Read)? {
            Size::Known(size) | Size::Torn(size) => size,
            Size::Measuring => return nothing(ReadOutcome::More),
        };
        let Some(source) = tail.source.clone() else {
            // Measured since it was looked at.
            let again = file.is_packed() && size > 0 && tail.size == 0 && now >= tail.grown + rotated_wait;
            let over = !tail.present && now >= tail.end(rotated_wait);
            if over && self.may_end(key, now) {
                self.drop_tail(key);
            }
            return nothing(if again { ReadOutcome::More } else { ReadOutcome::Idle });
        };
        tail.size = size;
        source.set_size(size);
        if size < tail.mark.offset.max(u64::from(source.head().len)) {
            return nothing(ReadOutcome::Truncated);
        }
        let changed = std::mem::replace(&mut tail.mtime, mtime(&metadata)) != tail.mtime;
        if size > tail.mark.offset {
            return Ok(Remaining::To { source, size });
        }
        tail.pending = false;
        if changed && file.tail_at(tail.mark.offset).map_err(ReadError::Read)? != tail.before {
            return nothing(ReadOutcome::Truncated);
        }
        if !tail.matched && now >= tail.end(rotated_wait) && self.may_end(key, now) {
            self.end(key);
        }
        nothing(ReadOutcome::Idle)
    }

    /// Whether a file that has not grown for long is to be let go. A deleted one is not while someone may write to it.
    fn may_end(&mut self, key: FileKey, now: Instant) -> bool {
        if self.tails.get(&key).is_none_or(|tail| tail.present) {
            return true;
        }
        let gone: HashSet<FileKey> = self.tails.iter().filter(|(_, t)| !t.present).map(|(key, _)| *key).collect();
        let answer = self.writers.of(key, now, &gone);
        let Some(tail) = self.tails.get_mut(&key) else { return true };
        let wait = match answer {
            Holder::None => return true,
            Holder::Unknown if now >= tail.grown + self.parts.deleted_wait => return true,
            Holder::Unknown | Holder::Someone => self.parts.rotated_wait,
        };
        tail.held_until = now + wait;
        self.timer = self.timer.min(tail.held_until);
        false
    }

    /// A file that was renamed away or deleted is read to its end.
    fn end(&mut self, key: FileKey) {
        if let Some(tail) = self.tails.get(&key) {
            if let Some(source) = &tail.source {
                source.finish();
            }
            tracing::info!(path = %tail.path.display(), "finished reading rotated file");
            self.parts.metrics.finished_files.inc();
        }
        self.drop_tail(key);
    }
}

/// What one pass over the queued files did.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// Something was read.
    pub progress: bool,
    /// Room that was missing.
    pub full: Option<Pause>,
    /// The senders are gone: the agent stops.
    pub closed: bool,
}

enum ReadError {
    Read(io::Error),
    State(AgentError),
}

/// What there is to read of a file.
enum Remaining {
    Nothing(ReadOutcome),
    /// Bytes up to this size.
    To {
        source: Arc<Source>,
        size: u64,
    },
}

/// What is read of a file at once.
struct Plan {
    /// Bytes from the mark on.
    wanted: usize,
    /// All bytes that could be read.
    available: u64,
    /// An event that was sent before its line end came ends there again.
    forced: Option<u64>,
    /// More is available than one pass reads.
    is_behind: bool,
}

impl Plan {
    fn new(parts: &ReaderParts, tail: &Tail, source: &Source, size: u64) -> Self {
        let available = size - tail.mark.offset;
        let forced = source.end_beyond(tail.mark.offset).filter(|end| *end <= size);
        let most = parts.read_bytes.max(tail.settings.cutter.min_window()).max(parts.fingerprint) as u64;
        let wanted = available.min(most).min(forced.map_or(u64::MAX, |end| end - tail.mark.offset));
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        Self { wanted, available, forced, is_behind: available > parts.read_bytes as u64 }
    }

    /// All that is available is read.
    fn is_whole(&self) -> bool {
        self.wanted as u64 == self.available
    }

    /// What is read ends where an event must end.
    fn is_forced(&self, from: u64) -> bool {
        self.forced.is_some_and(|end| from + self.wanted as u64 == end)
    }
}

/// Reads one window if there is room for it: in the queue of the partition, and in the memory budget.
fn read_window(
    parts: &ReaderParts,
    tail: &mut Tail,
    source: Arc<Source>,
    size: u64,
    now: Instant,
) -> Result<ReadOutcome, ReadError> {
    let Some(file) = &tail.file else { return Ok(ReadOutcome::Idle) };
    let plan = Plan::new(parts, tail, &source, size);
    // Places and times of its lines take about a quarter of what they point to.
    let cost = plan.wanted * (1 + tail.settings.cutter.copies()) + plan.wanted / 4 + BATCH_COST;
    let partition = usize::try_from(source.to.partition).unwrap_or(usize::MAX);
    let Some((queue, flow)) = parts.queues.get(partition) else { return Ok(ReadOutcome::Closed) };
    // A file that is behind leaves room in its queue for the others.
    if plan.is_behind
        && let Some(why) = flow.full()
    {
        return Ok(ReadOutcome::Full(why));
    }
    let permit = match queue.try_reserve() {
        Ok(permit) => permit,
        Err(mpsc::error::TrySendError::Full(())) => return Ok(ReadOutcome::Full(Pause::Queue)),
        Err(mpsc::error::TrySendError::Closed(())) => return Ok(ReadOutcome::Closed),
    };
    let Some(share) = MemoryShare::take(&parts.budget, cost) else { return Ok(ReadOutcome::Full(Pause::Memory)) };

    let known = tail.before.len();
    let mut window = parts.windows.window(known + plan.wanted);
    let start = tail.mark.offset - known as u64;
    let got = file.read_into(start, &mut window).map_err(ReadError::Read)?;
    if got < known || window[..known] != tail.before[..] {
        return Ok(ReadOutcome::Truncated);
    }
    if got < known + plan.wanted {
        // It shrank since its size was asked for: look again.
        return Ok(ReadOutcome::More);
    }
    // Near the start few bytes can be compared: the head says more.
    let head = source.head();
    if start == 0 && known < TAIL_BYTES && got >= head.len as usize && !head.begins(&window) {
        return Ok(ReadOutcome::Truncated);
    }
    let read_ns = parts.clock.now_ns();
    let at_forced = plan.is_forced(tail.mark.offset);
    let flush = at_forced || tail.flush && plan.is_whole();
    let cut = tail.settings.cutter.cut(&mut window, known, tail.mark, flush);
    if cut.outcome.mark == tail.mark {
        tail.pending = true;
        return Ok(ReadOutcome::Idle);
    }
    if flush && !at_forced {
        source.add_end(cut.outcome.mark.offset);
        source.save(&parts.state).map_err(ReadError::State)?;
        parts.state.sync().map_err(ReadError::State)?;
        parts.metrics.partial_lines.inc();
        tail.flush = false;
    }
    if (head.len as usize) < parts.fingerprint && u64::from(head.len) < size {
        // Only what grew out of the head that is known: the file may have been truncated since the window was read.
        let grown = file.read_at(0, parts.fingerprint).map_err(ReadError::Read)?;
        if grown.len() > head.len as usize && head.begins(&grown) {
            source.set_head(Print::of(&grown));
        }
    }
    let behind = plan.is_behind.then(|| flow.take(plan.wanted));
    let is_whole = plan.is_whole();
    let read = ReadWindow { window, start, cut, read_ns };
    let mut batch = read.into_batch(parts, tail, source);
    (batch.cost, batch.behind) = (share.keep(), behind);
    tail.pending = tail.mark.offset < size;
    tail.grown = now;
    batch.show_read(&parts.taps);
    permit.send(QueuedBatches::One(batch));
    Ok(if is_whole { ReadOutcome::Idle } else { ReadOutcome::More })
}

/// A window that was read and cut.
struct ReadWindow {
    window: Window,
    /// Where it stands in the file.
    start: u64,
    cut: Cut,
    read_ns: i64,
}

impl ReadWindow {
    /// Counts what was taken, moves the mark of the file behind it, and makes a batch of it, without its share of memory.
    fn into_batch(self, parts: &ReaderParts, tail: &mut Tail, source: Arc<Source>) -> SourceBatch {
        let Self { window, start, cut, read_ns } = self;
        let Cut { pieces, outcome, positions, mut times, metas, streams } = cut;
        let taken_bytes = outcome.mark.offset - tail.mark.offset;
        let end = usize::try_from(outcome.mark.offset - start).unwrap_or(usize::MAX);
        let before = window[end.saturating_sub(TAIL_BYTES)..end].to_vec();
        let to = Anchor { mark: outcome.mark, tail: Print::of(&before) };
        let lines = pieces.iter().map(|piece| u64::from(piece.lines)).sum();
        let count = Count { lines, bytes: taken_bytes, records: pieces.len() as u64 };
        let taken = Taken { count, skipped: outcome.skipped };
        if let Some(time) = &tail.settings.time {
            let line = |piece: &Piece| &window[piece.start as usize..(piece.start + piece.len) as usize];
            // What a runtime wrote stands in for a time that the line does not have.
            let own = times.into_iter().chain(std::iter::repeat(None));
            times = pieces.iter().zip(own).map(|(piece, own)| time.read(line(piece), read_ns).or(own)).collect();
            parts.metrics.untimed_lines.inc_by(times.iter().filter(|time| time.is_none()).count() as u64);
        }
        parts.metrics.count_read(lines, taken_bytes);
        parts.metrics.cut_lines.inc_by(pieces.iter().filter(|piece| piece.cut).count() as u64);
        source.took(to, taken);
        (tail.mark, tail.before) = (outcome.mark, before);
        let labels = source.stream_labels.clone().filter(|_| !streams.is_empty());
        SourceBatch {
            labels: source.labels.clone(),
            streams: labels.map(|labels| StreamLabels { labels, of: streams }),
            tenant: source.settings.tenant.clone(),
            source,
            window: window.freeze(),
            positions: if positions.is_empty() { Positions::Offsets(start) } else { Positions::Own(positions) },
            pieces,
            times,
            metas,
            to,
            taken,
            read_ns,
            cost: 0,
            behind: None,
            ack: None,
        }
    }
}
