//! Tests of the coordinator on files in memory: what producers are told, what readers see, over crashes at any step.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::state::{End, ProducerEpoch, Protocol, State, TxnError};
use super::*;
use crate::config::StorageConfig;
use crate::group::{Commit, Committer, Coordinator as Groups, GroupConfig};
use crate::keyed;
use crate::storage::{AppendKind, BatchProducer, Isolation, Partition, Storage, TopicSettings, marker_of};
use millrace_log::clock::{ManualClock, SharedClock};
use millrace_log::fs::SimFs;
use millrace_log::record::{Offset, TopicPartition};
use millrace_log::value::{ByteSize, Span};

const NOW_MS: i64 = 1_700_000_000_000;
const TIMEOUT_MS: i32 = 60_000;
const NOBODY: Committer<'static> = Committer { member: "", instance: None, generation: -1, knows_epochs: true };

struct Ids(AtomicI64);

impl ProducerIds for Ids {
    fn next(&self) -> Result<i64, String> {
        Ok(self.0.fetch_add(1, Ordering::SeqCst))
    }
}

/// A coordinator with all that it needs, on a disk in memory.
struct World {
    fs: SimFs,
    clock: Arc<ManualClock>,
    ids: Arc<Ids>,
    config: TransactionConfig,
    storage: Arc<Storage>,
    groups: Groups,
    txns: Coordinator,
}

impl World {
    async fn new() -> Self {
        let (fs, clock, ids) =
            (SimFs::new(), ManualClock::at_ns(NOW_MS * 1_000_000), Arc::new(Ids(AtomicI64::new(1000))));
        let world = Self::open(fs, clock, ids, TransactionConfig::default()).await;
        world.storage.create_topic("t", 3, TopicSettings::default()).await.unwrap();
        world
    }

    async fn open(fs: SimFs, clock: Arc<ManualClock>, ids: Arc<Ids>, config: TransactionConfig) -> Self {
        let settings = StorageConfig { write_threads: 1, read_threads: 1, queue: 16, ..StorageConfig::default() };
        let time: SharedClock = Arc::<ManualClock>::clone(&clock);
        let storage = Storage::open(Path::new("data"), Arc::new(fs.clone()), Arc::clone(&time), settings).unwrap();
        let groups = Groups::open(Arc::clone(&storage), Arc::clone(&time), GroupConfig::default()).await.unwrap();
        let of: Arc<dyn ProducerIds> = Arc::<Ids>::clone(&ids);
        let txns = Coordinator::open(Arc::clone(&storage), time, config.clone(), of).await.unwrap();
        Self { fs, clock, ids, config, storage, groups, txns }
    }

    /// The same disk with another process, after `fault` has come over it.
    async fn after(self, fault: impl FnOnce(&SimFs)) -> Self {
        let Self { fs, clock, ids, config, .. } = self;
        fault(&fs);
        Self::open(fs, clock, ids, config).await
    }

    /// A copy of it all, of which nothing can come back.
    async fn copy(&self, fault: impl FnOnce(&SimFs)) -> Self {
        let fs = self.fs.fork();
        fault(&fs);
        Self::open(fs, Arc::clone(&self.clock), Arc::clone(&self.ids), self.config.clone()).await
    }

    fn partition(&self, number: i32) -> Arc<Partition> {
        self.storage.topic("t").unwrap().partition(number).unwrap()
    }

    /// Starts a producer, as often as it takes.
    async fn init(&self, id: &str) -> ProducerEpoch {
        for _ in 0..3 {
            match self.txns.init(id, TIMEOUT_MS, None).await {
                Err(TxnError::Concurrent) => self.txns.look_around(&self.groups).await,
                given => return given.unwrap(),
            }
        }
        panic!("{id} stays busy: {:?}", self.txns.describe(id));
    }

