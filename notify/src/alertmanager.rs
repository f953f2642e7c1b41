//! `alertmanager.yml`, the part that is supported: one route, webhook receivers; every other key refused by name.
//!
//! In: the file's text. Out: a [`Routing`], or all errors with line, column and hint. Touches the file, by reading.
//! Follows <https://prometheus.io/docs/alerting/latest/configuration/>.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::NotifyError;
use crate::routing::{Auth, Credential, GroupBy, HttpConfig, Receiver, Route, Routing, Webhook, bearer};
use millrace_log::record::is_label_name;
use millrace_log::yaml::{Document, Fields, LocatedFault, MoreDocuments, Node, Place, nearest};

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

const LATER: &str = "remove it, or run Alertmanager instead";
const ROOT_KEYS: [&str; 3] = ["global", "route", "receivers"];
const ROOT_REFUSED: [(&str, &str); 5] = [
    ("inhibit_rules", LATER),
    ("mute_time_intervals", LATER),
    ("time_intervals", LATER),
    ("templates", LATER),
    ("tracing", LATER),
];
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
const ROUTE_KEYS: [&str; 6] = ["receiver", "group_by", "group_wait", "group_interval", "repeat_interval", "continue"];
const ROUTE_REFUSED: [(&str, &str); 6] = [
    ("routes", "remove it, and name one receiver for all alerts in the root route"),
    ("match", "the root route matches all alerts and must not have matchers"),
    ("match_re", "the root route matches all alerts and must not have matchers"),
    ("matchers", "the root route matches all alerts and must not have matchers"),
    ("mute_time_intervals", LATER),
    ("active_time_intervals", LATER),
];
const RECEIVER_KEYS: [&str; 2] = ["name", "webhook_configs"];
const RECEIVER_REFUSED: [&str; 16] = [
    "email_configs",
    "slack_configs",
    "pagerduty_configs",
    "opsgenie_configs",
    "victorops_configs",
    "pushover_configs",
    "discord_configs",
    "webex_configs",
    "telegram_configs",
    "wechat_configs",
    "sns_configs",
    "msteams_configs",
    "msteamsv2_configs",
    "jira_configs",
    "rocketchat_configs",
    "incidentio_configs",
];
const WEBHOOK_KEYS: [&str; 6] = ["url", "url_file", "send_resolved", "max_alerts", "timeout", "http_config"];
const HTTP_KEYS: [&str; 6] =
    ["basic_auth", "authorization", "bearer_token", "bearer_token_file", "follow_redirects", "enable_http2"];
const HTTP_REFUSED: [(&str, &str); 7] = [
    ("proxy_url", LATER),
    ("no_proxy", LATER),
    ("proxy_from_environment", LATER),
    ("proxy_connect_header", LATER),
    ("http_headers", LATER),
    ("tls_config", LATER),
    ("oauth2", LATER),
];

struct Reader {
    doc: Document,
    folder: PathBuf,
}

impl Reader {
    fn root(&mut self, node: &Node) -> Option<Routing> {
        let fields = self.doc.map_except(node, "the file", &ROOT_KEYS, &ROOT_REFUSED)?;
        let mut resolve_timeout = Duration::from_secs(300);
        let mut http = HttpConfig::default();
        if let Some(global) = fields.get("global") {
            let refused =
                GLOBAL_REFUSED.map(|key| (key, "it belongs to receivers that are not supported yet: remove it"));
            if let Some(global) = self.doc.map_except(global, "`global`", &GLOBAL_KEYS, &refused) {
                if let Some(node) = global.get("resolve_timeout") {
                    resolve_timeout = self.doc.duration(node, "`resolve_timeout`").unwrap_or(resolve_timeout);
                }
                if let Some(node) = global.get("http_config") {
                    http = self.http(node);
                }
            }
        }
        let receivers = fields.get("receivers").map(|n| self.receivers(n, &http)).unwrap_or_default();
        let Some(route) = fields.get("route") else {
            self.doc.fault(fields.place, "the file has no `route`", Some("add `route:` with a `receiver`".into()));
            return None;
        };
        let route = self.route(route, &receivers)?;
        Some(Routing { resolve_timeout, route, receivers })
    }

