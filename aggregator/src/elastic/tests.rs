//! The API from outside: requests through the router, over the index in memory and a log that is the index.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use millrace_log::client::{BatchProducer, ClientError};
use millrace_log::clock::ManualClock;
use millrace_log::record::{Decoder, Event, Labels, Position, Record, SourceId, Tenant, TopicPartition};
use millrace_logql::storage::QueryLimits;
use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt as _;

use super::ElasticState;
use crate::ingest::{Ingest, IngestConfig};
use crate::queries::{Capacity, Queries};
use millrace_index::docs::DocumentStore;
use millrace_index::memory::MemoryStore;

/// Budgets and bounds of requests.
mod budget;
/// Requests that name several tenants.
mod several;

/// Noon of 1 March 2026, what the clock says.
const NOW: &str = "2026-03-01T12:00:00Z";

/// A log whose records are searchable at once.
struct Straight {
    store: Arc<MemoryStore>,
    decoder: Mutex<Decoder>,
}

#[async_trait::async_trait]
impl BatchProducer for Straight {
    async fn send(&self, to: &TopicPartition, batch: Vec<Record>) -> Result<i64, ClientError> {
        let mut decoder = self.decoder.lock();
        let events: Vec<Event> = batch.iter().map(|record| decoder.decode(record).unwrap()).collect();
        self.store.put(&to.topic, events);
        Ok(0)
    }

    async fn ensure_topic(&self, _topic: &str, partitions: i32) -> Result<i32, ClientError> {
        Ok(partitions)
    }
}

struct Server {
    budget: millrace_log::push::DecodeBudget,
    router: axum::Router,
    store: Arc<MemoryStore>,
    queries: Queries,
    _run: AbortOnDropHandle<()>,
    _dir: tempfile::TempDir,
}

fn server() -> Server {
    let store = Arc::new(MemoryStore::with_batches_of(7));
    server_over(Arc::clone(&store) as _, store, 4, QueryLimits::default())
}

/// Asks `events`, writes to `store`.
fn server_over(
    events: Arc<dyn DocumentStore>,
    store: Arc<MemoryStore>,
    max_concurrent: usize,
    limits: QueryLimits,
) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let queries = Queries::new(limits.into(), Capacity::of(max_concurrent), CancellationToken::new());
    let producer = Arc::new(Straight { store: Arc::clone(&store), decoder: Mutex::default() });
    let clock = ManualClock::at_ns(super::time::parse(NOW).unwrap());
    let (ingest, run) = Ingest::open(
        dir.path(),
        producer,
        "push",
        2,
        Arc::clone(&clock) as _,
        IngestConfig::default(),
        &mut prometheus_client::registry::Registry::default(),
    )
    .unwrap();
    #[allow(clippy::disallowed_methods)] // A test; aborted when it ends.
    let run = AbortOnDropHandle::new(tokio::spawn(run.run(CancellationToken::new())));
    let budget = millrace_log::push::DecodeBudget::new(64 << 20);
    let state = ElasticState {
        store: events,
        ingest,
        accepted: Arc::default(),
        templates: Arc::default(),
        topics: ["logs".to_owned()].into(),
        clock,
        queries: queries.clone(),
        max_body: 64 << 20,
        max_body_decompressed: 64 << 20,
        budget: budget.clone(),
    };
    Server { router: super::router(state).open_for_tests(), store, queries, budget, _run: run, _dir: dir }
}

impl Server {
    async fn send(&self, request: Request<Body>) -> (u16, Value) {
        let answer = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.headers()["x-elastic-product"], "Elasticsearch");
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        let json = serde_json::from_slice(&body).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body)));
        assert!(status != StatusCode::INTERNAL_SERVER_ERROR, "{json}");
        (status.as_u16(), json)
    }

    /// `"POST /index/_search"` and a body.
    async fn ask(&self, what: &str, body: impl Into<Body>) -> (u16, Value) {
        let (method, path) = what.split_once(' ').unwrap();
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn search(&self, body: Value) -> Value {
        let (status, answer) = self.ask("POST /things/_search", body.to_string()).await;
        assert_eq!(status, 200, "{body}: {answer}");
        answer
    }

    async fn ids(&self, query: Value) -> Vec<String> {
        let answer = self.search(json!({"query": query, "sort": [{"n": "asc"}], "size": 100})).await;
        ids(&answer)
    }
}

fn ids(answer: &Value) -> Vec<String> {
    let hits = answer["hits"]["hits"].as_array().unwrap();
    hits.iter().map(|hit| hit["_id"].as_str().unwrap().to_owned()).collect()
}

/// Six documents that differ in what the tables ask.
async fn filled() -> Server {
    let server = server();
    let docs = [
        json!({"@timestamp": "2026-03-01T04:00:00.000Z", "n": 1, "level": "error", "message": "Connection refused by peer", "took": 1.5, "ok": true, "tags": ["a", "b"], "http": {"status": 500}}),
        json!({"@timestamp": "2026-03-01T04:30:00.000Z", "n": 2, "level": "info", "message": "connection accepted", "took": 10, "ok": false, "tags": "a", "http": {"status": 200}}),
        json!({"@timestamp": "2026-03-01T05:00:00.000Z", "n": 3, "level": "info", "message": "peer refused the connection", "took": 3, "http.status": 404}),
        json!({"@timestamp": "2026-03-01T05:00:00.000Z", "n": 4, "level": "warn", "message": "disk nearly full", "took": 100, "tags": []}),
        json!({"@timestamp": "2026-03-01T07:10:00.000Z", "n": 5, "level": "Error", "message": "naïve Größe 東京", "tags": ["b", "c"]}),
        json!({"@timestamp": "2026-03-02T00:00:00.000Z", "n": 6, "message": "connection refused by server", "level": null, "took": 2}),
    ];
    let mut body = String::new();
    for doc in docs {
        body.push_str(&format!("{}\n{doc}\n", json!({"create": {"_index": "things", "_id": doc["n"].to_string()}})));
    }
    let (status, answer) = server.ask("POST /_bulk", body).await;
    assert_eq!((status, &answer["errors"]), (200, &json!(false)), "{answer}");
    server
}

mod confined;

#[tokio::test]
async fn bodies_that_take_more_memory_decoded_than_there_is_are_refused() {
    let server = server();
    let items = "{\"index\":{\"_index\":\"things\"}}\n{}\n".repeat(60_000);
    let (status, answer) = server.ask("POST /_bulk", items).await;
    assert_eq!((status, &answer["error"]["type"]), (413, &Value::from("content_too_large_exception")), "{answer}");
    assert!(answer["error"]["reason"].as_str().unwrap().contains("limits.decode_memory"), "{answer}");
    let document = format!("{{\"a\":[{}]}}", vec!["[]"; 1_000_000].join(","));
    let (status, answer) = server.ask("POST /things/_doc", document).await;
    assert_eq!(status, 413, "{answer}");
    let (status, _) = server.ask("POST /things/_doc", "{\"a\":[[],[]]}").await;
    assert_eq!(status, 201);
}

