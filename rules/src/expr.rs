//! A rule's expression: LogQL that gives one value per series.
//!
//! In: text. Out: the text with its tree, or the first fault with its byte. Touches nothing.

use std::sync::Arc;

use millrace_logql::Expr;

/// A checked expression.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    text: String,
    tree: Arc<Expr>,
}

/// What is wrong with an expression, and at which byte of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpressionFault {
    /// Byte in the text.
    pub offset: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Expression {
    /// Checks a text.
    pub fn parse(text: &str) -> Result<Self, ExpressionFault> {
        match millrace_logql::parse(text) {
            Ok(expr @ Expr::Metric(_)) => Ok(Self { text: text.to_owned(), tree: Arc::new(expr) }),
            Ok(Expr::Log(log)) => Err(ExpressionFault {
                offset: log.span.start as usize,
                message: "a log query returns lines, but a rule requires an instant vector".to_owned(),
                hint: Some("count them, as in `sum(count_over_time({…} [1m])) > 0`".to_owned()),
            }),
            Ok(expr @ Expr::Variants(_)) => Err(ExpressionFault {
                offset: expr.span().start as usize,
                message: "`variants` is not supported in rules".to_owned(),
                hint: Some("write a rule for each of them".to_owned()),
            }),
            Err(error) => {
                Err(ExpressionFault { offset: error.span.start as usize, message: error.message, hint: None })
            }
        }
    }

    /// The text as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it says: a metric query.
    pub fn tree(&self) -> &Arc<Expr> {
        &self.tree
    }
}
