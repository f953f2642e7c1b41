//! Copies records from a topic to others in transactions: a batch of records and the offsets behind them become
//! visible together, or not at all (KIP-98, KIP-447).
//!
//! In: a connection, a source topic, and for each record read where to. Out: committed transactions. Touches the network
//! from a thread of its own. Its calls block: use it on a thread of its own too. Leaves to its user which record goes
//! where, and when to try again.
//!
//! The consumer is a member of a group with a fixed instance id and the producer has a fixed transactional id, both
//! named after the router: one that comes back takes over from its dead self at once, and the brokers refuse what the
//! dead one may still have on its way. A batch is given up when partitions were taken away while it was filled, or while
//! it is copied: its offsets carry the generation in which it was read.
//!
//! After a transaction that was given up the producer takes a new epoch: what comes late of it is refused.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::background::Background;
use super::error::ClientError;
use super::setup::connect;
use crate::kafka::ConnectionConfig;
use crate::native::Code;
use crate::native::cluster::Cluster;
use crate::native::decode::HeaderIter;
use crate::native::encode::{Compressed, HeaderRef, Records, Zstd, put_header};
use crate::native::error::WireError;
use crate::native::fetch::{FetchSettings, Fetching, StartAt};
use crate::native::member::{MemberSettings, Membership};
use crate::native::offsets::{End, committed, end_of};
use crate::native::stream::{Item, RecordStream};
use crate::native::transaction::{BatchRefused, Transactions};
use crate::record::TopicPartition;

/// How long one step of a transaction may take before it is given up.
const STEP: Duration = Duration::from_secs(60);
/// How long an abort may take: what it has not done by then, the next start does.
const ABORT: Duration = Duration::from_secs(2);
const SESSION: Duration = Duration::from_secs(10);
/// Records of one batch at most.
const BATCH_RECORDS: usize = 10_000;
/// Batches of one partition that may wait for the one before.
const BATCHES: usize = 4;
/// How often a member without partitions looks whether it has some.
const LOOK: Duration = Duration::from_millis(20);

/// Who copies.
#[derive(Debug, Clone)]
pub struct CopierSettings {
    /// Topic to read.
    pub from: String,
    /// Consumer group.
    pub group: String,
    /// Name of the transactions and of the group's member.
    pub identity: String,
    /// Time after which the broker aborts a transaction that nobody ends.
    pub transaction_timeout: Duration,
    /// Bytes of one record batch at most: what every target takes.
    pub max_batch_bytes: u64,
}

/// Why a batch was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The client can't be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Another router of this name has taken over.
    #[error("another router named `{identity}` has taken over: give each its own `broker.routing.instance`")]
    Fenced {
        /// The name.
        identity: String,
    },
    /// The broker gave the transaction up.
    #[error(
        "transaction took longer than `broker.routing.transaction_timeout` ({limit:?}): raise it, or lower `max_records`"
    )]
    Slow {
        /// The limit.
        limit: Duration,
    },
    /// A target refused records for good; nothing of the batch was copied. Indexes into the outputs.
    #[error("{} records are refused by their target: {}", refused.len(), refused.first().map_or("", |(_, reason)| reason.as_str()))]
    Refused {
        /// Which outputs, and why.
        refused: Vec<(usize, String)>,
    },
    /// Nothing of the batch was copied; the same again may succeed with a new copier.
    #[error("transaction was given up at {step}: {source}")]
    Aborted {
        /// What was being done.
        step: &'static str,
        /// The cause.
        #[source]
        source: WireError,
    },
}

