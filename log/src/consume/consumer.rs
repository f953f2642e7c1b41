//! The loop: discovers partitions, polls, hands records over, commits what has become durable, and says what is in the way.
//!
//! In: a [`LogReader`], a [`Delivery`], requests through [`Control`]. Out: batches to the delivery, commits to the group.
//! Touches the network through the reader. Blocks: it runs on a thread of its own. Leaves new clients and waiting after what
//! ends a session to [`super::sessions`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::batch::{Batch, Stretch};
use super::control::{Control, Durable, Ends, Requests};
use super::delivery::{Delivery, Keeping, Known, Offered, Setback};
use super::places::{Moved, Places};
use super::reader::LogReader;
use super::settings::ConsumerSettings;
use super::stalls::{REPORTED, Stalls};
use super::status::{ConsumerStatus, Pause};
use crate::causes::chain;
use crate::client::{ClientError, StartAt};
use crate::clock::SharedClock;
use crate::record::TopicPartition;

/// How long nothing may come from a log within reach until what is left below its end counts as control records, which are
/// never handed out.
const DRAINED: Duration = Duration::from_secs(2);
/// How long the loop waits when it has nothing to read, and before it asks the log again.
const POLL: Duration = Duration::from_millis(50);
/// How long to wait before the log is asked for its topics again after a fault.
const RETRY_MS: i64 = 1000;
/// Between two looks whether the delivery has room: the first, and at most.
const ROOM: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));
/// How often the lag is computed.
const LAG: Duration = Duration::from_secs(2);
/// How often the log is asked for its ends while the delivery has no room, and so nothing is fetched that says them.
const LAG_WITHOUT_ROOM: Duration = Duration::from_secs(10);
/// Between two looks at the end whether somebody is left who could stop the thread.
const LAST: Duration = Duration::from_millis(100);
/// Wait after a commit that failed.
const COMMIT_RETRY: Duration = Duration::from_secs(1);

/// The consumer's thread: everything it owns.
pub struct Consumer<L, D> {
    reader: L,
    delivery: D,
    settings: ConsumerSettings,
    clock: SharedClock,
    status: ConsumerStatus,
    control: Control,
    cancel: CancellationToken,
    places: Places,
    /// The group's assignment that the places are of.
    generation: u64,
    /// Ends that someone waits for.
    awaited: Ends,
    /// When the topics are looked for again.
    discover_at_ms: i64,
    quiet_since: Instant,
    lag_at: Instant,
    /// Partitions that don't move.
    stalls: Stalls,
    /// What is durable and not committed yet, and when that is tried again.
    uncommitted: Option<Durable>,
    commit_at: Instant,
}

impl<L, D> std::fmt::Debug for Consumer<L, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("places", &self.places).finish_non_exhaustive()
    }
}

impl<L: LogReader, D: Delivery<Record = L::Record>> Consumer<L, D> {
    /// One session, from where the group or the delivery says.
    pub fn new(
        reader: L,
        delivery: D,
        settings: ConsumerSettings,
        clock: SharedClock,
        status: ConsumerStatus,
        control: Control,
        cancel: CancellationToken,
    ) -> Self {
        let now = Instant::now();
        control.begin();
        Self {
            reader,
            delivery,
            settings,
            clock,
            status,
            control,
            cancel,
            places: Places::default(),
            generation: 0,
            awaited: Ends::new(),
            discover_at_ms: i64::MIN,
            quiet_since: now,
            lag_at: now,
            stalls: Stalls::default(),
            uncommitted: None,
            commit_at: now,
        }
    }

    /// Reads until cancelled, or until nobody takes what is read; then serves requests until it is stopped, so that what
    /// becomes durable meanwhile is committed. A delivery by transactions leaves nothing to wait for. Blocks.
    pub fn run(mut self) -> Result<(), Setback> {
        let ended = self.read();
        self.delivery.close();
        let mut is_stopped = self.delivery.keeping() == Keeping::Transaction || matches!(ended, Ok(true));
        while !is_stopped && !self.control.is_abandoned() {
            self.control.wait(LAST);
            is_stopped = self.serve().unwrap_or_else(|setback| {
                tracing::debug!(consumer = self.status.name(), %setback, "last offsets not committed");
                false
            });
        }
        self.places.iter().for_each(|(tp, _)| self.status.stalled(tp, 0));
        self.status.given_back();
        self.control.ended();
        ended.map(|_| ())
    }

