//! Publishes sealed parts: splits, consumed intervals and positions become durable together.
//!
//! In: [`Part`]s of the indexer, in order. Out: splits in the index, rows in the catalog, dead letters on their topic,
//! offsets of the group. Touches `index/tmp` and `index/splits`; runs on one named thread. Leaves merging and deletion
//! to `retention`.
//!
//! # Order, and what a crash leaves behind
//! | step | after a crash just behind it |
//! |---|---|
//! | 1. split written to `tmp/<id>`, synced | folder removed at the start, records read again |
//! | 2. dead letters acknowledged | they are sent once more |
//! | 3. renamed to `splits/<id>`, folder synced | no row names it: removed at the start, records read again |
//! | 4. documents stored | records read again give the same entries |
//! | 5. catalog transaction, synced | published; read on behind it |
//! | 6. swapped in the index | (memory) |
//! | 7. group offsets committed | only a display |
//!
//! `fault_tests` crashes and fails each operation of the disk in these steps; those between steps are tested with sled in
//! `aggregator/src/run/tests.rs`.
//!
//! A step that fails (full disk, log out of reach) is repeated; meanwhile the head fills, reading stops, and the
//! pressure is felt at the files.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use millrace_log::client::{BatchProducer, ClientError};
use millrace_log::clock::SharedClock;
use millrace_log::dead_letter::dead_letter;
use millrace_log::record::{Event, Record, Tenant, TopicPartition, encode};
use tokio_util::sync::CancellationToken;

use crate::catalog::{Catalog, CatalogError, Publication, SourceKey, SplitId, SplitRecord};
use crate::folders::Folders;
use crate::head::Chunk;
use crate::indexer::{Part, Shared};
use crate::ledger::Amount;
use crate::live::LiveSplit;
use crate::metrics::TopicLabel;
use crate::split::{SplitError, SplitWriter, StoredEvent};
use crate::state::StateError;

/// Why a part can't be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The split can't be written.
    #[error("split can't be written: {0}")]
    Split(#[from] SplitError),
    /// Files or the list of documents.
    #[error(transparent)]
    State(#[from] StateError),
    /// The catalog refused.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The dead-letter topic is out of reach.
    #[error("dead letters can't be sent to `{topic}`: {source}")]
    DeadLetters {
        /// The topic.
        topic: String,
        /// The cause.
        #[source]
        source: ClientError,
    },
    /// A test ended the process here.
    #[error("crashed at {0:?}")]
    Crashed(Step),
}

impl PublishError {
    /// Whether repeating can't help.
    fn is_fatal(&self) -> bool {
        match self {
            Self::Catalog(error) => error.is_fatal(),
            Self::Crashed(_) => true,
            Self::Split(_) | Self::State(_) | Self::DeadLetters { .. } => false,
        }
    }
}

/// The steps of a publication, for tests that end the process behind one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Nothing done yet.
    Begin,
    /// Dead letters are acknowledged.
    DeadLetters,
    /// The split is in `tmp`.
    Written,
    /// The split is in `splits`.
    Renamed,
    /// Documents are stored.
    Documents,
    /// The catalog has it.
    Catalog,
    /// The index has it.
    Swapped,
}

/// What publisher and upkeep write with.
#[derive(Clone)]
pub struct Tools {
    /// Parts shared with the indexer.
    pub shared: Shared,
    /// The catalog.
    pub catalog: Arc<dyn Catalog>,
    /// Folders of splits.
    pub folders: Folders,
    /// Time.
    pub clock: SharedClock,
    /// The runtime that catalog and producer run on.
    pub runtime: tokio::runtime::Handle,
    /// Ends the room.
    pub cancel: CancellationToken,
}

/// The publisher's thread: everything it owns.
pub struct Publisher {
    tools: Tools,
    dead_letters: Arc<dyn BatchProducer>,
    dead_letter_topic: String,
    /// Called behind each step; an error there ends the thread as a kill would.
    pub at_step: Option<StepHook>,
}

/// New splits, and events that no split can hold.
type Written = (Vec<SplitRecord>, Vec<(Tenant, StoredEvent)>);

/// A test's hand at the switch.
pub type StepHook = Arc<dyn Fn(Step) -> bool + Send + Sync>;

/// Attempts after the room was told to stop.
const LAST_ATTEMPTS: u32 = 3;

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("folders", &self.tools.folders).finish_non_exhaustive()
    }
}

impl Publisher {
    /// Sends dead letters to `dead_letter_topic`.
    pub fn new(tools: Tools, dead_letters: Arc<dyn BatchProducer>, dead_letter_topic: String) -> Self {
        Self { tools, dead_letters, dead_letter_topic, at_step: None }
    }

