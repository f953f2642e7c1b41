//! Functions that show numbers to people, and links: those of Prometheus's rules.
//!
//! In: arguments. Out: texts, or what does not fit. Touches nothing.

use std::sync::Arc;

use millrace_log::go;

use crate::call::Call;
use crate::functions_text::title;
use crate::show::significant;
use crate::time::GoTime;
use crate::value::{Entries, MapKind, Value};

const LARGE: [&str; 8] = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
const SMALL: [&str; 8] = ["m", "u", "n", "p", "f", "a", "z", "y"];

/// Calls one of them. `None`: the name is not one of these.
pub(crate) fn call(a: &Call<'_>) -> Result<Option<Value>, String> {
    let value = match a.name {
        "humanize" => a.made(humanize(a.number(0)?)),
        "humanize1024" => a.made(humanize1024(a.number(0)?)),
        "humanizeDuration" => a.made(humanize_duration(a.number(0)?)),
        "humanizePercentage" => a.made(format!("{}%", significant(a.number(0)? * 100.0, 4))),
        "humanizeTimestamp" => match a.number(0)? {
            n if !n.is_finite() => a.made(go::float(n)),
            n => time(n)
                .map(|time| Value::text(time.show()))
                .ok_or_else(|| format!("`humanizeTimestamp`: {} s are out of range", go::float(n))),
        },
        "toTime" => {
            time(a.number(0)?).map(Value::Time).ok_or_else(|| "`toTime`: the seconds are out of range".to_owned())
        }
        "toDuration" => Ok(Value::Duration((a.number(0)? * 1e9) as i64)),
        "now" => Ok(Value::Float(a.around.now_ns as f64 / 1e9)),
        "parseDuration" => {
            let text = a.text(0)?;
            parse_duration(text).map(Value::Float).ok_or_else(|| format!("`parseDuration`: invalid duration `{text}`"))
        }
        "title" => a.made(title(a.text(0)?, false)),
        "stripPort" => a.made(strip_port(a.text(0)?)),
        "stripDomain" => a.made(strip_domain(a.text(0)?)),
        "graphLink" => a.made(link(a.text(0)?, 0)),
        "tableLink" => a.made(link(a.text(0)?, 1)),
        "urlQueryEscape" => a.made(escaped(a.text(0)?)),
        "pathPrefix" => {
            let behind = a.around.external_url.split_once("://").map_or("", |(_, rest)| rest);
            a.made(behind.find('/').and_then(|at| behind.get(at..)).unwrap_or_default())
        }
        "externalURL" => a.made(&*a.around.external_url),
        "args" => {
            let entries: Entries =
                a.values.iter().enumerate().map(|(n, v)| (Arc::from(format!("arg{n}")), v.clone())).collect();
            a.nested(Value::Map(MapKind::Any, Arc::new(entries)))
        }
        "first" => match a.value(0) {
            Value::List(_, list) => list.first().cloned().ok_or_else(|| "`first`: the list is empty".to_owned()),
            _ => Err(a.wrong(0, "a list of samples")),
        },
        "label" | "strvalue" => {
            let (name, at) = if a.name == "label" { (a.text(0)?, 1) } else { ("__value__", 0) };
            let Some(Value::Map(_, labels)) = sample(a, at)?.field("Labels").cloned() else {
                return Err(a.wrong(at, "a sample"));
            };
            Ok(labels.get(name).cloned().unwrap_or_else(|| Value::text("")))
        }
        "value" => sample(a, 0)?.field("Value").cloned().ok_or_else(|| a.wrong(0, "a sample")),
        "sortByLabel" => {
            let name = a.text(0)?;
            let Value::List(kind, list) = a.value(1) else { return Err(a.wrong(1, "a list of samples")) };
            let mut list: Vec<Value> = list.to_vec();
            list.sort_by_key(|item| label_of(item, name));
            Ok(Value::List(*kind, list.into()))
        }
        _ => return Ok(None),
    };
    value.map(Some)
}

fn sample<'a>(a: &'a Call<'_>, at: usize) -> Result<&'a crate::value::Record, String> {
    match a.value(at) {
        Value::Record(record) => Ok(record),
        _ => Err(a.wrong(at, "a sample")),
    }
}

fn label_of(item: &Value, name: &str) -> Option<Arc<str>> {
    let Value::Record(record) = item else { return None };
    let Some(Value::Map(_, labels)) = record.field("Labels") else { return None };
    labels.get(name).and_then(Value::as_text).cloned()
}

