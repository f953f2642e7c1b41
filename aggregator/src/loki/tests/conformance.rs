//! Replays the recorded answers of Loki over the API, printing counts per topic and what differs.
//! In: `conformance/loki` of the folder that `MILLRACE_SHARED` names (default `../shared` beside the workspace).
//!
//! `cargo test -p millrace-aggregator --lib loki_conformance -- --ignored --nocapture`; `LOKI_TOPIC=json_parser` shows
//! every failure of one topic, `LOKI_ID=json-parser-003` both answers of one case.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::path::PathBuf;

use axum::body::Body;
use axum::http::Request;
use serde_json::Value;

use super::{Server, server};

fn suite() -> PathBuf {
    let shared = std::env::var_os("MILLRACE_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")), PathBuf::from);
    shared.join("conformance/loki")
}

async fn load(server: &Server) {
    let packed = std::fs::File::open(suite().join("dataset.jsonl.gz")).unwrap();
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(packed).read_to_string(&mut text).unwrap();
    for line in text.lines() {
        let (status, body) = server.push("application/json", "", line.to_owned()).await;
        assert_eq!(status.as_u16(), 204, "{body}");
    }
    server.index();
}

async fn ask(server: &Server, request: &Value) -> (u16, Value) {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in request["params"].as_object().unwrap() {
        match value {
            Value::Array(all) => all.iter().for_each(|v| {
                form.append_pair(name, v.as_str().unwrap());
            }),
            Value::String(one) => {
                form.append_pair(name, one);
            }
            other => {
                form.append_pair(name, &other.to_string());
            }
        }
    }
    let (form, path) = (form.finish(), request["path"].as_str().unwrap());
    let mut builder = if request["method"] == "POST" {
        Request::post(path).header("content-type", "application/x-www-form-urlencoded")
    } else {
        Request::get(if form.is_empty() { path.to_owned() } else { format!("{path}?{form}") })
    };
    for (name, value) in request["headers"].as_object().into_iter().flatten() {
        builder = builder.header(name, value.as_str().unwrap());
    }
    let body = if request["method"] == "POST" { Body::from(form) } else { Body::empty() };
    let (status, text) = server.send(builder.body(body).unwrap()).await;
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    (status.as_u16(), body)
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => match text.as_str() {
            "+Inf" => Some(f64::INFINITY),
            "-Inf" => Some(f64::NEG_INFINITY),
            text => text.parse().ok(),
        },
        other => other.as_f64(),
    }
}

fn close(a: &Value, b: &Value, rel: f64, abs: f64) -> bool {
    match (number(a), number(b)) {
        (Some(a), Some(b)) if a.is_nan() || b.is_nan() => a.is_nan() && b.is_nan(),
        (Some(a), Some(b)) if a.is_infinite() || b.is_infinite() => a == b,
        (Some(a), Some(b)) => (a - b).abs() <= (rel * a.abs().max(b.abs())).max(abs).max(1e-12),
        _ => a == b,
    }
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(160).collect()
}

type Outcome = Result<(), String>;

/// Items by their labels; label order does not matter.
fn grouped(items: &Value, key: &str) -> BTreeMap<String, Vec<Value>> {
    let mut groups: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for item in items.as_array().into_iter().flatten() {
        let labels: BTreeMap<String, Value> =
            item[key].as_object().into_iter().flatten().map(|(n, v)| (n.clone(), v.clone())).collect();
        groups.entry(serde_json::to_string(&labels).unwrap()).or_default().push(item.clone());
    }
    groups
}

fn same_keys(want: &BTreeMap<String, Vec<Value>>, got: &BTreeMap<String, Vec<Value>>) -> Outcome {
    let missing: Vec<_> = want.keys().filter(|k| !got.contains_key(*k)).collect();
    let extra: Vec<_> = got.keys().filter(|k| !want.contains_key(*k)).collect();
    if missing.is_empty() && extra.is_empty() {
        return Ok(());
    }
    Err(format!(
        "missing {} e.g. {:?}; unexpected {} e.g. {:?}",
        missing.len(),
        missing.first(),
        extra.len(),
        extra.first()
    ))
}

