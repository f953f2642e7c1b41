//! Where each partition is read on: intervals without overlap, holes between them, epochs.
//!
//! In: ranges of the log, records, stretches that can't be read. Out: [`Stretch`]es that follow each other, and [`Hole`]s as
//! they are found. Touches nothing.
//!
//! Intervals are made of positions: what lies between the last record and the next is control records or compacted ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::batch::Stretch;
use super::delivery::Known;
use super::interval::{Hole, HoleCause, Interval};
use super::reader::Positioned;
use crate::record::TopicPartition;
use crate::topic_id::TopicId;

/// Where one partition is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub epoch: u64,
    /// The id of its topic in that life, where the log has ids.
    pub topic_id: Option<TopicId>,
    /// The next offset; `None`: wherever its first record stands.
    pub next: Option<i64>,
    /// What was lost before it and not handed over yet.
    hole: Option<Hole>,
}

/// What a look at the log's range says about a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// It is within the range.
    Stays,
    /// Records are gone.
    Lost(Hole),
    /// The log ends before it: the topic was created anew, or cut.
    Short,
    /// The topic has another id: it was deleted and created anew.
    Anew,
}

/// All places of a consumer.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<TopicPartition, Place>);

impl Places {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn get(&self, of: &TopicPartition) -> Option<&Place> {
        self.0.get(of)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&TopicPartition, &Place)> {
        self.0.iter()
    }

    /// A partition that was not read yet.
    pub fn add(&mut self, tp: TopicPartition, epoch: u64, next: Option<i64>, topic_id: Option<TopicId>) {
        self.0.insert(tp, Place { epoch, topic_id, next, hole: None });
    }

    /// The same from a known position, within the log's range; `topic_id`: of the topic as it is now.
    pub fn add_known(
        &mut self,
        tp: &TopicPartition,
        known: Known,
        topic_id: Option<TopicId>,
        range: (i64, i64),
        now_ms: i64,
    ) -> Moved {
        if TopicId::differ(known.topic_id, topic_id) {
            self.add(tp.clone(), known.epoch + 1, Some(range.0), topic_id);
            return Moved::Anew;
        }
        self.add(tp.clone(), known.epoch, Some(known.next), topic_id.or(known.topic_id));
        self.fit(tp, range, now_ms)
    }

    /// Partitions of a topic whose id is another one by now, where they are read.
    pub fn outdated(&self, tp: &TopicPartition, topic_id: Option<TopicId>) -> Option<Known> {
        let place = self.0.get(tp).filter(|place| TopicId::differ(place.topic_id, topic_id))?;
        Some(Known { epoch: place.epoch, next: place.next.unwrap_or(0), topic_id: place.topic_id })
    }

    /// Moves a place into the log's range.
    pub fn fit(&mut self, tp: &TopicPartition, (low, high): (i64, i64), now_ms: i64) -> Moved {
        let Some(place) = self.0.get_mut(tp) else { return Moved::Stays };
        match place.next {
            Some(next) if next > high => {
                *place = Place { epoch: place.epoch + 1, topic_id: place.topic_id, next: Some(low), hole: None };
                Moved::Short
            }
            Some(next) if next < low => Moved::Lost(place.skip(tp, low, HoleCause::Retention, now_ms)),
            Some(_) => Moved::Stays,
            None => {
                place.next = Some(low);
                Moved::Stays
            }
        }
    }

    /// Records before `to` can't be read.
    pub fn unreadable(&mut self, tp: &TopicPartition, from: i64, to: i64, now_ms: i64) -> Option<Hole> {
        let place = self.0.get_mut(tp)?;
        place.next.get_or_insert(from);
        place.next.filter(|next| *next < to).map(|_| place.skip(tp, to, HoleCause::Unreadable, now_ms))
    }

    /// Groups records by partition and moves the places on.
    pub fn advance<R: Positioned>(&mut self, records: Vec<R>) -> Vec<Stretch<R>> {
        let mut groups: Vec<(TopicPartition, Vec<R>)> = Vec::new();
        let mut group_of: BTreeMap<TopicPartition, usize> = BTreeMap::new();
        // Records come in runs of one partition.
        let mut current = usize::MAX;
        for record in records {
            if groups.get(current).is_none_or(|(tp, _)| tp != record.partition()) {
                let tp = record.partition();
                current = group_of.get(tp).copied().unwrap_or_else(|| {
                    group_of.insert(tp.clone(), groups.len());
                    groups.push((tp.clone(), Vec::new()));
                    groups.len() - 1
                });
            }
            if let Some((_, group)) = groups.get_mut(current) {
                group.push(record);
            }
        }
        let stretch = |(tp, mut records): (TopicPartition, Vec<R>)| {
            let place = self.0.get_mut(&tp)?;
            let first = records.first()?.offset();
            let next = *place.next.get_or_insert(first);
            if first < next {
                // Left from before a new assignment.
                records.retain(|record| record.offset() >= next);
            }
            let to = records.last()?.offset() + 1;
            place.next = Some(to);
            let (epoch, topic_id) = (place.epoch, place.topic_id);
            let interval = Interval { topic: tp.topic, partition: tp.partition, epoch, from: next, to, topic_id };
            Some(Stretch { interval, hole: place.hole.take(), records })
        };
        groups.into_iter().filter_map(stretch).collect()
    }
}

impl Place {
    /// Goes on at `to`; the new hole, which also grows what was lost just before.
    fn skip(&mut self, tp: &TopicPartition, to: i64, cause: HoleCause, now_ms: i64) -> Hole {
        let next = self.next.unwrap_or(to);
        let hole = |from| Hole {
            interval: Interval {
                topic: Arc::clone(&tp.topic),
                partition: tp.partition,
                epoch: self.epoch,
                from,
                to,
                topic_id: self.topic_id,
            },
            cause,
            found_ms: now_ms,
        };
        let from = self.hole.as_ref().map_or(next, |before| before.interval.from);
        let (new, all) = (hole(next), hole(from));
        self.next = Some(to);
        self.hole = Some(all);
        new
    }
}
