//! Template functions on texts: Loki's, and those that Loki takes from Sprig.
//!
//! In: arguments. Out: texts and numbers, or Go's messages. Touches nothing but the regular expressions that its thread
//! remembers.

use std::cell::RefCell;

use regex::bytes::Regex;

use super::arguments::{Arguments, length, text};
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
            let regex = regex(a)?;
            if name == "regexReplaceAll" { expand_all(a, &regex) } else { replace_all(a, &regex) }
        }
        "count" => {
            let regex = regex(a)?;
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
    // Sorted: a set may be as long as a line.
    let mut set: Vec<char> = set.chars().collect();
    set.sort_unstable();
    move |c| set.binary_search(&c).is_ok()
}

/// The first so many places of a text replaced.
fn replace(a: &Arguments<'_>, source: &str, (from, to): (&str, &str), times: usize) -> Result<Value, String> {
    if to.len() > from.len() {
        let places = source.matches(from).take(times).count();
        a.within(source.len().saturating_add(places.saturating_mul(to.len() - from.len())))?;
    }
    text(source.replacen(from, to, times))
}

/// All matches of an expression replaced by a text.
fn replace_all(a: &Arguments<'_>, regex: &Regex) -> Result<Value, String> {
    let (source, replacement) = (a.text(1)?.as_bytes(), a.text(2)?.as_bytes());
    let mut out = Vec::new();
    let mut end = 0;
    for found in regex.find_iter(source) {
        out.extend_from_slice(source.get(end..found.start()).unwrap_or_default());
        out.extend_from_slice(replacement);
        end = found.end();
        a.within(out.len())?;
    }
    out.extend_from_slice(source.get(end..).unwrap_or_default());
    text(String::from_utf8_lossy(&out))
}

/// All matches of an expression replaced by a text in which `$1` stands for a group.
fn expand_all(a: &Arguments<'_>, regex: &Regex) -> Result<Value, String> {
    let (source, replacement) = (a.text(1)?.as_bytes(), a.text(2)?.as_bytes());
    let pieces = pieces(replacement);
    let mut out = Vec::new();
    let mut end = 0;
    for found in regex.captures_iter(source) {
        let Some(whole) = found.get(0) else { continue };
        out.extend_from_slice(source.get(end..whole.start()).unwrap_or_default());
        end = whole.end();
        for piece in &pieces {
            found.expand(piece, &mut out);
            a.within(out.len())?;
        }
        a.within(out.len())?;
    }
    out.extend_from_slice(source.get(end..).unwrap_or_default());
    text(String::from_utf8_lossy(&out))
}

/// Pieces of a replacement with one group at most each: none makes much before its length is looked at.
fn pieces(replacement: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    let (mut start, mut at) = (0, 0);
    while let Some(next) = memchr::memchr(b'$', replacement.get(at..).unwrap_or_default()) {
        let dollar = at + next;
        // `$$` is one dollar.
        let is_escaped = replacement.get(dollar + 1) == Some(&b'$');
        at = dollar + if is_escaped { 2 } else { 1 };
        if !is_escaped && dollar > start {
            pieces.extend(replacement.get(start..dollar));
            start = dollar;
        }
    }
    pieces.extend(replacement.get(start..).filter(|rest| !rest.is_empty()));
    pieces
}

/// Expressions that one thread remembers: a template asks for the same ones line after line.
const REMEMBERED: usize = 16;
/// Bytes that each of them may take.
const MAX_REGEX_BYTES: usize = 1 << 20;
/// Work of compiling one that is not remembered.
const COMPILE: usize = 128 << 10;

thread_local! {
    /// The one that was asked for last stands first.
    static REGEXES: RefCell<Vec<(String, Regex)>> = const { RefCell::new(Vec::new()) };
}

/// The expression that the first argument says.
fn regex(a: &Arguments<'_>) -> Result<Regex, String> {
    let pattern = a.text(0)?;
    REGEXES.with_borrow_mut(|known| {
        if let Some(at) = known.iter().position(|(text, _)| text == pattern) {
            known[..=at].rotate_right(1);
            return Ok(known[0].1.clone());
        }
        a.spend(COMPILE);
        let regex = dialect::compile_within(pattern, MAX_REGEX_BYTES).map_err(|e| a.failed(dialect::bad_regex(&e)))?;
        known.truncate(REMEMBERED - 1);
        known.insert(0, (pattern.to_owned(), regex.clone()));
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
