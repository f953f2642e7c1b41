//! Forgets transactional ids that were not used for long, and compacts grown partitions of `__transaction_state`.
//!
//! In: the time. Out: records. Touches the log through the coordinator.

use std::sync::Arc;

use bytes::Bytes;

use super::coordinator::{Coordinator, ENTRIES_PER_BATCH, TRANSACTIONS_TOPIC};
use super::metrics::EndedBy;
use super::records;
use super::slot::Pending;
use crate::keyed::{self, partition_for};
use crate::storage::AppendKind;

impl Coordinator {
    /// Forgets transactional ids that have not been used for long, and compacts partitions that have grown.
    pub async fn tidy(&self) {
        let expiry_ms = i64::try_from(self.config.id_expiry.0.as_millis()).unwrap_or(i64::MAX);
        let now_ms = self.clock.now_ms();
        for slot in self.all() {
            let is_over = {
                let mut inner = slot.inner.lock();
                let is_over = inner.pending.is_none()
                    && !inner.marking
                    && inner.txn.as_ref().is_some_and(|txn| txn.is_expired(expiry_ms, now_ms));
                if is_over {
                    inner.pending = Some(Pending::new(None, EndedBy::Producer));
                }
                is_over
            };
            if is_over {
                self.report(&slot, self.write(&slot, true).await);
            }
            // Also those that were asked for and never written.
            let mut slots = self.slots.lock();
            let mut inner = slot.inner.lock();
            if inner.txn.is_none() && inner.pending.is_none() && Arc::strong_count(&slot) <= 2 {
                inner.is_gone = true;
                slots.remove(&slot.id);
            }
        }
        for at in 0..self.partitions.len() {
            if let Err(error) = self.write_anew(at).await {
                tracing::warn!(partition = at, error, "can't compact {TRANSACTIONS_TOPIC}, retrying");
            }
        }
    }

    async fn write_anew(&self, at: usize) -> Result<(), String> {
        let (Some(partition), Some(gate)) = (self.partitions.get(at), self.gates.get(at)) else { return Ok(()) };
        if partition.size_bytes() < self.config.compact_at.0 {
            return Ok(());
        }
        // Alone: what has been appended has been applied, or its request has gone and it is written again.
        let _alone = gate.write().await;
        let end = partition.log_end_offset();
        let living: Vec<(Bytes, Option<Bytes>)> = self
            .list()
            .into_iter()
            .filter(|(id, _)| partition_for(id, self.partitions.len()) == at)
            .map(|(id, txn)| (records::key(&id), Some(records::value(&txn))))
            .collect();
        for some in living.chunks(ENTRIES_PER_BATCH) {
            let batch = keyed::batch(some.iter().cloned(), None, self.clock.now_ms()).map_err(|e| e.to_string())?;
            let appended = partition.append(batch, AppendKind::Internal).await.map_err(|e| e.to_string())?;
            partition.flushed(appended.last_offset).await.map_err(|e| e.to_string())?;
        }
        partition.delete_records(end).await.map_err(|e| e.to_string()).map(drop)
    }
}