/// Where a record goes.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// Index into the batch.
    pub record: usize,
    /// Topic to write.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: i32,
    /// Another value for a header of the record.
    pub replace: Option<(&'static str, Arc<[u8]>)>,
    /// Further headers.
    pub add: Vec<(&'static str, String)>,
    /// Without its value, as a last resort for what nobody takes.
    pub without_value: bool,
}

/// A record as it was read.
#[derive(Debug)]
struct Source {
    partition: i32,
    offset: i64,
    timestamp_ms: i64,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Bytes,
    header_count: usize,
}

impl Source {
    fn headers(&self) -> HeaderIter<'_> {
        HeaderIter::new(&self.headers, self.header_count)
    }

    fn size(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// Records that were read together.
pub struct Batch {
    records: Vec<Source>,
    bytes: usize,
    /// The assignment in which they were read.
    assignment: u64,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batch({} records)", self.records.len())
    }
}

impl Batch {
    /// How many.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of keys, values and headers, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Partition and offset of a record.
    pub fn at(&self, record: usize) -> (i32, i64) {
        self.records.get(record).map_or((-1, -1), |r| (r.partition, r.offset))
    }

    /// Bytes of a record's key and value.
    pub fn size_of(&self, record: usize) -> usize {
        self.records.get(record).map_or(0, Source::size)
    }

    /// Bytes of a record's value alone.
    pub fn value_len(&self, record: usize) -> usize {
        self.records.get(record).and_then(|r| r.value.as_ref()).map_or(0, Bytes::len)
    }

    /// The last value of a header.
    pub fn header(&self, record: usize, name: &str) -> Option<&[u8]> {
        self.records.get(record)?.headers().filter(|(known, _)| *known == name).last()?.1
    }
}

/// Reads one topic and writes others.
pub struct Copier {
    background: Background,
    cluster: Arc<Cluster>,
    fetching: Arc<Fetching>,
    stream: Mutex<RecordStream>,
    member: Arc<Membership>,
    transactions: Arc<Transactions>,
    zstd: Mutex<Zstd>,
    settings: CopierSettings,
}

impl std::fmt::Debug for Copier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Copier({} of {})", self.settings.identity, self.settings.from)
    }
}

/// A batch for one partition, and which outputs are in it.
struct Packed {
    batch: Compressed,
    outputs: Vec<usize>,
}

/// Records for one partition that are not sent yet.
#[derive(Default)]
struct Filling {
    records: Records,
    outputs: Vec<usize>,
}

/// What the brokers said about the records of one transaction.
#[derive(Debug, Default)]
struct Failures {
    /// Outputs that would be refused again, with reasons.
    refused: Vec<(usize, String)>,
    first: Option<WireError>,
}

/// The sending half of one transaction: one task for each partition, which sends its batches one after the other.
struct Sending {
    lanes: HashMap<TopicPartition, mpsc::Sender<Packed>>,
    /// Answered by each task at its end.
    ended: (mpsc::Sender<()>, mpsc::Receiver<()>),
    failures: Arc<Mutex<Failures>>,
    /// Something failed: what is not on its way yet stays.
    failed: CancellationToken,
}

impl Copier {
    /// Joins the group and fences off an earlier copier of the same name.
    pub fn open(config: &ConnectionConfig, settings: &CopierSettings) -> Result<Self, CopyError> {
        let cluster = Arc::new(connect(config)?);
        let fetch = FetchSettings { committed_only: true, report_ends: false };
        let fetching = Arc::new(Fetching::new(fetch, cluster.options()));
        let background = Background::start("log-copier")?;
        let member = MemberSettings {
            group: settings.group.clone(),
            instance_id: Some(settings.identity.clone()),
            topic: settings.from.clone(),
            start: StartAt::Earliest,
            session_timeout: Some(SESSION),
        };
        let member = Arc::new(Membership::new(Arc::clone(&cluster), Arc::clone(&fetching), member));
        let timeout = settings.transaction_timeout;
        let transactions = Transactions::new(Arc::clone(&cluster), &settings.identity, timeout, STEP);
        let options = cluster.options();
        let copier = Self {
            stream: Mutex::new(RecordStream::new(Arc::clone(&fetching))),
            transactions: Arc::new(transactions),
            zstd: Mutex::new(Zstd::new(options.compress, options.compression_level)),
            settings: settings.clone(),
            background,
            cluster,
            fetching,
            member,
        };
        copier.start("its start")?;
        copier.background.run(Arc::clone(&copier.fetching).run(Arc::clone(&copier.cluster)));
        copier.background.run(Arc::clone(&copier.member).run());
        Ok(copier)
    }

