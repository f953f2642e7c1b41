//! Stages of Promtail's pipelines: what a source can do by itself is carried over, what changes events is told with the
//! VRL that does the same.
//!
//! In: the list of stages, the sources that it is for. Out: changed sources, and what is left. Touches nothing.

use std::collections::BTreeMap;

use millrace_log::record::Labels;
use millrace_streams::route::Selector;

use super::draft::{Draft, Multiline, Source, Timestamp};
use super::foreign::Keys;
use super::pattern;
use super::promtail::rest;
use crate::config::tree::{Node, Place};

/// Where a name that a stage extracted stands in the line.
#[derive(Debug, Clone)]
enum Extracted {
    /// A field at the top of a JSON line.
    Field(String),
    /// A group of a regular expression.
    Group(String, String),
    /// Somewhere that a source can't say.
    Elsewhere,
}

/// Applies stages one after the other.
pub fn apply(stages: Vec<&Node>, path: &str, sources: &mut [Source], draft: &mut Draft) {
    let mut extracted = BTreeMap::new();
    run(stages, path, sources, &mut extracted, draft);
}

fn run(
    stages: Vec<&Node>,
    path: &str,
    sources: &mut [Source],
    extracted: &mut BTreeMap<String, Extracted>,
    draft: &mut Draft,
) {
    for (i, stage) in stages.into_iter().enumerate() {
        let [stage] = stage.entries() else {
            let why = "a stage is one key with its settings";
            draft.leave(&stage.place, format!("{path}[{i}]"), why, "");
            continue;
        };
        let name = format!("{path}[{i}].{}", stage.key);
        let keys = Keys::new(&stage.node, &name);
        let place = &stage.place;
        match stage.key.as_str() {
            "multiline" => multiline(&keys, place, sources, draft),
            "json" => json(&keys, extracted),
            "regex" => regex(&keys, extracted),
            "logfmt" => {
                for entry in keys.take("mapping").map(Node::entries).unwrap_or_default() {
                    extracted.insert(entry.key.clone(), Extracted::Elsewhere);
                }
            }
            "timestamp" => timestamp(&keys, place, extracted, sources, draft),
            "static_labels" => {
                for entry in stage.node.entries() {
                    for source in sources.iter_mut() {
                        source.label(&entry.key, entry.node.text().unwrap_or_default(), &entry.node.place);
                    }
                }
            }
            "tenant" => match keys.text("value") {
                Some((tenant, place)) => {
                    for source in sources.iter_mut() {
                        source.tenant = Some((tenant.to_owned(), place.clone()));
                    }
                }
                None => {
                    draft.leave(place, name, "a tenant can't come from the line", "give each tenant files of its own")
                }
            },
            "match" => matched(&keys, place, sources, extracted, draft),
            "labels" => labels(&stage.node, &name, extracted, draft),
            "labeldrop" => {
                for (label, place) in stage.node.texts() {
                    let mut known = false;
                    for source in sources.iter_mut() {
                        let before = source.labels.len();
                        source.labels.retain(|(name, ..)| *name != label);
                        known |= source.labels.len() < before;
                    }
                    if !known {
                        let instead = "it is not a label of the sources above; `host` and `filename` are always there";
                        draft.leave(
                            &place,
                            format!("{name}: {label}"),
                            "takes off a label that is not set here",
                            instead,
                        );
                    }
                }
            }
            "docker" => sources.iter_mut().for_each(|source| source.set_format("docker", place)),
            "cri" => sources.iter_mut().for_each(|source| source.set_format("cri", place)),
            other => {
                let (why, instead) = told(other, &stage.node);
                draft.leave(place, name, why, instead);
            }
        }
    }
}

