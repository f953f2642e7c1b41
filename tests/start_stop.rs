//! Start, stop and the errors of the start: each gives one clear line with the cure and its exit code; what can go on
//! goes on. Exit codes are those of the README.

#![allow(clippy::unwrap_used)] // a test that fails says where

mod support;

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use support::{Site, Writer, get, hang_up, until};

fn millrace(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
    command.args(arguments).env_clear().stdin(Stdio::null()).output().unwrap()
}

/// Starts a role that must end by itself: its exit code and the last line it said.
fn refused(site: &Site, role: &str) -> (i32, String) {
    let path = site.folder.path().join("millrace.yaml");
    std::fs::write(&path, site.config()).unwrap();
    let output = millrace(&[role, "-c", path.to_str().unwrap()]);
    let text = String::from_utf8(output.stderr).unwrap();
    let last = text.lines().rfind(|line| line.starts_with("millrace: ")).unwrap_or_else(|| panic!("{text}"));
    (output.status.code().unwrap(), last.to_owned())
}

#[test]
fn a_faulty_configuration_shows_every_fault_and_exits_78() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.yaml");
    std::fs::write(&path, "aggregator:\n  htp: {}\n  retention: {age: never}\n").unwrap();
    for verb in ["validate", "run"] {
        let output = millrace(&[verb, "-c", path.to_str().unwrap()]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{text}");
        assert!(text.contains("bad.yaml:2:3: unknown key `htp`: did you mean `http`?"), "{text}");
        assert!(text.contains("bad.yaml:3:20: invalid duration `never`"), "{text}");
    }
    let output = millrace(&["validate", "-c", "/nowhere/millrace.yaml"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8(output.stderr).unwrap().contains("choose another with -c FILE"));
}

#[test]
fn a_faulty_rule_file_names_line_and_column_and_exits_78() {
    let site = Site::new();
    let rules = site.folder.path().join("rules.yaml");
    std::fs::write(
        &rules,
        "groups:\n  - name: a\n    rules:\n      - alert: A\n        expr: sum(rate({a=\"b\"}[5m])\n",
    )
    .unwrap();
    let output = millrace(&["rules", "check", rules.to_str().unwrap()]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("rules.yaml:5:"), "{text}");
    std::fs::write(
        &rules,
        "groups:\n  - name: a\n    rules:\n      - alert: A\n        expr: sum(rate({a=\"b\"}[5m])) > 1\n",
    )
    .unwrap();
    let output = millrace(&["rules", "check", rules.to_str().unwrap()]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"OK: 1 rule\n"[..]));
}

#[test]
fn a_port_in_use_is_named_with_its_key_and_exits_69() {
    let site = Site::new();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", site.http)).unwrap();
    let (code, line) = refused(&site, "aggregator");
    assert_eq!(code, 69, "{line}");
    assert!(line.contains("port is in use") && line.contains("aggregator.http.listen"), "{line}");
    let _taken = std::net::TcpListener::bind(("127.0.0.1", site.kafka)).unwrap();
    let (code, line) = refused(&site, "broker");
    assert_eq!(code, 69, "{line}");
    assert!(line.contains("in use") && line.contains("broker.listen"), "{line}");
}

#[test]
fn a_data_folder_in_use_or_of_a_newer_format_exits_73() {
    let site = Site::new();
    let broker = site.start("broker");
    until("the broker listens", Duration::from_secs(20), || {
        std::net::TcpStream::connect(("127.0.0.1", site.kafka)).map(drop).map_err(|e| e.to_string())
    });
    let second = Site { kafka: support::free_port(), folder: tempfile::tempdir().unwrap(), ..Site::new() };
    let data = site.folder.path().join("data");
    std::os::unix::fs::symlink(&data, second.folder.path().join("data")).unwrap();
    let (code, line) = refused(&second, "broker");
    assert_eq!(code, 73, "{line}");
    assert!(line.contains("in use"), "{line}");
    // A process that is stopping is waited for.
    let next = second.start("broker");
    until("the next one waits", Duration::from_secs(20), || {
        let said = second.output("broker");
        if said.contains("waiting up to 10 s for a process that is stopping") { Ok(()) } else { Err(said) }
    });
    assert_eq!(broker.stop(), 0);
    until("the next one listens", Duration::from_secs(20), || {
        std::net::TcpStream::connect(("127.0.0.1", second.kafka)).map(drop).map_err(|e| e.to_string())
    });
    assert_eq!(next.stop(), 0);
    std::fs::write(data.join("log/VERSION"), "999\n").unwrap();
    let (code, line) = refused(&site, "broker");
    assert_eq!(code, 73, "{line}");
    assert!(line.contains("999"), "{line}");
}

#[test]
fn without_the_log_the_index_answers_and_says_what_it_waits_for() {
    let site = Site::new();
    let broker = site.start("broker");
    let aggregator = site.start("aggregator");
    let agent = site.start("agent");
    site.wait_ready();
    Writer::new(&site.logs(), 1, 1000).write(100);
    let selector = r#"{service="writer"}"#;
    let all_there = || match site.count_by_loki(selector)? {
        100 => Ok(()),
        n => Err(format!("{n} of 100")),
    };
    until("lines are indexed", Duration::from_secs(30), all_there);
    for process in [agent, aggregator, broker] {
        assert_eq!(process.stop(), 0);
    }
    // The broker stays away: what is indexed is still found, /ready tells why it is not ready.
    let _aggregator = site.start("aggregator");
    until("the index answers", Duration::from_secs(40), all_there);
    let (status, text) = get(&format!("http://127.0.0.1:{}/ready", site.http)).unwrap();
    assert_eq!(status, 503, "{text}");
    assert!(text.starts_with("not ready: "), "{text}");
    let _broker = site.start("broker");
    site.wait_ready();
}

