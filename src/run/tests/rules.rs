//! Rules of a whole process: whose alerts the page shows, and what anybody learns of a group that is late.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use millrace_doors::access::Access;
use millrace_index::logql::LogqlStorage;
use millrace_index::memory::MemoryStore;
use millrace_log::clock::ManualClock;
use millrace_log::outgoing::Outgoing;
use millrace_log::value::Span;
use millrace_logql::Engine;
use millrace_logql::storage::QueryLimits;
use millrace_notify::{Inbox, Notifier};
use millrace_rules::{Allowance, QueryEvaluator, Rules, RulesConfig};
use prometheus_client::registry::Registry;
use tower::ServiceExt as _;

use super::super::Process;
use super::super::insight::Insight;
use super::super::notices::Notices;
use super::super::site::Site;
use super::config;
use crate::audit::AuditQueue;
use crate::metrics::Registries;

const RULES: &str = "groups: [{name: night, rules: [{alert: AlwaysFires, expr: 'vector(1) > 0'}]}]\n";

fn rules(folder: &std::path::Path) -> RulesConfig {
    let file = folder.join("rules.yaml");
    std::fs::write(&file, RULES).unwrap();
    RulesConfig { files: vec![file.to_string_lossy().into_owned()], interval: Span::secs(1), ..RulesConfig::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_alerts_to_the_tenant_of_the_rules_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), Default::default());
    config.rules = Some(RulesConfig { tenant: "ops".to_owned(), ..rules(folder.path()) });
    let process = Process::start_config(config).await.unwrap();
    let (client, address) = (reqwest::Client::new(), process.addresses().http.unwrap());
    let shown = async |path: &str, tenant: &str| {
        let request = client.get(format!("http://{address}{path}")).header("x-scope-orgid", tenant);
        request.send().await.unwrap().text().await.unwrap().contains("AlwaysFires")
    };
    let until = Instant::now() + Duration::from_secs(30);
    while !shown("/prometheus/api/v1/alerts", "ops").await {
        assert!(Instant::now() < until, "the rule fires");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for path in ["/alerts", "/", "/prometheus/api/v1/alerts"] {
        for (tenant, want) in [("ops", true), ("default", false), ("pay", false)] {
            assert_eq!(shown(path, tenant).await, want, "{path} for {tenant}");
        }
    }
    process.stop().await.unwrap();
}

#[tokio::test]
async fn only_those_who_see_the_ledger_learn_what_a_late_group_waits_for() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let folder = tempfile::tempdir().unwrap();
    let time = ManualClock::at_ns(1_772_366_400_000_000_000);
    let clock = || Arc::clone(&time) as millrace_log::clock::SharedClock;
    let mut registry = Registry::default();
    let outgoing = Outgoing::new(&Default::default());
    let notifier = Notifier::open(Default::default(), folder.path(), clock(), &outgoing, &mut registry).unwrap();
    let engine = Engine::new(Arc::new(LogqlStorage(Arc::new(MemoryStore::default()))));
    let allowance = Allowance::new(QueryLimits::default(), "query.timeout");
    let evaluator = Arc::new(QueryEvaluator::new(engine, allowance, || i64::MAX));
    let sink = Arc::new(Inbox(notifier));
    // Nothing runs them: their first evaluation is late.
    let rules = Rules::open(rules(folder.path()), folder.path(), evaluator, sink, clock(), &mut registry).unwrap();
    let site = Site {
        access: Access::new(clock()).unwrap(),
        audit: AuditQueue::new(clock()),
        clock: clock(),
        registries: Registries::default(),
        notices: Notices::default(),
    };
    time.advance(Duration::from_secs(60));
    let router = Insight { rules: Some(rules), ..Insight::default() }.router(&site, true).open_for_tests();
    for (path, shows_file) in [("/ready", false), ("/api/v1/ledger", true)] {
        let answer = router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(text.contains("rule group `night`") && text.contains("60 s ago"), "{path}: {text}");
        assert_eq!(text.contains("rules.yaml"), shows_file, "{path}: {text}");
        assert_eq!(text.contains("its turn"), shows_file, "{path}: {text}");
        assert_eq!(text.matches("rule group").count(), 1, "{path}: {text}");
    }
}
