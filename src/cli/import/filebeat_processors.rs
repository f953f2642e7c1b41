//! Filebeat: processors, of inputs and of the whole file, and conditions of `drop_event`.
//!
//! In: the list `processors`, the sources it is for. Out: labels, time, transforms. Side effects: none.

use super::draft::{Draft, Source};
use super::foreign::Keys;
use super::parts::Timestamp;
use super::pattern;
use super::step::{self, Parsed, TransformStep};
use millrace_log::yaml::{Node, Place};

/// Applies processors in order.
pub fn processors(node: &Node, path: &str, sources: &mut [Source], draft: &mut Draft) {
    for (i, processor) in node.items().into_iter().enumerate() {
        for entry in processor.entries() {
            let name = format!("{path}[{i}].{}", entry.key);
            let settings = &entry.node;
            let conditional = settings.get("when").is_some();
            match entry.key.as_str() {
                "add_fields" | "add_labels" if !conditional => {
                    // Without a target, fields are below `fields`, as those of an input: labels here.
                    let target = settings.get("target").and_then(Node::text).filter(|target| *target != "fields");
                    let (key, target) = match entry.key.as_str() {
                        "add_labels" => ("labels", ""),
                        _ => ("fields", target.unwrap_or_default()),
                    };
                    if !target.is_empty() {
                        let text = format!("fields below `{target}` are labels that begin with `{target}_`");
                        draft.note(&entry.place, format!("{name}.target"), text);
                    }
                    for (label, value, place) in settings.get(key).map(|node| node.flat(target)).unwrap_or_default() {
                        for source in sources.iter_mut() {
                            source.label(&label, &value, &place);
                        }
                    }
                }
                "add_tags" if !conditional => {
                    for source in sources.iter_mut() {
                        if let Some((tags, place)) = settings.get("tags").and_then(Node::joined) {
                            source.label("tags", &tags, place);
                        }
                    }
                }
                "timestamp" if !conditional => timestamp(settings, &name, &entry.place, sources, draft),
                "add_host_metadata" => draft.note(&entry.place, name, "the label `host` is always set"),
                "drop_event" => drop_event(settings, &name, &entry.place, sources, draft),
                "rate_limit" if !conditional => rate_limit(settings, &name, &entry.place, sources, draft),
                other => {
                    let (why, instead) = reason_of(other);
                    let why = if conditional { format!("{why}, where `when` holds") } else { why.to_owned() };
                    draft.leave(&entry.place, &name, why, instead);
                    if matches!(other, "script" | "rename" | "replace" | "decode_json_fields" | "dissect") {
                        sources.iter_mut().for_each(|source| source.block(&name));
                    }
                }
            }
        }
    }
}

fn drop_event(settings: &Node, name: &str, place: &Place, sources: &mut [Source], draft: &mut Draft) {
    let instead = "a transform `{type: drop, if: ...}` of the source, in VRL";
    let Some(when) = settings.get("when") else {
        return draft.leave(place, name, "has no condition", instead);
    };
    for source in sources.iter_mut() {
        let mut uses_fields = false;
        match condition(when, source.is_json, &mut uses_fields) {
            Ok(condition) => {
                let condition =
                    if uses_fields { format!("{}\n{condition}", Parsed::Json.assignment()) } else { condition };
                let step = TransformStep::drop_if(step::program(&condition), place, name).reason("drop_event");
                source.step(step, draft);
            }
            Err(why) => draft.leave(place, name, why, instead),
        }
    }
}

/// A condition of Filebeat in VRL, or why there is none. All entries must hold.
fn condition(node: &Node, is_json: bool, uses_fields: &mut bool) -> Result<String, String> {
    let mut all = Vec::new();
    for entry in node.entries() {
        let mut inner = |node: &Node| condition(node, is_json, uses_fields);
        all.push(match entry.key.as_str() {
            "not" => format!("!({})", inner(&entry.node)?),
            "and" | "or" => {
                let parts: Vec<String> = entry.node.items().into_iter().map(inner).collect::<Result<_, _>>()?;
                format!("({})", parts.join(if entry.key == "and" { " && " } else { " || " }))
            }
            "equals" | "contains" | "regexp" => tests(&entry.key, &entry.node, "", is_json, uses_fields)?,
            other => return Err(format!("has the condition `{other}`, which is not converted")),
        });
    }
    if all.is_empty() { Err("has no condition".to_owned()) } else { Ok(all.join(" && ")) }
}

