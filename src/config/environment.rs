//! The environment's part of the configuration: `${VAR}` in scalars, and `MILLRACE__SECTION__KEY` over the file.
//!
//! In: the tree of the file and the variables. Out: the tree with values replaced, each with its new origin.
//! Touches nothing: the caller passes the variables in.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_log::yaml::{self, LocatedFault, MapEntry, Node, Place, Value};

/// Variables by name.
pub type Variables = BTreeMap<String, String>;

/// Variables that start so override a key each.
pub const PREFIX: &str = "MILLRACE__";

/// Replaces `${VAR}` and `${VAR:-default}` in every scalar; `$${` stands for `${`.
pub fn expand(node: &mut Node, variables: &Variables, faults: &mut Vec<LocatedFault>) {
    match &mut node.value {
        Value::Scalar { text, .. } if text.contains("${") => match expanded(text, variables) {
            Ok(new) => node.set_text(new),
            Err(message) => faults.push(LocatedFault::new(node.place.clone(), message)),
        },
        Value::Scalar { .. } => {}
        Value::List(items) => items.iter_mut().for_each(|item| expand(item, variables, faults)),
        Value::Map(entries) => entries.iter_mut().for_each(|entry| expand(&mut entry.node, variables, faults)),
    }
}

fn expanded(text: &str, variables: &Variables) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(escaped) = before.strip_suffix('$') {
            out.push_str(escaped);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let Some((inside, tail)) = after.split_once('}') else {
            return Err("`${` without `}`: write `$${` for the characters themselves".to_owned());
        };
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        match (variables.get(name), default) {
            (Some(value), None) => out.push_str(value),
            (Some(value), Some(_)) if !value.is_empty() => out.push_str(value),
            (_, Some(default)) => out.push_str(default),
            (None, None) => {
                return Err(format!(
                    "environment variable `{name}` is not set: set it, or write `${{{name}:-default}}`"
                ));
            }
        }
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

/// Puts each `MILLRACE__SECTION__KEY` in the place it names. Values that start with `[` or `{` are read as YAML.
pub fn overlay(root: &mut Node, variables: &Variables, faults: &mut Vec<LocatedFault>) {
    for (name, value) in variables.range(PREFIX.to_owned()..) {
        let Some(path) = name.strip_prefix(PREFIX) else { break };
        let place = Place::Variable(name.as_str().into());
        let parsed = if value.starts_with(['[', '{']) {
            match yaml::parse(name, value) {
                Ok(mut node) => {
                    node.relocate(&place);
                    node
                }
                Err(fault) => {
                    faults.push(LocatedFault::new(place, fault.message));
                    continue;
                }
            }
        } else {
            Node::new(Value::Scalar { text: value.clone(), plain: true }, place.clone())
        };
        let steps: Vec<String> = path.split("__").map(str::to_lowercase).collect();
        if let Err(message) = put(root, &steps, parsed, &place) {
            faults.push(LocatedFault::new(place, message));
        }
    }
}

fn put(node: &mut Node, steps: &[String], new: Node, place: &Place) -> Result<(), String> {
    let Some((step, rest)) = steps.split_first() else {
        *node = new;
        return Ok(());
    };
    if node.is_null() {
        *node = Node::empty_map(place.clone());
    }
    match &mut node.value {
        Value::Map(entries) => {
            let index = match entries.iter().position(|e| e.key == *step) {
                Some(index) => index,
                None => {
                    let node = Node::empty_map(place.clone());
                    entries.push(MapEntry { key: step.clone(), place: place.clone(), node });
                    entries.len() - 1
                }
            };
            put(&mut entries[index].node, rest, new, place)
        }
        Value::List(items) => {
            let entries = if items.len() == 1 { "1 entry".to_owned() } else { format!("{} entries", items.len()) };
            let item = step.parse::<usize>().ok().and_then(|i| items.get_mut(i));
            let item =
                item.ok_or_else(|| format!("`{step}` is out of range: the list has {entries}, numbered from 0"))?;
            put(item, rest, new, place)
        }
        Value::Scalar { .. } => Err(format!("`{step}`: the key before it holds a single value, not a map or list")),
    }
}

/// The variables of this process whose text is valid UTF-8.
pub fn of_process() -> Variables {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// A place outside of any file, for values that come from the command line.
pub fn of_flag(name: &str) -> Place {
    Place::Variable(Arc::from(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Variables {
        [("HOME_DIR", "/srv"), ("EMPTY", "")].map(|(n, v)| (n.to_owned(), v.to_owned())).into()
    }

    #[test]
    fn variables_expand_inside_scalars() {
        for (text, want) in [
            ("${HOME_DIR}/logs", Ok("/srv/logs")),
            ("a$${HOME_DIR}", Ok("a${HOME_DIR}")),
            ("${NONE:-x}y", Ok("xy")),
            ("${EMPTY:-x}", Ok("x")),
            ("${EMPTY}", Ok("")),
            ("$HOME_DIR", Ok("$HOME_DIR")),
            ("${NONE}", Err("`NONE` is not set")),
            ("${HOME_DIR", Err("without `}`")),
        ] {
            match (expanded(text, &variables()), want) {
                (Ok(found), Ok(want)) => assert_eq!(found, want, "{text}"),
                (Err(found), Err(want)) => assert!(found.contains(want), "{text}: {found}"),
                (found, want) => panic!("{text}: {found:?}, not {want:?}"),
            }
        }
    }

    #[test]
    fn variables_override_keys_and_keep_their_name_as_origin() {
        let mut root = yaml::parse("f", "a:\n  b: 1\nlist: [{x: 1}]\n").expect("good");
        let set = [
            ("MILLRACE__A__B", "2"),
            ("MILLRACE__C__D", "[x, y]"),
            ("MILLRACE__LIST__0__X", "9"),
            ("MILLRACE_SHARED", "no"),
        ];
        let variables = set.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        let mut faults = Vec::new();
        overlay(&mut root, &variables, &mut faults);
        assert!(faults.is_empty(), "{faults:?}");
        for (path, want) in
            [("a.b", "MILLRACE__A__B"), ("c.d[1]", "MILLRACE__C__D"), ("list[0].x", "MILLRACE__LIST__0__X")]
        {
            assert_eq!(root.place_of(path), &Place::Variable(want.into()), "{path}");
        }
        let variables = [("MILLRACE__LIST__7__X".to_owned(), "9".to_owned())].into();
        overlay(&mut root, &variables, &mut faults);
        assert!(faults[0].message.contains("out of range: the list has 1 entry,"), "{faults:?}");
    }
}
