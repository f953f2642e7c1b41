//! Fluent Bit: tags, which connect inputs with filters and outputs, and values of properties.
//!
//! In: sections. Out: the inputs that a section is for. Side effects: none.

use super::fluent_bit_file::{Property, Section};
use super::step::Parsed;
use millrace_log::yaml::Place;

/// What a filter sees of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The line under one key.
    Line(String),
    /// The fields of a parser.
    Fields(Parsed),
    /// Fields that are not known.
    Unknown,
}

/// An input that became a source.
#[derive(Debug)]
pub struct Input {
    /// Its tag.
    pub tag: String,
    /// What filters see of its lines.
    pub record: Record,
}

/// Key and value for messages.
pub fn written(property: &Property) -> String {
    format!("{} {}", property.key, crate::human::shortened(&property.value, 80)).trim_end().to_owned()
}

/// Whether a value says yes.
pub fn yes(property: &Property) -> bool {
    matches!(property.value.to_ascii_lowercase().as_str(), "on" | "true" | "yes" | "1")
}

/// Values separated by commas.
pub fn list(property: &Property) -> Vec<(String, Place)> {
    let parts = property.value.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| (part.to_owned(), property.place.clone())).collect()
}

/// A tag as a `Match` names it: `*` stands for any text.
fn tag_matches(pattern: &str, tag: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = tag.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or(""),
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Indexes of the sources that a filter or output is for.
pub fn reached(section: &Section, inputs: &[Input]) -> Vec<usize> {
    let by_regex = section.get("match_regex").and_then(|p| regex::Regex::new(&p.value).ok());
    let pattern = section.get("match").map(|p| p.value.as_str());
    let hit = |input: &Input| match (&by_regex, pattern) {
        (Some(regex), _) => regex.is_match(&input.tag),
        (None, Some(pattern)) => tag_matches(pattern, &input.tag),
        (None, None) => false,
    };
    (0..inputs.len()).filter(|i| inputs.get(*i).is_some_and(hit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_match() {
        for (pattern, tag, want) in [
            ("*", "app", true),
            ("app.*", "app.1", true),
            ("app.*", "apps", false),
            ("*.log", "a.b.log", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("app", "app", true),
            ("app", "app1", false),
        ] {
            assert_eq!(tag_matches(pattern, tag), want, "{pattern} {tag}");
        }
    }
}
