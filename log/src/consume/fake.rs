//! A log in memory and three targets, for tests of the loop: everything happens on one thread, and may end at any step.
//!
//! In: what a test puts. Out: records through [`LogReader`], output and positions as a crash would leave them. Touches nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::control::Control;
use super::delivery::{Delivery, Keeping, Known, Offered, Setback};
use super::interval::Interval;
use super::reader::{Assigned, LogReader, Positioned, Start};
use super::status::ConsumerStatus;
use crate::client::{ClientError, Limits, StartAt};
use crate::record::TopicPartition;
use crate::topic_id::TopicId;

/// A record is its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed(pub TopicPartition, pub i64);

impl Positioned for Placed {
    fn partition(&self) -> &TopicPartition {
        &self.0
    }

    fn offset(&self) -> i64 {
        self.1
    }
}

#[derive(Debug, Default, Clone)]
pub struct Partition {
    pub low: i64,
    pub high: i64,
    /// Offsets that nobody is given.
    pub control: Vec<i64>,
    /// Offsets that can't be read.
    pub unreadable: Option<(i64, i64)>,
    /// The id of its topic; none as in logs that have no ids.
    pub topic_id: Option<TopicId>,
}

/// What a crash leaves, and how the world behaves.
#[derive(Debug, Default)]
pub struct World {
    pub partitions: BTreeMap<TopicPartition, Partition>,
    /// Offsets of the group.
    pub committed: HashMap<TopicPartition, i64>,
    /// The ids of topics that those were committed with.
    pub committed_ids: HashMap<TopicPartition, Option<TopicId>>,
    /// Positions that the target keeps.
    pub kept: HashMap<TopicPartition, Known>,
    /// Durable output, with the epoch of its interval.
    pub output: Vec<(u64, Placed)>,
    pub holes: Vec<Interval>,
    /// Steps so far, and the one at which everything ends.
    pub steps: usize,
    pub crash_at: Option<usize>,
    /// Polls that fail from now on.
    pub failing_polls: usize,
    pub fenced: bool,
    /// Offers that find no room.
    pub full: usize,
    pub refuse_commits: usize,
    /// A partition with so many records that comes when all is read.
    pub grow: Option<(i32, i64)>,
    /// What partition 0 is deleted and created anew as when all is read.
    pub recreate: Option<Partition>,
    pub idle: usize,
    /// The log goes away when all is read: requests fail, and polls give nothing.
    pub goes_away: bool,
    pub is_away: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Fake {
    pub world: Arc<Mutex<World>>,
    pub control: Control,
    pub token: CancellationToken,
}

impl Fake {
    /// Another life of the same world.
    pub fn again(&self) -> Self {
        Self { world: Arc::clone(&self.world), control: Control::default(), token: CancellationToken::new() }
    }

    pub fn put(&self, partition: i32, records: i64) {
        self.world.lock().partitions.entry(tp(partition)).or_default().high += records;
    }

    /// One step; false if the process has died.
    fn step(&self) -> bool {
        let mut world = self.world.lock();
        world.steps += 1;
        if world.crash_at.is_some_and(|at| world.steps >= at) {
            self.token.cancel();
            self.control.stop();
            return false;
        }
        true
    }
}

pub fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn unreachable() -> ClientError {
    ClientError::Topic { topic: "t".to_owned(), reason: "the fake log is out of reach".to_owned() }
}

/// Reads the fake log: all partitions, or as a member of a group.
#[derive(Debug)]
pub struct FakeReader {
    pub fake: Fake,
    pub keeping: Keeping,
    generation: u64,
    places: BTreeMap<TopicPartition, i64>,
    /// The ids of topics that the places are of.
    ids: BTreeMap<TopicPartition, Option<TopicId>>,
    held: Option<ClientError>,
}

impl FakeReader {
    pub fn new(fake: &Fake, keeping: Keeping) -> Self {
        let (places, ids) = (BTreeMap::new(), BTreeMap::new());
        Self { fake: fake.clone(), keeping, generation: 0, places, ids, held: None }
    }

    fn is_member(&self) -> bool {
        self.keeping != Keeping::Store
    }

