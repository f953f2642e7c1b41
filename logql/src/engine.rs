//! Runs queries over a store.
//!
//! In: [`RangeQuery`] and [`InstantQuery`]. Out: [`Answered`]. Touches the store. Lines are parsed and folded on a thread that
//! may block, never on those that serve connections; whoever drops the future of a query cancels its budget.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::answer::{Answer, Answered, InstantQuery, RangeQuery, Sample, Series};
use crate::budget::Budget;
use crate::error::QueryError;
use crate::eval::{self, Column, Steps, Tally, Value};
use crate::storage::{Storage, StorageError};
use crate::syntax::tree::{Expr, MetricExpr};

/// Steps of one query at most, as in Loki and Prometheus.
pub const MAX_STEPS: i64 = 11_000;

/// Answers queries over one store. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    storage: Arc<dyn Storage>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}

fn parameter(message: impl Into<String>) -> QueryError {
    QueryError::Parameter { message: message.into() }
}

impl Engine {
    /// An engine over this store.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage }
    }

    /// The store, for questions that are no queries (`series`, `index/stats`).
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Answers a query over a range of time: streams or a matrix.
    pub async fn query_range(&self, query: RangeQuery) -> Result<Answered, QueryError> {
        let (storage, budget) = (Arc::clone(&self.storage), query.budget.clone());
        let work = async move { Evaluation::new(storage, &query.budget).range(&query).await };
        budget.compute(work).await.unwrap_or_else(ended_early)
    }

    /// Answers a metric query at one moment: a vector or a scalar.
    pub async fn query_instant(&self, query: InstantQuery) -> Result<Answered, QueryError> {
        let (storage, budget) = (Arc::clone(&self.storage), query.budget.clone());
        let work = async move { Evaluation::new(storage, &query.budget).instant(&query).await };
        budget.compute(work).await.unwrap_or_else(ended_early)
    }
}

fn ended_early() -> Result<Answered, QueryError> {
    let source = std::io::Error::other("its thread ended early, the log of the process says why");
    Err(StorageError::Failed { what: "the answer of the query".to_owned(), source: Arc::new(source) }.into())
}

/// One query under way.
struct Evaluation {
    storage: Arc<dyn Storage>,
    tally: Tally,
}

impl Evaluation {
    fn new(storage: Arc<dyn Storage>, budget: &Budget) -> Self {
        Self { storage, tally: Tally::new(budget) }
    }

    async fn range(mut self, query: &RangeQuery) -> Result<Answered, QueryError> {
        let limits = query.budget.limits();
        let value = match query.query.as_ref() {
            Expr::Log(log) => {
                if query.limit > limits.max_entries {
                    return Err(parameter(format!(
                        "max entries limit per query exceeded, limit > max_entries_limit_per_query ({} > {})",
                        query.limit, limits.max_entries
                    )));
                }
                if query.interval_ns < 0 {
                    return Err(parameter("interval must be >= 0"));
                }
                Answer::Streams(eval::log::scan(self.storage.as_ref(), query, log, &mut self.tally).await?)
            }
            Expr::Metric(metric) => {
                let steps = range_steps(query)?;
                let columns = eval::series(self.metric(&query.tenant, metric, steps).await?, &steps);
                Answer::Matrix(matrix(columns, &steps, &query.budget)?)
            }
            Expr::Variants(variants) => {
                return Err(QueryError::NotYet { what: "`variants`".to_owned(), span: variants.span });
            }
        };
        Ok(Answered { value, statistics: self.tally.statistics() })
    }

    async fn instant(mut self, query: &InstantQuery) -> Result<Answered, QueryError> {
        let steps = Steps { start_ns: query.time_ns, step_ns: 1, count: 1 };
        let value = match query.query.as_ref() {
            Expr::Log(_) => {
                return Err(parameter(
                    "log queries are not supported as an instant query type, please change your query to a range query type",
                ));
            }
            Expr::Metric(metric) => match self.metric(&query.tenant, metric, steps).await? {
                Value::Scalar(value) => Answer::Scalar(query.time_ns, value),
                Value::Columns(columns) => Answer::Vector(vector(columns, &steps, &query.budget)?),
            },
            Expr::Variants(variants) => {
                return Err(QueryError::NotYet { what: "`variants`".to_owned(), span: variants.span });
            }
        };
        Ok(Answered { value, statistics: self.tally.statistics() })
    }

    async fn metric(&mut self, tenant: &str, expr: &MetricExpr, steps: Steps) -> Result<Value, QueryError> {
        let mut leaves = Vec::new();
        eval::leaves(expr, &mut leaves);
        let mut scanned: HashMap<String, Vec<Column>> = HashMap::new();
        for leaf in &leaves {
            if let Entry::Vacant(place) = scanned.entry(leaf.key()) {
                place.insert(eval::range::scan(self.storage.as_ref(), tenant, leaf, steps, &mut self.tally).await?);
            }
        }
        self.tally.budget.check()?;
        eval::compute(expr, &steps, &scanned)
    }
}

fn range_steps(query: &RangeQuery) -> Result<Steps, QueryError> {
    if query.step_ns <= 0 {
        return Err(parameter(
            "zero or negative query resolution step widths are not accepted. Try a positive integer",
        ));
    }
    let width = i128::from(query.end_ns) - i128::from(query.start_ns);
    if width < 0 {
        return Err(parameter("end timestamp must not be before or equal to start time"));
    }
    let count = width / i128::from(query.step_ns) + 1;
    if count > i128::from(MAX_STEPS) {
        return Err(parameter(
            "exceeded maximum resolution of 11,000 points per time series. Try increasing the value of the step parameter",
        ));
    }
    Ok(Steps { start_ns: query.start_ns, step_ns: query.step_ns, count: usize::try_from(count).unwrap_or(1) })
}

fn matrix(columns: Vec<Column>, steps: &Steps, budget: &Budget) -> Result<Vec<Series>, QueryError> {
    let mut series: Vec<Series> = columns
        .into_iter()
        .map(|c| {
            let points = c.values.iter().enumerate().filter_map(|(k, v)| Some((steps.at(k), (*v)?))).collect();
            Series { labels: c.labels, points }
        })
        .filter(|s| !s.points.is_empty())
        .collect();
    budget.check_series(series.len())?;
    series.sort_by(|a, b| a.labels.cmp(&b.labels));
    Ok(series)
}

fn vector(columns: Vec<Column>, steps: &Steps, budget: &Budget) -> Result<Vec<Sample>, QueryError> {
    let samples: Vec<Sample> = columns
        .into_iter()
        .filter_map(|c| {
            let value = c.values.first().copied().flatten()?;
            Some(Sample { labels: c.labels, time_ns: steps.start_ns, value })
        })
        .collect();
    budget.check_series(samples.len())?;
    Ok(samples)
}