    /// Publishes until the indexer ends. Blocking. What can't be published before the end is read again next time.
    pub fn run(self, input: &Receiver<Part>) -> Result<(), PublishError> {
        while let Ok(part) = input.recv() {
            if !self.publish(part)? {
                tracing::warn!(
                    "stopped before everything was published: it is read from the log again at the next start"
                );
                return Ok(());
            }
        }
        Ok(())
    }

    fn step(&self, step: Step) -> Result<(), PublishError> {
        tracing::trace!(?step, "publication");
        if self.at_step.as_ref().is_some_and(|crash| crash(step)) {
            return Err(PublishError::Crashed(step));
        }
        Ok(())
    }

    /// Repeats until it works. `Ok(None)`: told to stop.
    fn insist<T>(&self, mut work: impl FnMut() -> Result<T, PublishError>) -> Result<Option<T>, PublishError> {
        let mut wait = Duration::from_millis(200);
        let mut last_attempts = 0;
        loop {
            let error = match work() {
                Ok(done) => {
                    self.tools.shared.progress.publishing(Ok(()));
                    return Ok(Some(done));
                }
                Err(error) if error.is_fatal() => return Err(error),
                Err(error) => error,
            };
            self.tools.shared.metrics.publication_failures.inc();
            self.tools.shared.progress.publishing(Err(&error));
            tracing::error!(error = &error as &dyn std::error::Error, retry_in = ?wait,
                "publishing failed; nothing is lost, reading pauses when memory is full");
            if self.tools.cancel.is_cancelled() {
                last_attempts += 1;
                if last_attempts >= LAST_ATTEMPTS {
                    return Ok(None);
                }
            }
            let mut waited = Duration::ZERO;
            while waited < wait && !self.tools.cancel.is_cancelled() {
                std::thread::sleep(Duration::from_millis(50));
                waited += Duration::from_millis(50);
            }
            wait = (wait * 2).min(Duration::from_secs(10));
        }
    }

    /// False: told to stop before it was done.
    pub(crate) fn publish(&self, mut part: Part) -> Result<bool, PublishError> {
        self.step(Step::Begin)?;
        let (splits, too_long) = match self.insist(|| self.write_splits(&part))? {
            None => return Ok(false),
            Some(written) => written,
        };
        self.step(Step::Written)?;
        self.exclude(&mut part, too_long);
        let sent = self.insist(|| self.send_dead_letters(&mut part.dead_letters))?;
        if sent.is_none() {
            return Ok(false);
        }
        self.step(Step::DeadLetters)?;
        for split in &splits {
            let kept = self.insist(|| Ok(self.tools.folders.keep(&split.id)?))?;
            if kept.is_none() {
                return Ok(false);
            }
        }
        self.step(Step::Renamed)?;
        if self.insist(|| Ok(self.tools.shared.docs.store(&part.docs)?))?.is_none() {
            return Ok(false);
        }
        self.step(Step::Documents)?;
        let publication = Publication {
            id: format!("{:032x}", rand::random::<u128>()),
            splits: splits.clone(),
            intervals: part.intervals.values().cloned().collect(),
            holes: part.holes.clone(),
            sources: std::mem::take(&mut part.sources),
            forgotten: std::mem::take(&mut part.forgotten),
            counts: part.counts.clone(),
        };
        let tools = &self.tools;
        let stored = self.insist(|| Ok(tools.runtime.block_on(tools.catalog.publish(publication.clone()))?))?;
        if stored.is_none() {
            return Ok(false);
        }
        self.step(Step::Catalog)?;
        self.swap(&part, splits);
        self.step(Step::Swapped)?;
        let next = part.intervals.values().map(|i| (i.topic_partition(), i.to)).collect();
        tools.shared.progress.commit(next);
        Ok(true)
    }

    fn swap(&self, part: &Part, splits: Vec<SplitRecord>) {
        let Shared { index, book, metrics, .. } = &self.tools.shared;
        let live: Vec<Arc<LiveSplit>> = splits.into_iter().map(|record| index.live_split(record)).collect();
        index.published(part.number, live);
        book.published(&part.counts, &part.holes);
        metrics.publications.inc();
        let memory: usize = part.chunks.iter().map(|c| c.memory()).sum();
        metrics.head_bytes.dec_by(i64::try_from(memory).unwrap_or_default());
        for (topic, counts) in &part.counts {
            let label = TopicLabel { topic: topic.clone() };
            metrics.stored.get_or_create(&label).inc_by(counts.stored.lines);
            metrics.dead_letters.get_or_create(&label).inc_by(counts.dead_letter.lines);
        }
    }

