//! `| regexp "(?P<name>…)"`: named groups become labels.

use std::borrow::Cow;

use super::fault::StageFault;
use super::labels::Category;
use super::line_state::{LineState, text_or_empty, with_line};
use super::run::Run;
use crate::dialect::{self, bad_regex};

/// The compiled parser.
#[derive(Debug)]
pub(super) struct RegexpParser {
    regex: regex::bytes::Regex,
    /// Group and name.
    names: Vec<(usize, String)>,
}

impl RegexpParser {
    /// Compiles an expression with at least one named group.
    pub fn new(pattern: &str) -> Result<Self, StageFault> {
        let wrong = |message: String| format!("invalid regexp parser: {message}");
        let regex = dialect::compile(pattern).map_err(|e| wrong(bad_regex(&e)))?;
        let names: Vec<(usize, String)> =
            regex.capture_names().enumerate().filter_map(|(i, name)| Some((i, name?.to_owned()))).collect();
        if names.is_empty() {
            return Err(wrong("at least one named capture must be supplied".to_owned()).into());
        }
        let valid = |name: &str| {
            !name.starts_with(|c: char| c.is_ascii_digit())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        if let Some((_, name)) = names.iter().find(|(_, n)| !valid(n)) {
            return Err(wrong(format!("invalid extracted label name '{name}'")).into());
        }
        Ok(Self { regex, names })
    }
}

impl Run for RegexpParser {
    fn process<'a>(&'a self, state: &mut LineState<'a>) -> bool {
        if state.hints.no_labels {
            return true;
        }
        with_line!(state, |line, keep| {
            if let Some(groups) = self.regex.captures(line) {
                for (group, name) in &self.names {
                    let value = groups.get(*group).map_or(&[][..], |m| m.as_bytes());
                    if let Some(name) = state.target(Cow::Borrowed(name.as_str())) {
                        state.labels.set(Category::Parsed, name, keep(text_or_empty(Cow::Borrowed(value))));
                    }
                }
            }
        });
        true
    }
}
