//! `| json a="b.c[0]"`: values at paths become labels; what is not there becomes an empty label.

use std::borrow::Cow;

use super::fault::StageFault;
use super::json::{self, Flow, Value};
use super::labels::Category;
use super::line_state::{LineState, with_line};
use super::parse_json::{JSON_ERROR, scalar};
use super::run::Run;
use crate::syntax::tree::Extraction;

#[derive(Debug, PartialEq)]
enum PathSegment {
    Key(String),
    Index(usize),
}

/// The compiled parser.
#[derive(Debug)]
pub(super) struct JsonPaths {
    /// Label and where its value stands.
    wanted: Vec<(String, Vec<PathSegment>)>,
}

impl JsonPaths {
    /// Reads the paths.
    pub fn new(extractions: &[Extraction]) -> Result<Self, StageFault> {
        let mut wanted = Vec::new();
        for e in extractions {
            let steps = path(&e.path)
                .map_err(|fault| format!("cannot parse expression [{}]: syntax error: {fault}", e.path))?;
            wanted.push((e.name.clone(), steps));
        }
        Ok(Self { wanted })
    }
}

/// Reads `a.b["c d"][0]`.
fn path(text: &str) -> Result<Vec<PathSegment>, String> {
    let mut steps = Vec::new();
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("unexpected $end, expecting FIELD or [".to_owned());
    }
    let mut needs_field = true;
    while let Some(c) = rest.chars().next() {
        if c == '[' {
            let inside = rest.get(1..).unwrap_or_default().trim_start();
            if let Some(quoted) = inside.strip_prefix('"') {
                let end = quoted.find('"').ok_or("unexpected $end, expecting STRING or INDEX")?;
                let (key, behind) = quoted.split_at(end);
                steps.push(PathSegment::Key(key.to_owned()));
                rest = behind.get(1..).unwrap_or_default().trim_start();
            } else {
                let digits = inside.bytes().take_while(u8::is_ascii_digit).count();
                let (number, behind) = inside.split_at(digits);
                let index = number.parse().map_err(|_| {
                    let found = if inside.is_empty() { "$end" } else { "character" };
                    format!("unexpected {found}, expecting STRING or INDEX")
                })?;
                steps.push(PathSegment::Index(index));
                rest = behind.trim_start();
            }
            rest = rest.strip_prefix(']').ok_or("unexpected $end, expecting ]")?.trim_start();
            needs_field = false;
        } else if c == '.' && !needs_field {
            rest = rest.get(1..).unwrap_or_default();
            needs_field = true;
            if !rest.starts_with(is_field_start) {
                return Err("unexpected token behind `.`, expecting FIELD".to_owned());
            }
        } else if needs_field && is_field_start(c) {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
            let (key, behind) = rest.split_at(end);
            steps.push(PathSegment::Key(key.to_owned()));
            rest = behind.trim_start();
            needs_field = false;
        } else {
            return Err(format!("unexpected `{c}`, expecting `.` or `[`: write other keys as [\"key\"]"));
        }
    }
    Ok(steps)
}

fn is_field_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

/// The value at a path; `None` where there is none or the text can't be read that far.
fn lookup<'l>(line: &'l [u8], steps: &[PathSegment]) -> Option<Value<'l>> {
    // An object is not measured first: one that is cut at its end still has its first fields.
    let mut at = match line.trim_ascii_start().first() {
        Some(b'{') if !steps.is_empty() => Value::Object(line),
        _ => json::value(line).ok()?.0,
    };
    for step in steps {
        at = match (step, at) {
            (PathSegment::Key(key), Value::Object(object)) => {
                let mut found = None;
                // A fault behind the value does not matter.
                json::fields(object, |name, value| {
                    if json::text(name) == key.as_str() {
                        found = Some(value);
                        return Ok(Flow::Enough);
                    }
                    Ok(Flow::GoOn)
                })
                .ok();
                found?
            }
            (PathSegment::Index(index), Value::Array(array)) => json::element(array, *index)?,
            _ => return None,
        };
    }
    Some(at)
}

impl Run for JsonPaths {
    fn process<'a>(&'a self, state: &mut LineState<'a>) -> bool {
        if state.line.is_empty() || state.hints.no_labels {
            return true;
        }
        if !matches!(state.line.first(), Some(b'"' | b'{' | b'[')) {
            state.fail(JSON_ERROR, String::new());
            return true;
        }
        with_line!(state, |line, keep| {
            let mut matches = 0;
            for (name, steps) in &self.wanted {
                let Some(value) = lookup(line, steps) else { continue };
                matches += 1;
                let value = match value {
                    Value::Object(raw) | Value::Array(raw) => Cow::Borrowed(std::str::from_utf8(raw).unwrap_or("")),
                    value => scalar(value).unwrap_or(Cow::Borrowed("")),
                };
                let name = if state.labels.is_taken(name) {
                    Cow::Owned(format!("{name}_extracted"))
                } else {
                    Cow::Borrowed(name.as_str())
                };
                state.labels.set(Category::Parsed, name, keep(value));
            }
            if matches < self.wanted.len() {
                for (name, _) in &self.wanted {
                    if state.labels.get(name).is_none() {
                        state.labels.set(Category::Parsed, Cow::Borrowed(name), Cow::Borrowed(""));
                    }
                }
            }
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_values() {
        let line = br#"{"a":{"b c":[1,{"d":"x"}]},"n":null,"cut":"#;
        for (text, want) in [
            (r#"a["b c"][1].d"#, Some(Value::String(b"x"))),
            (r#"["a"]["b c"][0]"#, Some(Value::Number(b"1"))),
            ("n", Some(Value::Null)),
            ("n.x", None),
            ("z", None),
            ("a.b", None),
        ] {
            assert_eq!(lookup(line, &path(text).unwrap()), want, "{text}");
        }
        for wrong in ["a[", "[0", "", "a b", "a..b", "a-b", ".a"] {
            assert!(path(wrong).is_err(), "{wrong}");
        }
    }
}
