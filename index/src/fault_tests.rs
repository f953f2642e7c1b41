//! Publication, merge and retention on a simulated disk that crashes, fails or is full at each of its operations in turn.
//! After each: what the catalog lists opens, passes its checksums and has all its rows; nothing else is left; and the same
//! work succeeds when it is done again.
//!
//! The catalog is in memory (sled does its own input and output); live documents are in a sled database of the test's.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use futures::TryStreamExt as _;
use millrace_log::client::{BatchProducer, ClientError, Consumed};
use millrace_log::clock::ManualClock;
use millrace_log::consume::Interval;
use millrace_log::fs::{Filesystem, SimFs};
use millrace_log::record::{DocIdentity, Event, Labels, Position, Record, SourceId, Tenant, TopicPartition, encode};
use millrace_log::value::Span;
use millrace_logql::storage::{LineNeedle, Order};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::catalog::{
    Catalog, CatalogError, CatalogState, PartitionState, Publication, Replacement, SourceKey, SourceState, SplitId,
};
use crate::config::{IndexConfig, RetentionConfig};
use crate::docs::Documents;
use crate::folders::Folders;
use crate::indexer::{Indexer, Part, Shared};
use crate::ledger::Book;
use crate::progress::Fetched;
use crate::publish::{PublishError, Publisher, Tools};
use crate::retention::Upkeep;
use crate::scan::{Budget, EventStore as _, Kind, Plan, StreamInfo};
use crate::split::{SplitReader, SplitWriter, StoredEvent};
use crate::state::{StateDb, StateError};
use crate::store::Index;

const ROOT: &str = "/data/index";
const NOW_NS: i64 = 1_000_000 * 1_000_000_000;
const TENANTS: [&str; 2] = ["default", "other"];
/// Lines of each tenant in one publication, beside one document.
const LINES: i64 = 6;
const RECORDS: i64 = (LINES + 1) * TENANTS.len() as i64;

/// A catalog in memory, as durable as a test says.
#[derive(Default)]
struct MemoryCatalog {
    state: Mutex<CatalogState>,
    fault: Mutex<Option<CatalogFault>>,
}

#[derive(Debug, Clone, Copy)]
enum CatalogFault {
    /// Nothing is written.
    Refuses,
    /// All is written, the answer is an error.
    AnswerIsLost,
}

impl MemoryCatalog {
    fn fork(&self) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(self.state.lock().clone()), fault: Mutex::default() })
    }

    fn listed(&self) -> Vec<SplitId> {
        let mut listed: Vec<SplitId> = self.state.lock().splits.iter().map(|split| split.id.clone()).collect();
        listed.sort();
        listed
    }

    fn change(&self, change: impl FnOnce(&mut CatalogState)) -> Result<(), CatalogError> {
        let fault = *self.fault.lock();
        if !matches!(fault, Some(CatalogFault::Refuses)) {
            change(&mut self.state.lock());
        }
        match fault {
            None => Ok(()),
            Some(_) => Err(StateError::io("syncing", Path::new("catalog"))(ErrorKind::Other.into()).into()),
        }
    }
}

#[async_trait::async_trait]
impl Catalog for MemoryCatalog {
    async fn load(&self) -> Result<CatalogState, CatalogError> {
        Ok(self.state.lock().clone())
    }

    async fn sources(&self) -> Result<HashMap<SourceKey, SourceState>, CatalogError> {
        Ok(self.state.lock().sources.clone())
    }

    async fn publish(&self, publication: Publication) -> Result<(), CatalogError> {
        let Publication { id, splits, intervals, sources, .. } = publication;
        self.change(|state| {
            for interval in intervals {
                let known = state.partitions.entry(interval.topic_partition()).or_insert_with(|| PartitionState {
                    epoch: interval.epoch,
                    start: interval.from,
                    next: interval.from,
                    topic_id: None,
                    publication: String::new(),
                });
                if known.publication == id {
                    return;
                }
                assert_eq!(known.next, interval.from, "an interval follows the one before");
                (known.next, known.publication) = (interval.to, id.clone());
            }
            state.splits.extend(splits);
            state.sources.extend(sources);
        })
    }

    async fn replace(&self, replacement: Replacement) -> Result<(), CatalogError> {
        let Replacement { removed, added, .. } = replacement;
        self.change(|state| {
            let before = state.splits.len();
            state.splits.retain(|split| !removed.contains(&split.id));
            assert_eq!(before - state.splits.len(), removed.len(), "what is replaced is listed");
            state.splits.extend(added);
        })
    }
}

