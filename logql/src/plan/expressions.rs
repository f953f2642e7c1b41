//! What all regular expressions of a query take together: each is bounded, and a query may have hundreds.
//!
//! In: the expressions of a query as they are met. Out: a message when they are too large. Touches nothing.

use std::cell::Cell;

use crate::dialect;
use crate::storage::MatchOp;
use crate::syntax::tree::{LabelChoice, LabelFilter, LineOp, Matcher, Stage, StageKind};

/// Bytes of all compiled expressions of a query: 2,048 short ones.
const MAX_BYTES: usize = 40 << 20;

/// Counts them.
#[derive(Debug, Default)]
pub(super) struct Expressions(Cell<usize>);

type Counted = Result<(), String>;

impl Expressions {
    /// Counts one.
    pub fn add(&self, pattern: &str) -> Counted {
        self.0.set(self.0.get().saturating_add(dialect::size(pattern)));
        if self.0.get() <= MAX_BYTES {
            return Ok(());
        }
        Err(format!("regular expressions of the query take more than {MAX_BYTES} bytes compiled: shorten repetitions"))
    }

    /// Counts that of a matcher.
    pub fn add_matcher(&self, matcher: &Matcher) -> Counted {
        match matcher.op {
            MatchOp::Regex | MatchOp::NotRegex => self.add(&matcher.value),
            MatchOp::Equal | MatchOp::NotEqual => Ok(()),
        }
    }

    /// Counts those of a stage. Templates bound theirs line by line.
    pub fn add_stage(&self, stage: &Stage) -> Counted {
        match &stage.kind {
            StageKind::LineFilter(filter) if matches!(filter.op, LineOp::Regex | LineOp::NotRegex) => {
                filter.needles.iter().try_for_each(|needle| self.add(&needle.value))
            }
            StageKind::Regexp(pattern) => self.add(pattern),
            StageKind::LabelFilter(filter) => self.add_filter(filter),
            StageKind::Drop(choices) | StageKind::Keep(choices) => choices.iter().try_for_each(|choice| match choice {
                LabelChoice::Match(matcher) => self.add_matcher(matcher),
                LabelChoice::Name(..) => Ok(()),
            }),
            _ => Ok(()),
        }
    }

    /// Counts those of a condition.
    pub fn add_filter(&self, filter: &LabelFilter) -> Counted {
        match filter {
            LabelFilter::Matcher(matcher) => self.add_matcher(matcher),
            LabelFilter::And(left, right) | LabelFilter::Or(left, right) => {
                self.add_filter(left)?;
                self.add_filter(right)
            }
            LabelFilter::Compare { .. } | LabelFilter::Ip { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::plan::{parse, selector_matchers};

    /// Each took up to 10 MiB, and a query has 400 stages.
    #[test]
    fn expressions_of_a_query_are_bounded_together() {
        // Between two and ten MiB.
        let large = "(?:[ab]{1000}){100}";
        for (stage, count, is_taken) in [
            ("|~ \"a.*b\"".to_owned(), 100, true),
            (format!("|~ \"{large}\""), 4, true),
            (format!("|~ \"{large}\" or \"{large}\""), 5, false),
            (format!("| x=~\"{large}\" or y!~\"{large}\""), 5, false),
            (format!("| regexp \"(?P<x>{large})\""), 10, false),
            (format!("| drop x=~\"{large}\""), 10, false),
        ] {
            let fault = parse(&format!("{{a=\"b\"}} {}", format!("{stage} ").repeat(count))).err();
            assert_eq!(fault.is_none(), is_taken, "{stage}: {fault:?}");
            assert!(fault.is_none_or(|fault| fault.to_string().contains("more than 41943040 bytes")), "{stage}");
        }
        let selector = format!("{{{}}}", vec![format!("a=~\"{large}\""); 10].join(","));
        assert!(selector_matchers(&selector).unwrap_err().to_string().contains("more than 41943040 bytes"));
    }
}
