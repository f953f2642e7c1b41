//! What a query asks for and what comes back.
//!
//! Plain data: in from the doors (Loki API, page, rules), out to them. Touches nothing.

use std::sync::Arc;

use crate::budget::Budget;
pub use crate::labels::LabelPairs;
use crate::syntax::tree::Expr;

/// Order of the entries of a log query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Direction {
    /// Oldest first.
    Forward,
    /// Newest first.
    #[default]
    Backward,
}

/// A query over a range of time.
#[derive(Debug, Clone)]
pub struct RangeQuery {
    /// Whose entries.
    pub tenant: String,
    /// What is asked, as [`crate::parse`] reads it: whoever asks again does not parse again.
    pub query: Arc<Expr>,
    /// Log queries: first nanosecond. Metric queries: time of the first step.
    pub start_ns: i64,
    /// Log queries: exclusive. Metric queries: the last step lies at or before it.
    pub end_ns: i64,
    /// Distance of the steps of a metric query; steps lie at `start_ns + k * step_ns`. At least 1 ns.
    pub step_ns: i64,
    /// Log queries: leaves out entries nearer than this to the one before in their stream; 0 keeps all.
    pub interval_ns: i64,
    /// Entries of a log query over all streams.
    pub limit: usize,
    /// Order of the entries of a log query.
    pub direction: Direction,
    /// What it may still cost.
    pub budget: Budget,
}

impl RangeQuery {
    /// A query over the empty range: set what you need.
    pub fn new(query: impl Into<Arc<Expr>>) -> Self {
        Self {
            tenant: String::new(),
            query: query.into(),
            start_ns: 0,
            end_ns: 0,
            step_ns: 0,
            interval_ns: 0,
            limit: 0,
            direction: Direction::default(),
            budget: Budget::default(),
        }
    }
}

/// A query at one moment: metric queries only.
#[derive(Debug, Clone)]
pub struct InstantQuery {
    /// Whose entries.
    pub tenant: String,
    /// What is asked, as [`crate::parse`] reads it: whoever asks again does not parse again.
    pub query: Arc<Expr>,
    /// The moment: ranges end there, inclusive.
    pub time_ns: i64,
    /// What it may still cost.
    pub budget: Budget,
}

impl InstantQuery {
    /// A query at 1970: set what you need.
    pub fn new(query: impl Into<Arc<Expr>>) -> Self {
        Self { tenant: String::new(), query: query.into(), time_ns: 0, budget: Budget::default() }
    }
}

/// An answer with what it cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// What was asked.
    pub value: Answer,
    /// What it cost.
    pub statistics: Statistics,
}

/// What a query found.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Lines of a log query, in streams of equal labels.
    Streams(Vec<StreamResult>),
    /// A metric query at one moment. The order counts after `sort` and `sort_desc`.
    Vector(Vec<Sample>),
    /// A metric query over a range, sorted by labels.
    Matrix(Vec<Series>),
    /// A literal at one moment: (time in ns, value).
    Scalar(i64, f64),
}

/// Entries with equal labels after the pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamResult {
    /// All labels: of the stream, of its structured metadata, and what parsers and formats made.
    pub labels: LabelPairs,
    /// Only those of the stream, as the pipeline left them: Loki's `stream` when labels are categorized.
    pub stream_labels: LabelPairs,
    /// In the order asked for.
    pub entries: Vec<EntryResult>,
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct EntryResult {
    /// Event time, ns since 1970.
    pub time_ns: i64,
    /// The line as the pipeline left it; bytes that are no UTF-8 are U+FFFD.
    pub line: String,
    /// Structured metadata, as the pipeline left it. Part of [`StreamResult::labels`].
    pub metadata: LabelPairs,
    /// What parsers and formats made. Part of [`StreamResult::labels`].
    pub parsed: LabelPairs,
}

/// One value at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Labels of the series.
    pub labels: LabelPairs,
    /// The moment, ns since 1970.
    pub time_ns: i64,
    /// The value.
    pub value: f64,
}

/// Values at the steps of a range.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Labels of the series.
    pub labels: LabelPairs,
    /// (time in ns, value), oldest first; steps without a value are left out.
    pub points: Vec<(i64, f64)>,
}

/// What a query cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Statistics {
    /// Bytes of the lines read from the store.
    pub bytes: u64,
    /// Lines read from the store.
    pub lines: u64,
    /// Lines that passed the pipeline.
    pub lines_after_filter: u64,
    /// Wall time, seconds.
    pub seconds: f64,
}

/// Labels as Loki shows them: `{app="api", env="prod"}`.
pub fn show_labels(labels: &[(String, String)]) -> String {
    let pairs: Vec<String> = labels.iter().map(|(n, v)| format!("{n}={}", crate::syntax::quantity::quote(v))).collect();
    format!("{{{}}}", pairs.join(", "))
}
