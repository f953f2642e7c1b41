//! Where batches of pushed records leave to: the queues of the partition senders, or the spool.
//!
//! In: which partitions a batch has records for, and its cost. Out: room for it, in all of them or in none. Touches nothing.

use std::sync::Arc;

use tokio::sync::mpsc::{self, error::TrySendError};

use super::receiver::ReceiverPartition;
use super::rejected::Rejected;
use super::spool::{Job, SpoolQueue};
use crate::batch::{MemoryShare, QueuedBatches};

/// The queues of the senders, for one receiver.
#[derive(Debug)]
pub(crate) struct Outlets {
    pub queues: Vec<mpsc::Sender<QueuedBatches>>,
    pub partitions: Vec<Arc<ReceiverPartition>>,
    /// Who waits for room in several queues holds it: two that wait for each other's would wait for ever.
    pub turn: Arc<tokio::sync::Mutex<()>>,
}

/// Whether records are taken.
#[derive(Debug, Clone)]
pub(crate) enum Gate {
    /// The log did not say yet how many partitions there are.
    NotYet,
    Open(Arc<Outlets>),
    Closed,
}

/// Where a batch goes.
pub(super) enum Exit {
    Queues(Arc<Outlets>),
    Spool(Arc<SpoolQueue>),
}

/// Room for one batch.
pub(super) enum Room<'e> {
    Queues { outlets: &'e Outlets, permits: Vec<(usize, mpsc::Permit<'e, QueuedBatches>)> },
    Spool { permit: mpsc::Permit<'e, Job>, space: MemoryShare },
}

impl Exit {
    /// Room, if there is some now. `partitions` selects those that are needed, of so many.
    pub fn room_now(&self, cost: usize, partitions: impl Fn(usize) -> Vec<usize>) -> Result<Room<'_>, Rejected> {
        match self {
            Self::Queues(outlets) => {
                let mut permits = Vec::new();
                for partition in partitions(outlets.queues.len()) {
                    match outlets.queues[partition].try_reserve() {
                        Ok(permit) => permits.push((partition, permit)),
                        Err(TrySendError::Full(())) => {
                            return Err(Rejected::Full { what: "a queue (agent.queue_pieces)" });
                        }
                        Err(TrySendError::Closed(())) => return Err(Rejected::Stopping),
                    }
                }
                Ok(Room::Queues { outlets, permits })
            }
            Self::Spool(spool) => {
                let space = MemoryShare::take(&spool.space, cost)
                    .ok_or(Rejected::Full { what: "the spool (agent.spool.max_bytes)" })?;
                let permit = spool.jobs.try_reserve().map_err(|_| Rejected::Full { what: "the queue of the spool" })?;
                Ok(Room::Spool { permit, space })
            }
        }
    }

    /// Room, as soon as there is some.
    pub async fn room(&self, cost: usize, partitions: impl Fn(usize) -> Vec<usize>) -> Result<Room<'_>, Rejected> {
        match self {
            Self::Queues(outlets) => {
                let _turn = outlets.turn.lock().await;
                let mut permits = Vec::new();
                for partition in partitions(outlets.queues.len()) {
                    let permit = outlets.queues[partition].reserve().await.map_err(|_| Rejected::Stopping)?;
                    permits.push((partition, permit));
                }
                Ok(Room::Queues { outlets, permits })
            }
            Self::Spool(spool) => {
                let mut space = MemoryShare::none(&spool.space);
                space.wait_for(cost).await;
                let permit = spool.jobs.reserve().await.map_err(|_| Rejected::Stopping)?;
                Ok(Room::Spool { permit, space })
            }
        }
    }
}
