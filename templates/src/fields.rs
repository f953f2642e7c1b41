//! Fields and methods: `.Labels.host`, `.Alerts.Firing`, `.StartsAt.Format "15:04"`.
//!
//! In: a value, a name, arguments. Out: a value, or what does not fit. Touches nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::call::Call;
use crate::functions_go::missing;
use crate::show;
use crate::time::{DAYS, MONTHS, duration};
use crate::value::{Entries, ListKind, MapKind, Record, Value};

/// The value of a field, or what a method gives. The arguments are those of `a`; its name is the field's.
pub(crate) fn get(of: &Value, a: &Call<'_>) -> Result<Value, String> {
    if let Some(made) = method(of, a)? {
        return Ok(made);
    }
    if !a.values.is_empty() {
        return Err(format!("`.{}` is not a method: it takes no arguments", a.name));
    }
    match of {
        Value::Record(record) => record.field(a.name).cloned().ok_or_else(|| no_field(of, a.name)),
        Value::Map(kind, map) => Ok(map.get(a.name).cloned().unwrap_or_else(|| missing(*kind))),
        Value::Nil => Err(format!("`.{}` of nothing: the value before it does not exist", a.name)),
        other => Err(no_field(other, a.name)),
    }
}

fn no_field(of: &Value, name: &str) -> String {
    let near = match of {
        Value::Record(record) => record.fields.iter().map(|(n, _)| *n).find(|n| n.eq_ignore_ascii_case(name)),
        _ => None,
    };
    let hint = near.map(|near| format!(": did you mean `.{near}`?")).unwrap_or_default();
    format!("{} has no field `.{name}`{hint}", of.describe())
}

fn method(of: &Value, a: &Call<'_>) -> Result<Option<Value>, String> {
    let value = match of {
        Value::Map(MapKind::Kv, map) => labels(map, a)?,
        Value::List(kind, list) => match (kind, a.name) {
            (ListKind::Alerts, "Firing" | "Resolved") => {
                let wanted = a.name.to_lowercase();
                let is = |alert: &&Value| match alert {
                    Value::Record(record) => {
                        record.field("Status").and_then(Value::as_text).is_some_and(|s| **s == *wanted)
                    }
                    _ => false,
                };
                Some(Value::List(ListKind::Alerts, list.iter().filter(is).cloned().collect()))
            }
            (ListKind::Pairs, "Names") => {
                Some(Value::strings(list.iter().filter_map(show::pair).map(|(n, _)| n.into())))
            }
            (ListKind::Pairs, "Values") => {
                Some(Value::strings(list.iter().filter_map(show::pair).map(|(_, v)| v.into())))
            }
            (ListKind::Pairs, "String") => Some(shown(of, a)?),
            _ => None,
        },
        Value::Time(_) => times(of, a)?,
        Value::Duration(ns) => durations(*ns, a)?,
        Value::Named(_, _, name) if a.name == "String" => Some(Value::text(*name)),
        _ => None,
    };
    if value.is_some() {
        let takes = match a.name {
            "Remove" | "Format" | "Sub" | "Add" | "Before" | "After" | "Equal" | "Truncate" | "Round" => 1,
            "AddDate" => 3,
            _ => 0,
        };
        if a.values.len() != takes {
            return Err(format!("`.{}` takes {takes} arguments, {} are given", a.name, a.values.len()));
        }
    }
    Ok(value)
}

fn shown(of: &Value, a: &Call<'_>) -> Result<Value, String> {
    show::show(of, a.around.limit).map(Value::text).ok_or_else(|| a.too_long())
}

