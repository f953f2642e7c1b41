//! Receiver `webhook`: posts Alertmanager's message, version 4, to an address.
//!
//! In: a message. Out: an HTTP POST, and whether its answer is the end of it. Touches the network, and the files that
//! hold the address or credentials, read at each attempt as Alertmanager does.
//! The body is Alertmanager's byte for byte: <https://prometheus.io/docs/alerting/latest/configuration/#webhook_config>.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use serde::Serialize;

use crate::credential::Credential;
use crate::error::NotifyError;
use crate::group::NotifiedAlert;
use crate::http_config::Auth;
use crate::integration::{Integration, Message, Outcome};
use crate::routing::Webhook;
use millrace_log::alert::LabelSet;
use millrace_log::causes::chain;
use millrace_log::go;
use millrace_log::outgoing::{Forbidden, Outgoing, OutgoingClient, Redirects};
use millrace_log::store::run_blocking;

/// Bytes of a failing answer that are shown.
const SHOWN_ANSWER_BYTES: usize = 200;

/// One webhook.
#[derive(Debug)]
pub struct WebhookReceiver {
    config: Webhook,
    client: OutgoingClient,
    timeout: Duration,
}

/// The body, fields in Alertmanager's order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    receiver: &'a str,
    status: &'static str,
    alerts: Vec<BodyAlert<'a>>,
    group_labels: &'a LabelSet,
    common_labels: LabelSet,
    common_annotations: LabelSet,
    #[serde(rename = "externalURL")]
    external_url: &'a str,
    version: &'static str,
    group_key: &'a str,
    truncated_alerts: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BodyAlert<'a> {
    status: &'static str,
    labels: &'a LabelSet,
    annotations: &'a LabelSet,
    starts_at: String,
    ends_at: String,
    #[serde(rename = "generatorURL")]
    generator_url: &'a str,
    fingerprint: String,
}

/// The body of a message, alerts beyond `max_alerts` cut off (0: none).
pub fn body(message: &Message, max_alerts: usize) -> Result<Vec<u8>, serde_json::Error> {
    let shown = match max_alerts {
        0 => message.alerts.len(),
        max => max.min(message.alerts.len()),
    };
    let alerts = message.alerts.get(..shown).unwrap_or_default();
    go::json_line(&Body {
        receiver: &message.receiver,
        status: status(alerts.iter().all(|told| told.resolved)),
        alerts: alerts.iter().map(body_alert).collect(),
        group_labels: &message.group_labels,
        common_labels: common(alerts, |told| &told.alert.labels),
        common_annotations: common(alerts, |told| &told.alert.annotations),
        external_url: &message.external_url,
        version: "4",
        group_key: &message.group_key,
        truncated_alerts: message.alerts.len() - shown,
    })
}

fn status(resolved: bool) -> &'static str {
    if resolved { "resolved" } else { "firing" }
}

fn body_alert(told: &NotifiedAlert) -> BodyAlert<'_> {
    BodyAlert {
        status: status(told.resolved),
        labels: &told.alert.labels,
        annotations: &told.alert.annotations,
        starts_at: go::time(told.alert.starts_at_ns),
        ends_at: if told.resolved { go::time(told.alert.ends_at_ns) } else { go::ZERO_TIME.to_owned() },
        generator_url: &told.alert.generator_url,
        fingerprint: told.fingerprint.to_string(),
    }
}

/// Pairs that all alerts have.
fn common(alerts: &[NotifiedAlert], of: impl Fn(&NotifiedAlert) -> &LabelSet) -> LabelSet {
    let Some((first, others)) = alerts.split_first() else { return LabelSet::new() };
    let mut pairs = of(first).clone();
    pairs.retain(|name, value| others.iter().all(|told| of(told).get(name) == Some(value)));
    pairs
}

