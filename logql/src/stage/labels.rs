//! Labels of one line while it runs through a pipeline: those of its stream, its structured metadata, what parsers
//! and formats made, and the fault of the line if it has one.
//!
//! In: borrowed labels. Out: sorted pairs. Touches nothing. A name stands in one category: parsed before metadata
//! before stream, as in Loki.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::storage::StreamLabels;

/// Name of the label that tells what went wrong with a line.
pub const ERROR: &str = "__error__";
/// Name of the label that tells why.
pub const ERROR_DETAILS: &str = "__error_details__";

/// Where a label comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// The stream.
    Stream,
    /// Structured metadata of the entry.
    Metadata,
    /// A parser or a format.
    Parsed,
}

#[derive(Debug, Clone)]
struct Label<'a> {
    name: Cow<'a, str>,
    value: Cow<'a, str>,
    category: Category,
    live: bool,
}

/// Labels of one line.
#[derive(Debug, Default)]
pub struct Labels<'a> {
    base: &'a [(String, String)],
    all: SmallVec<[Label<'a>; 16]>,
    error: Cow<'a, str>,
    details: Cow<'a, str>,
}

impl<'a> Labels<'a> {
    /// Labels of a stream and an entry of it.
    pub fn new(stream: &'a [(String, String)], metadata: Option<&'a StreamLabels>) -> Self {
        let mut labels = Self { base: stream, ..Self::default() };
        for (name, value) in stream {
            labels.all.push(Label {
                name: Cow::Borrowed(name),
                value: Cow::Borrowed(value),
                category: Category::Stream,
                live: true,
            });
        }
        for (name, value) in metadata.into_iter().flat_map(|m| m.iter()) {
            let name = if labels.is_base(name) {
                Cow::Owned(format!("{name}_extracted"))
            } else {
                Cow::Borrowed(name.as_str())
            };
            match name.as_ref() {
                ERROR => labels.error = Cow::Borrowed(value),
                ERROR_DETAILS => labels.details = Cow::Borrowed(value),
                _ => labels.set(Category::Metadata, name, Cow::Borrowed(value)),
            }
        }
        labels
    }

    /// Whether the stream has the name.
    pub fn is_base(&self, name: &str) -> bool {
        self.base.iter().any(|(n, _)| n == name)
    }

    /// Whether the stream or the entry's metadata has the name: what a parser finds gets another.
    pub fn is_taken(&self, name: &str) -> bool {
        self.is_base(name) || self.all.iter().any(|l| l.live && l.category == Category::Metadata && l.name == name)
    }

    /// Whether a parser or a format made the name on this line, even if it was dropped since.
    pub fn is_extracted(&self, name: &str) -> bool {
        self.all.iter().any(|l| l.category == Category::Parsed && l.name == name)
    }

    /// Value and category of a name.
    pub fn find(&self, name: &str) -> Option<(&str, Category)> {
        let found = self.all.iter().find(|l| l.live && l.name == name)?;
        Some((&found.value, found.category))
    }

    /// Value of a name; faults are not among them.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.find(name).map(|(value, _)| value)
    }

    /// Value as a condition sees it: the fault for `__error__`, "" for none.
    pub fn value(&self, name: &str) -> &str {
        if name == ERROR { &self.error } else { self.get(name).unwrap_or("") }
    }

    /// Sets a label. A lower category never hides a higher one.
    pub fn set(&mut self, category: Category, name: Cow<'a, str>, value: Cow<'a, str>) {
        let rank = |c: Category| c as u8;
        if self.all.iter().any(|l| l.live && l.name == name && rank(l.category) > rank(category)) {
            return;
        }
        for label in self.all.iter_mut().filter(|l| l.name == name) {
            label.live = false;
        }
        match self.all.iter_mut().find(|l| l.category == category && l.name == name) {
            Some(label) => {
                label.value = value;
                label.live = true;
            }
            None => self.all.push(Label { name, value, category, live: true }),
        }
    }

    /// Removes a label of any category.
    pub fn delete(&mut self, name: &str) {
        for label in self.all.iter_mut().filter(|l| l.name == name) {
            label.live = false;
        }
    }

    /// Removes all labels that the test does not want; faults stay.
    pub fn retain(&mut self, keep: impl Fn(&str, &str) -> bool) {
        for label in &mut self.all {
            label.live = label.live && keep(&label.name, &label.value);
        }
    }

    /// What went wrong with the line, "" for nothing.
    pub fn error(&self) -> &str {
        &self.error
    }

    /// Why.
    pub fn error_details(&self) -> &str {
        &self.details
    }

    /// Sets what went wrong.
    pub fn set_error(&mut self, error: &'static str, details: String) {
        self.error = Cow::Borrowed(error);
        self.details = Cow::Owned(details);
    }

    /// Sets what went wrong from the line itself.
    pub fn set_error_text(&mut self, error: Cow<'a, str>) {
        self.error = error;
    }

    /// Sets why from the line itself.
    pub fn set_error_details_text(&mut self, details: Cow<'a, str>) {
        self.details = details;
    }

    /// Forgets what went wrong, not why.
    pub fn clear_error(&mut self) {
        self.error = Cow::Borrowed("");
    }

    /// Forgets why.
    pub fn clear_details(&mut self) {
        self.details = Cow::Borrowed("");
    }

    /// Names and values, unsorted, with the fault.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, Category)> {
        let live = self.all.iter().filter(|l| l.live).map(|l| (l.name.as_ref(), l.value.as_ref(), l.category));
        let faults = [(ERROR, self.error.as_ref()), (ERROR_DETAILS, self.details.as_ref())];
        live.chain(faults.into_iter().filter(|(_, v)| !v.is_empty()).map(|(n, v)| (n, v, Category::Parsed)))
    }

    /// Pairs of the wanted categories, sorted by name.
    pub fn pairs(&self, wanted: impl Fn(Category) -> bool) -> Vec<(String, String)> {
        let mut pairs: Vec<(String, String)> = self
            .iter()
            .filter(|(_, _, category)| wanted(*category))
            .map(|(name, value, _)| (name.to_owned(), value.to_owned()))
            .collect();
        pairs.sort_unstable();
        pairs
    }
}
