//! Fluent Bit: the filters `record_modifier`, `modify` and `grep`; others are reported.
//!
//! In: a section and the inputs that its tags match. Out: labels and transforms of sources. Side effects: none.

use super::draft::Draft;
use super::fluent_bit_file::{Property, Section};
use super::fluent_bit_tags::{Input, Record, reached, written};
use super::pattern;
use super::step::{self, TransformStep};
use millrace_log::yaml::Place;

/// Applies one filter to the sources that it matches.
pub fn filter(section: &Section, inputs: &[Input], draft: &mut Draft) {
    let name = section.name().to_ascii_lowercase();
    let sources = reached(section, inputs);
    let title = format!("[FILTER] {name}");
    if sources.is_empty() {
        return draft.leave(&section.place, title, "matches no tag of a tail", "Fluent Bit, for this part");
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
            for i in sources {
                if let (Some(input), Some(source)) = (inputs.get(i), draft.sources.get(i)) {
                    let mut source = source.clone();
                    match grep(section, &title, &input.record) {
                        Ok(steps) => steps.into_iter().for_each(|step| source.step(step, draft)),
                        Err((place, why)) => {
                            let rules =
                                section.properties.iter().filter(|p| matches!(p.key.as_str(), "regex" | "exclude"));
                            let what = format!("{title}: {}", rules.map(written).collect::<Vec<_>>().join("; "));
                            draft.leave(&place, what, why, "a transform `{type: drop, if: ...}` of the source, in VRL");
                        }
                    }
                    if let Some(known) = draft.sources.get_mut(i) {
                        *known = source;
                    }
                }
            }
        }
        _ => {
            let (why, instead) = match name.as_str() {
                "kubernetes" => {
                    ("adds metadata of Kubernetes", "`path_labels: kubernetes`, see packaging/kubernetes of Millrace")
                }
                "parser" => ("parses a field", "queries parse lines (`| json`, `| regexp`), or VRL"),
                "lua" | "wasm" => ("changes events by a program", "write it in VRL, in a transform of the source"),
                "nest" | "type_converter" | "expect" | "sysinfo" | "geoip2" | "nightfall" => {
                    ("changes fields", "VRL in a transform of the source")
                }
                "rewrite_tag" => ("sends events different ways", "a transform `{type: route, if: ..., topic: ...}`"),
                "throttle" => ("limits the rate", "a transform `{type: throttle, limit: ..., per: 1s}`"),
                "multiline" => ("joins lines", "`multiline` of the source"),
                "aws" | "ecs" => ("adds metadata of the host", "`labels` of the source"),
                "stdout" => ("shows events", "`millrace broker consume logs --follow`"),
                _ => ("is unknown", "the same in VRL, in a transform of the source"),
            };
            draft.leave(&section.place, &title, why, instead);
            if !matches!(name.as_str(), "stdout" | "throttle" | "rewrite_tag" | "multiline" | "expect") {
                for i in &sources {
                    if let Some(source) = draft.sources.get_mut(*i) {
                        source.block(&title);
                    }
                }
            }
        }
    }
}

/// Place and reason of what is not converted.
type Refused = (Place, String);

/// The steps of a `grep`. Its rules are tried in order, and the first `Regex` decides; with `Logical_Op` all count together.
fn grep(section: &Section, title: &str, record: &Record) -> Result<Vec<TransformStep>, Refused> {
    let rules: Vec<&Property> =
        section.properties.iter().filter(|p| matches!(p.key.as_str(), "regex" | "exclude")).collect();
    let operator = section.get("logical_op").map_or_else(String::new, |p| p.value.to_ascii_lowercase());
    let refuse = |p: &Property, why: &str| (p.place.clone(), why.to_owned());
    if let Some(p) = section.properties.iter().find(|p| {
        !matches!(p.key.as_str(), "name" | "match" | "match_regex" | "alias" | "regex" | "exclude" | "logical_op")
    }) {
        return Err(refuse(p, "is an unknown key"));
    }
    let mut conditions = Vec::new();
    for rule in &rules {
        conditions.push(rule_condition(rule, record).map_err(|why| refuse(rule, &why))?);
    }
    let keeps = |rule: &&Property| rule.key == "regex";
    let made = |condition: String, rule: &Property| {
        let condition = match record {
            Record::Fields(parsed) => format!("{}\n{condition}", parsed.assignment()),
            _ => condition,
        };
        TransformStep::drop_if(step::program(&condition), &rule.place, format!("{title}: {}", written(rule)))
            .reason("grep")
    };
    let Some(first) = rules.first() else { return Ok(Vec::new()) };
    if matches!(operator.as_str(), "and" | "or") {
        let joined = conditions.join(if operator == "and" { " && " } else { " || " });
        return match (rules.iter().all(keeps), rules.iter().any(keeps)) {
            (true, _) => Ok(vec![made(format!("!({joined})"), first)]),
            (_, false) => Ok(vec![made(joined, first)]),
            _ => Err(refuse(first, "mixes `Regex` and `Exclude` with `Logical_Op`")),
        };
    }
    let before = rules.iter().position(keeps).map_or(rules.len(), |at| at + 1);
    if let Some(rule) = rules.get(before) {
        return Err(refuse(rule, "follows a `Regex`, which decides alone in Fluent Bit's default order of rules"));
    }
    let steps = rules.iter().zip(conditions).map(|(rule, condition)| {
        // The line itself needs no program.
        if let (false, Record::Line(_), Some(Ok(regex))) = (keeps(rule), record, regex_of(rule)) {
            let what = format!("{title}: {}", written(rule));
            return TransformStep::drop_match(&regex, &rule.place, what).reason("grep");
        }
        made(if keeps(rule) { format!("!{condition}") } else { condition }, rule)
    });
    Ok(steps.collect())
}

fn regex_of(rule: &Property) -> Option<Result<String, String>> {
    rule.value.split_once(char::is_whitespace).map(|(_, regex)| pattern::ruby_regex(regex))
}

/// The condition that the key of a rule matches.
fn rule_condition(rule: &Property, record: &Record) -> Result<String, String> {
    let regex = regex_of(rule).ok_or_else(|| "has no regular expression".to_owned())??;
    let key = rule.value.split_whitespace().next().unwrap_or_default();
    let path = accessor(key).ok_or_else(|| format!("has an unknown form of key, `{key}`"))?;
    match record {
        Record::Line(line) if path.as_slice() == [line.as_str()] => Ok(step::line_matches(&regex)),
        Record::Fields(parsed) => Ok(step::field_matches(parsed, &path, &regex)),
        Record::Line(_) | Record::Unknown => Err(format!("tests `{key}`, which is not in the line")),
    }
}

/// `log`, `$log`, `$a['b']['c']` as a path.
fn accessor(key: &str) -> Option<Vec<String>> {
    let Some(key) = key.strip_prefix('$') else { return Some(vec![key.to_owned()]) };
    let (first, mut rest) = key.find('[').map_or((key, ""), |at| key.split_at(at));
    let mut path = vec![first.to_owned()];
    while !rest.is_empty() {
        let (name, after) = rest.strip_prefix("['")?.split_once("']")?;
        path.push(name.to_owned());
        rest = after;
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_paths() {
        for (key, want) in [
            ("log", Some(vec!["log"])),
            ("$log", Some(vec!["log"])),
            ("$a['b']['c d']", Some(vec!["a", "b", "c d"])),
            ("$a[0]", None),
        ] {
            assert_eq!(accessor(key), want.map(|path| path.into_iter().map(str::to_owned).collect()), "{key}");
        }
    }
}
