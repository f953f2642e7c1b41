//! One transactional id: its producer, its transaction, and what may come next. Pure: no I/O, no clock of its own.
//!
//! In: what producers ask for, with the time in ms. Out: the state to write before it counts, or Kafka's refusal. Touches
//! nothing. Leaves writing, markers and waiting to [`super`].
//!
//! Empty → Ongoing (partitions are added) → PrepareCommit or PrepareAbort (decided: markers are written) → CompleteCommit or
//! CompleteAbort → Ongoing … Sources: KIP-98, KIP-360 (a producer that goes on after an error), KIP-890 (second version: the
//! epoch rises with the end of each transaction, and partitions are added by writing to them).

use std::collections::BTreeSet;

use millrace_log::record::TopicPartition;

/// The last epoch that a producer may have: the one above it serves to fence that one.
pub const LAST_EPOCH: i16 = i16::MAX - 1;
const NONE: i64 = -1;

/// Where a transaction is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// None has begun since the producer was given its epoch.
    Empty,
    /// Partitions have been added.
    Ongoing,
    /// It will be committed, whatever happens.
    PrepareCommit,
    /// It will be aborted, whatever happens.
    PrepareAbort,
    /// All markers stand.
    CompleteCommit,
    /// All markers stand.
    CompleteAbort,
}

/// Names of all states as Kafka's tools know them, also of those that are never seen here.
pub const STATE_NAMES: [&str; 8] = [
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "Dead",
    "PrepareEpochFence",
];

impl State {
    /// As Kafka's tools print it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::PrepareCommit => "PrepareCommit",
            Self::PrepareAbort => "PrepareAbort",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
        }
    }

    /// Whether it is decided and its markers are not all written.
    pub const fn is_prepared(self) -> bool {
        matches!(self, Self::PrepareCommit | Self::PrepareAbort)
    }
}

/// Which protocol of transactions a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Protocol {
    /// Before the second part of KIP-890.
    #[default]
    One,
    /// The epoch rises with each transaction.
    Two,
}

/// Why a producer is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TxnError {
    /// Not a request that makes sense.
    #[error("{0}")]
    Invalid(&'static str),
    /// Time-out out of bounds.
    #[error("transaction.timeout.ms must be above 0 and at most {max_ms} (broker.transaction.max_timeout)")]
    Timeout {
        /// The most there may be.
        max_ms: i64,
    },
    /// The producer id is not that of the transactional id.
    #[error("the producer id does not belong to the transactional id: restart the producer")]
    Mapping,
    /// A newer producer has taken over.
    #[error("a newer producer with the same transactional id has taken over: use each id for one producer only")]
    Fenced,
    /// The one before is still being ended.
    #[error("the previous transaction is still being completed: try again")]
    Concurrent,
    /// Not in this state.
    #[error("the transaction is {}: it can't be ended this way", .0.name())]
    State(State),
    /// The partition is not part of the open transaction.
    #[error("the partition was not added to an open transaction: abort the transaction and start a new one")]
    NotAdded,
    /// No such transactional id.
    #[error("unknown transactional id")]
    NotFound,
    /// Nothing can be decided now.
    #[error("the transaction coordinator is not available: {0}")]
    NotAvailable(String),
}

/// A producer: its id and epoch.
pub type ProducerEpoch = (i64, i16);

/// Everything that is kept of a transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Txn {
    /// Id of the producer.
    pub producer_id: i64,
    /// Id it had before, -1 for none.
    pub previous_id: i64,
    /// Id that it takes on when the transaction is complete, -1 for none.
    pub next_id: i64,
    /// Its epoch, -1 before the first.
    pub epoch: i16,
    /// Epoch it had before, for repeated requests; -1 for none.
    pub last_epoch: i16,
    /// Time after which an open transaction is aborted, ms.
    pub timeout_ms: i32,
    /// Where it is.
    pub state: State,
    /// Partitions with records in the transaction; while it is being ended, those without a marker.
    pub partitions: BTreeSet<TopicPartition>,
    /// When the transaction began, ms since 1970, -1 for none.
    pub start_ms: i64,
    /// When anything last changed.
    pub update_ms: i64,
    /// What its client speaks.
    pub protocol: Protocol,
}

