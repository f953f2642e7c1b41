//! The aggregator over a log in memory: crashes at each step, holes, retention, merges, documents, limits.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use millrace_log::clock::ManualClock;
use millrace_log::dead_letter::HEADER_REASON;
use millrace_log::fs::SimFs;
use millrace_log::record::{Event, HeaderName, Labels, Record, Tenant, encode};
use millrace_log::value::{ByteSize, Span};
use millrace_logql::storage::{
    BatchStream, LabelMatcher, LineNeedle, MatchOp, Order, QueryLimits, Scan, Stats, Storage, StorageError,
    StreamLabels,
};
use millrace_logql::{Engine, Expr, MetricExpr, RangeQuery};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::fake::{FakeLog, document, event, record};
use millrace_index::config::TenantRetention;
use millrace_index::docs::DocumentStore as _;
use millrace_index::logql::LogqlStorage;
use millrace_index::publish::Step;
use millrace_index::scan::{Aggregation, Budget, EventStore, GroupBy, Kind, Partial, Plan, Windows};

const NOW_NS: i64 = 1_000_000 * 1_000_000_000;

fn config() -> AggregatorConfig {
    let mut config = AggregatorConfig::default();
    config.index.split_bytes = ByteSize(2000);
    config.index.head_bytes = ByteSize(20_000);
    config.index.split_age = Span::secs(30);
    config.index.upkeep_interval = Span::millis(20);
    config.index.merge_splits = 4;
    config.index.query_threads = 2;
    config.index.open_splits = 3;
    config.kafka.batch_records = 20;
    config.kafka.discover_interval = Span::millis(1);
    config
}

fn plan() -> Plan {
    Plan {
        tenant: Tenant::default(),
        matchers: Vec::new(),
        start_ns: i64::MIN,
        end_ns: i64::MAX,
        needles: Vec::new(),
        kind: Kind::All,
        order: Order::Forward,
        expect: None,
        budget: Budget::default(),
    }
}

async fn lines(store: &Index, plan: Plan) -> Result<Vec<String>, StorageError> {
    let mut stream = store.scan(plan).await?;
    let mut lines = Vec::new();
    while let Some(batch) = stream.next().await {
        let batch = batch?;
        lines.extend(batch.rows.iter().map(|r| String::from_utf8_lossy(batch.line(r)).into_owned()));
    }
    Ok(lines)
}

/// Lines with their times and metadata.
async fn rows(store: &Index, plan: Plan) -> Vec<(String, i64, Labels)> {
    let batches: Vec<_> = store.scan(plan).await.unwrap().collect().await;
    let of = |batch: millrace_index::scan::RowBatch| {
        let row = |r: &millrace_index::scan::Row| {
            (String::from_utf8_lossy(batch.line(r)).into_owned(), r.time_ns, r.metadata.clone().unwrap_or_default())
        };
        batch.rows.iter().map(row).collect::<Vec<_>>()
    };
    batches.into_iter().flat_map(|batch| of(batch.unwrap())).collect()
}

/// An aggregator that runs, and how to end it.
struct Running {
    aggregator: Arc<Aggregator>,
    cancel: CancellationToken,
    ended: tokio::task::JoinHandle<Result<(), AggregatorError>>,
}

impl Running {
    async fn stop(self) -> Result<(), AggregatorError> {
        self.cancel.cancel();
        tokio::time::timeout(Duration::from_secs(30), self.ended).await.expect("ends in time").unwrap()
    }

    fn store(&self) -> Arc<Index> {
        self.aggregator.store()
    }

    async fn caught_up(&self) {
        // Readiness comes with the first look at the topics.
        until("ready", || self.aggregator.ready().is_ok()).await;
        self.store().caught_up(Duration::from_secs(20)).await.expect("catches up");
    }

