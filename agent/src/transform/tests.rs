//! Chains of steps as the agent runs them: tables of lines and outcomes, and odd programs that must lose nothing.

use proptest::prelude::*;

use super::*;
use crate::config::AgentConfig;

/// Labels of the lines of these tests.
const LABELS: &[u8] = br#"{"app":"shop","host":"h1"}"#;
const TIME: i64 = 1_772_366_400_000_000_000;

fn config(transforms: &str) -> AgentConfig {
    let text = format!(r#"{{"sources": [{{"type": "file", "include": ["/x"], "transforms": {transforms}}}]}}"#);
    serde_json::from_str(&text).expect(transforms)
}

/// Runs a list of steps on lines; the counters are those of the run.
fn run(transforms: &str, lines: &[&str]) -> (Vec<Transformed>, AgentMetrics) {
    let (config, metrics) = (config(transforms), AgentMetrics::default());
    let mut steps = Steps::new(&config.transforms, &metrics);
    let chain =
        steps.chain("sources[0].transforms", config.sources[0].transforms()).expect(transforms).expect("has steps");
    let origin = origin(LABELS, "/x", "file");
    let mut worker = Worker::default();
    worker.now_ns = TIME;
    let mut out = Vec::new();
    let inputs = lines.iter().enumerate().map(|(i, line)| Input {
        meta: None,
        line: Bytes::copy_from_slice(line.as_bytes()),
        time_ns: TIME + i as i64,
        seed: i as u64,
    });
    chain.run(&origin, inputs, &mut worker, &mut out);
    (out, metrics)
}

/// In short: where to, value, labels, metadata.
fn shown(shaped: &Transformed) -> String {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let content = match &shaped.content {
        Content::Line => "line".to_owned(),
        Content::Text(t) => format!("text {}", text(t)),
        Content::Json(t) => text(t),
    };
    let to = match &shaped.to {
        Destination::Default => String::new(),
        Destination::Topic(topic) => format!("[{topic}] "),
        Destination::DeadLetter(reason) => format!("[dead: {reason}] "),
        Destination::Dropped(reason) => return format!("[dropped: {reason}]"),
    };
    let labels = shaped.labels.as_ref().map_or_else(String::new, |l| format!(" labels {}", text(l)));
    let meta = shaped.meta.as_ref().map_or_else(String::new, |m| format!(" meta {}", text(m)));
    format!("{to}{content}{labels}{meta}")
}

#[test]
fn steps_do_what_they_say() {
    for (transforms, line, want) in [
        (r#"[{"type": "vrl", "program": ". = parse_json!(.message)"}]"#, r#"{"b":1,"a":[2]}"#, r#"{"a":[2],"b":1}"#),
        (
            r#"[{"type": "vrl", "program": ". |= object!(parse_json!(.message))\n.labels.level = del(.level)\ndel(.message)"}]"#,
            r#"{"level":"warn","n":1}"#,
            r#"{"n":1} labels {"app":"shop","host":"h1","level":"warn"}"#,
        ),
        // What stands beside the fields survives their replacement.
        (
            r#"[{"type": "vrl", "program": ". = parse_json!(.message)\n.labels.level = del(.level)\n.metadata.h = .host"}, {"type": "vrl", "program": ". = {\"m\": .n}\ndel(.labels.app)"}]"#,
            r#"{"level":"warn","n":1}"#,
            r#"{"m":1} labels {"host":"h1","level":"warn"} meta {"h":"h1"}"#,
        ),
        (
            r#"[{"type": "vrl", "program": ". = parse_json!(.message)"}]"#,
            r#"{"labels":{"app":"other"},"host":"h9","timestamp":"noon"}"#,
            r#"{"host":"h9","timestamp":"noon"} labels {"app":"other"}"#,
        ),
        (r#"[{"type": "vrl", "program": ".metadata.trace = \"t1\""}]"#, "x", r#"line meta {"trace":"t1"}"#),
        (r#"[{"type": "vrl", "program": ".message = upcase(string!(.message))"}]"#, "x", "text X"),
        (r#"[{"type": "vrl", "program": "abort"}]"#, "x", "[dropped: abort]"),
        (r#"[{"type": "vrl", "program": "abort \"probe\""}]"#, "x", "[dropped: probe]"),
        (r#"[{"type": "vrl", "program": "abort \"Not one word: \" + string!(.message)"}]"#, "x", "[dropped: abort]"),
        (r#"[{"type": "drop", "match": "^DEBUG"}]"#, "DEBUG x", "[dropped: drop]"),
        (r#"[{"type": "drop", "match": "^DEBUG"}]"#, "INFO DEBUG", "line"),
        (r#"[{"type": "drop", "match": "^DEBUG", "if": "contains(string!(.message), \"keep\")"}]"#, "DEBUG x", "line"),
        (r#"[{"type": "drop", "if": ".labels.app == \"shop\"", "reason": "shop"}]"#, "x", "[dropped: shop]"),
        (r#"[{"type": "route", "match": "audit", "topic": "audit"}]"#, "an audit", "[audit] line"),
        (r#"[{"type": "route", "match": "audit", "topic": "audit"}]"#, "no", "line"),
        (
            r#"[{"type": "route", "topic_from": ".labels.app", "prefix": "logs-", "allow": ["logs-*"]}]"#,
            "x",
            "[logs-shop] line",
        ),
        (r#"[{"type": "route", "topic_from": ".nothing", "allow": ["*"]}]"#, "x", "line"),
        (
            r#"[{"type": "route", "topic_from": ".message", "allow": ["a", "b*"], "on_error": "dead_letter"}]"#,
            "c",
            "[dead: transform `sources[0].transforms[0]`: topic `c` is not allowed: see `allow`] line",
        ),
        (r#"[{"type": "route", "topic_from": ".message", "allow": ["a", "b*"]}]"#, "bee", "[bee] line"),
        (
            r#"[{"type": "route", "topic_from": ".message", "allow": ["*"]}]"#,
            "../etc",
            r#"line meta {"transform_error":"topic `../etc` is not allowed: see `allow`","transform_failed":"sources[0].transforms[0]"}"#,
        ),
        (
            r#"[{"type": "redact", "presets": ["card", "email"]}]"#,
            "4111111111111111 of a@b.io",
            "text [card] of [email]",
        ),
        (
            r#"[{"type": "vrl", "program": ". = parse_json!(.message)"}, {"type": "redact", "presets": ["email"], "replacement": "***"}]"#,
            r#"{"from":"a@b.io","to":["c@d.io"]}"#,
            r#"{"from":"***","to":["***"]}"#,
        ),
        // What fails goes on as it came to the step, and the other steps still see it.
        (
            r#"[{"type": "redact", "presets": ["email"]}, {"type": "vrl", "program": ".x = 1\n. = parse_json!(.message)"},
                {"type": "route", "if": "exists(.metadata.transform_error)", "topic": "odd"}]"#,
            "a@b.io",
            r#"[odd] text [email] meta {"transform_error":"function call error for \"parse_json\" at (11:32): unable to parse json: expected value at line 1 column 2","transform_failed":"sources[0].transforms[1]"}"#,
        ),
        (
            r#"[{"type": "vrl", "program": ".a = 1\n.labels.l = \"x\""}, {"type": "vrl", "program": "del(.a)\n.labels.l = {}"}]"#,
            "x",
            r#"{"a":1,"message":"x"} labels {"app":"shop","host":"h1","l":"x"} meta {"transform_error":"`.labels.l` is a map: labels name the stream and are texts, keep other data under another name","transform_failed":"sources[0].transforms[1]"}"#,
        ),
        (
            r#"[{"type": "vrl", "program": ".x = join!([.message, .message])", "max_output_bytes": "1KiB", "on_error": "dead_letter"}]"#,
            &"y".repeat(900),
            "[dead: transform `sources[0].transforms[0]`: the event is larger than 1024 bytes: see `max_output_bytes`] line",
        ),
        (r#"[{"type": "drop", "if": "to_int!(.message) > 3"}]"#, "4", "[dropped: drop]"),
        (r#"[{"type": "sample", "rate": 1}]"#, "x", "line"),
        (r#"[{"type": "sample", "rate": 1000000, "match": "debug"}]"#, "error", "line"),
    ] {
        let (out, _) = run(transforms, &[line]);
        assert_eq!(out.iter().map(shown).collect::<Vec<_>>(), [want], "{transforms}");
    }
}

#[test]
fn samples_keep_a_share_and_say_so() {
    let lines: Vec<String> = (0..1000).map(|i| format!("trace={} x", i / 10)).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let (out, _) = run(r#"[{"type": "sample", "rate": 5, "reason": "thin"}]"#, &lines);
    let kept = out.iter().filter(|s| s.to == Destination::Default).count();
    assert!((150..250).contains(&kept), "{kept}");
    for shaped in &out {
        assert!(["[dropped: thin]", r#"line meta {"sample_rate":"5"}"#].contains(&shown(shaped).as_str()));
    }
    // By key: all of a trace or nothing.
    let (out, _) =
        run(r#"[{"type": "sample", "rate": 5, "key": "parse_regex!(.message, r'trace=(?P<t>\\d+)').t"}]"#, &lines);
    for trace in out.chunks(10) {
        assert!(trace.iter().all(|s| s.to == trace[0].to), "{trace:?}");
    }
    assert!(out.iter().any(|s| s.to == Destination::Default) && out.iter().any(|s| s.to != Destination::Default));
}

#[test]
fn throttles_limit_each_key_and_counters_add_up() {
    let lines: Vec<&str> = ["a", "b"].into_iter().cycle().take(100).collect();
    let (out, metrics) = run(r#"[{"type": "throttle", "limit": 10, "per": "1m", "key": ".message"}]"#, &lines);
    assert_eq!(out.iter().filter(|s| s.to == Destination::Default).count(), 20);
    let label = crate::metrics::Transform { transform: "sources[0].transforms[0]".to_owned() };
    let count = |family: &prometheus_client::metrics::family::Family<
        _,
        prometheus_client::metrics::counter::Counter,
    >| { family.get_or_create(&label).get() };
    assert_eq!(
        [&metrics.transform_in, &metrics.transform_out, &metrics.transform_dropped, &metrics.transform_failed]
            .map(count),
        [100, 20, 80, 0]
    );
}

#[test]
fn different_topics_and_reasons_are_bounded() {
    let lines: Vec<String> = (0..50).map(|i| format!("t{i}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let (out, _) = run(r#"[{"type": "route", "topic_from": ".message", "allow": ["t*"], "max_topics": 3}]"#, &lines);
    assert_eq!(out.iter().filter(|s| matches!(s.to, Destination::Topic(_))).count(), 3);
    assert!(shown(&out[49]).contains("max_topics"), "{}", shown(&out[49]));
    let (out, _) = run(r#"[{"type": "vrl", "program": "abort string!(.message)"}]"#, &lines);
    let reasons: std::collections::HashSet<String> = out.iter().map(shown).collect();
    assert_eq!(reasons.len(), 33);
    assert!(reasons.contains("[dropped: abort]"));
}

/// Programs that may fail, stop or leave nonsense, depending on the line.
const ODD: [&str; 12] = [
    ". = parse_json!(.message)",
    ". |= object!(parse_json!(.message))",
    ".labels = parse_json!(.message)",
    ".metadata = parse_json!(.message)",
    ".timestamp = to_unix_timestamp(now())",
    ". = {}",
    "del(.message)\ndel(.labels)\ndel(.timestamp)",
    ".labels.x = .message",
    "if contains(string!(.message), \"a\") { abort string!(.message) }",
    ".x = slice!(.message, 3)",
    ".message = parse_regex!(.message, r'(?P<a>.)(?P<b>.)')",
    ".timestamp = parse_timestamp!(.message, \"%s\")",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever programs do, each line has one outcome; what they fail on is still the line, with the error.
    #[test]
    fn no_program_loses_a_line(
        programs in proptest::collection::vec(0usize..ODD.len(), 1..4),
        dead in proptest::bool::ANY,
        lines in proptest::collection::vec("(\\PC{0,20}|\\{\"a\":\\PC{0,5}\\}|[0-9]{1,22}|\\{\"labels\":\\{\"a\":1\\},\"timestamp\":\"x\"\\}|[\\[{\"]{0,40})", 1..300),
    ) {
        let on_error = if dead { "dead_letter" } else { "pass" };
        let steps: Vec<serde_json::Value> = programs
            .iter()
            .map(|i| serde_json::json!({"type": "vrl", "program": ODD[*i], "on_error": on_error}))
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let (out, metrics) = run(&serde_json::Value::from(steps).to_string(), &lines);
        prop_assert_eq!(out.len(), lines.len());
        let label = crate::metrics::Transform { transform: "sources[0].transforms[0]".to_owned() };
        prop_assert_eq!(metrics.transform_in.get_or_create(&label).get(), lines.len() as u64);
        for shaped in &out {
            if let Content::Json(json) = &shaped.content {
                prop_assert!(serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(json).is_ok());
            }
            if let Some(labels) = &shaped.labels {
                prop_assert!(Labels::from_json(labels).unwrap().check().is_ok());
            }
            if let Some(meta) = &shaped.meta {
                prop_assert!(Labels::from_json(meta).is_ok());
            }
            prop_assert!(dead || !matches!(shaped.to, Destination::DeadLetter(_)));
        }
        if let [only] = programs[..]
            && ODD[only] == ODD[0]
            && !dead
        {
            for (shaped, line) in out.iter().zip(&lines) {
                let good = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(line).is_ok();
                prop_assert!(good || shaped.content == Content::Line && shaped.meta.is_some(), "{line}: {}", shown(shaped));
            }
        }
    }
}

/// `cargo test -p millrace-agent --release -- --ignored --nocapture measure`: ns for a record of a typical program.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
fn measure() {
    let line = r#"{"time":"2026-03-01T12:00:00Z","level":"info","service":"checkout","msg":"order paid","order":184467,"user":{"id":77,"name":"ann"},"ms":12.5,"tags":["a","b"]}"#;
    let lines = vec![line; 20_000];
    for (what, transforms) in [
        ("drop by pattern, not matched", r#"[{"type": "drop", "match": "^DEBUG "}]"#),
        ("redact card, email, jwt, ip", r#"[{"type": "redact", "presets": ["card", "email", "jwt", "ip"]}]"#),
        ("redact token", r#"[{"type": "redact", "presets": ["token"]}]"#),
        ("vrl: metadata only", r#"[{"type": "vrl", "program": ".metadata.a = \"b\""}]"#),
        ("vrl: parse_json alone", r#"[{"type": "vrl", "program": ". = parse_json!(.message)"}]"#),
        (
            "vrl: parse_json, del, label",
            r#"[{"type": "vrl", "program": ". |= object!(parse_json!(.message))\ndel(.message)\n.labels.level = del(.level)"}]"#,
        ),
        (
            "vrl: the same, then drop by field",
            r#"[{"type": "vrl", "program": ". |= object!(parse_json!(.message))\ndel(.message)\n.labels.level = del(.level)"},
                {"type": "drop", "if": ".service == \"other\""}]"#,
        ),
        ("throttle by label", r#"[{"type": "throttle", "limit": 1000000000, "key": ".labels.app"}]"#),
    ] {
        run(transforms, &lines[..100]);
        let started = std::time::Instant::now();
        for _ in 0..5 {
            run(transforms, &lines);
        }
        let ns = started.elapsed().as_nanos() as f64 / 100_000.0;
        println!("{what:40} {ns:8.0} ns a record of {} bytes", line.len());
    }
}
