//! Replays recorded answers of Grafana Loki (see README.md beside them) directly against the engine.
//!
//! The folder `conformance/loki` of `MILLRACE_SHARED` (default `../shared`) holds data set and cases; without it the
//! test says so and passes. Only `query`, `query_range` and `format_query` are asked here, the rest belongs to the
//! doors. `LOKI_CASE=json-parser-003` shows one case, `LOKI_TOPIC=offset` the failures of a topic.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use millrace_logql::memory::MemoryStorage;
use millrace_logql::storage::QueryLimits;
use millrace_logql::syntax::{print::pretty, quantity};
use millrace_logql::{
    Answer, Budget, Direction, Engine, EntryResult, InstantQuery, LabelPairs, QueryError, RangeQuery, StreamResult,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Cases that must agree: raise it when more do, never lower it.
const AGREE: usize = 544;

fn folder() -> Option<PathBuf> {
    let shared = std::env::var("MILLRACE_SHARED").unwrap_or_else(|_| "../shared".to_owned());
    // Tests run in the folder of their crate.
    [PathBuf::from(&shared), PathBuf::from("..").join(&shared)]
        .into_iter()
        .map(|base| base.join("conformance/loki"))
        .find(|f| f.join("open.jsonl").is_file())
}

fn pairs(object: &Value) -> Vec<(&str, &str)> {
    object.as_object().into_iter().flatten().map(|(n, v)| (n.as_str(), v.as_str().unwrap_or(""))).collect()
}

fn load(folder: &std::path::Path) -> MemoryStorage {
    let mut text = String::new();
    let file = std::fs::File::open(folder.join("dataset.jsonl.gz")).unwrap();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let mut storage = MemoryStorage::new();
    for line in text.lines().filter(|l| !l.trim().is_empty()) {
        let push: Value = serde_json::from_str(line).unwrap();
        for stream in push["streams"].as_array().unwrap() {
            let labels = pairs(&stream["stream"]);
            for entry in stream["values"].as_array().unwrap() {
                let time_ns = entry[0].as_str().unwrap().parse().unwrap();
                let line = entry[1].as_str().unwrap().to_owned();
                // The door that takes pushes makes label names of metadata's names.
                let metadata: Vec<(String, &str)> =
                    pairs(&entry[2]).into_iter().map(|(n, v)| (n.replace('-', "_"), v)).collect();
                let metadata: Vec<(&str, &str)> = metadata.iter().map(|(n, v)| (n.as_str(), *v)).collect();
                storage.push_with(&labels, time_ns, line, &metadata);
            }
        }
    }
    storage
}

/// ns, seconds with a fraction, or RFC 3339.
fn time(text: &str) -> Result<i64, String> {
    if let Ok(number) = text.parse::<i64>() {
        return Ok(if text.trim_start_matches('-').len() <= 10 { number * 1_000_000_000 } else { number });
    }
    if let Ok(seconds) = text.parse::<f64>() {
        return Ok((seconds.trunc() * 1e9) as i64 + ((seconds.fract() * 1000.0).round() as i64) * 1_000_000);
    }
    let parsed = chrono::DateTime::parse_from_rfc3339(text).map_err(|e| e.to_string())?;
    parsed.timestamp_nanos_opt().ok_or_else(|| "out of range".to_owned())
}

fn step(text: &str) -> Result<i64, String> {
    match text.parse::<f64>() {
        Ok(seconds) => Ok((seconds * 1e9) as i64),
        Err(_) => quantity::duration(text).ok_or_else(|| format!("cannot parse {text:?} to a valid duration")),
    }
}

fn labels(pairs: &LabelPairs) -> String {
    json!(pairs.iter().cloned().collect::<BTreeMap<String, String>>()).to_string()
}

fn object(value: &Value) -> String {
    let sorted: BTreeMap<String, Value> =
        value.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    json!(sorted).to_string()
}

struct Case<'a> {
    case: &'a Value,
}

