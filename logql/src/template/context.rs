//! The line that a template is filled in for: its labels, text and time.
//!
//! Touches nothing.

use super::value::Value;

/// The line that a template is filled in for.
pub(crate) struct Context<'a> {
    /// Value of a label.
    pub label: &'a dyn Fn(&str) -> Option<String>,
    /// All labels, sorted.
    pub all: &'a dyn Fn() -> Vec<(String, String)>,
    /// `__line__`
    pub line: &'a str,
    /// `__timestamp__`, ns since 1970.
    pub time_ns: i64,
}

impl Context<'_> {
    /// All labels as a value.
    pub(super) fn labels(&self) -> Value {
        Value::Map((self.all)().into_iter().map(|(n, v)| (n, Value::Text(v))).collect())
    }
}
