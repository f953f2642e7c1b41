//! Functions on texts, lists, times and JSON: those of Alertmanager, some of which rules have as well.
//!
//! In: arguments. Out: values, or what does not fit. Touches nothing but remembered regular expressions.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;

use crate::call::Call;
use crate::json;
use crate::regexes;
use crate::value::{Entries, ListKind, MapKind, Safe, Value};

/// Calls one of them. `None`: the name is not one of these.
pub(crate) fn call(a: &Call<'_>) -> Result<Option<Value>, String> {
    let value = match a.name {
        "toUpper" => a.made(each_letter(a.text(0)?, |c| c.to_uppercase())),
        "toLower" => a.made(each_letter(a.text(0)?, |c| c.to_lowercase())),
        "title" => a.made(title(a.text(0)?, true)),
        "trimSpace" => a.made(a.text(0)?.trim()),
        "join" => {
            let (separator, list) = (a.text(0)?, a.strings(1)?);
            let length: usize = list.iter().map(|item| item.len().saturating_add(separator.len())).sum();
            if length > a.around.limit.saturating_add(separator.len()) {
                return Err(a.too_long());
            }
            a.made(list.join(separator))
        }
        "match" => Ok(Value::Bool(regexes::compiled(a, 0)?.is_match(a.text(1)?))),
        "reReplaceAll" => {
            let regex = regexes::compiled(a, 0)?;
            let made = regexes::replace_all(&regex, a.text(1)?, a.text(2)?, a.around.limit);
            made.map(Value::text).ok_or_else(|| a.too_long())
        }
        "safeHtml" => Ok(Value::Safe(Safe::Html, a.text(0)?.into())),
        "safeUrl" => Ok(Value::Safe(Safe::Url, a.text(0)?.into())),
        "urlUnescape" => unescape(a.text(0)?)
            .map(Value::text)
            .ok_or_else(|| format!("`urlUnescape`: `{}` holds an invalid escape", a.text(0).unwrap_or_default())),
        "stringSlice" => {
            for at in 0..a.values.len() {
                a.text(at)?;
            }
            Ok(Value::strings(a.values.iter().filter_map(|v| v.as_text().cloned())))
        }
        "date" => a.made(a.time(1)?.format(a.text(0)?)),
        "tz" => a
            .time(1)?
            .in_zone(a.text(0)?)
            .map(Value::Time)
            .ok_or_else(|| format!("`tz`: unknown time zone `{}`", a.text(0).unwrap_or_default())),
        "now" => Ok(Value::Time(crate::time::GoTime::from_ns(a.around.now_ns))),
        "since" => Ok(Value::Duration(crate::time::GoTime::from_ns(a.around.now_ns).minus(a.time(0)?))),
        "toJson" => a.made(json::go_text(a.value(0))),
        "base64encode" => a.made(URL_SAFE.encode(a.text(0)?)),
        "base64decode" => {
            let bytes = URL_SAFE
                .decode(a.text(0)?)
                .map_err(|_| "`base64decode`: invalid base64 (URL-safe alphabet)".to_owned())?;
            a.made(String::from_utf8_lossy(&bytes))
        }
        "list" => a.nested(Value::List(ListKind::Any, a.values.clone().into())),
        "append" => {
            let Value::List(_, list) = a.value(0) else { return Err(a.wrong(0, "a list")) };
            let more = a.values.get(1..).unwrap_or_default();
            a.nested(Value::List(ListKind::Any, list.iter().chain(more).cloned().collect()))
        }
        "dict" => dict(a),
        _ => return Ok(None),
    };
    value.map(Some)
}

fn dict(a: &Call<'_>) -> Result<Value, String> {
    if !a.values.len().is_multiple_of(2) {
        return Err("`dict` takes names and values in turn: one is missing".to_owned());
    }
    let mut map = Entries::new();
    for at in (0..a.values.len()).step_by(2) {
        map.insert(a.text(at)?.into(), a.value(at + 1).clone());
    }
    a.nested(Value::Map(MapKind::Any, Arc::new(map)))
}

/// Letters changed one for one, as Go does: `ß` has no single upper case and stays.
fn each_letter<I: ExactSizeIterator<Item = char>>(text: &str, change: impl Fn(char) -> I) -> String {
    let letter = |c: char| {
        let mut changed = change(c);
        if changed.len() == 1 { changed.next().unwrap_or(c) } else { c }
    };
    text.chars().map(letter).collect()
}

/// First letters of words in upper case; `lowers` the others.
pub(crate) fn title(text: &str, lowers: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut start = true;
    for c in text.chars() {
        if start && c.is_alphabetic() {
            out.extend(c.to_uppercase());
        } else if lowers {
            out.extend(c.to_lowercase());
        } else {
            out.push(c);
        }
        start = !(c.is_alphanumeric() || c == '_' || c == '\'' || (lowers && c == '’'));
    }
    out
}

/// `%20` and `+` of a query undone.
pub(crate) fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
                let value = digit(rest.next())? * 16 + digit(rest.next())?;
                bytes.push(u8::try_from(value).ok()?);
            }
            byte => bytes.push(byte),
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
