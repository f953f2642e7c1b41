//! Routing: which receiver gets which alerts, how they are grouped, and when groups are notified.
//!
//! In: what a configuration says. Out: plain values, and their form for `GET /api/v2/status`. Touches files with secrets,
//! by reading.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Which receiver is notified of which alerts, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    /// How long an alert without an end stays active after its last report.
    pub resolve_timeout: Duration,
    /// The route of all alerts.
    pub route: Route,
    /// The receivers, in the order of the file.
    pub receivers: Vec<Receiver>,
}

/// How alerts are grouped and how often a group is notified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Name of the receiver.
    pub receiver: String,
    /// Labels that make a group.
    pub group_by: GroupBy,
    /// How long a new group collects alerts before it is notified.
    pub group_wait: Duration,
    /// How often a group is looked at after that.
    pub group_interval: Duration,
    /// After how long an unchanged group is notified again.
    pub repeat_interval: Duration,
}

/// Labels that make a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupBy {
    /// These; none: all alerts are one group.
    Labels(Vec<String>),
    /// `...`: each label set is a group.
    All,
}

/// One receiver with its integrations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// Name.
    pub name: String,
    /// Webhooks.
    pub webhooks: Vec<Webhook>,
    /// Alerts are written to the program's log: the receiver that stands in when no file is named.
    pub log: bool,
}

/// One webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Where messages go.
    pub url: Credential,
    /// Whether resolved alerts are sent.
    pub send_resolved: bool,
    /// Alerts in one message at most; 0: any number.
    pub max_alerts: usize,
    /// Longest time of one attempt; none: `notify.timeout`.
    pub timeout: Option<Duration>,
    /// How it is reached.
    pub http: HttpConfig,
}

/// How a webhook is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// What it is shown.
    pub auth: Auth,
    /// Whether redirects are followed.
    pub follow_redirects: bool,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { auth: Auth::None, follow_redirects: true }
    }
}

/// What a webhook is shown to let us in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// Nothing.
    None,
    /// User and password.
    Basic {
        /// User.
        username: String,
        /// Password.
        password: Credential,
    },
    /// `Authorization: KIND CREDENTIALS`.
    Header {
        /// Kind, as `Bearer`.
        kind: String,
        /// The rest.
        credentials: Credential,
    },
}

/// A text not to be shown: as written, or in a file that is read at each use.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// As written.
    Literal(String),
    /// The content of a file, without blanks around it.
    File(PathBuf),
}

impl Credential {
    /// The text itself. Blocks where it is in a file.
    pub fn reveal(&self) -> std::io::Result<String> {
        match self {
            Self::Literal(text) => Ok(text.clone()),
            Self::File(path) => std::fs::read_to_string(path).map(|text| text.trim().to_owned()),
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("***"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

impl Default for Routing {
    /// All alerts to the program's log, grouped by name.
    fn default() -> Self {
        Self {
            resolve_timeout: Duration::from_secs(300),
            route: Route {
                receiver: "log".to_owned(),
                group_by: GroupBy::Labels(vec![millrace_log::alert::ALERT_NAME.to_owned()]),
                ..Route::usual()
            },
            receivers: vec![Receiver { name: "log".to_owned(), webhooks: Vec::new(), log: true }],
        }
    }
}

impl Route {
    /// Alertmanager's values for what a route does not say.
    pub(crate) fn usual() -> Self {
        Self {
            receiver: String::new(),
            group_by: GroupBy::Labels(Vec::new()),
            group_wait: Duration::from_secs(30),
            group_interval: Duration::from_secs(300),
            repeat_interval: Duration::from_secs(4 * 3600),
        }
    }
}

impl Routing {
    /// Whether alerts reach anybody besides this program's own log.
    pub fn notifies_somebody(&self) -> bool {
        self.receivers.iter().any(|receiver| receiver.name == self.route.receiver && !receiver.webhooks.is_empty())
    }

    /// The configuration as YAML without secrets, for `GET /api/v2/status`.
    pub fn shown(&self) -> String {
        use millrace_log::go::quote;
        let ms = |d: Duration| millrace_log::value::Span(d).to_string();
        let group_by = match &self.route.group_by {
            GroupBy::All => "[\"...\"]".to_owned(),
            GroupBy::Labels(names) => format!("[{}]", names.iter().map(|n| quote(n)).collect::<Vec<_>>().join(", ")),
        };
        let mut text = format!(
            "global:\n  resolve_timeout: {}\nroute:\n  receiver: {}\n  group_by: {group_by}\n  continue: false\n  group_wait: {}\n  group_interval: {}\n  repeat_interval: {}\nreceivers:\n",
            ms(self.resolve_timeout),
            quote(&self.route.receiver),
            ms(self.route.group_wait),
            ms(self.route.group_interval),
            ms(self.route.repeat_interval),
        );
        for receiver in &self.receivers {
            text.push_str(&format!("- name: {}\n", quote(&receiver.name)));
            if !receiver.webhooks.is_empty() {
                text.push_str("  webhook_configs:\n");
            }
            for webhook in &receiver.webhooks {
                text.push_str(&format!(
                    "  - send_resolved: {}\n    http_config:\n      follow_redirects: {}\n    url: <secret>\n    max_alerts: {}\n",
                    webhook.send_resolved, webhook.http.follow_redirects, webhook.max_alerts
                ));
            }
        }
        text.push_str("templates: []\n");
        text
    }
}

/// The header `Authorization: Bearer TOKEN`.
pub(crate) fn bearer(credentials: Credential) -> Auth {
    Auth::Header { kind: "Bearer".to_owned(), credentials }
}
