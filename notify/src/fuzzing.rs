//! What is fuzzed of the notifier: alerts that anybody may post, and the configuration that people write.
//!
//! In: any bytes. Out: nothing, or a panic that names the broken promise. `tests/fuzz` feeds them from cargo-fuzz; the test
//! below feeds seeds, changed seeds and kept inputs in every test run. Touches memory only. Compiled with the feature
//! `fuzzing` and in tests, never into the product.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise must be seen")]

use std::path::Path;

use millrace_fuzzing::{Target, memory, texts};
use millrace_log::push::DecodeBudget;
use serde_json::Value as Json;

use crate::posted::posted;
use crate::routing::Routing;

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "alerts", run: alerts, seeds: alerts_seeds },
    Target { name: "alertmanager", run: alertmanager, seeds: alertmanager_seeds },
];

/// Memory of all bodies.
const BUDGET: u64 = 4 << 20;
/// What error texts take, whatever the body.
const SLACK: u64 = 64 << 10;

/// A body is refused with a status and a text, or each of its alerts is taken, within the memory that was reserved.
fn alerts(bytes: &[u8]) {
    let budget = DecodeBudget::new(BUDGET);
    let mut reserved = budget.begin();
    let (got, held) = memory::most(|| posted(bytes, &mut reserved));
    let counted = budget.state().0;
    let shown = String::from_utf8_lossy(bytes);
    assert!(held <= counted + SLACK, "{held} bytes held, {counted} reserved for {shown}");
    match got {
        Err(fault) => assert!(fault.status.is_client_error() && fault.code > 0 && !fault.message.is_empty(), "{shown}"),
        Ok(taken) => {
            // Keys that nobody knows are passed over, also where their values are not UTF-8.
            let Ok(sent) = serde_json::from_slice::<Vec<Json>>(bytes) else { return };
            assert_eq!(taken.len(), sent.len(), "{shown}");
            for (alert, sent) in taken.iter().zip(&sent) {
                // Several of the same name are not JSON that anybody sends.
                if let Some(labels) = sent["labels"].as_object() {
                    assert_eq!(alert.labels.len(), labels.len(), "{shown}");
                    assert!(
                        labels.iter().all(|(name, value)| alert.labels.get(name).map(String::as_str) == value.as_str())
                    );
                }
            }
        }
    }
}

fn alerts_seeds(_: u64) -> Vec<Vec<u8>> {
    let many = format!("[{}]", vec![r#"{"labels":{"a":""},"annotations":{"a":""}}"#; 150].join(","));
    let bare = format!("[{}]", vec!["{}"; 2000].join(","));
    texts(&[
        r#"[{"labels":{"alertname":"A","team":"x"},"annotations":{"summary":"\u00e4 \"q\""},"startsAt":"2026-01-02T03:04:05.5+02:00","endsAt":"0001-01-01T00:00:00Z","generatorURL":"http://x/y?z"}]"#,
        r#"[{"labels":{}},{"labels":{"a":"b"},"endsAt":"","startsAt":"9999-01-01T00:00:00Z","other":[{"x":[1,2]}],"generatorURL":""}]"#,
        r#"[{"labels":null}]"#,
        r#"[{"labels":{"a":"b"},"generatorURL":"::"}]"#,
        " [] ",
        "",
        &many,
        &bare,
    ])
}

/// A file is refused with faults that stand in it, or what is shown of it is read as the same.
fn alertmanager(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = Path::new("alertmanager.yml");
    match Routing::parse(path, text) {
        Ok(routing) => {
            let shown = routing
                .shown
                .replace("url: <secret>", "url: http://x/")
                .replace("proxy_url: <secret>", "proxy_url: http://x/");
            let again =
                Routing::parse(path, &shown).unwrap_or_else(|faults| panic!("{text} is shown as {shown}: {faults:?}"));
            assert_eq!(again.routes, routing.routes, "{text} is shown as {shown}");
            assert_eq!(again.inhibit_rules, routing.inhibit_rules, "{text} is shown as {shown}");
            assert_eq!(again.intervals, routing.intervals, "{text} is shown as {shown}");
            assert_eq!(again.resolve_timeout, routing.resolve_timeout, "{text} is shown as {shown}");
            let names =
                |routing: &Routing| routing.receivers.iter().map(|r| (r.name.clone(), r.webhooks.len())).collect();
            let (was, is): (Vec<_>, Vec<_>) = (names(&routing), names(&again));
            assert_eq!(is, was, "{text} is shown as {shown}");
        }
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a reason: {text}");
            let lines = text.split(['\n', '\r']).count();
            for fault in faults {
                assert!(fault.place.line() <= lines + 1, "{fault} in a file of {lines} lines: {text}");
                assert!(!fault.message.is_empty() && !fault.to_string().is_empty(), "{text}");
            }
        }
    }
}

fn alertmanager_seeds(_: u64) -> Vec<Vec<u8>> {
    texts(&[
        "global: {resolve_timeout: 2m, http_config: {bearer_token: t}}\nroute:\n  receiver: a\n  group_by: ['...']\n  group_wait: 0s\n  group_interval: 1m30s\nreceivers:\n- name: a\n  webhook_configs:\n  - url: http://127.0.0.1:1/a\n    max_alerts: 5\n    send_resolved: false\n  - url_file: secret/url\n    http_config:\n      basic_auth: {username: u, password_file: /run/p}\n      follow_redirects: false\n- name: \"em\\\"pty\\n\"\ninhibit_rules: [{source_match: {a: b}, target_matchers: ['c=~\"d|e\"'], equal: [f]}]\ntime_intervals: [{name: n, time_intervals: [{times: [{start_time: '00:00', end_time: '24:00'}], weekdays: ['monday:friday'], days_of_month: ['-3:-1'], location: Europe/Berlin}]}]\n",
        "route: {receiver: x, group_by: [alertname, \"a_b\"], repeat_interval: 1d, continue: false}\nreceivers: [{name: x, webhook_configs: [{url: \"https://h/p\", timeout: 5s, http_config: {authorization: {type: Basic, credentials: c}}}]}]\n---\nmore: 1\n",
        "route:\n  receiver: opz\n  group_by: [a, a, 'a-b', '...']\n  group_interval: 0s\n  routes: [{receiver: x, match_re: {a: b}, matchers: [\"a!='b'\", '\"c d\"=e'], routes: [{active_time_intervals: [n]}]}]\n  matcher: x\n  continue: true\nreceivers:\n- &r\n  name: ops\n  slack_configs: [{}]\n  webhook_configs:\n  - url: /relative\n  - max_alerts: -1\n    url: http://x/\n    url_file: y\n- *r\n- <<: *r\n  name: again\nsilences: []\n",
    ])
}

millrace_fuzzing::short_form!();
