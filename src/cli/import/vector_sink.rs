//! Vector: the sinks `kafka`, `loki` and `elasticsearch`; others are reported.
//!
//! In: a sink and the sources that reach it. Out: keys of `agent.kafka`, labels, exports. Side effects: none.

use super::draft::Draft;
use super::foreign::Keys;
use super::result::Out;
use millrace_log::yaml::{MapEntry, Node};

/// Reads one sink.
pub fn sink(entry: &MapEntry, reached: &[usize], draft: &mut Draft) {
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
        return draft.leave(
            &entry.place,
            format!("{path} ({kind})"),
            "receives nothing from file sources",
            "Vector, for this part",
        );
    }
    let instead = match kind {
        "console" => "`millrace broker consume logs --follow` shows what comes",
        "file" => "`millrace broker consume logs --follow >> FILE`, or any Kafka consumer",
        "http" | "vector" | "socket" | "opentelemetry" => "a Kafka consumer that forwards the records",
        "aws_s3" | "gcp_cloud_storage" | "azure_blob" => "Kafka Connect or any other consumer of the log",
        "blackhole" => "nothing",
        _ => "a Kafka consumer that forwards the records",
    };
    draft.leave(&entry.place, format!("{path} ({kind})"), "the agent writes to Kafka only", instead);
}

/// How a sink delivers is decided otherwise here, and said.
fn delivery(keys: &Keys<'_>, buffer: &str, draft: &mut Draft) {
    for (key, text) in [
        ("acknowledgements", "a position moves only after the lines were taken"),
        ("batch", "Millrace sizes its requests itself (of an agent: `agent.batch_bytes`)"),
        ("buffer", buffer),
        ("healthcheck", "Millrace starts without it: `/ready` and `millrace doctor` say what does not answer"),
        ("message_timeout_ms", "lines are sent again until they are taken"),
        ("socket_timeout_ms", "`socket.timeout.ms` in `agent.kafka.options`, if it is needed"),
        ("headers_key", "labels and metadata are in headers of their own"),
        ("rate_limit_duration_secs", "lines are sent as fast as they are taken; a transform `throttle` drops some"),
        ("rate_limit_num", "lines are sent as fast as they are taken; a transform `throttle` drops some"),
        ("request", "Millrace retries until the lines are taken, with as many requests at once as it needs"),
    ] {
        if let Some(found) = keys.entry(key) {
            draft.note(&found.place, keys.name(key), text);
        }
    }
}

/// Why an agent needs no buffer.
const FILES_ARE_THE_BUFFER: &str =
    "the files are the buffer: a position moves only after the log has the lines; `agent.spool` is one for pushes";
/// Why an export needs none.
const LOG_IS_THE_BUFFER: &str = "the log is the buffer: an export continues where it was";

fn kafka(entry: &MapEntry, keys: &Keys<'_>, draft: &mut Draft) {
    if draft.has_kafka() {
        let instead = "a transform `{type: route, topic: ...}`, or `broker.routes`";
        return draft.leave(&entry.place, &keys.path, "the agent writes to one Kafka", instead);
    }
    if let Some((servers, place)) = keys.text("bootstrap_servers") {
        let list = servers.split(',').map(|server| (draft.open(server.trim()), Some(place.clone()))).collect();
        draft.kafka("brokers", Out::List(list), place);
    }
    if let Some((topic, place)) = keys.text("topic") {
        if topic.contains("{{") {
            let instead = "a transform `{type: route, topic_from: ...}`; all lines go to the topic `logs`";
            draft.leave(place, keys.name("topic"), format!("`{topic}` depends on the event"), instead);
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
        draft.leave_rest(&tls);
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
        draft.leave_rest(&sasl);
    }
    if let Some(found) = keys.entry("librdkafka_options") {
        let options = found.node.entries().iter().filter_map(|e| Some((e.key.clone(), e.node.text()?.to_owned(), e)));
        for (key, value, at) in options {
            let what = format!("{}.{key}: {value}", keys.name("librdkafka_options"));
            let instead = "`agent.kafka.options`, if it is needed";
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
            "the value is the line as written; labels and metadata are in headers",
        );
    }
    delivery(keys, FILES_ARE_THE_BUFFER, draft);
    keys.pass(&["type", "inputs", "bootstrap_servers", "topic"]);
    draft.leave_rest(keys);
}

fn loki(entry: &MapEntry, keys: &Keys<'_>, reached: &[usize], draft: &mut Draft) {
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
                draft.note(&label.place, name, "the labels `host` and `filename` are always set");
            }
            value if value.contains("{{") => {
                let instead =
                    format!("query it: `| json`, or VRL `.labels.{} = ...` in a transform of the source", label.key);
                draft.leave(&label.place, name, format!("`{value}` depends on the event"), instead);
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
    delivery(keys, FILES_ARE_THE_BUFFER, draft);
    keys.pass(&[
        "type",
        "inputs",
        "encoding",
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
    draft.leave_rest(keys);
}

fn elasticsearch(entry: &MapEntry, keys: &Keys<'_>, draft: &mut Draft) {
    let endpoint = keys.take("endpoints").or_else(|| keys.take("endpoint")).map(Node::texts).unwrap_or_default();
    let Some((url, place)) = endpoint.first() else {
        return draft.leave(&entry.place, &keys.path, "no address", "set `exports[].url`");
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
            draft.leave(at, keys.name("bulk.index"), format!("`{index}` is computed for each event"), instead);
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
    delivery(keys, LOG_IS_THE_BUFFER, draft);
    keys.pass(&[
        "type",
        "inputs",
        "encoding",
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
    draft.leave_rest(keys);
}
