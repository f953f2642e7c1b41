//! Somebody with a forced selector: no endpoint shows a stream that it does not match.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use millrace_doors::identity::{Identity, Rights, Role, Tenants};

use super::{NOW, Server, event, live, server};

fn confined(selector: &str) -> Identity {
    let rights = Rights { roles: [Role::Read].into(), tenants: Tenants::All, selector: Some(selector.into()) };
    Identity { name: "pay".into(), rights }
}

fn filled() -> Server {
    let server = server();
    server.store.put(
        "logs",
        [
            event(2, &[("team", "pay"), ("app", "cards")], r#"{"amount": 7} cards are fine"#),
            event(3, &[("team", "ops"), ("secret_label", "hidden")], r#"{"hidden_field": 1} hidden words"#),
        ],
    );
    server
}

async fn get(server: &Server, path: &str, who: Identity) -> (StatusCode, String) {
    let mut request = Request::get(format!("/loki/api/v1{path}")).body(Body::empty()).unwrap();
    request.extensions_mut().insert(who);
    server.send(request).await
}

#[tokio::test]
async fn every_endpoint_keeps_to_the_forced_selector() {
    let server = filled();
    let all = "%7Bteam%3D~%22.%2B%22%7D";
    let bounds = format!("start={}&end={}", NOW - 60_000_000_000, NOW + 1);
    for (path, shown) in [
        (format!("/query_range?query={all}&{bounds}"), "cards are fine"),
        (format!("/query_range?query=sum+by+(team)(count_over_time({all}%5B1m%5D))&{bounds}"), "pay"),
        (format!("/query?query=sum+by+(team)(count_over_time({all}%5B1m%5D))&time={NOW}"), "pay"),
        (format!("/labels?{bounds}"), "app"),
        (format!("/label/team/values?{bounds}"), "pay"),
        (format!("/series?match%5B%5D={all}&{bounds}"), "pay"),
        (format!("/index/stats?query={all}&{bounds}"), r#""entries":1"#),
        (format!("/index/volume?query={all}&{bounds}"), "pay"),
        (format!("/index/volume_range?query={all}&{bounds}&step=60"), "pay"),
        (format!("/detected_labels?{bounds}"), "app"),
        (format!("/detected_fields?query={all}&{bounds}"), "amount"),
        (format!("/detected_field/amount/values?query={all}&{bounds}"), "7"),
        (format!("/query_range?query=%7Bteam%3D%22ops%22%7D&{bounds}"), r#""result":[]"#),
        (format!("/detected_field/hidden_field/values?query={all}&{bounds}"), "success"),
    ] {
        let (status, body) = get(&server, &path, confined(r#"{team="pay"}"#)).await;
        assert!(status == StatusCode::OK || body.contains("success"), "{path}: {status} {body}");
        assert!(body.contains(shown) || shown == "success", "{path}: {body}");
        assert!(!body.contains("hidden") && !body.contains(r#""ops""#), "{path}: {body}");
        // What is left out is left out for them alone.
        let (_, whole) = get(&server, &path, Identity::unlimited("root")).await;
        assert!(whole != body || path.contains("amount") || path.contains("detected_field/"), "{path}: {whole}");
    }
}

#[tokio::test]
async fn a_selector_that_can_not_be_used_shows_nothing() {
    let server = filled();
    for selector in ["{team", "team", "{team=~\"(\"}"] {
        let (status, body) = get(&server, "/labels", confined(selector)).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{selector}: {body}");
    }
    let (status, body) = get(&server, "/labels", confined(r#"{team!="ops"}"#)).await;
    assert!(status == StatusCode::OK && body.contains("app") && !body.contains("secret_label"), "{body}");
}

#[tokio::test]
async fn a_tail_keeps_to_the_forced_selector() {
    let mut server = filled();
    server.router = server.router.layer(axum::Extension(confined(r#"{team="pay"}"#)));
    let mut socket = live::tail(&server, &[("query", r#"{team=~".+"}"#), ("limit", "10")]).await.unwrap();
    assert_eq!(live::lines(&mut socket, 1).await, [r#"{"amount": 7} cards are fine"#]);
    server.store.put("logs", [event(0, &[("team", "ops")], "hidden news"), event(1, &[("team", "pay")], "news")]);
    assert_eq!(live::lines(&mut socket, 1).await, ["news"]);
}
