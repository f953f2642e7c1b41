//! The demo's pager: a webhook receiver that takes Alertmanager's payload and prints one line per alert.
//!
//! In: `POST /` with a payload of version 4. Out: lines that start with `PAGED` or `RESOLVED`, and the two moments.
//! Touches the network (loopback) and the given output.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use millrace_doors::browser::Bodies;
use millrace_doors::routes::{Methods, Need, Routes};
use parking_lot::Mutex;
use serde::Deserialize;

use super::services::Burst;

/// What arrived.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// How long after the first line of the burst the page came.
    pub paged_after: Option<Duration>,
    /// The alert was resolved after it had paged.
    pub resolved: bool,
}

/// Takes each line for the person who watches.
type Print = Box<dyn FnMut(&str) + Send>;

/// The receiver's state.
pub struct Pager {
    burst: Arc<Burst>,
    seen: tokio::sync::watch::Sender<Seen>,
    print: Mutex<Print>,
}

#[derive(Debug, Deserialize)]
struct Payload {
    alerts: Vec<Alert>,
}

#[derive(Debug, Deserialize)]
struct Alert {
    status: String,
    labels: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
    #[serde(default, rename = "generatorURL")]
    link: String,
}

impl Pager {
    /// Prints through `print`; `burst` tells when the first line of the burst was written.
    pub fn new(burst: Arc<Burst>, print: impl FnMut(&str) + Send + 'static) -> Arc<Self> {
        Arc::new(Self { burst, seen: tokio::sync::watch::Sender::default(), print: Mutex::new(Box::new(print)) })
    }

    /// What has arrived so far, and what comes.
    pub fn seen(&self) -> tokio::sync::watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    /// The receiver.
    pub fn router(self: Arc<Self>) -> Routes {
        Routes::new().on(Need::Write(Bodies::Json), Methods::Post, "/", receive).with_state(self)
    }

    fn take(&self, alert: &Alert, now: Instant) {
        let after = self.burst.began.lock().map(|began| now.saturating_duration_since(began));
        let seconds = after.map_or_else(
            || "before the burst".to_owned(),
            |after| format!("{:.2}s after the burst's first line", after.as_secs_f64()),
        );
        let name = alert.labels.get("alertname").map_or("?", String::as_str);
        let labels: Vec<String> =
            alert.labels.iter().filter(|(n, _)| *n != "alertname").map(|(n, v)| format!("{n}={v}")).collect();
        let value = alert.annotations.get("value").map_or("-", String::as_str);
        let word = if alert.status == "firing" { "PAGED" } else { "RESOLVED" };
        let line = format!("{word} {name} {} value={value} {seconds} {}", labels.join(" "), alert.link);
        (self.print.lock())(&line);
        self.seen.send_modify(|seen| match (word, after) {
            ("PAGED", Some(after)) => {
                seen.paged_after.get_or_insert(after);
            }
            ("RESOLVED", _) if seen.paged_after.is_some() => seen.resolved = true,
            _ => {}
        });
    }
}

async fn receive(State(pager): State<Arc<Pager>>, Json(payload): Json<Payload>) -> StatusCode {
    let now = Instant::now();
    for alert in &payload.alerts {
        pager.take(alert, now);
    }
    StatusCode::OK
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(status: &str) -> Alert {
        serde_json::from_value(serde_json::json!({
            "status": status,
            "labels": {"alertname": "ErrorBurst", "service": "checkout", "region": "eu-west-1"},
            "annotations": {"value": "12.5"},
            "generatorURL": "http://127.0.0.1:3100/",
        }))
        .unwrap()
    }

    #[test]
    fn one_line_says_who_what_and_how_fast() {
        let began = Instant::now();
        let burst = Arc::new(Burst { from: Duration::ZERO, lasts: Duration::ZERO, began: Mutex::new(Some(began)) });
        let lines = Arc::new(Mutex::new(Vec::new()));
        let book = Arc::clone(&lines);
        let pager = Pager::new(burst, move |line| book.lock().push(line.to_owned()));
        pager.take(&alert("firing"), began + Duration::from_millis(1250));
        assert!(!pager.seen().borrow().resolved);
        pager.take(&alert("resolved"), began + Duration::from_secs(9));
        assert_eq!(
            *lines.lock(),
            [
                "PAGED ErrorBurst region=eu-west-1 service=checkout value=12.5 1.25s after the burst's first line http://127.0.0.1:3100/",
                "RESOLVED ErrorBurst region=eu-west-1 service=checkout value=12.5 9.00s after the burst's first line http://127.0.0.1:3100/",
            ]
        );
        assert_eq!(*pager.seen().borrow(), Seen { paged_after: Some(Duration::from_millis(1250)), resolved: true });
    }
}
