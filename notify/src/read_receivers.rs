//! `receivers` of `alertmanager.yml`.
//!
//! In: their nodes. Out: [`Receiver`]s; faults with their places. Touches nothing.

use std::collections::HashMap;

use millrace_log::yaml::Node;

use crate::credential::Credential;
use crate::http_config::HttpConfig;
use crate::reading::{LATER, Reader};
use crate::routing::{Receiver, Webhook};

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
impl Reader {
    /// Reads all receivers.
    pub(crate) fn receivers(&mut self, node: &Node, http: &HttpConfig) -> Vec<Receiver> {
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
}
