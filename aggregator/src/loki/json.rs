//! Answers of queries as Loki writes them.
//!
//! In: answers of the engine. Out: JSON text: times of entries as strings of ns, times of samples in seconds with ms,
//! values as Go prints floats. Touches nothing.

use std::collections::HashMap;
use std::fmt::Write as _;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use millrace_logql::{Answer, Answered, Direction, EntryResult, LabelPairs, Statistics, StreamResult};

/// Media type of all answers.
pub const JSON: &str = "application/json; charset=UTF-8";

/// An answer from JSON text.
pub fn answer(json: String) -> Response {
    ([(header::CONTENT_TYPE, JSON)], json).into_response()
}

/// `{"status":"success","data":[…]}`; without `data` when empty and `or_absent`.
pub fn list<'a>(items: impl IntoIterator<Item = &'a str>, or_absent: bool) -> String {
    let mut data = String::new();
    for item in items {
        data.push(if data.is_empty() { '[' } else { ',' });
        string(&mut data, item);
    }
    match (data.is_empty(), or_absent) {
        (true, true) => r#"{"status":"success"}"#.to_owned(),
        (true, false) => r#"{"status":"success","data":[]}"#.to_owned(),
        (false, _) => format!(r#"{{"status":"success","data":{data}]}}"#),
    }
}

/// The whole answer of `query` and `query_range`. `categorize`: keep labels of streams, metadata and parsers apart.
/// `warnings`: what is missing from the answer.
pub fn query(answered: &Answered, direction: Direction, categorize: bool, warnings: &[String]) -> String {
    let mut out = String::with_capacity(1024);
    out.push_str(r#"{"status":"success","#);
    if !warnings.is_empty() {
        out.push_str(r#""warnings":["#);
        for (i, warning) in warnings.iter().enumerate() {
            comma(&mut out, i);
            string(&mut out, warning);
        }
        out.push_str("],");
    }
    out.push_str(r#""data":{"resultType":"#);
    match &answered.value {
        Answer::Streams(found) => {
            out.push_str(r#""streams""#);
            if categorize {
                out.push_str(r#","encodingFlags":["categorize-labels"]"#);
            }
            out.push_str(r#","result":["#);
            if categorize {
                categorized(&mut out, found, direction);
            } else {
                for (i, one) in found.iter().enumerate() {
                    comma(&mut out, i);
                    stream(&mut out, &one.labels, one.entries.iter(), false);
                }
            }
            out.push(']');
        }
        Answer::Vector(samples) => {
            out.push_str(r#""vector","result":["#);
            for (i, sample) in samples.iter().enumerate() {
                comma(&mut out, i);
                out.push_str(r#"{"metric":"#);
                labels(&mut out, &sample.labels);
                out.push_str(r#","value":"#);
                point(&mut out, sample.time_ns, sample.value);
                out.push('}');
            }
            out.push(']');
        }
        Answer::Matrix(series) => {
            out.push_str(r#""matrix","result":["#);
            for (i, one) in series.iter().enumerate() {
                comma(&mut out, i);
                out.push_str(r#"{"metric":"#);
                labels(&mut out, &one.labels);
                out.push_str(r#","values":["#);
                for (i, (time_ns, value)) in one.points.iter().enumerate() {
                    comma(&mut out, i);
                    point(&mut out, *time_ns, *value);
                }
                out.push_str("]}");
            }
            out.push(']');
        }
        Answer::Scalar(time_ns, value) => {
            // Loki's own slip: the time of a scalar is in ms where all others are in seconds.
            write!(out, r#""scalar","result":[{},"{}"]"#, time_ns.div_euclid(1_000_000), float(*value)).ok();
        }
    }
    out.push_str(r#","stats":"#);
    statistics(&mut out, &answered.statistics, returned(&answered.value));
    out.push_str("}}");
    out
}

/// Streams that only differ in metadata or parsed labels are one, their entries in the order asked for.
fn categorized(out: &mut String, found: &[StreamResult], direction: Direction) {
    let mut places: HashMap<&LabelPairs, usize> = HashMap::new();
    let mut merged: Vec<(&LabelPairs, Vec<&EntryResult>)> = Vec::new();
    for one in found {
        let place = *places.entry(&one.stream_labels).or_insert_with(|| {
            merged.push((&one.stream_labels, Vec::new()));
            merged.len() - 1
        });
        if let Some((_, entries)) = merged.get_mut(place) {
            entries.extend(&one.entries);
        }
    }
    for (i, (labels, mut entries)) in merged.into_iter().enumerate() {
        comma(out, i);
        match direction {
            Direction::Forward => entries.sort_by_key(|e| e.time_ns),
            Direction::Backward => entries.sort_by_key(|e| std::cmp::Reverse(e.time_ns)),
        }
        stream(out, labels, entries.into_iter(), true);
    }
}

/// `{"stream":{…},"values":[…]}`
pub fn stream<'a>(out: &mut String, of: &LabelPairs, entries: impl Iterator<Item = &'a EntryResult>, categorize: bool) {
    out.push_str(r#"{"stream":"#);
    labels(out, of);
    out.push_str(r#","values":["#);
    for (i, entry) in entries.enumerate() {
        comma(out, i);
        write!(out, r#"["{}","#, entry.time_ns).ok();
        string(out, &entry.line);
        if categorize {
            out.push_str(",{");
            let mut some = false;
            for (name, of) in [("structuredMetadata", &entry.metadata), ("parsed", &entry.parsed)] {
                if !of.is_empty() {
                    comma(out, usize::from(some));
                    some = true;
                    write!(out, r#""{name}":"#).ok();
                    labels(out, of);
                }
            }
            out.push('}');
        }
        out.push(']');
    }
    out.push_str("]}");
}

/// A JSON object of names and values.
pub fn labels(out: &mut String, pairs: &[(String, String)]) {
    out.push('{');
    for (i, (name, value)) in pairs.iter().enumerate() {
        comma(out, i);
        string(out, name);
        out.push(':');
        string(out, value);
    }
    out.push('}');
}

/// `[1772367600.5,"0.25"]`
pub fn point(out: &mut String, time_ns: i64, value: f64) {
    out.push('[');
    seconds(out, time_ns);
    write!(out, r#","{}"]"#, float(value)).ok();
}

/// Seconds with ms where there are some, as Prometheus prints times.
pub fn seconds(out: &mut String, time_ns: i64) {
    let ms = time_ns.div_euclid(1_000_000);
    #[allow(clippy::cast_precision_loss)] // below 2^53 ms until the year 287396
    write!(out, "{}", ms as f64 / 1000.0).ok();
}

/// A float as Go's `FormatFloat(f, 'f', -1, 64)` prints it: shortest, never with an exponent.
pub fn float(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() }
    } else {
        value.to_string()
    }
}

/// A JSON string.
pub fn string(out: &mut String, text: &str) {
    out.push('"');
    let mut plain = 0;
    for (i, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..=0x1f => "",
            _ => continue,
        };
        out.push_str(text.get(plain..i).unwrap_or_default());
        plain = i + 1;
        if escape.is_empty() {
            write!(out, "\\u{byte:04x}").ok();
        } else {
            out.push_str(escape);
        }
    }
    out.push_str(text.get(plain..).unwrap_or_default());
    out.push('"');
}

/// A comma before everything but the first.
pub fn comma(out: &mut String, i: usize) {
    if i > 0 {
        out.push(',');
    }
}

fn returned(value: &Answer) -> usize {
    match value {
        Answer::Streams(streams) => streams.iter().map(|s| s.entries.len()).sum(),
        Answer::Vector(samples) => samples.len(),
        Answer::Matrix(series) => series.len(),
        Answer::Scalar(..) => 1,
    }
}

/// Loki's `stats`, its shape whole: clients decode it; what this index has no word for is 0.
fn statistics(out: &mut String, s: &Statistics, returned: usize) {
    let per_second = |n: u64| {
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        if s.seconds > 0.0 { (n as f64 / s.seconds) as u64 } else { 0 }
    };
    let store = |bytes: u64, lines: u64, after: u64| {
        serde_json::json!({
            "totalChunksRef": 0, "totalChunksDownloaded": 0, "chunksDownloadTime": 0,
            "queryReferencedStructuredMetadata": false,
            "chunk": {
                "headChunkBytes": 0, "headChunkLines": 0, "decompressedBytes": bytes, "decompressedLines": lines,
                "compressedBytes": 0, "totalDuplicates": 0, "postFilterLines": after,
                "headChunkStructuredMetadataBytes": 0, "decompressedStructuredMetadataBytes": 0
            },
            "chunkRefsFetchTime": 0, "congestionControlLatency": 0, "pipelineWrapperFilteredLines": 0
        })
    };
    let stats = serde_json::json!({
        "summary": {
            "bytesProcessedPerSecond": per_second(s.bytes),
            "linesProcessedPerSecond": per_second(s.lines),
            "totalBytesProcessed": s.bytes,
            "totalLinesProcessed": s.lines,
            "execTime": s.seconds,
            "queueTime": 0,
            "subqueries": 0,
            "totalEntriesReturned": returned,
            "splits": 0,
            "shards": 0,
            "totalPostFilterLines": s.lines_after_filter,
            "totalStructuredMetadataBytesProcessed": 0
        },
        "querier": {"store": store(s.bytes, s.lines, s.lines_after_filter)},
        "ingester": {
            "totalReached": 0, "totalChunksMatched": 0, "totalBatches": 0, "totalLinesSent": 0, "store": store(0, 0, 0)
        },
        "cache": {}
    });
    write!(out, "{stats}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_logql::{Sample, Series};
    use proptest::prelude::*;

    fn pairs(of: &[(&str, &str)]) -> LabelPairs {
        of.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn floats_and_times_print_as_go_prints_them() {
        for (value, want) in [
            (110.0, "110"),
            (0.406_666_666_666_666_7, "0.4066666666666667"),
            (1e21, "1000000000000000000000"),
            (1.5e-7, "0.00000015"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (-0.0, "-0"),
        ] {
            assert_eq!(float(value), want);
        }
        for (ns, want) in [
            (1_772_367_600_500_000_000, "1772367600.5"),
            (1_772_366_580_000_000_001, "1772366580"),
            (1_772_367_599_999_999_999, "1772367599.999"),
            (0, "0"),
            (-1, "-0.001"),
        ] {
            let mut out = String::new();
            seconds(&mut out, ns);
            assert_eq!(out, want);
        }
    }

    fn data(value: Answer, categorize: bool) -> serde_json::Value {
        let answered = Answered { value, statistics: Statistics::default() };
        let mut json: serde_json::Value =
            serde_json::from_str(&query(&answered, Direction::Backward, categorize, &[])).unwrap();
        assert_eq!(json["status"], "success");
        assert!(json["data"]["stats"]["summary"]["totalBytesProcessed"].is_u64());
        let mut data = json["data"].take();
        data.as_object_mut().unwrap().remove("stats");
        data
    }

    #[test]
    fn answers_have_loki_s_shape() {
        let entry = |time_ns, line: &str, metadata: &[(&str, &str)], parsed: &[(&str, &str)]| EntryResult {
            time_ns,
            line: line.to_owned(),
            metadata: pairs(metadata),
            parsed: pairs(parsed),
        };
        let app = || pairs(&[("app", "api")]);
        let streams = Answer::Streams(vec![
            StreamResult {
                labels: pairs(&[("app", "api"), ("user", "a")]),
                stream_labels: app(),
                entries: vec![entry(1, "x \"y\"\n", &[("user", "a")], &[])],
            },
            StreamResult {
                labels: pairs(&[("app", "api"), ("m", "GET"), ("user", "b")]),
                stream_labels: app(),
                entries: vec![entry(2, "z", &[("user", "b")], &[("m", "GET")]), entry(0, "w", &[], &[])],
            },
        ]);
        assert_eq!(
            data(streams.clone(), false),
            serde_json::json!({"resultType": "streams", "result": [
                {"stream": {"app": "api", "user": "a"}, "values": [["1", "x \"y\"\n"]]},
                {"stream": {"app": "api", "m": "GET", "user": "b"}, "values": [["2", "z"], ["0", "w"]]},
            ]})
        );
        assert_eq!(
            data(streams, true),
            serde_json::json!({"resultType": "streams", "encodingFlags": ["categorize-labels"], "result": [
                {"stream": {"app": "api"}, "values": [
                    ["2", "z", {"structuredMetadata": {"user": "b"}, "parsed": {"m": "GET"}}],
                    ["1", "x \"y\"\n", {"structuredMetadata": {"user": "a"}}],
                    ["0", "w", {}],
                ]},
            ]})
        );
        let second = 1_000_000_000;
        assert_eq!(
            data(Answer::Vector(vec![Sample { labels: app(), time_ns: second, value: 2.5 }]), false),
            serde_json::json!({"resultType": "vector", "result": [{"metric": {"app": "api"}, "value": [1, "2.5"]}]})
        );
        assert_eq!(
            data(
                Answer::Matrix(vec![Series { labels: vec![], points: vec![(second, 1.0), (2 * second, 2.0)] }]),
                false
            ),
            serde_json::json!({"resultType": "matrix", "result": [{"metric": {}, "values": [[1, "1"], [2, "2"]]}]})
        );
        assert_eq!(
            data(Answer::Scalar(second, 3.0), false),
            serde_json::json!({"resultType": "scalar", "result": [1000, "3"]})
        );
        assert_eq!(list(["a", "b"], true), r#"{"status":"success","data":["a","b"]}"#);
        assert_eq!(list([], true), r#"{"status":"success"}"#);
    }

    proptest! {
        #[test]
        fn strings_read_back(text in "\\PC*|[\\x00-\\x7f]*") {
            let mut out = String::new();
            string(&mut out, &text);
            prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
        }

        #[test]
        fn floats_read_back(value: f64) {
            prop_assume!(value.is_finite());
            prop_assert_eq!(float(value).parse::<f64>().unwrap(), value);
        }
    }
}