impl Case<'_> {
    fn param(&self, name: &str) -> Option<&str> {
        match &self.case["request"]["params"][name] {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    fn time(&self, name: &str) -> Result<Option<i64>, String> {
        self.param(name).map(time).transpose()
    }

    async fn ask(&self, engine: &Engine) -> Result<Answer, String> {
        let query = self.param("query").unwrap_or("");
        let limits = QueryLimits { max_entries: 100_000, max_series: 10_000, ..QueryLimits::default() };
        let budget = Budget::new(limits, &CancellationToken::new());
        let tenant = "default".to_owned();
        let told = |e: QueryError| match e {
            QueryError::NotYet { .. } => format!("NOT YET {e}"),
            e => e.to_string(),
        };
        if self.param("limit").is_some_and(|l| l.parse::<i64>().map_or(true, |l| l <= 0)) {
            return Err("limit must be a positive value".to_owned());
        }
        if self.path().ends_with("/query") {
            let time_ns = self.time("time")?.ok_or("no time")?;
            let expr = millrace_logql::parse(query).map_err(|e| told(e.into()))?;
            let query = InstantQuery { tenant, time_ns, budget, ..InstantQuery::new(expr) };
            return engine.query_instant(query).await.map(|a| a.value).map_err(told);
        }
        let end_ns = self.time("end")?.ok_or("no end")?;
        let start_ns = match (self.time("start")?, self.param("since")) {
            (Some(start), _) => start,
            (None, since) => end_ns - since.map(step).transpose()?.unwrap_or(3600 * 1_000_000_000),
        };
        let default_step = (((end_ns - start_ns) as f64 / 1e9 / 250.0).floor().max(1.0) * 1e9) as i64;
        let direction = match self.param("direction").map(str::to_lowercase).as_deref() {
            None | Some("backward") => Direction::Backward,
            Some("forward") => Direction::Forward,
            Some(other) => return Err(format!("invalid direction '{other}'")),
        };
        let expr = millrace_logql::parse(query).map_err(|e| told(e.into()))?;
        let query = RangeQuery {
            tenant,
            start_ns,
            end_ns,
            step_ns: self.param("step").map(step).transpose()?.unwrap_or(default_step),
            interval_ns: self.param("interval").map(step).transpose()?.unwrap_or(0),
            limit: self.param("limit").map_or(100, |l| l.parse().unwrap_or(100)),
            direction,
            budget,
            ..RangeQuery::new(expr)
        };
        engine.query_range(query).await.map(|a| a.value).map_err(told)
    }

    fn path(&self) -> &str {
        self.case["request"]["path"].as_str().unwrap_or("")
    }

    fn compare(&self, got: &Result<Answer, String>) -> Result<(), String> {
        let refused = self.case["status"].as_u64().unwrap_or(0) >= 400;
        let answer = match got {
            Err(message) if message.starts_with("NOT YET") => return Err(message.clone()),
            Err(message) if refused => {
                let words = self.case["message_has"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let missing: Vec<&str> = words.filter(|w| !message.contains(w)).collect();
                return if missing.is_empty() { Ok(()) } else { Err(format!("want {missing:?} in: {message}")) };
            }
            Err(message) => return Err(format!("refused: {message}")),
            Ok(_) if refused => return Err(format!("not refused; Loki: {}", self.case["response"])),
            Ok(answer) => answer,
        };
        let data = &self.case["response"]["data"];
        let results = data["result"].as_array().cloned().unwrap_or_default();
        match (data["resultType"].as_str(), answer) {
            (Some("streams"), Answer::Streams(streams)) => {
                let categorized = data["encodingFlags"].as_array().is_some_and(|f| !f.is_empty());
                streams_agree(&results, streams, categorized)
            }
            (Some("matrix"), Answer::Matrix(series)) => {
                let got: Vec<(String, Vec<(f64, f64)>)> = series
                    .iter()
                    .map(|s| (labels(&s.labels), s.points.iter().map(|(t, v)| (*t as f64 / 1e9, *v)).collect()))
                    .collect();
                self.series_agree(&results, "values", got)
            }
            (Some("vector"), Answer::Vector(samples)) => {
                let got: Vec<(String, Vec<(f64, f64)>)> =
                    samples.iter().map(|s| (labels(&s.labels), vec![(s.time_ns as f64 / 1e9, s.value)])).collect();
                self.series_agree(&results, "value", got)
            }
            (Some("scalar"), Answer::Scalar(_, value)) => close(number(&data["result"][1]), *value, 1e-9, 0.0),
            (kind, _) => Err(format!("want {kind:?}, got another kind")),
        }
    }

    fn series_agree(&self, want: &[Value], key: &str, got: Vec<(String, Vec<(f64, f64)>)>) -> Result<(), String> {
        let relative = self.case["tolerance"]["rel"].as_f64().unwrap_or(1e-9);
        let absolute = self.case["tolerance"]["abs"].as_f64().unwrap_or(0.0);
        let wanted: Vec<(String, Vec<(f64, f64)>)> = want
            .iter()
            .map(|w| {
                let points = if key == "value" { vec![w[key].clone()] } else { w[key].as_array().unwrap().clone() };
                (object(&w["metric"]), points.iter().map(|p| (p[0].as_f64().unwrap(), number(&p[1]))).collect())
            })
            .collect();
        if self.case["ordered"] == true {
            for (i, (w, g)) in wanted.iter().zip(&got).enumerate() {
                close(w.1[0].1, g.1[0].1, relative, absolute).map_err(|e| format!("order, place {i}: {e}"))?;
            }
        }
        let got: BTreeMap<String, Vec<(f64, f64)>> = got.into_iter().collect();
        let wanted: BTreeMap<String, Vec<(f64, f64)>> = wanted.into_iter().collect();
        keys_agree(&wanted, &got)?;
        for (key, want) in &wanted {
            let got = &got[key];
            if want.len() != got.len() {
                return Err(format!("{key}: want {} points, got {}", want.len(), got.len()));
            }
            for (w, g) in want.iter().zip(got) {
                if (w.0 - g.0).abs() > 5e-4 {
                    return Err(format!("{key}: want a point at {}, got {}", w.0, g.0));
                }
                close(w.1, g.1, relative, absolute).map_err(|e| format!("{key} at {}: {e}", w.0))?;
            }
        }
        Ok(())
    }
}

fn keys_agree<T>(want: &BTreeMap<String, T>, got: &BTreeMap<String, T>) -> Result<(), String> {
    let missing: Vec<&String> = want.keys().filter(|k| !got.contains_key(*k)).collect();
    let extra: Vec<&String> = got.keys().filter(|k| !want.contains_key(*k)).collect();
    if missing.is_empty() && extra.is_empty() {
        return Ok(());
    }
    Err(format!(
        "missing {} of {}: {:?}; unexpected {}: {:?}",
        missing.len(),
        want.len(),
        missing.first(),
        extra.len(),
        extra.first()
    ))
}

fn streams_agree(want: &[Value], got: &[StreamResult], categorized: bool) -> Result<(), String> {
    type Entries = Vec<(String, String, String)>;
    let mut wanted: BTreeMap<String, Entries> = BTreeMap::new();
    for stream in want {
        let entries = wanted.entry(object(&stream["stream"])).or_default();
        for v in stream["values"].as_array().unwrap() {
            let third = v.get(2).map_or_else(|| "{}".to_owned(), |third| sorted(third).to_string());
            entries.push((v[0].as_str().unwrap().to_owned(), v[1].as_str().unwrap().to_owned(), third));
        }
    }
    let mut found: BTreeMap<String, Entries> = BTreeMap::new();
    for stream in got {
        let key = labels(if categorized { &stream.stream_labels } else { &stream.labels });
        let third = |entry: &EntryResult| {
            let mut third = serde_json::Map::new();
            for (name, part) in [("parsed", &entry.parsed), ("structuredMetadata", &entry.metadata)] {
                if !part.is_empty() {
                    third.insert(name.to_owned(), json!(part.iter().cloned().collect::<BTreeMap<String, String>>()));
                }
            }
            if categorized { Value::Object(third).to_string() } else { "{}".to_owned() }
        };
        let entries = stream.entries.iter().map(|e| (e.time_ns.to_string(), e.line.clone(), third(e)));
        found.entry(key).or_default().extend(entries);
    }
    keys_agree(&wanted, &found)?;
    for (key, want) in &mut wanted {
        let got = found.get_mut(key).unwrap();
        if categorized {
            want.sort();
            got.sort();
        }
        if want.len() != got.len() {
            return Err(format!("{key}: want {} entries, got {}", want.len(), got.len()));
        }
        if let Some((w, g)) = want.iter().zip(got.iter()).find(|(w, g)| w != g) {
            return Err(format!("{key}: want {w:?}, got {g:?}"));
        }
    }
    Ok(())
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            json!(object.iter().map(|(k, v)| (k.clone(), sorted(v))).collect::<BTreeMap<String, Value>>())
        }
        other => other.clone(),
    }
}

