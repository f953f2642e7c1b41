//! Reader of a consumer group with a fixed instance id: reads the partitions that the group gives it, from the committed offsets
//! on, and commits as the member that it was when it read.
//!
//! In: a connection, topics, a group, a name. Out: batches of records in one of two forms: [`Consumed`], or [`SourceRecord`]
//! with its headers as they came. Touches the network from a thread of its own. Its calls block: use it on a thread of its
//! own too.
//!
//! A reader that comes back under its name takes over from its dead self at once; the one that had the name is fenced
//! ([`ClientError::Fenced`]). A batch that was begun when partitions were taken away is dropped: who has them now reads it
//! again.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
use crate::native::Code;
use crate::native::cluster::Cluster;
use crate::native::decode::{HeaderIter, Spot};
use crate::native::encode::put_header;
use crate::native::error::WireError;
use crate::native::fetch::{FetchSettings, Fetching, StartAt};
use crate::native::member::{MemberSettings, Membership};
use crate::native::offsets::{Committer, End, commit, end_of};
use crate::native::stream::RecordStream;
use crate::record::TopicPartition;
use crate::topic_id::TopicId;

/// Time without a heartbeat after which the group gives the partitions away.
const SESSION: Duration = Duration::from_secs(10);
/// How long the group may be out of reach before the reader says so.
const OUTAGE: Duration = Duration::from_secs(5);
/// How often a reader looks at the group while it waits.
const LOOK: Duration = Duration::from_millis(20);

/// Who reads what.
#[derive(Debug, Clone)]
pub struct GroupSettings {
    /// Topics to read. One that does not exist yet is waited for.
    pub topics: Vec<String>,
    /// Consumer group.
    pub group: String,
    /// Name of the member.
    pub identity: String,
    /// How often new topics and partitions are looked for at least.
    pub refresh: Option<Duration>,
}

/// A form of records that a reader gives.
pub trait Readable: FromStream + Send + 'static {
    /// Whether records of open and aborted transactions are left out whatever `kafka.options` say.
    const ONLY_COMMITTED: bool;
}

impl Readable for Consumed {
    const ONLY_COMMITTED: bool = false;
}

/// A record with its headers as they came.
#[derive(Debug)]
pub struct SourceRecord {
    /// Its partition.
    pub partition: TopicPartition,
    /// Its offset there.
    pub offset: i64,
    pub(super) timestamp_ms: i64,
    pub(super) key: Option<Bytes>,
    pub(super) value: Option<Bytes>,
    pub(super) headers: Bytes,
    pub(super) header_count: usize,
    /// Why it can't be read, where it stands for records that can't: for the dead letters.
    pub unreadable: Option<Box<str>>,
}

impl SourceRecord {
    pub(super) fn headers(&self) -> HeaderIter<'_> {
        HeaderIter::new(&self.headers, self.header_count)
    }

    /// Bytes of key and value.
    pub fn size(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len) + self.value_len()
    }

    /// Bytes of the value alone.
    pub fn value_len(&self) -> usize {
        self.value.as_ref().map_or(0, Bytes::len)
    }

    /// Its time in the log, ms since 1970.
    pub fn timestamp_ms(&self) -> i64 {
        self.timestamp_ms
    }

    /// The last value of a header.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().filter(|(known, _)| *known == name).last()?.1
    }
}

#[allow(private_interfaces, reason = "only this crate reads streams")]
impl FromStream for SourceRecord {
    fn read(stream: &RecordStream, spot: Spot) -> Self {
        Self {
            partition: stream.partition().clone(),
            offset: spot.offset,
            timestamp_ms: spot.timestamp_ms,
            headers: stream.slice(spot.headers),
            header_count: spot.header_count,
            key: stream.optional(spot.key),
            value: stream.optional(spot.value),
            unreadable: None,
        }
    }

    fn unreadable(lost: Unreadable) -> Self {
        let Unreadable { partition, to, batch, reason, .. } = lost;
        let mut headers = Vec::new();
        // Marked as a part: nobody may take it for a record again.
        put_header(&mut headers, HEADER_CUT.as_bytes(), Some(batch.len().to_string().as_bytes()));
        Self {
            partition,
            offset: to - 1,
            timestamp_ms: -1,
            key: None,
            value: Some(batch),
            headers: headers.into(),
            header_count: 1,
            unreadable: Some(reason.into()),
        }
    }

    fn size(&self) -> usize {
        Self::size(self) + self.headers.len()
    }
}

impl Readable for SourceRecord {
    const ONLY_COMMITTED: bool = true;
}

/// What a reader and those who write for it share.
pub(super) struct Shared {
    pub background: Background,
    pub cluster: Arc<Cluster>,
    pub member: Arc<Membership>,
    pub settings: GroupSettings,
}

impl Shared {
    /// Waits for what the brokers say. Blocks.
    pub fn wait<T: Send + 'static>(
        &self,
        task: impl Future<Output = Result<T, WireError>> + Send + 'static,
    ) -> Result<T, WireError> {
        self.background.wait(task)
    }

    /// Who commits what was read in an assignment; `None` if that is over.
    pub fn committer(&self, generation: u64) -> Option<Committer> {
        self.member.committer(generation)
    }

    fn fenced(&self) -> ClientError {
        ClientError::Fenced { identity: self.settings.identity.clone() }
    }
}

/// Reads as a member of a group.
pub struct GroupReader<R> {
    shared: Arc<Shared>,
    fetching: Arc<Fetching>,
    polling: Mutex<Polling>,
    /// The assignment of what was polled last.
    generation: AtomicU64,
    form: PhantomData<fn() -> R>,
}

