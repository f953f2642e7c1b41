//! Regular expressions as users of Loki write them (RE2, as Go reads it), turned into those of the `regex` crate.
//!
//! In: the text of an expression. Out: compiled expressions over bytes. Touches nothing.
//! What differs and is translated: `\d \w \s \b` are ASCII in RE2; a brace that opens no repetition is a brace;
//! `[` inside a class is itself; `\Q…\E` quotes; `\<` is `<`.

use regex::bytes::{Regex, RegexBuilder};
use regex_automata::nfa::thompson::NFA;

/// Bytes that one compiled expression may take.
const SIZE_LIMIT: usize = 10 << 20;

/// Compiles an expression that may match anywhere.
pub fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&translate(pattern)).size_limit(SIZE_LIMIT).build()
}

/// Compiles an expression that may match anywhere and takes no more than so many bytes.
pub fn compile_within(pattern: &str, bytes: usize) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&translate(pattern)).size_limit(bytes).build()
}

/// Characters of an expression without repetitions and named classes that surely takes no more than [`SMALL`].
const SHORT: usize = 32;
/// Bytes that each expression is counted for at least.
const SMALL: usize = 20 << 10;

/// Bytes that an expression takes compiled, at least [`SMALL`]; one that can't be compiled takes none.
pub fn size(pattern: &str) -> usize {
    if pattern.len() <= SHORT && !pattern.contains(['{', '\\', '(']) {
        return SMALL;
    }
    let config = NFA::config().utf8(false).nfa_size_limit(Some(SIZE_LIMIT));
    let syntax = regex_automata::util::syntax::Config::new().utf8(false);
    match NFA::compiler().configure(config).syntax(syntax).build(&translate(pattern)) {
        // One to search forwards, one to find where a match begins.
        Ok(nfa) => nfa.memory_usage().saturating_mul(2).max(SMALL),
        Err(error) => error.size_limit().map_or(0, |_| 2 * SIZE_LIMIT),
    }
}

/// Compiles an expression that must match the whole text; `.` matches a line end.
pub fn compile_anchored(pattern: &str) -> Result<Regex, regex::Error> {
    // Compiled alone first: a stray bracket must not close ours.
    compile(pattern)?;
    RegexBuilder::new(&format!("^(?s:{})$", translate(pattern))).size_limit(SIZE_LIMIT).build()
}

/// Turns the text into the dialect of the `regex` crate.
pub fn translate(pattern: &str) -> String {
    let mut translation =
        Translation { out: String::with_capacity(pattern.len() + 8), chars: pattern.chars().peekable(), class: None };
    while let Some(c) = translation.chars.next() {
        if c == '\\' {
            translation.escape();
        } else if let Some(count) = translation.class {
            translation.in_class(c, count);
        } else {
            translation.outside(c);
        }
    }
    translation.out
}

/// An expression on its way into the other dialect.
struct Translation<'p> {
    out: String,
    chars: std::iter::Peekable<std::str::Chars<'p>>,
    /// Characters read since the class opened; `None` outside.
    class: Option<usize>,
}

impl Translation<'_> {
    fn rest(&self) -> String {
        self.chars.clone().collect()
    }

    fn skip(&mut self, count: usize) {
        for _ in 0..count {
            self.chars.next();
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) {
        let Some(escaped) = self.chars.next() else {
            self.out.push('\\');
            return;
        };
        let inside = self.class.is_some();
        match escaped {
            'd' => self.out.push_str("[0-9]"),
            'D' => self.out.push_str("[^0-9]"),
            'w' => self.out.push_str("[0-9A-Za-z_]"),
            'W' => self.out.push_str("[^0-9A-Za-z_]"),
            's' => self.out.push_str("[\\t\\n\\f\\r ]"),
            'S' => self.out.push_str("[^\\t\\n\\f\\r ]"),
            'b' if !inside => self.out.push_str("(?-u:\\b)"),
            'B' if !inside => self.out.push_str("(?-u:\\B)"),
            'Q' if !inside => {
                let quoted = self.rest();
                let (literal, _) = quoted.split_once("\\E").unwrap_or((&quoted, ""));
                self.skip(literal.chars().count() + if quoted.contains("\\E") { 2 } else { 0 });
                self.out.push_str(&regex::escape(literal));
            }
            '<' | '>' | '"' | '\'' | '`' | '/' | '=' | '!' | '@' | ':' | ';' | ',' | '%' | '_' => {
                self.out.push(escaped);
            }
            _ => {
                self.out.push('\\');
                self.out.push(escaped);
                // `\p{Han}`, `\x{1F600}`: the braces belong to the escape.
                if matches!(escaped, 'p' | 'P' | 'x') && self.chars.peek() == Some(&'{') {
                    for c in self.chars.by_ref() {
                        self.out.push(c);
                        if c == '}' {
                            break;
                        }
                    }
                }
            }
        }
        if let Some(count) = &mut self.class {
            *count += 1;
        }
    }

    /// A character inside of a class, behind `count` others.
    fn in_class(&mut self, c: char, count: usize) {
        match c {
            '[' => {
                let rest = self.rest();
                let posix =
                    if rest.starts_with(':') { rest.find(":]").and_then(|at| rest.get(..at + 2)) } else { None };
                match posix {
                    Some(posix) => {
                        self.out.push('[');
                        self.skip(posix.chars().count());
                        self.out.push_str(posix);
                    }
                    None => self.out.push_str("\\["),
                }
            }
            ']' => {
                self.out.push(']');
                self.class = None;
                return;
            }
            '&' | '~' => {
                self.out.push('\\');
                self.out.push(c);
            }
            // `--` would take away in the other dialect.
            '-' => self.out.push_str(if self.chars.peek() == Some(&'-') { "\\-" } else { "-" }),
            _ => self.out.push(c),
        }
        self.class = Some(count + 1);
    }

    /// A character outside of classes.
    fn outside(&mut self, c: char) {
        match c {
            '[' => {
                self.out.push('[');
                self.class = Some(0);
                if self.chars.peek() == Some(&'^') {
                    self.out.push('^');
                    self.chars.next();
                }
                // The first `]` of a class is itself.
                if self.chars.peek() == Some(&']') {
                    self.out.push_str("\\]");
                    self.chars.next();
                    self.class = Some(1);
                }
            }
            '{' if !opens_repetition(&self.rest()) => self.out.push_str("\\{"),
            c => self.out.push(c),
        }
    }
}

