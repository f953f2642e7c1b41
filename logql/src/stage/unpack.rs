//! `| unpack`: takes apart lines that Promtail's `pack` stage joined: `_entry` becomes the line, the rest labels.

use std::borrow::Cow;

use super::json::{self, Flow, Value};
use super::labels::{Category, ERROR, ERROR_DETAILS};
use super::line_state::{LineState, sanitize, with_line};
use super::parse_json::JSON_ERROR;
use super::run::Run;

/// Key of the original line.
const ENTRY: &str = "_entry";

/// The stage.
#[derive(Debug)]
pub(super) struct Unpack;

impl Run for Unpack {
    fn process<'a>(&'a self, state: &mut LineState<'a>) -> bool {
        if state.line.is_empty() || state.hints.no_labels {
            return true;
        }
        let mut found: Vec<(Cow<'a, str>, Cow<'a, str>)> = Vec::new();
        let mut entry: Option<Cow<'a, str>> = None;
        let fault;
        with_line!(state, |line, keep| {
            if line.trim_ascii_start().first() == Some(&b'{') {
                fault = json::fields(line, |key, value| {
                    if let Value::String(inside) = value {
                        let key = json::text(key);
                        if key == ENTRY {
                            entry = Some(keep(json::text(inside)));
                        } else {
                            let name = Cow::Owned(sanitize(&key, true).into_owned());
                            found.push((name, keep(json::text(inside))));
                        }
                    }
                    Ok(Flow::GoOn)
                })
                .err();
            } else {
                fault = Some("expecting json object(6), but it is not");
            }
        });
        if let Some(details) = fault {
            state.fail(JSON_ERROR, details.to_owned());
            return true;
        }
        if let Some(entry) = entry {
            for (name, value) in found {
                if let Some(name) = state.target(name) {
                    match name.as_ref() {
                        ERROR => state.labels.set_error_text(value),
                        ERROR_DETAILS => state.labels.set_error_details_text(value),
                        _ => state.labels.set(Category::Parsed, name, value),
                    }
                }
            }
            state.line = match entry {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            };
        }
        true
    }

    fn changes_line(&self) -> bool {
        true
    }
}
