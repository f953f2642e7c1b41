//! Which streams a query may read: all its selectors, and whether one lies within others.
//!
//! In: a tree, matchers. Out: selectors, yes or no. Touches nothing.

use crate::storage::{LabelMatcher, MatchOp};
use crate::syntax::tree::{Expr, MetricExpr, Selector};

impl Expr {
    /// All stream selectors in it.
    pub fn selectors(&self) -> Vec<&Selector> {
        let mut found = Vec::new();
        match self {
            Self::Log(log) => found.push(&log.selector),
            Self::Metric(metric) => metric.add_selectors(&mut found),
            Self::Variants(variants) => {
                found.push(&variants.of.log.selector);
                variants.metrics.iter().for_each(|metric| metric.add_selectors(&mut found));
            }
        }
        found
    }
}

impl MetricExpr {
    fn add_selectors<'e>(&'e self, found: &mut Vec<&'e Selector>) {
        match self {
            Self::Range(range) => found.push(&range.range.log.selector),
            Self::Vector(vector) => vector.expr.add_selectors(found),
            Self::LabelReplace(replace) => replace.expr.add_selectors(found),
            Self::Binary(binary) => {
                binary.left.add_selectors(found);
                binary.right.add_selectors(found);
            }
            Self::Literal(..) | Self::Constant(..) => {}
        }
    }
}

impl Selector {
    /// Whether every stream that matches it matches these too. `false` also where only a comparison of regular expressions
    /// could tell.
    pub fn is_within(&self, matchers: &[LabelMatcher]) -> bool {
        matchers.iter().all(|wanted| {
            self.matchers.iter().filter(|own| own.name == wanted.name).any(|own| {
                let is_same = own.op == wanted.op && own.value == wanted.value;
                is_same || (own.op == MatchOp::Equal && wanted.matches(&own.value))
            })
        })
    }
}
