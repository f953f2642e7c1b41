//! What the tests of this crate share: those of the notifier's, and evaluators by script.

#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    reason = "each test uses a part; it ends where something is not as it should be"
)]

#[path = "../../../notify/tests/support/mod.rs"]
mod notifier;

use std::collections::HashMap;
use std::time::Duration;

use millrace_log::alert::LabelSet;
use millrace_logql::budget::{Asker, QueryLimits};
use millrace_rules::{Allowance, EvaluateError, Evaluation, Evaluator, Sample};
pub use notifier::*;
use parking_lot::Mutex;

/// Answers by expression; what is not set is an empty answer.
#[derive(Default)]
pub struct Answers {
    pub by_expr: Mutex<HashMap<String, Answer>>,
    pub asked: Mutex<Vec<(String, i64)>>,
    pub watermark: Mutex<Option<i64>>,
    pub limits: Mutex<Option<QueryLimits>>,
}

#[derive(Clone)]
pub enum Answer {
    Series(Vec<(LabelSet, f64)>),
    Fails(&'static str),
    Slow(Duration),
}

impl Answers {
    pub fn set(&self, expr: &str, answer: Answer) {
        self.by_expr.lock().insert(expr.to_owned(), answer);
    }
}

#[async_trait::async_trait]
impl Evaluator for Answers {
    async fn evaluate(&self, request: &Evaluation<'_>) -> Result<Vec<Sample>, EvaluateError> {
        assert_eq!(request.budget.asker(), Asker::Rule, "rules read on threads of their own");
        let expr = request.expr.text().to_owned();
        self.asked.lock().push((expr.clone(), request.at_ns));
        let answer = self.by_expr.lock().get(&expr).cloned();
        match answer {
            None => Ok(Vec::new()),
            Some(Answer::Series(series)) => {
                Ok(series.into_iter().map(|(labels, value)| Sample { labels, value }).collect())
            }
            Some(Answer::Fails(text)) => Err(EvaluateError::Query { source: text.into() }),
            Some(Answer::Slow(time)) => {
                tokio::time::sleep(time).await;
                Ok(Vec::new())
            }
        }
    }

    async fn watermark(&self) -> i64 {
        self.watermark.lock().unwrap_or(i64::MAX)
    }

    fn allowance(&self) -> Allowance {
        Allowance::new(self.limits.lock().clone().unwrap_or_default(), "query.timeout")
    }
}
