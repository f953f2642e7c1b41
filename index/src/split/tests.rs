//! Splits as a whole: what is written is found again by every plan, and damage is an error, never a wrong answer.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use millrace_log::fs::{Filesystem, RealFs};
use millrace_log::record::{DocIdentity, DocOp, Labels, Position, SourceId, Tenant};
use millrace_logql::budget::OverBudget;
use millrace_logql::storage::{LabelMatcher, LineNeedle, MatchOp, Order, QueryLimits};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::scan::{
    Aggregation, Budget, GroupBy, Kind, LineTest, Partial, Plan, RowBatch, StreamGroups, StreamInfo, Windows,
};

fn fs() -> Arc<dyn Filesystem> {
    RealFs::shared()
}

fn stream(name: &str) -> StreamInfo {
    StreamInfo { labels: Labels::new([("app", name), ("env", "prod")]), topic: "logs".into() }
}

fn event(stream: &StreamInfo, time_ns: i64, offset: u64, line: impl Into<Bytes>) -> StoredEvent {
    StoredEvent {
        stream: stream.clone(),
        time_ns,
        source: SourceId([7; 16]),
        position: Position::at(offset),
        line: line.into(),
        metadata: Labels::default(),
        doc: None,
        cut: false,
        time_from_line: true,
    }
}

fn budget(limits: QueryLimits) -> Budget {
    Budget::new(limits, &CancellationToken::new())
}

fn plan(order: Order) -> Plan {
    Plan {
        tenant: Tenant::default(),
        matchers: Vec::new(),
        start_ns: i64::MIN,
        end_ns: i64::MAX,
        needles: Vec::new(),
        kind: Kind::All,
        order,
        expect: None,
        budget: Budget::default(),
    }
}

fn needle(text: impl AsRef<[u8]>) -> LineNeedle {
    LineNeedle { text: text.as_ref().to_vec(), ignore_case: false }
}

fn write(dir: &Path, events: Vec<StoredEvent>) -> SplitReader {
    let meta = SplitWriter::new(&fs()).write(dir, &Tenant::default(), events).expect("written");
    let split = SplitReader::open(&fs(), dir).expect("opens");
    assert_eq!(split.meta(), &meta);
    split
}

/// A row with everything that a scan gives of it.
type Seen = (i64, SourceId, Position, StreamInfo, Vec<u8>, Labels, Option<DocIdentity>);

fn seen(batch: &RowBatch) -> Vec<Seen> {
    let rows = batch.rows.iter().map(|row| {
        (
            row.time_ns,
            row.source,
            row.position,
            batch.streams[row.stream as usize].clone(),
            batch.line(row).to_vec(),
            row.metadata.clone().unwrap_or_default(),
            row.doc.as_deref().cloned(),
        )
    });
    rows.collect()
}

fn scan(split: &SplitReader, plan: &Plan) -> Result<Vec<Seen>, SplitError> {
    let mut rows = Vec::new();
    for batch in split.scan(plan) {
        let batch = batch?;
        assert!(!batch.rows.is_empty(), "an empty batch says nothing");
        assert!(batch.rows.len() <= 4096);
        rows.extend(seen(&batch));
    }
    Ok(rows)
}

fn lines(split: &SplitReader, plan: &Plan) -> Vec<String> {
    let rows = scan(split, plan).expect("scans");
    rows.into_iter().map(|row| String::from_utf8_lossy(&row.4).into_owned()).collect()
}

fn sort_key(row: &Seen) -> (i64, SourceId, Position, Labels, Arc<str>, Vec<u8>, Labels, String) {
    let (time, source, position, stream, line, metadata, doc) = row.clone();
    (time, source, position, stream.labels, stream.topic, line, metadata, format!("{doc:?}"))
}