    /// Writes one record as the Produce handler does; gives its offset.
    async fn write(&self, id: &str, producer: ProducerEpoch, number: i32, protocol: Protocol) -> Result<i64, String> {
        let tp = TopicPartition::new("t", number);
        self.txns.add(id, producer, std::slice::from_ref(&tp), protocol).await.map_err(|e| e.to_string())?;
        let partition = self.partition(number);
        let verification = partition.verification();
        self.txns.verify(id, producer, &tp).map_err(|e| e.to_string())?;
        let batch = keyed::batch([(Bytes::from_static(b"k"), None)], Some(producer), NOW_MS).unwrap();
        let kind = AppendKind::InternalTransaction(verification);
        let appended = partition.append(batch, kind).await.map_err(|e| e.to_string())?;
        partition.flushed(appended.last_offset).await.map_err(|e| e.to_string())?;
        Ok(appended.base_offset)
    }

    async fn write_plain(&self, number: i32) -> i64 {
        let partition = self.partition(number);
        let batch = keyed::batch([(Bytes::from_static(b"k"), None)], None, NOW_MS).unwrap();
        let appended = partition.append(batch, AppendKind::Internal).await.unwrap();
        partition.flushed(appended.last_offset).await.unwrap();
        appended.base_offset
    }

    async fn end(&self, id: &str, producer: ProducerEpoch, commit: bool) -> Result<ProducerEpoch, TxnError> {
        self.txns.end(id, producer, End { commit, protocol: Protocol::One }).await
    }

    async fn commit_offset(&self, group: &str, producer: ProducerEpoch, offset: i64) {
        let verification = self.groups.verification(group).unwrap();
        let commit = Commit {
            partition: TopicPartition::new("t", 0),
            offset: Offset::new(offset),
            leader_epoch: -1,
            metadata: String::new(),
        };
        let kept = self.groups.commit_in_transaction(group, NOBODY, producer, verification, vec![commit]).await;
        assert_eq!(kept, Ok(vec![Ok(())]));
    }

    /// Offset of a group and whether an open transaction holds another.
    fn offset(&self, group: &str) -> (Option<i64>, bool) {
        let tp = TopicPartition::new("t", 0);
        let committed = self.groups.committed(group, Some(std::slice::from_ref(&tp))).remove(0).1;
        (committed.map(|c| c.offset.get()), self.groups.is_unstable(group, &tp))
    }

    /// Offsets that a read-committed consumer is given, and the last stable offset.
    async fn read(&self, number: i32) -> (Vec<i64>, i64) {
        let partition = self.partition(number);
        let stable = partition.last_stable_offset();
        let mut from = partition.log_start_offset();
        let mut kept = Vec::new();
        while from < stable {
            let read = partition.read_as(from, 300, true, Isolation::Committed).await.unwrap();
            let mut rest = read.records;
            assert!(!rest.is_empty(), "stuck at {from} of {stable}");
            while !rest.is_empty() {
                let base = i64::from_be_bytes(rest[..8].try_into().unwrap());
                let size = 12 + usize::try_from(i32::from_be_bytes(rest[8..12].try_into().unwrap())).unwrap();
                let of = BatchProducer::of(&rest).unwrap();
                let is_aborted = of.is_transactional
                    && read.aborted.iter().any(|txn| {
                        txn.producer_id == of.producer_id && (txn.first_offset..txn.last_offset).contains(&base)
                    });
                if !of.is_control && !is_aborted {
                    kept.push(base);
                }
                from = base + 1;
                rest = rest.slice(size..);
            }
        }
        (kept, stable)
    }

    /// Kinds of the markers in a partition.
    async fn markers(&self, number: i32) -> Vec<bool> {
        let mut rest = self.partition(number).read(0, 1 << 20, true).await.unwrap().records;
        let mut found = Vec::new();
        while !rest.is_empty() {
            found.extend(marker_of(&rest).map(|marker| marker.commit));
            let size = 12 + usize::try_from(i32::from_be_bytes(rest[8..12].try_into().unwrap())).unwrap();
            rest = rest.slice(size..);
        }
        found
    }
}

