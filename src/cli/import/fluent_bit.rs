//! Fluent Bit: inputs of the type `tail`, parsers, and the filters and outputs that their tags reach.
//!
//! In: the sections of its files. Out: a draft. Touches the files that they include. Keys are those of Fluent Bit 3 to 5:
//! <https://docs.fluentbit.io/manual/data-pipeline/inputs/tail>. Leaves the format to `fluent_bit_file.rs`.

use std::collections::BTreeSet;
use std::path::Path;

use super::draft::{Draft, Multiline, Out, Source, Timestamp};
use super::fluent_bit_file::{Files, Property, Section};
use super::{ImportError, pattern};
use crate::config::tree::Place;

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
        draft.leave(
            place,
            format!("@INCLUDE {name}"),
            format!("can't be read: {why}"),
            "import it where its files are",
        );
    }
    let mut tags = Vec::new();
    for section in of(&files, "INPUT") {
        input(section, &files, &mut tags, &mut draft);
    }
    for section in of(&files, "FILTER") {
        filter(section, &tags, &mut draft);
    }
    for section in of(&files, "OUTPUT") {
        output(section, &tags, &mut draft);
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
        draft.leave(&section.place, format!("[{}]", section.kind), "is not known", "");
    }
    Ok(draft)
}

fn of<'f>(files: &'f Files, kind: &'static str) -> impl Iterator<Item = &'f Section> {
    files.sections.iter().filter(move |section| section.kind == kind)
}

fn written(property: &Property) -> String {
    format!("{} {}", property.key, crate::cli::dlq::shortened(&property.value, 80)).trim_end().to_owned()
}

fn yes(property: &Property) -> bool {
    matches!(property.value.to_ascii_lowercase().as_str(), "on" | "true" | "yes" | "1")
}

fn list(property: &Property) -> Vec<(String, Place)> {
    let parts = property.value.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| (part.to_owned(), property.place.clone())).collect()
}

