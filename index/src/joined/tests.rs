//! Several tenants as one: the answers are those of a store whose streams carry the label of their tenant already.

use bytes::Bytes;
use futures::TryStreamExt as _;
use millrace_log::record::{Event, Position, SourceId};
use proptest::prelude::*;

use super::*;
use crate::memory::MemoryStore;
use crate::scan::{Kind, MatchOp, QueryLimits, Windows};
use tokio_util::sync::CancellationToken;

fn tenant(name: &str) -> Tenant {
    Tenant::new(name).unwrap()
}

fn event(of: &str, time_ns: i64, labels: &[(&str, &str)], metadata: &[(&str, &str)]) -> Event {
    let source = of.as_bytes()[0];
    Event {
        tenant: tenant(of),
        time_ns,
        labels: Labels::new(labels.iter().copied()),
        metadata: Labels::new(metadata.iter().copied()),
        line: Bytes::from(format!("line {time_ns} of {of}")),
        source: SourceId([source; 16]),
        position: Position::at(u64::try_from(time_ns).unwrap()),
        doc: None,
        cut: false,
        time_from_line: true,
    }
}

/// The same event of one tenant that has all, with the label that says whose it was.
fn labelled(event: &Event) -> Event {
    let mut labels: std::collections::BTreeMap<String, String> =
        event.labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    if let Some(own) = labels.remove("__tenant_id__") {
        labels.insert("original___tenant_id__".to_owned(), own);
    }
    labels.insert("__tenant_id__".to_owned(), event.tenant.to_string());
    Event { tenant: tenant("all"), labels: Labels::new(labels), ..event.clone() }
}

fn plan(order: Order, matchers: &[(&str, MatchOp, &str)]) -> Plan {
    let matchers = matchers.iter().map(|(name, op, value)| LabelMatcher::new(*name, *op, *value).unwrap());
    Plan {
        tenant: tenant("all"),
        matchers: matchers.collect(),
        start_ns: 0,
        end_ns: 1000,
        needles: Vec::new(),
        kind: Kind::All,
        order,
        expect: None,
        budget: Budget::default(),
    }
}

/// A store of three tenants of which two are joined, and the store that it should be like.
fn stores(events: &[Event], batch_rows: usize) -> (Joined, MemoryStore) {
    let (store, want) = (MemoryStore::with_batches_of(batch_rows), MemoryStore::with_batches_of(7));
    store.put("logs", events.iter().cloned());
    want.put("logs", events.iter().filter(|event| event.tenant.as_str() != "c").map(labelled));
    (Joined::new(Arc::new(store), [tenant("a"), tenant("b")].into()), want)
}

async fn rows(store: &dyn EventStore, plan: Plan) -> Vec<(i64, String, String)> {
    let is_any = plan.order == Order::Any;
    let batches: Vec<RowBatch> = store.scan(plan).await.unwrap().try_collect().await.unwrap();
    let mut found = Vec::new();
    for batch in &batches {
        for row in &batch.rows {
            let line = String::from_utf8(batch.line(row).to_vec()).unwrap();
            found.push((row.time_ns, line, batch.streams[row.stream as usize].labels.to_string()));
        }
    }
    if is_any {
        found.sort();
    }
    found
}

fn lines(found: &[(i64, String, String)]) -> Vec<&str> {
    found.iter().map(|(_, line, _)| line.as_str()).collect()
}

