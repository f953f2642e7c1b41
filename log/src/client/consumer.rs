//! Consumer of assigned partitions, without group membership: reads from given positions, commits a group's offsets.
//!
//! In: partitions and where to start. Out: batches of [`Consumed`] records whose keys, values and headers are slices of
//! what was fetched. Touches the network from a thread of its own, which fetches ahead. Its calls block: use it on a thread
//! of its own too.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::api::{Consumed, Limits, Unreadable};
use super::background::Background;
use super::error::ClientError;
use super::polling::{FromStream, Polling};
use super::setup::connect;
use crate::dead_letter::HEADER_CUT;
use crate::kafka::ConnectionConfig;
use crate::native::cluster::Cluster;
use crate::native::decode::Spot;
use crate::native::error::WireError;
use crate::native::fetch::{FetchSettings, Fetching, StartAt};
use crate::native::offsets::{Committer, End, commit, committed, end_of};
use crate::native::stream::RecordStream;
use crate::record::{HeaderName, Record, TopicPartition};
use crate::topic_id::TopicId;

/// Reads assigned partitions.
pub struct WireConsumer {
    background: Background,
    cluster: Arc<Cluster>,
    fetching: Arc<Fetching>,
    polling: Mutex<Polling>,
    group: String,
}

impl std::fmt::Debug for WireConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WireConsumer({})", self.cluster.brokers())
    }
}

impl WireConsumer {
    /// Makes the client, which connects when it is asked for something; `group` is where [`WireConsumer::commit`] writes
    /// offsets. Reads committed records only, unless `kafka.options` say otherwise.
    pub fn new(config: &ConnectionConfig, group: &str) -> Result<Self, ClientError> {
        let cluster = Arc::new(connect(config)?);
        let options = cluster.options();
        let committed_only = !options.read_uncommitted.unwrap_or(false);
        let settings = FetchSettings { committed_only, report_ends: false };
        let fetching = Arc::new(Fetching::new(settings, options));
        let background = Background::start("log-consumer")?;
        background.run(Arc::clone(&fetching).run(Arc::clone(&cluster)));
        let polling = Mutex::new(Polling::new(RecordStream::new(Arc::clone(&fetching)), Duration::MAX));
        Ok(Self { background, cluster, fetching, polling, group: group.to_owned() })
    }

    fn wait<T, F>(&self, ask: impl FnOnce(Arc<Cluster>) -> F) -> Result<T, ClientError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, WireError>> + Send + 'static,
    {
        let answer = self.background.wait(ask(Arc::clone(&self.cluster)));
        answer.map_err(|source| ClientError::unreachable(&self.cluster.brokers(), source))
    }

    /// Partitions of a topic in order, empty if there is no such topic.
    pub fn partitions(&self, topic: &str) -> Result<Vec<i32>, ClientError> {
        let topic = topic.to_owned();
        self.wait(|cluster| async move { cluster.partitions(&topic).await })
    }

    /// The id of a partition's topic, as of the last look at the topic; `None` where the log has none.
    pub fn topic_id(&self, of: &TopicPartition) -> Option<TopicId> {
        self.cluster.topic_id(of)
    }

    /// Log start offset and the end: what lies before it can be read now.
    pub fn watermarks(&self, of: &TopicPartition) -> Result<(i64, i64), ClientError> {
        let (of, committed_only) = (of.clone(), self.fetching.committed_only());
        self.wait(|cluster| async move {
            let start = end_of(&cluster, &of, End::Start).await?;
            let end = end_of(&cluster, &of, End::Latest { committed_only }).await?;
            Ok((start, end))
        })
    }

    /// Replaces what is read: the topics as they are now.
    pub fn assign(&self, partitions: &[(TopicPartition, StartAt)]) -> Result<(), ClientError> {
        let all: Vec<_> = partitions.iter().map(|(tp, start)| (tp.clone(), *start, None)).collect();
        self.assign_known(&all)
    }

    /// The same with the ids of the topics that the positions are of: one that was created anew since is reported as
    /// [`ClientError::Recreated`] before anything of it is read.
    pub fn assign_known(&self, partitions: &[(TopicPartition, StartAt, Option<TopicId>)]) -> Result<(), ClientError> {
        self.fetching.assign(partitions);
        self.polling.lock().reset();
        Ok(())
    }

