//! Where reading of the journal stands: the entry that was taken last, and the numbers of those behind it.
//!
//! In: cursors of entries, in the order of the journal; what was kept of the last run. Out: a number for each entry, what is
//! missing between two, and the bookmark to keep. Touches nothing.
//!
//! # Numbers
//! A reader of the log drops what has a number that is not above the highest of its source. So an entry that is read again
//! after a crash must have the number that it had, and a new one must never have a number below one that was given.
//! journald numbers its entries itself: a cursor holds `s`, the id of a series, and `i`, a number that rises in it. The number
//! of an entry here is `epoch << 40 | i`. The epoch rises, and is synced before an entry of the new one is sent, whenever the
//! series is another one, its number does not rise, or the configuration was changed (entries might go to other partitions
//! than before). Until then everything is a function of the journal, and a killed agent brings nothing twice.
//!
//! Where epochs would change all the time (journals of several hosts in one folder), or cursors have no numbers, entries
//! are counted instead: still never a number twice, but what is read again after a crash has a new number and comes twice.
//! Each start begins a new epoch then.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bits of a number that journald's own takes.
const BITS: u32 = 40;
/// A cursor that is longer is none.
pub(super) const MAX_CURSOR: usize = 1024;
/// So many epochs within [`HASTE_MS`], and entries are counted.
const HASTE: usize = 16;
const HASTE_MS: i64 = 60_000;

/// What is kept for the next start, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Bookmark {
    /// EntryCursor of the last entry; empty if there was none.
    cursor: String,
    /// Whether that entry was read: else it only says where reading began.
    exact: bool,
    epoch: u32,
    /// Whether that entry is of this epoch.
    begun: bool,
    counted: bool,
    /// Of the configuration, when it was read.
    shape: u32,
}

/// The parts of a cursor that are used here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct EntryCursor {
    series: String,
    number: u64,
}

impl EntryCursor {
    /// `s=…;i=…;b=…;m=…;t=…;x=…` with hexadecimal numbers, parts in any order.
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let part = |name| text.split(';').find_map(|part| part.strip_prefix(name)).filter(|value| !value.is_empty());
        let number = u64::from_str_radix(part("i=")?, 16).ok().filter(|number| *number >> BITS == 0)?;
        Some(Self { series: part("s=")?.to_owned(), number })
    }
}

/// What comes before an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Nothing, as far as is known.
    Nothing,
    /// So many entries.
    Entries(u64),
    /// The entry that was read last is gone, and maybe others with it.
    Unknown,
}

/// What to do with an entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EntryAction {
    /// It was taken already.
    Repeat,
    /// It has this number.
    Take { number: u64, missing: Missing },
    /// A new epoch must begin: [`JournalPosition::begin_epoch`], keep the bookmark, and ask again.
    NewEpoch,
}

/// Where reading stands.
#[derive(Debug, Clone)]
pub(super) struct JournalPosition {
    epoch: u32,
    counted: bool,
    shape: u32,
    /// Text of the last cursor; empty if there was none.
    cursor: String,
    last: Option<EntryCursor>,
    exact: bool,
    /// Series of the epoch, once an entry of it was taken.
    series: Option<String>,
    /// The highest number of the epoch.
    high: u64,
    /// journalctl has just begun: its first entry may be the last one again.
    fresh: bool,
    /// When the last epochs began.
    epochs: VecDeque<i64>,
}

impl JournalPosition {
    /// From what was kept. `shape` stands for the configuration. `Err` if it can't be read. The second says that a new epoch
    /// has begun, which must be kept before anything is sent.
    pub fn restore(kept: Option<&[u8]>, shape: u32) -> Result<(Self, bool), serde_json::Error> {
        let Some(kept) = kept else {
            let place = Self::at(Bookmark { epoch: 1, shape, ..Bookmark::default() });
            return Ok((place, false));
        };
        let mut kept: Bookmark = serde_json::from_slice(kept)?;
        let turned = kept.counted || kept.shape != shape;
        // Another selection may leave the last entry out: its absence means nothing.
        kept.exact &= kept.shape == shape;
        if turned {
            kept = Bookmark { epoch: kept.epoch.saturating_add(1), begun: false, counted: false, shape, ..kept };
        }
        Ok((Self::at(kept), turned))
    }

