//! What an append to a partition says and gets back: who appends, and where the batch went.
//!
//! In: the kind of append. Out: offsets. Touches nothing.

/// Who appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendKind {
    /// A producer: everything is checked.
    Client,
    /// A producer within a transaction that its coordinator knew to be open when [`super::Partition::verification`] was asked.
    Transaction(Verification),
    /// A coordinator of the broker: no window of timestamps, control batches and any size allowed.
    Internal,
    /// The same, on behalf of a transaction that was open when [`super::Partition::verification`] was asked.
    InternalTransaction(Verification),
}

impl AppendKind {
    /// Whether the batch comes from outside and every rule holds for it.
    pub(super) fn is_client(self) -> bool {
        matches!(self, Self::Client | Self::Transaction(_))
    }

    pub(super) fn verification(self) -> Option<Verification> {
        match self {
            Self::Transaction(verification) | Self::InternalTransaction(verification) => Some(verification),
            Self::Client | Self::Internal => None,
        }
    }
}

/// A moment in the life of a partition: what the coordinator says of a transaction after it holds until the next marker
/// of the same producer. So no record can slip in behind the marker that ends its transaction (KIP-890).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Verification(pub(super) u64);

/// Where a batch went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Offset of the last record: what [`super::Partition::flushed`] is asked for.
    pub last_offset: i64,
    /// Our clock, where the topic is dated by it; else -1.
    pub log_append_time_ms: i64,
    /// Earliest offset at that moment.
    pub log_start_offset: i64,
    /// The batch was there already: a repeated request of an idempotent producer.
    pub duplicate: bool,
}
