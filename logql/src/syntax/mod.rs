//! The grammar alone: text to tokens, tokens to tree, tree to text; knows nothing of the engine.

/// Numbers with units as Go and Loki read and write them.
pub mod quantity;
/// Numbers out of lines, with the errors of Go.
pub(crate) mod go_number;
/// Where a node stands in the text.
mod span;
/// Nodes of log queries.
mod tree_log;
/// Nodes of metric queries.
mod tree_metric;
/// The tree of a query.
pub mod tree;
/// What is wrong with a text, and where.
pub mod error;
/// Operators on numbers.
pub(crate) mod arithmetic;
mod lexer;
mod cursor;
mod grammar;
mod grammar_metric;
/// Tree to text.
pub mod print;

pub(crate) use lexer::unquote;

use cursor::{notes, run};
use error::ParseError;
use tree::{Expr, Selector};

/// Reads a query: the grammar alone, see [`crate::parse`].
pub fn parse(text: &str) -> Result<Expr, ParseError> {
    let tokens = lexer::tokens(text)?;
    run(text, &tokens, &notes(), grammar_metric::expr)
}

/// Reads a stream selector alone: `{app="api"}`, see [`crate::selector_matchers`].
pub fn parse_selector(text: &str) -> Result<Selector, ParseError> {
    let tokens = lexer::tokens(text)?;
    run(text, &tokens, &notes(), grammar::selector)
}
