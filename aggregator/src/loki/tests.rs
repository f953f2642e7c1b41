//! The API over a store in memory and a log in memory.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use millrace_log::clock::ManualClock;
use millrace_log::push::{DecodeBudget, loki_proto};
use millrace_log::record::{Event, Labels, Position, SourceId, Tenant};
use millrace_log::value::ByteSize;
use millrace_logql::Engine;
use millrace_logql::budget::{Budget, QueryLimits};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::*;
use crate::config::AggregatorConfig;
use crate::ingest::IngestConfig;
use crate::ingest::tests::{FakeLog, Running, start};
use crate::queries::{Capacity, Queries};
use millrace_index::logql::LogqlStorage;
use millrace_index::memory::MemoryStore;
use millrace_index::scan::{DamagedSplit, EventStore, Plan, RowBatch, RowStream, Stats, StorageError, StreamInfo};

/// Time of the server's clock.
const NOW: i64 = 1_772_370_000_000_000_000;

struct Server {
    router: axum::Router,
    store: Arc<MemoryStore>,
    hanging: Arc<Hanging>,
    shutdown: CancellationToken,
    budget: DecodeBudget,
    queries: Queries,
    log: Arc<FakeLog>,
    _ingest: Running,
}

fn server() -> Server {
    server_with(IngestConfig::default())
}

fn server_with(config: IngestConfig) -> Server {
    server_of(config, QueryLimits::default(), 16)
}

/// One query at once, half a second.
fn tight_server() -> Server {
    let limits = QueryLimits { timeout: Duration::from_millis(500), ..QueryLimits::default() };
    server_of(IngestConfig::default(), limits, 1)
}

fn server_of(config: IngestConfig, query: QueryLimits, max_concurrent: usize) -> Server {
    let store = Arc::new(MemoryStore::with_batches_of(3));
    let log = Arc::new(FakeLog::default());
    let ingest = start(Arc::clone(&log), 2, config);
    let engine = Arc::new(Engine::new(Arc::new(LogqlStorage(store.clone()))));
    let hanging = Arc::new(Hanging { store: store.clone(), asked: Mutex::new(None) });
    let shutdown = CancellationToken::new();
    let query = QueryLimits { max_entries: 100_000, max_series: 10_000, ..query };
    let queries = Queries::new(query.into(), Capacity::of(max_concurrent), shutdown.clone());
    let mut limits = LokiLimits::from(&AggregatorConfig::default());
    limits.max_body = 1 << 20;
    limits.max_body_decompressed = 2 << 20;
    limits.budget = DecodeBudget::new(16 << 20);
    let budget = limits.budget.clone();
    let state = LokiState::new(
        hanging.clone(),
        engine,
        Arc::clone(&ingest.ingest),
        ManualClock::at_ns(NOW),
        limits,
        queries.clone(),
    );
    Server { router: router(state).open_for_tests(), store, hanging, shutdown, queries, budget, log, _ingest: ingest }
}

/// The store, until it is told to answer no more.
struct Hanging {
    store: Arc<MemoryStore>,
    asked: Mutex<Option<oneshot::Sender<Budget>>>,
}

#[async_trait::async_trait]
impl EventStore for Hanging {
    async fn scan(&self, plan: Plan) -> Result<RowStream, StorageError> {
        self.store.scan(plan).await
    }

    async fn streams(&self, plan: Plan) -> Result<Vec<(StreamInfo, Stats)>, StorageError> {
        let asked = self.asked.lock().take();
        match asked {
            None => self.store.streams(plan).await,
            Some(asked) => {
                asked.send(plan.budget.without_place()).unwrap();
                std::future::pending().await
            }
        }
    }

    fn damaged(&self, _: &Tenant, start_ns: i64, end_ns: i64) -> Vec<DamagedSplit> {
        let broken = DamagedSplit { split: "0042".to_owned(), rows: 7, min_ns: 100, max_ns: 200 };
        if start_ns <= broken.max_ns && end_ns > broken.min_ns { vec![broken] } else { Vec::new() }
    }

    fn subscribe(&self) -> tokio::sync::broadcast::Receiver<Arc<(Tenant, RowBatch)>> {
        self.store.subscribe()
    }

    async fn caught_up(&self, at_most: Duration) -> Result<(), StorageError> {
        self.store.caught_up(at_most).await
    }
}

impl Server {
    /// The next request for streams never ends; hands out the budget of its plan.
    fn hang(&self) -> oneshot::Receiver<Budget> {
        let (asked, told) = oneshot::channel();
        *self.hanging.asked.lock() = Some(asked);
        told
    }

    async fn send(&self, request: Request<Body>) -> (StatusCode, String) {
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        self.send(Request::get(format!("/loki/api/v1{path}")).body(Body::empty()).unwrap()).await
    }

