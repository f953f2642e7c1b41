//! `/detected_labels`, `/detected_fields`, `/detected_field/<name>/values`: what Grafana offers to filter by.
//!
//! In: a query. Out: labels with the number of their values (from the catalog); fields of the newest lines (metadata,
//! JSON, else logfmt) with type and number of values. Touches nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use axum::extract::Path;
use axum::response::Response;
use indexmap::IndexMap;
use millrace_log::record::Tenant;
use millrace_logql::storage::StreamLabels;
use millrace_logql::{Answer, Direction, Expr, LabelPairs, Pipeline, RangeQuery, StreamResult};
use serde_json::Value;

use super::error::LokiError;
use super::params::{Params, QUERY_SINCE};
use super::query::parse;
use super::query_range::check_limit;
use super::state::{LokiState, Scoped, Whose};
use super::{json, selector};

/// Lines looked at if `line_limit` is absent.
const LINE_LIMIT: usize = 100;
/// Fields named if `limit` is absent.
const FIELD_LIMIT: usize = 1000;
/// How deep objects are flattened.
const MAX_DEPTH: usize = 16;

pub(super) async fn labels(Scoped(state): Scoped, Whose(tenant): Whose, params: Params) -> Result<Response, LokiError> {
    let bounds = params.bounds(state.clock.now_ns(), QUERY_SINCE)?;
    let matchers = selector::parse(params.get("query"))?;
    let found =
        state.run(&tenant, |budget| state.store.streams(selector::plan(&tenant, matchers, bounds, budget))).await?;
    let mut values: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (stream, _) in &found {
        for (name, value) in stream.labels.iter() {
            values.entry(name).or_default().insert(value);
        }
    }
    let labels: Vec<Value> = values
        .into_iter()
        .map(|(name, values)| serde_json::json!({"label": name, "cardinality": values.len()}))
        .collect();
    Ok(json::answer(serde_json::json!({"detectedLabels": labels}).to_string()))
}

pub(super) async fn fields(Scoped(state): Scoped, Whose(tenant): Whose, params: Params) -> Result<Response, LokiError> {
    let limit = params.limit(FIELD_LIMIT)?;
    let found = detect(&state, &tenant, &params).await?;
    if found.is_empty() {
        return Ok(json::answer("{}".to_owned()));
    }
    let fields: Vec<Value> = found
        .iter()
        .take(limit)
        .map(|(name, field)| {
            let mut one = serde_json::json!({
                "label": name, "type": field.kind, "cardinality": field.values.len(),
                "parsers": if field.parsers.is_empty() { None } else { Some(&field.parsers) },
            });
            if let (Some(path), Some(one)) = (&field.path, one.as_object_mut()) {
                one.insert("jsonPath".to_owned(), serde_json::json!(path));
            }
            one
        })
        .collect();
    Ok(json::answer(serde_json::json!({"fields": fields, "limit": limit}).to_string()))
}