#[tokio::test]
async fn bulk_answers_item_by_item() {
    let server = server();
    let doc = r#"{"message": "x"}"#;
    for (lines, want) in [
        (vec![r#"{"create": {"_index": "a", "_id": "1"}}"#, doc], vec![("create", 201, "created")]),
        (
            vec![
                r#"{"create": {"_index": "a", "_id": "1"}}"#,
                doc,
                r#"{"index": {"_index": "a", "_id": "1"}}"#,
                doc,
                r#"{"index": {"_index": "a", "_id": 7}}"#,
                doc,
            ],
            vec![
                ("create", 409, "version_conflict_engine_exception"),
                ("index", 200, "updated"),
                ("index", 201, "created"),
            ],
        ),
        (
            vec![
                r#"{"create": {"_index": "a", "_id": "2"}}"#,
                doc,
                r#"{"create": {"_index": "a", "_id": "2"}}"#,
                doc,
                r#"{"delete": {"_index": "a", "_id": "2"}}"#,
                r#"{"update": {"_index": "a", "_id": "2"}}"#,
                r#"{"doc": {}}"#,
                r#"{"create": {"_index": "millrace-logs"}}"#,
                doc,
                r#"{"create": {"_index": "UPPER"}}"#,
                doc,
                r#"{"create": {"_index": "a"}}"#,
                r#"["no object"]"#,
                r#"{"create": {"_index": "a"}}"#,
                r#"{"@timestamp": "yesterday"}"#,
            ],
            vec![
                ("create", 201, "created"),
                ("create", 409, "version_conflict_engine_exception"),
                ("delete", 400, "illegal_argument_exception"),
                ("update", 400, "illegal_argument_exception"),
                ("create", 400, "invalid_index_name_exception"),
                ("create", 400, "invalid_index_name_exception"),
                ("create", 400, "mapper_parsing_exception"),
                ("create", 400, "mapper_parsing_exception"),
            ],
        ),
    ] {
        let (status, answer) = server.ask("POST /_bulk?refresh=true", lines.join("\n") + "\n").await;
        assert_eq!(status, 200, "{answer}");
        let got: Vec<(String, u64, String)> = answer["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| {
                let (action, body) = item.as_object().unwrap().iter().next().unwrap();
                let said = body["result"].as_str().or(body["error"]["type"].as_str()).unwrap();
                (action.clone(), body["status"].as_u64().unwrap(), said.to_owned())
            })
            .collect();
        let want: Vec<_> = want.into_iter().map(|(a, s, r)| (a.to_owned(), s, r.to_owned())).collect();
        assert_eq!(got, want, "{answer}");
        assert_eq!(answer["errors"], want.iter().any(|(_, status, _)| *status >= 300), "{answer}");
    }
}

#[tokio::test]
async fn bulk_bodies_that_are_none_are_refused_as_a_whole() {
    let server = server();
    for (body, want) in [
        ("", "parse_exception"),
        ("\n", "parse_exception"),
        ("{\"create\": {\"_index\": \"a\"}}\n{}", "illegal_argument_exception"),
        ("{\"create\": {\"_index\": \"a\"}}\n", "illegal_argument_exception"),
        ("{\"create\": {}}\n{}\n", "action_request_validation_exception"),
        ("{\"nonsense\": {\"_index\": \"a\"}}\n{}\n", "illegal_argument_exception"),
        ("{}\n{}\n", "illegal_argument_exception"),
        ("nonsense\n", "illegal_argument_exception"),
    ] {
        let (status, answer) = server.ask("POST /_bulk", body).await;
        assert_eq!((status, answer["error"]["type"].as_str()), (400, Some(want)), "{body:?}: {answer}");
    }
    assert_eq!(server.ask("GET /_count", "").await.1["count"], 0);
}

#[tokio::test]
async fn single_documents_come_back() {
    let server = server();
    for (what, body, want) in [
        ("PUT /a/_doc/1", r#"{"v": 1}"#, (201, "created")),
        ("PUT /a/_doc/1", "{\n \"v\": 2\n}", (200, "updated")),
        ("PUT /a/_create/2", r#"{"v": 3}"#, (201, "created")),
        ("POST /a/_doc", r#"{"v": 4}"#, (201, "created")),
    ] {
        let (status, answer) = server.ask(what, body).await;
        assert_eq!((status, answer["result"].as_str().unwrap()), want, "{what}: {answer}");
    }
    for (what, status, kind) in [
        ("PUT /a/_create/2", 409, "version_conflict_engine_exception"),
        ("PUT /a/_doc/1?op_type=create", 409, "version_conflict_engine_exception"),
        ("PUT /millrace-x/_doc/1", 400, "invalid_index_name_exception"),
    ] {
        let answer = server.ask(what, "{}").await;
        assert_eq!((answer.0, answer.1["error"]["type"].as_str()), (status, Some(kind)), "{what}: {}", answer.1);
    }
    let (status, found) = server.ask("GET /a/_doc/1", "").await;
    assert_eq!((status, &found["_source"], &found["found"]), (200, &json!({"v": 2}), &json!(true)));
    assert_eq!(server.ask("GET /a/_source/1", "").await, (200, json!({"v": 2})));
    assert_eq!(server.ask("GET /a/_source/9", "").await.0, 404);
    assert_eq!(server.ask("GET /absent/_doc/9", "").await.0, 404);
    let (status, found) = server.ask("GET /a/_doc/9", "").await;
    assert_eq!((status, &found["found"]), (404, &json!(false)));
    assert_eq!(server.ask("GET /a/_count", "").await.1["count"], 3);
}

#[tokio::test]
async fn compressed_bodies_are_read() {
    let server = server();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"{\"index\": {}}\n{\"v\": 1}\n").unwrap();
    let request = Request::post("/a/_bulk").header("content-encoding", "gzip").body(Body::from(gzip.finish().unwrap()));
    let (status, answer) = server.send(request.unwrap()).await;
    assert_eq!((status, &answer["errors"]), (200, &json!(false)), "{answer}");
    assert_eq!(server.ask("GET /a/_count", "").await.1["count"], 1);
}

#[tokio::test]
async fn bodies_are_decompressed_within_limits_and_the_memory_that_all_share() {
    let server = server();
    let gzip = |bytes: usize| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"{}").unwrap();
        gzip.write_all(&vec![b' '; bytes]).unwrap();
        gzip.finish().unwrap()
    };
    let ask = async |path: &str, encoding: &str, body: Vec<u8>| {
        let request =
            Request::post(path).header("content-encoding", encoding).header("content-type", "application/json");
        let (status, answer) = server.send(request.body(Body::from(body)).unwrap()).await;
        let text = answer["error"]["reason"].as_str().unwrap_or_default().to_owned();
        (status, answer["error"]["type"].as_str().unwrap_or_default().to_owned(), text)
    };
    let wants = |got: (u16, String, String), status: u16, kind: &str, text: &str| {
        assert!(
            (got.0, got.1.as_str()) == (status, kind) && got.2.contains(text),
            "{got:?}, not {status} {kind} {text}"
        );
    };
    const LARGE: &str = "content_too_large_exception";
    let whole: Vec<u8> = [b"{}".as_slice(), &vec![b' '; 5 << 20]].concat();
    for (path, encoding, body, status, kind, text) in [
        ("/_search", "gzip", gzip(1 << 20), 200, "", ""),
        ("/_search", "gzip", gzip(5 << 20), 413, LARGE, "4194304 are allowed (the limit of searches)"),
        ("/_search", "identity", whole, 413, LARGE, "4194304 are allowed (the limit of searches)"),
        ("/a,b/_count", "gzip", gzip(5 << 20), 413, LARGE, "(the limit of searches)"),
        ("/_msearch", "gzip", gzip(17 << 20), 413, LARGE, "16777216 are allowed (the limit of multi-searches)"),
        (
            "/_search",
            "gzip",
            format!("[{}1]", "1,".repeat(1 << 20)).into_bytes(),
            400,
            "parse_exception",
            "decompressed",
        ),
        (
            "/_search",
            "identity",
            format!("[{}1]", "1,".repeat(1_500_000)).into_bytes(),
            413,
            LARGE,
            "`limits.decode_memory`",
        ),
        ("/a/_bulk", "gzip", gzip(65 << 20), 413, LARGE, "`limits.decode_memory`"),
        ("/a/_bulk", "br", gzip(1), 415, "media_type_header_exception", "[br]"),
        ("/_search", "snappy", gzip(1), 415, "media_type_header_exception", "[snappy]"),
    ] {
        wants(ask(path, encoding, body).await, status, kind, text);
    }
    let mut others = server.budget.begin();
    others.grow(63 << 20).unwrap();
    for path in ["/_search", "/_msearch", "/a/_count", "/a/_bulk", "/a/_doc"] {
        wants(ask(path, "gzip", gzip(3 << 20)).await, 429, "circuit_breaking_exception", "`limits.decode_memory`");
    }
    drop(others);
    assert_eq!(server.budget.state().0, 0, "all of it is given back");
}

#[tokio::test]
async fn queries_find_what_they_say() {
    let server = filled().await;
    for (query, want) in [
        (json!({"match_all": {}}), "1 2 3 4 5 6"),
        (json!({"match_none": {}}), ""),
        (json!({"term": {"level": "error"}}), "1"),
        (json!({"term": {"level.keyword": {"value": "error", "case_insensitive": true}}}), "1 5"),
        (json!({"term": {"http.status": 404}}), "3"),
        (json!({"term": {"http.status": "500"}}), "1"),
        (json!({"term": {"ok": true}}), "1"),
        (json!({"term": {"tags": "b"}}), "1 5"),
        (json!({"terms": {"level": ["info", "warn"]}}), "2 3 4"),
        (json!({"ids": {"values": ["2", "9"]}}), "2"),
        (json!({"range": {"took": {"gte": 3, "lt": 100}}}), "2 3"),
        (json!({"range": {"@timestamp": {"gte": "now-8h", "lte": "now-7h"}}}), "1 2 3 4"),
        (json!({"range": {"@timestamp": {"gt": "2026-03-01T05:00:00Z"}}}), "5 6"),
        (json!({"range": {"@timestamp": {"lt": "now/d"}}}), ""),
        (json!({"range": {"@timestamp": {"lte": "now/d"}}}), "1 2 3 4 5"),
        (json!({"range": {"@timestamp": {"gte": "2026-03-01", "lte": "2026-03-01"}}}), "1 2 3 4 5"),
        (
            json!({"range": {"@timestamp": {"gte": "2026-03-01T06:00", "lt": "2026-03-01T07:00", "time_zone": "+01:00"}}}),
            "3 4",
        ),
        (
            json!({"range": {"@timestamp": {"gte": 1772341200000_i64, "lte": "1772341200000", "format": "epoch_millis"}}}),
            "3 4",
        ),
        (json!({"match": {"message": "refused peer"}}), "1 3 6"),
        (json!({"match": {"message": {"query": "Refused PEER", "operator": "and"}}}), "1 3"),
        (json!({"match": {"message": {"query": "refused peer by", "minimum_should_match": 2}}}), "1 3 6"),
        (json!({"match": {"message": {"query": "refused peer by", "minimum_should_match": "-1"}}}), "1 3 6"),
        (json!({"match": {"message": "größe"}}), "5"),
        (json!({"match_phrase": {"message": "connection refused"}}), "1 6"),
        (json!({"match_phrase_prefix": {"message": "connection ref"}}), "1 6"),
        (json!({"multi_match": {"query": "warn disk", "fields": ["level", "message^2"]}}), "4"),
        (json!({"exists": {"field": "took"}}), "1 2 3 4 6"),
        (json!({"exists": {"field": "tags"}}), "1 2 5"),
        (json!({"exists": {"field": "http"}}), "1 2 3"),
        (json!({"exists": {"field": "level"}}), "1 2 3 4 5"),
        (json!({"prefix": {"level": "e"}}), "1"),
        (json!({"wildcard": {"level": {"value": "?rr*", "case_insensitive": true}}}), "1 5"),
        (json!({"regexp": {"level": "in.o|warn"}}), "2 3 4"),
        (json!({"dis_max": {"queries": [{"term": {"n": 1}}, {"term": {"n": 4}}]}}), "1 4"),
        (json!({"query_string": {"query": "*:*"}}), "1 2 3 4 5 6"),
        (json!({"match": {"message": {"query": "!!!", "zero_terms_query": "all"}}}), "1 2 3 4 5 6"),
        (json!({"simple_query_string": {"query": "disk -refused"}}), "2 4 5"),
        (json!({"constant_score": {"filter": {"term": {"level": "warn"}}}}), "4"),
        (json!({"bool": {}}), "1 2 3 4 5 6"),
        (
            json!({"bool": {"must": [{"match": {"message": "connection"}}], "must_not": {"term": {"level": "info"}}}}),
            "1 6",
        ),
        (json!({"bool": {"should": [{"term": {"n": 1}}, {"term": {"n": 2}}]}}), "1 2"),
        (json!({"bool": {"filter": [{"term": {"level": "info"}}], "should": [{"term": {"n": 2}}]}}), "2 3"),
        (
            json!({"bool": {"filter": [{"term": {"level": "info"}}], "should": [{"term": {"n": 2}}], "minimum_should_match": 1}}),
            "2",
        ),
        (json!({"query_string": {"query": "level:info AND message:refused"}}), "3"),
        (json!({"query_string": {"query": "connection -level:info"}}), "1 6"),
        (json!({"query_string": {"query": "\"connection refused\" OR disk"}}), "1 4 6"),
        (json!({"query_string": {"query": "took:[3 TO 10]"}}), "2 3"),
        (json!({"query_string": {"query": "took:{3 TO 10]"}}), "2"),
        (json!({"query_string": {"query": "took:>=10 AND NOT _exists_:ok"}}), "4"),
        (json!({"query_string": {"query": "level:(info OR warn)"}}), "2 3 4"),
        (json!({"query_string": {"query": "level:w*"}}), "4"),
        (json!({"query_string": {"query": "*"}}), "1 2 3 4 5 6"),
        (json!({"query_string": {"query": "refused peer", "default_operator": "AND"}}), "1 3"),
        (json!({"simple_query_string": {"query": "disk | accepted", "fields": ["message"]}}), "2 4"),
        (json!({"simple_query_string": {"query": "(((\"", "fields": ["message"]}}), ""),
    ] {
        assert_eq!(server.ids(query.clone()).await.join(" "), want, "{query}");
    }
}

#[tokio::test]
async fn hits_are_sorted_cut_and_filtered() {
    let server = filled().await;
    for (body, want) in [
        (json!({"sort": [{"@timestamp": "desc"}, {"n": "asc"}]}), "6 5 3 4 2 1"),
        (json!({"sort": [{"took": "asc"}]}), "1 6 3 2 4 5"),
        (json!({"sort": [{"took": {"order": "desc", "missing": "_first"}}]}), "5 4 2 3 6 1"),
        (json!({"sort": ["level", {"n": {"order": "desc"}}]}), "5 1 3 2 4 6"),
        (json!({"sort": ["n"], "from": 2, "size": 3}), "3 4 5"),
        (json!({"sort": ["n"], "from": 5, "size": 3}), "6"),
        (json!({"sort": ["n"], "size": 0}), ""),
        (json!({"sort": [{"n": "asc"}], "search_after": [4]}), "5 6"),
        (json!({"sort": [{"n": "desc"}], "search_after": [4]}), "3 2 1"),
        (json!({"sort": [{"took": {"order": "asc", "missing": 4}}]}), "1 6 3 5 2 4"),
        (json!({"sort": ["n"], "post_filter": {"term": {"level": "info"}}}), "2 3"),
        (json!({"sort": [{"tags": "asc"}, "n"], "size": 2}), "1 2"),
        (json!({"sort": [{"tags": "desc"}, "n"], "size": 2}), "5 1"),
    ] {
        assert_eq!(ids(&server.search(body.clone()).await).join(" "), want, "{body}");
    }
    for (body, want) in [
        (json!({"_source": false}), json!(null)),
        (json!({"_source": "http.*"}), json!({"http": {"status": 500}})),
        (json!({"_source": ["n", "http"]}), json!({"n": 1, "http": {"status": 500}})),
        (
            json!({"_source": {"excludes": ["@timestamp", "message", "t*", "http.status", "ok"]}}),
            json!({"n": 1, "level": "error", "http": {}}),
        ),
    ] {
        let mut asked = body.clone();
        asked["query"] = json!({"term": {"n": 1}});
        assert_eq!(server.search(asked).await["hits"]["hits"][0]["_source"], want, "{body}");
    }
    let found = server
        .search(json!({"query": {"term": {"n": 1}}, "fields": ["took", "tags", "ok", "absent"], "_source": false}))
        .await;
    assert_eq!(found["hits"]["hits"][0]["fields"], json!({"took": [1.5], "tags": ["a", "b"], "ok": [true]}));
    for (track, want) in [
        (json!(true), json!({"value": 6, "relation": "eq"})),
        (json!(6), json!({"value": 6, "relation": "eq"})),
        (json!(2), json!({"value": 2, "relation": "gte"})),
        (json!(false), json!(null)),
    ] {
        let found = server.search(json!({"track_total_hits": track, "size": 1})).await;
        assert_eq!(found["hits"]["total"], want, "{track}");
    }
}

#[tokio::test]
async fn search_after_pages_through_ties_exactly_once() {
    let server = server();
    let mut body = String::new();
    for n in 0..103 {
        // Ten documents share each time.
        let doc = json!({"@timestamp": format!("2026-03-01T04:{:02}:00Z", n / 10), "n": n});
        body.push_str(&format!("{}\n{doc}\n", json!({"index": {"_index": "things", "_id": format!("id{n:03}")}})));
    }
    server.ask("POST /_bulk", body).await;
    for (direction, size) in [("asc", 7), ("desc", 7), ("asc", 10), ("desc", 1)] {
        let mut after = Value::Null;
        let mut all = Vec::new();
        loop {
            let mut asked = json!({"size": size, "sort": [{"@timestamp": direction}, {"_id": direction}]});
            if !after.is_null() {
                asked["search_after"] = after.clone();
            }
            let answer = server.search(asked).await;
            assert_eq!(answer["hits"]["total"]["value"], 103, "the total is that of the query, not of the page");
            let page = ids(&answer);
            let Some(last) = answer["hits"]["hits"].as_array().unwrap().last() else { break };
            after = last["sort"].clone();
            all.extend(page);
        }
        let mut want: Vec<String> = (0..103).map(|n| format!("id{n:03}")).collect();
        if direction == "desc" {
            want.reverse();
        }
        assert_eq!(all, want, "{direction} {size}");
    }
}

/// Pages through everything by `search_after`; ids in the order of the pages.
async fn paged(server: &Server, index: &str, sort: &Value, size: usize, track: bool) -> Vec<String> {
    let mut after = Value::Null;
    let mut all = Vec::new();
    loop {
        let mut asked = json!({"size": size, "sort": sort, "track_total_hits": track});
        if !after.is_null() {
            asked["search_after"] = after.clone();
        }
        let (status, answer) = server.ask(&format!("POST /{index}/_search"), asked.to_string()).await;
        assert_eq!(status, 200, "{asked}: {answer}");
        let Some(last) = answer["hits"]["hits"].as_array().unwrap().last() else { return all };
        after = last["sort"].clone();
        all.extend(ids(&answer));
    }
}

#[tokio::test]
async fn the_order_of_the_index_breaks_ties_without_losing_rows() {
    let server = server();
    let mut body = String::new();
    for n in 0..300 {
        // A hundred share each time, others differ by less than a float of nanoseconds can tell, some have no time.
        let mut doc = json!({"@timestamp": format!("2026-03-01T04:00:0{}Z", n % 3), "level": "info", "n": n});
        if n % 7 == 0 {
            doc["@timestamp"] = json!(format!("2026-03-01T04:00:01.00000000{}Z", n % 9));
        }
        if n % 11 == 0 {
            doc.as_object_mut().unwrap().remove("@timestamp");
        }
        body.push_str(&format!("{}\n{doc}\n", json!({"index": {"_index": "things", "_id": format!("id{n:03}")}})));
    }
    server.ask("POST /_bulk", body).await;
    let line = |n: u64| Event {
        tenant: Tenant::default(),
        time_ns: 1_772_366_400_000_000_000 + i64::try_from(n % 2).unwrap(),
        labels: Labels::new([("app", "shop")]),
        metadata: Labels::default(),
        line: Bytes::from(format!("line {n}")),
        source: SourceId([u8::try_from(n % 3).unwrap(); 16]),
        position: Position { offset: n / 6, sub: u32::try_from(n % 6).unwrap() },
        doc: None,
        cut: false,
        time_from_line: true,
    };
    server.store.put("logs", (0..200).map(line));
    for (index, count) in [("things", 300), ("millrace-logs", 200), ("*", 500)] {
        for sort in [
            json!(["_doc"]),
            json!([{"_doc": "desc"}]),
            json!(["_shard_doc"]),
            json!([{"@timestamp": "desc"}, "_doc"]),
            json!([{"@timestamp": "desc"}, {"_doc": "desc"}]),
            json!([{"@timestamp": "asc"}, {"_shard_doc": "asc"}]),
            json!(["level", "_doc"]),
            json!(["_score", {"_shard_doc": "desc"}]),
        ] {
            for (size, track) in [(7, false), (64, true)] {
                let mut found = paged(&server, index, &sort, size, track).await;
                assert_eq!(found.len(), count, "{index} {sort} {size}");
                found.sort();
                found.dedup();
                assert_eq!(found.len(), count, "{index} {sort} {size}: some came twice");
            }
        }
    }
    // What is no place of the index is an error, never a guess.
    for after in [json!([5]), json!([null]), json!(["x"]), json!(["1:2:3:4"])] {
        let asked = json!({"sort": ["_doc"], "search_after": after});
        let (status, answer) = server.ask("POST /things/_search", asked.to_string()).await;
        assert_eq!((status, answer["error"]["type"].as_str()), (400, Some("illegal_argument_exception")), "{answer}");
    }
}

#[tokio::test]
async fn whole_numbers_beyond_doubles_are_told_apart() {
    let server = server();
    // Snowflake ids: neighbours are the same as doubles.
    let numbers: Vec<u64> = (0..40).map(|n| (1 << 60) + n).chain((0..10).map(|n| u64::MAX - n)).collect();
    let mut body = String::new();
    for n in &numbers {
        body.push_str(&format!("{}\n{{\"n\": {n}}}\n", json!({"index": {"_index": "things", "_id": n.to_string()}})));
    }
    server.ask("POST /_bulk", body).await;
    let mut want: Vec<String> = numbers.iter().map(u64::to_string).collect();
    want.sort_by_key(|n| n.parse::<u64>().unwrap());
    for (sort, want) in [("asc", want.clone()), ("desc", want.iter().rev().cloned().collect())] {
        for size in [1, 7] {
            assert_eq!(paged(&server, "things", &json!([{"n": sort}]), size, true).await, want, "{sort} {size}");
        }
    }
    let n = (1u64 << 60) + 7;
    for (query, hits) in [
        (json!({"term": {"n": n}}), 1),
        (json!({"terms": {"n": [n, n + 1, 5]}}), 2),
        (json!({"range": {"n": {"gt": n, "lte": n + 3}}}), 3),
        (json!({"range": {"n": {"gte": u64::MAX}}}), 1),
        (json!({"query_string": {"query": format!("n:{n}")}}), 1),
    ] {
        let (_, answer) = server.ask("POST /things/_count", json!({"query": query}).to_string()).await;
        assert_eq!(answer["count"], hits, "{query}");
    }
    let asked = json!({"size": 0, "aggs": {"by": {"terms": {"field": "n", "size": 100}}, "c": {"cardinality": {"field": "n"}}}});
    let (_, answer) = server.ask("POST /things/_search", asked.to_string()).await;
    let keys: Vec<u64> = answer["aggregations"]["by"]["buckets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b["key"].as_u64().unwrap())
        .collect();
    assert_eq!((keys.len(), keys.first(), &answer["aggregations"]["c"]["value"]), (50, Some(&(1 << 60)), &json!(50)));
}

#[tokio::test]
async fn each_index_has_its_own_fields() {
    let server = server();
    let mut body = String::new();
    for (index, id, doc) in [
        ("orders", "1", json!({"amount": 3, "note": "x"})),
        ("visits", "1", json!({"path": "/", "note": 5})),
        ("empty-of-fields", "1", json!({})),
    ] {
        body.push_str(&format!("{}\n{doc}\n", json!({"index": {"_index": index, "_id": id}})));
    }
    server.ask("POST /_bulk", body).await;
    // Later than all of them: the newest documents of all are of one index.
    let mut busy = String::new();
    for n in 0..2500 {
        busy.push_str(&format!("{}\n{{\"busy\": {n}}}\n", json!({"index": {"_index": "busy", "_id": n.to_string()}})));
    }
    server.ask("POST /_bulk", busy).await;
    let (_, mappings) = server.ask("GET /*/_mapping", "").await;
    for (index, want) in [
        ("orders", json!({"amount": {"type": "long"}, "note": {"type": "keyword"}})),
        ("visits", json!({"path": {"type": "keyword"}, "note": {"type": "long"}})),
        ("empty-of-fields", json!({})),
        ("busy", json!({"busy": {"type": "long"}})),
    ] {
        assert_eq!(mappings[index]["mappings"]["properties"], want, "{index}: {mappings}");
    }
    let (_, caps) = server.ask("GET /orders,visits/_field_caps?fields=note,path", "").await;
    assert_eq!(caps["fields"]["note"]["keyword"]["indices"], json!(["orders"]), "{caps}");
    assert_eq!(caps["fields"]["note"]["long"]["indices"], json!(["visits"]), "{caps}");
    assert_eq!(caps["fields"]["path"]["keyword"]["type"], "keyword", "{caps}");
}

#[tokio::test]
async fn commands_that_do_not_exist_have_no_handler() {
    let server = filled().await;
    for what in [
        "GET /_nonsense",
        "POST /_nonsense/_search",
        "GET /_license",
        "GET /_ml/_search",
        "PUT /_ingest/_doc/1",
        "POST /_nonsense/_bulk",
        "POST /things/_nonsense/x/y",
    ] {
        let (method, path) = what.split_once(' ').unwrap();
        let (status, answer) = server.ask(what, "{}").await;
        let want = format!("no handler found for uri [{path}] and method [{method}]");
        assert_eq!((status, &answer["error"]), (400, &json!(want)), "{what}: {answer}");
    }
    assert_eq!(server.ask("GET /_all/_count", "").await.1["count"], 6);
}

#[tokio::test]
async fn aggregations_count_and_measure() {
    let server = filled().await;
    for (agg, want) in [
        (
            json!({"terms": {"field": "level"}}),
            json!({"doc_count_error_upper_bound": 0, "sum_other_doc_count": 0, "buckets": [
                {"key": "info", "doc_count": 2}, {"key": "Error", "doc_count": 1}, {"key": "error", "doc_count": 1}, {"key": "warn", "doc_count": 1}]}),
        ),
        (
            json!({"terms": {"field": "tags", "size": 1, "missing": "none"}}),
            json!({"doc_count_error_upper_bound": 0, "sum_other_doc_count": 5, "buckets": [{"key": "none", "doc_count": 3}]}),
        ),
        (
            json!({"terms": {"field": "level", "order": {"t": "desc"}, "size": 2}, "aggs": {"t": {"max": {"field": "took"}}}}),
            json!({"doc_count_error_upper_bound": 0, "sum_other_doc_count": 2, "buckets": [
                {"key": "warn", "doc_count": 1, "t": {"value": 100.0}}, {"key": "info", "doc_count": 2, "t": {"value": 10.0}}]}),
        ),
        (
            json!({"date_histogram": {"field": "@timestamp", "fixed_interval": "1h", "min_doc_count": 1}, "aggs": {"s": {"sum": {"field": "took"}}}}),
            json!({"buckets": [
                {"key_as_string": "2026-03-01T04:00:00.000Z", "key": 1772337600000_i64, "doc_count": 2, "s": {"value": 11.5}},
                {"key_as_string": "2026-03-01T05:00:00.000Z", "key": 1772341200000_i64, "doc_count": 2, "s": {"value": 103.0}},
                {"key_as_string": "2026-03-01T07:00:00.000Z", "key": 1772348400000_i64, "doc_count": 1, "s": {"value": 0.0}},
                {"key_as_string": "2026-03-02T00:00:00.000Z", "key": 1772409600000_i64, "doc_count": 1, "s": {"value": 2.0}}]}),
        ),
        (
            json!({"date_histogram": {"field": "@timestamp", "calendar_interval": "day", "time_zone": "America/New_York"}}),
            json!({"buckets": [
                {"key_as_string": "2026-02-28T00:00:00.000-05:00", "key": 1772254800000_i64, "doc_count": 2},
                {"key_as_string": "2026-03-01T00:00:00.000-05:00", "key": 1772341200000_i64, "doc_count": 4}]}),
        ),
        (
            json!({"date_histogram": {"field": "@timestamp", "calendar_interval": "month", "extended_bounds": {"min": "2026-02-01", "max": "2026-04-02"}, "format": "epoch_millis"}}),
            json!({"buckets": [
                {"key_as_string": "1769904000000", "key": 1769904000000_i64, "doc_count": 0},
                {"key_as_string": "1772323200000", "key": 1772323200000_i64, "doc_count": 6},
                {"key_as_string": "1775001600000", "key": 1775001600000_i64, "doc_count": 0}]}),
        ),
        (
            json!({"filters": {"filters": {"bad": {"match": {"level": "error"}}, "all": {"match_all": {}}}}}),
            json!({"buckets": {"bad": {"doc_count": 2}, "all": {"doc_count": 6}}}),
        ),
        (
            json!({"filter": {"exists": {"field": "ok"}}, "aggs": {"m": {"min": {"field": "took"}}}}),
            json!({"doc_count": 2, "m": {"value": 1.5}}),
        ),
        (json!({"missing": {"field": "level"}}), json!({"doc_count": 1})),
        (
            json!({"range": {"field": "took", "ranges": [{"to": 3}, {"from": 3, "to": 100}, {"from": 100, "key": "slow"}]}}),
            json!({"buckets": [{"key": "*-3.0", "to": 3.0, "doc_count": 2}, {"key": "3.0-100.0", "from": 3.0, "to": 100.0, "doc_count": 2}, {"key": "slow", "from": 100.0, "doc_count": 1}]}),
        ),
        (
            json!({"histogram": {"field": "http.status", "interval": 100}}),
            json!({"buckets": [{"key": 200.0, "doc_count": 1}, {"key": 300.0, "doc_count": 0}, {"key": 400.0, "doc_count": 1}, {"key": 500.0, "doc_count": 1}]}),
        ),
        (
            json!({"histogram": {"field": "took", "interval": 5, "offset": 1, "missing": 7, "keyed": true, "hard_bounds": {"min": 1, "max": 50}}}),
            json!({"buckets": {"1.0": {"key": 1.0, "doc_count": 3}, "6.0": {"key": 6.0, "doc_count": 2}}}),
        ),
        (
            json!({"histogram": {"field": "absent", "interval": 10, "extended_bounds": {"min": 5, "max": 12}}}),
            json!({"buckets": [{"key": 0.0, "doc_count": 0}, {"key": 10.0, "doc_count": 0}]}),
        ),
        (
            json!({"date_histogram": {"field": "@timestamp", "fixed_interval": "1h", "hard_bounds": {"min": "2026-03-01T04:40", "max": "2026-03-01T05:30"}}}),
            json!({"buckets": [
                {"key_as_string": "2026-03-01T04:00:00.000Z", "key": 1772337600000_i64, "doc_count": 2},
                {"key_as_string": "2026-03-01T05:00:00.000Z", "key": 1772341200000_i64, "doc_count": 2}]}),
        ),
        (
            json!({"cardinality": {"field": "level", "missing": "none"}, "meta": {"x": 1}}),
            json!({"value": 5, "meta": {"x": 1}}),
        ),
        (json!({"percentiles": {"field": "took", "percents": [50]}}), json!({"values": {"50.0": 3.0}})),
        (json!({"cardinality": {"field": "tags"}}), json!({"value": 3})),
        (json!({"value_count": {"field": "tags"}}), json!({"value": 5})),
        (json!({"avg": {"field": "absent"}}), json!({"value": null})),
        (json!({"stats": {"field": "took"}}), json!({"count": 5, "min": 1.5, "max": 100.0, "avg": 23.3, "sum": 116.5})),
    ] {
        let answer = server.search(json!({"size": 0, "aggs": {"a": agg}})).await;
        assert_eq!(answer["aggregations"]["a"], want, "{agg}");
        assert_eq!(answer["hits"]["total"]["value"], 6);
    }
}

#[tokio::test]
async fn several_searches_answer_one_by_one() {
    let server = filled().await;
    let body = "{\"index\": \"things\"}\n{\"size\": 0}\n{\"index\": [\"absent\"]}\n{}\n{\"index\": \"absent\", \"ignore_unavailable\": true}\n{}\n{}\n{\"query\": {\"term\": {\"n\": 1}}}\n";
    let (status, answer) = server.ask("POST /_msearch", body).await;
    assert_eq!(status, 200);
    let all = answer["responses"].as_array().unwrap();
    let said: Vec<_> =
        all.iter().map(|a| (a["status"].as_u64().unwrap(), a["hits"]["total"]["value"].as_u64())).collect();
    assert_eq!(said, [(200, Some(6)), (404, None), (200, Some(0)), (200, Some(1))]);
    assert_eq!(all[1]["error"]["type"], "index_not_found_exception");
    assert_eq!(server.ask("POST /_msearch", "{}\n").await.0, 400);
}

#[tokio::test]
async fn names_and_fields_are_told() {
    let server = filled().await;
    server.store.put(
        "logs",
        [Event {
            tenant: Tenant::default(),
            time_ns: 5,
            labels: Labels::new([("app", "shop")]),
            metadata: Labels::default(),
            line: Bytes::from_static(b"{\"took\": 3}"),
            source: SourceId([1; 16]),
            position: Position::at(9),
            doc: None,
            cut: false,
            time_from_line: true,
        }],
    );
    for (index, want) in [
        ("things", 6),
        ("millrace-logs", 1),
        ("millrace-*", 1),
        ("*", 7),
        ("things,millrace-logs", 7),
        ("t*,-things", 0),
    ] {
        let (status, answer) = server.ask(&format!("GET /{index}/_count"), "").await;
        assert_eq!((status, answer["count"].as_u64()), (200, Some(want)), "{index}");
    }
    let found = server.ask("GET /millrace-logs/_search?q=labels.app:shop", "").await.1;
    assert_eq!(found["hits"]["hits"][0]["_source"]["labels"], json!({"app": "shop"}), "{found}");
    let caps = server.ask("GET /things/_field_caps?fields=*", "").await.1;
    for (field, kind) in [
        ("took", "double"),
        ("n", "long"),
        ("ok", "boolean"),
        ("@timestamp", "date"),
        ("message", "text"),
        ("http.status", "long"),
    ] {
        assert_eq!(caps["fields"][field][kind]["type"], kind, "{field}: {caps}");
    }
    let (_, mapping) = server.ask("GET /things/_mapping", "").await;
    assert_eq!(
        mapping["things"]["mappings"]["properties"]["http"]["properties"]["status"]["type"], "long",
        "{mapping}"
    );
    assert_eq!(server.ask("GET /_cluster/health", "").await.1["status"], "green");
    assert_eq!(server.ask("GET /", "").await.1["tagline"], "You Know, for Search");
    let (_, rows) = server.ask("GET /_cat/indices/things?format=json", "").await;
    assert_eq!(rows[0]["docs.count"], "6");
}

#[tokio::test]
async fn lists_of_indices_have_a_head_if_it_is_asked_for() {
    let (empty, filled) = (server(), filled().await);
    let head = "health status index pri rep docs.count";
    for (server, path, want) in [
        (&empty, "/_cat/indices/no*?v", format!("{head}\n")),
        (&empty, "/_cat/indices/no*?v=true", format!("{head}\n")),
        (&empty, "/_cat/indices/no*?v=false", String::new()),
        (&empty, "/_cat/indices/no*", String::new()),
        (&filled, "/_cat/indices/things", "green open things 1 0 6\n".to_owned()),
        (
            &filled,
            "/_cat/indices/things?v",
            "health status index  pri rep docs.count\ngreen  open   things 1   0   6\n".to_owned(),
        ),
    ] {
        assert_eq!(server.ask(&format!("GET {path}"), "").await, (200, Value::from(want)), "{path}");
    }
}

#[tokio::test]
async fn bodies_beyond_a_limit_are_refused_in_json_with_the_key() {
    let server = server();
    let gzip = |plain: &[u8]| {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut writer, plain).unwrap();
        writer.finish().unwrap()
    };
    let bomb = gzip(&vec![b' '; 3 << 20]);
    for (what, encoding, body, status, kind, text) in [
        ("POST /_bulk", "gzip", b"no gzip".to_vec(), 400, "parse_exception", "can't be decompressed"),
        ("POST /_bulk", "gzip", bomb[..bomb.len() / 2].to_vec(), 400, "parse_exception", "can't be decompressed"),
    ] {
        let (method, path) = what.split_once(' ').unwrap();
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = request.header("content-encoding", encoding).body(Body::from(body)).unwrap();
        let (got, answer) = server.send(request).await;
        assert_eq!((got, answer["status"].as_u64()), (status, Some(status.into())), "{what} {answer}");
        assert_eq!(answer["error"]["type"], kind, "{what} {answer}");
        assert!(answer["error"]["reason"].as_str().unwrap().contains(text), "{what} {answer}");
    }
    // What the listener itself refuses is said alike.
    let (parts, ()) = Request::new(()).into_parts();
    let refusal = millrace_doors::limits::too_large(11, 10, "aggregator.elasticsearch.max_body");
    let answer = super::refused(&parts, refusal);
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (413, &"application/json".parse().unwrap())
    );
    let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    let json: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        json["error"]["reason"],
        "body has 11 bytes or more, 10 are allowed (aggregator.elasticsearch.max_body)"
    );
}

