//! Looking at live records: what each stage shows, what filters leave, and that nobody has to wait for who looks.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use millrace_agent::tap::{Seen, Stage, Tap, TapError, TapOptions};
use support::{FakeLog, Mood, Running, append, edit, quick, until};

async fn next(tap: &mut Tap) -> Seen {
    tokio::time::timeout(std::time::Duration::from_secs(30), tap.next()).await.expect("a record").expect("an agent")
}

fn of(stages: &[Stage]) -> TapOptions {
    TapOptions { stages: stages.to_vec(), ..TapOptions::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_stage_shows_what_a_record_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let mut config = quick(std::slice::from_ref(&path));
    let steps = r#"[{"type": "drop", "match": "noise", "reason": "noise"},
                    {"type": "vrl", "program": ".labels.level = \"info\"\n.message = upcase(string!(.message))"}]"#;
    edit(&mut config, |file| file.transforms = serde_json::from_str(steps).expect(steps));
    let log = FakeLog::new(1, 1);
    let agent = Running::start(&config, &folder.path().join("data"), &log).await;
    let mut read = agent.taps.open(of(&[Stage::Read])).unwrap();
    let mut sent = agent.taps.open(of(&[Stage::Sent])).unwrap();
    let mut dropped = agent.taps.open(of(&[Stage::Dropped])).unwrap();
    append(&path, "one\nsome noise\ntwo\n");
    for (line, position) in [("one", 0), ("some noise", 4), ("two", 15)] {
        let seen = next(&mut read).await;
        assert_eq!((seen.line.as_str(), seen.position, seen.topic, seen.reason), (line, position, None, None));
        assert_eq!((seen.kind.as_str(), seen.source.as_str()), ("file", path.to_str().unwrap()));
        assert_eq!(seen.labels.get("level"), None);
    }
    for (line, position) in [("ONE", 0), ("TWO", 15)] {
        let seen = next(&mut sent).await;
        assert_eq!((seen.line.as_str(), seen.position, seen.topic.as_deref()), (line, position, Some("logs-0")));
        assert_eq!(seen.labels.get("level").map(String::as_str), Some("info"));
    }
    let seen = next(&mut dropped).await;
    assert_eq!((seen.line.as_str(), seen.position, seen.topic), ("some noise", 4, None));
    assert_eq!(seen.reason.as_deref(), Some("noise"));
    assert_eq!((read.missed(), sent.missed(), dropped.missed()), (0, 0, 0));
    agent.stop().await;
    assert_eq!((read.next().await, sent.next().await, dropped.next().await), (None, None, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_leave_what_is_asked_for_and_sent_means_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let config = quick(&[folder.path().join("*.log")]);
    let log = FakeLog::new(1, 2);
    let agent = Running::start(&config, &folder.path().join("data"), &log).await;
    let mut by_line = agent
        .taps
        .open(TapOptions { filter: Some(Arc::new(|_, _, _, line| line.ends_with(b"7"))), ..of(&[Stage::Sent]) })
        .unwrap();
    let mut by_label = agent
        .taps
        .open(TapOptions {
            filter: Some(Arc::new(|labels, _, _, _| {
                labels.get("filename").is_some_and(|name| name.ends_with("b.log"))
            })),
            ..of(&[Stage::Read])
        })
        .unwrap();
    let mut by_source = agent.taps.open(TapOptions { source: "b.l".to_owned(), ..of(&[Stage::Read]) }).unwrap();
    until("the log is reached", || agent.metrics.scans.get() > 0).await;
    log.mood(Mood::Away);
    let lines: String = (0..20).map(|n| format!("{n}\n")).collect();
    append(&folder.path().join("a.log"), &lines);
    append(&folder.path().join("b.log"), "of b\n");
    assert_eq!(next(&mut by_label).await.line, "of b");
    assert_eq!(next(&mut by_source).await.line, "of b");
    // Nothing was acknowledged yet: nothing was sent.
    let nothing = tokio::time::timeout(std::time::Duration::ZERO, by_line.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    log.mood(Mood::Good);
    assert_eq!((next(&mut by_line).await.line, next(&mut by_line).await.line), ("7".to_owned(), "17".to_owned()));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_look_on_misses_records_and_nobody_waits() {
    let folder = tempfile::tempdir().unwrap();
    let config = quick(&[folder.path().join("*.log")]);
    let log = FakeLog::new(1, 1);
    let agent = Running::start(&config, &folder.path().join("data"), &log).await;
    let mut tap = agent.taps.open(of(&[Stage::Sent])).unwrap();
    let lines: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    append(&folder.path().join("a.log"), &lines);
    until("all lines are in the log", || log.events().len() == 20_000).await;
    until("all lines are settled", || agent.ledger.snapshot().total.waiting.lines == 0).await;
    let mut shown = 0;
    while let Ok(Some(_)) = tokio::time::timeout(std::time::Duration::ZERO, tap.next()).await {
        shown += 1;
    }
    assert!((1..=1024).contains(&shown), "{shown}");
    assert_eq!(tap.missed(), 20_000 - shown);
    assert_eq!(tap.missed(), 0, "each is told once");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn taps_are_few_and_long_lines_are_shown_by_their_head() {
    let folder = tempfile::tempdir().unwrap();
    let config = quick(&[folder.path().join("*.log")]);
    let log = FakeLog::new(1, 1);
    let agent = Running::start(&config, &folder.path().join("data"), &log).await;
    let mut taps: Vec<Tap> = (0..16).map(|_| agent.taps.open(TapOptions::default()).unwrap()).collect();
    assert_eq!(agent.taps.open(TapOptions::default()).err(), Some(TapError::TooMany));
    taps.truncate(1);
    let second = agent.taps.open(TapOptions::default()).unwrap();
    append(&folder.path().join("a.log"), &format!("{}\n", "x".repeat(100_000)));
    let seen = next(&mut taps[0]).await;
    assert_eq!((seen.line.len(), seen.not_shown), (64 << 10, 100_000 - (64 << 10)));
    let taps = agent.taps.clone();
    agent.stop().await;
    assert_eq!(taps.open(TapOptions::default()).err(), Some(TapError::Stopped));
    drop(second);
}
