//! Fluent Bit: inputs of the type `tail`, parsers, and the filters and outputs that their tags reach.
//!
//! In: the sections of its files. Out: a draft. Touches the files that they include. Keys are those of Fluent Bit 3 to 5:
//! <https://docs.fluentbit.io/manual/data-pipeline/inputs/tail>. Leaves the format to `fluent_bit_file.rs`.

use std::collections::BTreeSet;
use std::path::Path;

use super::draft::{Draft, Source};
use super::error::ImportError;
use super::fluent_bit_file::{Files, Property, Section};
use super::fluent_bit_filter::filter;
use super::fluent_bit_output::output;
use super::fluent_bit_tags::{Input, Record, list, written, yes};
use super::parts::{Multiline, Timestamp};
use super::pattern;
use super::result::Out;
use super::step::Parsed;
use millrace_log::yaml::Place;

/// What continues an event, for the parsers that Fluent Bit has built in.
const BUILT_IN: [(&str, &str, &str); 4] = [
    ("java", "continue", r"^(?:[ \t]+(?:eval\b|at\b|\.\.\. \d+ )|[ \t]*(?:Caused by|Suppressed):)"),
    (
        "python",
        "continue",
        r"^(?:[ \t]|Traceback \(most recent call last\):|\w+(?:\.\w+)*(?:Error|Exception|Warning)\b)",
    ),
    ("go", "continue", r"^(?:$|goroutine \d+ \[|\S+\(.*\)$|created by |[ \t]|\[signal )"),
    ("ruby", "continue", r"^[ \t]+from "),
];

/// Reads the file.
pub fn import(path: &Path, text: &str) -> Result<Draft, ImportError> {
    let files = Files::read(path, text)?;
    let kinds: BTreeSet<&str> = files.sections.iter().map(|section| section.kind.as_str()).collect();
    if !["INPUT", "OUTPUT", "FILTER"].iter().any(|kind| kinds.contains(kind)) {
        let expected = "a section `[INPUT]`, or `pipeline` in YAML";
        return Err(ImportError::Other { path: path.display().to_string(), format: "Fluent Bit", expected });
    }
    let mut draft = Draft::new(true);
    for (place, name, why) in &files.missing {
        draft.leave(place, format!("@INCLUDE {name}"), why.to_string(), "import it where its files are");
    }
    let mut inputs = Vec::new();
    for section in of(&files, "INPUT") {
        input(section, &files, &mut inputs, &mut draft);
    }
    for section in of(&files, "FILTER") {
        filter(section, &inputs, &mut draft);
    }
    for section in of(&files, "OUTPUT") {
        output(section, &inputs, &mut draft);
    }
    for section in of(&files, "SERVICE") {
        for property in &section.properties {
            match property.key.as_str() {
                "http_server" | "http_listen" | "http_port" => {
                    draft.note(
                        &property.place,
                        written(property),
                        "Millrace's agent serves /metrics and /ready where `agent.http` says",
                    );
                }
                "hot_reload" => draft.note(&property.place, written(property), "SIGHUP reloads"),
                // Parsers were read; the rest is about Fluent Bit's own running.
                _ => {}
            }
        }
    }
    let known = ["INPUT", "FILTER", "OUTPUT", "SERVICE", "PARSER", "MULTILINE_PARSER"];
    for section in files.sections.iter().filter(|section| !known.contains(&section.kind.as_str())) {
        draft.leave(&section.place, format!("[{}]", section.kind), "is unknown", "");
    }
    Ok(draft)
}

fn of<'f>(files: &'f Files, kind: &'static str) -> impl Iterator<Item = &'f Section> {
    files.sections.iter().filter(move |section| section.kind == kind)
}

fn input(section: &Section, files: &Files, inputs: &mut Vec<Input>, draft: &mut Draft) {
    let name = section.name().to_ascii_lowercase();
    let tag = section.get("tag").map_or_else(|| format!("{name}.0"), |p| p.value.clone());
    let title = format!("[INPUT] {name} {tag}");
    if name != "tail" {
        let instead = match name.as_str() {
            "systemd" => "a source `{type: journald}`",
            "syslog" | "tcp" | "udp" => "a source `{type: syslog}`",
            "kafka" => "Millrace's log is a Kafka: name the topic in `aggregator.kafka.topics`",
            "http" => "a source `{type: http}`",
            "opentelemetry" => "a source `{type: otlp}`",
            "elasticsearch" | "splunk" => "`_bulk` of the aggregator, port 9200",
            "cpu" | "mem" | "disk" | "netif" | "node_exporter_metrics" | "fluentbit_metrics" | "prometheus_scrape" => {
                "Prometheus, for metrics"
            }
            _ => "Fluent Bit, for this part",
        };
        return draft.leave(&section.place, title, "is not a file input", instead);
    }
    let mut tail = Tail {
        source: Source::new(&section.place, &title),
        parser: None,
        firstline: None,
        old_multiline: false,
        reads_head: false,
        key: "log".to_owned(),
    };
    for p in &section.properties {
        tail.property(p, files, draft);
    }
    if !tail.reads_head {
        tail.source.read_from = Some(("end", section.place.clone()));
    }
    tail.join_by_first_line(section, files, draft);
    let record = match tail.parser.or(tail.firstline.filter(|_| tail.old_multiline)) {
        None => Record::Line(tail.key),
        Some(p) => {
            self::parser(p, files, &mut tail.source, draft);
            parsed(p, files, tail.key)
        }
    };
    draft.sources.push(tail.source);
    inputs.push(Input { tag, record });
}

