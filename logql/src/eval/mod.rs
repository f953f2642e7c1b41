//! Numbers from lines: range aggregations scan the store, vector aggregations and operators work on their columns.
//!
//! In: a metric expression and its steps. Out: one column of values per series. `range.rs` alone touches the store.

use std::collections::HashMap;

use crate::answer::LabelPairs;
use crate::error::QueryError;
use crate::syntax::tree::{Grouping, LabelReplace, MetricExpr, RangeAggregation, VectorAggregation, VectorOp};

/// Operators on numbers.
pub(crate) mod arithmetic;
/// Lines to columns.
pub(crate) mod range;
/// What a window of samples gives.
mod window;
/// Columns to fewer columns.
mod vector;
/// Two sides to one.
mod binary;
/// Lines to streams.
pub(crate) mod log;

/// The moments at which a metric query is computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Steps {
    /// First moment, ns since 1970.
    pub start_ns: i64,
    /// Distance.
    pub step_ns: i64,
    /// How many.
    pub count: usize,
}

impl Steps {
    /// The k-th moment.
    pub fn at(&self, k: usize) -> i64 {
        self.start_ns.saturating_add(self.step_ns.saturating_mul(i64::try_from(k).unwrap_or(i64::MAX)))
    }

    /// The last moment.
    pub fn last(&self) -> i64 {
        self.at(self.count.saturating_sub(1))
    }
}

/// One series: its value at each step, `None` where it has none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    /// Sorted by name.
    pub labels: LabelPairs,
    /// One per step.
    pub values: Vec<Option<f64>>,
}

/// What an expression gives.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// A literal.
    Scalar(f64),
    /// Series; the order counts after a sort.
    Columns(Vec<Column>),
}

/// A range aggregation of a query, with the grouping that the sum around it lets it do early.
#[derive(Debug, Clone)]
pub(crate) struct Leaf<'a> {
    /// The aggregation.
    pub aggregation: &'a RangeAggregation,
    /// `sum by (…)` around it.
    pub outer: Option<&'a Grouping>,
    /// A sum without grouping is around it.
    pub outer_all: bool,
}

impl Leaf<'_> {
    /// Equal leaves are scanned once.
    pub fn key(&self) -> String {
        let outer = self.outer.map_or_else(String::new, ToString::to_string);
        format!("{}{outer}{}", self.aggregation, self.outer_all)
    }
}

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

/// Value of a label, "" for none.
fn label<'a>(labels: &'a [(String, String)], name: &str) -> &'a str {
    labels.binary_search_by(|(n, _)| n.as_str().cmp(name)).map_or("", |i| labels.get(i).map_or("", |(_, v)| v))
}

/// Sets a label, or removes it when the value is empty.
fn set_label(labels: &mut LabelPairs, name: &str, value: &str) {
    match (labels.binary_search_by(|(n, _)| n.as_str().cmp(name)), value.is_empty()) {
        (Ok(at), true) => {
            labels.remove(at);
        }
        (Ok(at), false) => {
            if let Some((_, old)) = labels.get_mut(at) {
                value.clone_into(old);
            }
        }
        (Err(_), true) => {}
        (Err(at), false) => labels.insert(at, (name.to_owned(), value.to_owned())),
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
