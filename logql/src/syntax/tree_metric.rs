//! Nodes of metric queries: range and vector aggregations, binary operations, and functions over them.
//!
//! Plain data: made by `grammar_metric.rs`, read by printer, checks and plan. Touches nothing.

use super::span::Span;
use super::tree_log::{CompareOp, LabelFilter, LogExpr};

/// An expression whose value are numbers.
#[derive(Debug, Clone, PartialEq)]
pub enum MetricExpr {
    /// `rate({a="b"}[5m])`
    Range(RangeAggregation),
    /// `sum by (a) (…)`
    Vector(VectorAggregation),
    /// `a / b`
    Binary(Binary),
    /// `5`
    Literal(f64, Span),
    /// `vector(5)`
    Constant(f64, Span),
    /// `label_replace(…)`
    LabelReplace(LabelReplace),
}

impl MetricExpr {
    /// Where it stands.
    pub fn span(&self) -> Span {
        match self {
            Self::Range(range) => range.span,
            Self::Vector(vector) => vector.span,
            Self::Binary(binary) => binary.span,
            Self::Literal(_, span) | Self::Constant(_, span) => *span,
            Self::LabelReplace(replace) => replace.span,
        }
    }
}

/// What a range aggregation computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "named as LogQL names them, see `RangeOp::name`")]
pub enum RangeOp {
    Count,
    Rate,
    RateCounter,
    Bytes,
    BytesRate,
    Avg,
    Sum,
    Min,
    Max,
    Stdvar,
    Stddev,
    Quantile,
    First,
    Last,
    Absent,
}

impl RangeOp {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Count,
        Self::Rate,
        Self::RateCounter,
        Self::Bytes,
        Self::BytesRate,
        Self::Avg,
        Self::Sum,
        Self::Min,
        Self::Max,
        Self::Stdvar,
        Self::Stddev,
        Self::Quantile,
        Self::First,
        Self::Last,
        Self::Absent,
    ];

    /// Its name in LogQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "count_over_time",
            Self::Rate => "rate",
            Self::RateCounter => "rate_counter",
            Self::Bytes => "bytes_over_time",
            Self::BytesRate => "bytes_rate",
            Self::Avg => "avg_over_time",
            Self::Sum => "sum_over_time",
            Self::Min => "min_over_time",
            Self::Max => "max_over_time",
            Self::Stdvar => "stdvar_over_time",
            Self::Stddev => "stddev_over_time",
            Self::Quantile => "quantile_over_time",
            Self::First => "first_over_time",
            Self::Last => "last_over_time",
            Self::Absent => "absent_over_time",
        }
    }
}

/// `quantile_over_time(0.9, … [5m]) by (a)`
#[derive(Debug, Clone, PartialEq)]
pub struct RangeAggregation {
    /// What it computes.
    pub op: RangeOp,
    /// The quantile.
    pub parameter: Option<f64>,
    /// Of which lines.
    pub range: LogRange,
    /// Joins series.
    pub grouping: Option<Grouping>,
    /// Where it stands.
    pub span: Span,
}

/// `{a="b"} | unwrap c [5m] offset 1h`
#[derive(Debug, Clone, PartialEq)]
pub struct LogRange {
    /// Which lines.
    pub log: LogExpr,
    /// Label whose value is the sample.
    pub unwrap: Option<Unwrap>,
    /// Width of the window.
    pub interval_ns: i64,
    /// How far back the window lies.
    pub offset_ns: i64,
    /// Where it stands.
    pub span: Span,
}

/// `| unwrap duration(a) | a > 5`
#[derive(Debug, Clone, PartialEq)]
pub struct Unwrap {
    /// Name of the label.
    pub label: String,
    /// How its text becomes a number.
    pub conversion: Conversion,
    /// Conditions behind it.
    pub filters: Vec<LabelFilter>,
    /// Where it stands.
    pub span: Span,
}

/// How the text of an unwrapped label becomes a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Conversion {
    /// A number.
    Number,
    /// `bytes(a)`
    Bytes,
    /// `duration(a)`: seconds.
    Duration,
    /// `duration_seconds(a)`
    DurationSeconds,
}

/// `by (a, b)` or `without (a, b)`
#[derive(Debug, Clone, PartialEq)]
pub struct Grouping {
    /// Names are left out, not kept.
    pub without: bool,
    /// Names of labels.
    pub labels: Vec<String>,
    /// Where it stands.
    pub span: Span,
}

/// What a vector aggregation computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "named as LogQL names them, see `VectorOp::name`")]
pub enum VectorOp {
    Sum,
    Avg,
    Count,
    Max,
    Min,
    Stddev,
    Stdvar,
    Bottomk,
    Topk,
    Sort,
    SortDesc,
    ApproxTopk,
}

