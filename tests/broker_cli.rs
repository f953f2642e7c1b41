//! `millrace broker topics|groups|consume|fsck` as people and scripts use them: tables, JSON, exit codes, on the embedded
//! broker and (ignored: needs Java and Maven) on a real Apache Kafka.

#![allow(clippy::unwrap_used)] // a test that fails says where

mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use millrace_log::client::{BatchProducer as _, ConnectionConfig, DELIVERY_TIMEOUT, WireProducer};
use millrace_log::clock::{Clock as _, SystemClock};
use millrace_log::record::{Event, Labels, Position, Record, SourceId, Tenant, TopicPartition, encode};
use serde_json::Value as Json;
use support::{Server, Site, until};

/// Standard output, standard error and exit code of a command of `millrace broker`.
fn broker(brokers: &str, arguments: &[&str]) -> (String, String, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_millrace"))
        .arg("broker")
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
    let (out, err, code) = broker(brokers, arguments);
    assert_eq!(code, 0, "{arguments:?}: {out}{err}");
    out
}

fn json(brokers: &str, arguments: &[&str]) -> Json {
    let out = good(brokers, &[arguments, &["-o", "json"]].concat());
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
}

fn fill(brokers: &str, topic: &str, count: u64) {
    let connection = ConnectionConfig { brokers: vec![brokers.to_owned()], ..ConnectionConfig::default() };
    let producer = WireProducer::new(&connection, Some(DELIVERY_TIMEOUT)).unwrap();
    let now_ms = SystemClock.now_ms();
    let event = |n: u64| Event {
        tenant: Tenant::default(),
        time_ns: now_ms * 1_000_000,
        labels: Labels::new([("service", "checkout"), ("level", if n.is_multiple_of(2) { "info" } else { "error" })]),
        metadata: Labels::default(),
        line: format!("line {n}").into(),
        source: SourceId([7; 16]),
        position: Position::at(n),
        doc: None,
        cut: false,
        time_from_line: false,
    };
    let records = (0..count).map(|n| encode(&event(n), now_ms)).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(producer.send(&TopicPartition::new(topic, 0), records)).unwrap();
}

