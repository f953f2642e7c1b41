//! What one request may cost: its work ends soon after its client, its time or the program, and only then is its place free.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use futures::StreamExt as _;
use millrace_index::docs::{DocIndex, DocPlace, DocumentStore};
use millrace_index::scan::{Budget, EventStore, Plan, RowBatch, RowStream, Stats, StorageError, StreamInfo};
use tokio::sync::oneshot;

use super::*;

/// The budget of a search that waits for its first batch, and what lets it go.
type Asked = (Budget, SyncSender<()>);

/// A store that hands out its first batch only when it is let go, and says when somebody waits for it.
struct Held {
    store: Arc<MemoryStore>,
    asked: Mutex<Option<oneshot::Sender<Asked>>>,
}

#[async_trait::async_trait]
impl EventStore for Held {
    async fn scan(&self, plan: Plan) -> Result<RowStream, StorageError> {
        let (let_go, waits) = sync_channel(1);
        if let Some(asked) = self.asked.lock().take() {
            asked.send((plan.budget.without_place(), let_go)).ok();
        }
        // On the thread of the search, which may block. Whoever drops the sender lets it go as well.
        let wait = move |_: &Result<RowBatch, StorageError>| {
            waits.recv().ok();
        };
        Ok(self.store.scan(plan).await?.inspect(wait).boxed())
    }

    async fn streams(&self, plan: Plan) -> Result<Vec<(StreamInfo, Stats)>, StorageError> {
        self.store.streams(plan).await
    }

    fn subscribe(&self) -> tokio::sync::broadcast::Receiver<Arc<(Tenant, RowBatch)>> {
        self.store.subscribe()
    }

    async fn caught_up(&self, _at_most: Duration) -> Result<(), StorageError> {
        std::future::pending().await
    }
}

#[async_trait::async_trait]
impl DocumentStore for Held {
    async fn doc_lookup(&self, tenant: &Tenant, index: &str, id: &str) -> Result<Option<DocPlace>, StorageError> {
        self.store.doc_lookup(tenant, index, id).await
    }

    fn doc_indices(&self, tenant: &Tenant) -> Vec<DocIndex> {
        self.store.doc_indices(tenant)
    }
}

const ROWS: u64 = 5000;
const LINE: &str = r#"{"level":"info","n":7,"text":"the quick brown fox jumps over the lazy dog"}"#;

fn lines(unit_ns: i64) -> impl Iterator<Item = Event> {
    (0..ROWS).map(move |n| Event {
        tenant: Tenant::default(),
        time_ns: i64::try_from(n).unwrap() * unit_ns,
        labels: Labels::new([("app", "a")]),
        metadata: Labels::default(),
        line: Bytes::from_static(LINE.as_bytes()),
        source: SourceId([1; 16]),
        position: Position::at(n),
        doc: None,
        cut: false,
        time_from_line: true,
    })
}

/// One place, all lines in one batch.
fn held() -> (Server, oneshot::Receiver<Asked>) {
    let (asked, asks) = oneshot::channel();
    let store = Arc::new(MemoryStore::with_batches_of(usize::MAX));
    store.put("logs", lines(1));
    let held = Arc::new(Held { store: Arc::clone(&store), asked: Mutex::new(Some(asked)) });
    (server_over(held, store, 1, QueryLimits::default()), asks)
}

/// A query of a thousand clauses, none of which matches.
fn costly() -> Value {
    let clauses: Vec<Value> = (0..1000).map(|i| json!({"match": {"message": format!("nothing{i}")}})).collect();
    json!({"size": 0, "query": {"bool": {"should": clauses}}})
}

/// A thousand aggregations would be refused; these are five hundred looks at each document.
fn collecting() -> Value {
    let aggs: serde_json::Map<String, Value> =
        (0..500).map(|i| (format!("a{i}"), json!({"terms": {"field": "message"}}))).collect();
    json!({"size": 0, "aggs": aggs})
}

#[tokio::test]
async fn work_inside_a_batch_ends_soon_after_the_client_and_then_gives_its_place_back() {
    for body in [costly(), collecting()] {
        let (server, asks) = held();
        let answer = {
            let searching = server.ask("POST /millrace-logs/_search", body.to_string());
            tokio::select! {
                asked = asks => asked.unwrap(),
                answer = searching => unreachable!("{answer:?}"),
            }
        };
        // The client has gone: its future is dropped.
        let (budget, let_go) = answer;
        assert!(budget.check().is_err());
        assert_eq!(server.queries.running(), 1, "its work has not ended");
        drop(let_go);
        let _next = server.queries.begin(&Tenant::default()).await.unwrap();
        let whole = ROWS * LINE.len() as u64 * 500;
        assert!(budget.work() < whole / 100, "{} bytes of {whole} were looked at", budget.work());
    }
}