    fn at(kept: Bookmark) -> Self {
        let last = EntryCursor::parse(kept.cursor.as_bytes());
        let of_epoch = last.as_ref().filter(|_| kept.begun);
        Self {
            epoch: kept.epoch,
            counted: kept.counted,
            shape: kept.shape,
            series: of_epoch.map(|last| last.series.clone()),
            high: of_epoch.map_or(0, |last| last.number),
            cursor: kept.cursor,
            last,
            exact: kept.exact,
            fresh: true,
            epochs: VecDeque::new(),
        }
    }

    /// Begins behind an entry that is not read itself.
    pub fn begin_at(&mut self, cursor: &[u8]) {
        self.cursor = String::from_utf8_lossy(cursor).into_owned();
        self.last = EntryCursor::parse(cursor);
        self.exact = false;
    }

    /// What journalctl begins with; it gives this entry again, if it is there.
    pub fn cursor(&self) -> Option<&str> {
        (!self.cursor.is_empty()).then_some(self.cursor.as_str())
    }

    /// journalctl was started.
    pub fn started(&mut self) {
        self.fresh = true;
    }

    /// An entry; `whole` says that nothing of the journal is left out, so that its numbers have no gaps.
    pub fn step(&mut self, cursor: &[u8], whole: bool) -> EntryAction {
        let found = EntryCursor::parse(cursor);
        if self.fresh {
            let same = self.cursor.as_bytes() == cursor || found.is_some() && found == self.last;
            if same && !self.cursor.is_empty() {
                self.fresh = false;
                return EntryAction::Repeat;
            }
        }
        let number = if self.counted {
            self.high + 1
        } else {
            match &found {
                Some(found) => match &self.series {
                    Some(series) if *series != found.series || found.number <= self.high => {
                        return EntryAction::NewEpoch;
                    }
                    _ => found.number,
                },
                None => return EntryAction::NewEpoch,
            }
        };
        let missing = self.missing(found.as_ref(), whole);
        self.fresh = false;
        if !self.counted && self.series.is_none() {
            self.series = found.as_ref().map(|found| found.series.clone());
        }
        (self.high, self.last, self.exact) = (number, found, true);
        self.cursor = String::from_utf8_lossy(cursor).into_owned();
        EntryAction::Take { number: u64::from(self.epoch) << BITS | number, missing }
    }

    fn missing(&self, found: Option<&EntryCursor>, whole: bool) -> Missing {
        match (&self.last, found) {
            (Some(last), Some(found)) if last.series == found.series => {
                match found.number.saturating_sub(last.number) {
                    0 | 1 => Missing::Nothing,
                    more if whole => Missing::Entries(more - 1),
                    _ if self.fresh && self.exact => Missing::Unknown,
                    _ => Missing::Nothing,
                }
            }
            _ if self.fresh && self.exact => Missing::Unknown,
            _ => Missing::Nothing,
        }
    }

    /// A new epoch begins with the next entry. The bookmark must be durable, and everything that was taken acknowledged,
    /// before it is taken.
    pub fn begin_epoch(&mut self, cursor: &[u8], now_ms: i64) {
        self.epoch = self.epoch.saturating_add(1);
        (self.series, self.high) = (None, 0);
        self.epochs.push_back(now_ms);
        if self.epochs.len() > HASTE {
            self.epochs.pop_front();
        }
        let hasty = self.epochs.len() == HASTE && self.epochs.front().is_some_and(|first| now_ms - first < HASTE_MS);
        self.counted = hasty || EntryCursor::parse(cursor).is_none();
    }

    /// Something was not sent and must be read again from `kept`, under new numbers.
    pub fn back_to(&mut self, kept: Option<&[u8]>) -> Result<(), serde_json::Error> {
        let (epoch, epochs) = (self.epoch, std::mem::take(&mut self.epochs));
        let (place, _) = Self::restore(kept, self.shape)?;
        *self = Self { epoch: epoch.saturating_add(1), series: None, high: 0, counted: false, epochs, ..place };
        Ok(())
    }

    /// Whether what is read again after a crash has its number.
    pub fn is_counted(&self) -> bool {
        self.counted
    }

