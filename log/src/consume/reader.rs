//! What the loop asks of the log, and the two clients that answer: all partitions of some topics, or those of a group member.
//!
//! In: topics, offsets. Out: records, positions, ends. Touches the network through [`crate::client`]; calls block.

use crate::client::group::{GroupReader, Readable, SourceRecord};
use crate::client::{ClientError, Consumed, Limits, StartAt, WireConsumer};
use crate::record::TopicPartition;

/// A record that knows where it stands.
pub trait Positioned: Send + 'static {
    /// Its partition.
    fn partition(&self) -> &TopicPartition;

    /// Its offset there.
    fn offset(&self) -> i64;
}

impl Positioned for Consumed {
    fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    fn offset(&self) -> i64 {
        self.offset
    }
}

impl Positioned for SourceRecord {
    fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    fn offset(&self) -> i64 {
        self.offset
    }
}

/// What a consumer group gave to this reader.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupAssignment {
    /// Changes with each assignment.
    pub generation: u64,
    /// Its partitions, and the offsets that the group had committed; none: from the oldest record on.
    pub partitions: Vec<(TopicPartition, Option<i64>)>,
}

/// What the consumer's thread asks of the log. Calls block.
pub trait LogReader: Send + 'static {
    /// What it reads.
    type Record: Positioned;

    /// The assignment of what was polled last; `None` for readers that are not in a group: the loop assigns all partitions.
    fn group(&self) -> Option<u64> {
        None
    }

    /// The group's assignment in full.
    fn assignment(&self) -> GroupAssignment {
        GroupAssignment::default()
    }

    /// Partitions of a topic, empty if there is no such topic.
    fn partitions(&self, topic: &str) -> Result<Vec<i32>, ClientError>;

    /// Log start offset and the end.
    fn watermarks(&self, of: &TopicPartition) -> Result<(i64, i64), ClientError>;

    /// Replaces what is read; not for members of a group.
    fn assign(&mut self, partitions: &[(TopicPartition, StartAt)]) -> Result<(), ClientError>;

    /// Reads a partition that was out of range on from an offset.
    fn seek(&mut self, of: &TopicPartition, to: i64);

    /// Records that are there, or come in time.
    fn poll(&mut self, limits: &Limits) -> Result<Vec<Self::Record>, ClientError>;

    /// Everything before this offset was handed out or is not for readers, such as control records; `None`: not known.
    fn position(&self, _of: &TopicPartition) -> Option<i64> {
        None
    }

    /// The end of a partition as of the last fetch; `None`: not known.
    fn end(&self, _of: &TopicPartition) -> Option<i64> {
        None
    }

    /// Commits the group's offsets, read in this generation. What another member has by now is left out.
    fn commit(&self, generation: u64, next: &[(TopicPartition, i64)]) -> Result<(), ClientError>;
}

impl LogReader for WireConsumer {
    type Record = Consumed;

    fn partitions(&self, topic: &str) -> Result<Vec<i32>, ClientError> {
        Self::partitions(self, topic)
    }

    fn watermarks(&self, of: &TopicPartition) -> Result<(i64, i64), ClientError> {
        Self::watermarks(self, of)
    }

    fn assign(&mut self, partitions: &[(TopicPartition, StartAt)]) -> Result<(), ClientError> {
        Self::assign(self, partitions)
    }

    fn seek(&mut self, of: &TopicPartition, to: i64) {
        Self::seek(self, of, to);
    }

    fn poll(&mut self, limits: &Limits) -> Result<Vec<Consumed>, ClientError> {
        Self::poll_batch(self, limits.records, limits.wait)
    }

    fn position(&self, of: &TopicPartition) -> Option<i64> {
        Self::position(self, of)
    }

    fn end(&self, of: &TopicPartition) -> Option<i64> {
        Self::end(self, of)
    }

    fn commit(&self, _: u64, next: &[(TopicPartition, i64)]) -> Result<(), ClientError> {
        Self::commit(self, next)
    }
}

impl<R: Readable + Positioned> LogReader for GroupReader<R> {
    type Record = R;

    fn group(&self) -> Option<u64> {
        Some(Self::generation(self))
    }

    fn assignment(&self) -> GroupAssignment {
        GroupAssignment { generation: Self::generation(self), partitions: Self::assigned(self) }
    }

    fn partitions(&self, topic: &str) -> Result<Vec<i32>, ClientError> {
        let mine = Self::assigned(self).into_iter().filter(|(tp, _)| &*tp.topic == topic);
        Ok(mine.map(|(tp, _)| tp.partition).collect())
    }

    fn watermarks(&self, of: &TopicPartition) -> Result<(i64, i64), ClientError> {
        Self::watermarks(self, of)
    }

    fn assign(&mut self, _: &[(TopicPartition, StartAt)]) -> Result<(), ClientError> {
        Ok(())
    }

    fn seek(&mut self, of: &TopicPartition, to: i64) {
        Self::seek(self, of, to);
    }

    fn poll(&mut self, limits: &Limits) -> Result<Vec<R>, ClientError> {
        Self::poll(self, limits)
    }

    fn position(&self, of: &TopicPartition) -> Option<i64> {
        Self::position(self, of)
    }

    fn end(&self, of: &TopicPartition) -> Option<i64> {
        Self::end(self, of)
    }

    fn commit(&self, generation: u64, next: &[(TopicPartition, i64)]) -> Result<(), ClientError> {
        Self::commit(self, generation, next)
    }
}

/// A reader behind a pointer, so that tests bring their own.
impl<R: LogReader + ?Sized> LogReader for Box<R> {
    type Record = R::Record;

    fn group(&self) -> Option<u64> {
        (**self).group()
    }

    fn assignment(&self) -> GroupAssignment {
        (**self).assignment()
    }

    fn partitions(&self, topic: &str) -> Result<Vec<i32>, ClientError> {
        (**self).partitions(topic)
    }

    fn watermarks(&self, of: &TopicPartition) -> Result<(i64, i64), ClientError> {
        (**self).watermarks(of)
    }

    fn assign(&mut self, partitions: &[(TopicPartition, StartAt)]) -> Result<(), ClientError> {
        (**self).assign(partitions)
    }

    fn seek(&mut self, of: &TopicPartition, to: i64) {
        (**self).seek(of, to);
    }

    fn poll(&mut self, limits: &Limits) -> Result<Vec<Self::Record>, ClientError> {
        (**self).poll(limits)
    }

    fn position(&self, of: &TopicPartition) -> Option<i64> {
        (**self).position(of)
    }

    fn end(&self, of: &TopicPartition) -> Option<i64> {
        (**self).end(of)
    }

    fn commit(&self, generation: u64, next: &[(TopicPartition, i64)]) -> Result<(), ClientError> {
        (**self).commit(generation, next)
    }
}
