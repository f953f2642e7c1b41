//! What the engine costs per line, without a store: the same batches again and again.
//!
//! `cargo test --release -p millrace-logql --test measure -- --ignored --nocapture`

#![allow(clippy::print_stdout, reason = "its output is its purpose")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt as _;
use millrace_logql::storage::{BatchStream, Entry, EntryBatch, Scan, Stats, Storage, StorageError, StreamLabels};
use millrace_logql::{Engine, RangeQuery};

const BATCHES: usize = 200;
const ROWS: i64 = 2000;

#[derive(Debug)]
struct Again(EntryBatch);

#[async_trait::async_trait]
impl Storage for Again {
    async fn scan(&self, _: Scan) -> Result<BatchStream, StorageError> {
        let batch = self.0.clone();
        Ok(futures::stream::iter((0..BATCHES).map(move |_| Ok(batch.clone()))).boxed())
    }

    async fn series(&self, _: Scan) -> Result<Vec<StreamLabels>, StorageError> {
        Ok(Vec::new())
    }

    async fn stats(&self, _: Scan) -> Result<Vec<(StreamLabels, Stats)>, StorageError> {
        Ok(Vec::new())
    }
}

fn batch(line: impl Fn(i64) -> String) -> EntryBatch {
    let labels = |host: i64| -> StreamLabels {
        let pairs = [("app", "api".to_owned()), ("env", "prod".to_owned()), ("host", format!("h{host}"))];
        pairs.map(|(n, v)| (n.to_owned(), v)).to_vec().into()
    };
    let mut text = Vec::new();
    let mut entries = Vec::new();
    for i in 0..ROWS {
        let start = u32::try_from(text.len()).unwrap();
        text.extend_from_slice(line(i).as_bytes());
        let end = u32::try_from(text.len()).unwrap();
        let stream = u32::try_from(i % 4).unwrap();
        entries.push(Entry { stream, time_ns: i * 1_000_000_000, line: start..end, metadata: None });
    }
    EntryBatch { streams: (0..4).map(labels).collect(), text: text.into(), entries }
}

#[tokio::test]
#[ignore = "prints figures, asserts nothing: needs --release"]
async fn cost_per_line() {
    let json = batch(|i| {
        format!(
            r#"{{"ts":"2026-03-01T12:00:{:02}Z","level":"{}","msg":"request served","request":{{"method":"GET","path":"/api/v1/orders/{i}"}},"status":{},"took":"{}ms"}}"#,
            i % 60,
            if i % 10 == 0 { "error" } else { "info" },
            200 + i % 5,
            i % 900
        )
    });
    let logfmt = batch(|i| {
        format!(
            r#"ts=2026-03-01T12:00:{:02}Z level={} msg="request served" method=GET path=/api/v1/orders/{i} status={} took={}ms"#,
            i % 60,
            if i % 10 == 0 { "error" } else { "info" },
            200 + i % 5,
            i % 900
        )
    });
    for (batch, name, query) in [
        (&logfmt, "count", r#"sum(count_over_time({app="api"}[5m]))"#),
        (&logfmt, "contains", r#"sum by (host) (rate({app="api"} |= "level=error" [5m]))"#),
        (&logfmt, "regex", r#"sum(rate({app="api"} |~ "status=20[34]" [5m]))"#),
        (&logfmt, "logfmt, one label", r#"sum by (level) (rate({app="api"} | logfmt [5m]))"#),
        (&logfmt, "logfmt, filter", r#"sum(rate({app="api"} | logfmt | took > 500ms [5m]))"#),
        (&logfmt, "unwrap", r#"quantile_over_time(0.99, {app="api"} | logfmt | unwrap duration(took) [5m]) by (host)"#),
        (&json, "json, one label", r#"sum by (level) (rate({app="api"} | json [5m]))"#),
        (&json, "json, one path", r#"sum by (p) (rate({app="api"} | json p="request.method" [5m]))"#),
        (&json, "json, all labels", r#"{app="api"} | json | nothing="x""#),
        (&logfmt, "line_format", r#"{app="api"} | logfmt | line_format "{{.method}} {{.path}}" |= "nothing""#),
    ] {
        let bytes = batch.text.len() * BATCHES;
        let engine = Engine::new(Arc::new(Again(batch.clone())));
        let query = RangeQuery {
            end_ns: ROWS * 1_000_000_000,
            step_ns: 15_000_000_000,
            limit: 10,
            ..RangeQuery::new(millrace_logql::parse(query).unwrap())
        };
        let start = Instant::now();
        engine.query_range(query).await.unwrap();
        let seconds = start.elapsed().as_secs_f64();
        let lines = BATCHES as f64 * ROWS as f64;
        println!("{name:20} {:7.0} ns a line {:8.0} MB a second", seconds * 1e9 / lines, bytes as f64 / seconds / 1e6);
    }
}
