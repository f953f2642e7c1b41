//! Fuzz targets `search_body` and `query_string`: searches as strangers send them.
//!
//! In: any bytes. Out: a panic if a promise is broken: a search is refused with a reason, or answered with the documents that match,
//! in order; queries are bounded in clauses and memory. See [`crate::fuzzing`].

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise must be seen")]

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use millrace_fuzzing::{memory, texts};
use millrace_index::scan::{Budget, Row, RowBatch, StreamInfo};
use millrace_log::record::{DocIdentity, DocOp, Labels, Position, SourceId};
use serde_json::Value as Json;

use super::super::bounds::{Bounds, MAX_CLAUSES};
use super::super::document::Doc;
use super::super::error::ApiError;
use super::super::indices::Selection;
use super::super::query_string;
use super::hits::Search;
use super::params::UrlParams;
use super::request::Request;
use super::sort;

/// Bodies that reach far, to begin with.
const SEEDS: [&str; 8] = [
    r#"{"query": {"bool": {"must": [{"match": {"message": "error"}}, {"range": {"@timestamp": {"gte": "now-1h/h", "lt": "now", "time_zone": "+02:00"}}}], "must_not": {"term": {"level": "debug"}}, "should": [{"prefix": {"labels.app": "sh"}}], "minimum_should_match": "50%"}}, "size": 3, "sort": [{"n": {"order": "desc", "missing": "_first"}}, "_doc"], "_source": ["n", "a.*"]}"#,
    r#"{"query": {"query_string": {"query": "level:error AND (took:>1.5 OR msg:\"time out\") -n:[1 TO 5} _exists_:id /ti.e/", "default_operator": "and"}}, "track_total_hits": true}"#,
    r#"{"size": 0, "aggs": {"by": {"terms": {"field": "level", "size": 2, "order": {"_key": "asc"}}, "aggs": {"over": {"date_histogram": {"field": "@timestamp", "fixed_interval": "1s", "min_doc_count": 0, "time_zone": "Europe/Berlin"}}, "p": {"percentiles": {"field": "n", "percents": [50, 99.9]}}}}}}"#,
    r#"{"aggs": {"h": {"histogram": {"field": "n", "interval": 0.5, "extended_bounds": {"min": -3, "max": 9}}}, "r": {"range": {"field": "n", "ranges": [{"to": 2}, {"from": 2, "to": 4, "key": "x"}]}}, "f": {"filters": {"filters": {"a": {"exists": {"field": "a.b"}}}}}, "c": {"cardinality": {"field": "id"}}, "s": {"stats": {"field": "n", "missing": 1}}}}"#,
    r#"{"sort": [{"id": "asc"}], "search_after": [9007199254740993], "from": 0, "size": 10000, "fields": ["n", "a.b"]}"#,
    r#"{"query": {"multi_match": {"query": "größe 🙂", "fields": ["message", "a.b^2"], "type": "phrase"}}, "post_filter": {"wildcard": {"a.b": {"value": "x*?", "case_insensitive": true}}}}"#,
    r#"{"query": {"simple_query_string": {"query": "+a -b | \"c d\" e*", "fields": ["message"]}}, "sort": "@timestamp:desc", "version": true}"#,
    r#"{"query": {"terms": {"n": [1, "2", true, 18446744073709551615, 1e300]}}, "sort": ["_shard_doc"], "search_after": ["5:00000000000000000000000000000000:1:0"]}"#,
];