impl VectorOp {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Sum,
        Self::Avg,
        Self::Count,
        Self::Max,
        Self::Min,
        Self::Stddev,
        Self::Stdvar,
        Self::Bottomk,
        Self::Topk,
        Self::Sort,
        Self::SortDesc,
        Self::ApproxTopk,
    ];

    /// Its name in LogQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Count => "count",
            Self::Max => "max",
            Self::Min => "min",
            Self::Stddev => "stddev",
            Self::Stdvar => "stdvar",
            Self::Bottomk => "bottomk",
            Self::Topk => "topk",
            Self::Sort => "sort",
            Self::SortDesc => "sort_desc",
            Self::ApproxTopk => "approx_topk",
        }
    }

    /// Whether it needs a number before the expression.
    pub fn takes_count(self) -> bool {
        matches!(self, Self::Topk | Self::Bottomk | Self::ApproxTopk)
    }
}

/// `topk by (a) (5, …)`
#[derive(Debug, Clone, PartialEq)]
pub struct VectorAggregation {
    /// What it computes.
    pub op: VectorOp,
    /// How many, for `topk`, `bottomk`, `approx_topk`.
    pub count: Option<i64>,
    /// Of what.
    pub expr: Box<MetricExpr>,
    /// Joins series.
    pub grouping: Option<Grouping>,
    /// Where it stands.
    pub span: Span,
}

/// Operator between two expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "named as LogQL names them, see `BinaryOp::symbol`")]
pub enum BinaryOp {
    Or,
    And,
    Unless,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
}

impl BinaryOp {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Or,
        Self::And,
        Self::Unless,
        Self::Equal,
        Self::NotEqual,
        Self::Less,
        Self::LessOrEqual,
        Self::Greater,
        Self::GreaterOrEqual,
        Self::Add,
        Self::Sub,
        Self::Mul,
        Self::Div,
        Self::Mod,
        Self::Pow,
    ];

    /// As it is written.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Or => "or",
            Self::And => "and",
            Self::Unless => "unless",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::Mod => "%",
            Self::Pow => "^",
        }
    }

    /// Higher binds tighter.
    pub fn precedence(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And | Self::Unless => 2,
            Self::Equal | Self::NotEqual | Self::Less | Self::LessOrEqual | Self::Greater | Self::GreaterOrEqual => 3,
            Self::Add | Self::Sub => 4,
            Self::Mul | Self::Div | Self::Mod => 5,
            Self::Pow => 6,
        }
    }

    /// Whether `a op b op c` is `a op (b op c)`.
    pub fn binds_right(self) -> bool {
        self == Self::Pow
    }

    /// `and`, `or`, `unless`
    pub fn is_set(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Unless)
    }

    /// `==`, `!=`, `<`, `<=`, `>`, `>=`
    pub fn comparison(self) -> Option<CompareOp> {
        match self {
            Self::Equal => Some(CompareOp::Equal),
            Self::NotEqual => Some(CompareOp::NotEqual),
            Self::Less => Some(CompareOp::Less),
            Self::LessOrEqual => Some(CompareOp::LessOrEqual),
            Self::Greater => Some(CompareOp::Greater),
            Self::GreaterOrEqual => Some(CompareOp::GreaterOrEqual),
            _ => None,
        }
    }
}

/// `a / on (b) group_left (c) d`
#[derive(Debug, Clone, PartialEq)]
pub struct Binary {
    /// What is computed.
    pub op: BinaryOp,
    /// Left side.
    pub left: Box<MetricExpr>,
    /// Right side.
    pub right: Box<MetricExpr>,
    /// Comparisons give 0 or 1 and keep every series.
    pub returns_bool: bool,
    /// How series of the two sides find each other; `None`: by all labels.
    pub matching: Option<Matching>,
    /// Where it stands.
    pub span: Span,
}

/// `on (a, b) group_left (c)`
#[derive(Debug, Clone, PartialEq)]
pub struct Matching {
    /// `on`, not `ignoring`.
    pub on: bool,
    /// Names of labels.
    pub labels: Vec<String>,
    /// Which side may have several series for one of the other.
    pub cardinality: Cardinality,
    /// Labels taken from the "one" side.
    pub include: Vec<String>,
}

/// Which side of an operator may have several series for one of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cardinality {
    /// None.
    OneToOne,
    /// `group_left`: the left.
    ManyToOne,
    /// `group_right`: the right.
    OneToMany,
}

/// `label_replace(…, "dst", "$1", "src", "(.*)")`
#[derive(Debug, Clone, PartialEq)]
pub struct LabelReplace {
    /// Whose labels.
    pub expr: Box<MetricExpr>,
    /// Label to write.
    pub destination: String,
    /// What is written; `$1` stands for a group.
    pub replacement: String,
    /// Label to read.
    pub source: String,
    /// Must match the whole value.
    pub regex: String,
    /// Where it stands.
    pub span: Span,
}

/// `variants(count_over_time(…), …) of ({a="b"}[5m])`
#[derive(Debug, Clone, PartialEq)]
pub struct Variants {
    /// The metrics.
    pub metrics: Vec<MetricExpr>,
    /// The range that all of them read.
    pub of: LogRange,
    /// Where it stands.
    pub span: Span,
}
