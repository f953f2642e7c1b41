//! What the loop asks of the log, and the two clients that answer: all partitions of some topics, or those of a group member.
//!
//! In: topics, offsets. Out: records, positions, ends. Touches the network through [`crate::client`]; calls block.

use super::control::Ends;
use crate::client::group::{GroupReader, Readable, SourceRecord};
use crate::client::{ClientError, Consumed, Limits, StartAt, WireConsumer};
use crate::record::TopicPartition;
use crate::topic_id::TopicId;

/// A partition to read, where to start, and the id of the topic that the position is of.
pub type Start = (TopicPartition, StartAt, Option<TopicId>);

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

/// What a consumer group gave to a reader: a partition, the offset that the group had committed (none: from the oldest
/// record on), the id of its topic.
pub type Assigned = (TopicPartition, Option<i64>, Option<TopicId>);

/// What the consumer's thread asks of the log. Calls block.
pub trait LogReader: Send + 'static {
    /// What it reads.
    type Record: Positioned;

    /// The assignment of what was polled last; `None` for readers that are not in a group: the loop assigns all partitions.
    fn group(&self) -> Option<u64> {
        None
    }

    /// The group's assignment in full.
    fn assignment(&self) -> Vec<Assigned> {
        Vec::new()
    }

    /// Partitions of a topic, empty if there is no such topic.
    fn partitions(&self, topic: &str) -> Result<Vec<i32>, ClientError>;

    /// The id of a partition's topic, as of the last [`LogReader::partitions`]; `None` where the log has none.
    fn topic_id(&self, _of: &TopicPartition) -> Option<TopicId> {
        None
    }

    /// Log start offset and the end.
    fn watermarks(&self, of: &TopicPartition) -> Result<(i64, i64), ClientError>;

    /// Where each partition ends now; 0 if it is empty.
    fn ends(&self, topics: &[String]) -> Result<Ends, ClientError> {
        let mut ends = Ends::new();
        for topic in topics {
            for partition in self.partitions(topic)? {
                let tp = TopicPartition::new(topic.as_str(), partition);
                let (low, high) = self.watermarks(&tp)?;
                ends.push((tp, if high > low { high } else { 0 }));
            }
        }
        Ok(ends)
    }

    /// Replaces what is read: positions with the ids of the topics that they are of. Not for members of a group.
    fn assign(&mut self, partitions: &[Start]) -> Result<(), ClientError>;

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

    fn topic_id(&self, of: &TopicPartition) -> Option<TopicId> {
        Self::topic_id(self, of)
    }

    fn watermarks(&self, of: &TopicPartition) -> Result<(i64, i64), ClientError> {
        Self::watermarks(self, of)
    }

    fn assign(&mut self, partitions: &[Start]) -> Result<(), ClientError> {
        self.assign_known(partitions)
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

    fn assignment(&self) -> Vec<Assigned> {
        Self::assigned(self)
    }

    fn partitions(&self, topic: &str) -> Result<Vec<i32>, ClientError> {
        let mine = Self::assigned(self).into_iter().filter(|(tp, ..)| &*tp.topic == topic);
        Ok(mine.map(|(tp, ..)| tp.partition).collect())
    }

    fn watermarks(&self, of: &TopicPartition) -> Result<(i64, i64), ClientError> {
        Self::watermarks(self, of)
    }

    fn assign(&mut self, _: &[Start]) -> Result<(), ClientError> {
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

    fn assignment(&self) -> Vec<Assigned> {
        (**self).assignment()
    }

    fn partitions(&self, topic: &str) -> Result<Vec<i32>, ClientError> {
        (**self).partitions(topic)
    }

    fn topic_id(&self, of: &TopicPartition) -> Option<TopicId> {
        (**self).topic_id(of)
    }

    fn watermarks(&self, of: &TopicPartition) -> Result<(i64, i64), ClientError> {
        (**self).watermarks(of)
    }

    fn assign(&mut self, partitions: &[Start]) -> Result<(), ClientError> {
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
