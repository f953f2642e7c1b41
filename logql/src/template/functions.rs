//! Functions of templates: Go's own, Loki's and those that Loki takes from Sprig.

use std::cell::RefCell;
use std::collections::HashMap;

use super::context::Context;
use super::date;
use super::fault::TemplateFault;
use super::format::printf;
use super::value::Value;
use crate::dialect;
use crate::syntax::go_number;

/// Bytes that one function may make.
const MAX_TEXT: usize = 1 << 20;

/// Number of arguments: from, to.
type Arity = (usize, usize);

const MANY: usize = usize::MAX;

/// Names and numbers of arguments.
const FUNCTIONS: [(&str, Arity); 84] = [
    ("and", (1, MANY)),
    ("or", (1, MANY)),
    ("not", (1, 1)),
    ("eq", (1, MANY)),
    ("ne", (2, 2)),
    ("lt", (2, 2)),
    ("le", (2, 2)),
    ("gt", (2, 2)),
    ("ge", (2, 2)),
    ("len", (1, 1)),
    ("index", (1, MANY)),
    ("slice", (1, 4)),
    ("print", (0, MANY)),
    ("println", (0, MANY)),
    ("printf", (1, MANY)),
    ("urlquery", (1, MANY)),
    ("__line__", (0, 0)),
    ("__timestamp__", (0, 0)),
    ("ToLower", (1, 1)),
    ("ToUpper", (1, 1)),
    ("Replace", (4, 4)),
    ("Trim", (2, 2)),
    ("TrimLeft", (2, 2)),
    ("TrimRight", (2, 2)),
    ("TrimPrefix", (2, 2)),
    ("TrimSuffix", (2, 2)),
    ("TrimSpace", (1, 1)),
    ("regexReplaceAll", (3, 3)),
    ("regexReplaceAllLiteral", (3, 3)),
    ("count", (2, 2)),
    ("urlencode", (1, 1)),
    ("urldecode", (1, 1)),
    ("bytes", (1, 1)),
    ("duration", (1, 1)),
    ("duration_seconds", (1, 1)),
    ("unixEpoch", (1, 1)),
    ("unixEpochMillis", (1, 1)),
    ("unixEpochNanos", (1, 1)),
    ("unixToTime", (1, 1)),
    ("date", (2, 2)),
    ("alignLeft", (2, 2)),
    ("alignRight", (2, 2)),
    ("b64enc", (1, 1)),
    ("b64dec", (1, 1)),
    ("lower", (1, 1)),
    ("upper", (1, 1)),
    ("title", (1, 1)),
    ("trunc", (2, 2)),
    ("substr", (3, 3)),
    ("contains", (2, 2)),
    ("hasPrefix", (2, 2)),
    ("hasSuffix", (2, 2)),
    ("indent", (2, 2)),
    ("nindent", (2, 2)),
    ("replace", (3, 3)),
    ("repeat", (2, 2)),
    ("trim", (1, 1)),
    ("trimAll", (2, 2)),
    ("trimPrefix", (2, 2)),
    ("trimSuffix", (2, 2)),
    ("int", (1, 1)),
    ("float64", (1, 1)),
    ("add", (0, MANY)),
    ("sub", (2, 2)),
    ("mul", (1, MANY)),
    ("div", (2, 2)),
    ("mod", (2, 2)),
    ("addf", (0, MANY)),
    ("subf", (1, MANY)),
    ("mulf", (1, MANY)),
    ("divf", (1, MANY)),
    ("max", (1, MANY)),
    ("min", (1, MANY)),
    ("maxf", (1, MANY)),
    ("minf", (1, MANY)),
    ("ceil", (1, 1)),
    ("floor", (1, 1)),
    ("round", (2, 3)),
    ("fromJson", (1, 1)),
    ("default", (1, 2)),
    // Known, not built.
    ("now", (0, 0)),
    ("toDate", (2, 2)),
    ("toDateInZone", (3, 3)),
    ("html", (1, MANY)),
];

