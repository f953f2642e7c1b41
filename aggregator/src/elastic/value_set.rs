//! The values of a `term`, `terms` or `ids` query, made ready for many documents: one look-up a value, however many are asked
//! for.
//!
//! In: texts as the request has them, values of documents. Out: yes or no. Touches nothing.

use std::collections::HashSet;

use unicode_segmentation::UnicodeSegmentation as _;

use super::document::{MESSAGE, Value};
use super::number::Number;
use super::time;

/// Values of which a document has one.
#[derive(Debug, Clone)]
pub struct ValueSet {
    texts: HashSet<String>,
    /// The same in lower case, if case does not count.
    lower: Option<HashSet<String>>,
    /// Those that are numbers.
    numbers: HashSet<Number>,
    /// Milliseconds of those that are times.
    times_ms: HashSet<i64>,
}

impl ValueSet {
    /// Any of these.
    pub fn new(values: Vec<String>, ignore_case: bool) -> Self {
        Self {
            numbers: values.iter().filter_map(|v| Number::parse(v)).collect(),
            times_ms: values.iter().filter_map(|v| time::parse(v)).map(|ns| ns.div_euclid(1_000_000)).collect(),
            lower: ignore_case.then(|| values.iter().map(|v| v.to_lowercase()).collect()),
            texts: values.into_iter().collect(),
        }
    }

    /// Whether a value of a field is one of them. Text is compared word by word, everything else as a whole.
    pub fn holds(&self, field: &str, value: &Value<'_>) -> bool {
        match (value, &self.lower) {
            (Value::Text(text), lower) if field == MESSAGE => {
                let is_word = |word: &str| {
                    let word = word.to_lowercase();
                    self.texts.contains(&word) || lower.as_ref().is_some_and(|lower| lower.contains(&word))
                };
                self.texts.contains(text.as_ref()) || text.unicode_words().any(is_word)
            }
            (Value::Text(text), Some(lower)) => lower.contains(&text.to_lowercase()),
            (Value::Text(text), None) => self.texts.contains(text.as_ref()),
            (Value::Number(n), _) => self.numbers.contains(n),
            (Value::Bool(b), _) => self.texts.contains(if *b { "true" } else { "false" }),
            (Value::Time(ns), _) => self.times_ms.contains(&ns.div_euclid(1_000_000)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_each_kind_are_found() {
        let text = |t: &'static str| Value::Text(t.into());
        for (values, ignore_case, field, value, want) in [
            (vec!["a", "b"], false, "f", text("b"), true),
            (vec!["a"], false, "f", text("A"), false),
            (vec!["A"], true, "f", text("a"), true),
            (vec!["a"], false, "f", text("a b"), false),
            (vec!["timeout"], false, MESSAGE, text("A Timeout came"), true),
            (vec!["Timeout"], false, MESSAGE, text("A Timeout came"), false),
            (vec!["Timeout"], true, MESSAGE, text("a timeout came"), true),
            (vec!["A Timeout came"], false, MESSAGE, text("A Timeout came"), true),
            (vec!["5.0"], false, "f", Value::Number(5.into()), true),
            (vec!["-0"], false, "f", Value::Number(0.into()), true),
            (vec!["NaN"], false, "f", Value::Number(0.into()), false),
            (vec!["9007199254740993"], false, "f", Value::Number(9_007_199_254_740_993.into()), true),
            (vec!["9007199254740993"], false, "f", Value::Number(9_007_199_254_740_992.into()), false),
            (vec!["true"], false, "f", Value::Bool(true), true),
            (vec!["true"], false, "f", Value::Bool(false), false),
            (vec!["1970-01-01T00:00:01Z"], false, "f", Value::Time(1_000_000_999), true),
        ] {
            let set = ValueSet::new(values.iter().map(|v| (*v).to_owned()).collect(), ignore_case);
            assert_eq!(set.holds(field, &value), want, "{values:?} {value:?}");
        }
    }
}
