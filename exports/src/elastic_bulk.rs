//! Feeds Elasticsearch or OpenSearch by `_bulk`: `create` with an id made of (source, position), so that a repeat
//! after a crash or a lost answer is no second document.
//!
//! In: records of the log. Out: documents `{@timestamp, message, labels, …}`; dead letters for those refused for good.
//! Touches the network. Leaves reading and committing to `feed.rs`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millrace_log::client::{BatchProducer, ClientError, Consumed};
use millrace_log::clock::SharedClock;
use millrace_log::dead_letter::dead_letter;
use millrace_log::record::{Decoder, Event, TopicPartition};
use millrace_log::value::ValueError;
use parking_lot::Mutex;
use reqwest::{StatusCode, header};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::ElasticBulkConfig;
use crate::feed;
use crate::metrics::{ExportMetrics, ExportName};

/// Batches between the reader and the sender.
const QUEUE: usize = 2;
/// Name of this stage in dead letters.
const STAGE: &str = "export-elasticsearch";

/// Why an export ended.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A secret can't be read.
    #[error("export `{name}` can't read its secret")]
    Secret {
        /// Name of the export.
        name: String,
        /// The cause.
        #[source]
        source: ValueError,
    },
    /// The HTTP client can't be made.
    #[error("export `{name}` can't make its HTTP client")]
    Client {
        /// Name of the export.
        name: String,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// The log can't be read.
    #[error("export `{name}` can't read the log")]
    Log {
        /// Name of the export.
        name: String,
        /// The cause.
        #[source]
        source: ClientError,
    },
    /// The reading thread broke off.
    #[error("export `{name}`: its reading thread broke off")]
    Reader {
        /// Name of the export.
        name: String,
    },
}

/// One export to one server.
pub struct ElasticBulk {
    config: ElasticBulkConfig,
    url: String,
    login: Login,
    client: reqwest::Client,
    dead_letters: Arc<dyn BatchProducer>,
    clock: SharedClock,
    metrics: ExportMetrics,
    name: ExportName,
    trouble: Trouble,
}

/// How the server is told who asks. Not `Debug`: it holds secrets.
enum Login {
    None,
    Basic(String, String),
    ApiKey(String),
}

/// One document on its way.
struct Document {
    /// Its place in the batch.
    index: usize,
    /// Index and id of a document that may have several versions; lines have one.
    key: Option<(String, String)>,
    /// Action and source lines.
    body: Bytes,
}

/// Parts of the server's answer that matter.
#[derive(Debug, Deserialize)]
struct BulkAnswer {
    errors: bool,
    items: Vec<Map<String, Json>>,
}

/// What became of one document.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Stored,
    Duplicate,
    Again,
    Refused(String),
}

/// Why a request was not taken as a whole.
#[derive(Debug)]
enum SendFault {
    /// HTTP 413: fewer documents at once may be taken.
    TooLarge(String),
    /// HTTP 401 or 403: nothing will be taken until somebody sets the login right.
    Login(String),
    /// Anything else: try again.
    Other(String),
}

/// What an export waits for and a person must put right, for `/ready`.
#[derive(Debug, Clone, Default)]
pub struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    /// What it is; `None` if all is well.
    pub fn text(&self) -> Option<String> {
        self.0.lock().clone()
    }
}

impl ElasticBulk {
    /// What the export waits for: shared, as it is at any moment.
    pub fn trouble(&self) -> Trouble {
        self.trouble.clone()
    }