/// Nothing is sent there.
struct NoDeadLetters;

#[async_trait::async_trait]
impl BatchProducer for NoDeadLetters {
    async fn send(&self, to: &TopicPartition, _: Vec<Record>) -> Result<i64, ClientError> {
        panic!("dead letters for {to}");
    }

    async fn ensure_topic(&self, topic: &str, _: i32) -> Result<i32, ClientError> {
        panic!("dead letters for {topic}");
    }
}

/// How a process ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// What was not synced is lost.
    PowerCut,
    /// Half of what was not synced is lost.
    TornPowerCut,
    /// All that was written stays.
    Kill,
}

const ENDS: [End; 3] = [End::PowerCut, End::TornPowerCut, End::Kill];

/// Every number of changes with a power cut, and with one of the other ends in turn.
fn crashes(total: u64) -> impl Iterator<Item = (u64, End)> {
    let others = [End::TornPowerCut, End::Kill].into_iter().cycle();
    (0..=total).zip(others).flat_map(|(after, other)| [(after, End::PowerCut), (after, other)])
}

fn end(fs: &SimFs, how: End) {
    match how {
        End::PowerCut => fs.crash(),
        End::TornPowerCut => fs.crash_keeping(|unsynced| unsynced / 2),
        End::Kill => fs.kill(),
    }
}

/// A disk with its catalog.
struct Disk {
    fs: SimFs,
    catalog: Arc<MemoryCatalog>,
}

impl Disk {
    fn fork(&self) -> Self {
        Self { fs: self.fs.fork(), catalog: self.catalog.fork() }
    }

    fn shared(&self) -> Arc<dyn Filesystem> {
        Arc::new(self.fs.clone())
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = self.fs.list(&Path::new(ROOT).join(folder)).unwrap();
        entries.into_iter().map(|entry| entry.name).collect()
    }

    /// `tmp` is empty, and `splits` holds what the catalog lists.
    #[track_caller]
    fn assert_tidy(&self, when: &str) {
        assert_eq!(self.names("tmp"), [""; 0], "{when}");
        let listed: Vec<String> = self.catalog.listed().iter().map(ToString::to_string).collect();
        assert_eq!(self.names("splits"), listed, "{when}");
    }
}

/// What runs and does not belong to the disk.
struct House {
    db: Arc<StateDb>,
    runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = Arc::new(StateDb::open(&dir.path().join("state")).unwrap());
        Self { db, runtime: tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap(), _dir: dir }
    }

    /// A disk with so many publications.
    fn disk(&self, publications: i64) -> Disk {
        let disk = Disk { fs: SimFs::new(), catalog: Arc::default() };
        disk.fs.create_dir_all(Path::new(ROOT)).unwrap();
        for dir in ["/", "/data"] {
            disk.fs.sync_dir(Path::new(dir)).unwrap();
        }
        for n in 0..publications {
            assert!(self.open(&disk).publish(n));
        }
        self.open(&disk);
        disk
    }

    fn try_open(&self, disk: &Disk) -> Result<Tools, StateError> {
        let state = disk.catalog.state.lock().clone();
        let folders = Folders::open(&disk.shared(), Path::new(ROOT), &state.splits)?;
        let docs = Arc::new(Documents::open(Arc::clone(&self.db), NOW_NS)?);
        let (progress, metrics) = (Arc::default(), Arc::default());
        let (config, splits) = (IndexConfig::default(), state.splits);
        let shared = (Arc::clone(&docs), Arc::clone(&progress), Arc::clone(&metrics));
        let index = Arc::new(Index::new(&config, &folders, splits, shared.0, shared.1, shared.2));
        let book = Arc::new(Book::new(state.ledger));
        Ok(Tools {
            shared: Shared { index, docs, book, progress, metrics },
            catalog: Arc::clone(&disk.catalog) as Arc<dyn Catalog>,
            folders,
            clock: ManualClock::at_ns(NOW_NS),
            runtime: self.runtime.handle().clone(),
            cancel: CancellationToken::new(),
        })
    }

    /// The index as it starts from the disk; panics if it does not.
    fn open(&self, disk: &Disk) -> Room {
        let tools = self.try_open(disk).unwrap();
        disk.assert_tidy("after the start");
        Room { tools, sources: disk.catalog.state.lock().sources.clone() }
    }
}