fn streams(want: &Value, got: &Value, forward: bool) -> Outcome {
    let (want, got) = (grouped(want, "stream"), grouped(got, "stream"));
    same_keys(&want, &got)?;
    for (labels, mine) in &want {
        let entries = |of: &[Value]| {
            let mut all: Vec<Value> = of.iter().flat_map(|s| s["values"].as_array().unwrap().clone()).collect();
            if of.len() > 1 {
                all.sort_by_key(|v| v[0].as_str().unwrap().parse::<i64>().unwrap() * if forward { 1 } else { -1 });
            }
            all
        };
        let (want, got) = (entries(mine), entries(&got[labels]));
        if want.len() != got.len() {
            return Err(format!("stream {labels}: want {} entries, got {}", want.len(), got.len()));
        }
        let empty = serde_json::json!({});
        for (a, b) in want.iter().zip(&got) {
            if a[0] != b[0] || a[1] != b[1] || a.get(2).unwrap_or(&empty) != b.get(2).unwrap_or(&empty) {
                return Err(format!("stream {labels}: want {}, got {}", short(a), short(b)));
            }
        }
    }
    Ok(())
}

fn point(a: &Value, b: &Value, rel: f64, abs: f64) -> Outcome {
    let times = number(&a[0]).zip(number(&b[0]));
    if times.is_none_or(|(a, b)| (a - b).abs() >= 5e-4) || !close(&a[1], &b[1], rel, abs) {
        return Err(format!("want {a}, got {b}"));
    }
    Ok(())
}

fn metrics(want: &Value, got: &Value, matrix: bool, ordered: bool, rel: f64, abs: f64) -> Outcome {
    if ordered {
        for (a, b) in want.as_array().into_iter().flatten().zip(got.as_array().into_iter().flatten()) {
            point(&a["value"], &b["value"], rel, abs).map_err(|e| format!("order: {e}"))?;
        }
    }
    let (want, got) = (grouped(want, "metric"), grouped(got, "metric"));
    same_keys(&want, &got)?;
    for (labels, mine) in &want {
        let theirs = &got[labels];
        if mine.len() != theirs.len() {
            return Err(format!("{labels}: want it {} times, got {}", mine.len(), theirs.len()));
        }
        let (a, b) = (&mine[0], &theirs[0]);
        if !matrix {
            point(&a["value"], &b["value"], rel, abs).map_err(|e| format!("{labels}: {e}"))?;
            continue;
        }
        let (a, b) = (a["values"].as_array().unwrap(), b["values"].as_array().unwrap());
        if a.len() != b.len() {
            return Err(format!("{labels}: want {} points, got {}", a.len(), b.len()));
        }
        for (a, b) in a.iter().zip(b) {
            point(a, b, rel, abs).map_err(|e| format!("{labels}: {e}"))?;
        }
    }
    Ok(())
}

fn list(want: &Value, got: &Value) -> Outcome {
    let sorted = |v: &Value| {
        let canonical = |item: &Value| match item.as_object() {
            Some(o) => serde_json::to_string(&o.iter().collect::<BTreeMap<_, _>>()).unwrap(),
            None => item.to_string(),
        };
        let mut all: Vec<String> = v.as_array().into_iter().flatten().map(canonical).collect();
        all.sort();
        all
    };
    if sorted(want) == sorted(got) { Ok(()) } else { Err(format!("want {}, got {}", short(want), short(got))) }
}

fn detected(want: &Value, got: &Value, rel: f64) -> Outcome {
    let by_label = |v: &Value| -> BTreeMap<String, Value> {
        v.as_array().into_iter().flatten().map(|x| (x["label"].to_string(), x.clone())).collect()
    };
    let (want, got) = (by_label(want), by_label(got));
    if want.keys().ne(got.keys()) {
        return Err(format!("want {:?}, got {:?}", want.keys(), got.keys()));
    }
    for (label, a) in &want {
        let b = &got[label];
        for (field, value) in a.as_object().unwrap() {
            let same = match field.as_str() {
                "cardinality" => close(value, &b[field], rel, if number(value) > Some(20.0) { 1.0 } else { 0.0 }),
                _ => *value == b[field],
            };
            if !same {
                return Err(format!("{label} {field}: want {value}, got {}", b[field]));
            }
        }
    }
    Ok(())
}

