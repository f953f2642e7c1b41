//! Commands as sources, with real processes: both outputs, restarts, intervals, time-outs, the stop, pressure.
#![allow(clippy::unwrap_used)]

mod support;

use millrace_agent::config::AgentConfig;
use millrace_agent::metrics::{OfSource, ProgramEnd};
use millrace_log::record::{Event, Labels};
use serde_json::json;
use support::{FakeLog, Mood, Running, checked, until};

fn config(script: &str, more: serde_json::Value) -> AgentConfig {
    let mut source = json!({"type": "command", "name": "c", "command": ["sh", "-c", script], "restart_wait": "10ms"});
    source.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    checked(source)
}

fn ends(agent: &Running, end: &str) -> u64 {
    let end = ProgramEnd { source: "c".into(), end: end.into() };
    agent.metrics.program_ends.get_or_create(&end).get()
}

fn starts(agent: &Running) -> u64 {
    agent.metrics.program_starts.get_or_create(&OfSource { source: "c".into() }).get()
}

fn events(log: &FakeLog) -> Vec<Event> {
    log.events().into_iter().map(|(_, event)| event).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_outputs_are_read_and_told_apart() {
    let script = "echo out; echo err >&2; printf 'no end'; echo $GREETING $PWD; exec sleep 600";
    let environment = json!({"GREETING": "hello"});
    for (more, out, err) in [
        (json!({}), json!({"host": "h1", "a": "b"}), Some(json!({"host": "h1", "a": "b"}))),
        (
            json!({"stream_label": "from"}),
            json!({"host": "h1", "a": "b", "from": "stdout"}),
            Some(json!({"host": "h1", "a": "b", "from": "stderr"})),
        ),
        (json!({"streams": "stdout"}), json!({"host": "h1", "a": "b"}), None),
    ] {
        let (data, log) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 1));
        let mut more = more;
        more["environment"] = environment.clone();
        more["labels"] = json!({"a": "b"});
        more["working_directory"] = json!("/");
        let agent = Running::start(&config(script, more.clone()), data.path(), &log).await;
        let count = 2 + usize::from(err.is_some());
        until("all lines", || log.events().len() == count).await;
        let labels = |json: serde_json::Value| -> Labels {
            let fields = json
                .as_object()
                .unwrap()
                .iter()
                .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()));
            Labels::new(fields)
        };
        for event in events(&log) {
            let is_err = event.line == "err";
            assert_eq!(event.labels, labels(if is_err { err.clone().unwrap() } else { out.clone() }), "{more}");
            let stream = if is_err { "stderr" } else { "stdout" };
            assert_eq!(event.metadata.get("stream"), more.get("stream_label").is_none().then_some(stream));
        }
        assert!(log.lines().contains(&"no endhello /".to_owned()));
        agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_command_is_started_again_and_its_end_is_told() {
    let (data, log) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 1));
    let agent = Running::start(&config("echo $$; exit 3", json!({})), data.path(), &log).await;
    until("three runs", || log.events().len() >= 3 && ends(&agent, "exit code 3") >= 2).await;
    agent.stop().await;
    let mut command = config("", json!({"command": ["/no/such/program"]}));
    command.shutdown_timeout = millrace_log::value::Span::secs(5);
    let agent = Running::start(&command, data.path(), &log).await;
    until("it was tried again", || ends(&agent, "not started") >= 2).await;
    assert_eq!(starts(&agent), 0);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interval_runs_it_to_its_end_and_a_time_out_ends_it() {
    let (data, log) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 1));
    let more = json!({"mode": "interval", "interval": "20ms", "timeout": "10s"});
    let agent = Running::start(&config("echo one; echo two", more), data.path(), &log).await;
    until("three runs", || log.events().len() >= 6).await;
    assert!(ends(&agent, "exit code 0") >= 2);
    agent.stop().await;
    assert_eq!(log.lines()[..2], ["one", "two"]);
    let (data, log) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 1));
    let more = json!({"mode": "interval", "interval": "20ms", "timeout": "300ms", "stop_timeout": "50ms", "streams": "stdout"});
    let script = "trap 'echo asked' TERM; echo begun; while true; do sleep 600 & wait $!; done";
    let agent = Running::start(&config(script, more), data.path(), &log).await;
    until("a time-out", || ends(&agent, "timeout") >= 1).await;
    agent.stop().await;
    assert_eq!(log.lines()[..2], ["begun", "asked"], "what it says at its end is read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stop_asks_reads_the_last_words_and_leaves_nothing_running() {
    let (data, log) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 1));
    let pids = data.path().join("pids");
    let script = format!(
        "sleep 600 & echo $! > {0}; sleep 600 & echo $! >> {0}; echo up; trap 'echo bye; exit 0' TERM; wait",
        pids.display()
    );
    for kill in [false, true] {
        let agent = Running::start(&config(&script, json!({})), &data.path().join("agent"), &log).await;
        let had = log.events().len();
        until("it runs", || log.events().len() > had).await;
        if kill {
            agent.kill().await
        } else {
            agent.stop().await
        }
        for pid in std::fs::read_to_string(&pids).unwrap().lines() {
            // Gone, or only waiting for its parent to notice.
            until("its children are gone", || {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                status.is_empty() || status.contains("State:\tZ")
            })
            .await;
        }
    }
    assert_eq!(log.lines()[..2], ["up", "bye"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_waits_while_the_log_is_away_and_loses_nothing() {
    let (data, log) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 2));
    let more = json!({"mode": "interval", "interval": "1h", "timeout": "0s"});
    let mut config = config("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i; done", more);
    config.max_waiting_bytes = millrace_log::value::ByteSize::mib(1);
    log.mood(Mood::Away);
    let agent = Running::start(&config, data.path(), &log).await;
    log.mood(Mood::Good);
    until("the log is reached", || !log.events().is_empty()).await;
    log.mood(Mood::Away);
    until("it stands still", || {
        let before = agent.metrics.read_lines.get();
        std::thread::sleep(std::time::Duration::from_millis(100));
        agent.metrics.read_lines.get() == before
    })
    .await;
    assert!(agent.metrics.waiting_bytes.get() <= 2 << 20);
    log.mood(Mood::Good);
    until("its end", || ends(&agent, "exit code 0") == 1).await;
    until("all lines", || log.events().len() >= 20_000).await;
    agent.stop().await;
    let want: Vec<String> = (1..=20_000).map(|n| format!("line {n}")).collect();
    assert_eq!(log.lines(), want);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_lines_are_cut_and_traces_joined() {
    let (data, log) = (tempfile::tempdir().unwrap(), FakeLog::new(1, 1));
    let more = json!({"max_line_bytes": "64B", "multiline": {"continue": "^ ", "timeout": "200ms"}});
    let script = "echo a; echo ' 1'; echo ' 2'; head -c 1000 /dev/zero | tr '\\0' x; echo; echo end; exec sleep 600";
    let agent = Running::start(&config(script, more), data.path(), &log).await;
    until("all events", || log.events().len() == 3).await;
    assert_eq!(log.lines(), ["a\n 1\n 2".to_owned(), "x".repeat(64), "end".to_owned()]);
    agent.stop().await;
}
