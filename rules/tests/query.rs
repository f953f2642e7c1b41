//! The shipped example over the query engine: lines in, alerts out.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod support;

use std::path::Path;
use std::sync::Arc;

use millrace_log::record::Tenant;
use millrace_logql::memory::MemoryStorage;
use millrace_logql::storage::QueryLimits;
use millrace_logql::{Budget, Engine};
use millrace_rules::{Allowance, Evaluation, Evaluator, QueryEvaluator};
use support::*;

// Runs as soon as the engine executes metric queries: take the mark off then.
#[tokio::test]
async fn the_shipped_example_finds_the_service_and_region_that_fail() {
    let mut store = MemoryStorage::new();
    let errors = [
        r#"{"time":"x","level":"error","msg":"a"}"#,
        r#"ts=1 level=error msg="x""#,
        r#"1.2.3.4 - - [x] "GET / HTTP/1.1" 502 12 "-" "c""#,
        "2026-01-01 12:00:00 ERROR payment failed",
        "java.lang.IllegalStateException: x",
    ];
    let good = [r#"{"level":"info"}"#, "level=info msg=ok", r#""GET / HTTP/1.1" 200 512 "-""#];
    for n in 0..300i64 {
        let at = T0 - n * SECOND / 5;
        let stream = |service, region| [("env", "demo"), ("service", service), ("region", region)];
        store.push(&stream("checkout", "eu-west-1"), at, errors[usize::try_from(n).unwrap() % errors.len()]);
        store.push(&stream("checkout", "us-east-1"), at, good[usize::try_from(n).unwrap() % good.len()]);
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/error-rate.yaml");
    let group = millrace_rules::file::read_file(&file).unwrap().remove(0);
    let allowance = Allowance::new(QueryLimits::default(), "query.timeout");
    let evaluator = QueryEvaluator::new(Engine::new(Arc::new(store)), allowance, || i64::MAX);
    let tenant = Tenant::default();
    let expr = &group.rules[0].expr;
    let (watermark_ns, budget) = (evaluator.watermark().await, Budget::default());
    let (at_ns, timeout_set_by) = (T0, "`query.timeout`");
    let request = Evaluation { tenant: &tenant, expr, at_ns, watermark_ns, budget: &budget, timeout_set_by };
    let samples = evaluator.evaluate(&request).await.unwrap();
    assert_eq!(samples.len(), 1, "{samples:?}");
    assert_eq!(samples[0].labels, set(&[("region", "eu-west-1"), ("service", "checkout")]));
    assert!((samples[0].value - 5.0).abs() < 0.01, "{samples:?}");
    let step = millrace_rules::state::transition(
        &group.rules[0],
        group.limit,
        &Default::default(),
        samples,
        T0,
        &Default::default(),
    )
    .unwrap();
    let alert = step.alerts.values().next().unwrap();
    assert_eq!(alert.annotations["summary"], "checkout in eu-west-1 logs 5 errors per second");
}
