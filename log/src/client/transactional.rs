//! Writes what was read from a group in transactions: outputs and the offsets behind the records become visible together, or
//! not at all (KIP-98, KIP-447).
//!
//! In: records of a [`GroupReader`], and for each where to. Out: committed transactions. Touches the network from the reader's
//! thread. Its calls block: use it on a thread of its own. Leaves to its user which record goes where, and when to try again.
//!
//! The transactional id is the reader's identity: one that comes back takes over from its dead self at once, and the brokers
//! refuse what the dead one may still have on its way. Offsets carry the generation in which the records were read: if
//! partitions were taken away since, the transaction is given up.
//!
//! After a transaction that was given up the producer takes a new epoch: what comes late of it is refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::group::{GroupReader, Shared, SourceRecord};
use super::lanes::{Lanes, Packed};
use super::output::{Output, push};
use crate::native::Code;
use crate::native::encode::{Records, Zstd};
use crate::native::error::WireError;
use crate::native::transaction::Transactions;
use crate::record::TopicPartition;

/// How long one step of a transaction may take before it is given up.
const STEP: Duration = Duration::from_secs(60);
/// How long an abort may take: what it has not done by then, the next start does.
const ABORT: Duration = Duration::from_secs(2);
/// Records of one batch at most.
const BATCH_RECORDS: usize = 10_000;

/// How transactions are written.
#[derive(Debug, Clone)]
pub struct WriterSettings {
    /// Time after which the broker aborts a transaction that nobody ends.
    pub transaction_timeout: Duration,
    /// Bytes of one record batch at most: what every target takes.
    pub max_batch_bytes: u64,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// Another consumer of this name has taken over.
    #[error("another consumer named `{identity}` has taken over")]
    Fenced {
        /// The name.
        identity: String,
    },
    /// The broker gave the transaction up.
    #[error(
        "transaction took longer than `broker.routing.transaction_timeout` ({limit:?}): raise it, or lower `max_records`"
    )]
    Slow {
        /// The limit.
        limit: Duration,
    },
    /// A target refused records for good. Indexes into the outputs.
    #[error("{} records are refused by their target: {}", refused.len(), refused.first().map_or("", |(_, reason)| reason.as_str()))]
    Refused {
        /// Which outputs, and why.
        refused: Vec<(usize, String)>,
    },
    /// The same again may succeed with new clients.
    #[error("transaction was given up at {step}: {source}")]
    Aborted {
        /// What was being done.
        step: &'static str,
        /// The cause.
        #[source]
        source: WireError,
    },
}

/// Records that are written together, with the positions behind them.
#[derive(Debug, Clone, Copy)]
pub struct Source<'s> {
    /// The assignment in which they were read.
    pub generation: u64,
    /// The records.
    pub records: &'s [SourceRecord],
    /// The next offset of each of their partitions.
    pub next: &'s [(TopicPartition, i64)],
}

/// Writes for one reader.
pub struct TransactionWriter {
    shared: Arc<Shared>,
    transactions: Arc<Transactions>,
    zstd: Mutex<Zstd>,
    settings: WriterSettings,
}

impl std::fmt::Debug for TransactionWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TransactionWriter({})", self.shared.settings.identity)
    }
}

/// Records for one partition that are not sent yet.
#[derive(Default)]
struct Filling {
    records: Records,
    outputs: Vec<usize>,
}

/// What was refused for good besides the error.
type Failed = (TransactionError, Vec<(usize, String)>);

impl TransactionWriter {
    /// Fences off an earlier writer of the reader's name. Blocks.
    pub fn open(reader: &GroupReader<SourceRecord>, settings: WriterSettings) -> Result<Self, TransactionError> {
        let shared = reader.shared();
        let timeout = settings.transaction_timeout;
        let transactions = Transactions::new(Arc::clone(&shared.cluster), &shared.settings.identity, timeout, STEP);
        let options = shared.cluster.options();
        let zstd = Mutex::new(Zstd::new(options.compress, options.compression_level));
        let writer = Self { zstd, transactions: Arc::new(transactions), settings, shared };
        writer.start("its start")?;
        Ok(writer)
    }

    /// Writes the outputs and moves the group's offsets behind the records, in one transaction. Outputs that are `alone` are
    /// sent one by one, so that a refusal is not about their neighbours.
    pub fn write(
        &self,
        source: Source<'_>,
        outputs: &[Output],
        alone: &dyn Fn(usize) -> bool,
    ) -> Result<(), TransactionError> {
        if source.next.is_empty() {
            return Ok(());
        }
        let begun = Instant::now();
        let (error, refused) = match self.fill(source, outputs, alone) {
            Ok(()) => return Ok(()),
            Err(failed) => failed,
        };
        // The broker says "fenced" also of a transaction that it gave up itself for its age.
        let limit = self.settings.transaction_timeout;
        let or_slow = |error| match error {
            TransactionError::Fenced { .. } if begun.elapsed() >= limit => TransactionError::Slow { limit },
            error => error,
        };
        if matches!(error, TransactionError::Fenced { .. }) {
            return Err(or_slow(error));
        }
        self.give_up().map_err(or_slow)?;
        self.start("its new start").map_err(or_slow)?;
        Err(if refused.is_empty() { error } else { TransactionError::Refused { refused } })
    }

