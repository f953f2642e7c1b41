//! Lines to columns: scans the store for a range aggregation and folds its lines into windows `(t - range, t]`.
//!
//! In: a leaf of a metric query, its steps, the store. Out: a column per series. Touches the store.
//! Counts and sizes are kept as differences per step (two additions a line however wide the window is); unwrapped
//! values are kept as samples.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use futures::StreamExt as _;

use super::column::{Column, Leaf, Steps};
use super::tally::Tally;
use super::window::{self, Sample, Window};
use crate::aggregate::{Aggregation, GroupBy, LineTest, Windows};
use crate::answer::LabelPairs;
use crate::error::QueryError;
use crate::pipeline::Pipeline;
use crate::stage::labels::ERROR;
use crate::stage::{Condition, Hints, LineState};
use crate::storage::{Order, Scan, Storage, StreamLabels};
use crate::syntax::go_number;
use crate::syntax::tree::{Conversion, Grouping, MatchOp, RangeAggregation, RangeOp, Selector, Unwrap};

struct Extraction {
    label: String,
    conversion: Conversion,
    filters: Vec<Condition>,
}

impl Extraction {
    fn new(unwrap: &Unwrap) -> Result<Self, QueryError> {
        let filters = unwrap.filters.iter().map(|f| Condition::new(f).map_err(|fault| fault.at(unwrap.span)));
        Ok(Self {
            label: unwrap.label.clone(),
            conversion: unwrap.conversion,
            filters: filters.collect::<Result<_, _>>()?,
        })
    }

    /// The number of a line; `None` where it has none or a filter drops it.
    fn value(&self, state: &mut LineState<'_>) -> Option<f64> {
        let text = state.labels.get(&self.label).filter(|t| !t.is_empty())?;
        let number = match self.conversion {
            Conversion::Number => go_number::float(text),
            Conversion::Bytes => go_number::bytes(text).map(|b| b as f64),
            Conversion::Duration | Conversion::DurationSeconds => go_number::duration(text).map(|ns| ns as f64 / 1e9),
        };
        let number = number.unwrap_or_else(|details| {
            state.labels.set_error("SampleExtractionErr", details);
            state.is_preserved = false;
            0.0
        });
        self.filters.iter().all(|f| f.holds(&mut state.labels)).then_some(number)
    }
}

enum Data {
    /// Differences per step, one more than there are steps.
    Counted {
        lines: Vec<i64>,
        bytes: Vec<i64>,
    },
    Samples(Vec<Sample>),
}

struct Series {
    labels: LabelPairs,
    data: Data,
}

/// Folds the lines of one leaf.
struct Fold<'a> {
    leaf: &'a Leaf<'a>,
    steps: Steps,
    windows: Windows,
    pipeline: Arc<Pipeline>,
    unwrap: Option<Extraction>,
    keep: GroupBy,
    series: Vec<Series>,
    by_labels: HashMap<String, usize>,
    key: String,
}

fn names(grouping: &Grouping) -> Vec<String> {
    grouping.labels.clone()
}

fn keep_of(leaf: &Leaf<'_>) -> GroupBy {
    let grouping = leaf.aggregation.grouping.as_ref().or(leaf.outer);
    match grouping {
        _ if leaf.aggregation.op == RangeOp::Absent || leaf.outer_all => GroupBy::None,
        Some(g) if !g.without && g.labels.is_empty() => GroupBy::None,
        Some(g) if g.without => GroupBy::Without(names(g)),
        Some(g) => GroupBy::By(names(g)),
        None => GroupBy::All,
    }
}

/// Names as parsers know them: a name that ends in `_extracted` also without.
fn with_plain_names(names: Vec<String>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for name in names {
        let plain = name.strip_suffix("_extracted").map(str::to_owned);
        for name in [Some(name), plain].into_iter().flatten() {
            if !all.contains(&name) {
                all.push(name);
            }
        }
    }
    all
}

fn hints(pipeline: &Pipeline, unwrap: Option<&Extraction>, keep: &GroupBy) -> Hints {
    let mut required = Vec::new();
    pipeline.required(&mut required);
    for filter in unwrap.iter().flat_map(|u| &u.filters) {
        filter.names(&mut required);
    }
    if let GroupBy::By(names) = keep {
        required.extend(names.iter().cloned());
    }
    required.extend(unwrap.map(|u| u.label.clone()));
    let required = with_plain_names(required);
    let preserve_error = required.iter().any(|name| name == ERROR);
    match keep {
        GroupBy::None if required.is_empty() => Hints { no_labels: true, ..Hints::default() },
        GroupBy::None | GroupBy::By(_) => Hints { required, preserve_error, no_labels: false },
        GroupBy::All | GroupBy::Without(_) => Hints::default(),
    }
}