/// What stages do that no setting of a source does, and what does it.
fn told(stage: &str, node: &Node) -> (String, String) {
    let text = |key: &str| node.get(key).map(Node::brief).unwrap_or_default();
    let (why, instead) = match stage {
        "drop" => {
            let by = ["expression", "source", "value", "older_than", "longer_than"];
            let set: Vec<String> =
                by.iter().filter(|key| node.get(key).is_some()).map(|key| format!("{key} {}", text(key))).collect();
            let instead = match node.get("expression") {
                Some(expression) if node.get("source").is_none() => {
                    format!("a transform of the source: `{{type: drop, match: '{}'}}`", expression.brief())
                }
                _ => "a transform of the source: `{type: drop, if: …}` with a VRL expression".to_owned(),
            };
            return (format!("drops events ({})", set.join(", ")), instead);
        }
        "output" => ("changes the line", format!("VRL: `.message = .{}`", text("source"))),
        "replace" => ("changes the line", "VRL `replace`, or a transform `{type: redact, patterns: […]}`".to_owned()),
        "template" => ("makes values by a template of Go", "VRL: `upcase`, `replace`, `join` and so on".to_owned()),
        "pack" => ("wraps the line in JSON", "leave it out: metadata stands beside the line".to_owned()),
        "structured_metadata" => (
            "sets metadata of events from their fields",
            "VRL: `.metadata.NAME = …`; LogQL parses fields at query too".to_owned(),
        ),
        "metrics" => {
            ("makes metrics from lines", "recording rules (`rules.files`), or a metric query in Grafana".to_owned())
        }
        "sampling" => ("keeps a share of the events", format!("a transform `{{type: sample}}`, rate {}", text("rate"))),
        "limit" => ("limits the rate", format!("a transform `{{type: throttle, limit: {}, per: 1s}}`", text("rate"))),
        "decolorize" => {
            ("takes colours off", "VRL: `.message = strip_ansi_escape_codes(string!(.message))`".to_owned())
        }
        "labelallow" => ("takes labels off", "name the labels that you want under `labels`".to_owned()),
        "geoip" => ("looks addresses up in a database", "enrich at query or in a stream job".to_owned()),
        "eventlogmessage" => ("reads Windows events", "keep Promtail for it".to_owned()),
        _ => ("is a stage that is not known", "write what it does in VRL".to_owned()),
    };
    (why.to_owned(), instead)
}

fn multiline(keys: &Keys<'_>, place: &Place, sources: &mut [Source], draft: &mut Draft) {
    let Some((first, at)) = keys.text("firstline") else {
        draft.leave(place, &keys.path, "has no `firstline`", "set `multiline.start`");
        return;
    };
    match pattern::regex(first) {
        Err(why) => draft.leave(at, keys.name("firstline"), why, "write `multiline.start` anew"),
        Ok(start) => {
            let multiline = Multiline {
                by: Some(("start", start)),
                max_lines: keys.text("max_lines").map_or(Some(128), |(text, _)| text.parse().ok()),
                timeout: keys
                    .text("max_wait_time")
                    .map_or(Some("3s".to_owned()), |(text, _)| pattern::span(text, 1000.0)),
            };
            for source in sources.iter_mut() {
                source.multiline = Some((multiline.clone(), at.clone()));
            }
        }
    }
    rest(keys, draft);
}

fn json(keys: &Keys<'_>, extracted: &mut BTreeMap<String, Extracted>) {
    let elsewhere = keys.text("source").is_some();
    for entry in keys.take("expressions").map(Node::entries).unwrap_or_default() {
        let field = entry.node.text().filter(|text| !text.is_empty()).unwrap_or(&entry.key);
        let field = field.trim_matches(['"', '\'']);
        let simple = field.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-@".contains(&b));
        let what = if simple && !elsewhere { Extracted::Field(field.to_owned()) } else { Extracted::Elsewhere };
        extracted.insert(entry.key.clone(), what);
    }
}

fn regex(keys: &Keys<'_>, extracted: &mut BTreeMap<String, Extracted>) {
    let elsewhere = keys.text("source").is_some();
    if let Some((expression, _)) = keys.text("expression") {
        for group in pattern::groups(expression) {
            let what =
                if elsewhere { Extracted::Elsewhere } else { Extracted::Group(expression.to_owned(), group.clone()) };
            extracted.insert(group, what);
        }
    }
}

fn time_of(sources: &mut [Source], place: &Place, timestamp: Timestamp) {
    for source in sources.iter_mut() {
        source.timestamp = Some((timestamp.clone(), place.clone()));
    }
}