    /// Says once that the login is refused, and once that it is taken again.
    fn login_refused(&self, reason: Option<&str>) {
        let mut trouble = self.trouble.0.lock();
        match (reason, trouble.is_some()) {
            (Some(reason), false) => {
                tracing::error!(
                    export = self.name.export,
                    url = self.url,
                    reason,
                    "export stopped: the server refuses the login; set `username` and `password`, or `api_key`, \
                     nothing is lost meanwhile"
                );
                self.metrics.login_refused.get_or_create(&self.name).set(1);
                *trouble = Some(format!("export `{}` is stopped: the login is refused ({reason})", self.name.export));
            }
            (None, true) => {
                tracing::info!(export = self.name.export, url = self.url, "export goes on: the login is accepted");
                self.metrics.login_refused.get_or_create(&self.name).set(0);
                *trouble = None;
            }
            (Some(_), true) | (None, false) => {}
        }
    }

    /// Reads secrets and makes the client. `dead_letters` writes to the log.
    pub fn new(
        config: ElasticBulkConfig,
        dead_letters: Arc<dyn BatchProducer>,
        clock: SharedClock,
        metrics: ExportMetrics,
    ) -> Result<Self, ExportError> {
        let name = config.name.clone();
        let secret = |source| ExportError::Secret { name: name.clone(), source };
        let login = if !config.username.is_empty() {
            Login::Basic(config.username.clone(), config.password.reveal().map_err(secret)?)
        } else {
            match config.api_key.reveal().map_err(secret)? {
                key if key.is_empty() => Login::None,
                key => Login::ApiKey(key),
            }
        };
        let client = reqwest::Client::builder()
            .timeout(config.timeout.0)
            .build()
            .map_err(|source| ExportError::Client { name: name.clone(), source })?;
        let url = format!("{}/_bulk", config.url.trim_end_matches('/'));
        let name = ExportName { export: name };
        metrics.show(&name);
        Ok(Self { config, url, login, client, dead_letters, clock, metrics, name, trouble: Trouble::default() })
    }

    /// Exports until the token is cancelled; then delivers what it has begun, and ends.
    pub async fn run(self, token: CancellationToken) -> Result<(), ExportError> {
        let (batch_sender, mut batches) = mpsc::channel(QUEUE);
        let (delivered, mut delivered_receiver) = mpsc::channel(64);
        let config = self.config.kafka.clone();
        let stop = token.clone();
        let reader =
            tokio::task::spawn_blocking(move || feed::read(&config, &batch_sender, &mut delivered_receiver, &stop));
        while let Some(batch) = batches.recv().await {
            self.metrics.read_records.get_or_create(&self.name).inc_by(batch.len() as u64);
            self.metrics.waiting_records.get_or_create(&self.name).set(count(batch.len()));
            let done = self.deliver(&batch, &token).await;
            self.metrics.waiting_records.get_or_create(&self.name).set(0);
            if !done || delivered.send(feed::after(&batch)).await.is_err() {
                break;
            }
        }
        drop((batches, delivered));
        match reader.await {
            Ok(read) => read.map_err(|source| ExportError::Log { name: self.name.export.clone(), source }),
            Err(_) => Err(ExportError::Reader { name: self.name.export.clone() }),
        }
    }

