//! Vector: transforms in a chain behind a source become the source's own: `remap`, `filter`, `sample`, `throttle`.
//!
//! In: transforms in the order of the events. Out: steps of sources, and what is left out. Side effects: none.

use super::draft::{Draft, Source};
use super::foreign::Keys;
use super::pattern;
use super::result::Out;
use super::step::{self, TransformStep};
use millrace_log::yaml::{MapEntry, Node};

/// Adds one transform to a source.
pub fn transform(entry: &MapEntry, source: &mut Source, draft: &mut Draft) {
    let kind = entry.node.get("type").and_then(Node::text).unwrap_or("");
    let path = format!("transforms.{}", entry.key);
    let keys = Keys::new(&entry.node, &path);
    keys.pass(&["type", "inputs", "graph"]);
    let what = format!("{path} ({kind})");
    let step = match kind {
        "remap" => remap(&keys, entry, &what, draft),
        "filter" => filter(&keys, entry, &what, draft),
        "sample" => sample(&keys, entry, &what),
        "throttle" => throttle(&keys, entry, &what),
        _ => {
            leave(entry, draft);
            // These drop or join events, later steps see the same fields.
            if !matches!(kind, "dedupe" | "log_to_metric" | "aggregate" | "tag_cardinality_limit") {
                source.block(&what);
            }
            return;
        }
    };
    draft.leave_rest(&keys);
    match step {
        Ok(step) => source.step(step, draft),
        Err((why, instead)) => {
            draft.leave(&entry.place, &what, why, instead);
            if kind == "remap" {
                source.block(&what);
            }
        }
    }
}

/// Reports a transform that is not converted.
pub fn leave(entry: &MapEntry, draft: &mut Draft) {
    let kind = entry.node.get("type").and_then(Node::text).unwrap_or("");
    let (why, instead) = match kind {
        "remap" => ("changes events by a program", "a transform `{type: vrl, program: ...}` of the source"),
        "filter" => ("drops events", "a transform `{type: drop, if: ...}` of the source, with the opposite condition"),
        "sample" => ("keeps a share of the events", "a transform `{type: sample, rate: ...}` of the source"),
        "throttle" => ("limits the rate", "a transform `{type: throttle, limit: ..., per: ...}` of the source"),
        "route" | "exclusive_route" => (
            "sends events to different outputs",
            "a transform `{type: route, if: ..., topic: ...}` for each, or `broker.routes` by labels",
        ),
        "dedupe" => ("drops repeated events", "nothing for lines of files: each is indexed once"),
        "reduce" => ("joins events", "`multiline` of the source, for consecutive lines"),
        "log_to_metric" | "metric_to_log" | "aggregate" | "tag_cardinality_limit" => (
            "is about metrics",
            "a metric query in Grafana, such as `sum(rate({app=\"x\"}[5m]))`, or an alert in `rules.files`",
        ),
        "lua" => ("changes events by a program in Lua", "the same in VRL, in a transform of the source"),
        _ => ("is an unknown transform", "the same in VRL, in a transform of the source"),
    };
    draft.leave(&entry.place, format!("transforms.{} ({kind})", entry.key), why, instead);
}

type Made = Result<TransformStep, (String, String)>;

fn refuse(why: &str, instead: &str) -> Made {
    Err((why.to_owned(), instead.to_owned()))
}

fn remap(keys: &Keys<'_>, entry: &MapEntry, what: &str, draft: &mut Draft) -> Made {
    let aborts_are_kept = keys.take("drop_on_abort").and_then(Node::yes) == Some(false);
    let drops_errors = keys.yes("drop_on_error");
    if keys.yes("reroute_dropped") {
        return refuse(
            "sends dropped events to another output",
            "`on_error: dead_letter` of a transform `{type: vrl}`",
        );
    }
    let mut step = match (keys.text("source"), keys.text("file")) {
        (Some((source, _)), None) => {
            if aborts_are_kept && source.contains("abort") {
                return refuse(
                    "keeps events on `abort`, which drops them here",
                    "a program without `abort`, in a transform `{type: vrl}`",
                );
            }
            let (source, renamed) = file_renamed(source);
            if renamed {
                draft.note(&entry.place, what, "`.file` of Vector is `.filename` here: renamed in the program");
            }
            TransformStep::vrl(draft.program(&source), &entry.place, what)
        }
        (None, Some((file, _))) => {
            let mut step = TransformStep::vrl(Out::Plain(String::new()), &entry.place, what);
            step.fields.pop();
            step.with("file", draft.open(file))
        }
        _ => return refuse("has no program of its own", "a transform `{type: vrl, program: ...}` of the source"),
    };
    if let Some((zone, _)) = keys.text("timezone")
        && zone != "local"
    {
        step = step.with("timezone", Out::Text(zone.to_owned()));
    }
    if drops_errors {
        step = step.with("on_error", Out::Plain("dead_letter".to_owned()));
        draft.note(
            &entry.place,
            what,
            "events on which the program fails go to the dead letters instead of being dropped",
        );
    }
    Ok(step)
}

