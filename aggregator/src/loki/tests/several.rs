//! Several tenants at once (`X-Scope-OrgID: a|b`): the answers join what each of them has, and nothing of others.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use millrace_doors::identity::{Identity, Rights, Role, Tenants};
use millrace_doors::tenant::SeveralTenants;
use millrace_log::record::{Event, Tenant};

use super::{NOW, Server, event, server, server_of};
use crate::ingest::IngestConfig;
use millrace_logql::budget::QueryLimits;

fn of(tenant: &str, event: Event) -> Event {
    Event { tenant: Tenant::new(tenant).unwrap(), ..event }
}

fn filled() -> Server {
    let server = server();
    server.store.put(
        "logs",
        [
            of("a", event(2, &[("app", "cards"), ("team", "pay")], r#"{"amount": 7} cards of a"#)),
            of(
                "b",
                event(3, &[("app", "cards"), ("team", "pay"), ("__tenant_id__", "own")], r#"{"amount": 8} cards of b"#),
            ),
            of("b", event(4, &[("app", "mail"), ("team", "ops")], "mail of b")),
            of("c", event(5, &[("app", "cards"), ("secret_label", "hidden")], r#"{"hidden_field": 1} hidden words"#)),
            event(6, &[("app", "cards"), ("secret_label", "hidden")], "hidden words of the default tenant"),
        ],
    );
    server
}

async fn get(server: &Server, path: &str, who: Identity) -> (StatusCode, String) {
    let mut request = Request::get(format!("/loki/api/v1{path}")).body(Body::empty()).unwrap();
    request.extensions_mut().insert(who);
    let tenants = ["a", "b"].map(|name| Tenant::new(name).unwrap());
    request.extensions_mut().insert(SeveralTenants::new(tenants.into()).unwrap());
    server.send(request).await
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test]
async fn every_endpoint_joins_the_tenants_and_shows_nothing_of_others() {
    let server = filled();
    let bounds = format!("start={}&end={}", NOW - 60_000_000_000, NOW + 1);
    let all = encoded(r#"{app=~".+"}"#);
    let query = |text: &str| format!("/query_range?query={}&{bounds}&step=60", encoded(text));
    let instant = |text: &str| format!("/query?query={}&time={NOW}", encoded(text));
    for (path, shown, hidden) in [
        (query(r#"{app="cards"}"#), vec!["cards of a", "cards of b", r#""__tenant_id__":"a""#], vec!["mail"]),
        (
            query(r#"{app="cards"}"#),
            vec![r#""__tenant_id__":"b","app":"cards","original___tenant_id__":"own""#],
            vec![],
        ),
        (query(r#"{app="cards", __tenant_id__="b"}"#), vec!["cards of b"], vec!["cards of a"]),
        (query(r#"{__tenant_id__=~"a|c"}"#), vec!["cards of a"], vec!["of b"]),
        (query(r#"{app="cards", __tenant_id__="c"}"#), vec![r#""result":[]"#], vec![]),
        (query(r#"{app="cards"} | __tenant_id__="b""#), vec!["cards of b"], vec!["cards of a"]),
        (query(r#"{original___tenant_id__="own"}"#), vec!["cards of b"], vec!["cards of a"]),
        (
            instant(r#"sum by (__tenant_id__) (count_over_time({app=~".+"}[1m]))"#),
            vec![
                r#"{"metric":{"__tenant_id__":"a"},"value":[1772370000,"1"]}"#,
                r#"{"metric":{"__tenant_id__":"b"},"value":[1772370000,"2"]}"#,
            ],
            vec![],
        ),
        (instant(r#"sum(count_over_time({app=~".+"}[1m]))"#), vec![r#""3""#], vec![]),
        (
            instant(r#"sum(count_over_time({__tenant_id__="a"}[1m])) / sum(count_over_time({__tenant_id__="b"}[1m]))"#),
            vec![r#""0.5""#],
            vec![],
        ),
        (
            instant(r#"count_over_time({app="cards"} | json [1m])"#),
            vec![r#""__tenant_id__":"a""#, r#""amount":"8""#],
            vec![],
        ),
        (format!("/labels?{bounds}"), vec!["__tenant_id__", "original___tenant_id__", "team"], vec![]),
        (format!("/label/__tenant_id__/values?{bounds}"), vec![r#"["a","b"]"#], vec![]),
        (
            format!("/label/__tenant_id__/values?{bounds}&query={}", encoded(r#"{app="none"}"#)),
            vec![r#"["a","b"]"#],
            vec![],
        ),
        (format!("/label/app/values?{bounds}"), vec![r#"["cards","mail"]"#], vec![]),
        (
            format!("/label/app/values?{bounds}&query={}", encoded(r#"{__tenant_id__="a"}"#)),
            vec![r#"["cards"]"#],
            vec![],
        ),
        (
            format!("/series?match[]={all}&{bounds}"),
            vec![r#"{"__tenant_id__":"a","app":"cards","team":"pay"}"#, r#""__tenant_id__":"b","app":"mail""#],
            vec![],
        ),
        (format!("/index/stats?query={all}&{bounds}"), vec![r#""streams":3"#, r#""entries":3"#], vec![]),
        (format!("/index/stats?query={}&{bounds}", encoded(r#"{__tenant_id__="a"}"#)), vec![r#""entries":1"#], vec![]),
        (
            format!("/index/volume?query={all}&{bounds}"),
            vec![r#"{"metric":{"app":"cards"}"#, r#"{"metric":{"app":"mail"}"#],
            vec![],
        ),
        (
            format!("/index/volume?query={all}&{bounds}&targetLabels=__tenant_id__"),
            vec![r#"{"metric":{"__tenant_id__":"a"}"#, r#"{"metric":{"__tenant_id__":"b"}"#],
            vec![],
        ),
        (format!("/index/volume_range?query={all}&{bounds}&step=60"), vec![r#"{"metric":{"app":"cards"}"#], vec![]),
        (format!("/detected_labels?{bounds}"), vec![r#""label":"__tenant_id__","cardinality":2"#, "team"], vec![]),
        (format!("/detected_fields?query={all}&{bounds}"), vec!["amount"], vec![]),
        (format!("/detected_field/amount/values?query={all}&{bounds}"), vec!["7", "8"], vec![]),
    ] {
        let (status, body) = get(&server, &path, Identity::unlimited("root")).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        for text in shown {
            assert!(body.contains(text), "{path} should have {text}: {body}");
        }
        for text in hidden.into_iter().chain(["hidden", "secret"]) {
            assert!(!body.contains(text), "{path} should not have {text}: {body}");
        }
    }
}

#[tokio::test]
async fn lines_of_all_tenants_come_in_the_order_of_their_times() {
    let server = server();
    let mut events = Vec::new();
    for n in 0..20 {
        events.push(of(if n % 3 == 0 { "a" } else { "b" }, event(n, &[("app", "x")], &format!("line {n:02}"))));
    }
    server.store.put("logs", events);
    let bounds = format!("start={}&end={}", NOW - 60_000_000_000, NOW + 1);
    let query = encoded(r#"{app="x"} | label_format __tenant_id__=app"#);
    for (direction, limit, first, last) in
        [("backward", 7, "line 00", "line 06"), ("forward", 20, "line 19", "line 00")]
    {
        let path = format!("/query_range?query={query}&{bounds}&direction={direction}&limit={limit}");
        let (_, body) = get(&server, &path, Identity::unlimited("root")).await;
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        let values = answer["data"]["result"][0]["values"].as_array().unwrap();
        let lines: Vec<&str> = values.iter().map(|value| value[1].as_str().unwrap()).collect();
        assert_eq!((lines.len(), lines[0], lines[lines.len() - 1]), (limit, first, last), "{direction}");
        assert!(lines.is_sorted_by(|a, b| (a < b) == (direction == "backward")), "{lines:?}");
    }
}

#[tokio::test]
async fn the_forced_selector_holds_for_each_tenant() {
    let server = filled();
    let bounds = format!("start={}&end={}", NOW - 60_000_000_000, NOW + 1);
    let who = |selector: &str| {
        let rights = Rights { roles: [Role::Read].into(), tenants: Tenants::All, selector: Some(selector.into()) };
        Identity { name: "pay".into(), rights }
    };
    let path = format!("/query_range?query={}&{bounds}", encoded(r#"{app=~".+"}"#));
    for (selector, want) in [
        (r#"{team="pay"}"#, (true, true, false)),
        (r#"{team="ops"}"#, (false, false, true)),
        // It is compared with the streams as they are, not with the name of their tenant.
        (r#"{__tenant_id__="own"}"#, (false, true, false)),
        (r#"{__tenant_id__="a"}"#, (false, false, false)),
    ] {
        let (status, body) = get(&server, &path, who(selector)).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let found = (body.contains("cards of a"), body.contains("cards of b"), body.contains("mail of b"));
        assert_eq!(found, want, "{selector}: {body}");
    }
}

#[tokio::test]
async fn pushes_and_live_tails_are_for_one_tenant() {
    let server = filled();
    let tenants = ["a", "b"].map(|name| Tenant::new(name).unwrap());
    let several = SeveralTenants::new(tenants.into()).unwrap();
    for (method, path) in [("POST", "/push"), ("GET", "/tail?query=%7Bapp%3D%22cards%22%7D")] {
        let request = Request::builder().method(method).uri(format!("/loki/api/v1{path}"));
        let mut request =
            request.header("content-type", "application/json").body(Body::from(super::JSON_PUSH)).unwrap();
        request.extensions_mut().insert(several.clone());
        let (status, text) = server.send(request).await;
        assert!(
            status == StatusCode::BAD_REQUEST && text.starts_with("multiple org IDs present"),
            "{path}: {status} {text}"
        );
    }
    assert!(server.log.events().is_empty());
}

#[tokio::test]
async fn a_query_of_several_tenants_takes_a_place_of_each() {
    let limits = QueryLimits { timeout: std::time::Duration::from_millis(300), ..QueryLimits::default() };
    let server = server_of(IngestConfig::default(), limits, 1);
    let path = format!("/labels?start={}&end={NOW}", NOW - 60_000_000_000);
    let held = server.queries.begin(&Tenant::new("b").unwrap()).await.unwrap();
    let (status, text) = get(&server, &path, Identity::unlimited("root")).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{text}");
    drop(held);
    let (status, text) = get(&server, &path, Identity::unlimited("root")).await;
    assert_eq!(status, StatusCode::OK, "{text}");
}
