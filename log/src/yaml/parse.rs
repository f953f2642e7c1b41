//! Reads the text of a YAML file into a tree, within bounds.
//!
//! In: a name and a text. Out: a [`Node`], or the fault that stopped the reader. Touches nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use granit_parser::{Event, Options, Parser, ScalarStyle, Span};

use super::fault::LocatedFault;
use super::place::Place;
use super::tree::{MapEntry, Node, Value};
use super::written::Written;

/// Depth of nesting and number of values that one file may have, aliases counted as often as they are used: the reader
/// must not be the weak place.
const MAX_DEPTH: usize = 64;
const MAX_NODES: usize = 500_000;

/// What a second document in a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoreDocuments {
    /// Not read: the first counts, as for Alertmanager.
    Ignored,
    /// A fault, as in rule files.
    Refused,
}

/// Reads one document without anchors and aliases. An empty file is an empty map.
pub fn parse(file: &str, text: &str) -> Result<Node, LocatedFault> {
    Ok(filled(file, read(file, text, false, MoreDocuments::Refused)?))
}

/// The same for files of other programs: aliases stand for what they name, and `<<` merges maps. Values keep the place
/// where they were written out. What a few aliases can grow to is bounded as everything else.
pub fn parse_with_aliases(file: &str, text: &str) -> Result<Node, LocatedFault> {
    Ok(filled(file, read(file, text, true, MoreDocuments::Refused)?))
}

fn filled(file: &str, root: Option<Node>) -> Node {
    root.unwrap_or_else(|| Node::empty_map(Place::File { file: file.into(), line: 1, column: 1 }))
}

/// Reads one document; `None` where there is nothing in it.
pub(super) fn read(
    file: &str,
    text: &str,
    with_aliases: bool,
    more: MoreDocuments,
) -> Result<Option<Node>, LocatedFault> {
    let mut options = Options::default();
    options.emit_comments = false;
    let mut reader = Reader {
        file: file.into(),
        source: text.into(),
        parser: Parser::new_from_str_with_options(text, options),
        nodes: 0,
        anchors: with_aliases.then(HashMap::new),
    };
    let mut root: Option<Node> = None;
    while let Some((event, span)) = reader.next()? {
        match event {
            Event::DocumentStart(..) | Event::DocumentEnd if root.is_some() && more == MoreDocuments::Ignored => break,
            Event::DocumentStart(..) if root.is_some() => {
                let place = reader.place(&span);
                return Err(LocatedFault::new(place, "a second document starts here: a file holds one document"));
            }
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd | Event::StreamEnd => {}
            event => root = Some(reader.node(event, &span, 0)?),
        }
    }
    Ok(root.filter(|root| !root.is_null()))
}

struct Reader<'t> {
    file: Arc<str>,
    source: Arc<str>,
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    nodes: usize,
    /// What anchors name; `None`: they are refused.
    anchors: Option<HashMap<usize, Node>>,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>, LocatedFault> {
        match self.parser.next() {
            None => Ok(None),
            Some(Ok(found)) => Ok(Some(found)),
            Some(Err(error)) => {
                let place = self.at(error.marker().line(), error.marker().col());
                Err(LocatedFault::new(place, format!("invalid YAML: {}", error.info())))
            }
        }
    }

    fn place(&self, span: &Span) -> Place {
        self.at(span.start.line(), span.start.col())
    }

    fn at(&self, line: usize, column: usize) -> Place {
        Place::File { file: Arc::clone(&self.file), line: line.max(1), column: column + 1 }
    }

    fn node(&mut self, event: Event<'t>, span: &Span, depth: usize) -> Result<Node, LocatedFault> {
        let place = self.place(span);
        let mut written = None;
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
                    return Err(LocatedFault::new(place, "this alias refers to itself or to nothing"));
                };
                let (size, deepest) = node.extent();
                self.count(size, depth + deepest, &place)?;
                return Ok(node);
            }
            Event::Scalar(text, style, ..) => {
                let range = span.start.byte_offset().unwrap_or(0)..span.end.byte_offset().unwrap_or(0);
                written = Some(Written::new(Arc::clone(&self.source), range, style));
                Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }
            }
            Event::SequenceStart(..) => Value::List(self.list(depth)?),
            Event::MappingStart(..) => Value::Map(self.map(depth)?),
            _ => {
                let message = "anchors and aliases (`&name`, `*name`) are not supported here: write the value out";
                return Err(LocatedFault::new(place, message));
            }
        };
        let node = Node { value, place, written };
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
        let message = if depth > MAX_DEPTH {
            format!("nested deeper than {MAX_DEPTH} levels")
        } else if self.nodes > MAX_NODES {
            format!("more than {MAX_NODES} values, counting aliases")
        } else {
            return Ok(());
        };
        Err(LocatedFault::new(place.clone(), message))
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, LocatedFault> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                None | Some((Event::SequenceEnd, _)) => return Ok(items),
                Some((event, span)) => items.push(self.node(event, &span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<MapEntry>, LocatedFault> {
        // With whether it was merged in.
        let mut all: Vec<(MapEntry, bool)> = Vec::new();
        loop {
            let (key, place) = match self.next()? {
                None | Some((Event::MappingEnd, _)) => break,
                Some((Event::Scalar(text, ..), span)) => (text.into_owned(), self.place(&span)),
                Some((_, span)) => return Err(LocatedFault::new(self.place(&span), "a key must be a single word")),
            };
            let Some((event, span)) = self.next()? else { break };
            let node = self.node(event, &span, depth + 1)?;
            if key == "<<" && self.anchors.is_some() {
                all.extend(merge(node, &place)?.into_iter().map(|entry| (entry, true)));
            } else {
                // A repetition is kept: who reads the map reports it together with all other faults.
                all.push((MapEntry { key, place, node }, false));
            }
        }
        // The map's own keys rule over merged ones, and earlier merged ones over later.
        if all.iter().all(|(_, is_merged)| !is_merged) {
            return Ok(all.into_iter().map(|(entry, _)| entry).collect());
        }
        let own: HashSet<String> =
            all.iter().filter(|(_, merged)| !merged).map(|(entry, _)| entry.key.clone()).collect();
        let mut merged = HashSet::new();
        all.retain(|(entry, is_merged)| !is_merged || (!own.contains(&entry.key) && merged.insert(entry.key.clone())));
        Ok(all.into_iter().map(|(entry, _)| entry).collect())
    }
}

/// What a merged map, or each of a list of maps, has.
fn merge(node: Node, place: &Place) -> Result<Vec<MapEntry>, LocatedFault> {
    let fault = || LocatedFault::new(place.clone(), "`<<` takes a map or a list of maps");
    match node.value {
        Value::Map(entries) => Ok(entries),
        Value::List(items) => {
            let mut all = Vec::new();
            for item in items {
                let Value::Map(entries) = item.value else { return Err(fault()) };
                all.extend(entries);
            }
            Ok(all)
        }
        Value::Scalar { .. } => Err(fault()),
    }
}

#[cfg(test)]
mod tests;