/// Whether there is such a function.
pub(super) fn check(name: &str) -> Result<(), TemplateFault> {
    match name {
        "now" => Err(TemplateFault::NotYet("the template function `now`")),
        "toDate" | "toDateInZone" => Err(TemplateFault::NotYet("the template functions `toDate` and `toDateInZone`")),
        "html" | "js" | "call" => Err(TemplateFault::NotYet("the template functions `html`, `js` and `call`")),
        name if FUNCTIONS.iter().any(|(n, _)| *n == name) => Ok(()),
        name => Err(TemplateFault::Wrong(format!("function {name:?} not defined"))),
    }
}

/// Arguments of one call.
struct Arguments<'a> {
    function: &'a str,
    values: Vec<Value>,
}

impl Arguments<'_> {
    fn value(&self, at: usize) -> &Value {
        self.values.get(at).unwrap_or(&Value::Nil)
    }

    /// Only text is text.
    fn text(&self, at: usize) -> Result<&str, String> {
        match self.value(at) {
            Value::Text(text) => Ok(text),
            other => Err(format!("wrong type for value; expected string; got {}", other.kind())),
        }
    }

    /// Sprig's `toInt64`: anything, 0 for nonsense.
    fn int(&self, at: usize) -> i64 {
        to_int(self.value(at))
    }

    fn float(&self, at: usize) -> f64 {
        to_float(self.value(at))
    }

    /// A Go `int`: text is none.
    fn count(&self, at: usize) -> Result<i64, String> {
        match self.value(at) {
            Value::Int(number) => Ok(*number),
            other => Err(format!("wrong type for value; expected int; got {}", other.kind())),
        }
    }

    fn time(&self, at: usize) -> Result<i64, String> {
        match self.value(at) {
            Value::Time(ns) => Ok(*ns),
            other => Err(format!("wrong type for value; expected time.Time; got {}", other.kind())),
        }
    }

    fn failed(&self, message: impl std::fmt::Display) -> String {
        format!("error calling {}: {message}", self.function)
    }

    fn ints(&self) -> impl Iterator<Item = i64> + '_ {
        self.values.iter().map(to_int)
    }

    fn floats(&self) -> impl Iterator<Item = f64> + '_ {
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

fn text(value: impl Into<String>) -> Result<Value, String> {
    Ok(Value::Text(value.into()))
}