fn compare(case: &Value, status: u16, got: &Value) -> Outcome {
    let want_status = case["status"].as_u64().unwrap();
    if want_status >= 400 {
        let highest = if want_status >= 500 { 600 } else { 500 };
        if !(400..highest).contains(&status) {
            return Err(format!("want a refusal, got {status}: {}", short(got)));
        }
        let text = got.as_str().or_else(|| got["error"].as_str()).unwrap_or_default();
        for word in case["message_has"].as_array().into_iter().flatten() {
            if !text.contains(word.as_str().unwrap()) {
                return Err(format!("want {word} in the message, got {text}"));
            }
        }
        return if text.trim().is_empty() { Err("no message".to_owned()) } else { Ok(()) };
    }
    if u64::from(status) != want_status {
        return Err(format!("want {want_status}, got {status}: {}", short(got)));
    }
    let (want, path) = (&case["response"], case["request"]["path"].as_str().unwrap());
    let rel = case["tolerance"]["rel"].as_f64().unwrap_or(1e-9);
    let abs = case["tolerance"]["abs"].as_f64().unwrap_or(0.0);
    let (wd, gd) = (&want["data"], &got["data"]);
    if let Some(kind) = wd["resultType"].as_str() {
        if gd["resultType"] != wd["resultType"] {
            return Err(format!("want {kind}, got {}", gd["resultType"]));
        }
        if wd["encodingFlags"] != gd["encodingFlags"] {
            return Err(format!("want flags {}, got {}", wd["encodingFlags"], gd["encodingFlags"]));
        }
        let (wr, gr) = (&wd["result"], &gd["result"]);
        let direction = case["request"]["params"]["direction"].as_str().unwrap_or("backward");
        return match kind {
            "streams" => streams(wr, gr, direction.eq_ignore_ascii_case("forward")),
            "scalar" => point(wr, gr, rel, abs),
            _ => metrics(wr, gr, kind == "matrix", case["ordered"] == true, rel, abs),
        };
    }
    if path.ends_with("/index/stats") {
        for (field, value) in want.as_object().unwrap() {
            let ignored = case["ignore"].as_array().is_some_and(|i| i.contains(&Value::from(field.as_str())));
            if !ignored && !close(value, &got[field], rel, if field == "bytes" { abs } else { 0.0 }) {
                return Err(format!("{field}: want {value}, got {}", got[field]));
            }
        }
        return Ok(());
    }
    if path.ends_with("/detected_labels") {
        return detected(&want["detectedLabels"], &got["detectedLabels"], rel);
    }
    if path.ends_with("/detected_fields") {
        return detected(&want["fields"], &got["fields"], rel);
    }
    if path.contains("/detected_field/") {
        return list(&want["values"], &got["values"]);
    }
    if wd.is_array() || (wd.is_null() && want["status"] == "success") {
        return list(wd, gd);
    }
    if want == got { Ok(()) } else { Err(format!("want {}, got {}", short(want), short(got))) }
}

#[tokio::test]
#[ignore = "needs the conformance suite of MILLRACE_SHARED"]
#[allow(clippy::print_stdout)]
async fn loki_conformance() {
    let Ok(cases) = std::fs::read_to_string(suite().join("open.jsonl")) else {
        println!("no conformance suite in {}", suite().display());
        return;
    };
    let (topic, id) = (std::env::var("LOKI_TOPIC").ok(), std::env::var("LOKI_ID").ok());
    let server = server();
    load(&server).await;
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut reasons: HashMap<String, usize> = HashMap::new();
    for line in cases.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let (this_topic, this_id) = (case["topic"].as_str().unwrap(), case["id"].as_str().unwrap());
        if topic.as_deref().is_some_and(|t| t != this_topic) || id.as_deref().is_some_and(|i| i != this_id) {
            continue;
        }
        let (status, got) = ask(&server, &case["request"]).await;
        let outcome = compare(&case, status, &got);
        let count = counts.entry(this_topic.to_owned()).or_default();
        count.1 += 1;
        match outcome {
            Ok(()) => count.0 += 1,
            Err(why) => {
                let shown = reasons.entry(this_topic.to_owned()).or_default();
                *shown += 1;
                if *shown <= 3 || topic.is_some() {
                    println!("FAIL {this_id} {}: {why}", case["request"]["params"]["query"]);
                }
            }
        }
        if id.is_some() {
            println!("request {}\nwant {} {}\ngot {status} {got}", case["request"], case["status"], case["response"]);
        }
    }
    let (mut passed, mut all) = (0, 0);
    for (topic, (good, total)) in &counts {
        println!("{topic:22} {good}/{total}");
        passed += good;
        all += total;
    }
    println!("{passed} passed, {} failed", all - passed);
    assert!(all > 0, "no case was run");
}