    /// Waits up to `wait` for a first record, then fills a batch until `linger` is over or a limit is reached.
    pub fn gather(
        &self,
        wait: Duration,
        linger: Duration,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Batch, CopyError> {
        let mut stream = self.stream.lock();
        stream.refresh();
        let mut batch = Batch { records: Vec::new(), bytes: 0, assignment: 0 };
        let mut until = Instant::now() + wait;
        while batch.records.len() < max_records && batch.bytes < max_bytes {
            if self.member.is_fenced() {
                return Err(self.fenced());
            }
            if let Some(source) = self.member.trouble() {
                return Err(CopyError::Aborted { step: "joining the group", source });
            }
            let left = until.saturating_duration_since(Instant::now());
            // Waits in pieces: the group may have something to say meanwhile.
            let item = match stream.next(left.min(LOOK)) {
                Some(item) => item,
                None if left.is_zero() => break,
                None => continue,
            };
            if stream.assignment() != batch.assignment {
                if !batch.records.is_empty() {
                    // Who has them now reads them again from the committed offsets, this copier too.
                    tracing::debug!(copier = self.settings.identity, "partitions were taken away, batch begun anew");
                    (batch.records, batch.bytes) = (Vec::new(), 0);
                }
                batch.assignment = stream.assignment();
            }
            match item {
                Item::Record(spot) => {
                    if batch.records.is_empty() {
                        until = Instant::now() + linger;
                    }
                    let record = Source {
                        partition: stream.partition().partition,
                        offset: spot.offset,
                        timestamp_ms: spot.timestamp_ms,
                        headers: stream.slice(spot.headers),
                        header_count: spot.header_count,
                        key: stream.optional(spot.key),
                        value: stream.optional(spot.value),
                    };
                    batch.bytes += record.size() + record.headers.len();
                    batch.records.push(record);
                }
                Item::Position { .. } | Item::End { .. } => {}
                Item::OutOfRange { tp, offset, log_start } => {
                    tracing::error!(
                        copier = self.settings.identity, partition = %tp, offset, log_start,
                        "retention removed records before they were copied, going on at the start of the log"
                    );
                    self.fetching.seek(stream.assignment(), &tp, StartAt::Earliest, log_start);
                }
                Item::Unreadable { tp, from, to, error } => {
                    tracing::error!(
                        copier = self.settings.identity, partition = %tp, from, to, %error,
                        "records can't be read, they are not copied"
                    );
                }
                Item::Failed { error, .. } => return Err(CopyError::Aborted { step: "reading", source: error }),
            }
        }
        if !batch.is_empty() && self.member.assignment() != Some(batch.assignment) {
            return Ok(Batch { records: Vec::new(), bytes: 0, assignment: 0 });
        }
        Ok(batch)
    }

    /// Writes the outputs and moves the group's offsets behind the batch, in one transaction. Outputs that are `alone`
    /// are sent one by one, so that a refusal is not about their neighbours.
    pub fn copy(&self, batch: &Batch, outputs: &[Output], alone: &dyn Fn(usize) -> bool) -> Result<(), CopyError> {
        if batch.is_empty() {
            return Ok(());
        }
        let begun = Instant::now();
        let (error, refused) = match self.fill(batch, outputs, alone) {
            Ok(()) => return Ok(()),
            Err(failed) => failed,
        };
        // The broker says "fenced" also of a transaction that it gave up itself for its age.
        let limit = self.settings.transaction_timeout;
        let or_slow = |error| match error {
            CopyError::Fenced { .. } if begun.elapsed() >= limit => CopyError::Slow { limit },
            error => error,
        };
        if matches!(error, CopyError::Fenced { .. }) {
            return Err(or_slow(error));
        }
        self.give_up().map_err(or_slow)?;
        self.start("its new start").map_err(or_slow)?;
        Err(if refused.is_empty() { error } else { CopyError::Refused { refused } })
    }

    fn wait<T: Send + 'static, F>(
        &self,
        step: &'static str,
        ask: impl FnOnce(Arc<Transactions>) -> F,
    ) -> Result<T, CopyError>
    where
        F: Future<Output = Result<T, WireError>> + Send + 'static,
    {
        let answer = self.background.wait(ask(Arc::clone(&self.transactions)));
        answer.map_err(|source| if source.is_fenced() { self.fenced() } else { CopyError::Aborted { step, source } })
    }

    fn start(&self, step: &'static str) -> Result<(), CopyError> {
        self.wait(step, |transactions| async move { transactions.start().await })
    }

