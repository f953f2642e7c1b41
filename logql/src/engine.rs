//! Runs queries over a store.
//!
//! In: [`RangeQuery`] and [`InstantQuery`]. Out: [`Answered`]. Touches the store, and a monotonic clock for the time
//! limit. Work on a batch of lines is one async step; between batches the engine yields.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use futures::future::{self, Either};
use tokio_util::sync::CancellationToken;

use crate::answer::{Answer, Answered, InstantQuery, RangeQuery, Sample, Series, Statistics};
use crate::error::QueryError;
use crate::eval::{self, Column, Steps, Value};
use crate::storage::{EntryBatch, QueryLimits, Storage};
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

/// What one query may still cost, and what it cost so far.
pub(crate) struct Budget {
    /// Its limits.
    pub limits: QueryLimits,
    /// Set when nobody waits.
    pub cancel: CancellationToken,
    /// Lines that passed the pipeline.
    pub passed: u64,
    started: Instant,
    bytes: u64,
    lines: u64,
    held: u64,
}

impl Budget {
    fn new(limits: &QueryLimits, cancel: &CancellationToken) -> Self {
        Self {
            limits: limits.clone(),
            cancel: cancel.clone(),
            passed: 0,
            started: Instant::now(),
            bytes: 0,
            lines: 0,
            held: 0,
        }
    }

    fn statistics(&self) -> Statistics {
        Statistics {
            bytes: self.bytes,
            lines: self.lines,
            lines_after_filter: self.passed,
            seconds: self.started.elapsed().as_secs_f64(),
        }
    }

    /// Waits for the store, or until the query is cancelled.
    pub async fn wait<T>(&self, next: impl Future<Output = T>) -> Result<T, QueryError> {
        if self.cancel.is_cancelled() {
            return Err(QueryError::Cancelled);
        }
        if self.started.elapsed() > self.limits.timeout {
            let allowed = format!("{:?}", self.limits.timeout);
            return Err(QueryError::Limit { limit: "timeout", allowed });
        }
        match future::select(pin!(next), pin!(self.cancel.cancelled())).await {
            Either::Left((found, _)) => Ok(found),
            Either::Right(_) => Err(QueryError::Cancelled),
        }
    }

    /// Counts what a batch cost.
    pub fn read(&mut self, batch: &EntryBatch) -> Result<(), QueryError> {
        self.lines += batch.entries.len() as u64;
        self.bytes += batch.entries.iter().map(|e| u64::from(e.line.end - e.line.start)).sum::<u64>();
        if self.bytes > self.limits.max_bytes_read {
            let allowed = format!("{} bytes", self.limits.max_bytes_read);
            return Err(QueryError::Limit { limit: "max_bytes_read", allowed });
        }
        Ok(())
    }

    /// Counts memory that the query keeps.
    pub fn hold(&mut self, bytes: usize) -> Result<(), QueryError> {
        self.held += bytes as u64;
        if self.held > self.limits.max_memory_bytes {
            let allowed = format!("{} bytes", self.limits.max_memory_bytes);
            return Err(QueryError::Limit { limit: "max_memory_bytes", allowed });
        }
        Ok(())
    }

    /// Lets other tasks run.
    pub async fn breathe(&self) {
        let mut yielded = false;
        future::poll_fn(|context| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn check_series(&self, count: usize) -> Result<(), QueryError> {
        if count > self.limits.max_series {
            let allowed = format!("{} series", self.limits.max_series);
            return Err(QueryError::Limit { limit: "max_series", allowed });
        }
        Ok(())
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
        let expr = crate::parse(&query.query)?;
        let mut budget = Budget::new(&query.limits, &query.cancel);
        let value = match &expr {
            Expr::Log(log) => {
                if query.limit > query.limits.max_entries {
                    return Err(parameter(format!(
                        "max entries limit per query exceeded, limit > max_entries_limit_per_query ({} > {})",
                        query.limit, query.limits.max_entries
                    )));
                }
                if query.interval_ns < 0 {
                    return Err(parameter("interval must be >= 0"));
                }
                Answer::Streams(eval::log::scan(self.storage.as_ref(), &query, log, &mut budget).await?)
            }
            Expr::Metric(metric) => {
                let steps = range_steps(&query)?;
                let columns = eval::series(self.metric(&query.tenant, metric, steps, &mut budget).await?, &steps);
                Answer::Matrix(matrix(columns, &steps, &budget)?)
            }
            Expr::Variants(variants) => {
                return Err(QueryError::NotYet { what: "`variants`".to_owned(), span: variants.span });
            }
        };
        Ok(Answered { value, statistics: budget.statistics() })
    }

    /// Answers a metric query at one moment: a vector or a scalar.
    pub async fn query_instant(&self, query: InstantQuery) -> Result<Answered, QueryError> {
        let expr = crate::parse(&query.query)?;
        let mut budget = Budget::new(&query.limits, &query.cancel);
        let steps = Steps { start_ns: query.time_ns, step_ns: 1, count: 1 };
        let value = match &expr {
            Expr::Log(_) => {
                return Err(parameter(
                    "log queries are not supported as an instant query type, please change your query to a range query type",
                ));
            }
            Expr::Metric(metric) => match self.metric(&query.tenant, metric, steps, &mut budget).await? {
                Value::Scalar(value) => Answer::Scalar(query.time_ns, value),
                Value::Columns(columns) => Answer::Vector(vector(columns, &steps)),
            },
            Expr::Variants(variants) => {
                return Err(QueryError::NotYet { what: "`variants`".to_owned(), span: variants.span });
            }
        };
        Ok(Answered { value, statistics: budget.statistics() })
    }

    async fn metric(
        &self,
        tenant: &str,
        expr: &MetricExpr,
        steps: Steps,
        budget: &mut Budget,
    ) -> Result<Value, QueryError> {
        let mut leaves = Vec::new();
        eval::leaves(expr, &mut leaves);
        let mut scanned: HashMap<String, Vec<Column>> = HashMap::new();
        for leaf in &leaves {
            if let Entry::Vacant(place) = scanned.entry(leaf.key()) {
                place.insert(eval::range::scan(self.storage.as_ref(), tenant, leaf, steps, budget).await?);
            }
        }
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

/// Not limited in number, as in Loki: one value each, bounded by the memory of the query.
fn vector(columns: Vec<Column>, steps: &Steps) -> Vec<Sample> {
    columns
        .into_iter()
        .filter_map(|c| {
            let value = c.values.first().copied().flatten()?;
            Some(Sample { labels: c.labels, time_ns: steps.start_ns, value })
        })
        .collect()
}