fn labels(map: &Entries, a: &Call<'_>) -> Result<Option<Value>, String> {
    let pairs = || show::sorted_pairs(map).into_iter();
    Ok(Some(match a.name {
        "SortedPairs" => {
            let pair = |(name, value): (&str, &str)| {
                let fields = vec![("Name", Value::text(name)), ("Value", Value::text(value))];
                Value::Record(Arc::new(Record { kind: "template.Pair", fields }))
            };
            Value::List(ListKind::Pairs, pairs().map(pair).collect())
        }
        "Names" => Value::strings(pairs().map(|(name, _)| name.into())),
        "Values" => Value::strings(pairs().map(|(_, value)| value.into())),
        "String" => shown(&Value::Map(MapKind::Kv, Arc::new(map.clone())), a)?,
        "Remove" => {
            let gone = a.strings(0)?;
            let left: BTreeMap<_, _> =
                map.iter().filter(|(name, _)| !gone.contains(&&***name)).map(|(n, v)| (n.clone(), v.clone())).collect();
            Value::Map(MapKind::Kv, Arc::new(left))
        }
        _ => return Ok(None),
    }))
}

fn times(of: &Value, a: &Call<'_>) -> Result<Option<Value>, String> {
    let Value::Time(time) = of else { return Ok(None) };
    Ok(Some(match a.name {
        "Format" => a.made(time.format(a.text(0)?))?,
        "String" => Value::text(time.show()),
        "Month" => {
            let n = time.part("Month").unwrap_or(1);
            let name = usize::try_from(n - 1).ok().and_then(|n| MONTHS.get(n));
            Value::Named("time.Month", n, name.copied().unwrap_or_default())
        }
        "Weekday" => {
            let n = time.part("Weekday").unwrap_or(0);
            Value::Named(
                "time.Weekday",
                n,
                usize::try_from(n).ok().and_then(|n| DAYS.get(n)).copied().unwrap_or_default(),
            )
        }
        "UTC" | "Local" => Value::Time(time.in_zone("UTC").unwrap_or(*time)),
        "Sub" => Value::Duration(time.minus(a.time(0)?)),
        "Add" => Value::Time(time.plus(a.int(0)?)),
        "AddDate" => {
            let moved = time.add_date(a.int(0)?, a.int(1)?, a.int(2)?);
            Value::Time(moved.ok_or_else(|| "`.AddDate` leaves the calendar".to_owned())?)
        }
        "Before" => Value::Bool(time.utc < a.time(0)?.utc),
        "After" => Value::Bool(time.utc > a.time(0)?.utc),
        "Equal" => Value::Bool(time.utc == a.time(0)?.utc),
        "IsZero" => Value::Bool(time.utc == crate::time::GoTime::zero().utc),
        "Truncate" | "Round" => {
            let step = a.int(0)?;
            // Go counts from the year 1, which is whole weeks before 1970 but for the day.
            match time.utc.timestamp_nanos_opt().filter(|_| step > 0) {
                Some(ns) => {
                    let since = i128::from(ns) + 62_135_596_800_000_000_000;
                    let rest = since.rem_euclid(i128::from(step));
                    let up = a.name == "Round" && rest * 2 >= i128::from(step);
                    let moved = if up { i128::from(step) - rest } else { -rest };
                    Value::Time(time.plus(i64::try_from(moved).unwrap_or(0)))
                }
                None => Value::Time(*time),
            }
        }
        name => match time.part(name) {
            Some(part) => Value::Int(part),
            None => return Ok(None),
        },
    }))
}

fn durations(ns: i64, a: &Call<'_>) -> Result<Option<Value>, String> {
    Ok(Some(match a.name {
        "Hours" => Value::Float(ns as f64 / 3.6e12),
        "Minutes" => Value::Float(ns as f64 / 6e10),
        "Seconds" => Value::Float(ns as f64 / 1e9),
        "Milliseconds" => Value::Int(ns / 1_000_000),
        "Microseconds" => Value::Int(ns / 1_000),
        "Nanoseconds" => Value::Int(ns),
        "String" => Value::text(duration(ns)),
        "Abs" => Value::Duration(ns.checked_abs().unwrap_or(i64::MAX)),
        "Truncate" | "Round" => {
            let step = a.int(0)?;
            if step <= 0 {
                return Ok(Some(Value::Duration(ns)));
            }
            let rest = ns % step;
            let up = a.name == "Round" && rest.saturating_abs().saturating_mul(2) >= step;
            let whole = ns - rest;
            Value::Duration(if up { whole.saturating_add(step * ns.signum()) } else { whole })
        }
        _ => return Ok(None),
    }))
}
