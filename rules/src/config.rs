//! Configuration of rules and notifier: the sections `rules` and `notify` of `millrace.yaml`.
//!
//! In: YAML by way of serde. Out: typed values and, from `check`, all faults that types can't say. Touches nothing;
//! rule files and `alertmanager.yml` are read by `file.rs` and `notify/config.rs`.

use std::path::PathBuf;

use millrace_log::record::Tenant;
use millrace_log::value::{Faults, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Section `rules`: which rule files are evaluated, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RulesConfig {
    /// Rule files: paths, or patterns with `*` and `?` in the file's name, as in `/etc/millrace/rules/*.yaml`.
    pub files: Vec<String>,
    /// Tenant whose lines the rules ask about.
    pub tenant: String,
    /// How often a group is evaluated that names no interval of its own.
    pub interval: Span,
    /// Longest time that one rule's query may take.
    pub timeout: Span,
    /// How far behind the clock an evaluation may stay to wait for lines that are still on their way into the index.
    pub max_delay: Span,
    /// How often an unchanged alert is reported again to the notifier.
    pub resend_delay: Span,
    /// Address under which people reach the page; links of alerts begin with it.
    pub external_url: String,
}

impl Default for RulesConfig {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            tenant: Tenant::DEFAULT.to_owned(),
            interval: Span::secs(60),
            timeout: Span::secs(30),
            max_delay: Span::secs(60),
            resend_delay: Span::secs(60),
            external_url: "http://127.0.0.1:3100".to_owned(),
        }
    }
}

impl RulesConfig {
    /// Notes what the types can't say.
    pub fn check(&self, faults: &mut Faults) {
        for (at, pattern) in self.files.iter().enumerate() {
            if pattern.trim().is_empty() {
                faults.within("files", |f| f.add(&format!("[{at}]"), "is empty: name a file or a pattern"));
            } else if folder_of(pattern).is_some_and(|folder| folder.contains(['*', '?', '['])) {
                faults.within("files", |f| {
                    f.add(&format!("[{at}]"), "wildcards may stand in the file's name only, not in its folder");
                });
            }
        }
        if Tenant::new(&self.tenant).is_err() {
            faults.add("tenant", "is no tenant: 1 to 150 letters, digits or `!-_.*'()`");
        }
        for (key, span) in [("interval", self.interval), ("timeout", self.timeout), ("resend_delay", self.resend_delay)]
        {
            if span.0.is_zero() {
                faults.add(key, "must be longer than 0");
            }
        }
        check_url(&self.external_url, "external_url", faults);
    }
}

fn folder_of(pattern: &str) -> Option<&str> {
    pattern.rsplit_once('/').map(|(folder, _)| folder)
}

/// Section `notify`: who is told of alerts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NotifyConfig {
    /// An `alertmanager.yml` with the route and the receivers. Without one, alerts are written to the program's own log.
    pub config_file: Option<PathBuf>,
    /// Where the Alertmanager API listens.
    pub listen: String,
    /// Address under which the Alertmanager API is reached; messages carry it as `externalURL`. Empty: made of `listen`.
    pub external_url: String,
    /// Alertmanagers to send alerts to instead of telling people ourselves. Not supported yet: must be empty.
    pub forward: Vec<String>,
    /// Alerts that are held at most; more are refused with an error.
    pub max_alerts: usize,
    /// Messages that are on their way at the same time.
    pub concurrency: usize,
    /// Longest time that one attempt at delivering a message may take.
    pub timeout: Span,
}

impl Default for NotifyConfig {
    fn default() -> Self {
        Self {
            config_file: None,
            listen: "127.0.0.1:9093".to_owned(),
            external_url: String::new(),
            forward: Vec::new(),
            max_alerts: 50_000,
            concurrency: 64,
            timeout: Span::secs(10),
        }
    }
}

impl NotifyConfig {
    /// Notes what the types can't say.
    pub fn check(&self, faults: &mut Faults) {
        if self.listen.parse::<std::net::SocketAddr>().is_err() && !self.listen.starts_with("localhost:") {
            faults.add("listen", "is no address: write it as `127.0.0.1:9093`");
        }
        if !self.external_url.is_empty() {
            check_url(&self.external_url, "external_url", faults);
        }
        if !self.forward.is_empty() {
            faults.add("forward", "is not supported yet: remove it and name receivers in `config_file`");
        }
        for (key, number) in [("max_alerts", self.max_alerts), ("concurrency", self.concurrency)] {
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
        let url =
            if self.external_url.is_empty() { format!("http://{}", self.listen) } else { self.external_url.clone() };
        url.trim_end_matches('/').to_owned()
    }
}

fn check_url(url: &str, key: &str, faults: &mut Faults) {
    let good = url::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if !good {
        faults.add(key, format!("`{url}` is no address: write it as `http://host:port`"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_faultless() {
        let mut faults = Faults::default();
        RulesConfig::default().check(&mut faults);
        NotifyConfig::default().check(&mut faults);
        assert!(faults.is_empty(), "{faults:?}");
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let mut faults = Faults::default();
        let rules = RulesConfig {
            files: vec![String::new(), "/etc/*/x.yaml".into(), "/etc/rules/*.yaml".into()],
            tenant: "a/b".into(),
            interval: Span::secs(0),
            external_url: "page".into(),
            ..RulesConfig::default()
        };
        let notify = NotifyConfig {
            listen: "9093".into(),
            forward: vec!["http://am:9093".into()],
            concurrency: 0,
            ..NotifyConfig::default()
        };
        faults.within("rules", |f| rules.check(f));
        faults.within("notify", |f| notify.check(f));
        let texts: Vec<String> = faults.into_vec().iter().map(|f| format!("{}: {}", f.path, f.message)).collect();
        insta::assert_snapshot!(texts.join("\n"));
    }
}
