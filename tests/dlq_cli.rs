//! `millrace dlq list|show|replay` as people and scripts use them: on the embedded broker with the index behind it, and
//! (ignored: needs Java and Maven) on a real Apache Kafka.

#![allow(clippy::unwrap_used)] // a test that fails says where

mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use millrace_log::client::{BatchProducer as _, ConnectionConfig, DELIVERY_TIMEOUT, WireProducer};
use millrace_log::clock::{Clock as _, SystemClock};
use millrace_log::dead_letter::dead_letter;
use millrace_log::record::{Event, Labels, Position, Record, SourceId, Tenant, TopicPartition, encode};
use serde_json::{Value as Json, json};
use support::{Server, Site, until};

/// Standard output, standard error and exit code.
fn millrace(brokers: &str, arguments: &[&str]) -> (String, String, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_millrace"))
        .args(arguments)
        .args(["--brokers", brokers])
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code().unwrap())
}

fn good(brokers: &str, arguments: &[&str]) -> String {
    let (out, err, code) = millrace(brokers, arguments);
    assert_eq!(code, 0, "{arguments:?}: {out}{err}");
    out
}

fn told(brokers: &str, arguments: &[&str]) -> Json {
    let out = good(brokers, &[arguments, &["-o", "json"]].concat());
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
}

const SOURCE: SourceId = SourceId([7; 16]);

fn event(n: u64, now_ms: i64) -> Record {
    let event = Event {
        tenant: Tenant::default(),
        time_ns: now_ms * 1_000_000,
        labels: Labels::new([("service", "checkout")]),
        metadata: Labels::default(),
        line: format!("line {n}").into(),
        source: SOURCE,
        position: Position::at(n),
        doc: None,
        cut: false,
        time_from_line: false,
    };
    encode(&event, now_ms)
}

fn send(brokers: &str, topic: &str, partition: i32, records: Vec<Record>) {
    let connection = ConnectionConfig { brokers: vec![brokers.to_owned()], ..ConnectionConfig::default() };
    let producer = WireProducer::new(&connection, Some(DELIVERY_TIMEOUT)).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(producer.send(&TopicPartition::new(topic, partition), records)).unwrap();
}

/// Eight letters: 0 to 3 of the agent, 4 and 5 of an export, 6 from a topic that is gone, 7 of nobody.
fn letters(now_ms: i64) -> Vec<Record> {
    let agent = (0..4).map(|n| {
        let time = now_ms - 7_200_000 + i64::try_from(n).unwrap() * 3_600_000;
        dead_letter(event(n, now_ms), "agent", &format!("record of {} bytes is too large", 1000 + n), "logs-0", time)
    });
    let export = (4..6).map(|n| {
        dead_letter(
            event(n, now_ms),
            "export-elasticsearch",
            "mapper_parsing_exception",
            &format!("logs-1@{n}"),
            now_ms,
        )
    });
    let gone = dead_letter(event(6, now_ms), "decode", "version 9 is not known", "gone-0@3", now_ms);
    let foreign = Record { timestamp_ms: now_ms, value: Some("who knows".into()), ..Record::default() };
    agent.chain(export).chain([gone, foreign]).collect()
}

