//! What is carried over from another program's configuration, what is left, and the YAML of it.
//!
//! In: values with the places they come from. Out: text that Millrace's own check takes. Touches nothing.
//!
//! A format's reader puts in what it finds; [`Draft::finish`] has the result checked as `millrace validate` would, takes
//! out what is refused (a regular expression that is none here, a label too many) and tells it as left out: so a result
//! is good whatever the other file holds.

use std::collections::BTreeSet;
use std::fmt;

use millrace_log::record::MAX_LABELS;

use super::pattern;
use crate::config::environment::Variables;
use crate::config::tree::Place;
use crate::config::{ConfigError, parse};

/// Something that was not carried over, or that is good to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Where it stands in the other file.
    pub place: Place,
    /// Which key, and what it says.
    pub what: String,
    /// Why it could not be carried over, or what changes.
    pub why: String,
    /// What to do instead; empty: nothing.
    pub instead: String,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.what, self.why)?;
        if self.instead.is_empty() { Ok(()) } else { write!(f, "; instead: {}", self.instead) }
    }
}

/// A value of the result.
#[derive(Debug, Clone, PartialEq)]
pub enum Out {
    /// Text, quoted where it must be.
    Text(String),
    /// Text in which `${VAR}` stands for a variable of the environment, as it did before.
    Open(String),
    /// A number or a boolean.
    Plain(String),
    /// A list; each item with its place.
    List(Vec<(Out, Option<Place>)>),
    /// Keys in order.
    Map(Vec<Field>),
}

/// A key of the result.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    key: String,
    value: Out,
    from: Option<Place>,
}

