//! The states of one rule's alerts: pending, firing, resolved; what changed, and what is due to be told.
//!
//! In: a rule, the series of one evaluation, its time. Out: changed states and reports for the notifier. Touches
//! nothing: `manager.rs` keeps the states on disk and sends the reports.
//!
//! Times of states are evaluation times (event time); times of sending are the clock's. The states and their moves are
//! those of Prometheus: <https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules/>.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::evaluate::Sample;
use crate::file::Rule;
use crate::template::{Surroundings, Template};
use millrace_log::alert::{ALERT_NAME, Fingerprint, LabelSet, NewAlert};
use millrace_log::go;

/// How long a resolved alert is still reported, so that a notifier that was away hears of it.
pub const RESOLVED_RETENTION: Duration = Duration::from_secs(15 * 60);

/// Where an alert stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its series is there, not yet for as long as `for` asks.
    Pending,
    /// It fires.
    Firing,
    /// It fired and is over; forgotten after [`RESOLVED_RETENTION`].
    Resolved,
}

impl State {
    /// The word for people and APIs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

/// One alert of a rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActiveAlert {
    /// Labels of the series and of the rule, and `alertname`.
    pub labels: LabelSet,
    /// Texts for people, rendered at the last evaluation that had the series.
    pub annotations: LabelSet,
    /// Where its link leads, if the rule says so.
    pub link: Option<String>,
    /// Value of the series at that evaluation.
    #[serde(serialize_with = "write_value", deserialize_with = "read_value")]
    pub value: f64,
    /// Where it stands.
    pub state: State,
    /// Since when its series has been there.
    pub active_at_ns: i64,
    /// Since when it fires.
    pub fired_at_ns: Option<i64>,
    /// When it was over.
    pub resolved_at_ns: Option<i64>,
    /// Since when its series has been gone while `keep_firing_for` holds it.
    pub kept_since_ns: Option<i64>,
    /// When it was last told to the notifier, by the clock.
    #[serde(skip)]
    pub sent_at_ns: Option<i64>,
    /// State that was last told to the notifier.
    #[serde(skip)]
    pub sent_state: Option<State>,
}

// JSON has no words for infinity and not-a-number.
fn write_value<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

fn read_value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// Alerts of one rule by identity.
pub type Alerts = BTreeMap<Fingerprint, ActiveAlert>;

/// What one evaluation changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Transition {
    /// Alerts after it.
    pub alerts: Alerts,
    /// Alerts to be written, or removed where `alerts` has them no longer.
    pub changed: Vec<Fingerprint>,
    /// Templates that failed, as texts for the log.
    pub template_faults: Vec<String>,
}

/// Why an evaluation's answer could not be taken; the states stay as they were.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    /// More alerts than the group's `limit`.
    #[error(
        "the rule results in {found} alerts, but the group's `limit` is {limit}: states are unchanged; narrow the expression or raise the limit"
    )]
    Limit {
        /// Alerts that it would have.
        found: usize,
        /// Alerts allowed.
        limit: usize,
    },
    /// Two series become the same alert.
    #[error("two series result in the same alert {labels}: keep a label that distinguishes them")]
    Same {
        /// Their labels as text.
        labels: String,
    },
}

