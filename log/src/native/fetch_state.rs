//! Assigned partitions, where each stands, and the queue of what happened to them.
//!
//! In: positions, events. Out: the same to whoever fetches and whoever reads. Touches nothing.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::error::WireError;
use crate::record::TopicPartition;
use crate::topic_id::TopicId;

/// Where to start reading a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// The oldest record there is.
    Earliest,
    /// What comes from now on.
    Latest,
    /// This offset; if it is gone, that is reported before anything else of the partition.
    Offset(i64),
}

/// Batches of one partition, as they came.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub tp: TopicPartition,
    /// The position that was asked for: batches may begin before it.
    pub from: i64,
    /// The position behind them.
    pub next: i64,
    /// Whole batches.
    pub records: Bytes,
    /// Producer id and first offset of each aborted transaction in them.
    pub aborted: Vec<(i64, i64)>,
}

/// What happened to an assigned partition.
#[derive(Debug)]
pub(crate) enum Event {
    /// Records came.
    Fetched(Fetched),
    /// Its end was reached, for now.
    End { tp: TopicPartition },
    /// Its position is gone.
    OutOfRange { tp: TopicPartition, offset: i64, log_start: i64 },
    /// Its topic was deleted and created anew since its position was set.
    Recreated { tp: TopicPartition },
    /// It can't be read at the moment, for a reason that may last.
    Failed { tp: TopicPartition, error: WireError },
}

#[derive(Debug)]
pub(super) struct Queued {
    pub assignment: u64,
    pub event: Event,
    pub bytes: usize,
}

/// A partition to read, where to start, and the id of its topic if that is known.
pub(crate) type Start = (TopicPartition, StartAt, Option<TopicId>);

#[derive(Debug)]
pub(super) struct Place {
    pub start: StartAt,
    /// The id of its topic as of the time when the position was set.
    pub topic_id: Option<TopicId>,
    /// The next offset to ask for, once it is known.
    pub position: Option<i64>,
    /// Bytes of it in the queue.
    pub queued: usize,
    /// A request for it is on its way.
    pub busy: bool,
    /// Nothing is asked until a new position is set.
    pub stopped: bool,
    pub retry_at: Option<Instant>,
    pub wait: Duration,
    /// Looks in a row that did not find it.
    pub misses: u32,
    /// The end that was reported last.
    pub told_end: Option<i64>,
    pub max_bytes: i32,
    /// Its end as of the last answer.
    pub end: Option<i64>,
}

impl Place {
    pub fn new(start: StartAt, topic_id: Option<TopicId>, wait: Duration, max_bytes: i32) -> Self {
        let position = match start {
            StartAt::Offset(offset) => Some(offset),
            StartAt::Earliest | StartAt::Latest => None,
        };
        Self {
            start,
            topic_id,
            position,
            queued: 0,
            busy: false,
            stopped: false,
            retry_at: None,
            wait,
            misses: 0,
            told_end: None,
            max_bytes,
            end: None,
        }
    }

    /// Whether it is still of the topic that the cluster knows by its name; one whose id was not known yet is from now on.
    pub fn is_of(&mut self, topic_id: Option<TopicId>) -> bool {
        let same = !TopicId::differ(self.topic_id, topic_id);
        self.topic_id = self.topic_id.or(topic_id);
        same
    }

    /// Nothing is asked for a while, longer each time.
    pub fn pause(&mut self, longest: Duration) {
        self.retry_at = Some(Instant::now() + self.wait);
        self.wait = (self.wait * 2).min(longest);
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub assignment: u64,
    pub places: BTreeMap<TopicPartition, Place>,
    pub queue: VecDeque<Queued>,
    pub queued: usize,
    /// Which partition comes first in the next request.
    pub turn: usize,
    /// When topics may be looked for again.
    pub look_at: Option<Instant>,
}

impl State {
    /// A place of the current assignment.
    pub fn current(&mut self, assignment: u64, tp: &TopicPartition) -> Option<&mut Place> {
        if self.assignment != assignment {
            return None;
        }
        self.places.get_mut(tp)
    }

    /// Adds an event. False if it is left out: one sign of trouble at a time, a reader that looks away for long must not
    /// find thousands.
    pub fn push(&mut self, event: Event, bytes: usize) -> bool {
        let is_trouble = |event: &Event| matches!(event, Event::Failed { .. });
        if is_trouble(&event) && self.queue.iter().any(|queued| is_trouble(&queued.event)) {
            return false;
        }
        self.queued += bytes;
        self.queue.push_back(Queued { assignment: self.assignment, event, bytes });
        true
    }
}