#[tokio::test]
async fn matchers_select_tenants_and_streams_name_theirs() {
    use MatchOp::{Equal, NotEqual, NotRegex, Regex};
    let events = [
        event("a", 1, &[("app", "x")], &[]),
        event("b", 2, &[("app", "x"), ("__tenant_id__", "own")], &[]),
        event("c", 3, &[("app", "x")], &[]),
        event("a", 4, &[("app", "y"), ("__tenant_id__", "b"), ("original___tenant_id__", "z")], &[]),
    ];
    let (joined, _) = stores(&events, 1);
    let all = rows(&joined, plan(Order::Backward, &[])).await;
    let want = [
        (4, r#"{__tenant_id__="a", app="y", original___tenant_id__="b"}"#),
        (2, r#"{__tenant_id__="b", app="x", original___tenant_id__="own"}"#),
        (1, r#"{__tenant_id__="a", app="x"}"#),
    ];
    let found: Vec<_> = all.iter().map(|(time, _, labels)| (*time, labels.as_str())).collect();
    assert_eq!(found, want);
    for (matchers, want) in [
        (vec![("__tenant_id__", Equal, "a")], vec!["line 1 of a", "line 4 of a"]),
        (vec![("__tenant_id__", Equal, "c")], vec![]),
        (vec![("__tenant_id__", Equal, "own")], vec![]),
        (vec![("__tenant_id__", NotEqual, "a")], vec!["line 2 of b"]),
        (vec![("__tenant_id__", Regex, "a|c"), ("app", Equal, "x")], vec!["line 1 of a"]),
        (vec![("__tenant_id__", NotRegex, ".+")], vec![]),
        (vec![("original___tenant_id__", Equal, "own")], vec!["line 2 of b"]),
        (vec![("original___tenant_id__", Equal, "")], vec!["line 1 of a"]),
        (vec![("app", Equal, "x")], vec!["line 1 of a", "line 2 of b"]),
    ] {
        let found = rows(&joined, plan(Order::Forward, &matchers)).await;
        assert_eq!(lines(&found), want, "{matchers:?}");
    }
}

#[tokio::test]
async fn what_waits_to_be_merged_counts_as_memory_and_a_failure_ends_the_scan() {
    let events: Vec<Event> =
        (0..40).map(|n| event(if n % 2 == 0 { "a" } else { "b" }, n, &[("app", "x")], &[])).collect();
    let (joined, _) = stores(&events, 10);
    for (limits, want) in [
        (QueryLimits { max_memory_bytes: 2000, ..QueryLimits::default() }, "max_memory"),
        (QueryLimits { max_bytes_read: 150, ..QueryLimits::default() }, "max_bytes_read"),
    ] {
        let budget = Budget::new(limits, &CancellationToken::new());
        let batches = joined.scan(Plan { budget, ..plan(Order::Forward, &[]) }).await.unwrap();
        let found: Vec<_> = batches.collect().await;
        assert_eq!(found.iter().filter(|batch| batch.is_err()).count(), 1, "{want}");
        let error = found.last().unwrap().as_ref().unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

async fn counted(store: &dyn EventStore, group: GroupBy) -> Option<Vec<(Vec<(String, String)>, Vec<(i64, i64)>)>> {
    let windows = Windows { first_end_ns: 20, step_ns: 20, count: 6, range_ns: 30 };
    let aggregation = Arc::new(Aggregation { windows, group, test: None });
    let partial = store.aggregate(plan(Order::Any, &[]), aggregation).await.unwrap()?;
    Some(partial.into_groups().iter().map(|group| (group.labels.clone(), group.windows().collect())).collect())
}

fn groups() -> Vec<GroupBy> {
    let lists =
        ["", "app", "__tenant_id__", "app __tenant_id__", "original___tenant_id__ app", "__tenant_id___extracted"];
    let lists = lists.map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let by = lists.iter().cloned().map(GroupBy::By);
    let without = lists.iter().cloned().map(GroupBy::Without);
    by.chain(without).chain([GroupBy::All, GroupBy::None]).collect()
}

#[tokio::test]
async fn counts_come_without_rows_where_no_stream_has_the_label_itself() {
    let plain = [event("a", 1, &[("app", "x")], &[("trace", "7")]), event("b", 30, &[("app", "y")], &[])];
    let (joined, want) = stores(&plain, 1);
    for group in groups() {
        let needs_rows = matches!(&group, GroupBy::By(names) if names.iter().any(|n| n == ORIGINAL || n == EXTRACTED));
        let found = counted(&joined, group.clone()).await;
        assert_eq!(found.is_none(), needs_rows, "{group:?}");
        if found.is_some() {
            assert_eq!(found, counted(&want, group.clone()).await, "{group:?}");
        }
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let own = prop::sample::select(vec!["", "a", "own"]);
    let parts =
        (prop::sample::select(vec!["a", "b", "c"]), 0i64..120, prop::sample::select(vec!["x", "y"]), own.clone(), own);
    parts.prop_map(|(of, time_ns, app, own, metadata)| {
        event(of, time_ns, &[("app", app), ("__tenant_id__", own)], &[("__tenant_id__", metadata)])
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn answers_are_those_of_streams_that_carry_the_label(
        mut events in prop::collection::vec(any_event(), 0..60), batch_rows in 1usize..9,
    ) {
        // Each has a place of its own.
        for (n, event) in events.iter_mut().enumerate() {
            event.position = Position::at(n as u64);
        }
        let (joined, want) = stores(&events, batch_rows);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            for order in [Order::Forward, Order::Backward, Order::Any] {
                for matchers in [
                    &[][..],
                    &[("__tenant_id__", MatchOp::Equal, "b")],
                    &[("__tenant_id__", MatchOp::Regex, "a|c"), ("app", MatchOp::NotEqual, "x")],
                    &[("original___tenant_id__", MatchOp::NotEqual, "own")],
                ] {
                    let found = rows(&joined, plan(order, matchers)).await;
                    assert_eq!(found, rows(&want, plan(order, matchers)).await, "{order:?} {matchers:?}");
                }
            }
            let plan = plan(Order::Any, &[("app", MatchOp::Equal, "x")]);
            assert_eq!(joined.streams(plan.clone()).await.unwrap(), want.streams(plan).await.unwrap());
            for group in groups() {
                if let Some(found) = counted(&joined, group.clone()).await {
                    assert_eq!(Some(found), counted(&want, group.clone()).await, "{group:?}");
                }
            }
        });
    }
}
