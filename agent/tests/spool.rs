//! The disk spool: what is acknowledged while the log is away comes there once, over kills and damage.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millrace_agent::config::push::SpoolConfig;
use millrace_agent::push::{Batch, Intake, Line, Rejected};
use millrace_agent::{Agent, AgentError};
use millrace_log::clock::SystemClock;
use millrace_log::record::Labels;
use millrace_log::value::ByteSize;
use prometheus_client::registry::Registry;
use support::{FakeLog, Mood, Running, quick, until};

async fn start(log: &Arc<FakeLog>, data: &Path, max_bytes: ByteSize) -> (Running, Intake) {
    let mut config = quick(&[]);
    config.sources.clear();
    config.max_waiting_bytes = ByteSize::mib(2);
    config.shutdown_timeout = millrace_log::value::Span::millis(300);
    config.spool = Some(SpoolConfig { max_bytes, ..SpoolConfig::default() });
    let mut agent = loop {
        match Agent::open(config.clone(), data, log.clone(), SystemClock::shared(), &mut Registry::default()) {
            Ok(agent) => break agent,
            // A killed agent's threads end a moment later.
            Err(AgentError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(2)).await,
            Err(error) => panic!("{error}"),
        }
    };
    let intake = agent.embed("test", Labels::new([("env", "prod")])).unwrap();
    (Running::run(agent), intake)
}

fn batch(intake: &Intake, numbers: std::ops::Range<usize>, len: usize) -> Batch {
    let mut batch = intake.batch();
    let metadata = Labels::new([("m", "x")]);
    for number in numbers {
        let stream = intake.stream(&Labels::new([("app", (number % 5).to_string())]), None).unwrap();
        let text = format!("{number:06} {}", "x".repeat(len));
        let line = Line { text: text.as_bytes(), time_ns: Some(number as i64), metadata: Some(&metadata) };
        batch.push(&stream, line);
    }
    batch
}

async fn push(intake: &Intake, numbers: std::ops::Range<usize>, len: usize) {
    batch(intake, numbers, len).send().await.unwrap().acknowledged().await.unwrap();
}

fn segments(data: &Path) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(data.join("spool")).unwrap();
    let mut all: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

