//! The pipeline of one line: each stage reads or changes line and labels, or drops the line.
//!
//! In: a line with the labels of its stream. Out: whether it stays, and what became of it. Touches nothing.
//! One file per stage; [`compile`] turns nodes of the tree into stages. Nothing is copied while a line only passes
//! filters; values that parsers find are slices of the line.

/// Labels of one line while it runs through a pipeline.
pub mod labels;
mod line_state;
mod fault;
mod ip;
mod line_pattern;
mod line_filter;
mod run;
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
mod line_format;
mod label_format;

use crate::syntax::tree::{Stage, StageKind};

pub(crate) use fault::StageFault;
pub(crate) use label_filter::Condition;
pub(crate) use line_state::{Hints, LineState};
pub(crate) use run::Run;

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
