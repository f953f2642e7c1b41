//! Errors of segment storage: opening, topics, appends, reads.
//!
//! Out: one enum per kind of call, each text with its cure. Leaves the codes of the wire to the protocol's handlers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the storage can't be opened, or a change of topics can't be made.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The disk returned an error.
    #[error("can't {what} {path}: {source}")]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another process has the folder.
    #[error("data folder {path} is in use by {holder}: stop it first, or use another folder (`data_dir`)")]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Process id of the holder as far as known.
        holder: String,
    },
    /// Written by a newer version.
    #[error(
        "data folder {path} has format {found}, this version reads up to {known}: run the newer version of millrace, or use an empty folder"
    )]
    Newer {
        /// The folder.
        path: PathBuf,
        /// What VERSION says.
        found: String,
        /// What we know.
        known: u32,
    },
    /// A file that holds what topics there are can't be understood.
    #[error("{path} is damaged ({reason}): restore it from a backup, or move the folder away to start empty")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Not the folder of a log.
    #[error("{path} is not the folder of a log: use the folder with the files VERSION and topics.json")]
    NoLog {
        /// The folder.
        path: PathBuf,
    },
    /// Such a topic exists.
    #[error("topic {0} already exists")]
    TopicExists(String),
    /// No such topic.
    #[error("unknown topic {0}")]
    UnknownTopic(String),
    /// Not a name.
    #[error("invalid topic name `{0}`: use 1 to 249 of a-z, A-Z, 0-9, `.`, `_`, `-`, and not `.` or `..`")]
    InvalidTopicName(String),
    /// Too few or too many.
    #[error("topic {topic} can't have {wanted} partitions: it has {has}, and the number may grow up to {max}")]
    InvalidPartitions {
        /// The topic.
        topic: String,
        /// What was asked for.
        wanted: i32,
        /// What there is now.
        has: i32,
        /// The most there can be.
        max: i32,
    },
    /// A folder of that name holds data that no topic owns.
    #[error("{path} holds data of a topic that is not in the catalog: move the folder away, then try again")]
    LeftOver {
        /// The folder.
        path: PathBuf,
    },
    /// Some partition could not be flushed.
    #[error("not everything could be flushed: {0}")]
    Unflushed(#[source] AppendError),
    /// A setting that isn't one.
    #[error(transparent)]
    Setting(#[from] crate::config::SettingError),
    /// The storage has been closed.
    #[error("the log is stopping")]
    Closed,
}

impl StorageError {
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }

    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}

