//! `millrace import`: converts the configuration of Promtail, Vector, Filebeat or Fluent Bit.
//!
//! In: a file of that program. Out: YAML on standard output (or in a file) that `millrace validate` accepts, with the place
//! that each value comes from; on standard error what could not be converted, why, and what to use instead; an exit status.
//! Side effects: reads the file and those that it includes, writes the file of `--output`. Keys that a reader does not know
//! are reported: nothing is dropped silently.

/// Errors, and reading of files.
mod error;
/// Globs, regular expressions, formats of times, sizes and spans of other programs.
mod pattern;
/// Files of other programs as trees with places.
mod foreign;
/// The resulting configuration and its YAML.
mod result;
/// Transforms and their VRL.
mod step;
/// Remarks, multi-line rules, time formats.
mod parts;
/// Why Millrace refuses a transform, and where.
mod rejection;
/// What is converted and what is left out.
mod draft;
/// The stages of Promtail's pipelines.
mod promtail_stages;
/// Promtail.
mod promtail;
/// Which components of Vector feed which.
mod vector_graph;
/// Vector's transforms.
mod vector_transform;
/// Vector's sinks.
mod vector_sink;
/// Vector.
mod vector;
/// Filebeat's processors.
mod filebeat_processors;
/// Filebeat's outputs.
mod filebeat_output;
/// Filebeat.
mod filebeat;
/// Fluent Bit's own format.
mod fluent_bit_file;
/// Fluent Bit's tags.
mod fluent_bit_tags;
/// Fluent Bit's filters.
mod fluent_bit_filter;
/// Fluent Bit's outputs.
mod fluent_bit_output;
/// Fluent Bit.
mod fluent_bit;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::terminal::print;
use crate::escape;
use crate::exit::{Code, Failure};
use draft::Draft;
use error::{ImportError, read};

/// Convert the configuration of another agent
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Program that the configuration is for
    #[arg(value_enum)]
    format: Format,
    /// Configuration file of that program
    file: PathBuf,
    /// Write the result to this new file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write nothing unless everything could be converted
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// YAML with `scrape_configs`
    Promtail,
    /// TOML, YAML or JSON with `sources`
    Vector,
    /// YAML with `filebeat.inputs`
    Filebeat,
    /// Classic format with `[INPUT]`, or YAML with `pipeline`
    FluentBit,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Promtail => "promtail",
            Self::Vector => "vector",
            Self::Filebeat => "filebeat",
            Self::FluentBit => "fluent-bit",
        }
    }
}

/// Reads one file to a finished draft.
fn draft(format: Format, path: &Path) -> Result<Draft, ImportError> {
    let text = read(path)?;
    let mut draft = match format {
        Format::Promtail => promtail::import(path, &text)?,
        Format::Vector => vector::import(path, &text)?,
        Format::Filebeat => filebeat::import(path, &text)?,
        Format::FluentBit => fluent_bit::import(path, &text)?,
    };
    draft.original = text;
    draft.finish();
    Ok(draft)
}

/// Reads the file, writes the result, reports what was left out.
pub fn import(args: &ImportArgs) -> Result<(), Failure> {
    let file = args.file.display().to_string();
    let draft = draft(args.format, &args.file).map_err(|error| Failure::new(Code::Config, error))?;
    let text = draft.render(args.format.name(), &file);
    let mut stderr = std::io::stderr();
    for note in draft.notes() {
        writeln!(stderr, "note: {}", escape::text(&note.to_string()))?;
    }
    for left in draft.left() {
        writeln!(stderr, "not converted: {}", escape::text(&left.to_string()))?;
    }
    let left = draft.left().len();
    let things = if left == 1 { "setting" } else { "settings" };
    if left > 0 && args.strict {
        let text = format!("{left} {things} of {file} could not be converted; with --strict nothing was written");
        return Err(Failure::text(Code::Partial, text));
    }
    match &args.output {
        None => print(&text)?,
        Some(path) => {
            let unusable = |error: std::io::Error| {
                Failure::text(Code::Failed, format!("cannot write {}: {error}", path.display()))
            };
            let mut file = std::fs::File::create_new(path).map_err(unusable)?;
            file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(unusable)?;
        }
    }
    match left {
        0 => Ok(()),
        _ => Err(Failure::text(
            Code::Partial,
            format!("{left} {things} of {file} could not be converted, listed above and in the result"),
        )),
    }
}

#[cfg(test)]
mod tests;
