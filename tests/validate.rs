//! `millrace validate` reads everything that a start reads, and reports every error with its place: a start with what it
//! calls good does not fail for what it could have read.

#![allow(clippy::unwrap_used)] // a test that fails says where

use std::path::Path;
use std::process::{Command, Stdio};

/// Runs it over files in a folder: exit code, standard output, standard error without the folder's name.
fn validate(folder: &Path) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
    let run = command.args(["validate", "-c", "millrace.yaml"]).current_dir(folder).env_clear();
    let output = run.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&folder.display().to_string(), "FOLDER");
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

#[test]
fn everything_that_a_start_reads_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(
        folder,
        "rules.yaml",
        "groups:\n  - name: a\n    rules:\n      - alert: A\n        expr: sum(rate({a=\"b\"}[5m])\n",
    );
    write(
        folder,
        "alertmanager.yml",
        "route: {receiver: onkall}\ntracing: {x: y}\nreceivers:\n  - name: oncall\n    webhook_configs: [{url_file: missing.url}]\n",
    );
    write(folder, "cert.pem", "no certificate\n");
    write(folder, "data", "a file\n");
    write(
        folder,
        "millrace.yaml",
        "data_dir: data/millrace\n\
         agent:\n  kafka: {brokers: [\"127.0.0.1:9092\"], topic: logs, tls: true, ca_file: ca.pem}\n  \
         sources:\n    - {type: http, listen: \"0.0.0.0:3100\"}\n\
         broker:\n  listeners:\n    - {name: a, listen: \"127.0.0.1:9092\"}\n    \
         - {name: b, listen: \"127.0.0.1:9093\", tls: {cert_file: cert.pem, key_file: key.pem}}\n  \
         users: [{name: u, password: \"file:missing.password\"}]\n\
         aggregator:\n  kafka: {brokers: [\"127.0.0.1:9092\"], topics: [logs], group: g}\n  \
         http: {listen: \"127.0.0.1:3100\", auth: {token: \"env:NO_SUCH_VARIABLE\"}}\n\
         rules: {files: [rules.yaml, missing.yaml]}\n\
         notify: {config_file: alertmanager.yml, listen: \"127.0.0.1:9093\"}\n",
    );
    let (code, _, text) = validate(folder);
    assert_eq!(code, 78, "{text}");
    for want in [
        "millrace.yaml:1:11: data_dir: `data` exists and is not a folder",
        "millrace.yaml:3:73: agent.kafka.ca_file: file `ca.pem` can't be read: No such file",
        "millrace.yaml:5:28: agent.sources[0].listen: address `0.0.0.0:3100` conflicts with `127.0.0.1:3100` of `aggregator.http.listen`",
        "broker.listeners[1].tls.cert_file: ",
        "broker.users[0].password: secret file missing.password can't be read: No such file",
        "aggregator.http.auth.token: environment variable NO_SUCH_VARIABLE",
        "rules.files[1]: rule file `missing.yaml` does not exist",
        "notify.listen: address `127.0.0.1:9093` is already used by `broker.listeners[1].listen`",
        "rules.yaml:5:",
        "alertmanager.yml:1:19: unknown receiver `onkall`",
        "did you mean `oncall`?",
        "alertmanager.yml:2:1: `tracing` is not supported",
        "missing.url` of `url_file` can't be read: No such file",
    ] {
        assert!(text.contains(want), "{want}\n{text}");
    }
    assert!(text.ends_with("errors in the configuration\n"), "{text}");
}

#[test]
fn endpoints_that_other_hosts_reach_need_a_login() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let hash = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let token = format!("access: {{tokens: [{{name: a, hash: \"{hash}\", roles: [read]}}]}}\n");
    let open = "aggregator: {http: {listen: \"0.0.0.0:3100\"}, elasticsearch: {listen: \"[::]:9200\"}}\n\
                notify: {listen: \"192.0.2.1:9093\"}\nbroker: {http: \"0.0.0.0:9641\"}\n\
                agent:\n  sources: [{type: loki, listen: \"0.0.0.0:3500\"}]\n";
    let with = |first: &str| format!("{first}{open}");
    let all: &[&str] = &[
        "aggregator.http.listen: address `0.0.0.0:3100` is open to other hosts and has no login",
        "aggregator.elasticsearch.listen: address `[::]:9200` is open",
        "notify.listen: address `192.0.2.1:9093` is open",
        "broker.http: address `0.0.0.0:9641` is open",
        "agent.sources[0].listen: address `0.0.0.0:3500` is open",
    ];
    for (text, want) in [
        (with(""), all),
        (with("access: {insecure: true}\n"), &[]),
        (
            "broker: {listen: \"0.0.0.0:9092\"}\n".to_owned(),
            &["broker.listen: address `0.0.0.0:9092` is open to other hosts and has no login: configure a listener"],
        ),
        (
            format!(
                "{token}broker:\n  listeners: [{{name: a, listen: \"127.0.0.1:9092\"}}, {{name: b, listen: \"[::]:9093\"}}]\n"
            ),
            &["broker.listeners[1].listen: address `[::]:9093` is open"],
        ),
        ("access: {insecure: true}\nbroker: {listen: \"0.0.0.0:9092\"}\n".to_owned(), &[]),
        (
            "broker: {listeners: [{name: a, listen: \"0.0.0.0:9092\", sasl: {}}], users: [{name: a, password: b}]}\n"
                .to_owned(),
            &[],
        ),
        (with(&token), &[]),
        ("aggregator: {http: {listen: \"0.0.0.0:3100\", auth: {token: s3cret}}}\n".to_owned(), &[]),
        ("aggregator: {http: {listen: \"127.0.0.2:3100\"}}\n".to_owned(), &[]),
        (
            "access: {tokens: [{name: a, hash: x, roles: [read]}]}\nbroker: {}\n".to_owned(),
            &["access.tokens[0].hash: invalid hash of a token"],
        ),
        (
            "access: {users: [{name: a, hash: \"file:none\", roles: [reed]}]}\nbroker: {}\n".to_owned(),
            &["`reed` is not one of read, write, silence, admin"],
        ),
        (
            token.replace("[read]", "[read], selector: '{team'") + "broker: {}\n",
            &["access.tokens[0].selector: invalid stream selector"],
        ),
    ] {
        write(folder, "millrace.yaml", &text);
        let (code, out, err) = validate(folder);
        assert_eq!(code, if want.is_empty() { 0 } else { 78 }, "{text}\n{out}{err}");
        for want in want {
            assert!(err.contains(want), "{want}\n{text}\n{err}");
        }
        assert!(!err.contains("0123456789abcdef"), "{err}");
    }
}

