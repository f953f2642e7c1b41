//! How much is on its way to one partition at once: the size of a request, and how far files that are behind are read
//! ahead of what the log has taken.
//!
//! In: how long answers took, what was read from files that are behind and what became of it. Out: two limits. Touches
//! nothing.
//!
//! Large requests and much that was read ahead take memory, and help only where each answer has to be waited for long:
//! both follow the shortest of the last answers. That one answer is late, as on a busy host, is no reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::condition::Pause;

/// Bytes of lines in a request while the log answers at once.
const SMALL_BATCH: usize = 128 << 10;
/// The log answers at once.
const AT_ONCE: Duration = Duration::from_millis(10);
/// Requests that are read ahead: one is under way, one is made meanwhile, the rest is read.
const AHEAD: usize = 4;

/// Limits of one partition, shared by its sender and the reading thread.
#[derive(Debug)]
pub(crate) struct Flow {
    max_batch: usize,
    max_behind: usize,
    last: Mutex<Last>,
    /// Bytes of files that are behind, read and not yet acknowledged.
    behind: AtomicUsize,
}

/// How long the last answers took.
#[derive(Debug, Default)]
struct Last {
    took: [Duration; 8],
    next: usize,
}

impl Flow {
    /// Requests of at most `max_batch` bytes; files that are behind may have at most `max_behind` on their way.
    pub fn new(max_batch: usize, max_behind: usize) -> Arc<Self> {
        Arc::new(Self { max_batch, max_behind, last: Mutex::default(), behind: AtomicUsize::new(0) })
    }

    /// The log answered.
    pub fn answered(&self, took: Duration) {
        let mut last = self.last.lock();
        let at = last.next;
        let count = last.took.len();
        if let Some(place) = last.took.get_mut(at) {
            *place = took;
        }
        last.next = (at + 1) % count;
    }

    /// Bytes of lines in the next request, about.
    pub fn batch_bytes(&self) -> usize {
        let shortest = self.last.lock().took.iter().min().copied().unwrap_or_default();
        let times = usize::try_from(shortest.as_millis() / AT_ONCE.as_millis()).unwrap_or(usize::MAX).max(1);
        SMALL_BATCH.saturating_mul(times).min(self.max_batch)
    }

    /// Why no more of a file that is behind may be read now.
    pub fn full(&self) -> Option<Pause> {
        let behind = self.behind.load(Ordering::Acquire);
        if behind >= self.max_behind {
            Some(Pause::Memory)
        } else if behind >= self.batch_bytes().saturating_mul(AHEAD) {
            Some(Pause::Log)
        } else {
            None
        }
    }

    /// So much of a file that is behind was read.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Behind {
        self.behind.fetch_add(bytes, Ordering::AcqRel);
        Behind { flow: self.clone(), bytes: AtomicUsize::new(bytes) }
    }
}

/// Bytes counted as read ahead, until they are given back: by dropping this at the latest.
#[derive(Debug)]
pub(crate) struct Behind {
    flow: Arc<Flow>,
    bytes: AtomicUsize,
}

impl Behind {
    /// They are acknowledged.
    pub fn give(&self) {
        self.flow.behind.fetch_sub(self.bytes.swap(0, Ordering::AcqRel), Ordering::AcqRel);
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.give();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_as_large_as_answers_are_late() {
        let mib = 1 << 20;
        for (took_ms, most, want) in [
            (0, mib, 128 << 10),
            (19, mib, 128 << 10),
            (20, mib, 256 << 10),
            (55, mib, 640 << 10),
            (1000, mib, mib),
            (u64::MAX, mib, mib),
            (0, 1 << 10, 1 << 10),
        ] {
            let flow = Flow::new(most, usize::MAX);
            for _ in 0..7 {
                flow.answered(Duration::from_millis(took_ms));
                assert_eq!(flow.batch_bytes(), most.min(SMALL_BATCH), "only when all of them are");
            }
            flow.answered(Duration::from_millis(took_ms));
            assert_eq!(flow.batch_bytes(), want, "{took_ms} ms, {most}");
            flow.answered(Duration::ZERO);
            assert_eq!(flow.batch_bytes(), most.min(SMALL_BATCH), "one that is not is enough");
        }
    }

    #[test]
    fn files_that_are_behind_are_read_some_requests_ahead() {
        let mib = 1 << 20;
        let flow = Flow::new(mib, 3 * mib);
        let first = flow.take(512 << 10);
        assert_eq!(flow.full(), Some(Pause::Log), "four small requests");
        for _ in 0..8 {
            flow.answered(Duration::from_secs(1));
        }
        assert_eq!(flow.full(), None, "four large ones");
        let second = flow.take(5 * mib / 2);
        assert_eq!(flow.full(), Some(Pause::Memory), "the limit of the memory");
        first.give();
        drop(first);
        assert_eq!(flow.full(), None);
        drop(second);
        assert_eq!(flow.behind.load(Ordering::Acquire), 0, "given back once");
    }
}
