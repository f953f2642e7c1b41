//! One thing wrong in a file: where, what, and how to fix it; printed with the line and a caret below the column.
//!
//! In: a place and a message. Out: the text for people. Touches nothing.

use std::fmt;
use std::path::Path;

use super::place::Place;

/// One thing wrong in a file, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocatedFault {
    /// File, line and column, or the variable.
    pub place: Place,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The line as it stands in the file; absent where it may hold a secret, or where no line is meant.
    pub source_line: Option<String>,
}

impl LocatedFault {
    /// A fault at a place, without its line.
    pub fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into(), hint: None, source_line: None }
    }

    /// A fault of the file as a whole.
    pub fn of_file(file: &Path, message: impl Into<String>, hint: Option<String>) -> Self {
        Self { hint, ..Self::new(Place::of_file(file), message) }
    }
}

impl fmt::Display for LocatedFault {
    /// The place and message, the line with a caret below the column, and the hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)?;
        let number = self.place.line().to_string();
        let margin = " ".repeat(number.len());
        if let Some(line) = &self.source_line {
            let (shown, caret) = window(line, self.place.column());
            write!(f, "\n{margin} |\n{number} | {shown}\n{margin} | {}^", " ".repeat(caret))?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n{margin} = {hint}")?;
        }
        Ok(())
    }
}

/// At most 120 characters of a line around a column, and where the caret stands in them.
fn window(line: &str, column: usize) -> (String, usize) {
    let at = column.saturating_sub(1);
    let skip = at.saturating_sub(100);
    let shown = line.chars().skip(skip).take(120).map(|c| if c == '\t' { ' ' } else { c }).collect();
    (shown, at - skip)
}
