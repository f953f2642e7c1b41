//! The reference of the configuration: every key with its text and its default, as YAML.
//!
//! In: the schema and the defaults of the types. Out: the text of `millrace.reference.yaml`. Touches nothing.
//! A test compares the file with this text, so that it can't fall behind.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json};

use super::schema::schema;
use super::types::Config;

const HEAD: &str = "\
# Every key of Millrace's configuration with its default.
# Generated from the types in the code; `cargo test` compares the two. A role without its section does not run.
# Durations: 250ms, 30s, 1h30m, 7d. Sizes: 64MiB, 10GB. Secrets: a literal, file:PATH or env:NAME.
# `${VAR}` and `${VAR:-default}` expand inside values; MILLRACE__SECTION__KEY overrides a key.
# Lines that start with `#` and a key show what an entry of a list may hold.
";

/// The whole reference.
pub fn text() -> Result<String, serde_json::Error> {
    let schema = schema();
    let defaults = serde_json::to_value(Config::embedded())?;
    let mut out = String::from(HEAD);
    let writer = Writer { root: &schema };
    writer.keys(&mut out, &schema, &defaults, "");
    Ok(out)
}

struct Writer<'s> {
    root: &'s Json,
}

impl<'s> Writer<'s> {
    /// The schema itself, behind references and options.
    fn resolve(&self, schema: &'s Json) -> &'s Json {
        if let Some(found) =
            schema.get("$ref").and_then(Json::as_str).and_then(|p| self.root.pointer(p.trim_start_matches('#')))
        {
            return self.resolve(found);
        }
        let some = |choices: &'s [Json]| choices.iter().find(|c| c.get("type").and_then(Json::as_str) != Some("null"));
        match schema.get("anyOf").and_then(Json::as_array).and_then(|c| some(c)) {
            Some(found) => self.resolve(found),
            None => schema,
        }
    }

    fn keys(&self, out: &mut String, schema: &'s Json, values: &Json, indent: &str) {
        let none = Map::new();
        for (key, of) in schema.get("properties").and_then(Json::as_object).unwrap_or(&none) {
            if indent.is_empty() {
                out.push('\n');
            }
            self.describe(out, of, indent);
            let resolved = self.resolve(of);
            let value = values.get(key).or_else(|| of.get("default")).unwrap_or(&Json::Null);
            match value {
                Json::Object(map) if !map.is_empty() || resolved.get("properties").is_some() => {
                    line(out, format_args!("{indent}{key}:"));
                    self.keys(out, resolved, value, &format!("{indent}  "));
                }
                _ if resolved.get("format").and_then(Json::as_str) == Some("millrace-secret") => {
                    line(out, format_args!("{indent}{key}: \"\""));
                }
                Json::Null => line(out, format_args!("{indent}# {key}:")),
                _ => line(out, format_args!("{indent}{key}: {}", flow(value))),
            }
            if let Some(items) = resolved.get("items") {
                self.entries(out, self.resolve(items), indent, "-");
            }
            // Only maps whose entries are of several kinds: others say in their text what an entry is.
            let named = resolved.get("additionalProperties").map(|of| self.resolve(of));
            if let Some(named) = named.filter(|named| named.get("oneOf").is_some()) {
                self.entries(out, named, indent, "NAME:");
            }
        }
    }

    fn describe(&self, out: &mut String, of: &'s Json, indent: &str) {
        let text = of.get("description").or_else(|| self.resolve(of).get("description")).and_then(Json::as_str);
        for text in text.unwrap_or("").lines() {
            line(out, format_args!("{indent}# {text}"));
        }
    }

    /// What entries of a list or a map may hold, as comments.
    fn entries(&self, out: &mut String, items: &'s Json, indent: &str, head: &str) {
        let kinds: Vec<&Json> = match items.get("oneOf").and_then(Json::as_array) {
            Some(kinds) => kinds.iter().collect(),
            None => vec![items],
        };
        for kind in kinds {
            let kind = self.resolve(kind);
            if kind.get("properties").is_none() {
                continue;
            }
            let mut entry = String::new();
            if let Some(text) = kind.get("description").and_then(Json::as_str) {
                line(&mut entry, format_args!("# {text}"));
            }
            let name = kind.pointer("/properties/type/const").and_then(Json::as_str);
            match name {
                Some(name) if head == "-" => line(&mut entry, format_args!("- type: {name}")),
                Some(name) => line(&mut entry, format_args!("{head}\n  type: {name}")),
                None => line(&mut entry, format_args!("{head}")),
            }
            let mut rest = kind.clone();
            if let Some(map) = rest.pointer_mut("/properties").and_then(Json::as_object_mut) {
                map.shift_remove("type");
            }
            Writer { root: self.root }.keys_of_owned(&mut entry, &rest);
            for text in entry.lines() {
                line(out, format_args!("{indent}#   {text}"));
            }
        }
    }

    fn keys_of_owned(&self, out: &mut String, schema: &Json) {
        // The clone lives only here: its parts are looked up in the same root.
        let owned = Json::Object(Map::from_iter([
            ("$defs".to_owned(), self.root.get("$defs").cloned().unwrap_or_default()),
            ("entry".to_owned(), schema.clone()),
        ]));
        let writer = Writer { root: &owned };
        if let Some(entry) = owned.get("entry") {
            writer.keys(out, entry, &Json::Null, "  ");
        }
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String never fails.
    let written = writeln!(out, "{text}");
    debug_assert!(written.is_ok(), "a String takes every text");
}

/// A value in one line, as YAML reads JSON; plain words without quotes.
fn flow(value: &Json) -> String {
    match value {
        Json::String(text) => {
            let plain = !text.is_empty()
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "._/-".contains(c))
                && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
                && !matches!(text.as_str(), "true" | "false" | "null" | "yes" | "no" | "on" | "off");
            if plain { text.clone() } else { value.to_string() }
        }
        Json::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Json::Object(map) => {
            format!("{{{}}}", map.iter().map(|(k, v)| format!("{k}: {}", flow(v))).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `UPDATE_REFERENCE=1 cargo test -p millrace reference` writes the file anew.
    #[test]
    fn the_file_says_what_the_types_say() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("millrace.reference.yaml");
        let want = text().unwrap();
        if std::env::var_os("UPDATE_REFERENCE").is_some() {
            std::fs::write(&path, &want).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == want,
            "millrace.reference.yaml has fallen behind: UPDATE_REFERENCE=1 cargo test -p millrace reference"
        );
    }

    #[test]
    fn the_reference_is_a_good_configuration() {
        // An agent without a source is the one fault of the defaults.
        let sources = ("MILLRACE__AGENT__SOURCES".to_owned(), r#"[{type: file, include: ["/x"]}]"#.to_owned());
        let config = super::super::parse("reference", &text().unwrap(), &[sources].into()).unwrap();
        let mut found = serde_json::to_value(&config).unwrap();
        found["agent"]["sources"] = Json::Array(Vec::new());
        assert_eq!(found, serde_json::to_value(Config::embedded()).unwrap());
    }
}
