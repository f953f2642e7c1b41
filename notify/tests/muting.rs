//! What keeps notifications back, and which receivers they reach: routes, time intervals, silences, inhibition; over restarts.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod support;

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use millrace_doors::identity::{Identity, Rights};
use millrace_log::alert::NewAlert;
use millrace_log::clock::SharedClock;
use millrace_notify::{Notifier, NotifyConfig};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use support::*;
use tower::ServiceExt;

const TIMES: &str = "group_by: [alertname], group_wait: 500ms, group_interval: 1s, repeat_interval: 1h";

fn named(name: &str, pairs: &[(&str, &str)]) -> NewAlert {
    let mut alert = alert(pairs);
    alert.labels.insert("alertname".into(), name.into());
    alert
}

/// Pages as `at receiver names`.
fn pages(pager: &Pager) -> Vec<String> {
    let receivers: Vec<String> = pager.got.lock().iter().map(|(_, message)| message.receiver.clone()).collect();
    let texts = pager.pages();
    texts.iter().zip(receivers).map(|(text, receiver)| format!("{receiver} {text}")).collect()
}

async fn ask(notifier: &Arc<Notifier>, method: &str, path: &str, body: Value) -> (u16, Value) {
    ask_as(&Identity::unlimited("kim"), notifier, method, path, body).await
}

