//! Compares the tree with the JSON schema of the configuration's types, reports every fault at its place, and gives
//! the JSON value that the types are made from.
//!
//! In: a [`Node`] tree, a schema made by schemars. Out: JSON; faults. Touches nothing.
//! The types are the only place where keys, kinds and defaults are written down: the schema follows from them.

use millrace_log::value::{ByteSize, Span};
use millrace_log::yaml::{LocatedFault, MapEntry, Node, Place, Value, nearest};
use serde_json::{Map, Value as Json};

use super::damage::Damage;

/// The schema and the faults found so far.
pub struct Check<'s> {
    root: &'s Json,
    /// Everything wrong, in the order of the file.
    pub faults: Vec<LocatedFault>,
    /// What is left out of the value for that.
    pub damage: Damage,
    /// Where the tree itself is wrong, as variables are that are not set.
    broken: Vec<Place>,
    /// The node at hand.
    path: String,
}

impl<'s> Check<'s> {
    /// Checks against a root schema with `$defs` a tree in which faults were found before.
    pub fn new(root: &'s Json, faults: Vec<LocatedFault>) -> Self {
        let broken = faults.iter().map(|fault| fault.place.clone()).collect();
        Self { root, faults, damage: Damage::default(), broken, path: String::new() }
    }

    /// Checks a node. The answer is `None` where it can't be read at all, and leaves out what below it can't.
    pub fn node(&mut self, node: &Node, schema: &'s Json) -> Option<Json> {
        if matches!(node.value, Value::Scalar { .. }) && self.broken.contains(&node.place) {
            return None;
        }
        let schema = self.resolve(schema);
        if *schema == Json::Bool(true) {
            return self.anything(node);
        }
        if let Some(choices) = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(*key)).and_then(Json::as_array) {
            return self.choice(node, choices);
        }
        if let Some(allowed) = enumeration(schema) {
            return self.word(node, &allowed);
        }
        let kinds = kinds(schema);
        if node.is_null() && kinds.contains(&"null") {
            return Some(Json::Null);
        }
        match schema.get("format").and_then(Json::as_str) {
            Some("millrace-duration") => return self.parsed(node, |text| Span::parse(text).map(|_| ())),
            Some("millrace-bytes") => return self.parsed(node, |text| ByteSize::parse(text).map(|_| ())),
            _ => {}
        }
        match &node.value {
            Value::Map(entries) if kinds.contains(&"object") || kinds.is_empty() => self.map(node, entries, schema),
            Value::List(items) if kinds.contains(&"array") => {
                let of = schema.get("items").unwrap_or(&Json::Bool(true));
                let checked: Vec<Option<Json>> =
                    items.iter().enumerate().map(|(i, item)| self.below(&format!("[{i}]"), item, of)).collect();
                if checked.iter().any(Option::is_none) {
                    let kept = checked.iter().enumerate().filter(|(_, item)| item.is_some()).map(|(i, _)| i);
                    self.damage.keep(self.path.clone(), kept.collect());
                }
                Some(Json::Array(checked.into_iter().flatten().collect()))
            }
            Value::Scalar { .. } if node.is_null() && kinds == ["object"] => {
                // `section:` with nothing below it: all defaults.
                self.map(node, &[], schema)
            }
            Value::Scalar { text, plain } => self.scalar(node, text, *plain, &kinds, schema),
            _ => self.wrong(node, &kinds),
        }
    }

    /// Checks a key or an entry of the node at hand, and notes it where it is left out.
    fn below(&mut self, key: &str, node: &Node, schema: &'s Json) -> Option<Json> {
        let outer = self.path.len();
        if !key.starts_with('[') && outer > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        let checked = self.node(node, schema);
        if checked.is_none() {
            self.damage.leave_out(self.path.clone());
        }
        self.path.truncate(outer);
        checked
    }

    /// Notes a key that is no part of the value.
    fn leave_out(&mut self, key: &str) {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        self.damage.leave_out(path);
    }

    fn resolve(&self, mut schema: &'s Json) -> &'s Json {
        while let Some(path) = schema.get("$ref").and_then(Json::as_str) {
            match self.root.pointer(path.trim_start_matches('#')) {
                Some(found) => schema = found,
                None => break,
            }
        }
        schema
    }

    /// A value of no certain kind, as YAML reads it.
    fn anything(&mut self, node: &Node) -> Option<Json> {
        match &node.value {
            Value::Map(entries) => {
                let mut out = Map::new();
                for entry in entries {
                    if out.insert(entry.key.clone(), self.anything(&entry.node)?).is_some() {
                        return self.fault(&entry.place, format!("duplicate key `{}`", entry.key));
                    }
                }
                Some(Json::Object(out))
            }
            Value::List(items) => {
                items.iter().map(|item| self.anything(item)).collect::<Option<Vec<_>>>().map(Json::Array)
            }
            Value::Scalar { .. } if node.is_null() => Some(Json::Null),
            Value::Scalar { text, plain } => Some(match text.as_str() {
                "true" | "True" | "TRUE" if *plain => Json::Bool(true),
                "false" | "False" | "FALSE" if *plain => Json::Bool(false),
                text if !plain => Json::from(text),
                text => match (text.parse::<i64>(), text.parse::<f64>()) {
                    (Ok(whole), _) => Json::from(whole),
                    // `inf` and `nan` are words.
                    (_, Ok(number)) if text.ends_with(|c: char| c.is_ascii_digit() || c == '.') => Json::from(number),
                    _ => Json::from(text),
                },
            }),
        }
    }

    fn fault(&mut self, place: &Place, message: impl Into<String>) -> Option<Json> {
        self.faults.push(LocatedFault::new(place.clone(), message));
        None
    }

    fn wrong(&mut self, node: &Node, kinds: &[&str]) -> Option<Json> {
        let message = format!("expected {}, found {}", described(kinds), node.kind());
        self.fault(&node.place, message)
    }

    fn parsed(&mut self, node: &Node, parse: fn(&str) -> Result<(), millrace_log::value::ValueError>) -> Option<Json> {
        match &node.value {
            Value::Scalar { text, .. } => match parse(text) {
                Ok(()) => Some(Json::from(text.as_str())),
                Err(error) => self.fault(&node.place, error.to_string()),
            },
            _ => self.wrong(node, &["string"]),
        }
    }

    fn scalar(&mut self, node: &Node, text: &str, plain: bool, kinds: &[&str], schema: &Json) -> Option<Json> {
        if kinds.is_empty() {
            return Some(Json::from(text));
        }
        if kinds.contains(&"boolean") && plain {
            match text {
                "true" | "True" | "TRUE" => return Some(Json::Bool(true)),
                "false" | "False" | "FALSE" => return Some(Json::Bool(false)),
                _ => {}
            }
        }
        if kinds.contains(&"integer")
            && let Ok(number) = text.parse::<i64>()
        {
            return self.number(node, number, schema);
        }
        if kinds.contains(&"number")
            && let Some(number) = text.parse::<f64>().ok().and_then(serde_json::Number::from_f64)
        {
            return Some(Json::Number(number));
        }
        if kinds.contains(&"string") && !node.is_null() {
            return Some(Json::from(text));
        }
        if node.is_null() {
            return self.wrong(node, kinds);
        }
        let shown: String = text.chars().take(60).collect();
        self.fault(&node.place, format!("expected {}, found `{shown}`", described(kinds)))
    }

    fn number(&mut self, node: &Node, number: i64, schema: &Json) -> Option<Json> {
        let (low, high) = match schema.get("format").and_then(Json::as_str) {
            Some("uint8") => (0, i64::from(u8::MAX)),
            Some("uint16") => (0, i64::from(u16::MAX)),
            Some("uint32") => (0, i64::from(u32::MAX)),
            Some("int32") => (i64::from(i32::MIN), i64::from(i32::MAX)),
            Some("uint" | "uint64") => (0, i64::MAX),
            _ => (i64::MIN, i64::MAX),
        };
        let low = schema.get("minimum").and_then(Json::as_i64).map_or(low, |minimum| minimum.max(low));
        let high = schema.get("maximum").and_then(Json::as_i64).map_or(high, |maximum| maximum.min(high));
        if (low..=high).contains(&number) {
            return Some(Json::from(number));
        }
        self.fault(&node.place, format!("{number} is out of bounds: expected {low} to {high}"))
    }

    fn word(&mut self, node: &Node, allowed: &[&str]) -> Option<Json> {
        match &node.value {
            Value::Scalar { text, .. } if allowed.contains(&text.as_str()) => Some(Json::from(text.as_str())),
            Value::Scalar { text, .. } => {
                let hint = suggestion(text, allowed.iter().copied());
                self.fault(&node.place, format!("`{text}` is not one of {}{hint}", allowed.join(", ")))
            }
            _ => self.wrong(node, &["string"]),
        }
    }

    /// Options (`anyOf` with null), words with their own descriptions, and maps told apart by their `type:`.
    fn choice(&mut self, node: &Node, choices: &'s [Json]) -> Option<Json> {
        let choices: Vec<&'s Json> = choices.iter().map(|choice| self.resolve(choice)).collect();
        let some: Vec<&'s Json> = choices.iter().copied().filter(|c| kinds(c) != ["null"]).collect();
        if some.len() < choices.len() && node.is_null() {
            return Some(Json::Null);
        }
        if let [one] = some.as_slice() {
            return self.node(node, one);
        }
        if let Some(words) = some.iter().map(|c| enumeration(c)).collect::<Option<Vec<_>>>() {
            return self.word(node, &words.concat());
        }
        let Some((tag, tagged)) = tagged(&some) else { return self.any(node, &some) };
        let Value::Map(entries) = &node.value else { return self.wrong(node, &["object"]) };
        let names: Vec<&str> = tagged.iter().map(|(name, _)| *name).collect();
        let Some(entry) = entries.iter().find(|e| e.key == tag) else {
            return self.fault(&node.place, format!("missing key `{tag}`: expected one of {}", names.join(", ")));
        };
        let Value::Scalar { text, .. } = &entry.node.value else { return self.wrong(&entry.node, &["string"]) };
        match tagged.iter().find(|(name, _)| name == text) {
            Some((_, schema)) => self.node(node, schema),
            None => {
                let hint = suggestion(text, names.iter().copied());
                self.fault(
                    &entry.node.place,
                    format!("unknown {tag} `{text}`: expected one of {}{hint}", names.join(", ")),
                )
            }
        }
    }

    /// The first choice without a fault, or what the last leaves, and its faults.
    fn any(&mut self, node: &Node, choices: &[&'s Json]) -> Option<Json> {
        let (faults, damage) = (self.faults.len(), self.damage.clone());
        let mut value = None;
        for choice in choices {
            self.faults.truncate(faults);
            self.damage = damage.clone();
            value = self.node(node, choice);
            if self.faults.len() == faults && value.is_some() {
                break;
            }
        }
        value
    }

    fn map(&mut self, node: &Node, entries: &[MapEntry], schema: &'s Json) -> Option<Json> {
        let none = Map::new();
        let known = schema.get("properties").and_then(Json::as_object);
        let open = schema.get("additionalProperties").filter(|open| **open != Json::Bool(false));
        let mut out = Map::new();
        for (i, entry) in entries.iter().enumerate() {
            if let Some(first) = entries.iter().take(i).find(|e| e.key == entry.key) {
                let message = format!("duplicate key `{}`, first at {}", entry.key, first.place);
                self.fault(&entry.place, message);
                self.leave_out(&entry.key);
                continue;
            }
            let Some(of) = known.and_then(|known| known.get(&entry.key)).or(open) else {
                let names = known.unwrap_or(&none).keys().map(String::as_str);
                let hint = suggestion(&entry.key, names.clone());
                let all = if hint.is_empty() && names.clone().count() > 0 {
                    format!(": expected one of {}", names.collect::<Vec<_>>().join(", "))
                } else {
                    hint
                };
                self.fault(&entry.place, format!("unknown key `{}`{all}", entry.key));
                self.leave_out(&entry.key);
                continue;
            };
            if let Some(value) = self.below(&entry.key, &entry.node, of) {
                out.insert(entry.key.clone(), value);
            }
        }
        let required = schema.get("required").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
        let required: Vec<&str> = required.iter().filter_map(Json::as_str).collect();
        for name in required.iter().filter(|name| !entries.iter().any(|e| e.key == **name)) {
            self.fault(&node.place, format!("missing key `{name}`"));
        }
        required.iter().all(|name| out.contains_key(*name)).then_some(Json::Object(out))
    }
}

fn kinds(schema: &Json) -> Vec<&str> {
    match schema.get("type") {
        Some(Json::String(one)) => vec![one.as_str()],
        Some(Json::Array(many)) => many.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    }
}

fn described(kinds: &[&str]) -> String {
    let words: Vec<&str> = kinds
        .iter()
        .filter(|kind| **kind != "null")
        .map(|kind| match *kind {
            "object" => "a map of keys",
            "array" => "a list",
            "boolean" => "true or false",
            "integer" => "a whole number",
            "number" => "a number",
            _ => "a text",
        })
        .collect();
    if words.is_empty() { "nothing".to_owned() } else { words.join(" or ") }
}

/// The words of an `enum` or `const` schema.
fn enumeration(schema: &Json) -> Option<Vec<&str>> {
    if let Some(one) = schema.get("const") {
        return one.as_str().map(|word| vec![word]);
    }
    schema.get("enum")?.as_array()?.iter().map(Json::as_str).collect()
}

/// The key that tells maps apart, and the maps by its value.
fn tagged<'s>(choices: &[&'s Json]) -> Option<(&'s str, Vec<(&'s str, &'s Json)>)> {
    let first = choices.first()?.get("properties")?.as_object()?;
    let (tag, _) = first.iter().find(|(_, of)| of.get("const").is_some())?;
    let values = choices.iter().map(|c| Some((c.get("properties")?.get(tag)?.get("const")?.as_str()?, *c)));
    Some((tag.as_str(), values.collect::<Option<Vec<_>>>()?))
}

/// `: did you mean …?` when something close is known.
fn suggestion<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    nearest(word, known).map(|name| format!(": did you mean `{name}`?")).unwrap_or_default()
}
