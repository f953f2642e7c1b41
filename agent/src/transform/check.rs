//! Checks of transforms: what types can't express, programs among it, which are compiled for that.
//!
//! In: transforms as configured. Out: faults, and warnings of the compiler, with their keys. Touches the files of programs,
//! reading only.

use std::time::Duration;

use millrace_log::record::is_topic_name;
use millrace_log::value::Faults;

use super::config::{RouteTransform, StepConfig, ThrottleTransform, TransformConfig, Transforms, VrlTransform};
use super::pattern::pattern;
use super::program::{self, Program, ProgramFault, Purpose};
use crate::checks::TOPIC_RULE;

/// Steps of one source.
const MAX_STEPS: usize = 64;

/// Whether a reason may stand in the ledger and in metrics.
pub(crate) fn is_reason(text: &str) -> bool {
    (1..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

impl VrlTransform {
    fn check(&self, faults: &mut Faults) {
        let timezone = program::timezone(&self.timezone);
        if timezone.is_none() {
            let message =
                format!("unknown time zone `{}`: expected a name such as `UTC` or `Europe/Berlin`", self.timezone);
            faults.add("timezone", message);
        }
        if self.time_limit.0 < Duration::from_millis(1) || self.time_limit.0 > Duration::from_secs(60) {
            faults.add("time_limit", format!("is {}: expected 1ms to 60s", self.time_limit));
        }
        if !(1 << 10..=16 << 20).contains(&self.max_output_bytes.0) {
            faults.add("max_output_bytes", format!("is {}: expected 1KiB to 16MiB", self.max_output_bytes));
        }
        let key = if self.program.is_none() && self.file.is_some() { "file" } else { "program" };
        match self.source() {
            Err(message) => faults.add(key, message),
            Ok(text) => {
                let zone = timezone.or_else(|| program::timezone("UTC")).unwrap_or_default();
                let found = Program::compile(&text, Purpose::Change, zone, self.time_limit.0).err().unwrap_or_default();
                self.add(found, faults);
            }
        }
    }

    /// What the compiler warns of in a program that passes.
    fn warn(&self, warnings: &mut Faults) {
        let (Ok(text), Some(zone)) = (self.source(), program::timezone(&self.timezone)) else { return };
        if let Ok((_, found)) = Program::compile(&text, Purpose::Change, zone, self.time_limit.0) {
            self.add(found, warnings);
        }
    }

    /// Notes what is wrong in the program, at its place in the configuration or in its file.
    fn add(&self, found: Vec<ProgramFault>, faults: &mut Faults) {
        match &self.file {
            None => add_all(faults, "program", found),
            Some(path) => {
                for fault in found {
                    let place = format!("{}:{}:{}", path.display(), fault.line, fault.column);
                    faults.add("file", format!("{place}: {}", fault.message));
                }
            }
        }
    }
}

fn add_all(faults: &mut Faults, key: &str, found: Vec<ProgramFault>) {
    for fault in found {
        faults.add_inside(key, fault.line, fault.column, fault.message);
    }
}

fn check_expression(faults: &mut Faults, key: &str, text: Option<&String>, purpose: Purpose) {
    if let Some(text) = text {
        let zone = program::timezone("UTC").unwrap_or_default();
        add_all(faults, key, Program::compile(text, purpose, zone, Duration::ZERO).err().unwrap_or_default());
    }
}

fn check_condition(faults: &mut Faults, r#if: Option<&String>, r#match: Option<&String>) {
    check_expression(faults, "if", r#if, Purpose::Condition);
    if let Some(text) = r#match
        && let Err(error) = pattern(text)
    {
        faults.add("match", error.to_string());
    }
}

fn check_reason(faults: &mut Faults, reason: &str) {
    if !reason.is_empty() && !is_reason(reason) {
        faults
            .add("reason", format!("invalid reason `{reason}`: expected up to 40 lower-case letters, digits and `_`"));
    }
}

/// A topic, or the start of one before a `*`.
fn is_allowed_form(pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => true,
        Some(start) => is_topic_name(start) || start == "." || start == "..",
        None => is_topic_name(pattern),
    }
}

impl TransformConfig {
    fn check(&self, faults: &mut Faults) {
        match self {
            Self::Vrl(vrl) => vrl.check(faults),
            Self::Drop(drop) => {
                if drop.r#if.is_none() && drop.r#match.is_none() {
                    faults.add("if", "missing: set `if` or `match`, which say what is dropped");
                }
                check_condition(faults, drop.r#if.as_ref(), drop.r#match.as_ref());
                check_reason(faults, &drop.reason);
            }
            Self::Route(route) => route.check(faults),
            Self::Sample(sample) => {
                if sample.rate == 0 {
                    faults.add("rate", "is 0: expected 1 or more; to drop everything, use `type: drop`");
                }
                check_expression(faults, "key", sample.key.as_ref(), Purpose::Value);
                check_condition(faults, sample.r#if.as_ref(), sample.r#match.as_ref());
                check_reason(faults, &sample.reason);
            }
            Self::Throttle(throttle) => throttle.check(faults),
            Self::Redact(redact) => {
                if redact.presets.is_empty() && redact.patterns.is_empty() {
                    faults.add("presets", "missing: set `presets` (card, email, jwt, token, ip) or `patterns`");
                }
                for (i, text) in redact.patterns.iter().enumerate() {
                    match pattern(text) {
                        Err(error) => faults.add(&format!("patterns[{i}]"), error.to_string()),
                        Ok(found) if found.is_match(b"") => {
                            faults.add(
                                &format!("patterns[{i}]"),
                                "matches the empty string, so it would match everywhere",
                            );
                        }
                        Ok(_) => {}
                    }
                }
                if redact.replacement.len() > 256 {
                    faults.add("replacement", "is longer than 256 bytes");
                }
            }
        }
    }
}

impl RouteTransform {
    fn check(&self, faults: &mut Faults) {
        check_condition(faults, self.r#if.as_ref(), self.r#match.as_ref());
        check_expression(faults, "topic_from", self.topic_from.as_ref(), Purpose::Value);
        match (&self.topic, &self.topic_from) {
            (None, None) => faults.add("topic", "missing: set `topic` or `topic_from`"),
            (Some(_), Some(_)) => faults.add("topic_from", "can't be combined with `topic`"),
            (Some(topic), None) => {
                if !is_topic_name(topic) {
                    faults.add("topic", TOPIC_RULE);
                }
                if !self.allow.is_empty() || !self.prefix.is_empty() {
                    faults.add("topic", "can't be combined with `allow` or `prefix`, which belong to `topic_from`");
                }
            }
            (None, Some(_)) if self.allow.is_empty() => {
                faults.add("allow", "missing: list the topics that `topic_from` may choose, as in [\"logs-*\"]");
            }
            (None, Some(_)) => {}
        }
        for (i, allowed) in self.allow.iter().enumerate() {
            if !is_allowed_form(allowed) {
                faults.add(&format!("allow[{i}]"), "invalid topic: expected a topic name, or its beginning and `*`");
            }
        }
        if !(1..=10_000).contains(&self.max_topics) {
            faults.add("max_topics", format!("is {}: expected 1 to 10000", self.max_topics));
        }
    }
}

impl ThrottleTransform {
    fn check(&self, faults: &mut Faults) {
        if self.limit == 0 {
            faults.add("limit", "is 0: expected 1 or more; to drop everything, use `type: drop`");
        }
        if self.limit > 1_000_000_000 || self.burst > 1_000_000_000 {
            faults.add("limit", "is above 1000000000");
        }
        if self.per.0 < Duration::from_millis(1) || self.per.0 > Duration::from_secs(24 * 3600) {
            faults.add("per", format!("is {}: expected 1ms to 1d", self.per));
        }
        if !(1..=1_000_000).contains(&self.max_keys) {
            faults.add("max_keys", format!("is {}: expected 1 to 1000000", self.max_keys));
        }
        check_expression(faults, "key", self.key.as_ref(), Purpose::Value);
        check_condition(faults, self.r#if.as_ref(), self.r#match.as_ref());
        check_reason(faults, &self.reason);
    }
}

/// Reports what types can't say of the named transforms.
pub(crate) fn check_named(transforms: &Transforms, faults: &mut Faults) {
    faults.within("transforms", |f| {
        for (name, transform) in transforms {
            let good = (1..=64).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
            if !good {
                f.add(name, "invalid name: expected up to 64 letters, digits, `_`, `-` and `.`");
            }
            f.within(name, |f| transform.check(f));
        }
    });
}

/// Reports what compilers warn of in named transforms.
pub(crate) fn warn_named(transforms: &Transforms, warnings: &mut Faults) {
    for (name, transform) in transforms {
        if let TransformConfig::Vrl(vrl) = transform {
            warnings.within(&format!("transforms.{name}"), |w| vrl.warn(w));
        }
    }
}

/// The same of the steps that stand in a source.
pub(crate) fn warn_steps(steps: &[StepConfig], warnings: &mut Faults) {
    for (i, step) in steps.iter().enumerate() {
        if let StepConfig::Inline(transform) = step
            && let TransformConfig::Vrl(vrl) = &**transform
        {
            warnings.within(&format!("transforms[{i}]"), |w| vrl.warn(w));
        }
    }
}

/// Reports what types can't say of the steps of a source.
pub(crate) fn check_steps(steps: &[StepConfig], named: &Transforms, faults: &mut Faults) {
    if steps.len() > MAX_STEPS {
        faults.add("transforms", format!("has {} steps, {MAX_STEPS} are allowed", steps.len()));
    }
    for (i, step) in steps.iter().enumerate() {
        match step {
            StepConfig::Inline(transform) => faults.within(&format!("transforms[{i}]"), |f| transform.check(f)),
            StepConfig::Name(name) if named.contains_key(name) => {}
            StepConfig::Name(name) => {
                let known: Vec<&str> = named.keys().map(String::as_str).collect();
                let known = if known.is_empty() {
                    "`agent.transforms` is empty".to_owned()
                } else {
                    format!("`agent.transforms` has {}", known.join(", "))
                };
                faults.add(&format!("transforms[{i}]"), format!("unknown transform `{name}`: {known}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(json: &str) -> Vec<(String, String)> {
        let transforms: Transforms = serde_json::from_str(json).expect(json);
        let mut faults = Faults::default();
        check_named(&transforms, &mut faults);
        let short = |text: String| text.lines().next().unwrap_or_default().to_owned();
        faults.into_vec().into_iter().map(|f| (f.path, short(f.message))).collect()
    }

    #[test]
    fn good_transforms_have_no_fault() {
        assert_eq!(
            faults(
                r#"{"parse": {"type": "vrl", "program": ". = parse_json!(.message)", "on_error": "dead_letter"},
                    "noise": {"type": "drop", "match": "^DEBUG ", "reason": "debug"},
                    "probes": {"type": "drop", "if": ".path == \"/health\""},
                    "audit": {"type": "route", "if": "exists(.audit)", "topic": "audit"},
                    "teams": {"type": "route", "topic_from": ".labels.team", "prefix": "logs-", "allow": ["logs-*"]},
                    "tenth": {"type": "sample", "rate": 10, "key": ".trace_id"},
                    "calm": {"type": "throttle", "limit": 100, "per": "1m", "key": ".labels.service"},
                    "private": {"type": "redact", "presets": ["card", "email"], "patterns": ["EMP-\\d+"]}}"#
            ),
            []
        );
    }

    #[test]
    fn all_faults_come_at_once_with_their_keys() {
        let found = faults(
            r#"{"a b": {"type": "redact", "presets": ["ip"]},
                "c": {"type": "vrl", "program": "x = ", "timezone": "Mars", "time_limit": "0s", "max_output_bytes": 1},
                "d": {"type": "vrl"},
                "e": {"type": "vrl", "program": "true", "file": "/x"},
                "f": {"type": "vrl", "file": "/no/such/file"},
                "g": {"type": "drop", "reason": "Too Loud"},
                "h": {"type": "drop", "if": ".x", "match": "("},
                "i": {"type": "route", "allow": ["a/b"], "max_topics": 0},
                "j": {"type": "route", "topic": "a/b", "prefix": "x"},
                "k": {"type": "route", "topic_from": ".x"},
                "l": {"type": "sample", "rate": 0, "key": "nothing"},
                "m": {"type": "throttle", "limit": 0, "per": "0s", "max_keys": 0},
                "n": {"type": "redact"},
                "o": {"type": "redact", "patterns": ["(", "x*"]}}"#,
        );
        let keys: Vec<&str> = found.iter().map(|(path, _)| path.strip_prefix("transforms.").unwrap()).collect();
        assert_eq!(
            keys,
            [
                "a b",
                "c.timezone",
                "c.time_limit",
                "c.max_output_bytes",
                "c.program",
                "d.program",
                "e.program",
                "f.file",
                "g.if",
                "g.reason",
                "h.if",
                "h.match",
                "i.topic",
                "i.allow[0]",
                "i.max_topics",
                "j.topic",
                "j.topic",
                "k.allow",
                "l.rate",
                "l.key",
                "m.limit",
                "m.per",
                "m.max_keys",
                "n.presets",
                "o.patterns[0]",
                "o.patterns[1]",
            ],
            "{found:#?}"
        );
    }

    #[test]
    fn steps_must_be_known() {
        let named: Transforms = serde_json::from_str(r#"{"parse": {"type": "vrl", "program": "true"}}"#).unwrap();
        let steps: Vec<StepConfig> =
            serde_json::from_str(r#"["parse", "prase", {"type": "drop", "if": "tru"}]"#).unwrap();
        let mut faults = Faults::default();
        check_steps(&steps, &named, &mut faults);
        let found: Vec<String> = faults.into_vec().into_iter().map(|f| format!("{}: {}", f.path, f.message)).collect();
        assert_eq!(found.len(), 2, "{found:#?}");
        assert_eq!(found[0], "transforms[1]: unknown transform `prase`: `agent.transforms` has parse");
        assert!(found[1].starts_with("transforms[2].if: error[E"), "{}", found[1]);
    }
}