    /// True if it was stopped.
    fn read(&mut self) -> Result<bool, Setback> {
        while !self.cancel.is_cancelled() {
            if self.serve()? {
                return Ok(true);
            }
            self.discover();
            if self.reader.group().is_none() && self.places.is_empty() {
                self.control.wait(POLL);
                continue;
            }
            let polled = self.reader.poll(&self.delivery.limits());
            self.follow_group();
            match polled {
                Ok(records) if records.is_empty() => self.idle(),
                Ok(records) => {
                    self.quiet_since = Instant::now();
                    self.status.resume(Pause::Log);
                    let stretches = self.places.advance(records);
                    let batch = Batch { generation: self.generation, stretches };
                    if !batch.is_empty()
                        && let Some(is_stopped) = self.hand_over(batch)?
                    {
                        return Ok(is_stopped);
                    }
                }
                Err(ClientError::OutOfRange { topic_partition, .. }) => {
                    if let Err(error) = self.find_lost(&topic_partition) {
                        // Its place stays as it is: the partition is asked for again from there.
                        self.seek(&topic_partition);
                        self.trouble(&error);
                    }
                }
                Err(ClientError::Recreated { topic_partition }) => self.look_again(&topic_partition),
                Err(ClientError::Unreadable { topic_partition, from, to, reason }) => {
                    tracing::debug!(partition = %topic_partition, from, to, reason, "unreadable records");
                    let hole = self.places.unreadable(&topic_partition, from, to, self.clock.now_ms());
                    hole.iter().for_each(|hole| self.status.lost(hole));
                }
                Err(error) => self.fail(error)?,
            }
            if self.lag_at.elapsed() >= LAG {
                self.look_at_lag(false);
            }
        }
        Ok(false)
    }

    /// A fault of the log: it passes, or the session is over.
    fn fail(&mut self, error: ClientError) -> Result<(), Setback> {
        if let ClientError::Fenced { .. } = &error {
            return Err(self.settings.fenced());
        }
        self.trouble(&error);
        Ok(())
    }

    fn trouble(&mut self, error: &ClientError) {
        self.status.pause(Pause::Log, &chain(error));
        // The next look at the topics says whether the log is back.
        self.discover_at_ms = i64::MIN;
        self.control.wait(POLL);
    }

    /// Does what others ask for. True if it was stopped.
    fn serve(&mut self) -> Result<bool, Setback> {
        let Requests { stored, questions, stop } = self.control.take();
        if !questions.is_empty() {
            // Whoever waits may have written to a topic that was created a moment ago.
            self.discover_at_ms = i64::MIN;
            self.quiet_since = Instant::now();
            let ends = self.reader.ends(&self.settings.topics);
            self.awaited = ends.as_ref().map(Clone::clone).unwrap_or_default();
            self.control.answer(questions, ends);
        }
        match (&mut self.uncommitted, stored) {
            (_, None) => {}
            (Some((of, all)), Some((generation, next))) if *of == generation => all.extend(next),
            (uncommitted, stored) => *uncommitted = stored,
        }
        if self.uncommitted.is_some() && (stop || self.commit_at <= Instant::now()) {
            self.commit().inspect_err(|_| {
                if stop {
                    self.control.stop();
                }
            })?;
        }
        Ok(stop)
    }

    /// Commits the positions whose output is durable.
    fn commit(&mut self) -> Result<(), Setback> {
        let Some((generation, next)) = self.uncommitted.take() else { return Ok(()) };
        let all: Vec<_> = next.iter().map(|(tp, offset)| (tp.clone(), *offset)).collect();
        match (self.reader.commit(generation, &all), self.delivery.keeping()) {
            (Ok(()), _) => {}
            (Err(ClientError::Fenced { .. }), _) => return Err(self.settings.fenced()),
            (Err(error), Keeping::Store) => {
                tracing::debug!(%error, "group offsets not committed: lag displays are behind");
            }
            (Err(error), _) => {
                // Until then a crash costs repeats, which the target recognises.
                tracing::warn!(consumer = self.status.name(), %error, "offsets can't be committed, trying again");
                self.commit_at = Instant::now() + COMMIT_RETRY;
                self.uncommitted = Some((generation, next));
            }
        }
        Ok(())
    }

    /// Nothing came.
    fn idle(&mut self) {
        if !self.places.is_empty() {
            // An empty answer may be none at all: without a group the looks at the topics say whether the log is there.
            self.reader.group().iter().for_each(|_| self.status.resume(Pause::Log));
            self.status.resume(Pause::Fenced);
        }
        if self.awaited.is_empty() {
            return;
        }
        self.pass_read_positions();
        self.awaited.retain(|(tp, end)| self.control.position(tp).is_none_or(|reached| reached < *end));
        if !self.awaited.is_empty() && self.quiet_since.elapsed() > DRAINED {
            self.pass_control_records();
            self.quiet_since = Instant::now();
        }
    }

