//! One transactional id in memory: its state as the log has it, the state on its way there, and who waits for it.
//!
//! In: states. Out: the same, one at a time. Touches nothing.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::metrics::EndedBy;
use super::state::Txn;

/// How long a request waits for the end of the transaction before, instead of an answer to come again.
const PATIENCE: Duration = Duration::from_millis(250);

/// A state on its way to the log.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) next: Option<Txn>,
    /// Who has it end, if it ends.
    pub(super) by: EndedBy,
    /// Its request has gone, perhaps after the append: the look around finishes it.
    pub(super) is_left: bool,
    /// It was appended: the log has it or will have, so it can't be taken back.
    pub(super) is_appended: bool,
}

impl Pending {
    pub(super) fn new(next: Option<Txn>, by: EndedBy) -> Self {
        Self { next, by, is_left: false, is_appended: false }
    }
}

#[derive(Debug)]
pub(super) struct Inner {
    /// As the log has it; `None` before the first state is written, and after the last.
    pub(super) txn: Option<Txn>,
    pub(super) pending: Option<Pending>,
    /// Markers are being written.
    pub(super) marking: bool,
    /// Taken out of the map: whoever still holds it looks again.
    pub(super) is_gone: bool,
}

/// One transactional id.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: String,
    pub(super) inner: Mutex<Inner>,
    pub(super) moved: Notify,
}

impl Slot {
    pub(super) fn new(id: &str, txn: Option<Txn>) -> Arc<Self> {
        let inner = Inner { txn, pending: None, marking: false, is_gone: false };
        Arc::new(Self { id: id.to_owned(), inner: Mutex::new(inner), moved: Notify::new() })
    }
}

/// While a request writes a state: if it goes before the end, the look around takes over.
pub(super) struct Writing<'a>(pub &'a Slot);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if let Some(pending) = &mut self.0.inner.lock().pending {
            pending.is_left = true;
        }
    }
}

/// While markers are written.
pub(super) struct Marking<'a>(pub &'a Slot);

impl Drop for Marking<'_> {
    fn drop(&mut self) {
        self.0.inner.lock().marking = false;
    }
}

/// Waits a little while a state is on its way to the log or markers are: the one before is about to be over.
pub(super) async fn settled(slot: &Slot) {
    let is_settled = || {
        let inner = slot.inner.lock();
        inner.pending.is_none() && inner.txn.as_ref().is_none_or(|txn| !txn.state.is_prepared())
    };
    let wait = async {
        loop {
            let moved = slot.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if is_settled() {
                return;
            }
            moved.await;
        }
    };
    if tokio::time::timeout(PATIENCE, wait).await.is_err() {
        tracing::debug!(id = slot.id, "the previous transaction is still being completed");
    }
}
