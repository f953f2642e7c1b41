//! Queries as a tree, and whether a document matches one.
//!
//! In: trees from the parsers (`dsl.rs`, `query_string.rs`). Out: what the index can be asked for a query (time range,
//! words); yes or no per document. Touches nothing. Scores are not computed: every hit has the same.

use unicode_segmentation::UnicodeSegmentation as _;

use super::bounds::Bounds;
use super::document::{Doc, MESSAGE, TIMESTAMP, Value};
use super::error::ApiError;
use super::number::Number;
use super::time::{self, Zone};
use super::value_set::ValueSet;
use millrace_index::scan::LineNeedle;

/// A query.
#[derive(Debug, Clone)]
pub enum Query {
    /// Everything.
    All,
    /// Nothing.
    None,
    /// One of the values, exactly (`term`, `terms`, `ids`).
    Terms {
        /// The field.
        field: String,
        /// Any of these.
        values: ValueSet,
    },
    /// Between bounds.
    Range(Range),
    /// Words in a text.
    Match {
        /// The field.
        field: String,
        /// Lower-case words.
        words: Vec<String>,
        /// How many must be there.
        at_least: usize,
    },
    /// Words next to each other, in order; the last one may be a prefix.
    Phrase {
        /// The field.
        field: String,
        /// Lower-case words.
        words: Vec<String>,
        /// `match_phrase_prefix`, `match_bool_prefix`.
        prefix: bool,
    },
    /// There is a value.
    Exists(String),
    /// The whole value matches an expression (`prefix`, `wildcard`, `regexp`).
    Pattern {
        /// The field.
        field: String,
        /// Anchored.
        regex: regex::Regex,
    },
    /// Clauses.
    Bool {
        /// All of these.
        must: Vec<Query>,
        /// At least `at_least` of these.
        should: Vec<Query>,
        /// None of these.
        must_not: Vec<Query>,
        /// How many of `should`.
        at_least: usize,
    },
}

/// Bounds of a range.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// The field.
    pub field: String,
    /// Open if absent.
    pub low: Option<Bound>,
    /// Open if absent.
    pub high: Option<Bound>,
}

/// One bound of a range, in every form that a value may be compared in.
#[derive(Debug, Clone)]
pub struct Bound {
    /// Whether the value itself is within.
    pub inclusive: bool,
    /// As a time, if the text reads as one.
    pub time_ns: Option<i64>,
    /// As a number, if it is one.
    pub number: Option<Number>,
    /// As written.
    pub text: String,
}
/// Lower-case words of a text, as the standard analyzer cuts them.
pub fn words(text: &str) -> Vec<String> {
    text.unicode_words().map(str::to_lowercase).collect()
}

/// A `match` of a text; fields that are no text are compared as a whole (see [`Query::matches`]).
pub fn match_words(field: &str, text: &str, and: bool) -> Query {
    match_at_least(field, text, |words| if and { words } else { 1 })
}

/// The same; `at_least` says how many of so many words must be there.
pub fn match_at_least(field: &str, text: &str, at_least: impl Fn(usize) -> usize) -> Query {
    let words = words(text);
    if words.is_empty() {
        return Query::None;
    }
    let at_least = at_least(words.len()).max(1);
    Query::Match { field: field.to_owned(), words, at_least }
}

/// A phrase of a text.
pub fn phrase_words(field: &str, text: &str, prefix: bool) -> Query {
    let words = words(text);
    if words.is_empty() { Query::None } else { Query::Phrase { field: field.to_owned(), words, prefix } }
}

/// A query by an anchored expression of bounded size.
pub fn regex_query(field: &str, expression: &str, ignore_case: bool, bounds: &Bounds) -> Result<Query, ApiError> {
    Ok(Query::Pattern { field: field.to_owned(), regex: anchored(expression, ignore_case, bounds)? })
}