/// The index of one process.
struct Room {
    tools: Tools,
    sources: HashMap<SourceKey, SourceState>,
}

/// The records of one publication: lines and a document of two tenants; a document replaces that of the one before.
fn records_of(publication: i64) -> Vec<Consumed> {
    let partition = TopicPartition::new("logs", 0);
    let of_tenant = |(number, tenant): (usize, &'static &'static str)| {
        (0..=LINES).map(move |n| {
            let offset = publication * (LINES + 1) + n;
            let is_document = n == LINES;
            let doc = DocIdentity { index: "orders".into(), id: "one".into(), op: Default::default() };
            Event {
                tenant: Tenant::new(tenant).unwrap(),
                time_ns: offset * 1_000_000_000,
                labels: Labels::new([("app", if n % 2 == 0 { "web" } else { "db" })]),
                metadata: Labels::default(),
                line: match is_document {
                    true => Bytes::from(format!("document of {tenant} version {publication}")),
                    false => Bytes::from(format!("line of {tenant} number {offset} blk{offset:08}")),
                },
                source: SourceId([u8::try_from(number).unwrap(); 16]),
                position: Position::at(offset.unsigned_abs()),
                doc: is_document.then(|| Box::new(doc)),
                cut: false,
                time_from_line: true,
            }
        })
    };
    let first = publication * RECORDS;
    let events = TENANTS.iter().enumerate().flat_map(of_tenant);
    let consumed = events.enumerate().map(|(n, event)| Consumed {
        partition: partition.clone(),
        offset: first + i64::try_from(n).unwrap(),
        record: encode(&event, 0),
        unreadable: None,
    });
    consumed.collect()
}

/// Lines of so many publications, without the documents.
fn lines(publications: i64) -> BTreeMap<String, Vec<String>> {
    let of = |tenant: &&str| {
        let lines = (0..publications).flat_map(|publication| (0..LINES).map(move |n| publication * (LINES + 1) + n));
        let lines = lines.map(|offset| format!("line of {tenant} number {offset} blk{offset:08}"));
        ((*tenant).to_owned(), lines.collect())
    };
    TENANTS.iter().filter(|_| publications > 0).map(of).collect()
}

fn plan(tenant: &str, needle: &str) -> Plan {
    Plan {
        tenant: Tenant::new(tenant).unwrap(),
        matchers: Vec::new(),
        start_ns: i64::MIN,
        end_ns: i64::MAX,
        needles: vec![LineNeedle { text: needle.as_bytes().to_vec(), ignore_case: false }],
        kind: Kind::All,
        order: Order::Forward,
        expect: None,
        budget: Budget::unlimited(),
    }
}

fn found(reader: &SplitReader, plan: &Plan) -> Vec<String> {
    let batches = reader.scan(plan).map(|batch| batch.unwrap());
    let of_batch = |batch: &crate::scan::RowBatch| -> Vec<String> {
        batch.rows.iter().map(|row| String::from_utf8_lossy(batch.line(row)).into_owned()).collect()
    };
    batches.flat_map(|batch| of_batch(&batch)).collect()
}

impl Room {
    /// The part that the indexer makes of the records of one publication.
    fn part(&self, publication: i64) -> Part {
        let from = publication * RECORDS;
        let interval =
            Interval { topic: "logs".into(), partition: 0, epoch: 0, from, to: from + RECORDS, topic_id: None };
        let (records, from_consumer) = sync_channel(1);
        records.send(vec![Fetched { interval, hole: None, records: records_of(publication) }]).unwrap();
        drop(records);
        let (parts, from_indexer) = sync_channel(1);
        let Tools { shared, clock, .. } = &self.tools;
        let indexer = Indexer::new(shared.clone(), self.sources.clone(), clock.clone(), IndexConfig::default());
        indexer.run(from_consumer, &parts).unwrap();
        from_indexer.recv().unwrap()
    }

    /// False: given up, as a process that is to end does after some attempts.
    fn publish(&self, publication: i64) -> bool {
        self.tools.cancel.cancel();
        let publisher = Publisher::new(self.tools.clone(), Arc::new(NoDeadLetters), "dead".to_owned());
        publisher.publish(self.part(publication)).unwrap()
    }