    /// Writes a split per tenant to `tmp`. Gives back events that no split can hold.
    fn write_splits(&self, part: &Part) -> Result<Written, PublishError> {
        let (now_ms, folders) = (self.tools.clock.now_ms(), &self.tools.folders);
        let mut by_tenant: BTreeMap<&Tenant, Vec<&Arc<Chunk>>> = BTreeMap::new();
        for chunk in part.chunks.iter() {
            by_tenant.entry(chunk.tenant()).or_default().push(chunk);
        }
        let intervals: Vec<_> = part.intervals.values().cloned().collect();
        let (mut splits, mut too_long) = (Vec::new(), Vec::<(Tenant, StoredEvent)>::new());
        for (tenant, chunks) in by_tenant {
            loop {
                let is_out = |e: &StoredEvent| {
                    too_long.iter().any(|(_, out)| (out.source, out.position) == (e.source, e.position))
                };
                let events: Vec<StoredEvent> =
                    chunks.iter().flat_map(|c| c.stored_events()).filter(|e| !is_out(e)).collect();
                if events.is_empty() {
                    break;
                }
                let id = SplitId::new(now_ms);
                match SplitWriter::new(folders.fs()).write(&folders.new_split(&id), tenant, events) {
                    Ok(meta) => {
                        let intervals = intervals.clone();
                        splits.push(SplitRecord { id, level: 0, published_ms: now_ms, intervals, meta });
                        break;
                    }
                    Err(SplitError::TooLong { source_id, position, .. }) => {
                        folders.discard(&id);
                        let is_it = |e: &StoredEvent| (e.source, e.position) == (source_id, position);
                        let out = chunks.iter().flat_map(|c| c.stored_events()).find(is_it);
                        too_long.extend(out.map(|e| (tenant.clone(), e)));
                    }
                    Err(error) => {
                        folders.discard(&id);
                        for split in &splits {
                            folders.discard(&split.id);
                        }
                        return Err(error.into());
                    }
                }
            }
        }
        Ok((splits, too_long))
    }

    /// Counts events that no split can hold as dead letters.
    fn exclude(&self, part: &mut Part, too_long: Vec<(Tenant, StoredEvent)>) {
        let now_ms = self.tools.clock.now_ms();
        for (tenant, event) in too_long {
            let amount = Amount { lines: 1, bytes: event.line.len() as u64 };
            let topic = event.stream.topic.to_string();
            if let Some(counts) = part.counts.get_mut(&topic) {
                counts.stored -= amount;
                counts.dead_letter += amount;
            }
            for (key, state) in &mut part.sources {
                let SourceKey { partition, source } = key;
                if *source == event.source && *partition.topic == *topic {
                    state.stored -= amount;
                }
            }
            tracing::warn!(source = %event.source, position = %event.position, bytes = event.line.len(),
                "line is longer than a split can hold: it goes to the dead letters");
            let from = format!("{}@{}", event.source, event.position);
            let record = encode(
                &Event {
                    tenant,
                    time_ns: event.time_ns,
                    labels: event.stream.labels,
                    metadata: event.metadata,
                    line: event.line,
                    source: event.source,
                    position: event.position,
                    doc: event.doc.map(|d| Box::new((*d).clone())),
                    cut: event.cut,
                    time_from_line: event.time_from_line,
                },
                now_ms,
            );
            part.dead_letters.push(dead_letter(record, "index", "longer than a split can hold", &from, now_ms));
        }
    }

    /// Waits until the dead-letter topic has them; leaves in `letters` what is still to be sent.
    fn send_dead_letters(&self, letters: &mut Vec<Record>) -> Result<(), PublishError> {
        while !letters.is_empty() {
            let topic = self.dead_letter_topic.clone();
            let sent = self.tools.runtime.block_on(async {
                self.dead_letters.ensure_topic(&topic, 1).await?;
                self.dead_letters.send(&TopicPartition::new(topic.as_str(), 0), letters.clone()).await
            });
            match sent {
                Ok(_) => letters.clear(),
                Err(ClientError::Refused { failed, retriable: true, topic_partition, count, source }) => {
                    let mut at = 0;
                    letters.retain(|_| {
                        at += 1;
                        failed.contains(&(at - 1))
                    });
                    let source = ClientError::Refused { failed, retriable: true, topic_partition, count, source };
                    return Err(PublishError::DeadLetters { topic, source });
                }
                Err(ClientError::Refused { failed, source, .. }) => {
                    // Waiting would stop everything for records that nobody can take; they stay on their own topic.
                    tracing::error!(records = failed.len(), %source, topic, "dead letters refused for good: find them on their topic by the offsets in the log");
                    self.tools.shared.metrics.dead_letters_refused.inc_by(failed.len() as u64);
                    letters.clear();
                }
                Err(source) => return Err(PublishError::DeadLetters { topic, source }),
            }
        }
        Ok(())
    }
}
