//! Filebeat: `filebeat.inputs` of the types `filestream`, `log` and `container`, their parsers and processors, outputs.
//!
//! In: YAML, keys with dots or without. Out: a draft. Touches nothing. The keys are those of Filebeat 8 and 9:
//! <https://www.elastic.co/docs/reference/beats/filebeat/filebeat-input-filestream>.

use std::path::Path;

use super::draft::{Draft, Source};
use super::error::ImportError;
use super::filebeat_output::output;
use super::filebeat_processors::processors;
use super::foreign::{self, Keys};
use super::parts::{Multiline, Timestamp};
use super::pattern;
use super::result::Out;
use super::step::{self, TransformStep};
use millrace_log::yaml::{MapEntry, Node, Place};

/// Reads the file.
pub fn import(path: &Path, text: &str) -> Result<Draft, ImportError> {
    let file = path.display().to_string();
    let mut root = foreign::yaml(&file, text)?;
    foreign::expand_dots(&mut root);
    let top = Keys::new(&root, "");
    let other = || ImportError::Other { path: file.clone(), format: "Filebeat", expected: "the key `filebeat.inputs`" };
    let beat = top.entry("filebeat").ok_or_else(other)?;
    let keys = Keys::new(&beat.node, "filebeat");
    let mut draft = Draft::new(true);
    let inputs = keys.take("inputs").or_else(|| keys.take("prospectors"));
    if inputs.is_none() && beat.node.at_path("modules").is_none() && beat.node.at_path("config").is_none() {
        return Err(other());
    }
    for (i, input) in inputs.map(Node::items).unwrap_or_default().into_iter().enumerate() {
        self::input(input, &format!("filebeat.inputs[{i}]"), &mut draft);
    }
    for (key, instead) in [
        ("modules", "name the files that the module reads in `include`; queries parse their lines"),
        ("config", "import the files that it names too"),
        ("autodiscover", "use packaging/kubernetes of Millrace, or name the containers' files"),
    ] {
        if let Some(entry) = keys.entry(key) {
            draft.leave(&entry.place, keys.name(key), "is not read", instead);
        }
    }
    for key in ["registry", "shutdown_timeout", "overwrite_pipelines", "spool_size", "idle_timeout", "registry_file"] {
        if let Some(entry) = keys.entry(key) {
            draft.note(&entry.place, keys.name(key), "concerns Filebeat itself");
        }
    }
    let text = "Filebeat's registry is not migrated: each file is read by `read_from` at Millrace's first start, so that lines \
                sent by Filebeat are read again; `read_from: end` reads only new lines";
    draft.note(&beat.place, "filebeat.registry", text);
    draft.leave_rest(&keys);
    if let Some((name, place)) = top.text("name") {
        let name = draft.open(name);
        draft.agent("host", name, place);
    }
    if let Some(entry) = top.entry("fields") {
        for (name, value, place) in entry.node.flat("") {
            draft.label_all(&name, &value, &place);
        }
    }
    if let Some((tags, place)) = top.take("tags").and_then(Node::joined) {
        draft.label_all("tags", &tags, place);
    }
    if let Some(entry) = top.entry("processors") {
        let mut all: Vec<Source> = std::mem::take(&mut draft.sources);
        processors(&entry.node, "processors", &mut all, &mut draft);
        draft.sources = all;
    }
    if let Some(entry) = top.entry("output") {
        output(&entry.node, &mut draft);
    }
    top.pass(&["fields_under_root"]);
    for key in [
        "setup",
        "logging",
        "monitoring",
        "http",
        "path",
        "queue",
        "max_procs",
        "cloud",
        "instrumentation",
        "seccomp",
        "xpack",
        "keystore",
        "timestamp",
        "features",
        "gc_percent",
    ] {
        if let Some(entry) = top.entry(key) {
            draft.note(&entry.place, key, "concerns Filebeat itself");
        }
    }
    draft.leave_rest(&top);
    Ok(draft)
}

