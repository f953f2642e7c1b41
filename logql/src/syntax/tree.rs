//! The tree of a query. Every node keeps the span of text it came from; spans never count when trees are compared.
//!
//! Plain data: made by `grammar.rs`, read by printer, checks and plan. Touches nothing.

pub use super::span::Span;
pub use super::tree_log::{
    CompareOp, Extraction, FormatValue, LabelChoice, LabelFilter, LabelFormat, LineFilter, LineMatch, LineOp, LogExpr,
    Matcher, Quantity, Selector, Stage, StageKind,
};
pub use super::tree_metric::{
    Binary, BinaryOp, Cardinality, Conversion, Grouping, LabelReplace, LogRange, Matching, MetricExpr,
    RangeAggregation, RangeOp, Unwrap, Variants, VectorAggregation, VectorOp,
};
pub use crate::storage::MatchOp;

/// A whole query.
#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    /// Finds lines.
    Log(LogExpr),
    /// Makes numbers of lines.
    Metric(MetricExpr),
    /// Several metrics of one range: `variants(…) of (…)`.
    Variants(Variants),
}

impl Expr {
    /// Where it stands.
    pub fn span(&self) -> Span {
        match self {
            Self::Log(log) => log.span,
            Self::Metric(metric) => metric.span(),
            Self::Variants(variants) => variants.span,
        }
    }
}
