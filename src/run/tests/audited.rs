//! Audit events of a whole process: what is done by HTTP and by reloads is found in the topic, by administrators only.

use std::time::{Duration, Instant};

use millrace_doors::tenant::AUDIT_TENANT;
use millrace_log::admin::Admin;
use millrace_log::client::ConnectionConfig;
use serde_json::Value as Json;

use super::super::Process;
use super::{access, config};

/// Lines of the audit topic as the Loki API has them: the JSON of each without its time.
async fn found(client: &reqwest::Client, address: std::net::SocketAddr) -> Result<Vec<String>, String> {
    let query = "query=%7Bkind%3D%22audit%22%7D&direction=forward&since=1h";
    let request = client.get(format!("http://{address}/loki/api/v1/query_range?{query}"));
    let request = request.bearer_auth("mlr_admin").header("x-scope-orgid", AUDIT_TENANT);
    let answer = request.send().await.map_err(|error| error.to_string())?;
    let answer: Json = answer.json().await.map_err(|error| error.to_string())?;
    let streams = answer["data"]["result"].as_array().ok_or_else(|| answer.to_string())?;
    let lines = streams.iter().flat_map(|stream| stream["values"].as_array().into_iter().flatten());
    Ok(lines
        .map(|line| {
            let event: Json = serde_json::from_str(line[1].as_str().unwrap_or_default()).unwrap_or_default();
            let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
            assert!(chrono::DateTime::parse_from_rfc3339(&text("time")).is_ok(), "{event}");
            ["event", "user", "address", "listener", "tenant", "detail"].map(text).join("|")
        })
        .collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_in_the_topic_and_only_administrators_see_them() {
    let folder = tempfile::tempdir().unwrap();
    let with = |gone: &str| {
        let mut access = access();
        access.tokens.retain(|token| token.name != gone);
        for token in access.tokens.iter_mut().filter(|token| token.name == "mlr_admin") {
            token.tenants = vec!["*".to_owned()];
        }
        let mut config = config(folder.path(), access);
        if let Some(aggregator) = &mut config.aggregator {
            aggregator.kafka.brokers = vec!["127.0.0.1:0".to_owned()];
            aggregator.kafka.topics.push("millrace.audit".to_owned());
        }
        config
    };
    let mut process = Process::start_config(with("")).await.unwrap();
    let addresses = process.addresses().clone();
    let (http, elastic) = (addresses.http.unwrap(), addresses.elasticsearch.unwrap());
    let client = reqwest::Client::new();
    let ask = async |request: reqwest::RequestBuilder, token: &str| {
        request.bearer_auth(token).send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask(client.get(format!("http://{http}/metrics")), "mlr_wrong").await, 401);
    assert_eq!(ask(client.get(format!("http://{http}/metrics")), "mlr_read").await, 403);
    assert_eq!(ask(client.delete(format!("http://{elastic}/_index_template/x")), "mlr_admin").await, 404);
    let body = r#"{"index_patterns": ["x*"]}"#;
    let put = client.put(format!("http://{elastic}/_index_template/x")).header("content-type", "application/json");
    assert_eq!(ask(put.body(body), "mlr_admin").await, 200);
    assert_eq!(ask(client.delete(format!("http://{elastic}/_index_template/x")), "mlr_admin").await, 200);
    process.reload(with("mlr_pay").try_into().unwrap()).await.unwrap();
    let want = [
        "login_failed||127.0.0.1|Loki API||",
        "access_denied|mlr_read|127.0.0.1|Loki API|default|GET /metrics: `mlr_read` may not do this: it needs the role `admin`, or `read` for all tenants without a selector",
        "delete|mlr_admin|127.0.0.1|Elasticsearch API|default|DELETE /_index_template/x",
        "token|||||token `mlr_pay` removed",
        "reload|||||SIGHUP; changed: logins",
    ];
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let found = found(&client, http).await;
        match found {
            Ok(found) if found.len() >= want.len() => {
                assert_eq!(found, want);
                break;
            }
            found => assert!(Instant::now() < until, "{found:#?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let query = client.get(format!("http://{http}/loki/api/v1/labels")).header("x-scope-orgid", AUDIT_TENANT);
    assert_eq!(ask(query, "mlr_all").await, 403, "a login for all tenants is not one for audit events");

    let connection =
        ConnectionConfig { brokers: vec![addresses.kafka.unwrap().to_string()], ..ConnectionConfig::default() };
    let mut admin = Admin::connect(&connection).await.unwrap();
    let settings = admin.settings(&["millrace.audit"], None).await.unwrap();
    let retention = settings["millrace.audit"].iter().find(|setting| setting.name == "retention.ms").unwrap();
    assert_eq!(retention.value, (90 * 24 * 3600 * 1000_u64).to_string());
    process.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_reports_as_refused_only_what_was_changed() {
    let folder = tempfile::tempdir().unwrap();
    let with = |users: serde_json::Value, topic: &str| {
        let mut config = config(folder.path(), access());
        config.access.audit.topic = topic.to_owned();
        (config.aggregator, config.rules, config.notify) = (None, None, None);
        config.broker.as_mut().unwrap().server.users = serde_json::from_value(users).unwrap();
        config
    };
    let missing = || serde_json::json!([{"name": "app", "password": "file:/no/such/file"}]);
    let mut process = Process::start_config(with(serde_json::json!([]), "millrace.audit")).await.unwrap();
    for (topic, want) in
        [("millrace.audit", &["broker keeps"][..]), ("other.audit", &["broker keeps", "audit events keeps"])]
    {
        // The broker can't start: those that find the log by it start again as they were.
        let outcome = process.reload(with(missing(), topic).try_into().unwrap()).await.unwrap();
        assert!(
            outcome.refused.len() == want.len()
                && outcome.refused.iter().zip(want).all(|(text, want)| text.starts_with(want)),
            "{topic}: {outcome:?}"
        );
    }
    process.stop().await.unwrap();
}