/// The same on any Kafka.
fn everything_works(brokers: &str) {
    assert_eq!(good(brokers, &["dlq", "list"]), "millrace.dlq: no dead letters\n");
    let (_, err, code) = millrace(brokers, &["dlq", "show", "0@0"]);
    assert!(code == 1 && err.contains("has no dead letter 0@0"), "{code} {err}");
    assert!(good(brokers, &["dlq", "replay"]).contains("0 dead letters replayed"));

    good(brokers, &["broker", "topics", "create", "logs", "--partitions", "2"]);
    good(brokers, &["broker", "topics", "create", "millrace.dlq", "--partitions", "1"]);
    let now_ms = SystemClock.now_ms();
    send(brokers, "millrace.dlq", 0, letters(now_ms));

    // What there is.
    let list = told(brokers, &["dlq", "list", "-n", "2"]);
    assert_eq!((&list["letters"], &list["replayed"]), (&json!(8), &json!(0)));
    let groups: Vec<(&str, &str, u64)> = list["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| (g["reason"].as_str().unwrap(), g["topic"].as_str().unwrap(), g["count"].as_u64().unwrap()))
        .collect();
    assert_eq!(&groups[..2], [("record of # bytes is too large", "logs", 4), ("mapper_parsing_exception", "logs", 2)]);
    // Letter 3 is dated an hour ahead.
    let newest: Vec<&str> = list["newest"].as_array().unwrap().iter().map(|l| l["letter"].as_str().unwrap()).collect();
    assert_eq!(newest, ["0@3", "0@7"]);
    let text = good(brokers, &["dlq", "list", "--stage", "decode"]);
    assert!(text.contains("gone-0@3") && text.contains("version # is not known"), "{text}");
    assert_eq!(told(brokers, &["dlq", "list", "--since", "90m"])["letters"], 7);
    assert_eq!(told(brokers, &["dlq", "list", "--until", "30m"])["letters"], 2);
    let one = told(brokers, &["dlq", "show", "0@4"]);
    assert_eq!((&one["stage"], &one["from"]), (&json!("export-elasticsearch"), &json!("logs-1@4")));
    assert_eq!(one["record"]["value"], "line 4");
    let text = good(brokers, &["dlq", "show", "0@1"]);
    assert!(text.contains("reason    record of 1001 bytes") && text.ends_with("value     6 bytes\nline 1\n"), "{text}");
    let (_, err, code) = millrace(brokers, &["dlq", "show", "first"]);
    assert!(code == 2 && err.contains("PARTITION@OFFSET"), "{code} {err}");

    // Back again: first nothing, then one, then what can go.
    let dry = told(brokers, &["dlq", "replay", "--dry-run", "--stage", "agent"]);
    assert_eq!((&dry["dry_run"], &dry["sent"]), (&json!(true), &json!({"logs": 4})));
    assert_eq!(good(brokers, &["broker", "consume", "logs", "--format", "x"]), "");
    let chosen = told(brokers, &["dlq", "replay", "--reason", "1001 BYTES"]);
    assert_eq!((&chosen["sent"], &chosen["replayed_before"]), (&json!({"logs": 1}), &json!(0)));
    assert_eq!(told(brokers, &["dlq", "list"])["replayed"], 1);
    let (out, err, code) = millrace(brokers, &["dlq", "replay"]);
    assert!(code == 1 && err.contains("2 dead letters were not replayed; they remain in millrace.dlq"), "{code} {err}");
    assert!(
        out.contains("5 dead letters replayed, 1 already replayed") && out.contains("`gone` does not exist"),
        "{out}"
    );
    assert!(out.contains("its origin is unknown"), "{out}");
    let (out, _, code) = millrace(brokers, &["dlq", "replay"]);
    assert!(code == 1 && out.starts_with("millrace.dlq: 0 dead letters replayed"), "{code} {out}");
    let waiting = told(brokers, &["dlq", "list", "--waiting"]);
    assert_eq!((&waiting["letters"], &waiting["newest"][0]["letter"]), (&json!(2), &json!("0@7")));

    // As they came, marked; each in its partition.
    let back = good(brokers, &["broker", "consume", "logs", "-o", "json"]);
    let back: Vec<Json> = back.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(back.len(), 6);
    let find = |line: &str| back.iter().find(|record| record["value"] == line).unwrap();
    let names = |record: &Json| -> Vec<String> {
        record["headers"].as_array().unwrap().iter().map(|h| h["name"].as_str().unwrap().to_owned()).collect()
    };
    let agent = find("line 1");
    assert_eq!(names(agent), ["labels", "millrace", "dlq.replay", "dlq.replay.time"]);
    assert_eq!((&agent["partition"], &agent["headers"][2]["value"]), (&json!(0), &json!("millrace.dlq-0@1")));
    assert_eq!(
        (&agent["millrace"]["position"], &agent["millrace"]["labels"]["service"]),
        (&json!(0), &json!("checkout"))
    );
    assert_ne!(agent["millrace"]["source"], SOURCE.to_string());
    let export = find("line 4");
    assert_eq!((&export["partition"], &export["millrace"]["position"]), (&json!(1), &json!(4)));
    assert_eq!(export["millrace"]["source"], SOURCE.to_string());

    // Again only when told; elsewhere when told.
    let again = told(brokers, &["dlq", "replay", "--again", "--stage", "agent", "-n", "2"]);
    assert_eq!(again["sent"], json!({"logs": 2}));
    good(brokers, &["broker", "topics", "create", "elsewhere", "--partitions", "1"]);
    assert_eq!(told(brokers, &["dlq", "replay", "--to", "elsewhere"])["sent"], json!({"elsewhere": 2}));
    assert_eq!(told(brokers, &["dlq", "list"])["replayed"], 8);
    let noted = good(brokers, &["broker", "consume", "millrace.audit", "--format", "{value}\\n"]);
    let noted: Vec<Json> = noted.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let detail = |event: &Json| (event["event"].clone(), event["detail"].clone());
    let want = ["1 to logs", "5 to logs", "2 to logs", "2 to elsewhere"]
        .map(|sent| (json!("replay"), json!(format!("millrace dlq replay from millrace.dlq: {sent}"))));
    assert_eq!(noted.iter().map(detail).collect::<Vec<_>>(), want, "dry runs are not replays");
    let groups = told(brokers, &["broker", "groups", "describe", "millrace-dlq-replay"]);
    assert_eq!((&groups[0]["lag"], &groups[0]["partitions"][0]["offset"]), (&json!(0), &json!(8)));
    let (_, err, code) = millrace(brokers, &["dlq", "replay", "--to", "millrace.dlq"]);
    assert!(code == 2 && err.contains("--to"), "{code} {err}");
}

#[test]
fn dead_letters_of_the_embedded_broker() {
    let site = Site::new();
    let brokers = format!("127.0.0.1:{}", site.kafka);
    let (_, err, code) = millrace(&brokers, &["dlq", "list"]);
    assert!(code == 69 && err.contains(&brokers), "{code} {err}");
    let running = site.start("broker");
    until("the broker listens", Duration::from_secs(20), || {
        std::net::TcpStream::connect(("127.0.0.1", site.kafka)).map(drop).map_err(|e| e.to_string())
    });
    everything_works(&brokers);
    assert_eq!(running.stop(), 0);
}

/// Later lines of the file are indexed long before a refused one comes back: it must be found all the same, and once.
#[test]
fn a_replayed_line_is_found_once_however_often_it_is_replayed() {
    let site = Site::new();
    let brokers = format!("127.0.0.1:{}", site.kafka);
    let running = site.start("run");
    site.wait_ready();
    let now_ms = SystemClock.now_ms();
    good(&brokers, &["broker", "topics", "create", "logs", "--partitions", "1", "--if-missing"]);
    good(&brokers, &["broker", "topics", "create", "millrace.dlq", "--partitions", "1", "--if-missing"]);
    send(&brokers, "logs", 0, vec![event(10, now_ms)]);
    let refused = dead_letter(event(5, now_ms), "agent", "too large", "logs-0", now_ms);
    send(&brokers, "millrace.dlq", 0, vec![refused]);
    let found = |want: &[&str]| {
        until("lines are found", Duration::from_secs(30), || {
            let found = site.lines_by_loki("{service=\"checkout\"}");
            let all = want.iter().all(|line| found.contains_key(*line));
            if all { Ok(found) } else { Err(format!("{found:?}")) }
        })
    };
    found(&["line 10"]);
    assert_eq!(told(&brokers, &["dlq", "replay"])["sent"], json!({"logs": 1}));
    found(&["line 10", "line 5"]);
    assert_eq!(told(&brokers, &["dlq", "replay", "--again"])["sent"], json!({"logs": 1}));
    send(&brokers, "logs", 0, vec![event(11, SystemClock.now_ms())]);
    let all = found(&["line 10", "line 5", "line 11"]);
    assert!(all.values().all(|times| *times == 1), "{all:?}");
    assert_eq!(running.stop(), 0);
}

#[test]
#[ignore = "needs Java and Maven for Apache Kafka"]
fn the_same_commands_on_apache_kafka() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start("kafka", &folder.path().join("kafka"));
    everything_works(&format!("127.0.0.1:{}", server.port));
}
