//! What the page shows: parameters of the address, the lines and counts of the engine, the alerts of the rules.
//!
//! In: parameters, engine. Out: plain data for `page.rs`. Touches nothing itself.

use std::sync::Arc;

use millrace_logql::storage::QueryLimits;
use millrace_logql::{Answer, Direction, Expr, RangeQuery};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::PageState;

/// One alert for the page.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertRow {
    /// Name of the rule.
    pub name: String,
    /// `pending`, `firing` or `resolved`.
    pub state: String,
    /// All labels but the name.
    pub labels: Vec<(String, String)>,
    /// Value at the last evaluation.
    pub value: f64,
    /// Since when it is in this state, ns since 1970.
    pub since_ns: i64,
    /// Annotation `summary`, if there is one.
    pub summary: String,
}

/// Where alerts come from: the rules, plugged in by the binary.
pub trait AlertList: Send + Sync + 'static {
    /// All alerts, worst first.
    fn alerts(&self) -> Vec<AlertRow>;
}

/// No rules run in this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoAlerts;

impl AlertList for NoAlerts {
    fn alerts(&self) -> Vec<AlertRow> {
        Vec::new()
    }
}

/// Parameters of the address.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Params {
    query: Option<String>,
    range: Option<String>,
    limit: Option<usize>,
}

/// Ranges to choose from: name, text, seconds.
pub const RANGES: [(&str, &str, i64); 7] = [
    ("5m", "last 5 minutes", 300),
    ("15m", "last 15 minutes", 900),
    ("1h", "last hour", 3600),
    ("6h", "last 6 hours", 6 * 3600),
    ("24h", "last day", 24 * 3600),
    ("7d", "last 7 days", 7 * 24 * 3600),
    ("30d", "last 30 days", 30 * 24 * 3600),
];

const DEFAULT_RANGE: usize = 2;
const DEFAULT_LINES: usize = 200;
const MAX_LINES: usize = 2000;

impl Params {
    /// The query without blanks around it.
    pub fn query(&self) -> &str {
        self.query.as_deref().unwrap_or("").trim()
    }

    /// Lines to show at most.
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(DEFAULT_LINES).clamp(1, MAX_LINES)
    }
}

/// Time range of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Name as in [`RANGES`].
    pub name: &'static str,
    /// First nanosecond.
    pub start_ns: i64,
    /// Exclusive.
    pub end_ns: i64,
    /// Width of one bar.
    pub step_ns: i64,
}

const BARS: i64 = 60;

impl Range {
    /// The range that the parameters name; bars start at whole multiples of their width.
    pub fn of(params: &Params, now_ns: i64) -> Self {
        let wanted = params.range.as_deref();
        let (name, _, seconds) =
            RANGES.into_iter().find(|(name, ..)| Some(*name) == wanted).unwrap_or(RANGES[DEFAULT_RANGE]);
        let step_ns = seconds * 1_000_000_000 / BARS;
        // One nanosecond beyond now: a line of this very moment belongs to it.
        let end_ns = now_ns.saturating_add(1);
        Self { name, start_ns: end_ns - seconds * 1_000_000_000, end_ns, step_ns }
    }
}

/// One line for the page.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Event time, ns since 1970.
    pub time_ns: i64,
    /// Labels of its stream, with what the pipeline added.
    pub labels: Vec<(String, String)>,
    /// Its text.
    pub text: String,
}

/// One series of a metric query, as its latest value.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its labels.
    pub labels: Vec<(String, String)>,
    /// The last value in the range.
    pub last: f64,
}

/// What a query found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Newest first.
    pub lines: Vec<Line>,
    /// For metric queries.
    pub series: Vec<Series>,
    /// (time of the bar's start in ns, lines or value).
    pub bars: Vec<(i64, f64)>,
    /// What was wrong, as the engine says it.
    pub error: Option<String>,
}

/// Asks the engine for lines and for counts over time.
pub async fn find(
    state: &PageState,
    tenant: &str,
    query: &str,
    range: &Range,
    limit: usize,
    cancel: CancellationToken,
) -> Found {
    let mut found = Found::default();
    let ask = |expr: Expr| RangeQuery {
        tenant: tenant.to_owned(),
        query: Arc::new(expr),
        start_ns: range.start_ns,
        end_ns: range.end_ns,
        step_ns: range.step_ns,
        limit,
        interval_ns: 0,
        direction: Direction::Backward,
        limits: limits(&state.limits, limit),
        cancel: cancel.clone(),
    };
    let expr = match millrace_logql::parse(query) {
        Ok(expr) => expr,
        Err(error) => {
            found.error = Some(error.to_string());
            return found;
        }
    };
    match state.engine.query_range(ask(expr)).await {
        Err(error) => found.error = Some(error.to_string()),
        Ok(answer) => match answer.value {
            Answer::Streams(streams) => {
                for stream in streams {
                    for entry in stream.entries {
                        let labels = stream.labels.clone();
                        found.lines.push(Line { time_ns: entry.time_ns, labels, text: entry.line });
                    }
                }
                found.lines.sort_by_key(|line| std::cmp::Reverse(line.time_ns));
                let counts = format!("sum(count_over_time({query}[{}s]))", (range.step_ns / 1_000_000_000).max(1));
                // A query that can't be counted (a pipeline error, say) still shows its lines.
                if let Ok(counts) = millrace_logql::parse(&counts)
                    && let Ok(answer) = state.engine.query_range(ask(counts)).await
                {
                    found.bars = bars(answer.value);
                }
            }
            other => {
                found.series = series(&other);
                found.bars = bars(other);
            }
        },
    }
    found
}

fn limits(configured: &QueryLimits, entries: usize) -> QueryLimits {
    QueryLimits { max_entries: configured.max_entries.max(entries), ..configured.clone() }
}

/// Sum of all series per step.
fn bars(answer: Answer) -> Vec<(i64, f64)> {
    let Answer::Matrix(series) = answer else { return Vec::new() };
    let mut sums = std::collections::BTreeMap::new();
    for (time_ns, value) in series.into_iter().flat_map(|s| s.points) {
        *sums.entry(time_ns).or_insert(0.0) += value;
    }
    sums.into_iter().collect()
}

fn series(answer: &Answer) -> Vec<Series> {
    let Answer::Matrix(series) = answer else { return Vec::new() };
    let mut all: Vec<Series> = series
        .iter()
        .map(|s| Series { labels: s.labels.clone(), last: s.points.last().map_or(f64::NAN, |(_, value)| *value) })
        .collect();
    all.sort_by(|a, b| b.last.total_cmp(&a.last));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_now_and_have_sixty_bars() {
        let params = |range: &str| Params { range: Some(range.to_owned()), ..Params::default() };
        for (name, want, seconds) in [("5m", "5m", 300), ("7d", "7d", 604_800), ("nonsense", "1h", 3600)] {
            let range = Range::of(&params(name), 10_000_000_000_000_000);
            assert_eq!(range.name, want);
            assert_eq!(range.end_ns - range.start_ns, seconds * 1_000_000_000);
            assert_eq!((range.end_ns - range.start_ns) / range.step_ns, 60);
        }
    }

    #[test]
    fn line_counts_are_bounded() {
        for (given, want) in [(None, 200), (Some(0), 1), (Some(50), 50), (Some(1_000_000), 2000)] {
            assert_eq!(Params { limit: given, ..Params::default() }.limit(), want);
        }
    }
}
