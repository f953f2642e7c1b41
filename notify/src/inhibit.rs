//! Inhibition: alerts that mute others while they fire.
//!
//! In: rules, alerts that come and go. Out: by which alert another is muted. Touches nothing. Sources are kept by the labels that
//! must be equal, so that a look-up does not depend on the number of alerts.

use std::collections::{BTreeSet, HashMap};

use millrace_log::alert::{Fingerprint, LabelSet};

use crate::alert::Alert;
use crate::routing::InhibitRule;

/// Alerts that mute, of one rule and one set of equal labels.
#[derive(Debug, Default)]
struct Sources {
    /// Those that the rule does not mute.
    only_sources: BTreeSet<Fingerprint>,
    /// Those that it would mute too: they mute none that are sources themselves.
    targets_too: BTreeSet<Fingerprint>,
}

/// Alerts that mute others, by rule.
#[derive(Debug, Default)]
pub(crate) struct Inhibitor {
    rules: Vec<HashMap<Vec<String>, Sources>>,
}

fn equal_values(rule: &InhibitRule, labels: &LabelSet) -> Vec<String> {
    rule.equal.iter().map(|name| labels.get(name).cloned().unwrap_or_default()).collect()
}

impl Inhibitor {
    /// For so many rules.
    pub(crate) fn new(rules: &[InhibitRule]) -> Self {
        Self { rules: rules.iter().map(|_| HashMap::new()).collect() }
    }

    /// Takes an alert in, whether it fires or not.
    pub(crate) fn add(&mut self, rules: &[InhibitRule], labels: &LabelSet, fingerprint: Fingerprint) {
        for (rule, sources) in rules.iter().zip(&mut self.rules).filter(|(rule, _)| rule.is_source(labels)) {
            let sources = sources.entry(equal_values(rule, labels)).or_default();
            let list = if rule.is_target(labels) { &mut sources.targets_too } else { &mut sources.only_sources };
            list.insert(fingerprint);
        }
    }

    /// Lets go of an alert.
    pub(crate) fn remove(&mut self, rules: &[InhibitRule], labels: &LabelSet, fingerprint: Fingerprint) {
        for (rule, sources) in rules.iter().zip(&mut self.rules).filter(|(rule, _)| rule.is_source(labels)) {
            let key = equal_values(rule, labels);
            let Some(list) = sources.get_mut(&key) else { continue };
            list.only_sources.remove(&fingerprint);
            list.targets_too.remove(&fingerprint);
            if list.only_sources.is_empty() && list.targets_too.is_empty() {
                sources.remove(&key);
            }
        }
    }

    /// An alert that fires and mutes one with these labels.
    pub(crate) fn inhibited_by(
        &self,
        rules: &[InhibitRule],
        alerts: &HashMap<Fingerprint, Alert>,
        labels: &LabelSet,
        now_ns: i64,
    ) -> Option<Fingerprint> {
        let fires = |f: &&Fingerprint| alerts.get(*f).is_some_and(|alert| !alert.resolved_at(now_ns));
        rules.iter().zip(&self.rules).filter(|(rule, _)| rule.is_target(labels)).find_map(|(rule, sources)| {
            let sources = sources.get(&equal_values(rule, labels))?;
            let found = sources.only_sources.iter().find(fires);
            let other = || sources.targets_too.iter().find(fires).filter(|_| !rule.is_source(labels));
            found.or_else(other).copied()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::Matcher;

    fn set(pairs: &[(&str, &str)]) -> LabelSet {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    fn rule(source: &str, target: &str, equal: &[&str]) -> InhibitRule {
        InhibitRule {
            name: String::new(),
            source: Matcher::parse_list(source).unwrap(),
            target: Matcher::parse_list(target).unwrap(),
            equal: equal.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn alerts_mute_those_with_equal_labels_while_they_fire() {
        let rules = [rule("severity=page", "severity=~\"page|warn\"", &["cluster"]), rule("{}", "{}", &[])];
        let mut inhibitor = Inhibitor::new(&rules);
        let mut alerts = HashMap::new();
        let mut add = |inhibitor: &mut Inhibitor, pairs: &[(&str, &str)], ends_at_ns| {
            let labels = set(pairs);
            let alert = Alert {
                annotations: LabelSet::new(),
                starts_at_ns: 0,
                ends_at_ns,
                updated_at_ns: 0,
                generator_url: String::new(),
                timeout: false,
                ended: false,
                labels,
            };
            inhibitor.add(&rules, &alert.labels, alert.fingerprint());
            alerts.insert(alert.fingerprint(), alert.clone());
            alert.fingerprint()
        };
        let source = add(&mut inhibitor, &[("severity", "page"), ("cluster", "a")], 100);
        add(&mut inhibitor, &[("severity", "page")], 100);
        for (labels, now_ns, want) in [
            (set(&[("severity", "warn"), ("cluster", "a")]), 50, true),
            (set(&[("severity", "warn"), ("cluster", "b")]), 50, false),
            // Not there is the same as empty.
            (set(&[("severity", "warn"), ("cluster", "")]), 50, true),
            (set(&[("severity", "info"), ("cluster", "a")]), 50, false),
            // Over.
            (set(&[("severity", "warn"), ("cluster", "a")]), 100, false),
            // On both sides of both rules.
            (set(&[("severity", "page"), ("cluster", "a"), ("n", "2")]), 50, false),
        ] {
            assert_eq!(inhibitor.inhibited_by(&rules, &alerts, &labels, now_ns).is_some(), want, "{labels:?} {now_ns}");
        }
        inhibitor.remove(&rules, &set(&[("severity", "page"), ("cluster", "a")]), source);
        let muted = set(&[("severity", "warn"), ("cluster", "a")]);
        assert_eq!(inhibitor.inhibited_by(&rules, &alerts, &muted, 50), None);
    }
}
