//! Requests of transactional producers: start, add partitions, end.
//!
//! In: ids and epochs of producers, partitions. Out: answers, once what they say is in the log. Touches the log through the
//! coordinator.

use super::coordinator::{Coordinator, check_id};
use super::metrics::EndedBy;
use super::slot::{Pending, settled};
use super::state::{End, Init, ProducerEpoch, Protocol, Txn, TxnError};
use millrace_log::record::TopicPartition;

impl Coordinator {
    /// A producer without transactions gets an id.
    pub async fn init_idempotent(&self) -> Result<ProducerEpoch, TxnError> {
        Ok((self.fresh_id().await?, 0))
    }

    /// A producer with a transactional id starts, or goes on after an error with what it `had`: whoever used the id before
    /// is fenced, and an open transaction aborted.
    pub async fn init(&self, id: &str, timeout_ms: i32, had: Option<ProducerEpoch>) -> Result<ProducerEpoch, TxnError> {
        check_id(id)?;
        let max_ms = i64::try_from(self.config.max_timeout.0.as_millis()).unwrap_or(i64::MAX);
        if timeout_ms <= 0 || i64::from(timeout_ms) > max_ms {
            return Err(TxnError::Timeout { max_ms });
        }
        let mut fresh = None;
        loop {
            let slot = self.slot_or_new(id);
            settled(&slot).await;
            let next = {
                let mut inner = slot.inner.lock();
                if inner.is_gone {
                    continue;
                }
                if inner.pending.is_some() {
                    return Err(TxnError::Concurrent);
                }
                let needs_fresh = inner.txn.as_ref().is_none_or(Txn::is_exhausted);
                if needs_fresh && fresh.is_none() {
                    None
                } else {
                    let now_ms = self.clock.now_ms();
                    let txn = match (&inner.txn, fresh) {
                        (Some(txn), _) => txn.clone(),
                        (None, Some(producer_id)) => Txn::new(producer_id, timeout_ms, now_ms),
                        (None, None) => return Err(TxnError::Concurrent),
                    };
                    let init = txn.init(timeout_ms, had, fresh, now_ms)?;
                    let (Init::Ready(next) | Init::Abort(next)) = &init;
                    inner.pending = Some(Pending::new(Some(next.clone()), EndedBy::Successor));
                    Some(init)
                }
            };
            match next {
                None => fresh = Some(self.fresh_id().await?),
                Some(Init::Ready(next)) => {
                    self.write(&slot, true).await?;
                    return Ok(next.producer());
                }
                Some(Init::Abort(_)) => {
                    self.write(&slot, true).await?;
                    self.complete_soon(&slot);
                    return Err(TxnError::Concurrent);
                }
            }
        }
    }

    /// Partitions become part of a producer's transaction.
    pub async fn add(
        &self,
        id: &str,
        producer: ProducerEpoch,
        partitions: &[TopicPartition],
        protocol: Protocol,
    ) -> Result<(), TxnError> {
        check_id(id)?;
        let slot = self.slot(id).ok_or(TxnError::Mapping)?;
        settled(&slot).await;
        self.step(&slot, true, EndedBy::Producer, |txn, now_ms| txn.add(producer, partitions, protocol, now_ms))
            .await
            .map(drop)
    }

    /// Whether partitions are part of a producer's open transaction.
    pub fn verify(&self, id: &str, producer: ProducerEpoch, partition: &TopicPartition) -> Result<(), TxnError> {
        check_id(id)?;
        let slot = self.slot(id).ok_or(TxnError::Mapping)?;
        let inner = slot.inner.lock();
        inner.txn.as_ref().ok_or(TxnError::Mapping)?.verify(producer, partition)
    }

    /// A producer ends its transaction; decided and durable when it returns. Gives id and epoch for the next one.
    pub async fn end(&self, id: &str, producer: ProducerEpoch, end: End) -> Result<ProducerEpoch, TxnError> {
        check_id(id)?;
        let slot = self.slot(id).ok_or(TxnError::Mapping)?;
        settled(&slot).await;
        let needs_fresh =
            end.protocol == Protocol::Two && slot.inner.lock().txn.as_ref().is_some_and(Txn::is_exhausted);
        let fresh = if needs_fresh { Some(self.fresh_id().await?) } else { None };
        let now =
            self.step(&slot, true, EndedBy::Producer, |txn, now_ms| txn.end(producer, end, fresh, now_ms)).await?;
        if now.state.is_prepared() {
            self.complete_soon(&slot);
        }
        Ok(now.producer())
    }
}
