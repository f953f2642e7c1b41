//! Where the records of a consumer go, and how their positions are joined with the output.
//!
//! In: batches. Out: whether they were taken, or why the session ends. Touches nothing itself.

use super::batch::Batch;
use super::status::Pause;
use crate::client::{ClientError, Limits};
use crate::record::TopicPartition;
use crate::topic_id::TopicId;

/// How positions and output are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// The delivery's own store has both, written in one transaction. The group's offsets are displayed.
    Store,
    /// The group's offsets are committed when the output is durable. Repeats are the target's to recognise.
    Group,
    /// [`Delivery::offer`] writes output and offsets in one Kafka transaction.
    Transaction,
}

/// Where a delivery that keeps positions itself reads a partition on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Which life of the partition: rises when its offsets start anew.
    pub epoch: u64,
    /// The next offset.
    pub next: i64,
    /// The id of the topic in that life, if it is known.
    pub topic_id: Option<TopicId>,
}

/// What became of an offered batch.
#[derive(Debug)]
pub enum Offered<R> {
    /// It is on its way; [`super::Control::stored`] says when it is durable.
    Taken,
    /// It is durable, with its positions.
    Stored,
    /// There is no room now.
    Full(Batch<R>),
    /// Nobody takes anything any more.
    Closed,
}

/// Why a session ended; the next one begins at the positions that are kept.
#[derive(Debug, thiserror::Error)]
pub enum Setback {
    /// The log.
    #[error(transparent)]
    Log(#[from] ClientError),
    /// Another consumer has the name now.
    #[error("another {kind} named `{identity}` has taken over: {hint}")]
    Fenced {
        /// What it is, such as "router".
        kind: &'static str,
        /// The name.
        identity: String,
        /// What to set.
        hint: &'static str,
    },
    /// The target, or the way there.
    #[error("{source}")]
    Delivery {
        /// What it is shown as.
        pause: Pause,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Setback {
    pub(super) fn pause(&self) -> Pause {
        match self {
            Self::Log(_) => Pause::Log,
            Self::Fenced { .. } => Pause::Fenced,
            Self::Delivery { pause, .. } => *pause,
        }
    }
}

/// Where records go.
pub trait Delivery: Send + 'static {
    /// What it takes.
    type Record: Send + 'static;

    /// How positions are kept.
    fn keeping(&self) -> Keeping;

    /// How much it takes at once.
    fn limits(&self) -> Limits;

    /// Where to read on, for [`Keeping::Store`].
    fn known(&self, _of: &TopicPartition) -> Option<Known> {
        None
    }

    /// Takes a batch, or gives it back when there is no room. Does not wait for room: the loop has other things to do
    /// meanwhile.
    fn offer(&mut self, batch: Batch<Self::Record>) -> Result<Offered<Self::Record>, Setback>;

    /// Nothing more is read: what was taken is finished.
    fn close(&mut self) {}
}
