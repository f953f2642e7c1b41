//! Files of other programs as trees with places, and what is read from them.
//!
//! In: YAML, JSON or TOML. Out: [`Node`]s, and [`Keys`]: a map whose keys are taken one by one, so that those that
//! nobody asked for are known at the end. Touches nothing.

use std::cell::RefCell;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::error::ImportError;
use millrace_log::yaml::{MapEntry, Node, Place, Value, parse_with_aliases};

/// YAML, and JSON, which is YAML too.
pub fn yaml(file: &str, text: &str) -> Result<Node, ImportError> {
    parse_with_aliases(file, text).map_err(|fault| ImportError::Syntax(fault.to_string()))
}

/// TOML.
pub fn toml(file: &str, text: &str) -> Result<Node, ImportError> {
    let places = LineIndex::new(file, text);
    let root = DeTable::parse(text).map_err(|error| {
        let at = places.at(error.span().map_or(0, |span| span.start));
        ImportError::Syntax(format!("{at}: invalid TOML: {}", error.message()))
    })?;
    let start = places.at(0);
    Ok(Node::new(places.table(root.get_ref()), start))
}

/// Lines of a text, for places of bytes.
struct LineIndex<'t> {
    file: Arc<str>,
    text: &'t str,
    lines: Vec<usize>,
}

impl<'t> LineIndex<'t> {
    fn new(file: &str, text: &'t str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { file: file.into(), text, lines: std::iter::once(0).chain(ends).collect() }
    }

    fn at(&self, byte: usize) -> Place {
        let line = self.lines.partition_point(|start| *start <= byte).saturating_sub(1);
        let start = self.lines.get(line).copied().unwrap_or(0);
        let column = self.text.get(start..byte).map_or(0, |before| before.chars().count());
        Place::File { file: Arc::clone(&self.file), line: line + 1, column: column + 1 }
    }

    fn table(&self, table: &DeTable<'_>) -> Value {
        // The order written: the table sorts by name.
        let mut entries: Vec<(usize, MapEntry)> = table
            .iter()
            .map(|(key, value)| {
                let place = self.at(key.span().start);
                let node = self.node(value.get_ref(), value.span().start, &place);
                (key.span().start, MapEntry { key: key.get_ref().to_string(), place, node })
            })
            .collect();
        entries.sort_by_key(|(start, _)| *start);
        Value::Map(entries.into_iter().map(|(_, entry)| entry).collect())
    }

    fn node(&self, value: &DeValue<'_>, start: usize, key: &Place) -> Node {
        let plain = |text: String| Value::Scalar { text, plain: true };
        let value = match value {
            DeValue::String(text) => Value::Scalar { text: text.to_string(), plain: false },
            DeValue::Integer(number) => plain(number.to_string()),
            DeValue::Float(number) => plain(number.to_string()),
            DeValue::Boolean(yes) => plain(yes.to_string()),
            DeValue::Datetime(time) => plain(time.to_string()),
            DeValue::Array(items) => {
                Value::List(items.iter().map(|item| self.node(item.get_ref(), item.span().start, key)).collect())
            }
            DeValue::Table(table) => return Node::new(self.table(table), key.clone()),
        };
        Node::new(value, self.at(start))
    }
}

/// Beats write `a.b: 1` for `a: {b: 1}`, at every level: makes maps of all of them.
pub fn expand_dots(node: &mut Node) {
    match &mut node.value {
        Value::Scalar { .. } => {}
        Value::List(items) => items.iter_mut().for_each(expand_dots),
        Value::Map(entries) => {
            let old = std::mem::take(entries);
            for mut entry in old {
                expand_dots(&mut entry.node);
                put(entries, &entry.key.clone(), entry);
            }
        }
    }
}

fn put(entries: &mut Vec<MapEntry>, path: &str, entry: MapEntry) {
    let (first, rest) = match path.split_once('.') {
        Some((first, rest)) if !first.is_empty() && !rest.is_empty() => (first, Some(rest)),
        _ => (path, None),
    };
    let known = entries.iter().position(|known| known.key == first);
    match (known.and_then(|at| entries.get_mut(at)), rest) {
        (Some(known), Some(rest)) if matches!(known.node.value, Value::Map(_)) => {
            if let Value::Map(inner) = &mut known.node.value {
                put(inner, rest, entry);
            }
        }
        (Some(known), None) => match (&mut known.node.value, entry.node.value) {
            (Value::Map(inner), Value::Map(more)) => {
                for entry in more {
                    let path = entry.key.clone();
                    put(inner, &path, entry);
                }
            }
            (_, value) => known.node = Node::new(value, entry.node.place),
        },
        (_, Some(rest)) => {
            let place = entry.place.clone();
            let mut inner = Vec::new();
            put(&mut inner, rest, entry);
            let node = Node::new(Value::Map(inner), place.clone());
            entries.push(MapEntry { key: first.to_owned(), place, node });
        }
        (None, None) => entries.push(MapEntry { key: first.to_owned(), ..entry }),
    }
}