/// How lines are joined.
#[derive(Debug, Clone, Default)]
pub struct Multiline {
    /// `start` or `continue`, and its expression.
    pub by: Option<(&'static str, String)>,
    /// Lines of one event.
    pub max_lines: Option<u64>,
    /// As our `Span` writes it.
    pub timeout: Option<String>,
}

/// Where the time stands.
#[derive(Debug, Clone, Default)]
pub struct Timestamp {
    /// As ours.
    pub format: String,
    /// At one of both, or at the start of the line.
    pub regex: Option<String>,
    /// Of a JSON line.
    pub field: Option<String>,
    /// As an offset.
    pub timezone: Option<String>,
}

/// One entry of `agent.sources`.
#[derive(Debug, Clone)]
pub struct Source {
    /// Where it stands in the other file.
    pub place: Place,
    /// What it is called there.
    pub title: String,
    /// Globs.
    pub include: Vec<(String, Place)>,
    /// Globs.
    pub exclude: Vec<(String, Place)>,
    /// Names are ours already ([`Source::label`]).
    pub labels: Vec<(String, String, Place)>,
    /// Whose lines.
    pub tenant: Option<(String, Place)>,
    /// `beginning` or `end`.
    pub read_from: Option<(&'static str, Place)>,
    /// Bytes.
    pub max_line_bytes: Option<(u64, Place)>,
    /// As our `Span` writes it.
    pub partial_timeout: Option<(String, Place)>,
    /// How the file is encoded.
    pub encoding: Option<(&'static str, Place)>,
    /// Which runtime wrote the lines.
    pub format: Option<(&'static str, Place)>,
    /// How lines are joined.
    pub multiline: Option<(Multiline, Place)>,
    /// Where the time stands.
    pub timestamp: Option<(Timestamp, Place)>,
}

impl Source {
    /// The encoding by one of its names; what is not read by Millrace is told.
    pub fn set_encoding(&mut self, name: &str, place: &Place, key: impl Into<String>, draft: &mut Draft) {
        let plain: String = name.to_ascii_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
        let ours = match plain.as_str() {
            "utf8" | "plain" | "ascii" | "usascii" => return,
            "utf16le" | "utf16lebom" => "utf-16le",
            "utf16be" | "utf16bebom" => "utf-16be",
            "latin1" | "iso88591" => "latin-1",
            "windows1252" | "cp1252" => "windows-1252",
            _ => {
                let why = format!("`{name}` is no encoding that Millrace reads");
                draft.leave(place, key, why, "have the program write UTF-8");
                return;
            }
        };
        self.encoding = Some((ours, place.clone()));
    }

    /// Its lines were written by a container runtime; by several: it is told line by line.
    pub fn set_format(&mut self, format: &'static str, place: &Place) {
        let both = self.format.as_ref().is_some_and(|(other, _)| *other != format);
        self.format = Some((if both { "auto" } else { format }, place.clone()));
    }

    /// An empty one.
    pub fn new(place: &Place, title: impl Into<String>) -> Self {
        Self {
            place: place.clone(),
            title: title.into(),
            include: Vec::new(),
            exclude: Vec::new(),
            labels: Vec::new(),
            tenant: None,
            read_from: None,
            max_line_bytes: None,
            partial_timeout: None,
            encoding: None,
            format: None,
            multiline: None,
            timestamp: None,
        }
    }

    /// Sets a label; a later one replaces an earlier one of the same name. Gives the name as it is now.
    pub fn label(&mut self, name: &str, value: &str, place: &Place) -> String {
        let ours = label_name(name);
        match self.labels.iter_mut().find(|(known, ..)| *known == ours) {
            Some(known) => (known.1, known.2) = (value.to_owned(), place.clone()),
            None => self.labels.push((ours.clone(), value.to_owned(), place.clone())),
        }
        ours
    }

    fn has_label(&self, name: &str) -> bool {
        self.labels.iter().any(|(known, ..)| known == name)
    }
}

/// A name that labels may have.
pub fn label_name(name: &str) -> String {
    let mut out: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if out.starts_with(|c: char| c.is_ascii_digit()) || out.is_empty() {
        out.insert(0, '_');
    }
    out
}

/// Everything that becomes of one file.
#[derive(Debug)]
pub struct Draft {
    /// Entries of `agent.sources`.
    pub sources: Vec<Source>,
    /// Keys of `agent.kafka`.
    kafka: Vec<Field>,
    /// Further keys of `agent`.
    agent: Vec<Field>,
    /// Entries of `exports`.
    exports: Vec<Vec<Field>>,
    left: Vec<Told>,
    notes: Vec<Told>,
    /// Whether the other program expands `${VAR}` in its file.
    pub expands: bool,
    tree: Vec<Field>,
}

impl Draft {
    /// Nothing yet.
    pub fn new(expands: bool) -> Self {
        Self {
            sources: Vec::new(),
            kafka: Vec::new(),
            agent: Vec::new(),
            exports: Vec::new(),
            left: Vec::new(),
            notes: Vec::new(),
            expands,
            tree: Vec::new(),
        }
    }

    /// Something is not carried over.
    pub fn leave(
        &mut self,
        place: &Place,
        what: impl Into<String>,
        why: impl Into<String>,
        instead: impl Into<String>,
    ) {
        // One line each: diagnostics of regular expressions have several.
        let line = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (what, why) = (line(what.into()), line(why.into()));
        let told = Told { place: place.clone(), what, why, instead: instead.into() };
        if !self.left.contains(&told) {
            self.left.push(told);
        }
    }

    /// Something is carried over, or needs nothing, and is good to know.
    pub fn note(&mut self, place: &Place, what: impl Into<String>, text: impl Into<String>) {
        let told = Told { place: place.clone(), what: what.into(), why: text.into(), instead: String::new() };
        if !self.notes.contains(&told) {
            self.notes.push(told);
        }
    }

    /// What was left out, in the order of the file.
    pub fn left(&self) -> &[Told] {
        &self.left
    }

    /// What is good to know.
    pub fn notes(&self) -> &[Told] {
        &self.notes
    }

    /// Text of the other file, with its variables if it has any.
    pub fn open(&self, text: &str) -> Out {
        if self.expands && text.contains("${") { Out::Open(ours(text)) } else { Out::Text(text.to_owned()) }
    }

    /// Sets a key of `agent.kafka`; the first one counts.
    pub fn kafka(&mut self, key: &str, value: Out, place: &Place) {
        add(&mut self.kafka, key, value, place);
    }

    /// Sets a further key of `agent`; the first one counts.
    pub fn agent(&mut self, key: &str, value: Out, place: &Place) {
        add(&mut self.agent, key, value, place);
    }

    /// Whether a key of `agent.kafka` was set.
    pub fn has_kafka(&self) -> bool {
        !self.kafka.is_empty()
    }

    /// Adds an entry of `exports`.
    pub fn export(&mut self, fields: Vec<(&str, Out, Place)>) {
        let fields =
            fields.into_iter().map(|(key, value, place)| Field { key: key.to_owned(), value, from: Some(place) });
        self.exports.push(fields.collect());
    }

    /// A label for every source that has none of that name.
    pub fn label_all(&mut self, name: &str, value: &str, place: &Place) {
        for source in &mut self.sources {
            if !source.has_label(&label_name(name)) {
                source.label(name, value, place);
            }
        }
    }

    /// Builds the result, and takes out what Millrace refuses.
    pub fn finish(&mut self) {
        let nothing = std::mem::take(&mut self.sources);
        for source in nothing {
            if source.include.is_empty() {
                let what = source.title.clone();
                self.leave(&source.place, what, "names no files", "add `include` by hand");
            } else {
                self.sources.push(self::bounded(source, &mut self.left));
            }
        }
        self.tree = self.build();
        // Each round takes out one thing at least.
        for _ in 0..1000 {
            let faults = self.faults();
            if faults.is_empty() {
                break;
            }
            for (path, message) in faults {
                self.take_out(&path, &message);
            }
        }
        let line = |told: &Told| match &told.place {
            Place::File { file, line, column } => (file.to_string(), *line, *column),
            Place::Variable(name) => (name.to_string(), 0, 0),
        };
        self.left.sort_by_key(line);
        self.notes.sort_by_key(line);
    }

    fn build(&self) -> Vec<Field> {
        let mut agent = Vec::new();
        if !self.sources.is_empty() {
            let sources = self.sources.iter().map(|source| (self.source(source), Some(source.place.clone())));
            agent.push(Field { key: "sources".to_owned(), value: Out::List(sources.collect()), from: None });
        }
        agent.extend(self.agent.iter().cloned());
        if !self.kafka.is_empty() {
            agent.push(Field { key: "kafka".to_owned(), value: Out::Map(self.kafka.clone()), from: None });
        }
        let mut tree = Vec::new();
        // An agent that reads nothing is a fault of its own.
        if !self.sources.is_empty() {
            tree.push(Field { key: "agent".to_owned(), value: Out::Map(agent), from: None });
        }
        if !self.exports.is_empty() {
            let exports = self.exports.iter().map(|fields| (Out::Map(fields.clone()), None)).collect();
            tree.push(Field { key: "exports".to_owned(), value: Out::List(exports), from: None });
        }
        tree
    }

    fn source(&self, source: &Source) -> Out {
        let field =
            |key: &str, value: Out, from: &Place| Field { key: key.to_owned(), value, from: Some(from.clone()) };
        let text = |text: &str| self.open(text);
        let mut fields = vec![Field { key: "type".to_owned(), value: Out::Plain("file".to_owned()), from: None }];
        for (key, globs) in [("include", &source.include), ("exclude", &source.exclude)] {
            if !globs.is_empty() {
                let list = globs.iter().map(|(glob, place)| (text(glob), Some(place.clone())));
                fields.push(Field { key: key.to_owned(), value: Out::List(list.collect()), from: None });
            }
        }
        if !source.labels.is_empty() {
            let labels = source.labels.iter().map(|(name, value, place)| field(name, text(value), place));
            fields.push(Field { key: "labels".to_owned(), value: Out::Map(labels.collect()), from: None });
        }
        if let Some((tenant, place)) = &source.tenant {
            fields.push(field("tenant", text(tenant), place));
        }
        if let Some((encoding, place)) = &source.encoding {
            fields.push(field("encoding", Out::Plain((*encoding).to_owned()), place));
        }
        if let Some((format, place)) = &source.format {
            fields.push(field("format", Out::Plain((*format).to_owned()), place));
        }
        if let Some((from, place)) = &source.read_from {
            fields.push(field("read_from", Out::Plain((*from).to_owned()), place));
        }
        if let Some((bytes, place)) = &source.max_line_bytes {
            fields.push(field("max_line_bytes", Out::Plain(pattern::size(*bytes)), place));
        }
        if let Some((span, place)) = &source.partial_timeout {
            fields.push(field("partial_timeout", Out::Plain(span.clone()), place));
        }
        if let Some((multiline, place)) = &source.multiline {
            let mut inner = Vec::new();
            if let Some((key, pattern)) = &multiline.by {
                inner.push(field(key, Out::Text(pattern.clone()), place));
            }
            if let Some(lines) = multiline.max_lines {
                inner.push(field("max_lines", Out::Plain(lines.to_string()), place));
            }
            if let Some(timeout) = &multiline.timeout {
                inner.push(field("timeout", Out::Plain(timeout.clone()), place));
            }
            fields.push(Field { key: "multiline".to_owned(), value: Out::Map(inner), from: None });
        }
        if let Some((timestamp, place)) = &source.timestamp {
            let mut inner = vec![field("format", Out::Text(timestamp.format.clone()), place)];
            for (key, value) in
                [("regex", &timestamp.regex), ("field", &timestamp.field), ("timezone", &timestamp.timezone)]
            {
                if let Some(value) = value {
                    inner.push(field(key, Out::Text(value.clone()), place));
                }
            }
            fields.push(Field { key: "timestamp".to_owned(), value: Out::Map(inner), from: None });
        }
        Out::Map(fields)
    }

    /// Paths and messages of what our own check refuses whatever the variables of the environment hold.
    fn faults(&self) -> Vec<(String, String)> {
        let text = body(&self.tree);
        let names = variables(&text);
        let found = |value: &str| -> Vec<(String, String)> {
            let given: Variables = names.iter().map(|name| (name.clone(), value.to_owned())).collect();
            match parse("result", &text, &given) {
                Ok(_) => Vec::new(),
                Err(ConfigError::Faults { faults }) => {
                    let path = |fault: crate::config::LocatedFault| {
                        let path = match &fault.place {
                            Place::File { line, .. } => path_at(&text, *line),
                            Place::Variable(_) => String::new(),
                        };
                        (path, fault.message)
                    };
                    faults.into_iter().map(path).collect()
                }
                Err(error) => vec![(String::new(), error.to_string())],
            }
        };
        let first = found("127.0.0.1:1");
        if first.is_empty() || names.is_empty() {
            return first;
        }
        let others: Vec<Vec<(String, String)>> = ["x", "http://127.0.0.1:1"].map(found).into();
        first.into_iter().filter(|(path, _)| others.iter().all(|list| list.iter().any(|(p, _)| p == path))).collect()
    }

    fn take_out(&mut self, path: &str, message: &str) {
        let steps: Vec<&str> = path.split('\u{1f}').filter(|step| !step.is_empty()).collect();
        let Some(from) = remove(&mut self.tree, &steps) else { return };
        let message = message.split_once(": ").map_or(message, |(_, rest)| rest);
        let place = from.unwrap_or_else(|| Place::Variable("result".into()));
        let name = steps.join(".").replace(".[", "[");
        self.leave(&place, name, format!("Millrace refuses it: {message}"), "set it by hand");
        // What holds nothing any more goes too.
        prune(&mut self.tree);
    }

    /// The whole file: what it is, what was left, and the configuration.
    pub fn render(&self, format: &str, file: &str) -> String {
        let mut text = format!(
            "# Made by `millrace import {format} {file}`: the comments name the places that values come from.\n\
             # Check it with `millrace validate -c FILE`, start it with `millrace agent -c FILE`.\n"
        );
        for (title, list) in [("Good to know", &self.notes), ("Not carried over", &self.left)] {
            if !list.is_empty() {
                text.push_str(&format!("#\n# {title}:\n"));
                for told in list.iter() {
                    // A line break of the other file must not end the comment.
                    text.push_str(&format!("#   {}\n", told.to_string().replace(['\n', '\r'], " ")));
                }
            }
        }
        let body = body(&self.tree);
        let names = variables(&body);
        if !names.is_empty() {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            text.push_str(&format!("#\n# Variables of the environment that it needs: {}\n", names.join(", ")));
        }
        text.push('\n');
        text.push_str(&body);
        text
    }
}

/// A source with as many labels as fit beside `host` and `filename`; the further ones are left.
fn bounded(mut source: Source, left: &mut Vec<Told>) -> Source {
    for (name, value, place) in source.labels.split_off(source.labels.len().min(MAX_LABELS - 2)) {
        left.push(Told {
            place,
            what: format!("{}: label `{name}: {value}`", source.title),
            why: format!("a stream has {} labels at most beside `host` and `filename`", MAX_LABELS - 2),
            instead: "leave out labels that tell no streams apart".to_owned(),
        });
    }
    source
}

fn add(fields: &mut Vec<Field>, key: &str, value: Out, place: &Place) {
    if fields.iter().all(|field| field.key != key) {
        fields.push(Field { key: key.to_owned(), value, from: Some(place.clone()) });
    }
}

/// `${VAR:default}` of others is `${VAR:-default}` here.
fn ours(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        out.push_str("${");
        let Some((inside, tail)) = after.split_once('}') else {
            rest = after;
            continue;
        };
        match inside.split_once(':') {
            Some((name, default)) if !default.starts_with(['-', '?']) => out.push_str(&format!("{name}:-{default}")),
            _ => out.push_str(inside),
        }
        out.push('}');
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// Names in `${…}` that have no default.
fn variables(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("${") {
            rest = after;
            if before.ends_with('$') {
                continue;
            }
            if let Some((inside, _)) = after.split_once('}')
                && !inside.contains(":-")
            {
                names.insert(inside.to_owned());
            }
        }
    }
    names
}

/// Takes out the value at a path; what it came from, or what it stood in came from.
fn remove(fields: &mut Vec<Field>, steps: &[&str]) -> Option<Option<Place>> {
    let (step, rest) = steps.split_first()?;
    let at = fields.iter().position(|field| field.key == *step)?;
    let field = fields.get_mut(at)?;
    let from = field.from.clone();
    // Halves of these mean nothing.
    let whole = matches!(field.key.as_str(), "multiline" | "timestamp");
    if rest.is_empty() || whole {
        let inner = match &field.value {
            Out::Map(inner) => inner.first().and_then(|field| field.from.clone()),
            Out::List(items) => items.first().and_then(|(_, place)| place.clone()),
            _ => None,
        };
        fields.remove(at);
        return Some(from.or(inner));
    }
    let found = match &mut field.value {
        Out::Map(inner) => remove(inner, rest),
        Out::List(items) => {
            let (index, rest) = rest.split_first()?;
            let index: usize = index.trim_matches(['[', ']']).parse().ok()?;
            let (item, place) = items.get_mut(index)?;
            let place = place.clone();
            match item {
                Out::Map(inner) if !rest.is_empty() => remove(inner, rest).map(|from| from.or(place)),
                _ => {
                    items.remove(index);
                    Some(place)
                }
            }
        }
        _ => None,
    };
    found.map(|inner| inner.or(from))
}

/// Takes out maps and lists that hold nothing, sources without files, and roles without sources.
fn prune(fields: &mut Vec<Field>) {
    for field in fields.iter_mut() {
        match &mut field.value {
            Out::Map(inner) => prune(inner),
            Out::List(items) => {
                for (item, _) in items.iter_mut() {
                    if let Out::Map(inner) = item {
                        prune(inner);
                    }
                }
                let source = field.key == "sources";
                items.retain(|(item, _)| match item {
                    Out::Map(inner) => !source || inner.iter().any(|field| field.key == "include"),
                    _ => true,
                });
            }
            _ => {}
        }
    }
    fields.retain(|field| match &field.value {
        Out::Map(inner) if field.key == "agent" => inner.iter().any(|field| field.key == "sources"),
        Out::Map(inner) => !inner.is_empty(),
        Out::List(items) => !items.is_empty(),
        _ => true,
    });
}

/// The configuration alone. Every value stands on a line of its own, so that a fault's line names it.
fn body(tree: &[Field]) -> String {
    let mut text = String::new();
    write_map(&mut text, tree, 0, false);
    text
}

fn write_map(text: &mut String, fields: &[Field], depth: usize, first_inline: bool) {
    for (i, field) in fields.iter().enumerate() {
        let indent = if i == 0 && first_inline { String::new() } else { "  ".repeat(depth) };
        let from = field.from.as_ref().map(|place| format!("  # {place}")).unwrap_or_default();
        match &field.value {
            Out::Map(inner) => {
                text.push_str(&format!("{indent}{}:{from}\n", field.key));
                write_map(text, inner, depth + 1, false);
            }
            Out::List(items) => {
                text.push_str(&format!("{indent}{}:{from}\n", field.key));
                for (item, place) in items {
                    let from = place.as_ref().map(|place| format!("  # {place}")).unwrap_or_default();
                    let indent = "  ".repeat(depth + 1);
                    match item {
                        Out::Map(inner) => {
                            if let Some(place) = place {
                                text.push_str(&format!("{indent}# {place}\n"));
                            }
                            text.push_str(&format!("{indent}- "));
                            write_map(text, inner, depth + 2, true);
                        }
                        item => text.push_str(&format!("{indent}- {}{from}\n", scalar(item))),
                    }
                }
            }
            value => text.push_str(&format!("{indent}{}: {}{from}\n", key(&field.key), scalar(value))),
        }
    }
}

fn key(key: &str) -> String {
    let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) && is_plain(key);
    if plain { key.to_owned() } else { quoted(key) }
}

fn scalar(value: &Out) -> String {
    match value {
        Out::Plain(text) => text.clone(),
        Out::Open(text) => quoted(text),
        Out::Text(text) => {
            let text = text.replace("${", "$${");
            if is_plain(&text) { text } else { quoted(&text) }
        }
        Out::List(_) | Out::Map(_) => String::new(),
    }
}

/// Whether YAML reads it as the same text without quotes.
fn is_plain(text: &str) -> bool {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let letters = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_./-*".contains(&b));
    let word = matches!(
        text.to_ascii_lowercase().as_str(),
        "true" | "false" | "yes" | "no" | "on" | "off" | "null" | "y" | "n"
    );
    starts && letters && !word
}

fn quoted(text: &str) -> String {
    if text.chars().any(|c| c.is_control()) {
        // JSON's escapes are YAML's too.
        return serde_json::Value::from(text).to_string();
    }
    format!("'{}'", text.replace('\'', "''"))
}

/// The path of the value on a line of our own text, its steps divided by U+001F.
fn path_at(text: &str, line: usize) -> String {
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut counts: Vec<(usize, usize)> = Vec::new();
    for (number, row) in text.lines().enumerate() {
        let mut indent = row.len() - row.trim_start().len();
        let mut rest = row.trim_start();
        if rest.starts_with('#') {
            continue;
        }
        path.retain(|(depth, _)| *depth < indent);
        counts.retain(|(depth, _)| *depth <= indent);
        if let Some(item) = rest.strip_prefix("- ") {
            let index = match counts.iter_mut().find(|(depth, _)| *depth == indent) {
                Some((_, index)) => {
                    *index += 1;
                    *index
                }
                None => {
                    counts.push((indent, 0));
                    0
                }
            };
            path.push((indent, format!("[{index}]")));
            indent += 2;
            rest = item;
        }
        // A key of ours; items of a list are quoted or hold no `: `.
        let key = match rest.strip_prefix('\'') {
            Some(inner) => inner.split_once("': ").map(|(key, _)| key.replace("''", "'")),
            None => rest
                .split_once(':')
                .filter(|(key, after)| is_key(key) && (after.is_empty() || after.starts_with(' ')))
                .map(|(key, _)| key.to_owned()),
        };
        if let Some(key) = key {
            path.push((indent, key));
        }
        if number + 1 == line {
            break;
        }
    }
    path.into_iter().map(|(_, step)| step).collect::<Vec<_>>().join("\u{1f}")
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize) -> Place {
        Place::File { file: "f".into(), line, column: 1 }
    }

    fn source() -> Source {
        let mut source = Source::new(&at(1), "input");
        source.include.push(("/var/log/a: b.log".to_owned(), at(2)));
        source
    }

    #[test]
    fn a_draft_is_written_and_read_again() {
        let mut draft = Draft::new(true);
        let mut one = source();
        one.label("app-name", "it's ${APP}", &at(3));
        one.label("yes", "true", &at(4));
        one.multiline =
            Some((Multiline { by: Some(("start", r"^\d{4}[${]x".to_owned())), ..Multiline::default() }, at(5)));
        draft.sources.push(one);
        let broker = draft.open("${BROKER:kafka:9092}");
        draft.kafka("brokers", Out::List(vec![(broker, Some(at(6)))]), &at(6));
        draft.finish();
        assert_eq!(draft.left(), []);
        let text = draft.render("promtail", "f");
        let variables = Variables::from([("APP".to_owned(), "shop".to_owned())]);
        let config = parse("f", &text, &variables).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let agent = config.agent.unwrap();
        let millrace_agent::config::SourceConfig::File(file) = &agent.sources[0] else { panic!("a file source") };
        assert_eq!(file.include, ["/var/log/a: b.log"]);
        assert_eq!((file.labels["app_name"].as_str(), file.labels["yes"].as_str()), ("it's shop", "true"));
        assert_eq!(file.multiline.as_ref().unwrap().start.as_deref(), Some(r"^\d{4}[${]x"));
        assert!(text.contains("# Variables of the environment that it needs: APP\n"), "{text}");
    }

    #[test]
    fn what_millrace_refuses_is_left_out_with_its_place() {
        let mut draft = Draft::new(false);
        let mut one = source();
        one.include.push(("/var/[".to_owned(), at(3)));
        one.tenant = Some(("a b".to_owned(), at(4)));
        one.max_line_bytes = Some((1 << 40, at(5)));
        one.timestamp = Some((Timestamp { format: "%Q".to_owned(), ..Timestamp::default() }, at(6)));
        for i in 0..20 {
            one.label(&format!("label{i}"), "x", &at(7));
        }
        draft.sources.push(one);
        draft.sources.push(Source::new(&at(9), "empty"));
        draft.kafka("topic", Out::Text("a/b".to_owned()), &at(8));
        draft.finish();
        let left: Vec<String> = draft.left().iter().map(|told| format!("{} {}", told.place, told.what)).collect();
        assert_eq!(
            left,
            [
                "f:3:1 agent.sources[0].include[1]",
                "f:4:1 agent.sources[0].tenant",
                "f:5:1 agent.sources[0].max_line_bytes",
                "f:6:1 agent.sources[0].timestamp.format",
                "f:7:1 input: label `label13: x`",
                "f:7:1 input: label `label14: x`",
                "f:7:1 input: label `label15: x`",
                "f:7:1 input: label `label16: x`",
                "f:7:1 input: label `label17: x`",
                "f:7:1 input: label `label18: x`",
                "f:7:1 input: label `label19: x`",
                "f:8:1 agent.kafka.topic",
                "f:9:1 empty",
            ]
        );
        assert!(parse("f", &draft.render("x", "f"), &Variables::new()).is_ok());
    }
}