/// What an end of a transaction asks for.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// Commit, else abort.
    pub commit: bool,
    /// What the client speaks.
    pub protocol: Protocol,
}

/// What a request leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// Nothing changes: it was done before.
    Done,
    /// This must be written, then it counts.
    Write(Txn),
}

/// What a new producer leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Init {
    /// This must be written, then the producer has its id and epoch from it.
    Ready(Txn),
    /// A transaction is open: this aborts and fences it, and the producer asks again.
    Abort(Txn),
}

impl Txn {
    /// That of a transactional id that is not known yet.
    pub fn new(producer_id: i64, timeout_ms: i32, now_ms: i64) -> Self {
        Self {
            producer_id,
            previous_id: NONE,
            next_id: NONE,
            epoch: -1,
            last_epoch: -1,
            timeout_ms,
            state: State::Empty,
            partitions: BTreeSet::new(),
            start_ms: NONE,
            update_ms: now_ms,
            protocol: Protocol::One,
        }
    }

    /// Whether the next epoch needs a fresh producer id.
    pub fn is_exhausted(&self) -> bool {
        self.epoch >= LAST_EPOCH
    }

    /// Id and epoch as its producer knows them once it has ended its transaction.
    pub fn producer(&self) -> ProducerEpoch {
        if self.next_id == NONE { (self.producer_id, self.epoch) } else { (self.next_id, 0) }
    }

    fn check_producer(&self, (id, epoch): ProducerEpoch) -> Result<(), TxnError> {
        match () {
            () if id != self.producer_id => Err(TxnError::Mapping),
            () if epoch != self.epoch => Err(TxnError::Fenced),
            () => Ok(()),
        }
    }

    /// A producer starts, or goes on after an error with what it `had` (KIP-360). `fresh`: a new producer id, needed if the
    /// epochs of the present one are used up.
    pub fn init(
        &self,
        timeout_ms: i32,
        had: Option<ProducerEpoch>,
        fresh: Option<i64>,
        now_ms: i64,
    ) -> Result<Init, TxnError> {
        if let Some((id, epoch)) = had {
            let is_retry_after_rotation = id == self.previous_id && epoch >= LAST_EPOCH;
            if self.epoch != -1 && id != self.producer_id && !is_retry_after_rotation {
                return Err(TxnError::Fenced);
            }
        }
        match self.state {
            State::PrepareCommit | State::PrepareAbort => return Err(TxnError::Concurrent),
            State::Ongoing => return Ok(Init::Abort(self.fence(now_ms))),
            State::Empty | State::CompleteCommit | State::CompleteAbort => {}
        }
        let begun = Self {
            timeout_ms,
            state: State::Empty,
            partitions: BTreeSet::new(),
            start_ms: NONE,
            update_ms: now_ms,
            next_id: NONE,
            ..self.clone()
        };
        let had_epoch = had.map(|(_, epoch)| epoch);
        if self.is_exhausted() && had_epoch.is_none_or(|epoch| epoch == self.epoch) {
            let producer_id = fresh.ok_or(TxnError::Concurrent)?;
            let last_epoch = if had.is_some() { self.epoch } else { -1 };
            return Ok(Init::Ready(Self { producer_id, previous_id: self.producer_id, epoch: 0, last_epoch, ..begun }));
        }
        // Above the last epoch there is nothing to give: whoever comes with another one has been replaced.
        let next = if self.epoch == i16::MAX { Err(TxnError::Fenced) } else { Ok(self.epoch + 1) };
        let (epoch, last_epoch) = match had_epoch {
            None => (next?, -1),
            Some(epoch) if self.epoch == -1 || epoch == self.epoch => (next?, self.epoch),
            // The answer to the same request was lost: a new producer would have set this to -1.
            Some(epoch) if epoch == self.last_epoch => (self.epoch, self.last_epoch),
            Some(_) => return Err(TxnError::Fenced),
        };
        Ok(Init::Ready(Self { epoch, last_epoch, ..begun }))
    }