/// Vector's `.file` is `.filename` here.
fn file_renamed(program: &str) -> (String, bool) {
    let mut out = String::with_capacity(program.len());
    let mut rest = program;
    let mut renamed = false;
    while let Some(at) = rest.find(".file") {
        let (before, after) = rest.split_at(at);
        let after = after.strip_prefix(".file").unwrap_or_default();
        out.push_str(before);
        let word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | ')' | ']' | '"' | '}');
        let whole = !out.ends_with(word) && !after.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        out.push_str(if whole { ".filename" } else { ".file" });
        renamed |= whole;
        rest = after;
    }
    out.push_str(rest);
    (out, renamed)
}

/// A condition in VRL, written as text or with its type.
fn condition(node: &Node) -> Option<&str> {
    match node.text() {
        Some(text) => Some(text),
        None if node.get("type").and_then(Node::text).is_none_or(|kind| kind == "vrl") => node.get("source")?.text(),
        None => None,
    }
}

/// The opposite of a condition; several lines are a block.
fn not(condition: &str) -> String {
    let condition = condition.trim();
    if condition.contains('\n') { format!("!({{\n{condition}\n}})") } else { format!("!({condition})") }
}

fn filter(keys: &Keys<'_>, entry: &MapEntry, what: &str, draft: &mut Draft) -> Made {
    match keys.take("condition").and_then(condition) {
        Some(text) if !matches!(text.trim(), "is_log" | "is_metric" | "is_trace") => {
            let (text, _) = file_renamed(text);
            draft.note(&entry.place, what, "an event on which the condition fails is kept; Vector drops it");
            Ok(TransformStep::drop_if(draft.program(&not(&text)), &entry.place, what).reason("filter"))
        }
        Some(_) => refuse("tests the type of an event", "nothing: every line is a log"),
        None => refuse("has a condition that is not VRL", "a transform `{type: drop, if: ...}` of the source"),
    }
}

/// `{{ name }}` or `name` as a path in an event.
fn key_field(text: &str) -> Option<String> {
    let name = text.trim().trim_start_matches("{{").trim_end_matches("}}").trim().trim_start_matches('.');
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b));
    plain.then(|| format!(".{name}"))
}

fn with_key(step: TransformStep, keys: &Keys<'_>) -> Made {
    let step = match keys.text("key_field") {
        None => step,
        Some((text, _)) => match key_field(text) {
            Some(key) => step.with("key", Out::Text(key)),
            None => return refuse("has a key that is a template", "`key` of the transform, in VRL"),
        },
    };
    match keys.take("exclude").map(condition) {
        None => Ok(step),
        Some(Some(text)) => Ok(step.with("if", step::program(&not(text)))),
        Some(None) => refuse("excludes by a condition that is not VRL", "`if` of the transform, in VRL"),
    }
}

fn sample(keys: &Keys<'_>, entry: &MapEntry, what: &str) -> Made {
    let rate = match (keys.text("rate"), keys.text("ratio")) {
        (Some((rate, _)), None) => rate.parse().ok(),
        (None, Some((ratio, _))) => ratio.parse().ok().and_then(pattern::one_in),
        _ => None,
    };
    keys.pass(&["sample_rate_key"]);
    match rate {
        Some(rate) => with_key(TransformStep::sample(rate, &entry.place, what), keys),
        None => refuse("keeps a share that is not one in a whole number", "a transform `{type: sample, rate: ...}`"),
    }
}

fn throttle(keys: &Keys<'_>, entry: &MapEntry, what: &str) -> Made {
    keys.pass(&["internal_metrics"]);
    let limit = keys.text("threshold").and_then(|(text, _)| text.parse().ok());
    let per = keys.text("window_secs").and_then(|(text, _)| pattern::span(text, 1000.0));
    match (limit, per) {
        (Some(limit), Some(per)) => with_key(TransformStep::throttle(limit, &per, &entry.place, what), keys),
        _ => refuse("has no plain threshold and window", "a transform `{type: throttle, limit: ..., per: ...}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_named_filename_here() {
        for (program, want) in [
            (".a = .file", ".a = .filename"),
            ("del(.file)", "del(.filename)"),
            (".files = .a.file + .file_name", ".files = .a.file + .file_name"),
            ("x(.y).file", "x(.y).file"),
        ] {
            let (text, renamed) = file_renamed(program);
            assert_eq!((text.as_str(), renamed), (want, want != program));
        }
    }

    #[test]
    fn keys_and_conditions() {
        assert_eq!(key_field("{{ labels.app }}").as_deref(), Some(".labels.app"));
        assert_eq!(key_field("{{ a }}-{{ b }}"), None);
        assert_eq!(not(" .a == 1 "), "!(.a == 1)");
        assert_eq!(not("x = 1\nx == .a"), "!({\nx = 1\nx == .a\n})");
    }
}
