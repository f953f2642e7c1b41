//! What a grammar can't say: regular expressions that compile, aggregations that need an unwrap, selectors that
//! would read everything.
//!
//! In: text and tree. Out: the first fault with its place. Touches nothing.

use super::expressions::Expressions;
use crate::dialect::{self, bad_regex};
use crate::stage::{self, Condition, StageFault};
use crate::storage::{LabelMatcher, MatchOp};
use crate::syntax::error::ParseError;
use crate::syntax::tree::{Expr, LogExpr, LogRange, Matcher, MetricExpr, RangeAggregation, RangeOp, Selector, Span};

/// Which selectors are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selectors {
    /// They must leave something out, as in Loki.
    Narrow,
    /// They may match every stream.
    Any,
}

struct Check<'a> {
    text: &'a str,
    selectors: Selectors,
    expressions: Expressions,
}

type Checked = Result<(), ParseError>;

/// Checks a query.
pub fn expr(text: &str, expr: &Expr, selectors: Selectors) -> Checked {
    let check = Check { text, selectors, expressions: Expressions::default() };
    match expr {
        Expr::Log(log) => check.log(log),
        Expr::Metric(metric) => check.metric(metric),
        Expr::Variants(variants) => {
            check.range(&variants.of)?;
            variants.metrics.iter().try_for_each(|metric| check.metric(metric))
        }
    }
}

impl Check<'_> {
    fn fault(&self, span: Span, message: impl Into<String>) -> Checked {
        Err(ParseError::at(self.text, span, message.into()))
    }

    fn counted(&self, span: Span, counted: Result<(), String>) -> Checked {
        counted.map_err(|message| ParseError::at(self.text, span, message))
    }

    fn matcher(&self, matcher: &Matcher) -> Result<LabelMatcher, ParseError> {
        self.counted(matcher.span, self.expressions.add_matcher(matcher))?;
        LabelMatcher::new(matcher.name.as_str(), matcher.op, matcher.value.as_str())
            .map_err(|error| ParseError::at(self.text, matcher.span, bad_regex(&error)))
    }

    fn selector(&self, selector: &Selector) -> Checked {
        let mut narrows = self.selectors == Selectors::Any;
        for matcher in &selector.matchers {
            let compiled = self.matcher(matcher)?;
            narrows |= matches!(matcher.op, MatchOp::Equal | MatchOp::Regex) && !compiled.matches("");
        }
        if narrows {
            return Ok(());
        }
        self.fault(
            selector.span,
            "queries require at least one regexp or equality matcher that does not have an empty-compatible value. \
             For instance, app=~\".*\" does not meet this requirement, but app=~\".+\" will",
        )
    }

    fn log(&self, log: &LogExpr) -> Checked {
        self.selector(&log.selector)?;
        for stage in &log.stages {
            // What is not built yet is refused by the engine, not here: it is LogQL all the same.
            if let Err(StageFault::Wrong(message)) = stage::compile(stage) {
                return self.fault(stage.span, format!("stage '{stage}' : {message}"));
            }
            self.counted(stage.span, self.expressions.add_stage(stage))?;
        }
        Ok(())
    }

    fn range(&self, range: &LogRange) -> Checked {
        self.log(&range.log)?;
        for filter in range.unwrap.iter().flat_map(|u| &u.filters) {
            if let Err(StageFault::Wrong(message)) = Condition::new(filter) {
                return self.fault(filter.span(), format!("stage '| {filter}' : {message}"));
            }
            self.counted(filter.span(), self.expressions.add_filter(filter))?;
        }
        Ok(())
    }

    fn metric(&self, metric: &MetricExpr) -> Checked {
        match metric {
            MetricExpr::Range(range) => self.range_aggregation(range),
            MetricExpr::Vector(vector) => self.metric(&vector.expr),
            MetricExpr::Binary(binary) => {
                self.metric(&binary.left)?;
                self.metric(&binary.right)
            }
            MetricExpr::LabelReplace(replace) => {
                self.metric(&replace.expr)?;
                if let Err(error) = dialect::compile_anchored(&replace.regex) {
                    let message = format!("invalid regex in label_replace: {}", bad_regex(&error));
                    return self.fault(replace.span, message);
                }
                self.counted(replace.span, self.expressions.add(&replace.regex))
            }
            MetricExpr::Literal(..) | MetricExpr::Constant(..) => Ok(()),
        }
    }

    fn range_aggregation(&self, aggregation: &RangeAggregation) -> Checked {
        use RangeOp::{Absent, Avg, Bytes, BytesRate, Count, First, Last, Max, Min, Quantile, Rate, Stddev, Stdvar};
        let op = aggregation.op;
        self.range(&aggregation.range)?;
        if let Some(grouping) = &aggregation.grouping
            && !matches!(op, Avg | Stddev | Stdvar | Quantile | Max | Min | First | Last)
        {
            return self.fault(grouping.span, format!("grouping not allowed for {} aggregation", op.name()));
        }
        match &aggregation.range.unwrap {
            Some(unwrap) if matches!(op, Bytes | BytesRate | Count) => {
                self.fault(unwrap.span, format!("invalid aggregation {} with unwrap", op.name()))
            }
            None if !matches!(op, Bytes | BytesRate | Count | Rate | Absent) => self.fault(
                aggregation.span,
                format!(
                    "invalid aggregation {} without unwrap: name the label whose value is the number, like `| unwrap duration(took)`",
                    op.name()
                ),
            ),
            _ => Ok(()),
        }
    }
}