    async fn lines(&self) -> Vec<String> {
        lines(&self.store(), plan()).await.expect("scan")
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "waited 20 s for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[allow(clippy::disallowed_methods)] // Tests own their tasks.
async fn start_with(
    dir: &Path,
    log: &FakeLog,
    config: AggregatorConfig,
    clock: &Arc<ManualClock>,
    crash: Option<millrace_index::publish::StepHook>,
) -> Running {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let mut aggregator = loop {
        let mut registry = Registry::default();
        let clock: SharedClock = Arc::clone(clock) as SharedClock;
        let producer = Arc::new(log.clone());
        match Aggregator::open_with(config.clone(), dir, clock, &mut registry, log.reader(), producer).await {
            // Threads of one that was killed end a moment later, and hold the folder until then.
            Err(AggregatorError::InUse { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            opened => break opened.expect("opens"),
        }
    };
    aggregator.at_step = crash;
    let aggregator = Arc::new(aggregator);
    let cancel = CancellationToken::new();
    let (running, token) = (Arc::clone(&aggregator), cancel.clone());
    let ended = tokio::spawn(async move { running.run(token).await });
    Running { aggregator, cancel, ended }
}

async fn start(dir: &Path, log: &FakeLog, config: AggregatorConfig) -> Running {
    start_with(dir, log, config, &ManualClock::at_ns(NOW_NS), None).await
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

fn wanted(sources: u8, per_source: u64) -> Vec<String> {
    sorted((0..sources).flat_map(|s| (0..per_source).map(move |n| format!("source={s} n={n}"))).collect())
}

fn fill(log: &FakeLog, sources: u8, range: std::ops::Range<u64>) {
    for n in range {
        for source in 0..sources {
            log.put("logs", i32::from(source % 2), [record(&event(source, n))]);
        }
    }
}

#[test]
fn a_crash_while_the_folder_is_made_leaves_one_that_opens() {
    let folder = Path::new("/data/index");
    for changes in 0.. {
        for power_cut in [true, false] {
            let fs = SimFs::new();
            fs.create_dir_all(Path::new("/data")).unwrap();
            fs.sync_dir(Path::new("/")).unwrap();
            fs.stop_after(Some(changes));
            let opened = lock_folder(&fs, folder).is_ok();
            if power_cut {
                fs.crash()
            } else {
                fs.kill()
            }
            let written = fs.content(&folder.join("VERSION"));
            assert!(written.as_ref().is_none_or(|text| text == b"1\n"), "after {changes} changes: {written:?}");
            assert!(!opened || written.is_some(), "after {changes} changes");
            let lock = lock_folder(&fs, folder).unwrap();
            assert!(matches!(lock_folder(&fs, folder), Err(AggregatorError::InUse { .. })));
            drop(lock);
            fs.crash();
            assert_eq!(fs.content(&folder.join("VERSION")).unwrap(), b"1\n", "after {changes} changes");
            if opened && !power_cut {
                assert!(changes > 4, "{changes} changes");
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_found_before_and_after_they_are_published() {
    let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::default());
    fill(&log, 3, 0..10);
    let mut calm = config();
    calm.index.split_bytes = ByteSize::mib(1);
    calm.index.head_bytes = ByteSize::mib(4);
    let running = start(dir.path(), &log, calm.clone()).await;
    let mut news = running.store().subscribe();
    running.caught_up().await;
    assert_eq!(sorted(running.lines().await), wanted(3, 10));
    assert!(running.store().splits().is_empty(), "nothing is old or large enough to be cut");
    assert_eq!(running.aggregator.ledger().topics["logs"].waiting.lines, 30);
    fill(&log, 3, 10..11);
    assert!(!news.recv().await.unwrap().1.rows.is_empty());
    running.caught_up().await;
    running.stop().await.unwrap();
    assert_eq!(log.committed("logs", 0), Some(22));

    let running = start(dir.path(), &log, calm).await;
    assert_eq!(sorted(running.lines().await), wanted(3, 11));
    assert_eq!(running.store().splits().len(), 1);
    running.caught_up().await;
    let ledger = running.aggregator.ledger();
    assert!(ledger.balanced);
    assert_eq!((ledger.topics["logs"].stored.lines, ledger.topics["logs"].read.lines), (33, 33));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn old_parts_are_cut_by_age() {
    let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::default());
    fill(&log, 1, 0..1);
    let clock = ManualClock::at_ns(NOW_NS);
    let running = start_with(dir.path(), &log, config(), &clock, None).await;
    running.caught_up().await;
    assert!(running.store().splits().is_empty());
    clock.advance(Duration::from_secs(31));
    until("a split", || running.store().splits().len() == 1).await;
    assert_eq!(running.lines().await, ["source=0 n=0"]);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_step_of_any_publication_loses_and_doubles_nothing() {
    for step in
        [Step::Begin, Step::Written, Step::DeadLetters, Step::Renamed, Step::Documents, Step::Catalog, Step::Swapped]
    {
        let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::default());
        let mut written = 0;
        for round in 0..3u64 {
            fill(&log, 3, round * 40..(round + 1) * 40);
            log.put("logs", 0, [record(&document(9, round, "one", u32::try_from(round).unwrap()))]);
            written += 121;
            // Crash in the second publication of the round.
            let seen = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&seen);
            let crash: millrace_index::publish::StepHook =
                Arc::new(move |at| at == step && count.fetch_add(1, Ordering::SeqCst) == 1);
            let running = start_with(dir.path(), &log, config(), &ManualClock::at_ns(NOW_NS), Some(crash)).await;
            // The thread ends with the error of the crash and takes the room down.
            until("the crash", || running.ended.is_finished()).await;
            let error = running.stop().await.expect_err("crashed");
            assert!(matches!(error, AggregatorError::Publish(PublishError::Crashed(at)) if at == step), "{error}");
        }
        let running = start(dir.path(), &log, config()).await;
        running.caught_up().await;
        let mut want = wanted(3, 120);
        want.push("id=one version=2".to_owned());
        assert_eq!(sorted(running.lines().await), sorted(want), "after crashes at {step:?}");
        running.stop().await.unwrap();
        let again = start(dir.path(), &log, config()).await;
        let ledger = again.aggregator.ledger();
        assert!(ledger.balanced, "{ledger:?}");
        let logs = ledger.topics["logs"];
        assert_eq!((logs.stored.lines, logs.duplicate.lines), (written, 0), "{step:?}");
        let folders = std::fs::read_dir(dir.path().join("index/splits")).unwrap().count();
        until("folders of merged splits are gone", || {
            folders <= again.store().splits().len()
                || std::fs::read_dir(dir.path().join("index/splits")).unwrap().count() == again.store().splits().len()
        })
        .await;
        again.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_sent_twice_are_stored_once_also_after_a_restart() {
    let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::default());
    fill(&log, 2, 0..5);
    fill(&log, 2, 3..6);
    let running = start(dir.path(), &log, config()).await;
    running.caught_up().await;
    assert_eq!(sorted(running.lines().await), wanted(2, 6));
    running.stop().await.unwrap();
    fill(&log, 2, 0..7);
    let running = start(dir.path(), &log, config()).await;
    running.caught_up().await;
    assert_eq!(sorted(running.lines().await), wanted(2, 7));
    let ledger = running.aggregator.ledger();
    assert!(ledger.balanced);
    assert_eq!(ledger.topics["logs"].duplicate.lines, 4 + 12);
    let aggregator = Arc::clone(&running.aggregator);
    running.stop().await.unwrap();
    let sources = aggregator.source_ledger().await.unwrap();
    assert_eq!(
        sources.iter().map(|s| (s.stored.lines, s.duplicate.lines, s.offset)).collect::<Vec<_>>(),
        [(7, 8, 6); 2]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_removed_unread_is_a_hole_and_control_records_are_none() {
    let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::default());
    fill(&log, 1, 0..3);
    log.put_control("logs", 0);
    fill(&log, 1, 3..5);
    log.put_control("logs", 0);
    let running = start(dir.path(), &log, config()).await;
    running.caught_up().await;
    running.stop().await.unwrap();
    fill(&log, 1, 5..9);
    // Offsets 0..3, a control record, 4..6, a control record, then 7..11: the log now starts at 8.
    log.truncate_before("logs", 0, 8);
    let running = start(dir.path(), &log, config()).await;
    running.caught_up().await;
    assert_eq!(running.lines().await.len(), 5 + 3);
    // While running: 20 more, of which the first 15 are gone before they are read.
    log.unreachable(true);
    fill(&log, 1, 9..29);
    log.truncate_before("logs", 0, 26);
    log.unreachable(false);
    running.caught_up().await;
    running.stop().await.unwrap();
    let running = start(dir.path(), &log, config()).await;
    let holes: Vec<(i64, i64)> =
        running.aggregator.ledger().holes.iter().map(|h| (h.interval.from, h.interval.to)).collect();
    assert_eq!(holes, [(6, 8), (11, 26)]);
    assert_eq!(running.lines().await.len(), 5 + 3 + 5);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_is_read_from_its_start() {
    let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::default());
    fill(&log, 1, 0..10);
    let running = start(dir.path(), &log, config()).await;
    running.caught_up().await;
    running.stop().await.unwrap();
    log.delete("logs", 0);
    // The agent sends the tail of what it had once more, then goes on.
    fill(&log, 1, 8..13);
    let running = start(dir.path(), &log, config()).await;
    running.caught_up().await;
    assert_eq!(sorted(running.lines().await), wanted(1, 13));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_records_go_to_the_dead_letters_before_their_interval_is_published() {
    let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::default());
    let mut newer = record(&event(0, 1));
    for (name, value) in &mut newer.headers {
        if name == "millrace" {
            let mut bytes = value.to_vec();
            bytes[0] = 9;
            *value = Bytes::from(bytes);
        }
    }
    let foreign = Record {
        timestamp_ms: 5,
        value: Some(Bytes::from_static(b"plain")),
        headers: vec![(HeaderName::from("other"), Bytes::new())],
        ..Record::default()
    };
    log.put("logs", 0, [record(&event(0, 0)), newer, foreign.clone(), foreign]);
    log.refuse_sends(true);
    let clock = ManualClock::at_ns(NOW_NS);
    let running = start_with(dir.path(), &log, config(), &clock, None).await;
    running.caught_up().await;
    clock.advance(Duration::from_secs(31));
    until("a failed attempt", || running.aggregator.shared.metrics.publication_failures.get() > 0).await;
    assert!(running.store().splits().is_empty(), "not published without its dead letters");
    assert!(running.aggregator.ready().unwrap_err().contains("millrace.dlq"));
    log.refuse_sends(false);
    until("the split", || !running.store().splits().is_empty()).await;
    assert_eq!(running.lines().await, ["source=0 n=0", "plain", "plain"]);
    let dead = log.records("millrace.dlq");
    assert_eq!(dead.len(), 1);
    let reason = String::from_utf8_lossy(dead[0].header(HEADER_REASON).unwrap()).into_owned();
    assert!(reason.contains("version 9"), "{reason}");
    assert_eq!(dead[0].value.as_deref(), Some(&b"source=0 n=1"[..]));
    let ledger = running.aggregator.ledger();
    assert!(ledger.balanced);
    assert_eq!((ledger.topics["logs"].stored.lines, ledger.topics["logs"].dead_letter.lines), (3, 1));
    let m = LabelMatcher::new("topic", MatchOp::Equal, "logs").unwrap();
    assert_eq!(lines(&running.store(), Plan { matchers: vec![m], ..plan() }).await.unwrap(), ["plain", "plain"]);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lines_are_cut_and_long_documents_go_to_the_dead_letters() {
    let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::default());
    let long = |text: &str| Bytes::from(format!("{}{text}", "x".repeat(1022)));
    let foreign = |line: Bytes| Record { timestamp_ms: 5, value: Some(line), ..Record::default() };
    let mut too_long = record(&document(0, 1, "1", 1));
    too_long.value = Some(long("yyy"));
    log.put("logs", 0, [foreign(long("ab")), foreign(long("äö")), foreign(long("aä")), too_long, record(&event(0, 2))]);
    let mut config = config();
    config.index.max_line_bytes = ByteSize(1024);
    let clock = ManualClock::at_ns(NOW_NS);
    let running = start_with(dir.path(), &log, config, &clock, None).await;
    running.caught_up().await;
    let ends = |lines: Vec<String>| lines.into_iter().map(|line| line.replace("xxx", "")).collect::<Vec<_>>();
    let want = ["xxab", "xxä", "xxa", "source=0 n=2"].map(|end| end.replace("xxx", "")).to_vec();
    assert_eq!(sorted(ends(running.lines().await)), sorted(want));
    clock.advance(Duration::from_secs(31));
    until("the split", || !running.store().splits().is_empty()).await;
    let dead = log.records("millrace.dlq");
    let reasons = dead.iter().map(|l| String::from_utf8_lossy(l.header(HEADER_REASON).unwrap()).into_owned());
    assert_eq!(
        reasons.collect::<Vec<_>>(),
        ["document has 1025 bytes, 1024 are allowed (`aggregator.index.max_line_bytes`)"]
    );
    assert_eq!(running.aggregator.shared.metrics.cut_lines.get(), 2);
    assert_eq!(running.aggregator.shared.metrics.cut_bytes.get(), 2 + 2);
    let marks =
        |lines: Vec<(String, i64, Labels)>| lines.into_iter().map(|(line, _, marks)| (line.len(), marks.to_json()));
    let marks: Vec<_> = marks(rows(&running.store(), plan()).await).filter(|(length, _)| *length > 20).collect();
    let cut = |by: &str| format!(r#"{{"truncated":"true","truncated_bytes":"{by}"}}"#);
    assert_eq!(marks, [(1024, "{}".to_owned()), (1024, cut("2")), (1023, cut("2"))]);
    assert!(running.aggregator.ledger().balanced);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_beyond_all_times_are_found_at_the_time_of_reading_with_a_mark() {
    let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::default());
    let read_ms = NOW_NS / 1_000_000 - 5000;
    let at = |n: u64, time_ns: i64| encode(&Event { time_ns, ..event(0, n) }, read_ms);
    let times = [i64::MAX, i64::MIN, i64::MAX - 1, i64::MIN + 1, 7];
    log.put("logs", 0, (1..).zip(times).map(|(n, time_ns)| at(n, time_ns)));
    // A foreign record with a time that no nanoseconds reach, and one of a clock ahead of the index's.
    log.put("logs", 0, [Record { timestamp_ms: i64::MAX, value: Some(Bytes::from("far")), ..Record::default() }]);
    log.put("logs", 0, [encode(&Event { time_ns: i64::MAX, ..event(0, 9) }, read_ms + 9000)]);
    let running = start(dir.path(), &log, config()).await;
    running.caught_up().await;
    let mut found = rows(&running.store(), plan()).await;
    found.sort();
    let (mark, read_ns) = (r#"{"timestamp":"out_of_range"}"#, read_ms * 1_000_000);
    let want = [
        ("far", NOW_NS, mark),
        ("source=0 n=1", read_ns, mark),
        ("source=0 n=2", read_ns, mark),
        ("source=0 n=3", i64::MAX - 1, "{}"),
        ("source=0 n=4", i64::MIN + 1, "{}"),
        ("source=0 n=5", 7, "{}"),
        ("source=0 n=9", NOW_NS, mark),
    ];
    let found: Vec<_> = found.iter().map(|(line, time_ns, marks)| (line.as_str(), *time_ns, marks.to_json())).collect();
    assert_eq!(found, want.map(|(line, time_ns, marks)| (line, time_ns, marks.to_owned())));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metric_of_bytes_read_counts_all_lines_that_were_looked_at() {
    let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::default());
    fill(&log, 2, 10..20);
    let running = start(dir.path(), &log, config()).await;
    running.caught_up().await;
    let store = running.store();
    assert!(store.splits().is_empty(), "all is recent");
    let all = 2 * 10 * "source=0 n=10".len() as u64;
    let needles = vec![LineNeedle { text: b"nowhere".to_vec(), ignore_case: false }];
    let windows = Windows { first_end_ns: NOW_NS, step_ns: 1, count: 1, range_ns: NOW_NS };
    let counted = Arc::new(Aggregation { windows, group: GroupBy::None, test: None });
    let read = &running.aggregator.shared.metrics.query_bytes;
    for (what, plan) in [("lines that no filter lets through", Plan { needles, ..plan() }), ("all lines", plan())] {
        let before = read.get();
        drop(lines(&store, plan.clone()).await.unwrap());
        assert_eq!(read.get() - before, all, "{what}");
        drop(store.aggregate(plan, Arc::clone(&counted)).await.unwrap());
        assert_eq!(read.get() - before, 2 * all, "{what}, counted");
    }
    // What was read before a limit ended the query was read all the same.
    let before = read.get();
    let limits = QueryLimits { max_bytes_read: 10, ..QueryLimits::default() };
    drop(lines(&store, Plan { budget: Budget::new(limits, &CancellationToken::new()), ..plan() }).await.unwrap_err());
    assert!(read.get() > before);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_see_each_line_once_while_parts_are_published_and_merged() {
    let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::default());
    let running = start(dir.path(), &log, config()).await;
    let store = running.store();
    let done = Arc::new(AtomicBool::new(false));
    let (feed, end) = (log.clone(), Arc::clone(&done));
    let feeder = std::thread::spawn(move || {
        for n in 0..150 {
            fill(&feed, 4, n..n + 1);
            std::thread::sleep(Duration::from_millis(3));
        }
        end.store(true, Ordering::SeqCst);
    });
    let mut scans = 0;
    let orders = [Order::Forward, Order::Backward, Order::Any];
    while !done.load(Ordering::SeqCst) {
        let order = orders[scans % 3];
        let mut stream = store.scan(Plan { order, ..plan() }).await.unwrap();
        let mut by_source: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
        let mut keys = Vec::new();
        while let Some(batch) = stream.next().await {
            let batch = batch.unwrap();
            for row in &batch.rows {
                keys.push((row.time_ns, row.source, row.position));
                by_source.entry(row.source.0.to_vec()).or_default().push(row.position.offset);
            }
            // Slow readers keep their splits.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        match order {
            Order::Forward => assert!(keys.is_sorted()),
            Order::Backward => assert!(keys.is_sorted_by(|a, b| a >= b)),
            Order::Any => {}
        }
        for (source, mut positions) in by_source {
            positions.sort_unstable();
            let count = positions.len() as u64;
            assert_eq!(positions, (0..count).collect::<Vec<_>>(), "{order:?} scan {scans} of source {source:?}");
        }
        scans += 1;
    }
    feeder.join().unwrap();
    running.caught_up().await;
    assert_eq!(sorted(running.lines().await), wanted(4, 150));
    until("merges", || running.aggregator.shared.metrics.merges.get() > 0).await;
    assert!(scans > 3, "{scans} scans");
    let entries: u64 = store.streams(plan()).await.unwrap().iter().map(|(_, s)| s.entries).sum();
    assert_eq!(entries, 600);
    running.stop().await.unwrap();
    assert_eq!(log.committed("logs", 0), Some(300));
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_drops_whole_splits_and_only_when_told() {
    let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::default());
    // Event times are n seconds; the clock stands at 1,000,000 s.
    fill(&log, 1, 0..50);
    fill(&log, 1, 999_000..999_050);
    log.put("logs", 0, [record(&document(9, 7, "old", 1))]);
    let mut keep = config();
    keep.index.merge_splits = 1000;
    let running = start(dir.path(), &log, keep.clone()).await;
    running.caught_up().await;
    running.stop().await.unwrap();
    let running = start(dir.path(), &log, keep.clone()).await;
    let before = running.store().splits().len();
    assert_eq!(running.lines().await.len(), 101);
    assert_eq!(running.store().doc_indices(&Tenant::default())[0].documents, 1);
    running.stop().await.unwrap();

    let mut by_age = keep.clone();
    by_age.retention.age = Some(Span::secs(10_000));
    let running = start(dir.path(), &log, by_age).await;
    until("fewer splits", || running.store().splits().len() < before).await;
    // Splits go whole: those with a young line stay.
    let left = running.lines().await;
    assert!((50..101).contains(&left.len()), "{}", left.len());
    let ledger = running.aggregator.ledger();
    assert_eq!(ledger.expired.lines as usize + left.len(), 101);
    assert!(ledger.balanced);
    running.stop().await.unwrap();

    let mut by_size = keep;
    by_size.retention.size = Some(ByteSize(1));
    let running = start(dir.path(), &log, by_size).await;
    until("no splits", || running.store().splits().is_empty()).await;
    assert!(running.lines().await.is_empty());
    assert!(running.store().doc_indices(&Tenant::default()).is_empty());
    let splits = dir.path().join("index/splits");
    until("no folders", || std::fs::read_dir(&splits).unwrap().count() == 0).await;
    // What was consumed stays consumed.
    running.caught_up().await;
    assert!(running.lines().await.is_empty());
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_may_have_a_retention_of_its_own() {
    let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::default());
    let mut keep = config();
    keep.index.merge_splits = 1000;
    let tenants = ["default", "longer", "shorter", "small"];
    // Event times are n seconds; the clock stands at 1,000,000 s.
    for start_s in [0, 999_000] {
        for (source, tenant) in (0..).zip(tenants) {
            let of = |n| Event { tenant: Tenant::new(tenant).unwrap(), ..event(source, n) };
            log.put("logs", 0, (start_s..start_s + 50).map(|n| record(&of(n))));
        }
        let running = start(dir.path(), &log, keep.clone()).await;
        running.caught_up().await;
        running.stop().await.unwrap();
    }
    let keep_all = keep.clone();
    keep.retention.age = Some(Span::secs(10_000));
    let own = |age: Option<u64>, size| TenantRetention { age: age.map(Span::secs), size };
    keep.retention.tenants = [
        ("longer".to_owned(), own(Some(10_000_000), None)),
        ("shorter".to_owned(), own(Some(60), None)),
        ("small".to_owned(), own(None, Some(ByteSize(1)))),
    ]
    .into();
    let splits = |running: &Running| -> BTreeMap<String, Vec<bool>> {
        let mut found: BTreeMap<String, Vec<bool>> = tenants.map(|tenant| (tenant.to_owned(), Vec::new())).into();
        for split in running.store().splits() {
            let is_young = split.record.meta.max_time_ns >= 999_000 * 1_000_000_000;
            found.get_mut(&split.record.meta.tenant).unwrap().push(is_young);
        }
        found.values_mut().for_each(|young| young.sort_unstable());
        found
    };
    let running = start(dir.path(), &log, keep_all).await;
    let before = splits(&running);
    assert!(before.values().all(|young| young.contains(&true) && young.contains(&false)), "{before:?}");
    running.stop().await.unwrap();
    let running = start(dir.path(), &log, keep).await;
    let mut want = before.clone();
    want.get_mut("default").unwrap().retain(|is_young| *is_young);
    want.get_mut("shorter").unwrap().clear();
    want.get_mut("small").unwrap().clear();
    until("each tenant's own retention", || splits(&running) == want).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_latest_version_of_a_document_is_found() {
    let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::default());
    let tenant = Tenant::default();
    for version in 0..40u32 {
        let id = if version % 2 == 0 { "even" } else { "odd" };
        log.put("logs", 0, [record(&document(9, u64::from(version), id, version))]);
        fill(&log, 1, u64::from(version) * 3..u64::from(version) * 3 + 3);
    }
    let running = start(dir.path(), &log, config()).await;
    running.caught_up().await;
    let documents = Plan { kind: Kind::Documents, ..plan() };
    for order in [Order::Forward, Order::Backward, Order::Any] {
        let found = lines(&running.store(), Plan { order, ..documents.clone() }).await.unwrap();
        assert_eq!(sorted(found), ["id=even version=38", "id=odd version=39"]);
    }
    let lines_only = lines(&running.store(), Plan { kind: Kind::Lines, ..plan() }).await.unwrap();
    assert_eq!(lines_only.len(), 120);
    let place = running.store().doc_lookup(&tenant, "orders", "odd").await.unwrap().unwrap();
    assert_eq!(place.position.offset, 39);
    assert!(running.store().doc_lookup(&tenant, "orders", "none").await.unwrap().is_none());
    assert_eq!(running.store().doc_indices(&tenant)[0].documents, 2);
    until("replaced versions are merged away", || running.aggregator.ledger().replaced.lines > 0).await;
    assert_eq!(lines(&running.store(), documents.clone()).await.unwrap().len(), 2);
    running.stop().await.unwrap();
    let running = start(dir.path(), &log, config()).await;
    assert_eq!(lines(&running.store(), documents).await.unwrap(), ["id=even version=38", "id=odd version=39"]);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_keep_their_limits_and_answer_what_is_asked() {
    let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::default());
    fill(&log, 3, 0..100);
    log.put("logs", 0, [record(&millrace_log::record::Event { tenant: Tenant::new("other").unwrap(), ..event(7, 0) })]);
    let running = start(dir.path(), &log, config()).await;
    running.caught_up().await;
    until("some splits", || !running.store().splits().is_empty()).await;
    let store = running.store();
    let source = |op, v: &str| vec![LabelMatcher::new("source", op, v).unwrap()];
    let second = 1_000_000_000;
    for (plan, want) in [
        (plan(), 300),
        (Plan { matchers: source(MatchOp::Equal, "1"), ..plan() }, 100),
        (Plan { matchers: source(MatchOp::NotRegex, "1|2"), order: Order::Backward, ..plan() }, 100),
        (Plan { start_ns: 10 * second, end_ns: 20 * second, ..plan() }, 30),
        (Plan { start_ns: 10 * second, end_ns: 20 * second, order: Order::Any, ..plan() }, 30),
        (Plan { tenant: Tenant::new("other").unwrap(), ..plan() }, 1),
        (Plan { tenant: Tenant::new("nobody").unwrap(), ..plan() }, 0),
        (Plan { needles: vec![LineNeedle { text: b"n=77".to_vec(), ignore_case: false }], ..plan() }, 3),
        (Plan { kind: Kind::Documents, ..plan() }, 0),
        (Plan { expect: Some(1), order: Order::Backward, ..plan() }, 300),
    ] {
        assert_eq!(lines(&store, plan.clone()).await.unwrap().len(), want, "{plan:?}");
    }
    let newest = lines(&store, Plan { order: Order::Backward, ..plan() }).await.unwrap();
    assert_eq!(newest[..4], ["source=2 n=99", "source=1 n=99", "source=0 n=99", "source=2 n=98"]);

    for order in [Order::Forward, Order::Backward, Order::Any] {
        let limited = |limits| Plan { budget: Budget::new(limits, &CancellationToken::new()), order, ..plan() };
        let read = QueryLimits { max_bytes_read: 100, ..QueryLimits::default() };
        let error = lines(&store, limited(read)).await.unwrap_err();
        assert!(matches!(error, StorageError::Limit { limit: "max_bytes_read", .. }), "{error}");
        let time = QueryLimits { timeout: Duration::ZERO, ..QueryLimits::default() };
        let error = lines(&store, limited(time)).await.unwrap_err();
        assert!(matches!(error, StorageError::Limit { limit: "timeout", .. }), "{error}");
        let cancelled = Plan { order, ..plan() };
        let mut stream = store.scan(cancelled.clone()).await.unwrap();
        cancelled.budget.cancel();
        assert!(matches!(stream.next().await, Some(Err(StorageError::Cancelled))));
        assert!(stream.next().await.is_none(), "ends after an error");
    }
    let tight = QueryLimits { max_memory_bytes: 1000, ..QueryLimits::default() };
    let error =
        lines(&store, Plan { budget: Budget::new(tight, &CancellationToken::new()), ..plan() }).await.unwrap_err();
    assert!(matches!(error, StorageError::Limit { limit: "max_memory", .. }), "{error}");
    running.stop().await.unwrap();
}

/// Numbers that look random and are the same in every run.
fn numbers(mut seed: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_equal_those_of_a_plain_list_for_any_mix_of_times() {
    for seed in 0..6 {
        let mut next = numbers(seed);
        let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::default());
        let list = millrace_index::memory::MemoryStore::default();
        let mut positions = [0u64; 5];
        let mut config = config();
        config.index.split_bytes = ByteSize(500 + next(4000));
        config.index.head_bytes = ByteSize(20_000);
        config.kafka.batch_records = 1 + usize::try_from(next(40)).unwrap();
        for _ in 0..400 {
            let source = u8::try_from(next(5)).unwrap();
            positions[usize::from(source)] += 1 + next(3);
            let n = positions[usize::from(source)];
            // Few different times, in no order: many ties and splits that overlap.
            let time_ns = i64::try_from(next(60)).unwrap() - 5;
            let mut one = millrace_log::record::Event { time_ns, ..event(source, n) };
            if next(10) == 0 {
                let id = next(6).to_string();
                one = millrace_log::record::Event { time_ns, ..document(source, n, &id, u32::try_from(n).unwrap()) };
            }
            if next(5) == 0 {
                let place = ["trace", "source", "__error_details__"][usize::try_from(next(3)).unwrap()];
                one.metadata = millrace_log::record::Labels::new([(place, next(3).to_string())]);
            }
            // Documents of one id keep to one partition, as the door sees to: the order of the log decides.
            log.put("logs", i32::from(source % 2) * i32::from(one.doc.is_none()), [record(&one)]);
            list.put("logs", [one]);
        }
        let running = start(dir.path(), &log, config).await;
        running.caught_up().await;
        for round in 0..30 {
            let start_ns = i64::try_from(next(60)).unwrap() - 5;
            let matchers = match next(3) {
                0 => vec![LabelMatcher::new("source", MatchOp::Regex, "[0-2]").unwrap()],
                1 => vec![LabelMatcher::new("source", MatchOp::NotEqual, "3").unwrap()],
                _ => Vec::new(),
            };
            let asked = Plan {
                start_ns,
                end_ns: start_ns + i64::try_from(next(60)).unwrap(),
                matchers,
                order: if next(2) == 0 { Order::Forward } else { Order::Backward },
                kind: [Kind::All, Kind::Lines, Kind::Documents][usize::try_from(next(3)).unwrap()],
                expect: (next(2) == 0).then_some(5),
                ..plan()
            };
            let mut want = Vec::new();
            let mut stream = list.scan(asked.clone()).await.unwrap();
            while let Some(batch) = stream.next().await {
                let batch = batch.unwrap();
                want.extend(batch.rows.iter().map(|r| String::from_utf8_lossy(batch.line(r)).into_owned()));
            }
            let found = lines(&running.store(), asked.clone()).await.unwrap();
            assert_eq!(found, want, "seed {seed} round {round}: {asked:?}");
            let mut unordered = lines(&running.store(), Plan { order: Order::Any, ..asked.clone() }).await.unwrap();
            unordered.sort();
            assert_eq!(unordered, sorted(want), "seed {seed} round {round} in any order");
        }
        let rows: Arc<dyn EventStore> = Arc::new(list);
        let by_rows = Engine::new(Arc::new(Watched { inner: LogqlStorage(rows), counts: None }));
        let counts = Arc::new(AtomicUsize::new(0));
        let inner = LogqlStorage(running.store());
        let counted = Engine::new(Arc::new(Watched { inner, counts: Some(Arc::clone(&counts)) }));
        for _ in 0..40 {
            let text = metric_query(&mut next);
            let mut expr = millrace_logql::parse_any_stream(&text).unwrap();
            if let Expr::Metric(metric) = &mut expr {
                to_ns(metric);
            }
            let expr = Arc::new(expr);
            let start_ns = i64::try_from(next(40)).unwrap() - 5;
            let query = || RangeQuery {
                tenant: Tenant::DEFAULT.to_owned(),
                start_ns,
                end_ns: start_ns + 40,
                step_ns: 1 + start_ns.rem_euclid(9),
                ..RangeQuery::new(Arc::clone(&expr))
            };
            let (want, found) = (by_rows.query_range(query()).await, counted.query_range(query()).await);
            assert_eq!(found.unwrap().value, want.unwrap().value, "seed {seed}: {text}");
        }
        assert!(counts.load(Ordering::Relaxed) >= 30, "most of them are counted by the index");
        running.stop().await.unwrap();
    }
}

/// A store whose partial aggregates are counted, or that has none: then the engine reads rows.
struct Watched {
    inner: LogqlStorage,
    counts: Option<Arc<AtomicUsize>>,
}

#[async_trait::async_trait]
impl Storage for Watched {
    async fn scan(&self, scan: Scan) -> Result<BatchStream, StorageError> {
        self.inner.scan(scan).await
    }

    async fn aggregate(&self, scan: Scan, aggregation: Arc<Aggregation>) -> Result<Option<Partial>, StorageError> {
        let Some(counts) = &self.counts else { return Ok(None) };
        let found = self.inner.aggregate(scan, aggregation).await?;
        counts.fetch_add(usize::from(found.is_some()), Ordering::Relaxed);
        Ok(found)
    }

    async fn series(&self, scan: Scan) -> Result<Vec<StreamLabels>, StorageError> {
        self.inner.series(scan).await
    }

    async fn stats(&self, scan: Scan) -> Result<Vec<(StreamLabels, Stats)>, StorageError> {
        self.inner.stats(scan).await
    }
}

/// Milliseconds of a query, the least that can be written, as nanoseconds: events of these tests are that near.
fn to_ns(expr: &mut MetricExpr) {
    match expr {
        MetricExpr::Range(aggregation) => {
            aggregation.range.interval_ns /= 1_000_000;
            aggregation.range.offset_ns /= 1_000_000;
        }
        MetricExpr::Vector(aggregation) => to_ns(&mut aggregation.expr),
        _ => {}
    }
}

/// A metric query that a store may count.
fn metric_query(next: &mut impl FnMut(u64) -> u64) -> String {
    let mut one = |of: &[&'static str]| of[usize::try_from(next(of.len() as u64)).unwrap()];
    let filter = one(&["", "", "|= `n=1`", "!= `7`", "|~ `[0-4]$`", "|= `n` != `=3`"]);
    let op = one(&["count_over_time", "rate", "bytes_over_time", "bytes_rate", "absent_over_time"]);
    let (range, offset) = (one(&["1ms", "7ms", "40ms"]), one(&["", " offset 3ms"]));
    let selector = one(&["{source=~`.*`}", "{source=~`[0-2]`}", "{source!=`3`, index=``}"]);
    let outer = one(&[
        "",
        "sum",
        "sum by (source)",
        "sum by (trace, source)",
        "sum without (source)",
        "max by (trace)",
        "count without (trace)",
    ]);
    let inner = format!("{op}({selector} {filter} [{range}]{offset})");
    if outer.is_empty() { inner } else { format!("{outer} ({inner})") }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_missing_split_is_told_and_set_aside() {
    let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::default());
    fill(&log, 1, 0..200);
    let mut plain = config();
    plain.index.merge_splits = 1000;
    let running = start(dir.path(), &log, plain.clone()).await;
    running.caught_up().await;
    running.stop().await.unwrap();
    let mut folders: Vec<_> =
        std::fs::read_dir(dir.path().join("index/splits")).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() > 2);
    std::fs::remove_dir_all(&folders[0]).unwrap();
    std::fs::write(folders[1].join("split.json"), "{").unwrap();
    let running = start(dir.path(), &log, plain).await;
    let error = lines(&running.store(), plan()).await.unwrap_err();
    assert!(error.to_string().contains("split"), "{error}");
    let rest = running.lines().await;
    assert!(rest.len() > 50 && rest.len() < 200, "{}", rest.len());
    assert_eq!(running.aggregator.shared.metrics.splits_damaged.get(), 2);
    // Every later answer names them, of the times that they have.
    assert_eq!(running.aggregator.shared.metrics.splits_quarantined.get(), 2);
    let damaged = running.store().damaged(&Tenant::default(), i64::MIN, i64::MAX);
    let named: Vec<&str> = damaged.iter().map(|split| split.split.as_str()).collect();
    let mut want: Vec<&str> = folders[..2].iter().map(|f| f.file_name().unwrap().to_str().unwrap()).collect();
    want.sort_by_key(|id| named.iter().position(|n| n == id));
    assert_eq!(named, want);
    assert_eq!(damaged.iter().map(|split| split.rows).sum::<u64>() + rest.len() as u64, 200);
    assert!(running.store().damaged(&Tenant::default(), i64::MIN, damaged[0].min_ns).is_empty());
    assert!(running.store().damaged(&Tenant::new("other").unwrap(), i64::MIN, i64::MAX).is_empty());
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_says_what_is_in_the_way() {
    let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::default());
    log.unreachable(true);
    let clock = ManualClock::at_ns(NOW_NS);
    let running = start_with(dir.path(), &log, config(), &clock, None).await;
    until("trouble", || running.aggregator.ready().is_err_and(|e| e.contains("out of reach"))).await;
    log.unreachable(false);
    clock.advance(Duration::from_secs(2));
    // No topic yet: that is waited for, not a fault.
    until("ready", || running.aggregator.ready().is_ok()).await;
    fill(&log, 1, 0..1);
    until("the topic is found", || {
        clock.advance(Duration::from_millis(10));
        !running.aggregator.positions().is_empty()
    })
    .await;
    running.caught_up().await;
    assert_eq!(running.lines().await.len(), 1);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_in_use_or_of_a_newer_version_are_refused() {
    let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::default());
    let open = || async {
        let clock: SharedClock = ManualClock::at_ns(NOW_NS);
        Aggregator::open_with(
            config(),
            dir.path(),
            clock,
            &mut Registry::default(),
            log.reader(),
            Arc::new(log.clone()),
        )
        .await
    };
    let first = open().await.unwrap();
    assert!(matches!(open().await, Err(AggregatorError::InUse { .. })));
    drop(first);
    std::fs::write(dir.path().join("index/VERSION"), "2\n").unwrap();
    let error = open().await.unwrap_err();
    assert!(matches!(error, AggregatorError::Newer { .. }), "{error}");
    assert!(error.to_string().contains("version 2"), "{error}");
}

/// The log that every life of the killed process finds: lines, some twice, and versions of some documents.
fn log_for_kills() -> FakeLog {
    let log = FakeLog::default();
    for n in 0..1000 {
        fill(&log, 3, n..n + 1);
        if n % 10 == 9 {
            fill(&log, 3, n - 2..n + 1);
            log.put("logs", 1, [record(&document(9, n, &(n % 7).to_string(), u32::try_from(n).unwrap()))]);
        }
    }
    log
}

const KILLED_DIR: &str = "MILLRACE_TEST_KILLED_DIR";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the process that a_process_killed_at_any_moment_goes_on_where_it_was kills"]
async fn killed_process() {
    let Ok(dir) = std::env::var(KILLED_DIR) else { return };
    let log = log_for_kills();
    let running = start(Path::new(&dir), &log, config()).await;
    running.caught_up().await;
    // Merging and deleting are to be killed, too.
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_at_any_moment_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut next = numbers(u64::from(std::process::id()));
    for kill in 0..12 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["run::tests::killed_process", "--exact", "--ignored"])
            .env(KILLED_DIR, dir.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(100 + next(700))).await;
        assert!(child.try_wait().unwrap().is_none(), "ended before it was killed ({kill})");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let log = log_for_kills();
    let running = start(dir.path(), &log, config()).await;
    running.caught_up().await;
    let mut want = wanted(3, 1000);
    let mut latest = BTreeMap::new();
    for n in (9..1000).step_by(10) {
        latest.insert(n % 7, n);
    }
    want.extend(latest.into_iter().map(|(id, version)| format!("id={id} version={version}")));
    assert_eq!(sorted(running.lines().await), sorted(want));
    assert_eq!(running.store().doc_indices(&Tenant::default())[0].documents, 7);
    let aggregator = Arc::clone(&running.aggregator);
    running.stop().await.unwrap();
    let ledger = aggregator.ledger();
    assert!(ledger.balanced, "{ledger:?}");
    let logs = ledger.topics["logs"];
    assert_eq!((logs.stored.lines, logs.duplicate.lines, logs.read.lines), (3100, 900, 4000));
}
