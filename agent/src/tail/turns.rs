//! Reading: each queued file has a turn, in which one window is cut into events and handed to its lane.
//!
//! In: files with their sources. Out: [`Haul`]s. Touches files, reading only, and the state where an end must not move.
//!
//! Fairness: a turn reads `read_bytes` at most, and files that are behind may fill a lane only so far: a line of a file
//! that is not behind never waits for more than that.

use std::collections::HashSet;
use std::io;
use std::time::Instant;

use tokio::sync::mpsc;

use super::{HAUL_COST, ROOM_WAIT, Reader, Turn, mtime};
use crate::condition::Pause;
use crate::content::Size;
use crate::cut::Cut;
use crate::discover::FileKey;
use crate::error::AgentError;
use crate::fingerprint::{Print, TAIL_BYTES};
use crate::ledger::Count;
use crate::producer::{Haul, Load, Numbers, Share, Streams};
use crate::source::{Anchor, Taken};
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

    /// One turn for each queued file. Returns whether something was read, whether room was missing, whether to stop.
    pub(super) fn turns(&mut self) -> Result<(bool, Option<Pause>, bool), AgentError> {
        let (mut progress, mut full) = (false, None);
        for _ in 0..self.queue.len() {
            let Some(key) = self.queue.pop_front() else { break };
            let Some(tail) = self.tails.get_mut(&key) else { continue };
            tail.queued = false;
            let turn = match self.turn(key) {
                Ok(turn) => turn,
                Err(TurnError::Read(error)) => {
                    let path = self.tails.get_mut(&key).map(|tail| {
                        tail.failed = true;
                        tail.path.clone()
                    });
                    self.unreadable(&path.unwrap_or_default(), &error);
                    continue;
                }
                Err(TurnError::State(error)) => return Err(error),
            };
            match turn {
                Turn::More => {
                    progress = true;
                    self.enqueue(key);
                }
                Turn::Idle => {}
                Turn::Full(why) => {
                    full = Some(why);
                    self.enqueue(key);
                }
                Turn::Truncated => {
                    progress = true;
                    self.truncated(key)?;
                }
                Turn::Closed => return Ok((progress, full, true)),
            }
        }
        Ok((progress, full, false))
    }

    fn turn(&mut self, key: FileKey) -> Result<Turn, TurnError> {
        let now = Instant::now();
        let Some(tail) = self.tails.get_mut(&key) else { return Ok(Turn::Idle) };
        if tail.file.is_none() {
            let path = tail.path.clone();
            match self.open(key, &path) {
                Some((file, _)) => {
                    if let Some(tail) = self.tails.get_mut(&key) {
                        tail.file = Some(file);
                    }
                }
                None => {
                    // Gone while it was closed: the next scan sees it, or its new name.
                    return Ok(Turn::Idle);
                }
            }
        }
        let parts = &self.parts;
        let Some(tail) = self.tails.get_mut(&key) else { return Ok(Turn::Idle) };
        let Some(file) = &tail.file else { return Ok(Turn::Idle) };
        let metadata = file.metadata().map_err(TurnError::Read)?;
        tail.failed = false;
        if metadata.len() != tail.stored {
            (tail.grown, tail.flush) = (now, false);
            tail.stored = metadata.len();
        }
        let size = match file.measure().map_err(TurnError::Read)? {
            Size::Known(size) | Size::Torn(size) => size,
            Size::Measuring => return Ok(Turn::More),
        };
        let Some(source) = tail.source.clone() else {
            // Measured since it was looked at.
            let again = file.is_packed() && size > 0 && tail.size == 0 && now >= tail.grown + parts.rotated_wait;
            let over = !tail.present && now >= tail.end(parts.rotated_wait);
            if over && self.may_end(key, now) {
                self.drop_tail(key);
            }
            return Ok(if again { Turn::More } else { Turn::Idle });
        };
        tail.size = size;
        source.set_size(size);
        if size < tail.mark.offset.max(u64::from(source.head().len)) {
            return Ok(Turn::Truncated);
        }
        let available = size - tail.mark.offset;
        let changed = std::mem::replace(&mut tail.mtime, mtime(&metadata)) != tail.mtime;
        if available == 0 {
            tail.pending = false;
            if changed && file.tail_at(tail.mark.offset).map_err(TurnError::Read)? != tail.before {
                return Ok(Turn::Truncated);
            }
            if !tail.matched && now >= tail.end(parts.rotated_wait) && self.may_end(key, now) {
                self.end(key);
            }
            return Ok(Turn::Idle);
        }

        // An event that was sent before its line end came ends there again.
        let forced = source.end_beyond(tail.mark.offset).filter(|end| *end <= size);
        let most = parts.read_bytes.max(tail.entry.cutter.min_window()).max(parts.fingerprint) as u64;
        let wanted = available.min(most).min(forced.map_or(u64::MAX, |end| end - tail.mark.offset));
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        // Its lines' places and times take about a quarter of what they point to.
        let cost = wanted * (1 + tail.entry.cutter.copies()) + wanted / 4 + HAUL_COST;
        let lane = usize::try_from(source.to.partition).unwrap_or(usize::MAX);
        let Some((lane, flow)) = parts.lanes.get(lane) else { return Ok(Turn::Closed) };
        // A file that is behind leaves room in its lane for the others.
        let is_behind = available > parts.read_bytes as u64;
        if is_behind && let Some(why) = flow.full() {
            return Ok(Turn::Full(why));
        }
        let permit = match lane.try_reserve() {
            Ok(permit) => permit,
            Err(mpsc::error::TrySendError::Full(())) => return Ok(Turn::Full(Pause::Queue)),
            Err(mpsc::error::TrySendError::Closed(())) => return Ok(Turn::Closed),
        };
        let Some(share) = Share::take(&parts.budget, cost) else { return Ok(Turn::Full(Pause::Memory)) };

        let known = tail.before.len();
        let mut window = parts.windows.window(known + wanted);
        let start = tail.mark.offset - known as u64;
        let got = file.read_into(start, &mut window).map_err(TurnError::Read)?;
        if got < known || window[..known] != tail.before[..] {
            return Ok(Turn::Truncated);
        }
        if got < known + wanted {
            // It shrank since its size was asked for: look again.
            return Ok(Turn::More);
        }
        // Near the start few bytes can be compared: the head says more.
        let head = source.head();
        if start == 0 && known < TAIL_BYTES && got >= head.len as usize && !head.begins(&window) {
            return Ok(Turn::Truncated);
        }
        let read_ns = parts.clock.now_ns();
        let at_forced = forced.is_some_and(|end| tail.mark.offset + wanted as u64 == end);
        let whole = wanted as u64 == available;
        let flush = at_forced || tail.flush && whole;
        let Cut { pieces, outcome, positions, mut times, metas, streams } =
            tail.entry.cutter.cut(&mut window, known, tail.mark, flush);
        if outcome.mark == tail.mark {
            tail.pending = true;
            if let Some(due) = tail.due(parts.rotated_wait) {
                self.timer = self.timer.min(due);
            }
            return Ok(Turn::Idle);
        }
        if flush && !at_forced {
            source.add_end(outcome.mark.offset);
            source.save(&parts.state).map_err(TurnError::State)?;
            parts.state.sync().map_err(TurnError::State)?;
            parts.metrics.partial_lines.inc();
            tail.flush = false;
        }

        let taken_bytes = outcome.mark.offset - tail.mark.offset;
        let end = known + usize::try_from(taken_bytes).unwrap_or(usize::MAX);
        let before = window[end.saturating_sub(TAIL_BYTES)..end].to_vec();
        let to = Anchor { mark: outcome.mark, tail: Print::of(&before) };
        let lines = pieces.iter().map(|piece| u64::from(piece.lines)).sum();
        let count = Count { lines, bytes: taken_bytes, records: pieces.len() as u64 };
        let taken = Taken { count, skipped: outcome.skipped };
        if let Some(time) = &tail.entry.time {
            let line = |piece: &crate::split::Piece| &window[piece.start as usize..(piece.start + piece.len) as usize];
            // What a runtime wrote stands in for a time that the line does not have.
            let own = times.into_iter().chain(std::iter::repeat(None));
            times = pieces.iter().zip(own).map(|(piece, own)| time.read(line(piece), read_ns).or(own)).collect();
            parts.metrics.untimed_lines.inc_by(times.iter().filter(|time| time.is_none()).count() as u64);
        }
        if (head.len as usize) < parts.fingerprint && u64::from(head.len) < size {
            // Only what grew out of the head that is known: the file may have been truncated since the window was read.
            let grown = file.read_at(0, parts.fingerprint).map_err(TurnError::Read)?;
            if grown.len() > head.len as usize && head.begins(&grown) {
                source.set_head(Print::of(&grown));
            }
        }

        parts.metrics.read_lines.inc_by(lines);
        parts.metrics.read_bytes.inc_by(taken_bytes);
        parts.metrics.cut_lines.inc_by(pieces.iter().filter(|piece| piece.cut).count() as u64);
        parts.metrics.waiting_lines.inc_by(i64::try_from(lines).unwrap_or(i64::MAX));
        source.took(to, taken);
        (tail.mark, tail.before) = (outcome.mark, before);
        tail.pending = tail.mark.offset < size;
        tail.grown = now;
        let window = window.freeze();
        let behind = is_behind.then(|| flow.take(wanted));
        let haul = Haul {
            labels: source.labels.clone(),
            streams: source
                .stream_labels
                .clone()
                .filter(|_| !streams.is_empty())
                .map(|labels| Streams { labels, of: streams }),
            tenant: source.entry.tenant.clone(),
            source,
            window,
            numbers: if positions.is_empty() { Numbers::Offsets(start) } else { Numbers::Own(positions) },
            pieces,
            times,
            metas,
            to,
            taken,
            read_ns,
            cost: share.keep(),
            behind,
            done: None,
        };
        parts.taps.read(&haul);
        permit.send(Load::One(haul));
        if tail.pending
            && let Some(due) = tail.due(parts.rotated_wait)
        {
            self.timer = self.timer.min(due);
        }
        Ok(if whole { Turn::Idle } else { Turn::More })
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
            tracing::info!(path = %tail.path.display(), "rotated file is read to its end");
            self.parts.metrics.finished_files.inc();
        }
        self.drop_tail(key);
    }
}

enum TurnError {
    Read(io::Error),
    State(AgentError),
}
