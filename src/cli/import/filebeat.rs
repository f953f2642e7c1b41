//! Filebeat: `filebeat.inputs` of the types `filestream`, `log` and `container`, their parsers and processors, outputs.
//!
//! In: YAML, keys with dots or without. Out: a draft. Touches nothing. The keys are those of Filebeat 8 and 9:
//! <https://www.elastic.co/docs/reference/beats/filebeat/filebeat-input-filestream>.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::draft::{Draft, Multiline, Out, Source, Timestamp};
use super::foreign::{self, Keys};
use super::promtail::rest;
use super::{ImportError, pattern};
use crate::config::tree::{Entry, Node, Place};

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
            draft.note(&entry.place, keys.name(key), "belongs to Filebeat's own running");
        }
    }
    let text = "Filebeat's registry is not taken over: each file is read by `read_from` at Millrace's first start, so that what \
                Filebeat sent is read once more; `read_from: end` reads only what is written from then on";
    draft.note(&beat.place, "filebeat.registry", text);
    rest(&keys, &mut draft);
    if let Some((name, place)) = top.text("name") {
        let name = draft.open(name);
        draft.agent("host", name, place);
    }
    if let Some(entry) = top.entry("fields") {
        for (name, value, place) in flat(&entry.node, "") {
            draft.label_all(&name, &value, &place);
        }
    }
    tags(top.take("tags"), |name, value, place| draft.label_all(name, value, place));
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
            draft.note(&entry.place, key, "belongs to Filebeat's own running");
        }
    }
    rest(&top, &mut draft);
    Ok(draft)
}

/// Names of nested maps are joined by `_`.
fn flat(node: &Node, prefix: &str) -> Vec<(String, String, Place)> {
    let mut all = Vec::new();
    for entry in node.entries() {
        let name = if prefix.is_empty() { entry.key.clone() } else { format!("{prefix}_{}", entry.key) };
        if entry.node.entries().is_empty() {
            let texts: Vec<String> = entry.node.texts().into_iter().map(|(text, _)| text).collect();
            if !texts.is_empty() {
                all.push((name, texts.join(","), entry.node.place.clone()));
            }
        } else {
            all.extend(flat(&entry.node, &name));
        }
    }
    all
}

fn tags(node: Option<&Node>, mut set: impl FnMut(&str, &str, &Place)) {
    if let Some(node) = node {
        let tags: Vec<String> = node.texts().into_iter().map(|(tag, _)| tag).collect();
        if !tags.is_empty() {
            set("tags", &tags.join(","), &node.place);
        }
    }
}