    /// Sends a batch until each of its records is stored, known, or a dead letter. `false` if stopped before that.
    async fn deliver(&self, batch: &[Consumed], token: &CancellationToken) -> bool {
        let mut decoder = Decoder::default();
        let mut refused: Vec<(usize, String)> = Vec::new();
        let mut waiting: Vec<Document> = Vec::with_capacity(batch.len());
        for (index, one) in batch.iter().enumerate() {
            match decoder.decode(&one.record) {
                Ok(event) => {
                    let key = event.doc.as_ref().map(|doc| (doc.index.clone(), doc.id.clone()));
                    waiting.push(Document { index, key, body: document(&event, &self.config.index) });
                }
                Err(error) => refused.push((index, error.to_string())),
            }
        }
        let mut backoff = self.config.min_backoff.0;
        // The newest version of each document that the server has.
        let mut newest: HashMap<(String, String), usize> = HashMap::new();
        while !waiting.is_empty() {
            let mut again = Vec::new();
            let mut failed = false;
            let mut requests = VecDeque::from(requests(waiting, self.config.max_request.0));
            while let Some(mut request) = requests.pop_front() {
                let outcomes = match self.send(&request).await {
                    Ok(outcomes) => outcomes,
                    Err(SendFault::TooLarge(_)) if request.len() > 1 => {
                        let second = request.split_off(request.len() / 2);
                        requests.push_front(second);
                        requests.push_front(request);
                        continue;
                    }
                    Err(SendFault::TooLarge(reason)) => {
                        refused.extend(request.into_iter().map(|document| (document.index, reason.clone())));
                        continue;
                    }
                    Err(SendFault::Login(reason)) => {
                        self.login_refused(Some(&reason));
                        again.extend(request);
                        // The others would fare no better.
                        again.extend(requests.drain(..).flatten());
                        break;
                    }
                    Err(SendFault::Other(reason)) => {
                        if !std::mem::replace(&mut failed, true) {
                            tracing::warn!(export = self.name.export, url = self.url, reason, retry_in = ?backoff, "delivery failed, repeats");
                        }
                        again.extend(request);
                        continue;
                    }
                };
                self.login_refused(None);
                for (document, outcome) in request.into_iter().zip(outcomes) {
                    match outcome {
                        Outcome::Stored => {
                            self.metrics.stored_records.get_or_create(&self.name).inc();
                            if let Some(key) = document.key {
                                let newest = newest.entry(key).or_default();
                                *newest = document.index.max(*newest);
                            }
                        }
                        Outcome::Duplicate => {
                            self.metrics.duplicate_records.get_or_create(&self.name).inc();
                        }
                        Outcome::Again => again.push(document),
                        Outcome::Refused(reason) => refused.push((document.index, reason)),
                    }
                }
            }
            // A version that is to be repeated and is older than what the server has by now would take its place.
            let before = again.len();
            again.retain(|document| {
                document.key.as_ref().and_then(|key| newest.get(key)).is_none_or(|stored| *stored < document.index)
            });
            let superseded = (before - again.len()) as u64;
            self.metrics.duplicate_records.get_or_create(&self.name).inc_by(superseded);
            waiting = again;
            if !waiting.is_empty() {
                self.metrics.retried_requests.get_or_create(&self.name).inc();
                if !rest(backoff, token).await {
                    return false;
                }
                backoff = (backoff * 2).min(self.config.max_backoff.0);
            }
        }
        self.send_to_dead_letters(batch, refused, token).await
    }

    /// One request: what became of each document, or why the whole must be repeated.
    async fn send(&self, documents: &[Document]) -> Result<Vec<Outcome>, SendFault> {
        let other = |error: reqwest::Error| SendFault::Other(error.without_url().to_string());
        let body: Vec<u8> = documents.iter().flat_map(|d| d.body.iter().copied()).collect();
        let mut request = self.client.post(&self.url).header(header::CONTENT_TYPE, "application/x-ndjson").body(body);
        request = match &self.login {
            Login::None => request,
            Login::Basic(user, password) => request.basic_auth(user, Some(password)),
            Login::ApiKey(key) => request.header(header::AUTHORIZATION, format!("ApiKey {key}")),
        };
        let answer = request.send().await.map_err(other)?;
        let status = answer.status();
        if !status.is_success() {
            let text: String = answer.text().await.unwrap_or_default().chars().take(300).collect();
            let text = format!("HTTP {status}: {text}");
            return Err(match status {
                StatusCode::PAYLOAD_TOO_LARGE => SendFault::TooLarge(text),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => SendFault::Login(text),
                _ => SendFault::Other(text),
            });
        }
        let bytes = answer.bytes().await.map_err(other)?;
        let parsed: BulkAnswer = serde_json::from_slice(&bytes)
            .map_err(|error| SendFault::Other(format!("answer is not that of _bulk: {error}")))?;
        if parsed.items.len() != documents.len() {
            let text = format!("answer has {} items for {} documents", parsed.items.len(), documents.len());
            return Err(SendFault::Other(text));
        }
        if !parsed.errors {
            return Ok(documents.iter().map(|_| Outcome::Stored).collect());
        }
        Ok(parsed.items.iter().map(outcome).collect())
    }