    /// A round of upkeep that merges two splits into one, and drops those older than `age`.
    fn upkeep(&self, age: Option<Span>) -> Upkeep {
        let config = IndexConfig { merge_splits: 2, ..IndexConfig::default() };
        Upkeep::new(self.tools.clone(), config, RetentionConfig { age, ..RetentionConfig::default() })
    }

    /// All lines by tenant, sorted, and the documents; every split is checked as a whole, and through its words.
    fn rows(&self) -> (BTreeMap<String, Vec<String>>, Vec<String>) {
        let (mut lines, mut documents) = (BTreeMap::<String, Vec<String>>::new(), Vec::new());
        for split in self.tools.shared.index.splits() {
            assert!(!split.is_set_aside());
            let reader = self.tools.shared.index.reader(&split).unwrap();
            reader.verify().unwrap();
            let tenant = split.record.meta.tenant.clone();
            let rows = found(&reader, &plan(&tenant, ""));
            assert_eq!(rows.len() as u64, split.record.meta.rows);
            // Words go through terms and filters: one in the middle of the line, and one with digits.
            let row = rows.first().unwrap();
            for needle in [&*format!("{tenant} "), row.rsplit(' ').next().unwrap()] {
                assert!(found(&reader, &plan(&tenant, needle)).contains(row), "{needle} in {row}");
            }
            assert_eq!(found(&reader, &plan(&tenant, " nowhere ")), [""; 0]);
            let (of_docs, of_lines): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.starts_with("document"));
            documents.extend(of_docs);
            lines.entry(tenant).or_default().extend(of_lines);
        }
        documents.sort();
        lines.values_mut().for_each(|lines| lines.sort());
        (lines, documents)
    }

    #[track_caller]
    fn assert_lines(&self, publications: i64, when: &str) {
        let mut want = lines(publications);
        want.values_mut().for_each(|lines| lines.sort());
        assert_eq!(self.rows().0, want, "{when}");
    }
}

/// Changes of the disk that a piece of work makes.
fn changes(disk: &Disk, work: impl FnOnce(&Disk)) -> u64 {
    let before = disk.fs.changes();
    work(disk);
    disk.fs.changes() - before
}

#[test]
fn a_crash_at_any_step_of_a_publication_loses_and_leaves_nothing() {
    let house = House::new();
    let start = house.disk(1);
    let total = changes(&start.fork(), |disk| assert!(house.open(disk).publish(1)));
    assert!(total > 80, "{total} changes");
    for (after, how) in crashes(total) {
        let when = format!("{how:?} after {after} of {total} changes");
        let disk = start.fork();
        let room = house.open(&disk);
        let opening = disk.fs.changes();
        disk.fs.stop_after(Some(after));
        let done = room.publish(1);
        assert_eq!(done, disk.catalog.listed().len() == 4, "{when}");
        assert!(done || disk.fs.changes() - opening == after, "{when}");
        end(&disk.fs, how);
        // The next starts may be cut short as well.
        for again in [0, 1, 4, 9] {
            disk.fs.stop_after(Some(again));
            house.try_open(&disk).ok();
            end(&disk.fs, how);
        }
        let room = house.open(&disk);
        room.assert_lines(if done { 2 } else { 1 }, &when);
        if !done {
            assert!(room.publish(1), "{when}");
            room.assert_lines(2, &when);
        }
        disk.fs.crash();
        house.open(&disk).assert_lines(2, &when);
    }
}

#[test]
fn a_catalog_that_fails_leaves_a_publication_as_it_says() {
    let house = House::new();
    let start = house.disk(1);
    // (fault, publications after the next start)
    for (fault, want) in [(CatalogFault::Refuses, 1), (CatalogFault::AnswerIsLost, 2)] {
        for how in ENDS {
            let disk = start.fork();
            let room = house.open(&disk);
            *disk.catalog.fault.lock() = Some(fault);
            assert!(!room.publish(1), "{fault:?}");
            let reason = room.tools.shared.progress.ready().unwrap_err();
            assert!(reason.contains("publishing fails and is repeated: catalog failed"), "{reason}");
            *disk.catalog.fault.lock() = None;
            end(&disk.fs, how);
            let room = house.open(&disk);
            room.assert_lines(want, &format!("{fault:?} {how:?}"));
            if want == 1 {
                assert!(room.publish(1));
                room.assert_lines(2, &format!("{fault:?} {how:?}"));
            }
        }
    }
}