/// The same on any Kafka.
fn everything_works(brokers: &str) {
    let made = good(brokers, &["topics", "create", "logs", "--partitions", "2", "--set", "retention.ms=3600000"]);
    assert_eq!(made, "topic logs created, 2 partitions\n");
    let (_, err, code) = broker(brokers, &["topics", "create", "logs"]);
    assert!(code == 1 && err.contains("topic `logs`") && err.contains("topics alter"), "{code} {err}");
    assert!(good(brokers, &["topics", "create", "logs", "--if-missing"]).contains("already exists"));
    fill(brokers, "logs", 10);

    let list = good(brokers, &["topics", "list"]);
    let mut lines = list.lines();
    assert_eq!(
        lines.next().unwrap().split_whitespace().collect::<Vec<_>>(),
        ["TOPIC", "PARTITIONS", "RECORDS", "SIZE", "POLICY", "RETENTION"]
    );
    let row: Vec<&str> = lines.find(|line| line.starts_with("logs ")).unwrap().split_whitespace().collect();
    assert_eq!((&row[..3], &row[4..]), (&["logs", "2", "10"][..], &["delete", "1h"][..]));
    let list = json(brokers, &["topics", "list"]);
    let row = list.as_array().unwrap().iter().find(|row| row["topic"] == "logs").unwrap();
    assert_eq!((row["records"].as_i64(), row["retention_ms"].as_i64()), (Some(10), Some(3_600_000)));

    let altered = good(brokers, &["topics", "alter", "logs", "--partitions", "3", "--set", "segment.ms=60000"]);
    assert_eq!(altered, "topic logs: segment.ms = 60000\ntopic logs: partitions increased from 2 to 3\n");
    let (_, err, code) = broker(brokers, &["topics", "alter", "logs", "--set", "nonsense=1"]);
    assert!(code == 1 && err.contains("topic `logs`"), "{code} {err}");
    let (_, err, code) = broker(brokers, &["topics", "alter", "logs", "--partitions", "1"]);
    assert!(code == 1 && err.contains("cannot be reduced to"), "{code} {err}");
    let described = json(brokers, &["topics", "describe", "logs"]);
    assert_eq!(described[0]["settings"]["segment.ms"], "60000");
    let first = &described[0]["partitions"][0];
    assert_eq!(
        (first["start"].as_i64(), first["end"].as_i64(), first["last_stable"].as_i64()),
        (Some(0), Some(10), Some(10))
    );
    assert!(good(brokers, &["topics", "describe", "logs"]).contains("retention.ms = 3600000"));

    // Records.
    let all = good(brokers, &["consume", "logs", "--format", "{partition}@{offset} {label:level} {value}\\n"]);
    assert_eq!(all.lines().count(), 10);
    assert!(all.starts_with("0@0 info line 0\n0@1 error line 1\n"), "{all}");
    let errors = good(brokers, &["consume", "logs", "--match", "{level=\"error\"}", "-n", "2", "--format", "{value},"]);
    assert_eq!(errors, "line 1,line 3,");
    assert_eq!(good(brokers, &["consume", "logs:0:8", "--format", "{value},"]), "line 8,line 9,");
    assert_eq!(good(brokers, &["consume", "logs:0", "--from", "-1", "--format", "{value}"]), "line 9");
    assert_eq!(good(brokers, &["consume", "logs:0", "--until", "2", "--format", "{value},"]), "line 0,line 1,");
    assert_eq!(good(brokers, &["consume", "logs", "--from", "1h", "--format", "x"]), "xxxxxxxxxx");
    let one = json(brokers, &["consume", "logs:0:3", "-n", "1"]);
    assert_eq!(
        (&one["value"], &one["millrace"]["position"], &one["millrace"]["labels"]["level"]),
        (&Json::from("line 3"), &Json::from(3), &Json::from("error"))
    );
    let (_, err, code) = broker(brokers, &["consume", "nowhere"]);
    assert!(code == 1 && err.contains("topic `nowhere`") && err.contains("topics list"), "{code} {err}");
    let (_, err, code) = broker(brokers, &["consume", "logs", "--match", "level=error"]);
    assert!(code == 2 && err.contains("invalid stream selector"), "{code} {err}");

    // Groups.
    let seen = good(
        brokers,
        &["consume", "logs", "--group", "readers", "--from", "earliest", "-n", "4", "--format", "{value},"],
    );
    assert_eq!(seen.matches("line").count(), 4);
    until("the group is empty", Duration::from_secs(60), || {
        let list = json(brokers, &["groups", "list"]);
        let row = list.as_array().unwrap().iter().find(|row| row["group"] == "readers").cloned().unwrap_or_default();
        if row["state"] == "Empty" && row["lag"] == 6 { Ok(()) } else { Err(list.to_string()) }
    });
    let plan = good(brokers, &["groups", "reset", "readers", "--topic", "logs:0", "--to-offset", "7"]);
    assert!(plan.contains("nothing was changed; add --execute to apply"), "{plan}");
    let told = json(brokers, &["groups", "describe", "readers"]);
    assert_eq!((told[0]["lag"].as_i64(), told[0]["partitions"][0]["offset"].as_i64()), (Some(6), Some(4)));
    good(brokers, &["groups", "reset", "readers", "--topic", "logs:0", "--shift", "-1", "--execute"]);
    assert_eq!(json(brokers, &["groups", "describe", "readers"])[0]["lag"], 7);
    good(brokers, &["groups", "reset", "readers", "--to-latest", "--execute"]);
    assert!(
        good(brokers, &["groups", "describe", "readers"]).contains("group readers: Empty, classic, 0 members, lag 0")
    );
    let (_, err, code) = broker(brokers, &["groups", "delete", "readers"]);
    assert!(code == 2 && err.contains("add --yes"), "{code} {err}");
    assert_eq!(good(brokers, &["groups", "delete", "readers", "--yes"]), "group readers deleted\n");
    let (_, err, code) = broker(brokers, &["groups", "describe", "readers"]);
    assert!(code == 1 && err.contains("groups list"), "{code} {err}");

    // Trimmed and gone.
    let trimmed = json(brokers, &["topics", "trim", "logs", "--partitions", "0", "--before", "6", "--yes"]);
    assert_eq!((trimmed[0]["deleted"].as_i64(), trimmed[0]["start"].as_i64()), (Some(6), Some(6)));
    assert_eq!(good(brokers, &["consume", "logs", "--format", "x"]), "xxxx");
    assert_eq!(good(brokers, &["topics", "delete", "logs", "--yes"]), "topic logs deleted\n");
    until("the topic is gone", Duration::from_secs(30), || match broker(brokers, &["topics", "describe", "logs"]) {
        (_, _, 1) => Ok(()),
        told => Err(format!("{told:?}")),
    });
}

#[test]
fn topics_groups_and_records_of_the_embedded_broker() {
    let site = Site::new();
    let brokers = format!("127.0.0.1:{}", site.kafka);
    let (_, err, code) = broker(&brokers, &["topics", "list"]);
    assert!(code == 69 && err.contains(&brokers), "{code} {err}");
    let running = site.start("broker");
    until("the broker listens", Duration::from_secs(20), || {
        std::net::TcpStream::connect(("127.0.0.1", site.kafka)).map(drop).map_err(|e| e.to_string())
    });
    everything_works(&brokers);

    // The data folder: in use, then sound, then damaged.
    good(&brokers, &["topics", "create", "kept", "--partitions", "1"]);
    fill(&brokers, "kept", 100);
    let data = site.folder.path().join("data");
    let fsck = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_millrace"))
            .args(["broker", "fsck", data.to_str().unwrap()])
            .args(arguments)
            .env_clear()
            .output()
            .unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
    };
    assert_eq!(fsck(&[]).1, 73);
    assert_eq!(running.stop(), 0);
    let (out, code) = fsck(&[]);
    assert!(code == 0 && out.contains("clean shutdown"), "{code} {out}");
    let (out, code) = fsck(&["-o", "json"]);
    let report: Json = serde_json::from_str(&out).unwrap();
    let kept = report["partitions"].as_array().unwrap().iter().find(|p| p["topic"] == "kept").unwrap();
    assert_eq!((code, kept["records"].as_i64()), (0, Some(100)));
    let segment = walkdir::WalkDir::new(&data)
        .into_iter()
        .filter_map(Result::ok)
        .find(|e| e.path().extension().is_some_and(|e| e == "log") && e.path().to_string_lossy().contains("kept"))
        .unwrap();
    let mut bytes = std::fs::read(segment.path()).unwrap();
    bytes[70] ^= 0xff;
    std::fs::write(segment.path(), bytes).unwrap();
    let (out, code) = fsck(&[]);
    assert!(code == 1 && out.contains("kept"), "{code} {out}");
    let nowhere = Command::new(env!("CARGO_BIN_EXE_millrace")).args(["broker", "fsck", "/tmp"]).output().unwrap();
    assert_eq!(nowhere.status.code(), Some(73));
}