#[test]
fn a_second_signal_ends_at_once_with_130() {
    let site = Site::new();
    let mut broker = site.start("broker");
    let agent = site.start("agent");
    let mut writer = Writer::new(&site.logs(), 1, 1_000_000);
    writer.write(1000);
    until("the agent sends", Duration::from_secs(30), || {
        let sent = site.output("agent").contains("new file");
        if sent { Ok(()) } else { Err(site.output("agent")) }
    });
    // Lines that nobody acknowledges any more: the agent waits for them as long as it may.
    broker.kill();
    writer.write(1000);
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    agent.signal();
    until("the stop is logged", Duration::from_secs(10), || {
        if site.output("agent").contains("stopping; a second signal") { Ok(()) } else { Err("not yet".to_owned()) }
    });
    assert_eq!(agent.stop(), 130);
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[test]
fn sighup_takes_the_new_configuration_and_keeps_every_position() {
    let site = Site::new();
    let path = site.folder.path().join("millrace.yaml");
    let running = site.start("run");
    site.wait_ready();
    let (first, second) = (site.logs(), site.folder.path().join("more"));
    let mut writer = Writer::new(&first, 2, 40);
    writer.write(200);
    let count = |want: u64| {
        until("lines are indexed", Duration::from_secs(60), || match site.count_by_loki(r#"{service="writer"}"#)? {
            n if n == want => Ok(()),
            n => Err(format!("{n} of {want}\n{}", site.output("run"))),
        });
    };
    count(200);
    // What is on its way when the signal comes is not lost and not doubled.
    std::fs::create_dir_all(&second).unwrap();
    std::fs::write(second.join("new.log"), "line of another folder\n").unwrap();
    let folder = site.folder.path().display();
    let wider = site
        .config()
        .replace(&format!("[\"{folder}/logs/*.log\"]"), &format!("[\"{folder}/logs/*.log\", \"{folder}/more/*.log\"]"));
    assert_ne!(wider, site.config());
    std::fs::write(&path, &wider).unwrap();
    writer.write(100);
    hang_up(&running);
    writer.write(100);
    let told = |text: &str| {
        until("it is told", Duration::from_secs(60), || {
            let output = site.output("run");
            if output.contains(text) { Ok(()) } else { Err(output) }
        });
    };
    told("configuration reloaded");
    count(401);
    // A faulty file leaves the old one running.
    std::fs::write(&path, "agent: {sourcess: []}\n").unwrap();
    hang_up(&running);
    told("configuration not reloaded: all parts keep running with the previous one");
    writer.write(10);
    count(411);
    let mut found = site.lines_by_loki(r#"{service="writer"}"#);
    assert_eq!(found.remove("line of another folder"), Some(1));
    support::assert_each_once(&found, 410, "Loki API");
    // One that can't be started too.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    std::fs::write(&path, wider.replace(&format!("127.0.0.1:{}\"", site.elastic), &format!("127.0.0.1:{port}\"")))
        .unwrap();
    hang_up(&running);
    told("configuration not reloaded: all parts keep their previous configuration");
    site.wait_ready();
    assert_eq!(running.stop(), 0);
}

#[test]
fn an_agent_alone_says_that_it_is_ready_and_what_it_reads() {
    let site = Site::new();
    let _broker = site.start("broker");
    let status = support::free_port();
    let address = format!("127.0.0.1:{status}");
    let agent = site.start_with("agent", &[("MILLRACE__AGENT__HTTP", &address)]);
    until("ready", Duration::from_secs(30), || match get(&format!("http://{address}/ready")) {
        Ok((200, _)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    Writer::new(&site.logs(), 1, 1000).write(10);
    until("the ledger counts them", Duration::from_secs(30), || {
        let (_, text) = get(&format!("http://{address}/api/v1/ledger"))?;
        let ledger: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        if ledger["hops"][0]["stored"] == 10 { Ok(()) } else { Err(text) }
    });
    let (code, text) = get(&format!("http://{address}/metrics")).unwrap();
    assert!(code == 200 && text.contains("millrace_agent_"), "{code} {text}");
    assert_eq!(agent.stop(), 0);
}

#[test]
fn the_service_manager_is_told() {
    let site = Site::new();
    let socket = site.folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let next = || {
        let mut bytes = [0; 512];
        let count = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    let broker = site.start_with("broker", &[("NOTIFY_SOCKET", socket.to_str().unwrap())]);
    assert_eq!(next(), "READY=1\nSTATUS=running");
    hang_up(&broker);
    assert!(next().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(next(), "READY=1\nSTATUS=running");
    assert_eq!(broker.stop(), 0);
    assert_eq!(next(), "STOPPING=1\nSTATUS=stopping");
}
