//! What the engine finds for a page: lines or series, counts over time, labels that all lines share.
//!
//! In: a query, a range. Out: plain data for `page.rs`. Touches nothing itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_log::record::Tenant;
use millrace_logql::{Answer, Budget, Direction, Expr, LabelPairs, RangeQuery};

use super::range::{BARS, Range};
use super::state::PageState;

/// One line for the page.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Event time, ns since 1970.
    pub time_ns: i64,
    /// Labels of its stream, with what the pipeline added, without those that all lines share.
    pub labels: LabelPairs,
    /// Its text.
    pub text: String,
}

/// One series of a metric query, as its latest value.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its labels.
    pub labels: LabelPairs,
    /// The last value in the range.
    pub last: f64,
}

/// What a query found.
#[derive(Debug, Clone, Default)]
pub struct QueryResult {
    /// Newest first.
    pub lines: Vec<Line>,
    /// Labels that all of them have, with equal values.
    pub common: LabelPairs,
    /// Lines in the whole range; `None` if they can't be counted.
    pub total: Option<u64>,
    /// For metric queries.
    pub series: Vec<Series>,
    /// The log query behind a metric query, and how far before the range its first line may be, ns.
    pub behind: Option<(String, i64)>,
    /// (start of the bar in ns, lines or value).
    pub bars: Vec<(i64, f64)>,
    /// What was wrong, as the engine says it.
    pub error: Option<String>,
    /// What is missing from the answer.
    pub warnings: Vec<String>,
}

/// Asks the engine for lines and for counts over time.
pub async fn find(
    state: &PageState,
    tenant: &Tenant,
    text: &str,
    expr: &Arc<Expr>,
    range: &Range,
    limit: usize,
    budget: &Budget,
) -> QueryResult {
    let mut found = QueryResult::default();
    let ask = |expr: Arc<Expr>, (start_ns, end_ns): (i64, i64)| RangeQuery {
        tenant: tenant.as_str().to_owned(),
        start_ns,
        end_ns,
        step_ns: range.step_ns,
        limit,
        direction: Direction::Backward,
        budget: budget.clone(),
        ..RangeQuery::new(expr)
    };
    // A value at t speaks of (t - step, t]: one step behind the last nanosecond before each bar.
    let first_ns = range.start_ns.saturating_sub(1).saturating_add(range.step_ns);
    let steps = (first_ns, first_ns.saturating_add((BARS - 1) * range.step_ns));
    match expr.as_ref() {
        Expr::Metric(metric) => {
            found.behind = metric.lines_behind().map(|behind| (behind.query([]), behind.reach_ns));
            match state.engine.query_range(ask(Arc::clone(expr), steps)).await {
                Err(error) => found.error = Some(error.to_string()),
                Ok(answer) => {
                    found.series = series(&answer.value);
                    found.bars = bars(answer.value, range);
                }
            }
        }
        _ => {
            match state.engine.query_range(ask(Arc::clone(expr), (range.start_ns, range.end_ns))).await {
                Err(error) => found.error = Some(error.to_string()),
                Ok(answer) => (found.common, found.lines) = lines(answer.value),
            }
            let counts = format!("sum(count_over_time({text}[{}ms]))", range.step_ns / 1_000_000);
            // A query that can't be counted (a pipeline error, say) still shows its lines.
            if found.error.is_none()
                && let Ok(counts) = millrace_logql::parse_any_stream(&counts)
                && let Ok(answer) = state.engine.query_range(ask(Arc::new(counts), steps)).await
            {
                found.bars = bars(answer.value, range);
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // whole numbers, not negative
                let total = found.bars.iter().map(|(_, lines)| *lines).sum::<f64>() as u64;
                found.total = Some(total);
            }
        }
    }
    // After the queries: one of them may have met the damage.
    let damaged = state.store.damaged(tenant, range.start_ns.saturating_sub(expr.reach_ns()), range.end_ns);
    found.warnings = damaged.iter().map(ToString::to_string).collect();
    found
}

/// Labels that all lines share, and the lines with the others, newest first.
fn lines(answer: Answer) -> (LabelPairs, Vec<Line>) {
    let Answer::Streams(streams) = answer else { return Default::default() };
    let mut common: Option<LabelPairs> = None;
    for stream in streams.iter().filter(|stream| !stream.entries.is_empty()) {
        match &mut common {
            None => common = Some(stream.labels.clone()),
            Some(common) => common.retain(|pair| stream.labels.contains(pair)),
        }
    }
    let common = common.unwrap_or_default();
    let mut lines = Vec::new();
    for stream in streams {
        let own: LabelPairs = stream.labels.iter().filter(|pair| !common.contains(pair)).cloned().collect();
        for entry in stream.entries {
            lines.push(Line { time_ns: entry.time_ns, labels: own.clone(), text: entry.line });
        }
    }
    lines.sort_by_key(|line| std::cmp::Reverse(line.time_ns));
    (common, lines)
}

/// Sum of all series per bar.
fn bars(answer: Answer, range: &Range) -> Vec<(i64, f64)> {
    let Answer::Matrix(series) = answer else { return Vec::new() };
    let mut sums = BTreeMap::new();
    for (time_ns, value) in series.into_iter().flat_map(|s| s.points) {
        *sums.entry(time_ns.saturating_add(1).saturating_sub(range.step_ns)).or_insert(0.0) += value;
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
