//! Why a request to a consumer group is refused.
//!
//! Out: one enum. Leaves the codes of the wire to the protocol's handlers.

/// Why a group refuses a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// Not a name for a group.
    #[error("the group id is empty")]
    InvalidGroupId,
    /// Nobody of that id is in the group.
    #[error("unknown member: rejoin without a member id")]
    UnknownMember,
    /// Not the present generation.
    #[error("illegal generation: rejoin the group")]
    IllegalGeneration,
    /// Join again.
    #[error("the group is rebalancing: rejoin the group")]
    RebalanceInProgress,
    /// Another member has taken over the static id.
    #[error("another member has taken over this group.instance.id: use each id for one member only")]
    FencedInstance,
    /// No common protocol.
    #[error("no assignment strategy in common with the other members")]
    InconsistentProtocol,
    /// Session time-out out of bounds.
    #[error("session.timeout.ms is outside of the range that the broker allows")]
    InvalidSessionTimeout,
    /// Join again with this id (KIP-394).
    #[error("rejoin with the member id {0}")]
    MemberIdRequired(String),
    /// Too many members.
    #[error("the group is full: raise broker.group.max_members")]
    Full,
    /// Has members.
    #[error("the group has members: stop them first")]
    NotEmpty,
    /// No such group.
    #[error("unknown group")]
    NotFound,
    /// The broker stops, or the group was removed while the member waited.
    #[error("the group coordinator is not available: try again")]
    NotAvailable,
    /// Metadata of a commit is too long.
    #[error("the metadata of the commit is too long")]
    MetadataTooLarge,
    /// The log did not take it.
    #[error("can't store offsets: {0}")]
    Log(String),
    /// The transaction of the commit has ended in the meantime.
    #[error("the transaction of the commit has ended")]
    TxnState,
    /// The producer of the commit has been replaced.
    #[error("a newer producer with the same transactional id has taken over")]
    FencedProducer,
    /// The broker stops: another one, or this one when it is back, serves the group.
    #[error("the broker is stopping")]
    NotCoordinator,
    /// A request that says what it may not.
    #[error("{0}")]
    InvalidRequest(String),
    /// A heartbeat in an epoch that is not the member's.
    #[error("{0}")]
    FencedEpoch(String),
    /// Another member has taken over the static id, by name.
    #[error("{0}")]
    FencedBy(String),
    /// The static id belongs to a member that has not left.
    #[error("{0}")]
    UnreleasedInstance(String),
    /// A commit or fetch in an epoch that is not the member's.
    #[error("the member epoch is stale: wait for the next heartbeat")]
    StaleEpoch,
    /// Nobody of that id is in the group, by name.
    #[error("{0}")]
    NoMember(String),
    /// No such group, or one of another kind, by name.
    #[error("{0}")]
    NoGroup(String),
    /// The server has no assignor of that name.
    #[error("{0}")]
    UnsupportedAssignor(String),
    /// A pattern of topics that can't be read.
    #[error("{0}")]
    InvalidRegex(String),
    /// Members of the consumer protocol must commit by OffsetCommit 9 or later.
    #[error("members of the consumer protocol must commit by OffsetCommit 9 or later")]
    UnsupportedVersion,
}
