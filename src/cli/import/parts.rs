//! Small values of a draft: remarks, multi-line rules, time formats.
//!
//! In and out: plain data. Side effects: none.

use std::fmt;

use millrace_log::yaml::Place;

/// Something that was not converted, or that users should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// Its place in the other file.
    pub place: Place,
    /// Which key, and what it says.
    pub what: String,
    /// Why it could not be converted, or what changes.
    pub why: String,
    /// What to do instead; empty: nothing.
    pub instead: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.what, self.why)?;
        if self.instead.is_empty() { Ok(()) } else { write!(f, "; instead: {}", self.instead) }
    }
}

/// How lines are joined.
#[derive(Debug, Clone, Default)]
pub struct Multiline {
    /// `start` or `continue`, and its expression.
    pub by: Option<(&'static str, String)>,
    /// Lines of one event.
    pub max_lines: Option<u64>,
    /// As our `Span` writes it.
    pub timeout: Option<String>,
}

/// Where the time stands.
#[derive(Debug, Clone, Default)]
pub struct Timestamp {
    /// As ours.
    pub format: String,
    /// At one of both, or at the start of the line.
    pub regex: Option<String>,
    /// Of a JSON line.
    pub field: Option<String>,
    /// As an offset.
    pub timezone: Option<String>,
}
