//! Tests of transforms, written in YAML: lines in, what must become of them out. `millrace test` runs them.
//!
//! In: the agent's configuration, tests. Out: for each test what differs from what is wanted. Touches the files of
//! programs, by reading.
//!
//! A test says only what it cares for: keys of `want` that are left out may be anything, and maps name some of the
//! entries (null: this one must not be there), unless `exact` is set.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use chrono::DateTime;
use millrace_log::record::Labels;
use millrace_log::value::Faults;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::config::{AgentConfig, FileSource, SourceConfig};
use crate::discover::Globs;
use crate::error::AgentError;
use crate::metrics::AgentMetrics;
use crate::transform::check::check_steps;
use crate::transform::config::StepConfig;
use crate::transform::{Chain, Content, Destination, Input, META_ERROR, Origin, Steps, Transformed, Worker};

/// Event time of inputs that name none: 2026-01-01T00:00:00Z.
const USUAL_TIME_NS: i64 = 1_767_225_600_000_000_000;

/// A file with tests.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TestFile {
    /// The tests, each on its own: what a throttle remembers is forgotten between them.
    pub tests: Vec<TransformTest>,
}

/// Lines, and what must become of them.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TransformTest {
    /// What it shows.
    pub name: String,
    /// Steps to run: names of `agent.transforms`, or transforms written out. Left out: those of the source that reads
    /// `filename`.
    pub transforms: Option<Vec<StepConfig>>,
    /// Events, in order.
    pub input: Vec<TestInput>,
    /// What must become of each, in the same order.
    pub want: Vec<Want>,
}

/// One event as the agent reads it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TestInput {
    /// The line; of a multi-line event all its lines.
    pub line: String,
    /// The file that it stands in; it chooses the source, where the test names no `transforms`.
    pub filename: String,
    /// Labels beside those that the source gives.
    pub labels: BTreeMap<String, String>,
    /// Event time, RFC 3339; also the present for `throttle`. Left out: 2026-01-01T00:00:00Z.
    pub time: Option<String>,
}

/// What must become of an event.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Want {
    /// The record's value if it is a line, else its field `message`.
    pub message: Option<String>,
    /// Fields of the record's value, which must be a JSON object. An empty map: it has fields.
    pub fields: Option<BTreeMap<String, Json>>,
    /// Labels of the stream.
    pub labels: Option<BTreeMap<String, Option<String>>>,
    /// Structured metadata.
    pub metadata: Option<BTreeMap<String, Option<String>>>,
    /// Event time, RFC 3339.
    pub time: Option<String>,
    /// Topic that the record goes to.
    pub topic: Option<String>,
    /// Reason for which it is dropped.
    pub dropped: Option<String>,
    /// Part of the reason for which it goes to the dead letters.
    pub dead_letter: Option<String>,
    /// Part of the error of a step that failed and let it pass.
    pub error: Option<String>,
    /// Maps name all entries.
    pub exact: bool,
}

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TestResult {
    /// Its name.
    pub name: String,
    /// Whether everything was as wanted.
    pub passed: bool,
    /// What was not.
    pub differences: Vec<Difference>,
}

/// One thing that is not as wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Which input, from 1.
    pub event: usize,
    /// Which key of `want`.
    pub key: String,
    /// What it names.
    pub want: String,
    /// What became of the event.
    pub found: String,
}

fn time_ns(text: &str) -> Option<i64> {
    DateTime::parse_from_rfc3339(text).ok()?.timestamp_nanos_opt()
}

/// The source that reads a file.
fn source_of<'c>(config: &'c AgentConfig, filename: &str) -> Option<&'c FileSource> {
    config.sources.iter().find_map(|source| {
        let SourceConfig::File(file) = source else { return None };
        let globs = Globs::new(&file.include, &file.exclude, None).ok()?;
        globs.matches(Path::new(filename)).then_some(file)
    })
}

impl TestFile {
    /// Reports what types can't express.
    pub fn check(&self, config: &AgentConfig, faults: &mut Faults) {
        if self.tests.is_empty() {
            faults.add("tests", "is empty: add at least one test");
        }
        for (i, test) in self.tests.iter().enumerate() {
            faults.within(&format!("tests[{i}]"), |f| test.check(config, f));
        }
    }
}