    /// To be kept once everything that was taken is acknowledged.
    pub fn bookmark(&self) -> Bytes {
        let kept = Bookmark {
            cursor: self.cursor.clone(),
            exact: self.exact,
            epoch: self.epoch,
            begun: self.series.is_some(),
            counted: self.counted,
            shape: self.shape,
        };
        serde_json::to_vec(&kept).unwrap_or_default().into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cursor(series: &str, number: u64) -> Vec<u8> {
        format!("s={series};i={number:x};b=0;m=1;t=2;x=3").into_bytes()
    }

    fn new() -> JournalPosition {
        JournalPosition::restore(None, 7).unwrap().0
    }

    fn take(place: &mut JournalPosition, series: &str, number: u64, whole: bool) -> EntryAction {
        match place.step(&cursor(series, number), whole) {
            EntryAction::NewEpoch => {
                place.begin_epoch(&cursor(series, number), 0);
                assert!(matches!(place.step(&cursor(series, number), whole), EntryAction::Take { .. }));
                EntryAction::NewEpoch
            }
            step => step,
        }
    }

    fn took(epoch: u64, number: u64, missing: Missing) -> EntryAction {
        EntryAction::Take { number: epoch << 40 | number, missing }
    }

    #[test]
    fn numbers_are_those_of_the_journal_until_its_series_changes() {
        use Missing::{Entries, Nothing};
        let mut place = new();
        for (series, number, want) in [
            ("a", 5, took(1, 5, Nothing)),
            ("a", 6, took(1, 6, Nothing)),
            ("a", 9, took(1, 9, Entries(2))),
            ("b", 3, EntryAction::NewEpoch),
            ("b", 4, took(2, 4, Nothing)),
            ("a", 10, EntryAction::NewEpoch),
            ("a", 10, EntryAction::NewEpoch),
            ("a", 11, took(4, 11, Nothing)),
        ] {
            assert_eq!(take(&mut place, series, number, true), want, "{series} {number}");
        }
    }

    #[test]
    fn what_is_gone_between_two_runs_is_told() {
        use Missing::{Entries, Nothing, Unknown};
        for (whole, series, number, want) in [
            (true, "a", 5, EntryAction::Repeat),
            (true, "a", 6, took(1, 6, Nothing)),
            (true, "a", 9, took(1, 9, Entries(3))),
            (false, "a", 5, EntryAction::Repeat),
            (false, "a", 6, took(1, 6, Nothing)),
            (false, "a", 9, took(1, 9, Unknown)),
        ] {
            let mut place = new();
            take(&mut place, "a", 5, whole);
            let (mut again, turned) = JournalPosition::restore(Some(&place.bookmark()), 7).unwrap();
            assert!(!turned && again.cursor() == Some("s=a;i=5;b=0;m=1;t=2;x=3"));
            assert_eq!(again.step(&cursor(series, number), whole), want, "{whole} {series} {number}");
            if want == EntryAction::Repeat {
                assert_eq!(again.step(&cursor(series, 8), false), took(1, 8, Nothing), "only the first tells");
            }
        }
        // The series is another one: nothing of the old is there any more.
        let mut place = new();
        take(&mut place, "a", 5, true);
        let (mut again, _) = JournalPosition::restore(Some(&place.bookmark()), 7).unwrap();
        assert_eq!(again.step(&cursor("b", 1), true), EntryAction::NewEpoch);
        again.begin_epoch(&cursor("b", 1), 0);
        assert_eq!(again.step(&cursor("b", 1), true), took(2, 1, Unknown));
    }

    #[test]
    fn another_configuration_begins_an_epoch_and_tells_no_gap() {
        let mut place = new();
        take(&mut place, "a", 5, false);
        let (mut again, turned) = JournalPosition::restore(Some(&place.bookmark()), 8).unwrap();
        assert!(turned);
        assert_eq!(again.step(&cursor("a", 9), false), took(2, 9, Missing::Nothing));
        assert!(JournalPosition::restore(Some(b"soup"), 7).is_err());
    }

    #[test]
    fn reading_begins_behind_the_end_without_a_gap() {
        let mut place = new();
        place.begin_at(&cursor("a", 50));
        let (mut place, _) = JournalPosition::restore(Some(&place.bookmark()), 7).unwrap();
        assert_eq!(place.step(&cursor("a", 50), true), EntryAction::Repeat);
        assert_eq!(place.step(&cursor("a", 51), true), took(1, 51, Missing::Nothing));
        let mut place = new();
        place.begin_at(&cursor("a", 50));
        assert_eq!(place.step(&cursor("a", 60), false), took(1, 60, Missing::Nothing));
    }

    #[test]
    fn interleaved_series_and_strange_cursors_are_counted() {
        let mut place = new();
        let mut epochs = 0;
        for n in 1..200 {
            epochs +=
                usize::from(take(&mut place, if n % 2 == 0 { "a" } else { "b" }, n, true) == EntryAction::NewEpoch);
        }
        assert!(epochs == HASTE && place.is_counted(), "{epochs}");
        let (again, turned) = JournalPosition::restore(Some(&place.bookmark()), 7).unwrap();
        assert!(turned && !again.is_counted() && again.epoch == place.epoch + 1);
        for strange in ["", "x", "s=a;i=zz", "s=a;i=ffffffffffffffff", "s=;i=1"] {
            let mut place = new();
            assert_eq!(place.step(strange.as_bytes(), true), EntryAction::NewEpoch, "{strange}");
            place.begin_epoch(strange.as_bytes(), 0);
            assert_eq!(place.step(strange.as_bytes(), true), took(2, 1, Missing::Nothing));
        }
    }

    #[test]
    fn what_was_not_sent_is_read_again_under_new_numbers() {
        let mut place = new();
        take(&mut place, "a", 5, true);
        let kept = place.bookmark();
        take(&mut place, "a", 6, true);
        place.back_to(Some(&kept)).unwrap();
        assert_eq!(place.step(&cursor("a", 5), true), EntryAction::Repeat);
        assert_eq!(place.step(&cursor("a", 6), true), took(2, 6, Missing::Nothing));
    }

    proptest! {
        /// Kills at any place, bookmarks as old as may be: numbers of an entry stay, and rise.
        #[test]
        fn an_entry_has_one_number_over_kills(
            runs in proptest::collection::vec((1usize..20, 0usize..20), 1..8),
            jumps in proptest::collection::vec(0u8..20, 60),
        ) {
            // A journal: numbers rise, now and then another series begins.
            let (mut series, mut number) = (0, 0);
            let journal: Vec<Vec<u8>> = jumps
                .iter()
                .map(|jump| {
                    if *jump == 0 { (series, number) = (series + 1, 0) }
                    number += 1;
                    cursor(&series.to_string(), number)
                })
                .collect();
            let mut numbers: Vec<Option<u64>> = vec![None; journal.len()];
            let mut kept: Option<Bytes> = None;
            for (count, age) in runs {
                let (mut place, turned) = JournalPosition::restore(kept.as_deref(), 7).unwrap();
                prop_assert!(!turned);
                let from = place.cursor().map_or(0, |at| journal.iter().position(|c| c == at.as_bytes()).unwrap());
                let mut marks = vec![kept.clone()];
                for (at, entry) in journal.iter().enumerate().skip(from).take(count) {
                    let step = match place.step(entry, true) {
                        EntryAction::NewEpoch => {
                            // Everything before is acknowledged and the bookmark durable.
                            place.begin_epoch(entry, at as i64 * HASTE_MS);
                            marks = vec![Some(place.bookmark())];
                            place.step(entry, true)
                        }
                        step => step,
                    };
                    match step {
                        EntryAction::Repeat => {}
                        EntryAction::Take { number, .. } => {
                            if let Some(before) = numbers[at] {
                                prop_assert_eq!(before, number);
                            }
                            numbers[at] = Some(number);
                            marks.push(Some(place.bookmark()));
                        }
                        EntryAction::NewEpoch => prop_assert!(false, "a turn was made"),
                    }
                }
                let index = marks.len().saturating_sub(1 + age);
                kept = marks.swap_remove(index);
            }
            let given: Vec<u64> = numbers.into_iter().flatten().collect();
            prop_assert!(given.is_sorted_by(|a, b| a < b));
        }
    }
}