#[test]
fn one_failure_at_any_step_of_a_publication_is_repeated() {
    let house = House::new();
    let start = house.disk(1);
    let total = changes(&start.fork(), |disk| assert!(house.open(disk).publish(1)));
    for after in 0..total {
        let when = format!("failure after {after} of {total} changes");
        let disk = start.fork();
        let room = house.open(&disk);
        disk.fs.fail_change_after(Some(after), ErrorKind::StorageFull);
        assert!(room.publish(1), "{when}");
        let failures = room.tools.shared.metrics.publication_failures.get();
        disk.assert_tidy(&when);
        room.assert_lines(2, &when);
        disk.fs.crash();
        house.open(&disk).assert_lines(2, &when);
        // Opening changes the disk a little, so that the last of these fail in nothing.
        assert!(failures == 1 || after + 8 > total, "{when}: {failures} failures");
    }
}

#[test]
fn a_full_disk_lists_nothing_and_leaves_nothing_until_there_is_space() {
    let house = House::new();
    let start = house.disk(1);
    let mut refused = 0;
    for space in (0..).map(|n| n * 97) {
        let disk = start.fork();
        let room = house.open(&disk);
        disk.fs.set_space_left(Some(space));
        let done = room.publish(1);
        if done {
            break;
        }
        refused += 1;
        let reason = room.tools.shared.progress.ready().unwrap_err();
        assert!(reason.contains("/data/index/tmp/") && reason.contains("failed: no storage space"), "{reason}");
        disk.assert_tidy(&format!("{space} bytes"));
        room.assert_lines(1, &format!("{space} bytes"));
        disk.fs.set_space_left(None);
        // The same process goes on, with the records that it still has.
        let again = house.open(&disk);
        assert!(again.publish(1), "{space} bytes");
        again.assert_lines(2, &format!("{space} bytes"));
        disk.assert_tidy(&format!("{space} bytes"));
    }
    assert!(refused > 20, "{refused} sizes");
}

#[test]
fn an_error_of_writing_names_its_file_and_is_no_damage() {
    let event = StoredEvent {
        stream: StreamInfo { labels: Labels::new([("app", "web")]), topic: "logs".into() },
        time_ns: 1,
        source: SourceId([7; 16]),
        position: Position::at(1),
        line: Bytes::from_static(b"one line of words and 4711"),
        metadata: Labels::default(),
        doc: None,
        cut: false,
        time_from_line: true,
    };
    let (mut named, random) = (std::collections::BTreeSet::new(), regex::Regex::new("[0-9a-f]{32}").unwrap());
    for after in 0.. {
        let sim = SimFs::new();
        let fs: Arc<dyn Filesystem> = Arc::new(sim.clone());
        fs.create_dir_all(Path::new("/tmp")).unwrap();
        sim.fail_change_after(Some(after), ErrorKind::StorageFull);
        let written = SplitWriter::new(&fs).write(Path::new("/tmp/s"), &Tenant::default(), vec![event.clone()]);
        let Err(error) = written else {
            assert!(after > 30, "{after} changes");
            break;
        };
        let text = error.to_string();
        assert!(!error.is_damage(), "{text}");
        let (what, rest) = text.split_once(" /tmp").unwrap_or_else(|| panic!("{text}"));
        let file = rest.strip_suffix(" failed: no storage space").unwrap_or_else(|| panic!("{text}"));
        named.insert(format!("{what} {}", random.replace(file, "ID")));
    }
    let named: Vec<String> = named.into_iter().collect();
    assert_eq!(
        named,
        [
            "creating /s",
            "creating /s/filters",
            "creating /s/lines",
            "creating /s/split.json",
            "creating /s/words-0",
            "creating /s/words-0/ID.fast",
            "creating /s/words-0/ID.fieldnorm",
            "creating /s/words-0/ID.idx",
            "creating /s/words-0/ID.pos",
            "creating /s/words-0/ID.store",
            "creating /s/words-0/ID.term",
            "syncing ",
            "syncing /s",
            "syncing /s/filters",
            "syncing /s/lines",
            "syncing /s/split.json",
            "syncing /s/words-0",
            "syncing /s/words-0/.managed.json",
            "syncing /s/words-0/ID.fast",
            "syncing /s/words-0/ID.fieldnorm",
            "syncing /s/words-0/ID.idx",
            "syncing /s/words-0/ID.pos",
            "syncing /s/words-0/ID.store",
            "syncing /s/words-0/ID.term",
            "syncing /s/words-0/meta.json",
            "writing /s/filters",
            "writing /s/lines",
            "writing /s/split.json",
            "writing /s/words-0/.managed.json",
            "writing /s/words-0/ID.fast",
            "writing /s/words-0/ID.fieldnorm",
            "writing /s/words-0/ID.idx",
            "writing /s/words-0/ID.pos",
            "writing /s/words-0/ID.store",
            "writing /s/words-0/ID.term",
            "writing /s/words-0/meta.json",
        ]
    );
}

