//! Vector: sources of the type `file`, and the sinks that they reach.
//!
//! In: TOML, YAML or JSON. Out: a draft. Touches nothing. The keys are those of Vector 0.5x:
//! <https://vector.dev/docs/reference/configuration/sources/file/>.

use std::path::Path;

use super::draft::{Draft, Source};
use super::error::ImportError;
use super::foreign::{self, Keys};
use super::parts::Multiline;
use super::pattern;
use super::result::Out;
use super::vector_graph::{Chain, Upstream};
use super::vector_sink::sink;
use super::vector_transform::{leave, transform};
use millrace_log::yaml::{MapEntry, Node, Place};

/// Sources of other kinds, and what takes their place.
const OTHER_SOURCES: [(&str, &str); 10] = [
    ("journald", "a source `{type: journald}`"),
    ("kubernetes_logs", "the DaemonSet in packaging/kubernetes"),
    ("docker_logs", "name Docker's files: /var/lib/docker/containers/*/*-json.log"),
    ("syslog", "a source `{type: syslog}`"),
    ("socket", "a source `{type: syslog}` or `{type: http}`"),
    ("kafka", "Millrace's log is a Kafka: name the topic in `aggregator.kafka.topics`"),
    ("http_server", "a source `{type: http}`"),
    ("opentelemetry", "a source `{type: otlp}`"),
    ("internal_logs", "the agent logs to standard error"),
    ("exec", "a source `{type: command}`"),
];

/// Reads the file.
pub fn import(path: &Path, text: &str) -> Result<Draft, ImportError> {
    let file = path.display().to_string();
    let root = match path.extension().and_then(|e| e.to_str()) {
        Some("toml") => foreign::toml(&file, text)?,
        Some("yaml" | "yml" | "json") => foreign::yaml(&file, text)?,
        _ => foreign::toml(&file, text).or_else(|_| foreign::yaml(&file, text))?,
    };
    let top = Keys::new(&root, "");
    let sources = top.take("sources").map(Node::entries).unwrap_or_default();
    let typed = sources.iter().any(|source| source.node.get("type").is_some());
    if !typed {
        let expected = "`sources` with a `type` each";
        return Err(ImportError::Other { path: file, format: "Vector", expected });
    }
    let transforms = top.take("transforms").map(Node::entries).unwrap_or_default();
    let sinks = top.take("sinks").map(Node::entries).unwrap_or_default();
    let mut draft = Draft::new(true);
    // Names of the sources that became entries, in order.
    let mut names = Vec::new();
    for source in sources {
        if file_source(source, &mut draft) {
            names.push(source.key.clone());
        }
    }
    let upstream = Upstream::new(transforms, sources);
    // Only these are converted: a copy of the events for another sink changes nothing.
    let converted = |sink: &&MapEntry| {
        matches!(sink.node.get("type").and_then(Node::text), Some("kafka" | "loki" | "elasticsearch"))
    };
    let converted: Vec<&MapEntry> = sinks.iter().filter(converted).collect();
    for name in &names {
        let chain = Chain::of(name, transforms, &converted);
        let Some(mut source) = draft.take_source(&format!("sources.{name}")) else { continue };
        let by_name = |name: &str| transforms.iter().find(|entry| entry.key == name);
        for entry in chain.steps.iter().filter_map(|name| by_name(name)) {
            transform(entry, &mut source, &mut draft);
        }
        for entry in chain.others.iter().filter_map(|name| by_name(name)) {
            leave(entry, &mut draft);
        }
        draft.sources.push(source);
    }
    for entry in transforms.iter().filter(|entry| upstream.of(&entry.node).iter().all(|name| !names.contains(name))) {
        leave(entry, &mut draft);
    }
    for entry in sinks {
        let from = upstream.of(&entry.node);
        let reached: Vec<usize> =
            (0..names.len()).filter(|i| names.get(*i).is_some_and(|n| from.contains(n))).collect();
        sink(entry, &reached, &mut draft);
    }
    for key in [
        "data_dir",
        "api",
        "acknowledgements",
        "log_schema",
        "schema",
        "timezone",
        "healthchecks",
        "expire_metrics_secs",
    ] {
        if let Some(entry) = top.entry(key) {
            let text = match key {
                "data_dir" => {
                    "Vector's checkpoints are not migrated: each file is read by `read_from` at Millrace's first start, so that \
                     lines sent by Vector are read again; `read_from: end` reads only new lines"
                }
                "acknowledgements" => "Millrace moves a position only after the log has the data",
                _ => "concerns Vector itself",
            };
            draft.note(&entry.place, key, text);
        }
    }
    for entry in top.rest() {
        draft.leave(&entry.place, &entry.key, "has no counterpart", "");
    }
    Ok(draft)
}

