//! Standard output and questions on the terminal: text, JSON documents, confirmation before data is deleted.
//!
//! In: text and values. Out: standard output; an answer of the user. Side effects: writes to and reads from the terminal.

use std::io::{IsTerminal as _, Write as _};

use clap::ValueEnum;
use serde::Serialize;

use crate::escape;
use crate::exit::{Code, Failure};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Aligned columns
    Table,
    /// One JSON document with stable fields
    Json,
}

/// Writes to standard output, control characters written out where that is a terminal; a closed pipe (`| head`) is not an
/// error.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    let text = if out.is_terminal() { escape::text(text) } else { text.into() };
    match out.write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints one JSON document.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Asks before data is deleted; `yes` skips the question.
pub fn confirm(what: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::text(
            Code::Usage,
            format!("{what}: confirmation needed but this is not a terminal: add --yes"),
        ));
    }
    let mut shown = std::io::stderr();
    write!(shown, "{what}. Continue? [y/N] ")?;
    shown.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::text(Code::Failed, "cancelled")),
    }
}
