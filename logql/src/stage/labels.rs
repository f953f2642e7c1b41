//! Labels of one line while it runs through a pipeline: those of its stream, its structured metadata, what parsers
//! and formats made, and the fault of the line if it has one.
//!
//! In: borrowed labels. Out: sorted pairs. Touches nothing. A name stands in one category: parsed before metadata
//! before stream, as in Loki.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use smallvec::SmallVec;

pub use crate::labels::{ERROR, ERROR_DETAILS};
use crate::storage::StreamLabels;

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

/// Labels of a line up to which looking at all of them is quicker than an index.
const WITHOUT_INDEX: usize = 32;

/// Places of labels by a hash of their name, for lines with many: without it a line of n fields costs n² comparisons.
#[derive(Debug)]
struct Index {
    hasher: RandomState,
    places: HashMap<u64, Places>,
}

/// Places in the list of labels: a name has one for each category at most.
type Places = SmallVec<[usize; 3]>;

/// Labels of one line.
#[derive(Debug, Default)]
pub struct Labels<'a> {
    base: &'a [(String, String)],
    all: SmallVec<[Label<'a>; 16]>,
    index: Option<Box<Index>>,
    error: Cow<'a, str>,
    details: Cow<'a, str>,
}

impl Index {
    fn add(&mut self, name: &str, place: usize) {
        self.places.entry(self.hasher.hash_one(name)).or_default().push(place);
    }
}

impl<'a> Labels<'a> {
    /// Labels of a stream and an entry of it.
    pub fn new(stream: &'a [(String, String)], metadata: Option<&'a StreamLabels>) -> Self {
        let mut labels = Self { base: stream, ..Self::default() };
        for (name, value) in stream {
            let (name, value) = (Cow::Borrowed(name.as_str()), Cow::Borrowed(value.as_str()));
            labels.push(Label { name, value, category: Category::Stream, live: true });
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
        self.is_base(name) || self.named(name).any(|(_, l)| l.live && l.category == Category::Metadata)
    }

    /// Whether a parser or a format made the name on this line, even if it was dropped since.
    pub fn is_extracted(&self, name: &str) -> bool {
        self.named(name).any(|(_, l)| l.category == Category::Parsed)
    }

    /// Value and category of a name.
    pub fn find(&self, name: &str) -> Option<(&str, Category)> {
        let (_, found) = self.named(name).find(|(_, l)| l.live)?;
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
        let places: Places = self.named(&name).map(|(place, _)| place).collect();
        let live = |l: &Label<'a>| l.live && rank(l.category) > rank(category);
        if places.iter().any(|place| self.all.get(*place).is_some_and(live)) {
            return;
        }
        let mut value = Some(value);
        for place in places {
            let Some(label) = self.all.get_mut(place) else { continue };
            label.live = label.category == category;
            if let Some(value) = value.take_if(|_| label.live) {
                label.value = value;
            }
        }
        if let Some(value) = value {
            self.push(Label { name, value, category, live: true });
        }
    }

    fn push(&mut self, label: Label<'a>) {
        let place = self.all.len();
        if let Some(index) = &mut self.index {
            index.add(&label.name, place);
        }
        self.all.push(label);
        if self.all.len() > WITHOUT_INDEX && self.index.is_none() {
            let mut index = Box::new(Index { hasher: RandomState::new(), places: HashMap::new() });
            for (place, label) in self.all.iter().enumerate() {
                index.add(&label.name, place);
            }
            self.index = Some(index);
        }
    }

    /// Labels of a name with their places, live or not.
    fn named<'s, 'n>(&'s self, name: &'n str) -> impl Iterator<Item = (usize, &'s Label<'a>)> + use<'s, 'n, 'a> {
        let (all, known) = match &self.index {
            None => (self.all.as_slice(), None),
            Some(index) => (&[][..], index.places.get(&index.hasher.hash_one(name))),
        };
        let known = known.into_iter().flatten().filter_map(|place| Some((*place, self.all.get(*place)?)));
        all.iter().enumerate().chain(known).filter(move |(_, label)| label.name == name)
    }

    /// Removes a label of any category.
    pub fn delete(&mut self, name: &str) {
        let places: Places = self.named(name).map(|(place, _)| place).collect();
        for place in places {
            if let Some(label) = self.all.get_mut(place) {
                label.live = false;
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of many labels, each set, looked for, replaced and deleted: n² would take minutes.
    #[test]
    fn many_labels_behave_as_few_do() {
        for count in [10, WITHOUT_INDEX, WITHOUT_INDEX + 1, 200_000] {
            let stream = [("n0".to_owned(), "stream".to_owned())];
            let mut labels = Labels::new(&stream, None);
            let name = |i: usize| Cow::Owned(format!("n{i}"));
            for i in 1..count {
                labels.set(Category::Metadata, name(i), Cow::Borrowed("metadata"));
                assert!(labels.is_taken(&name(i)) && !labels.is_extracted(&name(i)), "{i} of {count}");
                labels.set(Category::Parsed, name(i), Cow::Borrowed("first"));
                labels.set(Category::Parsed, name(i), Cow::Borrowed("second"));
                labels.set(Category::Metadata, name(i), Cow::Borrowed("hidden"));
                assert_eq!(labels.find(&name(i)), Some(("second", Category::Parsed)), "{i} of {count}");
                assert!(!labels.is_taken(&name(i)) && labels.is_extracted(&name(i)), "{i} of {count}");
            }
            labels.delete("n1");
            assert_eq!(labels.get("n1"), None);
            assert!(labels.is_extracted("n1") && labels.is_taken("n0") && labels.get("n").is_none());
            assert_eq!(labels.pairs(|_| true).len(), count - 1);
            assert_eq!(labels.pairs(|c| c == Category::Stream), stream);
        }
    }
}
