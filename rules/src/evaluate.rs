//! Asking for the series of a rule: the seam between rules and whatever answers them, and the answer by query.
//!
//! In: a tenant, an expression, a time and the watermark. Out: series with values, or why there is no answer.
//! Touches nothing itself; [`QueryEvaluator`] asks the query engine. Leaves turns and states to `manager.rs`.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

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
    /// Settings that the time in it is from, as in [`Allowance::timeout_set_by`].
    pub timeout_set_by: &'a str,
}

impl Evaluation<'_> {
    /// The time in its budget is over.
    pub fn timed_out(&self) -> EvaluateError {
        EvaluateError::Timeout { allowed: self.budget.limits().timeout, set_by: self.timeout_set_by.to_owned() }
    }
}

/// What one answer may cost at most.
#[derive(Debug, Clone)]
pub struct Allowance {
    /// The limits.
    pub limits: QueryLimits,
    /// The settings that `limits.timeout` is from, in backquotes.
    pub timeout_set_by: String,
}

impl Allowance {
    /// These limits; `setting` is the path of the one that `limits.timeout` is from.
    pub fn new(limits: QueryLimits, setting: &str) -> Self {
        Self { limits, timeout_set_by: format!("`{setting}`") }
    }

    /// The same, within `rules.timeout`.
    #[must_use]
    pub fn within_timeout(mut self, timeout: Duration) -> Self {
        const OWN: &str = "`rules.timeout`";
        self.timeout_set_by = match timeout.cmp(&self.limits.timeout) {
            Ordering::Less => OWN.to_owned(),
            // Either alone would change nothing.
            Ordering::Equal => format!("{OWN} and {}", self.timeout_set_by),
            Ordering::Greater => self.timeout_set_by,
        };
        self.limits.timeout = timeout.min(self.limits.timeout);
        self
    }
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
    /// It took too long.
    #[error("query took longer than {allowed:?}: make its range or selector narrower, or raise {set_by}")]
    Timeout {
        /// Time allowed.
        allowed: Duration,
        /// The settings that say so, in backquotes.
        set_by: String,
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
    fn allowance(&self) -> Allowance;
}

#[async_trait::async_trait]
impl<E: Evaluator + ?Sized> Evaluator for Arc<E> {
    async fn evaluate(&self, request: &Evaluation<'_>) -> Result<Vec<Sample>, EvaluateError> {
        (**self).evaluate(request).await
    }

    async fn watermark(&self) -> i64 {
        (**self).watermark().await
    }

    fn allowance(&self) -> Allowance {
        (**self).allowance()
    }
}

/// Asks the query engine, as anybody at the API would.
pub struct QueryEvaluator {
    engine: Engine,
    allowance: Allowance,
    watermark: Box<dyn Fn() -> i64 + Send + Sync>,
}

impl std::fmt::Debug for QueryEvaluator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryEvaluator").field("allowance", &self.allowance).finish_non_exhaustive()
    }
}

impl QueryEvaluator {
    /// Asks this engine within these limits; `watermark` says up to which event time all lines have arrived
    /// (see [`Evaluator::watermark`]).
    pub fn new(engine: Engine, allowance: Allowance, watermark: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self { engine, allowance, watermark: Box::new(watermark) }
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
            QueryError::Limit { limit: "timeout", .. } => request.timed_out(),
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

    fn allowance(&self) -> Allowance {
        self.allowance.clone()
    }
}