    /// The open transaction aborted and its producer fenced, because of a new producer or its time-out.
    pub fn fence(&self, now_ms: i64) -> Self {
        Self {
            epoch: self.epoch.saturating_add(1),
            last_epoch: -1,
            state: State::PrepareAbort,
            update_ms: now_ms,
            ..self.clone()
        }
    }

    /// Partitions are added; the first ones begin a transaction.
    pub fn add(
        &self,
        producer: ProducerEpoch,
        partitions: &[TopicPartition],
        protocol: Protocol,
        now_ms: i64,
    ) -> Result<Transition, TxnError> {
        self.check_producer(producer)?;
        let is_ongoing = self.state == State::Ongoing;
        if self.state.is_prepared() {
            return Err(TxnError::Concurrent);
        }
        if is_ongoing && partitions.iter().all(|tp| self.partitions.contains(tp)) {
            return Ok(Transition::Done);
        }
        let mut next = Self {
            state: State::Ongoing,
            start_ms: if is_ongoing { self.start_ms } else { now_ms },
            update_ms: now_ms,
            protocol,
            ..self.clone()
        };
        next.partitions.extend(partitions.iter().cloned());
        Ok(Transition::Write(next))
    }

    /// Whether a partition is part of the open transaction.
    pub fn verify(&self, producer: ProducerEpoch, partition: &TopicPartition) -> Result<(), TxnError> {
        self.check_producer(producer)?;
        match self.state {
            State::PrepareCommit | State::PrepareAbort => Err(TxnError::Concurrent),
            State::Ongoing if self.partitions.contains(partition) => Ok(()),
            _ => Err(TxnError::NotAdded),
        }
    }

    /// A producer ends its transaction. `fresh` as for [`Self::init`].
    pub fn end(
        &self,
        producer: ProducerEpoch,
        end: End,
        fresh: Option<i64>,
        now_ms: i64,
    ) -> Result<Transition, TxnError> {
        match end.protocol {
            Protocol::One => self.end_one(producer, end.commit, now_ms),
            Protocol::Two => self.end_two(producer, end.commit, fresh, now_ms),
        }
    }

    fn end_one(&self, producer: ProducerEpoch, commit: bool, now_ms: i64) -> Result<Transition, TxnError> {
        self.check_producer(producer)?;
        match (self.state, commit) {
            (State::Ongoing, _) => {
                let next = Self { protocol: Protocol::One, update_ms: now_ms, ..self.clone() };
                Ok(Transition::Write(Self { state: prepared(commit), ..next }))
            }
            (State::CompleteCommit, true) | (State::CompleteAbort, false) => Ok(Transition::Done),
            (State::PrepareCommit, true) | (State::PrepareAbort, false) => Err(TxnError::Concurrent),
            (state, _) => Err(TxnError::State(state)),
        }
    }

    fn end_two(
        &self,
        (id, epoch): ProducerEpoch,
        commit: bool,
        fresh: Option<i64>,
        now_ms: i64,
    ) -> Result<Transition, TxnError> {
        // The answer to the first request was lost: the epoch has risen with it, or the producer id with its last epoch.
        let is_rotated = id == self.previous_id && epoch == LAST_EPOCH && self.epoch == 0;
        let is_raised = epoch.checked_add(1) == Some(self.epoch);
        let is_retry = is_raised || is_rotated;
        let is_valid = match self.state {
            State::Empty | State::Ongoing => epoch == self.epoch,
            State::PrepareCommit | State::PrepareAbort => is_raised,
            State::CompleteCommit | State::CompleteAbort => is_retry || epoch == self.epoch,
        };
        if id != self.producer_id && !is_rotated {
            return Err(TxnError::Mapping);
        }
        if !is_valid {
            return Err(TxnError::Fenced);
        }
        let is_begun = match (self.state, commit) {
            (State::Ongoing, _) => true,
            (State::CompleteCommit, true) | (State::CompleteAbort, false) if is_retry => return Ok(Transition::Done),
            // A transaction without any partition, which the coordinator has not heard of.
            (State::CompleteCommit | State::CompleteAbort, false) if !is_retry => false,
            (State::Empty, false) => false,
            (State::PrepareCommit, true) | (State::PrepareAbort, false) => return Err(TxnError::Concurrent),
            (state, _) => return Err(TxnError::State(state)),
        };
        let next_id = if self.is_exhausted() { fresh.ok_or(TxnError::Concurrent)? } else { NONE };
        Ok(Transition::Write(Self {
            state: prepared(commit),
            next_id,
            epoch: self.epoch.saturating_add(1),
            last_epoch: self.epoch,
            start_ms: if is_begun { self.start_ms } else { now_ms },
            update_ms: now_ms,
            protocol: Protocol::Two,
            ..self.clone()
        }))
    }