/// Calls that only read: the one behind so many fails, for one of these reasons in turn.
fn read_faults() -> impl Iterator<Item = (u64, i32, &'static str)> {
    let codes = [
        (24, "raise the limit of open files of the process"),
        (23, "raise the system's limit of open files"),
        (12, "`vm.max_map_count`"),
        (5, "look at the kernel's log"),
    ];
    (0..).zip(codes.into_iter().cycle()).map(|(after, (code, help))| (after, code, help))
}

#[test]
fn what_the_system_refuses_to_read_is_named_and_quarantines_nothing() {
    let house = House::new();
    let start = house.disk(1);
    let (mut refused, needle) = (std::collections::BTreeSet::new(), "number ");
    for (after, code, help) in read_faults() {
        let disk = start.fork();
        let room = house.open(&disk);
        let Shared { index, metrics, .. } = &room.tools.shared;
        let ask = || {
            house.runtime.block_on(async {
                let rows = index.scan(plan("default", needle)).await.unwrap();
                rows.map_ok(|batch| batch.rows.len()).try_collect::<Vec<usize>>().await
            })
        };
        disk.fs.fail_read_after(Some((after, code)));
        let answer = ask();
        if disk.fs.fail_read_after(None).is_some() {
            assert_eq!(answer.unwrap().iter().sum::<usize>(), LINES as usize);
            break;
        }
        let text = answer.unwrap_err().to_string();
        let os = std::io::Error::from_raw_os_error(code).to_string();
        assert!(text.contains(help) && text.contains(&os) && text.contains("/data/index/splits/"), "{after}: {text}");
        refused.insert(after);
        let damaged = (metrics.splits_quarantined.get(), metrics.splits_damaged.get());
        assert_eq!((damaged, index.all_damaged().len()), ((0, 0), 0), "{text}");
        assert_eq!(ask().unwrap().iter().sum::<usize>(), LINES as usize, "the next one reads it: {text}");
    }
    assert!(refused.len() > 20, "{} reads", refused.len());
}

#[test]
fn what_the_system_refuses_to_read_stops_no_merge_for_good() {
    let house = House::new();
    let start = house.disk(2);
    let mut refused = 0;
    for (after, code, help) in read_faults() {
        let disk = start.fork();
        let room = house.open(&disk);
        let mut upkeep = room.upkeep(None);
        disk.fs.fail_read_after(Some((after, code)));
        let round = upkeep.round();
        if disk.fs.fail_read_after(None).is_some() {
            break;
        }
        if let Err(error) = round {
            refused += 1;
            let text = error.to_string();
            assert!(text.contains(help) || !text.contains("damaged"), "{after}: {text}");
            assert!(!matches!(&error, PublishError::Split(cause) if cause.is_damage()), "{after}: {text}");
            assert!(!text.contains("query"), "{after}: {text}");
        }
        assert_eq!(room.tools.shared.metrics.splits_quarantined.get(), 0, "{after}: {code}");
        upkeep.round().unwrap();
        assert_eq!(disk.catalog.listed().len(), TENANTS.len(), "{after}: {code}");
        room.assert_lines(2, &format!("{after}: {code}"));
    }
    assert!(refused > 20, "{refused} reads");
}

