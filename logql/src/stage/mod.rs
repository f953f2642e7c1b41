//! The pipeline of one line: each stage reads or changes line and labels, or drops the line.
//!
//! In: a line with the labels of its stream. Out: whether it stays, and what became of it. Touches nothing.
//! One file per stage; [`compile`] turns nodes of the tree into stages. Nothing is copied while a line only passes
//! filters; values that parsers find are slices of the line.

use std::borrow::Cow;

use crate::error::QueryError;
use crate::syntax::tree::{Span, Stage, StageKind};

/// Labels of one line while it runs through a pipeline.
pub mod labels;
mod line_filter;
mod line_pattern;
mod ip;
mod label_filter;
mod json;
mod parse_json;
mod json_path;
mod parse_logfmt;
mod parse_regexp;
mod parse_pattern;
mod unpack;
mod decolorize;
mod drop_keep;
mod label_format;
mod line_format;

use labels::Labels;

pub(crate) use label_filter::{Condition, bytes, duration, float};

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
    fn wants(&self, name: &str) -> bool {
        self.required.is_empty() || self.required.iter().any(|r| r == name)
    }

    fn wants_prefix(&self, prefix: &str) -> bool {
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
}

impl<'a> LineState<'a> {
    /// Whether a parser has nothing to find any more.
    fn is_done(&self) -> bool {
        self.hints.no_labels || self.all_extracted()
    }

    fn all_extracted(&self) -> bool {
        !self.hints.required.is_empty() && self.hints.required.iter().all(|name| self.labels.is_extracted(name))
    }

    /// Sets a fault and its details.
    fn fail(&mut self, error: &'static str, details: String) {
        self.labels.set_error(error, details);
        self.is_preserved |= self.hints.preserve_error;
    }

    /// Sets a fault that no hint asks for.
    fn fail_late(&mut self, error: &'static str, details: String) {
        self.labels.set_error(error, details);
    }

    /// Name of a label that a parser found: with `_extracted` where the stream or the metadata has the name; `None` where it is not
    /// needed or was found before.
    fn target(&self, name: Cow<'a, str>) -> Option<Cow<'a, str>> {
        let name = if self.labels.is_taken(&name) { Cow::Owned(format!("{name}_extracted")) } else { name };
        let wanted = self.hints.wants(&name) && !self.labels.is_extracted(&name);
        wanted.then_some(name)
    }
}

/// A compiled stage.
pub(crate) trait Run: Send + Sync + std::fmt::Debug {
    /// Whether the line stays.
    fn process<'a>(&'a self, state: &mut LineState<'a>) -> bool;

    /// Labels that must be known for it, for [`Hints`].
    fn required(&self, _names: &mut Vec<String>) {}

    /// May change the line: later filters can't be answered by the store.
    fn changes_line(&self) -> bool {
        false
    }

    /// Tests the line alone, without state.
    fn line_filter(&self) -> Option<&line_filter::CompiledFilter> {
        None
    }
}

/// A stage that can't be compiled: what is wrong with it.
#[derive(Debug)]
pub(crate) enum StageFault {
    /// The text is wrong.
    Wrong(String),
    /// Not built.
    NotYet(&'static str),
}

impl From<String> for StageFault {
    fn from(message: String) -> Self {
        Self::Wrong(message)
    }
}

impl StageFault {
    /// The error of a query.
    pub(crate) fn at(self, span: Span) -> QueryError {
        match self {
            Self::Wrong(message) => QueryError::Parameter { message },
            Self::NotYet(what) => QueryError::NotYet { what: what.to_owned(), span },
        }
    }
}

/// Compiles one stage.
pub(crate) fn compile(stage: &Stage) -> Result<Box<dyn Run>, StageFault> {
    Ok(match &stage.kind {
        StageKind::LineFilter(filter) => Box::new(line_filter::CompiledFilter::new(filter)?),
        StageKind::Json(extractions) if extractions.is_empty() => Box::new(parse_json::Json),
        StageKind::Json(extractions) => Box::new(json_path::JsonPaths::new(extractions)?),
        StageKind::Logfmt { strict, keep_empty, extractions } => {
            Box::new(parse_logfmt::Logfmt::new(*strict, *keep_empty, extractions)?)
        }
        StageKind::Xml(_) => return Err(StageFault::NotYet("the parser `xml`")),
        StageKind::Regexp(pattern) => Box::new(parse_regexp::RegexpParser::new(pattern)?),
        StageKind::Pattern(pattern) => Box::new(parse_pattern::PatternParser::new(pattern)?),
        StageKind::Unpack => Box::new(unpack::Unpack),
        StageKind::Decolorize => Box::new(decolorize::Decolorize),
        StageKind::LineFormat(template) => Box::new(line_format::LineFormat::new(template)?),
        StageKind::LabelFormat(formats) => Box::new(label_format::LabelFormats::new(formats)?),
        StageKind::Drop(choices) => Box::new(drop_keep::Drop::new(choices)?),
        StageKind::Keep(choices) => Box::new(drop_keep::Keep::new(choices)?),
        StageKind::LabelFilter(filter) => Box::new(Condition::new(filter)?),
    })
}

/// Makes a label name of any text: other characters become `_`, a digit in front gets one.
fn sanitize<'a>(key: &'a str, is_start: bool) -> Cow<'a, str> {
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
fn text_or_empty(value: Cow<'_, [u8]>) -> Cow<'_, str> {
    match value {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map_or(Cow::Borrowed(""), Cow::Borrowed),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8(bytes).unwrap_or_default()),
    }
}

/// A value of the store's own text stays a slice of it.
fn keep(value: Cow<'_, str>) -> Cow<'_, str> {
    value
}

/// A value of a line that a stage made is copied: the line may be replaced.
fn own<'a>(value: Cow<'_, str>) -> Cow<'a, str> {
    Cow::Owned(value.into_owned())
}

/// Runs a block over the line of a state while the state takes what the block finds: `$keep` makes found text live
/// as long as the state.
macro_rules! with_line {
    ($state:ident, |$line:ident, $keep:ident| $body:block) => {
        match std::mem::take(&mut $state.line) {
            std::borrow::Cow::Borrowed(text) => {
                let ($line, $keep) = (text, $crate::stage::keep);
                $body
                $state.line = std::borrow::Cow::Borrowed(text);
            }
            std::borrow::Cow::Owned(text) => {
                {
                    let ($line, $keep) = (text.as_slice(), $crate::stage::own);
                    $body
                }
                $state.line = std::borrow::Cow::Owned(text);
            }
        }
    };
}
use with_line;

/// Shows line and labels of a state to a template.
fn template_context<T>(state: &LineState<'_>, fill: impl FnOnce(&crate::template::Context<'_>) -> T) -> T {
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