    fn route(&mut self, node: &Node, receivers: &[Receiver]) -> Option<Route> {
        let fields = self.doc.map_except(node, "a route", &ROUTE_KEYS, &ROUTE_REFUSED)?;
        let mut route = Route::usual();
        match fields.get("receiver") {
            Some(node) => {
                let name = self.doc.filled(node, "`receiver`")?;
                if !receivers.iter().any(|r| r.name == name) {
                    let known: Vec<&str> = receivers.iter().map(|r| r.name.as_str()).collect();
                    let hint = match nearest(name, known.iter().copied()) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!(
                            "`receivers` has {}",
                            if known.is_empty() { "none".into() } else { known.join(", ") }
                        ),
                    };
                    self.doc.fault(&node.place, format!("unknown receiver `{name}`"), Some(hint));
                }
                route.receiver = name.to_owned();
            }
            None => self.doc.fault(fields.place, "the root route requires `receiver`", None),
        }
        if let Some(node) = fields.get("continue")
            && self.doc.flag(node, "`continue`") == Some(true)
        {
            self.doc.fault(&node.place, "the root route must not have `continue`", Some("remove it".into()));
        }
        if let Some(node) = fields.get("group_by") {
            route.group_by = self.group_by(node);
        }
        if let Some(node) = fields.get("group_wait") {
            route.group_wait = self.doc.duration(node, "`group_wait`").unwrap_or(route.group_wait);
        }
        for (key, span) in
            [("group_interval", &mut route.group_interval), ("repeat_interval", &mut route.repeat_interval)]
        {
            let Some(node) = fields.get(key) else { continue };
            match self.doc.duration(node, &format!("`{key}`")) {
                Some(given) if given.is_zero() => {
                    self.doc.fault(&node.place, format!("`{key}` must be longer than 0"), None);
                }
                Some(given) => *span = given,
                None => {}
            }
        }
        Some(route)
    }

    fn group_by(&mut self, node: &Node) -> GroupBy {
        let mut names: Vec<String> = Vec::new();
        let mut all = false;
        for item in self.doc.list(node, "`group_by`") {
            let Some(name) = self.doc.filled(item, "a label of `group_by`") else { continue };
            if name == "..." {
                all = true;
            } else if !is_label_name(name) {
                self.doc.fault(&item.place, format!("invalid label name `{name}`"), None);
            } else if names.iter().any(|have| have == name) {
                self.doc.fault(&item.place, format!("duplicate label `{name}` in `group_by`"), None);
            } else {
                names.push(name.to_owned());
            }
        }
        if all && !names.is_empty() {
            let hint = Some("remove the other labels, or `...`".to_owned());
            self.doc.fault(&node.place, "`...` means all labels and must be the only entry", hint);
        }
        if all { GroupBy::All } else { GroupBy::Labels(names) }
    }

    fn receivers(&mut self, node: &Node, http: &HttpConfig) -> Vec<Receiver> {
        let refused = RECEIVER_REFUSED.map(|key| (key, LATER));
        let mut lines: HashMap<String, usize> = HashMap::new();
        let mut receivers = Vec::new();
        for item in self.doc.list(node, "`receivers`") {
            let Some(fields) = self.doc.map_except(item, "a receiver", &RECEIVER_KEYS, &refused) else { continue };
            let Some(name) = fields.get("name") else {
                self.doc.fault(fields.place, "a receiver requires `name`", None);
                continue;
            };
            let Some(text) = self.doc.filled(name, "`name`") else { continue };
            if let Some(first) = lines.insert(text.to_owned(), name.place.line()) {
                let message = format!("receiver `{text}` is defined twice, first in line {first}");
                self.doc.fault(&name.place, message, Some("give one of them another name".into()));
            }
            let mut webhooks = Vec::new();
            if let Some(list) = fields.get("webhook_configs") {
                for item in self.doc.list(list, "`webhook_configs`") {
                    webhooks.extend(self.webhook(item, http));
                }
            }
            receivers.push(Receiver { name: text.to_owned(), webhooks, log: false });
        }
        receivers
    }

    fn webhook(&mut self, node: &Node, http: &HttpConfig) -> Option<Webhook> {
        let fields = self.doc.map(node, "a webhook", &WEBHOOK_KEYS)?;
        let url = match (fields.get("url"), fields.get("url_file")) {
            (Some(url), None) => {
                let text = self.doc.filled(url, "`url`")?;
                let good = url::Url::parse(text).is_ok_and(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
                if !good {
                    let hint = Some("write it as `https://host/path`".to_owned());
                    self.doc.fault(&url.place, "invalid URL in `url`", hint);
                }
                Credential::Literal(text.to_owned())
            }
            (None, Some(file)) => self.path(file, "`url_file`")?,
            (Some(_), Some(second)) => {
                self.doc.fault(&second.place, "`url` and `url_file` are mutually exclusive", Some("remove one".into()));
                return None;
            }
            (None, None) => {
                self.doc.fault(fields.place, "a webhook requires `url` or `url_file`", None);
                return None;
            }
        };
        let send_resolved =
            fields.get("send_resolved").and_then(|n| self.doc.flag(n, "`send_resolved`")).unwrap_or(true);
        let max_alerts = fields.get("max_alerts").and_then(|n| self.doc.count(n, "`max_alerts`")).unwrap_or(0);
        let timeout = fields.get("timeout").and_then(|n| self.doc.duration(n, "`timeout`")).filter(|t| !t.is_zero());
        let http = fields.get("http_config").map_or_else(|| http.clone(), |n| self.http(n));
        Some(Webhook {
            url,
            send_resolved,
            max_alerts: usize::try_from(max_alerts).unwrap_or(usize::MAX),
            timeout,
            http,
        })
    }

    fn http(&mut self, node: &Node) -> HttpConfig {
        let mut http = HttpConfig::default();
        let Some(fields) = self.doc.map_except(node, "`http_config`", &HTTP_KEYS, &HTTP_REFUSED) else { return http };
        if let Some(node) = fields.get("follow_redirects") {
            http.follow_redirects = self.doc.flag(node, "`follow_redirects`").unwrap_or(true);
        }
        if let Some(node) = fields.get("enable_http2") {
            self.doc.flag(node, "`enable_http2`");
        }
        let given: Vec<&str> = ["basic_auth", "authorization", "bearer_token", "bearer_token_file"]
            .into_iter()
            .filter(|key| fields.get(key).is_some())
            .collect();
        if given.len() > 1 {
            let message = format!("{} are mutually exclusive", given.join(", "));
            self.doc.fault(fields.place, message, Some("leave one of them".into()));
        }
        if let Some(node) = fields.get("basic_auth") {
            http.auth = self.basic(node).unwrap_or(Auth::None);
        } else if let Some(node) = fields.get("authorization") {
            http.auth = self.authorization(node).unwrap_or(Auth::None);
        } else if let Some(node) = fields.get("bearer_token") {
            if let Some(token) = self.doc.filled(node, "`bearer_token`") {
                http.auth = bearer(Credential::Literal(token.to_owned()));
            }
        } else if let Some(node) = fields.get("bearer_token_file")
            && let Some(file) = self.path(node, "`bearer_token_file`")
        {
            http.auth = bearer(file);
        }
        http
    }

    fn basic(&mut self, node: &Node) -> Option<Auth> {
        let fields = self.doc.map(node, "`basic_auth`", &["username", "password", "password_file"])?;
        let username =
            fields.get("username").and_then(|n| self.doc.text(n, "`username`")).unwrap_or_default().to_owned();
        let password = self.either(&fields, "password", "password_file")?;
        Some(Auth::Basic { username, password: password.unwrap_or(Credential::Literal(String::new())) })
    }

    fn authorization(&mut self, node: &Node) -> Option<Auth> {
        let fields = self.doc.map(node, "`authorization`", &["type", "credentials", "credentials_file"])?;
        let kind = match fields.get("type") {
            Some(node) => {
                let kind = self.doc.filled(node, "`type`")?.trim();
                if kind.eq_ignore_ascii_case("basic") {
                    self.doc.fault(&node.place, "`type` can't be `Basic`", Some("write `basic_auth` instead".into()));
                }
                kind.to_owned()
            }
            None => "Bearer".to_owned(),
        };
        match self.either(&fields, "credentials", "credentials_file")? {
            Some(credentials) => Some(Auth::Header { kind, credentials }),
            None => {
                self.doc.fault(fields.place, "`authorization` requires `credentials` or `credentials_file`", None);
                None
            }
        }
    }

    /// A secret that may stand here or in a file; the outer `None` is a fault.
    fn either(&mut self, fields: &Fields<'_>, here: &str, file: &str) -> Option<Option<Credential>> {
        match (fields.get(here), fields.get(file)) {
            (Some(_), Some(second)) => {
                let message = format!("`{here}` and `{file}` are mutually exclusive");
                self.doc.fault(&second.place, message, Some("remove one".into()));
                None
            }
            (Some(node), None) => {
                let text = self.doc.text(node, &format!("`{here}`"))?;
                Some(Some(Credential::Literal(text.to_owned())))
            }
            (None, Some(node)) => self.path(node, &format!("`{file}`")).map(Some),
            (None, None) => Some(None),
        }
    }

    /// A path; a relative one counts from the folder of the file.
    fn path(&mut self, node: &Node, what: &str) -> Option<Credential> {
        let text = self.doc.filled(node, what)?;
        Some(Credential::File(self.folder.join(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_supported_part_is_read() {
        let text = r#"
global: {resolve_timeout: 2m, http_config: {bearer_token: t}}
route:
  receiver: a
  group_by: ['...']
  group_wait: 0s
  group_interval: 1m30s
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
inhibit_rules: []
"#;
        let routing = Routing::parse(Path::new("/etc/am/alertmanager.yml"), text).expect("good");
        assert_eq!(routing.route.group_by, GroupBy::All);
        assert_eq!(routing.route.group_interval, Duration::from_secs(90));
        assert_eq!(routing.route.repeat_interval, Duration::from_secs(4 * 3600));
        let hooks = &routing.receivers[0].webhooks;
        assert_eq!(hooks[0].http.auth, bearer(Credential::Literal("t".into())));
        assert_eq!((hooks[0].max_alerts, hooks[0].send_resolved), (5, false));
        assert_eq!(hooks[1].url, Credential::File("/etc/am/secret/url".into()));
        assert_eq!(
            hooks[1].http.auth,
            Auth::Basic { username: "u".into(), password: Credential::File("/run/p".into()) }
        );
        assert!(!hooks[1].http.follow_redirects);
        assert!(!format!("{routing:?}{}", routing.shown()).contains("127.0.0.1"), "addresses are secrets");
        let shown = Routing::parse(Path::new("f"), &routing.shown().replace("<secret>", "http://x/"));
        assert_eq!(shown.expect("the shown form is read again").route, routing.route);
    }

    #[test]
    fn everything_else_is_refused_by_name_with_its_place() {
        let text = r#"
global: {resolve_timeout: 300, smtp_from: a@b}
route:
  receiver: opz
  group_by: [alertname, alertname, 'a-b', '...']
  group_interval: 0s
  routes: [{receiver: x}]
  matcher: x
  continue: true
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
inhibit_rules: [{}]
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