/// What a scan must give, found line by line and sorted in full.
fn naive(events: &[StoredEvent], plan: &Plan) -> Vec<Seen> {
    let wanted = events.iter().filter(|e| {
        e.time_ns >= plan.start_ns
            && e.time_ns < plan.end_ns
            && plan.matchers.iter().all(|m| m.matches(e.stream.labels.get(&m.name).unwrap_or("")))
            && match plan.kind {
                Kind::All => true,
                Kind::Lines => e.doc.is_none(),
                Kind::Documents => e.doc.is_some(),
            }
            && plan.needles.iter().all(|n| {
                let text = String::from_utf8_lossy(&n.text);
                if n.ignore_case {
                    let regex = regex::bytes::Regex::new(&format!("(?i){}", regex::escape(&text))).unwrap();
                    regex.is_match(&e.line)
                } else {
                    n.text.is_empty() || e.line.windows(n.text.len()).any(|w| w == n.text)
                }
            })
    });
    let mut rows: Vec<Seen> = wanted
        .map(|e| {
            let doc = e.doc.as_deref().cloned();
            (e.time_ns, e.source, e.position, e.stream.clone(), e.line.to_vec(), e.metadata.clone(), doc)
        })
        .collect();
    rows.sort_by_key(sort_key);
    rows
}

fn assert_answers(split: &SplitReader, events: &[StoredEvent], plan: &Plan) -> Result<(), TestCaseError> {
    let got = scan(split, plan).expect("scans");
    let key = |r: &Seen| (r.0, r.1, r.2);
    match plan.order {
        Order::Any => {}
        Order::Forward => prop_assert!(got.is_sorted_by_key(key)),
        Order::Backward => prop_assert!(got.iter().rev().is_sorted_by_key(key)),
    }
    let mut got = got;
    got.sort_by_key(sort_key);
    prop_assert_eq!(got, naive(events, plan));
    Ok(())
}

fn any_line() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just("error".to_owned()),
        Just("Session".to_owned()),
        "[a-z]{1,6}",
        "[0-9]{1,12}",
        "[0-9a-f]{8,16}",
        "\\PC{0,3}",
    ];
    prop_oneof![
        8 => proptest::collection::vec(word, 0..8).prop_map(|words| words.join(" ").into_bytes()),
        1 => proptest::collection::vec(any::<u8>(), 0..40),
        1 => Just(Vec::new()),
    ]
}

fn any_event() -> impl Strategy<Value = StoredEvent> {
    let stream = (0..6u8, prop::bool::weighted(0.1)).prop_map(|(i, other)| StreamInfo {
        labels: if i == 0 { Labels::default() } else { Labels::new([("app", format!("a{i}")), ("env", "x".into())]) },
        topic: if other { "other".into() } else { "logs".into() },
    });
    let metadata = prop_oneof![
        5 => Just(Labels::default()),
        1 => proptest::collection::btree_map("[a-z]{1,4}", "\\PC{1,6}", 1..3).prop_map(Labels::new),
    ];
    let doc = proptest::option::weighted(
        0.2,
        ("[a-z]{1,4}", "\\PC{1,6}", any::<bool>()).prop_map(|(index, id, create)| {
            Arc::new(DocIdentity { index, id, op: if create { DocOp::Create } else { DocOp::Index } })
        }),
    );
    let time = prop_oneof![8 => 0i64..200, 1 => any::<i64>()];
    let place = (0..3u8, prop_oneof![4 => 0u64..1000, 1 => any::<u64>()], 0..2u32);
    (stream, time, place, any_line(), metadata, doc, any::<bool>(), any::<bool>()).prop_map(
        |(stream, time_ns, (source, offset, sub), line, metadata, doc, cut, time_from_line)| StoredEvent {
            stream,
            time_ns,
            source: SourceId([source; 16]),
            position: Position { offset, sub },
            line: line.into(),
            metadata,
            doc,
            cut,
            time_from_line,
        },
    )
}