fn numbers(log: &FakeLog) -> Vec<usize> {
    let mut all: Vec<usize> = log.lines().iter().map(|line| line.split(" ").next().unwrap().parse().unwrap()).collect();
    all.sort_unstable();
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_while_the_log_was_away_comes_once_over_kills() {
    let (data, log) = (tempfile::tempdir().unwrap(), FakeLog::new(5, 3));
    log.mood(Mood::Away);
    let mut next = 0;
    for round in 0..6 {
        let (agent, intake) = start(&log, data.path(), ByteSize::mib(16)).await;
        for _ in 0..10 {
            push(&intake, next..next + 20, 50).await;
            next += 20;
        }
        if round >= 2 {
            // Some of it is sent, some of that is acknowledged.
            log.mood(Mood::Moody);
            until("something comes", || log.events().len() > next / 4).await;
        }
        drop(intake);
        agent.kill().await;
        log.mood(Mood::Away);
    }
    log.mood(Mood::Good);
    let (agent, intake) = start(&log, data.path(), ByteSize::mib(16)).await;
    push(&intake, next..next + 1, 50).await;
    until("all is sent", || numbers(&log).len() > next && agent.ledger.snapshot().total.waiting.lines == 0).await;
    assert_eq!(numbers(&log), (0..=next).collect::<Vec<_>>());
    let events = log.deduplicated();
    for app in 0..5 {
        let times: Vec<i64> =
            events.iter().filter(|e| e.labels.get("app") == Some(&app.to_string())).map(|e| e.time_ns).collect();
        assert!(times.is_sorted(), "a stream keeps its order: {times:?}");
    }
    assert!(events.iter().all(|e| e.metadata.get("m") == Some("x") && e.time_from_line));
    until("old segments are deleted", || segments(data.path()).len() == 1).await;
    let sent = log.events().len();
    // It holds the state.
    drop(intake);
    agent.stop().await;
    let (agent, _intake) = start(&log, data.path(), ByteSize::mib(16)).await;
    until("the last segment is deleted", || segments(data.path()).len() == 1).await;
    agent.stop().await;
    assert_eq!(log.events().len(), sent, "what the log has is not sent again after a stop in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_refuses_and_takes_again_once_the_log_has_it() {
    let (data, log) = (tempfile::tempdir().unwrap(), FakeLog::new(5, 2));
    let (agent, intake) = start(&log, data.path(), ByteSize::mib(1)).await;
    push(&intake, 0..1, 10).await;
    until("the log is reached", || log.events().len() == 1).await;
    log.mood(Mood::Away);
    let mut next = 1;
    let full = loop {
        match batch(&intake, next..next + 10, 2000).offer() {
            Ok(receipt) => receipt.acknowledged().await.unwrap(),
            Err(error) => break error,
        }
        next += 10;
        assert!(next < 2000);
    };
    assert!(matches!(full, Rejected::Full { what } if what.contains("max_bytes")), "{full}");
    assert!(next > 300, "most of it was used: {next}");
    log.mood(Mood::Good);
    push(&intake, next..next + 10, 2000).await;
    next += 10;
    until("all is sent", || numbers(&log).len() == next).await;
    assert_eq!(numbers(&log), (0..next).collect::<Vec<_>>());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_counted_and_costs_no_more_than_itself() {
    let (data, log) = (tempfile::tempdir().unwrap(), FakeLog::new(5, 1));
    log.mood(Mood::Away);
    for round in 0..2 {
        let (agent, intake) = start(&log, data.path(), ByteSize::mib(16)).await;
        for n in 0..10 {
            push(&intake, round * 10 + n..round * 10 + n + 1, 50).await;
        }
        agent.kill().await;
    }
    let all = segments(data.path());
    assert_eq!(all.len(), 2);
    let mut bytes = std::fs::read(&all[0]).unwrap();
    let at = memchr::memmem::find(&bytes, b"000004 ").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&all[0], &bytes).unwrap();
    // The last one was being written when the power went.
    let bytes = std::fs::read(&all[1]).unwrap();
    std::fs::write(&all[1], [&bytes[..], &bytes[..40]].concat()).unwrap();
    log.mood(Mood::Good);
    let (agent, _intake) = start(&log, data.path(), ByteSize::mib(16)).await;
    until("all is sent", || numbers(&log).len() == 19).await;
    assert_eq!(numbers(&log), (0..20).filter(|n| *n != 4).collect::<Vec<_>>());
    assert!(agent.metrics.spool_damaged_bytes.get() > 0);
    agent.stop().await;
}

/// Unmounts when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, size: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let options = format!("size={size}");
        let mount = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).status();
        assert!(mount.unwrap().success());
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: mounts a small tmpfs"]
async fn a_full_disk_refuses_and_what_was_acknowledged_comes_once() {
    let (data, log) = (tempfile::tempdir().unwrap(), FakeLog::new(5, 2));
    let mounted = Mounted::tmpfs(&data.path().join("spool"), "1m");
    let (mut acknowledged, mut next) = (Vec::new(), 0);
    for round in 0..4 {
        log.mood(Mood::Away);
        // More than the disk has, so that not the limit stops it.
        let (agent, intake) = start(&log, data.path(), ByteSize::mib(64)).await;
        let mut refused = 0;
        while refused < 20 {
            assert!(next < 100_000, "a full disk refuses");
            // Of different sizes: some still fit where others did not.
            let taken = match batch(&intake, next..next + 10, 1 + next % 3000).offer() {
                Ok(receipt) => receipt.acknowledged().await.is_ok(),
                Err(_) => false,
            };
            if taken {
                acknowledged.extend(next..next + 10);
            } else {
                refused += 1;
            }
            next += 10;
        }
        assert!(agent.metrics.spool_failures.get() > 0);
        let known = acknowledged.len();
        if round % 2 == 0 {
            drop(intake);
            agent.kill().await;
            log.mood(Mood::Good);
            let (agent, intake) = start(&log, data.path(), ByteSize::mib(64)).await;
            until("all that was acknowledged", || numbers(&log).len() >= known).await;
            drop(intake);
            agent.stop().await;
        } else {
            log.mood(Mood::Good);
            until("all that was acknowledged", || numbers(&log).len() >= known).await;
            push(&intake, next..next + 10, 2000).await;
            acknowledged.extend(next..next + 10);
            next += 10;
            until("it goes on", || numbers(&log).len() >= known + 10).await;
            drop(intake);
            agent.stop().await;
        }
        assert_eq!(numbers(&log), acknowledged, "round {round}");
    }
    drop(mounted);
}
