//! The journal over a program that behaves as journalctl does: cursors over restarts and kills, vacuumed entries, deaths,
//! huge and damaged entries, pressure. `tests/real_sources` shows the same with the real one.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use millrace_agent::config::AgentConfig;
use millrace_agent::metrics::{OfSource, ProgramEnd};
use millrace_log::record::{Event, Labels};
use serde_json::json;
use support::{FakeLog, Mood, Running, checked, until};

/// Reads entries of the file `journal` beside it, one JSON list `[series, number, message, fields]` a line, from the cursor
/// on; follows if it is told to. `die` beside it makes it end after so many entries, `raw` is printed first.
const FAKE: &str = r#"#!/usr/bin/env python3
import json, os, struct, sys, time
here = os.path.dirname(os.path.abspath(__file__))
open(here + "/calls", "a").write(json.dumps(sys.argv[1:]) + "\n")
def once(name):
    try:
        text = open(f"{here}/{name}", "rb").read()
    except FileNotFoundError:
        return None
    os.remove(f"{here}/{name}")
    return text
out = sys.stdout.buffer
option = {a.split("=", 1)[0]: a.split("=", 1)[1] for a in sys.argv[1:] if a.startswith("--") and "=" in a}
follow = "--follow" in sys.argv
said = once("say")
if said:
    sys.stderr.buffer.write(said)
    sys.stderr.flush()
out.write(once("raw") or b"")
die = once("die")
left = int(die) if die else -1
def cursor(series, number):
    return f"s={series};i={number:x};b=b;m=1;t={number:x};x=1"
def show(series, number, message, fields):
    global left
    if left == 0:
        out.flush()
        sys.stderr.write("Failed to iterate through journal: Bad message\n")
        sys.exit(1)
    left -= 1
    out.write(f"__CURSOR={cursor(series, number)}\n__REALTIME_TIMESTAMP={number}\n".encode())
    for name, value in fields.items():
        out.write(f"{name}={value}\n".encode())
    data = message.encode("utf-8", "surrogateescape")
    out.write(b"MESSAGE\n" + struct.pack("<Q", len(data)) + data + b"\n\n")
first, at = True, 0
lines = []
while True:
    # Only whole lines: the writer may be in the middle of one.
    text = open(here + "/journal").read().split("\n")[:-1]
    entries = [json.loads(line) for line in text]
    if first:
        entries_now = entries
        if option.get("--lines") == "1":
            entries = entries[-1:]
        elif "--cursor" in option:
            parts = dict(part.split("=", 1) for part in option["--cursor"].split(";"))
            keys = [(e[0], e[1]) for e in entries]
            wanted = (parts["s"], int(parts["i"], 16))
            if wanted in keys:
                at = keys.index(wanted)
            else:
                at = next((i for i, e in enumerate(entries) if e[0] == wanted[0] and e[1] > wanted[1]), 0)
        first = False
    for entry in entries[at:]:
        show(*entry)
    at = max(at, len(entries))
    out.flush()
    if not follow:
        break
    time.sleep(0.005)
"#;

struct Journal {
    folder: tempfile::TempDir,
}

