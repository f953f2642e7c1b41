//! One source that is not a file, as long as its name stays: its ids, its durable counter, its streams and its part of
//! the ledger.
//!
//! In: settings, what [`super::intake`] takes and what the log acknowledged. Out: numbers that are never given twice,
//! ids for records. Touches the state.
//!
//! # Ids and numbers
//! A receiver has one source id for each partition of its topic, and one counter for all of them: positions rise in each
//! partition, and that is what the index asks for. Numbers are given out of blocks that are raised in the state and
//! synced before the first number of a block is given, so a crash costs the rest of a block and never a number twice.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use millrace_doors::identity::Client;
use millrace_log::record::{Labels, SourceId, Tenant};
use parking_lot::{Mutex, RwLock};

use super::rejected::Rejected;
use super::streams::{Stream, Streams};
use crate::batch::{Anchor, BatchSource, Identity};
use crate::error::AgentError;
use crate::ledger::{Count, Lost, SourceLedger, Taken, Tally};
use crate::state::{ReceiverState, State};
use crate::timestamp::TimeReader;
use crate::transform::Chain;

/// All receivers of an agent, shared by its parts.
pub(crate) type Receivers = Arc<RwLock<Vec<Arc<Receiver>>>>;

/// Numbers reserved at once.
const BLOCK: u64 = 1 << 20;

/// One source that is not a file, ready for use.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Unique among the sources of an agent: its ids and numbers are kept under it.
    pub name: Arc<str>,
    /// As the configuration says it.
    pub kind: &'static str,
    /// Labels of all its streams; they win over those that come with the data.
    pub labels: Labels,
    /// Whose lines these are where the data does not say.
    pub tenant: Option<Tenant>,
    /// Longest line.
    pub max_line: usize,
    /// How to find the time in a line that came without one.
    pub time: Option<TimeReader>,
    pub transforms: Option<Arc<Chain>>,
    /// Label sets at a time.
    pub max_streams: usize,
}

impl Settings {
    /// Of a source that the configuration has no more, and of which there is something left.
    pub fn orphan(name: &str) -> Self {
        Self {
            name: name.into(),
            kind: "removed",
            labels: Labels::default(),
            tenant: None,
            max_line: usize::MAX,
            time: None,
            transforms: None,
            max_streams: 1,
        }
    }
}

/// A run of numbers.
#[derive(Debug)]
struct NumberRange {
    next: u64,
    /// Durable: numbers below may have been given.
    reserved: u64,
    /// The lowest of the source's own numbers that may come; after a restart it may repeat some.
    own: u64,
}

#[derive(Debug)]
struct ReceiverProgress {
    tally: Tally,
    topic: String,
    partitions: Vec<Identity>,
    bookmark: Option<Bytes>,
    dirty: bool,
}

/// One source that is not a file.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub settings: Settings,
    id: SourceId,
    start: u64,
    range: Mutex<NumberRange>,
    /// Who raises the reserved numbers holds it.
    raising: tokio::sync::Mutex<()>,
    progress: Mutex<ReceiverProgress>,
    streams: Mutex<Streams>,
}

impl Receiver {
    /// Finds the source in the state, or mints it, and reserves numbers; durable once the state is synced. Blocks.
    pub fn open(settings: Settings, state: &State) -> Result<Arc<Self>, AgentError> {
        let known = state.receiver(&settings.name)?.unwrap_or_else(|| ReceiverState {
            id: SourceId::random().to_string(),
            reserved: 1,
            ..ReceiverState::default()
        });
        let damaged = || AgentError::Setting {
            key: format!("sources[{}]", settings.name),
            reason: "its entry in the agent's state holds no source id: give the source another `name`".to_owned(),
        };
        let id = |text: &str| SourceId::from_hex(text.as_bytes()).ok_or_else(damaged);
        let partitions = known.partitions.iter().map(|text| id(text).map(Identity::new)).collect::<Result<_, _>>()?;
        let progress = ReceiverProgress {
            tally: Tally::restore(known.sent, &known.dropped),
            topic: known.topic,
            partitions,
            bookmark: known.bookmark.map(Bytes::from),
            dirty: true,
        };
        let reserved = known.reserved.saturating_add(BLOCK);
        let receiver = Arc::new(Self {
            id: id(&known.id)?,
            start: known.reserved,
            range: Mutex::new(NumberRange { next: known.reserved, reserved, own: 0 }),
            raising: tokio::sync::Mutex::default(),
            progress: Mutex::new(progress),
            streams: Mutex::new(Streams::new(settings.max_streams)),
            settings,
        });
        receiver.put(state, reserved)?;
        Ok(receiver)
    }