/// Needles cut from lines (so that they are found), and others.
fn any_plan(events: Vec<StoredEvent>) -> impl Strategy<Value = Plan> {
    let cut =
        (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1usize..14).prop_map(move |(i, from, len)| {
            if events.is_empty() {
                return b"error".to_vec();
            }
            let line = &events[i.index(events.len())].line;
            let start = from.index(line.len() + 1);
            line[start..(start + len).min(line.len())].to_vec()
        });
    let text = prop_oneof![4 => cut, 1 => Just(b"error".to_vec()), 1 => Just(b"ession".to_vec())];
    let one = (text, prop::bool::weighted(0.2)).prop_map(|(text, ignore_case)| LineNeedle {
        ignore_case: ignore_case && std::str::from_utf8(&text).is_ok(),
        text,
    });
    let matcher = prop_oneof![
        2 => Just(None),
        1 => Just(Some(("app", MatchOp::Equal, "a1"))),
        1 => Just(Some(("app", MatchOp::NotEqual, "a1"))),
        1 => Just(Some(("app", MatchOp::Regex, "a[23]"))),
        1 => Just(Some(("none", MatchOp::Equal, ""))),
    ];
    let range = prop_oneof![Just((i64::MIN, i64::MAX)), (0i64..200, 0i64..200)];
    let kind = prop_oneof![4 => Just(Kind::All), 1 => Just(Kind::Lines), 1 => Just(Kind::Documents)];
    let order = prop_oneof![Just(Order::Forward), Just(Order::Backward), Just(Order::Any)];
    let expect = proptest::option::of(0usize..50);
    (proptest::collection::vec(one, 0..3), matcher, range, kind, order, expect).prop_map(
        |(needles, matcher, (start_ns, end_ns), kind, order, expect)| Plan {
            needles,
            matchers: matcher.into_iter().map(|(n, op, v)| LabelMatcher::new(n, op, v).unwrap()).collect(),
            start_ns,
            end_ns,
            kind,
            expect,
            ..plan(order)
        },
    )
}