/// A tag as a `Match` names it: `*` stands for any text.
fn tag_matches(pattern: &str, tag: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = tag.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or(""),
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Indexes of the sources that a filter or output is for.
fn reached(section: &Section, tags: &[String]) -> Vec<usize> {
    let by_regex = section.get("match_regex").and_then(|p| regex::Regex::new(&p.value).ok());
    let pattern = section.get("match").map(|p| p.value.as_str());
    let hit = |tag: &String| match (&by_regex, pattern) {
        (Some(regex), _) => regex.is_match(tag),
        (None, Some(pattern)) => tag_matches(pattern, tag),
        (None, None) => false,
    };
    (0..tags.len()).filter(|i| tags.get(*i).is_some_and(hit)).collect()
}

fn input(section: &Section, files: &Files, tags: &mut Vec<String>, draft: &mut Draft) {
    let name = section.name().to_ascii_lowercase();
    let tag = section.get("tag").map_or_else(|| format!("{name}.0"), |p| p.value.clone());
    let title = format!("[INPUT] {name} {tag}");
    if name != "tail" {
        let instead = match name.as_str() {
            "systemd" => "read the journal with `journalctl -f -o json >> FILE` until Millrace reads it by itself",
            "syslog" | "tcp" | "udp" => "have rsyslog write to files, and name them in `include`",
            "kafka" => "Millrace's log is a Kafka: name the topic in `aggregator.kafka.topics`",
            "http" | "opentelemetry" | "elasticsearch" | "splunk" => {
                "send to the aggregator's Loki API, port 3100, or `_bulk`, port 9200"
            }
            "cpu" | "mem" | "disk" | "netif" | "node_exporter_metrics" | "fluentbit_metrics" | "prometheus_scrape" => {
                "metrics are Prometheus's business"
            }
            _ => "keep Fluent Bit for it",
        };
        return draft.leave(&section.place, title, "is no input of files", instead);
    }
    let mut source = Source::new(&section.place, &title);
    let mut parser = None;
    let mut firstline = None;
    let mut old_multiline = false;
    let mut reads_head = false;
    for p in &section.properties {
        match p.key.as_str() {
            "name" | "tag" | "alias" | "log_level" | "log_suppress_interval" => {}
            "path" => source.include = globs(p),
            "exclude_path" => {
                let anywhere = |(glob, place): (String, Place)| (pattern::glob_anywhere(&glob), place);
                source.exclude = globs(p).into_iter().map(anywhere).collect();
            }
            "parser" => parser = Some(p),
            "parser_firstline" => firstline = Some(p),
            "multiline" => old_multiline = yes(p),
            "multiline_flush" => {
                if let (Some(span), Some((multiline, _))) = (pattern::span(&p.value, 1000.0), &mut source.multiline) {
                    multiline.timeout = Some(span);
                }
            }
            "multiline.parser" => multiline_parsers(p, files, &mut source, draft),
            "read_from_head" => reads_head = yes(p),
            "refresh_interval" => setting(p, "scan_interval", draft),
            "rotate_wait" => setting(p, "rotated_wait", draft),
            "buffer_max_size" => match pattern::bytes(&p.value) {
                Some(bytes) => {
                    source.max_line_bytes = Some((bytes, p.place.clone()));
                    let text = "Fluent Bit skips longer lines, or stops at them; Millrace cuts and marks them";
                    draft.note(&p.place, written(p), text);
                }
                None => draft.leave(&p.place, written(p), "is no size", "set `max_line_bytes`"),
            },
            "skip_long_lines" | "truncate_long_lines" => {
                draft.note(&p.place, written(p), "longer lines are cut and marked, and the rest is counted");
            }
            "db" => {
                let text = "Fluent Bit's positions are not taken over: each file is read by `read_from` at Millrace's first start; \
                            `beginning` reads once more what was sent, `end` only what is written from then on";
                draft.note(&p.place, written(p), text);
            }
            "mem_buf_limit" => {
                draft.note(&p.place, written(p), "`agent.max_waiting_bytes` bounds the memory of all files")
            }
            "path_key" => draft.note(&p.place, written(p), "the path stands in the label `filename`"),
            "offset_key" => draft.note(&p.place, written(p), "the position stands in the record's header `millrace`"),
            "key" => draft.note(&p.place, written(p), "the value is the line itself"),
            "ignore_older" => {
                draft.leave(
                    &p.place,
                    written(p),
                    "old files are read too, once",
                    "name them in `exclude`, or use `read_from: end`",
                );
            }
            "tag_regex" => {
                draft.leave(&p.place, written(p), "makes tags from the path", "the label `filename` has the path")
            }
            "docker_mode" | "docker_mode_parser" => containers(p, "docker", &mut source),
            "unicode.encoding" | "generic.encoding" => {
                source.set_encoding(&p.value, &p.place, written(p), draft);
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
            _ => draft.leave(&p.place, written(p), "is not known", "look it up in millrace.reference.yaml"),
        }
    }
    if !reads_head {
        source.read_from = Some(("end", section.place.clone()));
    }
    if old_multiline && let Some(p) = firstline {
        match found(files, "PARSER", &p.value)
            .and_then(|section| section.get("regex"))
            .map(|p| pattern::ruby_regex(&p.value))
        {
            Some(Ok(start)) => {
                let timeout = section.get("multiline_flush").and_then(|p| pattern::span(&p.value, 1000.0));
                let multiline =
                    Multiline { by: Some(("start", start)), max_lines: None, timeout: timeout.or(Some("4s".into())) };
                source.multiline = Some((multiline, p.place.clone()));
            }
            Some(Err(why)) => draft.leave(&p.place, written(p), why, "set `multiline.start`"),
            None => draft.leave(&p.place, written(p), "is no parser that was found", "set `multiline.start`"),
        }
    }
    if let Some(p) = parser.or(firstline.filter(|_| old_multiline)) {
        self::parser(p, files, &mut source, draft);
    }
    draft.sources.push(source);
    tags.push(tag);
}

fn globs(p: &Property) -> Vec<(String, Place)> {
    list(p).into_iter().map(|(glob, place)| (pattern::glob_without_braces(&glob), place)).collect()
}

fn setting(p: &Property, ours: &str, draft: &mut Draft) {
    match pattern::span(&p.value, 1000.0) {
        Some(span) => draft.agent(ours, Out::Plain(span), &p.place),
        None => draft.leave(&p.place, written(p), "is no time", format!("set `agent.{ours}`")),
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
                "a source joins lines in one way",
                "widen the expression of `multiline`",
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
                "is built in there; this expression joins the same traces: try it with yours",
            );
            continue;
        }
        let Some(parser) = found(files, "MULTILINE_PARSER", name) else {
            draft.leave(
                place,
                format!("multiline.parser {name}"),
                "is no parser that was found",
                "set `multiline.start`",
            );
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
        _ => return draft.leave(&parser.place, name, "goes through several states", instead),
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

/// What of a parser a source can do by itself: find the time.
fn parser(p: &Property, files: &Files, source: &mut Source, draft: &mut Draft) {
    let known = found(files, "PARSER", &p.value);
    let Some(section) = known else {
        match p.value.as_str() {
            "docker" | "cri" => containers(p, &p.value, source),
            _ => {
                let instead = "name its file with `Parsers_File` and import again, or set `timestamp` of the source";
                draft.leave(&p.place, written(p), "is no parser that was found", instead);
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
        other => return draft.leave(&section.place, name, format!("the format `{other}` is not known"), instead),
    }
    if let Some(p) = section.get("time_offset") {
        timestamp.timezone = pattern::offset(&p.value);
        if timestamp.timezone.is_none() {
            draft.leave(&p.place, written(p), "is no offset", "set `timestamp.timezone`");
        }
    }
    for p in section.properties.iter().filter(|p| p.key == "decode_field" || p.key == "decode_field_as") {
        draft.leave(&p.place, written(p), "parses a field once more", "`| json` in queries, or VRL");
    }
    source.timestamp = Some((timestamp, key.place.clone()));
}

fn filter(section: &Section, tags: &[String], draft: &mut Draft) {
    let name = section.name().to_ascii_lowercase();
    let sources = reached(section, tags);
    let title = format!("[FILTER] {name}");
    if sources.is_empty() {
        return draft.leave(&section.place, title, "matches no tag of a tail", "keep Fluent Bit for it");
    }
    match name.as_str() {
        "record_modifier" | "modify" => {
            for p in &section.properties {
                match p.key.as_str() {
                    "name" | "match" | "match_regex" | "alias" => {}
                    "record" | "add" | "set" => match p.value.split_once(char::is_whitespace) {
                        Some((key, value)) => {
                            for i in &sources {
                                if let Some(source) = draft.sources.get_mut(*i) {
                                    source.label(key, value.trim(), &p.place);
                                }
                            }
                        }
                        None => draft.leave(&p.place, format!("{title}: {}", written(p)), "has no value", ""),
                    },
                    _ => draft.leave(
                        &p.place,
                        format!("{title}: {}", written(p)),
                        "changes fields",
                        "VRL: `del(.x)`, `.y = del(.x)` and so on",
                    ),
                }
            }
        }
        "grep" => {
            for p in section.properties.iter().filter(|p| matches!(p.key.as_str(), "regex" | "exclude")) {
                let (key, regex) = p.value.split_once(char::is_whitespace).unwrap_or((&p.value, ""));
                let line = key == "log" || key == "$log";
                let instead = match (p.key.as_str(), line) {
                    ("exclude", true) => {
                        format!("a transform of the source: `{{type: drop, match: '{}'}}`", regex.trim())
                    }
                    (_, true) => format!(
                        "a transform of the source: `{{type: drop, if: '!match(string!(.message), r''{}'')'}}`",
                        regex.trim()
                    ),
                    _ => "a transform of the source: `{type: drop, if: …}` with a VRL expression".to_owned(),
                };
                draft.leave(&p.place, format!("{title}: {}", written(p)), "drops events", instead);
            }
        }
        _ => {
            let (why, instead) = match name.as_str() {
                "kubernetes" => (
                    "asks Kubernetes for labels",
                    "use packaging/kubernetes of Millrace: the path names namespace, pod and container",
                ),
                "parser" => ("parses a field", "queries parse lines (`| json`, `| regexp`), or VRL"),
                "lua" | "wasm" => ("changes events by a program", "write it in VRL, in a transform of the source"),
                "nest" | "type_converter" | "expect" | "sysinfo" | "geoip2" | "nightfall" => {
                    ("changes fields", "VRL in a transform of the source")
                }
                "rewrite_tag" => ("sends events different ways", "a transform `{type: route, if: …, topic: …}`"),
                "throttle" => ("limits the rate", "a transform `{type: throttle, limit: …, per: 1s}`"),
                "multiline" => ("joins lines", "`multiline` of the source"),
                "aws" | "ecs" => ("adds what the host knows", "write it under `labels` of the source"),
                "stdout" => ("shows events", "`millrace broker consume logs --follow`"),
                _ => ("is not known", "write what it does in VRL"),
            };
            draft.leave(&section.place, title, why, instead);
        }
    }
}

fn output(section: &Section, tags: &[String], draft: &mut Draft) {
    let name = section.name().to_ascii_lowercase();
    let title = format!("[OUTPUT] {name}");
    let sources = reached(section, tags);
    if sources.is_empty() {
        return draft.leave(&section.place, title, "matches no tag of a tail", "keep Fluent Bit for it");
    }
    match name.as_str() {
        "kafka" => kafka(section, &title, draft),
        "loki" => loki(section, &title, &sources, draft),
        "es" | "opensearch" => elasticsearch(section, &title, draft),
        _ => {
            let instead = match name.as_str() {
                "stdout" | "file" => "`millrace broker consume logs --follow`",
                "null" => "leave it out",
                _ => "let a Kafka consumer read the log and send it on",
            };
            draft.leave(&section.place, title, "the agent writes to the log alone", instead);
        }
    }
}

fn kafka(section: &Section, title: &str, draft: &mut Draft) {
    if draft.has_kafka() {
        let instead = "a transform `{type: route, topic: …}`, or `broker.routes`";
        return draft.leave(&section.place, title, "the agent writes to one Kafka", instead);
    }
    for p in &section.properties {
        match p.key.as_str() {
            "name" | "match" | "match_regex" | "alias" | "retry_limit" | "workers" | "format" | "raw_log_key"
            | "timestamp_key" | "timestamp_format" | "queue_full_retries" | "message_key" | "message_key_field" => {}
            "brokers" => {
                let brokers = list(p).into_iter().map(|(broker, place)| (draft.open(&broker), Some(place))).collect();
                draft.kafka("brokers", Out::List(brokers), &p.place);
            }
            "topics" => {
                let topics = list(p);
                if let Some((topic, place)) = topics.first() {
                    let topic = draft.open(topic);
                    draft.kafka("topic", topic, place);
                }
                if topics.len() > 1 {
                    draft.leave(
                        &p.place,
                        format!("{title}: {}", written(p)),
                        "a source has one topic",
                        "a transform `{type: route, topic: …}` for the others",
                    );
                }
            }
            "topic_key" | "dynamic_topic" => {
                let instead = "a transform `{type: route, topic_from: …}`";
                draft.leave(&p.place, format!("{title}: {}", written(p)), "the topic is chosen by the event", instead);
            }
            key => match key.strip_prefix("rdkafka.") {
                Some("security.protocol") => {
                    if p.value.to_ascii_lowercase().contains("ssl") {
                        draft.kafka("tls", Out::Plain("true".to_owned()), &p.place);
                    }
                }
                Some(option) => {
                    let ours = match option {
                        "ssl.ca.location" => "ca_file",
                        "ssl.certificate.location" => "cert_file",
                        "ssl.key.location" => "key_file",
                        "sasl.mechanism" | "sasl.mechanisms" => "sasl_mechanism",
                        "sasl.username" => "sasl_username",
                        "sasl.password" => "sasl_password",
                        "compression.codec"
                        | "compression.type"
                        | "request.required.acks"
                        | "acks"
                        | "enable.idempotence"
                        | "linger.ms"
                        | "queue.buffering.max.ms"
                        | "batch.num.messages"
                        | "batch.size" => {
                            draft.note(
                                &p.place,
                                written(p),
                                "lines are always sent in batches, with acks=all, idempotent, zstd",
                            );
                            continue;
                        }
                        _ => {
                            let instead = "`agent.kafka.options` with `client: librdkafka`, if it is needed";
                            draft.leave(
                                &p.place,
                                format!("{title}: {}", written(p)),
                                "Millrace's own client has no such setting",
                                instead,
                            );
                            continue;
                        }
                    };
                    let value = draft.open(&p.value);
                    draft.kafka(ours, value, &p.place);
                }
                None => draft.leave(&p.place, format!("{title}: {}", written(p)), "is not known", ""),
            },
        }
    }
}

fn loki(section: &Section, title: &str, sources: &[usize], draft: &mut Draft) {
    let host = section.get("host").or_else(|| section.get("uri")).map_or("127.0.0.1", |p| p.value.as_str());
    let why = format!("{host}: Millrace's agent writes to the log, and its aggregator answers Loki's API from there");
    let instead = "set `agent.kafka.brokers` to the broker or a Kafka, and point Grafana at the aggregator, port 3100";
    draft.leave(&section.place, title, why, instead);
    for p in section.all("labels") {
        for (pair, place) in list(p) {
            match pair.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
                Some((name, value)) if !value.starts_with('$') || value.starts_with("${") => {
                    for i in sources {
                        if let Some(source) = draft.sources.get_mut(*i) {
                            source.label(name, value, &place);
                        }
                    }
                }
                _ => {
                    let instead = "query it: `| json`, or VRL `.labels.NAME = …` in a transform of the source";
                    draft.leave(&place, format!("{title}: label {pair}"), "comes from the event", instead);
                }
            }
        }
    }
    for p in &section.properties {
        match p.key.as_str() {
            "tenant_id" => {
                for i in sources {
                    if let Some(source) = draft.sources.get_mut(*i) {
                        source.tenant = Some((p.value.clone(), p.place.clone()));
                    }
                }
            }
            "label_keys"
            | "label_map_path"
            | "structured_metadata"
            | "structured_metadata_map_keys"
            | "tenant_id_key"
            | "auto_kubernetes_labels" => {
                let instead = "query it: `| json`, or VRL in a transform of the source";
                draft.leave(&p.place, format!("{title}: {}", written(p)), "comes from the event", instead);
            }
            _ => {}
        }
    }
}

fn elasticsearch(section: &Section, title: &str, draft: &mut Draft) {
    let text = |key: &str, default: &str| section.get(key).map_or_else(|| default.to_owned(), |p| p.value.clone());
    let tls = section.get("tls").is_some_and(yes);
    let url =
        format!("{}://{}:{}", if tls { "https" } else { "http" }, text("host", "127.0.0.1"), text("port", "9200"));
    let at = section.get("host").map_or(&section.place, |p| &p.place).clone();
    let mut fields =
        vec![("type", Out::Plain("elasticsearch".to_owned()), section.place.clone()), ("url", draft.open(&url), at)];
    for (theirs, ours) in [("index", "index"), ("http_user", "username"), ("http_passwd", "password")] {
        if let Some(p) = section.get(theirs) {
            fields.push((ours, draft.open(&p.value), p.place.clone()));
        }
    }
    draft.export(fields);
    let note = "an export reads the log where the role `aggregator` runs: move it to that configuration, and set `kafka.brokers`";
    draft.note(&section.place, title, note);
    for p in &section.properties {
        let dated = p.key == "logstash_format" && yes(p);
        if dated
            || matches!(
                p.key.as_str(),
                "pipeline" | "aws_auth" | "cloud_auth" | "cloud_id" | "tls.ca_file" | "logstash_prefix_key"
            )
        {
            let why = if dated { "makes an index for each day" } else { "an export has no such setting" };
            let instead = if dated {
                "`exports[].index` with one name: an alias or a data stream"
            } else {
                "set it at the server"
            };
            draft.leave(&p.place, format!("{title}: {}", written(p)), why, instead);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_match() {
        for (pattern, tag, want) in [
            ("*", "app", true),
            ("app.*", "app.1", true),
            ("app.*", "apps", false),
            ("*.log", "a.b.log", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("app", "app", true),
            ("app", "app1", false),
        ] {
            assert_eq!(tag_matches(pattern, tag), want, "{pattern} {tag}");
        }
    }

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