fn timestamp(
    keys: &Keys<'_>,
    place: &Place,
    extracted: &BTreeMap<String, Extracted>,
    sources: &mut [Source],
    draft: &mut Draft,
) {
    let (source, format) = (keys.text("source").map_or("", |(t, _)| t), keys.text("format").map_or("", |(t, _)| t));
    let instead = "set `timestamp` of the source, or VRL: `.timestamp = parse_timestamp!(.FIELD, \"%Y-…\")`";
    let format = match pattern::go_layout(format) {
        Ok(format) => format,
        Err(why) => return draft.leave(place, &keys.path, format!("`{format}` {why}"), instead),
    };
    let mut timestamp = Timestamp { format, ..Timestamp::default() };
    match extracted.get(source) {
        Some(Extracted::Field(field)) => timestamp.field = Some(field.clone()),
        Some(Extracted::Group(regex, group)) => match pattern::time_group(regex, group) {
            Some(regex) => timestamp.regex = Some(regex),
            None => {
                return draft.leave(
                    place,
                    &keys.path,
                    format!("`{source}` comes from a regular expression that is none here"),
                    instead,
                );
            }
        },
        _ => {
            return draft.leave(
                place,
                &keys.path,
                format!("`{source}` is not a field or group that a source can read by itself"),
                instead,
            );
        }
    }
    if let Some((zone, at)) = keys.text("location") {
        timestamp.timezone = pattern::offset(zone);
        if timestamp.timezone.is_none() {
            let why = format!("`{zone}` has no offset that holds all year");
            draft.leave(at, keys.name("location"), why, "set `timezone` to its offset, or have the program write one");
        }
    }
    if let Some(entry) = keys.entry("fallback_formats") {
        let why = "a source has one format; a time that it can't read is the time of reading";
        draft.leave(&entry.place, keys.name("fallback_formats"), why, "VRL `parse_timestamp` with `??`");
    }
    if let Some((action, at)) = keys.text("action_on_failure")
        && action != "fudge"
    {
        draft.note(at, keys.name("action_on_failure"), "a time that can't be read is the time of reading");
    } else if keys.take("action_on_failure").is_none() {
        draft.note(
            place,
            &keys.path,
            "a time that can't be read is the time of reading, not the last one of the stream",
        );
    }
    time_of(sources, place, timestamp);
    rest(keys, draft);
}

fn labels(node: &Node, name: &str, extracted: &BTreeMap<String, Extracted>, draft: &mut Draft) {
    for entry in node.entries() {
        let from = entry.node.text().filter(|text| !text.is_empty()).unwrap_or(&entry.key);
        let instead = match extracted.get(from) {
            Some(Extracted::Field(field)) => {
                format!(
                    "query it: `| json | {}=…`, or VRL `.labels.{} = string!(parse_json!(string!(.message)).{field})`",
                    entry.key, entry.key
                )
            }
            Some(Extracted::Group(..)) => {
                format!("query it with `| regexp`, or VRL `parse_regex` and `.labels.{} = …`", entry.key)
            }
            _ => format!("query it: `| logfmt | {}=…`, or VRL `.labels.{} = …`", entry.key, entry.key),
        };
        draft.leave(
            &entry.place,
            format!("{name}.{}", entry.key),
            "a label can't come from the line by a setting",
            instead,
        );
    }
}

/// `match`: where only labels of the configuration decide, it is decided now.
fn matched(
    keys: &Keys<'_>,
    place: &Place,
    sources: &mut [Source],
    extracted: &mut BTreeMap<String, Extracted>,
    draft: &mut Draft,
) {
    let selector = keys.text("selector").map_or("", |(text, _)| text);
    let drops = keys.text("action").is_some_and(|(action, _)| action == "drop");
    let parsed = Selector::parse(selector).ok().filter(|_| !drops);
    let names = names_of(selector);
    for source in sources.iter_mut() {
        let labels = Labels::new(source.labels.iter().map(|(name, value, _)| (name.clone(), value.clone())));
        let decided = parsed.as_ref().filter(|_| names.iter().all(|name| labels.get(name).is_some()));
        match decided {
            Some(selector) if selector.matches(&labels) => {
                let stages = keys.take("stages").map(Node::items).unwrap_or_default();
                let mut own = extracted.clone();
                run(stages, &keys.name("stages"), std::slice::from_mut(source), &mut own, draft);
            }
            Some(_) => {}
            None => {
                let what = format!("{} {selector}", keys.path);
                let why =
                    if drops { "drops events" } else { "chooses by the line, or by labels that are not set here" };
                let instead = if drops {
                    "a transform of the source: `{type: drop, match: …}` or `{type: drop, if: …}` with a VRL expression"
                } else {
                    "VRL `if` in a transform of the source"
                };
                draft.leave(place, what, why, instead);
            }
        }
    }
}

/// Names of labels that a selector asks for.
fn names_of(selector: &str) -> Vec<String> {
    let inner = selector.trim().trim_start_matches('{').trim_end_matches('}');
    let before = |part: &str| part.split(['=', '!']).next().map(|name| name.trim().to_owned());
    inner.split(',').filter_map(before).filter(|name| !name.is_empty()).collect()
}