    /// Aborts, as far as that is quick: the rest does the start of the next transaction.
    fn give_up(&self) -> Result<(), CopyError> {
        let aborted = self.wait("its abort", |transactions| async move { transactions.end(false, ABORT).await });
        match aborted {
            // A new epoch would take the name back from who has it now.
            Err(error @ CopyError::Fenced { .. }) => Err(error),
            Err(error) => {
                tracing::debug!(%error, copier = self.settings.identity, "abort is left to the next start");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// The whole transaction; with an error the outputs that were refused for good.
    fn fill(
        &self,
        batch: &Batch,
        outputs: &[Output],
        alone: &dyn Fn(usize) -> bool,
    ) -> Result<(), (CopyError, Vec<(usize, String)>)> {
        let bare = |error| (error, Vec::new());
        self.join_partitions(outputs).map_err(bare)?;
        let most = usize::try_from(self.settings.max_batch_bytes.clamp(1, 1_000_000)).unwrap_or(1_000_000);
        let mut sending = Sending::new();
        let mut filling: HashMap<TopicPartition, Filling> = HashMap::new();
        let mut scratch = Vec::new();
        for (i, output) in outputs.iter().enumerate() {
            let Some(record) = batch.records.get(output.record) else { continue };
            if alone(i) {
                self.settle(&mut sending, &mut filling).map_err(|error| sending.outcome(error))?;
            }
            let to = TopicPartition::new(Arc::clone(&output.topic), output.partition);
            let of = filling.entry(to.clone()).or_default();
            if of.records.size() + record.size() + record.headers.len() > most || of.records.len() >= BATCH_RECORDS {
                self.pack(&mut sending, &to, of);
            }
            push(&mut of.records, record, output, &mut scratch);
            of.outputs.push(i);
            if alone(i) {
                self.settle(&mut sending, &mut filling).map_err(|error| sending.outcome(error))?;
            }
            if sending.failed.is_cancelled() {
                break;
            }
        }
        self.settle(&mut sending, &mut filling).map_err(|error| sending.outcome(error))?;
        let by = self.member.committer(batch.assignment).ok_or_else(|| {
            bare(CopyError::Aborted {
                step: "asking for the membership",
                source: WireError::refused(Code::RebalanceInProgress, None),
            })
        })?;
        let mut next: BTreeMap<i32, i64> = BTreeMap::new();
        for record in &batch.records {
            next.insert(record.partition, record.offset + 1);
        }
        let from: Arc<str> = self.settings.from.as_str().into();
        let next: Vec<_> = next
            .into_iter()
            .map(|(partition, offset)| (TopicPartition::new(Arc::clone(&from), partition), offset))
            .collect();
        let group = self.settings.group.clone();
        self.wait("its offsets", |transactions| async move { transactions.add_offsets(&group, &by, &next).await })
            .map_err(bare)?;
        self.wait("its commit", |transactions| async move { transactions.end(true, STEP).await }).map_err(bare)
    }

    /// Makes all partitions that are written part of the transaction.
    fn join_partitions(&self, outputs: &[Output]) -> Result<(), CopyError> {
        let mut partitions: Vec<TopicPartition> =
            outputs.iter().map(|o| TopicPartition::new(Arc::clone(&o.topic), o.partition)).collect();
        partitions.sort_unstable();
        partitions.dedup();
        let cluster = Arc::clone(&self.cluster);
        self.wait("sending", |transactions| async move {
            // A broker that does not know a partition is asked again for long: it may have been created a moment ago.
            if partitions.iter().any(|tp| cluster.known_leader(tp).is_none()) {
                let mut topics: Vec<&str> = partitions.iter().map(|tp| &*tp.topic).collect();
                topics.dedup();
                let known = cluster.metadata(&topics).await?;
                let is_there =
                    |tp: &TopicPartition| known.get(&*tp.topic).is_some_and(|all| all.contains(&tp.partition));
                if let Some(missing) = partitions.iter().find(|tp| !is_there(tp)) {
                    let message = format!("there is no partition {missing}");
                    return Err(WireError::refused(Code::UnknownTopicOrPartition, Some(&message)));
                }
            }
            transactions.add_partitions(&partitions).await
        })
    }

    /// Hands a batch to the task of its partition, and starts that with the first one.
    fn pack(&self, sending: &mut Sending, to: &TopicPartition, filling: &mut Filling) {
        let Filling { records, outputs } = std::mem::take(filling);
        if records.is_empty() {
            return;
        }
        let batch = records.compress(&mut self.zstd.lock());
        let lane = sending.lanes.entry(to.clone()).or_insert_with(|| {
            let (give, take) = mpsc::channel(BATCHES);
            let (failures, failed) = (Arc::clone(&sending.failures), sending.failed.clone());
            let (transactions, to, ended) = (Arc::clone(&self.transactions), to.clone(), sending.ended.0.clone());
            self.background.run(async move {
                send_all(&transactions, &to, take, &failures, &failed).await;
                // Whoever waits for it notices that this is dropped.
                drop(ended);
            });
            give
        });
        // The task ends early only if something failed.
        lane.blocking_send(Packed { batch, outputs }).ok();
        filling.records = Records::default();
    }

    /// Waits until everything so far is stored, or something failed and nothing is on its way any more.
    fn settle(&self, sending: &mut Sending, filling: &mut HashMap<TopicPartition, Filling>) -> Result<(), CopyError> {
        for (to, of) in filling.iter_mut() {
            self.pack(sending, to, of);
        }
        sending.finish();
        match sending.failures.lock().first.clone() {
            None => Ok(()),
            Some(error) if error.is_fenced() => Err(self.fenced()),
            Some(source) => Err(CopyError::Aborted { step: "sending", source }),
        }
    }

    fn fenced(&self) -> CopyError {
        CopyError::Fenced { identity: self.settings.identity.clone() }
    }

    /// Records between the group's offsets and the ends, over the partitions of this member.
    pub fn lag(&self) -> Option<i64> {
        let assigned = self.fetching.assigned();
        let (cluster, group) = (Arc::clone(&self.cluster), self.settings.group.clone());
        let lag = self.background.wait(async move {
            let committed = committed(&cluster, &group, &assigned).await?;
            let mut lag = 0;
            for (tp, offset) in assigned.iter().zip(committed) {
                let end = end_of(&cluster, tp, End::Latest { committed_only: true }).await?;
                let at = match offset {
                    Some(offset) => offset,
                    None => end_of(&cluster, tp, End::Start).await?,
                };
                lag += (end - at).max(0);
            }
            Ok(lag)
        });
        lag.ok()
    }
}

impl Sending {
    fn new() -> Self {
        Self {
            lanes: HashMap::new(),
            ended: mpsc::channel(1),
            failures: Arc::default(),
            failed: CancellationToken::new(),
        }
    }

    /// Waits for all tasks.
    fn finish(&mut self) {
        self.lanes.clear();
        let (_, mut all) = std::mem::replace(&mut self.ended, mpsc::channel(1));
        // Ends when the last task has dropped its side.
        while all.blocking_recv().is_some() {}
    }

    fn outcome(&self, error: CopyError) -> (CopyError, Vec<(usize, String)>) {
        (error, std::mem::take(&mut self.failures.lock().refused))
    }
}

/// Sends the batches of one partition in order, until one fails.
async fn send_all(
    transactions: &Transactions,
    to: &TopicPartition,
    mut batches: mpsc::Receiver<Packed>,
    failures: &Mutex<Failures>,
    failed: &CancellationToken,
) {
    while let Some(Packed { batch, outputs }) = batches.recv().await {
        if failed.is_cancelled() {
            return;
        }
        // A batch that is on its way is waited for, so that nothing comes late; one that is only to be repeated is not.
        if let Err(BatchRefused { error, records }) = transactions.send(to, &batch, failed).await {
            let mut failures = failures.lock();
            if error.blames_records() && error.code() != Some(Code::CorruptMessage) {
                let why = reason(&error);
                if records.is_empty() {
                    failures.refused.extend(outputs.iter().map(|output| (*output, why.clone())));
                } else {
                    let named = records.iter().filter_map(|(at, _)| outputs.get(*at));
                    failures.refused.extend(named.map(|output| (*output, why.clone())));
                }
            }
            failures.first.get_or_insert(error);
            failed.cancel();
            return;
        }
    }
}

/// Writes a record with what its output changes.
fn push(records: &mut Records, record: &Source, output: &Output, scratch: &mut Vec<u8>) {
    let more: Vec<HeaderRef<'_>> = output.add.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    let value = record.value.as_deref().filter(|_| !output.without_value);
    let headers: &[u8] = match &output.replace {
        Some((replaced, with)) => {
            scratch.clear();
            for (name, value) in record.headers() {
                let value = if name == *replaced { Some(&with[..]) } else { value };
                put_header(scratch, name.as_bytes(), value);
            }
            scratch
        }
        None => &record.headers,
    };
    records.push_copied(record.timestamp_ms, record.key.as_deref(), value, (headers, record.header_count), &more);
}

fn reason(error: &WireError) -> String {
    match error.code() {
        Some(Code::MessageTooLarge | Code::RecordListTooLarge) => {
            "larger than `max.message.bytes` of the target".to_owned()
        }
        Some(Code::InvalidTimestamp) => "its time is out of the target's bounds".to_owned(),
        Some(Code::InvalidRecord) => {
            "the target takes no such record (without a key, it can't be compacted)".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