    /// Writes refused records to the dead letters, as they were, with the reason.
    async fn send_to_dead_letters(
        &self,
        batch: &[Consumed],
        refused: Vec<(usize, String)>,
        token: &CancellationToken,
    ) -> bool {
        if refused.is_empty() {
            return true;
        }
        let now = self.clock.now_ms();
        let number = refused.len() as u64;
        tracing::warn!(
            export = self.name.export,
            records = number,
            first = refused[0].1,
            "records refused for good go to the dead letters"
        );
        let records: Vec<millrace_log::record::Record> = refused
            .into_iter()
            .map(|(index, reason)| {
                let one = &batch[index];
                let from = format!("{}@{}", one.partition, one.offset);
                dead_letter(one.record.clone(), STAGE, &reason, &from, now)
            })
            .collect();
        let topic = self.config.kafka.dead_letter_topic.as_str();
        let to = TopicPartition::new(topic, 0);
        let mut backoff = self.config.min_backoff.0;
        loop {
            let sent = match self.dead_letters.ensure_topic(topic, 1).await {
                Ok(_) => self.dead_letters.send(&to, records.clone()).await,
                Err(error) => Err(error),
            };
            match sent {
                Ok(_) => {
                    self.metrics.dead_letter_records.get_or_create(&self.name).inc_by(number);
                    return true;
                }
                Err(error) => {
                    tracing::error!(export = self.name.export, %error, "dead letters can't be written, repeats");
                    if !rest(backoff, token).await {
                        return false;
                    }
                    backoff = (backoff * 2).min(self.config.max_backoff.0);
                }
            }
        }
    }
}

