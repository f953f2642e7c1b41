//! Which letters were replayed: one bit per letter, in the offsets of a consumer group.
//!
//! In: offsets that were replayed. Out: whether a letter was; the group's commits. Touches the network. The committed
//! offset of a partition is the first letter that was not replayed, so that the group's lag counts what waits; letters
//! behind it that were replayed all the same (a filter chose them) stand in the commit's metadata as ranges:
//! `replayed+3-5,9` are those at the committed offset + 3 to + 5 and + 9. Brokers take 4096 bytes of metadata
//! (`offset.metadata.max.bytes`): a choice too scattered for that is refused before anything is sent.

use std::collections::BTreeMap;

use millrace_log::admin::{Admin, Committed, TopicInfo};
use millrace_log::record::TopicPartition;

use crate::cli::cluster::failed;
use crate::exit::{Code, Failure};

const PREFIX: &str = "replayed+";
/// `offset.metadata.max.bytes` of a broker that nobody configured.
pub const MAX_METADATA: usize = 4096;

/// Of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replayed {
    /// All before it were replayed, or are of no interest any more.
    next: i64,
    /// From and to (both included), sorted, apart from each other and behind `next`.
    ranges: BTreeMap<i64, i64>,
}

impl Replayed {
    fn new(start: i64) -> Self {
        Self { next: start, ranges: BTreeMap::new() }
    }

    /// Reads a commit; metadata of somebody else is none of ours.
    fn read(offset: i64, metadata: &str) -> Self {
        let mut this = Self::new(offset);
        for range in metadata.strip_prefix(PREFIX).unwrap_or_default().split(',') {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            if let (Ok(from), Ok(to)) = (from.parse::<u32>(), to.parse::<u32>())
                && from <= to
            {
                this.ranges.insert(offset.saturating_add(i64::from(from)), offset.saturating_add(i64::from(to)));
            }
        }
        this
    }

    fn metadata(&self) -> String {
        let part = |(from, to): (&i64, &i64)| {
            let (from, to) = (from - self.next, to - self.next);
            if from == to { from.to_string() } else { format!("{from}-{to}") }
        };
        if self.ranges.is_empty() {
            return String::new();
        }
        format!("{PREFIX}{}", self.ranges.iter().map(part).collect::<Vec<_>>().join(","))
    }

    fn has(&self, offset: i64) -> bool {
        offset < self.next || self.ranges.range(..=offset).next_back().is_some_and(|(_, to)| offset <= *to)
    }

    /// Notes one letter, and that nothing lies between it and `after`, the letter that was met before it.
    fn add(&mut self, offset: i64, after: Option<i64>) {
        if self.has(offset) {
            return;
        }
        // Offsets without a letter (ends of transactions) must not keep ranges apart.
        let touches = |to: i64| to + 1 == offset || after.is_some_and(|after| to >= after);
        match self.ranges.range(..offset).next_back().map(|(from, to)| (*from, *to)) {
            Some((from, to)) if touches(to) => drop(self.ranges.insert(from, offset)),
            _ => drop(self.ranges.insert(offset, offset)),
        }
        if let Some(to) = self.ranges.remove(&(offset + 1)) {
            let from = self.ranges.range(..=offset).next_back().map_or(offset, |(from, _)| *from);
            self.ranges.insert(from, to);
        }
        self.settle();
    }

    /// Before `offset` nothing is left that was not replayed.
    fn forward(&mut self, offset: i64) {
        if offset > self.next {
            self.next = offset;
            while let Some((from, to)) = self.ranges.first_key_value().map(|(from, to)| (*from, *to)) {
                if from >= offset {
                    break;
                }
                self.ranges.remove(&from);
                if to >= offset {
                    self.ranges.insert(offset, to);
                }
            }
        }
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(to) = self.ranges.remove(&self.next) {
            self.next = to + 1;
        }
    }
}

/// Of all partitions of the dead-letter topic.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    topic: String,
    partitions: BTreeMap<i32, Replayed>,
    /// As the group has it.
    committed: BTreeMap<TopicPartition, Committed>,
    /// The letter met last in each partition.
    met: BTreeMap<i32, i64>,
}

impl Memory {
    /// What the group remembers.
    pub async fn load(admin: &mut Admin, group: &str, topic: &TopicInfo) -> Result<Self, Failure> {
        let committed = of_topic(admin.committed(group).await.map_err(failed)?, &topic.name);
        let partitions =
            committed.iter().map(|(tp, at)| (tp.partition, Replayed::read(at.offset, &at.metadata))).collect();
        Ok(Self { topic: topic.name.clone(), partitions, committed, met: BTreeMap::new() })
    }

    /// Whether a letter was replayed.
    pub fn has(&self, partition: i32, offset: i64) -> bool {
        self.partitions.get(&partition).is_some_and(|of| of.has(offset))
    }