#[tokio::test]
async fn a_decided_transaction_is_completed_whatever_happens() {
    for commit in [true, false] {
        let world = World::new().await;
        let producer = world.init("x").await;
        world.write("x", producer, 0, Protocol::One).await.unwrap();
        world.write("x", producer, 2, Protocol::One).await.unwrap();
        assert_eq!(world.end("x", producer, commit).await, Ok(producer));
        let before = world.txns.describe("x").unwrap();
        assert_eq!(before.state, if commit { State::PrepareCommit } else { State::PrepareAbort });
        assert_eq!(world.read(0).await, (vec![], 0), "not before the marker");
        for fault in [SimFs::crash as fn(&SimFs), SimFs::kill] {
            let world = world.copy(fault).await;
            assert_eq!(world.txns.describe("x").unwrap().state, before.state);
            world.txns.look_around(&world.groups).await;
            let want = if commit { vec![0] } else { vec![] };
            let complete = if commit { State::CompleteCommit } else { State::CompleteAbort };
            assert_eq!(world.txns.describe("x").unwrap().state, complete);
            for number in [0, 2] {
                assert_eq!(world.read(number).await, (want.clone(), 2));
                assert_eq!(world.markers(number).await, [commit]);
            }
            assert_eq!(world.markers(1).await, [] as [bool; 0]);
            // That it is complete may be lost: the markers once more change nothing.
            let world = world.after(fault).await;
            world.txns.look_around(&world.groups).await;
            assert_eq!(world.txns.describe("x").unwrap().state, complete);
            for number in [0, 2] {
                assert_eq!(world.read(number).await.0, want);
            }
        }
    }
}

#[tokio::test]
async fn a_new_producer_fences_the_old_one_and_aborts_its_transaction() {
    let world = World::new().await;
    let old = world.init("x").await;
    world.write("x", old, 0, Protocol::One).await.unwrap();
    assert_eq!(world.txns.init("x", TIMEOUT_MS, None).await, Err(TxnError::Concurrent), "it has to be aborted first");
    let new = world.init("x").await;
    assert_eq!((new.0, new.1), (old.0, old.1 + 2));
    assert_eq!(world.read(0).await, (vec![], 2));
    assert_eq!(world.end("x", old, true).await, Err(TxnError::Fenced));
    assert!(world.write("x", old, 0, Protocol::One).await.is_err());
    world.write("x", new, 0, Protocol::One).await.unwrap();
    world.end("x", new, true).await.unwrap();
    world.txns.look_around(&world.groups).await;
    assert_eq!(world.read(0).await, (vec![2], 4));
}

#[tokio::test]
async fn late_transactions_are_aborted_and_their_producers_fenced() {
    let world = World::new().await;
    let producer = world.init("x").await;
    world.write("x", producer, 0, Protocol::Two).await.unwrap();
    world.clock.advance(Duration::from_millis(59_999));
    world.txns.look_around(&world.groups).await;
    assert_eq!(world.txns.describe("x").unwrap().state, State::Ongoing);
    world.clock.advance(Duration::from_millis(1));
    world.txns.look_around(&world.groups).await;
    let txn = world.txns.describe("x").unwrap();
    assert_eq!((txn.state, txn.epoch), (State::CompleteAbort, producer.1 + 1));
    assert_eq!(world.end("x", producer, true).await, Err(TxnError::Fenced));
    assert_eq!(world.read(0).await, (vec![], 2));
}

