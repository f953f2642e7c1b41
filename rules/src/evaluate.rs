//! Asking for the series of a rule: the seam between rules and whatever answers them, and the answer by query.
//!
//! In: a tenant, an expression, a time and the watermark. Out: series with values, or why there is no answer.
//! Touches nothing itself; [`QueryEvaluator`] asks the query engine. Leaves turns and states to `manager.rs`.

use std::sync::Arc;

use millrace_log::record::Tenant;
use millrace_logql::storage::QueryLimits;
use millrace_logql::{Answer, Budget, Engine, InstantQuery, QueryError};

use crate::expr::Expression;
use millrace_log::alert::LabelSet;

/// One question: the series of an expression at a time.
#[derive(Debug, Clone, Copy)]
pub struct Evaluation<'a> {
    /// Whose lines.
    pub tenant: &'a Tenant,
    /// What is asked, as text and tree.
    pub expr: &'a Expression,
    /// Event time of the answer, ns since 1970: range windows end here, this time included.
    pub at_ns: i64,
    /// Event time up to which all lines are there, ns since 1970: behind `at_ns` when lines are late.
    pub watermark_ns: i64,
    /// What the answer may cost; whoever stops waiting for it cancels it.
    pub budget: &'a Budget,
}

/// One series of the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its labels.
    pub labels: LabelSet,
    /// Its value.
    pub value: f64,
}

/// Why there is no answer; the states of alerts are kept.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// The query engine said so.
    #[error("query failed: {source}")]
    Query {
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It took longer than `rules.timeout`.
    #[error("query took longer than {allowed:?}: make its range or selector narrower, or raise `rules.timeout`")]
    Timeout {
        /// Time allowed.
        allowed: std::time::Duration,
    },
    /// The answer is of another kind.
    #[error(
        "the expression returns {kind}, but a rule requires an instant vector: wrap it in `rate(… [1m])` or `count_over_time(… [1m])`"
    )]
    Kind {
        /// What came.
        kind: &'static str,
    },
}

/// Who answers rules.
#[async_trait::async_trait]
pub trait Evaluator: Send + Sync + 'static {
    /// The series at a time.
    async fn evaluate(&self, request: &Evaluation<'_>) -> Result<Vec<Sample>, EvaluateError>;

    /// Event time up to which all lines have arrived, ns since 1970. Idle partitions do not hold it up;
    /// `i64::MAX` where nobody knows.
    async fn watermark(&self) -> i64;

    /// What one answer may cost at most, besides `rules.timeout`.
    fn limits(&self) -> QueryLimits {
        QueryLimits::default()
    }
}

#[async_trait::async_trait]
impl<E: Evaluator + ?Sized> Evaluator for Arc<E> {
    async fn evaluate(&self, request: &Evaluation<'_>) -> Result<Vec<Sample>, EvaluateError> {
        (**self).evaluate(request).await
    }

    async fn watermark(&self) -> i64 {
        (**self).watermark().await
    }

    fn limits(&self) -> QueryLimits {
        (**self).limits()
    }
}

/// Asks the query engine, as anybody at the API would.
pub struct QueryEvaluator {
    engine: Engine,
    limits: QueryLimits,
    watermark: Box<dyn Fn() -> i64 + Send + Sync>,
}

impl std::fmt::Debug for QueryEvaluator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryEvaluator").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl QueryEvaluator {
    /// Asks this engine within these limits; `watermark` says up to which event time all lines have arrived
    /// (see [`Evaluator::watermark`]).
    pub fn new(engine: Engine, limits: QueryLimits, watermark: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self { engine, limits, watermark: Box::new(watermark) }
    }
}

#[async_trait::async_trait]
impl Evaluator for QueryEvaluator {
    async fn evaluate(&self, request: &Evaluation<'_>) -> Result<Vec<Sample>, EvaluateError> {
        let query = InstantQuery {
            tenant: request.tenant.as_str().to_owned(),
            query: Arc::clone(request.expr.tree()),
            time_ns: request.at_ns,
            budget: request.budget.clone(),
        };
        let answered = self.engine.query_instant(query).await.map_err(|source| match source {
            QueryError::Limit { limit: "timeout", .. } => {
                EvaluateError::Timeout { allowed: request.budget.limits().timeout }
            }
            source => EvaluateError::Query { source: Box::new(source) },
        })?;
        match answered.value {
            Answer::Vector(samples) => Ok(samples
                .into_iter()
                .map(|sample| Sample { labels: sample.labels.into_iter().collect(), value: sample.value })
                .collect()),
            // As Prometheus: a number is one series without labels.
            Answer::Scalar(_, value) => Ok(vec![Sample { labels: LabelSet::new(), value }]),
            Answer::Streams(_) => Err(EvaluateError::Kind { kind: "log lines" }),
            Answer::Matrix(_) => Err(EvaluateError::Kind { kind: "a range vector" }),
        }
    }

    async fn watermark(&self) -> i64 {
        (self.watermark)()
    }

    fn limits(&self) -> QueryLimits {
        self.limits.clone()
    }
}
