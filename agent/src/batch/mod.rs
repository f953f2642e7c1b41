//! Batches between sources and senders: what all sources hand over, and the limits on what is on its way.
//!
//! In: records of files and pushes. Out: [`SourceBatch`]es in the queues of `delivery/`, their acknowledgements. Touches
//! nothing. Sources know this room and not the senders behind the queues.

/// One answer for several batches.
mod ack;
/// Memory for what is not yet acknowledged.
mod budget;
/// How much is on its way to one partition at once.
mod flow;
/// A source as delivery sees it.
mod source;
/// Records of one source.
mod source_batch;

pub(crate) use ack::BatchAck;
pub(crate) use budget::{MemoryBudget, MemoryShare};
pub(crate) use flow::Flow;
pub(crate) use source::{Anchor, BatchSource, Identity, partition_of};
pub(crate) use source_batch::{Positions, QueuedBatches, SourceBatch, StreamLabels};
