//! The export against a mock server: repeats, refusals, versions, the login.

use bytes::Bytes;
use millrace_log::client::ClientError;
use millrace_log::clock::ManualClock;
use millrace_log::outgoing::Outgoing;
use millrace_log::record::{
    DocIdentity, DocOp, Event, Labels, Position, Record, SourceId, Tenant, TopicPartition, encode,
};
use parking_lot::Mutex;
use serde_json::{Map, Value as Json, json};
use wiremock::matchers::{body_string_contains, header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::server::outcome;
use super::*;

#[derive(Default)]
struct Graveyard(Mutex<Vec<Record>>);

#[async_trait::async_trait]
impl BatchProducer for Graveyard {
    async fn send(&self, _: &TopicPartition, batch: Vec<Record>) -> Result<i64, ClientError> {
        self.0.lock().extend(batch);
        Ok(0)
    }

    async fn ensure_topic(&self, _: &str, partitions: i32) -> Result<i32, ClientError> {
        Ok(partitions)
    }
}

fn event(offset: u64) -> Event {
    Event {
        tenant: Tenant::default(),
        time_ns: 1_772_366_400_000_000_001,
        labels: Labels::new([("service", "checkout")]),
        metadata: Labels::default(),
        line: Bytes::from(format!("line {offset} \"quoted\"")),
        source: SourceId([1; 16]),
        position: Position::at(offset),
        doc: None,
        cut: false,
        time_from_line: true,
    }
}

fn consumed(offset: i64, record: Record) -> Consumed {
    Consumed { partition: TopicPartition::new("logs", 0), offset, record, unreadable: None }
}

fn settings(url: &str) -> ElasticBulkConfig {
    ElasticBulkConfig {
        url: url.to_owned(),
        username: "writer".to_owned(),
        password: millrace_log::value::Secret::new("pw"),
        min_backoff: millrace_log::value::Span::millis(1),
        ..ElasticBulkConfig::default()
    }
}

fn export(url: &str, graveyard: &Arc<Graveyard>) -> ElasticBulk {
    with(settings(url), graveyard)
}

fn with(config: ElasticBulkConfig, graveyard: &Arc<Graveyard>) -> ElasticBulk {
    // Some other test of this process may have installed it already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let dead: Arc<dyn BatchProducer> = graveyard.clone();
    ElasticBulk::new(config, dead, ManualClock::at_ns(0), ExportMetrics::default(), &Outgoing::default()).unwrap()
}

/// A version of document `a`.
fn version(offset: u64) -> Event {
    let doc = DocIdentity { index: "app".to_owned(), id: "a".to_owned(), op: DocOp::Index };
    Event { doc: Some(Box::new(doc)), line: Bytes::from(format!("{{\"version\":{offset}}}")), ..event(offset) }
}

fn batch(events: impl IntoIterator<Item = Event>) -> Vec<Consumed> {
    events.into_iter().enumerate().map(|(i, event)| consumed(i as i64, encode(&event, 0))).collect()
}

fn items(statuses: &[u16]) -> ResponseTemplate {
    let items: Vec<Json> = statuses.iter().map(|s| json!({"create": {"status": s, "error": {"type": "t"}}})).collect();
    let errors = statuses.iter().any(|s| *s > 299);
    ResponseTemplate::new(200).set_body_json(json!({"errors": errors, "items": items}))
}

#[test]
fn a_line_is_created_once_by_source_and_position() {
    let text = String::from_utf8(document(&event(77), "logs").to_vec()).unwrap();
    let (action, source) = text.trim_end().split_once('\n').unwrap();
    assert_eq!(action, format!(r#"{{"create":{{"_index":"logs","_id":"{}-77-0"}}}}"#, "01".repeat(16)));
    let source: Json = serde_json::from_str(source).unwrap();
    assert_eq!(source["@timestamp"], "2026-03-01T12:00:00.000000001Z");
    assert_eq!(source["message"], "line 77 \"quoted\"");
    assert_eq!(source["labels"]["service"], "checkout");
    let doc = DocIdentity { index: "app".to_owned(), id: "7".to_owned(), op: DocOp::Index };
    let sent = Event { doc: Some(Box::new(doc)), line: Bytes::from_static(b"{\"a\":1}"), ..event(1) };
    let text = String::from_utf8(document(&sent, "logs").to_vec()).unwrap();
    assert_eq!(text, "{\"index\":{\"_index\":\"app\",\"_id\":\"7\"}}\n{\"a\":1}\n");
}

#[test]
fn statuses_decide_what_becomes_of_a_document() {
    for (action, status, want) in [
        ("create", 201, Outcome::Stored),
        ("create", 409, Outcome::Duplicate),
        ("index", 409, Outcome::Refused("HTTP 409: ".to_owned())),
        ("create", 429, Outcome::Again("HTTP 429: ".to_owned())),
        ("create", 503, Outcome::Again("HTTP 503: ".to_owned())),
        ("create", 400, Outcome::Refused("HTTP 400: ".to_owned())),
    ] {
        let item = Map::from_iter([(action.to_owned(), json!({"status": status}))]);
        assert_eq!(outcome(&item), want, "{action} {status}");
    }
}

#[test]
fn requests_are_cut_by_size() {
    let documents = [4usize, 4, 4, 20, 1].map(|n| Document { index: n, key: None, body: Bytes::from(vec![b'x'; n]) });
    let sizes: Vec<usize> = requests(documents.into(), 10).iter().map(Vec::len).collect();
    assert_eq!(sizes, [2, 1, 1, 1]);
}

#[tokio::test]
async fn what_failed_is_sent_again_and_what_was_refused_is_buried() {
    let server = MockServer::start().await;
    let post = || Mock::given(method("POST")).and(path("/_bulk")).and(header("authorization", "Basic d3JpdGVyOnB3"));
    post().respond_with(ResponseTemplate::new(503)).up_to_n_times(1).expect(1).mount(&server).await;
    post().respond_with(items(&[201, 429, 409, 400])).up_to_n_times(1).expect(1).mount(&server).await;
    // Only the one that was too much comes again.
    post().and(body_string_contains("line 1 ")).respond_with(items(&[201])).expect(1).mount(&server).await;
    let graveyard = Arc::new(Graveyard::default());
    let export = export(&server.uri(), &graveyard);
    let mut batch: Vec<Consumed> = (0..4u64).map(|i| consumed(i as i64, encode(&event(i), 0))).collect();
    batch.push(consumed(4, Record { value: Some(Bytes::from_static(b"foreign")), ..Record::default() }));
    assert!(export.deliver(&batch, &CancellationToken::new()).await);
    let name = &export.name;
    let metrics = &export.metrics;
    assert_eq!(metrics.stored_records.get_or_create(name).get(), 2);
    assert_eq!(metrics.duplicate_records.get_or_create(name).get(), 1);
    assert_eq!(metrics.dead_letter_records.get_or_create(name).get(), 2);
    let buried = graveyard.0.lock();
    let reasons: Vec<&[u8]> = buried.iter().map(|r| r.header("dlq.from").unwrap().as_ref()).collect();
    assert_eq!(reasons, [&b"logs-0@4"[..], b"logs-0@3"]);
}

#[tokio::test]
async fn whatever_keeps_an_export_from_delivering_is_a_pause_with_its_cause() {
    let elsewhere = ResponseTemplate::new(302).insert_header("location", "http://elsewhere:9200/_bulk");
    let slow = ResponseTemplate::new(200).set_delay(std::time::Duration::from_secs(60));
    let cases: [(Option<ResponseTemplate>, &str); 6] = [
        (None, "Connection refused"),
        (Some(elsewhere), "redirects to http://elsewhere:9200/_bulk; set `url`"),
        (Some(ResponseTemplate::new(200).set_body_string("<html>")), "answer is not that of `_bulk`"),
        (Some(items(&[429])), "HTTP 429"),
        (Some(ResponseTemplate::new(503).set_body_string("starting")), "HTTP 503 Service Unavailable: starting"),
        (Some(slow), "timed out"),
    ];
    for (answer, want) in cases {
        let server = MockServer::start().await;
        let url = if answer.is_some() { server.uri() } else { "http://127.0.0.1:1".to_owned() };
        if let Some(answer) = answer {
            Mock::given(method("POST")).respond_with(answer).mount(&server).await;
            // Where a client lands that follows redirects.
            Mock::given(method("GET")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
        }
        let mut config = settings(&url);
        config.timeout = millrace_log::value::Span::millis(200);
        let export = with(config, &Arc::new(Graveyard::default()));
        let (status, token, batch) = (export.status(), CancellationToken::new(), batch([event(0)]));
        let paused = async {
            while status.trouble().is_none() {
                tokio::task::yield_now().await;
            }
            token.cancel();
        };
        let limit = std::time::Duration::from_secs(30);
        let both = async { tokio::join!(export.deliver(&batch, &token), paused) };
        let (delivered, ()) = tokio::time::timeout(limit, both).await.expect(want);
        let trouble = status.notice().unwrap_or_default();
        assert!(!delivered && trouble.contains(want), "{want}: {trouble}");
    }
}

#[tokio::test]
async fn a_stop_ends_the_repeats() {
    let server = MockServer::start().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(503)).mount(&server).await;
    let export = export(&server.uri(), &Arc::default());
    let token = CancellationToken::new();
    token.cancel();
    assert!(!export.deliver(&[consumed(0, encode(&event(0), 0))], &token).await);
}

#[tokio::test]
async fn a_document_that_is_too_large_alone_goes_to_the_dead_letters() {
    let server = MockServer::start().await;
    let post = || Mock::given(method("POST"));
    let large = ResponseTemplate::new(413).set_body_string("too large");
    // The server takes two documents at once, and line 2 not even alone.
    post().and(body_string_contains("line 2 ")).respond_with(large.clone()).mount(&server).await;
    post()
        .and(body_string_contains("line 0 "))
        .and(body_string_contains("line 1 "))
        .respond_with(items(&[201, 201]))
        .mount(&server)
        .await;
    post().and(body_string_contains("line 3 ")).respond_with(items(&[201])).mount(&server).await;
    let graveyard = Arc::new(Graveyard::default());
    let export = export(&server.uri(), &graveyard);
    assert!(export.deliver(&batch((0..4).map(event)), &CancellationToken::new()).await);
    assert_eq!(export.metrics.stored_records.get_or_create(&export.name).get(), 3);
    let refused = graveyard.0.lock();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].header("dlq.from").unwrap().as_ref(), b"logs-0@2");
}

#[tokio::test]
async fn a_refused_login_stops_the_export_until_it_is_accepted() {
    let server = MockServer::start().await;
    let post = || Mock::given(method("POST"));
    post().respond_with(ResponseTemplate::new(401)).up_to_n_times(2).expect(2).mount(&server).await;
    post().respond_with(items(&[201])).expect(1).mount(&server).await;
    let mut export = export(&server.uri(), &Arc::default());
    export.config.min_backoff = millrace_log::value::Span::millis(20);
    let (status, refused) = (export.status(), export.metrics.login_refused.clone());
    let name = export.name.clone();
    let records = batch([event(0)]);
    let token = CancellationToken::new();
    let delivery = export.deliver(&records, &token);
    tokio::pin!(delivery);
    while status.notice().is_none() {
        tokio::select! {
            _ = &mut delivery => panic!("delivered although the login is refused"),
            () = tokio::task::yield_now() => {}
        }
    }
    assert!(status.notice().unwrap().contains("export `elasticsearch` is paused: the login is refused (HTTP 401"));
    assert_eq!(refused.get_or_create(&name).get(), 1);
    assert!(delivery.await);
    assert_eq!(status.notice(), None);
    assert_eq!(refused.get_or_create(&name).get(), 0);
}

#[tokio::test]
async fn an_older_version_never_overwrites_a_newer_one() {
    let server = MockServer::start().await;
    let post = || Mock::given(method("POST"));
    let answer = |statuses: &[u16]| {
        let items: Vec<Json> = statuses.iter().map(|s| json!({"index": {"status": s}})).collect();
        ResponseTemplate::new(200).set_body_json(json!({"errors": true, "items": items}))
    };
    // The first version is too much at that moment, the second is stored, the third is too much.
    post().respond_with(answer(&[429, 200, 429])).up_to_n_times(1).expect(1).mount(&server).await;
    post().and(body_string_contains("\"version\":0")).respond_with(answer(&[200])).expect(0).mount(&server).await;
    post().and(body_string_contains("\"version\":2")).respond_with(answer(&[200])).expect(1).mount(&server).await;
    let export = export(&server.uri(), &Arc::default());
    assert!(export.deliver(&batch((0..3).map(version)), &CancellationToken::new()).await);
    assert_eq!(export.metrics.stored_records.get_or_create(&export.name).get(), 2);
    assert_eq!(export.metrics.duplicate_records.get_or_create(&export.name).get(), 1);
}
