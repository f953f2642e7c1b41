//! A rule's expression: LogQL that gives one value per series.
//!
//! In: text. Out: the text with its tree, or the first fault with its byte. Touches nothing.

use std::sync::Arc;

use millrace_logql::Expr;
use millrace_logql::storage::LabelMatcher;

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

    /// Whether all streams that it reads match a selector, whatever streams there are. `false` where it reads none.
    pub fn reads_only(&self, matchers: &[LabelMatcher]) -> bool {
        let selectors = self.tree.selectors();
        !selectors.is_empty() && selectors.iter().all(|selector| selector.is_within(matchers))
    }

    /// What it says: a metric query.
    pub fn tree(&self) -> &Arc<Expr> {
        &self.tree
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_only_what_their_selectors_say() {
        for (forced, text, want) in [
            (r#"{team="pay"}"#, r#"sum(rate({team="pay"}[5m])) > 0"#, true),
            (r#"{team="pay"}"#, r#"sum(rate({team="pay", app="x"} |= "e" [5m])) > 0"#, true),
            (r#"{team="pay"}"#, r#"rate({app="x"}[5m]) > 0"#, false),
            (r#"{team="pay"}"#, r#"rate({team="ops"}[5m]) > 0"#, false),
            (r#"{team="pay"}"#, r#"rate({team=~"pay"}[5m]) > 0"#, false),
            (r#"{team="pay"}"#, r#"rate({app="x"} | team="pay" [5m]) > 0"#, false),
            (r#"{team="pay"}"#, r#"rate({team="pay"}[5m]) / rate({app="x"}[5m]) > 0"#, false),
            (r#"{team="pay"}"#, r#"rate({team="pay"}[5m]) / rate({team="pay", app="x"}[5m]) > 0"#, true),
            (r#"{team="pay"}"#, r#"label_replace(rate({app="x"}[5m]), "team", "pay", "", "") > 0"#, false),
            (r#"{team="pay"}"#, r#"absent_over_time({team="pay"}[5m]) or vector(1)"#, true),
            (r#"{team="pay"}"#, "vector(1)", false),
            (r#"{team="pay", env="prod"}"#, r#"rate({team="pay"}[5m]) > 0"#, false),
            (r#"{team="pay", env="prod"}"#, r#"rate({env="prod", team="pay"}[5m]) > 0"#, true),
            (r#"{team=~"pay|ops"}"#, r#"rate({team="ops"}[5m]) > 0"#, true),
            (r#"{team=~"pay|ops"}"#, r#"rate({team=~"pay|ops"}[5m]) > 0"#, true),
            (r#"{team=~"pay|ops"}"#, r#"rate({team=~"pay|ops|x"}[5m]) > 0"#, false),
            (r#"{team!="ops"}"#, r#"rate({team="pay"}[5m]) > 0"#, true),
            (r#"{team!="ops"}"#, r#"rate({app="x"}[5m]) > 0"#, false),
            (r#"{team!="ops"}"#, r#"rate({app="x", team!="ops"}[5m]) > 0"#, true),
            (r#"{team!="ops"}"#, r#"rate({app="x", team=""}[5m]) > 0"#, true),
        ] {
            let forced_matchers = millrace_logql::selector_matchers(forced).unwrap();
            assert_eq!(Expression::parse(text).unwrap().reads_only(&forced_matchers), want, "{forced} {text}");
        }
    }
}
