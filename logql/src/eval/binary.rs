//! Two sides to one: arithmetic, comparison and set operators between literals and series.
//!
//! In: values of both sides. Out: one value, or why the sides don't fit together. Touches nothing.

use std::collections::HashMap;

use super::column::{Column, Steps, Value, label, set_label};
use crate::answer::LabelPairs;
use crate::error::QueryError;
use crate::syntax::arithmetic::{arithmetic, scalars};
use crate::syntax::tree::{Binary, BinaryOp, Cardinality};

/// Computes an operator.
pub(super) fn join(expr: &Binary, left: Value, right: Value, steps: &Steps) -> Result<Value, QueryError> {
    Ok(match (left, right) {
        (Value::Scalar(left), Value::Scalar(right)) => Value::Scalar(scalars(expr.op, left, right)),
        (Value::Columns(columns), Value::Scalar(right)) => {
            Value::Columns(with_literal(columns, |v| combine(expr, v, right, v)))
        }
        (Value::Scalar(left), Value::Columns(columns)) => {
            Value::Columns(with_literal(columns, |v| combine(expr, left, v, v)))
        }
        (Value::Columns(left), Value::Columns(right)) if expr.op.is_set() => {
            Value::Columns(set(expr, left, right, steps))
        }
        (Value::Columns(left), Value::Columns(right)) => Value::Columns(pairs(expr, left, right, steps)?),
    })
}

/// Value of an operator; a comparison without `bool` gives `kept` where it holds.
fn combine(expr: &Binary, left: f64, right: f64, kept: f64) -> Option<f64> {
    match expr.op.comparison() {
        Some(comparison) if expr.returns_bool => Some(f64::from(u8::from(comparison.holds(left, right)))),
        Some(comparison) => comparison.holds(left, right).then_some(kept),
        None => Some(arithmetic(expr.op, left, right)),
    }
}

fn with_literal(mut columns: Vec<Column>, compute: impl Fn(f64) -> Option<f64>) -> Vec<Column> {
    for column in &mut columns {
        for value in &mut column.values {
            *value = value.and_then(&compute);
        }
    }
    columns.retain(|c| c.values.iter().any(Option::is_some));
    columns
}

/// Labels by which two series find each other.
fn signature(expr: &Binary, labels: &[(String, String)]) -> LabelPairs {
    let kept = labels.iter().filter(|(name, _)| match &expr.matching {
        Some(matching) => matching.labels.contains(name) == matching.on,
        None => true,
    });
    kept.cloned().collect()
}

/// Numbers the signatures of both sides.
fn numbered(expr: &Binary, left: &[Column], right: &[Column]) -> (Vec<usize>, Vec<usize>, usize) {
    let mut known: HashMap<LabelPairs, usize> = HashMap::new();
    let mut number = |columns: &[Column]| -> Vec<usize> {
        columns
            .iter()
            .map(|c| {
                let next = known.len();
                *known.entry(signature(expr, &c.labels)).or_insert(next)
            })
            .collect()
    };
    let (left, right) = (number(left), number(right));
    (left, right, known.len())
}

fn set(expr: &Binary, mut left: Vec<Column>, mut right: Vec<Column>, steps: &Steps) -> Vec<Column> {
    let (left_numbers, right_numbers, count) = numbered(expr, &left, &right);
    let present = |columns: &[Column], numbers: &[usize], k: usize| {
        let mut present = vec![false; count];
        for (column, number) in columns.iter().zip(numbers) {
            if column.values.get(k).copied().flatten().is_some()
                && let Some(slot) = present.get_mut(*number)
            {
                *slot = true;
            }
        }
        present
    };
    for k in 0..steps.count {
        let (filtered, numbers, wanted, other) = match expr.op {
            BinaryOp::And => (&mut left, &left_numbers, true, present(&right, &right_numbers, k)),
            BinaryOp::Unless => (&mut left, &left_numbers, false, present(&right, &right_numbers, k)),
            _ => (&mut right, &right_numbers, false, present(&left, &left_numbers, k)),
        };
        for (column, number) in filtered.iter_mut().zip(numbers) {
            if other.get(*number).copied().unwrap_or(false) != wanted
                && let Some(value) = column.values.get_mut(k)
            {
                *value = None;
            }
        }
    }
    if expr.op == BinaryOp::Or {
        // Equal label sets of both sides are one series.
        for column in right {
            match left.iter_mut().find(|c| c.labels == column.labels) {
                Some(same) => {
                    for (value, other) in same.values.iter_mut().zip(column.values) {
                        *value = value.or(other);
                    }
                }
                None => left.push(column),
            }
        }
    }
    left.retain(|c| c.values.iter().any(Option::is_some));
    left
}