impl<R> std::fmt::Debug for GroupReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GroupReader({} of {})", self.shared.settings.identity, self.shared.settings.group)
    }
}

impl<R: Readable> GroupReader<R> {
    /// Makes the client, which connects when it joins. Reads committed records only, unless `kafka.options` say otherwise of
    /// records that are not copied.
    pub fn open(config: &ConnectionConfig, settings: GroupSettings) -> Result<Self, ClientError> {
        let cluster = Arc::new(connect(config)?);
        let committed_only = R::ONLY_COMMITTED || !cluster.options().read_uncommitted.unwrap_or(false);
        let fetch = FetchSettings { committed_only, report_ends: false };
        let fetching = Arc::new(Fetching::new(fetch, cluster.options()));
        let background = Background::start("log-group")?;
        let member = MemberSettings {
            group: settings.group.clone(),
            instance_id: Some(instance_id(&settings.identity)),
            topics: settings.topics.clone(),
            start: StartAt::Earliest,
            session_timeout: Some(SESSION),
            refresh: settings.refresh,
            outage: Some(OUTAGE),
        };
        let member = Arc::new(Membership::new(Arc::clone(&cluster), Arc::clone(&fetching), member));
        let stream = RecordStream::new(Arc::clone(&fetching));
        let shared = Arc::new(Shared { background, cluster, member, settings });
        let polling = Mutex::new(Polling::new(stream, LOOK));
        Ok(Self { shared, fetching, polling, generation: AtomicU64::new(0), form: PhantomData })
    }

    /// Joins the group: from now on records are fetched.
    pub fn join(&self) {
        let Shared { background, cluster, member, .. } = &*self.shared;
        background.run(Arc::clone(&self.fetching).run(Arc::clone(cluster)));
        background.run(Arc::clone(member).run());
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Waits for a first record, then fills a batch until the time or a limit is reached. All records are of one
    /// assignment: [`GroupReader::generation`].
    pub fn poll(&self, limits: &Limits) -> Result<Vec<R>, ClientError> {
        let member = &self.shared.member;
        let look = || {
            if member.is_fenced() {
                return Err(self.shared.fenced());
            }
            match member.trouble() {
                None => Ok(()),
                Some(source) => Err(ClientError::Read { what: format!("group `{}`", member.group()), source }),
            }
        };
        look()?;
        let mut polling = self.polling.lock();
        let mut polled = polling.poll(limits, look);
        let (of, now) = (polling.assignment(), member.assignment().unwrap_or(0));
        if let Ok(batch) = &mut polled
            && of != now
        {
            // They were taken away meanwhile.
            batch.clear();
        }
        let is_empty = polled.as_ref().is_ok_and(Vec::is_empty);
        self.generation.store(if is_empty { now } else { of }, Ordering::Relaxed);
        polled
    }

    /// The assignment of what was polled last.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Its partitions, with the offsets that the group had committed and the ids of their topics; none if the assignment is
    /// over.
    pub fn assigned(&self) -> Vec<(TopicPartition, Option<i64>, Option<TopicId>)> {
        let offset = |start| match start {
            StartAt::Offset(offset) => Some(offset),
            StartAt::Earliest | StartAt::Latest => None,
        };
        let starts = self.shared.member.starts(self.generation());
        starts.into_iter().map(|(tp, start, id)| (tp, offset(start), id)).collect()
    }

    /// Log start offset and the end: what lies before it can be read now.
    pub fn watermarks(&self, of: &TopicPartition) -> Result<(i64, i64), ClientError> {
        let (of, cluster) = (of.clone(), Arc::clone(&self.shared.cluster));
        let committed_only = self.fetching.committed_only();
        let range = self.shared.wait(async move {
            let start = end_of(&cluster, &of, End::Start).await?;
            let end = end_of(&cluster, &of, End::Latest { committed_only }).await?;
            Ok((start, end))
        });
        range.map_err(|source| ClientError::unreachable(&self.shared.cluster.brokers(), source))
    }

    /// Reads a partition on from another offset after [`ClientError::OutOfRange`].
    pub fn seek(&self, of: &TopicPartition, to: i64) {
        self.fetching.seek(self.generation(), of, StartAt::Offset(to), to);
    }

    /// Everything before this offset of a partition was handed out or is not for readers.
    pub fn position(&self, of: &TopicPartition) -> Option<i64> {
        let polling = self.polling.lock();
        polling.position(of).filter(|_| polling.assignment() == self.generation())
    }

    /// The end of a partition as of the last fetch.
    pub fn end(&self, of: &TopicPartition) -> Option<i64> {
        self.fetching.end(of)
    }

    /// Commits offsets as the member that read them. What another member has by now is left out: it reads from the offsets
    /// committed before.
    pub fn commit(&self, generation: u64, next: &[(TopicPartition, i64)]) -> Result<(), ClientError> {
        let Some(by) = self.shared.committer(generation) else { return Ok(()) };
        let (cluster, group, next) =
            (Arc::clone(&self.shared.cluster), self.shared.settings.group.clone(), next.to_vec());
        match self.shared.wait(async move { commit(&cluster, &group, &by, &next).await }) {
            Ok(()) => Ok(()),
            Err(error) if error.is_fenced() => Err(self.shared.fenced()),
            Err(error) => match error.code() {
                Some(Code::IllegalGeneration | Code::RebalanceInProgress | Code::UnknownMemberId) => {
                    tracing::debug!(%error, "group rebalances: some records will be read again");
                    Ok(())
                }
                _ => Err(ClientError::unreachable(&self.shared.cluster.brokers(), error)),
            },
        }
    }
}

/// A name as brokers take it for a member.
fn instance_id(identity: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    identity.chars().take(249).map(legal).collect()
}
