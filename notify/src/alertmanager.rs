//! `alertmanager.yml`, the part that is supported: the tree of routes, time intervals, inhibition,
//! webhook receivers; every other key refused by name.
//!
//! In: the file's text. Out: a [`Routing`], or all errors with line, column and hint. Touches the file, by reading.
//! Follows <https://prometheus.io/docs/alerting/latest/configuration/>.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::error::NotifyError;
use crate::http_config::HttpConfig;
use crate::read_routes::Names;
use crate::reading::{LATER, Reader};
use crate::routing::Routing;
use crate::shown::shown;
use millrace_log::yaml::{Document, Fields, LocatedFault, MoreDocuments, Node, Place};

/// Bytes that the file may have.
const MAX_FILE_BYTES: u64 = 4 << 20;

impl Routing {
    /// Reads a file. Blocks.
    pub fn read(path: &Path) -> Result<Self, NotifyError> {
        let fault = |message: String| NotifyError::Files {
            faults: vec![LocatedFault::of_file(path, message, Some("check the path and who may read it".to_owned()))],
        };
        let meta = std::fs::metadata(path).map_err(|e| fault(format!("the file can't be read: {e}")))?;
        if meta.len() > MAX_FILE_BYTES {
            return Err(fault(format!("the file has {} bytes, {MAX_FILE_BYTES} are allowed", meta.len())));
        }
        let text = std::fs::read_to_string(path).map_err(|e| fault(format!("the file can't be read: {e}")))?;
        Self::parse(path, &text).map_err(|faults| NotifyError::Files { faults })
    }

    /// Reads a file's text.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Vec<LocatedFault>> {
        let (doc, root) = Document::parse(path, text, MoreDocuments::Ignored);
        let mut reader = Reader { doc, folder: path.parent().unwrap_or(Path::new("")).to_owned() };
        let routing = match &root {
            Some(root) => reader.root(root),
            None => {
                if reader.doc.is_clean() {
                    let hint = Some("it needs `route` and `receivers`".to_owned());
                    let start = Place::File { file: path.display().to_string().into(), line: 1, column: 1 };
                    reader.doc.fault(&start, "the file is empty", hint);
                }
                None
            }
        };
        let faults = reader.doc.into_faults();
        match routing {
            Some(routing) if faults.is_empty() => Ok(routing),
            _ => Err(faults),
        }
    }
}

const ROOT_KEYS: [&str; 6] = ["global", "route", "receivers", "inhibit_rules", "time_intervals", "mute_time_intervals"];
const ROOT_REFUSED: [(&str, &str); 2] = [("templates", LATER), ("tracing", LATER)];
const GLOBAL_KEYS: [&str; 2] = ["resolve_timeout", "http_config"];
const GLOBAL_REFUSED: [&str; 24] = [
    "smtp_from",
    "smtp_smarthost",
    "smtp_hello",
    "smtp_auth_username",
    "smtp_auth_password",
    "smtp_auth_password_file",
    "smtp_auth_identity",
    "smtp_auth_secret",
    "smtp_require_tls",
    "smtp_tls_config",
    "slack_api_url",
    "slack_api_url_file",
    "victorops_api_key",
    "victorops_api_key_file",
    "victorops_api_url",
    "pagerduty_url",
    "opsgenie_api_key",
    "opsgenie_api_key_file",
    "opsgenie_api_url",
    "wechat_api_url",
    "wechat_api_secret",
    "wechat_api_corp_id",
    "telegram_api_url",
    "webex_api_url",
];
impl Reader {
    fn root(&mut self, node: &Node) -> Option<Routing> {
        let fields = self.doc.map_except(node, "the file", &ROOT_KEYS, &ROOT_REFUSED)?;
        let (resolve_timeout, http) = self.global(&fields);
        let receivers = fields.get("receivers").map(|n| self.receivers(n, &http)).unwrap_or_default();
        let inhibit_rules = fields.get("inhibit_rules").map(|n| self.inhibit_rules(n)).unwrap_or_default();
        let mut intervals = BTreeMap::new();
        for key in ["time_intervals", "mute_time_intervals"] {
            if let Some(node) = fields.get(key) {
                self.intervals(node, key, &mut intervals);
            }
        }
        let Some(route) = fields.get("route") else {
            self.doc.fault(fields.place, "the file has no `route`", Some("add `route:` with a `receiver`".into()));
            return None;
        };
        let names = Names {
            receivers: receivers.iter().map(|receiver| receiver.name.as_str()).collect(),
            intervals: intervals.keys().map(String::as_str).collect(),
        };
        let routes = self.routes(route, &names)?;
        Some(Routing { resolve_timeout, routes, receivers, inhibit_rules, intervals, shown: shown(node) })
    }

