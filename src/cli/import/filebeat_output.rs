//! Filebeat: `output.kafka` and `output.elasticsearch`; other outputs are reported.
//!
//! In: the section `output`. Out: keys of `agent.kafka`, exports. Side effects: none.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::draft::Draft;
use super::foreign::Keys;
use super::result::Out;
use millrace_log::yaml::{MapEntry, Node};

/// Reads the outputs.
pub fn output(node: &Node, draft: &mut Draft) {
    for entry in node.entries() {
        let path = format!("output.{}", entry.key);
        let keys = Keys::new(&entry.node, &path);
        if keys.take("enabled").and_then(Node::yes) == Some(false) {
            continue;
        }
        match entry.key.as_str() {
            "kafka" => kafka(&keys, draft),
            "elasticsearch" => elasticsearch(entry, &keys, draft),
            "logstash" => {
                draft.leave(&entry.place, path, "the agent writes to Kafka only", "Logstash with its Kafka input")
            }
            "console" => draft.leave(
                &entry.place,
                path,
                "the agent writes to Kafka only",
                "`millrace broker consume logs --follow`",
            ),
            "file" => draft.leave(
                &entry.place,
                path,
                "the agent writes to Kafka only",
                "`millrace broker consume logs --follow >> FILE`",
            ),
            _ => draft.leave(
                &entry.place,
                path,
                "the agent writes to Kafka only",
                "a Kafka consumer that forwards the records",
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
            let instead = "a transform `{type: route, topic_from: ...}`; all lines go to the topic `logs`";
            draft.leave(place, keys.name("topic"), format!("`{topic}` depends on the event"), instead);
        } else {
            let topic = draft.open(topic);
            draft.kafka("topic", topic, place);
        }
    }
    if let Some(entry) = keys.entry("topics") {
        draft.leave(
            &entry.place,
            keys.name("topics"),
            "selects topics by the event",
            "a transform `{type: route, if: ..., topic: ...}` for each",
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
            draft.leave(&mode.place, keys.name("ssl.verification_mode"), "certificates are always verified", "");
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
    draft.leave_rest(keys);
}

fn with_port(host: &str, port: u16) -> String {
    let bare = host.rsplit_once(':').is_none_or(|(_, port)| port.contains(['}', ']']));
    if bare && !host.contains("${") { format!("{host}:{port}") } else { host.to_owned() }
}

fn elasticsearch(entry: &MapEntry, keys: &Keys<'_>, draft: &mut Draft) {
    let hosts = keys.take("hosts").map(Node::texts).unwrap_or_default();
    let Some((host, place)) = hosts.first() else {
        return draft.leave(&entry.place, &keys.path, "no hosts", "set `exports[].url`");
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
            draft.leave(at, keys.name("index"), format!("`{index}` is computed for each event"), instead);
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
    draft.leave_rest(keys);
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
