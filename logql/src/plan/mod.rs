//! Tree to plan: what a grammar can't say, what the store can filter, which stages run.
//!
//! In: text or a tree. Out: a checked tree, compiled matchers. Touches nothing.

/// What all regular expressions of a query take together.
mod expressions;
mod check;
/// The lines behind a metric query.
mod lines;
/// Which streams a query may read.
mod reads;

pub use lines::LinesBehind;

use crate::error::QueryError;
use crate::storage::LabelMatcher;
use crate::syntax::error::ParseError;
use crate::syntax::tree::{Expr, LogExpr, Selector};

/// Reads and checks a query: a tree that this returns can be run or is refused by name.
pub fn parse(text: &str) -> Result<Expr, ParseError> {
    let expr = crate::syntax::parse(text)?;
    check::expr(text, &expr, check::Selectors::Narrow)?;
    Ok(expr)
}

/// The same for a caller who may read every stream: `{}` and selectors that match everything are taken too.
pub fn parse_any_stream(text: &str) -> Result<Expr, ParseError> {
    let expr = crate::syntax::parse(text)?;
    check::expr(text, &expr, check::Selectors::Any)?;
    Ok(expr)
}

/// Matchers of a stream selector alone which may also match every stream, or only exclude some: `{team!="pay"}`.
pub fn selector_matchers(text: &str) -> Result<Vec<LabelMatcher>, ParseError> {
    let selector = crate::syntax::parse_selector(text)?;
    let expressions = expressions::Expressions::default();
    let counted = selector.matchers.iter().try_for_each(|matcher| expressions.add_matcher(matcher));
    counted.map_err(|message| ParseError::at(text, selector.span, message))?;
    matchers(&selector).map_err(|message| ParseError::at(text, selector.span, message))
}

impl LogExpr {
    /// The compiled matchers of its selector: what goes before a [`crate::Pipeline`].
    pub fn matchers(&self) -> Result<Vec<LabelMatcher>, QueryError> {
        matchers(&self.selector).map_err(|message| QueryError::Parameter { message })
    }
}

fn matchers(selector: &Selector) -> Result<Vec<LabelMatcher>, String> {
    let all = selector.matchers.iter();
    all.map(|m| LabelMatcher::new(m.name.as_str(), m.op, m.value.as_str()).map_err(|e| e.to_string())).collect()
}