fn input(node: &Node, path: &str, draft: &mut Draft) {
    let keys = Keys::new(node, path);
    let kind = keys.text("type").map_or("log", |(kind, _)| kind);
    let title = match keys.text("id") {
        Some((id, _)) => format!("{path} ({kind} {id})"),
        None => format!("{path} ({kind})"),
    };
    if keys.take("enabled").and_then(Node::yes) == Some(false) {
        draft.note(&node.place, title, "is switched off");
        return;
    }
    if !matches!(kind, "filestream" | "log" | "container") {
        let instead = match kind {
            "journald" => "read the journal with `journalctl -f -o json >> FILE` until Millrace reads it by itself",
            "syslog" | "tcp" | "udp" | "unix" => "have rsyslog write to files, and name them in `include`",
            "docker" => "name Docker's files: /var/lib/docker/containers/*/*-json.log",
            "kafka" => "Millrace's log is a Kafka: name the topic in `aggregator.kafka.topics`",
            "stdin" => "have the program write to a file",
            _ => "keep Filebeat for it",
        };
        draft.leave(&node.place, title, "is no input of files", instead);
        return;
    }
    let mut source = Source::new(&node.place, &title);
    source.include = keys.take("paths").map(Node::texts).unwrap_or_default();
    for glob in &mut source.include {
        glob.0 = pattern::glob_without_braces(&glob.0);
    }
    let scanner = keys.take("prospector").and_then(|node| node.get("scanner"));
    let excluded = [keys.take("exclude_files"), scanner.and_then(|node| node.get("exclude_files"))];
    for (regex, place) in excluded.into_iter().flatten().flat_map(Node::texts) {
        match pattern::globs_of_regex(&regex) {
            Some(globs) => source.exclude.extend(globs.into_iter().map(|glob| (glob, place.clone()))),
            None => draft.leave(
                &place,
                format!("{path}.exclude_files: {regex}"),
                "is no glob",
                "write it as globs under `exclude`",
            ),
        }
    }
    if let Some(entry) = keys.entry("include_files").or_else(|| scanner_entry(scanner, "include_files")) {
        draft.leave(
            &entry.place,
            format!("{path}.include_files"),
            "chooses files by a regular expression",
            "narrow the globs of `include`",
        );
    }
    for (name, value, place) in keys.take("fields").map(|node| flat(node, "")).unwrap_or_default() {
        source.label(&name, &value, &place);
    }
    keys.pass(&["fields_under_root"]);
    tags(keys.take("tags"), |name, value, place| drop(source.label(name, value, place)));
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
                None => draft.leave(place, keys.name(key), format!("`{text}` is no size"), "set `max_line_bytes`"),
            }
        }
    }
    scan(&keys, scanner, draft);
    if let Some(entry) = keys.entry("multiline") {
        multiline(&entry.node, &keys.name("multiline"), &entry.place, &mut source, draft);
    }
    if let Some(entry) = keys.entry("json") {
        json(&entry.node, &keys.name("json"), &entry.place, &mut source, draft);
    }
    for (i, parser) in keys.take("parsers").map(Node::items).unwrap_or_default().into_iter().enumerate() {
        self::parser(parser, &format!("{path}.parsers[{i}]"), &mut source, draft);
    }
    if kind == "container" {
        source.set_format("auto", &node.place);
    }
    for (key, what) in [("exclude_lines", "drops lines"), ("include_lines", "drops all other lines")] {
        for (line, place) in keys.take(key).map(Node::texts).unwrap_or_default() {
            let instead = if key == "exclude_lines" {
                format!("a transform of the source: `{{type: drop, match: '{line}'}}`")
            } else {
                format!("a transform of the source: `{{type: drop, if: '!match(string!(.message), r''{line}'')'}}`")
            };
            draft.leave(&place, format!("{path}.{key}: {line}"), what, instead);
        }
    }
    if let Some(entry) = keys.entry("processors") {
        processors(&entry.node, &keys.name("processors"), std::slice::from_mut(&mut source), draft);
    }
    for (key, why, instead) in [
        ("ignore_older", "old files are read too, once", "name them in `exclude`, or use `read_from: end`"),
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
            draft.leave(place, format!("{path}.{key}: {text}"), why, instead);
        }
    }
    if keys.yes("symlinks") {
        draft.note(&node.place, keys.name("symlinks"), "links that globs name are followed");
    }
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
    rest(&keys, draft);
    draft.sources.push(source);
}

fn scanner_entry<'n>(scanner: Option<&'n Node>, key: &str) -> Option<&'n Entry> {
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
                format!("`{text}` is no time"),
                "set `agent.scan_interval`",
            ),
        }
    }
    for key in ["fingerprint", "symlinks", "resend_on_touch"] {
        if let Some(entry) = scanner_entry(scanner, key) {
            let text =
                "files are told apart by the hash of their head, device and inode; links that globs name are followed";
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
        Err(why) => draft.leave(at, keys.name("pattern"), why, "write `multiline.start` anew"),
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
    rest(&keys, draft);
}

/// Filebeat parses JSON lines; here queries do, and the line stays as it is.
fn json(node: &Node, path: &str, place: &Place, source: &mut Source, draft: &mut Draft) {
    let keys = Keys::new(node, path);
    draft.note(place, path, "the line stays JSON as written: its fields are found by queries (`| json`)");
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
    rest(&keys, draft);
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
            "include_message" => draft.leave(
                &entry.place,
                name,
                "drops all other lines",
                "a transform of the source: `{type: drop, if: …}`",
            ),
            _ => draft.leave(&entry.place, name, "is not known", "write what it does in VRL"),
        }
    }
}

