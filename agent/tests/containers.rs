//! Files of container runtimes and files in other encodings through the whole agent: labels, times, parts of lines over
//! kills and rotations.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::path::PathBuf;

use millrace_agent::config::AgentConfig;
use millrace_log::record::Event;
use serde_json::json;
use support::{FakeLog, Mood, Running, append, checked, until};

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn config(&self, include: &str, more: serde_json::Value) -> AgentConfig {
        let mut source =
            json!({"type": "file", "include": [self.folder.path().join(include)], "partial_timeout": "10m"});
        source.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        checked(source)
    }
}

/// What is in the log, without what a kill made come twice.
fn texts(log: &FakeLog) -> Vec<String> {
    let mut seen = HashSet::new();
    let events = log.events().into_iter().map(|(_, event)| event);
    let first = events.filter(|event| seen.insert((event.source, event.position)));
    first.map(|event| String::from_utf8_lossy(&event.line).into_owned()).collect()
}

fn label<'e>(event: &'e Event, name: &str) -> &'e str {
    event.labels.get(name).unwrap_or("")
}

const POD: &str = "pods/shop_api-7f9c_0a1b/api/0.log";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_have_their_labels_streams_and_times() {
    let place = Place::new();
    let id = "0123456789abcdef".repeat(4);
    let pod = place.at(POD);
    append(
        &pod,
        "2026-01-02T03:04:05.123456789Z stdout F one\n2026-01-02T03:04:06Z stderr F two \u{e9}\nnothing of a runtime\n",
    );
    let link = place.at(&format!("containers/api-7f9c_shop_api-{id}.log"));
    std::os::unix::fs::symlink(&pod, &link).unwrap();
    let config = place.config("containers/*.log", json!({"format": "cri", "path_labels": "kubernetes"}));
    let log = FakeLog::new(1, 2);
    let agent = Running::start(&config, &place.data(), &log).await;
    until("three lines", || log.events().len() == 3).await;
    let events: Vec<Event> = log.events().into_iter().map(|(_, event)| event).collect();
    assert_eq!(texts(&log), ["one", "two \u{e9}", "nothing of a runtime"]);
    for (event, stream) in events.iter().zip(["stdout", "stderr", ""]) {
        assert_eq!(label(event, "stream"), stream);
        let found = ["namespace", "pod", "container", "service"].map(|name| label(event, name));
        assert_eq!(found, ["shop", "api-7f9c", "api", "api"]);
    }
    assert_eq!((events[0].time_ns, events[0].time_from_line), (1_767_323_045_123_456_789, true));
    assert_eq!(events[1].time_ns, 1_767_323_046_000_000_000);
    assert_eq!(events[2].metadata.get("container"), Some("malformed"));
    let positions: Vec<u64> = events.iter().map(|event| event.position.offset).collect();
    assert_eq!(positions, [0, 44, 81]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_are_joined_over_kills_pauses_and_rotations() {
    let place = Place::new();
    let path = place.at(POD);
    let config = place.config("pods/*/*/*.log", json!({"format": "auto"}));
    let log = FakeLog::new(1, 1);
    let mut want = Vec::new();
    let mut agent = Running::start(&config, &place.data(), &log).await;
    for round in 0..6 {
        let line =
            |stream: &str, tag: &str, text: &str| format!("2026-01-02T03:04:05Z {stream} {tag} {text} {round}\n");
        append(&path, &line("stdout", "F", "before"));
        append(&path, &line("stdout", "P", "a1"));
        append(&path, &line("stderr", "P", "b1"));
        want.push(format!("before {round}"));
        until("what is whole is in the log", || texts(&log).len() == want.len()).await;
        match round {
            0 | 3 => {
                agent.kill().await;
                agent = Running::start(&config, &place.data(), &log).await;
            }
            1 | 4 => {
                agent.stop().await;
                append(&path, &line("stdout", "P", "a2"));
                agent = Running::start(&config, &place.data(), &log).await;
            }
            _ => {}
        }
        let (a2, rest) = if matches!(round, 1 | 4) { (format!("a2 {round}"), "") } else { (String::new(), "a") };
        append(&path, &line("stderr", "F", "b2"));
        append(&path, &line("stdout", "F", &format!("{rest}3")));
        want.push(format!("a1 {round}{a2}{rest}3 {round}"));
        want.push(format!("b1 {round}b2 {round}"));
        until("what was open is in the log", || texts(&log).len() == want.len()).await;
    }
    assert_eq!(texts(&log), want);
    // Behind a rotation a part has no other: both are kept, in their files.
    append(&path, "2026-01-02T03:04:05Z stdout P head\n");
    std::fs::rename(&path, path.with_extension("log.20260102")).unwrap();
    append(&path, "2026-01-02T03:04:06Z stdout F tail\n");
    until("both parts are in the log", || texts(&log).len() == want.len() + 2).await;
    let mut last: Vec<String> = texts(&log).split_off(want.len());
    last.sort();
    assert_eq!(last, ["head", "tail"]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_container_come_once_in_order_whatever_happens() {
    let place = Place::new();
    let path = place.at(POD);
    let multiline = json!({"continue": "^\\s", "timeout": "1s"});
    let config = place.config("pods/*/*/*.log", json!({"format": "cri", "multiline": multiline}));
    let log = FakeLog::new(2, 1);
    log.mood(Mood::Moody);
    let mut agent = Running::start(&config, &place.data(), &log).await;
    let mut n = 0;
    for round in 0..5 {
        for _ in 0..300 {
            let stream = if n % 3 == 0 { "stderr" } else { "stdout" };
            let at = format!("2026-01-02T03:{:02}:{:02}Z {stream}", n / 60 % 60, n % 60);
            append(&path, &format!("{at} P {n:05} \n{at} F head\n{at} F   more\n"));
            n += 1;
        }
        if round % 2 == 0 {
            agent.kill().await;
            agent = Running::start(&config, &place.data(), &log).await;
        }
    }
    log.mood(Mood::Good);
    let all = || {
        let mut seen = std::collections::BTreeMap::new();
        for (_, event) in log.events() {
            seen.insert(event.position.offset, String::from_utf8_lossy(&event.line).into_owned());
        }
        seen.into_values().collect::<Vec<_>>()
    };
    until("all events", || all().len() == n).await;
    let want: Vec<String> = (0..n).map(|n| format!("{n:05} head\n  more")).collect();
    assert_eq!(all(), want);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_encodings_arrive_as_utf_8() {
    let place = Place::new();
    let path = place.at("w.log");
    let bytes = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let write = |bytes: &[u8]| {
        use std::io::Write as _;
        std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap().write_all(bytes).unwrap();
    };
    write(&bytes("\u{feff}grün\r\nzw"));
    let config = place.config("*.log", json!({"encoding": "utf-16le"}));
    let log = FakeLog::new(1, 1);
    let agent = Running::start(&config, &place.data(), &log).await;
    until("a line", || texts(&log) == ["grün"]).await;
    agent.kill().await;
    // A character in two writes.
    let rest = bytes("ö𝄞lf\nlast\n");
    write(&rest[..3]);
    let agent = Running::start(&config, &place.data(), &log).await;
    write(&rest[3..]);
    until("all lines", || texts(&log) == ["grün", "zwö𝄞lf", "last"]).await;
    agent.stop().await;
    let from_end = place.config("*.log", json!({"encoding": "utf-16le", "read_from": "end"}));
    let log = FakeLog::new(1, 1);
    let agent = Running::start(&from_end, &place.folder.path().join("other"), &log).await;
    until("the file is known", || agent.ledger.snapshot().sources.len() == 1).await;
    write(&bytes("new\n"));
    until("the new line only", || texts(&log) == ["new"]).await;
    agent.stop().await;
}