impl TransformTest {
    fn check(&self, config: &AgentConfig, faults: &mut Faults) {
        if self.name.is_empty() {
            faults.add("name", "is empty: describe what the test shows");
        }
        if self.input.is_empty() {
            faults.add("input", "is empty: add at least one `- line: …`");
        }
        if self.input.len() != self.want.len() {
            let message =
                format!("has {} entries, but `input` has {}: expected one for each", self.want.len(), self.input.len());
            faults.add("want", message);
        }
        if let Some(steps) = &self.transforms {
            check_steps(steps, &config.transforms, faults);
        }
        let bad_time = |text: &Option<String>| text.as_deref().is_some_and(|text| time_ns(text).is_none());
        for (i, input) in self.input.iter().enumerate() {
            faults.within(&format!("input[{i}]"), |f| {
                if bad_time(&input.time) {
                    f.add("time", "invalid time: expected RFC 3339, as in 2026-03-01T12:00:00Z");
                }
                if self.transforms.is_none() && source_of(config, &input.filename).is_none() {
                    let what = format!(
                        "no source of the configuration reads `{}`: use a file that one does, or set `transforms`",
                        input.filename
                    );
                    f.add("filename", what);
                }
            });
        }
        for (i, want) in self.want.iter().enumerate() {
            if bad_time(&want.time) {
                faults.add(&format!("want[{i}].time"), "invalid time: expected RFC 3339, as in 2026-03-01T12:00:00Z");
            }
        }
    }
}

/// Runs checked tests.
pub fn run(config: &AgentConfig, file: &TestFile) -> Result<Vec<TestResult>, AgentError> {
    file.tests.iter().map(|test| run_one(config, test)).collect()
}

fn run_one(config: &AgentConfig, test: &TransformTest) -> Result<TestResult, AgentError> {
    let metrics = AgentMetrics::default();
    let mut steps = Steps::new(&config.transforms, &metrics);
    let mut worker = Worker::default();
    let mut differences = Vec::new();
    // Inputs of one source share its steps, as they do in the agent.
    let mut chains: Vec<(*const FileSource, Option<Arc<Chain>>)> = Vec::new();
    for (i, (input, want)) in test.input.iter().zip(&test.want).enumerate() {
        let source = source_of(config, &input.filename);
        let of = match &test.transforms {
            Some(_) => std::ptr::null(),
            None => source.map_or(std::ptr::null(), std::ptr::from_ref),
        };
        let chain = match chains.iter().find(|(known, _)| *known == of) {
            Some((_, chain)) => chain.clone(),
            None => {
                let list = test.transforms.as_deref().or(source.map(|file| file.transforms.as_slice()));
                let chain = steps.chain("transforms", list.unwrap_or_default())?;
                chains.push((of, chain.clone()));
                chain
            }
        };
        let labels = labels_of(config, source, input);
        let time = input.time.as_deref().and_then(time_ns).unwrap_or(USUAL_TIME_NS);
        worker.now_ns = time;
        let line = Bytes::copy_from_slice(input.line.as_bytes());
        let mut out = Vec::new();
        if let Some(chain) = chain {
            let origin = Origin::new(&labels, &input.filename, "file");
            let input = Input { line: line.clone(), time_ns: time, meta: None, seed: i as u64 };
            chain.run(&origin, std::iter::once(input), &mut worker, &mut out);
        }
        let shaped = out.pop().unwrap_or_else(Transformed::unchanged);
        let found = ActualEvent { config, line: &line, labels: &labels, time, shaped: &shaped };
        compare(i + 1, want, &found, &mut differences);
    }
    Ok(TestResult { name: test.name.clone(), passed: differences.is_empty(), differences })
}

fn labels_of(config: &AgentConfig, source: Option<&FileSource>, input: &TestInput) -> Labels {
    let host = config.host.clone().unwrap_or_else(|| "test".to_owned());
    let mut pairs = BTreeMap::from([("host".to_owned(), host)]);
    if !input.filename.is_empty() {
        pairs.insert("filename".to_owned(), input.filename.clone());
    }
    pairs.extend(source.map(|file| file.labels.clone()).unwrap_or_default());
    pairs.extend(input.labels.clone());
    Labels::new(pairs)
}

/// What became of an event.
struct ActualEvent<'a> {
    config: &'a AgentConfig,
    line: &'a [u8],
    labels: &'a Labels,
    time: i64,
    shaped: &'a Transformed,
}

impl ActualEvent<'_> {
    fn fields(&self) -> Option<Map<String, Json>> {
        match &self.shaped.content {
            Content::Json(json) => serde_json::from_slice(json).ok(),
            _ => None,
        }
    }

    fn message(&self) -> Option<String> {
        match &self.shaped.content {
            Content::Line => Some(String::from_utf8_lossy(self.line).into_owned()),
            Content::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
            Content::Json(_) => Some(shown(self.fields()?.get("message")?)),
        }
    }

    fn labels(&self) -> Labels {
        match &self.shaped.labels {
            Some(json) => Labels::from_json(json).unwrap_or_default(),
            None => self.labels.clone(),
        }
    }

    fn metadata(&self) -> Labels {
        self.shaped.meta.as_ref().and_then(|json| Labels::from_json(json).ok()).unwrap_or_default()
    }

    /// In one word or sentence, where it went.
    fn fate(&self) -> String {
        match &self.shaped.to {
            Destination::Default => format!("sent to topic `{}`", self.config.kafka.topic),
            Destination::Topic(topic) => format!("sent to topic `{topic}`"),
            Destination::DeadLetter(reason) => format!("dead letter: {reason}"),
            Destination::Dropped(reason) => format!("dropped: {reason}"),
        }
    }
}

