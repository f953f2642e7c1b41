//! Matchers of labels, as routes, inhibition rules, silences and filters of the API have them.
//!
//! In: texts in Alertmanager's classic or UTF-8 syntax. Out: [`Matcher`]s, or the first fault in Alertmanager's words. Touches
//! nothing. As Alertmanager does, a text that the classic syntax takes means what it meant there.

use std::fmt;

use millrace_log::alert::LabelSet;
use millrace_log::go;
use millrace_logql::dialect;
use serde::{Deserialize, Serialize};

/// Bytes that one compiled expression may take, and with the caches that it fills while it is used.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// How a matcher compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operator {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Regex,
    /// `!~`
    NotRegex,
}

impl Operator {
    /// As the API has them.
    pub fn of(is_regex: bool, is_equal: bool) -> Self {
        match (is_regex, is_equal) {
            (false, true) => Self::Equal,
            (false, false) => Self::NotEqual,
            (true, true) => Self::Regex,
            (true, false) => Self::NotRegex,
        }
    }

    /// Whether it compares with an expression.
    pub fn is_regex(self) -> bool {
        matches!(self, Self::Regex | Self::NotRegex)
    }

    /// Whether what compares equal matches.
    pub fn is_equal(self) -> bool {
        matches!(self, Self::Equal | Self::Regex)
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Regex => "=~",
            Self::NotRegex => "!~",
        }
    }
}

/// The operators in the order in which they are looked for.
const OPERATORS: [Operator; 4] = [Operator::Regex, Operator::NotRegex, Operator::NotEqual, Operator::Equal];

/// A comparison of one label. A label that an alert does not have is empty.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(into = "MatcherText", try_from = "MatcherText")]
pub struct Matcher {
    /// Name of the label.
    pub name: String,
    /// How it compares.
    pub operator: Operator,
    /// With what: a text, or an expression that must match the whole value.
    pub value: String,
    regex: Option<regex::bytes::Regex>,
}

/// A matcher as the API and the disk have it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MatcherText {
    is_equal: bool,
    is_regex: bool,
    name: String,
    value: String,
}

impl From<Matcher> for MatcherText {
    fn from(matcher: Matcher) -> Self {
        let (is_equal, is_regex) = (matcher.operator.is_equal(), matcher.operator.is_regex());
        Self { is_equal, is_regex, name: matcher.name, value: matcher.value }
    }
}

impl TryFrom<MatcherText> for Matcher {
    type Error = String;

    fn try_from(text: MatcherText) -> Result<Self, String> {
        Self::new(text.name, Operator::of(text.is_regex, text.is_equal), text.value)
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.operator, &self.value) == (&other.name, other.operator, &other.value)
    }
}

impl Eq for Matcher {}

impl Matcher {
    /// Compiles expressions.
    ///
    /// # Errors
    /// The expression is not valid or too large, in Go's words as far as they are the same.
    pub fn new(name: impl Into<String>, operator: Operator, value: impl Into<String>) -> Result<Self, String> {
        let value = value.into();
        let regex = operator.is_regex().then(|| anchored(&value)).transpose()?;
        Ok(Self { name: name.into(), operator, value, regex })
    }

    /// Whether a value matches.
    pub fn matches_value(&self, value: &str) -> bool {
        let hit = match &self.regex {
            Some(regex) => regex.is_match(value.as_bytes()),
            None => value == self.value,
        };
        hit == self.operator.is_equal()
    }

    /// Whether labels match.
    pub fn matches(&self, labels: &LabelSet) -> bool {
        self.matches_value(labels.get(&self.name).map_or("", String::as_str))
    }

    /// Reads one matcher: `name="value"`, with `=`, `!=`, `=~` or `!~`; quotes may be left out.
    pub fn parse(text: &str) -> Result<Self, String> {
        classic(text).or_else(|fault| {
            let found = utf8(text).ok().filter(|found| found.len() == 1 && !text.trim_start().starts_with('{'));
            found.and_then(|found| found.into_iter().next()).ok_or(fault)
        })
    }

    /// Reads several matchers, separated by commas and in braces if need be; sorted as Alertmanager sorts them.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        let mut found = match classic_list(text) {
            Ok(found) => found,
            Err(fault) => utf8(text).map_err(|_| fault)?,
        };
        sort(&mut found);
        Ok(found)
    }

    /// Approximately the bytes that it holds in memory.
    pub fn weight(&self) -> usize {
        let regex = self.operator.is_regex().then(|| dialect::size(&self.value));
        self.name.len() + self.value.len() + regex.unwrap_or(0)
    }
}

/// As Alertmanager prints it, also in keys of groups: `name="value"`.
impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_classic_name(&self.name) {
            f.write_str(&self.name)?;
        } else {
            f.write_str(&go::quote(&self.name))?;
        }
        let escaped = self.value.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"");
        write!(f, "{}\"{escaped}\"", self.operator.sign())
    }
}

