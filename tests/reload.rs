//! Reloads of real processes by SIGHUP: everything is checked before anything is touched, only what has changed starts
//! anew, connections to the rest stay, and a part that can't start with its new configuration goes back to its old one.

#![allow(clippy::unwrap_used)] // a test that fails says where

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use support::{Process, Site, Writer, get, hang_up, until};

/// A connection that was opened before reloads; it must answer after them.
struct Kafka(TcpStream);

impl Kafka {
    fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut connection = Self(stream);
        connection.ask();
        connection
    }

    /// ApiVersions, version 0, and the answer with the same correlation id.
    fn ask(&mut self) {
        let request = [
            &10i32.to_be_bytes()[..],
            &18i16.to_be_bytes(),
            &0i16.to_be_bytes(),
            &77i32.to_be_bytes(),
            &(-1i16).to_be_bytes(),
        ];
        self.0.write_all(&request.concat()).unwrap();
        let mut head = [0; 8];
        self.0.read_exact(&mut head).unwrap();
        assert_eq!(head[4..], 77i32.to_be_bytes());
        let size = u32::from_be_bytes(head[..4].try_into().unwrap());
        let mut rest = vec![0; usize::try_from(size).unwrap() - 4];
        self.0.read_exact(&mut rest).unwrap();
    }
}

/// All roles, with a folder of rule files.
struct Running {
    site: Site,
    config: String,
    process: Process,
}

impl Running {
    fn start() -> Self {
        let mut site = Site::new();
        std::fs::create_dir_all(site.folder.path().join("rules")).unwrap();
        let files = format!("rules: {{files: [\"{}/rules/*.yaml\"]}}", site.folder.path().display());
        let config = site.config().replace("rules: {files: []}", &files);
        site.written = Some(config.clone());
        std::fs::write(site.folder.path().join("rules/a.yaml"), rule("A", "> 1")).unwrap();
        let process = site.start("run");
        site.wait_ready();
        Self { site, config, process }
    }

    fn path(&self) -> PathBuf {
        self.site.folder.path().join("millrace.yaml")
    }

    fn write_rule(&self, text: &str) {
        std::fs::write(self.site.folder.path().join("rules/a.yaml"), text).unwrap();
    }

    /// Sends SIGHUP and waits for what the process says of it from then on.
    fn reload(&self, words: &str) -> String {
        let before = self.site.output("run").len();
        hang_up(&self.process);
        until("the reload is reported", Duration::from_secs(60), || {
            let output = self.site.output("run");
            let new = output.get(before..).unwrap_or_default();
            if new.contains(words) { Ok(new.to_owned()) } else { Err(new.to_owned()) }
        })
    }

    fn ask(&self, path: &str) -> (u16, String) {
        get(&format!("http://127.0.0.1:{}{path}", self.site.http)).unwrap()
    }

    fn metric(&self, name: &str) -> String {
        let (_, text) = self.ask("/metrics");
        let prefix = format!("{name} ");
        text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_else(|| panic!("{name}: {text}")).to_owned()
    }

    fn wait_for_rule(&self, name: &str) {
        until("the rule is evaluated", Duration::from_secs(30), || {
            let (_, text) = self.ask("/prometheus/api/v1/rules");
            if text.contains(&format!("\"{name}\"")) { Ok(()) } else { Err(text) }
        });
    }
}

fn rule(name: &str, threshold: &str) -> String {
    format!(
        "groups:\n  - name: a\n    rules:\n      - alert: {name}\n        expr: sum(count_over_time({{a=\"b\"}}[5m])) {threshold}\n"
    )
}

#[test]
fn a_change_of_rules_leaves_every_connection_open() {
    let running = Running::start();
    running.wait_for_rule("A");
    let mut kafka = Kafka::connect(running.site.kafka);
    // A new rule file is taken over by the rules that run.
    running.write_rule(&rule("B", "> 2"));
    let said = running.reload("configuration reloaded");
    let changed = said.lines().find_map(|line| Some(line.split_once("changed=")?.1.split_once(" addresses=")?.0));
    assert_eq!(changed, Some("rule files (1 rules)"), "{said}");
    running.wait_for_rule("B");
    kafka.ask();
    // Another setting of the section starts the rules anew, and nothing else.
    std::fs::write(running.path(), running.config.replace("rules: {files", "rules: {interval: 30s, files")).unwrap();
    let said = running.reload("configuration reloaded");
    assert!(said.contains("changed=rules") && !said.contains("changed=rules,"), "{said}");
    running.wait_for_rule("B");
    kafka.ask();
    // Without a change nothing starts anew.
    let said = running.reload("configuration reloaded");
    assert!(said.contains("changed=nothing"), "{said}");
    kafka.ask();
    // Without any rule file nothing can fire: that stays in sight until there is one.
    let file = running.site.folder.path().join("rules/a.yaml");
    std::fs::rename(&file, file.with_extension("off")).unwrap();
    running.reload("configuration reloaded");
    let (_, text) = running.ask("/ready");
    assert!(text.starts_with("ready\n") && text.contains("warning: rules.files[0]: no file matches"), "{text}");
    std::fs::rename(file.with_extension("off"), &file).unwrap();
    running.reload("configuration reloaded");
    let (_, text) = running.ask("/ready");
    assert!(!text.contains("no file matches"), "{text}");
    assert_eq!(running.process.stop(), 0);
}