/// A section `[INPUT] tail` as far as it was read.
struct Tail<'f> {
    source: Source,
    parser: Option<&'f Property>,
    firstline: Option<&'f Property>,
    old_multiline: bool,
    reads_head: bool,
    /// Field of the event that holds the line.
    key: String,
}

impl<'f> Tail<'f> {
    fn property(&mut self, p: &'f Property, files: &Files, draft: &mut Draft) {
        match p.key.as_str() {
            "name" | "tag" | "alias" | "log_level" | "log_suppress_interval" => {}
            "path" => self.source.include = globs(p),
            "exclude_path" => {
                let anywhere = |(glob, place): (String, Place)| (pattern::glob_anywhere(&glob), place);
                self.source.exclude = globs(p).into_iter().map(anywhere).collect();
            }
            "parser" => self.parser = Some(p),
            "parser_firstline" => self.firstline = Some(p),
            "multiline" => self.old_multiline = yes(p),
            "multiline_flush" => {
                if let (Some(span), Some((multiline, _))) =
                    (pattern::span(&p.value, 1000.0), &mut self.source.multiline)
                {
                    multiline.timeout = Some(span);
                }
            }
            "multiline.parser" => multiline_parsers(p, files, &mut self.source, draft),
            "read_from_head" => self.reads_head = yes(p),
            "refresh_interval" => setting(p, "scan_interval", draft),
            "rotate_wait" => setting(p, "rotated_wait", draft),
            "buffer_max_size" => match pattern::bytes(&p.value) {
                Some(bytes) => {
                    self.source.max_line_bytes = Some((bytes, p.place.clone()));
                    let text = "Fluent Bit skips longer lines, or stops at them; Millrace truncates and marks them";
                    draft.note(&p.place, written(p), text);
                }
                None => draft.leave(&p.place, written(p), "is not a size", "set `max_line_bytes`"),
            },
            "skip_long_lines" | "truncate_long_lines" => {
                draft.note(&p.place, written(p), "longer lines are truncated and marked");
            }
            "db" => {
                let text = "Fluent Bit's positions are not migrated: each file is read by `read_from` at Millrace's first start; \
                            `beginning` reads again lines already sent, `end` reads only new lines";
                draft.note(&p.place, written(p), text);
            }
            "mem_buf_limit" => {
                draft.note(&p.place, written(p), "`agent.max_waiting_bytes` bounds the memory of all files")
            }
            "path_key" => draft.note(&p.place, written(p), "the path is the label `filename`"),
            "offset_key" => draft.note(&p.place, written(p), "the position is in the record header `millrace`"),
            "key" => {
                self.key = p.value.clone();
                draft.note(&p.place, written(p), "the value is the line itself");
            }
            "docker_mode" | "docker_mode_parser" => containers(p, "docker", &mut self.source),
            "unicode.encoding" | "generic.encoding" => {
                self.source.set_encoding(&p.value, &p.place, written(p), draft);
            }
            _ => other(p, draft),
        }
    }

    /// `Multiline On` with `Parser_Firstline`, the form before `multiline.parser`.
    fn join_by_first_line(&mut self, section: &Section, files: &Files, draft: &mut Draft) {
        if self.old_multiline
            && let Some(p) = self.firstline
        {
            match found(files, "PARSER", &p.value)
                .and_then(|section| section.get("regex"))
                .map(|p| pattern::ruby_regex(&p.value))
            {
                Some(Ok(start)) => {
                    let timeout = section.get("multiline_flush").and_then(|p| pattern::span(&p.value, 1000.0));
                    let multiline = Multiline {
                        by: Some(("start", start)),
                        max_lines: None,
                        timeout: timeout.or(Some("4s".into())),
                    };
                    self.source.multiline = Some((multiline, p.place.clone()));
                }
                Some(Err(why)) => draft.leave(&p.place, written(p), why, "set `multiline.start`"),
                None => draft.leave(&p.place, written(p), "parser not found", "set `multiline.start`"),
            }
        }
    }
}