    /// What lies between the last record and the reader's position is not for readers.
    fn pass_read_positions(&self) {
        for (tp, place) in self.places.iter() {
            let Some(next) = place.next.filter(|next| self.control.position(tp) == Some(*next)) else { continue };
            if let Some(position) = self.reader.position(tp).filter(|position| *position > next) {
                self.control.reached([(tp.clone(), position)]);
            }
        }
    }

    /// Whoever waits for an end need not wait for records that nobody will ever be given.
    fn pass_control_records(&mut self) {
        for (tp, end) in std::mem::take(&mut self.awaited) {
            let is_short = self.places.get(&tp).and_then(|place| place.next).is_some_and(|next| next < end);
            // Nothing came though the log is within reach.
            if is_short && self.reader.watermarks(&tp).is_ok() {
                self.control.reached([(tp, end)]);
            }
        }
    }

    /// Looks for partitions that are not read yet, when it is time.
    fn discover(&mut self) {
        let now_ms = self.clock.now_ms();
        if self.reader.group().is_some() || now_ms < self.discover_at_ms {
            return;
        }
        match self.add_new() {
            Ok(added) => {
                self.status.positioned();
                if added > 0 {
                    let (consumer, partitions) = (self.status.name(), self.places.len());
                    tracing::info!(consumer, partitions, new = added, "reading the log");
                }
                let interval = self.settings.discover_interval.as_millis();
                self.discover_at_ms = now_ms.saturating_add(i64::try_from(interval).unwrap_or(i64::MAX));
            }
            Err(error) => {
                self.trouble(&error);
                self.discover_at_ms = now_ms + RETRY_MS;
            }
        }
    }

    fn add_new(&mut self) -> Result<usize, ClientError> {
        let mut new = Vec::new();
        for topic in &self.settings.topics {
            let name: Arc<str> = topic.as_str().into();
            for partition in self.reader.partitions(topic)? {
                let tp = TopicPartition::new(Arc::clone(&name), partition);
                let topic_id = self.reader.topic_id(&tp);
                let outdated = self.places.outdated(&tp, topic_id);
                if outdated.is_some() || self.places.get(&tp).is_none() {
                    let range = self.reader.watermarks(&tp)?;
                    new.push((tp, topic_id, outdated, range));
                }
            }
        }
        let added = new.len();
        if added > 0 {
            for (tp, topic_id, outdated, range) in new {
                // What was there before the first start was never promised to anyone.
                let first = Known { epoch: 0, next: range.0, topic_id };
                let known = outdated.or_else(|| self.delivery.known(&tp)).unwrap_or(first);
                let moved = self.places.add_known(&tp, known, topic_id, range, self.clock.now_ms());
                self.note(&tp, known.next, range, moved);
                self.status.show(&tp);
            }
            self.assign()?;
        }
        Ok(added)
    }

    /// Reports what a look at the log's range has found.
    fn note(&self, tp: &TopicPartition, was: i64, (low, high): (i64, i64), moved: Moved) {
        match moved {
            Moved::Stays => {}
            Moved::Lost(hole) => self.status.lost(&hole),
            Moved::Short | Moved::Anew => tracing::warn!(
                consumer = self.status.name(), partition = %tp, position = was, high, low,
                why = if moved == Moved::Anew { "topic was deleted and created anew" } else { "log ends before the position" },
                "reading a new life of the partition from its start"
            ),
        }
        if let Some(next) = self.places.get(tp).and_then(|place| place.next) {
            self.control.reached([(tp.clone(), next)]);
        }
    }

    fn assign(&mut self) -> Result<(), ClientError> {
        let start = |next: Option<i64>| next.map_or(StartAt::Earliest, StartAt::Offset);
        let all = self.places.iter().map(|(tp, place)| (tp.clone(), start(place.next), place.topic_id));
        self.reader.assign(&all.collect::<Vec<_>>())
    }

    /// The group may have given other partitions: they are read from the offsets that it has.
    fn follow_group(&mut self) {
        let Some(generation) = self.reader.group().filter(|now| *now != self.generation) else { return };
        self.generation = generation;
        let before = std::mem::take(&mut self.places);
        self.awaited.clear();
        for (tp, committed, topic_id) in self.reader.assignment() {
            self.status.show(&tp);
            self.control.reached(committed.map(|next| (tp.clone(), next)));
            let outdated = before.outdated(&tp, topic_id);
            let epoch = outdated.map_or(0, |old| old.epoch + 1);
            self.places.add(tp.clone(), epoch, committed, topic_id);
            if let Some(old) = outdated {
                self.note(&tp, old.next, (committed.unwrap_or(0), -1), Moved::Anew);
            }
        }
        // What another member reads now does not stand still here.
        before.iter().filter(|(tp, _)| self.places.get(tp).is_none()).for_each(|(tp, _)| self.status.stalled(tp, 0));
        if !self.places.is_empty() {
            self.status.positioned();
            let (consumer, partitions) = (self.status.name(), self.places.len());
            tracing::info!(consumer, partitions, generation, "reading the log as a member of the group");
        }
    }