#[tokio::test]
async fn endings_are_counted_once_and_the_oldest_open_transaction_is_known() {
    let world = World::new().await;
    let told = |world: &World| {
        let mut registry = prometheus_client::registry::Registry::default();
        world.txns.metrics().register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let value = |line: &str| text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse::<u64>().ok()).unwrap();
        let ended = |outcome| value(&format!("millrace_log_transactions_ended_total{{outcome=\"{outcome}\"}}"));
        let markers = value("millrace_log_transaction_marker_seconds_count");
        let failed = value("millrace_log_transaction_failed_markers_total");
        (["commit", "abort", "fenced", "timeout"].map(ended), markers, failed)
    };
    let standing = |world: &World| {
        let Standing { by_state, open, longest_ms } = world.txns.standing();
        let some: Vec<_> = by_state.into_iter().filter(|(_, count)| *count > 0).collect();
        (some, open, longest_ms)
    };
    assert_eq!((told(&world), standing(&world)), (([0; 4], 0, 0), (vec![], 0, 0)));
    for (id, commit) in [("a", true), ("b", false)] {
        let producer = world.init(id).await;
        world.write(id, producer, 0, Protocol::One).await.unwrap();
        world.write(id, producer, 1, Protocol::One).await.unwrap();
        world.clock.advance(Duration::from_secs(2));
        assert_eq!(standing(&world).1, 1, "{id}");
        world.end(id, producer, commit).await.unwrap();
        // Decided, and open until its markers stand.
        assert_eq!((standing(&world).1, standing(&world).2), (1, 2000), "{id}");
        world.txns.look_around(&world.groups).await;
        // The same once more.
        world.end(id, producer, commit).await.unwrap();
        assert_eq!((standing(&world).1, standing(&world).2), (0, 0), "{id}");
    }
    assert_eq!(told(&world), ([1, 1, 0, 0], 4, 0));
    let producer = world.init("c").await;
    world.write("c", producer, 2, Protocol::Two).await.unwrap();
    world.clock.advance(Duration::from_secs(30));
    let producer = world.init("d").await;
    world.write("d", producer, 2, Protocol::Two).await.unwrap();
    let want = vec![("Ongoing", 2), ("CompleteCommit", 1), ("CompleteAbort", 1)];
    assert_eq!(standing(&world), (want, 2, 30_000));
    world.clock.advance(Duration::from_secs(30));
    world.txns.look_around(&world.groups).await;
    assert_eq!((told(&world), standing(&world).2), (([1, 1, 0, 1], 5, 0), 30_000));
    world.init("d").await;
    assert_eq!(told(&world), ([1, 1, 1, 1], 6, 0));
    // A marker that can't be written is counted, and its transaction stays open.
    let producer = world.init("e").await;
    world.write("e", producer, 0, Protocol::One).await.unwrap();
    world.end("e", producer, true).await.unwrap();
    world.fs.fail_next_writes(1);
    world.txns.look_around(&world.groups).await;
    assert_eq!((told(&world), standing(&world).1), (([2, 1, 1, 1], 6, 1), 1));
}

#[tokio::test]
async fn unused_ids_are_forgotten_and_the_topic_stays_small() {
    let mut world = World::new().await;
    world.config = TransactionConfig { compact_at: ByteSize(8192), id_expiry: Span::secs(600), ..world.config };
    let mut settings = world.storage.topic(TRANSACTIONS_TOPIC).unwrap().settings();
    settings.set("segment.bytes", "2048").unwrap();
    world.storage.alter_topic(TRANSACTIONS_TOPIC, settings).await.unwrap();
    world.storage.close().await.unwrap();
    let world = world.after(SimFs::kill).await;
    let idle = world.init("idle").await;
    world.clock.advance(Duration::from_secs(300));
    let mut busy = world.init("busy").await;
    for _ in 0..100 {
        world.write("busy", busy, 0, Protocol::Two).await.unwrap();
        busy = world.txns.end("busy", busy, End { commit: true, protocol: Protocol::Two }).await.unwrap();
        world.txns.look_around(&world.groups).await;
    }
    let sizes = |world: &World| world.txns.partitions.iter().map(|p| p.size_bytes()).max().unwrap();
    let before = sizes(&world);
    assert!(before > 8192, "{before}");
    world.txns.tidy().await;
    assert!(sizes(&world) < 4096, "{}", sizes(&world));
    assert_eq!(world.txns.describe("idle").unwrap().epoch, idle.1);
    world.clock.advance(Duration::from_secs(300));
    world.txns.tidy().await;
    let ids = |world: &World| world.txns.list().into_iter().map(|(id, txn)| (id, txn.epoch)).collect::<Vec<_>>();
    let want = [("busy".to_owned(), busy.1)];
    assert_eq!(ids(&world), want);
    let world = world.after(SimFs::crash).await;
    assert_eq!(ids(&world), want, "also at the next start");
    assert_eq!(world.txns.describe("idle"), Err(TxnError::NotFound));
}

