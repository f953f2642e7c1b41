//! Partial aggregates: lines counted and their bytes added up, in windows of time, by labels. What crosses between a store
//! and the engine for most metric queries, instead of rows.
//!
//! In: an [`Aggregation`]: windows, labels that count, a test of lines. Out: a [`Partial`] of any part of a store (a split, a
//! block, recent events); partials of several parts merge into that of all. Touches nothing.
//!
//! A store answers from the cheapest it has: times and lengths of rows, the lines themselves only if there is a test of them.
//! (What it notes of whole splits and blocks would come first; as long as it does not note which have metadata, each row is
//! looked at.) Counts are kept as differences at the borders of windows: a row costs four additions however wide the windows
//! are, and partials merge by addition.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::budget::{Budget, Lease, OverBudget};
use crate::labels::{ERROR, ERROR_DETAILS, LabelPairs};

/// Windows in time: the k-th is `(end - range, end]` with `end = first_end + k * step`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// End of the first, inclusive, ns since 1970.
    pub first_end_ns: i64,
    /// Distance of their ends, ns; at least 1.
    pub step_ns: i64,
    /// How many.
    pub count: usize,
    /// How long each is, ns.
    pub range_ns: i64,
}

impl Windows {
    /// Numbers of the windows that hold a time; empty between windows, and before and behind them.
    pub fn holding(&self, time_ns: i64) -> Range<usize> {
        let shifted = i128::from(time_ns) - i128::from(self.first_end_ns);
        let step = i128::from(self.step_ns.max(1));
        let first = -(-shifted).div_euclid(step);
        let behind = -(-(shifted + i128::from(self.range_ns))).div_euclid(step);
        let clamp = |k: i128| usize::try_from(k.max(0)).unwrap_or(usize::MAX).min(self.count);
        clamp(first)..clamp(behind)
    }

    /// Times that lie in any window: [start, end).
    pub fn span(&self) -> (i64, i64) {
        let steps = self.step_ns.saturating_mul(i64::try_from(self.count.saturating_sub(1)).unwrap_or(i64::MAX));
        let last = self.first_end_ns.saturating_add(steps);
        (self.first_end_ns.saturating_sub(self.range_ns).saturating_add(1), last.saturating_add(1))
    }
}

/// Labels of a line that its group keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupBy {
    /// All.
    All,
    /// None: one group.
    None,
    /// These.
    By(Vec<String>),
    /// All but these.
    Without(Vec<String>),
}

impl GroupBy {
    /// Whether a label is kept.
    pub fn keeps(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::By(names) => names.iter().any(|n| n == name),
            Self::Without(names) => !names.iter().any(|n| n == name),
        }
    }
}

type Test = dyn Fn(&[u8]) -> bool + Send + Sync;

/// Whether a line counts.
#[derive(Clone)]
pub struct LineTest(Arc<Test>);

impl LineTest {
    /// Lines for which `passes` is true count.
    pub fn new(passes: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(passes))
    }

    /// Tests a line.
    pub fn passes(&self, line: &[u8]) -> bool {
        (self.0)(line)
    }
}

impl fmt::Debug for LineTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LineTest")
    }
}

/// What is counted. Which lines at all (tenant, streams, range of time, texts they contain) the scan beside it says.
#[derive(Debug, Clone)]
pub struct Aggregation {
    /// Windows in time.
    pub windows: Windows,
    /// Labels of the groups: those of the stream, and those of the line's metadata.
    pub group: GroupBy,
    /// A test of the line; `None`: lines need not be read.
    pub test: Option<LineTest>,
}

/// Lines with equal labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Labels that the grouping keeps, sorted by name.
    pub labels: LabelPairs,
    /// Differences of the number of lines at the borders of windows, one more than there are windows.
    lines: Vec<i64>,
    /// The same for their bytes.
    bytes: Vec<i64>,
}

impl Group {
    /// (lines, bytes) of each window, in order.
    pub fn windows(&self) -> impl Iterator<Item = (i64, i64)> {
        let windows = self.lines.len().saturating_sub(1);
        let mut sum = (0, 0);
        self.lines.iter().zip(&self.bytes).take(windows).map(move |(lines, bytes)| {
            sum = (sum.0 + lines, sum.1 + bytes);
            sum
        })
    }

