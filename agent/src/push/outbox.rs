//! Batches on their way to the log, for sources that read on meanwhile.
//!
//! In: batches with what their source wants to know them by. Out: those words again, in the same order, once the log has
//! them or will not get them in this run. Touches nothing. How many are on their way is bounded by the agent's memory
//! and queues, since each batch takes a share of both before it is taken here.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;

use millrace_log::record::Labels;
use tokio_util::sync::CancellationToken;

use super::lines::Lines;
use super::{Batch, Intake, Line, Receipt, Rejected, Stream};
use crate::config::MultilineConfig;
use crate::ledger::REASON_CUT;

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
    outbox: Outbox<Sent>,
    waiting: u64,
}

/// What a batch of such lines holds.
#[derive(Debug, Clone, Copy)]
struct Sent {
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
                self.outbox.add(receipt, Sent { lines, bytes });
                true
            }
            Err(why) => {
                self.waiting -= lines;
                tracing::error!(source = self.name, %why, lines, "lines are lost: their source can't be read again");
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
            tracing::error!(source = self.name, %why, lines = sent.lines, "lines are lost: their source can't be read again");
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
                "the log has not acknowledged these lines, and their source can't be read again: they may be lost"
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

/// One stream of bytes on its way to batches.
pub(super) struct Channel {
    lines: Lines,
    stream: Stream,
    metadata: Labels,
    /// How long an event that may go on is waited for.
    quiet: Duration,
    fed: Instant,
}

impl Channel {
    pub fn new(lines: Lines, stream: Stream, metadata: Labels, multiline: Option<&MultilineConfig>) -> Self {
        let quiet = multiline.map_or(Duration::ZERO, |multiline| multiline.timeout.0);
        Self { lines, stream, metadata, quiet, fed: Instant::now() }
    }

    fn each<'b>(
        stream: &'b Stream,
        metadata: &'b Labels,
        batch: &'b mut Batch,
        bytes: &'b mut u64,
    ) -> impl FnMut(&[u8]) {
        let metadata = (!metadata.is_empty()).then_some(metadata);
        move |text| {
            *bytes += text.len() as u64;
            batch.push(stream, Line { text, time_ns: None, metadata });
        }
    }

    /// Takes a piece; gives the bytes of the lines that it added to the batch.
    pub fn feed(&mut self, piece: &[u8], batch: &mut Batch) -> u64 {
        let mut bytes = 0;
        self.lines.feed(piece, &mut Self::each(&self.stream, &self.metadata, batch, &mut bytes));
        self.fed = Instant::now();
        bytes
    }

    /// When an event that may go on will have waited long enough; `None` if there is none.
    pub fn due(&self) -> Option<Instant> {
        self.lines.is_waiting().then(|| self.fed + self.quiet)
    }

    /// Nothing came for a while.
    pub fn flush(&mut self, batch: &mut Batch) -> u64 {
        let mut bytes = 0;
        self.lines.flush(&mut Self::each(&self.stream, &self.metadata, batch, &mut bytes));
        bytes
    }

    /// Nothing more comes.
    pub fn finish(&mut self, batch: &mut Batch) -> u64 {
        let mut bytes = 0;
        self.lines.finish(&mut Self::each(&self.stream, &self.metadata, batch, &mut bytes));
        bytes
    }

    /// Counts what was cut off.
    pub fn count_lost(&mut self, intake: &Intake) {
        let lost = self.lines.take_lost();
        if lost > 0 {
            intake.dropped(REASON_CUT, 0, lost);
        }
    }
}