fn input(node: &Node, path: &str, draft: &mut Draft) {
    let keys = Keys::new(node, path);
    let kind = keys.text("type").map_or("log", |(kind, _)| kind);
    let title = match keys.text("id") {
        Some((id, _)) => format!("{path} ({kind} {id})"),
        None => format!("{path} ({kind})"),
    };
    if keys.take("enabled").and_then(Node::yes) == Some(false) {
        draft.note(&node.place, title, "is disabled");
        return;
    }
    if !matches!(kind, "filestream" | "log" | "container") {
        let instead = match kind {
            "journald" => "a source `{type: journald}`",
            "syslog" | "tcp" | "udp" | "unix" => "a source `{type: syslog}`",
            "docker" => "name Docker's files: /var/lib/docker/containers/*/*-json.log",
            "kafka" => "Millrace's log is a Kafka: name the topic in `aggregator.kafka.topics`",
            "stdin" => "a source `{type: stdin}`",
            _ => "Filebeat, for this input",
        };
        draft.leave(&node.place, title, "is not a file input", instead);
        return;
    }
    let mut source = Source::new(&node.place, &title);
    let scanner = keys.take("prospector").and_then(|node| node.get("scanner"));
    files(&keys, scanner, &mut source, draft);
    settings(&keys, node, &mut source, draft);
    scan(&keys, scanner, draft);
    events(&keys, &mut source, draft);
    if kind == "container" {
        source.set_format("auto", &node.place);
    }
    lines(&keys, &mut source, draft);
    if let Some(entry) = keys.entry("processors") {
        processors(&entry.node, &keys.name("processors"), std::slice::from_mut(&mut source), draft);
    }
    not_converted(&keys, node, draft);
    keys.pass(&[
        "id",
        "clean_inactive",
        "clean_removed",
        "clean_inactive",
        "close",
        "close_inactive",
        "close_renamed",
        "close_removed",
        "close_eof",
        "close_timeout",
        "harvester_limit",
        "harvester_buffer_size",
        "backoff",
        "max_backoff",
        "backoff_factor",
        "scan",
        "file_identity",
        "buffer_size",
        "publisher_pipeline",
        "recursive_glob",
        "keep_null",
        "take_over",
        "stream",
        "format",
        "rotation",
        "delete",
        "compression",
        "gzip_experimental",
        "legacy_clean_inactive",
    ]);
    draft.leave_rest(&keys);
    draft.sources.push(source);
}

/// Which files are read.
fn files(keys: &Keys<'_>, scanner: Option<&Node>, source: &mut Source, draft: &mut Draft) {
    source.include = keys.take("paths").map(Node::texts).unwrap_or_default();
    for glob in &mut source.include {
        glob.0 = pattern::glob_without_braces(&glob.0);
    }
    let excluded = [keys.take("exclude_files"), scanner.and_then(|node| node.get("exclude_files"))];
    for (regex, place) in excluded.into_iter().flatten().flat_map(Node::texts) {
        match pattern::globs_of_regex(&regex) {
            Some(globs) => source.exclude.extend(globs.into_iter().map(|glob| (glob, place.clone()))),
            None => draft.leave(
                &place,
                format!("{}: {regex}", keys.name("exclude_files")),
                "cannot be written as globs",
                "globs under `exclude`",
            ),
        }
    }
    if let Some(entry) = keys.entry("include_files").or_else(|| scanner_entry(scanner, "include_files")) {
        draft.leave(
            &entry.place,
            keys.name("include_files"),
            "chooses files by a regular expression",
            "narrow the globs of `include`",
        );
    }
}

/// Labels, encoding, where to start, the longest line.
fn settings(keys: &Keys<'_>, node: &Node, source: &mut Source, draft: &mut Draft) {
    for (name, value, place) in keys.take("fields").map(|node| node.flat("")).unwrap_or_default() {
        source.label(&name, &value, &place);
    }
    keys.pass(&["fields_under_root"]);
    if let Some((tags, place)) = keys.take("tags").and_then(Node::joined) {
        source.label("tags", &tags, place);
    }
    if let Some((text, place)) = keys.text("encoding") {
        source.set_encoding(text, place, keys.name("encoding"), draft);
    }
    let seeks_end = keys.yes("tail_files") || keys.text("ignore_inactive").is_some();
    if seeks_end {
        source.read_from = Some(("end", node.place.clone()));
    }
    for key in ["max_bytes", "message_max_bytes"] {
        if let Some((text, place)) = keys.text(key) {
            match pattern::bytes(text) {
                Some(bytes) => source.max_line_bytes = Some((bytes, place.clone())),
                None => draft.leave(place, keys.name(key), format!("`{text}` is not a size"), "set `max_line_bytes`"),
            }
        }
    }
}