#[tokio::test]
async fn a_state_that_may_be_in_the_log_is_not_taken_back() {
    let world = World::new().await;
    let producer = world.init("x").await;
    world.write("x", producer, 0, Protocol::One).await.unwrap();
    world.fs.fail_next_syncs(1);
    assert!(matches!(world.end("x", producer, true).await, Err(TxnError::NotAvailable(_))));
    assert_eq!(world.end("x", producer, false).await, Err(TxnError::Concurrent), "it may be decided");
    // The process ends, but not the system: what was written is there.
    let world = world.after(SimFs::kill).await;
    world.txns.look_around(&world.groups).await;
    assert_eq!(world.txns.describe("x").unwrap().state, State::CompleteCommit);
    assert_eq!(world.read(0).await, (vec![0], 2));
}

#[tokio::test]
async fn a_request_that_goes_away_leaves_no_state_on_its_way() {
    let world = World::new().await;
    let producer = world.init("x").await;
    let tp = [TopicPartition::new("t", 0)];
    {
        let _held = futures::future::join_all(world.txns.gates.iter().map(|gate| gate.write())).await;
        let add = world.txns.add("x", producer, &tp, Protocol::One);
        tokio::pin!(add);
        assert!(futures::poll!(add.as_mut()).is_pending(), "it waits to be written");
    }
    assert_eq!(world.end("x", producer, true).await, Err(TxnError::Concurrent));
    world.txns.look_around(&world.groups).await;
    assert_eq!(world.txns.describe("x").unwrap().state, State::Ongoing);
    world.end("x", producer, true).await.unwrap();
}

#[tokio::test]
async fn offsets_count_when_their_transaction_commits() {
    for (commit, want) in [(true, Some(9)), (false, Some(3))] {
        let world = World::new().await;
        let before = Commit {
            partition: TopicPartition::new("t", 0),
            offset: Offset::new(3),
            leader_epoch: -1,
            metadata: String::new(),
        };
        world.groups.commit("g", NOBODY, vec![before]).await.unwrap();
        let producer = world.init("x").await;
        let add = [world.groups.partition_of("g")];
        world.txns.add("x", producer, &add, Protocol::One).await.unwrap();
        world.commit_offset("g", producer, 9).await;
        assert_eq!(world.offset("g"), (Some(3), true));
        let world = world.after(SimFs::crash).await;
        assert_eq!(world.offset("g"), (Some(3), true), "pending after a crash");
        assert_eq!(world.end("x", producer, commit).await, Ok(producer));
        world.txns.look_around(&world.groups).await;
        assert_eq!(world.offset("g"), (want, false));
        let world = world.after(SimFs::crash).await;
        assert_eq!(world.offset("g"), (want, false), "the same after a crash");
    }
}

#[tokio::test]
async fn a_group_of_an_aborted_transaction_leaves_nothing() {
    let world = World::new().await;
    let producer = world.init("x").await;
    let add = [world.groups.partition_of("g")];
    world.txns.add("x", producer, &add, Protocol::One).await.unwrap();
    world.commit_offset("g", producer, 9).await;
    assert_eq!(world.groups.list().len(), 1);
    world.end("x", producer, false).await.unwrap();
    world.txns.look_around(&world.groups).await;
    assert_eq!(world.groups.list(), []);
}