/// Moves a rule's alerts to a time with the series that its expression gave there.
pub fn transition(
    rule: &Rule,
    limit: usize,
    before: &Alerts,
    samples: Vec<Sample>,
    at_ns: i64,
    around: &Surroundings,
) -> Result<Transition, TransitionError> {
    let mut step = Transition { alerts: before.clone(), ..Transition::default() };
    let mut present = std::collections::BTreeSet::new();
    for sample in samples {
        let found = rendered(rule, sample, at_ns, around, &mut step.template_faults);
        let fingerprint = Fingerprint::of(&found.labels);
        if !present.insert(fingerprint) {
            return Err(TransitionError::Same { labels: millrace_log::alert::labels_text(&found.labels) });
        }
        match step.alerts.get_mut(&fingerprint).filter(|old| old.state != State::Resolved) {
            Some(old) => {
                old.value = found.value;
                old.annotations = found.annotations;
                old.link = found.link;
                old.kept_since_ns = None;
            }
            None => {
                step.alerts.insert(fingerprint, found);
            }
        }
    }
    step.alerts.retain(|fingerprint, alert| {
        if present.contains(fingerprint) {
            if alert.state == State::Pending && since(alert.active_at_ns, at_ns) >= rule.hold {
                alert.state = State::Firing;
                alert.fired_at_ns = Some(at_ns);
            }
            return true;
        }
        match alert.state {
            State::Pending => false,
            State::Firing => {
                let gone = *alert.kept_since_ns.get_or_insert(at_ns);
                if since(gone, at_ns) >= rule.keep_firing {
                    alert.state = State::Resolved;
                    alert.resolved_at_ns = Some(at_ns);
                    alert.kept_since_ns = None;
                }
                true
            }
            State::Resolved => alert.resolved_at_ns.is_some_and(|at| since(at, at_ns) <= RESOLVED_RETENTION),
        }
    });
    let held = step.alerts.values().filter(|alert| alert.state != State::Resolved).count();
    if limit > 0 && held > limit {
        return Err(TransitionError::Limit { found: held, limit });
    }
    step.changed = changed(before, &step.alerts);
    Ok(step)
}

/// Alerts whose lasting part differs: a new value alone is not worth a write.
fn changed(before: &Alerts, after: &Alerts) -> Vec<Fingerprint> {
    let lasting = |a: &ActiveAlert| (a.state, a.active_at_ns, a.fired_at_ns, a.resolved_at_ns, a.kept_since_ns);
    let gone = before.keys().filter(|fingerprint| !after.contains_key(fingerprint));
    let other = after.iter().filter(|(f, a)| before.get(f).map(lasting) != Some(lasting(a))).map(|(f, _)| f);
    gone.chain(other).copied().collect()
}

fn since(from_ns: i64, to_ns: i64) -> Duration {
    Duration::from_nanos(u64::try_from(to_ns.saturating_sub(from_ns)).unwrap_or(0))
}

/// A series as a new alert: labels of the rule over those of the series, `alertname` over all, empty ones dropped.
fn rendered(rule: &Rule, sample: Sample, at_ns: i64, around: &Surroundings, faults: &mut Vec<String>) -> ActiveAlert {
    let mut series = sample.labels;
    series.remove("__name__");
    let mut text = |name: &str, template: &Template, label: bool| {
        around.render(template, &series, sample.value, at_ns).unwrap_or_else(|error| {
            faults.push(format!("template of `{name}` of alert `{}` failed: {error}", rule.alert));
            if label {
                template.source().to_owned()
            } else {
                format!(
                    "{} fires with value {} (annotation `{name}` could not be rendered: {error}; as written: {})",
                    rule.alert,
                    go::float(sample.value),
                    template.source()
                )
            }
        })
    };
    let own: LabelSet = rule.labels.iter().map(|(n, t)| (n.clone(), text(n, t, true))).collect();
    let annotations = rule.annotations.iter().map(|(n, t)| (n.clone(), text(n, t, false))).collect();
    let link = rule.link.as_ref().map(|t| text("link", t, true));
    let mut labels = series;
    labels.extend(own);
    labels.insert(ALERT_NAME.to_owned(), rule.alert.clone());
    labels.retain(|_, value| !value.is_empty());
    ActiveAlert {
        labels,
        annotations,
        link,
        value: sample.value,
        state: State::Pending,
        active_at_ns: at_ns,
        fired_at_ns: None,
        resolved_at_ns: None,
        kept_since_ns: None,
        sent_at_ns: None,
        sent_state: None,
    }
}

/// Alerts that are due to be told: new states at once, unchanged ones after `resend_delay`. Pending ones never.
pub fn due(alerts: &Alerts, now_ns: i64, resend_delay: Duration) -> Vec<Fingerprint> {
    let is_due = |alert: &ActiveAlert| {
        alert.state != State::Pending
            && (alert.sent_state != Some(alert.state)
                || alert.sent_at_ns.is_none_or(|sent| since(sent, now_ns) >= resend_delay))
    };
    alerts.iter().filter(|(_, alert)| is_due(alert)).map(|(fingerprint, _)| *fingerprint).collect()
}

