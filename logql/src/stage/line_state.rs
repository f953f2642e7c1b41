//! One line on its way through a pipeline: text, labels, what is needed of it, and how stages take the text apart.
//!
//! Touches nothing. Nothing is copied while a line only passes filters; values that parsers find are slices of the line.

use std::borrow::Cow;

use super::labels::{self, Labels};
use crate::budget::Watch;

/// Labels that a metric query needs of its parsers: extracting more would be waste, and Loki reports no fault of
/// lines that it had no need to read.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Hints {
    /// No label is needed at all.
    pub no_labels: bool,
    /// Only these, if there are any.
    pub required: Vec<String>,
    /// Faults are asked for: they don't fail the query.
    pub preserve_error: bool,
}

impl Hints {
    pub(super) fn wants(&self, name: &str) -> bool {
        self.required.is_empty() || self.required.iter().any(|r| r == name)
    }

    pub(super) fn wants_prefix(&self, prefix: &str) -> bool {
        self.required.is_empty() || self.required.iter().any(|r| r.starts_with(prefix))
    }
}

/// One line on its way.
pub(crate) struct LineState<'a> {
    /// Event time, ns since 1970.
    pub time_ns: i64,
    /// The line as it stands.
    pub line: Cow<'a, [u8]>,
    /// Its labels as they stand.
    pub labels: Labels<'a>,
    /// What is needed of it.
    pub hints: &'a Hints,
    /// A parser failed and the query asks for faults: they don't fail it.
    pub is_preserved: bool,
    /// Counts what is done with it; `None` where nobody waits for many lines.
    pub watch: Option<&'a Watch>,
}

impl<'a> LineState<'a> {
    /// Whether a parser has nothing to find any more.
    pub(super) fn is_done(&self) -> bool {
        self.hints.no_labels || self.all_extracted()
    }

    pub(super) fn all_extracted(&self) -> bool {
        !self.hints.required.is_empty() && self.hints.required.iter().all(|name| self.labels.is_extracted(name))
    }

    /// Counts work on so many bytes of the line; `true` when the query must end: the line is given up.
    pub(crate) fn is_over(&self, bytes: usize) -> bool {
        self.watch.is_some_and(|watch| watch.is_over(bytes))
    }

    /// Sets a fault and its details.
    pub(super) fn fail(&mut self, error: &'static str, details: String) {
        self.labels.set_error(error, details);
        self.is_preserved |= self.hints.preserve_error;
    }

    /// Sets a fault that no hint asks for.
    pub(super) fn fail_late(&mut self, error: &'static str, details: String) {
        self.labels.set_error(error, details);
    }

    /// Name of a label that a parser found: with `_extracted` where the stream or the metadata has the name; `None` where it is not
    /// needed or was found before.
    pub(super) fn target(&self, name: Cow<'a, str>) -> Option<Cow<'a, str>> {
        let name = if self.labels.is_taken(&name) { Cow::Owned(format!("{name}_extracted")) } else { name };
        let wanted = self.hints.wants(&name) && !self.labels.is_extracted(&name);
        wanted.then_some(name)
    }
}

/// Makes a label name of any text: other characters become `_`, a digit in front gets one.
pub(super) fn sanitize<'a>(key: &'a str, is_start: bool) -> Cow<'a, str> {
    let key = key.trim();
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let digit_first = is_start && key.starts_with(|c: char| c.is_ascii_digit());
    if !digit_first && key.bytes().all(good) {
        return Cow::Borrowed(key);
    }
    let mut name = String::with_capacity(key.len() + 1);
    if digit_first {
        name.push('_');
    }
    name.extend(key.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }));
    Cow::Owned(name)
}

/// Text of a value; what is no UTF-8 is no value.
pub(super) fn text_or_empty(value: Cow<'_, [u8]>) -> Cow<'_, str> {
    match value {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map_or(Cow::Borrowed(""), Cow::Borrowed),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8(bytes).unwrap_or_default()),
    }
}

/// A value of the store's own text stays a slice of it.
pub(crate) fn keep(value: Cow<'_, str>) -> Cow<'_, str> {
    value
}

/// A value of a line that a stage made is copied: the line may be replaced.
pub(crate) fn own<'a>(value: Cow<'_, str>) -> Cow<'a, str> {
    Cow::Owned(value.into_owned())
}

/// Runs a block over the line of a state while the state takes what the block finds: `$keep` makes found text live
/// as long as the state.
macro_rules! with_line {
    ($state:ident, |$line:ident, $keep:ident| $body:block) => {
        match std::mem::take(&mut $state.line) {
            std::borrow::Cow::Borrowed(text) => {
                let ($line, $keep) = (text, $crate::stage::line_state::keep);
                $body
                $state.line = std::borrow::Cow::Borrowed(text);
            }
            std::borrow::Cow::Owned(text) => {
                {
                    let ($line, $keep) = (text.as_slice(), $crate::stage::line_state::own);
                    $body
                }
                $state.line = std::borrow::Cow::Owned(text);
            }
        }
    };
}
pub(super) use with_line;

/// Shows line and labels of a state to a template.
pub(super) fn template_context<T>(state: &LineState<'_>, fill: impl FnOnce(&crate::template::Context<'_>) -> T) -> T {
    let labels = &state.labels;
    let label = |name: &str| match name {
        labels::ERROR => Some(labels.error().to_owned()),
        labels::ERROR_DETAILS => Some(labels.error_details().to_owned()),
        name => labels.get(name).map(str::to_owned),
    };
    let all = || labels.pairs(|_| true);
    let line = String::from_utf8_lossy(&state.line);
    fill(&crate::template::Context { label: &label, all: &all, line: &line, time_ns: state.time_ns })
}
