//! What can keep the broker from starting or running, and how refusals of the inside become codes of the wire.
//!
//! Out: [`BrokerError`] for people; for clients Kafka's error codes, one `match` per enum of the inside.

use std::path::PathBuf;

pub(crate) use kafka_protocol::ResponseError as Code;

use crate::group::CoordinatorError;
use crate::group::GroupError;
use crate::storage::{AppendError, ReadError, StorageError};
use crate::transaction::state::TxnError;
use millrace_doors::tls::TlsError;

/// A refusal with its text for people.
pub(crate) type Refusal = (Code, String);

/// Why the broker can't start or go on.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The data folder.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The groups.
    #[error("consumer groups can't be loaded: {source}")]
    Groups {
        /// The cause.
        #[from]
        source: CoordinatorError,
    },
    /// The transactions.
    #[error("transactions can't be loaded: {source}")]
    Transactions {
        /// The cause.
        #[from]
        source: crate::transaction::CoordinatorError,
    },
    /// The broker's own small state.
    #[error("{path} can't be {what}: {reason}")]
    State {
        /// The file.
        path: PathBuf,
        /// Read or written.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// Certificates of a listener.
    #[error("TLS of listener `{listener}` can't be set up: {source}")]
    Tls {
        /// Its name.
        listener: String,
        /// The cause.
        #[source]
        source: TlsError,
    },
    /// A password of the configuration.
    #[error("password of broker user `{user}` can't be read: {source}")]
    Password {
        /// The user.
        user: String,
        /// The cause.
        #[source]
        source: millrace_log::value::ValueError,
    },
    /// The port is taken.
    #[error("port of {listen} is in use: stop the program that uses it, or set `broker.listen` to another port")]
    PortInUse {
        /// The address.
        listen: String,
    },
    /// The address can't be listened on.
    #[error("can't listen on {listen} ({source}): `broker.listen` must name an address of this host as host:port")]
    Listen {
        /// The address.
        listen: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// `run` without `bind`.
    #[error("the broker was started before it was bound to its address")]
    NotBound,
}

/// Code for a refused append.
pub(crate) fn append_code(error: &AppendError) -> Code {
    match error {
        AppendError::Corrupt(_) => Code::CorruptMessage,
        AppendError::OldFormat(_) => Code::UnsupportedForMessageFormat,
        AppendError::Invalid(_) | AppendError::NoKey { .. } | AppendError::Record { .. } => Code::InvalidRecord,
        AppendError::Compression(_) => Code::UnsupportedCompressionType,
        AppendError::TooLarge { .. } | AppendError::Unpacked { .. } => Code::MessageTooLarge,
        AppendError::Timestamp { .. } => Code::InvalidTimestamp,
        AppendError::OutOfOrderSequence { .. } => Code::OutOfOrderSequenceNumber,
        AppendError::Fenced { .. } => Code::InvalidProducerEpoch,
        AppendError::TxnState { .. } => Code::InvalidTxnState,
        AppendError::CoordinatorFenced { .. } => Code::TransactionCoordinatorFenced,
        AppendError::Full { .. } | AppendError::Failed { .. } => Code::KafkaStorageError,
        AppendError::Deleted => Code::UnknownTopicOrPartition,
        AppendError::Closed => Code::NotLeaderOrFollower,
    }
}

/// Code for a refused read.
pub(crate) fn read_code(error: &ReadError) -> Code {
    match error {
        ReadError::OutOfRange { .. } => Code::OffsetOutOfRange,
        ReadError::Io { .. } => Code::KafkaStorageError,
        ReadError::Deleted => Code::UnknownTopicOrPartition,
        ReadError::Closed => Code::NotLeaderOrFollower,
    }
}

/// Code for a refused change of topics.
pub(crate) fn storage_code(error: &StorageError) -> Code {
    match error {
        StorageError::TopicExists(_) => Code::TopicAlreadyExists,
        StorageError::UnknownTopic(_) => Code::UnknownTopicOrPartition,
        StorageError::InvalidTopicName(_) => Code::InvalidTopicException,
        StorageError::InvalidPartitions { .. } => Code::InvalidPartitions,
        StorageError::Setting(_) => Code::InvalidConfig,
        StorageError::Closed => Code::NotController,
        StorageError::Io { .. }
        | StorageError::Damaged { .. }
        | StorageError::LeftOver { .. }
        | StorageError::NoLog { .. }
        | StorageError::Unflushed(_) => Code::KafkaStorageError,
        StorageError::InUse { .. } | StorageError::Newer { .. } => Code::UnknownServerError,
    }
}

/// Code for what a group refuses.
pub(crate) fn group_code(error: &GroupError) -> Code {
    match error {
        GroupError::InvalidGroupId => Code::InvalidGroupId,
        GroupError::UnknownMember => Code::UnknownMemberId,
        GroupError::IllegalGeneration => Code::IllegalGeneration,
        GroupError::RebalanceInProgress => Code::RebalanceInProgress,
        GroupError::FencedInstance => Code::FencedInstanceId,
        GroupError::InconsistentProtocol => Code::InconsistentGroupProtocol,
        GroupError::InvalidSessionTimeout => Code::InvalidSessionTimeout,
        GroupError::MemberIdRequired(_) => Code::MemberIdRequired,
        GroupError::Full => Code::GroupMaxSizeReached,
        GroupError::NotEmpty => Code::NonEmptyGroup,
        GroupError::NotFound => Code::GroupIdNotFound,
        GroupError::NotAvailable => Code::CoordinatorNotAvailable,
        GroupError::MetadataTooLarge => Code::OffsetMetadataTooLarge,
        GroupError::Log(_) => Code::CoordinatorNotAvailable,
        GroupError::TxnState => Code::InvalidTxnState,
        GroupError::FencedProducer => Code::InvalidProducerEpoch,
        GroupError::NotCoordinator => Code::NotCoordinator,
        GroupError::InvalidRequest(_) => Code::InvalidRequest,
        GroupError::FencedEpoch(_) => Code::FencedMemberEpoch,
        GroupError::FencedBy(_) => Code::FencedInstanceId,
        GroupError::UnreleasedInstance(_) => Code::UnreleasedInstanceId,
        GroupError::StaleEpoch => Code::StaleMemberEpoch,
        GroupError::NoMember(_) => Code::UnknownMemberId,
        GroupError::NoGroup(_) => Code::GroupIdNotFound,
        GroupError::UnsupportedAssignor(_) => Code::UnsupportedAssignor,
        GroupError::InvalidRegex(_) => Code::InvalidRegularExpression,
        GroupError::UnsupportedVersion => Code::UnsupportedVersion,
    }
}

/// Code for what the transaction coordinator refuses.
pub(crate) fn txn_code(error: &TxnError) -> Code {
    match error {
        TxnError::Invalid(_) => Code::InvalidRequest,
        TxnError::Timeout { .. } => Code::InvalidTransactionTimeout,
        TxnError::Mapping => Code::InvalidProducerIdMapping,
        TxnError::Fenced => Code::ProducerFenced,
        TxnError::Concurrent => Code::ConcurrentTransactions,
        TxnError::State(_) => Code::InvalidTxnState,
        TxnError::NotAdded => Code::TransactionAbortable,
        TxnError::NotFound => Code::TransactionalIdNotFound,
        TxnError::NotAvailable(_) => Code::CoordinatorNotAvailable,
    }
}

/// The same for clients that don't know PRODUCER_FENCED (below the version that brought it) or at a door where it is called
/// otherwise.
pub(crate) fn txn_code_before(error: &TxnError, knows_fenced: bool) -> Code {
    match txn_code(error) {
        Code::ProducerFenced if !knows_fenced => Code::InvalidProducerEpoch,
        code => code,
    }
}

/// Nought for fine, else the code.
pub(crate) fn group_number<T>(result: &Result<T, GroupError>) -> i16 {
    result.as_ref().err().map_or(0, |error| group_code(error).code())
}