/// Windows of a leaf, one for each step.
fn windows(leaf: &Leaf<'_>, steps: Steps) -> Windows {
    let range = &leaf.aggregation.range;
    Windows {
        first_end_ns: steps.start_ns.saturating_sub(range.offset_ns),
        step_ns: steps.step_ns,
        count: steps.count,
        range_ns: range.interval_ns,
    }
}

impl<'a> Fold<'a> {
    fn new(leaf: &'a Leaf<'a>, steps: Steps) -> Result<Self, QueryError> {
        let mut pipeline = Pipeline::new(&leaf.aggregation.range.log)?;
        let unwrap = leaf.aggregation.range.unwrap.as_ref().map(Extraction::new).transpose()?;
        let mut keep = keep_of(leaf);
        pipeline.set_hints(hints(&pipeline, unwrap.as_ref(), &keep));
        // The number itself is no label of the series.
        if let Some(unwrap) = &unwrap {
            match &mut keep {
                GroupBy::All => keep = GroupBy::Without(vec![unwrap.label.clone()]),
                GroupBy::Without(names) => names.push(unwrap.label.clone()),
                GroupBy::By(_) | GroupBy::None => {}
            }
        }
        Ok(Self {
            leaf,
            steps,
            windows: windows(leaf, steps),
            pipeline: Arc::new(pipeline),
            unwrap,
            keep,
            series: Vec::new(),
            by_labels: HashMap::new(),
            key: String::new(),
        })
    }

    fn new_series(&mut self, labels: LabelPairs, tally: &Tally) -> Result<usize, QueryError> {
        let counted = self.unwrap.is_none();
        let width = if counted { 2 * (self.steps.count + 1) * size_of::<i64>() } else { 64 };
        let text: usize = labels.iter().map(|(n, v)| n.len() + v.len() + 48).sum();
        // The column that it becomes is counted as well.
        tally.hold(width + 2 * text + self.steps.count * size_of::<Option<f64>>() + 256)?;
        let data = if counted {
            let zeros = || vec![0i64; self.steps.count + 1];
            Data::Counted { lines: zeros(), bytes: zeros() }
        } else {
            Data::Samples(Vec::new())
        };
        self.series.push(Series { labels, data });
        Ok(self.series.len() - 1)
    }

    /// The series that a line belongs to.
    fn series_of(&mut self, pairs: &mut Vec<(&str, &str)>, tally: &Tally) -> Result<usize, QueryError> {
        pairs.sort_unstable();
        self.key.clear();
        for (name, value) in pairs.iter() {
            self.key.push_str(name);
            self.key.push('\0');
            self.key.push_str(value);
            self.key.push('\0');
        }
        if let Some(found) = self.by_labels.get(&self.key) {
            return Ok(*found);
        }
        let labels = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let made = self.new_series(labels, tally)?;
        self.by_labels.insert(self.key.clone(), made);
        Ok(made)
    }

    fn add(
        &mut self,
        at: usize,
        time_ns: i64,
        window: Range<usize>,
        bytes: usize,
        value: f64,
        tally: &Tally,
    ) -> Result<(), QueryError> {
        let Some(series) = self.series.get_mut(at) else { return Ok(()) };
        match &mut series.data {
            Data::Counted { lines, bytes: sizes } => {
                let size = i64::try_from(bytes).unwrap_or(i64::MAX);
                for (slots, by) in [(lines, 1), (sizes, size)] {
                    if let Some(slot) = slots.get_mut(window.start) {
                        *slot += by;
                    }
                    if let Some(slot) = slots.get_mut(window.end) {
                        *slot -= by;
                    }
                }
            }
            Data::Samples(samples) => {
                tally.hold(size_of::<Sample>())?;
                samples.push((time_ns, value));
            }
        }
        Ok(())
    }

