//! Somebody with a forced selector: no endpoint shows a document of another stream.

use axum::body::Body;
use axum::http::Request;
use millrace_doors::identity::{Identity, Rights, Role, Tenants};
use serde_json::json;

use super::{Server, filled};

fn confined() -> Identity {
    let rights =
        Rights { roles: [Role::Read].into(), tenants: Tenants::All, selector: Some(r#"{index="mine"}"#.into()) };
    Identity { name: "pay".into(), rights }
}

async fn ask(server: &Server, what: &str, body: String) -> (u16, String) {
    let (method, path) = what.split_once(' ').unwrap();
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    let mut request = request.body(Body::from(body)).unwrap();
    request.extensions_mut().insert(confined());
    let (status, answer) = server.send(request).await;
    (status, answer.to_string())
}

#[tokio::test]
async fn every_endpoint_keeps_to_the_forced_selector() {
    let server = filled().await;
    let own = json!({"create": {"_index": "mine", "_id": "1"}}).to_string();
    server.ask("POST /_bulk", format!("{own}\n{}\n", json!({"mine_field": 1, "message": "own words"}))).await;
    let search = json!({"query": {"match_all": {}}, "aggs": {"l": {"terms": {"field": "level.keyword"}}}}).to_string();
    let many = format!("{}\n{search}\n", json!({"index": "*"}));
    for (what, body, shown) in [
        ("POST /_search", search.clone(), "own words"),
        ("POST /_msearch", many, "own words"),
        ("POST /_count", String::new(), r#""count":1"#),
        ("GET /_field_caps?fields=*", String::new(), "mine_field"),
        ("GET /_mapping", String::new(), "mine_field"),
        ("GET /mine/_mapping", String::new(), "mine_field"),
        ("GET /_cat/indices", String::new(), "mine"),
        ("GET /mine/_doc/1", String::new(), "own words"),
        ("GET /mine/_source/1", String::new(), "own words"),
        ("GET /things/_doc/1", String::new(), ""),
        ("GET /things/_source/1", String::new(), ""),
        ("POST /things/_search", search, ""),
        ("GET /things/_mapping", String::new(), ""),
    ] {
        let (status, answer) = ask(&server, what, body).await;
        assert!(answer.contains(shown), "{what}: {status} {answer}");
        assert!(status == 200 || shown.is_empty(), "{what}: {status} {answer}");
        for hidden in ["refused", "http.status", "\"level\"", "Error", "took\":{"] {
            assert!(!answer.contains(hidden), "{what}: {hidden}: {answer}");
        }
    }
}
