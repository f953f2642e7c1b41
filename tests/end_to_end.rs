//! The whole path with real files and real processes: every line is found exactly once through the Loki API, the
//! Elasticsearch API and the export in a real OpenSearch; the ledger adds up.
//!
//! The short form runs with `cargo test`; the full forms need Java and Maven (`../shared/servers`) and are ignored:
//! `cargo test --test end_to_end -- --ignored`.

#![allow(clippy::unwrap_used)] // a test that fails says where

mod support;

use std::time::Duration;

use support::{Server, Site, Writer, assert_each_once, assert_ledger_adds_up, get, post, until};

const SELECTOR: &str = r#"{service="writer"}"#;

/// Writes `lines` over 8 files while everything runs, then asks each API for each line.
fn run(site: &Site, lines: usize) {
    let roles: &[&str] = if site.embedded { &["broker", "aggregator", "agent"] } else { &["aggregator", "agent"] };
    let processes: Vec<_> = roles.iter().map(|role| site.start(role)).collect();
    site.wait_ready();
    let mut writer = Writer::new(&site.logs(), 8, lines / 8 / 5 + 1);
    let piece = lines / 20;
    while writer.written() < lines {
        writer.write(piece.min(lines - writer.written()));
    }
    until("all lines indexed", Duration::from_secs(300), || match site.count_by_loki(SELECTOR)? {
        n if n as usize >= lines => Ok(()),
        n => Err(format!("{n} of {lines}\n{}", site.output("agent"))),
    });
    assert_each_once(&site.lines_by_loki(SELECTOR), lines, "Loki API");
    assert_each_once(&site.lines_by_elastic("millrace-logs"), lines, "Elasticsearch API");
    if let Some(port) = site.opensearch {
        assert_each_once(&lines_in_opensearch(port, lines), lines, "OpenSearch");
    }
    assert_ledger_adds_up(&site.ledger());
    for process in processes.into_iter().rev() {
        assert_eq!(process.stop(), 0);
    }
}

/// Waits for the export, then reads the whole index by scroll.
fn lines_in_opensearch(port: u16, lines: usize) -> std::collections::HashMap<String, usize> {
    let base = format!("http://127.0.0.1:{port}");
    until("all lines exported", Duration::from_secs(300), || {
        post(&format!("{base}/exported/_refresh"), "application/json", String::new())?;
        let (_, text) = get(&format!("{base}/exported/_count"))?;
        let answer: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        match answer["count"].as_u64() {
            Some(n) if n as usize >= lines => Ok(()),
            other => Err(format!("{other:?} of {lines}")),
        }
    });
    let mut found = std::collections::HashMap::new();
    let first = serde_json::json!({"size": 10000, "sort": ["_doc"], "_source": ["message"]});
    let (mut status, mut text) =
        post(&format!("{base}/exported/_search?scroll=2m"), "application/json", first.to_string()).unwrap();
    loop {
        assert_eq!(status, 200, "{text}");
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        let hits = answer["hits"]["hits"].as_array().unwrap();
        if hits.is_empty() {
            return found;
        }
        for hit in hits {
            *found.entry(hit["_source"]["message"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        let next = serde_json::json!({"scroll": "2m", "scroll_id": answer["_scroll_id"]});
        (status, text) = post(&format!("{base}/_search/scroll"), "application/json", next.to_string()).unwrap();
    }
}

#[test]
fn each_line_is_found_exactly_once() {
    run(&Site::new(), 20_000);
}

#[test]
#[ignore = "needs Java and Maven for OpenSearch; several minutes"]
fn each_of_200_000_lines_is_found_exactly_once_also_in_opensearch() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start("opensearch", data.path());
    run(&Site { opensearch: Some(server.port), ..Site::new() }, 200_000);
}

#[test]
#[ignore = "needs Java and Maven for Apache Kafka and OpenSearch; several minutes"]
fn the_same_over_real_kafka() {
    let data = tempfile::tempdir().unwrap();
    let kafka = Server::start("kafka", &data.path().join("kafka"));
    let server = Server::start("opensearch", &data.path().join("opensearch"));
    run(&Site { opensearch: Some(server.port), kafka: kafka.port, embedded: false, ..Site::new() }, 200_000);
}