/// Whether all match.
pub fn all_match(matchers: &[Matcher], labels: &LabelSet) -> bool {
    matchers.iter().all(|matcher| matcher.matches(labels))
}

/// By name, value and operator.
pub fn sort(matchers: &mut [Matcher]) {
    matchers.sort_by(|a, b| (&a.name, &a.value, a.operator).cmp(&(&b.name, &b.value, b.operator)));
}

/// As a list in braces: `{a="b",c=~"d"}`.
pub fn list_text(matchers: &[Matcher]) -> String {
    let texts: Vec<String> = matchers.iter().map(ToString::to_string).collect();
    format!("{{{}}}", texts.join(","))
}

/// An expression that must match the whole text, in Go's dialect.
pub fn anchored(expression: &str) -> Result<regex::bytes::Regex, String> {
    let compile = |text: &str| {
        regex::bytes::RegexBuilder::new(text).size_limit(MAX_REGEX_BYTES).dfa_size_limit(MAX_REGEX_BYTES).build()
    };
    let own = dialect::translate(expression);
    // Alone first: a stray bracket must not close ours.
    compile(&own).and_then(|_| compile(&format!("^(?:{own})$"))).map_err(|error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
        format!("error parsing regexp: {last}: `^(?:{expression})$`")
    })
}

/// Names that need no quotes.
fn is_classic_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == ':')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
}

// ---- the classic syntax ----

fn classic(text: &str) -> Result<Matcher, String> {
    let bad = || format!("bad matcher format: {text}");
    let trimmed = text.trim();
    let at = trimmed.find(['=', '!']).ok_or_else(bad)?;
    let (name, rest) = trimmed.split_at(at);
    let name = name.trim_end();
    let (operator, value) = OPERATORS
        .into_iter()
        .find_map(|operator| rest.strip_prefix(operator.sign()).map(|value| (operator, value)))
        .ok_or_else(bad)?;
    if !is_classic_name(name) {
        return Err(bad());
    }
    Matcher::new(name, operator, unquoted(value.trim())?)
}

fn unquoted(text: &str) -> Result<String, String> {
    let unescaped = || format!("matcher value contains unescaped double quote: {text}");
    let inner = match text.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').ok_or_else(unescaped)?,
        None => text,
    };
    let is_quoted = inner.len() != text.len();
    let mut value = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => value.push('\n'),
                Some(escaped @ ('"' | '\\')) => value.push(escaped),
                Some(other) => {
                    value.push('\\');
                    value.push(other);
                }
                // What it escapes is the quote that ends the value.
                None if is_quoted => return Err(unescaped()),
                None => value.push('\\'),
            },
            '"' => return Err(unescaped()),
            c => value.push(c),
        }
    }
    Ok(value)
}

fn classic_list(text: &str) -> Result<Vec<Matcher>, String> {
    let inner = text.strip_prefix('{').unwrap_or(text);
    let inner = inner.strip_suffix('}').unwrap_or(inner);
    let mut tokens = vec![String::new()];
    let (mut inside, mut escaped) = (false, false);
    for c in inner.chars() {
        match c {
            ',' if !inside => {
                tokens.push(String::new());
                escaped = false;
                continue;
            }
            '"' if !escaped => inside = !inside,
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        if let Some(token) = tokens.last_mut() {
            token.push(c);
        }
    }
    // Nothing may stand behind the last comma.
    if tokens.last().is_some_and(|token| token.trim().is_empty()) {
        tokens.pop();
    }
    tokens.iter().map(|token| classic(token)).collect()
}

// ---- the UTF-8 syntax ----

/// Characters that end what stands without quotes.
fn is_reserved(c: char) -> bool {
    c.is_whitespace() || matches!(c, '{' | '}' | '!' | '=' | '~' | ',' | '\\' | '"' | '\'' | '`')
}

/// Reads matchers whose names may be quoted and then hold any character. Names without quotes are classic ones: so a
/// misspelt name stays a fault.
fn utf8(text: &str) -> Result<Vec<Matcher>, String> {
    let mut rest = text.trim();
    let has_braces = rest.starts_with('{');
    if has_braces {
        rest = rest.get(1..).and_then(|inner| inner.strip_suffix('}')).ok_or("expected close brace")?.trim();
    }
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (name, is_quoted) = literal(&mut rest)?;
        if name.is_empty() || !(is_quoted || is_classic_name(&name)) {
            return Err(format!("invalid label name {}", go::quote(&name)));
        }
        rest = rest.trim_start();
        let operator = OPERATORS
            .into_iter()
            .find(|operator| rest.starts_with(operator.sign()))
            .ok_or("expected an operator: =, !=, =~ or !~")?;
        rest = rest.get(operator.sign().len()..).unwrap_or_default().trim_start();
        let (value, _) = literal(&mut rest)?;
        found.push(Matcher::new(name, operator, value)?);
        rest = rest.trim_start();
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None if rest.is_empty() => {}
            None => return Err("expected a comma".to_owned()),
        }
    }
    if found.is_empty() && !has_braces {
        return Err("no matchers".to_owned());
    }
    Ok(found)
}