impl WebhookReceiver {
    /// With a client that follows redirects to the same host, or none.
    pub fn new(config: Webhook, outgoing: &Outgoing, usual_timeout: Duration) -> Result<Self, NotifyError> {
        let redirects = if config.http.follow_redirects { Redirects::SameHost } else { Redirects::None };
        let client = outgoing.client(redirects, None).map_err(|source| NotifyError::Prepare {
            what: "a client for webhooks (are the system's certificates installed, ca-certificates?)".to_owned(),
            source: Box::new(source),
        })?;
        let timeout = config.timeout.unwrap_or(usual_timeout);
        Ok(Self { config, client, timeout })
    }
}

/// Address and `Authorization` header, read from their files where they stand there.
fn reveal(url: &Credential, auth: &Auth) -> Result<(String, Option<HeaderValue>), String> {
    let read = |credential: &Credential| credential.reveal().map_err(|e| format!("{credential:?} can't be read: {e}"));
    let header = match auth {
        Auth::None => None,
        Auth::Basic { username, password } => {
            Some(format!("Basic {}", base64(format!("{username}:{}", read(password)?).as_bytes())))
        }
        Auth::Header { kind, credentials } => Some(format!("{kind} {}", read(credentials)?)),
    };
    let header = match header {
        None => None,
        Some(text) => {
            let mut value = HeaderValue::from_str(&text)
                .map_err(|_| "the credentials contain characters that are not allowed in a header".to_owned())?;
            value.set_sensitive(true);
            Some(value)
        }
    };
    Ok((read(url)?, header))
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let at = |n: usize| u32::from(part.get(n).copied().unwrap_or(0));
        let word = at(0) << 16 | at(1) << 8 | at(2);
        for n in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * n) & 63) as usize];
            text.push(if n > part.len() { '=' } else { char::from(letter) });
        }
    }
    text
}

#[async_trait::async_trait]
impl Integration for WebhookReceiver {
    fn kind(&self) -> &'static str {
        "webhook"
    }

    fn sends_resolved(&self) -> bool {
        self.config.send_resolved
    }

    async fn attempt(&self, message: &Message) -> Outcome {
        let (url, auth) = (self.config.url.clone(), self.config.http.auth.clone());
        let (url, auth) = match run_blocking(move || reveal(&url, &auth)).await {
            Ok(revealed) => revealed,
            // A file may come back, as when a secret is being replaced.
            Err(reason) => return Outcome::Again { reason },
        };
        let body = match body(message, self.config.max_alerts) {
            Ok(body) => body,
            Err(error) => return Outcome::Refused { reason: format!("the message can't be written: {error}") },
        };
        let request = match self.client.request(Method::POST, &url) {
            Ok(request) => request,
            Err(error @ Forbidden::Url) => return Outcome::Refused { reason: error.to_string() },
            // Until a reload allows it.
            Err(error) => return Outcome::Again { reason: error.to_string() },
        };
        let mut request = request
            .timeout(self.timeout)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("Millrace/", env!("CARGO_PKG_VERSION")))
            .body(body);
        if let Some(auth) = auth {
            request = request.header(AUTHORIZATION, auth);
        }
        match request.send().await {
            Err(error) if error.is_builder() => Outcome::Refused { reason: chain(&error.without_url()) },
            Err(error) => Outcome::Again { reason: chain(&error.without_url()) },
            Ok(answer) if answer.status().is_success() => Outcome::Sent,
            Ok(answer) => {
                let status = answer.status();
                let reason = format!("the server answered {status}{}", shown(answer).await);
                if status.is_server_error() || status == reqwest::StatusCode::TOO_MANY_REQUESTS {
                    Outcome::Again { reason }
                } else {
                    Outcome::Refused { reason }
                }
            }
        }
    }
}

