//! Operators on numbers, as Loki computes them.
//!
//! In: operator, two numbers. Out: a number. Touches nothing.

use super::tree::BinaryOp;

/// Both sides are literals: comparisons give 0 or 1.
pub fn scalars(op: BinaryOp, left: f64, right: f64) -> f64 {
    match op.comparison() {
        Some(comparison) => f64::from(u8::from(comparison.holds(left, right))),
        None => arithmetic(op, left, right),
    }
}

/// `+ - * / % ^`; dividing by zero gives NaN, as in Loki.
pub fn arithmetic(op: BinaryOp, left: f64, right: f64) -> f64 {
    match op {
        BinaryOp::Add => left + right,
        BinaryOp::Sub => left - right,
        BinaryOp::Mul => left * right,
        BinaryOp::Div if right == 0.0 => f64::NAN,
        BinaryOp::Mod if right == 0.0 => f64::NAN,
        BinaryOp::Div => left / right,
        BinaryOp::Mod => left % right,
        BinaryOp::Pow => left.powf(right),
        _ => f64::NAN,
    }
}