fn events_and_plans(most: usize) -> impl Strategy<Value = (Vec<StoredEvent>, Vec<Plan>)> {
    proptest::collection::vec(any_event(), 0..most).prop_flat_map(|events| {
        let plans = proptest::collection::vec(any_plan(events.clone()), 12);
        (Just(events), plans)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn scans_give_what_a_naive_filter_gives((events, plans) in events_and_plans(120)) {
        let dir = tempfile::tempdir().unwrap();
        let split = write(&dir.path().join("s"), events.clone());
        prop_assert_eq!(split.meta().rows, events.len() as u64);
        for plan in &plans {
            assert_answers(&split, &events, plan)?;
        }
    }

    #[test]
    fn scans_over_many_blocks_give_what_a_naive_filter_gives(
        (some, plans) in events_and_plans(60), copies in 20usize..40,
    ) {
        // Copies at other times and places: thousands of rows, streams that share blocks and streams that fill many.
        let events: Vec<StoredEvent> = (0..copies)
            .flat_map(|copy| some.iter().cloned().map(move |mut e| {
                e.time_ns = e.time_ns.wrapping_add(copy as i64 * 3);
                e.position.offset = e.position.offset.wrapping_add(copy as u64 * 1000);
                e
            }))
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let split = write(&dir.path().join("s"), events.clone());
        for plan in &plans {
            assert_answers(&split, &events, plan)?;
        }
    }

    #[test]
    fn counts_equal_those_of_the_rows(
        (events, plans) in events_and_plans(120),
        (first_end_ns, step_ns, range_ns) in (-10i64..210, 1i64..60, 1i64..120),
        by in 0usize..4,
        tested in any::<bool>(),
    ) {
        let group = [
            GroupBy::All,
            GroupBy::None,
            GroupBy::By(vec!["app".to_owned(), "a".to_owned()]),
            GroupBy::Without(vec!["app".to_owned()]),
        ];
        let aggregation = Arc::new(Aggregation {
            windows: Windows { first_end_ns, step_ns, count: 7, range_ns },
            group: group[by].clone(),
            test: tested.then(|| LineTest::new(|line| line.len() % 2 == 0)),
        });
        let dir = tempfile::tempdir().unwrap();
        let split = write(&dir.path().join("s"), events.clone());
        for plan in &plans {
            let mut want = Partial::new(Arc::clone(&aggregation), &plan.budget).unwrap();
            for (i, row) in naive(&events, plan).into_iter().enumerate() {
                let (time_ns, _, _, stream, line, metadata, _) = row;
                let metadata = (!metadata.is_empty()).then(|| metadata.pairs());
                let mut groups = StreamGroups::default();
                let labels = stream.labels.pairs();
                want.add(&mut groups, i % 3, labels, metadata, time_ns, &line, line.len()).unwrap();
            }
            let mut got = Partial::new(Arc::clone(&aggregation), &plan.budget).unwrap();
            split.count(plan, &mut got, &mut 0, |_, _, _| Ok(true)).unwrap();
            prop_assert_eq!((got.lines, got.bytes, got.passed), (want.lines, want.bytes, want.passed));
            prop_assert_eq!(got.into_groups(), want.into_groups());
        }
    }

    #[test]
    fn a_merge_holds_the_rows_of_its_inputs_but_the_dropped(
        parts in proptest::collection::vec(proptest::collection::vec(any_event(), 0..60), 1..4),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let inputs: Vec<SplitReader> = parts
            .iter()
            .enumerate()
            .map(|(i, events)| write(&dir.path().join(format!("in{i}")), events.clone()))
            .collect();
        let dropped = |event: &StoredEvent| event.doc.is_some();
        let meta = merge(&fs(), &inputs, &dir.path().join("out"), dropped).expect("merged");
        let split = SplitReader::open(&fs(), &dir.path().join("out")).expect("opens");
        prop_assert_eq!(split.meta(), &meta);
        let kept: Vec<StoredEvent> = parts.concat().into_iter().filter(|e| !dropped(e)).collect();
        prop_assert_eq!(meta.rows, kept.len() as u64);
        prop_assert_eq!(meta.documents, 0);
        for order in [Order::Forward, Order::Backward, Order::Any] {
            assert_answers(&split, &kept, &plan(order))?;
        }
        // A merge of one split with nothing dropped writes the same lines, flags included.
        let again = merge(&fs(), std::slice::from_ref(&split), &dir.path().join("again"), |_| false).expect("merged");
        prop_assert_eq!(again.rows, meta.rows);
        let bytes = |name: &str| std::fs::read(dir.path().join(name).join("lines")).unwrap();
        prop_assert_eq!(bytes("again"), bytes("out"));
    }
}

#[test]
fn scans_can_be_moved_to_another_thread() {
    fn check<T: Send + 'static>() {}
    fn share<T: Send + Sync + Clone + 'static>() {}
    check::<SplitScan>();
    share::<SplitReader>();
}

#[test]
fn needles_find_their_lines_and_no_others() {
    let texts = [
        "session opened for user root",
        "Session-id=4711, took 12ms",
        "obsession",
        "",
        "blk_38865049064139660 done",
        "naïve Übergröße",
        "a.b.c 10.0.0.1:8080 --> ok",
        "\u{212A}elvin 300",
        "日本語のログ",
    ];
    let s = stream("api");
    let events: Vec<StoredEvent> =
        texts.iter().enumerate().map(|(i, text)| event(&s, i as i64, i as u64 * 100, *text)).collect();
    let dir = tempfile::tempdir().unwrap();
    let split = write(&dir.path().join("s"), events);
    for (text, ignore_case, want) in [
        ("", false, &[0, 1, 2, 3, 4, 5, 6, 7, 8][..]),
        ("session", false, &[0, 2]),
        ("ession", false, &[0, 1, 2]),
        ("session", true, &[0, 1, 2]),
        (" opened for ", false, &[0]),
        ("opened for user r", false, &[0]),
        ("pened fo", false, &[0]),
        ("4711", false, &[1]),
        ("471", false, &[1]),
        ("=4711,", false, &[1]),
        ("=471,", false, &[]),
        ("504906413", false, &[4]),
        ("504906414", false, &[]),
        ("_38865049064139660 ", false, &[4]),
        ("-->", false, &[6]),
        ("--", false, &[6]),
        (".0.", false, &[6]),
        ("10.0.0.1", false, &[6]),
        ("0.0.0.1", false, &[6]),
        ("10.0.0.1:808", false, &[6]),
        ("ïve", false, &[5]),
        ("Über", false, &[5]),
        ("über", true, &[5]),
        ("ÜBERGRÖSSE", true, &[]),
        ("kelvin", true, &[7]),
        ("kelvin", false, &[]),
        ("\u{212A}", false, &[7]),
        ("本語", false, &[8]),
        ("root\n", false, &[]),
        ("rootSession", false, &[]),
        ("tSess", false, &[]),
    ] {
        let want: Vec<String> = want.iter().map(|&i: &usize| texts[i].to_owned()).collect();
        let needles = vec![LineNeedle { text: text.into(), ignore_case }];
        for order in [Order::Forward, Order::Any] {
            let found = lines(&split, &Plan { needles: needles.clone(), ..plan(order) });
            assert_eq!(found, want, "{text:?} ignore_case={ignore_case}");
        }
    }
}

/// Many blocks of two streams, a rare word in one of them.
fn many(rows: i64) -> Vec<StoredEvent> {
    let (api, web) = (stream("api"), stream("web"));
    (0..rows)
        .map(|i| {
            let of = if i % 2 == 0 { &api } else { &web };
            let rare = if i == rows / 2 { " zanzibar id=77af3e9900aa55c1" } else { "" };
            let id = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            event(of, i * 1000, i as u64 * 80, format!("request {i} handled id={id:016x}{rare}"))
        })
        .collect()
}

#[test]
fn rare_words_and_pasted_ids_read_few_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let split = write(&dir.path().join("s"), many(20_000));
    for (text, most) in
        [("zanzibar", 1), ("anziba", 1), ("77af3e9900aa55c1", 2), ("af3e9900aa", 4), ("=77af3e9900aa55c1", 2)]
    {
        for order in [Order::Forward, Order::Backward, Order::Any] {
            let mut scan = split.scan(&Plan { needles: vec![needle(text)], ..plan(order) });
            let found: usize = scan.by_ref().map(|batch| batch.expect("scans").rows.len()).sum();
            assert_eq!(found, 1, "{text}");
            assert!(scan.blocks_read() <= most, "{text}: {} blocks", scan.blocks_read());
        }
    }
    let mut scan = split.scan(&Plan { needles: vec![needle("nowhere to be found")], ..plan(Order::Any) });
    assert!(scan.next().is_none());
    assert_eq!((scan.blocks_read(), scan.bytes_read()), (0, 0));
}

#[test]
fn a_small_expectation_reads_few_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let split = write(&dir.path().join("s"), many(20_000));
    for (order, first) in [(Order::Forward, 0), (Order::Backward, 19_999_000)] {
        let mut scan = split.scan(&Plan { expect: Some(10), ..plan(order) });
        let batch = scan.next().expect("there are rows").expect("scans");
        assert_eq!((batch.rows.len(), batch.rows[0].time_ns), (10, first));
        assert!(scan.blocks_read() <= 4, "{} blocks", scan.blocks_read());
        let more: usize = scan.map(|batch| batch.expect("scans").rows.len()).sum();
        assert_eq!(more, 19_990, "the rest is there for a caller that goes on");
    }
    let mut scan = split.scan(&Plan { start_ns: 5_000_000, end_ns: 5_002_000, ..plan(Order::Forward) });
    assert_eq!(scan.next().expect("rows").expect("scans").rows.len(), 2);
    assert!(scan.blocks_read() <= 2);
}