    /// The group gives all partitions at the first poll, and again when there are more.
    fn join(&mut self) {
        let world = self.fake.world.lock();
        if self.is_member() && self.places.len() != world.partitions.len() {
            self.generation += 1;
            let start = |(tp, p): (&TopicPartition, &Partition)| (tp.clone(), committed(&world, tp).unwrap_or(p.low));
            self.places = world.partitions.iter().map(start).collect();
            self.ids = world.partitions.iter().map(|(tp, p)| (tp.clone(), p.topic_id)).collect();
        }
    }

    /// A partition whose topic was created anew since its position was set.
    fn recreated(&self) -> Option<TopicPartition> {
        let world = self.fake.world.lock();
        let now = |tp: &TopicPartition| world.partitions.get(tp).and_then(|p| p.topic_id);
        self.ids.iter().find(|(tp, id)| TopicId::differ(**id, now(tp))).map(|(tp, _)| tp.clone())
    }
}

/// What the group has committed of the topic that is there now.
fn committed(world: &World, tp: &TopicPartition) -> Option<i64> {
    let then = world.committed_ids.get(tp).copied().flatten();
    let now = world.partitions.get(tp).and_then(|p| p.topic_id);
    world.committed.get(tp).copied().filter(|_| !TopicId::differ(then, now))
}

impl LogReader for FakeReader {
    type Record = Placed;

    fn group(&self) -> Option<u64> {
        self.is_member().then_some(self.generation)
    }

    fn assignment(&self) -> Vec<Assigned> {
        let world = self.fake.world.lock();
        let of = |tp: &TopicPartition| (tp.clone(), committed(&world, tp), self.ids.get(tp).copied().flatten());
        self.places.keys().map(of).collect()
    }

    fn partitions(&self, _: &str) -> Result<Vec<i32>, ClientError> {
        let world = self.fake.world.lock();
        if world.is_away {
            return Err(unreachable());
        }
        Ok(world.partitions.keys().map(|tp| tp.partition).collect())
    }

    fn topic_id(&self, of: &TopicPartition) -> Option<TopicId> {
        self.fake.world.lock().partitions.get(of)?.topic_id
    }

    fn watermarks(&self, of: &TopicPartition) -> Result<(i64, i64), ClientError> {
        let world = self.fake.world.lock();
        world.partitions.get(of).map(|p| (p.low, p.high)).ok_or_else(unreachable)
    }

    fn assign(&mut self, partitions: &[Start]) -> Result<(), ClientError> {
        let start = |at: &StartAt| match at {
            StartAt::Offset(offset) => *offset,
            other => panic!("all partitions start at offsets, not {other:?}"),
        };
        self.places = partitions.iter().map(|(tp, at, _)| (tp.clone(), start(at))).collect();
        self.ids = partitions.iter().map(|(tp, _, id)| (tp.clone(), *id)).collect();
        Ok(())
    }

    fn seek(&mut self, of: &TopicPartition, to: i64) {
        self.places.insert(of.clone(), to);
    }

    fn poll(&mut self, limits: &Limits) -> Result<Vec<Placed>, ClientError> {
        if !self.fake.step() {
            return Ok(Vec::new());
        }
        if let Some(error) = self.held.take() {
            return Err(error);
        }
        if let Some(topic_partition) = self.recreated() {
            if self.is_member() {
                self.places.clear();
            }
            self.join();
            return Err(ClientError::Recreated { topic_partition });
        }
        self.join();
        let mut world = self.fake.world.lock();
        if std::mem::take(&mut world.fenced) {
            return Err(ClientError::Fenced { identity: "group-1".to_owned() });
        }
        if world.failing_polls > 0 {
            world.failing_polls -= 1;
            return Err(unreachable());
        }
        let mut batch = Vec::new();
        for (tp, place) in &mut self.places {
            let Some(p) = world.partitions.get(tp) else { continue };
            if !(p.low..=p.high).contains(place) {
                let error = ClientError::OutOfRange { topic_partition: tp.clone(), offset: *place, log_start: p.low };
                if batch.is_empty() {
                    return Err(error);
                }
                self.held = Some(error);
                break;
            }
            while *place < p.high && batch.len() < limits.records {
                if let Some((from, to)) = p.unreadable.filter(|(from, to)| (*from..*to).contains(place)) {
                    let reason = "damaged".to_owned();
                    *place = to;
                    let error = ClientError::Unreadable { topic_partition: tp.clone(), from, to, reason };
                    if batch.is_empty() {
                        return Err(error);
                    }
                    self.held = Some(error);
                    return Ok(batch);
                }
                if !p.control.contains(place) {
                    batch.push(Placed(tp.clone(), *place));
                }
                *place += 1;
            }
        }
        if batch.is_empty() {
            world.idle += 1;
            world.is_away |= world.goes_away;
            if let Some((partition, high)) = world.grow.take() {
                world.partitions.insert(tp(partition), Partition { high, ..Partition::default() });
            } else if let Some(new) = world.recreate.take() {
                world.partitions.insert(tp(0), new);
            } else if world.idle > 2 {
                self.fake.token.cancel();
            }
        } else {
            world.idle = 0;
        }
        Ok(batch)
    }