    /// Its ids for the partitions of a topic; new ones for another topic. Durable once the state is synced. Blocks.
    pub fn partitions(
        self: &Arc<Self>,
        topic: &str,
        partitions: usize,
        state: &State,
    ) -> Result<Vec<Arc<ReceiverPartition>>, AgentError> {
        {
            let mut p = self.progress.lock();
            if p.topic != topic {
                topic.clone_into(&mut p.topic);
                p.partitions.clear();
            }
            while p.partitions.len() < partitions {
                p.partitions.push(Identity::new(SourceId::random()));
            }
        }
        let reserved = self.range.lock().reserved;
        self.put(state, reserved)?;
        Ok((0..partitions)
            .map(|partition| Arc::new(ReceiverPartition { receiver: Arc::clone(self), partition }))
            .collect())
    }

    /// The stream of these labels; those of the configuration win over them. `client`: who brings it.
    pub fn stream(
        &self,
        labels: &Labels,
        tenant: Option<&Tenant>,
        client: Option<&Client>,
        now_ms: i64,
    ) -> Result<Stream, Rejected> {
        let tenant = tenant.or(self.settings.tenant.as_ref()).filter(|tenant| tenant.as_str() != Tenant::DEFAULT);
        let key = (tenant.cloned(), labels.clone());
        let mut streams = self.streams.lock();
        if let Some(stream) = streams.used(&key, now_ms) {
            return Ok(stream);
        }
        let all = Labels::new(labels.iter().chain(self.settings.labels.iter()));
        all.check().map_err(|error| Rejected::Labels { labels: all.clone(), source: Arc::new(error) })?;
        let client = client.cloned();
        streams.make_room(&client, now_ms)?;
        let stream = Stream::new(&all, tenant, now_ms);
        streams.add(key, stream.clone(), client);
        Ok(stream)
    }

    /// Number of its streams.
    pub fn streams(&self) -> usize {
        self.streams.lock().len()
    }

    /// Gives `count` numbers to `give`, which gets the first, and no one else has a turn before it is done; `None` if
    /// so many are not reserved.
    pub fn number<T>(&self, count: u64, give: impl FnOnce(u64) -> T) -> Option<T> {
        let mut range = self.range.lock();
        let end = range.next.checked_add(count).filter(|end| *end <= range.reserved)?;
        let first = std::mem::replace(&mut range.next, end);
        Some(give(first))
    }

    /// Lets `give` use numbers of its source's own: the first must be beyond all that were given.
    pub fn own_numbers<T>(&self, first: u64, last: u64, give: impl FnOnce() -> T) -> Result<T, Rejected> {
        let mut range = self.range.lock();
        if first < range.own {
            return Err(Rejected::Order { number: first, next: range.own });
        }
        range.own = last.saturating_add(1);
        Ok(give())
    }

    /// Whether so many numbers can be given without the disk.
    fn has(&self, count: u64) -> bool {
        let range = self.range.lock();
        range.next.checked_add(count).is_some_and(|end| end <= range.reserved)
    }

    /// Reserves numbers so that `count` can be given. Durable when this returns.
    pub async fn reserve(self: &Arc<Self>, count: u64, state: &Arc<State>) -> Result<(), AgentError> {
        if self.has(count) {
            return Ok(());
        }
        let _raising = self.raising.lock().await;
        if self.has(count) {
            return Ok(());
        }
        let (receiver, state) = (Arc::clone(self), Arc::clone(state));
        let raised = tokio::task::spawn_blocking(move || {
            let reserved = receiver.range.lock().next.saturating_add(count).saturating_add(BLOCK);
            receiver.put(&state, reserved)?;
            state.sync()?;
            receiver.range.lock().reserved = reserved;
            Ok(())
        });
        raised.await.unwrap_or(Err(AgentError::Ended { part: "writer of positions" }))
    }

