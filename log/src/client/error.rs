//! Why the log could not be reached, or refused: the errors of every client.
//!
//! Out: [`ClientError`], each with its cause. Touches nothing.

use kafka_protocol::ResponseError as Code;

use crate::native::error::WireError;
use crate::record::TopicPartition;

/// Why the log could not be reached, or refused.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A secret of the connection can't be read.
    #[error(transparent)]
    Secret(#[from] crate::value::ValueError),
    /// The connection can't be made as configured.
    #[error("`kafka.{key}`: {reason}")]
    Connection {
        /// The key at fault.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The client's own thread can't be started.
    #[error("no thread for the client of the log")]
    Thread(#[source] std::io::Error),
    /// No answer: the call may be repeated.
    #[error("log at {brokers} does not answer: is the broker running and the address right?")]
    Unreachable {
        /// The addresses tried.
        brokers: String,
        /// The cause.
        #[source]
        source: WireError,
    },
    /// A topic or a group can't be read, for a reason that may last: a missing right, a missing topic.
    #[error("{what} can't be read: {source}")]
    Read {
        /// Which.
        what: String,
        /// The cause.
        #[source]
        source: WireError,
    },
    /// A batch was not taken, or not whole: the records at `failed` may be sent again (`retriable`) or never.
    #[error("{topic_partition} refused {} of {count} records: {source}", failed.len())]
    Refused {
        /// Where to.
        topic_partition: TopicPartition,
        /// Size of the batch.
        count: usize,
        /// Indexes into the batch.
        failed: Vec<usize>,
        /// Whether sending them again may succeed.
        retriable: bool,
        /// The first cause.
        #[source]
        source: WireError,
    },
    /// The topic does not exist and could not be created.
    #[error("topic `{topic}` can't be created: {reason}")]
    Topic {
        /// Its name.
        topic: String,
        /// What the broker said.
        reason: String,
    },
    /// The consumed position is gone: retention passed it, or the topic was created anew.
    #[error("offset {offset} of {topic_partition} is out of the log's range, which starts at {log_start}")]
    OutOfRange {
        /// Which partition.
        topic_partition: TopicPartition,
        /// The offset asked for.
        offset: i64,
        /// The oldest offset that there is.
        log_start: i64,
    },
    /// The topic is another one by the same name.
    #[error("the topic of {topic_partition} was deleted and created anew")]
    Recreated {
        /// Which partition.
        topic_partition: TopicPartition,
    },
    /// Another consumer has taken the name.
    #[error("another consumer named `{identity}` has taken its place in the group")]
    Fenced {
        /// The name.
        identity: String,
    },
    /// Records that can't be read; the consumer has passed over them.
    #[error("offsets {from} to before {to} of {topic_partition} can't be read: {reason}")]
    Unreadable {
        /// Which partition.
        topic_partition: TopicPartition,
        /// The first of them.
        from: i64,
        /// The offset behind the last: reading goes on here.
        to: i64,
        /// What is wrong with them.
        reason: String,
    },
}

impl ClientError {
    /// Whether a batch was refused because its topic, or its partition, does not exist.
    pub fn is_topic_missing(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.code() == Some(Code::UnknownTopicOrPartition))
    }

    /// From a connection's fault.
    pub(crate) fn unreachable(brokers: &str, source: WireError) -> Self {
        Self::Unreachable { brokers: brokers.to_owned(), source }
    }
}