    fn add(&mut self, windows: Range<usize>, lines: i64, bytes: i64) {
        for (slots, by) in [(&mut self.lines, lines), (&mut self.bytes, bytes)] {
            if let Some(slot) = slots.get_mut(windows.start) {
                *slot += by;
            }
            if let Some(slot) = slots.get_mut(windows.end) {
                *slot -= by;
            }
        }
    }
}

/// Why a store has no partial aggregate: the engine reads rows instead, or the query ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoPartial {
    /// A line needs more than counting, such as one whose metadata says that it is faulty.
    NeedsRows,
    /// The query is over.
    Over(OverBudget),
}

impl From<OverBudget> for NoPartial {
    fn from(over: OverBudget) -> Self {
        Self::Over(over)
    }
}

/// Numbers of groups by stream, in the order in which a part of the store numbers its streams.
#[derive(Debug, Default)]
pub struct StreamGroups(Vec<Option<usize>>);

/// What the lines of a part of a store add up to.
#[derive(Debug)]
pub struct Partial {
    aggregation: Arc<Aggregation>,
    groups: Groups,
    /// Lines that were looked at.
    pub lines: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Lines that counted.
    pub passed: u64,
}

impl Partial {
    /// Of no lines. What it holds counts in the budget.
    pub fn new(aggregation: Arc<Aggregation>, budget: &Budget) -> Result<Self, OverBudget> {
        let groups = Groups {
            all: Vec::new(),
            by_labels: HashMap::new(),
            key: String::new(),
            slots: aggregation.windows.count + 1,
            lease: budget.lease(0)?,
        };
        Ok(Self { aggregation, groups, lines: 0, bytes: 0, passed: 0 })
    }

    /// Whether lines have to be read.
    pub fn tests_lines(&self) -> bool {
        self.aggregation.test.is_some()
    }

