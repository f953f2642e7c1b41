//! Nodes of log queries: stream selectors, pipelines and their stages.
//!
//! Plain data: made by `grammar.rs`, read by printer, checks and plan. Touches nothing.

use super::span::Span;
use crate::storage::MatchOp;

/// A stream selector and its pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct LogExpr {
    /// Which streams.
    pub selector: Selector,
    /// What happens to their lines, in order.
    pub stages: Vec<Stage>,
    /// Where it stands.
    pub span: Span,
}

/// `{app="api", env!="dev"}`
#[derive(Debug, Clone, PartialEq)]
pub struct Selector {
    /// All must match.
    pub matchers: Vec<Matcher>,
    /// Where it stands.
    pub span: Span,
}

/// `app=~"a.*"`
#[derive(Debug, Clone, PartialEq)]
pub struct Matcher {
    /// Name of the label.
    pub name: String,
    /// How it is compared.
    pub op: MatchOp,
    /// Value or expression.
    pub value: String,
    /// Where it stands.
    pub span: Span,
}

/// One stage of a pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// What it does.
    pub kind: StageKind,
    /// Where it stands.
    pub span: Span,
}

/// What a stage does.
#[derive(Debug, Clone, PartialEq)]
pub enum StageKind {
    /// `|= "a" or "b"`
    LineFilter(LineFilter),
    /// `| json`, `| json a="b.c[0]", d`
    Json(Vec<Extraction>),
    /// `| logfmt --strict --keep-empty a="b"`
    Logfmt {
        /// Malformed pairs are errors.
        strict: bool,
        /// Keys without value become empty labels.
        keep_empty: bool,
        /// Only these, if there are any.
        extractions: Vec<Extraction>,
    },
    /// `| xml`, `| xml a="b/c"`
    Xml(Vec<Extraction>),
    /// `| regexp "(?P<a>.*)"`
    Regexp(String),
    /// `| pattern "<a> <_>"`
    Pattern(String),
    /// `| unpack`
    Unpack,
    /// `| decolorize`
    Decolorize,
    /// `| line_format "{{.a}}"`
    LineFormat(String),
    /// `| label_format a=b, c="{{.d}}"`
    LabelFormat(Vec<LabelFormat>),
    /// `| drop a, b="c"`
    Drop(Vec<LabelChoice>),
    /// `| keep a, b="c"`
    Keep(Vec<LabelChoice>),
    /// `| a="b" and c > 5s`
    LabelFilter(LabelFilter),
}

/// How a line is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LineOp {
    /// `|=`
    Contains,
    /// `!=`
    NotContains,
    /// `|~`
    Regex,
    /// `!~`
    NotRegex,
    /// `|>`
    Pattern,
    /// `!>`
    NotPattern,
}

/// `|= "a" or "b"`: any of the needles. Negative filters have one needle: the grammar makes `!= "a" or "b"` two stages.
#[derive(Debug, Clone, PartialEq)]
pub struct LineFilter {
    /// How.
    pub op: LineOp,
    /// For what, at least one.
    pub needles: Vec<LineMatch>,
}

/// What a line filter looks for.
#[derive(Debug, Clone, PartialEq)]
pub struct LineMatch {
    /// Text, regular expression, pattern or range of addresses.
    pub value: String,
    /// Written as `ip("…")`.
    pub ip: bool,
    /// Where it stands.
    pub span: Span,
}

/// `name="expression"`, or `name` alone for both.
#[derive(Debug, Clone, PartialEq)]
pub struct Extraction {
    /// Label to make.
    pub name: String,
    /// Where its value stands in the line.
    pub path: String,
    /// Where it stands.
    pub span: Span,
}

/// `name=other` or `name="template"`.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelFormat {
    /// Label to make.
    pub name: String,
    /// Of what.
    pub value: FormatValue,
    /// Where it stands.
    pub span: Span,
}

/// Right side of a label format.
#[derive(Debug, Clone, PartialEq)]
pub enum FormatValue {
    /// Takes the value of this label, which ends.
    Rename(String),
    /// Fills in a template.
    Template(String),
}

/// What `drop` and `keep` name: a label, or a label with a value that must match.
#[derive(Debug, Clone, PartialEq)]
pub enum LabelChoice {
    /// `a`
    Name(String, Span),
    /// `a="b"`
    Match(Matcher),
}

/// Condition on labels.
#[derive(Debug, Clone, PartialEq)]
pub enum LabelFilter {
    /// `a="b"`
    Matcher(Matcher),
    /// `a > 5`, `a > 5s`, `a > 5KB`
    Compare {
        /// Name of the label.
        name: String,
        /// How.
        op: CompareOp,
        /// With what.
        value: Quantity,
        /// Where it stands.
        span: Span,
    },
    /// `a = ip("10.0.0.0/8")`
    Ip {
        /// Name of the label.
        name: String,
        /// `!=`
        negated: bool,
        /// Address, range or prefix.
        value: String,
        /// Where it stands.
        span: Span,
    },
    /// `a and b`, `a, b`, `a b`
    And(Box<LabelFilter>, Box<LabelFilter>),
    /// `a or b`
    Or(Box<LabelFilter>, Box<LabelFilter>),
}

impl LabelFilter {
    /// Where it stands.
    pub fn span(&self) -> Span {
        match self {
            Self::Matcher(matcher) => matcher.span,
            Self::Compare { span, .. } | Self::Ip { span, .. } => *span,
            Self::And(left, right) | Self::Or(left, right) => left.span().to(right.span()),
        }
    }
}

/// Comparison of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CompareOp {
    /// `=` or `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
}

impl CompareOp {
    /// Whether the two agree; NaN agrees with nothing but `!=`.
    pub fn holds<T: PartialOrd>(self, left: T, right: T) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
        }
    }
}

/// Right side of a comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Quantity {
    /// A number.
    Number(f64),
    /// Nanoseconds.
    Duration(i64),
    /// Bytes.
    Bytes(u64),
}