/// Whether it became an entry.
fn file_source(entry: &MapEntry, draft: &mut Draft) -> bool {
    let path = format!("sources.{}", entry.key);
    let keys = Keys::new(&entry.node, &path);
    let kind = keys.text("type").map_or("", |(kind, _)| kind);
    if kind != "file" {
        let known = OTHER_SOURCES.iter().find(|(name, _)| *name == kind);
        let instead = known.map_or("Vector, for this part", |(_, instead)| *instead);
        draft.leave(&entry.place, format!("{path} ({kind})"), "is not a file source", instead);
        return false;
    }
    let mut source = Source::new(&entry.place, &path);
    let glob = |(glob, place): (String, Place)| (pattern::glob_without_braces(&glob), place);
    source.include = keys.take("include").map(Node::texts).unwrap_or_default().into_iter().map(glob).collect();
    let excluded = keys.take("exclude").map(Node::texts).unwrap_or_default().into_iter().map(glob);
    source.exclude = excluded.map(|(glob, place)| (pattern::glob_anywhere(&glob), place)).collect();
    if let Some((from, place)) = keys.text("read_from") {
        match from {
            "beginning" => source.read_from = Some(("beginning", place.clone())),
            "end" => source.read_from = Some(("end", place.clone())),
            _ => draft.leave(place, keys.name("read_from"), format!("unknown value `{from}`"), "set `read_from`"),
        }
    }
    if keys.yes("ignore_checkpoints") {
        let place = &entry.place;
        draft.leave(
            place,
            keys.name("ignore_checkpoints"),
            "Millrace continues at its saved positions",
            "an empty data folder",
        );
    }
    if let Some((text, place)) = keys.text("max_line_bytes") {
        match pattern::bytes(text) {
            Some(bytes) => {
                source.max_line_bytes = Some((bytes, place.clone()));
                draft.note(
                    place,
                    keys.name("max_line_bytes"),
                    "Vector drops longer lines; Millrace truncates and marks them",
                );
            }
            None => draft.leave(
                place,
                keys.name("max_line_bytes"),
                format!("`{text}` is not a size"),
                "set `max_line_bytes`",
            ),
        }
    }
    multiline(&keys, &mut source, draft);
    agent_setting(&keys, "glob_minimum_cooldown_ms", "scan_interval", 1.0, draft);
    agent_setting(&keys, "rotate_wait_secs", "rotated_wait", 1000.0, draft);
    if let Some((charset, place)) =
        keys.entry("encoding").and_then(|e| Some((e.node.get("charset")?.text()?, &e.place)))
    {
        source.set_encoding(charset, place, keys.name("encoding.charset"), draft);
    }
    if let Some((text, place)) = keys.text("line_delimiter")
        && text != "\n"
    {
        draft.leave(
            place,
            keys.name("line_delimiter"),
            "lines end with a line feed here",
            "line feeds at the ends of lines",
        );
    }
    for (key, why, instead) in [
        ("ignore_older_secs", "old files are read too", "`exclude` for these files, or `read_from: end`"),
        ("ignore_older", "old files are read too", "`exclude` for these files, or `read_from: end`"),
        ("remove_after_secs", "Millrace does not delete files", "logrotate"),
        ("remove_after", "Millrace does not delete files", "logrotate"),
        ("start_at_beginning", "is old", "set `read_from`"),
        ("message_start_indicator", "is old", "set `multiline`"),
        ("offset_key", "the position is in the record header `millrace`", ""),
        ("file_key", "the path is the label `filename`", ""),
        ("host_key", "the host is the label `host`", ""),
        ("fingerprint", "files are distinguished by the hash of their first bytes, device and inode", ""),
        ("fingerprinting", "files are distinguished by the hash of their first bytes, device and inode", ""),
        ("oldest_first", "small files go first, and each has fair turns", ""),
        ("max_read_bytes", "each file has fair turns", ""),
        ("data_dir", "one folder holds everything: `data_dir`", ""),
        ("internal_metrics", "metrics have no label for each file", ""),
    ] {
        if let Some(found) = keys.entry(key) {
            if instead.is_empty() {
                draft.note(&found.place, keys.name(key), why);
            } else {
                draft.leave(&found.place, format!("{}: {}", keys.name(key), found.node.brief()), why, instead);
            }
        }
    }
    draft.leave_rest(&keys);
    draft.sources.push(source);
    true
}

fn agent_setting(keys: &Keys<'_>, theirs: &str, ours: &str, unit_ms: f64, draft: &mut Draft) {
    if let Some((text, place)) = keys.text(theirs) {
        match pattern::span(text, unit_ms) {
            Some(span) => draft.agent(ours, Out::Plain(span), place),
            None => draft.leave(
                place,
                keys.name(theirs),
                format!("`{text}` is not a duration"),
                format!("set `agent.{ours}`"),
            ),
        }
    }
}

fn multiline(keys: &Keys<'_>, source: &mut Source, draft: &mut Draft) {
    let Some(entry) = keys.entry("multiline") else { return };
    let inner = Keys::new(&entry.node, keys.name("multiline"));
    let (start, condition) = (inner.text("start_pattern"), inner.text("condition_pattern"));
    let mode = inner.text("mode").map_or("", |(mode, _)| mode);
    let timeout = inner.text("timeout_ms").and_then(|(text, _)| pattern::span(text, 1.0));
    let Some((condition, at)) = condition else {
        return draft.leave(&entry.place, &inner.path, "has no `condition_pattern`", "set `multiline.start`");
    };
    let by = match mode {
        // Everything up to the next match: what matches starts an event.
        "halt_before" => ("start", condition),
        "continue_through" => ("continue", condition),
        _ => {
            let why = format!("the mode `{mode}` tests the previous line, or ends events");
            let instead = "set `multiline.start` to what begins an event";
            return draft.leave(&entry.place, &inner.path, why, instead);
        }
    };
    match pattern::regex(by.1) {
        Err(why) => draft.leave(at, inner.name("condition_pattern"), why, "set `multiline.start`"),
        Ok(regex) => {
            if let Some((start, place)) = start
                && start != condition
            {
                let text = if by.0 == "start" {
                    format!("events start where `{condition}` matches, also without `{start}` before")
                } else {
                    format!("lines that `{condition}` matches continue any line, not only one that `{start}` matches")
                };
                draft.note(place, inner.name("start_pattern"), text);
            }
            source.multiline = Some((Multiline { by: Some((by.0, regex)), max_lines: None, timeout }, at.clone()));
        }
    }
    draft.leave_rest(&inner);
}
