//! Appends that wait for a thread: the queue of one partition, and the outcomes that one caller waits for together.
//!
//! In: batches. Out: outcomes, in the order of what was asked. Touches nothing. Leaves threads to [`super::partition`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::append::{AppendKind, Appended};
use super::error::AppendError;

/// One append that waits.
pub(super) struct AppendJob {
    pub(super) batches: Bytes,
    pub(super) kind: AppendKind,
    pub(super) done: OutcomeSlot,
}

/// The outcomes of appends that one caller waits for together, so that it is woken once.
pub(super) struct Outcomes {
    pub(super) outcomes: Mutex<Vec<Result<Appended, AppendError>>>,
    pub(super) left: AtomicUsize,
    pub(super) done: Mutex<Option<oneshot::Sender<()>>>,
    pub(super) _permit: OwnedSemaphorePermit,
}

/// Where the outcome of one append goes. Dropped without one, the append counts as refused by the stop.
pub(super) struct OutcomeSlot {
    pub(super) outcomes: Arc<Outcomes>,
    pub(super) at: usize,
}

impl OutcomeSlot {
    pub(super) fn fill(self, outcome: Result<Appended, AppendError>) {
        if let Some(slot) = self.outcomes.outcomes.lock().get_mut(self.at) {
            *slot = outcome;
        }
    }
}

impl Drop for OutcomeSlot {
    fn drop(&mut self) {
        if self.outcomes.left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(done) = self.outcomes.done.lock().take()
        {
            // Who asked may have gone; what is appended stays.
            let _unheard = done.send(());
        }
    }
}

/// Appends of one partition in their order.
#[derive(Default)]
pub(super) struct AppendQueue {
    pub(super) jobs: VecDeque<AppendJob>,
    /// Whether a thread has, or will get, the queue.
    pub(super) taken: bool,
}
