//! The sending half of one transaction: one task for each partition, which sends its batches one after the other.
//!
//! In: compressed batches, and which outputs are in each. Out: that all are stored, or the first error and the outputs that
//! would be refused again. Touches the network through [`Transactions`]. Queues are bounded.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::background::Background;
use super::output::reason;
use crate::native::Code;
use crate::native::encode::Compressed;
use crate::native::error::WireError;
use crate::native::transaction::{BatchRefused, Transactions};
use crate::record::TopicPartition;

/// Batches of one partition that may wait for the one before.
const BATCHES: usize = 4;

/// A batch for one partition, and which outputs are in it.
pub(super) struct Packed {
    pub batch: Compressed,
    pub outputs: Vec<usize>,
}

/// What the brokers said about the records of one transaction.
#[derive(Debug, Default)]
struct Failures {
    /// Outputs that would be refused again, with reasons.
    refused: Vec<(usize, String)>,
    first: Option<WireError>,
}

/// The batches of one transaction that are on their way.
pub(super) struct Lanes {
    of: HashMap<TopicPartition, mpsc::Sender<Packed>>,
    /// Answered by each task at its end.
    ended: (mpsc::Sender<()>, mpsc::Receiver<()>),
    failures: Arc<Mutex<Failures>>,
    /// Something failed: what is not on its way yet stays.
    failed: CancellationToken,
}

impl Lanes {
    pub fn new() -> Self {
        Self { of: HashMap::new(), ended: mpsc::channel(1), failures: Arc::default(), failed: CancellationToken::new() }
    }

    /// Whether something failed.
    pub fn has_failed(&self) -> bool {
        self.failed.is_cancelled()
    }

    /// Hands a batch to the task of its partition, and starts that with the first one. Blocks while its queue is full.
    pub fn send(
        &mut self,
        packed: Packed,
        to: &TopicPartition,
        transactions: &Arc<Transactions>,
        background: &Background,
    ) {
        let lane = self.of.entry(to.clone()).or_insert_with(|| {
            let (give, take) = mpsc::channel(BATCHES);
            let (failures, failed) = (Arc::clone(&self.failures), self.failed.clone());
            let (transactions, to, ended) = (Arc::clone(transactions), to.clone(), self.ended.0.clone());
            background.run(async move {
                send_all(&transactions, &to, take, &failures, &failed).await;
                // Whoever waits for it notices that this is dropped.
                drop(ended);
            });
            give
        });
        // The task ends early only if something failed.
        lane.blocking_send(packed).ok();
    }

    /// Waits for all tasks: everything so far is stored, or nothing is on its way any more. The first error.
    pub fn settle(&mut self) -> Result<(), WireError> {
        self.of.clear();
        let (_, mut all) = std::mem::replace(&mut self.ended, mpsc::channel(1));
        // Ends when the last task has dropped its side.
        while all.blocking_recv().is_some() {}
        self.failures.lock().first.clone().map_or(Ok(()), Err)
    }

    /// Outputs that would be refused again, with reasons.
    pub fn refused(&self) -> Vec<(usize, String)> {
        std::mem::take(&mut self.failures.lock().refused)
    }
}

/// Sends the batches of one partition in order, until one fails.
async fn send_all(
    transactions: &Transactions,
    to: &TopicPartition,
    mut batches: mpsc::Receiver<Packed>,
    failures: &Mutex<Failures>,
    failed: &CancellationToken,
) {
    while let Some(Packed { batch, outputs }) = batches.recv().await {
        if failed.is_cancelled() {
            return;
        }
        // A batch that is on its way is waited for, so that nothing comes late; one that is only to be repeated is not.
        if let Err(BatchRefused { error, records }) = transactions.send(to, &batch, failed).await {
            let mut failures = failures.lock();
            if error.blames_records() && error.code() != Some(Code::CorruptMessage) {
                let why = reason(&error);
                if records.is_empty() {
                    failures.refused.extend(outputs.iter().map(|output| (*output, why.clone())));
                } else {
                    let named = records.iter().filter_map(|(at, _)| outputs.get(*at));
                    failures.refused.extend(named.map(|output| (*output, why.clone())));
                }
            }
            failures.first.get_or_insert(error);
            failed.cancel();
            return;
        }
    }
}
