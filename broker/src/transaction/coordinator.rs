//! State of the transaction coordinator: all transactional ids, and their way into `__transaction_state`.
//!
//! In: steps of transactions. Out: states, once they are in the log. Touches the log.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::config::TransactionConfig;
use super::metrics::{EndedBy, Standing, TransactionMetrics};
use super::records;
use super::slot::{Pending, Slot, Writing};
use super::state::{State, Transition, Txn, TxnError};
use crate::keyed::{self, partition_for};
use crate::storage::{AppendKind, Partition, ReadError, Storage, StorageError};
use millrace_log::clock::SharedClock;

/// Where transactions are kept.
pub const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// States per batch when all is written again.
pub(super) const ENTRIES_PER_BATCH: usize = 500;

/// Transactions that wait for their markers before the look around finds them itself.
pub(super) const QUEUE: usize = 1024;

/// Gives producer ids that were never given before.
pub trait ProducerIds: Send + Sync + 'static {
    /// The next one; may block for a write to disk.
    fn next(&self) -> Result<i64, String>;
}

/// Why the coordinator can't start.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// The topic can't be made.
    #[error("can't create topic {TRANSACTIONS_TOPIC}")]
    Topic(#[from] StorageError),
    /// The topic can't be read.
    #[error("can't read topic {TRANSACTIONS_TOPIC}")]
    Read(#[from] ReadError),
}

/// All transactional ids.
pub struct Coordinator {
    pub(super) storage: Arc<Storage>,
    pub(super) clock: SharedClock,
    pub(super) config: TransactionConfig,
    pub(super) ids: Arc<dyn ProducerIds>,
    pub(super) metrics: TransactionMetrics,
    pub(super) slots: Mutex<HashMap<String, Arc<Slot>>>,
    /// One gate per partition of the topic: states pass together, compaction alone.
    pub(super) gates: Vec<tokio::sync::RwLock<()>>,
    pub(super) partitions: Vec<Arc<Partition>>,
    pub(super) queue: mpsc::Sender<Arc<Slot>>,
    pub(super) queued: Mutex<Option<mpsc::Receiver<Arc<Slot>>>>,
}

impl std::fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Coordinator({} transactional ids)", self.slots.lock().len())
    }
}

pub(super) fn check_id(id: &str) -> Result<(), TxnError> {
    if id.is_empty() { Err(TxnError::Invalid("the transactional id is empty")) } else { Ok(()) }
}

impl Coordinator {
    pub(super) fn slot(&self, id: &str) -> Option<Arc<Slot>> {
        self.slots.lock().get(id).cloned()
    }

    pub(super) fn slot_or_new(&self, id: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        Arc::clone(slots.entry(id.to_owned()).or_insert_with(|| Slot::new(id, None)))
    }

    pub(super) fn all(&self) -> Vec<Arc<Slot>> {
        self.slots.lock().values().cloned().collect()
    }

    pub(super) async fn fresh_id(&self) -> Result<i64, TxnError> {
        let ids = Arc::clone(&self.ids);
        let given = tokio::task::spawn_blocking(move || ids.next()).await;
        given.map_err(|e| TxnError::NotAvailable(e.to_string()))?.map_err(TxnError::NotAvailable)
    }

    /// Describes a transactional id.
    pub fn describe(&self, id: &str) -> Result<Txn, TxnError> {
        check_id(id)?;
        let slot = self.slot(id).ok_or(TxnError::NotFound)?;
        let txn = slot.inner.lock().txn.clone();
        txn.ok_or(TxnError::NotFound)
    }

    /// All transactional ids, sorted.
    pub fn list(&self) -> Vec<(String, Txn)> {
        let mut list: Vec<_> =
            self.all().into_iter().filter_map(|slot| Some((slot.id.clone(), slot.inner.lock().txn.clone()?))).collect();
        list.sort_by(|(a, _), (b, _)| a.cmp(b));
        list
    }

    /// What it counts.
    pub fn metrics(&self) -> &TransactionMetrics {
        &self.metrics
    }

