//! Regular expressions of users over lines, bounded in memory.
//!
//! In: the text of an expression. Out: it compiled, or why not. Touches nothing.

use regex::bytes::{Regex, RegexBuilder};

/// Memory of one compiled pattern.
pub(crate) const PATTERN_SIZE: usize = 4 << 20;

/// Compiles a pattern of the configuration.
pub(crate) fn pattern(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text).size_limit(PATTERN_SIZE).build()
}