    /// Partitions begin here now: retention removed what was before.
    pub fn start_at(&mut self, starts: &BTreeMap<i32, i64>) {
        for (partition, start) in starts {
            self.partitions.entry(*partition).or_insert_with(|| Replayed::new(*start)).forward(*start);
        }
    }

    /// Where each partition has its first letter that was not replayed.
    pub fn waiting_from(&self) -> BTreeMap<i32, i64> {
        self.partitions.iter().map(|(partition, of)| (*partition, of.next)).collect()
    }

    /// Reading begins here: every letter from these offsets on will be met.
    pub fn begin(&mut self, from: &BTreeMap<i32, i64>) {
        self.met = from.iter().map(|(partition, offset)| (*partition, offset - 1)).collect();
    }

    /// Notes that a letter was met on the way, to know that nothing lies between two neighbours (ends of transactions
    /// take offsets too). Gives the one before it.
    pub fn meet(&mut self, partition: i32, offset: i64) -> Option<i64> {
        let before = self.met.insert(partition, offset);
        if let (Some(before), Some(of)) = (before, self.partitions.get_mut(&partition))
            && before < of.next
        {
            of.forward(of.next.max(offset));
        }
        before
    }

    /// Notes a letter as replayed; `after` is what [`Memory::meet`] gave for it.
    pub fn add(&mut self, partition: i32, offset: i64, after: Option<i64>) {
        self.partitions.entry(partition).or_default().add(offset, after);
    }

    /// Bytes of metadata that the fullest partition needs.
    pub fn metadata_bytes(&self) -> usize {
        self.partitions.values().map(|of| of.metadata().len()).max().unwrap_or(0)
    }

    /// Commits to the group. What somebody else committed in between shows that another replay runs: then nothing is
    /// committed, and the caller stops.
    pub async fn save(&mut self, admin: &mut Admin, group: &str) -> Result<(), Failure> {
        let now = of_topic(admin.committed(group).await.map_err(failed)?, &self.topic);
        if now != self.committed {
            let text = format!(
                "another replay changed group `{group}` at the same time: letters may have been sent twice; \
                 wait until it has ended, check with `millrace dlq list --waiting`, and run again"
            );
            return Err(Failure::text(Code::Failed, text));
        }
        let wanted: BTreeMap<TopicPartition, Committed> = self
            .partitions
            .iter()
            .map(|(partition, of)| {
                let at = Committed { offset: of.next, metadata: of.metadata() };
                (TopicPartition::new(self.topic.as_str(), *partition), at)
            })
            .filter(|(tp, at)| self.committed.get(tp) != Some(at))
            .collect();
        if !wanted.is_empty() {
            admin.commit_with(group, &wanted).await.map_err(failed)?;
            self.committed.extend(wanted);
        }
        Ok(())
    }
}

fn of_topic(all: BTreeMap<TopicPartition, Committed>, topic: &str) -> BTreeMap<TopicPartition, Committed> {
    all.into_iter().filter(|(tp, _)| &*tp.topic == topic).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_replayed_is_read_again() {
        let mut of = Replayed::new(10);
        for (offset, next, metadata) in [
            (13, 10, "replayed+3"),
            (15, 10, "replayed+3,5"),
            (14, 10, "replayed+3-5"),
            (10, 11, "replayed+2-4"),
            (12, 11, "replayed+1-4"),
            (11, 16, ""),
            (20, 16, "replayed+4"),
        ] {
            of.add(offset, None);
            assert_eq!((of.next, of.metadata().as_str()), (next, metadata), "after {offset}");
            assert_eq!(Replayed::read(of.next, &of.metadata()), of);
            assert!(of.has(offset) && !of.has(of.next));
        }
        of.forward(18);
        assert_eq!((of.next, of.metadata().as_str()), (18, "replayed+2"));
        of.forward(20);
        assert_eq!((of.next, of.metadata().as_str()), (21, ""));
    }

    #[test]
    fn ends_of_transactions_keep_nothing_apart() {
        let mut of = Replayed::new(0);
        // 2 and 3 are ends of transactions.
        of.add(1, Some(0));
        of.add(4, Some(1));
        assert_eq!(of.metadata(), "replayed+1-4");
        of.add(8, Some(6));
        assert_eq!(of.metadata(), "replayed+1-4,8");
    }

    #[test]
    fn foreign_metadata_means_nothing() {
        for text in ["", "hello", "replayed+", "replayed+x,5-2,-1,99999999999"] {
            assert_eq!(Replayed::read(7, text), Replayed::new(7), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn it_agrees_with_a_set(offsets in proptest::collection::vec(0i64..60, 0..60), start in 0i64..20) {
            let mut of = Replayed::new(start);
            let mut set = std::collections::BTreeSet::new();
            for offset in offsets {
                of.add(offset, None);
                set.insert(offset);
                let again = Replayed::read(of.next, &of.metadata());
                for o in 0..70 {
                    proptest::prop_assert_eq!(again.has(o), o < start || set.contains(&o), "{}", o);
                }
            }
        }
    }
}