/// The last line of what the regex crate says: the picture above it shows our translation, not the user's text.
pub(crate) fn bad_regex(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    format!("error parsing regexp: {}", last.trim_start_matches("error: "))
}

/// Whether `3}`, `3,}` or `3,5}` follows.
fn opens_repetition(rest: &str) -> bool {
    let Some((inside, _)) = rest.split_once('}') else { return false };
    let (low, high) = inside.split_once(',').unwrap_or((inside, "0"));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    !low.is_empty() && digits(low) && digits(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_compiled_expressions() {
        for (pattern, least, most) in [
            ("a.*b", SMALL, SMALL),
            ("[^a][^b][^c][^d]", SMALL, SMALL),
            (r"\d+ [a-z]{3}", SMALL, SMALL),
            ("(?:[ab]{1000}){100}", 4 << 20, 2 * SIZE_LIMIT),
            (r"\p{L}{200}", 1 << 20, 2 * SIZE_LIMIT),
            ("(?:[ab]{1000}){1000}", 2 * SIZE_LIMIT, 2 * SIZE_LIMIT),
            ("(", 0, 0),
        ] {
            let size = size(pattern);
            assert!((least..=most).contains(&size), "{pattern}: {size}");
        }
        // What is not looked at is small.
        for pattern in [".".repeat(SHORT), "[^a]".repeat(SHORT / 4), "é|".repeat(SHORT / 3), "[^é].".repeat(SHORT / 6)]
        {
            let nfa = NFA::compiler().configure(NFA::config().utf8(false)).build(&translate(&pattern)).unwrap();
            assert!(pattern.len() <= SHORT && nfa.memory_usage() <= SMALL, "{pattern}: {}", nfa.memory_usage());
        }
    }

    #[test]
    fn means_what_re2_means() {
        for (pattern, text, want) in [
            (r"\d+", "٣", false),
            (r"[\d]+", "42", true),
            (r"\w", "é", false),
            (r"\bcat\b", "a cat.", true),
            (r#"{"a":1}"#, r#"x{"a":1}"#, true),
            ("a{2}", "aa", true),
            ("a{,2}", "a{,2}", true),
            ("[[a]", "[", true),
            ("[]a]", "]", true),
            ("[a&&b]", "&", true),
            ("[[:alpha:]]", "x", true),
            (r"\Qa.b\E+", "a.bb", true),
            (r"\Qa.b\E", "axb", false),
            (r"\<tag\>", "<tag>", true),
            ("(?i)ПРИВЕТ", "привет", true),
            (r"\p{Han}{2}", "世界", true),
            ("a.c", "a\nc", false),
            ("(?s)a.c", "a\nc", true),
            (r"\S+", "é", true),
        ] {
            let found = compile(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}")).is_match(text.as_bytes());
            assert_eq!(found, want, "{pattern} in {text:?}");
        }
    }

    #[test]
    fn anchored_means_the_whole_text() {
        for (pattern, text, want) in [("a|b", "b", true), ("a|b", "ab", false), ("a.c", "a\nc", true), ("", "", true)] {
            assert_eq!(compile_anchored(pattern).unwrap().is_match(text.as_bytes()), want, "{pattern}");
        }
        assert!(compile_anchored("a)(b").is_err());
    }
}
