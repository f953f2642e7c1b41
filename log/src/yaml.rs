//! YAML as a tree whose every node knows its line and column, and the faults of a file with the place in it.
//!
//! In: the text of a rule file or of `alertmanager.yml`. Out: [`Node`]s, typed values read from them, and all
//! [`FileFault`]s at once. Touches nothing. Leaves the meaning of keys to `file.rs` and `notify/config.rs`.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span as YamlSpan};

/// Nodes that one file may have, aliases counted as often as they are used: a bound against exploding aliases.
const MAX_NODES: usize = 500_000;
/// Depth of nesting that one file may have.
const MAX_DEPTH: usize = 64;

/// One thing wrong in a file, for people: where, what, and how to cure it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFault {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1; 0 when the whole file is meant.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The line as it stands in the file.
    pub source_line: Option<String>,
}

impl FileFault {
    /// A fault of the file as a whole.
    pub fn of_file(file: &Path, message: impl Into<String>, hint: Option<String>) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0, message: message.into(), hint, source_line: None }
    }
}

impl fmt::Display for FileFault {
    /// The place and message, the line with a caret below the column, and the hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}", self.file.display(), self.message)?;
        } else {
            write!(f, "{}:{}:{}: {}", self.file.display(), self.line, self.column, self.message)?;
        }
        let margin = " ".repeat(self.line.to_string().len());
        if let Some(line) = &self.source_line {
            let (shown, caret) = window(line, self.column);
            write!(f, "\n{margin} |\n{} | {shown}\n{margin} | {}^", self.line, " ".repeat(caret))?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n{margin} = {hint}")?;
        }
        Ok(())
    }
}

/// At most 120 characters of a line around a column, and where the caret stands in them.
fn window(line: &str, column: usize) -> (String, usize) {
    let at = column.saturating_sub(1);
    let skip = at.saturating_sub(100);
    let shown = line.chars().skip(skip).take(120).map(|c| if c == '\t' { ' ' } else { c }).collect();
    (shown, at - skip)
}

/// A place in a file, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column in characters.
    pub column: usize,
}

/// One node of the tree.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where it begins.
    pub at: Place,
    /// What it is.
    pub kind: Kind,
}

/// What a node is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A text, number, boolean or null, as written.
    Scalar(Scalar),
    /// A list.
    List(Vec<Arc<Node>>),
    /// Keys and values in the order of the file.
    Map(Vec<(Key, Arc<Node>)>),
}

/// A scalar after YAML's escapes.
#[derive(Debug, Clone)]
pub struct Scalar {
    /// The value.
    pub text: String,
    /// Written without quotes and not as a block: may be a number, boolean or null.
    pub plain: bool,
    /// Its bytes in the file.
    source: Range<usize>,
    style: ScalarStyle,
}

/// A key of a map.
#[derive(Debug, Clone)]
pub struct Key {
    /// The name.
    pub text: String,
    /// Where it stands.
    pub at: Place,
}

impl Node {
    /// Whether it is nothing: empty, `~` or `null`.
    pub fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar(s) if s.plain && matches!(s.text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    fn what(&self) -> &'static str {
        match &self.kind {
            Kind::Scalar(_) if self.is_null() => "nothing",
            Kind::Scalar(_) => "a single value",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
        }
    }
}

/// A file being read: its text, its tree, and the faults found so far.
#[derive(Debug)]
pub struct Document {
    file: PathBuf,
    text: String,
    faults: Vec<FileFault>,
}

/// Whether more than one document in a file is a fault or ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoreDocuments {
    /// As Alertmanager: the first counts.
    Ignored,
    /// As rule files: told.
    Refused,
}

impl Document {
    /// Parses a file's text; the tree is missing where the text is not YAML (the fault is noted) or empty.
    pub fn parse(file: &Path, text: &str, more: MoreDocuments) -> (Self, Option<Arc<Node>>) {
        let mut doc = Self { file: file.to_owned(), text: text.to_owned(), faults: Vec::new() };
        let root = match build(text, more) {
            Ok(root) => root,
            Err(fault) => {
                doc.fault(fault.at, fault.message, None);
                None
            }
        };
        (doc, root)
    }