    async fn push(&self, kind: &str, encoding: &str, body: impl Into<Body>) -> (StatusCode, String) {
        let mut request = Request::post("/loki/api/v1/push").header("content-type", kind);
        if !encoding.is_empty() {
            request = request.header("content-encoding", encoding);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    /// What was pushed becomes searchable.
    fn index(&self) {
        self.store.put("logs", self.log.events().into_iter().map(|(_, event)| event));
    }
}

fn event(n: u64, labels: &[(&str, &str)], line: &str) -> Event {
    Event {
        tenant: Tenant::default(),
        time_ns: NOW - 1_000_000_000 * i64::try_from(n).unwrap(),
        labels: Labels::new(labels.iter().copied()),
        metadata: Labels::default(),
        line: Bytes::copy_from_slice(line.as_bytes()),
        source: SourceId([7; 16]),
        position: Position::at(n),
        doc: None,
        cut: false,
        time_from_line: true,
    }
}

const JSON_PUSH: &str = r#"{"streams":[{"stream":{"app":"api","env":"prod"},"values":[["1772369999000000001","one"],["1772369999000000002","two",{"trace":"x"}]]}]}"#;

#[tokio::test]
async fn pushes_that_take_more_memory_decoded_than_there_is_are_refused() {
    let server = server();
    let budget = &server.budget;
    let streams = snap::raw::Encoder::new().compress_vec(&b"\x0a\x00".repeat(500_000)).unwrap();
    assert!(streams.len() < 60_000);
    let json = format!("{{\"streams\":[{}]}}", vec!["{}"; 100_000].join(","));
    for (kind, body) in [("application/x-protobuf", streams), ("application/json", json.into_bytes())] {
        let (status, text) = server.push(kind, "", body).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{kind}: {text}");
        assert!(text.contains("16777216 are allowed (`limits.decode_memory`)"), "{kind}: {text}");
    }
    // Others have the memory at the moment.
    let mut taken = budget.begin();
    taken.grow(16 << 20).unwrap();
    let (status, text) = server.push("application/json", "", JSON_PUSH.as_bytes().to_vec()).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{text}");
    drop(taken);
    let (status, text) = server.push("application/json", "", JSON_PUSH.as_bytes().to_vec()).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "{text}");
    assert_eq!(budget.state().0, 0, "given back");
}

#[tokio::test]
async fn pushes_in_each_form_reach_the_log() {
    let gzip = {
        use std::io::Write as _;
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        out.write_all(JSON_PUSH.as_bytes()).unwrap();
        out.finish().unwrap()
    };
    let zstd = zstd::encode_all(JSON_PUSH.as_bytes(), 1).unwrap();
    let proto = {
        use prost::Message as _;
        let entry = |nanos, line: &str, metadata: &[(&str, &str)]| loki_proto::EntryAdapter {
            timestamp: Some(loki_proto::Timestamp { seconds: 1_772_369_999, nanos }),
            line: Bytes::copy_from_slice(line.as_bytes()),
            structured_metadata: metadata
                .iter()
                .map(|(n, v)| loki_proto::LabelPair { name: (*n).to_owned(), value: (*v).to_owned() })
                .collect(),
        };
        let stream = loki_proto::StreamAdapter {
            labels: r#"{env="prod", app="api"}"#.to_owned(),
            entries: vec![entry(1, "one", &[]), entry(2, "two", &[("trace", "x")])],
        };
        let plain = loki_proto::PushRequest { streams: vec![stream] }.encode_to_vec();
        snap::raw::Encoder::new().compress_vec(&plain).unwrap()
    };
    for (kind, encoding, body) in [
        ("application/json", "", JSON_PUSH.as_bytes().to_vec()),
        ("application/json; charset=utf-8", "gzip", gzip),
        ("application/json", "zstd", zstd),
        ("application/x-protobuf", "", proto.clone()),
        ("application/x-protobuf", "snappy", proto.clone()),
        ("", "", proto),
    ] {
        let server = server();
        assert_eq!(
            server.push(kind, encoding, body).await,
            (StatusCode::NO_CONTENT, String::new()),
            "{kind} {encoding}"
        );
        let got: Vec<_> =
            server.log.events().into_iter().map(|(_, e)| (e.labels, e.time_ns, e.line, e.metadata)).collect();
        let labels = Labels::new([("app", "api"), ("env", "prod")]);
        assert_eq!(
            got,
            [
                (labels.clone(), 1_772_369_999_000_000_001, Bytes::from("one"), Labels::default()),
                (labels, 1_772_369_999_000_000_002, Bytes::from("two"), Labels::new([("trace", "x")])),
            ],
            "{kind} {encoding}"
        );
    }
}

#[tokio::test]
async fn faulty_pushes_get_loki_s_texts_and_the_valid_part_is_kept() {
    let long = "x".repeat(60);
    let entry = |stream: &str, line: &str| {
        format!(r#"{{"streams":[{{"stream":{{{stream}}},"values":[["1","{line}"],["2","ok"]]}}]}}"#)
    };
    let many: Vec<String> = (0..16).map(|i| format!(r#""l{i}":"v""#)).collect();
    let config = IngestConfig { max_line: ByteSize(50), ..IngestConfig::default() };
    for (body, status, text, kept) in [
        (r#"{"streams":[]}"#.to_owned(), 422, "error at least one valid stream is required for ingestion", 0),
        (entry("", "a"), 400, "error at least one label pair is required per stream", 0),
        (
            entry(r#""a":"b""#, &long),
            400,
            r#"max entry size '50' bytes exceeded for stream '{a="b"}' while adding an entry with length '60' bytes"#,
            1,
        ),
        (entry(&many.join(","), "a"), 400, "has 16 label names; limit 15", 0),
        (entry(r#""a-b":"c""#, "a"), 400, "label name `a-b` is not of the form", 0),
        ("nonsense".to_owned(), 400, "body of the push is not as expected", 0),
    ] {
        let server = server_with(config.clone());
        let (got, answer) = server.push("application/json", "", body.clone()).await;
        assert_eq!(got.as_u16(), status, "{body}: {answer}");
        assert!(answer.contains(text), "{body}: {answer}");
        assert_eq!(server.log.events().len(), kept, "{body}");
    }
    let server = server();
    assert_eq!(server.push("application/json", "br", "x").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(server.push("application/json", "", vec![b' '; (1 << 20) + 1]).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let bomb = zstd::encode_all(&vec![b' '; 3 << 20][..], 1).unwrap();
    assert_eq!(server.push("application/json", "zstd", bomb).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let bomb = snap::raw::Encoder::new().compress_vec(&vec![0; 3 << 20]).unwrap();
    assert_eq!(server.push("application/x-protobuf", "", bomb).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn the_tenant_of_the_request_goes_with_its_events() {
    let server = server();
    let mut request = Request::post("/loki/api/v1/push")
        .header("content-type", "application/json")
        .body(Body::from(JSON_PUSH))
        .unwrap();
    request.extensions_mut().insert(Tenant::new("team-a").unwrap());
    assert_eq!(server.send(request).await.0, StatusCode::NO_CONTENT);
    assert!(server.log.events().iter().all(|(_, e)| e.tenant.as_str() == "team-a"));
    server.index();
    assert_eq!(server.get("/labels").await.1, r#"{"status":"success"}"#);
    let mut request = Request::get("/loki/api/v1/labels").body(Body::empty()).unwrap();
    request.extensions_mut().insert(Tenant::new("team-a").unwrap());
    assert_eq!(server.send(request).await.1, r#"{"status":"success","data":["app","env"]}"#);
}

#[tokio::test]
async fn labels_series_sizes_and_volumes() {
    let server = server();
    server.store.put(
        "logs",
        [
            event(30, &[("app", "api"), ("env", "prod")], "12345"),
            event(20, &[("app", "api"), ("env", "dev")], "123"),
            event(10, &[("app", "web"), ("env", "prod")], "1"),
            event(0, &[("app", "web"), ("env", "prod")], "at the end"),
            event(8 * 3600, &[("app", "old")], "before"),
        ],
    );
    for (path, want) in [
        ("/labels", r#"{"status":"success","data":["app","env"]}"#),
        ("/label", r#"{"status":"success","data":["app","env"]}"#),
        ("/label/app/values", r#"{"status":"success","data":["api","web"]}"#),
        ("/label/app/values?since=12h", r#"{"status":"success","data":["api","old","web"]}"#),
        ("/label/nope/values", r#"{"status":"success"}"#),
        (
            "/series?match[]={}&since=1m",
            r#"{"status":"success","data":[{"app":"api","env":"dev"},{"app":"api","env":"prod"},{"app":"web","env":"prod"}]}"#,
        ),
        ("/series?end=1", r#"{"status":"success","data":[]}"#),
        ("/index/stats", r#"{"streams":3,"chunks":3,"bytes":19,"entries":4}"#),
        (
            "/index/volume?query={}&targetLabels=app",
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"app":"web"},"value":[1772370000,"11"]},{"metric":{"app":"api"},"value":[1772370000,"8"]}]}}"#,
        ),
        (
            "/index/volume?query={}&aggregateBy=labels&limit=1",
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"app":""},"value":[1772370000,"19"]}]}}"#,
        ),
        (
            "/index/volume_range?query={}&targetLabels=env&start=1772369960&step=20s",
            r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"env":"prod"},"values":[[1772369979.999,"5"],[1772370000,"11"]]},{"metric":{"env":"dev"},"values":[[1772370000,"3"]]}]}}"#,
        ),
        (
            "/index/volume_range?query={}&end=5&step=1",
            r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#,
        ),
        ("/index/volume?aggregateBy=nonsense", "invalid aggregation option"),
        ("/detected_labels", r#"{"detectedLabels":[{"label":"app","cardinality":2},{"label":"env","cardinality":2}]}"#),
        ("/labels?start=zzz", "could not parse 'start' parameter: strconv.ParseInt: parsing \"zzz\": invalid syntax"),
    ] {
        assert_eq!(server.get(path).await.1, want, "{path}");
    }
    assert!(server.get("/status/buildinfo").await.1.contains("\"version\":\"3."));
    let flush = Request::post("/flush").body(Body::empty()).unwrap();
    assert_eq!(server.send(flush).await.0, StatusCode::NO_CONTENT);
}

mod confined;
mod conformance;
mod live;
mod several;

#[tokio::test]
async fn queries_over_what_was_pushed() {
    let server = server();
    assert_eq!(server.push("application/json", "", JSON_PUSH).await.0, StatusCode::NO_CONTENT);
    server.index();
    let range = |query: &str, more: &str| {
        let query: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
        format!("/query_range?query={query}&start=1772369990&end=1772370000{more}")
    };
    let data = async |path: &str| {
        let (status, body) = server.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        let mut body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert!(body["data"]["stats"]["summary"]["execTime"].is_number());
        let mut result = body["data"]["result"].take();
        // The order of streams says nothing.
        result.as_array_mut().unwrap().sort_by_key(ToString::to_string);
        result
    };
    assert_eq!(
        data(&range(r#"{app="api"}"#, "")).await,
        serde_json::json!([
            {"stream": {"app": "api", "env": "prod", "trace": "x"}, "values": [["1772369999000000002", "two"]]},
            {"stream": {"app": "api", "env": "prod"}, "values": [["1772369999000000001", "one"]]},
        ])
    );
    assert_eq!(
        data(&range(r#"{app="api"} |= "two" | trace="x""#, "&direction=forward&limit=1")).await,
        serde_json::json!([
            {"stream": {"app": "api", "env": "prod", "trace": "x"}, "values": [["1772369999000000002", "two"]]},
        ])
    );
    assert_eq!(
        data(&range(r#"sum by (app) (count_over_time({env="prod"}[10s]))"#, "&step=5s")).await,
        serde_json::json!([{"metric": {"app": "api"}, "values": [[1_772_370_000, "2"]]}])
    );
    assert_eq!(
        data("/query?query=vector(1)%2Bvector(1)&time=4000000000").await,
        serde_json::json!([{"metric": {}, "value": [4_000_000_000u64, "2"]}])
    );
    for (path, want) in [
        (
            range(r#"{app="api"}"#, "&limit=100001"),
            "max entries limit per query exceeded, limit > max_entries_limit_per_query (100001 > 100000)",
        ),
        (range("", ""), "parse error : syntax error: unexpected $end"),
        (
            format!("/query?query={}", "%7Bapp%3D%22api%22%7D"),
            "log queries are not supported as an instant query type, please change your query to a range query type",
        ),
        (
            "/query_range?query=%7Bapp%3D%22api%22%7D&start=2&end=1".to_owned(),
            "end timestamp must not be before or equal to start time",
        ),
    ] {
        assert_eq!(server.get(&path).await, (StatusCode::BAD_REQUEST, want.to_owned()), "{path}");
    }
}

#[tokio::test]
async fn answers_name_the_damaged_splits_that_they_lack() {
    let server = server();
    let query = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let (log, metric) = (query(r#"{app="api"}"#), query(r#"count_over_time({app="api"}[5m])"#));
    for (path, is_named) in [
        (format!("/query_range?query={log}&start=1970-01-01T00:00:00Z&end=1970-01-01T00:00:01Z"), true),
        (format!("/query_range?query={log}&start=1970-01-01T00:00:01Z&end=1970-01-01T00:00:02Z"), false),
        // A window reaches back to it.
        (format!("/query_range?query={metric}&start=1970-01-01T00:04:00Z&end=1970-01-01T00:05:00Z"), true),
        (format!("/query?query={metric}&time=1970-01-01T00:05:00Z"), true),
        (format!("/query?query={metric}&time=1970-01-01T00:05:01Z"), false),
    ] {
        let (status, body) = server.get(&path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        let named =
            answer["warnings"][0].as_str().is_some_and(|w| w.contains("split 0042 is damaged, missing or unreadable"));
        assert_eq!(named, is_named, "{path}: {body}");
    }
}
