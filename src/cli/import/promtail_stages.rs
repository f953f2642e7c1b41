//! Stages of Promtail's pipelines: settings of a source, and transforms: `drop`, `labels`, `structured_metadata`, `output`,
//! `sampling`, `limit`, `decolorize`, `match`.
//!
//! In: the list of stages, the sources that it is for. Out: changed sources, and what is left out. Side effects: none.

use std::collections::BTreeMap;

use millrace_log::record::Labels;
use millrace_logql::syntax::tree::{LineOp, StageKind};
use millrace_logql::{Expr, Span};
use millrace_streams::route::Selector;

use super::draft::{Draft, Source, label_name};
use super::foreign::Keys;
use super::parts::{Multiline, Timestamp};
use super::pattern;
use super::result::Out;
use super::step::{self, Parsed, TransformStep};
use millrace_log::yaml::{Node, Place};

/// Where a name that a stage extracted stands in the line.
#[derive(Debug, Clone)]
enum Extracted {
    /// A field of the line.
    Field(Parsed, Vec<String>),
    /// Somewhere that a step cannot find it.
    Elsewhere,
}

/// Names that stages extracted so far.
type Names = BTreeMap<String, Extracted>;

/// Applies stages one after the other.
pub fn apply(stages: Vec<&Node>, path: &str, sources: &mut [Source], draft: &mut Draft) {
    let mut extracted = Names::new();
    run(stages, path, sources, &mut extracted, draft);
}

fn run(stages: Vec<&Node>, path: &str, sources: &mut [Source], extracted: &mut Names, draft: &mut Draft) {
    for (i, stage) in stages.into_iter().enumerate() {
        let [stage] = stage.entries() else {
            let why = "a stage is one key with its settings";
            draft.leave(&stage.place, format!("{path}[{i}]"), why, "");
            continue;
        };
        let name = format!("{path}[{i}].{}", stage.key);
        let keys = Keys::new(&stage.node, &name);
        let place = &stage.place;
        let changes_line = matches!(stage.key.as_str(), "output" | "replace" | "pack" | "decolorize" | "template");
        match stage.key.as_str() {
            "multiline" => multiline(&keys, place, sources, draft),
            "json" => json(&keys, extracted),
            "regex" => regex(&keys, extracted),
            "logfmt" => logfmt(&keys, extracted),
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
                    draft.leave(place, name, "a tenant cannot be taken from the line", "separate files for each tenant")
                }
            },
            "match" => matched(&keys, place, sources, extracted, draft),
            "labels" => from_fields(&stage.node, "labels", &keys, place, sources, extracted, draft),
            "structured_metadata" => from_fields(&stage.node, "metadata", &keys, place, sources, extracted, draft),
            "labeldrop" => labeldrop(&stage.node, &name, sources, draft),
            "docker" => sources.iter_mut().for_each(|source| source.set_format("docker", place)),
            "cri" => sources.iter_mut().for_each(|source| source.set_format("cri", place)),
            "drop" => push(dropped(&keys, place, extracted), &keys, place, sources, draft),
            "sampling" => push(sampling(&keys, place), &keys, place, sources, draft),
            "limit" => push(limit(&keys, place), &keys, place, sources, draft),
            "output" => push(output(&keys, place, extracted), &keys, place, sources, draft),
            "decolorize" => {
                let program = ".message = strip_ansi_escape_codes(string!(.message))";
                push(Ok(TransformStep::vrl(step::program(program), place, &name)), &keys, place, sources, draft);
            }
            other => {
                let (why, instead) = reason_of(other);
                draft.leave(place, &name, why, instead);
                if changes_line {
                    sources.iter_mut().for_each(|source| source.block(&name));
                }
            }
        }
        if changes_line {
            // Later steps would read the changed line.
            extracted.values_mut().for_each(|name| *name = Extracted::Elsewhere);
        }
    }
}

