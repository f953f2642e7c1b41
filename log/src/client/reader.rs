//! Reads one topic for people and tools: records as they are, ends of partitions, optionally as a group member.
//!
//! In: a connection, where to begin. Out: one thing after the other. Touches the network from a thread of its own. Its
//! calls block: use it on a thread of its own too.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::background::Background;
use super::error::ClientError;
use super::setup::connect;
use crate::kafka::ConnectionConfig;
use crate::native::Code;
use crate::native::cluster::Cluster;
use crate::native::fetch::{FetchSettings, Fetching, StartAt};
use crate::native::member::{MemberSettings, Membership};
use crate::native::offsets::commit;
use crate::native::stream::{Item, RecordStream};
use crate::record::TopicPartition;

/// How long leaving the group may take at the end.
const LEAVE: Duration = Duration::from_secs(2);
/// How often a member without partitions looks whether it has some.
const LOOK: Duration = Duration::from_millis(20);

/// A record with everything that Kafka keeps of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRecord {
    /// Which partition.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// ms since 1970, if it has a time.
    pub timestamp_ms: Option<i64>,
    /// Key, `None` for null.
    pub key: Option<Bytes>,
    /// Value, `None` for a tombstone.
    pub value: Option<Bytes>,
    /// Names and values in order; a value may be null.
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// What came.
#[derive(Debug)]
pub enum Met {
    /// A record.
    Record(RawRecord),
    /// The end of a partition, for now.
    End(i32),
    /// Nothing within the time.
    Nothing,
}

/// Reads one topic.
pub struct TopicReader {
    background: Background,
    cluster: Arc<Cluster>,
    fetching: Arc<Fetching>,
    stream: Mutex<RecordStream>,
    member: Option<Arc<Membership>>,
    /// Where partitions whose position is gone are read on; without it that is an error.
    reset: Option<StartAt>,
    topic: Arc<str>,
}

impl std::fmt::Debug for TopicReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TopicReader({} at {})", self.topic, self.cluster.brokers())
    }
}

impl TopicReader {
    /// Makes the client. With `group` as a member of it, from `earliest` or the end where it has no offset.
    pub fn new(
        config: &ConnectionConfig,
        topic: &str,
        group: Option<&str>,
        earliest: bool,
        committed_only: bool,
    ) -> Result<Self, ClientError> {
        let cluster = Arc::new(connect(config)?);
        let committed_only = cluster.options().read_uncommitted.map_or(committed_only, |uncommitted| !uncommitted);
        let fetching = Arc::new(Fetching::new(FetchSettings { committed_only, report_ends: true }, cluster.options()));
        let background = Background::start("log-reader")?;
        background.run(Arc::clone(&fetching).run(Arc::clone(&cluster)));
        let start = if earliest { StartAt::Earliest } else { StartAt::Latest };
        let member = group.map(|group| {
            let settings = MemberSettings {
                group: group.to_owned(),
                instance_id: None,
                topics: vec![topic.to_owned()],
                start,
                session_timeout: None,
                refresh: None,
                outage: None,
            };
            Arc::new(Membership::new(Arc::clone(&cluster), Arc::clone(&fetching), settings))
        });
        if let Some(member) = &member {
            background.run(Arc::clone(member).run());
        }
        let stream = Mutex::new(RecordStream::new(Arc::clone(&fetching)));
        let reset = group.map(|_| start);
        Ok(Self { background, cluster, fetching, stream, member, reset, topic: topic.into() })
    }

    /// Reads these partitions from these offsets on.
    pub fn assign(&self, starts: &[(i32, i64)]) -> Result<(), ClientError> {
        let starts: Vec<_> = starts
            .iter()
            .map(|(partition, offset)| {
                (TopicPartition::new(Arc::clone(&self.topic), *partition), StartAt::Offset(*offset), None)
            })
            .collect();
        self.fetching.assign(&starts);
        Ok(())
    }

    /// Partitions that the group gave to this member.
    pub fn assigned(&self) -> Vec<i32> {
        self.fetching.assigned().iter().map(|tp| tp.partition).collect()
    }