/// What a random producer does.
#[derive(Debug, Clone)]
enum Act {
    /// A producer starts with one of the ids.
    Init(usize),
    /// One of the producers so far, perhaps long fenced, writes to a partition.
    Write(usize, i32),
    /// One of them ends its transaction.
    End(usize, bool),
    /// The same while the disk does not flush; then the process is killed, or the power goes.
    EndInDoubt(usize, bool, bool),
    /// Somebody without transactions writes.
    Plain(i32),
    /// Markers are written.
    Look,
    /// All that is open becomes late.
    Late,
    /// Power cut that had got so much of each unsynced tail to disk, of 8.
    Crash(usize),
    /// SIGKILL.
    Kill,
    /// An orderly stop.
    Stop,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..3usize).prop_map(Act::Init),
        10 => (any::<usize>(), 0..3i32).prop_map(|(who, number)| Act::Write(who, number)),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(who, commit)| Act::End(who, commit)),
        1 => (any::<usize>(), any::<bool>(), any::<bool>()).prop_map(|(who, commit, kill)| Act::EndInDoubt(who, commit, kill)),
        3 => (0..3i32).prop_map(Act::Plain),
        3 => Just(Act::Look),
        1 => Just(Act::Late),
        1 => (0..9usize).prop_map(Act::Crash),
        1 => Just(Act::Kill),
        1 => Just(Act::Stop),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open,
    Committed,
    Aborted,
}

#[derive(Debug)]
struct Producer {
    id: usize,
    now: ProducerEpoch,
    protocol: Protocol,
    is_current: bool,
}

/// What must be so.
#[derive(Debug, Default)]
struct Model {
    producers: Vec<Producer>,
    /// By id, the transaction that is open.
    open: BTreeMap<usize, usize>,
    fates: Vec<Fate>,
    /// By partition, offset and transaction of each acknowledged record.
    records: BTreeMap<i32, Vec<(i64, Option<usize>)>>,
}

impl Model {
    fn decide(&mut self, id: usize, fate: Fate) {
        if let Some(txn) = self.open.remove(&id) {
            self.fates[txn] = fate;
        }
    }

    fn visible(&self, number: i32, below: i64) -> Vec<i64> {
        let records = self.records.get(&number).into_iter().flatten();
        let counts = |txn: Option<usize>| txn.is_none_or(|txn| self.fates[txn] == Fate::Committed);
        records.filter(|(at, txn)| *at < below && counts(*txn)).map(|(at, _)| *at).collect()
    }

    fn first_open(&self, number: i32) -> Option<i64> {
        let records = self.records.get(&number).into_iter().flatten();
        let is_open = |txn: Option<usize>| txn.is_some_and(|txn| self.fates[txn] == Fate::Open);
        records.filter(|(_, txn)| is_open(*txn)).map(|(at, _)| *at).next()
    }

    async fn check(&self, world: &World, is_settled: bool) {
        for number in 0..3 {
            let (got, stable) = world.read(number).await;
            assert_eq!(got, self.visible(number, stable), "partition {number} below {stable}");
            let first_open = self.first_open(number);
            assert!(first_open.is_none_or(|first| stable <= first), "{stable} is beyond {first_open:?}");
            if is_settled {
                let end = world.partition(number).high_watermark();
                assert_eq!(stable, first_open.unwrap_or(end), "partition {number}");
            }
        }
    }
}

const NAMES: [&str; 3] = ["a", "b", "c"];