/// An alert as the notifier takes it; `link` leads to what is behind it. A firing one is good until `valid_until_ns`: longer than the next report takes.
pub fn report(alert: &ActiveAlert, link: String, now_ns: i64, valid_until_ns: i64) -> NewAlert {
    let ends_at_ns = match alert.state {
        // Never before its start: an evaluation may take back what the one before it saw.
        State::Resolved => {
            alert.resolved_at_ns.unwrap_or(now_ns).min(now_ns).max(alert.fired_at_ns.unwrap_or(i64::MIN))
        }
        State::Pending | State::Firing => valid_until_ns,
    };
    NewAlert {
        labels: alert.labels.clone(),
        annotations: alert.annotations.clone(),
        starts_at_ns: Some(alert.fired_at_ns.unwrap_or(alert.active_at_ns)),
        ends_at_ns: Some(ends_at_ns),
        generator_url: link,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn rule(keys: &str) -> Rule {
        let text = format!("groups: [{{name: g, rules: [{{alert: A, expr: 'sum(rate({{a=\"b\"}}[1m]))', {keys}}}]}}]");
        crate::file::parse(Path::new("f.yaml"), &text).expect("good").remove(0).rules.remove(0)
    }

    fn sample(host: &str, value: f64) -> Sample {
        Sample { labels: LabelSet::from([("host".to_owned(), host.to_owned())]), value }
    }

    /// Runs seconds of evaluations: `x` the series is there, `.` it is not; the states are told by letters.
    fn states(keys: &str, there: &str) -> String {
        let rule = rule(keys);
        let mut alerts = Alerts::new();
        there
            .chars()
            .enumerate()
            .map(|(second, there)| {
                let samples = if there == 'x' { vec![sample("h", 1.0)] } else { Vec::new() };
                let at_ns = i64::try_from(second).unwrap() * SECOND;
                alerts = transition(&rule, 0, &alerts, samples, at_ns, &Surroundings::default()).unwrap().alerts;
                match alerts.values().next().map(|a| a.state) {
                    None => '-',
                    Some(State::Pending) => 'p',
                    Some(State::Firing) => 'F',
                    Some(State::Resolved) => 'r',
                }
            })
            .collect()
    }

    #[test]
    fn alerts_move_as_in_prometheus() {
        for (keys, there, want) in [
            ("for: 0s", "xx..x", "FFrrF"),
            ("for: 2s", "xxxx.x", "ppFFrp"),
            ("for: 2s", "xx.xx", "pp-pp"),
            ("for: 1s, keep_firing_for: 2s", "xx.x...x", "pFFFFFrp"),
            ("keep_firing_for: 2s", "x....", "FFFrr"),
            ("for: 2s", ".....", "-----"),
        ] {
            assert_eq!(states(keys, there), want, "{keys} {there}");
        }
    }

    #[test]
    fn resolved_alerts_are_forgotten_after_a_while() {
        let rule = rule("for: 0s");
        let fired = transition(&rule, 0, &Alerts::new(), vec![sample("h", 1.0)], 0, &Surroundings::default()).unwrap();
        let resolved = transition(&rule, 0, &fired.alerts, Vec::new(), SECOND, &Surroundings::default()).unwrap();
        let kept = transition(&rule, 0, &resolved.alerts, Vec::new(), 900 * SECOND, &Surroundings::default()).unwrap();
        assert_eq!((kept.alerts.len(), kept.changed.len()), (1, 0));
        let gone = transition(&rule, 0, &kept.alerts, Vec::new(), 902 * SECOND, &Surroundings::default()).unwrap();
        assert_eq!((gone.alerts.len(), gone.changed.len()), (0, 1));
    }

    #[test]
    fn labels_of_the_rule_rule_and_empty_ones_go() {
        let rule = rule(
            "labels: {host: 'on-{{ $labels.host }}', zone: '', x: '{{ $value }}'}, annotations: {a: '{{ $labels.host }}'}",
        );
        let mut series = sample("h", 2.5);
        series.labels.insert("zone".into(), "z".into());
        series.labels.insert("__name__".into(), "n".into());
        let step = transition(&rule, 0, &Alerts::new(), vec![series], 0, &Surroundings::default()).unwrap();
        let alert = step.alerts.values().next().unwrap();
        assert_eq!(millrace_log::alert::labels_text(&alert.labels), r#"{alertname="A", host="on-h", x="2.5"}"#);
        assert_eq!(alert.annotations["a"], "h");
    }

    #[test]
    fn limit_and_equal_labels_keep_the_states() {
        let samples = || vec![sample("a", 1.0), sample("b", 1.0)];
        let error =
            transition(&rule("for: 0s"), 1, &Alerts::new(), samples(), 0, &Surroundings::default()).unwrap_err();
        assert_eq!(error, TransitionError::Limit { found: 2, limit: 1 });
        let error =
            transition(&rule("labels: {host: same}"), 0, &Alerts::new(), samples(), 0, &Surroundings::default())
                .unwrap_err();
        assert_eq!(error, TransitionError::Same { labels: r#"{alertname="A", host="same"}"#.into() });
    }

    #[test]
    fn a_failing_template_falls_back_and_says_so() {
        let rule = rule("annotations: {summary: '{{ $labels.host }}!'}");
        let step =
            transition(&rule, 0, &Alerts::new(), vec![sample(&"x".repeat(70_000), 3.0)], 0, &Surroundings::default())
                .unwrap();
        let text = &step.alerts.values().next().unwrap().annotations["summary"];
        assert_eq!(
            text,
            "A fires with value 3 (annotation `summary` could not be rendered: the text grows beyond 65536 bytes; as written: {{ $labels.host }}!)"
        );
        assert_eq!(step.template_faults.len(), 1);
    }

    #[test]
    fn new_states_are_due_at_once_and_old_ones_after_a_delay() {
        let rule = rule("for: 1s");
        let delay = Duration::from_secs(60);
        let mut alerts =
            transition(&rule, 0, &Alerts::new(), vec![sample("h", 1.0)], 0, &Surroundings::default()).unwrap().alerts;
        assert_eq!(due(&alerts, 0, delay).len(), 0, "pending");
        alerts =
            transition(&rule, 0, &alerts, vec![sample("h", 1.0)], SECOND, &Surroundings::default()).unwrap().alerts;
        assert_eq!(due(&alerts, SECOND, delay).len(), 1, "firing");
        for alert in alerts.values_mut() {
            (alert.sent_at_ns, alert.sent_state) = (Some(SECOND), Some(State::Firing));
        }
        assert_eq!(due(&alerts, 60 * SECOND, delay).len(), 0, "told");
        assert_eq!(due(&alerts, 61 * SECOND, delay).len(), 1, "told again");
        alerts = transition(&rule, 0, &alerts, Vec::new(), 2 * SECOND, &Surroundings::default()).unwrap().alerts;
        assert_eq!(due(&alerts, 2 * SECOND, delay).len(), 1, "resolved");
        let told = report(alerts.values().next().unwrap(), "http://page".to_owned(), 3 * SECOND, 99 * SECOND);
        assert_eq!((told.starts_at_ns, told.ends_at_ns), (Some(SECOND), Some(2 * SECOND)));
    }

    #[test]
    fn values_without_json_words_survive() {
        for value in [f64::INFINITY, f64::NEG_INFINITY, 0.1, -0.0] {
            let rule = rule("for: 0s");
            let step =
                transition(&rule, 0, &Alerts::new(), vec![sample("h", value)], 0, &Surroundings::default()).unwrap();
            let alert = step.alerts.into_values().next().unwrap();
            let text = serde_json::to_string(&alert).unwrap();
            assert_eq!(serde_json::from_str::<ActiveAlert>(&text).unwrap().value.to_bits(), value.to_bits());
        }
    }
}
