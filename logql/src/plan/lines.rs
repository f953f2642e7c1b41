//! The lines behind a metric query: the log query that it counts, for people who want to see what made it high.
//!
//! In: a tree, labels of one of its series. Out: a log query as text, and how far back it looks. Touches nothing.

use std::fmt::Write as _;

use crate::storage::MatchOp;
use crate::syntax::quantity::quote;
use crate::syntax::tree::{Expr, LogExpr, MetricExpr};

/// What a metric query reads, as far as its first range aggregation says it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinesBehind<'e> {
    log: &'e LogExpr,
    /// How far before the time of a value its first line may be, ns: the window and its offset.
    pub reach_ns: i64,
    expr: &'e MetricExpr,
}

impl Expr {
    /// The lines that its values come from, see [`MetricExpr::lines_behind`]; `None` for a log query, which shows them.
    pub fn lines_behind(&self) -> Option<LinesBehind<'_>> {
        match self {
            Self::Metric(metric) => metric.lines_behind(),
            Self::Log(_) | Self::Variants(_) => None,
        }
    }

    /// How far before its time it reads, ns: the longest window with its offset; 0 for a log query.
    pub fn reach_ns(&self) -> i64 {
        match self {
            Self::Log(_) => 0,
            Self::Metric(metric) => metric.reach_ns(),
            Self::Variants(variants) => variants.of.interval_ns.saturating_add(variants.of.offset_ns.max(0)),
        }
    }
}

impl MetricExpr {
    fn reach_ns(&self) -> i64 {
        match self {
            Self::Range(range) => range.range.interval_ns.saturating_add(range.range.offset_ns.max(0)),
            Self::Vector(vector) => vector.expr.reach_ns(),
            Self::LabelReplace(replace) => replace.expr.reach_ns(),
            Self::Binary(binary) => binary.left.reach_ns().max(binary.right.reach_ns()),
            Self::Literal(..) | Self::Constant(..) => 0,
        }
    }

    /// The lines that its values come from: of a ratio those above the line. `None` if it reads no lines.
    pub fn lines_behind(&self) -> Option<LinesBehind<'_>> {
        match self {
            Self::Range(range) => Some(LinesBehind { log: &range.range.log, reach_ns: self.reach_ns(), expr: self }),
            Self::Vector(vector) => vector.expr.lines_behind(),
            Self::LabelReplace(replace) => replace.expr.lines_behind(),
            Self::Binary(binary) => binary.left.lines_behind().or_else(|| binary.right.lines_behind()),
            Self::Literal(..) | Self::Constant(..) => None,
        }
        .map(|found| LinesBehind { expr: self, ..found })
    }

    /// Whether a label of its series is one that it makes itself.
    fn makes_label(&self, name: &str) -> bool {
        match self {
            Self::Range(_) | Self::Literal(..) | Self::Constant(..) => false,
            Self::Vector(vector) => vector.expr.makes_label(name),
            Self::LabelReplace(replace) => replace.destination == name || replace.expr.makes_label(name),
            Self::Binary(binary) => {
                let included = binary.matching.as_ref().is_some_and(|m| m.include.iter().any(|l| l == name));
                included || binary.left.makes_label(name)
            }
        }
    }
}

impl LinesBehind<'_> {
    /// The log query, narrowed to one series by its labels.
    pub fn query<'l>(&self, labels: impl IntoIterator<Item = (&'l str, &'l str)>) -> String {
        let mut out = self.log.to_string();
        for (name, value) in labels {
            let mut said = self.log.selector.matchers.iter();
            let said = said.any(|m| m.name == name && m.op == MatchOp::Equal && m.value == value);
            if !said && !self.expr.makes_label(name) {
                // Writing to a text does not fail.
                write!(out, " | {name}={}", quote(value)).ok();
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use crate::Expr;

    #[test]
    fn a_metric_query_names_the_lines_that_it_counts() {
        let labels = [("app", "shop"), ("level", "er\"ror"), ("made", "x")];
        for (text, want, reach_s) in [
            (
                r#"sum by (level) (count_over_time({app="shop"} |= "timeout" | json [5m])) > 0"#,
                r#"{app="shop"} |= "timeout" | json | level="er\"ror" | made="x""#,
                300,
            ),
            (
                r#"0.05 < sum(rate({env="prod"} |= "error" [1m] offset 1h)) / sum(rate({env="prod"}[1m]))"#,
                r#"{env="prod"} |= "error" | app="shop" | level="er\"ror" | made="x""#,
                3660,
            ),
            (
                r#"label_replace(rate({app=~"s.*"}[2m]), "made", "x", "app", ".*")"#,
                r#"{app=~"s.*"} | app="shop" | level="er\"ror""#,
                120,
            ),
            (
                r#"max_over_time({app="shop"} | logfmt | unwrap duration(took) [10s])"#,
                r#"{app="shop"} | logfmt | level="er\"ror" | made="x""#,
                10,
            ),
        ] {
            let Expr::Metric(metric) = crate::parse(text).unwrap() else { panic!("{text}") };
            let behind = metric.lines_behind().unwrap();
            assert_eq!(behind.reach_ns, reach_s * 1_000_000_000, "{text}");
            let query = behind.query(labels);
            assert_eq!(query, want, "{text}");
            assert!(matches!(crate::parse(&query), Ok(Expr::Log(_))), "{query}");
        }
        let Expr::Metric(metric) = crate::parse("vector(1) > 0").unwrap() else { panic!() };
        assert_eq!(metric.lines_behind(), None);
    }
}