/// A text in quotes with Go's escapes, or one without; and whether it was quoted.
fn literal(rest: &mut &str) -> Result<(String, bool), String> {
    if let Some(quoted) = rest.strip_prefix('"') {
        let mut escaped = false;
        let end = quoted.char_indices().find(|(_, c)| {
            let is_end = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            is_end
        });
        let (end, _) = end.ok_or("missing end \"")?;
        let (inner, after) = quoted.split_at(end);
        *rest = after.get(1..).unwrap_or_default();
        return Ok((go_unquoted(inner)?, true));
    }
    let end = rest.find(is_reserved).unwrap_or(rest.len());
    if end == 0 {
        return Err("expected a name or a value".to_owned());
    }
    let (text, after) = rest.split_at(end);
    *rest = after;
    Ok((text.to_owned(), false))
}

/// The escapes of Go's strings.
fn go_unquoted(text: &str) -> Result<String, String> {
    let invalid = || format!("invalid escape in \"{text}\"");
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let digits = match chars.next().ok_or_else(invalid)? {
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            same @ ('\\' | '"') => same,
            kind @ ('x' | 'u' | 'U') => {
                let count = match kind {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let digits: String = chars.by_ref().take(count).collect();
                let code = (digits.len() == count).then(|| u32::from_str_radix(&digits, 16).ok()).flatten();
                let code = code.filter(|code| kind != 'x' || *code < 0x80);
                code.and_then(char::from_u32).ok_or_else(invalid)?
            }
            _ => return Err(invalid()),
        };
        out.push(digits);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)]) -> LabelSet {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn one_matcher_reads_as_alertmanager_reads_it() {
        let labels = set(&[("team", "x"), ("zone", "eu-1"), ("service.name", "pay")]);
        for (text, want) in [
            (r#"team="x""#, Some(true)),
            ("team=x", Some(true)),
            ("  team = x ", Some(true)),
            (r#"team!="x""#, Some(false)),
            (r#"zone=~"eu-.*""#, Some(true)),
            (r#"zone=~"eu""#, Some(false)),
            (r#"none="""#, Some(true)),
            (r#" team !~ "y|z" "#, Some(true)),
            (r#""service.name"="pay""#, Some(true)),
            (r#""service.name"=~"p.y""#, Some(true)),
            (r#""service.name"=pay"#, Some(true)),
            ("team", None),
            (r#"9a="x""#, None),
            (r#"service.name="pay""#, None),
            (r#"te-am="x""#, None),
            (r#"team="x"#, None),
            (r#"team=="x""#, None),
            (r#"{team="x"}"#, None),
            (r#"team=~"(""#, None),
            (r#"team=~"x)|(y""#, None),
            (r#"team=~"(x{1000}){1000}""#, None),
            (r#""service.name"="pay",team=x"#, None),
            ("=x", None),
            ("", None),
        ] {
            assert_eq!(Matcher::parse(text).ok().map(|m| m.matches(&labels)), want, "{text}");
        }
        assert_eq!(Matcher::parse("team").unwrap_err(), "bad matcher format: team");
        let quote = "matcher value contains unescaped double quote: \"x";
        assert_eq!(Matcher::parse("team=\"x").unwrap_err(), quote);
    }

    #[test]
    fn lists_are_sorted_and_print_as_in_keys_of_groups() {
        for (text, want) in [
            (r#"b="1", a=~"x,y""#, Some(r#"{a=~"x,y",b="1"}"#)),
            (r#"{a="say \"hi\"\\ \n"}"#, Some(r#"{a="say \"hi\"\\ \n"}"#)),
            ("a = x y ", Some(r#"{a="x y"}"#)),
            ("a=1,", Some(r#"{a="1"}"#)),
            ("{}", Some("{}")),
            (r#"{"ä b"="c\u00e4", d!~e}"#, Some(r#"{d!~"e","ä b"="cä"}"#)),
            (r#"a="b" c="d""#, None),
            (r#"a=b,,c=d"#, None),
            (r#"{"a"="b""#, None),
            (r#""a"="\q""#, None),
        ] {
            assert_eq!(Matcher::parse_list(text).ok().map(|list| list_text(&list)).as_deref(), want, "{text}");
        }
    }
}
