//! `/detected_labels`, `/detected_fields`, `/detected_field/<name>/values`: what Grafana offers to filter by.
//!
//! In: a query. Out: labels with the number of their values (from the catalog); fields of the newest lines (metadata,
//! JSON, else logfmt) with type and number of values. Touches nothing.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::{Path, State};
use axum::response::Response;
use indexmap::IndexMap;
use millrace_log::record::Tenant;
use millrace_logql::{Answer, Direction, LabelPairs, RangeQuery, StreamResult};
use serde_json::Value;

use super::error::LokiError;
use super::params::{Params, QUERY_SINCE};
use super::query_range::check_limit;
use super::{LokiState, Whose, json, selector};

/// Lines looked at if `line_limit` is absent.
const LINE_LIMIT: usize = 100;
/// Fields named if `limit` is absent.
const FIELD_LIMIT: usize = 1000;
/// How deep objects are flattened.
const MAX_DEPTH: usize = 16;

pub(super) async fn labels(
    State(state): State<LokiState>,
    Whose(tenant): Whose,
    params: Params,
) -> Result<Response, LokiError> {
    let bounds = params.bounds(state.clock.now_ns(), QUERY_SINCE)?;
    let matchers = selector::parse(params.get("query"))?;
    let found =
        state.run(|cancel| state.store.streams(selector::plan(&state, &tenant, matchers, bounds, cancel))).await?;
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

pub(super) async fn fields(
    State(state): State<LokiState>,
    Whose(tenant): Whose,
    params: Params,
) -> Result<Response, LokiError> {
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
    State(state): State<LokiState>,
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
    check_limit(state, lines)?;
    let answered = state
        .run(|cancel| {
            state.engine.query_range(RangeQuery {
                tenant: tenant.as_str().to_owned(),
                query: params.get("query").to_owned(),
                start_ns,
                end_ns,
                step_ns: 1_000_000_000,
                interval_ns: 0,
                limit: lines,
                direction: Direction::Backward,
                limits: state.limits.query.clone(),
                cancel,
            })
        })
        .await?;
    match answered.value {
        Answer::Streams(streams) => {
            tokio::task::spawn_blocking(move || fields_of(&streams)).await.map_err(|_| LokiError::Stopping)
        }
        _ => Err(LokiError::bad("fields are detected in lines: a log query is expected, not a metric query")),
    }
}

fn fields_of(streams: &[StreamResult]) -> Fields {
    let mut fields = Fields::new();
    for stream in streams {
        for entry in &stream.entries {
            for (name, value) in &entry.metadata {
                note(&mut fields, name.clone(), value, None, None);
            }
            let known = |name: &str| has(&stream.stream_labels, name) || has(&entry.metadata, name);
            let named = |name: String| if known(&name) { format!("{name}_extracted") } else { name };
            if let Ok(Value::Object(object)) = serde_json::from_str(&entry.line) {
                flatten(&object, &mut Vec::new(), &mut |path, value| {
                    let name = named(label_name(&path.join("_")));
                    note(&mut fields, name, &value, Some("json"), Some(path));
                });
            } else {
                for (name, value) in logfmt(&entry.line) {
                    note(&mut fields, named(label_name(name)), &value, Some("logfmt"), None);
                }
            }
        }
    }
    fields
}

fn has(pairs: &LabelPairs, name: &str) -> bool {
    pairs.iter().any(|(n, _)| n == name)
}

fn note(fields: &mut Fields, name: String, value: &str, parser: Option<&'static str>, path: Option<&[String]>) {
    let field = fields.entry(name).or_default();
    field.kind = kind_of(value);
    field.values.insert(value.to_owned());
    if let Some(parser) = parser
        && !field.parsers.contains(&parser)
    {
        field.parsers.push(parser);
    }
    if field.path.is_none() {
        field.path = path.map(<[String]>::to_vec);
    }
}

/// Members of an object with their paths; arrays and nulls are left out, as Loki's `json` does.
fn flatten(object: &serde_json::Map<String, Value>, path: &mut Vec<String>, take: &mut impl FnMut(&[String], String)) {
    for (name, value) in object {
        path.push(name.clone());
        match value {
            Value::Object(inner) if path.len() < MAX_DEPTH => flatten(inner, path, take),
            Value::Object(_) | Value::Array(_) | Value::Null => {}
            Value::String(text) => take(path, text.clone()),
            Value::Bool(_) | Value::Number(_) => take(path, value.to_string()),
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

/// `name=value` pairs of a line; words without `=` are left out.
fn logfmt(line: &str) -> Vec<(&str, String)> {
    let mut pairs = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        let Some(value) = behind.strip_prefix('=') else {
            rest = behind.trim_start();
            continue;
        };
        let (value, behind) = match value.strip_prefix('"') {
            Some(body) => {
                let mut text = String::new();
                let mut chars = body.char_indices();
                let mut end = body.len();
                while let Some((i, c)) = chars.next() {
                    match c {
                        '"' => {
                            end = i + 1;
                            break;
                        }
                        '\\' => match chars.next() {
                            Some((_, 'n')) => text.push('\n'),
                            Some((_, 't')) => text.push('\t'),
                            Some((_, 'r')) => text.push('\r'),
                            Some((_, c)) => text.push(c),
                            None => {}
                        },
                        c => text.push(c),
                    }
                }
                (text, body.get(end..).unwrap_or_default())
            }
            None => {
                let end = value.find(char::is_whitespace).unwrap_or(value.len());
                let (text, behind) = value.split_at(end);
                (text.to_owned(), behind)
            }
        };
        if !name.is_empty() && !value.is_empty() {
            pairs.push((name, value));
        }
        rest = behind.trim_start();
    }
    pairs
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
        let fields = fields_of(&streams);
        let shown: Vec<String> =
            fields.iter().map(|(n, f)| format!("{n}:{}:{}:{}", f.kind, f.values.len(), f.parsers.join("+"))).collect();
        assert_eq!(
            shown,
            [
                "run:string:2:",
                "app_extracted:string:1:json",
                "n:int:1:json",
                "o_User_Agent:string:1:json",
                "_:string:1:json",
                "_1st:int:1:json",
                "level:string:1:logfmt",
                "msg:string:1:logfmt",
                "took:duration:1:logfmt"
            ]
        );
        assert_eq!(fields["o_User_Agent"].path.as_deref().unwrap(), ["o", "User-Agent"]);
        assert_eq!(fields["msg"].values[0], "say \"hi\"");
    }
}
