//! Partitions that have records to read and stay at one offset.
//!
//! In: looks at partitions: how far they are, where they end. Out: how long each has not moved. Touches nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::record::TopicPartition;

/// How long a partition may stay at one offset until that is reported.
pub(super) const REPORTED: Duration = Duration::from_secs(60);

/// What the looks have found.
#[derive(Debug, Default)]
pub(super) struct Stalls(HashMap<TopicPartition, (i64, Instant)>);

impl Stalls {
    /// One look at a partition; how long it has stayed where it is although there is more, zero if there is not.
    pub fn look(&mut self, tp: &TopicPartition, reached: i64, end: i64, now: Instant) -> Duration {
        match self.0.get_mut(tp) {
            Some((at, since)) if *at == reached && reached < end => now.saturating_duration_since(*since),
            Some(known) => {
                *known = (reached, now);
                Duration::ZERO
            }
            None => {
                self.0.insert(tp.clone(), (reached, now));
                Duration::ZERO
            }
        }
    }

    /// Partitions that are read no longer.
    pub fn keep(&mut self, is_read: impl Fn(&TopicPartition) -> bool) {
        self.0.retain(|tp, _| is_read(tp));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_stalled_as_long_as_it_stays_where_it_is_and_there_is_more() {
        let (tp, start) = (TopicPartition::new("logs", 0), Instant::now());
        let mut stalls = Stalls::default();
        for (after, reached, end, want) in [
            (0, 5, 9, 0),
            (70, 5, 9, 70),
            (100, 5, 12, 100),
            // It moves, then stays again.
            (110, 6, 12, 0),
            (130, 6, 12, 20),
            // All is read, and new records come: it has not stayed since before.
            (140, 12, 12, 0),
            (900, 12, 12, 0),
            (905, 12, 13, 5),
        ] {
            let got = stalls.look(&tp, reached, end, start + Duration::from_secs(after));
            assert_eq!(got, Duration::from_secs(want), "{after} s, {reached} of {end}");
        }
        stalls.keep(|_| false);
        assert_eq!(stalls.look(&tp, 12, 13, start + Duration::from_secs(999)), Duration::ZERO);
    }
}