#[test]
fn a_good_configuration_is_ok_with_warnings() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "alertmanager.yml", "route: {receiver: oncall}\nreceivers: [{name: oncall}]\n");
    write(
        folder,
        "millrace.yaml",
        "data_dir: data\nbroker: {}\naggregator: {}\nrules: {files: [\"rules/*.yaml\"]}\nnotify: {config_file: alertmanager.yml}\n",
    );
    let (code, text, warnings) = validate(folder);
    assert_eq!((code, text.as_str()), (0, "OK: broker, aggregator, rules, notify; data in data\n"), "{warnings}");
    assert!(
        warnings.contains("warning: millrace.yaml:4:17: rules.files[0]: no file matches `rules/*.yaml`"),
        "{warnings}"
    );
    assert!(
        warnings.contains(
            "notify.config_file: no receiver of a route has an integration, such as `oncall`: nobody will be paged"
        ),
        "{warnings}"
    );
    // The file that it names is missing.
    std::fs::remove_file(folder.join("alertmanager.yml")).unwrap();
    let (code, _, text) = validate(folder);
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("notify.config_file: file `alertmanager.yml` can't be read: No such file"), "{text}");
}

#[test]
fn what_would_fail_or_do_nothing_is_reported() {
    let two = |second: &str| {
        format!(
            "broker: {{}}\nexports:\n  - {{type: elasticsearch, name: a, url: \"http://127.0.0.1:1\"}}\n  - {{type: elasticsearch, {second}}}\n"
        )
    };
    let token = |name: &str| format!("broker: {{}}\naggregator: {{http: {{auth: {{token: \"file:{name}\"}}}}}}\n");
    for (text, code, want) in [
        (two("name: b"), 78, "kafka.group: `millrace-export-elasticsearch` is the group of exports[0] too"),
        (two("name: a, kafka: {group: other}"), 78, "name: `a` is the name of exports[0] too"),
        (two("name: b, kafka: {group: other}"), 0, ""),
        (token("empty"), 78, "aggregator.http.auth.token: is empty where its value is read from"),
        (token("full"), 0, ""),
        ("broker: {}\naggregator: {}\nrules: {}\n".to_owned(), 0, "rules: there is no section `notify`"),
        (
            "data_dir: x\n".to_owned(),
            0,
            "warning: millrace.yaml:1:1: the configuration has no role such as `agent` or `aggregator`: nothing will run",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write(folder, "empty", "\n");
        write(folder, "full", "secret\n");
        let text = if text.contains("data_dir") { text } else { format!("data_dir: data\n{text}") };
        write(folder, "millrace.yaml", &text);
        let (got, _, errors) = validate(folder);
        assert_eq!(got, code, "{text}{errors}");
        assert!(errors.contains(want) && errors.is_empty() == want.is_empty(), "{text}{errors}");
    }
}

#[test]
fn validate_says_what_it_checked() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "millrace.yaml", "data_dir: data\n");
    let (code, text, _) = validate(folder);
    assert_eq!((code, text.as_str()), (0, "OK: no role is configured; data in data\n"));
    if !Path::new("/etc/millrace/millrace.yaml").exists() {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
        let output = command.args(["validate", "--data-dir", "data"]).current_dir(folder).env_clear().output().unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "OK: the defaults (no -c, and no /etc/millrace/millrace.yaml): broker, aggregator, rules, notify; data in data\n"
        );
    }
}

#[test]
fn a_check_of_no_rules_fails() {
    let folder = tempfile::tempdir().unwrap();
    let check = |pattern: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
        let output = command.args(["rules", "check", pattern]).current_dir(folder.path()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    write(folder.path(), "empty.yaml", "groups: []\n");
    for pattern in ["./nope*.yaml", "empty.yaml"] {
        let (code, text) = check(pattern);
        assert!(code == 78 && text.contains(&format!("no rule was found: no file matches {pattern}")), "{code} {text}");
    }
}
