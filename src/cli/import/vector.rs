//! Vector: sources of the type `file`, and the sinks that they reach.
//!
//! In: TOML, YAML or JSON. Out: a draft. Touches nothing. The keys are those of Vector 0.5x:
//! <https://vector.dev/docs/reference/configuration/sources/file/>.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::draft::{Draft, Multiline, Out, Source};
use super::foreign::{self, Keys};
use super::promtail::rest;
use super::{ImportError, pattern};
use crate::config::tree::{Entry, Node, Place};

/// Sources of other kinds, and what takes their place.
const OTHER_SOURCES: [(&str, &str); 10] = [
    ("journald", "read the journal with `journalctl -f -o json >> FILE` until Millrace reads it by itself"),
    ("kubernetes_logs", "use packaging/kubernetes of Millrace: it reads /var/log/pods on every node"),
    ("docker_logs", "name Docker's files: /var/lib/docker/containers/*/*-json.log"),
    ("syslog", "have rsyslog write to files, and name them in `include`"),
    ("socket", "have the program write to a file"),
    ("kafka", "Millrace's log is a Kafka: name the topic in `aggregator.kafka.topics`"),
    ("http_server", "send to the aggregator's Loki API, port 3100, or `_bulk`, port 9200"),
    ("opentelemetry", "send to the log with an OpenTelemetry Collector, or keep Vector for it"),
    ("internal_logs", "the agent logs to standard error"),
    ("exec", "have the program write to a file"),
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
    for transform in transforms {
        self::transform(transform, &upstream, &mut draft);
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
                    "Vector's checkpoints are not taken over: each file is read by `read_from` at Millrace's first start, so that \
                     what Vector sent is read once more; `read_from: end` reads only what is written from then on"
                }
                "acknowledgements" => "Millrace moves a position only after the log has the data",
                _ => "belongs to Vector's own running",
            };
            draft.note(&entry.place, key, text);
        }
    }
    for entry in top.rest() {
        draft.leave(&entry.place, &entry.key, "has no counterpart", "");
    }
    Ok(draft)
}

/// Which sources feed a component.
struct Upstream<'n> {
    inputs: BTreeMap<&'n str, Vec<String>>,
    sources: BTreeSet<String>,
}

impl<'n> Upstream<'n> {
    fn new(transforms: &'n [Entry], sources: &[Entry]) -> Self {
        let inputs = transforms.iter().map(|entry| (entry.key.as_str(), inputs(&entry.node)));
        Self { inputs: inputs.collect(), sources: sources.iter().map(|entry| entry.key.clone()).collect() }
    }

    fn of(&self, component: &Node) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut open = inputs(component);
        while let Some(name) = open.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            let all = self.sources.iter().map(String::as_str).chain(self.inputs.keys().copied());
            for known in all.filter(|known| wild(&name, known) || name.split('.').next() == Some(*known)) {
                if self.sources.contains(known) {
                    found.insert(known.to_owned());
                }
                open.extend(self.inputs.get(known).cloned().unwrap_or_default());
            }
        }
        found
    }
}

fn inputs(component: &Node) -> Vec<String> {
    component.get("inputs").map(Node::texts).unwrap_or_default().into_iter().map(|(name, _)| name).collect()
}

/// `app*` names all that start with `app`.
fn wild(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, end)) => name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end),
    }
}

/// Whether it became an entry.
fn file_source(entry: &Entry, draft: &mut Draft) -> bool {
    let path = format!("sources.{}", entry.key);
    let keys = Keys::new(&entry.node, &path);
    let kind = keys.text("type").map_or("", |(kind, _)| kind);
    if kind != "file" {
        let known = OTHER_SOURCES.iter().find(|(name, _)| *name == kind);
        let instead = known.map_or("keep Vector for it", |(_, instead)| *instead);
        draft.leave(&entry.place, format!("{path} ({kind})"), "is no source of files", instead);
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
            _ => draft.leave(place, keys.name("read_from"), format!("`{from}` is not known"), "set `read_from`"),
        }
    }
    if keys.yes("ignore_checkpoints") {
        let place = &entry.place;
        draft.leave(
            place,
            keys.name("ignore_checkpoints"),
            "Millrace goes on where it was",
            "remove its data folder to begin anew",
        );
    }
    if let Some((text, place)) = keys.text("max_line_bytes") {
        match pattern::bytes(text) {
            Some(bytes) => {
                source.max_line_bytes = Some((bytes, place.clone()));
                draft.note(
                    place,
                    keys.name("max_line_bytes"),
                    "Vector drops longer lines; Millrace cuts and marks them",
                );
            }
            None => {
                draft.leave(place, keys.name("max_line_bytes"), format!("`{text}` is no size"), "set `max_line_bytes`")
            }
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
            "have the program write line feeds",
        );
    }
    for (key, why, instead) in [
        ("ignore_older_secs", "old files are read too, once", "name them in `exclude`, or use `read_from: end`"),
        ("ignore_older", "old files are read too, once", "name them in `exclude`, or use `read_from: end`"),
        ("remove_after_secs", "Millrace deletes nothing", "have logrotate delete"),
        ("remove_after", "Millrace deletes nothing", "have logrotate delete"),
        ("start_at_beginning", "is old", "set `read_from`"),
        ("message_start_indicator", "is old", "set `multiline`"),
        ("offset_key", "the position stands in the record's header `millrace`", ""),
        ("file_key", "the path stands in the label `filename`", ""),
        ("host_key", "the host stands in the label `host`", ""),
        ("fingerprint", "files are told apart by the hash of their head, device and inode", ""),
        ("fingerprinting", "files are told apart by the hash of their head, device and inode", ""),
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
    rest(&keys, draft);
    draft.sources.push(source);
    true
}