fn processors(node: &Node, path: &str, sources: &mut [Source], draft: &mut Draft) {
    for (i, processor) in node.items().into_iter().enumerate() {
        for entry in processor.entries() {
            let name = format!("{path}[{i}].{}", entry.key);
            let settings = &entry.node;
            let conditional = settings.get("when").is_some();
            match entry.key.as_str() {
                "add_fields" | "add_labels" if !conditional => {
                    let (key, target) = if entry.key == "add_labels" { ("labels", "") } else { ("fields", "") };
                    for (label, value, place) in settings.get(key).map(|node| flat(node, target)).unwrap_or_default() {
                        for source in sources.iter_mut() {
                            source.label(&label, &value, &place);
                        }
                    }
                }
                "add_tags" if !conditional => {
                    for source in sources.iter_mut() {
                        tags(settings.get("tags"), |name, value, place| drop(source.label(name, value, place)));
                    }
                }
                "timestamp" if !conditional => timestamp(settings, &name, &entry.place, sources, draft),
                "add_host_metadata" => draft.note(&entry.place, name, "the label `host` is always there"),
                other => {
                    let (why, instead) = told(other);
                    let why = if conditional { format!("{why}, where `when` holds") } else { why.to_owned() };
                    draft.leave(&entry.place, name, why, instead);
                }
            }
        }
    }
}

fn told(processor: &str) -> (&'static str, &'static str) {
    match processor {
        "drop_event" => (
            "drops events",
            "a transform of the source: `{type: drop, if: …}` with a VRL expression, or `{type: drop, match: …}`",
        ),
        "drop_fields" | "include_fields" | "rename" | "copy_fields" | "truncate_fields" | "replace" | "convert"
        | "append" | "move_fields" | "add_fields" | "add_labels" | "add_tags" => {
            ("changes fields", "the line stays as written; in VRL fields are set, renamed and deleted")
        }
        "decode_json_fields" => ("parses JSON", "`| json` in queries, or VRL `parse_json`"),
        "dissect" => ("parses lines", "`| pattern` in queries, or VRL `parse_regex` and `parse_grok`"),
        "decode_csv_fields" => ("parses lines", "VRL `parse_csv`"),
        "syslog" => ("parses lines", "VRL `parse_syslog`"),
        "script" => ("changes events by a program in JavaScript", "write it in VRL, in a transform of the source"),
        "timestamp" => ("sets the time", "`timestamp` of the source, or VRL `.timestamp = …`"),
        "fingerprint" => ("makes an id", "nothing: each line has an id of its own, and is indexed once"),
        "rate_limit" => ("limits the rate", "a transform `{type: throttle, limit: …, per: 1s}`"),
        "add_docker_metadata" | "add_kubernetes_metadata" => (
            "asks the runtime for labels",
            "use packaging/kubernetes of Millrace: the path names namespace, pod and container",
        ),
        "add_cloud_metadata"
        | "add_locale"
        | "add_process_metadata"
        | "add_observer_metadata"
        | "dns"
        | "community_id" => ("adds what the host knows", "write it under `labels` of the source"),
        "add_id" => ("makes an id", "nothing: each line has an id of its own"),
        _ => ("is not known", "write what it does in VRL"),
    }
}

fn timestamp(settings: &Node, name: &str, place: &Place, sources: &mut [Source], draft: &mut Draft) {
    let keys = Keys::new(settings, name);
    let field = keys.text("field").map_or("", |(text, _)| text);
    let layouts = keys.take("layouts").map(Node::texts).unwrap_or_default();
    keys.pass(&["test", "ignore_missing", "ignore_failure", "target_field", "id"]);
    let instead = "set `timestamp` of the source";
    let Some((layout, at)) = layouts.first() else { return draft.leave(place, name, "has no layouts", instead) };
    if let Some((_, second)) = layouts.get(1) {
        draft.leave(second, keys.name("layouts"), "a source has one format", "VRL `parse_timestamp` with `??`");
    }
    let mut timestamp = match pattern::go_layout(layout) {
        Ok(format) => Timestamp { format, ..Timestamp::default() },
        Err(why) => return draft.leave(at, keys.name("layouts"), format!("`{layout}` {why}"), instead),
    };
    if !field.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-@".contains(&b)) || field.is_empty() {
        return draft.leave(place, name, format!("`{field}` is not a field at the top of a JSON line"), instead);
    }
    timestamp.field = Some(field.to_owned());
    if let Some((zone, at)) = keys.text("timezone") {
        timestamp.timezone = pattern::offset(zone);
        if timestamp.timezone.is_none() {
            let why = format!("`{zone}` has no offset that holds all year");
            draft.leave(at, keys.name("timezone"), why, "set `timezone` to its offset");
        }
    }
    for source in sources {
        source.timestamp = Some((timestamp.clone(), place.clone()));
    }
    rest(&keys, draft);
}