    /// Takes one line. `known` remembers the series of its stream while that says all.
    fn line(
        &mut self,
        known: &mut Option<usize>,
        stream: &StreamLabels,
        metadata: Option<&StreamLabels>,
        time_ns: i64,
        line: &[u8],
        tally: &mut Tally,
    ) -> Result<(), QueryError> {
        tally.watch.step(line.len())?;
        let window = self.windows.holding(time_ns);
        // Between windows when the steps are wider than the range.
        if window.is_empty() || !self.pipeline.passes(line) {
            return Ok(());
        }
        if metadata.is_none() && self.pipeline.only_filters() && self.unwrap.is_none() {
            let at = match *known {
                Some(at) => at,
                None => {
                    let mut pairs: Vec<(&str, &str)> = stream
                        .iter()
                        .filter(|(n, _)| self.keep.keeps(n))
                        .map(|(n, v)| (n.as_str(), v.as_str()))
                        .collect();
                    *known.insert(self.series_of(&mut pairs, tally)?)
                }
            };
            tally.passed += 1;
            return self.add(at, time_ns, window, line.len(), 1.0, tally);
        }
        // Shared, so that what it makes of the line may live beside the series.
        let pipeline = Arc::clone(&self.pipeline);
        self.processed(&pipeline, stream, metadata, time_ns, line, window, tally)
    }

    #[allow(clippy::too_many_arguments, reason = "one line with all that belongs to it")]
    fn processed(
        &mut self,
        pipeline: &Pipeline,
        stream: &StreamLabels,
        metadata: Option<&StreamLabels>,
        time_ns: i64,
        line: &[u8],
        window: Range<usize>,
        tally: &mut Tally,
    ) -> Result<(), QueryError> {
        let state = pipeline.run(stream, metadata, time_ns, line, Some(&tally.watch));
        tally.watch.check()?;
        let Some(mut state) = state else { return Ok(()) };
        let value = match &self.unwrap {
            None => 1.0,
            Some(unwrap) => match unwrap.value(&mut state) {
                Some(value) => value,
                None => return Ok(()),
            },
        };
        tally.passed += 1;
        let faulty = !state.labels.error().is_empty();
        if faulty && !state.is_preserved {
            let series = state.labels.pairs(|_| true);
            return Err(QueryError::Pipeline {
                error: state.labels.error().to_owned(),
                series: crate::answer::show_labels(&series),
            });
        }
        let keep = if faulty { &GroupBy::All } else { &self.keep };
        let mut pairs: Vec<(&str, &str)> =
            state.labels.iter().filter(|(name, _, _)| keep.keeps(name)).map(|(name, value, _)| (name, value)).collect();
        let at = self.series_of(&mut pairs, tally)?;
        self.add(at, time_ns, window, state.line.len(), value, tally)
    }

    /// Columns of all series.
    fn columns(self) -> Vec<Column> {
        let aggregation = self.leaf.aggregation;
        let windows: Vec<Window> = (0..self.steps.count)
            .map(|k| {
                let to = self.steps.at(k) - aggregation.range.offset_ns;
                Window { from_ns: to.saturating_sub(aggregation.range.interval_ns), to_ns: to }
            })
            .collect();
        let column = |series: Series| {
            let values = match series.data {
                Data::Counted { lines, bytes } => {
                    let (mut count, mut size) = (0, 0);
                    let sums = lines.into_iter().zip(bytes).take(self.steps.count).map(|(l, b)| {
                        count += l;
                        size += b;
                        (count, size)
                    });
                    sums.map(|(count, size)| counted(aggregation, count, size)).collect()
                }
                Data::Samples(mut samples) => {
                    samples.sort_by_key(|(time_ns, _)| *time_ns);
                    let value = |window: &Window| {
                        let first = samples.partition_point(|(t, _)| *t <= window.from_ns);
                        let behind = samples.partition_point(|(t, _)| *t <= window.to_ns);
                        let inside = samples.get(first..behind).filter(|s| !s.is_empty())?;
                        let (op, parameter) = (aggregation.op, aggregation.parameter);
                        Some(window::compute(op, parameter, *window, inside))
                    };
                    windows.iter().map(value).collect()
                }
            };
            Column { labels: series.labels, values }
        };
        let columns: Vec<Column> = self.series.into_iter().map(column).collect();
        finished(aggregation, columns, self.steps)
    }

    /// What the store may count instead of giving rows; `None` if counting does not say all.
    fn aggregation(&self) -> Option<Aggregation> {
        let counts = self.unwrap.is_none() && self.pipeline.only_filters();
        let pipeline = Arc::clone(&self.pipeline);
        counts.then(|| Aggregation {
            windows: self.windows,
            group: self.keep.clone(),
            test: (!pipeline.is_empty()).then(|| LineTest::new(move |line| pipeline.passes(line))),
        })
    }
}

