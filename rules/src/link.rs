//! The link of an alert: the page with the lines that made it fire, in the time that its rule looked at, so that it shows
//! the same when it is opened next week.
//!
//! In: a rule, one of its alerts. Out: an address. Touches nothing.

use chrono::{DateTime, SecondsFormat};
use millrace_log::alert::ALERT_NAME;

use crate::file::Rule;
use crate::state::ActiveAlert;

/// How far back the page looks for a rule that reads no lines.
const WITHOUT_LINES_NS: i64 = 300 * 1_000_000_000;

/// Where the page shows the lines of an alert. `page` is the address under which people reach it.
pub fn to_lines(page: &str, rule: &Rule, alert: &ActiveAlert) -> String {
    // Labels that the rule adds are on no line.
    let of_series = alert.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let of_series = of_series.filter(|(name, _)| *name != ALERT_NAME && !rule.labels.iter().any(|(n, _)| n == name));
    let (query, reach_ns) = match rule.expr.tree().lines_behind() {
        Some(lines) => (lines.query(of_series), lines.reach_ns),
        None => (rule.expr.text().trim().to_owned(), WITHOUT_LINES_NS),
    };
    // An evaluation at t reads (t - window, t]; the page shows whole milliseconds, without its end.
    let from_ns = alert.active_at_ns.saturating_sub(reach_ns);
    let to_ns = alert.fired_at_ns.unwrap_or(alert.active_at_ns).saturating_add(1_000_000);
    let time = |ns: i64| DateTime::from_timestamp_nanos(ns).to_rfc3339_opts(SecondsFormat::Millis, true);
    let mut parameters = url::form_urlencoded::Serializer::new(String::new());
    parameters.append_pair("query", &query).append_pair("from", &time(from_ns)).append_pair("to", &time(to_ns));
    parameters.append_pair("alert", &rule.alert);
    format!("{}/?{}", page.trim_end_matches('/'), parameters.finish())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::state::State;

    #[test]
    fn the_link_leads_to_the_lines_of_the_time_at_which_the_alert_fired() {
        let text = "groups:\n  - name: g\n    rules:\n      - alert: Burst\n        \
                    expr: sum by (service) (count_over_time({env=\"prod\"} |= \"error\" [5m])) > 0\n        \
                    for: 2m\n        labels: {severity: page}\n";
        let rule = &crate::file::parse(Path::new("r.yaml"), text).unwrap()[0].rules[0];
        let second = 1_000_000_000;
        let mut alert: ActiveAlert = serde_json::from_value(serde_json::json!({
            "labels": {"alertname": "Burst", "service": "checkout", "severity": "page"}, "annotations": {}, "link": null,
            "value": "3", "state": "firing", "active_at_ns": 1_772_366_400 * second,
            "fired_at_ns": 1_772_366_520 * second, "resolved_at_ns": null, "kept_since_ns": null,
        }))
        .unwrap();
        let link = to_lines("http://logs.example:3100/", rule, &alert);
        let url = url::Url::parse(&link).unwrap();
        let all: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let want = [
            ("query", "{env=\"prod\"} |= \"error\" | service=\"checkout\""),
            ("from", "2026-03-01T11:55:00.000Z"),
            ("to", "2026-03-01T12:02:00.001Z"),
            ("alert", "Burst"),
        ];
        assert_eq!(all, want.map(|(n, v)| (n.to_owned(), v.to_owned())));
        // It stays the same when the alert is over.
        alert.state = State::Resolved;
        alert.resolved_at_ns = Some(1_772_370_000 * second);
        assert_eq!(to_lines("http://logs.example:3100/", rule, &alert), link);
    }
}
