//! The transaction coordinator's own task: completes decided transactions, aborts late ones, forgets expired ids.
//!
//! In: transactions whose markers are due, the time. Out: markers, states. Touches the log through the coordinator.

use std::time::Duration;

use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{self, FuturesUnordered};
use tokio_util::sync::CancellationToken;

use super::coordinator::Coordinator;
use super::metrics::EndedBy;
use super::state::{Transition, Txn};
use crate::group::Coordinator as Groups;

/// Transactions whose markers are being written at the same time.
const COMPLETING: usize = 64;

/// Time between two looks at time-outs and at what was left undone.
const TICK: Duration = Duration::from_millis(500);

/// Time between two looks at what has expired.
const TIDY: Duration = Duration::from_secs(60);

/// How long the markers under way may take at the stop.
const DRAIN: Duration = Duration::from_secs(2);

impl Coordinator {
    /// Ends what is decided, aborts what is late, forgets what has expired; until the stop. Only one task may call it, once.
    pub async fn run(&self, groups: &Groups, stop: CancellationToken) {
        let Some(mut queued) = self.queued.lock().take() else { return };
        let mut running: FuturesUnordered<BoxFuture<'_, bool>> = FuturesUnordered::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tidied = tokio::time::Instant::now();
        let mut is_looking = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(slot) = queued.recv(), if running.len() < COMPLETING => {
                    running.push(async move { self.complete(groups, &slot).await; false }.boxed());
                }
                Some(was_look) = running.next(), if !running.is_empty() => is_looking &= !was_look,
                _ = tick.tick(), if !is_looking => {
                    is_looking = true;
                    let is_due = tidied.elapsed() >= TIDY;
                    if is_due {
                        tidied = tokio::time::Instant::now();
                    }
                    running.push(async move {
                        self.look_around(groups).await;
                        if is_due {
                            self.tidy().await;
                        }
                        true
                    }.boxed());
                }
            }
        }
        let drained = async { while running.next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!("markers of ended transactions not written, the next start writes them");
        }
    }

    /// Finishes what requests have left undone, aborts late transactions and completes decided ones.
    pub async fn look_around(&self, groups: &Groups) {
        let now_ms = self.clock.now_ms();
        let to_do = self.all().into_iter().map(|slot| async move {
            let (is_left, is_late) = {
                let inner = slot.inner.lock();
                let is_late = inner.pending.is_none() && inner.txn.as_ref().is_some_and(|txn| txn.is_late(now_ms));
                (inner.pending.as_ref().is_some_and(|pending| pending.is_left), is_late)
            };
            if is_left {
                if let Some(pending) = &mut slot.inner.lock().pending {
                    pending.is_left = false;
                }
                self.report(&slot, self.write(&slot, true).await);
            }
            if is_late {
                tracing::info!(id = slot.id, "transaction timed out: aborting it");
                let abort = |txn: &Txn, now_ms| {
                    Ok(if txn.is_late(now_ms) { Transition::Write(txn.fence(now_ms)) } else { Transition::Done })
                };
                self.report(&slot, self.step(&slot, true, EndedBy::Timeout, abort).await);
            }
            self.complete(groups, &slot).await;
        });
        stream::iter(to_do).buffer_unordered(COMPLETING).collect::<()>().await;
    }
}