    /// The partition of a hash, as far as is known.
    pub fn partition_of(&self, hash: u32) -> Option<usize> {
        let count = self.progress.lock().partitions.len();
        (count > 0).then(|| hash as usize % count)
    }

    /// Its partitions, as far as is known.
    pub fn partition_count(&self) -> usize {
        self.progress.lock().partitions.len()
    }

    /// Something was taken; it waits for the log.
    pub fn took(&self, count: Count) {
        self.progress.lock().tally.took(count);
    }

    /// Something came in and was dropped.
    pub fn lose(&self, reason: &Arc<str>, count: Count) {
        let mut p = self.progress.lock();
        p.tally.lose(reason, count);
        p.dirty = true;
    }

    /// What the source asked to be kept.
    pub fn bookmark(&self) -> Option<Bytes> {
        self.progress.lock().bookmark.clone()
    }

    /// Keeps something for the source; durable with the next checkpoint.
    pub fn keep_bookmark(&self, bookmark: Bytes) {
        let mut p = self.progress.lock();
        p.bookmark = Some(bookmark);
        p.dirty = true;
    }

    /// Keeps something for the source. Durable when this returns.
    pub async fn keep_bookmark_now(self: &Arc<Self>, bookmark: Bytes, state: &Arc<State>) -> Result<(), AgentError> {
        self.keep_bookmark(bookmark);
        let _raising = self.raising.lock().await;
        let (receiver, state) = (Arc::clone(self), Arc::clone(state));
        let kept = tokio::task::spawn_blocking(move || {
            let reserved = receiver.range.lock().reserved;
            receiver.put(&state, reserved)?;
            state.sync()
        });
        kept.await.unwrap_or(Err(AgentError::Ended { part: "writer of positions" }))
    }

    /// Keeps what changed; durable only after [`State::sync`].
    pub fn save(&self, state: &State) -> Result<bool, AgentError> {
        if !std::mem::take(&mut self.progress.lock().dirty) {
            return Ok(false);
        }
        // What is being raised meanwhile is written again, and synced, before a number of it is given.
        let _raising = self.raising.try_lock();
        if _raising.is_err() {
            self.progress.lock().dirty = true;
            return Ok(false);
        }
        let reserved = self.range.lock().reserved;
        self.put(state, reserved).map(|()| true)
    }

    fn put(&self, state: &State, reserved: u64) -> Result<(), AgentError> {
        // The lock is held over the insert: of two savers the later look wins.
        let p = self.progress.lock();
        state.put_receiver(
            &self.settings.name,
            &ReceiverState {
                id: self.id.to_string(),
                kind: self.settings.kind.to_owned(),
                reserved,
                topic: p.topic.clone(),
                partitions: p.partitions.iter().map(|partition| partition.id.to_string()).collect(),
                sent: p.tally.sent,
                dropped: p.tally.dropped(),
                bookmark: p.bookmark.as_ref().map(|bookmark| bookmark.to_vec()),
            },
        )
    }

    /// This source's part of the ledger.
    pub fn ledger(&self) -> SourceLedger {
        let next = self.range.lock().next;
        let p = self.progress.lock();
        SourceLedger {
            source: self.id.to_string(),
            kind: self.settings.kind.to_owned(),
            filename: self.settings.name.to_string(),
            partition: -1,
            start: self.start,
            read_to: next,
            acknowledged_to: 0,
            size: 0,
            finished: false,
            balance: p.tally.balance(),
        }
    }
}

/// What a receiver has for one partition.
#[derive(Debug)]
pub(crate) struct ReceiverPartition {
    receiver: Arc<Receiver>,
    partition: usize,
}

impl BatchSource for ReceiverPartition {
    fn identity(&self) -> Identity {
        let p = self.receiver.progress.lock();
        // There from the start: an inlet is only made for a partition that has one.
        p.partitions.get(self.partition).cloned().unwrap_or_else(|| Identity::new(self.receiver.id))
    }