/// Why stages without a counterpart are left out, and what to use instead.
fn reason_of(stage: &str) -> (&'static str, &'static str) {
    match stage {
        "replace" => ("changes the line", "VRL `replace`, or a transform `{type: redact, patterns: [...]}`"),
        "template" => ("computes values by a Go template", "VRL: `upcase`, `replace`, `join` and others"),
        "pack" => ("wraps the line in JSON", "nothing: metadata is kept beside the line"),
        "metrics" => (
            "makes metrics from lines",
            "a metric query in Grafana, such as `sum(rate({app=\"x\"}[5m]))`, or an alert in `rules.files`",
        ),
        "labelallow" => ("removes labels", "only the wanted labels under `labels`"),
        "geoip" => ("looks up addresses in a database", "enrichment after querying"),
        "eventlogmessage" => ("reads Windows events", "Promtail, for these"),
        _ => ("is an unknown stage", "the same in VRL, in a transform of the source"),
    }
}

/// A step, or why there is none and what to use instead.
type Made = Result<TransformStep, (String, String)>;

fn refuse(why: impl Into<String>, instead: &str) -> Made {
    Err((why.into(), instead.to_owned()))
}

fn push(made: Made, keys: &Keys<'_>, place: &Place, sources: &mut [Source], draft: &mut Draft) {
    match made {
        Ok(step) => {
            draft.leave_rest(keys);
            sources.iter_mut().for_each(|source| source.step(step.clone(), draft));
        }
        Err((why, instead)) => draft.leave(place, &keys.path, why, instead),
    }
}

fn labeldrop(node: &Node, name: &str, sources: &mut [Source], draft: &mut Draft) {
    for (label, place) in node.texts() {
        let mut known = false;
        for source in sources.iter_mut() {
            let before = source.labels.len();
            source.labels.retain(|(name, ..)| *name != label);
            known |= source.labels.len() < before;
        }
        if !known {
            let why = "removes a label that is not set by the configuration";
            draft.leave(
                &place,
                format!("{name}: {label}"),
                why,
                "`del(.labels.NAME)` in VRL; `host` and `filename` stay",
            );
        }
    }
}

/// `drop`: all conditions must hold.
fn dropped(keys: &Keys<'_>, place: &Place, extracted: &Names) -> Made {
    let instead = "a transform `{type: drop, if: ...}` of the source, in VRL";
    if keys.take("older_than").is_some() {
        return refuse("drops events by their age", "nothing: retention deletes old events");
    }
    let from = keys.take("source").map(Node::texts).unwrap_or_default();
    keys.pass(&["separator"]);
    let regex = match keys.text("expression").map(|(text, _)| pattern::regex(text)) {
        None => None,
        Some(Ok(regex)) => Some(regex),
        Some(Err(why)) => return refuse(why, instead),
    };
    let longer = match keys.text("longer_than").map(|(text, _)| pattern::bytes(text)) {
        None => None,
        Some(Some(bytes)) => Some(format!("length(string!(.message)) > {bytes}")),
        Some(None) => return refuse("has an invalid size", instead),
    };
    let value = keys.text("value").map(|(text, _)| step::exactly(text));
    let reason = keys.text("drop_counter_reason").map_or("drop_stage", |(text, _)| text);
    let step = match (from.as_slice(), value.or(regex.clone())) {
        ([], Some(_)) if keys.take("value").is_some() => return refuse("compares a value without a `source`", instead),
        ([], Some(regex)) => match longer {
            None => TransformStep::drop_match(&regex, place, &keys.path),
            Some(longer) => {
                let condition = format!("{} && {longer}", step::line_matches(&regex));
                TransformStep::drop_if(step::program(&condition), place, &keys.path)
            }
        },
        ([], None) => match longer {
            Some(longer) => TransformStep::drop_if(step::program(&longer), place, &keys.path),
            None => return refuse("has no condition", instead),
        },
        ([(name, _)], Some(regex)) => match extracted.get(name) {
            Some(Extracted::Field(parsed, path)) => {
                let mut condition = format!("{}\n{}", parsed.assignment(), step::field_matches(parsed, path, &regex));
                if let Some(longer) = longer {
                    condition.push_str(&format!(" && {longer}"));
                }
                TransformStep::drop_if(step::program(&condition), place, &keys.path)
            }
            _ => return refuse(format!("`{name}` is not a field of the line"), instead),
        },
        _ => return refuse("drops events by several sources, or by the presence of one", instead),
    };
    Ok(step.reason(reason))
}