#[tokio::test]
async fn what_is_wrong_is_said_by_status_and_type() {
    let server = filled().await;
    for (what, body, status, kind) in [
        ("POST /absent/_search", json!({}), 404, "index_not_found_exception"),
        ("POST /things/_search", json!([]), 400, "parsing_exception"),
        ("POST /things/_search", json!({"nonsense": 1}), 400, "parsing_exception"),
        ("POST /things/_search", json!({"query": {}}), 400, "illegal_argument_exception"),
        ("POST /things/_search", json!({"query": {"nonsense": {}}}), 400, "parsing_exception"),
        ("POST /things/_search", json!({"query": {"fuzzy": {}}}), 400, "illegal_argument_exception"),
        ("POST /things/_search", json!({"query": {"term": {"a": null}}}), 400, "illegal_argument_exception"),
        ("POST /things/_search", json!({"query": {"regexp": {"a": "("}}}), 400, "illegal_argument_exception"),
        (
            "POST /things/_search",
            json!({"query": {"range": {"@timestamp": {"gte": "then"}}}}),
            400,
            "parsing_exception",
        ),
        ("POST /things/_search", json!({"query": {"query_string": {"query": "a:("}}}), 400, "query_shard_exception"),
        ("POST /things/_search", json!({"size": 10_001}), 400, "illegal_argument_exception"),
        ("POST /things/_search", json!({"from": u64::MAX, "size": 10}), 400, "illegal_argument_exception"),
        ("POST /things/_search", json!({"from": i64::MAX, "size": i64::MAX}), 400, "illegal_argument_exception"),
        ("POST /things/_search?from=18446744073709551615", json!({}), 400, "illegal_argument_exception"),
        ("POST /things/_search", json!({"size": -1}), 400, "illegal_argument_exception"),
        ("POST /things/_search", json!({"sort": ["n"], "search_after": [1, 2]}), 400, "illegal_argument_exception"),
        ("POST /things/_search", json!({"aggs": {"a": {"nonsense": {}}}}), 400, "parsing_exception"),
        ("POST /things/_search?scroll=1m", json!({}), 400, "illegal_argument_exception"),
        ("POST /things/_count", json!({"size": 1}), 400, "parsing_exception"),
        ("GET /things/_field_caps", Value::Null, 400, "action_request_validation_exception"),
        ("DELETE /things", Value::Null, 400, "illegal_argument_exception"),
        ("DELETE /absent", Value::Null, 404, "index_not_found_exception"),
        ("PUT /_data_stream/x", Value::Null, 400, "illegal_argument_exception"),
        ("DELETE /_search", Value::Null, 405, "method_not_allowed"),
        ("GET /no*/_search?allow_no_indices=false", Value::Null, 404, "index_not_found_exception"),
        (
            "POST /things/_search",
            json!({"query": {"match": {"message": {"query": "x", "fuzziness": 1}}}}),
            400,
            "illegal_argument_exception",
        ),
        ("POST /things/_search", json!({"aggs": {"a>b": {"avg": {"field": "n"}}}}), 400, "parsing_exception"),
        (
            "POST /things/_search",
            json!({"aggs": {"a": {"histogram": {"field": "n", "interval": 1, "extended_bounds": {"min": 0, "max": 1e9}}}}}),
            503,
            "too_many_buckets_exception",
        ),
        ("PUT /_index_template/x", json!({}), 400, "illegal_argument_exception"),
        ("PUT /_index_template/x", json!({"nonsense": 1}), 400, "x_content_parse_exception"),
        ("GET /_index_template/x", Value::Null, 404, "resource_not_found_exception"),
    ] {
        let (got, answer) = server.ask(what, body.to_string()).await;
        assert_eq!((got, answer["error"]["type"].as_str()), (status, Some(kind)), "{what} {body}: {answer}");
        assert_eq!(answer["error"]["root_cause"][0]["type"], kind, "{answer}");
        assert_eq!(answer["status"], status);
    }
    assert_eq!(server.ask("POST /things/_search", "{\"query\": ").await.0, 400);
}

