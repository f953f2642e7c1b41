//! What is fuzzed of the agent: what strangers push, and what other programs write.
//!
//! In: any bytes. Out: nothing, or a panic that names the broken promise. `tests/fuzz` feeds them from cargo-fuzz; the test
//! below feeds seeds, changed seeds and kept inputs in every test run. Touches memory only. Compiled with the feature
//! `fuzzing` and in tests, never into the product.

#![allow(clippy::unwrap_used, reason = "a broken promise must be seen")]

use std::borrow::Cow;

use millrace_fuzzing::Target;
use serde_json::Value as Json;

use crate::container::{Runtime, Written};
use crate::push;

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "container", run: container, seeds: container_seeds },
    Target { name: "journald", run: push::journald::fuzz::journald, seeds: push::journald::fuzz::journald_seeds },
    Target { name: "otlp", run: push::fuzz::otlp, seeds: push::fuzz::otlp_seeds },
    Target { name: "syslog", run: push::syslog::fuzz::syslog, seeds: push::syslog::fuzz::syslog_seeds },
];

/// Lines of container runtimes: a text stands in its line as it is, or is what the JSON says; a time is what RFC 3339 says.
fn container(bytes: &[u8]) {
    for line in bytes.split(|byte| *byte == b'\n') {
        let (any, cri, docker) = (Runtime::Any.read(line), Runtime::Cri.read(line), Runtime::Docker.read(line));
        assert_eq!(any, if line.first() == Some(&b'{') { docker } else { cri });
        let Some(written) = any else { continue };
        if let Cow::Borrowed(text) = &written.text {
            assert_eq!(line.get(written.from..written.from + text.len()), Some(*text), "{line:?}");
        }
        let time = match line.first() {
            Some(b'{') => of_docker(line, &written),
            _ => {
                assert!(line.ends_with(&written.text), "{line:?}");
                line.split(|byte| *byte == b' ').next().map(|time| String::from_utf8_lossy(time).into_owned())
            }
        };
        // A leap second is the next one here.
        if let Some(time) = time.filter(|time| !time.contains(":60"))
            && let Ok(time) = chrono::DateTime::parse_from_rfc3339(&time)
        {
            assert_eq!(Some(written.time_ns), time.timestamp_nanos_opt(), "{line:?}");
        }
    }
}

/// Compares with what the JSON says; gives the time that stands in it.
fn of_docker(line: &[u8], written: &Written<'_>) -> Option<String> {
    // What Docker never writes (control characters as they are) is read all the same.
    let json: Json = serde_json::from_slice(line).ok()?;
    let log = json["log"].as_str().unwrap();
    let text = log.strip_suffix('\n').map_or(log, |text| text.strip_suffix('\r').unwrap_or(text));
    assert_eq!((&*written.text, written.partial), (text.as_bytes(), !log.ends_with('\n')), "{json}");
    assert_eq!(written.stream.name(), json["stream"].as_str(), "{json}");
    json["time"].as_str().map(str::to_owned)
}

fn container_seeds(_: u64) -> Vec<Vec<u8>> {
    millrace_fuzzing::texts(&[
        "2026-01-02T03:04:05.123456789Z stdout F text of it\n2026-01-02T03:04:05+02:00 stderr P:tag part \n1969-12-31T23:59:59.5-07:30 stdout F",
        r#"{"log":"text\n","stream":"stdout","time":"2026-01-02T03:04:05.123456789Z"}"#,
        r#"{"log":"a \"b\" \u00e9\t\r\n","stream":"stderr","attrs":{"a":"b","":"c"},"time":"2024-02-29T23:59:59.999999999+02:00"}"#,
        r#"{"stream":"stdout","time":"2026-01-02T03:04:05Z","log":"no end"}"#,
        "{\"log\":\"dos\\r\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:60Z\"}\n\nnothing of it\n",
    ])
}

millrace_fuzzing::short_form!();
