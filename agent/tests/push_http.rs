//! Sources that are pushed to by HTTP, over real connections: what is taken, what is refused and how, TLS and logins.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use millrace_log::record::{Event, Labels};
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use serde_json::json;
use support::{FakeLog, Mood, Running, checked, port, tls_client, until};

#[derive(Debug)]
struct Answered {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answered {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One request on a connection of its own.
fn exchange(
    mut stream: impl std::io::Read + std::io::Write,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answered {
    let mut head =
        format!("POST {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    // The door may answer before it has read a body that it refuses.
    stream.write_all(body).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    let at = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("an answer");
    let head = String::from_utf8(answer[..at].to_vec()).unwrap().to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answered { status, head, body: answer[at + 4..].to_vec() }
}

async fn post(port: u16, target: &str, headers: &[(&'static str, &'static str)], body: impl Into<Vec<u8>>) -> Answered {
    let (target, headers, body) = (target.to_owned(), headers.to_vec(), body.into());
    tokio::task::spawn_blocking(move || {
        let stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        exchange(stream, &target, &headers, &body)
    })
    .await
    .unwrap()
}

fn lines(events: &[Event]) -> Vec<String> {
    let mut lines: Vec<String> = events.iter().map(|e| String::from_utf8_lossy(&e.line).into_owned()).collect();
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_each_form_and_compression_are_taken() {
    let (data, log, port) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 2), port());
    let config = checked(json!({
        "type": "http", "listen": format!("127.0.0.1:{port}"), "path": "/logs", "labels": {"env": "prod"},
        "label_headers": {"app": "X-App"}, "label_params": {"team": "t"}, "label_fields": {"level": "log.level"},
        "tenant_header": "X-Scope-OrgID", "timestamp": {"field": "ts", "format": "unix_ms"}, "max_line_bytes": "64B",
        "limits": {"max_body": "2KiB", "max_body_unpacked": "4KiB"},
    }));
    let agent = Running::start(&config, data.path(), &log).await;
    let gzip = |plain: &[u8]| {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(plain).unwrap();
        writer.finish().unwrap()
    };
    let json_type = ("content-type", "application/json");
    let nd = ("content-type", "application/x-ndjson");
    type Case = (&'static str, Vec<(&'static str, &'static str)>, Vec<u8>, u16, &'static str, Vec<&'static str>);
    let cases: Vec<Case> = vec![
        ("/logs", vec![], b"one\r\n\ntwo".to_vec(), 204, "", vec!["one", "two"]),
        ("/logs", vec![nd], b"{\"a\":1}\n\n \"text\"\n".to_vec(), 204, "", vec!["text", "{\"a\":1}"]),
        ("/logs", vec![json_type], b"[{\"a\": 2}, \"t2\"]".to_vec(), 204, "", vec!["t2", "{\"a\": 2}"]),
        ("/logs", vec![json_type], b"{\"a\":3}".to_vec(), 204, "", vec!["{\"a\":3}"]),
        ("/logs", vec![("content-encoding", "gzip")], gzip(b"packed\n"), 204, "", vec!["packed"]),
        ("/logs", vec![("content-encoding", "zstd")], zstd::bulk::compress(b"zst", 1).unwrap(), 204, "", vec!["zst"]),
        ("/logs", vec![("content-encoding", "gzip")], gzip(&[b'x'; 5000]), 413, "4096 are allowed", vec![]),
        ("/logs", vec![("content-encoding", "gzip")], b"no gzip".to_vec(), 400, "decompressed", vec![]),
        ("/logs", vec![("content-encoding", "br")], b"x".to_vec(), 400, "not supported", vec![]),
        ("/logs", vec![], vec![b'x'; 3000], 413, "limits.max_body", vec![]),
        ("/logs", vec![nd], b"{}\n{\n".to_vec(), 400, "line 2 of the body is not valid JSON", vec![]),
        ("/logs", vec![json_type], b"[{}".to_vec(), 400, "body is not valid JSON", vec![]),
        ("/logs", vec![("x-scope-orgid", "a/b")], b"x".to_vec(), 400, "tenant `a/b`", vec![]),
        ("/other", vec![], b"x".to_vec(), 404, "/logs", vec![]),
    ];
    let mut sent = 0;
    for (target, headers, body, status, text, want) in cases {
        let before = log.events().len();
        let answer = post(port, target, &headers, body).await;
        assert_eq!(answer.status, status, "{target} {headers:?}: {}", answer.text());
        assert!(answer.text().contains(text), "{}", answer.text());
        let new: Vec<Event> = log.events().into_iter().skip(before).map(|(_, e)| e).collect();
        assert_eq!(lines(&new), want, "{headers:?}: acknowledged means in the log, refused means not");
        sent += want.len() as u64;
    }
    let headers = [nd, ("x-app", "shop"), ("x-scope-orgid", "team-a")];
    let long = "y".repeat(80);
    let body = format!("{{\"ts\":1700000000001,\"log\":{{\"level\":\"warn\"}}}}\n{{\"l\":\"{long}\"}}\n");
    assert_eq!(post(port, "/logs?t=pay%20ments&u=1", &headers, body).await.status, 204);
    let events: Vec<Event> =
        log.events().into_iter().map(|(_, e)| e).filter(|e| e.tenant.as_str() == "team-a").collect();
    let of = |level: Option<&str>| {
        let labels = [("app", "shop"), ("env", "prod"), ("team", "pay ments"), ("level", level.unwrap_or_default())];
        let labels = Labels::new(labels);
        events.iter().find(|e| e.labels == labels).unwrap_or_else(|| panic!("{labels}: {events:?}"))
    };
    assert_eq!((of(Some("warn")).time_ns, of(Some("warn")).cut), (1_700_000_000_001_000_000, false));
    assert!(of(None).cut && of(None).line.len() == 64);
    until("the ledger has all", || agent.ledger.snapshot().total.sent.records == sent + 2).await;
    let ledger = agent.ledger.snapshot();
    assert_eq!((ledger.sources[0].kind.as_str(), ledger.total.dropped["cut"].bytes), ("http", 24));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_away_is_told_and_clients_come_again() {
    let (data, log, port) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 2), port());
    let mut config = checked(json!({
        "type": "http", "listen": format!("127.0.0.1:{port}"),
        "limits": {"answer_timeout": "100ms", "max_body": "256KiB", "max_body_unpacked": "512KiB"},
    }));
    config.max_waiting_bytes = millrace_log::value::ByteSize::mib(1);
    log.mood(Mood::Away);
    let agent = Running::start(&config, data.path(), &log).await;
    let early = post(port, "/", &[], "early").await;
    assert!(early.status == 503 && early.head.contains("retry-after: "), "{early:?}");
    log.mood(Mood::Good);
    until("the log is reached", || agent.ledger.snapshot().sources.len() == 1).await;
    while post(port, "/", &[], "first").await.status != 204 {}
    log.mood(Mood::Away);
    let late = post(port, "/", &[], "late").await;
    assert!(late.status == 503 && late.text().contains("in time"), "{late:?}");
    let mut last = 503;
    while last == 503 {
        last = post(port, "/", &[], vec![b'x'; 200 << 10]).await.status;
    }
    assert_eq!(last, 429, "no memory is left");
    let refused = agent.metrics.refused.clone();
    let reason = millrace_agent::metrics::Refused { source: format!("http:127.0.0.1:{port}"), reason: "not_ready" };
    assert!(refused.get_or_create(&reason).get() >= 1);
    log.mood(Mood::Good);
    agent.stop().await;
    assert!(log.lines().contains(&"late".to_owned()), "what was taken is sent though nobody waits for it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_and_certificates_are_asked_for() {
    let (data, log, port) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 1), port());
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = |name: &str, text: String| {
        let path = data.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let config = checked(json!({
        "type": "http", "listen": format!("127.0.0.1:{port}"),
        "tls": {"cert_file": file("cert.pem", made.cert.pem()), "key_file": file("key.pem", made.signing_key.serialize_pem())},
        "auth": {"token": "s3cret", "username": "u", "password": "p"},
    }));
    let agent = Running::start(&config, &data.path().join("agent"), &log).await;
    let client = Arc::new(tls_client(&made, None));
    let push = move |auth: Option<&'static str>| {
        let client = client.clone();
        tokio::task::spawn_blocking(move || {
            let tls = rustls::ClientConnection::new(client, "localhost".try_into().unwrap()).unwrap();
            let stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            let headers: Vec<(&str, &str)> = auth.map(|value| ("authorization", value)).into_iter().collect();
            exchange(rustls::StreamOwned::new(tls, stream), "/", &headers, b"secret line").status
        })
    };
    until("the log is reached", || agent.ledger.snapshot().sources.len() == 1).await;
    for (auth, want) in [
        (None, 401),
        (Some("Bearer wrong!"), 401),
        (Some("Basic dTp4"), 401),
        (Some("Bearer s3cret"), 204),
        (Some("Basic dTpw"), 204),
    ] {
        let mut status = push(auth).await.unwrap();
        while status == 503 {
            status = push(auth).await.unwrap();
        }
        assert_eq!(status, want, "{auth:?}");
    }
    let plain = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        answer.starts_with(b"HTTP")
    });
    assert!(!plain.await.unwrap(), "plain text is not answered");
    agent.stop().await;
    assert_eq!(log.lines().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loki_pushes_are_answered_as_loki_does() {
    use millrace_log::push::loki_proto::{EntryAdapter, LabelPair, PushRequest, StreamAdapter, Timestamp};
    let (data, log, port) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 2), port());
    let config = checked(json!({
        "type": "loki", "listen": format!("127.0.0.1:{port}"), "labels": {"via": "agent"}, "max_line_bytes": "64B",
        "max_streams": 3, "tenant": "own",
    }));
    let agent = Running::start(&config, data.path(), &log).await;
    let path = "/loki/api/v1/push";
    let entry = |line: &str| EntryAdapter {
        timestamp: Some(Timestamp { seconds: 1_700_000_000, nanos: 7 }),
        line: bytes::Bytes::copy_from_slice(line.as_bytes()),
        structured_metadata: vec![LabelPair { name: "trace.id".into(), value: "t1".into() }],
    };
    let request = PushRequest {
        streams: vec![StreamAdapter {
            labels: r#"{app="a"}"#.into(),
            entries: vec![entry("proto 1"), entry("proto 2")],
        }],
    };
    let body = snap::raw::Encoder::new().compress_vec(&request.encode_to_vec()).unwrap();
    let proto = ("content-type", "application/x-protobuf");
    assert_eq!(post(port, path, &[proto, ("x-scope-orgid", "team-a")], body).await.status, 204);
    let event = log.events().remove(0).1;
    assert_eq!((event.tenant.as_str(), event.time_ns), ("team-a", 1_700_000_000_000_000_007));
    assert_eq!(event.labels, Labels::new([("app", "a"), ("via", "agent")]));
    assert_eq!(event.metadata, Labels::new([("trace_id", "t1")]));
    let kind = ("content-type", "application/json");
    let long = "x".repeat(65);
    let stream = |app: &str, lines: &[&str]| {
        let values: Vec<_> = lines.iter().map(|line| json!(["5", line])).collect();
        json!({"stream": {"app": app}, "values": values})
    };
    let over = json!({"streams": [stream("a", &["ok", &long]), {"stream": {}, "values": [["1", "x"]]}]});
    let streams = json!({"streams": [stream("b", &["b"]), stream("c", &["c"]), stream("d", &["d1", "d2"])]});
    for (body, status, text, want) in [
        (json!({"streams": [stream("a", &["json"])]}), 204, "", vec!["json"]),
        (over, 400, "max entry size '64' bytes exceeded for stream '{app=\"a\"}'", vec!["ok"]),
        (json!({"streams": []}), 422, "error at least one valid stream is required for ingestion", vec![]),
        (json!({"streams": [{"stream": {"a-b": "x"}, "values": [["1", "x"]]}]}), 400, "Error parsing labels", vec![]),
        (streams, 429, "maximum active stream limit exceeded", vec!["b"]),
    ] {
        let before = log.events().len();
        let answer = post(port, path, &[kind], body.to_string()).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        assert!(answer.text().contains(text), "{}", answer.text());
        let new: Vec<Event> = log.events().into_iter().skip(before).map(|(_, e)| e).collect();
        assert_eq!(lines(&new), want);
        assert!(new.iter().all(|event| event.tenant.as_str() == "own"));
    }
    assert_eq!(post(port, path, &[proto], "no snappy").await.status, 400);
    agent.stop().await;
}

