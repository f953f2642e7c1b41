//! `|=`, `!=`, `|~`, `!~`, `|>`, `!>`: tests the bytes of the line, allocates nothing.
//!
//! In: a line. Out: whether it stays, and for the store a text that every line that stays contains.

use memchr::memmem;

use super::fault::StageFault;
use super::ip;
use super::line_pattern::LinePattern;
use crate::dialect::{self, bad_regex};
use crate::storage::LineNeedle;
use crate::syntax::tree::{LineFilter, LineMatch, LineOp};

/// A compiled line filter.
#[derive(Debug)]
pub(crate) struct CompiledFilter {
    tests: Vec<Test>,
    negated: bool,
}

#[derive(Debug)]
enum Test {
    /// Any line.
    All,
    Contains(Box<memmem::Finder<'static>>),
    Regex(regex::bytes::Regex, Option<LineNeedle>),
    Pattern(LinePattern),
    Ip(ip::Matcher),
}

impl Test {
    fn new(op: LineOp, needle: &LineMatch) -> Result<Self, StageFault> {
        if needle.ip {
            return match op {
                LineOp::Contains | LineOp::NotContains => Ok(Self::Ip(ip::Matcher::new(&needle.value)?)),
                _ => Err(StageFault::Wrong("ip: only `|=` and `!=` look for addresses".to_owned())),
            };
        }
        Ok(match op {
            LineOp::Contains | LineOp::NotContains if needle.value.is_empty() => Self::All,
            LineOp::Contains | LineOp::NotContains => {
                Self::Contains(Box::new(memmem::Finder::new(needle.value.as_bytes()).into_owned()))
            }
            LineOp::Regex | LineOp::NotRegex => match plain_text(&needle.value) {
                Some(("", _)) => Self::All,
                Some((text, false)) => Self::Contains(Box::new(memmem::Finder::new(text.as_bytes()).into_owned())),
                plain => {
                    let regex = dialect::compile(&needle.value).map_err(|e| bad_regex(&e))?;
                    // Stores fold the case of ASCII letters only.
                    let needle = plain
                        .filter(|(text, _)| text.is_ascii())
                        .map(|(text, ignore_case)| LineNeedle { text: text.into(), ignore_case });
                    Self::Regex(regex, needle)
                }
            },
            LineOp::Pattern | LineOp::NotPattern => Self::Pattern(LinePattern::new(&needle.value)?),
        })
    }

    fn matches(&self, line: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Contains(finder) => finder.find(line).is_some(),
            Self::Regex(regex, _) => regex.is_match(line),
            Self::Pattern(pattern) => pattern.matches(line),
            Self::Ip(matcher) => matcher.is_in(line),
        }
    }
}

/// The text of an expression without any special character, and whether case is ignored.
fn plain_text(pattern: &str) -> Option<(&str, bool)> {
    let (text, ignore_case) = match pattern.strip_prefix("(?i)") {
        Some(rest) => (rest, true),
        None => (pattern, false),
    };
    let special = |c: char| "\\.+*?()|[]{}^$".contains(c);
    (!text.contains(special)).then_some((text, ignore_case))
}

impl CompiledFilter {
    /// Compiles a filter.
    pub fn new(filter: &LineFilter) -> Result<Self, StageFault> {
        let tests = filter.needles.iter().map(|n| Test::new(filter.op, n)).collect::<Result<_, _>>()?;
        let negated = matches!(filter.op, LineOp::NotContains | LineOp::NotRegex | LineOp::NotPattern);
        Ok(Self { tests, negated })
    }

    /// Whether a line stays.
    pub fn stays(&self, line: &[u8]) -> bool {
        self.tests.iter().any(|t| t.matches(line)) != self.negated
    }

    /// A text that every line that stays contains.
    pub fn needle(&self) -> Option<LineNeedle> {
        match self.tests.as_slice() {
            [Test::Contains(finder)] if !self.negated => {
                Some(LineNeedle { text: finder.needle().to_vec(), ignore_case: false })
            }
            [Test::Regex(_, needle)] if !self.negated => needle.clone(),
            [Test::Pattern(pattern)] if !self.negated => {
                pattern.longest_literal().map(|text| LineNeedle { text: text.to_vec(), ignore_case: false })
            }
            _ => None,
        }
    }
}