    /// Notes a fault.
    pub fn fault(&mut self, at: Place, message: impl Into<String>, hint: Option<String>) {
        let source_line = at.line.checked_sub(1).and_then(|n| self.text.lines().nth(n)).map(str::to_owned);
        self.faults.push(FileFault {
            file: self.file.clone(),
            line: at.line,
            column: at.column,
            message: message.into(),
            hint,
            source_line,
        });
    }

    /// All faults in the order of the file.
    pub fn into_faults(mut self) -> Vec<FileFault> {
        self.faults.sort_by_key(|f| (f.line, f.column));
        self.faults.dedup();
        self.faults
    }

    /// Whether nothing is wrong so far.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    /// The place in the file of a byte of a scalar's value.
    pub fn place_within(&self, node: &Node, offset: usize) -> Place {
        let Kind::Scalar(scalar) = &node.kind else { return node.at };
        let mut start = scalar.source.start;
        if matches!(scalar.style, ScalarStyle::Literal | ScalarStyle::Folded) {
            // The span of a block may begin behind the blanks of its first line, which tell the indentation.
            let before = self.text.get(..start).unwrap_or_default();
            start -= before.len() - before.trim_end_matches(' ').len();
        }
        let Some(source) = self.text.get(start..scalar.source.end) else { return node.at };
        let at = start + align(source, scalar, offset);
        place_of(&self.text, at)
    }

    /// The map's fields, its unknown and doubled keys told. `what` names the map, as in "a rule".
    pub fn map<'n>(&mut self, node: &'n Node, what: &str, known: &[&str]) -> Option<Fields<'n>> {
        self.map_except(node, what, known, &[])
    }

    /// As [`Document::map`]; keys of the second list are told as not supported, with a reason.
    pub fn map_except<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
        known: &[&str],
        refused: &[(&str, &str)],
    ) -> Option<Fields<'n>> {
        let Kind::Map(pairs) = &node.kind else {
            self.fault(node.at, format!("{what} must be a map of keys and values, this is {}", node.what()), None);
            return None;
        };
        let mut seen: HashMap<&str, Place> = HashMap::new();
        for (key, value) in pairs {
            if let Some(first) = seen.insert(&key.text, key.at) {
                let message = format!("key `{}` stands twice, first in line {}", key.text, first.line);
                self.fault(key.at, message, Some("remove one of them".into()));
            } else if known.contains(&key.text.as_str()) {
            } else if let Some((_, why)) = refused.iter().find(|(name, _)| *name == key.text) {
                // An empty list asks for nothing.
                if value.is_null() || matches!(&value.kind, Kind::List(items) if items.is_empty()) {
                    continue;
                }
                self.fault(key.at, format!("`{}` is not supported yet", key.text), Some((*why).to_owned()));
            } else {
                let hint = nearest(&key.text, known).map_or_else(
                    || format!("{what} takes {}", listed(known)),
                    |name| format!("did you mean `{name}`?"),
                );
                self.fault(key.at, format!("unknown key `{}` in {what}", key.text), Some(hint));
            }
        }
        Some(Fields { at: node.at, pairs })
    }

    /// The items of a list.
    pub fn list<'n>(&mut self, node: &'n Node, what: &str) -> &'n [Arc<Node>] {
        match &node.kind {
            Kind::List(items) => items,
            _ if node.is_null() => &[],
            _ => {
                let hint = Some("begin each item with `- `".into());
                self.fault(node.at, format!("{what} must be a list, this is {}", node.what()), hint);
                &[]
            }
        }
    }

    /// A text; numbers and booleans count as they are written.
    pub fn text<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        match &node.kind {
            Kind::Scalar(scalar) if !node.is_null() => Some(&scalar.text),
            _ => {
                self.fault(node.at, format!("{what} must be a text, this is {}", node.what()), None);
                None
            }
        }
    }

    /// A text that is not empty.
    pub fn filled<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        let text = self.text(node, what)?;
        if text.trim().is_empty() {
            self.fault(node.at, format!("{what} is empty"), None);
            return None;
        }
        Some(text)
    }

    /// `true` or `false`.
    pub fn flag(&mut self, node: &Node, what: &str) -> Option<bool> {
        match &node.kind {
            Kind::Scalar(s) if s.plain && matches!(s.text.as_str(), "true" | "True" | "TRUE" | "yes" | "on") => {
                Some(true)
            }
            Kind::Scalar(s) if s.plain && matches!(s.text.as_str(), "false" | "False" | "FALSE" | "no" | "off") => {
                Some(false)
            }
            _ => {
                self.fault(node.at, format!("{what} must be `true` or `false`"), None);
                None
            }
        }
    }

    /// A whole number from 0.
    pub fn count(&mut self, node: &Node, what: &str) -> Option<u64> {
        let number = match &node.kind {
            Kind::Scalar(scalar) if scalar.plain => scalar.text.parse().ok(),
            _ => None,
        };
        if number.is_none() {
            self.fault(node.at, format!("{what} must be a whole number from 0"), None);
        }
        number
    }

    /// A duration as Prometheus writes it.
    pub fn duration(&mut self, node: &Node, what: &str) -> Option<Duration> {
        let text = self.text(node, what)?;
        match prometheus_duration(text) {
            Ok(duration) => Some(duration),
            Err(hint) => {
                self.fault(node.at, format!("{what}: invalid duration `{text}`"), Some(hint));
                None
            }
        }
    }
}

