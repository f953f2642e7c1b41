//! The HTML of the page. Every text that comes from outside is escaped by maud.
//!
//! In: parameters, what was found, alerts. Out: markup. Touches nothing.

use maud::{DOCTYPE, Markup, html};
use millrace_doors::identity::InSession;

use super::data::{Line, QueryResult};
use super::histogram;
use super::query::Asked;
use super::range::{MAX_LINES, Params, RANGES, Range};
use super::state::AlertRow;
use super::text::{clock_tag, date, date_tag, number};

/// Everything that one page shows.
pub struct Page<'p> {
    /// The address.
    pub params: &'p Params,
    /// What the box means.
    pub asked: &'p Asked,
    /// Which time.
    pub range: &'p Range,
    /// What the engine found.
    pub found: &'p QueryResult,
    /// Alerts of the rules.
    pub alerts: &'p [AlertRow],
    /// Who has logged in by the form or the login provider.
    pub session: Option<&'p InSession>,
}

impl Page<'_> {
    /// The address of a page with another query, range or number of lines.
    fn address(&self, query: &str, range: &Range, limit: Option<usize>) -> String {
        let mut parameters = url::form_urlencoded::Serializer::new(String::new());
        parameters.append_pair("query", query);
        for (name, value) in range.parameters() {
            parameters.append_pair(name, &value);
        }
        if let Some(limit) = limit {
            parameters.append_pair("limit", &limit.to_string());
        }
        if !self.params.alert().is_empty() {
            parameters.append_pair("alert", self.params.alert());
        }
        format!("/?{}", parameters.finish())
    }

    fn is_empty(&self) -> bool {
        self.params.query().is_empty()
    }
}

/// The page as a whole.
pub fn whole(page: &Page<'_>) -> Markup {
    let title = if page.is_empty() { "Millrace".to_owned() } else { format!("{} · Millrace", page.params.query()) };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/static/page.css";
                script src="/static/page.js" defer {}
            }
            body {
                a.skip href="#results" { "Skip to the lines" }
                header {
                    h1 { a href="/" { "Millrace" } }
                    a.badge #badge href="#alerts" { (badge(page.alerts)) }
                    (form(page))
                    @if let Some(session) = page.session { (log_out(session)) }
                }
                div.columns {
                    main #results tabindex="-1" {
                        (alert_note(page))
                        (results(page))
                    }
                    aside aria-label="Alerts" {
                        h2 { "Alerts" }
                        div #alerts { (alert_list(page.alerts)) }
                    }
                }
            }
        }
    }
}

fn form(page: &Page<'_>) -> Markup {
    let range = page.range;
    let exact = |ns: i64| if range.name.is_none() { date(ns) } else { String::new() };
    html! {
        form #search method="get" action="/" role="search" {
            div.ask {
                input #query name="query" value=(page.params.query()) autofocus[page.is_empty()]
                    placeholder=r#"words, or {service="checkout"} |= "error""# aria-label="Search: words, or a query in LogQL"
                    autocomplete="off" autocapitalize="off" spellcheck="false";
                select name="range" aria-label="Time range" {
                    @if range.name.is_none() {
                        option value="" selected { "exact times" }
                    }
                    @for (name, text, _) in RANGES {
                        option value=(name) selected[Some(name) == range.name] { (text) }
                    }
                }
                button type="submit" { "Search" }
                button #tail type="button" aria-pressed="false" { "Live tail" }
            }
            details.exact open[range.name.is_none()] {
                summary { "Exact times" }
                label { "from " input name="from" value=(exact(range.start_ns)) placeholder="2026-03-01 12:00:00"; }
                label { "to " input name="to" value=(exact(range.end_ns)) placeholder="now"; }
                span.hint { "In UTC. They are used when “exact times” is selected in the list." }
            }
        }
    }
}

fn log_out(session: &InSession) -> Markup {
    html! {
        form.session method="post" action="/logout" {
            input type="hidden" name="csrf" value=(session.csrf);
            span title="Logged in as" { (session.name) }
            button type="submit" { "Log out" }
        }
    }
}

