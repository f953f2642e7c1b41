//! `millrace import`: the configuration of another agent's file sources as one of ours.
//!
//! In: a file of Promtail, Vector, Filebeat or Fluent Bit. Out: YAML on standard output (or in a file) that
//! `millrace validate` accepts, with the place that each value came from; on standard error what could not be carried
//! over, why, and what to do instead; an exit code. Touches the file and those that it includes, reading only, and the
//! file of `--output`. Whatever a format's reader does not know by name is told as left out: nothing is lost silently.

/// What is carried over and what is left, and the YAML of it.
mod draft;
/// Files of other programs as trees with places.
mod foreign;
/// Globs, regular expressions, formats of times, sizes and spans of other programs.
mod pattern;
/// Promtail.
mod promtail;
/// The stages of Promtail's pipelines.
mod promtail_stages;
/// Vector.
mod vector;
/// Filebeat.
mod filebeat;
/// Fluent Bit.
mod fluent_bit;
/// Fluent Bit's own format.
mod fluent_bit_file;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::print;
use crate::exit::{Code, Failure};
use draft::Draft;

/// Largest file that is read.
const MAX_BYTES: u64 = 16 << 20;

/// Turns the configuration of another agent into one of Millrace's.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Whose configuration it is.
    #[arg(value_enum)]
    format: Format,
    /// The file.
    file: PathBuf,
    /// Writes the configuration here instead of to standard output; an existing file is left as it is.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Writes nothing unless everything could be carried over.
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// YAML with `scrape_configs`.
    Promtail,
    /// TOML, YAML or JSON with `sources`.
    Vector,
    /// YAML with `filebeat.inputs`.
    Filebeat,
    /// The classic format with `[INPUT]`, or YAML with `pipeline`.
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

/// Why nothing was made of a file.
#[derive(Debug, thiserror::Error)]
enum ImportError {
    /// It can't be read.
    #[error("{path} can't be read: {source}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// It is larger than any configuration.
    #[error("{path} has {bytes} bytes, {MAX_BYTES} are read at most: is it a configuration?")]
    Large { path: String, bytes: u64 },
    /// It is not what its name says.
    #[error("{0}")]
    Syntax(String),
    /// It is a good file, but none of that program.
    #[error("{path} is no configuration of {format}: expected {expected}")]
    Other { path: String, format: &'static str, expected: &'static str },
}

fn read(path: &Path) -> Result<String, ImportError> {
    let name = || path.display().to_string();
    let failed = |source| ImportError::Read { path: name(), source };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > MAX_BYTES {
        return Err(ImportError::Large { path: name(), bytes });
    }
    let text = std::fs::read(path).map_err(failed)?;
    String::from_utf8(text).map_err(|_| ImportError::Syntax(format!("{}: not UTF-8", name())))
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
    draft.finish();
    Ok(draft)
}

/// Reads, writes, tells.
pub fn import(args: &ImportArgs) -> Result<(), Failure> {
    let file = args.file.display().to_string();
    let draft = draft(args.format, &args.file).map_err(|error| Failure::new(Code::Config, error))?;
    let text = draft.render(args.format.name(), &file);
    let mut told = std::io::stderr();
    for note in draft.notes() {
        writeln!(told, "note: {note}")?;
    }
    for left in draft.left() {
        writeln!(told, "left out: {left}")?;
    }
    let left = draft.left().len();
    let things = if left == 1 { "thing was" } else { "things were" };
    if left > 0 && args.strict {
        let text = format!("{left} {things} left out of {file}: with --strict nothing was written");
        return Err(Failure::text(Code::Partial, text));
    }
    match &args.output {
        None => print(&text)?,
        Some(path) => {
            let unusable = |error: std::io::Error| {
                Failure::text(Code::Failed, format!("{} can't be written: {error}; name another", path.display()))
            };
            let mut file = std::fs::File::create_new(path).map_err(unusable)?;
            file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(unusable)?;
        }
    }
    match left {
        0 => Ok(()),
        _ => Err(Failure::text(
            Code::Partial,
            format!("{left} {things} left out of {file}: each is named above and in the result"),
        )),
    }
}

#[cfg(test)]
mod tests;
