//! Lines to streams: scans the store for a log query, stops at the limit.
//!
//! In: a log expression, range, order, limit. Out: entries in streams of equal labels. Touches the store.

use futures::StreamExt as _;
use indexmap::IndexMap;

use super::tally::Tally;
use crate::answer::{Direction, EntryResult, LabelPairs, RangeQuery, StreamResult};
use crate::error::QueryError;
use crate::pipeline::Pipeline;
use crate::stage::LineState;
use crate::stage::labels::Category;
use crate::storage::{Entry, Order, Scan, Storage, StreamLabels};
use crate::syntax::tree::LogExpr;

/// Entries by all labels and those of the stream.
type Streams = IndexMap<(LabelPairs, LabelPairs), Vec<EntryResult>>;

/// A line that comes out with the labels of its stream: they are copied and compared once for each stream of a batch.
fn plain_result(
    streams: &mut Streams,
    of_stream: &mut [Option<usize>],
    labels: &StreamLabels,
    entry: &Entry,
    line: &[u8],
    tally: &Tally,
) -> Result<(usize, EntryResult), QueryError> {
    let mut known = of_stream.get_mut(entry.stream as usize);
    let at = match known.as_deref().copied().flatten() {
        Some(at) => at,
        None => {
            let text: usize = labels.iter().map(|(n, v)| n.len() + v.len() + 96).sum();
            tally.hold(2 * text)?;
            let made = streams.entry((labels.to_vec(), labels.to_vec()));
            let at = made.index();
            made.or_default();
            if let Some(slot) = known.as_mut() {
                **slot = Some(at);
            }
            at
        }
    };
    tally.hold(line.len() + 256)?;
    let line = String::from_utf8_lossy(line).into_owned();
    Ok((at, EntryResult { time_ns: entry.time_ns, line, metadata: Vec::new(), parsed: Vec::new() }))
}

/// A line with labels of its own.
fn parsed_result(
    streams: &mut Streams,
    state: &LineState<'_>,
    tally: &Tally,
) -> Result<(usize, EntryResult), QueryError> {
    let labels = state.labels.pairs(|_| true);
    let stream_labels = state.labels.pairs(|c| c == Category::Stream);
    let result = EntryResult {
        time_ns: state.time_ns,
        line: String::from_utf8_lossy(&state.line).into_owned(),
        metadata: state.labels.pairs(|c| c == Category::Metadata),
        parsed: state.labels.pairs(|c| c == Category::Parsed),
    };
    let text: usize = labels.iter().map(|(n, v)| n.len() + v.len() + 96).sum();
    tally.hold(result.line.len() + 2 * text + 256)?;
    let made = streams.entry((labels, stream_labels));
    let at = made.index();
    made.or_default();
    Ok((at, result))
}

/// Runs a log query.
pub(crate) async fn scan(
    storage: &dyn Storage,
    query: &RangeQuery,
    expr: &LogExpr,
    tally: &mut Tally,
) -> Result<Vec<StreamResult>, QueryError> {
    let pipeline = Pipeline::new(expr)?;
    let forward = query.direction == Direction::Forward;
    let scan = Scan {
        tenant: query.tenant.clone(),
        matchers: expr.matchers()?,
        start_ns: query.start_ns,
        end_ns: query.end_ns,
        needles: pipeline.needles(),
        order: if forward { Order::Forward } else { Order::Backward },
        expect: Some(query.limit),
        budget: tally.budget.clone(),
    };
    let only_filters = pipeline.only_filters();
    let mut streams = Streams::new();
    let mut found = 0;
    let mut last_ns: Option<i64> = None;
    let mut batches = storage.scan(scan).await?;
    'batches: while let Some(batch) = tally.budget.within(batches.next()).await? {
        let batch = batch?;
        tally.read(&batch);
        let mut of_stream: Vec<Option<usize>> = vec![None; batch.streams.len()];
        for entry in &batch.entries {
            if found >= query.limit {
                break 'batches;
            }
            let Some(stream) = batch.streams.get(entry.stream as usize) else { continue };
            let line = batch.line(entry);
            tally.watch.step(line.len())?;
            if !pipeline.passes(line) {
                continue;
            }
            let plain = only_filters && entry.metadata.is_none();
            let state = if plain {
                None
            } else {
                let state = pipeline.run(stream, entry.metadata.as_ref(), entry.time_ns, line, Some(&tally.watch));
                tally.watch.check()?;
                if state.is_none() {
                    continue;
                }
                state
            };
            tally.passed += 1;
            // Lines nearer than the interval to the one before are left out.
            let near = last_ns.is_some_and(|last| last.abs_diff(entry.time_ns) < query.interval_ns.unsigned_abs());
            if query.interval_ns > 0 && near {
                continue;
            }
            last_ns = Some(entry.time_ns);
            let (at, result) = match state {
                None => plain_result(&mut streams, &mut of_stream, stream, entry, line, tally)?,
                Some(state) => parsed_result(&mut streams, &state, tally)?,
            };
            if let Some((_, entries)) = streams.get_index_mut(at) {
                entries.push(result);
            }
            found += 1;
        }
    }
    let stream = |((labels, stream_labels), entries)| StreamResult { labels, stream_labels, entries };
    Ok(streams.into_iter().map(stream).collect())
}