#[tokio::test]
async fn searches_and_refreshes_end_with_the_program() {
    let (server, asks) = held();
    let searching = server.ask("POST /millrace-logs/_search", costly().to_string());
    let refreshing = server.ask("POST /_refresh", "");
    let ((status, answer), refreshed, budget) = tokio::join!(searching, refreshing, async {
        let (budget, let_go) = asks.await.unwrap();
        server.queries.shutdown().cancel();
        drop(let_go);
        budget
    });
    assert_eq!((status, answer["error"]["type"].as_str()), (503, Some("task_cancelled_exception")), "{answer}");
    assert_eq!(refreshed.0, 503, "{refreshed:?}");
    assert!(budget.work() < 10_000_000, "{}", budget.work());
}

#[tokio::test]
async fn clauses_and_aggregations_are_bounded() {
    let server = server();
    let terms = |n: usize| -> Vec<Value> { (0..n).map(|i| json!({"term": {"f": i}})).collect() };
    let words = |n: usize| (0..n).map(|i| format!("w{i}")).collect::<Vec<_>>().join(" ");
    let aggs = |n: usize| -> Value {
        let all: serde_json::Map<String, Value> =
            (0..n).map(|i| (format!("a{i}"), json!({"max": {"field": "f"}}))).collect();
        Value::Object(all)
    };
    let query = |query: Value| json!({"query": query});
    let nested =
        |n: usize| json!({"bool": {"must": [{"bool": {"should": terms(n)}}, {"bool": {"must_not": terms(n)}}]}});
    let clauses = Some("maxClauseCount is set to 1024");
    let too_many = Some("too many aggregations. Must be less than or equal to: [500]");
    for (body, want) in [
        (query(json!({"bool": {"should": terms(1024)}})), None),
        (query(json!({"bool": {"should": terms(1025)}})), clauses),
        (query(nested(512)), None),
        (query(nested(513)), clauses),
        (query(json!({"match": {"message": words(1024)}})), None),
        (query(json!({"match": {"message": words(1025)}})), clauses),
        (query(json!({"query_string": {"query": words(1024)}})), None),
        (query(json!({"query_string": {"query": words(1025)}})), clauses),
        (query(json!({"simple_query_string": {"query": words(1025)}})), clauses),
        (query(json!({"terms": {"f": (0..5000).collect::<Vec<i32>>()}})), None),
        (json!({"post_filter": {"bool": {"should": terms(1025)}}}), clauses),
        (json!({"sort": vec![json!({"n": "asc"}); 32]}), None),
        (json!({"sort": vec![json!({"n": "asc"}); 33]}), Some("[sort] has 33 keys, 32 are allowed")),
        (json!({"aggs": aggs(500)}), None),
        (json!({"aggs": aggs(501)}), too_many),
        (json!({"aggs": {"one": {"terms": {"field": "f"}, "aggs": aggs(500)}}}), too_many),
        (json!({"aggs": {"one": {"filters": {"filters": terms(1024)}}}}), None),
        (json!({"aggs": {"one": {"filters": {"filters": terms(5000)}}}}), Some("maxClauseCount is set to 4096")),
    ] {
        let (status, answer) = server.ask("POST /_search", body.to_string()).await;
        let reason = answer["error"]["reason"].as_str();
        let shown = body.to_string();
        assert_eq!(status, if want.is_some() { 400 } else { 200 }, "{:.80} {reason:?}", shown);
        assert!(want.is_none_or(|want| reason.is_some_and(|r| r.contains(want))), "{:.80} {reason:?}", shown);
    }
    let (status, answer) = server.ask(&format!("GET /_search?q={}", words(1025).replace(' ', "+")), "").await;
    assert_eq!((status, answer["error"]["type"].as_str()), (400, Some("too_many_clauses")));
}

#[tokio::test]
async fn memory_of_aggregations_and_hits_counts() {
    for body in [
        json!({"size": 1000}),
        json!({"size": 0, "aggs": {"a": {"terms": {"field": "_id"}}}}),
        json!({"size": 0, "aggs": {"a": {"cardinality": {"field": "_id"}}}}),
        json!({"size": 0, "aggs": {"a": {"histogram": {"field": "@timestamp", "interval": 1}}}}),
        json!({"size": 0, "aggs": {"a": {"percentiles": {"field": "n"}}}}),
    ] {
        let limits = QueryLimits { max_memory_bytes: 20_000, ..QueryLimits::default() };
        let store = Arc::new(MemoryStore::with_batches_of(100));
        store.put("logs", lines(1_000_000));
        let server = server_over(Arc::clone(&store) as _, store, 1, limits);
        let (status, answer) = server.ask("POST /millrace-logs/_search", body.to_string()).await;
        let reason = answer["error"]["reason"].as_str().unwrap_or_default();
        assert!(status == 429 && reason.contains("max_memory (20000 bytes allowed)"), "{body}: {status} {reason}");
    }
}