#[test]
fn bounds_and_cancellation_end_a_scan() {
    let dir = tempfile::tempdir().unwrap();
    let split = write(&dir.path().join("s"), many(20_000));
    for order in [Order::Forward, Order::Any] {
        let limits = QueryLimits { max_bytes_read: 100_000, ..QueryLimits::default() };
        let few = Plan { budget: budget(limits), ..plan(order) };
        let error = scan(&split, &few).expect_err("more is read");
        assert!(matches!(error, SplitError::OverBudget(OverBudget::Limit { limit: "max_bytes_read", .. })), "{error}");

        let stopped = plan(order);
        let mut running = split.scan(&stopped);
        assert!(running.next().expect("rows").is_ok());
        stopped.budget.cancel();
        assert!(matches!(running.next(), Some(Err(SplitError::OverBudget(OverBudget::Cancelled)))));
        assert!(running.next().is_none(), "a scan ends after its first error");
    }
    let limits = QueryLimits { max_memory_bytes: 1000, ..QueryLimits::default() };
    let small = Plan { budget: budget(limits), ..plan(Order::Forward) };
    assert!(matches!(scan(&split, &small), Err(SplitError::OverBudget(OverBudget::Limit { limit: "max_memory", .. }))));

    let foreign = Plan { tenant: Tenant::new("other").unwrap(), ..plan(Order::Any) };
    assert_eq!(scan(&split, &foreign).expect("nothing is no error"), Vec::new());
    assert!(split.streams(&foreign).is_empty());
}

