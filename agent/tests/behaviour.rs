//! The agent's promises one by one: what is sent, when it is kept, what happens when the log is slow, away or refuses.

// Helpers of tests may panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod support;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millrace_agent::config::{MultilineConfig, ReadFrom, TimestampConfig};
use millrace_agent::{Agent, AgentError};
use millrace_log::clock::{Clock as _, SystemClock};
use millrace_log::value::{ByteSize, Span};
use prometheus_client::registry::Registry;
use support::{FakeLog, Mood, Running, append, edit, quick, until};

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("logs")).unwrap();
        Self { folder }
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join("logs").join(name)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("agent")
    }
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_waits_for_nothing_stops_at_once() {
    let place = Place::new();
    let mut config = quick(&[place.log("*.log")]);
    config.shutdown_timeout = Span::secs(3600);
    append(&place.log("a.log"), "line\n");
    let log = FakeLog::new(1, 4);
    let agent = Running::start(&config, &place.data(), &log).await;
    until("the line", || log.events().len() == 1).await;
    tokio::time::timeout(Duration::from_secs(60), agent.stop()).await.expect("no timeout is waited for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folders_that_come_later_are_found_within_the_interval() {
    let place = Place::new();
    let other = |name: &str| place.folder.path().join(name);
    let mut config = quick(&[place.log("*.log"), other("later/*.log"), other("a/b/c.log")]);
    // Where every folder is watched, all of them are looked through ten times as seldom.
    config.scan_interval = Span::secs(1);
    append(&place.log("a.log"), "first\n");
    let log = FakeLog::new(1, 1);
    let agent = Running::start(&config, &place.data(), &log).await;
    until("the first line", || log.lines() == ["first"]).await;
    let begun = std::time::Instant::now();
    for (name, lines, scans) in [("later/b.log", 2, 2), ("a/b/c.log", 3, 4)] {
        // A folder that is watched anew is looked through twice: from then on only the interval counts.
        until("the second look", || agent.metrics.scans.get() >= scans).await;
        std::fs::create_dir_all(other(name).parent().unwrap()).unwrap();
        append(&other(name), "later\n");
        until("the line of a new folder", || log.lines().len() == lines).await;
    }
    std::fs::remove_dir_all(other("later")).unwrap();
    until("its file is gone", || agent.ledger.snapshot().sources.iter().any(|source| source.finished)).await;
    std::fs::create_dir(other("later")).unwrap();
    append(&other("later/c.log"), "again\n");
    until("the line of the folder that came again", || log.lines().len() == 4).await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_carry_labels_position_and_time() {
    let place = Place::new();
    let mut config = quick(&[place.log("*.log")]);
    edit(&mut config, |file| {
        file.labels.insert("service".into(), "checkout".into());
        file.tenant = "team-a".into();
    });
    append(&place.log("a.log"), "first\r\n\nthird \u{fffd}\n");
    std::fs::write(place.log("raw.log"), b"\xff\xfe bytes\n").unwrap();
    let log = FakeLog::new(1, 4);
    let before = SystemClock.now_ns();
    let agent = Running::start(&config, &place.data(), &log).await;
    until("four lines", || log.events().len() == 4).await;
    let events = log.events();
    let a: Vec<_> = events.iter().filter(|(_, e)| e.labels.get("filename").unwrap().ends_with("a.log")).collect();
    let lines: Vec<_> = a.iter().map(|(_, e)| (e.position.offset, e.line.as_ref())).collect();
    assert_eq!(lines, [(0, &b"first"[..]), (7, b""), (8, "third \u{fffd}".as_bytes())]);
    assert!(events.iter().any(|(_, e)| e.line.as_ref() == b"\xff\xfe bytes"));
    for (_, event) in &events {
        let invalid = event.line.starts_with(b"\xff").then_some("invalid");
        assert_eq!(event.metadata.get("encoding"), invalid);
        assert_eq!((event.labels.get("service"), event.labels.get("host")), (Some("checkout"), Some("h1")));
        assert_eq!(event.tenant.as_str(), "team-a");
        assert!(event.time_ns >= before && event.time_ns <= SystemClock.now_ns() && !event.time_from_line);
        assert!(!event.cut);
    }
    let (_, record) = &log.kept("logs")[0];
    assert_eq!(record.key.as_deref(), Some(&log.events()[0].1.source.to_hex()[..]));
    assert_eq!(record.timestamp_ms, log.events()[0].1.time_ns / 1_000_000);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn line_without_end_is_sent_once_and_never_again() {
    let place = Place::new();
    let config = quick(&[place.log("*.log")]);
    let (log, path) = (FakeLog::new(1, 1), place.log("a.log"));
    let agent = Running::start(&config, &place.data(), &log).await;
    append(&path, "whole\npart");
    until("the part", || log.lines() == ["whole", "part"]).await;
    append(&path, "\nnext\nopen");
    until("the next part", || log.lines() == ["whole", "part", "next", "open"]).await;
    append(&path, " rest\nlast\n");
    until("the rest", || log.lines() == ["whole", "part", "next", "open", " rest", "last"]).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn line_that_was_sent_in_part_keeps_its_boundary_over_a_crash() {
    let place = Place::new();
    let mut config = quick(&[place.log("*.log")]);
    config.checkpoint_interval = Span::secs(3600);
    let (log, path) = (FakeLog::new(1, 1), place.log("a.log"));
    let agent = Running::start(&config, &place.data(), &log).await;
    append(&path, "whole\npart");
    until("the part", || log.lines() == ["whole", "part"]).await;
    agent.kill().await;
    append(&path, " and rest\n");
    let agent = Running::start(&config, &place.data(), &log).await;
    until("the rest", || log.lines() == ["whole", "part", " and rest"]).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_lines_are_cut_and_counted() {
    let place = Place::new();
    let mut config = quick(&[place.log("*.log")]);
    edit(&mut config, |file| file.max_line_bytes = ByteSize(100));
    let (log, path) = (FakeLog::new(1, 1), place.log("a.log"));
    append(&path, &format!("a\n{}\nb\n{}", "x".repeat(50_000), "y".repeat(500)));
    let agent = Running::start(&config, &place.data(), &log).await;
    until("all lines", || log.lines().len() == 4).await;
    append(&path, "yy\nc\n");
    until("the line after", || log.lines().len() == 5).await;
    let events = log.events();
    let got: Vec<_> = events.iter().map(|(_, e)| (e.line.len(), e.cut)).collect();
    // What readers see who don't know our header.
    assert!(events.iter().all(|(_, e)| (e.metadata.to_json() == r#"{"truncated":"true"}"#) == e.cut), "{events:?}");
    assert_eq!(got, [(1, false), (100, true), (1, false), (100, true), (1, false)]);
    until("settled", || agent.ledger.snapshot().total.waiting.bytes == 0).await;
    let total = agent.ledger.snapshot().total;
    assert_eq!((total.dropped["cut"].bytes, total.dropped["cut"].lines), (49_900 + 1 + 402 + 1, 0));
    assert_eq!((total.read.lines, total.sent.lines, total.read.bytes), (5, 5, 2 + 50_001 + 2 + 503 + 2));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stack_traces_become_one_event() {
    let place = Place::new();
    let mut config = quick(&[place.log("*.log")]);
    edit(&mut config, |file| {
        let join = MultilineConfig {
            r#continue: Some(r"^\s|^Caused by".into()),
            timeout: Span::millis(200),
            ..MultilineConfig::default()
        };
        file.multiline = Some(join);
    });
    let (log, path) = (FakeLog::new(1, 1), place.log("a.log"));
    let agent = Running::start(&config, &place.data(), &log).await;
    append(&path, "ok\nException: x\n\tat a\n\tat b\nCaused by: y\n\tat c\nafter\n");
    until("three events", || log.events().len() == 3).await;
    assert_eq!(log.lines(), ["ok", "Exception: x\n\tat a\n\tat b\nCaused by: y\n\tat c", "after"]);
    assert_eq!(log.events()[1].1.position.offset, 3);
    until("settled", || agent.ledger.snapshot().total.sent.lines == 7).await;
    assert_eq!(agent.ledger.snapshot().total.sent.records, 3);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_is_read_from_the_line() {
    let place = Place::new();
    let mut config = quick(&[place.log("*.log")]);
    edit(&mut config, |file| file.timestamp = Some(TimestampConfig::default()));
    let log = FakeLog::new(1, 1);
    append(&place.log("a.log"), "2026-01-01T00:00:00.000000001Z x\nno time\n");
    let agent = Running::start(&config, &place.data(), &log).await;
    until("both", || log.events().len() == 2).await;
    let events = log.events();
    assert_eq!((events[0].1.time_ns, events[0].1.time_from_line), (1_767_225_600_000_000_001, true));
    assert!(!events[1].1.time_from_line);
    assert_eq!(agent.metrics.untimed_lines.get(), 1);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_from_the_end_skips_only_what_was_there_at_the_first_start() {
    let place = Place::new();
    let mut config = quick(&[place.log("*.log")]);
    edit(&mut config, |file| file.read_from = ReadFrom::End);
    let log = FakeLog::new(1, 1);
    append(&place.log("old.log"), "old 1\nold 2\n");
    let agent = Running::start(&config, &place.data(), &log).await;
    until("the file is known", || agent.ledger.snapshot().sources.len() == 1).await;
    append(&place.log("old.log"), "old 3\n");
    append(&place.log("new.log"), "new 1\n");
    until("both", || log.lines().len() == 2).await;
    agent.stop().await;
    append(&place.log("newer.log"), "newer 1\n");
    let agent = Running::start(&config, &place.data(), &log).await;
    until("the third", || log.lines().len() == 3).await;
    assert_eq!(sorted(log.lines()), ["new 1", "newer 1", "old 3"]);
    agent.stop().await;
}

/// Forty files with the same first lines, longer than the fingerprint: over a restart, inode reuse and rotation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_with_the_same_banner_are_told_apart() {
    let place = Place::new();
    let mut config = quick(&[place.log("*.log")]);
    config.fingerprint_bytes = ByteSize(64);
    let log = FakeLog::new(1, 4);
    let banner = format!("{}\n", "=".repeat(200));
    let names: Vec<PathBuf> = (0..40).map(|i| place.log(&format!("s{i}.log"))).collect();
    for name in &names {
        append(name, &banner);
    }
    let agent = Running::start(&config, &place.data(), &log).await;
    until("all banners", || log.lines().len() == 40).await;
    agent.stop().await;
    for (i, name) in names.iter().enumerate() {
        append(name, &format!("{i} one\n"));
    }
    let agent = Running::start(&config, &place.data(), &log).await;
    until("all first lines", || log.lines().len() == 80).await;
    agent.stop().await;
    // Half are deleted and made anew: their inodes are given out again.
    for (i, name) in names.iter().enumerate().skip(20) {
        std::fs::remove_file(name).unwrap();
        append(name, &format!("{banner}{i} two\n"));
    }
    let agent = Running::start(&config, &place.data(), &log).await;
    until("new files whole", || log.lines().len() == 120).await;
    agent.stop().await;
    let mut want: Vec<String> = vec![banner.trim_end().to_owned(); 60];
    want.extend((0..40).map(|i| format!("{i} one")));
    want.extend((20..40).map(|i| format!("{i} two")));
    assert_eq!(sorted(log.lines()), sorted(want));
    let ids: HashSet<_> = log.events().iter().map(|(_, e)| e.source).collect();
    assert_eq!(ids.len(), 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoint_is_kept_only_after_the_acknowledgement() {
    let place = Place::new();
    let config = quick(&[place.log("*.log")]);
    let log = FakeLog::new(1, 1);
    let agent = Running::start(&config, &place.data(), &log).await;
    until("a scan", || agent.metrics.scans.get() > 0).await;
    log.mood(Mood::Away);
    append(&place.log("a.log"), "one\ntwo\n");
    until("the request", || log.calls() == 1).await;
    let source = agent.ledger.snapshot().sources[0].clone();
    assert_eq!((source.read_to, source.acknowledged_to, source.balance.waiting.lines), (8, 0, 2));
    let scans = agent.metrics.scans.get();
    until("some checkpoints", || agent.metrics.scans.get() > scans + 3).await;
    agent.kill().await;
    assert!(log.events().is_empty());
    log.mood(Mood::Good);
    let agent = Running::start(&config, &place.data(), &log).await;
    until("both lines", || log.lines() == ["one", "two"]).await;
    // The same source id: it was durable before the first request.
    assert_eq!(log.events()[0].1.source.to_string(), source.source);
    agent.stop().await;
    let agent = Running::start(&config, &place.data(), &log).await;
    append(&place.log("a.log"), "three\n");
    until("only the third", || log.events().len() == 3).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_log_stops_reading_and_memory_is_bounded() {
    let place = Place::new();
    let mut config = quick(&[place.log("in/*.log")]);
    config.max_waiting_bytes = ByteSize::mib(1);
    config.read_bytes = ByteSize(64 << 10);
    edit(&mut config, |file| file.max_line_bytes = ByteSize(1000));
    let log = FakeLog::new(1, 2);
    let line = format!("{}\n", "x".repeat(99));
    let agent = Running::start(&config, &place.data(), &log).await;
    until("a scan", || agent.metrics.scans.get() > 0).await;
    log.mood(Mood::Away);
    // All of them come at once, so that none is read far before the others are there.
    std::fs::create_dir(place.log("out")).unwrap();
    for name in ["a.log", "b.log", "c.log"] {
        append(&place.log(&format!("out/{name}")), &line.repeat(20_000));
    }
    std::fs::rename(place.log("out"), place.log("in")).unwrap();
    let condition = || agent.ledger.snapshot().condition;
    until("a pause that is told with its reason", || {
        let now = condition();
        now.paused.as_deref() == Some("memory") && now.max_waiting_bytes == 1 << 20
    })
    .await;
    let waiting = agent.ledger.snapshot().total.waiting.bytes;
    assert!((100_000..=1 << 20).contains(&waiting), "{waiting}");
    // Fair turns: no file has been read far ahead of the others.
    let read: Vec<u64> = agent.ledger.snapshot().sources.iter().map(|s| s.read_to).collect();
    assert!(read.iter().all(|r| *r > 100_000), "{read:?}");
    log.mood(Mood::Good);
    until("all lines", || log.events().len() == 60_000).await;
    until("nothing is in the way any longer", || {
        let now = condition();
        now.paused.is_none() && now.troubles.is_empty() && now.waiting_bytes == 0
    })
    .await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_that_is_away_at_the_start_is_waited_for() {
    let place = Place::new();
    let config = quick(&[place.log("*.log")]);
    let log = FakeLog::new(1, 2);
    log.mood(Mood::Away);
    append(&place.log("a.log"), "one\n");
    let agent = Running::start(&config, &place.data(), &log).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(agent.is_alive());
    log.mood(Mood::Good);
    until("the line", || log.lines() == ["one"]).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_records_go_to_the_dead_letters_and_the_rest_goes_on() {
    let place = Place::new();
    let config = quick(&[place.log("*.log")]);
    let log = FakeLog::new(1, 1);
    log.poison("bad");
    append(&place.log("a.log"), "one\nbad 2\nthree\nbad 4\nfive\n");
    let agent = Running::start(&config, &place.data(), &log).await;
    until("good lines", || log.lines() == ["one", "three", "five"]).await;
    until("dead letters", || log.kept("millrace.dlq").len() == 2).await;
    until("settled", || agent.ledger.snapshot().total.waiting.lines == 0).await;
    let total = agent.ledger.snapshot().total;
    assert_eq!((total.sent.lines, total.dropped["dead_letter"].lines, total.dropped["dead_letter"].bytes), (3, 2, 12));
    let (_, letter) = &log.kept("millrace.dlq")[0];
    assert_eq!(letter.value.as_deref(), Some(&b"bad 2"[..]));
    assert_eq!(letter.header("dlq.stage").map(|v| &v[..]), Some(&b"agent"[..]));
    for name in ["labels", "millrace", "dlq.reason", "dlq.time", "dlq.from"] {
        assert!(letter.header(name).is_some(), "{name}");
    }
    agent.stop().await;
}

/// No idempotent client leaves gaps, but a setting may make it one that does: then lines may double, never be lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gaps_in_what_the_log_took_lose_nothing() {
    let place = Place::new();
    let config = quick(&[place.log("*.log")]);
    let log = FakeLog::new(7, 1);
    log.mood(Mood::Gaps);
    let agent = Running::start(&config, &place.data(), &log).await;
    let mut want = HashSet::new();
    for i in 0..50 {
        let text: String = (0..20).map(|j| format!("line {i} {j}\n")).collect();
        want.extend(text.lines().map(str::to_owned));
        append(&place.log("a.log"), &text);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    until("every line", || log.lines().into_iter().collect::<HashSet<_>>() == want).await;
    assert!(agent.metrics.moved_sources.get() > 0);
    until("settled", || agent.ledger.snapshot().total.waiting.lines == 0).await;
    agent.kill().await;
    log.mood(Mood::Good);
    let agent = Running::start(&config, &place.data(), &log).await;
    append(&place.log("a.log"), "after\n");
    until("the last line", || log.lines().contains(&"after".to_owned())).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_file_is_read_to_its_end() {
    let place = Place::new();
    let config = quick(&[place.log("*.log")]);
    let (log, path) = (FakeLog::new(1, 1), place.log("a.log"));
    let agent = Running::start(&config, &place.data(), &log).await;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
    std::io::Write::write_all(&mut file, b"one\n").unwrap();
    until("the first line", || log.lines() == ["one"]).await;
    std::fs::remove_file(&path).unwrap();
    std::io::Write::write_all(&mut file, b"two\nthree").unwrap();
    drop(file);
    until("the last lines", || log.lines() == ["one", "two", "three"]).await;
    until("the file is let go", || agent.metrics.finished_files.get() == 1).await;
    assert!(agent.ledger.snapshot().sources[0].finished);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_renamed_while_stopped_is_read_on_not_again() {
    let place = Place::new();
    let config = quick(&[place.log("*.log")]);
    let (log, path) = (FakeLog::new(1, 1), place.log("a.log"));
    append(&path, "one\n");
    let agent = Running::start(&config, &place.data(), &log).await;
    until("the first line", || log.lines() == ["one"]).await;
    agent.stop().await;
    append(&path, "two\n");
    std::fs::rename(&path, place.log("a.log.1")).unwrap();
    append(&path, "three\n");
    let agent = Running::start(&config, &place.data(), &log).await;
    until("both", || log.lines().len() == 3).await;
    assert_eq!(sorted(log.lines()), ["one", "three", "two"]);
    let names: HashSet<_> = log.events().iter().map(|(_, e)| e.labels.get("filename").unwrap().to_owned()).collect();
    assert_eq!(names.len(), 1, "a rotated file keeps its stream");
    agent.stop().await;
}

/// `cp` has made the copy, the truncation comes later: both are new to the agent at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_and_its_copy_that_are_found_together_are_one_source() {
    for glob in ["*.log", "*.log*"] {
        let place = Place::new();
        let config = quick(&[place.log(glob)]);
        let (log, path, copy) = (FakeLog::new(1, 1), place.log("a.log"), place.log("a.log.1"));
        Running::start(&config, &place.data(), &log).await.stop().await;
        append(&path, "one\ntwo\n");
        append(&path, "three\n");
        std::fs::copy(&path, &copy).unwrap();
        // By its time the copy may be the older of the two, or as old (`cp -p`).
        let time = std::fs::metadata(&path).unwrap().modified().unwrap() - Duration::from_millis(500);
        std::fs::OpenOptions::new().write(true).open(&copy).unwrap().set_modified(time).unwrap();
        let agent = Running::start(&config, &place.data(), &log).await;
        until("three lines", || log.lines().contains(&"three".to_owned())).await;
        append(&place.log("b.log"), "read\n");
        until("another file", || log.lines().contains(&"read".to_owned())).await;
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        append(&path, "four\n");
        until("the next line", || log.lines().contains(&"four".to_owned())).await;
        append(&copy, "late\n");
        until("the end of the copy", || log.lines().contains(&"late".to_owned())).await;
        assert_eq!(sorted(log.lines()), ["four", "late", "one", "read", "three", "two"], "{glob}");
        agent.stop().await;
    }
}

/// Lines that are written between `cp` and the truncation of copytruncate are read, and then stand nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_not_read_again_where_the_original_was_read_past_it() {
    for (copied, glob) in [("one\ntwo\n", "*.log*"), ("one\ntwo\nthr", "*.log*"), ("one\ntwo\nthr", "*.log")] {
        let place = Place::new();
        let config = quick(&[place.log(glob)]);
        let (log, path, copy) = (FakeLog::new(1, 1), place.log("a.log"), place.log("a.log.1"));
        let agent = Running::start(&config, &place.data(), &log).await;
        append(&path, copied);
        until("two lines", || log.lines().contains(&"two".to_owned())).await;
        std::fs::copy(&path, &copy).unwrap();
        append(&place.log("b.log"), "read\n");
        until("another file", || log.lines().contains(&"read".to_owned())).await;
        let rest = "one\ntwo\nthree\n".strip_prefix(copied).unwrap();
        append(&path, rest);
        until("what the copy lacks", || log.lines().contains(&"three".to_owned())).await;
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        append(&path, "four\n");
        until("the next line", || log.lines().contains(&"four".to_owned())).await;
        append(&place.log("c.log"), "done\n");
        until("one more file", || log.lines().contains(&"done".to_owned())).await;
        assert_eq!(sorted(log.lines()), ["done", "four", "one", "read", "three", "two"], "{copied:?}, {glob}");
        agent.stop().await;
        // It is known by then.
        let agent = Running::start(&config, &place.data(), &log).await;
        append(&place.log("d.log"), "again\n");
        until("another start", || log.lines().contains(&"again".to_owned())).await;
        assert_eq!(log.lines().len(), 7, "{copied:?}, {glob}: {:?}", log.lines());
        agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_files_are_closed_and_opened_again() {
    let place = Place::new();
    let mut config = quick(&[place.log("*.log")]);
    config.close_idle = Span::millis(50);
    let (log, path) = (FakeLog::new(1, 1), place.log("a.log"));
    append(&path, "one\n");
    let agent = Running::start(&config, &place.data(), &log).await;
    until("closed", || log.lines() == ["one"] && agent.metrics.open_files.get() == 0).await;
    append(&path, "two\n");
    until("opened again", || log.lines() == ["one", "two"]).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moody_log_gets_every_line_of_many_files_once() {
    let place = Place::new();
    let mut config = quick(&[place.log("**/*.log")]);
    config.read_bytes = ByteSize(4096);
    let log = FakeLog::new(3, 4);
    log.mood(Mood::Moody);
    let agent = Running::start(&config, &place.data(), &log).await;
    std::fs::create_dir_all(place.log("deep/er")).unwrap();
    let mut want = Vec::new();
    for round in 0..20 {
        for name in ["a.log", "deep/b.log", "deep/er/c.log", "deep/er/d.log"] {
            let text: String = (0..50).map(|j| format!("{name} {round:02} {j:02}\n")).collect();
            want.extend(text.lines().map(str::to_owned));
            append(&place.log(name), &text);
        }
    }
    until("all lines", || log.lines().len() >= want.len()).await;
    assert_eq!(sorted(log.lines()), sorted(want));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folder_in_use_is_refused() {
    let place = Place::new();
    let config = quick(&[place.log("*.log")]);
    let log = FakeLog::new(1, 1);
    let agent = Running::start(&config, &place.data(), &log).await;
    let second =
        Agent::open(config, &place.data(), Arc::clone(&log) as _, SystemClock::shared(), &mut Registry::default());
    assert!(matches!(second, Err(AgentError::InUse { .. })));
    agent.stop().await;
}

/// CPU-seconds of this process so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// From files to the producer, without the producer's own work: prints CPU-seconds for 200 MB (1.2 million lines).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: run it with --release and --nocapture"]
async fn speed_from_files_to_the_producer() {
    let place = Place::new();
    let config = quick(&[place.log("*.log")]);
    let log = FakeLog::new(1, 4);
    log.mood(Mood::Sink);
    for file in 0..4 {
        let text: String = (0..300_000).map(|i| format!("{i:08} {}\n", "word ".repeat(31))).collect();
        append(&place.log(&format!("{file}.log")), &text);
    }
    let before = cpu_seconds();
    let started = std::time::Instant::now();
    let agent = Running::start(&config, &place.data(), &log).await;
    until("all lines", || log.sunk() == 1_200_000).await;
    let (cpu, wall) = (cpu_seconds() - before, started.elapsed());
    agent.stop().await;
    eprintln!("1.2 million lines, 198 MB: {cpu:.2} CPU-seconds, {wall:.2?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_behind_links_are_looked_at_without_looking_through_folders() {
    let (place, elsewhere) = (Place::new(), tempfile::tempdir().unwrap());
    let mut config = quick(&[place.log("*.log")]);
    config.scan_interval = Span::millis(200);
    let target = |name: &str| elsewhere.path().join(name);
    append(&target("one"), "1\n");
    std::os::unix::fs::symlink(target("one"), place.log("link.log")).unwrap();
    std::os::unix::fs::symlink(target("three"), place.log("nowhere.log")).unwrap();
    append(&target("two"), "2\n");
    std::fs::hard_link(target("two"), place.log("hard.log")).unwrap();
    let log = FakeLog::new(1, 2);
    let agent = Running::start(&config, &place.data(), &log).await;
    let mut lines = 2;
    until("both", || log.events().len() == lines).await;
    // Folders are looked through too, now and then: between two times the lines come all the same.
    let mut looked = false;
    for _ in 0..5 {
        let scans = agent.metrics.scans.get();
        append(&target("one"), "more\n");
        append(&target("two"), "more\n");
        lines += 2;
        until("more", || log.events().len() == lines).await;
        looked |= agent.metrics.scans.get() == scans;
    }
    assert!(looked, "every line was found by a scan");
    // A link that leads nowhere is seen when it leads somewhere, and one that was switched too.
    append(&target("three"), "3\n");
    until("the third", || log.events().len() == lines + 1).await;
    append(&target("four"), "4\n");
    std::os::unix::fs::symlink(target("four"), place.log("new")).unwrap();
    std::fs::rename(place.log("new"), place.log("link.log")).unwrap();
    until("the fourth", || log.events().len() == lines + 2).await;
    agent.stop().await;
}