    fn position(&self, of: &TopicPartition) -> Option<i64> {
        self.places.get(of).copied()
    }

    fn end(&self, of: &TopicPartition) -> Option<i64> {
        self.fake.world.lock().partitions.get(of).map(|p| p.high)
    }

    fn commit(&self, generation: u64, next: &[(TopicPartition, i64)]) -> Result<(), ClientError> {
        if !self.fake.step() {
            return Ok(());
        }
        let mut world = self.fake.world.lock();
        if world.refuse_commits > 0 {
            world.refuse_commits -= 1;
            return Err(unreachable());
        }
        if generation == self.generation {
            world.committed.extend(next.iter().cloned());
            world.committed_ids.extend(self.ids.iter().map(|(tp, id)| (tp.clone(), *id)));
        }
        Ok(())
    }
}

/// A target that takes one batch at a time and makes it durable with the next offer, or at the end.
#[derive(Debug)]
pub struct FakeTarget {
    pub fake: Fake,
    pub keeping: Keeping,
    status: ConsumerStatus,
    pending: Option<Batch<Placed>>,
}

impl FakeTarget {
    pub fn new(fake: &Fake, keeping: Keeping, status: &ConsumerStatus) -> Self {
        Self { fake: fake.clone(), keeping, status: status.clone(), pending: None }
    }

    fn publish(&mut self) {
        let Some(batch) = self.pending.take() else { return };
        let (generation, next, records) = (batch.generation, batch.next(), batch.len() as u64);
        // Output and kept positions in one step, or the output alone.
        if !self.fake.step() {
            return;
        }
        {
            let mut world = self.fake.world.lock();
            for stretch in batch.stretches {
                let epoch = stretch.interval.epoch;
                world.holes.extend(stretch.hole.map(|hole| hole.interval));
                match self.keeping {
                    Keeping::Store => {
                        let known = Known { epoch, next: stretch.interval.to, topic_id: stretch.interval.topic_id };
                        world.kept.insert(stretch.interval.topic_partition(), known);
                    }
                    Keeping::Group => {}
                    Keeping::Transaction => {
                        let tp = stretch.interval.topic_partition();
                        world.committed.insert(tp.clone(), stretch.interval.to);
                        world.committed_ids.insert(tp, stretch.interval.topic_id);
                    }
                }
                world.output.extend(stretch.records.into_iter().map(|record| (epoch, record)));
            }
        }
        self.status.settled(records - records / 2, &[("unwanted", records / 2)]);
        self.fake.control.reached(next.iter().cloned());
        if self.keeping != Keeping::Transaction && self.fake.step() {
            self.fake.control.stored(generation, next);
        }
    }
}

impl Delivery for FakeTarget {
    type Record = Placed;

    fn keeping(&self) -> Keeping {
        self.keeping
    }

    fn limits(&self) -> Limits {
        Limits { records: 3, bytes: usize::MAX, wait: Duration::ZERO, linger: Duration::ZERO }
    }

    fn known(&self, of: &TopicPartition) -> Option<Known> {
        self.fake.world.lock().kept.get(of).copied()
    }

    fn offer(&mut self, batch: Batch<Placed>) -> Result<Offered<Placed>, Setback> {
        if !self.fake.step() {
            return Ok(Offered::Closed);
        }
        {
            let mut world = self.fake.world.lock();
            if world.full > 0 {
                world.full -= 1;
                return Ok(Offered::Full(batch));
            }
        }
        self.publish();
        self.pending = Some(batch);
        if self.keeping == Keeping::Transaction {
            self.publish();
            return Ok(Offered::Stored);
        }
        Ok(Offered::Taken)
    }

    fn close(&mut self) {
        self.publish();
        self.fake.control.stop();
    }
}