/// A document of the property test: a keyword, a number, either may be absent.
type Small = (Option<u8>, Option<i8>);

#[derive(Debug, Clone)]
enum Ask {
    Word(u8),
    Words(Vec<u8>),
    Between(i8, i8),
    Above(i8),
    Has(bool),
    Bool(Vec<Ask>, Vec<Ask>, Vec<Ask>),
}

impl Ask {
    fn json(&self) -> Value {
        let all = |asks: &[Ask]| asks.iter().map(Ask::json).collect::<Vec<_>>();
        match self {
            Self::Word(k) => json!({"term": {"k": format!("w{k}")}}),
            Self::Words(ks) => json!({"terms": {"k": ks.iter().map(|k| format!("w{k}")).collect::<Vec<_>>()}}),
            Self::Between(low, high) => json!({"range": {"v": {"gte": low, "lt": high}}}),
            Self::Above(low) => json!({"range": {"v": {"gt": low}}}),
            Self::Has(k) => json!({"exists": {"field": if *k { "k" } else { "v" }}}),
            Self::Bool(must, should, not) => {
                json!({"bool": {"must": all(must), "should": all(should), "must_not": all(not)}})
            }
        }
    }

    fn holds(&self, doc: &Small) -> bool {
        match self {
            Self::Word(k) => doc.0 == Some(*k),
            Self::Words(ks) => doc.0.is_some_and(|k| ks.contains(&k)),
            Self::Between(low, high) => doc.1.is_some_and(|v| (*low..*high).contains(&v)),
            Self::Above(low) => doc.1.is_some_and(|v| v > *low),
            Self::Has(k) => {
                if *k {
                    doc.0.is_some()
                } else {
                    doc.1.is_some()
                }
            }
            Self::Bool(must, should, not) => {
                must.iter().all(|ask| ask.holds(doc))
                    && !not.iter().any(|ask| ask.holds(doc))
                    && (!must.is_empty() || should.is_empty() || should.iter().any(|ask| ask.holds(doc)))
            }
        }
    }
}

