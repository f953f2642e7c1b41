//! The thread that reads: finds files, decides which source each one is, reads them in fair passes.
//!
//! In: folders and files, calls of its wake handle. Out: batches in the queues of the partitions. Touches files (reading
//! only) and the state (a new source, or an end that must not move, is synced before its first record leaves).
//!
//! # Which source is a file?
//! 1. A file that is being read is known by device and inode; its handle stays open through renames and deletion.
//! 2. Each read starts some bytes before the position and compares them with what stood there: a file that was
//!    truncated and written anew is seen even when it has grown past the position.
//! 3. A file not being read is compared with the sources that have no file: first the one with its device, inode
//!    and birth, then others. It is that source if its head and the bytes before the reached position are the same.
//!    Another name or inode counts only if the name says "rotated" (`app.log.1` from `app.log`), or if more than a
//!    whole fingerprint was read: two files that hold nothing but the same banner are not mistaken for each other.
//! 4. A copy beside the file it was made from waits, also where both are new: if the original is then truncated
//!    (copytruncate), the copy is where the source is read on, and the original gets a new source.
//! 5. A rotated file that no glob matches and nobody knows is read if it changed since the folder was last looked
//!    at: it was born and rotated in between. All else is new.
//! 6. A packed sibling (`app.log.1.gz`) is a copy whose bytes are those unpacked: it waits while the original is still
//!    open here, and is where the source is read on once the original is gone.
//!
//! # When does a file end?
//! One that was renamed away: `rotated_wait` after its last growth; should it grow again, it is taken up again. One
//! that was deleted: not before that, and not while a process has it open for writing, as far as `/proc` shows
//! (`writers.rs`); where that is unknown, `deleted_wait` after its last growth.

/// What the reading thread knows.
mod reader;
/// Which source a file is.
mod identify;
/// Finding files: folders, names, what is to be opened.
mod scan;
/// Reading passes, time-outs, ends of files.
mod read;

use std::time::Instant;

use self::read::Pass;
use self::reader::{ROOM_WAIT, SCAN_GAP};
pub(crate) use self::reader::{Reader, ReaderParts};
use crate::error::AgentError;
use crate::watch::Woken;

impl Reader {
    /// Reads until the agent stops.
    pub fn run(mut self) -> Result<(), AgentError> {
        let mut next_scan = Instant::now();
        let (mut gap_end, mut next_look) = (next_scan, next_scan);
        loop {
            let now = Instant::now();
            if now >= next_look && now < next_scan {
                next_look = now + self.parts.scan_interval;
                if self.look_at_unreported() {
                    next_scan = next_scan.min(gap_end);
                }
            }
            let scans = now >= next_scan;
            if scans {
                let interval = self.scan()?;
                let took = now.elapsed();
                self.parts.metrics.scans.inc();
                self.parts.metrics.scan_seconds.inc_by(took.as_secs_f64());
                gap_end = Instant::now() + SCAN_GAP.max(took * 10);
                next_scan = (now + interval).max(gap_end);
                next_look = if self.has_unreported() { now + self.parts.scan_interval } else { next_scan };
            }
            if now >= self.timer {
                self.timers(now);
            }
            self.adopt()?;
            if scans {
                self.note_scanned();
            }
            let Pass { progress, full, closed } = self.read_pass()?;
            if closed {
                return Ok(());
            }
            self.parts.conditions.pause(full.filter(|_| !progress));
            let until = match (progress, full) {
                (true, _) => Instant::now(),
                (false, Some(_)) => next_scan.min(next_look).min(Instant::now() + ROOM_WAIT),
                (false, None) => next_scan.min(next_look).min(self.timer),
            };
            let Woken { changed, rescan, stop } = self.parts.wake.wait(until);
            if stop {
                return Ok(());
            }
            for path in &changed {
                if let Some(key) = self.paths.get(path) {
                    self.enqueue(*key);
                }
            }
            if rescan {
                next_scan = next_scan.min(gap_end);
            }
        }
    }
}

#[cfg(test)]
mod tests;