#[test]
fn a_reload_says_which_listeners_it_changed() {
    let running = Running::start();
    let site = &running.site;
    let port = format!("127.0.0.1:{}\"", site.elastic);
    let with_login = running.config.replace(&port, &format!("{port}, auth: {{token: s3cret-token}}"));
    assert_ne!(with_login, running.config);
    std::fs::write(running.path(), &with_login).unwrap();
    let said = running.reload("configuration reloaded");
    assert!(said.contains("changed=listener of the Elasticsearch API (auth)") && !said.contains("s3cret"), "{said}");
    assert_eq!(get(&format!("http://127.0.0.1:{}/", site.elastic)).unwrap().0, 401);
    // What can't be taken over is named beside what was.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = format!("127.0.0.1:{}\"", taken.local_addr().unwrap().port());
    let partly = with_login.replace(&port, &other).replace("rules: {files", "rules: {interval: 30s, files");
    std::fs::write(running.path(), partly).unwrap();
    let said = running.reload("configuration only partly reloaded");
    assert!(said.contains("changed=rules") && said.contains("Elasticsearch API keeps its previous listener"), "{said}");
    let (_, text) = running.ask("/ready");
    assert!(
        text.contains("\nwarning: the last reload changed rules, but failed in part: Elasticsearch API keeps"),
        "{text}"
    );
    assert_eq!(running.process.stop(), 0);
}

#[test]
fn a_faulty_rule_file_leaves_everything_running_and_says_so() {
    let running = Running::start();
    running.wait_for_rule("A");
    let mut kafka = Kafka::connect(running.site.kafka);
    running.write_rule(&rule("B", "> > 2"));
    let said = running.reload("configuration not reloaded");
    assert!(said.contains("rules/a.yaml:5:"), "{said}");
    kafka.ask();
    let (status, text) = running.ask("/ready");
    assert_eq!(status, 200, "{text}");
    assert!(text.starts_with("ready\n"), "{text}");
    assert!(text.contains("\nwarning: the last reload failed: all parts keep running"), "{text}");
    let (_, ledger) = running.ask("/api/v1/ledger");
    assert!(ledger.contains("\"the last reload failed"), "{ledger}");
    assert_eq!(running.metric("millrace_config_reload_failures_total"), "1");
    assert_eq!(running.metric("millrace_config_last_reload_successful"), "0");
    running.wait_for_rule("A");
    // Once it is good, it is taken over.
    running.write_rule(&rule("C", "> 2"));
    running.reload("configuration reloaded");
    running.wait_for_rule("C");
    kafka.ask();
    let (_, text) = running.ask("/ready");
    assert!(!text.contains("the last reload"), "{text}");
    assert_eq!(running.metric("millrace_config_last_reload_successful"), "1");
    assert_eq!(running.process.stop(), 0);
}

#[test]
fn a_part_whose_port_is_in_use_goes_back_to_its_old_configuration() {
    let running = Running::start();
    let site = &running.site;
    let mut kafka = Kafka::connect(site.kafka);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    // A listener: nothing is interrupted.
    let other = running.config.replace(&format!("127.0.0.1:{}\"", site.elastic), &format!("127.0.0.1:{port}\""));
    std::fs::write(running.path(), &other).unwrap();
    let said = running.reload("configuration not reloaded: all parts keep their previous configuration");
    assert!(
        said.contains("Elasticsearch API keeps its previous listener") && said.contains("port is in use"),
        "{said}"
    );
    assert_eq!(get(&format!("http://127.0.0.1:{}/", site.elastic)).unwrap().0, 200);
    assert_eq!(running.metric("millrace_config_last_reload_successful"), "0");
    kafka.ask();
    // The broker: it goes back to its old address, and what was written before and after is there.
    let mut writer = Writer::new(&site.logs(), 1, 1000);
    writer.write(100);
    let other = running.config.replace(
        &format!("broker: {{listen: \"127.0.0.1:{}\"", site.kafka),
        &format!("broker: {{listen: \"127.0.0.1:{port}\""),
    );
    // Its clients stay where they are.
    assert_ne!(other, running.config);
    std::fs::write(running.path(), &other).unwrap();
    let said = running.reload("configuration not reloaded: all parts keep their previous configuration");
    assert!(said.contains("broker keeps running with its previous configuration"), "{said}");
    writer.write(100);
    until("lines are indexed", Duration::from_secs(60), || match site.count_by_loki(r#"{service="writer"}"#)? {
        200 => Ok(()),
        n => Err(format!("{n} of 200\n{}", site.output("run"))),
    });
    Kafka::connect(site.kafka).ask();
    assert_eq!(running.process.stop(), 0);
}

#[test]
fn sections_that_come_and_go_start_and_stop_their_parts() {
    let running = Running::start();
    let site = &running.site;
    let mut kafka = Kafka::connect(site.kafka);
    let alerts = format!("http://127.0.0.1:{}/api/v2/status", site.alertmanager);
    assert_eq!(get(&alerts).unwrap().0, 200);
    let without: String =
        running.config.lines().filter(|line| !line.starts_with("notify:")).map(|line| format!("{line}\n")).collect();
    std::fs::write(running.path(), &without).unwrap();
    running.reload("configuration reloaded");
    until("the Alertmanager API is closed", Duration::from_secs(20), || match get(&alerts) {
        Err(_) => Ok(()),
        Ok(answer) => Err(format!("{answer:?}")),
    });
    std::fs::write(running.path(), &running.config).unwrap();
    running.reload("configuration reloaded");
    assert_eq!(get(&alerts).unwrap().0, 200);
    kafka.ask();
    site.wait_ready();
    assert_eq!(running.process.stop(), 0);
}