impl Journal {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let journal = Self { folder };
        std::fs::write(journal.path("journalctl"), FAKE).unwrap();
        std::fs::set_permissions(journal.path("journalctl"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(journal.path("journal"), "").unwrap();
        journal
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn write_of(&self, series: &str, numbers: impl Iterator<Item = u64>) {
        let mut text = String::new();
        for number in numbers {
            let unit = format!("unit{}.service", number % 5);
            let fields = json!({"_HOSTNAME": "h", "_SYSTEMD_UNIT": unit, "PRIORITY": "4", "_TRANSPORT": if number % 7 == 0 {"kernel"} else {"stdout"}});
            text += &format!("{}\n", json!([series, number, format!("line {series}{number}"), fields]));
        }
        let mut file = std::fs::OpenOptions::new().append(true).open(self.path("journal")).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn write(&self, numbers: impl Iterator<Item = u64>) {
        self.write_of("a", numbers);
    }

    /// Replaces the whole journal: the old entries are gone.
    fn vacuum(&self, numbers: std::ops::RangeInclusive<u64>) {
        self.put("fresh", "");
        std::fs::rename(self.path("fresh"), self.path("journal")).unwrap();
        self.write(numbers);
    }

    fn calls(&self) -> Vec<Vec<String>> {
        let text = std::fs::read_to_string(self.path("calls")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn config(&self, more: serde_json::Value) -> AgentConfig {
        let mut source = json!({"type": "journald", "name": "j", "journalctl": self.path("journalctl")});
        source.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        checked(source)
    }
}

fn wanted(numbers: impl Iterator<Item = u64>) -> Vec<String> {
    let mut lines: Vec<String> = numbers.map(|n| format!("line a{n}")).collect();
    lines.sort();
    lines
}

/// What a reader has that drops what comes twice.
fn lines(log: &FakeLog) -> Vec<String> {
    let mut lines = log.lines();
    lines.sort();
    lines
}

async fn until_lines(log: &FakeLog, count: usize) {
    until("all lines", || log.lines().len() >= count).await;
}

async fn until_settled(agent: &Running) {
    until("all is acknowledged", || agent.ledger.snapshot().total.waiting.lines == 0).await;
}

fn ends(agent: &Running, end: &str) -> u64 {
    let end = ProgramEnd { source: "j".into(), end: end.into() };
    agent.metrics.program_ends.get_or_create(&end).get()
}

fn gaps(agent: &Running) -> u64 {
    agent.metrics.source_gaps.get_or_create(&OfSource { source: "j".into() }).get()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_have_labels_metadata_and_time_and_cursors_go_on_over_stops() {
    let (data, log, journal) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 3), Journal::new());
    let config = journal.config(json!({
        "labels": {"env": "prod"}, "units": ["a.service", "b.service"], "identifiers": ["i"], "priority": "info",
        "matches": ["_UID=0", "+", "_UID=1"], "boot": "current", "directory": "/j", "include_kernel": false,
    }));
    for round in 0..3u64 {
        journal.write(round * 100 + 1..=round * 100 + 100);
        let agent = Running::start(&config, data.path(), &log).await;
        let want: Vec<String> = wanted((1..=round * 100 + 100).filter(|n| n % 7 != 0));
        until_lines(&log, want.len()).await;
        agent.stop().await;
        assert_eq!(lines(&log), want);
        assert_eq!(log.events().len(), want.len(), "after a stop nothing comes twice at all");
    }
    let event: Event = log.events().into_iter().map(|(_, e)| e).find(|e| e.line == "line a6").unwrap();
    assert_eq!(event.labels, Labels::new([("env", "prod"), ("host", "h"), ("service", "unit1")]));
    let metadata = Labels::new([("severity", "warning"), ("transport", "stdout"), ("unit", "unit1.service")]);
    assert_eq!((event.metadata, event.time_ns, event.time_from_line), (metadata, 6000, true));
    let calls = journal.calls();
    let selection = [
        "--unit=a.service",
        "--unit=b.service",
        "--identifier=i",
        "--priority=info",
        "--boot",
        "_UID=0",
        "+",
        "_UID=1",
    ];
    let head = ["--output=export", "--no-pager", "--all", "--directory=/j", "--follow", "--no-tail"];
    assert_eq!(calls[0], [&head[..], &selection[..]].concat());
    assert_eq!(calls[1][6], "--cursor=s=a;i=64;b=b;m=1;t=64;x=1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_over_kills_of_the_agent_and_deaths_of_journalctl() {
    let (data, log, journal) = (tempfile::tempdir().unwrap(), FakeLog::new(9, 3), Journal::new());
    let config = journal.config(json!({}));
    let mut next = 1;
    for round in 0..8 {
        let agent = Running::start(&config, data.path(), &log).await;
        if round % 3 == 1 {
            journal.put("die", "150");
        }
        log.mood(if round % 2 == 0 { Mood::Moody } else { Mood::Good });
        journal.write(next..next + 400);
        next += 400;
        let had = log.events().len();
        until("some of it came", || log.events().len() > had + 100).await;
        agent.kill().await;
    }
    log.mood(Mood::Good);
    let agent = Running::start(&config, data.path(), &log).await;
    until_lines(&log, usize::try_from(next - 1).unwrap()).await;
    assert_eq!(lines(&log), wanted(1..next));
    assert_eq!(gaps(&agent), 0);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_series_begins_under_numbers_of_its_own() {
    let (data, log, journal) = (tempfile::tempdir().unwrap(), FakeLog::new(9, 2), Journal::new());
    let config = journal.config(json!({}));
    journal.write_of("a", 1000..1100);
    journal.write_of("b", 1..=100);
    let agent = Running::start(&config, data.path(), &log).await;
    until_lines(&log, 200).await;
    agent.kill().await;
    journal.write_of("c", 1..=100);
    let agent = Running::start(&config, data.path(), &log).await;
    until_lines(&log, 300).await;
    agent.stop().await;
    let mut want: Vec<String> = (1000..1100).map(|n| format!("line a{n}")).collect();
    want.extend((1..=100).flat_map(|n| [format!("line b{n}"), format!("line c{n}")]));
    want.sort();
    assert_eq!(lines(&log), want);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_vacuumed_is_an_event_and_counted() {
    for (more, lost) in [(json!({}), 49), (json!({"priority": "info"}), 0)] {
        let (data, log, journal) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 1), Journal::new());
        let config = journal.config(more);
        journal.write(1..=100);
        let agent = Running::start(&config, data.path(), &log).await;
        until_lines(&log, 100).await;
        agent.stop().await;
        // Gone up to the place where reading stood, then beyond it.
        journal.vacuum(101..=120);
        let agent = Running::start(&config, data.path(), &log).await;
        until_lines(&log, 120).await;
        assert_eq!(gaps(&agent), 0, "nothing is missing: {lost}");
        agent.stop().await;
        journal.vacuum(170..=200);
        let agent = Running::start(&config, data.path(), &log).await;
        until_lines(&log, 151).await;
        assert_eq!(gaps(&agent), 1);
        let dropped = agent.ledger.snapshot().total.dropped.get("gap").map_or(0, |gap| gap.lines);
        assert_eq!(dropped, lost);
        agent.stop().await;
        assert_eq!(lines(&log), wanted((1..=120).chain(170..=200)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_journalctl_is_waited_for_and_a_dead_one_is_started_again() {
    let (data, log, journal) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 1), Journal::new());
    let config = journal.config(json!({}));
    journal.write(1..=10);
    std::fs::rename(journal.path("journalctl"), journal.path("away")).unwrap();
    let agent = Running::start(&config, data.path(), &log).await;
    until("it was tried", || ends(&agent, "not started") >= 1).await;
    journal.put("die", "5");
    std::fs::rename(journal.path("away"), journal.path("journalctl")).unwrap();
    until_lines(&log, 10).await;
    assert_eq!(ends(&agent, "exit code 1"), 1);
    agent.stop().await;
    assert_eq!(log.events().len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_and_damaged_entries_cost_no_more_than_themselves() {
    let (data, log, journal) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 1), Journal::new());
    let config = journal.config(json!({"max_line_bytes": "100B", "max_streams": 2}));
    journal.put("raw", b"rubbish\n\n");
    let huge = "x".repeat(3 << 20);
    let text = format!(
        "{}\n{}\n",
        json!(["a", 1, huge, {"_SYSTEMD_UNIT": "u.service", "OTHER": huge}]),
        json!(["a", 2, "two\nlines \u{0} and \u{fffd}", {"_SYSTEMD_UNIT": "u.service"}])
    );
    journal.put("journal", text);
    journal.write(3..=10);
    let agent = Running::start(&config, data.path(), &log).await;
    until("all", || log.events().len() == 10).await;
    let events: Vec<Event> = log.events().into_iter().map(|(_, e)| e).collect();
    assert!(events[0].cut && events[0].line.len() == 100);
    assert_eq!(events[1].line, "two\nlines \u{0} and \u{fffd}");
    // Beyond two label sets the labels stand in the metadata.
    let beside = events.iter().filter(|e| e.metadata.get("service").is_some()).count();
    assert!(
        beside >= 6 && events.iter().all(|e| e.labels.get("service").is_some() || e.metadata.get("service").is_some())
    );
    until_settled(&agent).await;
    let total = agent.ledger.snapshot().total;
    assert_eq!((total.dropped["malformed"].lines, total.dropped["malformed"].bytes), (1, 9));
    assert_eq!(total.dropped["cut"].bytes, (3 << 20) - 100);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_begins_at_the_end_once_and_never_skips_again() {
    let (data, log, journal) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 1), Journal::new());
    let config = journal.config(json!({"read_from": "end"}));
    journal.write(1..=50);
    log.mood(Mood::Good);
    let agent = Running::start(&config, data.path(), &log).await;
    until("the end is kept", || journal.calls().len() == 2).await;
    agent.kill().await;
    journal.write(51..=60);
    let agent = Running::start(&config, data.path(), &log).await;
    until_lines(&log, 10).await;
    assert_eq!(gaps(&agent), 0);
    agent.stop().await;
    assert_eq!(lines(&log), wanted(51..=60));
    assert!(journal.calls()[0].contains(&"--lines=1".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_away_stops_reading_within_the_memory() {
    let (data, log, journal) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 2), Journal::new());
    let mut config = journal.config(json!({}));
    config.max_waiting_bytes = millrace_log::value::ByteSize::mib(1);
    config.shutdown_timeout = millrace_log::value::Span::millis(300);
    journal.write(1..=100);
    let agent = Running::start(&config, data.path(), &log).await;
    until_lines(&log, 100).await;
    until_settled(&agent).await;
    log.mood(Mood::Away);
    journal.write(101..=20_000);
    until("reading stands still", || {
        let before = agent.metrics.read_lines.get();
        std::thread::sleep(std::time::Duration::from_millis(100));
        before > 100 && agent.metrics.read_lines.get() == before
    })
    .await;
    assert!(agent.metrics.read_lines.get() < 15_000 && agent.metrics.waiting_bytes.get() <= 2 << 20);
    // A stop while the log is away costs nothing.
    agent.stop_late().await;
    log.mood(Mood::Good);
    let agent = Running::start(&config, data.path(), &log).await;
    until_lines(&log, 20_000).await;
    agent.stop().await;
    assert_eq!(lines(&log), wanted(1..=20_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_selection_reads_on_without_a_false_gap() {
    let (data, log, journal) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 2), Journal::new());
    journal.write(1..=20);
    let agent = Running::start(&journal.config(json!({})), data.path(), &log).await;
    until_lines(&log, 20).await;
    agent.kill().await;
    // The entry that was read last is not among those that are read now.
    journal.vacuum(30..=40);
    let agent = Running::start(&journal.config(json!({"priority": "err"})), data.path(), &log).await;
    until_lines(&log, 31).await;
    assert_eq!(gaps(&agent), 0);
    agent.stop().await;
    assert_eq!(lines(&log), wanted((1..=20).chain(30..=40)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_spool_the_cursor_goes_on_while_the_log_is_away() {
    let (data, log, journal) = (tempfile::tempdir().unwrap(), FakeLog::new(4, 3), Journal::new());
    let mut config = journal.config(json!({}));
    config.spool = Some(millrace_agent::config::push::SpoolConfig::default());
    config.shutdown_timeout = millrace_log::value::Span::millis(300);
    let mut next = 1;
    for round in 0..5 {
        log.mood(if round == 3 { Mood::Moody } else { Mood::Away });
        let agent = Running::start(&config, data.path(), &log).await;
        let had = agent.metrics.spool_bytes.get();
        journal.write(next..next + 200);
        next += 200;
        until("some of it is in the spool", || agent.metrics.spool_bytes.get() > had || round == 3).await;
        agent.kill().await;
    }
    log.mood(Mood::Good);
    let agent = Running::start(&config, data.path(), &log).await;
    until_lines(&log, usize::try_from(next - 1).unwrap()).await;
    assert_eq!(lines(&log), wanted(1..next));
    assert_eq!(gaps(&agent), 0);
    agent.stop().await;
}