/// The same as [`post`] of JSON from another address of this host.
async fn post_from(address: [u8; 4], port: u16, target: &str, body: &serde_json::Value) -> Answered {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((address, 0).into()).unwrap();
    let stream = socket.connect(([127, 0, 0, 1], port).into()).await.unwrap().into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    let (target, body) = (target.to_owned(), body.to_string().into_bytes());
    let answered = move || exchange(stream, &target, &[("content-type", "application/json")], &body);
    tokio::task::spawn_blocking(answered).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_uses_up_all_streams_leaves_others_their_share() {
    let (data, log, port) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 2), port());
    let config = checked(json!({"type": "loki", "listen": format!("127.0.0.1:{port}"), "max_streams": 8}));
    let agent = Running::start(&config, data.path(), &log).await;
    let push = |names: Vec<String>| {
        let streams: Vec<_> = names.iter().map(|n| json!({"stream": {"app": n}, "values": [["5", n]]})).collect();
        json!({ "streams": streams })
    };
    let (flood, other) = ([127, 0, 0, 1], [127, 0, 0, 2]);
    let many = push((0..50).map(|n| format!("flood {n}")).collect());
    let path = "/loki/api/v1/push";
    let refused = post_from(flood, port, path, &many).await;
    assert_eq!(refused.status, 429, "{}", refused.text());
    for (from, name, status) in [
        (other, "other 1", 204),
        (other, "other 2", 204),
        (other, "other 3", 204),
        (other, "other 4", 204),
        (other, "other 5", 429),
        (flood, "flood new", 429),
        (flood, "flood 0", 204),
        (flood, "other 1", 204),
        (other, "other 1", 204),
    ] {
        let answer = post_from(from, port, path, &push(vec![name.to_owned()])).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.text());
    }
    agent.stop().await;
}

