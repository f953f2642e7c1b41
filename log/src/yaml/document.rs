//! A YAML file being read key by key: typed values out of its nodes, and every fault with place, caret and hint.
//!
//! In: the text of a rule file or of `alertmanager.yml`. Out: maps, lists, texts, numbers, durations; at the end all
//! faults at once. Touches nothing. Leaves the meaning of keys to those who ask for them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::fault::LocatedFault;
use super::parse::{MoreDocuments, read};
use super::place::Place;
use super::suggest::nearest;
use super::tree::{MapEntry, Node, Value};
use crate::value::Span;

/// A file being read: its text, and the faults found so far.
#[derive(Debug)]
pub struct Document {
    lines: Arc<str>,
    faults: Vec<LocatedFault>,
}

impl Document {
    /// Parses a file's text, aliases included; the tree is missing where the text is not YAML (the fault is noted) or
    /// empty.
    pub fn parse(file: &Path, text: &str, more: MoreDocuments) -> (Self, Option<Node>) {
        let mut doc = Self { lines: text.into(), faults: Vec::new() };
        let root = match read(&file.display().to_string(), text, true, more) {
            Ok(root) => root,
            Err(fault) => {
                doc.fault(&fault.place, fault.message, fault.hint);
                None
            }
        };
        (doc, root)
    }

    /// Notes a fault.
    pub fn fault(&mut self, place: &Place, message: impl Into<String>, hint: Option<String>) {
        let source_line = line(&self.lines, place.line()).map(str::to_owned);
        self.faults.push(LocatedFault { place: place.clone(), message: message.into(), hint, source_line });
    }

    /// All faults in the order of the file.
    pub fn into_faults(mut self) -> Vec<LocatedFault> {
        self.faults.sort_by_key(|fault| (fault.place.line(), fault.place.column()));
        self.faults.dedup();
        self.faults
    }

    /// Whether nothing is wrong so far.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    /// The map's fields, its unknown and repeated keys reported. `what` names the map, as in "a rule".
    pub fn map<'n>(&mut self, node: &'n Node, what: &str, known: &[&str]) -> Option<Fields<'n>> {
        self.map_except(node, what, known, &[])
    }

    /// As [`Document::map`]; keys of the second list are reported as not supported, with a reason.
    pub fn map_except<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
        known: &[&str],
        refused: &[(&str, &str)],
    ) -> Option<Fields<'n>> {
        let Value::Map(entries) = &node.value else {
            self.fault(&node.place, format!("{what} must be a map of keys and values, found {}", node.kind()), None);
            return None;
        };
        let mut seen: HashMap<&str, &Place> = HashMap::new();
        for MapEntry { key, place, node } in entries {
            if let Some(first) = seen.insert(key, place) {
                let message = format!("duplicate key `{key}`, first in line {}", first.line());
                self.fault(place, message, Some("remove one of them".into()));
            } else if known.contains(&key.as_str()) {
            } else if let Some((_, why)) = refused.iter().find(|(name, _)| name == key) {
                // An empty list asks for nothing.
                if node.is_null() || matches!(&node.value, Value::List(items) if items.is_empty()) {
                    continue;
                }
                self.fault(place, format!("`{key}` is not supported yet"), Some((*why).to_owned()));
            } else {
                let hint = nearest(key, known.iter().copied()).map_or_else(
                    || format!("known keys of {what}: {}", listed(known)),
                    |name| format!("did you mean `{name}`?"),
                );
                self.fault(place, format!("unknown key `{key}` in {what}"), Some(hint));
            }
        }
        Some(Fields { place: &node.place, entries })
    }

    /// A map whose keys may be any, each once.
    pub fn any_map<'n>(&mut self, node: &'n Node, what: &str) -> Option<Fields<'n>> {
        let Value::Map(entries) = &node.value else { return self.map(node, what, &[]) };
        let mut known: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
        known.dedup();
        self.map(node, what, &known)
    }

    /// The items of a list.
    pub fn list<'n>(&mut self, node: &'n Node, what: &str) -> &'n [Node] {
        match &node.value {
            Value::List(items) => items,
            _ if node.is_null() => &[],
            _ => {
                let hint = Some("begin each item with `- `".into());
                self.fault(&node.place, format!("{what} must be a list, found {}", node.kind()), hint);
                &[]
            }
        }
    }

    /// A text; numbers and booleans count as they are written.
    pub fn text<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        match &node.value {
            Value::Scalar { text, .. } if !node.is_null() => Some(text),
            _ => {
                self.fault(&node.place, format!("{what} must be a string, found {}", node.kind()), None);
                None
            }
        }
    }

    /// A text that is not empty.
    pub fn filled<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        let text = self.text(node, what)?;
        if text.trim().is_empty() {
            self.fault(&node.place, format!("{what} is empty"), None);
            return None;
        }
        Some(text)
    }

    /// `true` or `false`.
    pub fn flag(&mut self, node: &Node, what: &str) -> Option<bool> {
        let flag = match &node.value {
            Value::Scalar { text, plain: true } => match text.as_str() {
                "true" | "True" | "TRUE" | "yes" | "on" => Some(true),
                "false" | "False" | "FALSE" | "no" | "off" => Some(false),
                _ => None,
            },
            _ => None,
        };
        if flag.is_none() {
            self.fault(&node.place, format!("{what} must be `true` or `false`"), None);
        }
        flag
    }

    /// A whole number from 0.
    pub fn count(&mut self, node: &Node, what: &str) -> Option<u64> {
        let number = match &node.value {
            Value::Scalar { text, plain: true } => text.parse().ok(),
            _ => None,
        };
        if number.is_none() {
            self.fault(&node.place, format!("{what} must be a whole number, 0 or more"), None);
        }
        number
    }

    /// A duration as Prometheus writes it.
    pub fn duration(&mut self, node: &Node, what: &str) -> Option<Duration> {
        let text = self.text(node, what)?;
        match Span::parse_prometheus(text) {
            Ok(span) => Some(span.0),
            Err(hint) => {
                self.fault(&node.place, format!("{what}: invalid duration `{text}`"), Some(hint));
                None
            }
        }
    }
}

