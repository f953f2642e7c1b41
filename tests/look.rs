//! Looking into a running process: `millrace tap`, `top` and `doctor`, with and without a login.

#![allow(clippy::unwrap_used)] // a test that fails says where

mod support;

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use support::{Site, free_port, get, until};

fn millrace(addr: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
    command.args(arguments).args(["--addr", addr]).env_clear().stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn ended(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// Writes lines until the command has seen enough and ends.
fn fed(path: &Path, mut child: Child, line: &str) -> (i32, String, String) {
    until("the command has seen enough", Duration::from_secs(60), || {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{line}\nsomething else").unwrap();
        match child.try_wait().unwrap() {
            Some(_) => Ok(()),
            None => Err("it still looks".to_owned()),
        }
    });
    ended(&child.wait_with_output().unwrap())
}

#[test]
fn records_and_ledger_of_a_whole_process_are_shown() {
    let site = Site::new();
    std::fs::create_dir_all(site.logs()).unwrap();
    let path = site.logs().join("a.log");
    let process = site.start("run");
    site.wait_ready();
    let addr = format!("http://127.0.0.1:{}", site.http);
    let query = r#"{service="writer"} |= "needle""#;

    let tap = millrace(&addr, &["tap", "--stage", "read,sent", "-n", "4", query]).spawn().unwrap();
    let (code, out, err) = fed(&path, tap, "a needle \x1b[31m");
    assert_eq!(code, 0, "{err}");
    assert_eq!(out.lines().count(), 4, "{out}");
    assert!(out.lines().all(|line| line.ends_with(r"a needle \u{1b}[31m")), "{out}");
    assert!(out.lines().any(|line| line.contains(" read {")), "{out}");

    let tap = millrace(&addr, &["tap", "-o", "json", "--source", "a.log", "-n", "1"]).spawn().unwrap();
    let (code, out, err) = fed(&path, tap, "x");
    assert_eq!(code, 0, "{err}");
    let record: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&record["stage"], &record["labels"]["service"]), (&"sent".into(), &"writer".into()), "{record}");

    let tap = millrace(&addr, &["tap", "--stage", "indexed", "-n", "2", query]).spawn().unwrap();
    let (code, out, err) = fed(&path, tap, "an indexed needle");
    assert_eq!(code, 0, "{err}");
    assert!(out.lines().count() == 2 && out.lines().all(|line| line.contains(" indexed {")), "{out}");

    let (code, out, err) = ended(&millrace(&addr, &["tap", "{a="]).output().unwrap());
    assert!(code == 2 && out.is_empty() && err.contains("query `{a=`"), "{code} {err}");

    until("nothing is behind", Duration::from_secs(60), || {
        let (code, out, err) = ended(&millrace(&addr, &["doctor"]).output().unwrap());
        assert_eq!(code, 0, "{out}{err}");
        assert!(out.contains("agent") && out.contains("index") && !out.contains("DOES NOT"), "{out}");
        if out.ends_with("nothing is behind\n") { Ok(()) } else { Err(out) }
    });
    let (code, out, err) = ended(&millrace(&addr, &["top", "--once", "--interval", "100ms"]).output().unwrap());
    assert_eq!(code, 0, "{err}");
    for want in ["agent", "index", "memory: ", "1 sources", "a.log"] {
        assert!(out.contains(want), "{want}: {out}");
    }
    assert_eq!(process.stop(), 0);
}

#[test]
fn an_open_door_shows_no_records_and_a_login_is_asked_for() {
    let http = free_port();
    let addr = format!("http://127.0.0.1:{http}");
    for (auth, login, want) in [
        ("\naccess: {insecure: true}", [].as_slice(), "records are shown on loopback only"),
        ("http_auth: {token: s3cret}", &[], "requires a login"),
        ("http_auth: {token: s3cret}", &["--token", "wrong"], "requires a login"),
        ("http_auth: {token: s3cret}", &["--token", "s3cret"], ""),
        ("http_auth: {username: u, password: p}", &["--username", "u", "--password", "p"], ""),
    ] {
        let mut site = Site::new();
        let (folder, kafka) = (site.folder.path().display(), site.kafka);
        site.written = Some(format!(
            "data_dir: {folder}/data\nagent:\n  http: 0.0.0.0:{http}\n  sources:\n    \
             - {{type: file, include: [\"{folder}/*.log\"]}}\n  kafka: {{brokers: [\"127.0.0.1:{kafka}\"]}}\n  {auth}\n"
        ));
        let process = site.start("agent");
        until("the door", Duration::from_secs(60), || match get(&format!("{addr}/ready")) {
            // There is no log.
            Ok((503, body)) if body.contains("agent: logs: log at ") => Ok(()),
            other => Err(format!("{other:?} {}", site.output("agent"))),
        });
        // Whoever may look sees nothing here: there is no log, and no line.
        let mut tap = millrace(&addr, &["tap"]).args(login).spawn().unwrap();
        let (code, out, err) = ended(&millrace(&addr, &["top", "--once"]).args(login).output().unwrap());
        if want.is_empty() {
            assert!(code == 0 && out.contains("nothing is read before the topic exists"), "{out}{err}");
            assert_eq!(tap.try_wait().unwrap(), None, "it looks on");
            assert_eq!(process.stop(), 0);
            let (code, out, err) = ended(&tap.wait_with_output().unwrap());
            assert!(code == 0 && out.is_empty(), "{out}{err}");
        } else {
            let (code, _, err) = ended(&tap.wait_with_output().unwrap());
            assert!(code == 69 && err.contains(want), "{code} {err}");
            assert_eq!(process.stop(), 0);
        }
    }
}

#[test]
fn what_waits_for_a_log_that_is_away_is_shown() {
    let mut site = Site::new();
    let (folder, kafka, http) = (site.folder.path().display().to_string(), site.kafka, site.http);
    std::fs::write(Path::new(&folder).join("a.log"), "twelve bytes").unwrap();
    site.written = Some(format!(
        "data_dir: {folder}/data\nagent:\n  http: 127.0.0.1:{http}\n  sources:\n    \
         - {{type: file, include: [\"{folder}/*.log\"]}}\n  kafka: {{brokers: [\"127.0.0.1:{kafka}\"]}}\n"
    ));
    let process = site.start("agent");
    let addr = format!("http://127.0.0.1:{http}");
    until("what waits is known", Duration::from_secs(60), || {
        let (code, out, err) = ended(&millrace(&addr, &["doctor"]).output().unwrap());
        assert!(!out.contains("nothing is behind"), "{out}");
        let is_told = out.contains("can't connect to") && out.ends_with("slowest hop: agent, 12B behind, not moving\n");
        if code == 0 && is_told { Ok(()) } else { Err(format!("{code} {out}{err}")) }
    });
    let (status, body) = get(&format!("{addr}/ready")).unwrap();
    assert!(status == 503 && body.contains("not ready: agent: logs: log at "), "{status} {body}");
    assert_eq!(process.stop(), 0);
}
