//! What Millrace's own check refuses of a result; of a transform in one line, with the line of the program that it is
//! about, and that line's place in the other program's file.
//!
//! In: a result; messages of the check, mostly diagnostics of VRL. Out: paths, texts, places. Side effects: none.

use std::fmt;

use super::result::{Field, body, path_at, variables};
use crate::config::environment::Variables;
use crate::config::{ConfigError, parse};
use millrace_log::yaml::Place;

/// Paths and messages of what our own check refuses whatever the variables of the environment hold.
pub fn refused(tree: &[Field]) -> Vec<(String, String)> {
    let text = body(tree);
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

/// Why a transform is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    reason: String,
    /// The line of the program.
    code: Option<String>,
}

impl Rejection {
    /// Of a message of the check, which begins with the path of the key.
    pub fn of(message: &str) -> Self {
        let message = message.split_once(": ").map_or(message, |(_, rest)| rest);
        let reason = message.lines().next().unwrap_or_default().to_owned();
        Self { reason, code: code(message) }
    }

    /// Where that line stands in a file, at or behind the place of the transform; else that place.
    pub fn place_in(&self, original: &str, transform: &Place) -> Place {
        let (Some(code), Place::File { file, line, .. }) = (&self.code, transform) else { return transform.clone() };
        let lines = original.lines().enumerate().skip(line.saturating_sub(1));
        let found =
            lines.filter_map(|(i, text)| Some((i + 1, text.get(..text.find(code.as_str())?)?.chars().count() + 1)));
        match found.into_iter().next() {
            Some((line, column)) => Place::File { file: file.clone(), line, column },
            None => transform.clone(),
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        match &self.code {
            Some(code) => write!(f, " in `{code}`"),
            None => Ok(()),
        }
    }
}

/// The first line of the program that a diagnostic shows: `12 │ text`.
fn code(message: &str) -> Option<String> {
    let shown = message.lines().find_map(|line| {
        let (number, text) = line.split_once('│')?;
        number.trim().parse::<u32>().ok()?;
        Some(text.trim())
    })?;
    // What the diagnostic adds on the left, where a part of several lines is marked.
    let text = shown.trim_start_matches(['╭', '│', '╰', ' ', '─', '^']).trim();
    (!text.is_empty()).then(|| text.chars().take(120).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIAGNOSTIC: &str = "agent.sources[0].transforms[1].program: error[E105]: call to undefined function\n      \
        ┌─ :2:6\n      │\n    2 │ .x = nope(.message)\n      │      ^^^^ undefined function\n";

    #[test]
    fn the_line_of_the_program_and_its_place_are_named() {
        let rejection = Rejection::of(DIAGNOSTIC);
        assert_eq!(rejection.to_string(), "error[E105]: call to undefined function in `.x = nope(.message)`");
        let at = |line, column| Place::File { file: "v.toml".into(), line, column };
        let original =
            "# .x = nope(.message)\n[transforms.a]\nsource = \'\'\'\n.y = 1\n  .x = nope(.message)\n\'\'\'\n";
        assert_eq!(rejection.place_in(original, &at(2, 1)), at(5, 3));
        assert_eq!(rejection.place_in("another file\n", &at(1, 1)), at(1, 1));
        let other = Rejection::of("agent.sources[0].transforms[1].rate: must not be zero");
        assert_eq!((other.to_string().as_str(), other.place_in(original, &at(2, 1))), ("must not be zero", at(2, 1)));
    }
}
