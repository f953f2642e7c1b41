//! The notifier as a whole: waits, repetition, restarts, retries; times as recorded from Alertmanager 0.25.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use millrace_log::alert::{AlertSink as _, NewAlert, SinkError};
use millrace_log::clock::SystemClock;
use millrace_notify::integration::Outcome;
use millrace_notify::{Inbox, Notifier, NotifyConfig};
use prometheus_client::registry::Registry;
use support::*;
use tower::ServiceExt;
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

const ROUTE: &str = "group_by: [alertname], group_wait: 500ms, group_interval: 1s, repeat_interval: 1h";

/// Posts at their times (seconds, alert), runs until `end`, gives the pages.
async fn pages(route: &str, posts: Vec<(f64, NewAlert)>, end: f64) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let clock = TokioClock::shared();
    let pager = Pager::new(&clock);
    let notifier = open(folder.path(), route, &pager);
    let running = Running::start(|token| notifier.clone().run(token));
    for (at, alert) in posts {
        until(&clock, at).await;
        notifier.take(vec![alert]).await.unwrap();
    }
    until(&clock, end).await;
    running.stop().await;
    pager.pages()
}

fn a(n: &str) -> NewAlert {
    alert(&[("alertname", "A"), ("n", n)])
}

fn starts(mut alert: NewAlert, secs: i64) -> NewAlert {
    alert.starts_at_ns = Some(T0 + secs * SECOND);
    alert
}

fn ends(mut alert: NewAlert, tenths: i64) -> NewAlert {
    alert.ends_at_ns = Some(T0 + tenths * SECOND / 10);
    alert
}

#[tokio::test(start_paused = true)]
async fn a_group_collects_then_is_looked_at_every_interval() {
    let route = "group_by: [alertname], group_wait: 500ms, group_interval: 1500ms, repeat_interval: 1h";
    assert_eq!(pages(route, vec![(0.0, a("1")), (1.2, a("2"))], 4.2).await, ["0.5 A1!", "2.0 A1! A2!"]);
    let route = "group_by: [alertname], group_wait: 0s, group_interval: 1500ms, repeat_interval: 1h";
    assert_eq!(pages(route, vec![(0.0, a("1")), (0.7, a("2"))], 2.6).await, ["0.0 A1!", "1.5 A1! A2!"]);
}