/// Why a batch was not appended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// Bytes that aren't whole record batches, or a wrong CRC (CORRUPT_MESSAGE).
    #[error("batch is damaged: {0}")]
    Corrupt(&'static str),
    /// Message format 0 or 1 (UNSUPPORTED_FOR_MESSAGE_FORMAT / INVALID_RECORD).
    #[error("message format {0} is not supported, only format 2: use a client newer than Kafka 0.11")]
    OldFormat(u8),
    /// A well-formed batch that breaks a rule (INVALID_RECORD).
    #[error("batch is refused: {0}")]
    Invalid(&'static str),
    /// Records without a key where only the last record of each key counts (INVALID_RECORD).
    #[error("a compacted topic requires keys: records {places:?} of the batch have none")]
    NoKey {
        /// Which records of the batch, from 0 on; the first hundred.
        places: Vec<i32>,
    },
    /// Compression codec we don't know (UNSUPPORTED_COMPRESSION_TYPE).
    #[error("unknown compression codec {0}")]
    Compression(u8),
    /// Above max.message.bytes (MESSAGE_TOO_LARGE).
    #[error(
        "batch of {size} bytes is larger than max.message.bytes ({max}): send smaller batches or raise the setting"
    )]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit of the topic.
        max: usize,
    },
    /// Records that decompress to more than the topic takes (MESSAGE_TOO_LARGE).
    #[error(
        "records of the batch decompress to more than millrace.max.unpacked.bytes ({max}){}: send smaller batches or raise the setting",
        place.map(|place| format!(", record {place} passes the limit")).unwrap_or_default()
    )]
    Unpacked {
        /// Which record of the batch passes the limit, from 0 on, where that is known.
        place: Option<i32>,
        /// The limit of the topic.
        max: u64,
    },
    /// A record that no reader can take (INVALID_RECORD).
    #[error("record {place} of the batch is malformed: {what}")]
    Record {
        /// Which record of the batch, from 0 on.
        place: i32,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Outside of the window (INVALID_TIMESTAMP).
    #[error(
        "timestamp {timestamp_ms} is outside of [{earliest_ms}, {latest_ms}], the range that the topic accepts{}",
        place.map(|place| format!(" (record {place} of the batch)")).unwrap_or_default()
    )]
    Timestamp {
        /// Which record of the batch, from 0 on; `None`: the header says it.
        place: Option<i32>,
        /// The offending timestamp.
        timestamp_ms: i64,
        /// Earliest taken.
        earliest_ms: i64,
        /// Latest taken.
        latest_ms: i64,
    },
    /// A gap in an idempotent producer's sequence (OUT_OF_ORDER_SEQUENCE_NUMBER).
    #[error("producer {producer_id} epoch {epoch}: sequence {found} does not follow {last}")]
    OutOfOrderSequence {
        /// Who.
        producer_id: i64,
        /// Its epoch.
        epoch: i16,
        /// First sequence of the batch.
        found: i32,
        /// Last sequence stored, -1 for none.
        last: i32,
    },
    /// A newer instance of the producer has taken over (INVALID_PRODUCER_EPOCH).
    #[error("producer {producer_id} epoch {epoch} is fenced (current epoch {current})")]
    Fenced {
        /// Who.
        producer_id: i64,
        /// Its epoch.
        epoch: i16,
        /// The epoch that took over.
        current: i16,
    },
    /// The batch belongs to no open transaction, or the transaction of its producer is open and it is outside of it
    /// (INVALID_TXN_STATE).
    #[error("producer {producer_id} epoch {epoch}: {what}")]
    TxnState {
        /// Who.
        producer_id: i64,
        /// Its epoch.
        epoch: i16,
        /// What is wrong.
        what: &'static str,
    },
    /// A marker of a coordinator that has been replaced (TRANSACTION_COORDINATOR_FENCED).
    #[error("marker for producer {producer_id} from coordinator epoch {epoch} is fenced (current epoch {current})")]
    CoordinatorFenced {
        /// Whose transaction.
        producer_id: i64,
        /// Epoch of the coordinator that sent it.
        epoch: i32,
        /// Epoch of the coordinator that took over.
        current: i32,
    },
    /// The disk is full; try again later (KAFKA_STORAGE_ERROR, retriable).
    #[error("the disk of {path} is full: free space or lower retention; reads continue")]
    Full {
        /// The segment.
        path: PathBuf,
    },
    /// The disk failed; this partition takes no more until the process is restarted (KAFKA_STORAGE_ERROR, retriable).
    #[error("writing to {path} failed ({cause}): check the disk, then restart; reads continue")]
    Failed {
        /// The segment.
        path: PathBuf,
        /// What the disk said.
        cause: Arc<str>,
    },
    /// The partition was deleted (UNKNOWN_TOPIC_OR_PARTITION).
    #[error("the partition has been deleted")]
    Deleted,
    /// The storage is stopping (NOT_LEADER_OR_FOLLOWER, retriable).
    #[error("the log is stopping")]
    Closed,
}

/// Why nothing could be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// Outside of what is stored (OFFSET_OUT_OF_RANGE).
    #[error("offset {offset} is outside of [{log_start_offset}, {high_watermark}]")]
    OutOfRange {
        /// What was asked for.
        offset: i64,
        /// Earliest offset.
        log_start_offset: i64,
        /// One past the latest offset that may be read.
        high_watermark: i64,
    },
    /// The disk failed (KAFKA_STORAGE_ERROR, retriable).
    #[error("reading {path} failed: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        cause: Arc<str>,
    },
    /// The partition was deleted (UNKNOWN_TOPIC_OR_PARTITION).
    #[error("the partition has been deleted")]
    Deleted,
    /// The storage is stopping (NOT_LEADER_OR_FOLLOWER, retriable).
    #[error("the log is stopping")]
    Closed,
}
