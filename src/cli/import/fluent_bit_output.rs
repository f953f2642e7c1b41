//! Fluent Bit: the outputs `kafka`, `loki` and `es`/`opensearch`; others are reported.
//!
//! In: a section and the inputs that its tags match. Out: keys of `agent.kafka`, labels, exports. Side effects: none.

use super::draft::Draft;
use super::fluent_bit_file::Section;
use super::fluent_bit_tags::{Input, list, reached, written, yes};
use super::result::Out;

/// Reads one output.
pub fn output(section: &Section, inputs: &[Input], draft: &mut Draft) {
    let name = section.name().to_ascii_lowercase();
    let title = format!("[OUTPUT] {name}");
    let sources = reached(section, inputs);
    if sources.is_empty() {
        return draft.leave(&section.place, title, "matches no tag of a tail", "Fluent Bit, for this part");
    }
    match name.as_str() {
        "kafka" => kafka(section, &title, draft),
        "loki" => loki(section, &title, &sources, draft),
        "es" | "opensearch" => elasticsearch(section, &title, draft),
        _ => {
            let instead = match name.as_str() {
                "stdout" | "file" => "`millrace broker consume logs --follow`",
                "null" => "nothing",
                _ => "a Kafka consumer that forwards the records",
            };
            draft.leave(&section.place, title, "the agent writes to Kafka only", instead);
        }
    }
}

fn kafka(section: &Section, title: &str, draft: &mut Draft) {
    if draft.has_kafka() {
        let instead = "a transform `{type: route, topic: ...}`, or `broker.routes`";
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
                        "a transform `{type: route, topic: ...}` for the others",
                    );
                }
            }
            "topic_key" | "dynamic_topic" => {
                let instead = "a transform `{type: route, topic_from: ...}`";
                draft.leave(&p.place, format!("{title}: {}", written(p)), "the topic depends on the event", instead);
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
                            let instead = "`agent.kafka.options`, if it is needed";
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
                None => draft.leave(&p.place, format!("{title}: {}", written(p)), "is unknown", ""),
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
                    let instead = "query it: `| json`, or VRL `.labels.NAME = ...` in a transform of the source";
                    draft.leave(&place, format!("{title}: label {pair}"), "depends on the event", instead);
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
                draft.leave(&p.place, format!("{title}: {}", written(p)), "depends on the event", instead);
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
            let why = if dated { "writes one index per day" } else { "an export has no such setting" };
            let instead = if dated {
                "`exports[].index` with one name: an alias or a data stream"
            } else {
                "set it at the server"
            };
            draft.leave(&p.place, format!("{title}: {}", written(p)), why, instead);
        }
    }
}