/// The beginning of an answer's text.
async fn shown(mut answer: reqwest::Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < SHOWN_ANSWER_BYTES {
        match answer.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            _ => break,
        }
    }
    bytes.truncate(SHOWN_ANSWER_BYTES);
    let text = String::from_utf8_lossy(&bytes);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::Alert;

    #[tokio::test]
    async fn addresses_that_receivers_must_not_reach_are_not_asked() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let url = Credential::Literal("http://169.254.169.254/latest".to_owned());
        let http = crate::http_config::HttpConfig::default();
        let config = Webhook { url, send_resolved: true, max_alerts: 0, timeout: None, http };
        let receiver = WebhookReceiver::new(config, &Outgoing::default(), Duration::from_secs(5)).unwrap();
        let outcome = receiver.attempt(&message(Vec::new())).await;
        let Outcome::Again { reason } = outcome else { panic!("{outcome:?}") };
        assert!(
            reason.contains("link-local or metadata address") && reason.contains("outgoing.allow_hosts"),
            "{reason}"
        );
    }

    fn told(pairs: &[(&str, &str)], summary: &str, resolved: bool) -> NotifiedAlert {
        let map = |pairs: &[(&str, &str)]| -> LabelSet {
            pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
        };
        let alert = Alert {
            labels: map(pairs),
            annotations: map(&[("description", "Clean it up."), ("summary", summary)]),
            // 2031-02-03T04:05:06.789Z
            starts_at_ns: 1_927_857_906_789_000_000,
            ends_at_ns: 1_927_857_907_000_000_000,
            updated_at_ns: 0,
            generator_url: "http://prometheus.example:9090/graph?g0.expr=up+%3D%3D+0&g0.tab=1".into(),
            timeout: false,
            ended: false,
        };
        NotifiedAlert { fingerprint: alert.fingerprint(), alert, resolved }
    }

    fn message(alerts: Vec<NotifiedAlert>) -> Message {
        Message {
            receiver: "webhook".into(),
            group_key: r#"{}/{}:{alertname="DiskFull"}"#.into(),
            group_labels: LabelSet::from([("alertname".into(), "DiskFull".into())]),
            alerts,
            external_url: "{external_url}".into(),
        }
    }

    const DISK: [(&str, &str); 5] =
        [("alertname", "DiskFull"), ("cluster", "ams"), ("host", "h1"), ("severity", "page"), ("team", "storage")];

    #[test]
    fn the_body_is_alertmanagers_byte_for_byte() {
        let body = body(&message(vec![told(&DISK, "disk / is 97 % full", false)]), 0).unwrap();
        let want = r#"{"receiver":"webhook","status":"firing","alerts":[{"status":"firing","labels":{"alertname":"DiskFull","cluster":"ams","host":"h1","severity":"page","team":"storage"},"annotations":{"description":"Clean it up.","summary":"disk / is 97 % full"},"startsAt":"2031-02-03T04:05:06.789Z","endsAt":"0001-01-01T00:00:00Z","generatorURL":"http://prometheus.example:9090/graph?g0.expr=up+%3D%3D+0\u0026g0.tab=1","fingerprint":"6d0ba99bbfa981ae"}],"groupLabels":{"alertname":"DiskFull"},"commonLabels":{"alertname":"DiskFull","cluster":"ams","host":"h1","severity":"page","team":"storage"},"commonAnnotations":{"description":"Clean it up.","summary":"disk / is 97 % full"},"externalURL":"{external_url}","version":"4","groupKey":"{}/{}:{alertname=\"DiskFull\"}","truncatedAlerts":0}"#;
        assert_eq!(String::from_utf8(body).unwrap(), format!("{want}\n"));
    }

    #[test]
    fn alerts_beyond_the_bound_are_cut_and_common_labels_are_of_the_rest() {
        let alerts = vec![
            told(&[("a", "1"), ("b", "1")], "x", true),
            told(&[("a", "1"), ("b", "2")], "y", true),
            told(&[("c", "1")], "z", false),
        ];
        let body = body(&message(alerts), 2).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["truncatedAlerts"], 1);
        assert_eq!(value["status"], "resolved");
        assert_eq!(value["commonLabels"], serde_json::json!({"a": "1"}));
        assert_eq!(value["alerts"][0]["endsAt"], "2031-02-03T04:05:07Z");
    }

    #[test]
    fn basic_auth_is_encoded() {
        for (text, want) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("user:pass", "dXNlcjpwYXNz")] {
            assert_eq!(base64(text.as_bytes()), want);
        }
    }
}