    /// The next thing. Passing faults of the network are not errors: the client goes on by itself.
    pub fn next(&self, timeout: Duration) -> Result<Met, ClientError> {
        let mut stream = self.stream.lock();
        stream.refresh();
        let deadline = std::time::Instant::now() + timeout;
        loop {
            if let Some(member) = &self.member {
                if let Some(source) = member.trouble() {
                    return Err(ClientError::Read { what: format!("group `{}`", member.group()), source });
                }
                if member.assignment().is_none() && std::time::Instant::now() < deadline {
                    std::thread::sleep(LOOK.min(timeout));
                    continue;
                }
            }
            let wait = deadline.saturating_duration_since(std::time::Instant::now());
            match stream.next(wait) {
                None => return Ok(Met::Nothing),
                Some(Item::Record(spot)) => {
                    let headers = stream.headers(&spot);
                    let headers =
                        headers.map(|(name, value)| (name.to_owned(), value.map(|value| stream.slice_of(value))));
                    return Ok(Met::Record(RawRecord {
                        partition: stream.partition().partition,
                        offset: spot.offset,
                        timestamp_ms: Some(spot.timestamp_ms).filter(|ms| *ms != -1),
                        headers: headers.collect(),
                        key: stream.optional(spot.key),
                        value: stream.optional(spot.value),
                    }));
                }
                Some(Item::End { tp }) => return Ok(Met::End(tp.partition)),
                Some(Item::Position { .. }) => {}
                Some(Item::OutOfRange { tp, offset, log_start }) => match self.reset {
                    None => return Err(ClientError::OutOfRange { topic_partition: tp, offset, log_start }),
                    Some(start) => {
                        tracing::warn!(partition = %tp, offset, log_start, "committed offset is out of the log's range");
                        self.fetching.seek(stream.assignment(), &tp, start, log_start);
                    }
                },
                Some(Item::Recreated { tp }) => {
                    tracing::warn!(partition = %tp, "topic was deleted and created anew: reading it from its start");
                    // A group gives it again.
                    if self.member.is_none() {
                        self.fetching.restart(stream.assignment(), &tp);
                    }
                }
                Some(Item::Unreadable { tp, from, to, error, .. }) => {
                    return Err(ClientError::Unreadable { topic_partition: tp, from, to, reason: error.to_string() });
                }
                Some(Item::Failed { tp, error }) => {
                    return Err(ClientError::Read { what: tp.to_string(), source: error });
                }
            }
        }
    }

    /// Tells the group how far it is: the next record of each partition. Partitions that another member has now are left
    /// out: it reads them from their last commit on.
    pub fn commit(&self, next: &[(i32, i64)]) -> Result<(), ClientError> {
        let Some(member) = &self.member else { return Ok(()) };
        let assignment = member.assignment();
        let Some(by) = assignment.and_then(|assignment| member.committer(assignment)) else { return Ok(()) };
        let mine = self.assigned();
        let next: Vec<_> = next
            .iter()
            .filter(|(partition, _)| mine.contains(partition))
            .map(|(partition, offset)| (TopicPartition::new(Arc::clone(&self.topic), *partition), *offset))
            .collect();
        let (cluster, group) = (Arc::clone(&self.cluster), member.group().to_owned());
        let committed = self.background.wait(async move { commit(&cluster, &group, &by, &next).await });
        match committed {
            Err(error)
                if matches!(
                    error.code(),
                    Some(Code::IllegalGeneration | Code::RebalanceInProgress | Code::UnknownMemberId)
                ) =>
            {
                tracing::debug!(%error, "group rebalances: some records will be read again");
                Ok(())
            }
            result => result.map_err(|source| ClientError::unreachable(&self.cluster.brokers(), source)),
        }
    }
}

impl Drop for TopicReader {
    fn drop(&mut self) {
        if let Some(member) = self.member.take() {
            let left = self.background.wait(async move {
                match tokio::time::timeout(LEAVE, member.leave()).await {
                    Ok(left) => left,
                    Err(_) => Ok(()),
                }
            });
            if let Err(error) = left {
                tracing::debug!(%error, "group was not left, it waits for the session to end");
            }
        }
    }
}
