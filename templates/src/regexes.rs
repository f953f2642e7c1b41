//! Regular expressions as Go's `regexp` reads them.
//!
//! In: patterns. Out: compiled expressions. Touches the ones that its thread remembers: the same templates ask for the same patterns
//! alert after alert.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::Ordering;

use regex::{Regex, RegexBuilder};

use crate::call::Call;

/// Expressions that one thread remembers.
const REMEMBERED: usize = 32;
/// Bytes that each of them may take.
const MAX_BYTES: usize = 1 << 20;
/// Work that compiling one costs.
const COMPILE: usize = 128 << 10;

thread_local! {
    static KNOWN: RefCell<HashMap<String, Regex>> = RefCell::new(HashMap::new());
}

/// The expression in an argument.
pub(crate) fn compiled(call: &Call<'_>, at: usize) -> Result<Regex, String> {
    let pattern = call.text(at)?;
    KNOWN.with_borrow_mut(|known| {
        if let Some(regex) = known.get(pattern) {
            return Ok(regex.clone());
        }
        call.around.spent.fetch_add(COMPILE, Ordering::Relaxed);
        let built = RegexBuilder::new(&ascii_classes(pattern)).size_limit(MAX_BYTES).dfa_size_limit(MAX_BYTES).build();
        let regex = built.map_err(|_| format!("`{}`: invalid regular expression `{pattern}`", call.name))?;
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(pattern.to_owned(), regex.clone());
        Ok(regex)
    })
}

/// `\d`, `\w`, `\s` and `\b` mean ASCII in Go.
fn ascii_classes(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    let mut in_class = false;
    while let Some(c) = chars.next() {
        match c {
            '[' => in_class = true,
            ']' => in_class = false,
            '\\' => {
                let Some(letter) = chars.next() else {
                    out.push(c);
                    break;
                };
                let class = match letter {
                    'd' => "0-9",
                    'D' => "^0-9",
                    'w' => "0-9A-Za-z_",
                    'W' => "^0-9A-Za-z_",
                    's' => r"\t\n\x0c\r ",
                    'S' => r"^\t\n\x0c\r ",
                    'b' if !in_class => {
                        out.push_str(r"(?-u:\b)");
                        continue;
                    }
                    letter => {
                        out.push('\\');
                        out.push(letter);
                        continue;
                    }
                };
                if in_class && !class.starts_with('^') {
                    out.push_str(class);
                } else {
                    out.push('[');
                    out.push_str(class);
                    out.push(']');
                }
                continue;
            }
            _ => {}
        }
        out.push(c);
    }
    out
}

/// All matches replaced; `$1` stands for a group. Nothing where the text grows beyond the limit.
pub(crate) fn replace_all(regex: &Regex, replacement: &str, text: &str, limit: usize) -> Option<String> {
    let groups = replacement.matches('$').count();
    let mut out = String::new();
    let mut end = 0;
    for found in regex.captures_iter(text) {
        let Some(whole) = found.get(0) else { continue };
        out.push_str(text.get(end..whole.start()).unwrap_or_default());
        end = whole.end();
        // No group is longer than the match.
        if out.len() + replacement.len().saturating_add(groups.saturating_mul(whole.len())) > limit {
            return None;
        }
        found.expand(replacement, &mut out);
    }
    out.push_str(text.get(end..).unwrap_or_default());
    (out.len() <= limit).then_some(out)
}