fn time(seconds: f64) -> Option<GoTime> {
    let ns = seconds * 1e9;
    (ns.is_finite() && ns.abs() < 9.2e18).then(|| GoTime::from_ns((ns as i64).div_euclid(1_000_000) * 1_000_000))
}

/// `1.234k`, `12.3m`.
pub(crate) fn humanize(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return significant(value, 4);
    }
    let (value, prefix) = if value.abs() >= 1.0 { larger(value, 1000.0, &LARGE) } else { smaller(value) };
    format!("{}{prefix}", significant(value, 4))
}

fn larger<'a>(mut value: f64, step: f64, prefixes: &[&'a str]) -> (f64, &'a str) {
    let mut shown = "";
    for prefix in prefixes {
        if value.abs() < step {
            break;
        }
        shown = prefix;
        value /= step;
    }
    (value, shown)
}

fn smaller(mut value: f64) -> (f64, &'static str) {
    let mut shown = "";
    for prefix in SMALL {
        if value.abs() >= 1.0 {
            break;
        }
        shown = prefix;
        value *= 1000.0;
    }
    (value, shown)
}

/// `1.5Mi`.
pub(crate) fn humanize1024(value: f64) -> String {
    if value.abs() <= 1.0 || !value.is_finite() {
        return significant(value, 4);
    }
    let (value, prefix) = larger(value, 1024.0, &LARGE);
    let unit = if prefix.is_empty() { "" } else { "i" };
    format!("{}{prefix}{unit}", significant(value, 4))
}

/// Seconds as `1d 2h 3m 4s`, `1.5s`, `20ms`.
pub(crate) fn humanize_duration(value: f64) -> String {
    if !value.is_finite() {
        return significant(value, 4);
    }
    if value == 0.0 {
        return format!("{}s", significant(value, 4));
    }
    if value.abs() < 1.0 {
        let (value, prefix) = smaller(value);
        return format!("{}{prefix}s", significant(value, 4));
    }
    let sign = if value < 0.0 { "-" } else { "" };
    let all = value.abs();
    let whole = all as i64;
    let (days, hours, minutes, seconds) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{sign}{}s", significant(all, 4)),
        (0, 0, minutes) => format!("{sign}{minutes}m {seconds}s"),
        (0, hours, minutes) => format!("{sign}{hours}h {minutes}m {seconds}s"),
        (days, hours, minutes) => format!("{sign}{days}d {hours}h {minutes}m {seconds}s"),
    }
}

/// Prometheus's durations (`1d2h`, `90s`, `1.5h` is not one) in seconds.
fn parse_duration(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text),
    };
    if rest == "0" {
        return Some(0.0);
    }
    let mut total = 0i64;
    let mut last = i64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, behind) = rest.split_at(digits);
        let length = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(length);
        let ms = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            "y" => 31_536_000_000,
            _ => return None,
        };
        if ms >= last {
            return None;
        }
        last = ms;
        total = total.checked_add(number.parse::<i64>().ok()?.checked_mul(ms)?)?;
        rest = behind;
    }
    (last < i64::MAX).then(|| sign * total as f64 / 1000.0)
}

/// A host without its port.
fn strip_port(text: &str) -> String {
    if let Some(inside) = text.strip_prefix('[') {
        return match inside.split_once(']') {
            Some((host, port)) if port.strip_prefix(':').is_some_and(|port| !port.contains(':')) => host.to_owned(),
            _ => text.to_owned(),
        };
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains([':', '[', ']']) && !host.contains(['[', ']']) => host.to_owned(),
        _ => text.to_owned(),
    }
}

/// A host's first name, its port kept; addresses stay.
fn strip_domain(text: &str) -> String {
    let host = strip_port(text);
    let port =
        if host.len() < text.len() && !text.starts_with('[') { text.get(host.len()..).unwrap_or_default() } else { "" };
    if host.parse::<std::net::IpAddr>().is_ok() {
        return text.to_owned();
    }
    format!("{}{port}", host.split('.').next().unwrap_or_default())
}

fn escaped(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('*', "%2A").replace("%7E", "~")
}

/// A path to the page's query; tab 0 shows a graph, 1 a table.
fn link(expression: &str, tab: u8) -> String {
    format!("/graph?g0.expr={}&g0.tab={tab}", escaped(expression))
}