/// An anchored expression of bounded size.
pub fn anchored(expression: &str, ignore_case: bool, bounds: &Bounds) -> Result<regex::Regex, ApiError> {
    let compile = |expression: &str, bytes: usize| {
        let mut builder = regex::RegexBuilder::new(expression);
        builder.case_insensitive(ignore_case).size_limit(bytes).dfa_size_limit(DFA_BYTES).build()
    };
    let fault = |error| ApiError::argument(format!("expression [{expression}] is not understood: {error}"));
    // Alone first: a stray bracket must not close ours.
    compile(expression, REGEX_BYTES).map_err(fault)?;
    let anchored = format!("^(?s:{expression})$");
    // Most are small: each counts for the room that it fits in.
    let small = [REGEX_BYTES >> 6, REGEX_BYTES >> 3];
    let fits = small.into_iter().find_map(|bytes| Some((bytes, compile(&anchored, bytes).ok()?)));
    let (bytes, regex) = match fits {
        Some(fits) => fits,
        None => (REGEX_BYTES, compile(&anchored, REGEX_BYTES).map_err(fault)?),
    };
    bounds.add_regex(bytes)?;
    Ok(regex)
}

/// Bytes of one compiled expression at most.
const REGEX_BYTES: usize = 1 << 20;

/// Bytes at most that one expression keeps of what it has found out while it runs, for each thread and direction: a request may
/// have thousands of them.
const DFA_BYTES: usize = 256 << 10;

/// `*` and `?` as an expression; `\` takes the next character as it is.
pub fn wildcard(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' => out.push_str(".*"),
            '?' => out.push('.'),
            '\\' => out.push_str(&regex::escape(&chars.next().unwrap_or('\\').to_string())),
            c => out.push_str(&regex::escape(&c.to_string())),
        }
    }
    out
}

impl Query {
    /// One of the values, exactly.
    pub fn terms(field: &str, values: Vec<String>, ignore_case: bool) -> Self {
        Self::Terms { field: field.to_owned(), values: ValueSet::new(values, ignore_case) }
    }

    /// How many clauses it counts for: see [`super::bounds::Bounds`].
    pub fn clauses(&self) -> usize {
        match self {
            Self::Match { words, .. } => words.len(),
            Self::Bool { must, should, must_not, .. } => {
                [must, should, must_not].into_iter().flatten().map(Self::clauses).sum()
            }
            _ => 1,
        }
    }

    /// Narrows a time range [start, end) in ns to what the query leaves.
    pub fn narrow(&self, start_ns: &mut i64, end_ns: &mut i64) {
        match self {
            Self::Range(range) if range.field == TIMESTAMP => {
                if let Some(low) = range.low.as_ref().and_then(|b| b.time_ns) {
                    *start_ns = (*start_ns).max(low.div_euclid(1_000_000).saturating_mul(1_000_000));
                }
                if let Some(high) = range.high.as_ref().and_then(|b| b.time_ns) {
                    // Times are compared by milliseconds: the whole last one counts.
                    *end_ns = (*end_ns).min(high.saturating_add(1_000_000));
                }
            }
            Self::Bool { must, .. } => must.iter().for_each(|query| query.narrow(start_ns, end_ns)),
            _ => {}
        }
    }

    /// Words that the line of every matching *tailed* document contains.
    pub fn needles(&self, needles: &mut Vec<LineNeedle>) {
        let ascii = |word: &String| word.bytes().all(|b| b.is_ascii_alphanumeric());
        let needle = |word: &String| LineNeedle { text: word.as_bytes().to_vec(), ignore_case: true };
        match self {
            Self::Match { field, words, at_least } if field == MESSAGE && *at_least == words.len() => {
                needles.extend(words.iter().filter(|w| ascii(w)).map(needle));
            }
            Self::Phrase { field, words, .. } if field == MESSAGE => {
                needles.extend(words.iter().filter(|w| ascii(w)).map(needle))
            }
            Self::Bool { must, .. } => must.iter().for_each(|query| query.needles(needles)),
            _ => {}
        }
    }