    /// The next look at the topics finds the new one; a group's reader finds it itself, and joins again.
    fn look_again(&mut self, tp: &TopicPartition) {
        if self.reader.group().is_none() {
            let before = self.places.get(tp).cloned();
            self.discover_at_ms = i64::MIN;
            self.discover();
            if self.places.get(tp) == before.as_ref() {
                self.seek(tp);
            }
        }
        self.control.wait(POLL);
    }

    /// The log is out of reach of a position: notes a hole or a new epoch, reads on.
    fn find_lost(&mut self, tp: &TopicPartition) -> Result<(), ClientError> {
        let range = self.reader.watermarks(tp)?;
        let was = self.places.get(tp).and_then(|place| place.next).unwrap_or(-1);
        let moved = self.places.fit(tp, range, self.clock.now_ms());
        if moved == Moved::Stays {
            // It may have moved back in the meantime; not in a tight loop.
            self.control.wait(POLL);
        } else {
            self.note(tp, was, range, moved);
        }
        self.seek(tp);
        Ok(())
    }

    fn seek(&mut self, tp: &TopicPartition) {
        if let Some(next) = self.places.get(tp).and_then(|place| place.next) {
            self.reader.seek(tp, next);
        }
    }

    /// Waits until the delivery has taken a batch, and does what others ask for meanwhile. `Some`: reading ends, because it
    /// was stopped (`true`) or nobody takes anything any more.
    fn hand_over(&mut self, mut batch: Batch<L::Record>) -> Result<Option<bool>, Setback> {
        let keeping = self.delivery.keeping();
        if keeping != Keeping::Store {
            self.status.handed_out(batch.len());
        }
        for Stretch { interval, .. } in &batch.stretches {
            let tp = interval.topic_partition();
            if self.control.position(&tp).is_none() {
                self.control.reached([(tp, interval.from)]);
            }
        }
        let next = (keeping == Keeping::Transaction).then(|| batch.next());
        let mut wait = ROOM.0;
        let mut asked = Instant::now();
        loop {
            match self.delivery.offer(batch)? {
                Offered::Taken => return Ok(None),
                Offered::Stored => {
                    self.control.reached(next.into_iter().flatten());
                    self.status.resume(Pause::Transaction);
                    return Ok(None);
                }
                Offered::Closed => return Ok(Some(false)),
                Offered::Full(back) => batch = back,
            }
            if self.cancel.is_cancelled() {
                return Ok(Some(false));
            }
            self.control.wait(wait);
            wait = (wait * 2).min(ROOM.1);
            if self.serve()? {
                return Ok(Some(true));
            }
            if asked.elapsed() >= LAG_WITHOUT_ROOM || (self.status.lag().is_none() && asked.elapsed() >= LAG) {
                self.look_at_lag(true);
                asked = Instant::now();
            }
        }
    }

    /// Records between what was delivered and the ends, as the last fetches said, or as the log says now.
    fn look_at_lag(&mut self, ask: bool) {
        self.lag_at = Instant::now();
        self.pass_read_positions();
        let (mut lag, mut known) = (0, 0);
        let mut stalled: Vec<String> = Vec::new();
        self.stalls.keep(|tp| self.places.get(tp).is_some());
        for (tp, _) in self.places.iter() {
            let (start, end) = if ask {
                match self.reader.watermarks(tp) {
                    Ok((start, end)) => (Some(start), Some(end)),
                    // The others would take as long.
                    Err(_) => return,
                }
            } else {
                (None, self.reader.end(tp))
            };
            // A group without offsets reads from the start.
            if let (Some(end), Some(reached)) = (end, self.control.position(tp).or(start)) {
                lag += u64::try_from(end - reached).unwrap_or(0);
                known += 1;
                let stays = self.stalls.look(tp, reached, end, self.lag_at);
                self.status.stalled(tp, stays.as_secs());
                if stays >= REPORTED {
                    let (seconds, behind) = (stays.as_secs(), end - reached);
                    stalled
                        .push(format!("{tp} has stayed at offset {reached} for {seconds} s, {behind} records behind"));
                }
            }
        }
        if stalled.is_empty() {
            self.status.resume(Pause::Stalled);
        } else {
            self.status.pause(Pause::Stalled, &stalled.join(", "));
        }
        if known == self.places.len() && known > 0 {
            self.status.set_lag(lag);
            if lag == 0 {
                // What a transaction was given up for is copied by now, or gone.
                self.status.resume(Pause::Transaction);
            }
        }
    }
}