fn sampling(keys: &Keys<'_>, place: &Place) -> Made {
    let rate = keys.text("rate").and_then(|(text, _)| text.parse().ok()).and_then(pattern::one_in);
    match rate {
        Some(rate) => Ok(TransformStep::sample(rate, place, &keys.path)),
        None => refuse("keeps a share that is not one in a whole number", "a transform `{type: sample, rate: ...}`"),
    }
}

fn limit(keys: &Keys<'_>, place: &Place) -> Made {
    let number = |key: &str| keys.text(key).and_then(|(text, _)| text.parse::<u64>().ok());
    let (rate, burst) = (number("rate"), number("burst"));
    keys.pass(&["max_distinct_labels"]);
    if !keys.yes("drop") {
        return refuse("slows reading down to a rate", "nothing: the agent reads as fast as the log takes it");
    }
    let Some(rate) = rate.filter(|rate| *rate > 0) else {
        return refuse("has a rate that is not a whole number", "a transform `{type: throttle, limit: ..., per: ...}`");
    };
    let mut step = TransformStep::throttle(rate, "1s", place, &keys.path);
    if let Some(burst) = burst.filter(|burst| *burst > 0) {
        step = step.with("burst", Out::Plain(burst.to_string()));
    }
    if let Some((label, _)) = keys.text("by_label_name") {
        step = step.with("key", Out::Text(format!(".labels.{}", label_name(label))));
    }
    Ok(step)
}

fn output(keys: &Keys<'_>, place: &Place, extracted: &Names) -> Made {
    let name = keys.text("source").map_or("", |(text, _)| text);
    match extracted.get(name) {
        Some(Extracted::Field(parsed, path)) => {
            let program = format!("{}\n{}", parsed.assignment(), step::set_from_field(parsed, ".message", path));
            Ok(TransformStep::vrl(step::program(&program), place, &keys.path))
        }
        _ => {
            refuse(format!("`{name}` is not a field of the line"), "VRL: `.message = ...` in a transform of the source")
        }
    }
}

/// `labels` and `structured_metadata`: one program sets them from the fields of the line.
fn from_fields(
    node: &Node,
    target: &str,
    keys: &Keys<'_>,
    place: &Place,
    sources: &mut [Source],
    extracted: &Names,
    draft: &mut Draft,
) {
    let mut program: Vec<String> = Vec::new();
    let mut last: Option<&Parsed> = None;
    for entry in node.entries() {
        let from = entry.node.text().filter(|text| !text.is_empty()).unwrap_or(&entry.key);
        match extracted.get(from) {
            Some(Extracted::Field(parsed, path)) => {
                if last != Some(parsed) {
                    program.push(parsed.assignment());
                    last = Some(parsed);
                }
                let ours = label_name(&entry.key);
                draft.note_renamed(&entry.key, &ours, &entry.place);
                program.push(step::set_from_field(parsed, &format!(".{target}.{ours}"), path));
            }
            _ => {
                let instead = format!("VRL: `.{target}.{} = ...` in a transform of the source", label_name(&entry.key));
                let why = format!("`{from}` is not a field of the line");
                draft.leave(&entry.place, keys.name(&entry.key), why, instead);
            }
        }
    }
    if !program.is_empty() {
        let step = TransformStep::vrl(step::program(&program.join("\n")), place, &keys.path);
        sources.iter_mut().for_each(|source| source.step(step.clone(), draft));
    }
}