fn output(node: &Node, draft: &mut Draft) {
    for entry in node.entries() {
        let path = format!("output.{}", entry.key);
        let keys = Keys::new(&entry.node, &path);
        if keys.take("enabled").and_then(Node::yes) == Some(false) {
            continue;
        }
        match entry.key.as_str() {
            "kafka" => kafka(&keys, draft),
            "elasticsearch" => elasticsearch(entry, &keys, draft),
            "logstash" => draft.leave(
                &entry.place,
                path,
                "the agent writes to the log alone",
                "have Logstash read the log with its Kafka input",
            ),
            "console" => draft.leave(
                &entry.place,
                path,
                "the agent writes to the log alone",
                "`millrace broker consume logs --follow`",
            ),
            "file" => draft.leave(
                &entry.place,
                path,
                "the agent writes to the log alone",
                "`millrace broker consume logs --follow >> FILE`",
            ),
            _ => draft.leave(
                &entry.place,
                path,
                "the agent writes to the log alone",
                "let a Kafka consumer read the log and send it on",
            ),
        }
    }
}

fn kafka(keys: &Keys<'_>, draft: &mut Draft) {
    if let Some(entry) = keys.entry("hosts") {
        let hosts = entry.node.texts();
        let list = hosts.into_iter().map(|(host, place)| (draft.open(&with_port(&host, 9092)), Some(place))).collect();
        draft.kafka("brokers", Out::List(list), &entry.place);
    }
    if let Some((topic, place)) = keys.text("topic") {
        if topic.contains("%{") {
            let instead = "a transform `{type: route, topic_from: …}`; until then all lines go to the topic `logs`";
            draft.leave(place, keys.name("topic"), format!("`{topic}` is chosen by the event"), instead);
        } else {
            let topic = draft.open(topic);
            draft.kafka("topic", topic, place);
        }
    }
    if let Some(entry) = keys.entry("topics") {
        draft.leave(
            &entry.place,
            keys.name("topics"),
            "chooses topics by the event",
            "a transform `{type: route, if: …, topic: …}` for each",
        );
    }
    for (theirs, ours) in
        [("username", "sasl_username"), ("password", "sasl_password"), ("sasl.mechanism", "sasl_mechanism")]
    {
        let first = theirs.split('.').next().unwrap_or(theirs);
        let found = match theirs.split_once('.') {
            Some((_, inner)) => keys.take(first).and_then(|node| node.get(inner)),
            None => keys.take(first),
        };
        if let Some((text, place)) = found.and_then(|node| Some((node.text()?, &node.place))) {
            let text = draft.open(text);
            draft.kafka(ours, text, place);
        }
    }
    if let (Some(entry), None) = (keys.entry("username"), keys.take("sasl")) {
        draft.kafka("sasl_mechanism", Out::Plain("PLAIN".to_owned()), &entry.place);
    }
    if let Some(entry) = keys.entry("ssl")
        && entry.node.get("enabled").and_then(Node::yes) != Some(false)
    {
        draft.kafka("tls", Out::Plain("true".to_owned()), &entry.place);
        for (theirs, ours) in
            [("certificate_authorities", "ca_file"), ("certificate", "cert_file"), ("key", "key_file")]
        {
            let files = entry.node.get(theirs).map(Node::texts).unwrap_or_default();
            if let Some((file, place)) = files.first() {
                let file = draft.open(file);
                draft.kafka(ours, file, place);
            }
            if let Some((_, second)) = files.get(1) {
                draft.leave(
                    second,
                    keys.name(&format!("ssl.{theirs}")),
                    "is one file here",
                    "put the certificates into one file",
                );
            }
        }
        if let Some(mode) = entry.node.get("verification_mode").filter(|node| node.text() != Some("full")) {
            draft.leave(&mode.place, keys.name("ssl.verification_mode"), "certificates are always checked in full", "");
        }
    }
    if let Some(entry) = keys.entry("partition") {
        draft.note(&entry.place, keys.name("partition"), "a file stays in one partition, in order");
    }
    keys.pass(&[
        "enabled",
        "version",
        "client_id",
        "codec",
        "compression",
        "compression_level",
        "required_acks",
        "max_message_bytes",
        "bulk_max_size",
        "bulk_flush_frequency",
        "timeout",
        "broker_timeout",
        "channel_buffer_size",
        "keep_alive",
        "metadata",
        "max_retries",
        "backoff",
        "worker",
        "key",
        "headers",
        "ssl",
        "queue",
    ]);
    rest(keys, draft);
}