/// Calls a function.
pub(super) fn call(name: &str, values: Vec<Value>, context: &Context<'_>) -> Result<Value, String> {
    let (least, most) = FUNCTIONS.iter().find(|(n, _)| *n == name).map_or((0, MANY), |(_, arity)| *arity);
    let given = values.len();
    if given < least || given > most {
        let want = if most == MANY { format!("at least {least}") } else { least.to_string() };
        return Err(format!("wrong number of args for {name}: want {want} got {given}"));
    }
    let a = Arguments { function: name, values };
    match name {
        "not" => Ok(Value::Bool(!a.value(0).is_true())),
        "eq" => {
            for other in a.values.iter().skip(1) {
                if compare(&a, a.value(0), other)? == Some(std::cmp::Ordering::Equal) {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        "ne" | "lt" | "le" | "gt" | "ge" => {
            use std::cmp::Ordering::{Equal, Greater, Less};
            let order = compare(&a, a.value(0), a.value(1))?;
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
        "index" => index(&a, context),
        "slice" => slice(&a),
        "print" => text(a.values.iter().map(Value::show).collect::<Vec<_>>().join("")),
        "println" => text(a.values.iter().map(Value::show).collect::<Vec<_>>().join(" ") + "\n"),
        "printf" => text(printf(a.text(0)?, a.values.get(1..).unwrap_or_default())),
        "__line__" => text(context.line),
        "__timestamp__" => Ok(Value::Time(context.time_ns)),
        "ToLower" | "lower" => text(a.text(0)?.to_lowercase()),
        "ToUpper" | "upper" => text(a.text(0)?.to_uppercase()),
        "title" => text(title(a.text(0)?)),
        "Replace" => {
            let (from, to) = (a.text(1)?, a.text(2)?);
            match usize::try_from(a.count(3)?) {
                Ok(times) => text(a.text(0)?.replacen(from, to, times)),
                Err(_) => text(a.text(0)?.replace(from, to)),
            }
        }
        "replace" => text(a.text(2)?.replace(a.text(0)?, a.text(1)?)),
        "Trim" => text(a.text(0)?.trim_matches(|c| a.text(1).is_ok_and(|set| set.contains(c)))),
        "TrimLeft" => text(a.text(0)?.trim_start_matches(|c| a.text(1).is_ok_and(|set| set.contains(c)))),
        "TrimRight" => text(a.text(0)?.trim_end_matches(|c| a.text(1).is_ok_and(|set| set.contains(c)))),
        "trimAll" => text(a.text(1)?.trim_matches(|c| a.text(0).is_ok_and(|set| set.contains(c)))),
        "TrimPrefix" => text(a.text(0)?.strip_prefix(a.text(1)?).unwrap_or(a.text(0)?)),
        "TrimSuffix" => text(a.text(0)?.strip_suffix(a.text(1)?).unwrap_or(a.text(0)?)),
        "trimPrefix" => text(a.text(1)?.strip_prefix(a.text(0)?).unwrap_or(a.text(1)?)),
        "trimSuffix" => text(a.text(1)?.strip_suffix(a.text(0)?).unwrap_or(a.text(1)?)),
        "TrimSpace" | "trim" => text(a.text(0)?.trim()),
        "regexReplaceAll" | "regexReplaceAllLiteral" => {
            let regex = regex(a.text(0)?).map_err(|e| a.failed(e))?;
            let (source, replacement) = (a.text(1)?.as_bytes(), a.text(2)?.as_bytes());
            let replaced = if name == "regexReplaceAll" {
                regex.replace_all(source, replacement)
            } else {
                regex.replace_all(source, regex::bytes::NoExpand(replacement))
            };
            text(String::from_utf8_lossy(&replaced))
        }
        "count" => {
            let regex = regex(a.text(0)?).map_err(|e| a.failed(e))?;
            Ok(Value::Int(length(regex.find_iter(a.text(1)?.as_bytes()).count())))
        }
        "urlencode" | "urlquery" => text(url_encode(a.text(0)?)),
        "urldecode" => url_decode(a.text(0)?).map(Value::Text).map_err(|e| a.failed(e)),
        "bytes" => go_number::bytes(a.text(0)?).map(|b| Value::Float(b as f64)).map_err(|e| a.failed(e)),
        "duration" | "duration_seconds" => {
            go_number::duration(a.text(0)?).map(|ns| Value::Float(ns as f64 / 1e9)).map_err(|e| a.failed(e))
        }
        "unixEpoch" => text(a.time(0)?.div_euclid(1_000_000_000).to_string()),
        "unixEpochMillis" => text(a.time(0)?.div_euclid(1_000_000).to_string()),
        "unixEpochNanos" => text(a.time(0)?.to_string()),
        "unixToTime" => unix_to_time(a.text(0)?).map(Value::Time).map_err(|e| a.failed(e)),
        "date" => match a.value(1) {
            Value::Time(ns) => text(date::format(*ns, a.text(0)?)),
            Value::Int(seconds) => text(date::format(seconds.saturating_mul(1_000_000_000), a.text(0)?)),
            other => Err(a.failed(format!("{} is not a time", other.kind()))),
        },
        "alignLeft" | "alignRight" => align(&a, name == "alignRight"),
        "b64enc" => text(base64_encode(a.text(0)?.as_bytes())),
        "b64dec" => text(base64_decode(a.text(0)?)),
        "trunc" => {
            let (count, source) = (a.count(0)?, a.text(1)?);
            let size = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
            let length = source.len();
            if size >= length {
                return text(source);
            }
            let part = if count < 0 { source.as_bytes().get(length - size..) } else { source.as_bytes().get(..size) };
            text(String::from_utf8_lossy(part.unwrap_or_default()))
        }
        "substr" => {
            let (start, end, source) = (a.count(0)?, a.count(1)?, a.text(2)?.as_bytes());
            let at = |n: i64| usize::try_from(n).unwrap_or(usize::MAX).min(source.len());
            let start = if start < 0 { 0 } else { at(start) };
            let end = if end < 0 { source.len() } else { at(end) };
            text(String::from_utf8_lossy(source.get(start..end).unwrap_or_default()))
        }
        "contains" => Ok(Value::Bool(a.text(1)?.contains(a.text(0)?))),
        "hasPrefix" => Ok(Value::Bool(a.text(1)?.starts_with(a.text(0)?))),
        "hasSuffix" => Ok(Value::Bool(a.text(1)?.ends_with(a.text(0)?))),
        "indent" | "nindent" => {
            let width = usize::try_from(a.count(0)?).unwrap_or(0).min(1000);
            let pad = " ".repeat(width);
            let lines: Vec<String> = a.text(1)?.split('\n').map(|line| format!("{pad}{line}")).collect();
            let start = if name == "nindent" { "\n" } else { "" };
            text(format!("{start}{}", lines.join("\n")))
        }
        "repeat" => {
            let (count, source) = (usize::try_from(a.count(0)?).unwrap_or(0), a.text(1)?);
            if source.len().saturating_mul(count) > MAX_TEXT {
                return Err(a.failed(format!("the result is longer than {MAX_TEXT} bytes")));
            }
            text(source.repeat(count))
        }
        "int" => Ok(Value::Int(a.int(0))),
        "float64" => Ok(Value::Float(a.float(0))),
        "add" => Ok(Value::Int(a.ints().fold(0, i64::wrapping_add))),
        "sub" => Ok(Value::Int(a.int(0).wrapping_sub(a.int(1)))),
        "mul" => Ok(Value::Int(a.ints().fold(1, i64::wrapping_mul))),
        "div" | "mod" => {
            let (left, right) = (a.int(0), a.int(1));
            if right == 0 {
                return Err(a.failed("runtime error: integer divide by zero"));
            }
            Ok(Value::Int(if name == "div" { left.wrapping_div(right) } else { left.wrapping_rem(right) }))
        }
        "addf" => Ok(Value::Float(a.floats().sum())),
        "subf" => Ok(Value::Float(a.floats().reduce(|x, y| x - y).unwrap_or(0.0))),
        "mulf" => Ok(Value::Float(a.floats().product())),
        "divf" => Ok(Value::Float(a.floats().reduce(|x, y| x / y).unwrap_or(0.0))),
        "max" => Ok(Value::Int(a.ints().max().unwrap_or(0))),
        "min" => Ok(Value::Int(a.ints().min().unwrap_or(0))),
        "maxf" => Ok(Value::Float(a.floats().fold(f64::NEG_INFINITY, f64::max))),
        "minf" => Ok(Value::Float(a.floats().fold(f64::INFINITY, f64::min))),
        "ceil" => Ok(Value::Float(a.float(0).ceil())),
        "floor" => Ok(Value::Float(a.float(0).floor())),
        "round" => {
            let scale = 10f64.powi(i32::try_from(a.int(1)).unwrap_or(0));
            let up_from = if a.values.len() > 2 { a.float(2) } else { 0.5 };
            let scaled = a.float(0) * scale;
            let rounded =
                if scaled.fract().abs() >= up_from { scaled.trunc() + scaled.signum() } else { scaled.trunc() };
            Ok(Value::Float(rounded / scale))
        }
        "fromJson" => {
            let parsed = serde_json::from_str::<serde_json::Value>(a.text(0)?);
            Ok(parsed.map_or(Value::Nil, Value::from_json))
        }
        "default" => {
            let given = a.values.get(1);
            Ok(given.filter(|v| v.is_true()).unwrap_or(a.value(0)).clone())
        }
        name => Err(format!("function {name:?} not defined")),
    }
}

/// Expressions that one thread remembers: a template asks for the same one line after line.
const REMEMBERED: usize = 64;

thread_local! {
    static REGEXES: RefCell<HashMap<String, regex::bytes::Regex>> = RefCell::new(HashMap::new());
}

fn regex(pattern: &str) -> Result<regex::bytes::Regex, String> {
    REGEXES.with_borrow_mut(|known| {
        if let Some(regex) = known.get(pattern) {
            return Ok(regex.clone());
        }
        let regex = dialect::compile(pattern).map_err(|e| dialect::bad_regex(&e))?;
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(pattern.to_owned(), regex.clone());
        Ok(regex)
    })
}

fn length(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
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

/// First letters of words in upper case; the others stay.
fn title(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut start = true;
    for c in source.chars() {
        if start && c.is_alphabetic() {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
        start = !(c.is_alphanumeric() || c == '_' || c == '\'');
    }
    out
}

fn align(a: &Arguments<'_>, right: bool) -> Result<Value, String> {
    let width = usize::try_from(a.count(0)?).unwrap_or(0).min(10_000);
    let source = a.text(1)?;
    let length = source.chars().count();
    let padding = " ".repeat(width.saturating_sub(length));
    if right {
        text(padding + &source.chars().skip(length.saturating_sub(width)).collect::<String>())
    } else {
        text(source.chars().take(width).collect::<String>() + &padding)
    }
}

fn url_encode(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    for byte in source.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn url_decode(source: &str) -> Result<String, String> {
    let mut out = Vec::with_capacity(source.len());
    let mut rest = source.as_bytes();
    while let [byte, behind @ ..] = rest {
        rest = behind;
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let digits = behind.get(..2).and_then(|d| std::str::from_utf8(d).ok());
                match digits.and_then(|d| u8::from_str_radix(d, 16).ok()) {
                    Some(byte) => out.push(byte),
                    None => {
                        let shown = String::from_utf8_lossy(behind.get(..behind.len().min(2)).unwrap_or_default());
                        return Err(format!("invalid URL escape \"%{shown}\""));
                    }
                }
                rest = behind.get(2..).unwrap_or_default();
            }
            byte => out.push(*byte),
        }
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// The number of digits tells the unit.
fn unix_to_time(source: &str) -> Result<i64, String> {
    let number: i64 = source.parse().map_err(|_| {
        let quoted = crate::syntax::quantity::quote(source);
        format!("unable to parse time '{source}': strconv.ParseInt: parsing {quoted}: invalid syntax")
    })?;
    let scale = match source.len() {
        5 => 86_400 * 1_000_000_000,
        10 => 1_000_000_000,
        13 => 1_000_000,
        16 => 1_000,
        19 => 1,
        _ => return Err(format!("unable to parse time '{source}': unknown time format")),
    };
    Ok(number.saturating_mul(scale))
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64_encode(source: &[u8]) -> String {
    let mut out = String::with_capacity(source.len().div_ceil(3) * 4);
    for chunk in source.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, b| (bits << 8) | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let six = usize::try_from((bits >> (18 - 6 * i)) & 63).unwrap_or(0);
            if i <= chunk.len() {
                out.push(char::from(*BASE64.get(six).unwrap_or(&b'A')));
            } else {
                out.push('=');
            }
        }
    }
    out
}

/// With or without padding; what is no base64 gives the text of the fault, as Sprig does.
fn base64_decode(source: &str) -> String {
    let mut out = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    let body = source.trim_end_matches('=');
    for (at, byte) in body.bytes().enumerate() {
        let Some(six) = BASE64.iter().position(|b| *b == byte) else {
            return format!("illegal base64 data at input byte {at}");
        };
        bits = (bits << 6) | u32::try_from(six).unwrap_or(0);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from((bits >> count) & 255).unwrap_or(0));
        }
    }
    if body.len() % 4 == 1 {
        return format!("illegal base64 data at input byte {}", body.len() - 1);
    }
    String::from_utf8_lossy(&out).into_owned()
}
