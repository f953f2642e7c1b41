//! LogQL alone: text to tree, tree to plan, plan to answers over any store that implements [`storage::Storage`].
//! No network, no disk, no crate of ours: it builds and is fuzzed by itself.
//!
//! A query's way: [`parse`] makes an [`Expr`]; [`Engine`] compiles its stages into a [`Pipeline`], scans the store,
//! and folds what comes out into an [`Answer`]. [`Pipeline`] alone serves live tail and rules line by line.

/// Regular expressions as users of Loki write them.
pub mod dialect;
/// Label sets.
pub mod labels;
/// Memory of all requests together.
pub mod pool;
/// What one request may still cost.
pub mod budget;
/// Lines counted and their bytes added up, by windows of time and labels.
pub mod aggregate;
/// The small trait that an index implements.
pub mod storage;
/// Text to tree and back: grammar, tree, printer.
pub mod syntax;
/// Why a query could not be answered.
pub mod error;
/// What a query asks for and what comes back.
pub mod answer;
/// Templates of `line_format` and `label_format`.
mod template;
/// Stages of a pipeline.
mod stage;
/// What a grammar can't say: checks of a tree.
pub mod plan;
/// Compiled stages, run line by line.
pub mod pipeline;
/// Numbers from lines.
mod eval;
/// Runs queries over a store.
pub mod engine;
/// An in-memory store for tests.
pub mod memory;

/// What is fuzzed, with what must hold.
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

pub use answer::{
    Answer, Answered, Direction, EntryResult, InstantQuery, LabelPairs, RangeQuery, Sample, Series, Statistics,
    StreamResult,
};
pub use budget::{Budget, OverBudget, Watch};
pub use engine::Engine;
pub use error::QueryError;
pub use pipeline::{Pipeline, Processed};
pub use plan::{LinesBehind, parse, parse_any_stream, selector_matchers};
pub use syntax::tree::{Expr, LogExpr, MetricExpr, Span};
