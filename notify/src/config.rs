//! Configuration of the notifier: the section `notify` of `millrace.yaml`.
//!
//! In: YAML by way of serde. Out: typed values and, from `check`, all faults that types can't say. Touches nothing;
//! `alertmanager.yml` is read by `alertmanager.rs`.

use std::path::PathBuf;

use millrace_doors::config::TlsConfig;
use millrace_log::value::{Faults, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Section `notify`: receivers of alerts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NotifyConfig {
    /// An `alertmanager.yml` with the routes and the receivers. Without it, alerts are only written to Millrace's own log.
    pub config_file: Option<PathBuf>,
    /// Address of the Alertmanager API, `host:port`. Beyond loopback, a login is required: see `access`.
    pub listen: String,
    /// TLS of the Alertmanager API. Left out: plain text.
    pub tls: Option<TlsConfig>,
    /// URL under which users reach the Alertmanager API; messages contain it as `externalURL`. Empty: derived from `listen`.
    pub external_url: String,
    /// Alertmanagers to forward alerts to instead of notifying receivers. Not supported yet: must be empty.
    pub forward: Vec<String>,
    /// Maximum number of active alerts; further ones are rejected with an error. Reports by the API fill three quarters of it at
    /// most (then 429): a flood from outside leaves room for this process's rules.
    pub max_alerts: usize,
    /// Maximum number of silences kept, expired ones included; further ones are rejected with an error.
    pub max_silences: usize,
    /// How long expired silences are kept and shown.
    pub silence_retention: Span,
    /// Maximum number of messages sent concurrently.
    pub concurrency: usize,
    /// Time limit for one attempt to deliver a message.
    pub timeout: Span,
}

impl Default for NotifyConfig {
    fn default() -> Self {
        Self {
            config_file: None,
            listen: "127.0.0.1:9093".to_owned(),
            tls: None,
            external_url: String::new(),
            forward: Vec::new(),
            max_alerts: 50_000,
            max_silences: 10_000,
            silence_retention: Span::secs(5 * 24 * 3600),
            concurrency: 64,
            timeout: Span::secs(10),
        }
    }
}

impl NotifyConfig {
    /// Notes what the types can't say.
    pub fn check(&self, faults: &mut Faults) {
        if self.listen.parse::<std::net::SocketAddr>().is_err() && !self.listen.starts_with("localhost:") {
            faults.add("listen", "invalid address: write it as `127.0.0.1:9093`");
        }
        if let Some(tls) = &self.tls {
            faults.within("tls", |f| tls.check(f));
        }
        if !self.external_url.is_empty() {
            faults.http_url("external_url", &self.external_url);
        }
        if !self.forward.is_empty() {
            faults.add("forward", "is not supported yet: remove it and name receivers in `config_file`");
        }
        for (key, number) in
            [("max_alerts", self.max_alerts), ("max_silences", self.max_silences), ("concurrency", self.concurrency)]
        {
            if number == 0 {
                faults.add(key, "must be at least 1");
            }
        }
        if self.timeout.0.is_zero() {
            faults.add("timeout", "must be longer than 0");
        }
    }

    /// The address that messages carry, without a slash at its end.
    pub fn shown_url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let own = || format!("{scheme}://{}", self.listen);
        let url = if self.external_url.is_empty() { own() } else { self.external_url.clone() };
        url.trim_end_matches('/').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_faultless() {
        let mut faults = Faults::default();
        NotifyConfig::default().check(&mut faults);
        assert!(faults.is_empty(), "{faults:?}");
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let mut faults = Faults::default();
        let notify = NotifyConfig {
            listen: "9093".into(),
            forward: vec!["http://am:9093".into()],
            concurrency: 0,
            ..NotifyConfig::default()
        };
        faults.within("notify", |f| notify.check(f));
        let texts: Vec<String> = faults.into_vec().iter().map(|f| format!("{}: {}", f.path, f.message)).collect();
        insta::assert_snapshot!(texts.join("\n"));
    }
}
