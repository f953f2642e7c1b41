//! Markers of decided transactions: written to every partition, then the transaction is complete.
//!
//! In: decided transactions. Out: control batches. Touches the log.

use std::time::Instant;

use futures::StreamExt as _;
use futures::stream;

use super::coordinator::Coordinator;
use super::metrics::EndedBy;
use super::slot::{Marking, Slot};
use super::state::{ProducerEpoch, State, Transition, Txn};
use crate::group::{Coordinator as Groups, OFFSETS_TOPIC};
use crate::storage::{AppendError, AppendKind, Marker, marker_batch};
use millrace_log::record::TopicPartition;

/// Epoch of the coordinator: there is one, and it is never replaced.
pub const COORDINATOR_EPOCH: i32 = 0;

/// Markers of one transaction that are being written at the same time.
const MARKING: usize = 32;

impl Coordinator {
    /// Writes the markers of a decided transaction, then that it is complete.
    pub(super) async fn complete(&self, groups: &Groups, slot: &Slot) {
        let txn = {
            let mut inner = slot.inner.lock();
            let Some(txn) = inner.txn.clone().filter(|txn| txn.state.is_prepared()) else { return };
            if inner.marking || inner.pending.is_some() {
                return;
            }
            inner.marking = true;
            txn
        };
        let marking = Marking(slot);
        let commit = txn.state == State::PrepareCommit;
        let marker = Marker { commit, coordinator_epoch: COORDINATOR_EPOCH };
        let producer = (txn.producer_id, txn.epoch);
        let marks = txn.partitions.into_iter().map(|tp| async move {
            let written = self.mark(groups, &tp, producer, marker).await;
            match &written {
                Ok(()) => {
                    if let Some(txn) = &mut slot.inner.lock().txn {
                        txn.partitions.remove(&tp);
                    }
                }
                Err(error) => {
                    self.metrics.failed_markers.inc();
                    tracing::warn!(id = slot.id, partition = %tp, %error, "marker not written, retrying");
                }
            }
            written.is_ok()
        });
        let all =
            stream::iter(marks).buffer_unordered(MARKING).fold(true, |all, written| async move { all & written }).await;
        if all {
            let complete = |txn: &Txn, now_ms| Ok(Transition::Write(txn.complete(now_ms)));
            // Need not be durable: what was decided is, and whatever comes next stands behind it in the same partition.
            self.report(slot, self.step(slot, false, EndedBy::Producer, complete).await);
        }
        drop(marking);
    }

    /// Writes one marker, durably. A partition that is gone needs none.
    async fn mark(
        &self,
        groups: &Groups,
        tp: &TopicPartition,
        producer: ProducerEpoch,
        marker: Marker,
    ) -> Result<(), AppendError> {
        let began = Instant::now();
        let written = self.write_marker(groups, tp, producer, marker).await;
        if written.is_ok() {
            self.metrics.marker_seconds.observe(began.elapsed().as_secs_f64());
        }
        match written {
            Err(AppendError::Deleted) => Ok(()),
            Err(error @ (AppendError::Fenced { .. } | AppendError::CoordinatorFenced { .. })) => {
                tracing::warn!(partition = %tp, %error, "marker skipped, a newer one exists");
                Ok(())
            }
            written => written,
        }
    }

    /// Writes a marker to a partition, whatever is known of its transaction; durable when it returns.
    pub async fn write_marker(
        &self,
        groups: &Groups,
        tp: &TopicPartition,
        producer: ProducerEpoch,
        marker: Marker,
    ) -> Result<(), AppendError> {
        if &*tp.topic == OFFSETS_TOPIC {
            return groups.end_transaction(tp.partition, producer, marker).await;
        }
        let partition = self.storage.topic(&tp.topic).and_then(|topic| topic.partition(tp.partition));
        let partition = partition.ok_or(AppendError::Deleted)?;
        let batch = marker_batch(producer.0, producer.1, marker, self.clock.now_ms());
        let appended = partition.append(batch, AppendKind::Internal).await?;
        partition.flushed(appended.last_offset).await
    }
}