/// For those who come from a page of an alert.
fn alert_note(page: &Page<'_>) -> Markup {
    let name = page.params.alert();
    let now: Vec<&AlertRow> = page.alerts.iter().filter(|alert| alert.name == name).collect();
    html! {
        @if !name.is_empty() {
            p.note {
                "From the alert " strong { (name) } ": the lines that its rule had read when it fired. "
                @match now.first() {
                    Some(alert) => { "It is " strong { (alert.state) } " since " (clock_tag(alert.since_ns)) "." }
                    None => "It is resolved."
                }
            }
        }
    }
}

fn results(page: &Page<'_>) -> Markup {
    let found = page.found;
    html! {
        p #status role="status" aria-live="polite" hidden {}
        @for warning in &found.warnings {
            p.warning role="alert" { "This answer is incomplete: " (warning) }
        }
        div #found {
            @if let Some(error) = &found.error {
                pre.error role="alert" { (error) }
            } @else if page.is_empty() {
                (hints())
            } @else if page.params.is_tail() {
                noscript { p.hint { "Live tail needs JavaScript. A search works without it." } }
            } @else {
                (summary(page))
            }
        }
        div.list-head {
            p #common hidden[found.common.is_empty()] { "Labels of all lines: " span #common-labels { (chips(&found.common)) } }
            p.zone #zone-line { "Times are " span #zone-name { "UTC" } " " button #zone type="button" hidden { "Show local time" } }
        }
        ol #lines { @for line in &found.lines { (line_item(line, &page.asked.marks)) } }
    }
}

