//! What the agent does, and says, while the log refuses what it sends.

// Helpers of tests may panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use millrace_log::client::{Code, WireError};
use support::{FakeLog, Mood, Running, append, quick, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_deleted_is_created_again_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let config = quick(&[file("*.log")]);
    let log = FakeLog::new(1, 4);
    (0..8).for_each(|n| append(&file(&format!("{n}.log")), "before\n"));
    let agent = Running::start(&config, &file("data"), &log).await;
    until("the lines before", || log.events().len() == 8).await;
    log.delete("logs");
    (0..8).for_each(|n| append(&file(&format!("{n}.log")), "after\n"));
    until("the lines after", || log.events().len() == 8).await;
    assert!(log.lines().iter().all(|line| line == "after"), "{:?}", log.lines());
    assert_eq!(log.created(), [("logs".to_owned(), 4)]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_log_answers_is_what_the_agent_reports() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let log = FakeLog::new(1, 1);
    append(&file("a.log"), "line\n");
    let agent = Running::start(&quick(&[file("*.log")]), &file("data"), &log).await;
    until("the line", || log.events().len() == 1).await;
    for (error, want) in [
        (
            WireError::refused(Code::KafkaStorageError, Some("the disk of /data is full: free space")),
            "log refuses records: the disk of /data is full: free space (KafkaStorageError)",
        ),
        (
            WireError::Connect { address: "127.0.0.1:9".to_owned(), cause: "connection refused".to_owned() },
            "log does not answer: can't connect to 127.0.0.1:9: connection refused",
        ),
    ] {
        log.fails(error);
        append(&file("a.log"), "more\n");
        let troubles = || agent.ledger.snapshot().condition.troubles;
        until(want, || troubles().get("logs-0").is_some_and(|trouble| trouble == want)).await;
        assert_eq!(agent.ledger.ready(), Err(format!("logs-0: {want}")));
        log.mood(Mood::Good);
        until("the log takes it again", || troubles().is_empty() && agent.ledger.ready().is_ok()).await;
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_not_ready_before_the_log_is_reached_and_says_what_waits() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    append(&file("a.log"), "first\n");
    let log = FakeLog::new(1, 1);
    let agent = Running::start(&quick(&[file("*.log")]), &file("data"), &log).await;
    until("the line", || log.events().len() == 1).await;
    agent.stop().await;
    log.deny(true);
    append(&file("a.log"), "more\n");
    append(&file("b.log"), "another\n");
    let agent = Running::start(&quick(&[file("*.log")]), &file("data"), &log).await;
    until("what waits is counted", || agent.ledger.snapshot().condition.unread == Some(5 + 8)).await;
    let refused = agent.ledger.ready().unwrap_err();
    assert!(refused.contains("logs: topic `logs` can't be created: not now"), "{refused}");
    assert!(!agent.ledger.snapshot().condition.reached);
    log.deny(false);
    until("it is ready", || agent.ledger.ready().is_ok()).await;
    assert!(agent.ledger.snapshot().condition.reached);
    until("all lines", || log.events().len() == 3).await;
    agent.stop().await;
}
