//! Records of several partitions, handed over together, with what they cover.
//!
//! Touches nothing.

use super::interval::{Hole, Interval};
use crate::record::TopicPartition;

/// Records of one partition that follow each other.
#[derive(Debug)]
pub struct Stretch<R> {
    /// What they cover: also control and compacted records, which nobody is given.
    pub interval: Interval,
    /// What was lost just before them.
    pub hole: Option<Hole>,
    /// The records, by offset.
    pub records: Vec<R>,
}

/// What one poll gave.
#[derive(Debug)]
pub struct Batch<R> {
    /// The assignment by the group in which they were read; 0 without a group.
    pub generation: u64,
    /// One stretch for each partition.
    pub stretches: Vec<Stretch<R>>,
}

impl<R> Batch<R> {
    /// How many records.
    pub fn len(&self) -> usize {
        self.stretches.iter().map(|stretch| stretch.records.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.stretches.iter().all(|stretch| stretch.records.is_empty())
    }

    /// Behind it, for each of its partitions.
    pub fn next(&self) -> Vec<(TopicPartition, i64)> {
        self.stretches.iter().map(|stretch| (stretch.interval.topic_partition(), stretch.interval.to)).collect()
    }

    /// Takes all records out, partition by partition; [`Batch::refill`] puts them back.
    pub fn take_records(&mut self) -> (Vec<R>, Vec<usize>) {
        let counts = self.stretches.iter().map(|stretch| stretch.records.len()).collect();
        let mut stretches = self.stretches.iter_mut();
        let mut all = stretches.next().map(|first| std::mem::take(&mut first.records)).unwrap_or_default();
        stretches.for_each(|stretch| all.append(&mut stretch.records));
        (all, counts)
    }

    /// Puts back what [`Batch::take_records`] took.
    pub fn refill(&mut self, records: Vec<R>, counts: &[usize]) {
        let mut records = records.into_iter();
        for (stretch, count) in self.stretches.iter_mut().zip(counts) {
            stretch.records.extend(records.by_ref().take(*count));
        }
    }

    /// All records, partition by partition.
    pub fn into_records(mut self) -> Vec<R> {
        self.take_records().0
    }
}