    fn chain(&self) -> Option<&Arc<Chain>> {
        self.receiver.settings.transforms.as_ref()
    }

    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.receiver.settings.name)
    }

    fn kind(&self) -> &'static str {
        self.receiver.settings.kind
    }

    fn settle(&self, _: Anchor, taken: Taken, lost: &Lost) {
        let mut p = self.receiver.progress.lock();
        p.tally.settle(taken, lost);
        p.dirty = true;
    }

    fn move_on(&self, state: &State) -> Result<(), AgentError> {
        if let Some(partition) = self.receiver.progress.lock().partitions.get_mut(self.partition) {
            *partition = Identity::new(SourceId::random());
        }
        let _raising = self.receiver.raising.blocking_lock();
        let reserved = self.receiver.range.lock().reserved;
        self.receiver.put(state, reserved)?;
        state.sync()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::push::streams::STREAM_IDLE_MS;

    pub fn settings(name: &str) -> Settings {
        Settings {
            name: name.into(),
            kind: "test",
            labels: Labels::new([("env", "prod")]),
            tenant: None,
            max_line: 100,
            time: None,
            transforms: None,
            max_streams: 2,
        }
    }

    /// sled lets go of its lock a moment after it was dropped.
    fn state(folder: &std::path::Path) -> Arc<State> {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            match State::open(folder) {
                Ok(state) => return Arc::new(state),
                Err(_) if std::time::Instant::now() < deadline => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[tokio::test]
    async fn numbers_are_never_given_twice_and_ids_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (mut highest, mut ids) = (0, Vec::new());
        for round in 0..3 {
            let state = state(folder.path());
            let receiver = Receiver::open(settings("a"), &state).unwrap();
            let partitions = receiver.partitions("logs", 2, &state).unwrap();
            state.sync().unwrap();
            let now: Vec<SourceId> = partitions.iter().map(|partition| partition.identity().id).collect();
            assert!(round == 0 || now == ids);
            ids = now;
            for count in [1, 3, 2 * BLOCK] {
                receiver.reserve(count, &state).await.unwrap();
                let first = receiver.number(count, |first| first).unwrap();
                assert!(first > highest, "round {round}");
                highest = first + count - 1;
            }
            assert_eq!(receiver.number(2 * BLOCK, |_| ()), None, "nothing is given that is not reserved");
        }
        assert_ne!(ids[0], ids[1]);
    }

    #[test]
    fn another_topic_gets_other_ids_and_a_partition_moves_on_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(folder.path());
        let receiver = Receiver::open(settings("a"), &state).unwrap();
        let ids = |topic| -> Vec<SourceId> {
            receiver.partitions(topic, 2, &state).unwrap().iter().map(|partition| partition.identity().id).collect()
        };
        let first = ids("one");
        assert_eq!(ids("one"), first);
        receiver.partitions("one", 2, &state).unwrap()[1].move_on(&state).unwrap();
        let moved = ids("one");
        assert!(moved[0] == first[0] && moved[1] != first[1]);
        assert!(ids("two").iter().all(|id| !moved.contains(id)));
    }

    #[test]
    fn streams_are_bounded_and_idle_ones_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let receiver = Receiver::open(settings("a"), &state(folder.path())).unwrap();
        let stream =
            |app: &str, now| receiver.stream(&Labels::new([("app", app), ("env", "spoofed")]), None, None, now);
        let one = stream("1", 0).unwrap();
        assert_eq!(one.0.labels, r#"{"app":"1","env":"prod"}"#);
        stream("2", 1).unwrap();
        assert!(matches!(stream("3", 2), Err(Rejected::TooManyStreams { limit: 2, .. })));
        stream("1", STREAM_IDLE_MS).unwrap();
        stream("3", STREAM_IDLE_MS + 1).unwrap();
        assert!(matches!(stream("2", STREAM_IDLE_MS + 2), Err(Rejected::TooManyStreams { .. })));
        let tenant = Tenant::new("team").unwrap();
        assert!(receiver.stream(&Labels::new([("a-b", "x")]), Some(&tenant), None, 0).is_err());
    }
}
