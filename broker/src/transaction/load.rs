//! Start of the transaction coordinator: makes `__transaction_state` if need be, and reads back what it holds.
//!
//! In: records of the topic. Out: a [`Coordinator`] with all transactional ids. Touches the log.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::config::TransactionConfig;
use super::coordinator::{Coordinator, CoordinatorError, ProducerIds, QUEUE, TRANSACTIONS_TOPIC};
use super::metrics::TransactionMetrics;
use super::records;
use super::slot::Slot;
use super::state::Txn;
use crate::keyed;
use crate::storage::{Partition, Storage, StorageError, TopicSettings};
use millrace_log::clock::SharedClock;

const TRANSACTION_PARTITIONS: i32 = 4;

impl Coordinator {
    /// Makes the topic if need be and reads all that it holds.
    pub async fn open(
        storage: Arc<Storage>,
        clock: SharedClock,
        config: TransactionConfig,
        ids: Arc<dyn ProducerIds>,
    ) -> Result<Self, CoordinatorError> {
        let topic = match storage.topic(TRANSACTIONS_TOPIC) {
            Some(topic) => topic,
            None => {
                let mut settings = TopicSettings::default();
                // What is not deleted by age: the coordinator itself removes what no longer counts.
                settings.set("cleanup.policy", "compact").map_err(StorageError::from)?;
                settings.set("segment.bytes", "8388608").map_err(StorageError::from)?;
                storage.create_topic(TRANSACTIONS_TOPIC, TRANSACTION_PARTITIONS, settings).await?
            }
        };
        let partitions = topic.partitions();
        let gates = partitions.iter().map(|_| tokio::sync::RwLock::new(())).collect();
        let mut txns = HashMap::new();
        for partition in &partitions {
            load(partition, &mut txns).await?;
        }
        let slots = txns.into_iter().map(|(id, txn)| (id.clone(), Slot::new(&id, Some(txn)))).collect();
        let (queue, queued) = mpsc::channel(QUEUE);
        let queued = Mutex::new(Some(queued));
        let (metrics, slots) = (TransactionMetrics::default(), Mutex::new(slots));
        Ok(Self { storage, clock, config, ids, metrics, slots, gates, partitions, queue, queued })
    }
}

async fn load(partition: &Arc<Partition>, txns: &mut HashMap<String, Txn>) -> Result<(), CoordinatorError> {
    let mut from = partition.log_start_offset();
    while from < partition.high_watermark() {
        let batches = keyed::batches(partition.read(from, 4 << 20, true).await?.records);
        let Some(next) = batches.last().map(|batch| batch.next_offset) else { break };
        for batch in batches {
            let pairs = match batch.pairs {
                Ok(pairs) => pairs,
                Err(error) => {
                    let (partition, before) = (partition.number(), batch.next_offset);
                    tracing::error!(partition, before, %error, "can't read some transactions: they continue from older states");
                    continue;
                }
            };
            for (at, (key, value)) in pairs {
                let Some(id) = records::id_of(key) else { continue };
                match value.map(records::txn_of) {
                    None => drop(txns.remove(&id)),
                    Some(Some(txn)) => drop(txns.insert(id, txn)),
                    Some(None) => {
                        let partition = partition.number();
                        tracing::error!(
                            id,
                            partition,
                            at,
                            "can't read the state of a transaction: it continues from an older one"
                        );
                    }
                }
            }
        }
        from = next;
    }
    Ok(())
}
