//! Section `multiline` of a source: which lines are joined to one event.
//!
//! In: YAML as the binary read it. Out: typed values with defaults, and faults that types can't express. Touches nothing.

use millrace_log::value::{Faults, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checks::check_regex;

/// Which lines belong together: exactly one of `start` and `continue`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MultilineConfig {
    /// Traces of a language, each with the message before it: `java` (Kotlin and Scala as well), `python`, `go`,
    /// `ruby`, `dotnet`. Left out: the patterns below are used.
    pub preset: Option<Preset>,
    /// Regular expression of a line that starts an event. Alone: all other lines continue it.
    pub start: Option<String>,
    /// Regular expression of a line that continues an event, as in `^\s`. With `start`: only one that `start` began.
    pub r#continue: Option<String>,
    /// Regular expression of a line that the next one continues, as in `\\$`.
    pub continue_past: Option<String>,
    /// Regular expression of the last line of an event. With `start`: only of one that `start` began.
    pub halt: Option<String>,
    /// Maximum number of lines in one event.
    pub max_lines: usize,
    /// An event that has not grown for this long is complete.
    pub timeout: Span,
}

/// Languages whose traces are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Java and other languages of its machine.
    Java,
    /// Python, with chains and groups of exceptions.
    Python,
    /// Panics and goroutines of Go.
    Go,
    /// Ruby, also as Rails prints it.
    Ruby,
    /// .NET, also as its console logger prints it.
    Dotnet,
}

impl Default for MultilineConfig {
    fn default() -> Self {
        Self {
            preset: None,
            start: None,
            r#continue: None,
            continue_past: None,
            halt: None,
            max_lines: 500,
            timeout: Span::secs(1),
        }
    }
}

impl MultilineConfig {
    pub(crate) fn check(&self, faults: &mut Faults) {
        let patterns = [
            ("start", &self.start),
            ("continue", &self.r#continue),
            ("continue_past", &self.continue_past),
            ("halt", &self.halt),
        ];
        let mut given = patterns.iter().filter_map(|(key, pattern)| Some((*key, pattern.as_ref()?))).peekable();
        match (self.preset, given.peek()) {
            (Some(_), Some((key, _))) => faults.add(key, "can't be combined with `preset`"),
            (None, None) => faults.add("start", "missing: set `preset`, or one of `start`, `continue` and `halt`"),
            _ => {}
        }
        for (key, pattern) in given {
            check_regex(key, pattern, faults);
        }
        if self.r#continue.is_some() && self.halt.is_some() && self.start.is_some() {
            faults.add(
                "halt",
                "can't be combined with `start` and `continue`: a line that does not continue an event ends it",
            );
        }
        if !(2..=100_000).contains(&self.max_lines) {
            faults.add("max_lines", format!("is {}: expected 2 to 100000", self.max_lines));
        }
        if self.timeout.0.is_zero() {
            faults.add("timeout", "is 0: expected a duration such as `1s`");
        }
    }
}