fn agent_setting(keys: &Keys<'_>, theirs: &str, ours: &str, unit_ms: f64, draft: &mut Draft) {
    if let Some((text, place)) = keys.text(theirs) {
        match pattern::span(text, unit_ms) {
            Some(span) => draft.agent(ours, Out::Plain(span), place),
            None => {
                draft.leave(place, keys.name(theirs), format!("`{text}` is no time"), format!("set `agent.{ours}`"))
            }
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
            let why = format!("the mode `{mode}` looks at the line before, or ends events");
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
    rest(&inner, draft);
}

/// What a transform does, and what does it here.
fn transform(entry: &Entry, upstream: &Upstream<'_>, draft: &mut Draft) {
    let kind = entry.node.get("type").and_then(Node::text).unwrap_or("");
    let what = format!("transforms.{} ({kind})", entry.key);
    let text = |key: &str| entry.node.get(key).map(Node::brief).unwrap_or_default();
    let from: Vec<String> = upstream.of(&entry.node).into_iter().collect();
    let (why, instead) = match kind {
        "remap" => (
            "changes events by a program",
            "the program as it is, in a transform `{type: vrl, program: …}` of the source; the event has `.message`, \
             `.labels`, `.metadata`, `.timestamp`, `.host` and `.filename` (for `.file`)"
                .to_owned(),
        ),
        "filter" => {
            ("drops events", format!("a transform `{{type: drop, if: …}}` with the opposite of: {}", text("condition")))
        }
        "route" | "exclusive_route" => (
            "sends events different ways",
            "a transform `{type: route, if: …, topic: …}` for each way, or `broker.routes` by labels".to_owned(),
        ),
        "sample" => ("keeps a share of the events", format!("a transform `{{type: sample, rate: {}}}`", text("rate"))),
        "throttle" => (
            "limits the rate",
            format!("a transform `{{type: throttle, limit: {}, per: {}s}}`", text("threshold"), text("window_secs")),
        ),
        "dedupe" => ("drops repeats", "nothing for lines of files: each is indexed once".to_owned()),
        "reduce" => ("joins events", "`multiline` of the source, for lines that follow each other".to_owned()),
        "log_to_metric" | "metric_to_log" | "aggregate" | "tag_cardinality_limit" => {
            ("is about metrics", "recording rules (`rules.files`), or a metric query in Grafana".to_owned())
        }
        "lua" => ("changes events by a program in Lua", "write it in VRL, in a transform of the source".to_owned()),
        _ => ("is not known", "write what it does in VRL".to_owned()),
    };
    draft.leave(&entry.place, format!("{what} of {}", from.join(", ")), why, instead);
}

fn sink(entry: &Entry, reached: &[usize], draft: &mut Draft) {
    let path = format!("sinks.{}", entry.key);
    let keys = Keys::new(&entry.node, &path);
    let kind = keys.text("type").map_or("", |(kind, _)| kind);
    match kind {
        "kafka" if !reached.is_empty() => return kafka(entry, &keys, draft),
        "loki" if !reached.is_empty() => return loki(entry, &keys, reached, draft),
        "elasticsearch" if !reached.is_empty() => return elasticsearch(entry, &keys, draft),
        _ => {}
    }
    if reached.is_empty() {
        return draft.leave(&entry.place, format!("{path} ({kind})"), "gets nothing from files", "keep Vector for it");
    }
    let instead = match kind {
        "console" => "`millrace broker consume logs --follow` shows what comes",
        "file" => "`millrace broker consume logs --follow >> FILE`, or any Kafka consumer",
        "http" | "vector" | "socket" | "opentelemetry" => "let a Kafka consumer read the log and send it on",
        "aws_s3" | "gcp_cloud_storage" | "azure_blob" => "Kafka Connect or any other consumer of the log",
        "blackhole" => "leave it out",
        _ => "let a Kafka consumer read the log and send it on",
    };
    draft.leave(&entry.place, format!("{path} ({kind})"), "the agent writes to the log alone", instead);
}

fn kafka(entry: &Entry, keys: &Keys<'_>, draft: &mut Draft) {
    if draft.has_kafka() {
        let instead = "a transform `{type: route, topic: …}`, or `broker.routes`";
        return draft.leave(&entry.place, &keys.path, "the agent writes to one Kafka", instead);
    }
    if let Some((servers, place)) = keys.text("bootstrap_servers") {
        let list = servers.split(',').map(|server| (draft.open(server.trim()), Some(place.clone()))).collect();
        draft.kafka("brokers", Out::List(list), place);
    }
    if let Some((topic, place)) = keys.text("topic") {
        if topic.contains("{{") {
            let instead = "a transform `{type: route, topic_from: …}`; until then all lines go to the topic `logs`";
            draft.leave(place, keys.name("topic"), format!("`{topic}` is chosen by the event"), instead);
        } else {
            let topic = draft.open(topic);
            draft.kafka("topic", topic, place);
        }
    }
    if let Some(found) = keys.entry("tls") {
        let tls = Keys::new(&found.node, keys.name("tls"));
        if tls.take("enabled").and_then(Node::yes) != Some(false) {
            draft.kafka("tls", Out::Plain("true".to_owned()), &found.place);
            for (theirs, ours) in [("ca_file", "ca_file"), ("crt_file", "cert_file"), ("key_file", "key_file")] {
                if let Some((text, place)) = tls.text(theirs) {
                    let text = draft.open(text);
                    draft.kafka(ours, text, place);
                }
            }
        }
        tls.pass(&["alpn_protocols", "ca_file", "crt_file", "key_file"]);
        rest(&tls, draft);
    }
    if let Some(found) = keys.entry("sasl") {
        let sasl = Keys::new(&found.node, keys.name("sasl"));
        if sasl.take("enabled").and_then(Node::yes) != Some(false) {
            for (theirs, ours) in
                [("mechanism", "sasl_mechanism"), ("username", "sasl_username"), ("password", "sasl_password")]
            {
                if let Some((text, place)) = sasl.text(theirs) {
                    let text = draft.open(text);
                    draft.kafka(ours, text, place);
                }
            }
        }
        sasl.pass(&["mechanism", "username", "password"]);
        rest(&sasl, draft);
    }
    if let Some(found) = keys.entry("librdkafka_options") {
        let options = found.node.entries().iter().filter_map(|e| Some((e.key.clone(), e.node.text()?.to_owned(), e)));
        for (key, value, at) in options {
            let what = format!("{}.{key}: {value}", keys.name("librdkafka_options"));
            let instead = "`agent.kafka.options` with `client: librdkafka`, if it is needed";
            draft.leave(&at.place, what, "Millrace's own client has no such setting", instead);
        }
    }
    if let Some((key, place)) = keys.text("key_field") {
        draft.note(
            place,
            keys.name("key_field"),
            format!("the key is the source's id, not `{key}`: a file stays in order"),
        );
    }
    if let Some(found) = keys.entry("compression") {
        draft.note(&found.place, keys.name("compression"), "lines are always compressed with zstd");
    }
    if let Some(found) = keys.entry("encoding") {
        draft.note(
            &found.place,
            keys.name("encoding"),
            "the value is the line as written; labels and metadata stand in headers",
        );
    }
    keys.pass(&[
        "type",
        "inputs",
        "acknowledgements",
        "batch",
        "buffer",
        "healthcheck",
        "message_timeout_ms",
        "socket_timeout_ms",
        "headers_key",
        "rate_limit_duration_secs",
        "rate_limit_num",
        "bootstrap_servers",
        "topic",
    ]);
    rest(keys, draft);
}

fn loki(entry: &Entry, keys: &Keys<'_>, reached: &[usize], draft: &mut Draft) {
    let endpoint = keys.text("endpoint").map_or("", |(text, _)| text);
    let why =
        format!("{endpoint}: Millrace's agent writes to the log, and its aggregator answers Loki's API from there");
    let instead = "set `agent.kafka.brokers` to the broker or a Kafka, and point Grafana at the aggregator, port 3100";
    draft.leave(&entry.place, &keys.path, why, instead);
    for label in keys.take("labels").map(Node::entries).unwrap_or_default() {
        let Some(value) = label.node.text() else { continue };
        let name = keys.name(&format!("labels.{}", label.key));
        match value.trim() {
            "{{ host }}" | "{{host}}" | "{{ file }}" | "{{file}}" => {
                draft.note(&label.place, name, "the labels `host` and `filename` are always there");
            }
            value if value.contains("{{") => {
                let instead =
                    format!("query it: `| json`, or VRL `.labels.{} = …` in a transform of the source", label.key);
                draft.leave(&label.place, name, format!("`{value}` comes from the event"), instead);
            }
            value => {
                for i in reached {
                    if let Some(source) = draft.sources.get_mut(*i) {
                        source.label(&label.key, value, &label.node.place);
                    }
                }
            }
        }
    }
    if let Some((tenant, place)) = keys.text("tenant_id") {
        if tenant.contains("{{") {
            draft.leave(
                place,
                keys.name("tenant_id"),
                "a tenant can't come from the event",
                "give each tenant files of its own",
            );
        } else {
            for i in reached {
                if let Some(source) = draft.sources.get_mut(*i) {
                    source.tenant = Some((tenant.to_owned(), place.clone()));
                }
            }
        }
    }
    keys.pass(&[
        "type",
        "inputs",
        "acknowledgements",
        "batch",
        "buffer",
        "healthcheck",
        "encoding",
        "request",
        "auth",
        "tls",
        "compression",
        "out_of_order_action",
        "remove_label_fields",
        "remove_timestamp",
        "path",
        "endpoint",
        "structured_metadata",
        "remove_structured_metadata_fields",
        "slow_query_threshold",
    ]);
    rest(keys, draft);
}

fn elasticsearch(entry: &Entry, keys: &Keys<'_>, draft: &mut Draft) {
    let endpoint = keys.take("endpoints").or_else(|| keys.take("endpoint")).map(Node::texts).unwrap_or_default();
    let Some((url, place)) = endpoint.first() else {
        return draft.leave(&entry.place, &keys.path, "names no address", "set `exports[].url`");
    };
    let mut fields = vec![
        ("type", Out::Plain("elasticsearch".to_owned()), entry.place.clone()),
        ("name", Out::Text(entry.key.clone()), entry.place.clone()),
        ("url", draft.open(url), place.clone()),
    ];
    if let Some((_, second)) = endpoint.get(1) {
        draft.leave(
            second,
            keys.name("endpoints"),
            "an export has one address",
            "name a load balancer, or any one node",
        );
    }
    let bulk = keys.take("bulk");
    match bulk.and_then(|bulk| bulk.get("index")).and_then(|node| Some((node.text()?, &node.place))) {
        Some((index, at)) if index.contains(['%', '{']) => {
            let instead = "`exports[].index` with one name: an alias or a data stream";
            draft.leave(at, keys.name("bulk.index"), format!("`{index}` is made anew for each event"), instead);
        }
        Some((index, at)) => fields.push(("index", draft.open(index), at.clone())),
        None => {}
    }
    if let Some(auth) = keys.take("auth") {
        for (theirs, ours) in [("user", "username"), ("password", "password")] {
            if let Some((text, at)) = auth.get(theirs).and_then(|node| Some((node.text()?, &node.place))) {
                fields.push((ours, draft.open(text), at.clone()));
            }
        }
    }
    draft.export(fields);
    let text = "an export reads the log where the role `aggregator` runs: move it to that configuration, and set `kafka.brokers`";
    draft.note(&entry.place, &keys.path, text);
    if let Some(found) = keys.entry("tls") {
        draft.leave(
            &found.place,
            keys.name("tls"),
            "an export trusts the system's authorities",
            "add the authority to the system's",
        );
    }
    keys.pass(&[
        "type",
        "inputs",
        "acknowledgements",
        "batch",
        "buffer",
        "healthcheck",
        "encoding",
        "request",
        "compression",
        "mode",
        "api_version",
        "id_key",
        "data_stream",
        "distribution",
        "doc_type",
        "pipeline",
        "query",
        "metrics",
        "suppress_type_name",
        "request_retry_partial",
        "opensearch_service_type",
    ]);
    rest(keys, draft);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_name_inputs() {
        assert!(wild("app*", "app1") && wild("*", "x") && wild("a", "a") && !wild("a*b", "a") && !wild("a", "ab"));
    }
}
