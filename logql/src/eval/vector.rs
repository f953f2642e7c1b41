//! Columns to fewer columns: `sum by (a)`, `topk(5, …)`, `sort(…)`.
//!
//! In: columns. Out: columns. Touches nothing.

use indexmap::IndexMap;

use super::column::{Column, Steps};
use super::window;
use crate::answer::LabelPairs;
use crate::syntax::tree::{Grouping, VectorAggregation, VectorOp};

/// Labels of the group that a series belongs to.
pub(super) fn group_labels(labels: &[(String, String)], grouping: Option<&Grouping>) -> LabelPairs {
    let Some(grouping) = grouping else { return Vec::new() };
    let kept = labels
        .iter()
        .filter(|(name, value)| !value.is_empty() && grouping.labels.iter().any(|l| l == name) != grouping.without);
    kept.cloned().collect()
}

/// Computes an aggregation.
pub(super) fn aggregate(aggregation: &VectorAggregation, columns: Vec<Column>, steps: &Steps) -> Vec<Column> {
    let grouping = aggregation.grouping.as_ref();
    match aggregation.op {
        VectorOp::Sort => sorted(columns, false),
        VectorOp::SortDesc => sorted(columns, true),
        VectorOp::Topk | VectorOp::ApproxTopk => extremes(aggregation, columns, steps, true),
        VectorOp::Bottomk => extremes(aggregation, columns, steps, false),
        op => {
            let mut groups: IndexMap<LabelPairs, Vec<Vec<Option<f64>>>> = IndexMap::new();
            for column in columns {
                groups.entry(group_labels(&column.labels, grouping)).or_default().push(column.values);
            }
            let fold = |(labels, members): (LabelPairs, Vec<Vec<Option<f64>>>)| {
                let values = (0..steps.count)
                    .map(|k| fold(op, members.iter().filter_map(|m| m.get(k).copied().flatten())))
                    .collect();
                Column { labels, values }
            };
            groups.into_iter().map(fold).collect()
        }
    }
}

fn fold(op: VectorOp, values: impl Iterator<Item = f64> + Clone) -> Option<f64> {
    let count = values.clone().count();
    if count == 0 {
        return None;
    }
    Some(match op {
        VectorOp::Sum => values.sum(),
        VectorOp::Avg => values.sum::<f64>() / count as f64,
        VectorOp::Count => count as f64,
        VectorOp::Max => values.fold(f64::NAN, |max, v| if v > max || max.is_nan() { v } else { max }),
        VectorOp::Min => values.fold(f64::NAN, |min, v| if v < min || min.is_nan() { v } else { min }),
        VectorOp::Stdvar => window::variance(values),
        VectorOp::Stddev => window::variance(values).sqrt(),
        // Handled by the caller: they keep series.
        VectorOp::Topk | VectorOp::Bottomk | VectorOp::ApproxTopk | VectorOp::Sort | VectorOp::SortDesc => return None,
    })
}

/// Larger first when `descending`; NaN last either way.
fn by_value(a: f64, b: f64, descending: bool) -> std::cmp::Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => std::cmp::Ordering::Equal,
        (true, false) => std::cmp::Ordering::Greater,
        (false, true) => std::cmp::Ordering::Less,
        (false, false) if descending => b.total_cmp(&a),
        (false, false) => a.total_cmp(&b),
    }
}

/// The order matters at one moment only: the last step.
fn sorted(mut columns: Vec<Column>, descending: bool) -> Vec<Column> {
    let last = |c: &Column| c.values.last().copied().flatten().unwrap_or(f64::NAN);
    columns.sort_by(|a, b| by_value(last(a), last(b), descending).then_with(|| a.labels.cmp(&b.labels)));
    columns
}

fn extremes(aggregation: &VectorAggregation, columns: Vec<Column>, steps: &Steps, largest: bool) -> Vec<Column> {
    let count = usize::try_from(aggregation.count.unwrap_or(0)).unwrap_or(usize::MAX);
    let mut groups: IndexMap<LabelPairs, Vec<usize>> = IndexMap::new();
    for (i, column) in columns.iter().enumerate() {
        groups.entry(group_labels(&column.labels, aggregation.grouping.as_ref())).or_default().push(i);
    }
    let mut kept: Vec<Column> =
        columns.iter().map(|c| Column { labels: c.labels.clone(), values: vec![None; steps.count] }).collect();
    for members in groups.values() {
        for k in 0..steps.count {
            let mut present: Vec<(f64, usize)> =
                members.iter().filter_map(|i| Some((columns.get(*i)?.values.get(k).copied().flatten()?, *i))).collect();
            // Equal values: the first by labels, so that answers repeat.
            present.sort_by(|(a, i), (b, j)| {
                let labels = |i: usize| columns.get(i).map(|c| &c.labels);
                by_value(*a, *b, largest).then_with(|| labels(*i).cmp(&labels(*j)))
            });
            for (value, i) in present.into_iter().take(count) {
                if let Some(slot) = kept.get_mut(i).and_then(|c| c.values.get_mut(k)) {
                    *slot = Some(value);
                }
            }
        }
    }
    kept.retain(|c| c.values.iter().any(Option::is_some));
    sorted(kept, largest)
}