fn text(value: &str) -> Option<AnyValue> {
    Some(AnyValue { value: Some(Any::StringValue(value.to_owned())) })
}

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: text(value), ..KeyValue::default() }
}

fn export(service: &str, lines: &[&str]) -> ExportLogsServiceRequest {
    let record = |line: &&str| LogRecord {
        time_unix_nano: 1_700_000_000_000_000_005,
        severity_text: "WARN".to_owned(),
        severity_number: 13,
        body: text(line),
        attributes: vec![attribute("http.method", "GET")],
        trace_id: vec![0xab; 16],
        span_id: vec![0xcd; 8],
        ..LogRecord::default()
    };
    let scope = InstrumentationScope { name: "lib".to_owned(), ..InstrumentationScope::default() };
    let scope_logs =
        ScopeLogs { scope: Some(scope), log_records: lines.iter().map(record).collect(), ..ScopeLogs::default() };
    let attributes = vec![attribute("service.name", service), attribute("process.pid", "7")];
    let resource = Resource { attributes, ..Resource::default() };
    let logs = ResourceLogs { resource: Some(resource), scope_logs: vec![scope_logs], ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![logs] }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn otlp_comes_by_http_in_both_forms_and_by_grpc() {
    let (data, log, http, grpc) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 2), port(), port());
    let config = checked(json!({
        "type": "otlp", "http": format!("127.0.0.1:{http}"), "grpc": format!("127.0.0.1:{grpc}"),
        "auth": {"token": "s3cret"}, "max_streams": 1,
    }));
    let agent = Running::start(&config, data.path(), &log).await;
    let (proto, kind) = (("content-type", "application/x-protobuf"), ("content-type", "application/json"));
    let login = ("authorization", "Bearer s3cret");
    let body = || export("shop", &["by protobuf"]).encode_to_vec();
    let mut answer = post(http, "/v1/logs", &[proto, login], body()).await;
    while answer.status == 503 {
        answer = post(http, "/v1/logs", &[proto, login], body()).await;
    }
    assert_eq!(answer.status, 200);
    assert_eq!(ExportLogsServiceResponse::decode(&answer.body[..]).unwrap().partial_success, None);
    let event = log.events().remove(0).1;
    assert_eq!(event.labels, Labels::new([("service_name", "shop")]));
    assert_eq!(event.time_ns, 1_700_000_000_000_000_005);
    let (trace, span) = ("ab".repeat(16), "cd".repeat(8));
    let want = [
        ("http_method", "GET"),
        ("process_pid", "7"),
        ("scope_name", "lib"),
        ("severity_number", "13"),
        ("severity_text", "WARN"),
        ("span_id", &span),
        ("trace_id", &trace),
    ];
    assert_eq!(event.metadata, Labels::new(want));

    let json = r#"{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},
        "scopeLogs":[{"logRecords":[{"timeUnixNano":"1700000000000000009","severityNumber":9,
        "body":{"kvlistValue":{"values":[{"key":"n","value":{"intValue":"5"}}]}},"traceId":"5b8efff798038103d269b633813fc60c"}]}]}]}"#;
    let answer = post(http, "/v1/logs", &[kind, login], json).await;
    assert_eq!((answer.status, answer.head.contains("application/json")), (200, true), "{}", answer.text());
    let event = log.events().pop().unwrap().1;
    assert_eq!((&event.line[..], event.time_ns), (&br#"{"n":5}"#[..], 1_700_000_000_000_000_009));
    assert_eq!(event.metadata.get("trace_id"), Some("5b8efff798038103d269b633813fc60c"));

    for (headers, target, body, status) in [
        (vec![kind], "/v1/logs", "{}", 401),
        (vec![kind, login], "/v1/traces", "{}", 404),
        (vec![kind, login], "/v1/logs", "{", 400),
        (vec![login], "/v1/logs", "x", 415),
    ] {
        let answer = post(http, target, &headers, body).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    let answer = post(http, "/v1/logs", &[proto, login], export("another", &["x", "y"]).encode_to_vec()).await;
    let partial = ExportLogsServiceResponse::decode(&answer.body[..]).unwrap().partial_success.unwrap();
    assert_eq!((answer.status, partial.rejected_log_records), (200, 2));
    assert!(partial.error_message.contains("max_streams"), "{}", partial.error_message);

    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://127.0.0.1:{grpc}")).unwrap().connect().await.unwrap();
    let mut client = LogsServiceClient::new(channel).send_compressed(tonic::codec::CompressionEncoding::Gzip);
    let denied = client.export(export("shop", &["denied"])).await.unwrap_err();
    assert_eq!(denied.code(), tonic::Code::Unauthenticated);
    let request = |service: &str, line: &str| {
        let mut request = tonic::Request::new(export(service, &[line]));
        request.metadata_mut().insert("authorization", "Bearer s3cret".parse().unwrap());
        request.metadata_mut().insert("x-scope-orgid", "default".parse().unwrap());
        request
    };
    let answer = client.export(request("shop", "by grpc")).await.unwrap();
    assert_eq!(answer.into_inner().partial_success, None);
    assert_eq!(&log.events().pop().unwrap().1.line[..], b"by grpc");
    let answer = client.export(request("another", "x")).await.unwrap();
    assert_eq!(answer.into_inner().partial_success.unwrap().rejected_log_records, 1);
    agent.stop().await;
    assert_eq!(log.lines().len(), 3);
}

/// A way to a door over TLS, with HTTP/2 agreed on by ALPN.
#[derive(Clone)]
struct Dial {
    port: u16,
    tls: Arc<rustls::ClientConfig>,
}

impl tower_service::Service<http::Uri> for Dial {
    type Response = hyper_util::rt::TokioIo<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>;
    type Error = std::io::Error;
    type Future = futures::future::BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let Self { port, tls } = self.clone();
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
            let name = "localhost".try_into().unwrap();
            let stream = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await?;
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            Ok(hyper_util::rt::TokioIo::new(stream))
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_certificates_are_asked_for_by_http_and_by_grpc() {
    let (data, log, http, grpc) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 1), port(), port());
    let file = |name: &str, text: String| {
        let path = data.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let made = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let (server, known, stranger) = (made("localhost"), made("known"), made("stranger"));
    let config = checked(json!({
        "type": "otlp", "http": format!("127.0.0.1:{http}"), "grpc": format!("127.0.0.1:{grpc}"),
        "tls": {
            "cert_file": file("cert.pem", server.cert.pem()),
            "key_file": file("key.pem", server.signing_key.serialize_pem()),
            "client_ca_file": file("client.pem", known.cert.pem()),
            "client_auth": "required",
        },
    }));
    let agent = Running::start(&config, &data.path().join("agent"), &log).await;
    let client = |own: Option<_>, alpn: &[u8]| {
        let mut config = tls_client(&server, own);
        config.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(config)
    };
    until("the log is reached", || agent.ledger.snapshot().sources.len() == 1).await;
    for (own, is_let_in) in [(Some(&known), true), (Some(&stranger), false), (None, false)] {
        // OTLP/HTTP, over HTTP/1.1.
        let tls = client(own, b"http/1.1");
        let body = export("shop", &["by http"]).encode_to_vec();
        let answered = tokio::task::spawn_blocking(move || {
            let tls = rustls::ClientConnection::new(tls, "localhost".try_into().unwrap()).unwrap();
            let mut stream = rustls::StreamOwned::new(tls, std::net::TcpStream::connect(("127.0.0.1", http)).unwrap());
            let head = format!(
                "POST /v1/logs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: \
                 application/x-protobuf\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            // Whoever is not let in may learn of it only by the next read.
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).ok();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).ok();
            answer.starts_with(b"HTTP/1.1 200")
        });
        assert_eq!(answered.await.unwrap(), is_let_in);
        // OTLP/gRPC, over HTTP/2.
        let dial = Dial { port: grpc, tls: client(own, b"h2") };
        let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
        let answered = match endpoint.connect_with_connector(dial).await {
            Ok(channel) => LogsServiceClient::new(channel).export(export("shop", &["by grpc"])).await.is_ok(),
            Err(_) => false,
        };
        assert_eq!(answered, is_let_in);
    }
    agent.stop().await;
    let mut lines = log.lines();
    lines.sort();
    assert_eq!(lines, ["by grpc", "by http"]);
}
