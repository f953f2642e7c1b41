//! The tree of a YAML file: values as written, each with its place.
//!
//! In: nodes from the reader. Out: values by path, and the places of values and of characters in them. Touches nothing.

use std::sync::Arc;

use super::place::Place;
use super::written::Written;

/// A value with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it starts.
    pub place: Place,
    /// How a scalar stands in the file; absent where its text comes from elsewhere.
    pub(super) written: Option<Written>,
}

/// A value as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text; `plain` if it was not quoted, so that it may be a number, a boolean or null.
    Scalar {
        /// After the escapes of YAML.
        text: String,
        /// Not quoted, and no block.
        plain: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// Keys in the order written.
    Map(Vec<MapEntry>),
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapEntry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub place: Place,
    /// Its value.
    pub node: Node,
}

impl Node {
    /// A value at a place.
    pub fn new(value: Value, place: Place) -> Self {
        Self { value, place, written: None }
    }

    /// A map without entries.
    pub fn empty_map(place: Place) -> Self {
        Self::new(Value::Map(Vec::new()), place)
    }

    /// Whether it is what YAML takes for null.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Whether it is null, or a list or a map without entries.
    pub fn is_empty(&self) -> bool {
        match &self.value {
            Value::Map(entries) => entries.is_empty(),
            Value::List(items) => items.is_empty(),
            Value::Scalar { .. } => self.is_null(),
        }
    }

    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Map(_) => "a map",
            Value::List(_) => "a list",
            Value::Scalar { .. } if self.is_null() => "nothing",
            Value::Scalar { .. } => "a single value",
        }
    }

    /// Gives a scalar another text, as after the expansion of variables. Its first character keeps its place; those of
    /// the lines of a block do, too.
    pub fn set_text(&mut self, new: String) {
        if let Value::Scalar { text, .. } = &mut self.value {
            *text = new;
        }
        self.written = self.written.take().filter(Written::keeps_lines);
    }

    /// Puts the node and everything below it in another place.
    pub fn relocate(&mut self, place: &Place) {
        self.place = place.clone();
        self.written = None;
        match &mut self.value {
            Value::Scalar { .. } => {}
            Value::List(items) => items.iter_mut().for_each(|item| item.relocate(place)),
            Value::Map(entries) => entries.iter_mut().for_each(|entry| {
                entry.place = place.clone();
                entry.node.relocate(place);
            }),
        }
    }

    /// How many values there are, itself included, and how many levels.
    pub(super) fn extent(&self) -> (usize, usize) {
        let join = |(count, depth): (usize, usize), of: &Node| {
            let (more, deeper) = of.extent();
            (count + more, depth.max(deeper + 1))
        };
        match &self.value {
            Value::Scalar { .. } => (1, 0),
            Value::List(items) => items.iter().fold((1, 0), join),
            Value::Map(entries) => entries.iter().map(|entry| &entry.node).fold((1, 0), join),
        }
    }

    /// The place of the deepest part of a path such as `agent.sources[0].include` that exists.
    pub fn place_of(&self, path: &str) -> &Place {
        self.find(path).1
    }

    /// The place of a character inside of the text at a path, by its line and column; of the text itself where its
    /// characters stand nowhere in the file.
    pub fn place_inside(&self, path: &str, line: usize, column: usize) -> Place {
        let (node, place) = self.find(path);
        let inside = match (&node.value, &node.written) {
            (Value::Scalar { text, .. }, Some(written)) => written.place_inside(text, line, column),
            _ => None,
        };
        moved(place, inside)
    }

    /// The place of a byte of this scalar's text.
    pub fn place_within(&self, offset: usize) -> Place {
        let inside = match (&self.value, &self.written) {
            (Value::Scalar { text, .. }, Some(written)) => written.place_of(text, offset),
            _ => None,
        };
        moved(&self.place, inside)
    }

    fn find(&self, path: &str) -> (&Self, &Place) {
        let mut node = self;
        let mut place = &self.place;
        let mut rest = path;
        loop {
            rest = rest.trim_start_matches('.');
            let next = match &node.value {
                Value::List(items) => {
                    rest.strip_prefix('[').and_then(|rest| rest.split_once(']')).and_then(|(index, rest)| {
                        let item = items.get(index.parse::<usize>().ok()?)?;
                        Some((item, &item.place, rest))
                    })
                }
                // Keys may hold dots (`retention.ms`): the longest that fits is meant.
                Value::Map(entries) => entries
                    .iter()
                    .filter_map(|entry| {
                        let behind = rest.strip_prefix(entry.key.as_str())?;
                        let whole = behind.is_empty() || behind.starts_with(['.', '[']);
                        (whole && !entry.key.is_empty()).then_some((&entry.node, value_or_key(entry), behind))
                    })
                    .min_by_key(|(_, _, behind)| behind.len()),
                Value::Scalar { .. } => None,
            };
            match next {
                Some((found, at, behind)) => (node, place, rest) = (found, at, behind),
                None => return (node, place),
            }
        }
    }
}

/// A fault of a scalar stands at the scalar, one of a map or list at its key.
fn value_or_key(entry: &MapEntry) -> &Place {
    match entry.node.value {
        Value::Scalar { .. } => &entry.node.place,
        _ => &entry.place,
    }
}

fn moved(place: &Place, to: Option<(usize, usize)>) -> Place {
    match (place, to) {
        (Place::File { file, .. }, Some((line, column))) => Place::File { file: Arc::clone(file), line, column },
        _ => place.clone(),
    }
}