/// How lines are joined and parsed.
fn events(keys: &Keys<'_>, source: &mut Source, draft: &mut Draft) {
    if let Some(entry) = keys.entry("multiline") {
        multiline(&entry.node, &keys.name("multiline"), &entry.place, source, draft);
    }
    if let Some(entry) = keys.entry("json") {
        json(&entry.node, &keys.name("json"), &entry.place, source, draft);
    }
    for (i, parser) in keys.take("parsers").map(Node::items).unwrap_or_default().into_iter().enumerate() {
        self::parser(parser, &format!("{}[{i}]", keys.name("parsers")), source, draft);
    }
}

/// Which lines are kept.
fn lines(keys: &Keys<'_>, source: &mut Source, draft: &mut Draft) {
    // Filebeat applies include_lines first.
    if let Some(entry) = keys.entry("include_lines") {
        include_lines(&entry.node, &keys.name("include_lines"), source, draft);
    }
    for (line, place) in keys.take("exclude_lines").map(Node::texts).unwrap_or_default() {
        let what = format!("{}: {line}", keys.name("exclude_lines"));
        match pattern::regex(&line) {
            Ok(regex) => {
                source.step(TransformStep::drop_match(&regex, &place, what).reason("exclude_lines"), draft);
            }
            Err(why) => draft.leave(&place, what, why, "a transform `{type: drop, match: ...}` of the source"),
        }
    }
}

/// What has no counterpart.
fn not_converted(keys: &Keys<'_>, node: &Node, draft: &mut Draft) {
    for (key, why, instead) in [
        ("ignore_older", "old files are read too", "`exclude` for these files, or `read_from: end`"),
        (
            "pipeline",
            "an ingest pipeline of Elasticsearch changes the event there",
            "set it as the index's default pipeline",
        ),
        ("index", "an export has one index", "`exports[].index`"),
    ] {
        if let Some((text, place)) = keys.text(key)
            && text != "0"
        {
            draft.leave(place, format!("{}: {text}", keys.name(key)), why, instead);
        }
    }
    if keys.yes("symlinks") {
        draft.note(&node.place, keys.name("symlinks"), "links that globs name are followed");
    }
}

/// Drops the lines that none of the expressions matches.
fn include_lines(node: &Node, what: &str, source: &mut Source, draft: &mut Draft) {
    let mut conditions = Vec::new();
    for (line, place) in node.texts() {
        match pattern::regex(&line) {
            Ok(regex) => conditions.push(format!("!{}", step::line_matches(&regex))),
            // Without one of them lines would be lost.
            Err(why) => {
                return draft.leave(
                    &place,
                    format!("{what}: {line}"),
                    why,
                    "a transform `{type: drop, if: ...}` of the source",
                );
            }
        }
    }
    if !conditions.is_empty() {
        let condition = step::program(&conditions.join(" && "));
        source.step(TransformStep::drop_if(condition, &node.place, what).reason("include_lines"), draft);
    }
}

fn scanner_entry<'n>(scanner: Option<&'n Node>, key: &str) -> Option<&'n MapEntry> {
    scanner?.entries().iter().find(|entry| entry.key == key)
}

fn scan(keys: &Keys<'_>, scanner: Option<&Node>, draft: &mut Draft) {
    let of_log = keys.text("scan_frequency");
    let of_stream =
        scanner.and_then(|node| node.get("check_interval")).and_then(|node| Some((node.text()?, &node.place)));
    if let Some((text, place)) = of_log.or(of_stream) {
        match pattern::span(text, 1000.0) {
            Some(span) => draft.agent("scan_interval", Out::Plain(span), place),
            None => draft.leave(
                place,
                keys.name("scan_frequency"),
                format!("`{text}` is not a duration"),
                "set `agent.scan_interval`",
            ),
        }
    }
    for key in ["fingerprint", "symlinks", "resend_on_touch"] {
        if let Some(entry) = scanner_entry(scanner, key) {
            let text = "files are distinguished by the hash of their first bytes, device and inode; links that globs name are followed";
            draft.note(&entry.place, keys.name(&format!("prospector.scanner.{key}")), text);
        }
    }
}

