//! Transforms of the result: steps of a source's list `transforms`, and the VRL expressions in them.
//!
//! In: regular expressions, texts, fields as the other program names them. Out: steps. Side effects: none.

use super::result::Out;
use millrace_log::yaml::Place;

/// One entry of a source's list `transforms`.
#[derive(Debug, Clone)]
pub struct TransformStep {
    /// Keys and values.
    pub fields: Vec<(&'static str, Out)>,
    /// Its place in the other file.
    pub place: Place,
    /// Its name there, for messages.
    pub what: String,
}

impl TransformStep {
    fn new(kind: &str, place: &Place, what: impl Into<String>) -> Self {
        Self { fields: vec![("type", Out::Plain(kind.to_owned()))], place: place.clone(), what: what.into() }
    }

    /// A program that is already text of the result.
    pub fn vrl(program: Out, place: &Place, what: impl Into<String>) -> Self {
        Self::new("vrl", place, what).with("program", program)
    }

    /// Drops events whose line matches.
    pub fn drop_match(regex: &str, place: &Place, what: impl Into<String>) -> Self {
        Self::new("drop", place, what).with("match", Out::Text(regex.to_owned()))
    }

    /// Drops events for which an expression is true.
    pub fn drop_if(condition: Out, place: &Place, what: impl Into<String>) -> Self {
        Self::new("drop", place, what).with("if", condition)
    }

    /// Keeps one in `rate` events.
    pub fn sample(rate: u64, place: &Place, what: impl Into<String>) -> Self {
        Self::new("sample", place, what).with("rate", Out::Plain(rate.to_string()))
    }

    /// Keeps `limit` events in each `per`.
    pub fn throttle(limit: u64, per: &str, place: &Place, what: impl Into<String>) -> Self {
        let step = Self::new("throttle", place, what).with("limit", Out::Plain(limit.to_string()));
        step.with("per", Out::Plain(per.to_owned()))
    }

    /// Adds a key.
    pub fn with(mut self, key: &'static str, value: Out) -> Self {
        self.fields.push((key, value));
        self
    }

    /// Adds the reason that the ledger counts, if it has the form of one.
    pub fn reason(self, reason: &str) -> Self {
        let form = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if (1..=40).contains(&reason.len()) && reason.bytes().all(form) {
            self.with("reason", Out::Plain(reason.to_owned()))
        } else {
            self
        }
    }
}

/// Text with a line break becomes a block, other text a scalar.
pub fn program(text: &str) -> Out {
    let text = text.trim_end().trim_start_matches('\n');
    if text.contains('\n') { Out::Block(text.replace("${", "$${")) } else { Out::Text(text.to_owned()) }
}

/// A regular expression as a literal of VRL.
pub fn regex_literal(regex: &str) -> String {
    format!("r'{}'", regex.replace('\'', "\\x27"))
}

/// Condition: the line matches.
pub fn line_matches(regex: &str) -> String {
    format!("match(string!(.message), {})", regex_literal(regex))
}

/// A regular expression for a whole text, or for a part of it.
pub fn exactly(text: &str) -> String {
    format!(r"\A{}\z", regex::escape(text))
}

/// How the fields of a line are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// The line is a JSON object.
    Json,
    /// The line is logfmt.
    Logfmt,
    /// The groups of a regular expression.
    Regex(String),
}

impl Parsed {
    /// Sets the variable `fields`; lines that cannot be parsed have none.
    pub fn assignment(&self) -> String {
        match self {
            Self::Json => "fields = object(parse_json(.message) ?? {}) ?? {}".to_owned(),
            Self::Logfmt => "fields = parse_logfmt(.message) ?? {}".to_owned(),
            Self::Regex(regex) => format!("fields = parse_regex(.message, {}) ?? {{}}", regex_literal(regex)),
        }
    }
}

/// `a.b-c` of the variable `fields`, as VRL writes it.
pub fn field_path(path: &[String]) -> String {
    let plain = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let mut text = "fields".to_owned();
    for name in path {
        if plain(name) {
            text.push_str(&format!(".{name}"));
        } else {
            text.push_str(&format!(".\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"")));
        }
    }
    text
}

/// Condition on a field: its text matches; an absent field has the empty text.
pub fn field_matches(parsed: &Parsed, path: &[String], regex: &str) -> String {
    // Groups are texts or null, for which the function cannot fail.
    let fallback = if matches!(parsed, Parsed::Regex(_)) { "" } else { " ?? \"\"" };
    format!("match(to_string({}){fallback}, {})", field_path(path), regex_literal(regex))
}

/// Lines of a program that set `target` to the text of a field, if it has one.
pub fn set_from_field(parsed: &Parsed, target: &str, path: &[String]) -> String {
    let path = field_path(path);
    if matches!(parsed, Parsed::Regex(_)) {
        return format!("value = to_string({path})\nif value != \"\" {{ {target} = value }}");
    }
    format!("value, err = to_string({path})\nif err == null && value != \"\" {{ {target} = value }}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_paths() {
        assert_eq!(line_matches("it's"), r"match(string!(.message), r'it\x27s')");
        assert_eq!(exactly("a.b"), r"\Aa\.b\z");
        assert_eq!(field_path(&["a".to_owned(), "b-c".to_owned(), "1".to_owned()]), "fields.a.\"b-c\".\"1\"");
    }

    #[test]
    fn text_over_several_lines_is_a_block() {
        assert_eq!(program("\n.a = 1\n.b = \"${X}\"\n"), Out::Block(".a = 1\n.b = \"$${X}\"".to_owned()));
        assert_eq!(program(".a = 1\n"), Out::Text(".a = 1".to_owned()));
    }
}