/// Fields of one map.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'n> {
    /// Where the map begins.
    pub at: Place,
    pairs: &'n [(Key, Arc<Node>)],
}

impl<'n> Fields<'n> {
    /// The value of a key, unless it is absent or nothing.
    pub fn get(&self, name: &str) -> Option<&'n Node> {
        self.pairs.iter().find(|(key, _)| key.text == name).map(|(_, node)| &**node).filter(|node| !node.is_null())
    }

    /// Where a key stands.
    pub fn key(&self, name: &str) -> Option<Place> {
        self.pairs.iter().find(|(key, _)| key.text == name).map(|(key, _)| key.at)
    }

    /// All keys with their values.
    pub fn all(&self) -> impl Iterator<Item = (&'n Key, &'n Node)> + use<'n> {
        self.pairs.iter().map(|(key, node)| (key, &**node))
    }
}

/// Reads `1h30m`: units y, w, d, h, m, s, ms from large to small, each once, whole numbers; a bare `0`. The error is a hint.
pub fn prometheus_duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 7] = [
        ("y", 365 * 24 * 3_600_000),
        ("w", 7 * 24 * 3_600_000),
        ("d", 24 * 3_600_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ];
    let usual = || "write whole numbers with units from large to small, as in `30s`, `1h30m` or `7d`".to_owned();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("the unit is missing: `{text}s`?"));
    }
    let (mut rest, mut next, mut total) = (text, 0, 0u64);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        let number: u64 = number.parse().map_err(|_| usual())?;
        let at = UNITS.iter().position(|(name, _)| *name == unit).ok_or_else(usual)?;
        if at < next {
            return Err(usual());
        }
        next = at + 1;
        let ms = UNITS.get(at).map_or(0, |(_, ms)| *ms);
        total = number.checked_mul(ms).and_then(|n| total.checked_add(n)).ok_or_else(|| "it is too long".to_owned())?;
        rest = tail;
    }
    // Beyond 292 years nanoseconds no longer fit 64 bits.
    if text.is_empty() || total > 9_000_000_000_000 {
        return Err(usual());
    }
    Ok(Duration::from_millis(total))
}

/// The known word nearest to a misspelt one, if it is near.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let lower = word.to_lowercase();
    known
        .iter()
        .map(|name| (distance(&lower, name), *name))
        .filter(|(far, name)| *far <= 1 + name.len() / 4)
        .min()
        .map(|(_, name)| name)
}