fn number(value: &Value) -> f64 {
    match value.as_str() {
        Some("+Inf") => f64::INFINITY,
        Some("-Inf") => f64::NEG_INFINITY,
        Some(text) => text.parse().unwrap_or(f64::NAN),
        None => f64::NAN,
    }
}

fn close(want: f64, got: f64, relative: f64, absolute: f64) -> Result<(), String> {
    let agree = (want.is_nan() && got.is_nan())
        || want == got
        || (want - got).abs() <= (relative * want.abs().max(got.abs())).max(absolute).max(1e-12);
    if agree { Ok(()) } else { Err(format!("want {want}, got {got}")) }
}

fn short(text: &str) -> String {
    let line = text.replace('\n', "\\n");
    if line.chars().count() > 500 { line.chars().take(500).collect::<String>() + "…" } else { line }
}

#[tokio::test]
async fn answers_agree_with_loki() {
    let Some(folder) = folder() else {
        println!("no conformance/loki in MILLRACE_SHARED: nothing replayed");
        return;
    };
    let engine = Engine::new(Arc::new(load(&folder)));
    let only_case = std::env::var("LOKI_CASE").ok();
    let only_topic = std::env::var("LOKI_TOPIC").ok();
    let mut topics: BTreeMap<String, (usize, usize, usize)> = BTreeMap::new();
    let text = std::fs::read_to_string(folder.join("open.jsonl")).unwrap();
    for line in text.lines().filter(|l| !l.trim().is_empty()) {
        let value: Value = serde_json::from_str(line).unwrap();
        let case = Case { case: &value };
        let id = value["id"].as_str().unwrap();
        if only_case.as_deref().is_some_and(|only| only != id) {
            continue;
        }
        let topic = value["topic"].as_str().unwrap().to_owned();
        let path = case.path().to_owned();
        let query = case.param("query").unwrap_or("").to_owned();
        let outcome = if path.ends_with("/format_query") {
            match millrace_logql::parse(&query).map(|e| pretty(&e)) {
                Ok(text) if Some(text.as_str()) == value["response"]["data"].as_str() => Ok(()),
                Ok(text) => Err(format!("want {}, got {text}", value["response"]["data"])),
                Err(_) if value["status"] == 400 => Ok(()),
                Err(error) => Err(format!("refused: {error}")),
            }
        } else if path.ends_with("/query") || path.ends_with("/query_range") {
            let got = case.ask(&engine).await;
            if only_case.is_some() {
                println!("{}\nwant {}\ngot {got:?}", value["request"], value["response"]);
            }
            case.compare(&got)
        } else {
            continue;
        };
        let counts = topics.entry(topic.clone()).or_default();
        match outcome {
            Ok(()) => counts.0 += 1,
            Err(why) => {
                let refused = why.starts_with("NOT YET");
                if refused {
                    counts.2 += 1;
                } else {
                    counts.1 += 1;
                }
                if !refused || only_topic.is_some() {
                    println!("FAIL {id} {} -- {}", short(&query), short(&why));
                }
            }
        }
    }
    let mut sum = (0, 0, 0);
    for (topic, (agree, differ, refused)) in &topics {
        println!("{topic:24} {agree:4} agree {differ:4} differ {refused:4} not yet");
        sum = (sum.0 + agree, sum.1 + differ, sum.2 + refused);
    }
    println!("{:24} {:4} agree {:4} differ {:4} not yet", "all", sum.0, sum.1, sum.2);
    if only_case.is_none() {
        assert!(sum.0 >= AGREE, "{} agree, {AGREE} did before", sum.0);
    }
}
