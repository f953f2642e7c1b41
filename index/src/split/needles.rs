//! Texts that wanted lines contain: what they make true of a block, and finding them in lines.
//!
//! In: needles. Out: clauses for `words`; places in lines. Touches nothing.

use memchr::memmem;
use millrace_logql::storage::LineNeedle;

use super::tokens::{MAX_TERM, MIN_GRAMMED, MIN_PART, MIN_TERM, fingerprint, fold, grams, letter_runs, words};

/// What every line that contains the needles makes true of its block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Clause {
    /// The filter has the fingerprint.
    Mark(u64),
    /// The block has the term.
    Term(Vec<u8>),
    /// The block has a term that contains the part, or [`LONG`].
    Part(Vec<u8>, At),
}

/// Where in a term a part stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Start,
    End,
    Anywhere,
}

/// The clauses of some needles.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub clauses: Vec<Clause>,
    pub marks: Vec<u64>,
}

impl Wanted {
    pub fn new(needles: &[LineNeedle]) -> Self {
        let mut wanted = Self::default();
        needles.iter().for_each(|needle| wanted.needle(needle));
        wanted
    }

    fn needle(&mut self, needle: &LineNeedle) {
        let mut folded = Vec::new();
        fold(&needle.text, &mut folded);
        let mut found = Vec::new();
        words(&folded, |range, _| found.push(range));
        for range in found {
            let (open_left, open_right) = (range.start == 0, range.end == folded.len());
            let mut word = &folded[range];
            if needle.ignore_case && !word.is_ascii() {
                // Only ASCII is folded alike here and in the check of lines.
                continue;
            }
            // An open end may cut a character that is folded in the line: go by its ASCII part, which is open as well.
            if open_left {
                word = &word[word.iter().position(u8::is_ascii).unwrap_or(word.len())..];
            }
            if open_right {
                word = &word[..word.iter().rposition(u8::is_ascii).map_or(0, |last| last + 1)];
            }
            // Nothing of it may be left, or it may be of one character: both say too little.
            if word.len() < MIN_TERM {
                continue;
            }
            let has_digit = word.iter().any(u8::is_ascii_digit);
            if !open_left && !open_right {
                self.clauses.push(if has_digit || word.len() > MAX_TERM {
                    Clause::Mark(fingerprint(word))
                } else {
                    Clause::Term(word.to_vec())
                });
                continue;
            }
            if has_digit && word.len() >= MIN_GRAMMED {
                grams(word, |gram| self.clauses.push(Clause::Mark(gram)));
            }
            for run in letter_runs(word) {
                let at_start = run.start == 0;
                let at_end = run.end == word.len();
                let part = &word[run];
                if part.len() < MIN_PART {
                    continue;
                }
                // Open only where the run touches an open end.
                let clause = match (at_start && open_left, at_end && open_right) {
                    (false, false) if part.len() > MAX_TERM => continue,
                    (false, false) => Clause::Term(part.to_vec()),
                    (true, false) => Clause::Part(part.to_vec(), At::End),
                    (false, true) => Clause::Part(part.to_vec(), At::Start),
                    (true, true) => Clause::Part(part.to_vec(), At::Anywhere),
                };
                self.clauses.push(clause);
            }
        }
        self.clauses.sort_by_key(|c| matches!(c, Clause::Part(..)));
        self.marks =
            self.clauses.iter().filter_map(|c| if let Clause::Mark(mark) = c { Some(*mark) } else { None }).collect();
    }

    /// Whether the terms of the index can leave out blocks.
    pub fn asks_terms(&self) -> bool {
        self.clauses.len() > self.marks.len()
    }

    /// Whether filters can leave out blocks.
    pub fn asks_filters(&self) -> bool {
        !self.marks.is_empty()
    }
}

/// Finds a needle in many lines that lie one behind the other.
#[derive(Debug)]
pub(super) enum Finder {
    Exact(Box<memmem::Finder<'static>>),
    Folded(regex::bytes::Regex),
}

impl Finder {
    /// `None` for needles that every line has, and for those that no expression can be made of: the caller of the plan
    /// checks again.
    pub fn new(needle: &LineNeedle) -> Option<Self> {
        if needle.text.is_empty() {
            return None;
        }
        if !needle.ignore_case {
            return Some(Self::Exact(Box::new(memmem::Finder::new(&needle.text).into_owned())));
        }
        let text = std::str::from_utf8(&needle.text).ok()?;
        let regex = regex::bytes::RegexBuilder::new(&regex::escape(text)).case_insensitive(true).build().ok()?;
        Some(Self::Folded(regex))
    }

    /// First place at or behind `from`.
    pub fn find(&self, text: &[u8], from: usize) -> Option<std::ops::Range<usize>> {
        let rest = text.get(from..)?;
        match self {
            Self::Exact(finder) => {
                let start = from + finder.find(rest)?;
                Some(start..start + finder.needle().len())
            }
            Self::Folded(regex) => regex.find(rest).map(|m| from + m.start()..from + m.end()),
        }
    }

    /// Whether a line has it.
    pub fn is_in(&self, line: &[u8]) -> bool {
        self.find(line, 0).is_some()
    }
}