    /// How many transactional ids there are in each state, and how long the oldest transaction has been open.
    pub fn standing(&self) -> Standing {
        let mut standing = Standing::default();
        let states = [
            State::Empty,
            State::Ongoing,
            State::PrepareCommit,
            State::PrepareAbort,
            State::CompleteCommit,
            State::CompleteAbort,
        ];
        let mut counts = [0; 6];
        let mut oldest_ms = i64::MAX;
        for slot in self.all() {
            let inner = slot.inner.lock();
            let Some(txn) = &inner.txn else { continue };
            for (state, count) in states.iter().zip(&mut counts) {
                *count += i64::from(*state == txn.state);
            }
            if txn.state == State::Ongoing || txn.state.is_prepared() {
                standing.open += 1;
                oldest_ms = oldest_ms.min(txn.start_ms);
            }
        }
        standing.by_state = states.iter().map(|state| state.name()).zip(counts).collect();
        if standing.open > 0 {
            standing.longest_ms = self.clock.now_ms().saturating_sub(oldest_ms).max(0);
        }
        standing
    }

    /// The time on its clock, ms since 1970.
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Takes a step, written before it counts; gives the state after it.
    pub(super) async fn step(
        &self,
        slot: &Slot,
        durable: bool,
        by: EndedBy,
        step: impl FnOnce(&Txn, i64) -> Result<Transition, TxnError>,
    ) -> Result<Txn, TxnError> {
        let next = {
            let mut inner = slot.inner.lock();
            if inner.pending.is_some() {
                return Err(TxnError::Concurrent);
            }
            let txn = inner.txn.as_ref().ok_or(TxnError::Mapping)?;
            let next = match step(txn, self.clock.now_ms())? {
                Transition::Done => return Ok(txn.clone()),
                Transition::Write(next) => next,
            };
            inner.pending = Some(Pending::new(Some(next.clone()), by));
            next
        };
        self.write(slot, durable).await?;
        Ok(next)
    }

    /// Writes the pending state of a transactional id and lets it count. One caller at a time: who has set it.
    pub(super) async fn write(&self, slot: &Slot, durable: bool) -> Result<(), TxnError> {
        let not_available = |e: &dyn std::fmt::Display| TxnError::NotAvailable(e.to_string());
        let at = partition_for(&slot.id, self.partitions.len());
        let (Some(partition), Some(gate)) = (self.partitions.get(at), self.gates.get(at)) else {
            return Err(TxnError::NotAvailable("its topic has no partitions".to_owned()));
        };
        let writing = Writing(slot);
        let _pass = gate.read().await;
        let next = match &slot.inner.lock().pending {
            Some(pending) => pending.next.clone(),
            None => return Ok(()),
        };
        let value = next.as_ref().map(records::value);
        let batch = keyed::batch([(records::key(&slot.id), value)], None, self.clock.now_ms());
        let batch = batch.map_err(|e| not_available(&e))?;
        match partition.append(batch, AppendKind::Internal).await {
            Ok(appended) => {
                if let Some(pending) = &mut slot.inner.lock().pending {
                    pending.is_appended = true;
                }
                if durable {
                    // When this fails nobody knows what the disk holds: the state stays pending until the next start.
                    partition.flushed(appended.last_offset).await.map_err(|e| not_available(&e))?;
                }
            }
            Err(e) => {
                let mut inner = slot.inner.lock();
                if inner.pending.as_ref().is_some_and(|pending| !pending.is_appended) {
                    inner.pending = None;
                    slot.moved.notify_waiters();
                }
                return Err(not_available(&e));
            }
        }
        let mut inner = slot.inner.lock();
        let by = inner.pending.take().map_or(EndedBy::Producer, |pending| pending.by);
        inner.txn = next;
        let now = inner.txn.as_ref().map(|txn| txn.state);
        drop(inner);
        // No state follows a prepared one but a complete one: each decision passes here once.
        now.into_iter().for_each(|state| self.metrics.ended(state, by));
        drop(writing);
        slot.moved.notify_waiters();
        Ok(())
    }

    pub(super) fn complete_soon(&self, slot: &Arc<Slot>) {
        if self.queue.try_send(Arc::clone(slot)).is_err() {
            tracing::debug!(id = slot.id, "queue of markers is full: they are written at the next check");
        }
    }

    pub(super) fn report<T>(&self, slot: &Slot, result: Result<T, TxnError>) {
        if let Err(error) = result {
            tracing::warn!(id = slot.id, %error, "state of the transaction not written, retrying");
        }
    }
}