#[tokio::test(start_paused = true)]
async fn an_alert_that_began_long_ago_is_told_at_once() {
    let route = "group_by: [alertname], group_wait: 2s, group_interval: 1s, repeat_interval: 1h";
    let posts =
        vec![(0.0, starts(alert(&[("alertname", "Old")]), -30)), (0.0, starts(alert(&[("alertname", "New")]), 0))];
    assert_eq!(pages(route, posts, 3.0).await, ["0.0 Old!", "2.0 New!"]);
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_group_is_repeated() {
    let route = "group_by: [alertname], group_wait: 500ms, group_interval: 500ms, repeat_interval: 1700ms";
    let got = pages(route, vec![(0.0, starts(a("1"), -2))], 5.2).await;
    assert_eq!(got, ["0.0 A1!", "2.0 A1!", "4.0 A1!"]);
}

#[tokio::test(start_paused = true)]
async fn ends_are_told_once_and_a_new_beginning_again() {
    let posts = vec![(0.0, a("1")), (1.0, ends(a("1"), 9)), (2.05, starts(a("1"), 2))];
    assert_eq!(pages(ROUTE, posts, 4.0).await, ["0.5 A1!", "1.5 A1.", "2.5 A1!"]);
    // Fired and over within the wait, or never heard of: nothing.
    assert_eq!(pages(ROUTE, vec![(0.0, a("1")), (0.3, ends(a("1"), 2))], 3.0).await, [""; 0]);
    assert_eq!(pages(ROUTE, vec![(0.0, ends(a("1"), -10))], 3.0).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_alert_without_an_end_is_over_when_nobody_reports_it() {
    let folder = tempfile::tempdir().unwrap();
    let clock = TokioClock::shared();
    let pager = Pager::new(&clock);
    let notifier = open(folder.path(), ROUTE, &pager);
    let running = Running::start(|token| notifier.clone().run(token));
    notifier.take(vec![a("1")]).await.unwrap();
    until(&clock, 200.0).await;
    notifier.take(vec![a("1")]).await.unwrap();
    until(&clock, 499.0).await;
    assert_eq!((pager.pages(), notifier.alerts(|_| true).len()), (vec!["0.5 A1!".to_owned()], 1));
    until(&clock, 502.0).await;
    assert_eq!((pager.pages().len(), notifier.alerts(|_| true).len()), (2, 0));
    assert!(pager.pages()[1].ends_with("A1."));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn group_by_dots_makes_each_alert_a_group() {
    let route = "group_by: ['...'], group_wait: 0s, group_interval: 1s";
    let mut got = pages(route, vec![(0.0, a("1")), (0.0, a("2"))], 2.0).await;
    got.sort();
    assert_eq!(got, ["0.0 A1!", "0.0 A2!"]);
}

#[tokio::test(start_paused = true)]
async fn a_kill_neither_doubles_nor_swallows_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let clock = TokioClock::shared();
    let pager = Pager::new(&clock);
    let notifier = open(folder.path(), ROUTE, &pager);
    let running = Running::start(|token| notifier.clone().run(token));
    notifier.take(vec![a("1")]).await.unwrap();
    until(&clock, 1.2).await;
    // Told: A. Taken but not told yet: B, within its wait.
    notifier.take(vec![alert(&[("alertname", "B")])]).await.unwrap();
    running.kill().await;
    drop(notifier);

    until(&clock, 2.0).await;
    let notifier = open(folder.path(), ROUTE, &pager);
    let running = Running::start(|token| notifier.clone().run(token));
    until(&clock, 10.0).await;
    let got = pager.pages();
    assert_eq!(got.len(), 2, "{got:?}");
    assert!(got[0] == "0.5 A1!" && got[1].ends_with("B!"), "{got:?}");

    // Down for longer than `resolve_timeout`: nobody could report, so nothing is over.
    running.kill().await;
    drop(notifier);
    until(&clock, 1000.0).await;
    let notifier = open(folder.path(), ROUTE, &pager);
    let running = Running::start(|token| notifier.clone().run(token));
    until(&clock, 1100.0).await;
    assert_eq!(pager.pages().len(), 2);
    // The end comes after the restart, is told once, and not again after another one.
    notifier.take(vec![ends(a("1"), 10_995)]).await.unwrap();
    until(&clock, 1105.0).await;
    running.kill().await;
    drop(notifier);
    let notifier = open(folder.path(), ROUTE, &pager);
    let running = Running::start(|token| notifier.clone().run(token));
    until(&clock, 1120.0).await;
    assert_eq!(pager.pages().iter().filter(|p| p.ends_with("A1.")).count(), 1, "{:?}", pager.pages());
    assert_eq!(notifier.alerts(|_| true).len(), 1);
    running.stop().await;
}

/// Slots are given out in turns: the other alert is not behind thousands of groups.
#[tokio::test(start_paused = true)]
async fn a_flood_of_one_alert_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let clock = TokioClock::shared();
    let pager = Pager::new(&clock);
    let route = "group_by: [alertname, n], group_wait: 500ms, group_interval: 1h, repeat_interval: 1d";
    let notifier = open(folder.path(), route, &pager);
    let flood: Vec<NewAlert> = (0..2000).map(|n| a(&n.to_string())).collect();
    notifier.take(flood).await.unwrap();
    notifier.take(vec![alert(&[("alertname", "Z"), ("n", "0")])]).await.unwrap();
    let running = Running::start(|token| notifier.clone().run(token));
    until(&clock, 60.0).await;
    running.stop().await;
    let pages = pager.pages();
    let place = pages.iter().position(|page| page.contains("Z0!")).unwrap();
    assert!(pages.len() == 2001 && place < 300, "{place} of {}", pages.len());
}

#[tokio::test(start_paused = true)]
async fn a_dead_receiver_is_tried_until_it_lives_and_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let clock = TokioClock::shared();
    let pager = Pager::new(&clock);
    let again = Outcome::Again { reason: "connection refused".into() };
    *pager.script.lock() = vec![again; 40];
    let notifier = open(folder.path(), ROUTE, &pager);
    let running = Running::start(|token| notifier.clone().run(token));
    notifier.take(vec![a("1")]).await.unwrap();
    until(&clock, 280.0).await;
    assert_eq!(pager.pages().len(), 1, "{:?}", pager.pages());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_message_is_tried_at_the_next_turn_only() {
    let folder = tempfile::tempdir().unwrap();
    let clock = TokioClock::shared();
    let pager = Pager::new(&clock);
    *pager.script.lock() = vec![Outcome::Refused { reason: "400".into() }];
    let notifier = open(folder.path(), ROUTE, &pager);
    let running = Running::start(|token| notifier.clone().run(token));
    notifier.take(vec![a("1")]).await.unwrap();
    until(&clock, 3.0).await;
    assert_eq!(pager.pages(), ["1.5 A1!"]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_wants_no_resolved_alerts_gets_none() {
    let folder = tempfile::tempdir().unwrap();
    let clock = TokioClock::shared();
    let pager = Pager { resolved: false, ..Pager::new(&clock) };
    let notifier = open(folder.path(), ROUTE, &pager);
    let running = Running::start(|token| notifier.clone().run(token));
    notifier.take(vec![a("1"), a("2"), alert(&[("alertname", "B")])]).await.unwrap();
    until(&clock, 1.0).await;
    notifier.take(vec![ends(a("1"), 9), ends(alert(&[("alertname", "B")]), 9)]).await.unwrap();
    until(&clock, 2.0).await;
    notifier.take(vec![a("3")]).await.unwrap();
    until(&clock, 4.0).await;
    running.stop().await;
    let mut got = pager.pages();
    got.sort();
    assert_eq!(got, ["0.5 A1! A2!", "0.5 B!", "2.5 A2! A3!"]);
}

#[tokio::test(start_paused = true)]
async fn too_many_alerts_are_refused_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let clock = TokioClock::shared();
    let config = NotifyConfig { max_alerts: 1, ..NotifyConfig::default() };
    let notifier =
        Notifier::open_with(config, routing(ROUTE), Vec::new(), folder.path(), clock, &mut Registry::default())
            .unwrap();
    let error = notifier.take(vec![a("1"), a("2"), a("1")]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "notifier holds 1 alerts and takes new ones up to 1 (`notify.max_alerts`; of reports by the API three quarters of it): \
         1 alerts were refused"
    );
    assert_eq!(notifier.alerts(|_| true).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flood_by_the_api_leaves_room_for_rules() {
    let folder = tempfile::tempdir().unwrap();
    let clock = TokioClock::shared();
    let config = NotifyConfig { max_alerts: 8, ..NotifyConfig::default() };
    let notifier =
        Notifier::open_with(config, routing(ROUTE), Vec::new(), folder.path(), clock, &mut Registry::default())
            .unwrap();
    let numbered =
        |name: &str| (0..9).map(|n| alert(&[("alertname", name), ("n", &n.to_string())])).collect::<Vec<_>>();
    let refused = |error: SinkError| match error {
        SinkError::Full { held, max, refused } => (held, max, refused),
        error => panic!("{error}"),
    };
    assert_eq!(refused(notifier.take(numbered("Flood")).await.unwrap_err()), (6, 6, 3));
    let rules = Inbox(notifier.clone());
    rules.send(vec![alert(&[("alertname", "Rule")])]).await.unwrap();
    assert_eq!(refused(rules.send(numbered("Rules")).await.unwrap_err()), (8, 8, 8));
    notifier.take(vec![alert(&[("alertname", "Flood"), ("n", "0")])]).await.unwrap();
}

// ---- by HTTP, in real time ----

async fn open_http(folder: &std::path::Path, hook: &str, more: &str) -> Arc<Notifier> {
    let file = folder.join("alertmanager.yml");
    let text = format!(
        "route: {{receiver: a, group_wait: 0s, group_interval: 100ms, group_by: [alertname]}}\n\
         receivers: [{{name: a, webhook_configs: [{{url: '{hook}', {more}}}]}}]\n"
    );
    std::fs::write(&file, text).unwrap();
    let config = NotifyConfig { config_file: Some(file), external_url: "http://am/".into(), ..NotifyConfig::default() };
    // reqwest is built without a crypto provider of its own; plain HTTP needs none, but the client wants to see one.
    rustls::crypto::ring::default_provider().install_default().ok();
    let outgoing = millrace_log::outgoing::Outgoing::default();
    Notifier::open(config, folder, SystemClock::shared(), &outgoing, &mut Registry::default()).unwrap()
}

async fn wait_for(what: &str, mut good: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !good().await {
        assert!(std::time::Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_webhook_gets_the_payload_after_a_500() {
    let server = MockServer::start().await;
    Mock::given(path("/hook")).respond_with(ResponseTemplate::new(500)).up_to_n_times(1).mount(&server).await;
    Mock::given(method("POST"))
        .and(path("/hook"))
        .and(header("content-type", "application/json"))
        .and(header("authorization", "Basic dTpw"))
        .respond_with(ResponseTemplate::new(200))
        .mount(&server)
        .await;
    let folder = tempfile::tempdir().unwrap();
    let auth = "http_config: {basic_auth: {username: u, password: p}}";
    let notifier = open_http(folder.path(), &format!("{}/hook", server.uri()), auth).await;
    let running = Running::start(|token| notifier.clone().run(token));
    // 2020-01-01
    notifier.take(vec![starts(a("<1>"), -315_619_200)]).await.unwrap();
    wait_for("second attempt", async || server.received_requests().await.unwrap().len() >= 2).await;
    running.stop().await;
    let requests = server.received_requests().await.unwrap();
    assert_eq!(requests.len(), 2);
    let want = concat!(
        r#"{"receiver":"a","status":"firing","alerts":[{"status":"firing","labels":{"alertname":"A","n":"\u003c1\u003e"},"#,
        r#""annotations":{},"startsAt":"2020-01-01T00:00:00Z","endsAt":"0001-01-01T00:00:00Z","generatorURL":"","#,
        r#""fingerprint":"FP"}],"groupLabels":{"alertname":"A"},"commonLabels":{"alertname":"A","n":"\u003c1\u003e"},"#,
        r#""commonAnnotations":{},"externalURL":"http://am","version":"4","groupKey":"{}:{alertname=\"A\"}","#,
        r#""truncatedAlerts":0}"#,
        "\n"
    );
    let fingerprint = millrace_log::alert::Fingerprint::of(&a("<1>").labels).to_string();
    assert_eq!(String::from_utf8_lossy(&requests[1].body), want.replace("FP", &fingerprint));
    assert_eq!(requests[0].body, requests[1].body);
}

#[tokio::test]
async fn a_400_is_not_tried_again_before_the_next_turn() {
    let server = MockServer::start().await;
    Mock::given(path("/hook")).respond_with(ResponseTemplate::new(400)).up_to_n_times(1).mount(&server).await;
    Mock::given(path("/hook")).respond_with(ResponseTemplate::new(204)).mount(&server).await;
    let folder = tempfile::tempdir().unwrap();
    let notifier = open_http(folder.path(), &format!("{}/hook", server.uri()), "").await;
    let running = Running::start(|token| notifier.clone().run(token));
    notifier.take(vec![a("1")]).await.unwrap();
    wait_for("next turn", async || server.received_requests().await.unwrap().len() >= 2).await;
    running.stop().await;
    assert_eq!(server.received_requests().await.unwrap().len(), 2);
}

#[tokio::test]
async fn another_file_takes_over_and_a_faulty_one_does_not() {
    let server = MockServer::start().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    let folder = tempfile::tempdir().unwrap();
    let notifier = open_http(folder.path(), &format!("{}/first", server.uri()), "").await;
    let running = Running::start(|token| notifier.clone().run(token));
    notifier.take(vec![a("1")]).await.unwrap();
    wait_for("first page", async || server.received_requests().await.unwrap().len() == 1).await;
    let file = folder.path().join("alertmanager.yml");
    std::fs::write(&file, "route: {receiver: nobody}\n").unwrap();
    assert!(notifier.reload().unwrap_err().to_string().contains("unknown receiver `nobody`"));
    let text = format!(
        "route: {{receiver: a, group_wait: 0s, group_interval: 100ms, group_by: [alertname]}}\n\
         receivers: [{{name: a, webhook_configs: [{{url: '{}/second'}}]}}]\n",
        server.uri()
    );
    std::fs::write(&file, text).unwrap();
    notifier.reload().unwrap();
    // What the group was told is known: only what is new goes out, to the new address.
    notifier.take(vec![a("2")]).await.unwrap();
    wait_for("second page", async || server.received_requests().await.unwrap().len() == 2).await;
    running.stop().await;
    let paths: Vec<String> =
        server.received_requests().await.unwrap().iter().map(|r| r.url.path().to_owned()).collect();
    assert_eq!(paths, ["/first", "/second"]);
}

async fn ask(notifier: &Arc<Notifier>, request: Request<Body>) -> (StatusCode, serde_json::Value) {
    let answer = notifier.router().open_for_tests().oneshot(request).await.unwrap();
    let status = answer.status();
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(serde_json::Value::Null))
}

fn post(body: &str) -> Request<Body> {
    Request::post("/api/v2/alerts").header("content-type", "application/json").body(body.to_owned().into()).unwrap()
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn the_api_answers_as_alertmanager_does() {
    let folder = tempfile::tempdir().unwrap();
    let clock: millrace_log::clock::SharedClock = millrace_log::clock::ManualClock::at_ns(T0);
    let pager = Pager::new(&clock);
    let notifier = open(folder.path(), ROUTE, &pager);
    for (body, status, want) in [
        (r#"[{"labels":{}}]"#, 400, serde_json::json!("at least one label pair required")),
        (r#"[{"labels":{"bad-name":"x"}}]"#, 400, serde_json::json!("invalid label set: invalid name \"bad-name\"")),
        (
            r#"[{"labels":{"a":"b"},"startsAt":"2030-01-01T00:00:20Z","endsAt":"2030-01-01T00:00:10Z"}]"#,
            400,
            serde_json::json!("start time must be before end time"),
        ),
        (
            r#"[{"labels":{"alertname":"Good"}},{"labels":{"1x":"y"}},{"labels":{"x y":"z"}}]"#,
            400,
            serde_json::json!("invalid label set: invalid name \"1x\"; invalid label set: invalid name \"x y\""),
        ),
        ("[]", 200, serde_json::Value::Null),
    ] {
        let (got, text) = ask(&notifier, post(body)).await;
        assert_eq!((got.as_u16(), text), (status, want), "{body}");
    }
    for (body, status, code) in [
        ("[", 400, 400),
        (r#"{"labels":{"a":"b"}}"#, 400, 400),
        (r#"[{"labels":{"a":1}}]"#, 400, 400),
        (r#"[{"annotations":{"a":"b"}}]"#, 422, 602),
        (r#"[{"labels":{"a":"b"},"startsAt":"now"}]"#, 400, 400),
        (r#"[{"labels":{"a":"b"},"generatorURL":"not a url"}]"#, 422, 601),
        ("", 422, 602),
    ] {
        let (got, error) = ask(&notifier, post(body)).await;
        assert_eq!((got.as_u16(), error["code"].as_u64()), (status, Some(code)), "{body}");
    }
    let (_, alerts) = ask(&notifier, get("/api/v2/alerts")).await;
    insta::assert_json_snapshot!(alerts);
    let (_, groups) = ask(&notifier, get("/api/v2/alerts/groups?filter=alertname%3DGood")).await;
    assert_eq!(groups[0]["labels"], serde_json::json!({"alertname": "Good"}));
    let (_, none) = ask(&notifier, get("/api/v2/alerts?filter=alertname!=Good")).await;
    assert_eq!(none, serde_json::json!([]));
    let (status, _) = ask(&notifier, get("/api/v2/alerts?filter=bad-name")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (_, receivers) = ask(&notifier, get("/api/v2/receivers")).await;
    assert_eq!(receivers, serde_json::json!([{"name": "a"}, {"name": "b"}]));
    let (_, status) = ask(&notifier, get("/api/v2/status")).await;
    assert_eq!(
        (&status["cluster"]["status"], &status["uptime"]),
        (&"disabled".into(), &"2030-01-01T00:00:00.000Z".into())
    );
    for (request, want) in [
        (get("/-/ready"), 200),
        (get("/-/healthy"), 200),
        (get("/api/v2/nowhere"), 404),
        (Request::delete("/api/v2/alerts").body(Body::empty()).unwrap(), 405),
    ] {
        assert_eq!(ask(&notifier, request).await.0.as_u16(), want);
    }
    assert_eq!(clock.now_ns(), T0);
}
