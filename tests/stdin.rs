//! `producer | millrace agent`: what is piped in goes to the log, and the agent ends well when the producer does.

#![allow(clippy::unwrap_used)] // a test that fails says where

mod support;

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Site, until, until_it_can_be_stopped};

fn site() -> Site {
    let mut site = Site::new();
    let agent = format!(
        "agent:\n  sources:\n    - {{type: stdin, labels: {{service: piped}}}}\n  \
         kafka: {{brokers: [\"127.0.0.1:{}\"], topic: logs}}\n",
        site.kafka
    );
    let all = site.config();
    let (head, rest) = all.split_once("agent:").unwrap();
    let (_, rest) = rest.split_once("broker:").unwrap();
    site.written = Some([head, &agent, "broker:", rest].concat());
    site
}

#[test]
fn the_agent_drains_and_ends_with_its_producer_or_at_a_signal() {
    let site = site();
    let _broker = site.start("broker");
    let _aggregator = site.start("aggregator");
    let path = site.folder.path().join("millrace.yaml");
    let start = |input: Stdio| {
        Command::new(env!("CARGO_BIN_EXE_millrace"))
            .args(["agent", "-c"])
            .arg(&path)
            .stdin(input)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let ended = |agent: &mut std::process::Child| {
        let begun = Instant::now();
        until("the agent ends", Duration::from_secs(60), || {
            agent.try_wait().unwrap().ok_or_else(|| format!("still runs after {:?}", begun.elapsed()))
        })
    };
    // The producer ends.
    let mut agent = start(Stdio::piped());
    let mut input = agent.stdin.take().unwrap();
    for n in 0..5000 {
        writeln!(input, "first {n}").unwrap();
    }
    write!(input, "first without an end").unwrap();
    drop(input);
    assert_eq!(ended(&mut agent).code(), Some(0));
    // A signal, while the producer only waits.
    let mut agent = start(Stdio::piped());
    let mut input = agent.stdin.take().unwrap();
    writeln!(input, "second").unwrap();
    until_it_can_be_stopped(agent.id());
    site.wait_ready();
    until("the line is there", Duration::from_secs(60), || match site.count_by_loki("{service=\"piped\"}")? {
        5002 => Ok(()),
        count => Err(format!("{count} lines")),
    });
    let pid = rustix::process::Pid::from_raw(i32::try_from(agent.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(ended(&mut agent).code(), Some(0));
    // A file.
    let file = site.folder.path().join("lines");
    std::fs::write(&file, "third 1\nthird 2\n").unwrap();
    let mut agent = start(std::fs::File::open(&file).unwrap().into());
    assert_eq!(ended(&mut agent).code(), Some(0));
    until("all is there", Duration::from_secs(60), || match site.count_by_loki("{service=\"piped\"}")? {
        5004 => Ok(()),
        count => Err(format!("{count} lines")),
    });
    assert!(site.lines_by_loki("{service=\"piped\"}").contains_key("first without an end"));
}