/// A map whose keys are taken one by one.
pub struct Keys<'n> {
    /// Where it stands, as in `scrape_configs[0]`; empty at the top.
    pub path: String,
    entries: &'n [MapEntry],
    taken: RefCell<Vec<bool>>,
}

impl<'n> Keys<'n> {
    /// All keys of a map; none of anything else.
    pub fn new(node: &'n Node, path: impl Into<String>) -> Self {
        let entries = node.entries();
        Self { path: path.into(), entries, taken: RefCell::new(vec![false; entries.len()]) }
    }

    /// The value of a key, which is then no longer unknown. A null counts as absent.
    pub fn take(&self, key: &str) -> Option<&'n Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The same with the place of the key.
    pub fn entry(&self, key: &str) -> Option<&'n MapEntry> {
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        if let Some(taken) = self.taken.borrow_mut().get_mut(at) {
            *taken = true;
        }
        self.entries.get(at).filter(|entry| !entry.node.is_null())
    }

    /// Text of a key.
    pub fn text(&self, key: &str) -> Option<(&'n str, &'n Place)> {
        let node = self.take(key)?;
        Some((node.text()?, &node.place))
    }

    /// Whether a key says yes.
    pub fn yes(&self, key: &str) -> bool {
        self.take(key).and_then(Node::yes).unwrap_or(false)
    }

    /// Takes keys that mean nothing here.
    pub fn pass(&self, keys: &[&str]) {
        for key in keys {
            self.entry(key);
        }
    }

    /// The name of a key for messages.
    pub fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// What nobody took.
    pub fn rest(&self) -> Vec<&'n MapEntry> {
        let taken = self.taken.borrow();
        let entries = self.entries.iter().zip(taken.iter());
        entries.filter(|(entry, taken)| !**taken && !entry.node.is_null()).map(|(entry, _)| entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_has_places() {
        let text =
            "# x\n[sources.app]\ntype = \"file\"\ninclude = [\"/a\",\n  \"/b\"]\nmax = 1_000\n\n[[list]]\na = true\n";
        let root = toml("v.toml", text).unwrap();
        let at = |path: &str| root.at_path(path).unwrap().place.to_string();
        assert_eq!(at("sources.app.type"), "v.toml:3:8");
        let include = root.at_path("sources.app.include").unwrap().texts();
        assert_eq!(include[1].0, "/b");
        assert_eq!(include[1].1.to_string(), "v.toml:5:3");
        assert_eq!(root.at_path("sources.app.max").unwrap().text(), Some("1000"));
        assert_eq!(root.get("list").unwrap().items()[0].get("a").unwrap().yes(), Some(true));
        let error = toml("v.toml", "a = 1\nb = = 2\n").unwrap_err().to_string();
        assert!(error.starts_with("v.toml:2:5: invalid TOML: "), "{error}");
    }

    #[test]
    fn dots_are_maps() {
        let mut root = yaml("f", "a.b: 1\na:\n  c.d: 2\na.c.e: [x.y: 3]\n").unwrap();
        expand_dots(&mut root);
        for (path, want) in [("a.b", "1"), ("a.c.d", "2")] {
            assert_eq!(root.at_path(path).and_then(Node::text), Some(want), "{path}");
        }
        assert_eq!(root.at_path("a.c.e").unwrap().items()[0].at_path("x.y").and_then(Node::text), Some("3"));
    }

    #[test]
    fn keys_that_nobody_took_are_known() {
        let root = yaml("f", "a: 1\nb: ~\nc: 3\nd: 4\n").unwrap();
        let keys = Keys::new(&root, "top");
        assert_eq!(keys.text("a").unwrap().0, "1");
        keys.pass(&["c"]);
        assert_eq!(keys.rest().iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["d"]);
        assert_eq!(keys.name("d"), "top.d");
    }
}
