//! Promtail: `scrape_configs` with `static_configs`, and what stands around them.
//!
//! In: YAML. Out: a draft. Touches nothing. Leaves the stages of pipelines to `promtail_stages.rs`. The keys are those of
//! Promtail 3: <https://grafana.com/docs/loki/latest/send-data/promtail/configuration/>.

use std::path::Path;

use super::draft::{Draft, Source};
use super::error::ImportError;
use super::foreign::{Keys, yaml};
use super::{pattern, promtail_stages};
use millrace_log::yaml::Node;

/// Other ways to find targets, and what takes their place.
const OTHER_TARGETS: [(&str, &str); 13] = [
    ("journal", "a source `{type: journald}`"),
    ("syslog", "a source `{type: syslog}`"),
    ("loki_push_api", "a source `{type: loki}`"),
    ("kafka", "Millrace's log is a Kafka: name the topic in `aggregator.kafka.topics`"),
    ("docker_sd_configs", "name Docker's files: /var/lib/docker/containers/*/*-json.log"),
    ("kubernetes_sd_configs", "the DaemonSet in packaging/kubernetes"),
    ("windows_events", "Promtail, for these"),
    ("gcplog", "Promtail, for these"),
    ("azure_event_hubs", "Event Hubs speaks Kafka's protocol: copy the topic with any Kafka tool"),
    ("gelf", "Promtail, for these"),
    ("cloudflare", "Promtail, for these"),
    ("heroku_drain", "Promtail, for these"),
    ("consul_sd_configs", "name the files in `include`"),
];

/// Reads the file.
pub fn import(path: &Path, text: &str) -> Result<Draft, ImportError> {
    let file = path.display().to_string();
    let root = yaml(&file, text)?;
    let top = Keys::new(&root, "");
    let Some(configs) = top.entry("scrape_configs") else {
        return Err(ImportError::Other { path: file, format: "Promtail", expected: "the key `scrape_configs`" });
    };
    let mut draft = Draft::new(true);
    for (i, config) in configs.node.items().into_iter().enumerate() {
        scrape_config(config, &format!("scrape_configs[{i}]"), &mut draft);
    }
    limits(&top, &mut draft);
    target_config(&top, &mut draft);
    for key in ["client", "clients"] {
        if let Some(entry) = top.entry(key) {
            for (i, client) in entry.node.items().into_iter().enumerate() {
                self::client(client, &format!("{key}[{i}]"), i, &mut draft);
            }
        }
    }
    if let Some(entry) = top.entry("positions") {
        let text = "Promtail's positions are not migrated: each file is read by `read_from` at Millrace's first start, so \
                    that lines sent by Promtail are read again; `read_from: end` reads only new lines";
        draft.note(&entry.place, "positions", text);
    }
    for key in ["server", "tracing", "options", "global", "wal", "metrics"] {
        if let Some(entry) = top.entry(key) {
            let text = if key == "server" {
                "Millrace's agent serves /metrics and /ready where `agent.http` says"
            } else {
                "concerns Promtail itself"
            };
            draft.note(&entry.place, key, text);
        }
    }
    for entry in top.rest() {
        draft.leave(&entry.place, &entry.key, "unknown key", "see millrace.reference.yaml");
    }
    Ok(draft)
}

fn scrape_config(config: &Node, path: &str, draft: &mut Draft) {
    let keys = Keys::new(config, path);
    let title = match keys.text("job_name") {
        Some((name, _)) => format!("{path} ({name})"),
        None => path.to_owned(),
    };
    let mut sources = Vec::new();
    for (i, entry) in keys.entry("static_configs").map(|e| e.node.items()).unwrap_or_default().into_iter().enumerate() {
        let statics = Keys::new(entry, format!("{path}.static_configs[{i}]"));
        statics.pass(&["targets"]);
        let mut source = Source::new(&entry.place, &title);
        for label in statics.take("labels").map(Node::entries).unwrap_or_default() {
            let Some(value) = label.node.text() else { continue };
            match label.key.as_str() {
                "__path__" => source.include.push((value.to_owned(), label.node.place.clone())),
                "__path_exclude__" => source.exclude.push((value.to_owned(), label.node.place.clone())),
                "__tenant_id__" => source.tenant = Some((value.to_owned(), label.node.place.clone())),
                name if name.starts_with("__") => {
                    let text = "Promtail drops labels that start with `__` before it sends";
                    draft.note(&label.place, statics.name(&format!("labels.{name}")), text);
                }
                name => {
                    source.label(name, value, &label.node.place);
                }
            }
        }
        draft.leave_rest(&statics);
        sources.push(source);
    }
    for (key, instead) in OTHER_TARGETS {
        if let Some(entry) = keys.entry(key) {
            draft.leave(&entry.place, keys.name(key), "is not a file source", instead);
        }
    }
    if let Some(entry) = keys.entry("file_sd_configs") {
        let why = "targets in other files are not read";
        draft.leave(&entry.place, keys.name("file_sd_configs"), why, "name their files in `include`");
    }
    relabel(&keys, &mut sources, draft);
    if let Some(entry) = keys.entry("encoding") {
        for source in &mut sources {
            source.set_encoding(&entry.node.brief(), &entry.place, keys.name("encoding"), draft);
        }
    }
    if let Some(entry) = keys.entry("decompression")
        && entry.node.get("enabled").and_then(Node::yes).unwrap_or(false)
    {
        let text = "compressed rotated files are read as the continuation of the original file";
        draft.note(&entry.place, keys.name("decompression"), text);
    }
    if let Some(entry) = keys.entry("pipeline_stages") {
        promtail_stages::apply(entry.node.items(), &keys.name("pipeline_stages"), &mut sources, draft);
    }
    draft.leave_rest(&keys);
    draft.sources.extend(sources);
}

