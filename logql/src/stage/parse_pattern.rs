//! `| pattern "<ip> - <_> [<ts>]"`: captures become labels.

use std::borrow::Cow;

use super::fault::StageFault;
use super::labels::Category;
use super::line_pattern::{Part, parts};
use super::line_state::{LineState, text_or_empty, with_line};
use super::run::Run;

/// The compiled parser.
#[derive(Debug)]
pub(super) struct PatternParser {
    parts: Vec<Part>,
}

impl PatternParser {
    /// Reads a pattern with at least one named capture; names are unique.
    pub fn new(pattern: &str) -> Result<Self, StageFault> {
        let wrong = |message: String| format!("invalid pattern parser: {message}");
        let parts = parts(pattern).map_err(wrong)?;
        let names: Vec<&String> = parts
            .iter()
            .filter_map(|p| match p {
                Part::Named(name) => Some(name),
                _ => None,
            })
            .collect();
        if names.is_empty() {
            return Err(wrong("at least one capture is required".to_owned()).into());
        }
        if let Some((_, name)) = names.iter().enumerate().find(|(i, n)| names.iter().take(*i).any(|m| m == *n)) {
            return Err(wrong(format!("duplicate capture name ({name}): invalid expression")).into());
        }
        Ok(Self { parts })
    }

    /// Gives each capture what stands before the next literal; what is missed gets all the rest.
    fn captures<'p, 'l>(&'p self, line: &'l [u8], mut found: impl FnMut(&'p str, &'l [u8])) {
        let mut rest = line;
        if rest.is_empty() {
            return;
        }
        let mut parts = self.parts.as_slice();
        if let [Part::Literal(literal), behind @ ..] = parts {
            let Some(after) = rest.strip_prefix(literal.bytes()) else { return };
            rest = after;
            parts = behind;
        }
        while let [capture, behind @ ..] = parts {
            let (taken, after) = match behind {
                [Part::Literal(literal), ..] => match literal.find(rest) {
                    Some(at) => (rest.get(..at), rest.get(at + literal.bytes().len()..)),
                    None => (Some(rest), None),
                },
                _ => (Some(rest), None),
            };
            if let Part::Named(name) = capture {
                found(name, taken.unwrap_or_default());
            }
            let Some(after) = after else { return };
            rest = after;
            parts = behind.get(1..).unwrap_or_default();
        }
    }
}

impl Run for PatternParser {
    fn process<'a>(&'a self, state: &mut LineState<'a>) -> bool {
        if state.is_done() {
            return true;
        }
        with_line!(state, |line, keep| {
            self.captures(line, |name, value| {
                if let Some(name) = state.target(Cow::Borrowed(name)) {
                    state.labels.set(Category::Parsed, name, keep(text_or_empty(Cow::Borrowed(value))));
                }
            });
        });
        true
    }
}
