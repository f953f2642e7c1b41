//! Batches on their way to the log, for sources that read on meanwhile.
//!
//! In: batches with what their source wants to know them by. Out: those words again, in the same order, once the log has
//! them or will not get them in this run. Touches nothing. How many are on their way is bounded by the agent's memory
//! and queues, since each batch takes a share of both before it is taken here.

use std::time::Instant;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use tokio_util::sync::CancellationToken;

use super::intake::{Batch, Intake, Receipt};
use super::rejected::Rejected;

/// Receipts in the order of their batches.
pub(super) struct Outbox<T> {
    waiting: FuturesOrdered<BoxFuture<'static, (Result<(), Rejected>, T)>>,
}

impl<T: Send + 'static> Outbox<T> {
    pub fn new() -> Self {
        Self { waiting: FuturesOrdered::new() }
    }

    /// A batch was handed in.
    pub fn add(&mut self, receipt: Receipt, word: T) {
        self.waiting.push_back(Box::pin(async move { (receipt.acknowledged().await, word) }));
    }

    /// Whether nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Waits for the oldest; `None` if there is none. Dropping the call loses nothing.
    pub async fn next(&mut self) -> Option<(Result<(), Rejected>, T)> {
        self.waiting.next().await
    }
}

/// Lines that can't be read again, until the log has them: whoever is cut off in the middle says how many are lost.
pub(super) struct Unrepeatable {
    name: String,
    outbox: Outbox<SentLines>,
    waiting: u64,
}

/// What a batch of such lines holds.
#[derive(Debug, Clone, Copy)]
struct SentLines {
    lines: u64,
    bytes: u64,
}

impl Unrepeatable {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), outbox: Outbox::new(), waiting: 0 }
    }

    /// Hands in, waiting for room. `false`: nothing more can be.
    pub async fn send(&mut self, intake: &Intake, batch: Batch, bytes: u64) -> bool {
        let lines = batch.len() as u64;
        if lines == 0 {
            return true;
        }
        // Counted while it waits for room as well.
        self.waiting += lines;
        match batch.send().await {
            Ok(receipt) => {
                self.outbox.add(receipt, SentLines { lines, bytes });
                true
            }
            Err(why) => {
                self.waiting -= lines;
                tracing::error!(source = self.name, %why, lines, "lost lines: the source can't be read again");
                intake.dropped(why.reason(), lines, bytes);
                matches!(why, Rejected::Spool)
            }
        }
    }

    /// Waits for the oldest batch; ready at once if there is none.
    pub async fn settle(&mut self, intake: &Intake) {
        let Some((result, sent)) = self.outbox.next().await else { return };
        self.waiting -= sent.lines;
        if let Err(why) = result {
            tracing::error!(source = self.name, %why, lines = sent.lines, "lost lines: the source can't be read again");
            if matches!(why, Rejected::Spool) {
                // Others stay as waiting in the ledger of this run: the log may have them.
                intake.dropped(why.reason(), sent.lines, sent.bytes);
            }
        }
    }

    /// Whether nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Waits for something else. `false`: the agent stops.
    pub async fn until<T>(
        &mut self,
        other: impl Future<Output = T>,
        intake: &Intake,
        stop: &CancellationToken,
    ) -> bool {
        tokio::pin!(other);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return false,
                () = self.settle(intake), if !self.is_empty() => {}
                _ = &mut other => return true,
            }
        }
    }

    /// Waits for all.
    pub async fn drain(mut self, intake: &Intake) {
        while !self.is_empty() {
            self.settle(intake).await;
        }
    }
}

impl Drop for Unrepeatable {
    fn drop(&mut self) {
        if self.waiting > 0 {
            tracing::error!(
                source = self.name,
                lines = self.waiting,
                "lines may be lost: the log has not acknowledged them, and the source can't be read again"
            );
        }
    }
}

/// Waits until a time; for ever if there is none.
pub(super) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
