//! Sources that are no files, by the way in that all of them share: receipts, order, positions over kills, the ledger,
//! the memory cap.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_agent::Agent;
use millrace_agent::push::{Batch, Intake, Line, Rejected};
use millrace_log::clock::SystemClock;
use millrace_log::record::{Labels, Tenant};
use millrace_log::value::ByteSize;
use prometheus_client::registry::Registry;
use support::{FakeLog, Mood, Running, quick, until};

/// An agent with nothing but an embedded source.
async fn start(log: &std::sync::Arc<FakeLog>, data: &std::path::Path, max_waiting: ByteSize) -> (Running, Intake) {
    let mut config = quick(&[]);
    config.sources.clear();
    config.max_waiting_bytes = max_waiting;
    let mut registry = Registry::default();
    let mut agent = loop {
        match Agent::open(config.clone(), data, log.clone(), SystemClock::shared(), &mut registry) {
            Ok(agent) => break agent,
            // A killed agent's thread ends a moment later.
            Err(millrace_agent::AgentError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(2)).await,
            Err(error) => panic!("{error}"),
        }
    };
    let intake = agent.embed("test", Labels::new([("env", "prod")])).unwrap();
    (Running::run(agent), intake)
}

/// Lines `CLIENT NUMBER` of one client, over two streams.
fn batch(intake: &Intake, client: usize, numbers: std::ops::Range<usize>) -> Batch {
    let mut batch = intake.batch();
    let team = Tenant::new("team").unwrap();
    let streams = [
        intake.stream(&Labels::new([("client", client.to_string())]), None).unwrap(),
        intake.stream(&Labels::new([("client", client.to_string())]), Some(&team)).unwrap(),
    ];
    let metadata = Labels::new([("trace", "t1")]);
    for number in numbers {
        let text = format!("{client} {number}");
        let metadata = number.is_multiple_of(3).then_some(&metadata);
        let time_ns = number.is_multiple_of(2).then_some(number as i64);
        batch.push(&streams[number % 2], Line { text: text.as_bytes(), time_ns, metadata });
    }
    batch
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_in_the_log_once_and_in_order_over_kills() {
    let data = tempfile::tempdir().unwrap();
    let log = FakeLog::new(7, 3);
    let mut acknowledged: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for round in 0..4usize {
        let (agent, intake) = start(&log, data.path(), ByteSize::mib(4)).await;
        log.mood(Mood::Moody);
        let clients = (0..4).map(|client| {
            let intake = intake.clone();
            async move {
                let mut done = 0;
                for turn in 0..12 {
                    let from = round * 1000 + turn * 10;
                    let receipt = batch(&intake, client, from..from + 10).send().await.unwrap();
                    receipt.acknowledged().await.unwrap();
                    done += 10;
                }
                (client, done)
            }
        });
        for (client, done) in futures::future::join_all(clients).await {
            acknowledged.insert((round, client), done);
        }
        drop(intake);
        log.mood(Mood::Good);
        if round % 2 == 0 { agent.kill().await } else { agent.stop().await }
    }
    // Positions rise: nothing that was acknowledged is taken for a repeat, and repeats within a run are.
    let mut found: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for event in log.deduplicated() {
        let text = String::from_utf8(event.line.to_vec()).unwrap();
        let (client, number) = text.split_once(' ').unwrap();
        let number: usize = number.parse().unwrap();
        assert_eq!(event.labels, Labels::new([("client", client), ("env", "prod")]));
        assert_eq!(event.tenant.as_str(), if number % 2 == 1 { "team" } else { "default" });
        assert_eq!(event.metadata.get("trace").is_some(), number.is_multiple_of(3));
        assert_eq!(event.time_from_line, number.is_multiple_of(2));
        assert!(number % 2 == 1 || event.time_ns == number as i64);
        found.entry((number % 2, client.parse().unwrap())).or_default().push(number);
    }
    for ((_, client), numbers) in &found {
        assert!(numbers.is_sorted_by(|a, b| a < b), "client {client}: {numbers:?}");
    }
    let count: usize = found.values().map(Vec::len).sum();
    assert_eq!(count, acknowledged.values().sum::<usize>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_room_refuses_waits_or_counts_and_nothing_comes_before_the_log_is_reached() {
    let data = tempfile::tempdir().unwrap();
    let log = FakeLog::new(1, 2);
    log.mood(Mood::Away);
    let (agent, intake) = start(&log, data.path(), ByteSize::mib(1)).await;
    assert!(matches!(batch(&intake, 0, 0..1).offer(), Err(Rejected::NotReady)));
    let early = batch(&intake, 0, 0..1).send_within(Duration::from_millis(5)).await;
    assert!(matches!(early, Err(Rejected::NotReady)));
    log.mood(Mood::Good);
    let mut receipts = vec![batch(&intake, 0, 0..2).send().await.unwrap()];
    log.mood(Mood::Away);
    let large = |from| {
        let mut batch = intake.batch();
        let stream = intake.stream(&Labels::new([("client", "0")]), None).unwrap();
        for n in 0..100 {
            batch.push(&stream, Line { text: &vec![b'x'; 2000 + from + n], ..Line::default() });
        }
        batch
    };
    let full = loop {
        match large(receipts.len()).offer() {
            Ok(receipt) => receipts.push(receipt),
            Err(error) => break error,
        }
        assert!(receipts.len() < 20);
    };
    assert!(matches!(full, Rejected::Full { .. }) && full.is_retriable(), "{full}");
    intake.dropped("no_room", 3, 300);
    let late = large(0).send_within(Duration::from_millis(5)).await;
    assert!(matches!(late, Err(Rejected::Full { .. })));
    assert!(!intake.batch().reserve(2 << 20), "there is none for what still comes in either");
    let waiting = agent.ledger.snapshot();
    assert!(waiting.adds_up() && waiting.total.waiting.lines >= 100, "{waiting:?}");
    let patient = large(50).send();
    tokio::pin!(patient);
    assert!(futures::poll!(&mut patient).is_pending());
    log.mood(Mood::Good);
    receipts.push(patient.await.unwrap());
    let sent = receipts.len();
    for receipt in receipts {
        receipt.acknowledged().await.unwrap();
    }
    until("all is counted", || agent.ledger.snapshot().total.waiting.lines == 0).await;
    let total = agent.ledger.snapshot().total;
    assert_eq!(total.sent.lines, 2 + (sent as u64 - 1) * 100);
    assert_eq!(total.dropped["no_room"].lines, 3);
    assert_eq!(agent.metrics.waiting_bytes.get(), 0, "memory is given back");
    // What waits at the stop, and is not taken in time, is told.
    log.mood(Mood::Away);
    let lost = batch(&intake, 1, 0..1).send().await.unwrap();
    agent.kill().await;
    assert!(matches!(lost.acknowledged().await, Err(Rejected::Stopping)));
    assert!(matches!(batch(&intake, 1, 0..1).offer(), Err(Rejected::Stopping | Rejected::NotReady)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_with_numbers_and_cursors_of_their_own_bring_nothing_twice() {
    let data = tempfile::tempdir().unwrap();
    let log = FakeLog::new(3, 2);
    // The cursor is kept only now and then: what comes after it is read again after a kill.
    for (from, keep, to) in [(1, 30, 50), (31, 60, 80), (61, 90, 90)] {
        let (agent, intake) = start(&log, data.path(), ByteSize::mib(4)).await;
        let kept = intake.bookmark().map(|kept| String::from_utf8(kept.to_vec()).unwrap());
        assert_eq!(kept, (from > 1).then(|| (from - 1).to_string()));
        log.mood(Mood::Moody);
        let streams: Vec<_> =
            (0..5).map(|n| intake.stream(&Labels::new([("unit", n.to_string())]), None).unwrap()).collect();
        for first in (from..to).step_by(10) {
            let mut batch = intake.batch();
            for number in first..first + 10 {
                let text = number.to_string();
                let line = Line { text: text.as_bytes(), ..Line::default() };
                batch.push_numbered(&streams[number % 5], number as u64, line);
            }
            batch.send().await.unwrap().acknowledged().await.unwrap();
            if first + 9 == keep {
                // The first checkpoint after it may have begun before it.
                for _ in 0..2 {
                    intake.keep_bookmark(keep.to_string().into());
                    let checkpoints = agent.metrics.checkpoints.get();
                    until("a checkpoint", || agent.metrics.checkpoints.get() > checkpoints).await;
                }
            }
        }
        let mut again = intake.batch();
        again.push_numbered(&streams[0], from as u64, Line { text: b"again", ..Line::default() });
        assert!(matches!(again.send().await, Err(Rejected::Order { .. })));
        log.mood(Mood::Good);
        agent.kill().await;
    }
    let mut lines: Vec<usize> = log.lines().iter().map(|line| line.parse().unwrap()).collect();
    lines.sort_unstable();
    assert_eq!(lines, (1..=90).collect::<Vec<_>>());
}