pub(super) async fn values(
    Scoped(state): Scoped,
    Whose(tenant): Whose,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response, LokiError> {
    let limit = params.limit(FIELD_LIMIT)?;
    let found = detect(&state, &tenant, &params).await?;
    let Some(field) = found.get(&name) else { return Ok(json::answer("{}".to_owned())) };
    let values: Vec<&String> = field.values.iter().take(limit).collect();
    Ok(json::answer(serde_json::json!({"limit": limit, "values": values}).to_string()))
}

#[derive(Debug, Default)]
struct Field {
    kind: &'static str,
    values: indexmap::IndexSet<String>,
    parsers: Vec<&'static str>,
    path: Option<Vec<String>>,
}

type Fields = IndexMap<String, Field>;

async fn detect(state: &LokiState, tenant: &Tenant, params: &Params) -> Result<Fields, LokiError> {
    let (start_ns, end_ns) = params.bounds(state.clock.now_ns(), QUERY_SINCE)?;
    let lines = match params.get("line_limit") {
        "" => LINE_LIMIT,
        text => text.parse().map_err(|_| LokiError::Bad(format!("strconv.Atoi: parsing {text:?}: invalid syntax")))?,
    };
    check_limit(state, tenant, lines)?;
    let expr = Arc::new(millrace_logql::parse(params.get("query")).map_err(|e| LokiError::Query(e.into()))?);
    let answered = state
        .run(tenant, |budget| {
            state.engine.query_range(RangeQuery {
                tenant: tenant.as_str().to_owned(),
                query: Arc::clone(&expr),
                start_ns,
                end_ns,
                step_ns: 1_000_000_000,
                interval_ns: 0,
                limit: lines,
                direction: Direction::Backward,
                budget,
            })
        })
        .await?;
    match answered.value {
        Answer::Streams(streams) => {
            tokio::task::spawn_blocking(move || fields_of(&streams)).await.map_err(|_| LokiError::Stopping)?
        }
        _ => Err(LokiError::bad("fields are detected in lines: a log query is expected, not a metric query")),
    }
}

/// The parsers tried on a line.
struct Parsers {
    json: Pipeline,
    logfmt: Pipeline,
}

impl Parsers {
    fn new() -> Result<Self, LokiError> {
        let compile = |query| match parse(query)? {
            Expr::Log(log) => Ok(Pipeline::new(&log)?),
            _ => Err(LokiError::bad("a log query is expected")),
        };
        Ok(Self { json: compile(r#"{a="b"} | json"#)?, logfmt: compile(r#"{a="b"} | logfmt"#)? })
    }

    /// What the line holds, by the first parser that finds something: Loki also names what a faulty line began with.
    fn read(&self, stream: &StreamLabels, metadata: &StreamLabels, line: &str) -> (&'static str, LabelPairs) {
        let parsed = |pipeline: &Pipeline| -> LabelPairs {
            let done = pipeline.process(stream, Some(metadata), 0, line.as_bytes());
            let found = done.map(|done| done.parsed).unwrap_or_default();
            found.into_iter().filter(|(name, _)| !name.starts_with("__error")).collect()
        };
        let json = parsed(&self.json);
        if json.is_empty() { ("logfmt", parsed(&self.logfmt)) } else { ("json", json) }
    }
}

fn fields_of(streams: &[StreamResult]) -> Result<Fields, LokiError> {
    let parsers = Parsers::new()?;
    let mut fields = Fields::new();
    for stream in streams {
        let labels: StreamLabels = stream.stream_labels.as_slice().into();
        for entry in &stream.entries {
            for (name, value) in &entry.metadata {
                note(&mut fields, name, value, None, None);
            }
            let metadata: StreamLabels = entry.metadata.as_slice().into();
            let (parser, found) = parsers.read(&labels, &metadata, &entry.line);
            let mut paths = HashMap::new();
            if parser == "json"
                && let Ok(Value::Object(object)) = serde_json::from_str(&entry.line)
            {
                paths_of(&object, &mut Vec::new(), &mut paths);
            }
            for (name, value) in &found {
                let path = (parser == "json").then(|| {
                    let own = name.strip_suffix("_extracted").unwrap_or(name);
                    let known = paths.get(name).or_else(|| paths.get(own));
                    known.cloned().unwrap_or_else(|| vec![name.clone()])
                });
                note(&mut fields, name, value, Some(parser), path);
            }
            // What the query's own parsers made besides.
            for (name, value) in entry.parsed.iter().filter(|(name, _)| !has(&found, name)) {
                if !name.starts_with("__error") {
                    note(&mut fields, name, value, Some(parser), None);
                }
            }
        }
    }
    Ok(fields)
}

fn has(pairs: &LabelPairs, name: &str) -> bool {
    pairs.iter().any(|(n, _)| n == name)
}

fn note(fields: &mut Fields, name: &str, value: &str, parser: Option<&'static str>, path: Option<Vec<String>>) {
    let field = match fields.get_mut(name) {
        Some(field) => field,
        None => fields.entry(name.to_owned()).or_default(),
    };
    field.kind = kind_of(value);
    if !field.values.contains(value) {
        field.values.insert(value.to_owned());
    }
    if let Some(parser) = parser
        && !field.parsers.contains(&parser)
    {
        field.parsers.push(parser);
    }
    if field.path.is_none() {
        field.path = path;
    }
}

/// Paths of the members of an object by the label names that `json` gives them.
fn paths_of(object: &serde_json::Map<String, Value>, path: &mut Vec<String>, paths: &mut HashMap<String, Vec<String>>) {
    for (name, value) in object {
        path.push(name.clone());
        match value {
            Value::Object(inner) if path.len() < MAX_DEPTH => paths_of(inner, path, paths),
            _ => {
                paths.entry(label_name(&path.join("_"))).or_insert_with(|| path.clone());
            }
        }
        path.pop();
    }
}

/// A name as LogQL takes it: other characters are `_`, a digit in front gets one.
fn label_name(name: &str) -> String {
    let mut out: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if out.starts_with(|c: char| c.is_ascii_digit()) {
        out.insert(0, '_');
    }
    out
}

/// Loki's names of types.
fn kind_of(value: &str) -> &'static str {
    if value.parse::<i64>().is_ok() {
        "int"
    } else if value.parse::<f64>().is_ok() {
        "float"
    } else if matches!(value, "true" | "false" | "t" | "f" | "T" | "F" | "TRUE" | "FALSE" | "True" | "False") {
        "boolean"
    } else if is_duration(value) {
        "duration"
    } else if is_bytes(value) {
        "bytes"
    } else {
        "string"
    }
}

/// As Go's `time.ParseDuration` takes it: `1h2m3s`, `1.5s`, `300ms`.
fn is_duration(text: &str) -> bool {
    let mut rest = text.trim_start_matches(['+', '-']);
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, behind) = rest.split_at(number);
        let unit = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit);
        if digits.parse::<f64>().is_err() || !["ns", "us", "µs", "μs", "ms", "s", "m", "h"].contains(&unit) {
            return false;
        }
        rest = behind;
    }
    true
}

