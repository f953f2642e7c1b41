//! Patterns: literals with captures between them, `<ip> - <_> [<ts>]`.
//!
//! In: text of a pattern. Out: whether a line has its form, or what its captures took. Shared by `|>` and `| pattern`.

use memchr::memmem;

/// One part of a pattern.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part {
    /// Must stand there.
    Literal(Literal),
    /// `<name>`
    Named(String),
    /// `<_>`
    Unnamed,
}

/// A literal with its searcher.
#[derive(Debug, Clone)]
pub(super) struct Literal(Box<memmem::Finder<'static>>);

impl PartialEq for Literal {
    fn eq(&self, other: &Self) -> bool {
        self.0.needle() == other.0.needle()
    }
}

impl Literal {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.needle()
    }

    /// Where it first stands.
    pub fn find(&self, text: &[u8]) -> Option<usize> {
        self.0.find(text)
    }
}

/// Splits a pattern into its parts; neighbouring captures are an error.
pub(super) fn parts(pattern: &str) -> Result<Vec<Part>, String> {
    let mut parts: Vec<Part> = Vec::new();
    let mut literal = String::new();
    let mut rest = pattern;
    let flush = |literal: &mut String, parts: &mut Vec<Part>| {
        if !literal.is_empty() {
            parts.push(Part::Literal(Literal(Box::new(memmem::Finder::new(literal.as_bytes()).into_owned()))));
            literal.clear();
        }
    };
    while let Some(c) = rest.chars().next() {
        if c == '<'
            && let Some((name, behind)) = rest.get(1..).and_then(|r| r.split_once('>'))
            && is_name(name)
        {
            flush(&mut literal, &mut parts);
            let part = if name == "_" { Part::Unnamed } else { Part::Named(name.to_owned()) };
            if let Some(before @ (Part::Named(_) | Part::Unnamed)) = parts.last() {
                return Err(format!("found consecutive capture '{}{}': invalid expression", show(before), show(&part)));
            }
            parts.push(part);
            rest = behind;
        } else {
            literal.push(c);
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
        }
    }
    flush(&mut literal, &mut parts);
    Ok(parts)
}

fn show(part: &Part) -> String {
    match part {
        Part::Literal(literal) => String::from_utf8_lossy(literal.bytes()).into_owned(),
        Part::Named(name) => format!("<{name}>"),
        Part::Unnamed => "<_>".to_owned(),
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The pattern of `|>`: the whole line must have its form, captures are not empty.
#[derive(Debug)]
pub(super) struct LinePattern {
    parts: Vec<Part>,
}

impl LinePattern {
    /// Reads a pattern whose captures are all `<_>`.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let parts = parts(pattern)?;
        if let Some(Part::Named(name)) = parts.iter().find(|p| matches!(p, Part::Named(_))) {
            return Err(format!("named captures are not allowed: write `<_>` for `<{name}>`"));
        }
        Ok(Self { parts })
    }

    /// Whether a line has the form. The first place of each literal counts.
    pub fn matches(&self, line: &[u8]) -> bool {
        let Some(last) = self.parts.last() else { return line.is_empty() };
        if line.is_empty() {
            return false;
        }
        let mut rest = line;
        for (i, part) in self.parts.iter().enumerate() {
            let Part::Literal(literal) = part else { continue };
            let Some(at) = literal.find(rest) else { return false };
            if (i == 0) != (at == 0) {
                return false;
            }
            rest = rest.get(at + literal.bytes().len()..).unwrap_or_default();
        }
        matches!(last, Part::Literal(_)) == rest.is_empty()
    }

    /// The longest text that every line of the form contains.
    pub fn longest_literal(&self) -> Option<&[u8]> {
        let literals = self.parts.iter().filter_map(|part| match part {
            Part::Literal(literal) => Some(literal.bytes()),
            _ => None,
        });
        literals.max_by_key(|l| l.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_form_of_a_pattern() {
        for (pattern, line, want) in [
            ("a<_>c", "abc", true),
            ("a<_>c", "ac", false),
            ("a<_>c", "abcd", false),
            ("<_>b<_>", "abc", true),
            ("<_>b<_>", "bc", false),
            ("<_>", "x", true),
            ("<_>", "", false),
            ("", "", true),
            ("abc", "abc", true),
            ("abc", "xabc", false),
            ("<b", "<b", true),
        ] {
            assert_eq!(LinePattern::new(pattern).unwrap().matches(line.as_bytes()), want, "{pattern} {line}");
        }
        assert!(LinePattern::new("<_><_>").is_err());
        assert!(LinePattern::new("<a>").is_err());
    }
}
