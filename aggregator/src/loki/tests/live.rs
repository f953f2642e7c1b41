//! Live tail and cancellation over real sockets.

use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::{NOW, Server, event, server, tight_server};

const PATIENCE: Duration = Duration::from_secs(10);

#[allow(clippy::disallowed_methods)]
pub(super) async fn listen(server: &Server) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = server.router.clone();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub(super) async fn tail(server: &Server, params: &[(&str, &str)]) -> Result<Socket, String> {
    let address = listen(server).await;
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(params).finish();
    match tokio_tungstenite::connect_async(format!("ws://{address}/loki/api/v1/tail?{query}")).await {
        Ok((socket, _)) => Ok(socket),
        Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => Err(format!(
            "{} {}",
            answer.status().as_u16(),
            String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default())
        )),
        Err(other) => panic!("{other}"),
    }
}

async fn frame(socket: &mut Socket) -> Value {
    loop {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.expect("a frame comes").unwrap().unwrap();
        if let Message::Text(text) = message {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

/// Lines of so many entries, over as many frames as it takes.
pub(super) async fn lines(socket: &mut Socket, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    while lines.len() < count {
        let frame = frame(socket).await;
        for stream in frame["streams"].as_array().unwrap() {
            lines.extend(stream["values"].as_array().unwrap().iter().map(|v| v[1].as_str().unwrap().to_owned()));
        }
    }
    lines
}

#[tokio::test]
async fn a_tail_sends_the_past_then_what_comes() {
    let server = server();
    server.store.put("logs", (1..=9).rev().map(|n| event(n, &[("app", "api")], &format!("past {n}"))));
    server.store.put("logs", [event(2, &[("app", "web")], "other"), event(3, &[("app", "api")], "filtered out")]);
    let params = [("query", r#"{app="api"} |= "p" != "filtered""#), ("limit", "3")];
    let mut socket = tail(&server, &params).await.unwrap();
    assert_eq!(
        frame(&mut socket).await,
        json!({"streams": [{"stream": {"app": "api"}, "values": [
            [(NOW - 3_000_000_000).to_string(), "past 3"],
            [(NOW - 2_000_000_000).to_string(), "past 2"],
            [(NOW - 1_000_000_000).to_string(), "past 1"],
        ]}]})
    );
    server.store.put("logs", [event(0, &[("app", "web")], "other p"), event(0, &[("app", "api")], "live p")]);
    assert_eq!(lines(&mut socket, 1).await, ["live p"]);
    socket.close(None).await.unwrap();
}

#[tokio::test]
async fn nothing_is_missing_or_doubled_where_past_and_live_meet() {
    for round in 0..3 {
        let server = server();
        let store = Arc::clone(&server.store);
        let written = tokio::task::spawn_blocking(move || {
            for n in 0..200u64 {
                store.put("logs", [event(n, &[("app", "api")], &format!("{n}"))]);
                // Slow enough for the tail to keep up, long enough for it to begin meanwhile.
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        let mut socket = tail(&server, &[("query", r#"{app="api"}"#), ("limit", "1000")]).await.unwrap();
        written.await.unwrap();
        server.store.put(
            "logs",
            [event(0, &[("app", "api")], "last")].map(|mut e| {
                e.position.offset = 1_000_000;
                e
            }),
        );
        let mut got = lines(&mut socket, 201).await;
        got.sort();
        let mut want: Vec<String> = (0..200).map(|n| n.to_string()).chain(["last".to_owned()]).collect();
        want.sort();
        assert_eq!(got, want, "round {round}");
    }
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_told_what_it_lost() {
    let server = server();
    let mut socket = tail(&server, &[("query", r#"{app="api"}"#)]).await.unwrap();
    server.store.put("logs", [event(1, &[("app", "api")], "first")]);
    assert_eq!(lines(&mut socket, 1).await, ["first"]);
    // One thread: the tail sees nothing of these before all are written, and the store remembers 64 batches.
    server.store.put("logs", (100..300).map(|n| event(n, &[("app", "api")], &n.to_string())));
    let (mut lost, mut got) = (Vec::new(), 0);
    while got < 64 {
        let frame = frame(&mut socket).await;
        lost.extend(frame["dropped_entries"].as_array().cloned().unwrap_or_default());
        got +=
            frame["streams"].as_array().unwrap().iter().map(|s| s["values"].as_array().unwrap().len()).sum::<usize>();
    }
    assert_eq!(got, 64);
    assert_eq!(lost, [json!({"labels": r#"{app="api"}"#, "timestamp": (NOW - 1_000_000_000).to_string()})]);
}

#[tokio::test]
async fn delayed_lines_come_in_order_of_time() {
    let server = server();
    let mut socket = tail(&server, &[("query", r#"{app="api"}"#), ("delay_for", "1"), ("limit", "1")]).await.unwrap();
    server.store.put("logs", [event(9, &[("app", "api")], "first so that the subscription is known to stand")]);
    assert_eq!(lines(&mut socket, 1).await.len(), 1);
    for n in [1, 3, 2] {
        server.store.put("logs", [event(n, &[("app", "api")], &format!("{n}"))]);
    }
    assert_eq!(lines(&mut socket, 3).await, ["3", "2", "1"]);
}

#[tokio::test]
async fn faulty_tails_are_refused_before_the_upgrade() {
    let server = server();
    for (params, want) in [
        (vec![("query", "{")], "400 parse error"),
        (vec![("query", r#"rate({app="api"}[1m])"#)], "400 "),
        (vec![("query", r#"{app="api"}"#), ("delay_for", "6")], "400 delay_for can't be greater than 5"),
        (vec![("query", r#"{app="api"}"#), ("limit", "0")], "400 limit must be a positive value"),
    ] {
        let got = tail(&server, &params).await.err().unwrap();
        assert!(got.starts_with(want), "{params:?}: {got}");
    }
}

#[tokio::test]
async fn stopping_closes_tails() {
    let server = server();
    let mut socket = tail(&server, &[("query", r#"{app="api"}"#)]).await.unwrap();
    server.shutdown.cancel();
    let end = tokio::time::timeout(PATIENCE, async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Close(Some(frame)) = message {
                return frame.reason.to_string();
            }
        }
        String::new()
    });
    assert_eq!(end.await.unwrap(), "server is stopping");
    socket.flush().await.ok();
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_query() {
    let server = server();
    let address = listen(&server).await;
    let asked = server.hang();
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET /loki/api/v1/labels HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let budget = tokio::time::timeout(PATIENCE, asked).await.unwrap().unwrap();
    assert_eq!(budget.check(), Ok(()));
    drop(client);
    let ended = tokio::time::timeout(PATIENCE, budget.within(std::future::pending::<()>())).await;
    assert_eq!(ended.expect("the query ends"), Err(millrace_logql::OverBudget::Cancelled));
}

#[tokio::test]
async fn queries_beyond_the_limit_wait_and_then_are_refused() {
    let server = tight_server();
    let address = listen(&server).await;
    let ask = async || {
        let mut client = TcpStream::connect(address).await.unwrap();
        let request = b"GET /loki/api/v1/labels HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let taken = server.queries.begin(&millrace_log::record::Tenant::default()).await.unwrap();
    let refused = ask().await;
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    assert!(refused.to_lowercase().contains("retry-after: 1"), "{refused}");
    drop(taken);
    let _asked = server.hang();
    let late = ask().await;
    assert!(late.starts_with("HTTP/1.1 504"), "{late}");
}