/// Value of a window with so many lines and bytes.
fn counted(aggregation: &RangeAggregation, count: i64, size: i64) -> Option<f64> {
    let seconds = aggregation.range.interval_ns as f64 / 1e9;
    (count > 0).then(|| match aggregation.op {
        RangeOp::Rate => count as f64 / seconds,
        RangeOp::Bytes => size as f64,
        RangeOp::BytesRate => size as f64 / seconds,
        _ => count as f64,
    })
}

/// Series that have a value; for `absent_over_time` the opposite of all.
fn finished(aggregation: &RangeAggregation, columns: Vec<Column>, steps: Steps) -> Vec<Column> {
    if aggregation.op == RangeOp::Absent {
        return absent(&aggregation.range.log.selector, columns, steps);
    }
    columns.into_iter().filter(|c| c.values.iter().any(Option::is_some)).collect()
}

/// Asks the store for what the lines add up to.
async fn ask(
    storage: &dyn Storage,
    scan: &Scan,
    fold: &Fold<'_>,
    tally: &mut Tally,
) -> Result<Option<Vec<Column>>, QueryError> {
    let Some(aggregation) = fold.aggregation() else { return Ok(None) };
    let asked = storage.aggregate(scan.clone(), Arc::new(aggregation));
    let Some(partial) = tally.budget.within(asked).await?? else { return Ok(None) };
    tally.lines += partial.lines;
    tally.bytes += partial.bytes;
    tally.passed += partial.passed;
    let aggregation = fold.leaf.aggregation;
    let mut columns = Vec::new();
    for group in partial.into_groups() {
        tally.hold(group.labels.len() * 64 + fold.steps.count * size_of::<Option<f64>>())?;
        let values = group.windows().map(|(count, size)| counted(aggregation, count, size)).collect();
        columns.push(Column { labels: group.labels, values });
    }
    Ok(Some(finished(aggregation, columns, fold.steps)))
}

/// 1 where no series has a value, with the labels that the selector names by `=` once.
fn absent(selector: &Selector, columns: Vec<Column>, steps: Steps) -> Vec<Column> {
    let values: Vec<Option<f64>> = (0..steps.count)
        .map(|k| {
            let present = columns.iter().any(|c| c.values.get(k).copied().flatten().is_some());
            (!present).then_some(1.0)
        })
        .collect();
    if values.iter().all(Option::is_none) {
        return Vec::new();
    }
    let once = |name: &str| selector.matchers.iter().filter(|m| m.name == name).count() == 1;
    let mut labels: LabelPairs = selector
        .matchers
        .iter()
        .filter(|m| m.op == MatchOp::Equal && once(&m.name) && !m.value.is_empty())
        .map(|m| (m.name.clone(), m.value.clone()))
        .collect();
    labels.sort();
    vec![Column { labels, values }]
}

/// Scans the lines of a leaf and computes its columns.
pub(crate) async fn scan(
    storage: &dyn Storage,
    tenant: &str,
    leaf: &Leaf<'_>,
    steps: Steps,
    tally: &mut Tally,
) -> Result<Vec<Column>, QueryError> {
    let range = &leaf.aggregation.range;
    let mut fold = Fold::new(leaf, steps)?;
    let from = steps.start_ns.saturating_sub(range.offset_ns).saturating_sub(range.interval_ns);
    let to = steps.last().saturating_sub(range.offset_ns);
    let scan = Scan {
        tenant: tenant.to_owned(),
        matchers: range.log.matchers()?,
        start_ns: from.saturating_add(1),
        end_ns: to.saturating_add(1),
        needles: fold.pipeline.needles(),
        order: Order::Any,
        expect: None,
        budget: tally.budget.clone(),
    };
    if let Some(columns) = ask(storage, &scan, &fold, tally).await? {
        return Ok(columns);
    }
    let mut batches = storage.scan(scan).await?;
    while let Some(batch) = tally.budget.within(batches.next()).await? {
        let batch = batch?;
        tally.read(&batch);
        let mut known: Vec<Option<usize>> = vec![None; batch.streams.len()];
        for entry in &batch.entries {
            let at = entry.stream as usize;
            let (Some(stream), Some(known)) = (batch.streams.get(at), known.get_mut(at)) else { continue };
            fold.line(known, stream, entry.metadata.as_ref(), entry.time_ns, batch.line(entry), tally)?;
        }
    }
    Ok(fold.columns())
}