    /// Whether a document matches.
    pub fn matches(&self, doc: &Doc<'_>) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Terms { field, values } => doc.values(field).iter().any(|value| values.holds(field, value)),
            Self::Range(range) => doc.values(&range.field).iter().any(|value| range.holds(value)),
            Self::Match { field, words, at_least } => doc.values(field).iter().any(|value| {
                let found = self::words(&value.text());
                words.iter().filter(|word| found.contains(word)).count() >= *at_least
            }),
            Self::Phrase { field, words, prefix } => {
                doc.values(field).iter().any(|value| has_phrase(&self::words(&value.text()), words, *prefix))
            }
            Self::Exists(field) => !doc.values(field).is_empty() || has_below(doc, field),
            Self::Pattern { field, regex } => doc.values(field).iter().any(|value| {
                let text = value.text();
                // Text is matched word by word, everything else as a whole.
                regex.is_match(&text)
                    || (field == MESSAGE && self::words(&text).iter().any(|word| regex.is_match(word)))
            }),
            Self::Bool { must, should, must_not, at_least } => {
                must.iter().all(|query| query.matches(doc))
                    && !must_not.iter().any(|query| query.matches(doc))
                    && (*at_least == 0
                        || should.iter().filter(|query| query.matches(doc)).take(*at_least).count() >= *at_least)
            }
        }
    }
}

/// `exists` of an object: one of its fields has a value.
fn has_below(doc: &Doc<'_>, field: &str) -> bool {
    let mut found = false;
    doc.for_each_field(|name, _| found |= name.strip_prefix(field).is_some_and(|rest| rest.starts_with('.')));
    found
}

fn has_phrase(found: &[String], want: &[String], prefix: bool) -> bool {
    found.windows(want.len()).any(|window| {
        let last = want.len() - 1;
        window
            .iter()
            .zip(want)
            .enumerate()
            .all(|(i, (f, w))| if prefix && i == last { f.starts_with(w.as_str()) } else { f == w })
    })
}

impl Range {
    /// Bounds for `query_string`: texts, `*` for open.
    pub fn between(field: &str, low: Option<(&str, bool)>, high: Option<(&str, bool)>, now_ns: i64) -> Self {
        let zone = Zone::default().fixed(0);
        let bound = |(text, inclusive): (&str, bool), up: bool| Bound {
            inclusive,
            time_ns: time::math(text, now_ns, zone, up),
            number: Number::parse(text),
            text: text.to_owned(),
        };
        let open = |given: Option<(&str, bool)>, up: bool| {
            given.filter(|(text, _)| *text != "*").map(|given| bound(given, up))
        };
        Self { field: field.to_owned(), low: open(low, false), high: open(high, true) }
    }

    fn holds(&self, value: &Value<'_>) -> bool {
        let low = self.low.as_ref().is_none_or(|bound| match compare(value, bound) {
            Some(order) => order.is_gt() || (order.is_eq() && bound.inclusive),
            None => false,
        });
        low && self.high.as_ref().is_none_or(|bound| match compare(value, bound) {
            Some(order) => order.is_lt() || (order.is_eq() && bound.inclusive),
            None => false,
        })
    }
}

fn compare(value: &Value<'_>, bound: &Bound) -> Option<std::cmp::Ordering> {
    match value {
        Value::Time(ns) => Some(ns.div_euclid(1_000_000).cmp(&bound.time_ns?.div_euclid(1_000_000))),
        Value::Number(n) => Some(n.cmp(&bound.number?)),
        Value::Bool(_) => None,
        Value::Text(text) => {
            // A text that holds a number or a date is compared as such if the bound is one.
            if let (Some(n), Some(number)) = (Number::parse(text), bound.number) {
                return Some(n.cmp(&number));
            }
            if let (Some(time), Some(of)) = (time::parse(text), bound.time_ns) {
                return Some(time.cmp(&of));
            }
            Some(text.as_ref().cmp(bound.text.as_str()))
        }
    }
}