fn shown(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

fn compare(event: usize, want: &Want, found: &ActualEvent<'_>, out: &mut Vec<Difference>) {
    let mut differ = |key: &str, want: String, found: String| {
        out.push(Difference { event, key: key.to_owned(), want, found });
    };
    let nothing = || "nothing".to_owned();
    match (&found.shaped.to, &want.dropped, &want.dead_letter) {
        (Destination::Dropped(reason), Some(want), _) if **reason == **want => return,
        (_, Some(want), _) => return differ("dropped", want.clone(), found.fate()),
        (Destination::Dropped(_), None, _) => return differ("dropped", nothing(), found.fate()),
        (Destination::DeadLetter(reason), None, Some(want)) if reason.contains(want.as_str()) => {}
        (_, None, Some(want)) => return differ("dead_letter", want.clone(), found.fate()),
        (Destination::DeadLetter(_), None, None) => return differ("dead_letter", nothing(), found.fate()),
        _ => {}
    }
    if let Some(topic) = &want.topic {
        let is = match &found.shaped.to {
            Destination::Topic(topic) => topic.to_string(),
            _ => found.config.kafka.topic.clone(),
        };
        if is != *topic {
            differ("topic", topic.clone(), is);
        }
    }
    if let Some(message) = &want.message {
        match found.message() {
            Some(is) if is == *message => {}
            is => differ("message", message.clone(), is.unwrap_or_else(nothing)),
        }
    }
    if let Some(time) = &want.time {
        let is = found.shaped.time_ns.unwrap_or(found.time);
        if time_ns(time) != Some(is) {
            let is = DateTime::from_timestamp_nanos(is).to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
            differ("time", time.clone(), is);
        }
    }
    if let Some(fields) = &want.fields {
        match found.fields() {
            None => differ(
                "fields",
                "a JSON object".to_owned(),
                format!("the line {}", found.message().unwrap_or_default()),
            ),
            Some(is) => {
                for (key, want) in fields {
                    fields_differ(
                        &format!("fields.{key}"),
                        want,
                        is.get(key).unwrap_or(&Json::Null),
                        want_exact(want),
                        &mut differ,
                    );
                }
                for (key, value) in is.iter().filter(|(key, _)| want.exact && !fields.contains_key(*key)) {
                    differ(&format!("fields.{key}"), nothing(), value.to_string());
                }
            }
        }
    }
    for (name, want_pairs, is) in
        [("labels", &want.labels, found.labels()), ("metadata", &want.metadata, found.metadata())]
    {
        let Some(pairs) = want_pairs else { continue };
        for (key, want) in pairs {
            let is = is.get(key);
            if is != want.as_deref() {
                let text = |value: Option<&str>| value.map_or_else(nothing, ToOwned::to_owned);
                differ(&format!("{name}.{key}"), text(want.as_deref()), text(is));
            }
        }
        for (key, value) in is.iter().filter(|(key, _)| want.exact && !pairs.contains_key(*key)) {
            differ(&format!("{name}.{key}"), nothing(), value.to_owned());
        }
    }
    if let Some(error) = &want.error {
        let metadata = found.metadata();
        let is = metadata.get(META_ERROR).unwrap_or("nothing");
        if !is.contains(error.as_str()) {
            differ("error", error.clone(), is.to_owned());
        }
    }
}

/// Lists and single values are compared whole.
fn want_exact(want: &Json) -> bool {
    !want.is_object()
}

fn fields_differ(key: &str, want: &Json, is: &Json, exact: bool, differ: &mut dyn FnMut(&str, String, String)) {
    match (want, is) {
        (Json::Object(want), Json::Object(is)) if !exact => {
            for (name, want) in want {
                let is = is.get(name).unwrap_or(&Json::Null);
                fields_differ(&format!("{key}.{name}"), want, is, want_exact(want), differ);
            }
        }
        _ if equal(want, is) => {}
        _ => differ(key, want.to_string(), is.to_string()),
    }
}

/// Whole numbers are the same however they are written.
fn equal(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> AgentConfig {
        serde_json::from_str(
            r#"{"transforms": {
                    "parse": {"type": "vrl", "program": ". |= object!(parse_json!(.message))\ndel(.message)\n.labels.level = del(.level)"},
                    "noise": {"type": "drop", "if": ".labels.level == \"debug\"", "reason": "debug"},
                    "strict": {"type": "vrl", "program": ". = parse_json!(.message)", "on_error": "dead_letter"},
                    "calm": {"type": "throttle", "limit": 1, "per": "1s"},
                    "audit": {"type": "route", "if": "exists(.audit)", "topic": "audit"}},
                "sources": [{"type": "file", "include": ["/var/log/shop/*.log"], "labels": {"service": "shop"},
                             "transforms": ["parse", "noise", "audit"]}]}"#,
        )
        .unwrap()
    }

    fn check_and_run(tests: &str) -> Vec<(String, Vec<String>)> {
        let file: TestFile = serde_json::from_str(tests).expect(tests);
        let mut faults = Faults::default();
        file.check(&config(), &mut faults);
        assert!(faults.is_empty(), "{faults:?}");
        let shown = |d: &Difference| format!("{} {}: want {}, found {}", d.event, d.key, d.want, d.found);
        run(&config(), &file)
            .unwrap()
            .into_iter()
            .map(|result| (result.name, result.differences.iter().map(shown).collect()))
            .collect()
    }

    #[test]
    fn good_tests_pass() {
        let results = check_and_run(
            r#"{"tests": [
                {"name": "by file", "input": [
                    {"line": "{\"level\":\"info\",\"n\":1,\"in\":{\"a\":1,\"b\":2}}", "filename": "/var/log/shop/a.log"},
                    {"line": "{\"level\":\"debug\"}", "filename": "/var/log/shop/a.log"},
                    {"line": "{\"audit\":true}", "filename": "/var/log/shop/a.log"},
                    {"line": "no json", "filename": "/var/log/shop/a.log"}],
                 "want": [
                    {"fields": {"n": 1, "in": {"a": 1}, "level": null}, "labels": {"level": "info", "service": "shop", "team": null}, "topic": "logs"},
                    {"dropped": "debug"},
                    {"topic": "audit", "fields": {"audit": true}, "exact": true},
                    {"message": "no json", "error": "unable to parse json", "metadata": {"transform_failed": "parse"}}]},
                {"name": "by list", "transforms": ["strict"], "input": [{"line": "x"}], "want": [{"dead_letter": "unable to parse json"}]},
                {"name": "time", "transforms": ["calm", {"type": "vrl", "program": ".timestamp = t'2026-03-01T00:00:00Z'"}],
                 "input": [{"line": "a"}, {"line": "b"}, {"line": "c", "time": "2026-01-01T00:00:01Z"}],
                 "want": [{"message": "a", "time": "2026-03-01T00:00:00Z"}, {"dropped": "throttle"}, {}]}
            ]}"#,
        );
        for (name, differences) in results {
            assert_eq!(differences, [""; 0], "{name}");
        }
    }

    #[test]
    fn differences_name_event_key_and_both_sides() {
        let results = check_and_run(
            r#"{"tests": [{"name": "bad", "input": [
                    {"line": "{\"level\":\"info\",\"n\":1,\"in\":{\"a\":1}}", "filename": "/var/log/shop/a.log"},
                    {"line": "{\"level\":\"debug\"}", "filename": "/var/log/shop/a.log"},
                    {"line": "plain", "filename": "/var/log/shop/a.log"}],
                "want": [
                    {"fields": {"n": 2, "in": {"a": "1"}, "x": true}, "labels": {"level": "warn", "team": "a"}, "topic": "audit", "exact": true},
                    {"message": "x"},
                    {"dropped": "noise"}]}]}"#,
        );
        assert_eq!(
            results[0].1,
            [
                "1 topic: want audit, found logs",
                "1 fields.in.a: want \"1\", found 1",
                "1 fields.n: want 2, found 1",
                "1 fields.x: want true, found null",
                "1 labels.level: want warn, found info",
                "1 labels.team: want a, found nothing",
                "1 labels.filename: want nothing, found /var/log/shop/a.log",
                "1 labels.host: want nothing, found test",
                "1 labels.service: want nothing, found shop",
                "2 dropped: want nothing, found dropped: debug",
                "3 dropped: want noise, found sent to topic `logs`",
            ]
        );
    }

    #[test]
    fn tests_that_can_not_be_run_are_faults() {
        let file: TestFile = serde_json::from_str(
            r#"{"tests": [{"input": [{"line": "x", "time": "noon"}], "want": []},
                {"name": "a", "transforms": ["nope"], "input": [], "want": [{"time": "x"}]}]}"#,
        )
        .unwrap();
        let mut faults = Faults::default();
        file.check(&config(), &mut faults);
        let paths: Vec<String> = faults.into_vec().into_iter().map(|f| f.path).collect();
        assert_eq!(
            paths,
            [
                "tests[0].name",
                "tests[0].want",
                "tests[0].input[0].time",
                "tests[0].input[0].filename",
                "tests[1].input",
                "tests[1].want",
                "tests[1].transforms[0]",
                "tests[1].want[0].time",
            ]
        );
    }
}
