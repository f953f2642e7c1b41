//! Syslog over real sockets: datagrams, both framings, TLS, what is malformed, too long or too varied, and pressure.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write as _;
use std::net::{TcpStream, UdpSocket};
use std::sync::Arc;

use millrace_agent::config::AgentConfig;
use millrace_log::record::Event;
use serde_json::json;
use support::{FakeLog, Mood, Running, checked, port, tls_client, until};

fn config(port: u16, more: serde_json::Value) -> AgentConfig {
    let address = format!("127.0.0.1:{port}");
    let mut source = json!({"type": "syslog", "udp": address, "tcp": address, "labels": {"env": "prod"}});
    source.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    checked(source)
}

async fn events(log: &FakeLog, count: usize) -> Vec<Event> {
    until("the messages are in the log", || log.events().len() >= count).await;
    let mut events: Vec<Event> = log.events().into_iter().map(|(_, event)| event).collect();
    events.sort_by(|a, b| a.line.cmp(&b.line));
    events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_every_kind_reach_the_log_with_their_fields() {
    let (data, log, port) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 2), port());
    let agent = Running::start(&config(port, json!({"max_line_bytes": "64B"})), data.path(), &log).await;
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.send_to(b"<13>1 2026-01-02T03:04:05.5Z web nginx 7 ID1 [a@1 b=\"c\"] 1 by datagram\n", ("127.0.0.1", port))
        .unwrap();
    udp.send_to(b"2 is no syslog", ("127.0.0.1", port)).unwrap();
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
    tcp.write_all(b"<34>Jan  2 03:04:05 db su[9]: 3 by line\n35 <34>Jan  2 03:04:05 db su: 4 by\nlen").unwrap();
    tcp.write_all(format!("<34>Jan  2 03:04:05 db su: 5 {}\n", "x".repeat(20_000)).as_bytes()).unwrap();
    tcp.write_all(b"<34>Jan  2 03:04:05 db su: 6 without its end").unwrap();
    drop(tcp);
    let events = events(&log, 6).await;
    let found: Vec<(String, String, String)> = events
        .iter()
        .map(|e| (String::from_utf8_lossy(&e.line).into_owned(), e.labels.to_json(), e.metadata.to_json()))
        .collect();
    let db = r#"{"env":"prod","host":"db","service":"su"}"#;
    let of_su = r#"{"facility":"auth","peer":"127.0.0.1","severity":"crit"}"#;
    let cut = format!("5 {}", "x".repeat(62));
    let want = [
        (
            "1 by datagram",
            r#"{"env":"prod","host":"web","service":"nginx"}"#,
            r#"{"a_1_b":"c","facility":"user","msgid":"ID1","peer":"127.0.0.1","procid":"7","severity":"notice"}"#,
        ),
        ("2 is no syslog", r#"{"env":"prod"}"#, r#"{"peer":"127.0.0.1","syslog":"malformed"}"#),
        ("3 by line", db, r#"{"facility":"auth","peer":"127.0.0.1","procid":"9","severity":"crit"}"#),
        ("4 by\nlen", db, of_su),
        (&cut, db, ""),
        ("6 without its end", db, of_su),
    ];
    for (found, want) in found.iter().zip(want) {
        assert_eq!((found.0.as_str(), found.1.as_str()), (want.0, want.1));
        // The mark of a cut line stands among the metadata in its own way.
        assert!(want.2.is_empty() || found.2 == want.2, "{found:?}");
    }
    assert_eq!(events[0].time_ns, 1_767_323_045_500_000_000);
    let balance = agent.ledger.snapshot().total;
    assert_eq!(balance.read.lines, 6);
    assert!(balance.adds_up(), "{balance:?}");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_beyond_the_limit_of_streams_become_metadata() {
    let (data, log, port) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 2), port());
    let agent = Running::start(&config(port, json!({"max_streams": 3})), data.path(), &log).await;
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
    for n in 0..6 {
        writeln!(tcp, "<13>Jan  2 03:04:05 host{n} app: {n}").unwrap();
    }
    let events = events(&log, 6).await;
    let hosts: Vec<Option<&str>> = events.iter().map(|e| e.labels.get("host")).collect();
    assert_eq!(hosts, [Some("host0"), Some("host1"), None, None, None, None]);
    assert_eq!(events[5].metadata.get("host"), Some("host5"));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_waits_while_the_log_is_away_and_datagrams_are_counted() {
    let (data, log, port) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 1), port());
    let mut config = config(port, json!({}));
    config.max_waiting_bytes = millrace_log::value::ByteSize(256 << 10);
    let agent = Running::start(&config, data.path(), &log).await;
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    until("the agent has reached the log", || {
        udp.send_to(b"<13>Jan  2 03:04:05 h c: first", ("127.0.0.1", port)).unwrap();
        !log.events().is_empty()
    })
    .await;
    log.mood(Mood::Away);
    let writer = std::thread::spawn(move || {
        let mut tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
        for n in 0..20_000 {
            writeln!(tcp, "<13>Jan  2 03:04:05 h a: tcp {n:06} {}", "y".repeat(200)).unwrap();
        }
    });
    let mut sent = 0;
    until("datagrams are dropped", || {
        for _ in 0..20 {
            sent += usize::from(udp.send_to(b"<13>Jan  2 03:04:05 h b: udp", ("127.0.0.1", port)).is_ok());
        }
        agent.ledger.snapshot().total.dropped.contains_key("full")
    })
    .await;
    log.mood(Mood::Good);
    writer.join().unwrap();
    let lines = |of: &str| log.events().iter().filter(|(_, e)| e.line.starts_with(of.as_bytes())).count();
    until("all of the connection is in the log", || lines("tcp") == 20_000).await;
    let numbers: Vec<Vec<u8>> =
        log.events().into_iter().map(|(_, e)| e.line.to_vec()).filter(|line| line.starts_with(b"tcp")).collect();
    assert!(numbers.is_sorted(), "a connection's messages stay in order");
    until("each datagram is in the log or counted", || {
        let dropped: u64 = agent.ledger.snapshot().total.dropped.values().map(|count| count.lines).sum();
        lines("udp") as u64 + dropped == sent as u64
    })
    .await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_asks_for_the_certificate_of_the_client() {
    let (data, log, port) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 1), port());
    let file = |name: &str, text: String| {
        let path = data.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let server = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let client = rcgen::generate_simple_self_signed(["device".to_owned()]).unwrap();
    let tls = json!({
        "cert_file": file("cert.pem", server.cert.pem()),
        "key_file": file("key.pem", server.signing_key.serialize_pem()),
        "client_ca_file": file("client.pem", client.cert.pem()),
        "client_auth": "required",
    });
    let agent = Running::start(&config(port, json!({"udp": "", "tls": tls})), &data.path().join("agent"), &log).await;
    let (known, nobody) = (Arc::new(tls_client(&server, Some(&client))), Arc::new(tls_client(&server, None)));
    let say = move |text: &'static str, with_certificate: bool| {
        let config = if with_certificate { known.clone() } else { nobody.clone() };
        tokio::task::spawn_blocking(move || {
            let tls = rustls::ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
            let mut stream = rustls::StreamOwned::new(tls, TcpStream::connect(("127.0.0.1", port)).unwrap());
            let message = format!("<13>1 2026-01-02T03:04:05Z h a - - - {text}");
            // RFC 5425: octet counting. Whoever shows no certificate may learn of it only by the next read.
            write!(stream, "{} {message}", message.len()).ok();
            stream.flush().ok();
            stream.conn.send_close_notify();
            stream.flush().ok();
        })
    };
    let mut plain = TcpStream::connect(("127.0.0.1", port)).unwrap();
    plain.write_all(b"<13>Jan  2 03:04:05 h a: in plain text\n").unwrap();
    say("from a stranger", false).await.unwrap();
    say("from a device", true).await.unwrap();
    let events = events(&log, 1).await;
    agent.stop().await;
    assert_eq!(log.events().len(), 1, "{:?}", log.events());
    assert_eq!(events[0].line, "from a device");
}
