//! The HTML of the page. Every text that comes from outside is escaped by maud.
//!
//! In: parameters, what was found, alerts. Out: markup. Touches nothing.

use chrono::DateTime;
use maud::{DOCTYPE, Markup, html};

use super::data::{AlertRow, Found, Line, Params, RANGES, Range};
use super::histogram;

/// The page as a whole.
pub fn whole(params: &Params, range: &Range, found: &Found, alerts: &[AlertRow]) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Millrace" }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/static/page.css";
                script src="/static/page.js" defer {}
            }
            body {
                header {
                    h1 { a href="/" { "Millrace" } }
                    (form(params, range))
                }
                div.columns {
                    main { (results(params, range, found)) }
                    aside aria-label="Alerts" {
                        h2 { "Alerts" }
                        div #alerts { (alert_list(alerts)) }
                    }
                }
            }
        }
    }
}

fn form(params: &Params, range: &Range) -> Markup {
    html! {
        form method="get" action="/" role="search" {
            input #query name="query" value=(params.query()) placeholder=r#"{service="checkout"} |= "error""#
                aria-label="Query in LogQL" autocomplete="off" spellcheck="false" autofocus;
            select name="range" aria-label="Time range" {
                @for (name, text, _) in RANGES {
                    option value=(name) selected[name == range.name] { (text) }
                }
            }
            button type="submit" { "Search" }
            button #tail type="button" aria-pressed="false" { "Live tail" }
        }
    }
}

fn results(params: &Params, range: &Range, found: &Found) -> Markup {
    html! {
        @if let Some(error) = &found.error {
            pre.error role="alert" { (error) }
        } @else if params.query().is_empty() {
            p.hint {
                "Ask with a stream selector such as " code { r#"{env="prod"}"# } ", then filters: "
                code { r#"|= "timeout""# } ", " code { r#"| json | status >= 500"# } "."
            }
        } @else {
            (histogram::draw(range, &found.bars))
            @if found.series.is_empty() {
                p.count { span #count { (found.lines.len()) } " lines, newest first" }
            } @else {
                (series_table(found))
            }
        }
        ol #lines { @for line in &found.lines { (line_item(line)) } }
        @if found.error.is_none() && !params.query().is_empty() && found.lines.is_empty() && found.series.is_empty() {
            p.hint #nothing { "Nothing found. Widen the time range, or look at the labels of your streams." }
        }
    }
}

fn series_table(found: &Found) -> Markup {
    html! {
        table.series {
            thead { tr { th { "series" } th { "last value" } } }
            tbody {
                @for series in &found.series {
                    tr { td { (chips(&series.labels)) } td.value { (histogram::number(series.last)) } }
                }
            }
        }
    }
}

fn line_item(line: &Line) -> Markup {
    html! {
        li {
            time datetime=(rfc3339(line.time_ns)) { (clock_text(line.time_ns)) }
            code.text { (line.text) }
            (chips(&line.labels))
        }
    }
}

fn chips(labels: &[(String, String)]) -> Markup {
    html! {
        span.labels { @for (name, value) in labels { span.label { b { (name) } "=" (value) } } }
    }
}

/// The list of alerts, worst first.
pub fn alert_list(alerts: &[AlertRow]) -> Markup {
    html! {
        @if alerts.is_empty() { p.hint { "No alert is pending or firing." } }
        ul.alerts {
            @for alert in alerts {
                li class=(format!("alert {}", alert.state)) {
                    span.state { (alert.state) }
                    strong { (alert.name) }
                    " " span.value { (histogram::number(alert.value)) }
                    @if !alert.summary.is_empty() { p { (alert.summary) } }
                    (chips(&alert.labels))
                    p.since { "since " (clock_text(alert.since_ns)) }
                }
            }
        }
    }
}

/// Day and time to the millisecond, UTC.
pub fn clock_text(time_ns: i64) -> String {
    DateTime::from_timestamp_nanos(time_ns).format("%m-%d %H:%M:%S%.3f").to_string()
}

fn rfc3339(time_ns: i64) -> String {
    DateTime::from_timestamp_nanos(time_ns).to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_labels_are_escaped() {
        let line = Line {
            time_ns: 1_772_366_400_123_000_000,
            labels: vec![("a".to_owned(), "<script>".to_owned())],
            text: "<img src=x onerror=alert(1)>".to_owned(),
        };
        let found = Found { lines: vec![line], ..Found::default() };
        let params: Params = serde_json::from_value(serde_json::json!({"query": "{a=\"<b>\"}"})).unwrap();
        let text = whole(&params, &Range::of(&params, 0), &found, &[]).into_string();
        assert!(!text.contains("<script>") && !text.contains("<img"), "{text}");
        assert!(text.contains("03-01 12:00:00.123"), "{text}");
    }

    #[test]
    fn alerts_show_state_value_and_labels() {
        let row = AlertRow {
            name: "ErrorBurst".to_owned(),
            state: "firing".to_owned(),
            labels: vec![("region".to_owned(), "eu-west-1".to_owned())],
            value: 12.5,
            since_ns: 0,
            summary: "checkout fails".to_owned(),
        };
        let text = alert_list(&[row]).into_string();
        for want in ["alert firing", "ErrorBurst", "12.500", "eu-west-1", "checkout fails"] {
            assert!(text.contains(want), "{want}: {text}");
        }
    }
}
