//! Arguments of one call of a template function, with Go's and Sprig's conversions.
//!
//! In: values. Out: texts, numbers, times, or Go's message about a wrong type. Touches nothing.

use std::cell::Cell;

use super::value::Value;

/// Bytes that one function may make.
pub(super) const MAX_TEXT: usize = 1 << 20;

/// Arguments of one call.
pub(super) struct Arguments<'a> {
    /// Name of the function.
    pub(super) function: &'a str,
    /// Values in order.
    pub(super) values: Vec<Value>,
    /// Work of the call that its result does not show.
    pub(super) spent: &'a Cell<usize>,
}

impl Arguments<'_> {
    /// The one at a place; absent ones are nil.
    pub(super) fn value(&self, at: usize) -> &Value {
        self.values.get(at).unwrap_or(&Value::Nil)
    }

    /// Only text is text.
    pub(super) fn text(&self, at: usize) -> Result<&str, String> {
        match self.value(at) {
            Value::Text(text) => Ok(text),
            other => Err(format!("wrong type for value; expected string; got {}", other.kind())),
        }
    }

    /// Sprig's `toInt64`: anything, 0 for nonsense.
    pub(super) fn int(&self, at: usize) -> i64 {
        to_int(self.value(at))
    }

    /// Sprig's `toFloat64`: anything, 0 for nonsense.
    pub(super) fn float(&self, at: usize) -> f64 {
        to_float(self.value(at))
    }

    /// A Go `int`; text is an error.
    pub(super) fn count(&self, at: usize) -> Result<i64, String> {
        match self.value(at) {
            Value::Int(number) => Ok(*number),
            other => Err(format!("wrong type for value; expected int; got {}", other.kind())),
        }
    }

    /// Only a time is a time: ns since 1970.
    pub(super) fn time(&self, at: usize) -> Result<i64, String> {
        match self.value(at) {
            Value::Time(ns) => Ok(*ns),
            other => Err(format!("wrong type for value; expected time.Time; got {}", other.kind())),
        }
    }

    /// Message of a failed call.
    pub(super) fn failed(&self, message: impl std::fmt::Display) -> String {
        format!("error calling {}: {message}", self.function)
    }

    /// Counts work that the result does not show.
    pub(super) fn spend(&self, work: usize) {
        self.spent.set(self.spent.get().saturating_add(work));
    }

    /// Message where the result would take too much memory.
    pub(super) fn too_long(&self) -> String {
        self.failed(format!("the result is longer than {MAX_TEXT} bytes"))
    }

    /// Whether a result of so many bytes may be made.
    pub(super) fn within(&self, bytes: usize) -> Result<(), String> {
        if bytes > MAX_TEXT { Err(self.too_long()) } else { Ok(()) }
    }

    /// All as integers.
    pub(super) fn ints(&self) -> impl Iterator<Item = i64> + '_ {
        self.values.iter().map(to_int)
    }

    /// All as floats.
    pub(super) fn floats(&self) -> impl Iterator<Item = f64> + '_ {
        self.values.iter().map(to_float)
    }
}

fn to_int(value: &Value) -> i64 {
    match value {
        Value::Int(number) => *number,
        Value::Float(number) => *number as i64,
        Value::Bool(value) => i64::from(*value),
        Value::Text(text) => {
            let whole = text.split('.').next().unwrap_or("");
            text.parse().or_else(|_| whole.parse()).unwrap_or(0)
        }
        _ => 0,
    }
}

fn to_float(value: &Value) -> f64 {
    match value {
        Value::Int(number) => *number as f64,
        Value::Float(number) => *number,
        Value::Bool(value) => f64::from(u8::from(*value)),
        Value::Text(text) => text.parse().unwrap_or(0.0),
        _ => 0.0,
    }
}

/// A text as the result of a function.
pub(super) fn text(value: impl Into<String>) -> Result<Value, String> {
    Ok(Value::Text(value.into()))
}

/// A length as a Go `int`.
pub(super) fn length(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