/// Properties that are left out, or need nothing.
fn other(p: &Property, draft: &mut Draft) {
    match p.key.as_str() {
        "ignore_older" => {
            draft.leave(
                &p.place,
                written(p),
                "old files are read too",
                "`exclude` for these files, or `read_from: end`",
            );
        }
        "tag_regex" => {
            draft.leave(&p.place, written(p), "derives tags from the path", "the label `filename` has the path")
        }
        key if key.starts_with("db.") || key.starts_with("storage.") => {}
        "buffer_chunk_size"
        | "inotify_watcher"
        | "static_batch_size"
        | "event_batch_size"
        | "threaded"
        | "exit_on_eof"
        | "watcher_interval"
        | "progress_check_interval"
        | "progress_check_interval_nsec"
        | "skip_empty_lines"
        | "file_cache_advise"
        | "thread.ring_buffer.capacity" => {}
        "processors" => draft.leave(&p.place, written(p), "changes events", "VRL in a transform of the source"),
        _ => draft.leave(&p.place, written(p), "unknown key", "see millrace.reference.yaml"),
    }
}

fn globs(p: &Property) -> Vec<(String, Place)> {
    list(p).into_iter().map(|(glob, place)| (pattern::glob_without_braces(&glob), place)).collect()
}

fn setting(p: &Property, ours: &str, draft: &mut Draft) {
    match pattern::span(&p.value, 1000.0) {
        Some(span) => draft.agent(ours, Out::Plain(span), &p.place),
        None => draft.leave(&p.place, written(p), "is not a duration", format!("set `agent.{ours}`")),
    }
}

fn found<'f>(files: &'f Files, kind: &'static str, name: &str) -> Option<&'f Section> {
    of(files, kind).find(|section| section.name() == name)
}

fn containers(p: &Property, runtime: &str, source: &mut Source) {
    source.set_format(if runtime == "docker" { "docker" } else { "cri" }, &p.place);
}

fn multiline_parsers(p: &Property, files: &Files, source: &mut Source, draft: &mut Draft) {
    let names = list(p);
    for (name, place) in &names {
        if name == "docker" || name == "cri" {
            containers(p, name, source);
            continue;
        }
        if source.multiline.is_some() {
            draft.leave(
                place,
                format!("multiline.parser {name}"),
                "a source has one multiline rule",
                "a wider expression in `multiline`",
            );
            continue;
        }
        if let Some((_, key, regex)) = BUILT_IN.iter().find(|(known, ..)| known == name) {
            let multiline =
                Multiline { by: Some((key, (*regex).to_owned())), max_lines: None, timeout: Some("4s".to_owned()) };
            source.multiline = Some((multiline, place.clone()));
            draft.note(
                place,
                format!("multiline.parser {name}"),
                "is built into Fluent Bit; this expression joins the same kind of traces, test it with yours",
            );
            continue;
        }
        let Some(parser) = found(files, "MULTILINE_PARSER", name) else {
            draft.leave(place, format!("multiline.parser {name}"), "parser not found", "set `multiline.start`");
            continue;
        };
        rules(parser, source, draft);
    }
}

/// The quoted words of a rule: state, expression, next state.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (&mut word, c) {
            (Some(_), '"') => words.extend(word.take()),
            (None, '"') => word = Some(String::new()),
            (Some(inner), '\\') => match chars.next() {
                Some('"') => inner.push('"'),
                Some(other) => {
                    inner.push('\\');
                    inner.push(other);
                }
                None => inner.push('\\'),
            },
            (Some(inner), c) => inner.push(c),
            (None, _) => {}
        }
    }
    words
}

/// A first rule for the line that starts an event and one for those that follow are a `continue`; more states are not.
fn rules(parser: &Section, source: &mut Source, draft: &mut Draft) {
    let name = format!("[MULTILINE_PARSER] {}", parser.name());
    let rules: Vec<Vec<String>> = parser.all("rule").map(|p| words(&p.value)).collect();
    let continues: Vec<&str> = rules
        .iter()
        .filter_map(|rule| (rule.first()? != "start_state").then(|| rule.get(1))?.map(String::as_str))
        .collect();
    let instead = "set `multiline.start` to what begins an event";
    let by = match continues.as_slice() {
        [one] => ("continue", *one),
        [] => match rules.first().and_then(|rule| rule.get(1)) {
            Some(start) => ("start", start.as_str()),
            None => return draft.leave(&parser.place, name, "has no rules", instead),
        },
        _ => return draft.leave(&parser.place, name, "has several states", instead),
    };
    match pattern::ruby_regex(by.1) {
        Err(why) => draft.leave(&parser.place, name, why, instead),
        Ok(regex) => {
            let timeout = parser.get("flush_timeout").and_then(|p| pattern::span(&p.value, 1.0));
            let multiline =
                Multiline { by: Some((by.0, regex)), max_lines: None, timeout: timeout.or(Some("4s".into())) };
            source.multiline = Some((multiline, parser.place.clone()));
        }
    }
}

