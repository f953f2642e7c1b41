//! The agent with transforms, against a log in memory: what arrives where, in which order, and that the ledger adds up.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;
use std::sync::Arc;

use millrace_agent::config::{AgentConfig, SourceConfig};
use support::{FakeLog, Mood, Running, append, edit, quick, until};

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

/// A configuration whose one source has these steps.
fn with(place: &Place, named: &str, steps: &str) -> AgentConfig {
    let mut config = quick(&[place.log("*.log")]);
    config.transforms = serde_json::from_str(named).expect(named);
    edit(&mut config, |file| file.transforms = serde_json::from_str(steps).expect(steps));
    config
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn settled(agent: &Running, lines: u64) {
    until("settled", || {
        let total = agent.ledger.snapshot().total;
        total.read.lines == lines && total.waiting.lines == 0
    })
    .await;
}

const PARSE: &str = r#"{"parse": {"type": "vrl", "program":
    ". |= object!(parse_json!(.message))\ndel(.message)\n.labels.level = del(.level)\n.timestamp = from_unix_timestamp!(del(.t))"}}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_become_a_json_object_and_what_fails_goes_on_as_it_was() {
    let place = Place::new();
    let config = with(&place, PARSE, r#"["parse"]"#);
    let log = FakeLog::new(1, 1);
    append(
        &place.log("a.log"),
        "{\"level\":\"warn\",\"n\":1,\"t\":1772366400}\nno json\n{\"level\":\"info\",\"t\":1}\n",
    );
    let agent = Running::start(&config, &place.data(), &log).await;
    settled(&agent, 3).await;
    let records: Vec<_> = log.kept("logs").into_iter().map(|(_, record)| record).collect();
    let events: Vec<_> = log.events().into_iter().map(|(_, event)| event).collect();
    let values: Vec<String> = events.iter().map(|event| text(&event.line)).collect();
    assert_eq!(values, [r#"{"n":1}"#, "no json", "{}"]);
    let kinds: Vec<_> = records.iter().map(|r| r.header("content-type").map(|v| text(v))).collect();
    assert_eq!(kinds, [Some("application/json".to_owned()), None, Some("application/json".to_owned())]);
    assert_eq!((events[0].labels.get("level"), events[1].labels.get("level")), (Some("warn"), None));
    assert_eq!(events[0].labels.get("host"), Some("h1"));
    assert_eq!((events[0].time_ns, events[0].time_from_line), (1_772_366_400_000_000_000, true));
    assert!(!events[1].time_from_line && events[1].time_ns > 1_772_366_400_000_000_000);
    assert_eq!(events[1].metadata.get("transform_failed"), Some("parse"));
    assert!(events[1].metadata.get("transform_error").is_some_and(|e| e.contains("unable to parse json")));
    assert!(events[0].metadata.is_empty());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_dropped_is_counted_by_reason_over_restarts() {
    let place = Place::new();
    let named = r#"{"noise": {"type": "drop", "match": "^DEBUG", "reason": "debug"},
        "probe": {"type": "vrl", "program": "if contains(string!(.message), \"/health\") { abort \"probe\" }"}}"#;
    let config = with(&place, named, r#"["noise", "probe"]"#);
    let log = FakeLog::new(1, 2);
    append(&place.log("a.log"), "one\nDEBUG 2\nGET /health\nfour\nDEBUG five\n");
    let agent = Running::start(&config, &place.data(), &log).await;
    settled(&agent, 5).await;
    assert_eq!(log.lines(), ["one", "four"]);
    let total = agent.ledger.snapshot().total;
    assert_eq!((total.sent.lines, total.dropped["debug"].lines, total.dropped["probe"].records), (2, 2, 1));
    assert_eq!(total.dropped["debug"].bytes, "DEBUG 2\nDEBUG five\n".len() as u64);
    agent.stop().await;

    append(&place.log("a.log"), "DEBUG 6\nseven\n");
    let agent = Running::start(&config, &place.data(), &log).await;
    settled(&agent, 7).await;
    assert_eq!(log.lines(), ["one", "four", "seven"]);
    let total = agent.ledger.snapshot().total;
    assert_eq!((total.sent.lines, total.dropped["debug"].lines, total.dropped["probe"].lines), (3, 3, 1));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_are_kept_only_when_every_topic_has_its_records() {
    let place = Place::new();
    let named = r#"{"audit": {"type": "route", "match": "audit", "topic": "audit"}}"#;
    let config = with(&place, named, r#"["audit"]"#);
    let log = FakeLog::new(1, 2);
    log.away(Some("audit"));
    append(&place.log("a.log"), "one\naudit 2\nthree\naudit 4\n");
    let agent = Running::start(&config, &place.data(), &log).await;
    until("the lines of the other topic", || log.lines() == ["one", "three"]).await;
    let total = agent.ledger.snapshot().total;
    assert_eq!((total.read.lines, total.sent.lines, total.waiting.lines), (4, 0, 4));
    agent.kill().await;

    log.away(None);
    let agent = Running::start(&config, &place.data(), &log).await;
    settled(&agent, 4).await;
    assert_eq!(log.lines(), ["one", "three"]);
    let audit: Vec<String> = log.deduplicated_of("audit").iter().map(|e| text(&e.line)).collect();
    assert_eq!(audit, ["audit 2", "audit 4"]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_topic_keeps_the_order_of_each_file_over_a_moody_log() {
    let place = Place::new();
    let named = r#"{"team": {"type": "route", "topic_from": "parse_regex!(.message, r'team=(?P<t>\\w+)').t", "prefix": "logs-", "allow": ["logs-*"]},
        "none": {"type": "drop", "match": "team=none"}}"#;
    let mut config = with(&place, named, r#"["none", "team"]"#);
    config.batch_records = 50;
    let log = FakeLog::new(7, 3);
    log.mood(Mood::Moody);
    for file in 0..4 {
        let lines: String = (0..500)
            .map(|i| format!("{file} {i:04} {}\n", ["team=a", "team=b", "plain", "team=none"][(i + file) % 4]))
            .collect();
        append(&place.log(&format!("{file}.log")), &lines);
    }
    let agent = Running::start(&config, &place.data(), &log).await;
    settled(&agent, 2000).await;
    let mut all = 0;
    for topic in ["logs", "logs-a", "logs-b"] {
        let events = log.deduplicated_of(topic);
        assert_eq!(events.len(), 500, "{topic}");
        for file in 0..4 {
            let start = format!("{file} ");
            let lines: Vec<String> =
                events.iter().map(|e| text(&e.line)).filter(|line| line.starts_with(&start)).collect();
            assert!(lines.is_sorted(), "{topic}: {lines:?}");
            all += lines.len();
        }
    }
    assert_eq!(all, 1500);
    // What could be no topic's line stayed, with the reason.
    assert!(log.deduplicated().iter().all(|e| e.metadata.get("transform_failed") == Some("team")));
    assert_eq!(agent.ledger.snapshot().total.dropped["drop"].lines, 500);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_go_to_the_dead_letters_where_that_is_asked_for() {
    let place = Place::new();
    let steps = r#"[{"type": "redact", "presets": ["email"]},
        {"type": "vrl", "program": ". = parse_json!(.message)", "on_error": "dead_letter"}]"#;
    let config = with(&place, "{}", steps);
    let log = FakeLog::new(1, 2);
    append(&place.log("a.log"), "{\"a\":1}\nmail of a@b.io\n{\"b\":2}\n");
    let agent = Running::start(&config, &place.data(), &log).await;
    settled(&agent, 3).await;
    assert_eq!(log.lines(), [r#"{"a":1}"#, r#"{"b":2}"#]);
    let letters = log.kept("millrace.dlq");
    assert_eq!(letters.len(), 1);
    let (_, letter) = &letters[0];
    assert_eq!(letter.value.as_deref().map(text), Some("mail of [email]".to_owned()));
    let reason = letter.header("dlq.reason").map(|v| text(v)).unwrap();
    assert!(reason.starts_with("transform `sources[0].transforms[1]`: ") && reason.contains("parse json"), "{reason}");
    assert_eq!(letter.header("dlq.stage").map(|v| text(v)), Some("transform".to_owned()));
    let total = agent.ledger.snapshot().total;
    assert_eq!((total.sent.lines, total.dropped["dead_letter"].lines), (2, 1));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_the_log_refuses_are_buried_with_transforms_too() {
    let place = Place::new();
    let config = with(&place, "{}", r#"[{"type": "vrl", "program": ".metadata.a = \"b\""}]"#);
    let log = FakeLog::new(1, 1);
    log.poison("bad");
    append(&place.log("a.log"), "one\nbad 2\nthree\n");
    let agent = Running::start(&config, &place.data(), &log).await;
    settled(&agent, 3).await;
    assert_eq!(log.lines(), ["one", "three"]);
    assert_eq!(log.kept("millrace.dlq").len(), 1);
    assert_eq!(agent.ledger.snapshot().total.dropped["dead_letter"].lines, 1);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_with_and_without_transforms_share_the_lanes() {
    let place = Place::new();
    let mut config = quick(&[place.log("plain*.log")]);
    let mut other = config.sources.clone();
    let SourceConfig::File(file) = &mut other[0] else { panic!("a file source") };
    file.include = vec![place.log("json*.log").to_string_lossy().into_owned()];
    file.transforms =
        serde_json::from_str(r#"[{"type": "vrl", "program": ".message = upcase(string!(.message))"}]"#).unwrap();
    config.sources.extend(other);
    let log = FakeLog::new(3, 2);
    log.mood(Mood::Moody);
    for file in 0..3 {
        let lines = |word: &str| (0..200).map(|i| format!("{word} {file} {i:03}\n")).collect::<String>();
        append(&place.log(&format!("plain{file}.log")), &lines("plain"));
        append(&place.log(&format!("json{file}.log")), &lines("shout"));
    }
    let agent = Running::start(&config, &place.data(), &log).await;
    settled(&agent, 1200).await;
    let mut lines = log.lines();
    lines.sort();
    let mut want: Vec<String> = Vec::new();
    for file in 0..3 {
        want.extend((0..200).map(|i| format!("plain {file} {i:03}")));
        want.extend((0..200).map(|i| format!("SHOUT {file} {i:03}")));
    }
    want.sort();
    assert_eq!(lines, want);
    agent.stop().await;
}

/// A log that gives gaps makes sources go on under new ids; nothing is lost or out of order then either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gaps_in_what_the_log_took_lose_nothing() {
    let place = Place::new();
    let named = r#"{"half": {"type": "route", "match": "[02468]$", "topic": "even"}}"#;
    let mut config = with(&place, named, r#"["half"]"#);
    config.batch_records = 20;
    let log = FakeLog::new(11, 3);
    log.mood(Mood::Gaps);
    append(&place.log("a.log"), &(0..400).map(|i| format!("{i:03}\n")).collect::<String>());
    let agent = Running::start(&config, &place.data(), &log).await;
    settled(&agent, 400).await;
    for (topic, first) in [("logs", 1), ("even", 0)] {
        let mut lines: Vec<String> = log.deduplicated_of(topic).iter().map(|e| text(&e.line)).collect();
        lines.sort();
        lines.dedup();
        let want: Vec<String> = (first..400).step_by(2).map(|i| format!("{i:03}")).collect();
        assert_eq!(lines, want, "{topic}");
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_transforms_stop_the_start_with_the_reason() {
    let place = Place::new();
    let log = FakeLog::new(1, 1);
    for (named, steps, want) in [
        (
            r#"{"x": {"type": "vrl", "program": "x = "}}"#,
            r#"["x"]"#,
            "invalid setting `agent.transforms.x`: error[E204]: syntax error",
        ),
        (
            "{}",
            r#"["y"]"#,
            "invalid setting `agent.sources[0].transforms[0]`: unknown transform `y`: not in `agent.transforms`",
        ),
    ] {
        let config = with(&place, named, steps);
        let opened = millrace_agent::Agent::open(
            config,
            &place.data(),
            Arc::clone(&log) as _,
            millrace_log::clock::SystemClock::shared(),
            &mut prometheus_client::registry::Registry::default(),
        );
        let error = opened.expect_err("must fail").to_string();
        assert!(error.starts_with(want), "{error}");
    }
}
