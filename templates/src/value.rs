//! Values of templates, typed as in Go where it shows.
//!
//! Touches nothing. Copies share what they hold, so that loops and variables cost nothing but work.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_log::alert::LabelSet;

use crate::time::GoTime;

/// Names and values, in the order of names.
pub(crate) type Entries = BTreeMap<Arc<str>, Value>;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// Nothing: printed as `<no value>`.
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Arc<str>),
    /// Text that someone vouches for: HTML, or a URL.
    Safe(Safe, Arc<str>),
    Time(GoTime),
    /// Nanoseconds.
    Duration(i64),
    /// A number with a name: a month, a day of the week.
    Named(&'static str, i64, &'static str),
    List(ListKind, Arc<[Value]>),
    Map(MapKind, Arc<Entries>),
    Record(Arc<Record>),
}

/// What a text is safe for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Safe {
    Html,
    Url,
}

/// What a list is in Go: its methods and its printing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListKind {
    Any,
    Strings,
    Alerts,
    Pairs,
}

/// What a map is in Go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MapKind {
    /// Of anything: what is missing is nothing.
    Any,
    /// Of texts: what is missing is empty.
    Strings,
    /// Alertmanager's labels, which have methods.
    Kv,
}

/// A value with named fields.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    /// Name of its type in Go.
    pub kind: &'static str,
    /// In the order of Go's declaration.
    pub fields: Vec<(&'static str, Value)>,
}

impl Value {
    /// Text.
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Self::Text(text.into())
    }

    /// A list of texts.
    pub fn strings(list: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self::List(ListKind::Strings, list.into_iter().map(Self::Text).collect())
    }

    /// Labels or annotations.
    pub fn labels(kind: MapKind, labels: &LabelSet) -> Self {
        let entries = labels.iter().map(|(n, v)| (Arc::from(n.as_str()), Self::text(v.as_str())));
        Self::Map(kind, Arc::new(entries.collect()))
    }

    /// Whether `if` takes it.
    pub fn is_true(&self) -> bool {
        match self {
            Self::Nil => false,
            Self::Bool(value) => *value,
            Self::Int(n) | Self::Duration(n) | Self::Named(_, n, _) => *n != 0,
            Self::Float(n) => *n != 0.0,
            Self::Text(text) | Self::Safe(_, text) => !text.is_empty(),
            Self::Time(_) | Self::Record(_) => true,
            Self::List(_, list) => !list.is_empty(),
            Self::Map(_, map) => !map.is_empty(),
        }
    }

    /// Name of its type in Go.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "<nil>",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float64",
            Self::Text(_) => "string",
            Self::Safe(Safe::Html, _) => "template.HTML",
            Self::Safe(Safe::Url, _) => "template.URL",
            Self::Time(_) => "time.Time",
            Self::Duration(_) => "time.Duration",
            Self::Named(kind, ..) => kind,
            Self::List(ListKind::Any, _) => "[]interface {}",
            Self::List(ListKind::Strings, _) => "[]string",
            Self::List(ListKind::Alerts, _) => "template.Alerts",
            Self::List(ListKind::Pairs, _) => "template.Pairs",
            Self::Map(MapKind::Any, _) => "map[string]interface {}",
            Self::Map(MapKind::Strings, _) => "map[string]string",
            Self::Map(MapKind::Kv, _) => "template.KV",
            Self::Record(record) => record.kind,
        }
    }

    /// A name for people.
    pub fn describe(&self) -> String {
        let word = match self {
            Self::Nil => return "nothing (nil)".to_owned(),
            Self::Bool(_) => "a boolean",
            Self::Int(_) | Self::Float(_) | Self::Named(..) => "a number",
            Self::Text(_) | Self::Safe(..) => "a text",
            Self::Time(_) => "a time",
            Self::Duration(_) => "a duration",
            Self::List(..) => "a list",
            Self::Map(..) => "a map",
            Self::Record(_) => "a record",
        };
        format!("{word} ({})", self.kind())
    }

    /// The text of a string.
    pub fn as_text(&self) -> Option<&Arc<str>> {
        match self {
            Self::Text(text) | Self::Safe(_, text) => Some(text),
            _ => None,
        }
    }

    /// Whether lists and maps stand inside one another no deeper than `depth`, with `items` in all: what copies, shows and frees a
    /// value goes through all of it.
    pub fn is_flat(&self, depth: usize, items: &mut usize) -> bool {
        let left = items.checked_sub(1);
        *items = left.unwrap_or(0);
        let inner = depth.checked_sub(1);
        let mut all = |mut values: Box<dyn Iterator<Item = &Self> + '_>| match inner {
            Some(inner) => values.all(|value| value.is_flat(inner, items)),
            None => false,
        };
        left.is_some()
            && match self {
                Self::List(ListKind::Any, list) => all(Box::new(list.iter())),
                Self::Map(MapKind::Any, map) => all(Box::new(map.values())),
                _ => true,
            }
    }

    /// Bytes that it would take on its own, about; `most` ends the count.
    pub fn size(&self, most: usize) -> usize {
        let own = std::mem::size_of::<Self>();
        match self {
            Self::Text(text) | Self::Safe(_, text) => own + text.len(),
            Self::List(_, list) => sum(own, most, list.iter()),
            Self::Map(_, map) => sum(own + map.keys().map(|name| name.len()).sum::<usize>(), most, map.values()),
            Self::Record(record) => sum(own, most, record.fields.iter().map(|(_, value)| value)),
            _ => own,
        }
    }
}

fn sum<'a>(own: usize, most: usize, values: impl Iterator<Item = &'a Value>) -> usize {
    let mut total = own;
    for value in values {
        if total >= most {
            break;
        }
        total += value.size(most - total);
    }
    total
}

impl Record {
    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }
}