#[test]
fn a_split_that_the_disk_refuses_for_long_is_quarantined_until_it_can_be_read() {
    let house = House::new();
    let start = house.disk(2);
    // (what can't be read, whether a query meets it first)
    for (file, is_asked_first) in [("words-0", true), ("lines", true), ("lines", false), ("split.json", false)] {
        let (disk, clock) = (start.fork(), ManualClock::at_ns(NOW_NS));
        let mut room = house.open(&disk);
        room.tools.clock = clock.clone();
        let mut upkeep = room.upkeep(None);
        let Shared { index, metrics, .. } = &room.tools.shared;
        let ask = || {
            house.runtime.block_on(async {
                let rows = index.scan(plan("default", "number ")).await.unwrap();
                let batches = rows.map_ok(|batch| batch.rows.len()).try_collect::<Vec<usize>>().await;
                batches.map(|batches| batches.iter().sum::<usize>() as i64)
            })
        };
        let (id, dir) = {
            let split = &index.splits_of("default")[0];
            (split.record.id.to_string(), split.dir.clone())
        };
        disk.fs.fail_reads_of(Some((&dir.join(file), 5)));
        let text =
            if is_asked_first { ask().unwrap_err().to_string() } else { upkeep.round().unwrap_err().to_string() };
        assert!(text.contains(file) || file == "words-0", "{text}");
        assert!(text.contains("look at the kernel's log (`dmesg`)"), "{text}");
        // Merges go on without it, as those of the other tenant.
        upkeep.round().unwrap();
        assert_eq!(disk.catalog.listed().len(), 3, "{file}");
        disk.assert_tidy(file);
        for seconds in [0, 29, 1, 30] {
            clock.advance(std::time::Duration::from_secs(seconds));
            upkeep.round().unwrap();
            assert_eq!(metrics.splits_quarantined.get(), 0, "{file}");
            assert!(ask().unwrap_err().to_string().ends_with("look at the kernel's log (`dmesg`)"), "{file}");
        }
        clock.advance(std::time::Duration::from_secs(30));
        upkeep.round().unwrap();
        let damaged: Vec<String> = index.all_damaged().into_iter().map(|split| split.split).collect();
        assert_eq!((metrics.splits_quarantined.get(), metrics.splits_damaged.get(), damaged), (1, 1, vec![id]));
        assert_eq!(ask().unwrap(), LINES, "{file}");
        disk.fs.fail_reads_of(None);
        clock.advance(std::time::Duration::from_secs(30));
        upkeep.round().unwrap();
        assert_eq!((metrics.splits_quarantined.get(), index.all_damaged().len()), (0, 0), "{file}");
        assert_eq!((ask().unwrap(), disk.catalog.listed().len()), (2 * LINES, 2), "{file}");
        disk.assert_tidy(file);
        room.assert_lines(2, file);
    }
}

#[test]
fn a_split_whose_documents_cannot_be_read_delays_the_retention_of_no_other() {
    let house = House::new();
    let start = house.disk(2);
    // (whether it can be read again within 90 s)
    for recovers in [true, false] {
        let (disk, clock) = (start.fork(), ManualClock::at_ns(NOW_NS));
        let mut room = house.open(&disk);
        room.tools.clock = clock.clone();
        let mut upkeep = room.upkeep(Some(Span::secs(60)));
        let split = Arc::clone(&room.tools.shared.index.splits_of("default")[0]);
        let id = split.record.id.clone();
        disk.fs.fail_reads_of(Some((&split.dir.join("lines"), 5)));
        drop(split);
        for _ in 0..3 {
            upkeep.round().unwrap();
            assert_eq!(disk.catalog.listed(), std::slice::from_ref(&id));
            clock.advance(std::time::Duration::from_secs(30));
        }
        if recovers {
            disk.fs.fail_reads_of(None);
        } else {
            upkeep.round().unwrap();
            clock.advance(std::time::Duration::from_secs(30));
        }
        upkeep.round().unwrap();
        assert_eq!(disk.catalog.listed(), []);
        let metrics = &room.tools.shared.metrics;
        assert_eq!((metrics.splits_damaged.get(), metrics.splits_quarantined.get()), (u64::from(!recovers), 0));
        disk.assert_tidy("all removed");
    }
}

#[test]
fn a_split_is_missing_only_where_the_disk_says_so() {
    let house = House::new();
    let disk = house.disk(1);
    let state = disk.catalog.state.lock().clone();
    let folders = Folders::open(&disk.shared(), Path::new(ROOT), &state.splits).unwrap();
    let dir = folders.split(&state.splits[0].id);
    for (fault, want) in [(Some((0, 5)), false), (Some((0, 12)), false), (None, false), (Some((0, 2)), true)] {
        disk.fs.fail_read_after(fault);
        assert_eq!(folders.is_missing(&dir), want, "{fault:?}");
    }
    assert!(folders.is_missing(Path::new("/data/index/splits/none")));
}

