//! Go's own template functions: comparison, logic, length, index, slice, printing, escaping.
//!
//! In: arguments. Out: values, or what does not fit. Touches nothing.

use std::cmp::Ordering;

use crate::call::Call;
use crate::show;
use crate::value::{MapKind, Safe, Value};

/// Calls one of them. `None`: the name is not one of these.
pub(crate) fn call(a: &Call<'_>) -> Result<Option<Value>, String> {
    let limit = a.around.limit;
    let value = match a.name {
        "not" => Ok(Value::Bool(!a.value(0).is_true())),
        "eq" => {
            for other in 1..a.values.len() {
                if compare(a, 0, other)? == Some(Ordering::Equal) {
                    return Ok(Some(Value::Bool(true)));
                }
            }
            Ok(Value::Bool(false))
        }
        "ne" => Ok(Value::Bool(compare(a, 0, 1)? != Some(Ordering::Equal))),
        "lt" | "le" | "gt" | "ge" => {
            for at in [0, 1] {
                if matches!(a.value(at), Value::Bool(_) | Value::Nil) {
                    return Err(a.wrong(at, "a number or a text"));
                }
            }
            let order = compare(a, 0, 1)?;
            Ok(Value::Bool(match a.name {
                "lt" => order == Some(Ordering::Less),
                "le" => matches!(order, Some(Ordering::Less | Ordering::Equal)),
                "gt" => order == Some(Ordering::Greater),
                _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
            }))
        }
        "len" => length(a),
        "index" => index(a),
        "slice" => slice(a),
        "print" => show::print(&a.values, limit).map(Value::text).ok_or_else(|| a.too_long()),
        "println" => show::println(&a.values, limit).map(Value::text).ok_or_else(|| a.too_long()),
        "printf" => {
            let filled = show::printf(a.text(0)?, a.values.get(1..).unwrap_or_default(), limit);
            filled.map(Value::text).ok_or_else(|| a.too_long())
        }
        "html" => a.made(crate::html::escape_plain(&printed(a)?)).map(|made| vouched(made, Safe::Html)),
        "urlquery" => {
            let escaped: String = form_urlencoded::byte_serialize(printed(a)?.as_bytes()).collect();
            a.made(escaped.replace('*', "%2A").replace("%7E", "~")).map(|made| vouched(made, Safe::Url))
        }
        "js" => a.made(js(&printed(a)?)),
        _ => return Ok(None),
    };
    value.map(Some)
}

/// What is escaped already must not be escaped again.
fn vouched(made: Value, safe: Safe) -> Value {
    match made {
        Value::Text(text) => Value::Safe(safe, text),
        other => other,
    }
}

fn printed(a: &Call<'_>) -> Result<String, String> {
    show::print(&a.values, a.around.limit).ok_or_else(|| a.too_long())
}

fn js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' => out.push_str("\\u003C"),
            '>' => out.push_str("\\u003E"),
            '&' => out.push_str("\\u0026"),
            '=' => out.push_str("\\u003D"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

fn compare(a: &Call<'_>, left: usize, right: usize) -> Result<Option<Ordering>, String> {
    use Value::{Bool, Duration, Float, Int, Named, Nil};
    let (l, r) = (a.value(left), a.value(right));
    match (l, r) {
        (Int(l) | Duration(l) | Named(_, l, _), Int(r) | Duration(r) | Named(_, r, _)) => Ok(Some(l.cmp(r))),
        (Float(l), Float(r)) => Ok(l.partial_cmp(r)),
        (Bool(l), Bool(r)) => Ok(Some(l.cmp(r))),
        (Nil, Nil) => Ok(Some(Ordering::Equal)),
        (Nil, _) | (_, Nil) if matches!(a.name, "eq" | "ne") => Ok(None),
        (Value::Time(l), Value::Time(r)) if matches!(a.name, "eq" | "ne") => Ok(l.utc.partial_cmp(&r.utc)),
        (l, r) => match (l.as_text(), r.as_text()) {
            (Some(l), Some(r)) => Ok(Some(l.cmp(r))),
            _ => {
                let hint = match (l, r) {
                    (Float(_), Int(n)) | (Int(n), Float(_)) => format!(": write `{n}.0`"),
                    _ => String::new(),
                };
                Err(format!("`{}` can't compare {} with {}{hint}", a.name, l.describe(), r.describe()))
            }
        },
    }
}

fn length(a: &Call<'_>) -> Result<Value, String> {
    let length = match a.value(0) {
        Value::Text(text) | Value::Safe(_, text) => text.len(),
        Value::List(_, list) => list.len(),
        Value::Map(_, map) => map.len(),
        _ => return Err(a.wrong(0, "a text, list or map")),
    };
    Ok(Value::Int(i64::try_from(length).unwrap_or(i64::MAX)))
}

fn index(a: &Call<'_>) -> Result<Value, String> {
    let mut at = a.value(0).clone();
    for n in 1..a.values.len() {
        at = match (&at, a.value(n)) {
            (Value::Map(kind, map), Value::Text(name) | Value::Safe(_, name)) => {
                map.get(name).cloned().unwrap_or_else(|| missing(*kind))
            }
            (Value::List(_, list), Value::Int(i)) => {
                let found = usize::try_from(*i).ok().and_then(|i| list.get(i).cloned());
                found.ok_or_else(|| format!("`index`: {i} is out of range, the list has {} items", list.len()))?
            }
            (Value::Text(text), Value::Int(i)) => {
                let found = usize::try_from(*i).ok().and_then(|i| text.as_bytes().get(i).copied());
                Value::Int(i64::from(found.ok_or_else(|| format!("`index`: {i} is out of range of the text"))?))
            }
            (other, key) => return Err(format!("`index` can't look for {} in {}", key.describe(), other.describe())),
        };
    }
    Ok(at)
}

/// What a map gives for a name that it does not have.
pub(crate) fn missing(kind: MapKind) -> Value {
    match kind {
        MapKind::Any => Value::Nil,
        MapKind::Strings | MapKind::Kv => Value::text(""),
    }
}

fn slice(a: &Call<'_>) -> Result<Value, String> {
    let length = match a.value(0) {
        Value::Text(text) | Value::Safe(_, text) => text.len(),
        Value::List(_, list) => list.len(),
        _ => return Err(a.wrong(0, "a text or list")),
    };
    let bound = |at: usize, default: usize| -> Result<usize, String> {
        if a.values.len() <= at {
            return Ok(default);
        }
        let bound = a.int(at)?;
        let found = usize::try_from(bound).ok().filter(|b| *b <= length);
        found.ok_or_else(|| format!("`slice`: {bound} is out of range, the length is {length}"))
    };
    let (from, to) = (bound(1, 0)?, bound(2, length)?);
    if from > to {
        return Err(format!("`slice`: {from} is behind {to}"));
    }
    match a.value(0) {
        Value::List(kind, list) => Ok(Value::List(*kind, list.get(from..to).unwrap_or_default().into())),
        _ => a.made(String::from_utf8_lossy(a.text(0)?.as_bytes().get(from..to).unwrap_or_default())),
    }
}
