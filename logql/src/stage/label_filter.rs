//! `| level="error" and took > 5s`: conditions on labels.

use super::fault::StageFault;
use super::ip;
use super::labels::Labels;
use super::line_state::LineState;
use super::run::Run;
use crate::dialect::bad_regex;
use crate::storage::LabelMatcher;
use crate::syntax::go_number::{bytes, duration, float};
use crate::syntax::tree::{CompareOp, LabelFilter, Matcher, Quantity};

/// Value of `__error__` where a label can't be compared.
const LABEL_FILTER_ERROR: &str = "LabelFilterErr";

/// A compiled condition.
#[derive(Debug)]
pub(crate) enum Condition {
    /// `a="b"`
    Matcher(LabelMatcher),
    /// `a > 5`
    Compare(String, CompareOp, Quantity),
    /// `a = ip("…")`
    Ip(String, bool, ip::Matcher),
    /// Both.
    And(Box<Condition>, Box<Condition>),
    /// One.
    Or(Box<Condition>, Box<Condition>),
}

/// Compiles a matcher of labels.
pub(super) fn matcher(matcher: &Matcher) -> Result<LabelMatcher, String> {
    LabelMatcher::new(matcher.name.as_str(), matcher.op, matcher.value.as_str()).map_err(|e| bad_regex(&e))
}

impl Condition {
    /// Compiles a condition.
    pub fn new(filter: &LabelFilter) -> Result<Self, StageFault> {
        Ok(match filter {
            LabelFilter::Matcher(m) => Self::Matcher(matcher(m)?),
            LabelFilter::Compare { name, op, value, .. } => Self::Compare(name.clone(), *op, *value),
            LabelFilter::Ip { name, negated, value, .. } => Self::Ip(name.clone(), *negated, ip::Matcher::new(value)?),
            LabelFilter::And(left, right) => Self::And(Box::new(Self::new(left)?), Box::new(Self::new(right)?)),
            LabelFilter::Or(left, right) => Self::Or(Box::new(Self::new(left)?), Box::new(Self::new(right)?)),
        })
    }

    /// Whether it holds. A label that can't be compared marks the line as faulty and lets it pass.
    pub fn holds(&self, labels: &mut Labels<'_>) -> bool {
        match self {
            Self::Matcher(matcher) => matcher.matches(labels.value(&matcher.name)),
            Self::Compare(name, op, quantity) => {
                let Some(value) = labels.get(name) else { return false };
                let compared = match quantity {
                    Quantity::Number(number) => float(value).map(|v| op.holds(v, *number)),
                    Quantity::Duration(ns) => duration(value).map(|v| op.holds(v, *ns)),
                    Quantity::Bytes(size) => bytes(value).map(|v| op.holds(v, *size)),
                };
                compared.unwrap_or_else(|details| {
                    // An earlier fault says more.
                    if labels.error().is_empty() {
                        labels.set_error(LABEL_FILTER_ERROR, details);
                    }
                    true
                })
            }
            Self::Ip(name, negated, matcher) => {
                // Only other conditions can drop a faulty line.
                if !labels.error().is_empty() {
                    return true;
                }
                let Some(value) = labels.get(name) else { return false };
                matcher.is_in(value.as_bytes()) != *negated
            }
            Self::And(left, right) => {
                let left = left.holds(labels);
                // The right side may mark a fault even when the left drops the line; then nobody sees it.
                left && right.holds(labels)
            }
            Self::Or(left, right) => left.holds(labels) || right.holds(labels),
        }
    }

    /// Names that it asks for.
    pub fn names(&self, names: &mut Vec<String>) {
        match self {
            Self::Matcher(matcher) => names.push(matcher.name.clone()),
            Self::Compare(name, ..) | Self::Ip(name, ..) => names.push(name.clone()),
            Self::And(left, right) | Self::Or(left, right) => {
                left.names(names);
                right.names(names);
            }
        }
    }
}

impl Run for Condition {
    fn process<'a>(&'a self, state: &mut LineState<'a>) -> bool {
        self.holds(&mut state.labels)
    }

    fn required(&self, names: &mut Vec<String>) {
        self.names(names);
    }
}
