//! Numbers from lines: range aggregations scan the store, vector aggregations and operators work on their columns.
//!
//! In: a metric expression and its steps. Out: one column of values per series. `range.rs` alone touches the store.

use std::collections::HashMap;

use crate::error::QueryError;
use crate::syntax::tree::{LabelReplace, MetricExpr, VectorAggregation, VectorOp};

/// Counts of one query.
mod tally;
/// Moments, series and leaves.
mod column;
/// What a window of samples gives.
mod window;
/// Lines to columns.
pub(crate) mod range;
/// Columns to fewer columns.
mod vector;
/// Two sides to one.
mod binary;
/// Lines to streams.
pub(crate) mod log;

pub(crate) use column::{Column, Leaf, Steps, Value};
use column::{label, set_label};
pub(crate) use tally::Tally;

/// Range aggregations of an expression.
pub(crate) fn leaves<'a>(expr: &'a MetricExpr, all: &mut Vec<Leaf<'a>>) {
    match expr {
        MetricExpr::Range(aggregation) => all.push(Leaf { aggregation, outer: None, outer_all: false }),
        MetricExpr::Vector(vector) => match early_leaf(vector) {
            Some(leaf) => all.push(leaf),
            None => leaves(&vector.expr, all),
        },
        MetricExpr::Binary(binary) => {
            leaves(&binary.left, all);
            leaves(&binary.right, all);
        }
        MetricExpr::LabelReplace(replace) => leaves(&replace.expr, all),
        MetricExpr::Literal(..) | MetricExpr::Constant(..) => {}
    }
}

/// The leaf below a sum that can be grouped while it is read.
fn early_leaf(vector: &VectorAggregation) -> Option<Leaf<'_>> {
    use crate::syntax::tree::RangeOp::{Bytes, BytesRate, Count, Rate, Sum};
    let MetricExpr::Range(aggregation) = vector.expr.as_ref() else { return None };
    let adds = matches!(aggregation.op, Bytes | BytesRate | Count | Rate | Sum);
    (vector.op == VectorOp::Sum && adds && aggregation.grouping.is_none()).then(|| Leaf {
        aggregation,
        outer: vector.grouping.as_ref(),
        outer_all: vector.grouping.as_ref().is_none_or(|g| !g.without && g.labels.is_empty()),
    })
}

/// Computes an expression from the columns of its leaves.
pub(crate) fn compute(
    expr: &MetricExpr,
    steps: &Steps,
    scanned: &HashMap<String, Vec<Column>>,
) -> Result<Value, QueryError> {
    let columns = |leaf: Leaf<'_>| scanned.get(&leaf.key()).cloned().unwrap_or_default();
    Ok(match expr {
        MetricExpr::Range(aggregation) => Value::Columns(columns(Leaf { aggregation, outer: None, outer_all: false })),
        MetricExpr::Vector(aggregation) => {
            let inner = match early_leaf(aggregation) {
                Some(leaf) => columns(leaf),
                None => series(compute(&aggregation.expr, steps, scanned)?, steps),
            };
            Value::Columns(vector::aggregate(aggregation, inner, steps))
        }
        MetricExpr::Binary(expr) => {
            let left = compute(&expr.left, steps, scanned)?;
            let right = compute(&expr.right, steps, scanned)?;
            binary::join(expr, left, right, steps)?
        }
        MetricExpr::Literal(value, _) => Value::Scalar(*value),
        MetricExpr::Constant(value, _) => {
            Value::Columns(vec![Column { labels: Vec::new(), values: vec![Some(*value); steps.count] }])
        }
        MetricExpr::LabelReplace(replace) => {
            Value::Columns(relabel(replace, series(compute(&replace.expr, steps, scanned)?, steps))?)
        }
    })
}

/// A literal as a series without labels.
pub(crate) fn series(value: Value, steps: &Steps) -> Vec<Column> {
    match value {
        Value::Columns(columns) => columns,
        Value::Scalar(value) => vec![Column { labels: Vec::new(), values: vec![Some(value); steps.count] }],
    }
}

fn relabel(replace: &LabelReplace, mut columns: Vec<Column>) -> Result<Vec<Column>, QueryError> {
    let regex = crate::dialect::compile_anchored(&replace.regex)
        .map_err(|e| QueryError::Parameter { message: format!("invalid regex in label_replace: {e}") })?;
    for column in &mut columns {
        let source = label(&column.labels, &replace.source).to_owned();
        let Some(groups) = regex.captures(source.as_bytes()) else { continue };
        let mut value = Vec::new();
        groups.expand(replace.replacement.as_bytes(), &mut value);
        set_label(&mut column.labels, &replace.destination, &String::from_utf8_lossy(&value));
    }
    Ok(columns)
}