/// Changes of one character, exchanges of neighbours counted once, that lead from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let change = usize::from(a[i - 1] != b[j - 1]);
                let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

fn place_of(text: &str, byte: usize) -> Place {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    Place {
        line: before.bytes().filter(|b| *b == b'\n').count() + 1,
        column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
    }
}

/// Byte in a scalar's source that made the byte `offset` of its value: both are walked side by side.
fn align(source: &str, scalar: &Scalar, offset: usize) -> usize {
    let block = matches!(scalar.style, ScalarStyle::Literal | ScalarStyle::Folded);
    let quoted = matches!(scalar.style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted);
    let mut at = 0;
    let mut indent = 0;
    if block {
        // The header (`|`, `>-`, a comment) is no content; the span may begin before or behind it.
        if source.trim_start().starts_with(['|', '>']) {
            at = source.find('\n').map_or(source.len(), |n| n + 1);
        }
        indent = source
            .get(at..)
            .unwrap_or_default()
            .lines()
            .filter(|l| !l.trim().is_empty())
            .map(leading_blanks)
            .min()
            .unwrap_or(0);
        at += leading_blanks(source.get(at..).unwrap_or_default()).min(indent);
    } else if quoted && source.starts_with(['"', '\'']) {
        at = 1;
    }
    for (done, wanted) in scalar.text.char_indices() {
        let rest = source.get(at..).unwrap_or_default();
        let Some(found) = rest.chars().next() else { break };
        if done >= offset {
            break;
        }
        if scalar.style == ScalarStyle::DoubleQuoted && found == '\\' {
            at += escape_length(rest);
        } else if scalar.style == ScalarStyle::SingleQuoted && rest.starts_with("''") {
            at += 2;
        } else if wanted == '\n' && found != '\n' && found != '\r' && scalar.style != ScalarStyle::Literal {
            // Blank lines were skipped together with the first of them.
        } else if found == '\n' || (wanted == '\n' && found == '\r') || (wanted == ' ' && folded_ahead(rest)) {
            // A line end (kept or folded): skip to the content of the next line.
            let blank = if block {
                let mut lines = rest.find('\n').map_or(rest.len(), |n| n + 1);
                while scalar.style == ScalarStyle::Folded
                    && let Some((line, _)) = rest.get(lines..).and_then(|r| r.split_once('\n'))
                    && line.trim().is_empty()
                {
                    lines += line.len() + 1;
                }
                lines + leading_blanks(rest.get(lines..).unwrap_or_default()).min(indent)
            } else {
                rest.len() - rest.trim_start().len()
            };
            at += blank;
        } else {
            at += found.len_utf8();
        }
    }
    at.min(source.len())
}

fn folded_ahead(rest: &str) -> bool {
    rest.trim_start_matches([' ', '\t', '\r']).starts_with('\n')
}

fn leading_blanks(line: &str) -> usize {
    line.bytes().take_while(|b| *b == b' ').count()
}

fn escape_length(rest: &str) -> usize {
    match rest.as_bytes().get(1) {
        Some(b'x') => 4,
        Some(b'u') => 6,
        Some(b'U') => 10,
        Some(b'\n') => 2 + rest.get(2..).map_or(0, |r| r.len() - r.trim_start().len()),
        _ => 1 + rest.chars().nth(1).map_or(0, char::len_utf8),
    }
}

struct TreeFault {
    at: Place,
    message: String,
}

fn begin(span: &YamlSpan) -> Place {
    Place { line: span.start.line().max(1), column: span.start.col() + 1 }
}

/// A collection under construction.
enum Open {
    List { at: Place, anchor: usize, items: Vec<Arc<Node>> },
    Map { at: Place, anchor: usize, pairs: Vec<(Key, Arc<Node>)>, key: Option<Key> },
}

