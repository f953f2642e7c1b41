//! Requests that name several tenants: every endpoint is for one, and none answers for the default tenant instead.

use axum::extract::FromRequestParts as _;
use millrace_doors::tenant::SeveralTenants;

use super::super::asked::{Asked, Who};
use super::*;

fn several(request: &str) -> Request<Body> {
    let (method, path) = request.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let tenants = ["a", "b"].map(|name| Tenant::new(name).unwrap());
    request.extensions_mut().insert(SeveralTenants::new(tenants.into()).unwrap());
    request
}

#[tokio::test]
async fn nothing_of_the_default_tenant_is_shown() {
    let server = filled().await;
    let template = json!({"index_patterns": ["things*"]});
    assert_eq!(server.ask("PUT /_index_template/secret", template.to_string()).await.0, 200);
    for (request, of_default) in [
        ("GET /_index_template", 200),
        ("GET /_index_template/secret", 200),
        ("POST /_refresh", 200),
        ("GET /things/_refresh", 200),
        ("GET /nothing/_refresh", 404),
        ("GET /_cat/indices", 200),
    ] {
        assert_eq!(server.ask(request, "").await.0, of_default, "{request}");
        let (status, answer) = server.send(several(request)).await;
        assert_eq!(status, 400, "{request}: {answer}");
        let text = answer.to_string();
        assert!(!text.contains("things") && !text.contains("no such index"), "{request}: {text}");
    }
}

#[tokio::test]
async fn handlers_refuse_what_a_route_would_let_through() {
    for of_several in [false, true] {
        let request = if of_several { several("GET /") } else { Request::get("/").body(Body::empty()).unwrap() };
        let (mut head, _) = request.into_parts();
        let who = Who::from_request_parts(&mut head, &()).await.map(|Who(tenant)| tenant).map_err(|error| error.status);
        assert_eq!(who, if of_several { Err(400) } else { Ok(Tenant::default()) });
        if of_several {
            let asked = Asked::from_request_parts(&mut head, &()).await.map(|asked| asked.who);
            assert_eq!(asked.map_err(|answer| answer.status().as_u16()), Err(400));
        }
    }
}