/// Steps that give every target the same label; all others need labels that files don't have here.
fn relabel(keys: &Keys<'_>, sources: &mut [Source], draft: &mut Draft) {
    let Some(configs) = keys.take("relabel_configs") else { return };
    for (i, step) in configs.items().into_iter().enumerate() {
        let name = format!("{}[{i}]", keys.name("relabel_configs"));
        let step_keys = Keys::new(step, &name);
        let from = step_keys.take("source_labels").map(Node::texts).unwrap_or_default();
        let action = step_keys.text("action").map_or("replace", |(text, _)| text);
        let (target, replacement) = (step_keys.text("target_label"), step_keys.text("replacement"));
        match (target, replacement) {
            (Some((target, place)), Some((value, _)))
                if from.is_empty() && action == "replace" && !value.contains('$') && !target.starts_with("__") =>
            {
                for source in sources.iter_mut() {
                    source.label(target, value, place);
                }
            }
            _ => {
                let labels = from.iter().map(|(label, _)| label.as_str()).collect::<Vec<_>>().join(", ");
                let why = format!("derives labels from service discovery ({action} of {labels})");
                let instead = "`labels`, with one source for each set of files";
                draft.leave(&step.place, name, why, instead);
            }
        }
    }
}

fn limits(top: &Keys<'_>, draft: &mut Draft) {
    let Some(entry) = top.entry("limits_config") else { return };
    let keys = Keys::new(&entry.node, "limits_config");
    if let Some((text, place)) = keys.text("max_line_size") {
        match pattern::bytes(text) {
            Some(0) => {}
            Some(bytes) => {
                for source in &mut draft.sources {
                    source.max_line_bytes = Some((bytes, place.clone()));
                }
                if !keys.yes("max_line_size_truncate") {
                    let text = "Promtail drops longer lines; Millrace truncates and marks them";
                    draft.note(place, "limits_config.max_line_size", text);
                }
            }
            None => draft.leave(
                place,
                "limits_config.max_line_size",
                format!("`{text}` is not a size"),
                "set `max_line_bytes`",
            ),
        }
    }
    keys.pass(&["max_line_size_truncate"]);
    for key in ["readline_rate", "readline_rate_enabled", "readline_burst", "readline_rate_drop", "max_streams"] {
        if let Some(limit) = keys.entry(key)
            && (key != "readline_rate_enabled" || limit.node.yes() == Some(true))
        {
            let why = "Millrace's agent reads as fast as the log takes it, and drops nothing";
            draft.note(&limit.place, keys.name(key), why);
        }
    }
    draft.leave_rest(&keys);
}

fn target_config(top: &Keys<'_>, draft: &mut Draft) {
    let Some(entry) = top.entry("target_config") else { return };
    let keys = Keys::new(&entry.node, "target_config");
    if let Some((text, place)) = keys.text("sync_period")
        && let Some(span) = pattern::span(text, 1000.0)
    {
        let text = format!("Millrace is notified of new files by the kernel, and scans every second, not every {span}");
        draft.note(place, "target_config.sync_period", text);
    }
    keys.pass(&["stdin"]);
    draft.leave_rest(&keys);
}

fn client(client: &Node, path: &str, index: usize, draft: &mut Draft) {
    let keys = Keys::new(client, path);
    let url = keys.text("url").map_or("", |(url, _)| url);
    let why = format!("{url}: Millrace's agent writes to the log, and its aggregator answers Loki's API from there");
    let instead = "set `agent.kafka.brokers` to the broker or a Kafka, and point Grafana at the aggregator, port 3100";
    draft.leave(&client.place, path, why, instead);
    if let Some((tenant, place)) = keys.text("tenant_id") {
        for source in draft.sources.iter_mut().filter(|source| index == 0 && source.tenant.is_none()) {
            source.tenant = Some((tenant.to_owned(), place.clone()));
        }
        if index > 0 {
            draft.leave(
                place,
                keys.name("tenant_id"),
                "a source has one tenant",
                "give each tenant sources of its own",
            );
        }
    }
    for label in keys.take("external_labels").map(Node::entries).unwrap_or_default() {
        if let Some(value) = label.node.text() {
            draft.label_all(&label.key, value, &label.node.place);
        }
    }
    if let Some(name) = keys.entry("tls_config") {
        draft.note(&name.place, keys.name("tls_config"), "TLS to the log is set under `agent.kafka`");
    }
    // Everything else tells Promtail how to send to Loki: batches, retries, logins.
    keys.pass(&[
        "name",
        "batchwait",
        "batchsize",
        "backoff_config",
        "timeout",
        "basic_auth",
        "bearer_token",
        "bearer_token_file",
        "oauth2",
        "proxy_url",
        "proxy_from_environment",
        "headers",
        "follow_redirects",
        "drop_rate_limited_batches",
        "stream_lag_labels",
        "authorization",
    ]);
    draft.leave_rest(&keys);
}
