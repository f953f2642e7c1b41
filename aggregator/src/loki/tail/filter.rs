//! Rows of a batch through the stages of a log query.
//!
//! In: the text of the query, batches. Out: the lines that pass, with the labels of stream and metadata. Touches nothing.
//! Runs line filters; a stage that it can't run is refused by name.

use std::collections::BTreeMap;

use millrace_log::record::{Labels, Position, SourceId};
use millrace_logql::storage::LabelMatcher;
use millrace_logql::syntax::tree::{LineOp, StageKind};
use millrace_logql::{Expr, LabelPairs, dialect, selector_of};
use regex::bytes::Regex;

use super::super::error::LokiError;
use super::super::query::parse;
use crate::index::rows;
use crate::index::scan::RowBatch;

/// A line that passed.
pub(super) struct Found {
    /// What it is told by.
    pub(super) key: (SourceId, Position),
    /// Event time, ns since 1970.
    pub(super) time_ns: i64,
    /// Labels of its stream and its metadata.
    pub(super) labels: LabelPairs,
    /// The line.
    pub(super) line: String,
}

/// Any of the expressions must match, or none.
struct LineTest {
    positive: bool,
    any: Vec<Regex>,
}

/// A compiled query.
pub(super) struct Filter {
    matchers: Vec<LabelMatcher>,
    selector: String,
    tests: Vec<LineTest>,
}

impl Filter {
    /// Compiles a log query.
    pub(super) fn new(text: &str) -> Result<Self, LokiError> {
        let Expr::Log(log) = parse(text)? else {
            return Err(LokiError::bad("a metric query has no lines to tail: a log query is expected"));
        };
        let mut tests = Vec::new();
        for stage in &log.stages {
            let refused = || LokiError::Bad(format!("`{stage}` is not supported by tail yet: only line filters are"));
            let StageKind::LineFilter(filter) = &stage.kind else { return Err(refused()) };
            let (positive, is_regex) = match filter.op {
                LineOp::Contains => (true, false),
                LineOp::NotContains => (false, false),
                LineOp::Regex => (true, true),
                LineOp::NotRegex => (false, true),
                LineOp::Pattern | LineOp::NotPattern => return Err(refused()),
            };
            let mut any = Vec::new();
            for needle in &filter.needles {
                if needle.ip {
                    return Err(refused());
                }
                let expression = if is_regex { needle.value.clone() } else { regex::escape(&needle.value) };
                any.push(dialect::compile(&expression).map_err(|e| LokiError::Bad(format!("parse error : {e}")))?);
            }
            tests.push(LineTest { positive, any });
        }
        let selector = log.selector.to_string();
        let matchers = selector_of(&selector).map_err(|e| LokiError::Query(e.into()))?;
        Ok(Self { matchers, selector, tests })
    }

    /// Matchers of the selector.
    pub(super) fn matchers(&self) -> &[LabelMatcher] {
        &self.matchers
    }

    /// Text of the selector.
    pub(super) fn selector(&self) -> &str {
        &self.selector
    }

    /// Whether a batch has a stream that is asked for.
    pub(super) fn wants_any(&self, batch: &RowBatch) -> bool {
        batch.streams.iter().any(|s| rows::stream_matches(&self.matchers, &s.labels))
    }

    /// The lines that pass, in the order of the rows.
    pub(super) fn apply(&self, batch: &RowBatch) -> Vec<Found> {
        let wanted: Vec<Option<&Labels>> = batch
            .streams
            .iter()
            .map(|s| rows::stream_matches(&self.matchers, &s.labels).then_some(&s.labels))
            .collect();
        let passes = |line: &[u8]| self.tests.iter().all(|t| t.any.iter().any(|r| r.is_match(line)) == t.positive);
        batch
            .rows
            .iter()
            .filter_map(|row| {
                let labels = wanted.get(row.stream as usize).copied().flatten()?;
                let line = batch.line(row);
                passes(line).then(|| Found {
                    key: (row.source, row.position),
                    time_ns: row.time_ns,
                    labels: joined(labels, row.metadata.as_ref()),
                    line: String::from_utf8_lossy(line).into_owned(),
                })
            })
            .collect()
    }
}

/// Labels of the stream win over metadata of the same name.
fn joined(labels: &Labels, metadata: Option<&Labels>) -> LabelPairs {
    match metadata {
        None => labels.pairs().to_vec(),
        Some(metadata) => {
            let all: BTreeMap<&str, &str> = metadata.iter().chain(labels.iter()).collect();
            all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        }
    }
}