#[test]
fn control_characters_of_records_reach_a_pipe_but_no_terminal() {
    let site = Site::new();
    let brokers = format!("127.0.0.1:{}", site.kafka);
    let running = site.start("broker");
    until("the broker listens", Duration::from_secs(20), || {
        std::net::TcpStream::connect(("127.0.0.1", site.kafka)).map(drop).map_err(|e| e.to_string())
    });
    good(&brokers, &["topics", "create", "raw", "--partitions", "1"]);
    let connection = ConnectionConfig { brokers: vec![brokers.clone()], ..ConnectionConfig::default() };
    let producer = WireProducer::new(&connection, Some(DELIVERY_TIMEOUT)).unwrap();
    let line = "\u{1b}]0;title\u{7}\u{9b}2J ende";
    let record = Record { timestamp_ms: SystemClock.now_ms(), value: Some(line.into()), ..Record::default() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(producer.send(&TopicPartition::new("raw", 0), vec![record])).unwrap();

    let arguments = ["consume", "raw", "--format", "{value}\\n"];
    assert_eq!(good(&brokers, &arguments), format!("{line}\n"));
    let command =
        format!("{} broker consume raw --format '{{value}}\\n' --brokers {brokers}", env!("CARGO_BIN_EXE_millrace"));
    // A terminal of its own.
    let output = Command::new("script").args(["-qec", &command, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains(r"\u{1b}]0;title\u{7}\u{9b}2J ende"), "{shown:?}");
    assert!(!shown.contains(['\u{1b}', '\u{7}', '\u{9b}']), "{shown:?}");
    assert_eq!(running.stop(), 0);
}

#[test]
#[ignore = "needs Java and Maven for Apache Kafka"]
fn the_same_commands_on_apache_kafka() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start("kafka", &folder.path().join("kafka"));
    everything_works(&format!("127.0.0.1:{}", server.port));
}

#[test]
fn topics_of_the_configuration_are_made_grown_and_altered() {
    let site = Site::new();
    let folder = site.folder.path();
    let path = folder.join("topics.yaml");
    let start = |topics: &str| {
        let (data, port) = (folder.display(), site.kafka);
        let text = format!(
            "data_dir: {data}/data\nbroker:\n  listen: \"127.0.0.1:{port}\"\n  default_topic_config: {{segment.ms: 3600000}}\n  topics:\n{topics}"
        );
        std::fs::write(&path, text).unwrap();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("topics.out")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_millrace"))
            .args(["broker", "-c"])
            .arg(&path)
            .env_clear()
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        until("the broker listens", Duration::from_secs(20), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|e| e.to_string())
        });
        child
    };
    let stop = |mut child: std::process::Child| {
        assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        child.wait().unwrap();
    };
    let brokers = format!("127.0.0.1:{}", site.kafka);
    let running = start("    logs: {partitions: 2, config: {retention.ms: 60000}}\n    plain: {}\n");
    let told = json(&brokers, &["topics", "describe", "logs", "plain", "--all"]);
    assert_eq!(
        (told[0]["partitions"].as_array().unwrap().len(), told[1]["partitions"].as_array().unwrap().len()),
        (2, 4)
    );
    assert_eq!(
        (&told[0]["settings"]["retention.ms"], &told[0]["settings"]["segment.ms"]),
        (&"60000".into(), &"3600000".into())
    );
    stop(running);
    let running = start("    logs: {partitions: 3, config: {retention.ms: 90000}}\n    plain: {partitions: 1}\n");
    let told = json(&brokers, &["topics", "describe", "logs", "plain"]);
    assert_eq!(
        (told[0]["partitions"].as_array().unwrap().len(), told[1]["partitions"].as_array().unwrap().len()),
        (3, 4)
    );
    assert_eq!(told[0]["settings"]["retention.ms"], "90000");
    let log = std::fs::read_to_string(folder.join("topics.out")).unwrap();
    assert!(log.contains("partitions can't be removed") && log.contains("partitions added to topic"), "{log}");
    stop(running);
}