    fn wait<T: Send + 'static, F>(
        &self,
        step: &'static str,
        ask: impl FnOnce(Arc<Transactions>) -> F,
    ) -> Result<T, TransactionError>
    where
        F: Future<Output = Result<T, WireError>> + Send + 'static,
    {
        let answer = self.shared.wait(ask(Arc::clone(&self.transactions)));
        answer.map_err(|source| self.failed(step, source))
    }

    fn failed(&self, step: &'static str, source: WireError) -> TransactionError {
        if source.is_fenced() {
            TransactionError::Fenced { identity: self.shared.settings.identity.clone() }
        } else {
            TransactionError::Aborted { step, source }
        }
    }

    fn start(&self, step: &'static str) -> Result<(), TransactionError> {
        self.wait(step, |transactions| async move { transactions.start().await })
    }

    /// Aborts, as far as that is quick: the rest does the start of the next transaction.
    fn give_up(&self) -> Result<(), TransactionError> {
        let aborted = self.wait("its abort", |transactions| async move { transactions.end(false, ABORT).await });
        match aborted {
            // A new epoch would take the name back from who has it now.
            Err(error @ TransactionError::Fenced { .. }) => Err(error),
            Err(error) => {
                tracing::debug!(%error, identity = self.shared.settings.identity, "abort is left to the next start");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// The whole transaction; with an error the outputs that were refused for good.
    fn fill(&self, source: Source<'_>, outputs: &[Output], alone: &dyn Fn(usize) -> bool) -> Result<(), Failed> {
        let bare = |error| (error, Vec::new());
        self.join_partitions(outputs).map_err(bare)?;
        let most = usize::try_from(self.settings.max_batch_bytes.clamp(1, 1_000_000)).unwrap_or(1_000_000);
        let mut lanes = Lanes::new();
        let mut filling: HashMap<TopicPartition, Filling> = HashMap::new();
        let mut scratch = Vec::new();
        for (i, output) in outputs.iter().enumerate() {
            let Some(record) = source.records.get(output.record) else { continue };
            if alone(i) {
                self.settle(&mut lanes, &mut filling)?;
            }
            let to = TopicPartition::new(Arc::clone(&output.topic), output.partition);
            let of = filling.entry(to.clone()).or_default();
            if of.records.size() + record.size() + record.headers.len() > most || of.records.len() >= BATCH_RECORDS {
                self.pack(&mut lanes, &to, of);
            }
            push(&mut of.records, record, output, &mut scratch);
            of.outputs.push(i);
            if alone(i) {
                self.settle(&mut lanes, &mut filling)?;
            }
            if lanes.has_failed() {
                break;
            }
        }
        self.settle(&mut lanes, &mut filling)?;
        let by = self.shared.committer(source.generation).ok_or_else(|| {
            bare(TransactionError::Aborted {
                step: "asking for the membership",
                source: WireError::refused(Code::RebalanceInProgress, None),
            })
        })?;
        let (group, next) = (self.shared.settings.group.clone(), source.next.to_vec());
        self.wait("its offsets", |transactions| async move { transactions.add_offsets(&group, &by, &next).await })
            .map_err(bare)?;
        self.wait("its commit", |transactions| async move { transactions.end(true, STEP).await }).map_err(bare)
    }

    /// Makes all partitions that are written part of the transaction.
    fn join_partitions(&self, outputs: &[Output]) -> Result<(), TransactionError> {
        let mut partitions: Vec<TopicPartition> =
            outputs.iter().map(|o| TopicPartition::new(Arc::clone(&o.topic), o.partition)).collect();
        partitions.sort_unstable();
        partitions.dedup();
        let cluster = Arc::clone(&self.shared.cluster);
        self.wait("sending", |transactions| async move {
            // A broker that does not know a partition is asked again for long: it may have been created a moment ago.
            if partitions.iter().any(|tp| cluster.known_leader(tp).is_none()) {
                let mut topics: Vec<&str> = partitions.iter().map(|tp| &*tp.topic).collect();
                topics.dedup();
                let known = cluster.metadata(&topics).await?;
                let is_there =
                    |tp: &TopicPartition| known.get(&*tp.topic).is_some_and(|all| all.contains(&tp.partition));
                if let Some(missing) = partitions.iter().find(|tp| !is_there(tp)) {
                    let message = format!("there is no partition {missing}");
                    return Err(WireError::refused(Code::UnknownTopicOrPartition, Some(&message)));
                }
            }
            transactions.add_partitions(&partitions).await
        })
    }

    /// Sends what has filled up for a partition.
    fn pack(&self, lanes: &mut Lanes, to: &TopicPartition, filling: &mut Filling) {
        let Filling { records, outputs } = std::mem::take(filling);
        if records.is_empty() {
            return;
        }
        let packed = Packed { batch: records.compress(&mut self.zstd.lock()), outputs };
        lanes.send(packed, to, &self.transactions, &self.shared.background);
    }

    /// Waits until everything so far is stored, or something failed and nothing is on its way any more.
    fn settle(&self, lanes: &mut Lanes, filling: &mut HashMap<TopicPartition, Filling>) -> Result<(), Failed> {
        for (to, of) in filling.iter_mut() {
            self.pack(lanes, to, of);
        }
        lanes.settle().map_err(|source| (self.failed("sending", source), lanes.refused()))
    }
}

#[cfg(test)]
mod tests;