/// What filters see of a line behind a parser.
fn parsed(p: &Property, files: &Files, key: String) -> Record {
    let Some(section) = found(files, "PARSER", &p.value) else {
        return if matches!(p.value.as_str(), "docker" | "cri") { Record::Line(key) } else { Record::Unknown };
    };
    let format = section.get("format").map_or("", |p| p.value.as_str()).to_ascii_lowercase();
    match format.as_str() {
        "json" => Record::Fields(Parsed::Json),
        "logfmt" => Record::Fields(Parsed::Logfmt),
        "regex" => match section.get("regex").map(|p| pattern::ruby_regex(&p.value)) {
            Some(Ok(regex)) => Record::Fields(Parsed::Regex(regex)),
            _ => Record::Unknown,
        },
        _ => Record::Unknown,
    }
}

/// What of a parser a source can do by itself: find the time.
fn parser(p: &Property, files: &Files, source: &mut Source, draft: &mut Draft) {
    let known = found(files, "PARSER", &p.value);
    let Some(section) = known else {
        match p.value.as_str() {
            "docker" | "cri" => containers(p, &p.value, source),
            _ => {
                let instead = "name its file with `Parsers_File` and import again, or set `timestamp` of the source";
                draft.leave(&p.place, written(p), "parser not found", instead);
            }
        }
        return;
    };
    let name = format!("[PARSER] {}", p.value);
    let format = section.get("format").map_or("", |p| p.value.as_str()).to_ascii_lowercase();
    draft.note(
        &section.place,
        &name,
        "the line stays as written; its fields are found by queries (`| json`, `| logfmt`, `| regexp`)",
    );
    let Some(key) = section.get("time_key") else { return };
    let instead = "set `timestamp` of the source";
    let time_format = match section.get("time_format").map(|p| pattern::strptime(&p.value)) {
        Some(Ok(format)) => format,
        Some(Err(why)) => return draft.leave(&section.place, name, format!("`Time_Format` {why}"), instead),
        None => "rfc3339".to_owned(),
    };
    let mut timestamp = Timestamp { format: time_format, ..Timestamp::default() };
    match format.as_str() {
        "json" => timestamp.field = Some(key.value.clone()),
        "regex" => {
            let regex = section.get("regex").map(|p| pattern::ruby_regex(&p.value));
            match regex {
                Some(Ok(regex)) => match pattern::time_group(&regex, &key.value) {
                    Some(regex) => timestamp.regex = Some(regex),
                    None => {
                        return draft.leave(&key.place, name, format!("`Regex` has no group `{}`", key.value), instead);
                    }
                },
                Some(Err(why)) => return draft.leave(&section.place, name, format!("`Regex` {why}"), instead),
                None => return draft.leave(&section.place, name, "has no `Regex`", instead),
            }
        }
        // The name, `=` or `:`, the value up to the next space, perhaps quoted.
        "logfmt" => timestamp.regex = Some(format!(r#"(?:^|\s){}="?(?P<time>[^"\s]+)"#, regex::escape(&key.value))),
        "ltsv" => timestamp.regex = Some(format!(r"(?:^|\t){}:(?P<time>[^\t]+)", regex::escape(&key.value))),
        other => return draft.leave(&section.place, name, format!("unknown format `{other}`"), instead),
    }
    if let Some(p) = section.get("time_offset") {
        timestamp.timezone = pattern::offset(&p.value);
        if timestamp.timezone.is_none() {
            draft.leave(&p.place, written(p), "is not an offset", "set `timestamp.timezone`");
        }
    }
    for p in section.properties.iter().filter(|p| p.key == "decode_field" || p.key == "decode_field_as") {
        draft.leave(&p.place, written(p), "parses a field once more", "`| json` in queries, or VRL");
    }
    source.timestamp = Some((timestamp, key.place.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_words() {
        assert_eq!(words(r#" "start_state"  "/^\d+ \"x\"/" "cont""#), ["start_state", r#"/^\d+ "x"/"#, "cont"]);
        assert_eq!(words("none"), [""; 0]);
    }

    #[test]
    fn built_in_parsers_are_regular_expressions() {
        for (name, _, regex) in BUILT_IN {
            assert!(pattern::regex(regex).is_ok(), "{name}");
        }
        let java = regex::Regex::new(BUILT_IN[0].2).unwrap();
        assert!(
            java.is_match("\tat a.b.C(D.java:3)") && java.is_match("Caused by: x") && !java.is_match("2026 INFO x")
        );
    }
}
