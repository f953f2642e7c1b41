//! Fuzz target `bulk`: bodies of `_bulk` as strangers send them; and those of searches.
//!
//! In: any bytes. Out: a panic if a promise is broken: a body is refused with a reason, or each of its documents is an event or has
//! an error of its own, within the memory that was reserved. See [`crate::fuzzing`].

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise must be seen")]

use bytes::Bytes;
use millrace_fuzzing::{memory, texts};
use millrace_log::push::DecodeBudget;
use millrace_log::push::json::{TREE_ELEMENT_BYTES, cost};
use millrace_log::record::{DocOp, Tenant};
use serde_json::Value as Json;

use super::bulk_body::{BulkReader, Item, MAX_ID};
pub(crate) use super::search::fuzz::{query_string, query_string_seeds, search_body, search_body_seeds};

/// Memory of all bodies.
const BUDGET: u64 = 8 << 20;
/// What error texts take, whatever the body.
const SLACK: u64 = 64 << 10;
const NOW_NS: i64 = 1_772_366_400_000_000_000;

/// A body without and with an index in its address; then as a single document.
pub(crate) fn bulk(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    let tenant = Tenant::default();
    for index in [None, Some("things")] {
        let budget = DecodeBudget::new(BUDGET);
        let reader = BulkReader { tenant: &tenant, budget: &budget, now_ns: NOW_NS };
        let mut reserved = budget.begin();
        let ((got, counted), held) = memory::most(|| {
            let got = reader.read(index, &body, &mut reserved);
            // Elements of a line are reserved while it is parsed.
            (got, budget.state().0)
        });
        let parsing = cost(&body, TREE_ELEMENT_BYTES);
        let shown = String::from_utf8_lossy(&body);
        assert!(held <= counted + parsing + SLACK, "{held} bytes held, {counted} reserved for {shown}");
        match got {
            Ok(items) => {
                let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.iter().all(u8::is_ascii_whitespace));
                let lines = lines.count();
                assert!(
                    items.len() <= lines && lines <= 2 * items.len(),
                    "{} items of {lines} lines: {shown}",
                    items.len()
                );
                items.iter().for_each(checked);
            }
            Err(error) => {
                assert!((400..500).contains(&error.status) && !error.reason.is_empty(), "{error}: {shown}");
            }
        }
        drop(reserved);
        assert_eq!(budget.state().0, 0, "what was reserved is given back");
        checked(&reader.item(DocOp::Create, index.unwrap_or("x").to_owned(), None, body.clone()));
    }
}

fn checked(item: &Item) {
    match &item.outcome {
        Ok(event) => {
            let doc = event.doc.as_ref().unwrap();
            assert!(
                event.labels.check().is_ok() && event.labels.get("index") == Some(&item.index),
                "{:?}",
                event.labels
            );
            assert!(
                (1..=MAX_ID).contains(&doc.id.len()) && doc.index == item.index && doc.op == item.action,
                "{doc:?}"
            );
            assert!(!event.line.contains(&b'\n'), "one document is one line: {event:?}");
            assert!(serde_json::from_slice::<Json>(&event.line).is_ok_and(|json| json.is_object()), "{event:?}");
        }
        Err(error) => assert!((400..=501).contains(&error.status) && !error.reason.is_empty(), "{error}"),
    }
    let answer = item.answer();
    let said = &answer[item.name];
    assert_eq!((said["_id"].as_str(), said["_index"].as_str()), (Some(&*item.id), Some(&*item.index)), "{answer}");
    assert_eq!(said["error"].is_null(), item.outcome.is_ok(), "{answer}");
}

/// Bodies that reach far.
pub(crate) fn bulk_seeds(_: u64) -> Vec<Vec<u8>> {
    let many = "{\"index\":{}}\n{}\n".repeat(300);
    let wide = format!("{{\"index\":{{\"a\":[{}]}}}}\n{{}}\n", vec!["0"; 3000].join(","));
    texts(&[
        "{\"index\":{\"_index\":\"a\",\"_id\":\"1\"}}\n{\"@timestamp\":\"2026-03-01T00:00:00Z\",\"n\":1}\n{\"create\":{\"_id\":2}}\r\n{\"@timestamp\":1772366400000.5}\r\n\n{\"delete\":{\"_id\":\"x\"}}\n{\"update\":{\"_index\":\"b\"}}\n{\"doc\":{}}\n",
        "{\"index\":{\"_index\":\"millrace-logs\"}}\n{}\n{\"index\":{\"_index\":\"UP\",\"_id\":\"\"}}\n[1]\n{\"create\":{\"_index\":\"-a b\"}}\n{\"@timestamp\":\"x\"}\n{\"index\":{\"_index\":\"\\u00e4\"}}\n{\"@timestamp\":true}\n",
        "{\"what\":{}}\n{}\n",
        "{}\n",
        "{\"index\":{}}\n",
        "{\"index\":{}}\n{}",
        "{\n \"a\": {\"b\": [1,\n2]}\n}",
        &many,
        &wide,
    ])
}