fn with_port(host: &str, port: u16) -> String {
    let bare = host.rsplit_once(':').is_none_or(|(_, port)| port.contains(['}', ']']));
    if bare && !host.contains("${") { format!("{host}:{port}") } else { host.to_owned() }
}

fn elasticsearch(entry: &Entry, keys: &Keys<'_>, draft: &mut Draft) {
    let hosts = keys.take("hosts").map(Node::texts).unwrap_or_default();
    let Some((host, place)) = hosts.first() else {
        return draft.leave(&entry.place, &keys.path, "names no hosts", "set `exports[].url`");
    };
    let protocol = keys.text("protocol").map_or("http", |(text, _)| text);
    let url = if host.contains("://") { host.clone() } else { format!("{protocol}://{}", with_port(host, 9200)) };
    let mut fields = vec![
        ("type", Out::Plain("elasticsearch".to_owned()), entry.place.clone()),
        ("url", draft.open(&url), place.clone()),
    ];
    if let Some((_, second)) = hosts.get(1) {
        draft.leave(second, keys.name("hosts"), "an export has one address", "name a load balancer, or any one node");
    }
    if let Some((index, at)) = keys.text("index") {
        if index.contains("%{") {
            let instead = "`exports[].index` with one name: an alias or a data stream";
            draft.leave(at, keys.name("index"), format!("`{index}` is made anew for each event"), instead);
        } else {
            fields.push(("index", draft.open(index), at.clone()));
        }
    }
    for key in ["username", "password", "api_key"] {
        if let Some((text, at)) = keys.text(key) {
            // Elasticsearch takes `id:key` in base64.
            let encoded = (key == "api_key" && text.contains(':') && !text.contains("${")).then(|| BASE64.encode(text));
            fields.push((key, draft.open(encoded.as_deref().unwrap_or(text)), at.clone()));
        }
    }
    draft.export(fields);
    let text = "an export reads the log where the role `aggregator` runs: move it to that configuration, and set `kafka.brokers`";
    draft.note(&entry.place, &keys.path, text);
    if let Some(found) = keys.entry("ssl") {
        draft.leave(
            &found.place,
            keys.name("ssl"),
            "an export trusts the system's authorities",
            "add the authority to the system's",
        );
    }
    for key in ["pipeline", "pipelines", "indices"] {
        if let Some(found) = keys.entry(key) {
            draft.leave(
                &found.place,
                keys.name(key),
                "an export has one index and no pipeline",
                "set the index's default pipeline",
            );
        }
    }
    keys.pass(&[
        "enabled",
        "path",
        "parameters",
        "headers",
        "proxy_url",
        "max_retries",
        "bulk_max_size",
        "backoff",
        "timeout",
        "worker",
        "workers",
        "loadbalance",
        "compression_level",
        "escape_html",
        "allow_older_versions",
        "preset",
        "queue",
        "kerberos",
        "index",
        "username",
        "password",
        "api_key",
    ]);
    rest(keys, draft);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_the_usual_port() {
        for (host, want) in [("a", "a:9092"), ("a:1", "a:1"), ("${K}", "${K}"), ("[::1]", "[::1]:9092")] {
            assert_eq!(with_port(host, 9092), want);
        }
    }
}