#[test]
fn known_label_sets_are_shared_and_others_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let first = write(&dir.path().join("s"), many(1000));
    let mut known: Vec<StreamInfo> = first.all_streams().map(|(info, _)| info.clone()).collect();
    let last = known.len() - 1;
    known[last].topic = "another".into();
    let second = SplitReader::open_sharing(&fs(), first.dir(), known.iter()).unwrap();
    for (i, ((info, _), known)) in second.all_streams().zip(&known).enumerate() {
        let shared = std::ptr::eq(info.labels.pairs(), known.labels.pairs());
        assert_eq!(shared, i != last, "{info:?}");
    }
    assert_eq!(lines(&second, &plan(Order::Forward)), lines(&first, &plan(Order::Forward)));
}

#[test]
fn streams_are_listed_with_their_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let split = write(&dir.path().join("s"), many(1000));
    let all = split.streams(&plan(Order::Any));
    assert_eq!(all.iter().map(|(_, stats)| stats.entries).sum::<u64>(), 1000);
    assert_eq!(all.iter().map(|(_, stats)| stats.bytes).sum::<u64>(), split.meta().raw_bytes);
    let web = vec![LabelMatcher::new("app", MatchOp::Equal, "web").unwrap()];
    let found = split.streams(&Plan { matchers: web, ..plan(Order::Any) });
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].0.labels.get("app"), found[0].1.entries), (Some("web"), 500));
    assert!(split.streams(&Plan { start_ns: 1_000_000, ..plan(Order::Any) }).is_empty());
    assert!(split.streams(&Plan { kind: Kind::Documents, ..plan(Order::Any) }).is_empty());
    assert_eq!(split.meta().streams[0].labels(), stream("api").labels);
    assert!(split.meta().lists_all_streams());
    assert!(split.meta().overlaps(999_000, 999_001) && !split.meta().overlaps(999_001, 1_000_000));
}

#[test]
fn huge_lines_and_many_streams_come_back() {
    let mut events: Vec<StoredEvent> =
        (0..3000).map(|i| event(&stream(&format!("s{i}")), 5000 - i, i as u64, format!("line {i}"))).collect();
    let huge = format!("start {} end", "0123456789abcdefg ".repeat(200_000));
    events.push(event(&stream("s7"), 1, 1 << 40, huge.clone()));
    events.push(event(&stream("s7"), 2, 2 << 40, "x".repeat(100_000)));
    let dir = tempfile::tempdir().unwrap();
    let split = write(&dir.path().join("s"), events.clone());
    assert_eq!((split.meta().streams_total, split.meta().streams.len()), (3000, MAX_META_STREAMS));
    assert_eq!(split.streams(&plan(Order::Any)).len(), 3000);
    for order in [Order::Forward, Order::Backward, Order::Any] {
        assert_answers(&split, &events, &plan(order)).unwrap();
        let found = lines(&split, &Plan { needles: vec![needle("efg  end")], ..plan(order) });
        assert!(found == [huge.as_str()]);
        assert_eq!(lines(&split, &Plan { needles: vec![needle("xxxx")], ..plan(order) }).len(), 1);
    }
    let disk: u64 = walkdir::WalkDir::new(dir.path().join("s"))
        .into_iter()
        .map(|e| e.unwrap())
        .filter(|e| e.file_type().is_file())
        .map(|e| e.metadata().unwrap().len())
        .sum();
    assert!(disk.abs_diff(split.meta().disk_bytes) < 20, "{disk} {}", split.meta().disk_bytes);
}

#[test]
fn an_empty_split_answers_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let split = write(&dir.path().join("s"), Vec::new());
    assert!(!split.meta().overlaps(i64::MIN, i64::MAX));
    for order in [Order::Forward, Order::Any] {
        assert!(lines(&split, &Plan { needles: vec![needle("a b c")], ..plan(order) }).is_empty());
    }
    let error = SplitWriter::new(&fs()).write(split.dir(), &Tenant::default(), Vec::new()).expect_err("it is there");
    assert!(matches!(error, SplitError::Exists { .. }), "{error}");
}

