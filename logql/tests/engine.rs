//! The engine as a specification: what queries find in a small store, what they refuse.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use millrace_logql::memory::MemoryStorage;
use millrace_logql::storage::{BatchStream, QueryLimits, Scan, Stats, Storage, StorageError, StreamLabels};
use millrace_logql::{Answer, Budget, Direction, Engine, InstantQuery, QueryError, RangeQuery};
use tokio_util::sync::CancellationToken;

const SECOND: i64 = 1_000_000_000;

/// Ten lines, one each 10 s: level=info from `a`, every fifth an error; JSON from `b`.
fn store() -> MemoryStorage {
    let mut store = MemoryStorage::new();
    for i in 0..10i64 {
        let level = if i % 5 == 0 { "error" } else { "info" };
        let line = format!("level={level} took={}ms size={}KB msg=\"request {i}\"", i * 10, i);
        store.push_with(&[("app", "a"), ("env", "prod")], i * 10 * SECOND, line, &[("trace", &format!("t{i}"))]);
        let line = format!(r#"{{"status":{},"path":"/p/{i}"}}"#, if i < 5 { 200 } else { 500 });
        store.push(&[("app", "b"), ("env", "prod")], i * 10 * SECOND + 1, line);
    }
    store
}

fn range(query: &str) -> RangeQuery {
    RangeQuery {
        tenant: "default".to_owned(),
        start_ns: 0,
        end_ns: 100 * SECOND,
        step_ns: 50 * SECOND,
        limit: 100,
        direction: Direction::Forward,
        ..RangeQuery::new(millrace_logql::parse(query).unwrap())
    }
}

fn budget(limits: QueryLimits) -> Budget {
    Budget::new(limits, &CancellationToken::new())
}

async fn lines(query: &str) -> Vec<String> {
    let answered = Engine::new(Arc::new(store())).query_range(range(query)).await;
    let Answer::Streams(streams) = answered.unwrap_or_else(|e| panic!("{query}\n{e}")).value else {
        panic!("{query} gives no streams")
    };
    let mut entries: Vec<(i64, String)> =
        streams.into_iter().flat_map(|s| s.entries).map(|e| (e.time_ns, e.line)).collect();
    entries.sort();
    entries.into_iter().map(|(_, line)| line).collect()
}

async fn finds(query: &str, count: usize) {
    assert_eq!(lines(query).await.len(), count, "{query}");
}

/// `{a="b"} 1 {c="d"} 2`
async fn gives(query: &str, time_s: i64, want: &str) {
    let text = query;
    let query = InstantQuery {
        tenant: "default".to_owned(),
        time_ns: time_s * SECOND,
        ..InstantQuery::new(millrace_logql::parse(query).unwrap())
    };
    let answered = Engine::new(Arc::new(store())).query_instant(query).await;
    let shown = match answered.unwrap_or_else(|e| panic!("{text}\n{e}")).value {
        Answer::Vector(samples) => {
            let shown: Vec<String> = samples
                .iter()
                .map(|s| format!("{} {}", millrace_logql::answer::show_labels(&s.labels), s.value))
                .collect();
            shown.join(" ")
        }
        Answer::Scalar(_, value) => value.to_string(),
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(shown, want, "{text}");
}

async fn fails(query: RangeQuery, want: &str) {
    let text = query.query.to_string();
    let error = Engine::new(Arc::new(store())).query_range(query).await.expect_err(&text);
    assert!(error.to_string().contains(want), "{text}: want {want:?} in:\n{error}");
}

#[tokio::test]
async fn lines_are_found() {
    for (query, count) in [
        (r#"{app="a"}"#, 10),
        (r#"{env="prod"}"#, 20),
        (r#"{app="a"} |= "error""#, 2),
        (r#"{app="a"} != "error""#, 8),
        (r#"{app=~"a|b"} |~ "request [0-3]|/p/9""#, 5),
        (r#"{app="a"} | logfmt | level="error""#, 2),
        (r#"{app="a"} | logfmt | took > 50ms"#, 4),
        (r#"{app="a"} | logfmt | took > 50ms and size < 8KB"#, 2),
        (r#"{app="b"} | json | status >= 500"#, 5),
        (r#"{app="b"} | json | __error__="""#, 10),
        (r#"{app="a"} | json | __error__="""#, 0),
        (r#"{app="a"} | json | __error__="JSONParserErr""#, 10),
        (r#"{app="a"} | trace="t3""#, 1),
        (r#"{app="a"} |> "level=info <_>""#, 8),
        (r#"{app="c"}"#, 0),
        (r#"{app="a"} | regexp "request (?P<n>[0-9])" | n = 7"#, 1),
    ] {
        finds(query, count).await;
    }
    assert_eq!(lines(r#"{app="b"} | json | line_format "{{.path}} {{.status}}" |= "/p/1""#).await, ["/p/1 200"]);
}

#[tokio::test]
async fn the_limit_takes_the_ends_of_the_range() {
    for (direction, want) in [(Direction::Forward, [0, 10]), (Direction::Backward, [90, 80])] {
        let query = RangeQuery { limit: 2, direction, ..range(r#"{app="a"}"#) };
        let Answer::Streams(streams) = Engine::new(Arc::new(store())).query_range(query).await.unwrap().value else {
            panic!()
        };
        let mut times: Vec<i64> = streams.iter().flat_map(|s| &s.entries).map(|e| e.time_ns / SECOND).collect();
        times.sort_unstable();
        let mut want = want.to_vec();
        want.sort_unstable();
        assert_eq!(times, want);
    }
}

#[tokio::test]
async fn labels_are_kept_apart() {
    let query = range(r#"{app="a"} |= "request 3" | logfmt took"#);
    let answered = Engine::new(Arc::new(store())).query_range(query).await.unwrap();
    let Answer::Streams(streams) = answered.value else { panic!() };
    let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
    assert_eq!(streams[0].labels, [pair("app", "a"), pair("env", "prod"), pair("took", "30ms"), pair("trace", "t3")]);
    assert_eq!(streams[0].stream_labels, [pair("app", "a"), pair("env", "prod")]);
    assert_eq!(streams[0].entries[0].metadata, [pair("trace", "t3")]);
    assert_eq!(streams[0].entries[0].parsed, [pair("took", "30ms")]);
    assert_eq!(answered.statistics.lines_after_filter, 1);
}

#[tokio::test]
async fn windows_hold_their_end_not_their_start() {
    // Lines of `a` at 0, 10, … 90.
    for (query, time_s, want) in [
        (r#"sum(count_over_time({app="a"}[10s]))"#, 90, "{} 1"),
        (r#"sum(count_over_time({app="a"}[20s]))"#, 90, "{} 2"),
        (r#"sum(count_over_time({app="a"}[10s]))"#, 101, ""),
        (r#"sum(count_over_time({app="a"}[10s] offset 10s))"#, 100, "{} 1"),
        (r#"absent_over_time({app="a"}[10s])"#, 101, r#"{app="a"} 1"#),
        (r#"absent_over_time({app="a"}[10s])"#, 90, ""),
    ] {
        gives(query, time_s, want).await;
    }
}

#[tokio::test]
async fn numbers_are_computed() {
    for (query, want) in [
        (r#"sum by (app) (count_over_time({env="prod"}[100s]))"#, r#"{app="a"} 10 {app="b"} 10"#),
        (r#"sum(rate({app="b"}[100s]))"#, "{} 0.1"),
        (r#"count_over_time({app="b"}[20s])"#, r#"{app="b", env="prod"} 2"#),
        (r#"bytes_over_time({app="b"}[10s])"#, r#"{app="b", env="prod"} 28"#),
        (r#"bytes_rate({app="b"}[10s])"#, r#"{app="b", env="prod"} 2.8"#),
        (r#"sum by (level) (count_over_time({app="a"} | logfmt [100s]))"#, r#"{level="error"} 2 {level="info"} 8"#),
        (r#"sum without (app) (count_over_time({app="b"}[100s]))"#, r#"{env="prod"} 10"#),
        (r#"max(sum_over_time({app="a"} | logfmt | unwrap duration(took) [10s]))"#, "{} 0.09"),
        (r#"avg_over_time({app="a"} | logfmt | unwrap bytes(size) [30s]) by (app)"#, r#"{app="a"} 8000"#),
        (r#"quantile_over_time(0.5, {app="a"} | logfmt | unwrap duration(took) [30s]) by ()"#, "{} 0.08"),
        (r#"first_over_time({app="b"} | json | unwrap status [100s]) by (app)"#, r#"{app="b"} 200"#),
        (r#"last_over_time({app="b"} | json | unwrap status [100s]) by (app)"#, r#"{app="b"} 500"#),
        (r#"topk(1, sum by (status) (count_over_time({app="b"} | json [100s])))"#, r#"{status="200"} 5"#),
        (r#"sum(count_over_time({app="b"}[100s])) / 5 + 1"#, "{} 3"),
        (r#"sum(count_over_time({app="b"}[100s])) > 100"#, ""),
        (r#"sum(count_over_time({app="b"}[100s])) > bool 100"#, "{} 0"),
        (r#"100 > sum(count_over_time({app="b"}[100s]))"#, "{} 10"),
        (
            r#"sum by (app) (count_over_time({env="prod"}[100s])) - on (app) sum by (app) (count_over_time({app="a"}[20s]))"#,
            r#"{app="a"} 8"#,
        ),
        (
            r#"sum by (app) (count_over_time({env="prod"}[100s])) unless sum by (app) (count_over_time({app="a"}[20s]))"#,
            r#"{app="b"} 10"#,
        ),
        (r#"sum(count_over_time({app="c"}[100s])) or vector(0)"#, "{} 0"),
        ("2 ^ 3 ^ 2", "512"),
        (
            r#"label_replace(count_over_time({app="b"}[20s]), "x", "$1-y", "app", "(.*)")"#,
            r#"{app="b", env="prod", x="b-y"} 2"#,
        ),
    ] {
        gives(query, 99, want).await;
    }
}

#[tokio::test]
async fn steps_start_at_the_start() {
    let query = RangeQuery { start_ns: 5 * SECOND, ..range(r#"sum(count_over_time({app="a"}[20s]))"#) };
    let Answer::Matrix(series) = Engine::new(Arc::new(store())).query_range(query).await.unwrap().value else {
        panic!()
    };
    assert_eq!(series[0].points, [(5 * SECOND, 1.0), (55 * SECOND, 2.0)]);
}

#[tokio::test]
async fn faulty_lines_fail_metrics_unless_filtered() {
    let faulty = r#"sum by (app) (count_over_time({env="prod"} | json [100s]))"#;
    fails(range(faulty), "pipeline error: 'JSONParserErr'").await;
    gives(r#"sum by (app) (count_over_time({env="prod"} | json | __error__="" [100s]))"#, 99, r#"{app="b"} 10"#).await;
    fails(range(r#"sum_over_time({app="b"} | json | unwrap path [100s])"#), "SampleExtractionErr").await;
    // What a query does not need is not read.
    gives(r#"sum(count_over_time({env="prod"} | json [100s]))"#, 99, "{} 20").await;
}

#[tokio::test]
async fn limits_are_named() {
    let limits = QueryLimits::default;
    for (query, limits, want) in [
        (r#"{app="a"}"#, QueryLimits { max_entries: 10, ..limits() }, "max entries limit per query exceeded"),
        (r#"{app="a"}"#, QueryLimits { max_bytes_read: 10, ..limits() }, "max_bytes_read (10 bytes allowed)"),
        (r#"{app="a"}"#, QueryLimits { timeout: Duration::ZERO, ..limits() }, "timeout (0ns allowed)"),
        (r#"{app="a"}"#, QueryLimits { max_memory_bytes: 100, ..limits() }, "max_memory (100 bytes allowed)"),
        (
            r#"count_over_time({app="a"}[1h])"#,
            QueryLimits { max_series: 5, ..limits() },
            "max_series (5 series allowed)",
        ),
        (
            r#"count_over_time({app="a"}[1h])"#,
            QueryLimits { max_memory_bytes: 100, ..limits() },
            "max_memory (100 bytes allowed)",
        ),
    ] {
        fails(RangeQuery { budget: budget(limits), ..range(query) }, want).await;
    }
    fails(RangeQuery { step_ns: 0, ..range("vector(1)") }, "zero or negative query resolution").await;
    fails(RangeQuery { step_ns: 1, ..range("vector(1)") }, "exceeded maximum resolution").await;
}

#[tokio::test]
async fn cancelled_queries_end() {
    let query = range(r#"{app="a"}"#);
    query.budget.cancel();
    let ended = Engine::new(Arc::new(store())).query_range(query).await;
    assert!(matches!(ended, Err(QueryError::Cancelled)), "{ended:?}");
}

/// A store whose client goes the moment it gets its first batch.
struct Leaving {
    store: MemoryStorage,
    seen: std::sync::OnceLock<Budget>,
}

#[async_trait::async_trait]
impl Storage for Leaving {
    async fn scan(&self, scan: Scan) -> Result<BatchStream, StorageError> {
        let budget = self.seen.get_or_init(|| scan.budget.without_place()).clone();
        let batches = self.store.scan(scan).await?;
        Ok(batches.inspect(move |_| budget.cancel()).boxed())
    }

    async fn series(&self, scan: Scan) -> Result<Vec<StreamLabels>, StorageError> {
        self.store.series(scan).await
    }

    async fn stats(&self, scan: Scan) -> Result<Vec<(StreamLabels, Stats)>, StorageError> {
        self.store.stats(scan).await
    }
}

#[tokio::test]
async fn work_on_a_batch_ends_soon_after_its_client() {
    let fields: Vec<String> = (0..9000).map(|i| format!(r#""field_{i}":"{i}""#)).collect();
    let line = format!("{{{}}}", fields.join(","));
    for query in [
        r#"{app="a"}"#,
        r#"{app="a"} | json"#,
        r#"{app="a"} |~ "f[a-z]+_8999.*7$""#,
        r#"{app="a"} | logfmt | line_format "{{.x}}""#,
        r#"sum(count_over_time({app="a"}[1h]))"#,
        r#"count_over_time({app="a"} | json | __error__="" [1h])"#,
        r#"max_over_time({app="a"} | json | unwrap field_8999 [1h])"#,
    ] {
        let mut store = MemoryStorage::new();
        for i in 0..50 {
            store.push(&[("app", "a")], i * SECOND, line.clone());
        }
        let whole = 50 * line.len() as u64;
        let leaving = Arc::new(Leaving { store, seen: Default::default() });
        let ended = Engine::new(Arc::clone(&leaving) as Arc<dyn Storage>).query_range(range(query)).await;
        assert!(matches!(ended, Err(QueryError::Cancelled)), "{query}: {ended:?}");
        let work = leaving.seen.get().unwrap().work();
        assert!(work < whole / 20, "{query}: {work} bytes of {whole} were looked at");
    }
}

#[tokio::test]
async fn lines_with_thousands_of_fields_take_time_in_proportion() {
    let mut store = MemoryStorage::new();
    for i in 0..20 {
        let fields: Vec<String> = (0..9000).map(|f| format!(r#""f{f}":{i}"#)).collect();
        store.push(&[("app", "a")], i * SECOND, format!("{{{}}}", fields.join(",")));
    }
    let query = range(r#"{app="a"} | json | f8999=`7`"#);
    let answered = Engine::new(Arc::new(store)).query_range(query).await.unwrap();
    let Answer::Streams(streams) = answered.value else { panic!() };
    assert_eq!((streams.len(), streams[0].labels.len()), (1, 9001));
}

#[tokio::test]
async fn max_series_counts_for_instant_queries_too() {
    for (max_series, want) in [(9, Some("max_series (9 series allowed)")), (10, None)] {
        let query = InstantQuery {
            tenant: "default".to_owned(),
            time_ns: 100 * SECOND,
            budget: budget(QueryLimits { max_series, ..QueryLimits::default() }),
            ..InstantQuery::new(millrace_logql::parse(r#"count_over_time({app="a"}[1h])"#).unwrap())
        };
        let error = Engine::new(Arc::new(store())).query_instant(query).await.err().map(|e| e.to_string());
        assert_eq!(error.is_some(), want.is_some(), "{error:?}");
        assert!(error.is_none_or(|e| e.contains(want.unwrap())));
    }
}

#[tokio::test]
async fn what_is_not_built_is_refused_by_name() {
    for (query, want) in [
        (r#"{app="a"} | xml"#, "the parser `xml` is not supported yet"),
        (r#"variants(count_over_time({app="a"}[5m])) of ({app="a"}[5m])"#, "`variants` is not supported yet"),
        (r#"{app="a"} | line_format "{{ now }}""#, "the template function `now` is not supported yet"),
    ] {
        fails(range(query), want).await;
    }
}

#[tokio::test]
async fn equal_ranges_are_scanned_once() {
    let store = Arc::new(store());
    let query = r#"sum(rate({app="a"}[1m])) / (sum(rate({app="a"}[1m])) + sum(rate({app="b"}[1m])))"#;
    Engine::new(Arc::clone(&store) as Arc<dyn millrace_logql::storage::Storage>)
        .query_range(range(query))
        .await
        .unwrap();
    assert_eq!(store.scans(), 2);
}