    /// Reads a partition on from another offset after [`ClientError::OutOfRange`].
    pub fn seek(&self, of: &TopicPartition, to: i64) {
        self.fetching.seek(self.fetching.assignment(), of, StartAt::Offset(to), to);
    }

    /// Waits up to `timeout` for a first record, then takes what is there, `max` at most.
    /// Empty when nothing came. Passing faults of the network are not errors: the client goes on by itself. After
    /// [`ClientError::OutOfRange`] its partition waits for a new assignment; after [`ClientError::Unreadable`] the rest of
    /// the partition follows.
    pub fn poll_batch(&self, max: usize, timeout: Duration) -> Result<Vec<Consumed>, ClientError> {
        let limits = Limits { records: max, bytes: usize::MAX, wait: timeout, linger: Duration::ZERO };
        self.polling.lock().poll(&limits, || Ok(()))
    }

    /// Everything before this offset of a partition was handed out, or is not for readers: control records, those of
    /// aborted transactions, compacted ones. `None` as long as nothing was fetched of it.
    pub fn position(&self, of: &TopicPartition) -> Option<i64> {
        self.polling.lock().position(of)
    }

    /// The end of a partition as of the last fetch; `None` as long as nothing was fetched of it.
    pub fn end(&self, of: &TopicPartition) -> Option<i64> {
        self.fetching.end(of)
    }

    /// Tells the broker how far the group is, for lag displays; the catalog is what counts.
    pub fn commit(&self, next: &[(TopicPartition, i64)]) -> Result<(), ClientError> {
        let (group, next) = (self.group.clone(), next.to_vec());
        self.wait(|cluster| async move { commit(&cluster, &group, &Committer::default(), &next).await })
    }

    /// Offsets that the group committed; `None` where it never did.
    pub fn committed(&self, of: &[TopicPartition]) -> Result<Vec<Option<i64>>, ClientError> {
        let (group, of) = (self.group.clone(), of.to_vec());
        let offsets = self.wait(|cluster| async move { committed(&cluster, &group, &of).await })?;
        Ok(offsets.into_iter().map(|offset| offset.map(|offset| offset.next)).collect())
    }
}

#[allow(private_interfaces, reason = "only this crate reads streams")]
impl FromStream for Consumed {
    fn read(stream: &RecordStream, spot: Spot) -> Self {
        let mut headers = Vec::with_capacity(spot.header_count.min(64));
        headers.extend(
            stream.headers(&spot).map(|(name, value)| (known_name(name), stream.slice_of(value.unwrap_or_default()))),
        );
        let record = Record {
            // -1: the record has none.
            timestamp_ms: if spot.timestamp_ms == -1 { 0 } else { spot.timestamp_ms },
            key: stream.optional(spot.key),
            value: stream.optional(spot.value),
            headers,
        };
        Self { partition: stream.partition().clone(), offset: spot.offset, record, unreadable: None }
    }

    fn unreadable(lost: Unreadable) -> Self {
        let Unreadable { partition, to, batch, reason, .. } = lost;
        // Marked as a part: nobody may take it for a record again.
        let headers = vec![(HEADER_CUT.into(), batch.len().to_string().into())];
        let record = Record { timestamp_ms: 0, key: None, value: Some(batch), headers };
        Self { partition, offset: to - 1, record, unreadable: Some(reason.into()) }
    }

    fn size(&self) -> usize {
        self.record.key.as_ref().map_or(0, Bytes::len) + self.record.value.as_ref().map_or(0, Bytes::len)
    }
}

/// Names of ours need no copy.
fn known_name(name: &str) -> HeaderName {
    use crate::record::{HEADER_DOC, HEADER_FIXED, HEADER_LABELS, HEADER_META, HEADER_TENANT};
    match [HEADER_LABELS, HEADER_FIXED, HEADER_META, HEADER_TENANT, HEADER_DOC].into_iter().find(|known| *known == name)
    {
        Some(known) => known.into(),
        None => name.to_owned().into(),
    }
}

#[cfg(test)]
mod tests;