    /// All markers stand.
    pub fn complete(&self, now_ms: i64) -> Self {
        let state = if self.state == State::PrepareCommit { State::CompleteCommit } else { State::CompleteAbort };
        let (producer_id, epoch) = self.producer();
        let previous_id = if producer_id == self.producer_id { self.previous_id } else { self.producer_id };
        Self {
            producer_id,
            previous_id,
            next_id: NONE,
            epoch,
            state,
            partitions: BTreeSet::new(),
            update_ms: now_ms,
            ..self.clone()
        }
    }

    /// Whether its transaction has been open for too long.
    pub fn is_late(&self, now_ms: i64) -> bool {
        self.state == State::Ongoing && self.start_ms.saturating_add(self.timeout_ms.into()) <= now_ms
    }

    /// Whether nothing has happened for so long that it may be forgotten.
    pub fn is_expired(&self, expiry_ms: i64, now_ms: i64) -> bool {
        self.state != State::Ongoing && !self.state.is_prepared() && self.update_ms.saturating_add(expiry_ms) <= now_ms
    }
}

fn prepared(commit: bool) -> State {
    if commit { State::PrepareCommit } else { State::PrepareAbort }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(state: State, epoch: i16) -> Txn {
        let mut txn = Txn { epoch, state, ..Txn::new(7, 60_000, 100) };
        if state == State::Ongoing || state.is_prepared() {
            txn.partitions.insert(TopicPartition::new("t", 0));
            txn.start_ms = 100;
        }
        txn
    }

    /// State, producer id and epoch, or the refusal.
    fn told(result: Result<Transition, TxnError>) -> String {
        match result {
            Ok(Transition::Done) => "done".to_owned(),
            Ok(Transition::Write(next)) => {
                let (id, epoch) = next.producer();
                format!("{} {id}/{epoch}", next.state.name())
            }
            Err(e) => format!("{e:?}"),
        }
    }

    #[test]
    fn ends_of_the_first_protocol() {
        use State::{CompleteAbort, CompleteCommit, Empty, Ongoing, PrepareAbort, PrepareCommit};
        for (state, commit, producer, want) in [
            (Ongoing, true, (7, 3), "PrepareCommit 7/3"),
            (Ongoing, false, (7, 3), "PrepareAbort 7/3"),
            (Ongoing, true, (7, 2), "Fenced"),
            (Ongoing, true, (7, 4), "Fenced"),
            (Ongoing, true, (8, 3), "Mapping"),
            (Empty, true, (7, 3), "State(Empty)"),
            (Empty, false, (7, 3), "State(Empty)"),
            (PrepareCommit, true, (7, 3), "Concurrent"),
            (PrepareCommit, false, (7, 3), "State(PrepareCommit)"),
            (PrepareAbort, false, (7, 3), "Concurrent"),
            (PrepareAbort, true, (7, 3), "State(PrepareAbort)"),
            (CompleteCommit, true, (7, 3), "done"),
            (CompleteCommit, false, (7, 3), "State(CompleteCommit)"),
            (CompleteAbort, false, (7, 3), "done"),
            (CompleteAbort, true, (7, 3), "State(CompleteAbort)"),
        ] {
            let end = End { commit, protocol: Protocol::One };
            assert_eq!(told(at(state, 3).end(producer, end, None, 500)), want, "{state:?} {commit} {producer:?}");
        }
    }

    #[test]
    fn ends_of_the_second_protocol_raise_the_epoch() {
        use State::{CompleteAbort, CompleteCommit, Empty, Ongoing, PrepareAbort, PrepareCommit};
        for (state, commit, producer, want) in [
            (Ongoing, true, (7, 3), "PrepareCommit 7/4"),
            (Ongoing, false, (7, 3), "PrepareAbort 7/4"),
            (Ongoing, true, (7, 2), "Fenced"),
            (Ongoing, true, (7, 4), "Fenced"),
            (Ongoing, true, (8, 3), "Mapping"),
            (Empty, true, (7, 3), "State(Empty)"),
            (Empty, false, (7, 3), "PrepareAbort 7/4"),
            (Empty, false, (7, 2), "Fenced"),
            (PrepareCommit, true, (7, 2), "Concurrent"),
            (PrepareCommit, true, (7, 3), "Fenced"),
            (PrepareCommit, false, (7, 2), "State(PrepareCommit)"),
            (PrepareAbort, false, (7, 2), "Concurrent"),
            (PrepareAbort, true, (7, 2), "State(PrepareAbort)"),
            (CompleteCommit, true, (7, 2), "done"),
            (CompleteCommit, true, (7, 3), "State(CompleteCommit)"),
            (CompleteCommit, true, (7, 1), "Fenced"),
            (CompleteCommit, false, (7, 2), "State(CompleteCommit)"),
            (CompleteCommit, false, (7, 3), "PrepareAbort 7/4"),
            (CompleteAbort, false, (7, 2), "done"),
            (CompleteAbort, false, (7, 3), "PrepareAbort 7/4"),
            (CompleteAbort, true, (7, 2), "State(CompleteAbort)"),
            (CompleteAbort, true, (7, 3), "State(CompleteAbort)"),
        ] {
            let end = End { commit, protocol: Protocol::Two };
            assert_eq!(told(at(state, 3).end(producer, end, None, 500)), want, "{state:?} {commit} {producer:?}");
        }
    }

    #[test]
    fn the_last_epoch_leads_to_a_fresh_producer_id() {
        let end = End { commit: true, protocol: Protocol::Two };
        let last = at(State::Ongoing, LAST_EPOCH);
        assert_eq!(last.end((7, LAST_EPOCH), end, None, 500), Err(TxnError::Concurrent), "without a fresh id");
        let Ok(Transition::Write(prepared)) = last.end((7, LAST_EPOCH), end, Some(99), 500) else { panic!("refused") };
        assert_eq!((prepared.producer_id, prepared.epoch, prepared.producer()), (7, i16::MAX, (99, 0)));
        let complete = prepared.complete(600);
        assert_eq!((complete.producer_id, complete.previous_id, complete.next_id, complete.epoch), (99, 7, -1, 0));
        assert_eq!(complete.end((7, LAST_EPOCH), end, None, 700), Ok(Transition::Done), "a repeated end");
        let Ok(Init::Ready(next)) = at(State::Empty, LAST_EPOCH).init(1000, None, Some(50), 500) else {
            panic!("refused")
        };
        assert_eq!((next.producer_id, next.epoch, next.previous_id, next.last_epoch), (50, 0, 7, -1));
        // Fenced with the last epoch: the one above it is never given out.
        let fenced = at(State::Ongoing, LAST_EPOCH).fence(500).complete(600);
        assert_eq!((fenced.epoch, fenced.is_exhausted()), (i16::MAX, true));
        let Ok(Init::Ready(next)) = fenced.init(1000, None, Some(51), 500) else { panic!("refused") };
        assert_eq!((next.producer_id, next.epoch), (51, 0));
    }

    #[test]
    fn starting_producers_get_the_next_epoch() {
        use State::{CompleteAbort, CompleteCommit, Empty, Ongoing, PrepareAbort, PrepareCommit};
        let told = |result: Result<Init, TxnError>| match result {
            Ok(Init::Ready(next)) => {
                format!("{} {}/{} after {}", next.state.name(), next.producer_id, next.epoch, next.last_epoch)
            }
            Ok(Init::Abort(next)) => format!("abort {}/{}", next.producer_id, next.epoch),
            Err(e) => format!("{e:?}"),
        };
        for (state, epoch, last_epoch, had, want) in [
            (Empty, -1, -1, None, "Empty 7/0 after -1"),
            (Empty, -1, -1, Some((3, 5)), "Empty 7/0 after -1"),
            (Empty, 3, -1, None, "Empty 7/4 after -1"),
            (CompleteCommit, 3, -1, None, "Empty 7/4 after -1"),
            (CompleteAbort, 3, 2, None, "Empty 7/4 after -1"),
            (Ongoing, 3, -1, None, "abort 7/4"),
            (Ongoing, 3, -1, Some((7, 3)), "abort 7/4"),
            (PrepareCommit, 3, -1, None, "Concurrent"),
            (PrepareAbort, 3, -1, None, "Concurrent"),
            (CompleteAbort, 3, -1, Some((7, 3)), "Empty 7/4 after 3"),
            (CompleteAbort, 4, 3, Some((7, 3)), "Empty 7/4 after 3"),
            (CompleteAbort, 4, -1, Some((7, 3)), "Fenced"),
            (CompleteAbort, 4, 3, Some((7, 5)), "Fenced"),
            (CompleteAbort, 4, 3, Some((8, 4)), "Fenced"),
        ] {
            let txn = Txn { last_epoch, ..at(state, epoch) };
            assert_eq!(told(txn.init(1000, had, None, 500)), want, "{state:?} {epoch} {had:?}");
        }
    }

    #[test]
    fn partitions_are_added_to_the_open_transaction() {
        use State::{CompleteAbort, CompleteCommit, Empty, Ongoing, PrepareAbort, PrepareCommit};
        let (known, fresh) = (TopicPartition::new("t", 0), TopicPartition::new("t", 1));
        for (state, producer, tp, want) in [
            (Empty, (7, 3), &fresh, "Ongoing 7/3"),
            (CompleteCommit, (7, 3), &fresh, "Ongoing 7/3"),
            (CompleteAbort, (7, 3), &fresh, "Ongoing 7/3"),
            (Ongoing, (7, 3), &fresh, "Ongoing 7/3"),
            (Ongoing, (7, 3), &known, "done"),
            (Ongoing, (7, 2), &known, "Fenced"),
            (Ongoing, (6, 3), &known, "Mapping"),
            (PrepareCommit, (7, 3), &known, "Concurrent"),
            (PrepareAbort, (7, 3), &known, "Concurrent"),
        ] {
            let got = at(state, 3).add(producer, std::slice::from_ref(tp), Protocol::One, 500);
            if let Ok(Transition::Write(next)) = &got {
                assert!(next.partitions.contains(tp));
                assert_eq!(next.start_ms, if state == Ongoing { 100 } else { 500 });
            }
            assert_eq!(told(got), want, "{state:?} {producer:?}");
        }
        let verify = |state, producer, tp| at(state, 3).verify(producer, tp);
        assert_eq!(verify(Ongoing, (7, 3), &known), Ok(()));
        assert_eq!(verify(Ongoing, (7, 3), &fresh), Err(TxnError::NotAdded));
        assert_eq!(verify(CompleteCommit, (7, 3), &known), Err(TxnError::NotAdded));
        assert_eq!(verify(PrepareCommit, (7, 3), &known), Err(TxnError::Concurrent));
        assert_eq!(verify(Ongoing, (7, 2), &known), Err(TxnError::Fenced));
    }

    #[test]
    fn late_ones_are_aborted_and_idle_ones_expire() {
        for (state, now_ms, late, expired) in [
            (State::Ongoing, 60_099, false, false),
            (State::Ongoing, 60_100, true, false),
            (State::PrepareCommit, 90_000, false, false),
            (State::Empty, 1_099, false, false),
            (State::Empty, 1_100, false, true),
            (State::CompleteAbort, 1_100, false, true),
        ] {
            let txn = at(state, 3);
            assert_eq!((txn.is_late(now_ms), txn.is_expired(1000, now_ms)), (late, expired), "{state:?} {now_ms}");
        }
    }
}
