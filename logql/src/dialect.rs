//! Regular expressions as users of Loki write them (RE2, as Go reads it), turned into those of the `regex` crate.
//!
//! In: the text of an expression. Out: compiled expressions over bytes. Touches nothing.
//! What differs and is translated: `\d \w \s \b` are ASCII in RE2; a brace that opens no repetition is a brace;
//! `[` inside a class is itself; `\Q…\E` quotes; `\<` is `<`.

use regex::bytes::{Regex, RegexBuilder};

/// Bytes that one compiled expression may take.
const SIZE_LIMIT: usize = 10 << 20;

/// Compiles an expression that may match anywhere.
pub fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&translate(pattern)).size_limit(SIZE_LIMIT).build()
}

/// Compiles an expression that must match the whole text; `.` matches a line end.
pub fn compile_anchored(pattern: &str) -> Result<Regex, regex::Error> {
    // Compiled alone first: a stray bracket must not close ours.
    compile(pattern)?;
    RegexBuilder::new(&format!("^(?s:{})$", translate(pattern))).size_limit(SIZE_LIMIT).build()
}

/// Turns the text into the dialect of the `regex` crate.
pub fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut chars = pattern.chars().peekable();
    // Characters read since the class opened; `None` outside.
    let mut class: Option<usize> = None;
    while let Some(c) = chars.next() {
        let rest = |chars: &std::iter::Peekable<std::str::Chars<'_>>| chars.clone().collect::<String>();
        match (c, class) {
            ('\\', _) => {
                let Some(escaped) = chars.next() else {
                    out.push('\\');
                    break;
                };
                let inside = class.is_some();
                match escaped {
                    'd' => out.push_str("[0-9]"),
                    'D' => out.push_str("[^0-9]"),
                    'w' => out.push_str("[0-9A-Za-z_]"),
                    'W' => out.push_str("[^0-9A-Za-z_]"),
                    's' => out.push_str("[\\t\\n\\f\\r ]"),
                    'S' => out.push_str("[^\\t\\n\\f\\r ]"),
                    'b' if !inside => out.push_str("(?-u:\\b)"),
                    'B' if !inside => out.push_str("(?-u:\\B)"),
                    'Q' if !inside => {
                        let quoted = rest(&chars);
                        let (literal, _) = quoted.split_once("\\E").unwrap_or((&quoted, ""));
                        let skip = literal.chars().count() + if quoted.contains("\\E") { 2 } else { 0 };
                        for _ in 0..skip {
                            chars.next();
                        }
                        out.push_str(&regex::escape(literal));
                    }
                    '<' | '>' | '"' | '\'' | '`' | '/' | '=' | '!' | '@' | ':' | ';' | ',' | '%' | '_' => {
                        out.push(escaped);
                    }
                    _ => {
                        out.push('\\');
                        out.push(escaped);
                        // `\p{Han}`, `\x{1F600}`: the braces belong to the escape.
                        if matches!(escaped, 'p' | 'P' | 'x') && chars.peek() == Some(&'{') {
                            for c in chars.by_ref() {
                                out.push(c);
                                if c == '}' {
                                    break;
                                }
                            }
                        }
                    }
                }
                if let Some(count) = &mut class {
                    *count += 1;
                }
            }
            ('[', None) => {
                out.push('[');
                class = Some(0);
                if chars.peek() == Some(&'^') {
                    out.push('^');
                    chars.next();
                }
                // The first `]` of a class is itself.
                if chars.peek() == Some(&']') {
                    out.push_str("\\]");
                    chars.next();
                    class = Some(1);
                }
            }
            ('[', Some(count)) => {
                if chars.peek() == Some(&':') {
                    let name = rest(&chars);
                    let end = name.find(":]").map(|i| name.chars().take(i + 2).collect::<String>());
                    match end {
                        Some(posix) => {
                            out.push('[');
                            for _ in 0..posix.chars().count() {
                                chars.next();
                            }
                            out.push_str(&posix);
                        }
                        None => out.push_str("\\["),
                    }
                } else {
                    out.push_str("\\[");
                }
                class = Some(count + 1);
            }
            (']', Some(_)) => {
                out.push(']');
                class = None;
            }
            ('&' | '~', Some(count)) => {
                out.push('\\');
                out.push(c);
                class = Some(count + 1);
            }
            ('-', Some(count)) => {
                // `--` would take away in the other dialect.
                out.push_str(if chars.peek() == Some(&'-') { "\\-" } else { "-" });
                class = Some(count + 1);
            }
            (_, Some(count)) => {
                out.push(c);
                class = Some(count + 1);
            }
            ('{', None) => {
                if opens_repetition(&rest(&chars)) {
                    out.push('{');
                } else {
                    out.push_str("\\{");
                }
            }
            (_, None) => out.push(c),
        }
    }
    out
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