fn ask() -> impl Strategy<Value = Ask> {
    let leaf = prop_oneof![
        (0u8..4).prop_map(Ask::Word),
        prop::collection::vec(0u8..4, 0..3).prop_map(Ask::Words),
        (-5i8..5, -5i8..5).prop_map(|(a, b)| Ask::Between(a, b)),
        (-5i8..5).prop_map(Ask::Above),
        any::<bool>().prop_map(Ask::Has),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        let some = || prop::collection::vec(inner.clone(), 0..3);
        (some(), some(), some()).prop_map(|(a, b, c)| Ask::Bool(a, b, c))
    })
}

/// JSON that looks like requests: words of the DSL at every place.
fn wild() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "query",
        "aggs",
        "a",
        "bool",
        "must",
        "should",
        "filter",
        "must_not",
        "term",
        "terms",
        "range",
        "gte",
        "lt",
        "match",
        "match_phrase",
        "field",
        "value",
        "exists",
        "prefix",
        "wildcard",
        "regexp",
        "query_string",
        "sort",
        "search_after",
        "size",
        "from",
        "date_histogram",
        "fixed_interval",
        "calendar_interval",
        "time_zone",
        "histogram",
        "interval",
        "percentiles",
        "percents",
        "ranges",
        "order",
        "minimum_should_match",
        "extended_bounds",
        "min",
        "max",
        "offset",
        "@timestamp",
        "n",
        "_source",
        "fields",
        "track_total_hits",
        "missing",
        "include",
        "filters",
        "ids",
        "values",
        "boost",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
        prop::sample::select(vec![
            "now-1d/d",
            "now+99999999999999y",
            "1h",
            "1M",
            "-5m",
            "99999999999d",
            "9223372036854775807",
            "-300%",
            "+99:99",
            "a||b",
            "é*",
            "[1 TO",
            "0001-01-01",
            "9999-12-31"
        ])
        .prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..4)
                .prop_map(|all| Value::Object(all.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

/// One server for many cases: building it is what takes time.
fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn queries_equal_a_naive_evaluation(
        docs in prop::collection::vec((prop::option::of(0u8..4), prop::option::of(-5i8..5)), 1..25),
        asks in prop::collection::vec(ask(), 1..6),
    ) {
        on_runtime(async {
            let server = server();
            let mut body = String::new();
            for (n, (k, v)) in docs.iter().enumerate() {
                let k = k.map(|k| format!("w{k}"));
                body.push_str(&format!("{}\n{}\n", json!({"index": {"_index": "things", "_id": n.to_string()}}), json!({"n": n, "k": k, "v": v})));
            }
            server.ask("POST /_bulk", body).await;
            for ask in &asks {
                let want: Vec<String> =
                    docs.iter().enumerate().filter(|(_, doc)| ask.holds(doc)).map(|(n, _)| n.to_string()).collect();
                assert_eq!(server.ids(ask.json()).await, want, "{}", ask.json());
            }
        });
    }

    #[test]
    fn no_request_breaks_the_server(
        bodies in prop::collection::vec(wild(), 1..12),
        texts in prop::collection::vec("[a-z:*?\"()\\[\\]{}<>=+~^/!&| \\\\ TOANDé-]{0,24}", 1..12),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        on_runtime(async {
            let server = filled().await;
            for body in bodies {
                for what in ["POST /things/_search", "POST /_count", "PUT /things/_doc/x"] {
                    server.ask(what, body.to_string()).await;
                }
                server.ask("POST /things/_search", json!({"query": body}).to_string()).await;
                server.ask("POST /things/_search", json!({"aggs": {"a": body}}).to_string()).await;
                for kind in ["date_histogram", "histogram", "terms", "range", "percentiles"] {
                    let mut spec = body.clone();
                    if let Some(object) = spec.as_object_mut() {
                        object.insert("field".to_owned(), if kind == "date_histogram" { "@timestamp" } else { "n" }.into());
                    }
                    server.ask("POST /things/_search", json!({"aggs": {"a": {kind: spec}}}).to_string()).await;
                }
                let lines = format!("{}\n{body}\n{body}\n{}\n", json!({"index": body}), json!({"create": {"_index": "x"}}));
                server.ask("POST /_bulk", lines.clone()).await;
                server.ask("POST /_msearch", lines).await;
            }
            for text in texts {
                for kind in ["query_string", "simple_query_string"] {
                    server.ask("POST /things/_search", json!({"query": {kind: {"query": text}}}).to_string()).await;
                }
            }
            server.ask("POST /_bulk", bytes.clone()).await;
            server.ask("POST /things/_search", bytes).await;
        });
    }
}

/// Replays the conformance suite of the folder that `MILLRACE_SHARED` names (default `../shared` beside the workspace)
/// and prints its table: `cargo test -p millrace-aggregator elastic::tests::conformance -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs python3 and the conformance suite, takes minutes"]
#[allow(clippy::print_stdout)] // Its table is what one runs it for.
async fn conformance() {
    let shared = std::env::var_os("MILLRACE_SHARED");
    let shared = shared.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let folder = shared.join("conformance/elasticsearch");
    let server = server();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = server.router.clone();
    #[allow(clippy::disallowed_methods)] // A test; aborted when it ends.
    let _serve = AbortOnDropHandle::new(tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }));
    let output = tokio::process::Command::new("python3")
        .arg(folder.join("compare.py"))
        .args(["--base-url", &format!("http://{address}"), "--load", "--all", "--timeout", "300"])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    let passed: usize = said
        .lines()
        .rev()
        .find_map(|line| line.split_once(" passed, ")?.0.parse().ok())
        .expect("the last line of the suite counts");
    assert!(passed >= PASSED, "{passed} cases passed, {PASSED} did before");
}

/// Cases of the suite that pass; raised with the server.
const PASSED: usize = 390;