async fn ask_as(who: &Identity, notifier: &Arc<Notifier>, method: &str, path: &str, body: Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    let request = request.extension(who.clone());
    let answer = notifier.router().open_for_tests().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn at(secs: i64) -> String {
    millrace_log::go::time_ms(T0 + secs * SECOND)
}

fn silence(id: &str, name: &str, value: &str, from: i64, to: i64) -> Value {
    json!({
        "id": id, "matchers": [{"name": name, "value": value, "isRegex": false}], "startsAt": at(from), "endsAt": at(to),
        "createdBy": "kim", "comment": "planned",
    })
}

fn start(folder: &Path, clock: &SharedClock, route: &str) -> (Arc<Notifier>, Pager) {
    let pager = Pager::new(clock);
    (open(folder, route, &pager), pager)
}

#[tokio::test(start_paused = true)]
async fn alerts_take_every_route_that_matches_and_leave_each_when_it_knows() {
    let folder = tempfile::tempdir().unwrap();
    let clock = TokioClock::shared();
    let route = format!(
        "{TIMES}, routes: [{{matchers: [team=x], receiver: b, continue: true, group_interval: 10s}}, {{matchers: [team=x]}}]"
    );
    let (notifier, pager) = start(folder.path(), &clock, &route);
    let running = Running::start(|token| notifier.clone().run(token));
    notifier.take(vec![named("X", &[("team", "x")]), named("Y", &[])]).await.unwrap();
    until(&clock, 1.0).await;
    let mut over = named("X", &[("team", "x")]);
    over.ends_at_ns = Some(T0 + SECOND / 2);
    notifier.take(vec![over]).await.unwrap();
    until(&clock, 5.0).await;
    assert_eq!(notifier.alerts(|view| view.receivers == ["b", "a"]).len(), 0, "over, though b does not know");
    until(&clock, 12.0).await;
    running.stop().await;
    let mut got = pages(&pager);
    got.sort();
    assert_eq!(got, ["a 0.5 X!", "a 0.5 Y!", "a 1.5 X.", "b 0.5 X!", "b 10.5 X."]);
    let keys: Vec<String> = pager.got.lock().iter().map(|(_, message)| message.group_key.clone()).collect();
    assert!(keys.contains(&r#"{}/{team="x"}:{alertname="X"}"#.to_owned()), "{keys:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silence_mutes_until_it_ends_also_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let clock = TokioClock::shared();
    let (notifier, pager) = start(folder.path(), &clock, TIMES);
    let (status, answer) = ask(&notifier, "POST", "/api/v2/silences", silence("", "team", "x", -5, 20)).await;
    assert_eq!(status, 200, "{answer}");
    let id = answer["silenceID"].as_str().unwrap().to_owned();
    let running = Running::start(|token| notifier.clone().run(token));
    notifier.take(vec![named("X", &[("team", "x")]), named("X", &[("team", "y"), ("n", "1")])]).await.unwrap();
    until(&clock, 3.0).await;
    running.kill().await;
    drop(notifier);
    let notifier = open(folder.path(), TIMES, &pager);
    let running = Running::start(|token| notifier.clone().run(token));
    until(&clock, 10.0).await;
    assert_eq!(pages(&pager), ["a 0.5 X1!"]);
    let status = |alerts: &Value| alerts[0]["status"].clone();
    let (_, alerts) = ask(&notifier, "GET", "/api/v2/alerts?filter=team=x", Value::Null).await;
    assert_eq!(status(&alerts), json!({"inhibitedBy": [], "silencedBy": [id], "state": "suppressed"}));
    for (query, want) in [("silenced=false", 1), ("active=false", 1), ("inhibited=false", 2), ("receiver=b", 0)] {
        for path in ["alerts", "alerts/groups"] {
            let (_, found) = ask(&notifier, "GET", &format!("/api/v2/{path}?{query}"), Value::Null).await;
            let count = match path {
                "alerts" => found.as_array().unwrap().len(),
                _ => found.as_array().unwrap().iter().map(|group| group["alerts"].as_array().unwrap().len()).sum(),
            };
            assert_eq!(count, want, "{path} {query}: {found}");
        }
    }
    until(&clock, 22.0).await;
    let got = pages(&pager);
    assert!(got.len() == 2 && got[1].ends_with("X! X1!"), "{got:?}");
    running.stop().await;
}

#[tokio::test]
async fn who_is_limited_to_some_alerts_silences_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let clock = TokioClock::shared();
    let (notifier, _pager) = start(folder.path(), &clock, TIMES);
    let rights = Rights { selector: Some(r#"{team="pay"}"#.into()), ..Rights::all() };
    let pay = Identity { rights, ..Identity::unlimited("pay-team") };
    let path = "/api/v2/silences";
    let (_, answer) = ask(&notifier, "POST", path, silence("", "team", "ops", -5, 20)).await;
    let of_ops = answer["silenceID"].as_str().unwrap().to_owned();
    let mut any = silence("", "team", ".*y", -5, 20);
    any["matchers"][0]["isRegex"] = true.into();
    for (body, want) in [
        (silence("", "team", "ops", -5, 20), 403),
        (silence("", "alertname", "A", -5, 20), 403),
        (any, 403),
        (silence(&of_ops, "team", "pay", -5, 20), 404),
    ] {
        let (status, answer) = ask_as(&pay, &notifier, "POST", path, body).await;
        assert_eq!(status, want, "{answer}");
        assert!(status == 404 || answer.as_str().unwrap().contains(r#"limited to {team="pay"}"#), "{answer}");
    }
    let (status, answer) = ask_as(&pay, &notifier, "POST", path, silence("", "team", "pay", -5, 20)).await;
    assert_eq!(status, 200, "{answer}");
    let own = answer["silenceID"].as_str().unwrap().to_owned();
    for (id, want) in [(&of_ops, 500), (&own, 200)] {
        assert_eq!(ask_as(&pay, &notifier, "DELETE", &format!("/api/v2/silence/{id}"), Value::Null).await.0, want);
    }
    let (_, kept) = ask(&notifier, "GET", &format!("/api/v2/silence/{of_ops}"), Value::Null).await;
    assert_eq!((&kept["status"]["state"], &kept["endsAt"]), (&json!("active"), &json!(at(20))));
}

#[tokio::test(start_paused = true)]
async fn silences_are_changed_ended_listed_and_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let clock = TokioClock::shared();
    let config = NotifyConfig { max_silences: 4, ..NotifyConfig::default() };
    let open = |clock: &SharedClock| {
        once_free(|| {
            let (config, clock) = (config.clone(), clock.clone());
            Notifier::open_with(config, routing(TIMES), Vec::new(), folder.path(), clock, &mut Registry::default())
        })
    };
    let notifier = open(&clock);
    let post = async |silence: Value| {
        let (status, answer) = ask(&notifier, "POST", "/api/v2/silences", silence).await;
        let text = answer["silenceID"].as_str().or(answer.as_str()).unwrap_or_default().to_owned();
        (status, text)
    };
    let (_, active) = post(silence("", "a", "1", 0, 100)).await;
    let (_, pending) = post(silence("", "a", "2", 50, 100)).await;
    assert_eq!(post(silence(&active, "a", "1", 0, 200)).await, (200, active.clone()), "in place");
    let (_, replaced) = post(silence(&active, "a", "3", 0, 200)).await;
    assert_ne!(replaced, active);
    let list = async |query: &str| {
        let (_, found) = ask(&notifier, "GET", &format!("/api/v2/silences{query}"), Value::Null).await;
        let state = |silence: &Value| format!("{} {}", silence["matchers"][0]["value"], silence["status"]["state"]);
        found.as_array().unwrap().iter().map(state).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(list("").await, r#""3" "active", "2" "pending", "1" "expired""#);
    assert_eq!(list("?filter=a=2").await, r#""2" "pending""#);
    assert_eq!(list("?filter=a=~2").await, "");
    let delete = async |id: &str| ask(&notifier, "DELETE", &format!("/api/v2/silence/{id}"), Value::Null).await;
    assert_eq!(delete(&pending).await.0, 200);
    assert_eq!(delete(&pending).await.0, 200, "over already");
    assert_eq!(delete(&millrace_notify::silence::Silence::new_id()).await, (500, json!("silence not found")));
    assert_eq!(delete("nonsense").await.0, 422);
    assert_eq!(post(silence("", "a", "4", 0, 9)).await.0, 200);
    let (status, text) = post(silence("", "a", "5", 0, 9)).await;
    assert_eq!((status, text.contains("notify.max_silences")), (429, true), "{text}");
    let huge = json!({"matchers": [{"name": "a", "value": "(a{1000}){1000}", "isRegex": true}], "createdBy": "x", "comment": "x",
        "startsAt": at(0), "endsAt": at(9)});
    assert_eq!(post(huge).await.0, 400);
    // Kept for five days after their end; then gone, and not found after a restart.
    let running = Running::start(|token| notifier.clone().run(token));
    until(&clock, 210.0).await;
    assert_eq!(list("").await.matches("expired").count(), 4);
    until(&clock, 5.0 * 86_400.0 + 300.0).await;
    assert_eq!(list("").await, "");
    running.stop().await;
    drop(notifier);
    assert_eq!(open(&clock).silences(|_| true).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn alerts_are_inhibited_while_the_other_fires() {
    let folder = tempfile::tempdir().unwrap();
    let clock = TokioClock::shared();
    let route = format!(
        "{TIMES}\ninhibit_rules: [{{source_matchers: [severity=page], target_matchers: [severity=warn], equal: [dc]}}]\n"
    );
    let (notifier, pager) = start(folder.path(), &clock, &route);
    let running = Running::start(|token| notifier.clone().run(token));
    let page = named("Page", &[("severity", "page"), ("dc", "1")]);
    let warn = |dc: &str| named("Warn", &[("severity", "warn"), ("dc", dc), ("n", dc)]);
    notifier.take(vec![page.clone(), warn("1"), warn("2")]).await.unwrap();
    until(&clock, 3.0).await;
    let (_, alerts) = ask(&notifier, "GET", "/api/v2/alerts?active=false", Value::Null).await;
    let by = millrace_log::alert::Fingerprint::of(&page.labels).to_string();
    assert_eq!(alerts[0]["status"], json!({"inhibitedBy": [by], "silencedBy": [], "state": "suppressed"}));
    notifier.take(vec![NewAlert { ends_at_ns: Some(T0 + 2 * SECOND), ..page }]).await.unwrap();
    until(&clock, 6.0).await;
    running.stop().await;
    let mut got = pages(&pager);
    got.sort();
    assert_eq!(got, ["a 0.5 Page!", "a 0.5 Warn2!", "a 3.5 Page.", "a 3.5 Warn1! Warn2!"]);
}

#[tokio::test(start_paused = true)]
async fn routes_are_muted_by_their_time_intervals() {
    let folder = tempfile::tempdir().unwrap();
    let clock = TokioClock::shared();
    // It is midnight on 2030-01-01, a Tuesday, and 9 o'clock in Tokyo.
    let route = format!(
        "{TIMES}, routes: [{{matchers: [t=m], mute_time_intervals: [first]}}, {{matchers: [t=a], active_time_intervals: [tokyo]}}, \
         {{matchers: [t=n], active_time_intervals: [never]}}]\n\
         time_intervals:\n\
         - {{name: first, time_intervals: [{{times: [{{start_time: '00:00', end_time: '00:01'}}]}}]}}\n\
         - {{name: tokyo, time_intervals: [{{times: [{{start_time: '09:00', end_time: '10:00'}}], location: Asia/Tokyo}}]}}\n\
         - {{name: never, time_intervals: [{{years: ['2000']}}]}}\n"
    );
    let (notifier, pager) = start(folder.path(), &clock, &route);
    let running = Running::start(|token| notifier.clone().run(token));
    notifier.take(["m", "a", "n"].map(|t| named("A", &[("t", t), ("n", t)])).into()).await.unwrap();
    until(&clock, 5.0).await;
    let (_, groups) = ask(&notifier, "GET", "/api/v2/alerts/groups", Value::Null).await;
    let muted: Vec<&Value> = groups.as_array().unwrap().iter().map(|g| &g["alerts"][0]["status"]["mutedBy"]).collect();
    assert_eq!(muted.iter().filter(|by| by.is_array()).count(), 2, "{groups}");
    let (_, groups) = ask(&notifier, "GET", "/api/v2/alerts/groups?muted=false", Value::Null).await;
    assert_eq!(groups.as_array().unwrap().len(), 1);
    until(&clock, 62.0).await;
    running.stop().await;
    let got = pages(&pager);
    assert_eq!(got, ["a 0.5 Aa!", "a 60.5 Am!"]);
}
