//! `| drop a, b="c"` and `| keep a, b="c"`: labels that go or stay.

use super::fault::StageFault;
use super::label_filter::matcher;
use super::labels::{ERROR, ERROR_DETAILS};
use super::line_state::LineState;
use super::run::Run;
use crate::storage::LabelMatcher;
use crate::syntax::tree::LabelChoice;

#[derive(Debug)]
enum Choice {
    Name(String),
    Match(LabelMatcher),
}

fn choices(choices: &[LabelChoice]) -> Result<Vec<Choice>, StageFault> {
    let choice = |choice: &LabelChoice| match choice {
        LabelChoice::Name(name, _) => Ok(Choice::Name(name.clone())),
        LabelChoice::Match(m) => Ok(Choice::Match(matcher(m)?)),
    };
    choices.iter().map(choice).collect()
}

/// The compiled `drop`.
#[derive(Debug)]
pub(super) struct Drop(Vec<Choice>);

impl Drop {
    /// Compiles it.
    pub fn new(all: &[LabelChoice]) -> Result<Self, StageFault> {
        choices(all).map(Self)
    }
}

impl Run for Drop {
    fn process<'a>(&'a self, state: &mut LineState<'a>) -> bool {
        for choice in &self.0 {
            let labels = &mut state.labels;
            let (name, goes) = match choice {
                Choice::Name(name) => (name, true),
                Choice::Match(m) if m.name == ERROR_DETAILS => (&m.name, m.matches(labels.error_details())),
                Choice::Match(m) => (&m.name, m.matches(labels.value(&m.name))),
            };
            match name.as_str() {
                _ if !goes => {}
                ERROR => labels.clear_error(),
                ERROR_DETAILS => labels.clear_details(),
                name => labels.delete(name),
            }
        }
        true
    }
}

/// The compiled `keep`.
#[derive(Debug)]
pub(super) struct Keep(Vec<Choice>);

impl Keep {
    /// Compiles it.
    pub fn new(all: &[LabelChoice]) -> Result<Self, StageFault> {
        choices(all).map(Self)
    }
}

impl Run for Keep {
    fn process<'a>(&'a self, state: &mut LineState<'a>) -> bool {
        state.labels.retain(|name, value| {
            self.0.iter().any(|choice| match choice {
                Choice::Name(wanted) => wanted == name,
                Choice::Match(m) => m.name == name && m.matches(value),
            })
        });
        true
    }
}