fn build(text: &str, more: MoreDocuments) -> Result<Option<Arc<Node>>, TreeFault> {
    let mut open: Vec<Open> = Vec::new();
    let mut anchors: HashMap<usize, Arc<Node>> = HashMap::new();
    let mut root = None;
    let mut documents = 0;
    let mut nodes = 0usize;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| TreeFault {
            at: Place { line: e.marker().line().max(1), column: e.marker().col() + 1 },
            message: format!("this is not YAML: {}", e.info()),
        })?;
        let at = begin(&span);
        let finished = match event {
            Event::DocumentStart(..) => {
                documents += 1;
                if documents > 1 {
                    match more {
                        MoreDocuments::Ignored => break,
                        MoreDocuments::Refused => {
                            let message = "a second document begins here, a file holds one".to_owned();
                            return Err(TreeFault { at, message });
                        }
                    }
                }
                None
            }
            Event::Scalar(value, style, anchor, _) => {
                let source = span.start.byte_offset().unwrap_or(0)..span.end.byte_offset().unwrap_or(0);
                let plain = style == ScalarStyle::Plain;
                let scalar = Scalar { text: value.into_owned(), plain, source, style };
                Some((Arc::new(Node { at, kind: Kind::Scalar(scalar) }), anchor))
            }
            Event::Alias(anchor) => {
                let Some(node) = anchors.get(&anchor) else {
                    return Err(TreeFault { at, message: "this alias refers to itself or to nothing".into() });
                };
                nodes += weight(node);
                Some((node.clone(), 0))
            }
            Event::SequenceStart(_, anchor, _) => {
                open.push(Open::List { at, anchor, items: Vec::new() });
                None
            }
            Event::MappingStart(_, anchor, _) => {
                open.push(Open::Map { at, anchor, pairs: Vec::new(), key: None });
                None
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List { at, anchor, items }) => {
                    Some((Arc::new(Node { at, kind: Kind::List(items) }), anchor))
                }
                Some(Open::Map { at, anchor, pairs, .. }) => {
                    Some((Arc::new(Node { at, kind: Kind::Map(merge_keys(pairs)?) }), anchor))
                }
                None => None,
            },
            _ => None,
        };
        if open.len() > MAX_DEPTH {
            return Err(TreeFault { at, message: format!("nested deeper than {MAX_DEPTH} levels") });
        }
        let Some((node, anchor)) = finished else { continue };
        nodes += 1;
        if nodes > MAX_NODES {
            return Err(TreeFault { at, message: format!("more than {MAX_NODES} values, counting aliases") });
        }
        if anchor != 0 {
            anchors.insert(anchor, node.clone());
        }
        match open.last_mut() {
            None => root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { pairs, key, .. }) => match key.take() {
                Some(key) => pairs.push((key, node)),
                None => match &node.kind {
                    Kind::Scalar(scalar) => *key = Some(Key { text: scalar.text.clone(), at }),
                    _ => return Err(TreeFault { at, message: "a key must be a text".into() }),
                },
            },
        }
    }
    Ok(root.filter(|node| !node.is_null()))
}

fn weight(node: &Node) -> usize {
    match &node.kind {
        Kind::Scalar(_) => 1,
        Kind::List(items) => 1 + items.iter().map(|n| weight(n)).sum::<usize>(),
        Kind::Map(pairs) => 1 + pairs.iter().map(|(_, n)| weight(n)).sum::<usize>(),
    }
}