fn multiline(node: &Node, path: &str, place: &Place, source: &mut Source, draft: &mut Draft) {
    let keys = Keys::new(node, path);
    let instead = "set `multiline.start` to what begins an event";
    let kind = keys.text("type").map_or("pattern", |(kind, _)| kind);
    if kind != "pattern" {
        return draft.leave(place, path, format!("the type `{kind}` joins lines in another way"), instead);
    }
    let Some((pattern, at)) = keys.text("pattern") else {
        return draft.leave(place, path, "has no `pattern`", instead);
    };
    let key = match (keys.yes("negate"), keys.text("match").map_or("after", |(text, _)| text)) {
        (true, "after") => "start",
        (false, "after") => "continue",
        (_, other) => {
            let why = format!(
                "`match: {other}` with `negate: {}` joins a line with those that follow it",
                keys.yes("negate")
            );
            return draft.leave(place, path, why, instead);
        }
    };
    match pattern::regex(pattern) {
        Err(why) => draft.leave(at, keys.name("pattern"), why, "a new `multiline.start`"),
        Ok(regex) => {
            let multiline = Multiline {
                by: Some((key, regex)),
                max_lines: keys.text("max_lines").and_then(|(text, _)| text.parse().ok()),
                timeout: keys.text("timeout").map_or(Some("5s".to_owned()), |(text, _)| pattern::span(text, 1000.0)),
            };
            source.multiline = Some((multiline, at.clone()));
        }
    }
    if let Some(entry) = keys.entry("flush_pattern") {
        draft.leave(
            &entry.place,
            keys.name("flush_pattern"),
            "an event ends where the next one starts, or after `timeout`",
            "",
        );
    }
    if keys.yes("skip_newline") {
        draft.leave(
            place,
            keys.name("skip_newline"),
            "lines are joined by line feeds",
            "VRL: `.message = replace(string!(.message), \"\\n\", \"\")`",
        );
    }
    draft.leave_rest(&keys);
}

/// Filebeat parses JSON lines; here queries do, and the line stays as it is.
fn json(node: &Node, path: &str, place: &Place, source: &mut Source, draft: &mut Draft) {
    let keys = Keys::new(node, path);
    draft.note(place, path, "the line stays JSON as written: its fields are found by queries (`| json`)");
    source.is_json = keys.yes("keys_under_root") || keys.text("target").is_some_and(|(target, _)| target.is_empty());
    if keys.yes("overwrite_keys") && keys.yes("keys_under_root") {
        let timestamp =
            Timestamp { format: "rfc3339".into(), field: Some("@timestamp".into()), ..Timestamp::default() };
        source.timestamp = Some((timestamp, place.clone()));
    }
    if let Some((key, at)) = keys.text("message_key") {
        draft.note(
            at,
            keys.name("message_key"),
            format!("`| json | line_format \"{{{{.{key}}}}}\"` shows the message alone"),
        );
    }
    keys.pass(&[
        "keys_under_root",
        "overwrite_keys",
        "add_error_key",
        "expand_keys",
        "ignore_decoding_error",
        "document_id",
        "target",
        "overwrite_keys",
    ]);
    draft.leave_rest(&keys);
}

fn parser(node: &Node, path: &str, source: &mut Source, draft: &mut Draft) {
    for entry in node.entries() {
        let name = format!("{path}.{}", entry.key);
        match entry.key.as_str() {
            "multiline" => multiline(&entry.node, &name, &entry.place, source, draft),
            "ndjson" => json(&entry.node, &name, &entry.place, source, draft),
            "container" => source.set_format("auto", &entry.place),
            "syslog" => draft.leave(
                &entry.place,
                name,
                "the line stays as written",
                "VRL: `parse_syslog`; or `| pattern` in queries",
            ),
            "include_message" => match entry.node.get("patterns") {
                Some(patterns) => include_lines(patterns, &name, source, draft),
                None => draft.leave(&entry.place, name, "has no `patterns`", ""),
            },
            _ => draft.leave(&entry.place, name, "is unknown", "the same in VRL, in a transform of the source"),
        }
    }
}
