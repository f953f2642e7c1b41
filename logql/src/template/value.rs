//! Values of templates: what labels, functions and JSON give.

use std::collections::BTreeMap;

use crate::syntax::quantity::show_float;

/// Times that a loop over a number goes round at most.
pub(super) const MAX_COUNT: i64 = 100_000;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Text.
    Text(String),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Nothing: printed as `<no value>`.
    Nil,
    /// Nanoseconds since 1970.
    Time(i64),
    /// A list.
    List(Vec<Value>),
    /// Names and values.
    Map(BTreeMap<String, Value>),
    /// All labels of the line.
    Labels,
}

impl Value {
    /// Whether `if` takes it.
    pub fn is_true(&self) -> bool {
        match self {
            Self::Text(text) => !text.is_empty(),
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Bool(value) => *value,
            Self::Nil => false,
            Self::Time(_) | Self::Labels => true,
            Self::List(list) => !list.is_empty(),
            Self::Map(map) => !map.is_empty(),
        }
    }

    /// Bytes that it takes, about.
    pub fn size(&self) -> usize {
        let own = std::mem::size_of::<Self>();
        match self {
            Self::Text(text) => own + text.len(),
            Self::List(list) => own + list.iter().map(Self::size).sum::<usize>(),
            Self::Map(map) => own + map.iter().map(|(name, value)| name.len() + own + value.size()).sum::<usize>(),
            _ => own,
        }
    }

    /// How many items a loop over it has.
    pub fn items(&self) -> usize {
        match self {
            Self::List(list) => list.len(),
            Self::Map(map) => map.len(),
            Self::Int(count) => usize::try_from((*count).clamp(0, MAX_COUNT)).unwrap_or(0),
            _ => 0,
        }
    }

    /// Name of its type in Go.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "string",
            Self::Int(_) => "int",
            Self::Float(_) => "float64",
            Self::Bool(_) => "bool",
            Self::Nil => "<nil>",
            Self::Time(_) => "time.Time",
            Self::List(_) => "[]interface {}",
            Self::Map(_) => "map[string]interface {}",
            Self::Labels => "map[string]string",
        }
    }

    /// As `{{ . }}` prints it.
    pub fn show(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Int(number) => number.to_string(),
            Self::Float(number) => show_float(*number),
            Self::Bool(value) => value.to_string(),
            Self::Nil => "<no value>".to_owned(),
            Self::Time(ns) => super::date::format(*ns, "2006-01-02 15:04:05.999999999 -0700 MST"),
            Self::List(list) => {
                let items: Vec<String> = list.iter().map(Self::show_inside).collect();
                format!("[{}]", items.join(" "))
            }
            Self::Map(map) => {
                let items: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{}", v.show_inside())).collect();
                format!("map[{}]", items.join(" "))
            }
            Self::Labels => "map[]".to_owned(),
        }
    }

    fn show_inside(&self) -> String {
        match self {
            Self::Nil => "<nil>".to_owned(),
            other => other.show(),
        }
    }

    /// From JSON; numbers are floats, as in Go.
    pub fn from_json(json: serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Nil,
            serde_json::Value::Bool(value) => Self::Bool(value),
            serde_json::Value::Number(number) => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            serde_json::Value::String(text) => Self::Text(text),
            serde_json::Value::Array(list) => Self::List(list.into_iter().map(Self::from_json).collect()),
            serde_json::Value::Object(map) => {
                Self::Map(map.into_iter().map(|(k, v)| (k, Self::from_json(v))).collect())
            }
        }
    }
}
