//! `| json`: fields of a JSON object become labels, nested names joined by `_`; arrays and nulls are left out.
//!
//! The first of equal names wins. A fault keeps what was read before it.

use std::borrow::Cow;

use super::json::{self, Flow, Value};
use super::labels::Category;
use super::line_state::{LineState, sanitize, with_line};
use super::run::Run;

/// Value of `__error__` for a line that is no JSON.
pub(super) const JSON_ERROR: &str = "JSONParserErr";

/// Levels of objects that are followed.
const MAX_DEPTH: usize = 64;

/// The stage.
#[derive(Debug)]
pub(super) struct Json;

/// Text of a simple value.
pub(super) fn scalar(value: Value<'_>) -> Option<Cow<'_, str>> {
    match value {
        Value::String(inside) => Some(json::text(inside)),
        Value::Number(digits) => Some(Cow::Borrowed(std::str::from_utf8(digits).unwrap_or(""))),
        Value::Bool(true) => Some(Cow::Borrowed("true")),
        Value::Bool(false) => Some(Cow::Borrowed("false")),
        Value::Null | Value::Object(_) | Value::Array(_) => None,
    }
}

/// Walks an object; names are built in `prefix`.
struct Walk<'s, 'a, K> {
    state: &'s mut LineState<'a>,
    prefix: String,
    keep: K,
}

impl<'a, K> Walk<'_, 'a, K> {
    fn object<'l>(&mut self, text: &'l [u8], depth: usize) -> Result<Flow, &'static str>
    where
        K: Fn(Cow<'l, str>) -> Cow<'a, str> + Copy,
    {
        json::fields(text, |key, value| {
            if self.state.is_over(key.len()) {
                return Ok(Flow::Enough);
            }
            let key = json::text(key);
            if let Value::Object(inner) = value {
                if depth >= MAX_DEPTH {
                    return Err("object is nested too deep");
                }
                let length = self.prefix.len();
                if length > 0 {
                    self.prefix.push('_');
                }
                self.prefix.push_str(&sanitize(&key, length == 0));
                let flow = if self.state.hints.wants_prefix(&self.prefix) {
                    self.object(inner, depth + 1)
                } else {
                    Ok(Flow::GoOn)
                };
                self.prefix.truncate(length);
                return flow;
            }
            let Some(value) = scalar(value) else { return Ok(Flow::GoOn) };
            let name: Cow<'a, str> = if self.prefix.is_empty() {
                match key {
                    Cow::Borrowed(key) => (self.keep)(sanitize(key, true)),
                    Cow::Owned(key) => Cow::Owned(sanitize(&key, true).into_owned()),
                }
            } else {
                Cow::Owned(format!("{}_{}", self.prefix, sanitize(&key, false)))
            };
            if name.is_empty() {
                return Ok(Flow::GoOn);
            }
            if let Some(name) = self.state.target(name) {
                self.state.labels.set(Category::Parsed, name, (self.keep)(value));
                if self.state.all_extracted() {
                    return Ok(Flow::Enough);
                }
            }
            Ok(Flow::GoOn)
        })
    }
}

impl Run for Json {
    fn process<'a>(&'a self, state: &mut LineState<'a>) -> bool {
        if state.is_done() {
            return true;
        }
        let fault;
        with_line!(state, |line, keep| {
            let mut walk = Walk { state: &mut *state, prefix: String::new(), keep };
            fault = walk.object(line, 0).err();
        });
        if let Some(details) = fault {
            state.fail(JSON_ERROR, details.to_owned());
        }
        true
    }
}