/// Takes in the keys of maps under `<<` that the map itself does not have.
fn merge_keys(pairs: Vec<(Key, Arc<Node>)>) -> Result<Vec<(Key, Arc<Node>)>, TreeFault> {
    if !pairs.iter().any(|(key, _)| key.text == "<<") {
        return Ok(pairs);
    }
    let (merged, mut own): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(key, _)| key.text == "<<");
    for (key, node) in merged {
        let sources: Vec<&Arc<Node>> = match &node.kind {
            Kind::List(items) => items.iter().collect(),
            _ => vec![&node],
        };
        for source in sources {
            let Kind::Map(pairs) = &source.kind else {
                return Err(TreeFault { at: key.at, message: "`<<` takes a map or a list of maps".into() });
            };
            for (key, value) in pairs {
                if !own.iter().any(|(have, _)| have.text == key.text) {
                    own.push((key.clone(), value.clone()));
                }
            }
        }
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Document, Arc<Node>) {
        let (doc, root) = Document::parse(Path::new("f.yaml"), text, MoreDocuments::Refused);
        assert!(doc.is_clean(), "{:?}", doc.faults);
        (doc, root.expect("a tree"))
    }

    fn value<'n>(node: &'n Node, key: &str) -> &'n Node {
        let Kind::Map(pairs) = &node.kind else { panic!("no map") };
        pairs.iter().find(|(k, _)| k.text == key).map(|(_, n)| &**n).expect("the key")
    }

    #[test]
    fn nodes_know_their_place() {
        let (_, root) = parse("a: 1\nb:\n  - x\n  - {c: \"d\"}\n");
        assert_eq!(value(&root, "a").at, Place { line: 1, column: 4 });
        let Kind::List(items) = &value(&root, "b").kind else { panic!("no list") };
        assert_eq!(items[0].at, Place { line: 3, column: 5 });
        assert_eq!(value(&items[1], "c").at, Place { line: 4, column: 9 });
    }

    #[test]
    fn bytes_of_a_value_are_found_in_its_source() {
        // Each text holds one `#`-free mark `@`; the place of `@` in the value must be its place in the file.
        for text in [
            "k: abc @ def\n",
            "k: 'it''s @ def'\n",
            "k: \"a\\n\\u00e4\\\" @ def\"\n",
            "k: |\n  one\n  two\n    @ three\n",
            "k: >-\n  one\n  two\n  @ three\n",
            "k: >\n    one\n\n    two @\n",
            "k: |2\n   one\n  @\n",
            "- k: |-\n    sum(\n      größe @\n    )\n",
            "k: first\n   second\n   @ third\n",
            "k: \"first\n   second\n   @ third\"\n",
        ] {
            let (doc, root) = parse(text);
            let map = match &root.kind {
                Kind::List(items) => items[0].clone(),
                _ => root.clone(),
            };
            let node = value(&map, "k");
            let Kind::Scalar(scalar) = &node.kind else { panic!("no scalar") };
            let offset = scalar.text.find('@').expect("the mark");
            let want = place_of(text, text.find('@').expect("the mark"));
            assert_eq!(doc.place_within(node, offset), want, "{text}");
        }
    }

    #[test]
    fn durations_are_those_of_prometheus() {
        for (text, want) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("30s", Some(30_000)),
            ("1h30m", Some(5_400_000)),
            ("1y2w3d4h5m6s7ms", Some(33_019_506_007)),
            ("5", None),
            ("1.5s", None),
            ("5m5m", None),
            ("5s1m", None),
            ("-1s", None),
            ("", None),
            ("1 m", None),
            ("999999999999999y", None),
        ] {
            assert_eq!(prometheus_duration(text).ok().map(|d| d.as_millis()), want, "{text}");
        }
    }

    #[test]
    fn merged_and_aliased_maps_are_taken_in() {
        let (_, root) = parse("base: &b {x: 1, y: 2}\nall:\n  <<: *b\n  y: 3\n");
        let Kind::Map(pairs) = &value(&root, "all").kind else { panic!("no map") };
        let keys: Vec<&str> = pairs.iter().map(|(k, _)| k.text.as_str()).collect();
        assert_eq!(keys, ["y", "x"]);
    }

    #[test]
    fn exploding_aliases_are_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..9 {
            let refs = vec![format!("*a{}", n - 1); 10].join(", ");
            text.push_str(&format!("a{n}: &a{n} [{refs}]\n"));
        }
        let (doc, root) = Document::parse(Path::new("f.yaml"), &text, MoreDocuments::Refused);
        assert!(root.is_none() && doc.into_faults()[0].message.contains("counting aliases"));
    }

    #[test]
    fn near_words_are_suggested() {
        for (word, want) in [("exprr", Some("expr")), ("lables", Some("labels")), ("Expr", Some("expr")), ("zzz", None)]
        {
            assert_eq!(nearest(word, &["expr", "labels", "for"]), want);
        }
    }
}
