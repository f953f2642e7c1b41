//! Rows of a batch through the stages of a log query.
//!
//! In: the text of the query, batches. Out: the lines that pass, as the pipeline left them. Touches nothing. Leaves the
//! stages to [`Pipeline`].

use std::collections::HashMap;

use millrace_log::record::{Labels, Position, SourceId};
use millrace_logql::storage::{LabelMatcher, LineNeedle, StreamLabels};
use millrace_logql::{Expr, LabelPairs, Pipeline, QueryError, parse_any_stream};

use super::super::error::LokiError;
use super::super::query::parse;
use millrace_index::rows;
use millrace_index::scan::RowBatch;

/// A line that passed.
pub(super) struct TailLine {
    /// Identity of the event.
    pub(super) key: (SourceId, Position),
    /// Event time, ns since 1970.
    pub(super) time_ns: i64,
    /// All labels: of its stream, its metadata, and what the pipeline made.
    pub(super) labels: LabelPairs,
    /// The line.
    pub(super) line: String,
}

/// A compiled query.
pub(super) struct Filter {
    matchers: Vec<LabelMatcher>,
    selector: String,
    pipeline: Pipeline,
}

impl Filter {
    /// Compiles a log query of somebody who sees only streams that match `confines`.
    pub(super) fn new(text: &str, confines: &[LabelMatcher]) -> Result<Self, LokiError> {
        // The page follows words over every stream, which Loki's own queries may not ask for.
        let expr = if text.is_empty() { parse(text)? } else { parse_any_stream(text).map_err(QueryError::from)? };
        let Expr::Log(log) = expr else {
            return Err(LokiError::bad("a metric query has no lines to tail: a log query is expected"));
        };
        let pipeline = Pipeline::new(&log)?;
        let mut matchers = log.matchers()?;
        matchers.extend_from_slice(confines);
        Ok(Self { matchers, selector: log.selector.to_string(), pipeline })
    }

    /// Matchers of the selector.
    pub(super) fn matchers(&self) -> &[LabelMatcher] {
        &self.matchers
    }

    /// Texts that every line which passes contains.
    pub(super) fn needles(&self) -> Vec<LineNeedle> {
        self.pipeline.needles()
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
    pub(super) fn apply(&self, batch: &RowBatch) -> Vec<TailLine> {
        let wanted: Vec<Option<StreamLabels>> = batch
            .streams
            .iter()
            .map(|s| rows::stream_matches(&self.matchers, &s.labels).then(|| s.labels.pairs().into()))
            .collect();
        // Neighbours often share their metadata.
        let mut shared: HashMap<&Labels, StreamLabels> = HashMap::new();
        let mut found = Vec::new();
        for row in &batch.rows {
            let Some(Some(labels)) = wanted.get(row.stream as usize) else { continue };
            let line = batch.line(row);
            if !self.pipeline.passes(line) {
                continue;
            }
            let metadata = row.metadata.as_ref().map(|m| &*shared.entry(m).or_insert_with(|| m.pairs().into()));
            if let Some(done) = self.pipeline.process(labels, metadata, row.time_ns, line) {
                found.push(TailLine {
                    key: (row.source, row.position),
                    time_ns: row.time_ns,
                    labels: done.labels,
                    line: done.line,
                });
            }
        }
        found
    }
}
