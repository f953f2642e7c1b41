//! Configuration of rules: the section `rules` of `millrace.yaml`.
//!
//! In: YAML by way of serde. Out: typed values and, from `check`, all faults that types can't say. Touches nothing;
//! rule files are read by `file.rs`.

use std::collections::BTreeMap;

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
    /// Tenant whose lines the rules query.
    pub tenant: String,
    /// Evaluation interval of groups that do not set one.
    pub interval: Span,
    /// Time limit for the query of one rule.
    pub timeout: Span,
    /// How far the time of an evaluation may lie in the past, to wait for lines that are not indexed yet.
    pub max_delay: Span,
    /// Interval at which an unchanged alert is sent to the notifier again.
    pub resend_delay: Span,
    /// URL under which users reach the page; links in alerts start with it.
    pub external_url: String,
    /// Labels of the whole set-up, for templates: `$externalLabels`.
    pub external_labels: BTreeMap<String, String>,
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
            external_labels: BTreeMap::new(),
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
                    f.add(&format!("[{at}]"), "wildcards are supported in the file name only, not in its folder");
                });
            }
        }
        if Tenant::new(&self.tenant).is_err() {
            faults.add("tenant", "invalid tenant: expected 1 to 150 letters, digits or `!-_.*'()`");
        }
        for (key, span) in [("interval", self.interval), ("timeout", self.timeout), ("resend_delay", self.resend_delay)]
        {
            if span.0.is_zero() {
                faults.add(key, "must be longer than 0");
            }
        }
        faults.http_url("external_url", &self.external_url);
    }
}

fn folder_of(pattern: &str) -> Option<&str> {
    pattern.rsplit_once('/').map(|(folder, _)| folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_faultless() {
        let mut faults = Faults::default();
        RulesConfig::default().check(&mut faults);
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
        faults.within("rules", |f| rules.check(f));
        let texts: Vec<String> = faults.into_vec().iter().map(|f| format!("{}: {}", f.path, f.message)).collect();
        insta::assert_snapshot!(texts.join("\n"));
    }
}