/// Waits, unless the export is stopped.
async fn rest(time: Duration, token: &CancellationToken) -> bool {
    tokio::select! {
        () = tokio::time::sleep(time) => true,
        () = token.cancelled() => false,
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Cuts documents into requests of a bounded size; one that is larger alone goes alone.
fn requests(documents: Vec<Document>, max_bytes: u64) -> Vec<Vec<Document>> {
    let mut all: Vec<Vec<Document>> = Vec::new();
    let mut size = u64::MAX;
    for document in documents {
        let bytes = document.body.len() as u64;
        if size.saturating_add(bytes) > max_bytes {
            all.push(Vec::new());
            size = 0;
        }
        size += bytes;
        if let Some(last) = all.last_mut() {
            last.push(document);
        }
    }
    all
}

/// Action and source of one event. Lines get an id of (source, position) and are created once; documents that came by
/// `_bulk` keep index and id.
fn document(event: &Event, index: &str) -> Bytes {
    let (action, source) = match &event.doc {
        Some(doc) => {
            let action = json!({"index": {"_index": doc.index, "_id": doc.id}});
            (action, String::from_utf8_lossy(&event.line).replace('\n', " "))
        }
        None => {
            let id = format!("{}-{}-{}", event.source, event.position.offset, event.position.sub);
            let action = json!({"create": {"_index": index, "_id": id}});
            (action, line_source(event).to_string())
        }
    };
    let mut body = action.to_string();
    body.push('\n');
    body.push_str(&source);
    body.push('\n');
    body.into()
}

fn line_source(event: &Event) -> Json {
    let time = chrono::DateTime::from_timestamp_nanos(event.time_ns);
    let pairs = |labels: &millrace_log::record::Labels| -> Json {
        labels.iter().map(|(n, v)| (n.to_owned(), Json::from(v))).collect::<Map<String, Json>>().into()
    };
    let mut source = json!({
        "@timestamp": time.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true),
        "message": String::from_utf8_lossy(&event.line),
        "labels": pairs(&event.labels),
    });
    if !event.metadata.is_empty() {
        source["metadata"] = pairs(&event.metadata);
    }
    source
}

/// What the server says of one item: 409 to `create` means that it has the document.
fn outcome(item: &Map<String, Json>) -> Outcome {
    let Some((action, result)) = item.iter().next() else { return Outcome::Again };
    let status = result.get("status").and_then(Json::as_u64).and_then(|s| StatusCode::from_u16(s as u16).ok());
    match status {
        Some(StatusCode::CONFLICT) if action == "create" => Outcome::Duplicate,
        Some(status) if status.is_success() => Outcome::Stored,
        // Also a block of the index (a full disk, say) is 403 and passes.
        Some(StatusCode::TOO_MANY_REQUESTS | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) | None => Outcome::Again,
        Some(status) if status.is_server_error() => Outcome::Again,
        Some(status) => {
            let error = result.get("error").map(ToString::to_string).unwrap_or_default();
            Outcome::Refused(format!("HTTP {}: {}", status.as_u16(), error.chars().take(500).collect::<String>()))
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_log::clock::ManualClock;
    use millrace_log::record::{DocIdentity, DocOp, Labels, Position, Record, SourceId, Tenant, encode};
    use parking_lot::Mutex;
    use wiremock::matchers::{body_string_contains, header, method, path};
    use wiremock::{Mock, MockServer, ResponseTemplate};

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
        Consumed { partition: TopicPartition::new("logs", 0), offset, record }
    }

    fn export(url: &str, graveyard: &Arc<Graveyard>) -> ElasticBulk {
        // Some other test of this process may have installed it already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let config = ElasticBulkConfig {
            url: url.to_owned(),
            username: "writer".to_owned(),
            password: millrace_log::value::Secret::new("pw"),
            min_backoff: millrace_log::value::Span::millis(1),
            ..ElasticBulkConfig::default()
        };
        let dead: Arc<dyn BatchProducer> = graveyard.clone();
        ElasticBulk::new(config, dead, ManualClock::at_ns(0), ExportMetrics::default()).unwrap()
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
        let items: Vec<Json> =
            statuses.iter().map(|s| json!({"create": {"status": s, "error": {"type": "t"}}})).collect();
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
            ("create", 429, Outcome::Again),
            ("create", 503, Outcome::Again),
            ("create", 400, Outcome::Refused("HTTP 400: ".to_owned())),
        ] {
            let item = Map::from_iter([(action.to_owned(), json!({"status": status}))]);
            assert_eq!(outcome(&item), want, "{action} {status}");
        }
    }

    #[test]
    fn requests_are_cut_by_size() {
        let documents =
            [4usize, 4, 4, 20, 1].map(|n| Document { index: n, key: None, body: Bytes::from(vec![b'x'; n]) });
        let sizes: Vec<usize> = requests(documents.into(), 10).iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 1, 1, 1]);
    }

    #[tokio::test]
    async fn what_failed_is_sent_again_and_what_was_refused_is_buried() {
        let server = MockServer::start().await;
        let post =
            || Mock::given(method("POST")).and(path("/_bulk")).and(header("authorization", "Basic d3JpdGVyOnB3"));
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
        let (trouble, refused) = (export.trouble(), export.metrics.login_refused.clone());
        let name = export.name.clone();
        let records = batch([event(0)]);
        let token = CancellationToken::new();
        let delivery = export.deliver(&records, &token);
        tokio::pin!(delivery);
        while trouble.text().is_none() {
            tokio::select! {
                _ = &mut delivery => panic!("delivered although the login is refused"),
                () = tokio::task::yield_now() => {}
            }
        }
        assert!(trouble.text().unwrap().contains("export `elasticsearch` is stopped: the login is refused (HTTP 401"));
        assert_eq!(refused.get_or_create(&name).get(), 1);
        assert!(delivery.await);
        assert_eq!(trouble.text(), None);
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
}