/// Fields of one map.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'n> {
    /// Where the map begins.
    pub place: &'n Place,
    entries: &'n [MapEntry],
}

impl<'n> Fields<'n> {
    /// The value of a key, unless it is absent or null.
    pub fn get(&self, name: &str) -> Option<&'n Node> {
        self.entries.iter().find(|entry| entry.key == name).map(|entry| &entry.node).filter(|node| !node.is_null())
    }

    /// Where a key stands.
    pub fn key(&self, name: &str) -> Option<&'n Place> {
        self.entries.iter().find(|entry| entry.key == name).map(|entry| &entry.place)
    }

    /// All keys with their values.
    pub fn all(&self) -> &'n [MapEntry] {
        self.entries
    }
}

fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

/// A line of a text, from 1. In YAML a carriage return alone ends a line, too.
fn line(text: &str, number: usize) -> Option<&str> {
    let mut rest = text;
    for _ in 0..number.checked_sub(1)? {
        let end = rest.find(['\n', '\r'])?;
        rest = rest.get(end..)?;
        rest = rest.strip_prefix("\r\n").or_else(|| rest.get(1..))?;
    }
    rest.split(['\n', '\r']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_show_their_line_whatever_ends_lines() {
        for (text, shown) in [
            ("a: 1\nb: [\n", "b: ["),
            ("a: 1\r\nb: [\r\n", "b: ["),
            ("a: 1\rb: [\r", "b: ["),
            ("a: 1\r\r\n\nb: 2\rc: [", "c: ["),
        ] {
            let (doc, _) = Document::parse(Path::new("f.yaml"), text, MoreDocuments::Ignored);
            let [fault] = doc.into_faults().try_into().unwrap();
            let before = line(text, fault.place.line() - 1);
            assert!([before, fault.source_line.as_deref()].contains(&Some(shown)), "{text:?}: {fault}");
        }
        let text = "a\r\nb\rc\n\nd";
        let lines = (0..7).map(|number| line(text, number)).collect::<Vec<_>>();
        assert_eq!(lines, [None, Some("a"), Some("b"), Some("c"), Some(""), Some("d"), None]);
    }
}
