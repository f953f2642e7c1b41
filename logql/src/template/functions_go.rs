//! Go's own template functions (comparison, length, index, slice, print), and those that look at the line.
//!
//! In: arguments and the line's context. Out: values, or Go's messages. Touches nothing.

use super::arguments::{Arguments, MAX_TEXT, length, text};
use super::context::Context;
use super::format::printf;
use super::value::Value;

/// Elements of a JSON text at most, at all levels.
const MAX_ELEMENTS: usize = 50_000;

/// Calls one of them. `None`: the name is not one of these.
pub(super) fn call(name: &str, a: &Arguments<'_>, context: &Context<'_>) -> Result<Option<Value>, String> {
    let value = match name {
        "not" => Ok(Value::Bool(!a.value(0).is_true())),
        "eq" => {
            for other in a.values.iter().skip(1) {
                if compare(a, a.value(0), other)? == Some(std::cmp::Ordering::Equal) {
                    return Ok(Some(Value::Bool(true)));
                }
            }
            Ok(Value::Bool(false))
        }
        "ne" | "lt" | "le" | "gt" | "ge" => {
            use std::cmp::Ordering::{Equal, Greater, Less};
            let order = compare(a, a.value(0), a.value(1))?;
            Ok(Value::Bool(match name {
                "ne" => order != Some(Equal),
                "lt" => order == Some(Less),
                "le" => matches!(order, Some(Less | Equal)),
                "gt" => order == Some(Greater),
                _ => matches!(order, Some(Greater | Equal)),
            }))
        }
        "len" => match a.value(0) {
            Value::Text(text) => Ok(Value::Int(length(text.len()))),
            Value::List(list) => Ok(Value::Int(length(list.len()))),
            Value::Map(map) => Ok(Value::Int(length(map.len()))),
            Value::Labels => Ok(Value::Int(length((context.all)().len()))),
            other => Err(a.failed(format!("len of type {}", other.kind()))),
        },
        "index" => index(a, context),
        "slice" => slice(a),
        "print" => text(a.values.iter().map(Value::show).collect::<Vec<_>>().join("")),
        "println" => text(a.values.iter().map(Value::show).collect::<Vec<_>>().join(" ") + "\n"),
        "printf" => {
            let filled = printf(a.text(0)?, a.values.get(1..).unwrap_or_default(), MAX_TEXT);
            filled.map(Value::Text).ok_or_else(|| a.too_long())
        }
        "__line__" => text(context.line),
        "__timestamp__" => Ok(Value::Time(context.time_ns)),
        "fromJson" => {
            let source = a.text(0)?;
            // Each element takes far more memory than the two bytes of a short one.
            let elements = source.bytes().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count();
            if elements > MAX_ELEMENTS {
                return Err(a.failed(format!("{elements} elements, {MAX_ELEMENTS} are allowed")));
            }
            let parsed = serde_json::from_str::<serde_json::Value>(source);
            Ok(parsed.map_or(Value::Nil, Value::from_json))
        }
        "default" => {
            let given = a.values.get(1);
            Ok(given.filter(|v| v.is_true()).unwrap_or(a.value(0)).clone())
        }
        _ => return Ok(None),
    };
    value.map(Some)
}

fn compare(a: &Arguments<'_>, left: &Value, right: &Value) -> Result<Option<std::cmp::Ordering>, String> {
    match (left, right) {
        (Value::Text(l), Value::Text(r)) => Ok(Some(l.cmp(r))),
        (Value::Int(l), Value::Int(r)) | (Value::Time(l), Value::Time(r)) => Ok(Some(l.cmp(r))),
        (Value::Float(l), Value::Float(r)) => Ok(l.partial_cmp(r)),
        (Value::Bool(l), Value::Bool(r)) => Ok(Some(l.cmp(r))),
        (Value::Nil, Value::Nil) => Ok(Some(std::cmp::Ordering::Equal)),
        (Value::Nil, _) | (_, Value::Nil) => Ok(None),
        _ => Err(a.failed("incompatible types for comparison")),
    }
}

fn index(a: &Arguments<'_>, context: &Context<'_>) -> Result<Value, String> {
    let mut at = a.value(0).clone();
    for key in a.values.iter().skip(1) {
        at = match (at, key) {
            (Value::Labels, Value::Text(name)) => Value::Text((context.label)(name).unwrap_or_default()),
            (Value::Map(mut map), Value::Text(name)) => map.remove(name).unwrap_or(Value::Nil),
            (Value::List(list), Value::Int(i)) => {
                let found = usize::try_from(*i).ok().and_then(|i| list.get(i).cloned());
                found.ok_or_else(|| a.failed(format!("index out of range: {i}")))?
            }
            (Value::Text(text), Value::Int(i)) => {
                let found = usize::try_from(*i).ok().and_then(|i| text.as_bytes().get(i).copied());
                Value::Int(i64::from(found.ok_or_else(|| a.failed(format!("index out of range: {i}")))?))
            }
            (other, key) => {
                return Err(a.failed(format!("cannot index {} with type {}", other.kind(), key.kind())));
            }
        };
    }
    Ok(at)
}

fn slice(a: &Arguments<'_>) -> Result<Value, String> {
    let length = match a.value(0) {
        Value::Text(text) => text.len(),
        Value::List(list) => list.len(),
        other => return Err(a.failed(format!("can't slice item of type {}", other.kind()))),
    };
    let bound = |at: usize, default: usize| -> Result<usize, String> {
        if a.values.len() <= at {
            return Ok(default);
        }
        let bound = a.count(at)?;
        let found = usize::try_from(bound).ok().filter(|b| *b <= length);
        found.ok_or_else(|| a.failed(format!("index out of range: {bound}")))
    };
    let (from, to) = (bound(1, 0)?, bound(2, length)?);
    if from > to {
        return Err(a.failed(format!("invalid slice index: {from} > {to}")));
    }
    match a.value(0) {
        Value::List(list) => Ok(Value::List(list.get(from..to).unwrap_or_default().to_vec())),
        _ => text(String::from_utf8_lossy(a.text(0)?.as_bytes().get(from..to).unwrap_or_default())),
    }
}