/// As humanize's `ParseBytes` takes it: `12KiB`, `3.4MB`, `1 GB`.
fn is_bytes(text: &str) -> bool {
    let number = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ',').unwrap_or(text.len());
    let (digits, unit) = text.split_at(number);
    let unit = unit.trim().to_ascii_lowercase();
    let base = unit.strip_suffix('b').map_or(unit.as_str(), |u| u.strip_suffix('i').unwrap_or(u));
    let base = base.strip_suffix('i').unwrap_or(base);
    digits.replace(',', "").parse::<f64>().is_ok() && ["", "k", "m", "g", "t", "p", "e"].contains(&base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_those_of_go() {
        for (value, want) in [
            ("5", "int"),
            ("-5", "int"),
            ("12345678901234567890", "float"),
            ("1.5e-07", "float"),
            ("true", "boolean"),
            ("1h2m3s", "duration"),
            ("999ns", "duration"),
            ("1.5s", "duration"),
            ("12KiB", "bytes"),
            ("3.4MB", "bytes"),
            ("0B", "bytes"),
            ("", "string"),
            ("GET", "string"),
            ("5 apples", "string"),
        ] {
            assert_eq!(kind_of(value), want, "{value}");
        }
    }

    #[test]
    fn fields_come_from_metadata_json_and_logfmt() {
        let entry = |line: &str, metadata: &[(&str, &str)]| millrace_logql::EntryResult {
            time_ns: 1,
            line: line.to_owned(),
            metadata: metadata.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            parsed: Vec::new(),
        };
        let streams = [StreamResult {
            labels: Vec::new(),
            stream_labels: vec![("app".to_owned(), "a".to_owned())],
            entries: vec![
                entry(
                    r#"{"app":"x","n":1,"o":{"User-Agent":"curl"},"é":"y","1st":2,"l":[1],"z":null}"#,
                    &[("run", "r1")],
                ),
                entry(r#"level=info msg="say \"hi\"" took=5ms broken"#, &[("run", "r2")]),
            ],
        }];
        let fields = fields_of(&streams).unwrap();
        let shown: Vec<String> =
            fields.iter().map(|(n, f)| format!("{n}:{}:{}:{}", f.kind, f.values.len(), f.parsers.join("+"))).collect();
        assert_eq!(
            shown,
            [
                "run:string:2:",
                "_:string:1:json",
                "_1st:int:1:json",
                "app_extracted:string:1:json",
                "n:int:1:json",
                "o_User_Agent:string:1:json",
                "level:string:1:logfmt",
                "msg:string:1:logfmt",
                "took:duration:1:logfmt"
            ]
        );
        assert_eq!(fields["o_User_Agent"].path.as_deref().unwrap(), ["o", "User-Agent"]);
        assert_eq!(fields["app_extracted"].path.as_deref().unwrap(), ["app"]);
        assert_eq!(fields["msg"].values[0], "say \"hi\"");
    }
}
