//! The page from outside: requests through the router, over an index in memory.

use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use millrace_log::clock::ManualClock;
use millrace_log::record::{Event, Labels, Position, SourceId};
use millrace_logql::Engine;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::*;
use crate::queries::{Capacity, Queries};
use millrace_index::logql::LogqlStorage;
use millrace_index::memory::MemoryStore;

/// 2026-03-01 12:00 UTC.
const NOW: i64 = 1_772_366_400_000_000_000;
const SECOND: i64 = 1_000_000_000;

struct Alerts(Vec<AlertRow>);

impl AlertList for Alerts {
    fn alerts(&self, tenant: &Tenant) -> Vec<AlertRow> {
        if *tenant == Tenant::default() { self.0.clone() } else { Vec::new() }
    }
}

struct Server {
    router: axum::Router,
    store: Arc<MemoryStore>,
}

fn server() -> Server {
    let store = Arc::new(MemoryStore::default());
    let alert = AlertRow {
        name: "ErrorBurst".to_owned(),
        state: "resolved".to_owned(),
        labels: vec![("region".to_owned(), "eu-west-1".to_owned())],
        value: 12.5,
        since_ns: NOW,
        summary: "checkout <fails>".to_owned(),
        link: "http://127.0.0.1:3100/?query=%7Ba%3D%22b%22%7D&from=x".to_owned(),
    };
    let state = PageState {
        store: store.clone(),
        engine: Arc::new(Engine::new(Arc::new(LogqlStorage(store.clone())))),
        alerts: Arc::new(Alerts(vec![alert])),
        clock: ManualClock::at_ns(NOW),
        queries: Queries::new(QueryLimits::default().into(), Capacity::of(4), CancellationToken::new()),
    };
    Server { router: router(state).open_for_tests(), store }
}

impl Server {
    fn put(&self, ago_s: i64, labels: &[(&str, &str)], line: &str) {
        let number = u64::try_from(ago_s).unwrap() * 1000 + line.len() as u64;
        self.store.put(
            "logs",
            [Event {
                tenant: Tenant::default(),
                time_ns: NOW - ago_s * SECOND,
                labels: Labels::new(labels.iter().copied()),
                metadata: Labels::default(),
                line: Bytes::from(line.to_owned()),
                source: SourceId([1; 16]),
                position: Position::at(number),
                doc: None,
                cut: false,
                time_from_line: true,
            }],
        );
    }