/// Labels of the result of a pair.
fn result_labels(expr: &Binary, many: &[(String, String)], one: &[(String, String)]) -> LabelPairs {
    let Some(matching) = &expr.matching else { return many.to_vec() };
    let mut labels = many.to_vec();
    if matching.cardinality == Cardinality::OneToOne {
        labels.retain(|(name, _)| matching.labels.contains(name) == matching.on);
    }
    for name in &matching.include {
        set_label(&mut labels, name, label(one, name));
    }
    labels
}

fn pairs(expr: &Binary, left: Vec<Column>, right: Vec<Column>, steps: &Steps) -> Result<Vec<Column>, QueryError> {
    let fault = |message: &str| Err(QueryError::Matching { message: message.to_owned() });
    let cardinality = expr.matching.as_ref().map_or(Cardinality::OneToOne, |m| m.cardinality);
    let swapped = cardinality == Cardinality::OneToMany;
    let (many, one) = if swapped { (right, left) } else { (left, right) };
    let (many_numbers, one_numbers, count) = numbered(expr, &many, &one);
    // Result series by (many, one), or by signature when each has one partner.
    let mut results: Vec<Column> = Vec::new();
    let mut place: HashMap<LabelPairs, usize> = HashMap::new();
    let mut written: Vec<usize> = Vec::new();
    for k in 0..steps.count {
        let mut partners: Vec<Option<(usize, f64)>> = vec![None; count];
        for (i, (column, number)) in one.iter().zip(&one_numbers).enumerate() {
            let Some(value) = column.values.get(k).copied().flatten() else { continue };
            let Some(slot) = partners.get_mut(*number) else { continue };
            if slot.is_some() {
                let side = if swapped { "left" } else { "right" };
                return fault(&format!(
                    "found duplicate series on the {side} hand-side;many-to-many matching not allowed: matching labels must be unique on one side"
                ));
            }
            *slot = Some((i, value));
        }
        let mut taken = vec![false; count];
        for (column, number) in many.iter().zip(&many_numbers) {
            let Some(value) = column.values.get(k).copied().flatten() else { continue };
            let Some((i, other)) = partners.get(*number).copied().flatten() else { continue };
            let (a, b) = if swapped { (other, value) } else { (value, other) };
            if cardinality == Cardinality::OneToOne
                && let Some(slot) = taken.get_mut(*number)
            {
                if *slot {
                    return fault(
                        "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
                    );
                }
                *slot = true;
            }
            let Some(result) = combine(expr, a, b, a) else { continue };
            let labels = result_labels(expr, &column.labels, one.get(i).map_or(&[], |c| &c.labels));
            let at = *place.entry(labels).or_insert_with_key(|labels| {
                results.push(Column { labels: labels.clone(), values: vec![None; steps.count] });
                results.len() - 1
            });
            if written.len() < results.len() {
                written.resize(results.len(), usize::MAX);
            }
            if let Some(slot) = written.get_mut(at) {
                if *slot == k {
                    return fault("multiple matches for labels: grouping labels must ensure unique matches");
                }
                *slot = k;
            }
            if let Some(slot) = results.get_mut(at).and_then(|c| c.values.get_mut(k)) {
                *slot = Some(result);
            }
        }
    }
    Ok(results)
}