/// `field: value` pairs of one condition; nested maps are paths.
fn tests(kind: &str, node: &Node, prefix: &str, is_json: bool, uses_fields: &mut bool) -> Result<String, String> {
    let mut all = Vec::new();
    for entry in node.entries() {
        let field = if prefix.is_empty() { entry.key.clone() } else { format!("{prefix}.{}", entry.key) };
        if !entry.node.entries().is_empty() {
            all.push(tests(kind, &entry.node, &field, is_json, uses_fields)?);
            continue;
        }
        let Some(text) = entry.node.text() else { return Err(format!("compares `{field}` with a list")) };
        let expression = match kind {
            "equals" => step::exactly(text),
            "contains" => regex::escape(text),
            _ => pattern::regex(text)?,
        };
        all.push(if is_json {
            *uses_fields = true;
            let path: Vec<String> = field.split('.').map(str::to_owned).collect();
            step::field_matches(&Parsed::Json, &path, &expression)
        } else if field == "message" {
            step::line_matches(&expression)
        } else {
            return Err(format!("tests the field `{field}`, which is not in the line"));
        });
    }
    if all.is_empty() { Err("has no condition".to_owned()) } else { Ok(all.join(" && ")) }
}

fn rate_limit(settings: &Node, name: &str, place: &Place, sources: &mut [Source], draft: &mut Draft) {
    let keys = Keys::new(settings, name);
    let limit = keys.text("limit").and_then(|(text, _)| text.split_once('/'));
    let limit = limit.and_then(|(count, unit)| {
        let per = match unit.trim() {
            "s" => "1s",
            "m" => "1m",
            "h" => "1h",
            _ => return None,
        };
        Some((count.trim().parse().ok()?, per))
    });
    match limit {
        Some((count, per)) if keys.take("fields").is_none() => {
            for source in sources.iter_mut() {
                source.step(TransformStep::throttle(count, per, place, name), draft);
            }
        }
        _ => {
            let why = "limits the rate by fields, or by a part of an event";
            draft.leave(place, name, why, "a transform `{type: throttle, limit: ..., per: ..., key: ...}`");
        }
    }
    keys.pass(&["burst_multiplier"]);
    draft.leave_rest(&keys);
}

/// Why processors without a counterpart are left out, and what to use instead.
fn reason_of(processor: &str) -> (&'static str, &'static str) {
    match processor {
        "drop_fields" | "include_fields" | "rename" | "copy_fields" | "truncate_fields" | "replace" | "convert"
        | "append" | "move_fields" | "add_fields" | "add_labels" | "add_tags" => {
            ("changes fields", "the line stays as written; in VRL fields are set, renamed and deleted")
        }
        "decode_json_fields" => ("parses JSON", "`| json` in queries, or VRL `parse_json`"),
        "dissect" => ("parses lines", "`| pattern` in queries, or VRL `parse_regex` and `parse_grok`"),
        "decode_csv_fields" => ("parses lines", "VRL `parse_csv`"),
        "syslog" => ("parses lines", "VRL `parse_syslog`"),
        "script" => ("changes events by a program in JavaScript", "write it in VRL, in a transform of the source"),
        "timestamp" => ("sets the time", "`timestamp` of the source, or VRL `.timestamp = ...`"),
        "fingerprint" => ("computes an id", "nothing: each line has an id of its own, and is indexed once"),
        "rate_limit" => ("limits the rate", "a transform `{type: throttle, limit: ..., per: 1s}`"),
        "add_docker_metadata" | "add_kubernetes_metadata" => {
            ("adds metadata of the runtime", "`path_labels: kubernetes`, see packaging/kubernetes of Millrace")
        }
        "add_cloud_metadata"
        | "add_locale"
        | "add_process_metadata"
        | "add_observer_metadata"
        | "dns"
        | "community_id" => ("adds metadata of the host", "`labels` of the source"),
        "add_id" => ("computes an id", "nothing: each line has an id of its own"),
        _ => ("is unknown", "the same in VRL, in a transform of the source"),
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
    draft.leave_rest(&keys);
}