fn hints() -> Markup {
    html! {
        div.hint {
            p { "Search for words, such as " code { "connection refused" } ": finds lines that contain this text; case-sensitive." }
            p {
                "Or write LogQL: a stream selector such as " code { r#"{env="prod"}"# } ", then filters: "
                code { r#"|= "timeout""# } ", " code { r#"| json | status >= 500"# } "."
            }
            p { "Keys: " kbd { "/" } " search box, " kbd { "L" } " live tail, " kbd { "Z" } " UTC or local time." }
        }
    }
}

/// What was found, in numbers, and where to look further.
fn summary(page: &Page<'_>) -> Markup {
    let (found, range) = (page.found, page.range);
    let shown = found.lines.len() as u64;
    let query = page.params.query();
    html! {
        (histogram::draw(range, &found.bars, |bar| page.address(query, bar, None)))
        @if page.asked.is_words {
            p.count { "Searched for the exact text: " code { (page.asked.text) } }
        }
        p.count {
            @match found.total {
                _ if !found.series.is_empty() => { (found.series.len()) " series" }
                Some(total) if total > shown => { "Newest " (number(shown as f64)) " of " (number(total as f64)) " lines" }
                Some(_) if shown == 1 => "1 line",
                Some(_) => { (number(shown as f64)) " lines, newest first" }
                None if found.behind.is_some() => "no series",
                None if shown as usize == page.params.limit() => { "Newest " (number(shown as f64)) " lines; there may be more" }
                None => { (number(shown as f64)) " lines, newest first" }
            }
            " · " (date_tag(range.start_ns)) " to " (date_tag(range.end_ns))
        }
        nav.more aria-label="Other times" {
            @if found.total.is_some_and(|total| total > shown) && page.params.limit() < MAX_LINES {
                a href=(page.address(query, range, Some(MAX_LINES))) { "up to " (number(MAX_LINES as f64)) " lines" }
            }
            @if let Some((lines, reach_ns)) = &found.behind {
                @let around = Range::between(range.start_ns.saturating_sub(*reach_ns), range.end_ns);
                a href=(page.address(lines, &around, None)) { "show the lines of this metric query" }
            }
            @for (name, range) in range.neighbours() {
                a href=(page.address(query, &range, None)) { (name) }
            }
        }
        @if !found.series.is_empty() { (series_table(found)) }
        @if found.lines.is_empty() && found.series.is_empty() {
            p.hint #nothing {
                "Nothing found. "
                @if page.asked.is_words { "The search is case-sensitive. " }
                "Try a wider time range, or check the labels of the streams."
            }
        }
    }
}

fn series_table(found: &QueryResult) -> Markup {
    html! {
        table.series {
            thead { tr { th { "series" } th { "last value" } } }
            tbody {
                @for series in &found.series {
                    tr { td { (chips(&series.labels)) } td.value { (number(series.last)) } }
                }
            }
        }
    }
}

fn line_item(line: &Line, marks: &[String]) -> Markup {
    let level = line.labels.iter().find(|(name, _)| matches!(name.as_str(), "level" | "severity" | "detected_level"));
    html! {
        li data-level=[level.map(|(_, value)| value.to_lowercase())] {
            (clock_tag(line.time_ns))
            code.text { (marked(&line.text, marks)) }
            @if !line.labels.is_empty() { (chips(&line.labels)) }
        }
    }
}

/// The text with what was searched for highlighted.
fn marked(text: &str, marks: &[String]) -> Markup {
    let mut parts = Vec::new();
    let mut rest = text;
    // The first one; of several at one place the longest.
    let next = |rest: &str| {
        let found = marks.iter().filter_map(|mark| Some((rest.find(mark.as_str())?, mark.len())));
        found.min_by_key(|(at, length)| (*at, std::cmp::Reverse(*length)))
    };
    while let Some((at, length)) = next(rest) {
        let (before, from) = rest.split_at(at);
        let (mark, behind) = from.split_at(length);
        parts.push((before, mark));
        rest = behind;
    }
    html! {
        @for (before, mark) in parts { (before) mark { (mark) } }
        (rest)
    }
}

fn chips(labels: &[(String, String)]) -> Markup {
    html! {
        span.labels { @for (name, value) in labels { span.label { b { (name) } "=" (value) } } }
    }
}

fn badge(alerts: &[AlertRow]) -> Markup {
    let firing = alerts.iter().filter(|alert| alert.state == "firing").count();
    html! { @if firing > 0 { (firing) " firing" } }
}

/// The list of alerts, worst first.
pub fn alert_list(alerts: &[AlertRow]) -> Markup {
    let firing = alerts.iter().filter(|alert| alert.state == "firing").count();
    html! {
        @if alerts.is_empty() { p.hint { "No alert is pending or firing." } }
        ul.alerts data-firing=(firing) {
            @for alert in alerts {
                li class=(format!("alert {}", alert.state)) {
                    span.state { (alert.state) }
                    @match address_of(&alert.link) {
                        Some(link) => { a href=(link) { strong { (alert.name) } } }
                        None => { strong { (alert.name) } }
                    }
                    " " span.value { (number(alert.value)) }
                    @if !alert.summary.is_empty() { p { (alert.summary) } }
                    (chips(&alert.labels))
                    p.since { "since " (clock_tag(alert.since_ns)) }
                }
            }
        }
    }
}

/// The link of an alert, if a browser may follow it. One to this host by its loopback address would lead readers elsewhere
/// to themselves: it becomes a path.
fn address_of(link: &str) -> Option<&str> {
    let rest = ["http://127.0.0.1", "http://localhost", "http://[::1]"].iter().find_map(|host| link.strip_prefix(host));
    if let Some(path) = rest.and_then(|rest| rest.get(rest.find('/')?..)).filter(|path| path.starts_with("/?query=")) {
        return Some(path);
    }
    (link.starts_with("http://") || link.starts_with("https://")).then_some(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searched_texts_are_highlighted() {
        let marks = |marks: &[&str]| marks.iter().map(|m| (*m).to_owned()).collect::<Vec<_>>();
        for (text, given, want) in [
            ("a timeout, a timeout", &["timeout"][..], "a <mark>timeout</mark>, a <mark>timeout</mark>"),
            ("<b>", &["b"], "&lt;<mark>b</mark>&gt;"),
            ("abc", &["b", "bc"], "a<mark>bc</mark>"),
            ("größe", &["ö"], "gr<mark>ö</mark>ße"),
            ("none", &["x"], "none"),
            ("none", &[], "none"),
        ] {
            assert_eq!(marked(text, &marks(given)).into_string(), want);
        }
    }

    #[test]
    fn links_of_alerts_lead_where_a_reader_can_follow() {
        for (link, want) in [
            ("http://127.0.0.1:3100/?query=x", Some("/?query=x")),
            ("http://localhost/?query=x", Some("/?query=x")),
            ("http://127.0.0.1:9000/wiki", Some("http://127.0.0.1:9000/wiki")),
            ("https://logs.example/?query=x", Some("https://logs.example/?query=x")),
            ("javascript:alert(1)", None),
            ("", None),
        ] {
            assert_eq!(address_of(link), want, "{link}");
        }
    }
}