/// Documents that are searched: lines, JSON lines, client documents; big numbers, lists, absent fields.
static DOCUMENTS: LazyLock<RowBatch> = LazyLock::new(|| {
    let texts: [(&str, Option<&str>); 9] = [
        ("level=error took=1.5s time out", None),
        (r#"{"level": "error", "n": 3, "a": {"b": "xyz"}, "id": 9007199254740992}"#, None),
        (r#"{"level": "info", "n": [1, 2.5], "id": 9007199254740993}"#, None),
        ("\u{fffd} größe 🙂", None),
        (r#"{"n": "503", "a.b": ["x", "y"], "@timestamp": "2026-03-01T00:00:00Z"}"#, Some("1")),
        (r#"{"n": 1e300, "id": 18446744073709551615, "ok": true}"#, Some("2")),
        (r#"{"n": null, "deep": [{"x": 1}, {"x": 2}]}"#, Some("3")),
        (r#"{"level": "error"}"#, Some("4")),
        ("{}", Some("5")),
    ];
    let mut batch = RowBatch {
        streams: vec![StreamInfo { labels: Labels::new([("app", "shop")]), topic: "logs".into() }],
        ..RowBatch::default()
    };
    let mut all = Vec::new();
    for (n, (text, id)) in texts.into_iter().enumerate() {
        let start = u32::try_from(all.len()).unwrap();
        all.extend_from_slice(text.as_bytes());
        batch.rows.push(Row {
            stream: 0,
            time_ns: NOW_NS - i64::try_from(n).unwrap() * 700_000_000,
            line: start..u32::try_from(all.len()).unwrap(),
            metadata: (n % 2 == 0).then(|| Labels::new([("trace", "t1")])),
            source: SourceId([7; 16]),
            position: Position::at(u64::try_from(n).unwrap()),
            doc: id.map(|id| Arc::new(DocIdentity { index: "things".into(), id: id.into(), op: DocOp::Index })),
        });
    }
    batch.text = Bytes::from(all);
    batch
});

/// What the clock says.
const NOW_NS: i64 = 1_772_366_400_000_000_000;

/// A body is refused with a reason, or answered: with the documents that match, in order, and with sort values that
/// `search_after` takes as they are.
pub(crate) fn search_body(bytes: &[u8]) {
    let Ok(body) = serde_json::from_slice::<Json>(bytes) else { return };
    let request = Selection::parse("").and_then(|every| Request::parse(every, &UrlParams::default(), &body, NOW_NS));
    let request = match request {
        Ok(request) => request,
        Err(error) => return refused(&error, &body),
    };
    let (batch, watch) = (&*DOCUMENTS, Budget::default().watch());
    let matching = |doc: &Doc<'_>| {
        request.query.matches(doc) && request.post_filter.as_ref().is_none_or(|query| query.matches(doc))
    };
    let docs: Vec<Doc<'_>> = batch.rows.iter().filter_map(|row| Doc::new(batch, row, &watch)).collect();
    let total = docs.iter().filter(|doc| matching(doc)).count();
    let (from, size, keys, counted) = (request.from, request.size, request.sort.clone(), request.track_total);
    let after = request.after.clone();
    let mut search = Search::new(request, Budget::default().watch());
    let answer = match search.take(batch).and_then(|_| search.answer(&[], 0)) {
        Ok(answer) => answer,
        Err(error) => return refused(&error, &body),
    };
    let hits = answer["hits"]["hits"].as_array().unwrap_or_else(|| panic!("no list of hits for {body}: {answer}"));
    assert!(hits.len() <= size, "{} hits for {body}", hits.len());
    if counted.is_some_and(|limit| limit > docs.len() as u64) {
        assert_eq!(answer["hits"]["total"]["value"], total, "{body}");
    }
    if after.is_none() {
        assert_eq!(hits.len(), total.saturating_sub(from).min(size), "{body}");
    }
    let mut before = after;
    for hit in hits {
        let shown = hit["sort"].as_array().cloned().unwrap_or_default();
        let read: Result<Vec<_>, _> =
            keys.iter().zip(&shown).map(|(by, value)| sort::after_value(&by.field, value)).collect();
        let read = read.unwrap_or_else(|error| panic!("{shown:?} of {body} can't be given back: {error}"));
        if let Some(before) = &before {
            assert!(sort::compare_keys(&keys, before, &read).is_le(), "{before:?} stands before {shown:?} for {body}");
        }
        before = Some(read);
    }
}

/// Memory of a query as it is read, and of the expressions in it.
const HELD: u64 = 48 << 20;

/// A text is refused with a reason, with its column where it does not parse, or becomes a query with no more clauses than
/// allowed, which every document matches or does not.
pub(crate) fn query_string(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (batch, watch) = (&*DOCUMENTS, Budget::default().watch());
    let fields = ["level", "n", "a.b"].map(str::to_owned);
    let matching = |query: &super::super::query::Query| -> Vec<bool> {
        batch.rows.iter().filter_map(|row| Doc::new(batch, row, &watch)).map(|doc| query.matches(&doc)).collect()
    };
    for (fields, and) in [(&[][..], false), (&fields[..], true)] {
        let bounds = Bounds::default();
        bounds.begin_query();
        let (got, held) = memory::most(|| query_string::parse(text, fields, and, NOW_NS, &bounds));
        assert!(held <= HELD, "{held} bytes held for {text}");
        match got {
            Ok(query) => {
                assert!(query.clauses() <= MAX_CLAUSES, "{} clauses of {text}", query.clauses());
                assert_eq!(matching(&query).len(), batch.rows.len());
            }
            Err(error) => {
                refused(&error, &text.into());
                if let Some((_, rest)) = error.reason.split_once("]: column ").filter(|_| !text.contains("]: column "))
                {
                    let column: usize = rest.split(':').next().unwrap().parse().unwrap();
                    assert!((1..=text.len() + 1).contains(&column), "{error}");
                }
            }
        }
        let (query, held) = memory::most(|| query_string::simple(text, fields, and));
        assert!(held <= HELD, "{held} bytes held for {text}");
        assert_eq!(matching(&query).len(), batch.rows.len());
    }
}

/// Query strings that reach far.
pub(crate) fn query_string_seeds(_: u64) -> Vec<Vec<u8>> {
    texts(&[
        "level:error AND (took:>1.5 OR msg:\"time out\") -n:[1 TO 5} _exists_:id /ti.e/",
        "+fox -dog !cat NOT bird && a || b^2 n:(1 OR 2) n:{* TO 3] @timestamp:[now-1h/h TO now]",
        "a.b:x*y? \\(not\\) größe:🙂 \"open (((a)) n:<=503 *:* level:* labels.app:/sh[a-z]+p{1,3}/",
        "+a -b | \"c d\" e* (f) ~2",
        "/\\w{40}/ /[0-9]{200}/ x:/a)|(b/",
    ])
}

/// Bodies that reach far.
pub(crate) fn search_body_seeds(_: u64) -> Vec<Vec<u8>> {
    texts(&SEEDS)
}

fn refused(error: &ApiError, body: &Json) {
    assert!((400..=503).contains(&error.status) && error.status != 500, "{error} with {} for {body}", error.status);
    assert!(!error.reason.is_empty(), "refused without a reason: {body}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn seeds_are_accepted() {
        for seed in SEEDS {
            let body: Json = serde_json::from_str(seed).unwrap();
            let request = Request::parse(Selection::parse("").unwrap(), &UrlParams::default(), &body, NOW_NS);
            assert!(request.is_ok(), "seeds are accepted: {seed}: {}", request.err().unwrap());
        }
    }

    /// Another seed's value, a number or a text in place of one value of the body.
    fn changed(body: &mut Json, at: usize, with: &Json) {
        fn nth<'j>(json: &'j mut Json, left: &mut usize) -> Option<&'j mut Json> {
            if *left == 0 {
                return Some(json);
            }
            *left -= 1;
            match json {
                Json::Array(items) => items.iter_mut().find_map(|item| nth(item, left)),
                Json::Object(items) => items.values_mut().find_map(|item| nth(item, left)),
                _ => None,
            }
        }
        let mut left = at;
        if let Some(value) = nth(body, &mut left) {
            *value = with.clone();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]

        /// A short form of `tests/fuzz` that every test run can afford.
        #[test]
        fn promises_hold_for_changed_seeds(
            seed in 0..SEEDS.len(),
            edits in prop::collection::vec((1usize..40, prop_oneof![
                any::<i64>().prop_map(Json::from),
                any::<u64>().prop_map(Json::from),
                any::<f64>().prop_map(Json::from),
                "\\PC{0,8}".prop_map(Json::from),
                (0..SEEDS.len()).prop_map(|n| serde_json::from_str(SEEDS[n]).unwrap()),
                Just(Json::Null),
                Just(Json::Array(Vec::new())),
            ]), 1..4),
        ) {
            let mut body: Json = serde_json::from_str(SEEDS[seed]).unwrap();
            for (at, with) in &edits {
                changed(&mut body, *at, with);
            }
            search_body(body.to_string().as_bytes());
        }

        #[test]
        fn promises_hold_for_query_strings(text in "[a-z:()\"/*?~^\\[\\]{} +|\\-\\\\<>=0-9AND OR NOT]{0,40}") {
            let body = serde_json::json!({"query": {"query_string": {"query": text}}});
            search_body(body.to_string().as_bytes());
        }
    }
}