    fn global(&mut self, fields: &Fields<'_>) -> (Duration, HttpConfig) {
        let mut resolve_timeout = Duration::from_secs(300);
        let mut http = HttpConfig::default();
        let refused = GLOBAL_REFUSED.map(|key| (key, "it belongs to receivers that are not supported yet: remove it"));
        if let Some(global) = fields.get("global")
            && let Some(global) = self.doc.map_except(global, "`global`", &GLOBAL_KEYS, &refused)
        {
            if let Some(node) = global.get("resolve_timeout") {
                resolve_timeout = self.doc.duration(node, "`resolve_timeout`").unwrap_or(resolve_timeout);
            }
            if let Some(node) = global.get("http_config") {
                http = self.http(node);
            }
        }
        (resolve_timeout, http)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Credential;
    use crate::http_config::{Auth, bearer};
    use crate::routing::GroupBy;

    #[test]
    fn the_supported_part_is_read() {
        let text = r#"
global: {resolve_timeout: 2m, http_config: {bearer_token: t}}
route:
  receiver: a
  group_by: ['...']
  group_wait: 0s
  group_interval: 1m30s
  routes:
  - matchers: ['team="x"']
    match_re: {svc: a|b}
    group_by: [b]
    continue: true
    mute_time_intervals: [nights]
    routes: [{match: {"n": 1}, receiver: empty}]
  - matchers: ['{svc=~"^(?:a|b)$", team=x}']
time_intervals:
- name: nights
  time_intervals: [{times: [{start_time: "22:00", end_time: "24:00"}], location: Europe/Berlin}]
receivers:
- name: a
  webhook_configs:
  - url: http://127.0.0.1:1/a
    max_alerts: 5
    send_resolved: false
  - url_file: secret/url
    http_config:
      basic_auth: {username: u, password_file: /run/p}
      follow_redirects: false
- name: empty
inhibit_rules: [{source_matchers: [a=b], target_match: {c: d}, equal: [b]}]
"#;
        let routing = Routing::parse(Path::new("/etc/am/alertmanager.yml"), text).expect("good");
        let root = &routing.routes[0];
        assert_eq!(root.group_by, GroupBy::All);
        assert_eq!(root.group_interval, Duration::from_secs(90));
        assert_eq!(root.repeat_interval, Duration::from_secs(4 * 3600));
        let child = &routing.routes[1];
        assert_eq!(
            (child.group_by.clone(), child.group_interval),
            (GroupBy::Labels(vec!["b".into()]), root.group_interval)
        );
        assert_eq!(child.key, r#"{}/{svc=~"^(?:a|b)$",team="x"}"#);
        assert_eq!(routing.routes[3].id, format!("{}\u{1f}2", child.key), "siblings with the same matchers");
        assert_eq!(routing.inhibit_rules[0].equal, ["b"]);
        assert_eq!(routing.intervals["nights"].len(), 1);
        let hooks = &routing.receivers[0].webhooks;
        assert_eq!(hooks[0].http.auth, bearer(Credential::Literal("t".into())));
        assert_eq!((hooks[0].max_alerts, hooks[0].send_resolved), (5, false));
        assert_eq!(hooks[1].url, Credential::File("/etc/am/secret/url".into()));
        assert_eq!(
            hooks[1].http.auth,
            Auth::Basic { username: "u".into(), password: Credential::File("/run/p".into()) }
        );
        assert!(!hooks[1].http.follow_redirects);
        let debug = format!("{routing:?}");
        assert!(
            !debug.contains("127.0.0.1") && !debug.contains("bearer_token: t"),
            "addresses and tokens are secrets: {debug}"
        );
        let shown = Routing::parse(Path::new("f"), &routing.shown.replace("<secret>", "http://x/"));
        assert_eq!(shown.expect("the shown form is read again").routes, routing.routes);
    }

    #[test]
    fn everything_else_is_refused_by_name_with_its_place() {
        let text = r#"
global: {resolve_timeout: 300, smtp_from: a@b}
route:
  receiver: opz
  group_by: [alertname, alertname, 'a-b', '...']
  group_interval: 0s
  routes:
  - {receiver: opsi, matchers: ['a-b="c"', 'a=~"("'], match: {a-b: c}, match_re: {a: }, mute_time_intervals: [day]}
  matcher: x
  matchers: [a=b]
  continue: true
time_intervals:
- name: days
  time_intervals:
  - times: [{start_time: "9", end_time: "17:00"}, {start_time: "17:00", end_time: "09:00"}, {end_time: "09:00"}]
    weekdays: [mon]
    location: Europe/Atlantis
    days: [1]
- name: days
- time_intervals: []
receivers:
- name: ops
  slack_configs: [{}]
  webhook_configs:
  - url: /relative
  - max_alerts: -1
    url: http://x/
    url_file: y
  - http_config: {proxy_url: http://p, basic_auth: {password: a, password_file: b}, authorization: {type: Basic}}
    url: http://x/
- name: ops
- webhook_configs: []
inhibit_rules: [{source_matcher: [a=b], target_matchers: ['a']}]
templates: [x]
silences: []
"#;
        let faults = Routing::parse(Path::new("alertmanager.yml"), text).expect_err("faults");
        let list: Vec<String> = faults
            .iter()
            .map(|f| {
                format!("{}:{} {} ({})", f.place.line(), f.place.column(), f.message, f.hint.as_deref().unwrap_or("-"))
            })
            .collect();
        insta::assert_snapshot!(list.join("\n"));
    }

    #[test]
    fn files_without_a_route_are_refused() {
        for text in
            ["", "receivers: []\n", "route:\nreceivers: [{name: a}]\n", "route: {receiver: a}\n", "- a\n", "a: [\n"]
        {
            assert!(Routing::parse(Path::new("f"), text).is_err(), "{text}");
        }
    }
}