#[test]
fn a_crash_at_any_step_of_a_merge_loses_and_leaves_nothing() {
    let house = House::new();
    let start = house.disk(2);
    let total = changes(&start.fork(), |disk| house.open(disk).upkeep(None).round().unwrap());
    assert!(total > 100, "{total} changes");
    let mut listed = std::collections::BTreeSet::new();
    for (after, how) in crashes(total) {
        let when = format!("{how:?} after {after} of {total} changes");
        let disk = start.fork();
        let room = house.open(&disk);
        disk.fs.stop_after(Some(after));
        room.upkeep(None).round().ok();
        listed.insert(disk.catalog.listed().len());
        end(&disk.fs, how);
        let room = house.open(&disk);
        room.assert_lines(2, &when);
        room.upkeep(None).round().unwrap();
        disk.assert_tidy(&when);
        let room = house.open(&disk);
        room.assert_lines(2, &when);
        assert_eq!(room.rows().1, TENANTS.map(|t| format!("document of {t} version 1")), "{when}");
    }
    assert_eq!(Vec::from_iter(listed), [2, 3, 4], "splits after a crash: each tenant's merged or not");
}

#[test]
fn one_failure_at_any_step_of_a_merge_is_named_and_repeated() {
    let house = House::new();
    let start = house.disk(2);
    let total = changes(&start.fork(), |disk| house.open(disk).upkeep(None).round().unwrap());
    for after in 0..total {
        let when = format!("failure after {after} of {total} changes");
        let disk = start.fork();
        let room = house.open(&disk);
        let mut upkeep = room.upkeep(None);
        disk.fs.fail_change_after(Some(after), ErrorKind::StorageFull);
        if let Err(error) = upkeep.round() {
            let text = error.to_string();
            assert!(text.contains("/data/index/") && text.contains("failed: no storage space"), "{when}: {text}");
            assert_eq!(disk.names("tmp"), [""; 0], "{when}");
            room.assert_lines(2, &when);
        }
        // The same process, with what it still has: also folders that it could not remove.
        upkeep.round().unwrap();
        drop(upkeep);
        disk.assert_tidy(&when);
        room.assert_lines(2, &when);
        assert_eq!(room.tools.shared.metrics.splits_quarantined.get(), 0, "{when}");
        disk.fs.crash();
        house.open(&disk).assert_lines(2, &when);
    }
}

#[test]
fn a_catalog_that_fails_leaves_a_merge_as_it_says() {
    let house = House::new();
    let start = house.disk(2);
    for (fault, want) in [(CatalogFault::Refuses, 4), (CatalogFault::AnswerIsLost, 3)] {
        for how in ENDS {
            let disk = start.fork();
            let room = house.open(&disk);
            *disk.catalog.fault.lock() = Some(fault);
            room.upkeep(None).round().unwrap_err();
            *disk.catalog.fault.lock() = None;
            // Queries of this process go on.
            room.assert_lines(2, &format!("{fault:?} {how:?}"));
            end(&disk.fs, how);
            assert_eq!(disk.catalog.listed().len(), want, "{fault:?}");
            house.open(&disk).assert_lines(2, &format!("{fault:?} {how:?}"));
        }
    }
}

#[test]
fn a_crash_at_any_step_of_retention_leaves_whole_splits_only() {
    let house = House::new();
    // Splits of the second publication stay: their newest event is this old.
    let start = house.disk(2);
    let newest_s = 2 * (LINES + 1) - 1;
    let age = Some(Span::secs(NOW_NS.unsigned_abs() / 1_000_000_000 - newest_s.unsigned_abs()));
    let total = changes(&start.fork(), |disk| house.open(disk).upkeep(age).round().unwrap());
    assert!(total > 10, "{total} changes");
    for (after, how) in crashes(total) {
        let when = format!("{how:?} after {after} of {total} changes");
        let disk = start.fork();
        let room = house.open(&disk);
        disk.fs.stop_after(Some(after));
        room.upkeep(age).round().ok();
        end(&disk.fs, how);
        let room = house.open(&disk);
        let listed = disk.catalog.listed().len();
        assert_eq!(room.rows().0.values().map(Vec::len).sum::<usize>(), listed * LINES as usize, "{when}");
        room.upkeep(age).round().unwrap();
        disk.assert_tidy(&when);
        assert_eq!(disk.catalog.listed().len(), 2, "{when}");
        assert_eq!(house.open(&disk).rows().1, TENANTS.map(|t| format!("document of {t} version 1")), "{when}");
    }
}
