//! Template functions on texts: Loki's, and those that Loki takes from Sprig.
//!
//! In: arguments. Out: texts and numbers, or Go's messages. Touches nothing but the regular expressions that its thread
//! remembers.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

use super::arguments::{Arguments, MAX_TEXT, length, text};
use super::value::Value;
use crate::dialect;

/// Calls one of them. `None`: the name is not one of these.
pub(super) fn call(name: &str, a: &Arguments<'_>) -> Result<Option<Value>, String> {
    let value = match name {
        "ToLower" | "lower" => text(a.text(0)?.to_lowercase()),
        "ToUpper" | "upper" => text(a.text(0)?.to_uppercase()),
        "title" => text(title(a.text(0)?)),
        "Replace" => {
            let times = usize::try_from(a.count(3)?).unwrap_or(usize::MAX);
            replace(a, a.text(0)?, (a.text(1)?, a.text(2)?), times)
        }
        "replace" => replace(a, a.text(2)?, (a.text(0)?, a.text(1)?), usize::MAX),
        "Trim" => text(a.text(0)?.trim_matches(one_of(a.text(1)?))),
        "TrimLeft" => text(a.text(0)?.trim_start_matches(one_of(a.text(1)?))),
        "TrimRight" => text(a.text(0)?.trim_end_matches(one_of(a.text(1)?))),
        "trimAll" => text(a.text(1)?.trim_matches(one_of(a.text(0)?))),
        "TrimPrefix" => text(a.text(0)?.strip_prefix(a.text(1)?).unwrap_or(a.text(0)?)),
        "TrimSuffix" => text(a.text(0)?.strip_suffix(a.text(1)?).unwrap_or(a.text(0)?)),
        "trimPrefix" => text(a.text(1)?.strip_prefix(a.text(0)?).unwrap_or(a.text(1)?)),
        "trimSuffix" => text(a.text(1)?.strip_suffix(a.text(0)?).unwrap_or(a.text(1)?)),
        "TrimSpace" | "trim" => text(a.text(0)?.trim()),
        "regexReplaceAll" | "regexReplaceAllLiteral" => {
            let regex = regex(a.text(0)?).map_err(|e| a.failed(e))?;
            replace_all(a, &regex, name == "regexReplaceAll")
        }
        "count" => {
            let regex = regex(a.text(0)?).map_err(|e| a.failed(e))?;
            Ok(Value::Int(length(regex.find_iter(a.text(1)?.as_bytes()).count())))
        }
        "alignLeft" | "alignRight" => align(a, name == "alignRight"),
        "trunc" => {
            let (count, source) = (a.count(0)?, a.text(1)?);
            let size = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
            let length = source.len();
            if size >= length {
                return text(source).map(Some);
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
            let count = a.text(1)?.split('\n').count();
            a.within(a.text(1)?.len().saturating_add(count.saturating_mul(width)))?;
            let lines: Vec<String> = a.text(1)?.split('\n').map(|line| format!("{pad}{line}")).collect();
            let start = if name == "nindent" { "\n" } else { "" };
            text(format!("{start}{}", lines.join("\n")))
        }
        "repeat" => {
            let (count, source) = (usize::try_from(a.count(0)?).unwrap_or(0), a.text(1)?);
            a.within(source.len().saturating_mul(count))?;
            text(source.repeat(count))
        }
        _ => return Ok(None),
    };
    value.map(Some)
}

/// Whether a character is one of these.
fn one_of(set: &str) -> impl Fn(char) -> bool {
    let set: HashSet<char> = set.chars().collect();
    move |c| set.contains(&c)
}

/// The first so many places of a text replaced.
fn replace(a: &Arguments<'_>, source: &str, (from, to): (&str, &str), times: usize) -> Result<Value, String> {
    if to.len() > from.len() {
        let places = source.matches(from).take(times).count();
        a.within(source.len().saturating_add(places.saturating_mul(to.len())))?;
    }
    text(source.replacen(from, to, times))
}

/// All matches of an expression replaced; with `expand`, `$1` stands for a group.
fn replace_all(a: &Arguments<'_>, regex: &regex::bytes::Regex, expand: bool) -> Result<Value, String> {
    let (source, replacement) = (a.text(1)?.as_bytes(), a.text(2)?.as_bytes());
    let groups = if expand { replacement.iter().filter(|byte| **byte == b'$').count() } else { 0 };
    let mut out = Vec::new();
    let mut end = 0;
    for found in regex.captures_iter(source) {
        let Some(whole) = found.get(0) else { continue };
        out.extend_from_slice(source.get(end..whole.start()).unwrap_or_default());
        end = whole.end();
        // No group is longer than the match.
        let more = replacement.len().saturating_add(groups.saturating_mul(whole.len()));
        if out.len().saturating_add(more) > MAX_TEXT {
            return Err(a.too_long());
        }
        if expand {
            found.expand(replacement, &mut out);
        } else {
            out.extend_from_slice(replacement);
        }
    }
    out.extend_from_slice(source.get(end..).unwrap_or_default());
    text(String::from_utf8_lossy(&out))
}

/// Expressions that one thread remembers: a template asks for the same one line after line.
const REMEMBERED: usize = 16;
/// Bytes that each of them may take.
const MAX_REGEX_BYTES: usize = 1 << 20;

thread_local! {
    static REGEXES: RefCell<HashMap<String, regex::bytes::Regex>> = RefCell::new(HashMap::new());
    static COMPILED: Cell<usize> = const { Cell::new(0) };
}

/// How many expressions this thread has compiled.
pub(super) fn compiled() -> usize {
    COMPILED.get()
}

fn regex(pattern: &str) -> Result<regex::bytes::Regex, String> {
    REGEXES.with_borrow_mut(|known| {
        if let Some(regex) = known.get(pattern) {
            return Ok(regex.clone());
        }
        COMPILED.set(COMPILED.get().wrapping_add(1));
        let regex = dialect::compile_within(pattern, MAX_REGEX_BYTES).map_err(|e| dialect::bad_regex(&e))?;
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(pattern.to_owned(), regex.clone());
        Ok(regex)
    })
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