    /// Counts a line. `number` is that of its stream in `streams`; `line` may be empty if lines are not tested: `bytes` says
    /// how long it is.
    #[allow(clippy::too_many_arguments, reason = "one line with all that belongs to it")]
    pub fn add(
        &mut self,
        streams: &mut StreamGroups,
        number: usize,
        labels: &[(String, String)],
        metadata: Option<&[(String, String)]>,
        time_ns: i64,
        line: &[u8],
        bytes: usize,
    ) -> Result<(), NoPartial> {
        self.lines += 1;
        self.bytes += bytes as u64;
        let windows = self.aggregation.windows.holding(time_ns);
        if windows.is_empty() || self.aggregation.test.as_ref().is_some_and(|test| !test.passes(line)) {
            return Ok(());
        }
        let group = match metadata {
            None => self.group_of(streams, number, labels)?,
            Some(metadata) => self.group_with(labels, metadata)?,
        };
        self.passed += 1;
        if let Some(group) = self.groups.all.get_mut(group) {
            group.add(windows, 1, i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        Ok(())
    }

    /// The group of a stream's lines that have no metadata.
    fn group_of(
        &mut self,
        streams: &mut StreamGroups,
        number: usize,
        labels: &[(String, String)],
    ) -> Result<usize, OverBudget> {
        if let Some(Some(known)) = streams.0.get(number) {
            return Ok(*known);
        }
        let group = &self.aggregation.group;
        let mut pairs: Vec<(&str, &str)> =
            labels.iter().filter(|(n, _)| group.keeps(n)).map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let found = self.groups.find(&mut pairs)?;
        if streams.0.len() <= number {
            streams.0.resize(number + 1, None);
        }
        if let Some(slot) = streams.0.get_mut(number) {
            *slot = Some(found);
        }
        Ok(found)
    }

    /// The group of a line with metadata.
    fn group_with(&mut self, labels: &[(String, String)], metadata: &[(String, String)]) -> Result<usize, NoPartial> {
        let all = joined(labels, metadata);
        if all.iter().any(|(name, value)| name == ERROR && !value.is_empty()) {
            return Err(NoPartial::NeedsRows);
        }
        let group = &self.aggregation.group;
        let mut pairs: Vec<(&str, &str)> =
            all.iter().filter(|(name, _)| group.keeps(name)).map(|(name, value)| (name.as_ref(), *value)).collect();
        Ok(self.groups.find(&mut pairs)?)
    }

    /// Whether a group has a label.
    pub fn has_label(&self, name: &str) -> bool {
        self.groups.all.iter().any(|group| group.labels.iter().any(|(own, _)| own == name))
    }

    /// Adds what another part adds up to.
    pub fn merge(&mut self, other: Self) -> Result<(), OverBudget> {
        self.merge_as(other, None)
    }

    /// The same, its groups with one label more.
    pub fn merge_as(&mut self, other: Self, label: Option<(&str, &str)>) -> Result<(), OverBudget> {
        for of in &other.groups.all {
            let own = of.labels.iter().map(|(n, v)| (n.as_str(), v.as_str()));
            let mut pairs: Vec<(&str, &str)> = own.chain(label).collect();
            let into = self.groups.find(&mut pairs)?;
            let Some(into) = self.groups.all.get_mut(into) else { continue };
            for (sums, more) in [(&mut into.lines, &of.lines), (&mut into.bytes, &of.bytes)] {
                sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            }
        }
        self.lines += other.lines;
        self.bytes += other.bytes;
        self.passed += other.passed;
        Ok(())
    }

    /// The groups, sorted by their labels.
    pub fn into_groups(mut self) -> Vec<Group> {
        self.groups.all.sort_by(|a, b| a.labels.cmp(&b.labels));
        self.groups.all
    }
}

/// Labels of a line: those of its stream and its metadata, which has other names where the stream has the same.
fn joined<'a>(labels: &'a [(String, String)], metadata: &'a [(String, String)]) -> Vec<(Cow<'a, str>, &'a str)> {
    let mut all: Vec<(Cow<'a, str>, &'a str)> =
        labels.iter().map(|(name, value)| (Cow::Borrowed(name.as_str()), value.as_str())).collect();
    all.extend(metadata.iter().map(|(name, value)| {
        let is_taken = labels.iter().any(|(n, _)| n == name);
        (if is_taken { Cow::Owned(format!("{name}_extracted")) } else { Cow::Borrowed(name.as_str()) }, value.as_str())
    }));
    // Of one name the last value counts. Sorted, as there may be very many names.
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.dedup_by(|later, kept| {
        let is_same = later.0 == kept.0;
        if is_same {
            kept.1 = later.1;
        }
        is_same
    });
    // Details of no fault are no label.
    all.retain(|(name, value)| !value.is_empty() || (name != ERROR && name != ERROR_DETAILS));
    all
}

/// Groups by their labels.
#[derive(Debug)]
struct Groups {
    all: Vec<Group>,
    by_labels: HashMap<String, usize>,
    key: String,
    /// Windows and one more.
    slots: usize,
    /// Memory of all this.
    lease: Lease,
}

impl Groups {
    /// The number of the group of some labels; makes it if it is new.
    fn find(&mut self, pairs: &mut [(&str, &str)]) -> Result<usize, OverBudget> {
        pairs.sort_unstable();
        self.key.clear();
        for part in pairs.iter().flat_map(|(name, value)| [*name, *value]) {
            self.key.push_str(part);
            self.key.push('\0');
        }
        if let Some(found) = self.by_labels.get(self.key.as_str()) {
            return Ok(*found);
        }
        self.lease.grow(2 * self.slots * size_of::<i64>() + 4 * self.key.len() + 256)?;
        let labels = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        self.all.push(Group { labels, lines: vec![0; self.slots], bytes: vec![0; self.slots] });
        self.by_labels.insert(self.key.clone(), self.all.len() - 1);
        Ok(self.all.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(text: &str) -> LabelPairs {
        text.split_whitespace()
            .map(|pair| pair.split_once('=').unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn labels_of_lines_join_those_of_stream_and_metadata() {
        for (stream, metadata, group, want) in [
            ("a=1 b=2", "", GroupBy::All, "a=1 b=2"),
            ("a=1 b=2", "c=3", GroupBy::All, "a=1 b=2 c=3"),
            ("a=1 b=2", "a=3", GroupBy::All, "a=1 a_extracted=3 b=2"),
            ("a=1 a_extracted=2", "a=3", GroupBy::All, "a=1 a_extracted=3"),
            ("a=1 b=2", "c=3", GroupBy::None, ""),
            ("a=1 b=2", "c=3", GroupBy::By(vec!["c".to_owned(), "a".to_owned()]), "a=1 c=3"),
            ("a=1 b=2", "c=3", GroupBy::Without(vec!["a".to_owned()]), "b=2 c=3"),
            ("a=1", "__error_details__=x", GroupBy::All, "__error_details__=x a=1"),
        ] {
            let windows = Windows { first_end_ns: 10, step_ns: 1, count: 1, range_ns: 5 };
            let aggregation = Arc::new(Aggregation { windows, group: group.clone(), test: None });
            let mut partial = Partial::new(aggregation, &Budget::default()).unwrap();
            let (stream, metadata) = (pairs(stream), pairs(metadata));
            let metadata = (!metadata.is_empty()).then_some(metadata.as_slice());
            partial.add(&mut StreamGroups::default(), 0, &stream, metadata, 7, b"", 4).unwrap();
            let groups = partial.into_groups();
            assert_eq!(groups.len(), 1);
            assert_eq!(groups[0].labels, pairs(want), "{stream:?} {metadata:?} {group:?}");
            assert_eq!(groups[0].windows().collect::<Vec<_>>(), [(1, 4)]);
        }
        let windows = Windows { first_end_ns: 10, step_ns: 1, count: 1, range_ns: 5 };
        let aggregation = Arc::new(Aggregation { windows, group: GroupBy::None, test: None });
        let mut partial = Partial::new(aggregation, &Budget::default()).unwrap();
        let faulty = pairs("__error__=x");
        let added = partial.add(&mut StreamGroups::default(), 0, &[], Some(&faulty), 7, b"", 0);
        assert_eq!(added, Err(NoPartial::NeedsRows));
    }

    #[test]
    fn memory_of_groups_counts_until_they_are_merged() {
        let limits = crate::budget::QueryLimits { max_memory_bytes: 10_000, ..Default::default() };
        let budget = Budget::new(limits, &tokio_util::sync::CancellationToken::new());
        let windows = Windows { first_end_ns: 0, step_ns: 1, count: 100, range_ns: 1 };
        let aggregation = Arc::new(Aggregation { windows, group: GroupBy::All, test: None });
        let part = |value: &str| {
            let mut part = Partial::new(Arc::clone(&aggregation), &budget)?;
            let labels = [("a".to_owned(), value.to_owned())];
            match part.add(&mut StreamGroups::default(), 0, &labels, None, 0, b"", 0) {
                Err(NoPartial::Over(over)) => Err(over),
                _ => Ok(part),
            }
        };
        let mut sum = part("1").unwrap();
        for _ in 0..50 {
            sum.merge(part("1").unwrap()).unwrap();
        }
        let error = (0..50).try_for_each(|i| sum.merge(part(&i.to_string())?)).unwrap_err();
        assert!(error.to_string().contains("max_memory"), "{error}");
    }

    proptest! {
        #[test]
        fn windows_hold_what_lies_in_them(
            first_end_ns in -50i64..50, step_ns in 1i64..20, count in 0usize..10, range_ns in 0i64..40, time in -100i64..300,
        ) {
            let windows = Windows { first_end_ns, step_ns, count, range_ns };
            let want: Vec<usize> = (0..count)
                .filter(|k| {
                    let end = first_end_ns + step_ns * i64::try_from(*k).unwrap();
                    end - range_ns < time && time <= end
                })
                .collect();
            prop_assert_eq!(windows.holding(time).collect::<Vec<_>>(), want.clone());
            let (start, end) = windows.span();
            prop_assert!(want.is_empty() || (start..end).contains(&time));
        }

        #[test]
        fn parts_merge_to_the_whole(
            lines in prop::collection::vec((0i64..100, 0usize..4, 0usize..50, 0usize..3), 0..60), step_ns in 1i64..30,
        ) {
            let windows = Windows { first_end_ns: 10, step_ns, count: 5, range_ns: 25 };
            let aggregation = Arc::new(Aggregation { windows, group: GroupBy::All, test: None });
            let budget = Budget::default();
            let mut parts: Vec<(Partial, StreamGroups)> = (0..4)
                .map(|_| (Partial::new(Arc::clone(&aggregation), &budget).unwrap(), StreamGroups::default()))
                .collect();
            for (time_ns, stream, bytes, part) in lines {
                let labels = [("a".to_owned(), stream.to_string())];
                for part in [part, 3] {
                    let (partial, groups) = &mut parts[part];
                    partial.add(groups, stream, &labels, None, time_ns, b"", bytes).unwrap();
                }
            }
            let (whole, _) = parts.pop().unwrap();
            let (mut sum, _) = parts.pop().unwrap();
            for (part, _) in parts {
                sum.merge(part).unwrap();
            }
            prop_assert_eq!((sum.lines, sum.bytes, sum.passed), (whole.lines, whole.bytes, whole.passed));
            prop_assert_eq!(sum.into_groups(), whole.into_groups());
        }
    }
}