fn multiline(keys: &Keys<'_>, place: &Place, sources: &mut [Source], draft: &mut Draft) {
    let Some((first, at)) = keys.text("firstline") else {
        draft.leave(place, &keys.path, "has no `firstline`", "set `multiline.start`");
        return;
    };
    match pattern::regex(first) {
        Err(why) => draft.leave(at, keys.name("firstline"), why, "a new `multiline.start`"),
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
    draft.leave_rest(keys);
}

/// A path such as `request.user` or `"a-b".c`; other expressions are not read.
fn json_path(text: &str) -> Option<Vec<String>> {
    let names = text.split('.').map(|name| name.trim_matches(['"', '\'']));
    let plain = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-@".contains(&b));
    names.map(|name| plain(name).then(|| name.to_owned())).collect()
}

fn json(keys: &Keys<'_>, extracted: &mut Names) {
    let elsewhere = keys.text("source").is_some();
    for entry in keys.take("expressions").map(Node::entries).unwrap_or_default() {
        let field = entry.node.text().filter(|text| !text.is_empty()).unwrap_or(&entry.key);
        let what = match json_path(field) {
            Some(path) if !elsewhere => Extracted::Field(Parsed::Json, path),
            _ => Extracted::Elsewhere,
        };
        extracted.insert(entry.key.clone(), what);
    }
}

fn logfmt(keys: &Keys<'_>, extracted: &mut Names) {
    let elsewhere = keys.text("source").is_some();
    for entry in keys.take("mapping").map(Node::entries).unwrap_or_default() {
        let field = entry.node.text().filter(|text| !text.is_empty()).unwrap_or(&entry.key);
        let field = Extracted::Field(Parsed::Logfmt, vec![field.to_owned()]);
        extracted.insert(entry.key.clone(), if elsewhere { Extracted::Elsewhere } else { field });
    }
}

fn regex(keys: &Keys<'_>, extracted: &mut Names) {
    let elsewhere = keys.text("source").is_some();
    if let Some((expression, _)) = keys.text("expression") {
        for group in pattern::groups(expression) {
            let field = Extracted::Field(Parsed::Regex(expression.to_owned()), vec![group.clone()]);
            extracted.insert(group, if elsewhere { Extracted::Elsewhere } else { field });
        }
    }
}

fn time_of(sources: &mut [Source], place: &Place, timestamp: Timestamp) {
    for source in sources.iter_mut() {
        source.timestamp = Some((timestamp.clone(), place.clone()));
    }
}

fn timestamp(keys: &Keys<'_>, place: &Place, extracted: &Names, sources: &mut [Source], draft: &mut Draft) {
    let (source, format) = (keys.text("source").map_or("", |(t, _)| t), keys.text("format").map_or("", |(t, _)| t));
    let instead = "set `timestamp` of the source, or VRL: `.timestamp = parse_timestamp!(.FIELD, \"%Y-...\")`";
    let format = match pattern::go_layout(format) {
        Ok(format) => format,
        Err(why) => return draft.leave(place, &keys.path, format!("`{format}` {why}"), instead),
    };
    let mut timestamp = Timestamp { format, ..Timestamp::default() };
    match extracted.get(source) {
        Some(Extracted::Field(Parsed::Json, path)) if path.len() == 1 => timestamp.field = path.first().cloned(),
        Some(Extracted::Field(Parsed::Regex(regex), group)) => {
            match pattern::time_group(regex, group.first().map_or("", String::as_str)) {
                Some(regex) => timestamp.regex = Some(regex),
                None => {
                    let why = format!("`{source}` comes from a regular expression that cannot be used here");
                    return draft.leave(place, &keys.path, why, instead);
                }
            }
        }
        _ => {
            return draft.leave(place, &keys.path, format!("`{source}` is not a field or group of the line"), instead);
        }
    }
    if let Some((zone, at)) = keys.text("location") {
        timestamp.timezone = pattern::offset(zone);
        if timestamp.timezone.is_none() {
            let why = format!("`{zone}` has no offset that holds all year");
            draft.leave(
                at,
                keys.name("location"),
                why,
                "`timezone` with an offset, or times with an offset in the lines",
            );
        }
    }
    if let Some(entry) = keys.entry("fallback_formats") {
        let why = "a source has one format; a time that it can't read is the time of reading";
        draft.leave(&entry.place, keys.name("fallback_formats"), why, "VRL `parse_timestamp` with `??`");
    }
    if let Some((action, at)) = keys.text("action_on_failure")
        && action != "fudge"
    {
        draft.note(at, keys.name("action_on_failure"), "the read time is used where the time is invalid");
    } else if keys.take("action_on_failure").is_none() {
        draft.note(
            place,
            &keys.path,
            "the read time is used where the time is invalid, not the previous time of the stream",
        );
    }
    time_of(sources, place, timestamp);
    draft.leave_rest(keys);
}

/// `match`: labels of the configuration decide now, line filters of a `drop` become conditions.
fn matched(keys: &Keys<'_>, place: &Place, sources: &mut [Source], extracted: &mut Names, draft: &mut Draft) {
    let selector = keys.text("selector").map_or("", |(text, _)| text);
    let drops = keys.text("action").is_some_and(|(action, _)| action == "drop");
    let reason = keys.text("drop_counter_reason").map_or("match_stage", |(text, _)| text);
    let what = format!("{} {selector}", keys.path);
    let parsed = divided(selector);
    for source in sources.iter_mut() {
        let labels = Labels::new(source.labels.iter().map(|(name, value, _)| (name.clone(), value.clone())));
        let decided = parsed.as_ref().filter(|(_, names, _)| names.iter().all(|name| labels.get(name).is_some()));
        match decided {
            Some((selector, ..)) if !selector.matches(&labels) => {}
            Some((_, _, conditions)) if drops => {
                let condition = if conditions.is_empty() { "true".to_owned() } else { conditions.join(" && ") };
                let step = TransformStep::drop_if(step::program(&condition), place, &what).reason(reason);
                source.step(step, draft);
            }
            Some((_, _, conditions)) if conditions.is_empty() => {
                let stages = keys.take("stages").map(Node::items).unwrap_or_default();
                let mut own = extracted.clone();
                run(stages, &keys.name("stages"), std::slice::from_mut(source), &mut own, draft);
            }
            _ => {
                let why = "selects by labels that are not set by the configuration, or runs stages on some lines only";
                let instead = "VRL `if` in a transform of the source";
                draft.leave(place, &what, why, instead);
                if !drops {
                    source.block(&what);
                }
            }
        }
    }
}

/// A selector of labels, the names it asks for, and its line filters as conditions.
fn divided(selector: &str) -> Option<(Selector, Vec<String>, Vec<String>)> {
    let Ok(Expr::Log(log)) = millrace_logql::parse(selector) else { return None };
    let mut conditions = Vec::new();
    for stage in &log.stages {
        let StageKind::LineFilter(filter) = &stage.kind else { return None };
        let (regex, negative) = match filter.op {
            LineOp::Contains => (false, false),
            LineOp::NotContains => (false, true),
            LineOp::Regex => (true, false),
            LineOp::NotRegex => (true, true),
            LineOp::Pattern | LineOp::NotPattern => return None,
        };
        let mut any = Vec::new();
        for needle in &filter.needles {
            if needle.ip {
                return None;
            }
            let expression = if regex { needle.value.clone() } else { regex::escape(&needle.value) };
            any.push(step::line_matches(&pattern::regex(&expression).ok()?));
        }
        let any = if let [one] = any.as_slice() { one.clone() } else { format!("({})", any.join(" || ")) };
        conditions.push(if negative { format!("!{any}") } else { any });
    }
    let Span { start, end } = log.selector.span;
    let selector = Selector::parse(selector.get(start as usize..end as usize)?).ok()?;
    Some((selector, log.selector.matchers.iter().map(|matcher| matcher.name.clone()).collect(), conditions))
}