async fn play(acts: Vec<Act>) {
    let mut world = World::new().await;
    let mut model = Model::default();
    for act in acts {
        let count = model.producers.len();
        match act {
            Act::Init(id) => {
                let now = world.init(NAMES[id]).await;
                model.decide(id, Fate::Aborted);
                model.producers.iter_mut().filter(|p| p.id == id).for_each(|p| p.is_current = false);
                let protocol = if count.is_multiple_of(2) { Protocol::One } else { Protocol::Two };
                model.producers.push(Producer { id, now, protocol, is_current: true });
            }
            Act::Write(who, number) if count > 0 => {
                let Producer { id, now, protocol, is_current } = model.producers[who % count];
                let mut written = world.write(NAMES[id], now, number, protocol).await;
                if is_current && written.is_err() {
                    // The transaction before is still being ended.
                    world.txns.look_around(&world.groups).await;
                    written = world.write(NAMES[id], now, number, protocol).await;
                }
                assert_eq!(written.is_ok(), is_current, "{written:?}");
                if let Ok(at) = written {
                    let fresh = model.fates.len();
                    let txn = *model.open.entry(id).or_insert(fresh);
                    if txn == fresh {
                        model.fates.push(Fate::Open);
                    }
                    model.records.entry(number).or_default().push((at, Some(txn)));
                }
            }
            Act::End(who, commit) if count > 0 => {
                let Producer { id, now, protocol, is_current } = model.producers[who % count];
                let ended = world.txns.end(NAMES[id], now, End { commit, protocol }).await;
                let is_open = model.open.contains_key(&id);
                assert!(ended.is_ok() || !(is_current && is_open), "{ended:?}");
                if !is_current {
                    // A late repetition of an end of its own is answered again, and changes nothing.
                    continue;
                }
                if let Ok(next) = ended {
                    model.decide(id, if commit { Fate::Committed } else { Fate::Aborted });
                    model.producers[who % count].now = next;
                }
            }
            Act::EndInDoubt(who, commit, kill) if count > 0 => {
                let Producer { id, now, protocol, is_current } = model.producers[who % count];
                if !is_current || !model.open.contains_key(&id) {
                    continue;
                }
                world.fs.fail_next_syncs(1);
                let ended = world.txns.end(NAMES[id], now, End { commit, protocol }).await;
                assert!(ended.is_err());
                world = world.after(if kill { SimFs::kill } else { SimFs::crash }).await;
                // Either it was decided or it goes on: never something in between.
                let txn = world.txns.describe(NAMES[id]).unwrap();
                match txn.state {
                    State::Ongoing => {}
                    State::PrepareCommit | State::CompleteCommit if commit => model.decide(id, Fate::Committed),
                    State::PrepareAbort | State::CompleteAbort if !commit => model.decide(id, Fate::Aborted),
                    other => panic!("{other:?} after an end with commit {commit}"),
                }
                model.producers[who % count].now = txn.producer();
            }
            Act::Write(..) | Act::End(..) | Act::EndInDoubt(..) => {}
            Act::Plain(number) => {
                let at = world.write_plain(number).await;
                model.records.entry(number).or_default().push((at, None));
            }
            Act::Look => world.txns.look_around(&world.groups).await,
            Act::Late => {
                world.clock.advance(Duration::from_millis(u64::from(TIMEOUT_MS.unsigned_abs())));
                world.txns.look_around(&world.groups).await;
                for id in 0..NAMES.len() {
                    if model.open.contains_key(&id) {
                        model.decide(id, Fate::Aborted);
                        model.producers.iter_mut().filter(|p| p.id == id).for_each(|p| p.is_current = false);
                    }
                }
            }
            Act::Crash(of_8) => world = world.after(|fs| fs.crash_keeping(|unsynced| unsynced * of_8 / 8)).await,
            Act::Kill => world = world.after(SimFs::kill).await,
            Act::Stop => {
                world.storage.close().await.unwrap();
                world = world.after(|_| ()).await;
            }
        }
        model.check(&world, false).await;
    }
    for fault in [SimFs::crash as fn(&SimFs), SimFs::kill] {
        let copy = world.copy(fault).await;
        model.check(&copy, false).await;
        copy.txns.look_around(&copy.groups).await;
        model.check(&copy, true).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn readers_see_committed_records_once_and_in_order(acts in proptest::collection::vec(act(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(acts));
    }
}
