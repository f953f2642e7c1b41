//! Values out of a tree without a check: for files of other programs, whose keys are looked at one by one.
//!
//! In: nodes. Out: texts, lists, entries, booleans as other programs write them. Touches nothing.

use super::place::Place;
use super::tree::{MapEntry, Node, Value};

/// Characters of a value that a message shows at most.
const SHOWN: usize = 80;

impl Node {
    /// The text of a single value.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } if !self.is_null() => Some(text),
            _ => None,
        }
    }

    /// `true` or `false`, also as other programs write them.
    pub fn yes(&self) -> Option<bool> {
        match self.text()?.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => None,
        }
    }

    /// The texts of a list, or of one value where a list may stand; with their places.
    pub fn texts(&self) -> Vec<(String, Place)> {
        self.items().into_iter().filter_map(|item| Some((item.text()?.to_owned(), item.place.clone()))).collect()
    }

    /// The items of a list; a single value stands for a list of one.
    pub fn items(&self) -> Vec<&Node> {
        match &self.value {
            Value::List(items) => items.iter().collect(),
            _ if self.is_null() => Vec::new(),
            _ => vec![self],
        }
    }

    /// The entries of a map.
    pub fn entries(&self) -> &[MapEntry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The value of a key of a map.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// The value at the end of a path of keys, as in `ssl.certificate`.
    pub fn at_path(&self, path: &str) -> Option<&Node> {
        path.split('.').try_fold(self, |node, key| node.get(key))
    }

    /// Texts of nested maps; their names are joined by `_`.
    pub fn flat(&self, prefix: &str) -> Vec<(String, String, Place)> {
        let mut all = Vec::new();
        for entry in self.entries() {
            let name = if prefix.is_empty() { entry.key.clone() } else { format!("{prefix}_{}", entry.key) };
            if !entry.node.entries().is_empty() {
                all.extend(entry.node.flat(&name));
            } else if let Some((text, place)) = entry.node.joined() {
                all.push((name, text, place.clone()));
            }
        }
        all
    }

    /// The texts of a list joined by commas, if there are any.
    pub fn joined(&self) -> Option<(String, &Place)> {
        let texts: Vec<String> = self.texts().into_iter().map(|(text, _)| text).collect();
        (!texts.is_empty()).then(|| (texts.join(","), &self.place))
    }

    /// One line for messages: what stands there, shortened.
    pub fn brief(&self) -> String {
        let text = match &self.value {
            Value::Scalar { text, .. } => text.split_whitespace().collect::<Vec<_>>().join(" "),
            Value::List(items) => items.iter().map(Self::brief).collect::<Vec<_>>().join(", "),
            Value::Map(entries) => {
                let parts = entries.iter().map(|entry| format!("{}: {}", entry.key, entry.node.brief()));
                parts.collect::<Vec<_>>().join(", ")
            }
        };
        shortened(&text)
    }
}

/// One line; what can't be shown becomes a dot.
fn shortened(text: &str) -> String {
    let shown = text.chars().take(SHOWN).map(|c| if c.is_control() || c == '\u{fffd}' { '.' } else { c });
    let mut out: String = shown.collect();
    if text.chars().nth(SHOWN).is_some() {
        out.pop();
        out.push('…');
    }
    out
}