#[test]
fn splits_of_two_tenants_are_not_merged() {
    let dir = tempfile::tempdir().unwrap();
    let a = write(&dir.path().join("a"), many(10));
    let path = dir.path().join("b");
    SplitWriter::new(&fs()).write(&path, &Tenant::new("b").unwrap(), many(10)).unwrap();
    let b = SplitReader::open(&fs(), &path).unwrap();
    let error = merge(&fs(), &[a, b], &dir.path().join("out"), |_| false).expect_err("two tenants");
    assert_eq!(error.to_string(), "splits of tenants default and b can't be merged");
}

fn small() -> Vec<StoredEvent> {
    let mut events = many(8);
    events[3].metadata = Labels::new([("trace_id", "abc")]);
    events[5].doc = Some(Arc::new(DocIdentity { index: "orders".into(), id: "1".into(), op: DocOp::Create }));
    events
}

#[test]
fn a_changed_byte_anywhere_is_an_error_or_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("s");
    let events = small();
    let split = write(&folder, events.clone());
    let plans = [
        plan(Order::Forward),
        Plan { needles: vec![needle(" id=77af3e9900aa55c1")], ..plan(Order::Any) },
        Plan { needles: vec![needle("anzibar id=")], ..plan(Order::Backward) },
        Plan { needles: vec![needle("request 3 handled")], ..plan(Order::Backward) },
    ];
    let want: Vec<Vec<Seen>> = plans.iter().map(|plan| scan(&split, plan).expect("whole")).collect();
    assert_eq!(want.iter().map(Vec::len).collect::<Vec<_>>(), [8, 1, 1, 1]);
    drop(split);
    let files: Vec<_> = walkdir::WalkDir::new(&folder)
        .into_iter()
        .map(|e| e.unwrap().into_path())
        .filter(|path| path.is_file())
        .collect();
    assert!(files.len() >= 4);
    for path in files {
        let whole = std::fs::read(&path).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        for (i, &byte) in whole.iter().enumerate() {
            for change in [0x01, 0x80] {
                file.write_all_at(&[byte ^ change], i as u64).unwrap();
                let Ok(split) = SplitReader::open(&fs(), &folder) else { continue };
                for (plan, want) in plans.iter().zip(&want) {
                    match scan(&split, plan) {
                        Ok(rows) => assert_eq!(&rows, want, "byte {i} of {}", path.display()),
                        Err(error) => assert!(error.is_damage(), "byte {i} of {}: {error}", path.display()),
                    }
                }
                assert!(split.verify().is_err_and(|e| e.is_damage()), "byte {i} of {}", path.display());
            }
            file.write_all_at(&[byte], i as u64).unwrap();
        }
    }
    assert!(SplitReader::open(&fs(), &folder).expect("whole again").verify().is_ok());
}

#[test]
fn a_folder_that_is_not_whole_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("s");
    drop(write(&folder, small()));
    let files: Vec<_> = walkdir::WalkDir::new(&folder)
        .into_iter()
        .map(|e| e.unwrap().into_path())
        .filter(|path| path.is_file())
        .collect();
    for path in files {
        let whole = std::fs::read(&path).unwrap();
        for len in [0, 1, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..len]).unwrap();
            let error = SplitReader::open(&fs(), &folder).expect_err("cut");
            assert!(error.is_damage(), "{} cut to {len}: {error}", path.display());
        }
        std::fs::remove_file(&path).unwrap();
        let error = SplitReader::open(&fs(), &folder).expect_err("missing");
        assert!(error.to_string().contains("missing"), "{error}");
        std::fs::write(&path, &whole).unwrap();
    }
    assert!(SplitReader::open(&fs(), &folder).is_ok());
    let error = SplitReader::open(&fs(), &dir.path().join("nowhere")).expect_err("no folder");
    assert!(error.is_damage());
}

#[test]
fn a_newer_format_is_refused_by_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("s");
    drop(write(&folder, small()));
    let path = folder.join("split.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let json = text.lines().next().unwrap().replace("\"version\":1", "\"version\":9");
    std::fs::write(&path, format!("{json}\n{:08x}\n", crc32c::crc32c(json.as_bytes()))).unwrap();
    let error = SplitReader::open(&fs(), &folder).expect_err("newer");
    assert!(matches!(error, SplitError::Version { found: 9, .. }), "{error}");
}
