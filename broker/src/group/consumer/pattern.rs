//! Patterns of topics that members subscribe to, and the topics that each stands for.
//!
//! In: regular expressions of clients. Out: compiled patterns within a memory limit. Touches nothing.

use std::collections::BTreeSet;

use regex::{Regex, RegexBuilder};

use crate::group::error::GroupError;

/// Most memory that a pattern may take once compiled: patterns come from clients.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// A pattern and what it stands for.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub(super) pattern: Option<Regex>,
    /// Names of topics.
    pub topics: BTreeSet<String>,
    /// What was in sight when it was held against the topics ([`Topics::sight`]); absent: not held against them yet.
    pub seen: Option<u64>,
}

/// Compiles a pattern that must fit the whole name.
pub(super) fn compile(pattern: &str) -> Result<Regex, GroupError> {
    RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(MAX_PATTERN_BYTES).build().map_err(|e| {
        let reason = match e {
            regex::Error::Syntax(text) => text.lines().last().unwrap_or_default().trim().replace("error: ", ""),
            other => other.to_string(),
        };
        GroupError::InvalidRegex(format!(
            "SubscribedTopicRegex `{pattern}` is not a valid regular expression: {reason}."
        ))
    })
}
