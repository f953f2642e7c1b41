//! An answer on its way to the client: bytes, and between them record batches that still stand on disk.
//!
//! In: an encoded answer; for fetch the [`FetchResponse`] without records and where they are stored. Out: [`Reply`], which
//! the connection writes. Touches nothing: the kernel sends stored batches from their file.
//!
//! The generated encoder of kafka-protocol wants all records in memory, so a fetch answer is encoded here
//! (<https://kafka.apache.org/protocol#The_Messages_Fetch>); a test compares the two for every version.

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{ApiKey, FetchResponse};

use crate::protocol::wire::request::RequestFault;
use crate::storage::Stored;

/// The first version with compact lengths and tagged fields.
const FLEXIBLE: i16 = 12;

/// A framed answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    /// Its beginning.
    pub head: Bytes,
    /// Then these, each with the bytes that follow it.
    pub rest: Vec<(Stored, Bytes)>,
}

impl From<Bytes> for Reply {
    fn from(head: Bytes) -> Self {
        Self { head, rest: Vec::new() }
    }
}

/// Frames a fetch answer. `stored` are the records of its partitions, in their order; `None` for none.
pub(crate) fn fetched(
    correlation_id: i32,
    version: i16,
    answer: &FetchResponse,
    stored: Vec<Option<Stored>>,
) -> Result<Reply, RequestFault> {
    let sum: usize = stored.iter().flatten().map(Stored::len).sum();
    let mut out = Out { version, bytes: BytesMut::with_capacity(256), cuts: Vec::new() };
    out.bytes.put_i32(0);
    out.bytes.put_i32(correlation_id);
    out.tags();
    out.bytes.put_i32(answer.throttle_time_ms);
    if version >= 7 {
        out.bytes.put_i16(answer.error_code);
        out.bytes.put_i32(answer.session_id);
    }
    let mut stored = stored.into_iter();
    out.count(answer.responses.len());
    for topic in &answer.responses {
        if version >= 13 {
            out.bytes.put_slice(topic.topic_id.as_bytes());
        } else {
            out.text(&topic.topic.0);
        }
        out.count(topic.partitions.len());
        for partition in &topic.partitions {
            out.partition(partition, stored.next().flatten());
        }
        out.tags();
    }
    out.tags();
    let length = i32::try_from(out.bytes.len() - 4 + sum).map_err(|_| RequestFault::Encode {
        key: ApiKey::Fetch,
        version,
        reason: "over 2 GiB".to_owned(),
    })?;
    if let Some(place) = out.bytes.get_mut(..4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    Ok(out.cut())
}

struct Out {
    version: i16,
    bytes: BytesMut,
    /// Where stored records come in between.
    cuts: Vec<(usize, Stored)>,
}

impl Out {
    fn partition(&mut self, data: &PartitionData, stored: Option<Stored>) {
        self.bytes.put_i32(data.partition_index);
        self.bytes.put_i16(data.error_code);
        self.bytes.put_i64(data.high_watermark);
        self.bytes.put_i64(data.last_stable_offset);
        if self.version >= 5 {
            self.bytes.put_i64(data.log_start_offset);
        }
        match &data.aborted_transactions {
            None if self.version >= FLEXIBLE => self.bytes.put_u8(0),
            None => self.bytes.put_i32(-1),
            Some(list) => {
                self.count(list.len());
                for txn in list {
                    self.bytes.put_i64(txn.producer_id.0);
                    self.bytes.put_i64(txn.first_offset);
                    self.tags();
                }
            }
        }
        if self.version >= 11 {
            self.bytes.put_i32(data.preferred_read_replica.0);
        }
        self.count(stored.as_ref().map_or(0, Stored::len));
        if let Some(stored) = stored {
            self.cuts.push((self.bytes.len(), stored));
        }
        self.tags();
    }

    /// None of the tagged fields is set: they are for replicas and for clusters.
    fn tags(&mut self) {
        if self.version >= FLEXIBLE {
            self.bytes.put_u8(0);
        }
    }

    /// Length of an array, or of bytes.
    fn count(&mut self, count: usize) {
        if self.version >= FLEXIBLE {
            self.varint(count + 1);
        } else {
            // More than fits is caught by the length of the whole.
            self.bytes.put_i32(i32::try_from(count).unwrap_or(i32::MAX));
        }
    }

    fn text(&mut self, text: &str) {
        if self.version >= FLEXIBLE {
            self.varint(text.len() + 1);
        } else {
            // Names of topics are 249 bytes at most, and others came in a field of this size.
            self.bytes.put_i16(i16::try_from(text.len()).unwrap_or(i16::MAX));
        }
        self.bytes.put_slice(text.as_bytes());
    }

    fn varint(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.bytes.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.put_u8(value as u8);
    }

    fn cut(self) -> Reply {
        let mut bytes = self.bytes.freeze();
        let mut taken = 0;
        let mut head = None;
        let mut rest: Vec<(Stored, Bytes)> = Vec::with_capacity(self.cuts.len());
        for (at, stored) in self.cuts {
            let before = bytes.split_to(at - taken);
            taken = at;
            match rest.last_mut() {
                Some((_, after)) => *after = before,
                None => head = Some(before),
            }
            rest.push((stored, Bytes::new()));
        }
        match rest.last_mut() {
            Some((_, after)) => *after = bytes,
            None => return bytes.into(),
        }
        Reply { head: head.unwrap_or_default(), rest }
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::fetch_response::{AbortedTransaction, FetchableTopicResponse};
    use kafka_protocol::messages::{ProducerId, TopicName};
    use uuid::Uuid;

    use super::*;
    use crate::protocol::wire::request::{framed, text};

    /// The whole as one piece.
    fn flat(reply: &Reply) -> Vec<u8> {
        let mut bytes = reply.head.to_vec();
        for (stored, after) in &reply.rest {
            bytes.extend_from_slice(&stored.read(0, stored.len()).unwrap());
            bytes.extend_from_slice(after);
        }
        bytes
    }

    fn partition(number: i32, version: i16, aborted: Option<usize>) -> PartitionData {
        let aborted = aborted.map(|count| {
            let one = |n| AbortedTransaction::default().with_producer_id(ProducerId(n)).with_first_offset(7 * n);
            (0..count as i64).map(one).collect()
        });
        let data = PartitionData::default()
            .with_partition_index(number)
            .with_high_watermark(1 << 40)
            .with_last_stable_offset(99)
            .with_aborted_transactions(aborted)
            .with_records(Some(Bytes::new()));
        if version >= 5 { data.with_log_start_offset(3) } else { data }
    }

    #[test]
    fn answers_are_those_of_the_generated_encoder() {
        for version in 4..=18 {
            for (partitions, bytes) in [(0, 0), (1, 0), (1, 5), (2, 100), (3, 127), (130, 70_000)] {
                let topic = |n: u128| {
                    let parts =
                        (0..partitions).map(|p| partition(p, version, [None, Some(0), Some(200)][p as usize % 3]));
                    let topic = FetchableTopicResponse::default().with_partitions(parts.collect());
                    if version >= 13 {
                        topic.with_topic_id(Uuid::from_u128(n))
                    } else {
                        topic.with_topic(TopicName(text(&"t".repeat(n as usize))))
                    }
                };
                let mut answer = FetchResponse::default().with_responses(vec![topic(5), topic(249)]);
                if version >= 7 {
                    answer = answer.with_session_id(77).with_error_code(-1);
                }
                let stored =
                    (0..2 * partitions).map(|p| (p % 4 != 1 && bytes > 0).then(|| Stored::of(vec![p as u8; bytes])));
                let stored: Vec<_> = stored.collect();
                let ours = flat(&fetched(42, version, &answer, stored.clone()).unwrap());
                let all = answer.responses.iter_mut().flat_map(|topic| &mut topic.partitions);
                for (data, stored) in all.zip(stored) {
                    data.records = Some(stored.map_or_else(Bytes::new, |stored| stored.read(0, bytes).unwrap()));
                }
                let theirs = framed(42, version, &answer).unwrap();
                assert!(ours == theirs, "version {version}: {partitions} partitions of {bytes} bytes");
            }
        }
    }
}