    async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> String {
        let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        let request = Request::get(format!("{path}?{query}")).body(Body::empty()).unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    async fn page(&self, parameters: &[(&str, &str)]) -> String {
        self.get("/", parameters).await
    }
}

/// Text between tags.
fn plain(html: &str) -> String {
    regex::Regex::new("<[^>]*>").unwrap().replace_all(html, "").into_owned()
}

#[tokio::test]
async fn labels_that_all_lines_share_stand_once_above_them() {
    let server = server();
    for (ago, host) in [(10, "h1"), (20, "h2"), (30, "h1")] {
        server.put(ago, &[("service", "checkout"), ("env", "prod"), ("host", host)], "a line");
    }
    let page = server.page(&[("query", r#"{service="checkout"}"#)]).await;
    assert_eq!(page.matches("<b>service</b>=checkout").count(), 1, "{page}");
    assert_eq!(page.matches("<b>env</b>=prod").count(), 1, "{page}");
    assert_eq!(page.matches("<b>host</b>=h1").count(), 2, "{page}");
    assert!(page.contains("Labels of all lines"), "{page}");
    assert!(page.contains("Times are <span id=\"zone-name\">UTC</span>"), "{page}");
    // One line: all its labels are above.
    let page = server.page(&[("query", r#"{host="h2"}"#)]).await;
    assert!(plain(&page).contains("1 line ·"), "{page}");
    assert_eq!(page.matches("<b>host</b>=h2").count(), 1, "{page}");
}

#[tokio::test]
async fn the_newest_lines_are_shown_with_how_many_there_are() {
    let server = server();
    for n in 0..1234 {
        server.put(n + 1, &[("app", "a")], &format!("line {n}"));
    }
    let page = server.page(&[("query", r#"{app="a"}"#)]).await;
    assert!(plain(&page).contains("Newest 200 of 1,234 lines"), "{page}");
    assert!(page.contains(">line 199<") && !page.contains(">line 200<"), "{page}");
    let page = plain(&server.page(&[("query", r#"{app="a"}"#), ("limit", "2000")]).await);
    assert!(page.contains("1,234 lines, newest first"), "{page}");
    // The count is that of the range: lines at its end are not in it, lines at its start are.
    let exact = [("query", r#"{app="a"}"#), ("from", "2026-03-01T11:58:20Z"), ("to", "2026-03-01T11:59:20Z")];
    let page = server.page(&exact).await;
    assert!(plain(&page).contains("60 lines, newest first"), "{page}");
    assert!(page.contains(">line 99<") && page.contains(">line 40<") && !page.contains(">line 39<"), "{page}");
}

#[tokio::test]
async fn the_link_of_an_alert_shows_its_lines_long_after_it_is_over() {
    let server = server();
    server.put(7 * 86_400, &[("service", "checkout"), ("level", "error")], "payment failed");
    server.put(7 * 86_400, &[("service", "search"), ("level", "error")], "no index");
    server.put(5, &[("service", "checkout"), ("level", "error")], "today");
    let page = server
        .page(&[
            ("query", r#"{level="error"} | service="checkout""#),
            ("from", "2026-02-22T11:55:00.000Z"),
            ("to", "2026-02-22T12:00:00.001Z"),
            ("alert", "ErrorBurst"),
        ])
        .await;
    assert!(page.contains("payment failed") && !page.contains("no index") && !page.contains(">today<"), "{page}");
    assert!(
        plain(&page).contains("From the alert ErrorBurst") && plain(&page).contains("It is resolved since"),
        "{page}"
    );
    assert!(page.contains(r#"value="2026-02-22 11:55:00""#), "{page}");
    // The list of alerts leads to the same, on whatever address this page is read.
    assert!(page.contains(r#"<a href="/?query=%7Ba%3D%22b%22%7D&amp;from=x""#), "{page}");
    assert!(page.contains("checkout &lt;fails&gt;") && page.contains("12.500"), "{page}");
}

#[tokio::test]
async fn words_find_lines_of_all_streams() {
    let server = server();
    server.put(5, &[("app", "a")], "connection refused <by> peer");
    server.put(6, &[("service", "b")], "the connection refused to open");
    server.put(7, &[("service", "b")], "refused connection");
    server.put(8, &[], "without labels: connection refused");
    let page = server.page(&[("query", "connection refused")]).await;
    assert_eq!(page.matches("<mark>connection refused</mark>").count(), 3, "{page}");
    assert!(page.contains("{} |= &quot;connection refused&quot;"), "{page}");
    assert!(plain(&page).contains("3 lines, newest first"), "{page}");
    assert!(page.contains("&lt;by&gt;"), "{page}");
    let tail = server.get("/logql", &[("query", "connection refused")]).await;
    assert_eq!(tail, r#"{"query":"{} |= \"connection refused\"","marks":["connection refused"]}"#);
}

#[tokio::test]
async fn a_metric_query_leads_to_its_lines() {
    let server = server();
    for n in 0..10 {
        server.put(n + 1, &[("app", "a")], &format!("error {n}"));
    }
    let query = r#"sum by (app) (count_over_time({app="a"} |= "error" [5m])) > 0"#;
    let page = server.page(&[("query", query), ("range", "5m")]).await;
    assert!(page.contains("show the lines of this metric query"), "{page}");
    assert!(
        page.contains("/?query=%7Bapp%3D%22a%22%7D+%7C%3D+%22error%22&amp;from=2026-03-01T11%3A50%3A00.000Z"),
        "{page}"
    );
    assert!(plain(&page).contains("app=a10"), "the last value: {page}");
}

#[tokio::test]
async fn what_is_wrong_is_said_on_the_page() {
    let server = server();
    for (parameters, want) in [
        (vec![("query", r#"{service="writer""#)], "expected"),
        (vec![("query", r#"{a="b"}"#), ("from", "yesterday")], "invalid time `yesterday`"),
    ] {
        let page = server.page(&parameters).await;
        assert!(page.contains(r#"class="error""#) && page.contains(want), "{page}");
        assert!(!page.contains("Nothing found"), "{page}");
    }
    let page = server.page(&[("query", r#"{a="<script>"}"#)]).await;
    assert!(page.contains("Nothing found") && !page.contains("<script>\""), "{page}");
    let tail = server.get("/logql", &[("query", r#"sum(rate({a="b"}[1m]))"#)]).await;
    assert!(tail.contains("live tail follows lines"), "{tail}");
}

#[tokio::test]
async fn live_tail_starts_without_old_lines_and_keeps_the_query() {
    let server = server();
    server.put(5, &[("app", "a")], "an old line");
    let page = server.page(&[("query", r#"{app="a"}"#), ("tail", "1")]).await;
    assert!(page.contains(r#"value="{app=&quot;a&quot;}""#), "{page}");
    assert!(!page.contains("an old line") && !page.contains("<figure"), "{page}");
}

#[tokio::test]
async fn somebody_with_a_forced_selector_sees_no_other_stream_and_no_other_alert() {
    use millrace_doors::identity::{Identity, Rights, Role, Tenants};
    let server = server();
    server.put(10, &[("region", "eu-west-1")], "own line");
    server.put(20, &[("region", "us-east-1")], "classified line");
    let ask = async |path: &str, selector: &str, tenant: &str| {
        let rights = Rights { roles: [Role::Read].into(), tenants: Tenants::All, selector: Some(selector.into()) };
        let mut request = Request::get(path).body(Body::empty()).unwrap();
        request.extensions_mut().insert(Identity { name: "x".into(), rights });
        request.extensions_mut().insert(Tenant::new(tenant).unwrap());
        let answer = server.router.clone().oneshot(request).await.unwrap();
        String::from_utf8(axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap().to_vec()).unwrap()
    };
    let page = ask("/?query=line", r#"{region="eu-west-1"}"#, "default").await;
    assert!(page.contains("own") && !page.contains("classified"), "{page}");
    for (selector, tenant, want) in [
        (r#"{region="eu-west-1"}"#, "default", true),
        (r#"{region="us-east-1"}"#, "default", false),
        (r#"{region="eu-west-1"}"#, "other", false),
    ] {
        let alerts = ask("/alerts", selector, tenant).await;
        assert_eq!(alerts.contains("ErrorBurst"), want, "{selector} {tenant}: {alerts}");
    }
}
