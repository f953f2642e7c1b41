//! The resulting configuration as a tree with the places that values come from, and its YAML.
//!
//! In: fields. Out: text in which every value has a line of its own, so that the line of an error names it. Side effects:
//! none.

use std::collections::BTreeSet;

use millrace_log::yaml::Place;

/// A value of the result.
#[derive(Debug, Clone, PartialEq)]
pub enum Out {
    /// Text, quoted where it must be.
    Text(String),
    /// Text in which `${VAR}` stands for a variable of the environment, as it did before.
    Open(String),
    /// Text over several lines, as it is written.
    Block(String),
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
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: Out,
    /// The place in the other file.
    pub from: Option<Place>,
}

/// Adds a field; the first one of a name counts.
pub fn add(fields: &mut Vec<Field>, key: &str, value: Out, place: &Place) {
    if fields.iter().all(|field| field.key != key) {
        fields.push(Field { key: key.to_owned(), value, from: Some(place.clone()) });
    }
}

/// `${VAR:default}` of others is `${VAR:-default}` here.
pub fn ours(text: &str) -> String {
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

/// Names in `${...}` that have no default.
pub fn variables(text: &str) -> BTreeSet<String> {
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
pub fn remove(fields: &mut Vec<Field>, steps: &[&str]) -> Option<Option<Place>> {
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

/// Takes the entries from `first` on out of the list at a path; gives their places.
pub fn steps_from(fields: &mut [Field], path: &[&str], first: usize) -> Vec<Option<Place>> {
    let Some((step, rest)) = path.split_first() else { return Vec::new() };
    let Some(field) = fields.iter_mut().find(|field| field.key == *step) else { return Vec::new() };
    match (&mut field.value, rest) {
        (Out::List(items), []) => items.split_off(first.min(items.len())).into_iter().map(|(_, place)| place).collect(),
        (Out::List(items), [index, rest @ ..]) => {
            let index = index.trim_matches(['[', ']']).parse().ok();
            match index.and_then(|index: usize| items.get_mut(index)) {
                Some((Out::Map(inner), _)) => steps_from(inner, rest, first),
                _ => Vec::new(),
            }
        }
        (Out::Map(inner), rest) => steps_from(inner, rest, first),
        _ => Vec::new(),
    }
}

/// Takes out maps and lists that hold nothing, sources without files, and roles without sources.
pub fn prune(fields: &mut Vec<Field>) {
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
pub fn body(tree: &[Field]) -> String {
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
            Out::Block(block) if is_block(block) => {
                text.push_str(&format!("{indent}{}: |{from}\n", key(&field.key)));
                let indent = "  ".repeat(depth + 1);
                for line in block.lines() {
                    text.push_str(format!("{indent}{line}").trim_end());
                    text.push('\n');
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
        Out::Open(text) | Out::Block(text) => quoted(text),
        Out::Text(text) => {
            let text = text.replace("${", "$${");
            if is_plain(&text) { text } else { quoted(&text) }
        }
        Out::List(_) | Out::Map(_) => String::new(),
    }
}

/// Whether it can be written line by line: YAML takes the indentation from the first line.
fn is_block(text: &str) -> bool {
    !text.starts_with(char::is_whitespace) && !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t')
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
pub fn path_at(text: &str, line: usize) -> String {
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut counts: Vec<(usize, usize)> = Vec::new();
    // Indentation of the key whose text goes on over the next lines.
    let mut block: Option<usize> = None;
    for (number, row) in text.lines().enumerate() {
        let mut indent = row.len() - row.trim_start().len();
        let mut rest = row.trim_start();
        if let Some(of) = block {
            if rest.is_empty() || indent > of {
                if number + 1 == line {
                    break;
                }
                continue;
            }
            block = None;
        }
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
            let value = rest.split_once(':').map_or("", |(_, value)| value.trim_start());
            block = (value == "|" || value.starts_with("|  #")).then_some(indent);
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
