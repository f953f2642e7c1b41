//! YAML as a tree in which every scalar and key keeps its place.
//!
//! In: the text of a file. Out: a [`Node`] tree, or the fault that stopped the reader. Touches nothing.
//! Leaves variables to `environment.rs` and the meaning of keys to `schema.rs`.

use std::collections::HashMap;
use std::sync::Arc;

use granit_parser::{Event, Options, Parser, ScalarStyle};

use super::place::{LocatedFault, Place};

/// Depth and size of a configuration are bounded: the reader must not be the weak place.
const MAX_DEPTH: usize = 64;
const MAX_NODES: usize = 200_000;

/// A value with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it starts.
    pub place: Place,
    /// Line and column of a text's first character, and the column of its further lines, where it stands in the file
    /// as it is: on one line, or as a block (`|`). From 1.
    pub text: Option<TextPlace>,
}

/// Where the characters of a text stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextPlace {
    line: usize,
    first_column: usize,
    column: usize,
}

/// A value as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text; `plain` if it was not quoted, so that it may be a number, a boolean or null.
    Scalar {
        /// After the escapes of YAML.
        text: String,
        /// Not quoted.
        plain: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// Keys in the order written.
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
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
        Self { value, place, text: None }
    }

    /// A map without entries.
    pub fn empty_map(place: Place) -> Self {
        Self::new(Value::Map(Vec::new()), place)
    }

    /// Whether it is what YAML takes for null.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// How many values there are, itself included, and how many levels.
    fn extent(&self) -> (usize, usize) {
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

    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Map(_) => "a map",
            Value::List(_) => "a list",
            Value::Scalar { .. } if self.is_null() => "nothing",
            Value::Scalar { .. } => "a single value",
        }
    }

    /// The place of the deepest part of a path such as `agent.sources[0].include` that exists.
    pub fn place_of(&self, path: &str) -> &Place {
        self.find(path).1
    }

    /// The place of a character inside of the text at a path; of the text itself where its characters stand otherwise.
    pub fn place_inside(&self, path: &str, line: usize, column: usize) -> Place {
        let (node, place) = self.find(path);
        match (place, node.text) {
            (Place::File { file, .. }, Some(text)) => {
                let start = if line == 1 { text.first_column } else { text.column };
                Place::File { file: Arc::clone(file), line: text.line + line - 1, column: start + column - 1 }
            }
            _ => place.clone(),
        }
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
fn value_or_key(entry: &Entry) -> &Place {
    match entry.node.value {
        Value::Scalar { .. } => &entry.node.place,
        _ => &entry.place,
    }
}

/// Reads one document. An empty file is an empty map.
pub fn parse(file: &str, text: &str) -> Result<Node, LocatedFault> {
    read(file, text, None)
}

/// The same for files of other programs: aliases stand for what they name, and `<<` merges maps. Values keep the place
/// where they were written out. What a few aliases can grow to is bounded as everything else.
pub fn parse_with_aliases(file: &str, text: &str) -> Result<Node, LocatedFault> {
    read(file, text, Some(HashMap::new()))
}

fn read(file: &str, text: &str, anchors: Option<HashMap<usize, Node>>) -> Result<Node, LocatedFault> {
    let file: Arc<str> = file.into();
    let mut options = Options::default();
    options.emit_comments = false;
    let mut reader = Reader {
        file: Arc::clone(&file),
        source: text,
        parser: Parser::new_from_str_with_options(text, options),
        nodes: 0,
        anchors,
    };
    let start = Place::File { file: Arc::clone(&file), line: 1, column: 1 };
    let mut root = None;
    while let Some((event, place)) = reader.next()? {
        match event {
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd | Event::StreamEnd => {}
            _ if root.is_some() => {
                return Err(LocatedFault::new(place, "a second document starts here: a configuration is one document"));
            }
            event => root = Some(reader.node(event, place, 0)?),
        }
    }
    let root = root.unwrap_or_else(|| Node::empty_map(start.clone()));
    Ok(if root.is_null() { Node::empty_map(start) } else { root })
}

struct Reader<'t> {
    file: Arc<str>,
    source: &'t str,
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    nodes: usize,
    /// What anchors name; `None`: they are not taken.
    anchors: Option<HashMap<usize, Node>>,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<Option<(Event<'t>, Place)>, LocatedFault> {
        match self.parser.next() {
            None => Ok(None),
            Some(Ok((event, span))) => {
                let place = self.place(span.start.line(), span.start.col());
                Ok(Some((event, place)))
            }
            Some(Err(error)) => {
                let place = self.place(error.marker().line(), error.marker().col());
                Err(LocatedFault::new(place, format!("not YAML: {}", error.info())))
            }
        }
    }

    fn place(&self, line: usize, column: usize) -> Place {
        Place::File { file: Arc::clone(&self.file), line: line.max(1), column: column + 1 }
    }

    fn node(&mut self, event: Event<'t>, place: Place, depth: usize) -> Result<Node, LocatedFault> {
        let mut stands = None;
        self.count(1, depth, &place)?;
        let anchor = match &event {
            Event::Scalar(_, _, anchor, _) | Event::SequenceStart(_, anchor, _) | Event::MappingStart(_, anchor, _) => {
                *anchor
            }
            _ => 0,
        };
        let value = match event {
            Event::Alias(anchor) if self.anchors.is_some() => {
                let Some(node) = self.anchors.as_ref().and_then(|anchors| anchors.get(&anchor)).cloned() else {
                    return Err(LocatedFault::new(place, "this alias names itself, or nothing"));
                };
                let (size, deepest) = node.extent();
                self.count(size, depth + deepest, &place)?;
                return Ok(node);
            }
            Event::Scalar(text, style, ..) => {
                stands = self.text_place(&text, style, &place);
                Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }
            }
            Event::SequenceStart(..) => Value::List(self.list(depth)?),
            Event::MappingStart(..) => Value::Map(self.map(depth)?),
            _ => {
                let message = "anchors and aliases (`&name`, `*name`) are not taken here: write the value out";
                return Err(LocatedFault::new(place, message));
            }
        };
        let node = Node { value, place, text: stands };
        if let (Some(anchors), 1..) = (&mut self.anchors, anchor) {
            // A copy of its own: counted, as every alias is.
            let (size, deepest) = node.extent();
            anchors.insert(anchor, node.clone());
            self.count(size, depth + deepest, &node.place)?;
        }
        Ok(node)
    }

    fn count(&mut self, nodes: usize, depth: usize, place: &Place) -> Result<(), LocatedFault> {
        self.nodes += nodes;
        if depth > MAX_DEPTH || self.nodes > MAX_NODES {
            let message = format!("too deep or too large: {MAX_DEPTH} levels, {MAX_NODES} values");
            return Err(LocatedFault::new(place.clone(), message));
        }
        Ok(())
    }

    fn text_place(&self, text: &str, style: ScalarStyle, place: &Place) -> Option<TextPlace> {
        let Place::File { line, column, .. } = *place else { return None };
        match style {
            ScalarStyle::Literal => {
                // A block begins on the line behind its `|`, as deep as its first line that is not empty; the reader gives
                // the place of one or the other.
                let at_bar = self.source.lines().nth(line - 1)?.chars().nth(column - 1) == Some('|');
                let empty = text.bytes().take_while(|b| *b == b'\n').count();
                let line = if at_bar { line + 1 } else { line.checked_sub(empty)? };
                let first = self.source.lines().skip(line - 1).find(|line| !line.trim().is_empty())?;
                let column = first.chars().take_while(|c| *c == ' ').count() + 1;
                Some(TextPlace { line, first_column: column, column })
            }
            ScalarStyle::Folded => None,
            _ if text.contains('\n') => None,
            ScalarStyle::Plain => Some(TextPlace { line, first_column: column, column }),
            _ => Some(TextPlace { line, first_column: column + 1, column: column + 1 }),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, LocatedFault> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                None | Some((Event::SequenceEnd, _)) => return Ok(items),
                Some((event, place)) => items.push(self.node(event, place, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry>, LocatedFault> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (key, place) = match self.next()? {
                None | Some((Event::MappingEnd, _)) => return Ok(entries),
                Some((Event::Scalar(text, ..), place)) => (text.into_owned(), place),
                Some((_, place)) => return Err(LocatedFault::new(place, "a key must be a single word")),
            };
            let Some((event, at)) = self.next()? else { return Ok(entries) };
            let node = self.node(event, at, depth + 1)?;
            if key == "<<" && self.anchors.is_some() {
                merge(&mut entries, node);
                continue;
            }
            // Kept: schema.rs reports the repetition together with all other faults.
            entries.push(Entry { key, place, node });
        }
    }
}

/// Adds what a merged map, or each of a list of maps, has on top.
fn merge(entries: &mut Vec<Entry>, node: Node) {
    match node.value {
        Value::Map(merged) => {
            for entry in merged {
                if entries.iter().all(|known| known.key != entry.key) {
                    entries.push(entry);
                }
            }
        }
        Value::List(items) => items.into_iter().for_each(|item| merge(entries, item)),
        Value::Scalar { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_of_other_programs_stand_for_what_they_name() {
        let text = "a: &a {x: 1, y: 2}\nb: *a\nc:\n  <<: *a\n  z: 3\nd: [&e e, *e]\n";
        let root = parse_with_aliases("f.yaml", text).expect("good");
        let want =
            parse("f.yaml", "a: {x: 1, y: 2}\nb: {x: 1, y: 2}\nc: {x: 1, y: 2, z: 3}\nd: [e, e]\n").expect("good");
        fn bare(node: &Node) -> String {
            match &node.value {
                Value::Scalar { text, .. } => text.clone(),
                Value::List(items) => format!("{:?}", items.iter().map(bare).collect::<Vec<_>>()),
                Value::Map(entries) => {
                    format!("{:?}", entries.iter().map(|e| (&e.key, bare(&e.node))).collect::<Vec<_>>())
                }
            }
        }
        assert_eq!(bare(&root), bare(&want));
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..9 {
            let list = vec![format!("*a{}", i - 1); 10].join(", ");
            bomb.push_str(&format!("a{i}: &a{i} [{list}]\n"));
        }
        assert!(parse_with_aliases("f.yaml", &bomb).expect_err("too large").message.contains("too large"));
        assert!(parse_with_aliases("f.yaml", "a: &a [*a]\n").is_err());
    }

    fn place(line: usize, column: usize) -> Place {
        Place::File { file: "f.yaml".into(), line, column }
    }

    #[test]
    fn every_value_keeps_its_place() {
        let text = "a: 1\nb:\n  - x\n  - c: \"y\"\n    d: {e: 2}\nf.g: {h: 1}\nf: {g.h: 2}\n";
        let root = parse("f.yaml", text).expect("good");
        for (path, want) in [
            ("a", place(1, 4)),
            ("b", place(2, 1)),
            ("b[0]", place(3, 5)),
            ("b[1].c", place(4, 8)),
            ("b[1].d.e", place(5, 12)),
            ("b[1].nowhere", place(4, 5)),
            ("f.g.h", place(6, 10)),
            ("f.g.i", place(6, 1)),
            ("b[7]", place(2, 1)),
            ("z", place(1, 1)),
        ] {
            assert_eq!(root.place_of(path), &want, "{path}");
        }
    }

    #[test]
    fn characters_of_texts_have_their_place() {
        let text = "a: x y\nb: 'x y'\nc: |\n\n    if x {\n      y\n    }\nd:\n  - |-\n   z\n  - >\n   z\n   z\n";
        let root = parse("f.yaml", text).expect("good");
        for (path, line, column, want) in [
            ("a", 1, 3, place(1, 6)),
            ("b", 1, 3, place(2, 7)),
            ("c", 2, 1, place(5, 5)),
            ("c", 3, 3, place(6, 7)),
            ("d[0]", 1, 1, place(10, 4)),
            ("d[1]", 1, 2, place(12, 4)),
            ("e", 1, 2, place(1, 1)),
        ] {
            assert_eq!(root.place_inside(path, line, column), want, "{path} {line}:{column}");
        }
    }

    #[test]
    fn faults_of_yaml_name_line_and_column() {
        for (text, line, words) in [
            ("a: [1, 2\nb: 3\n", 2, "not YAML"),
            ("a: 1\n---\nb: 2\n", 3, "second document"),
            ("a: &x 1\nb: *x\n", 2, "anchors"),
            ("? [a]\n: 1\n", 1, "a key must be"),
        ] {
            let fault = parse("f.yaml", text).expect_err(text);
            assert!(fault.message.contains(words), "{text}: {}", fault.message);
            let Place::File { line: found, .. } = fault.place else { panic!("a file") };
            assert_eq!(found, line, "{text}: {}", fault.message);
        }
    }

    #[test]
    fn empty_files_are_empty_maps() {
        for text in ["", "# nothing\n", "---\n", "~\n"] {
            assert_eq!(parse("f.yaml", text).expect("good").value, Value::Map(Vec::new()), "{text:?}");
        }
    }
}
