//! How far reading and indexing are, and what passes between the consumer of the log and the index.
//!
//! In: fetched stretches of partitions, offsets that became searchable, faults of consumer and publisher. Out: readiness, lag,
//! waiting until all is searchable; commands for the consumer's thread. Touches nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use millrace_log::client::{ClientError, Consumed};
use millrace_log::record::TopicPartition;
use millrace_logql::storage::StorageError;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::interval::{Hole, Interval};

/// Records of one partition that follow each other.
#[derive(Debug)]
pub struct Fetched {
    /// What they cover.
    pub interval: Interval,
    /// What was lost just before them.
    pub hole: Option<Hole>,
    /// The records, by offset.
    pub records: Vec<Consumed>,
}

/// Where each partition ends.
pub type Highs = Vec<(TopicPartition, i64)>;

/// What others ask of the consumer's thread.
#[derive(Debug)]
pub enum Command {
    /// Show these offsets of the group.
    Commit(Vec<(TopicPartition, i64)>),
    /// Say where each partition ends.
    HighWatermarks(oneshot::Sender<Result<Highs, ClientError>>),
    /// End the thread.
    Stop,
}

/// How far reading and indexing are, for doors, readiness and lag displays.
#[derive(Debug)]
pub struct Progress {
    searchable: watch::Sender<HashMap<TopicPartition, i64>>,
    commands: SyncSender<Command>,
    inbox: Mutex<Option<Receiver<Command>>>,
    state: Mutex<Reach>,
    /// What was last answered, and when.
    highs: Mutex<Option<(Instant, Highs)>>,
}

#[derive(Debug, Default)]
struct Reach {
    positions_known: bool,
    trouble: Option<String>,
    unpublished: Option<String>,
}

/// How long whoever asks how far behind the index is waits for the answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// An answer so young serves the next who asks too: each one asks the log about every partition, on the thread that
/// reads.
const FRESH: Duration = Duration::from_secs(2);
/// Commands that may wait for the consumer's thread; it looks several times a second.
const COMMANDS: usize = 256;

impl Default for Progress {
    fn default() -> Self {
        let (commands, inbox) = std::sync::mpsc::sync_channel(COMMANDS);
        Self {
            searchable: watch::channel(HashMap::new()).0,
            commands,
            inbox: Mutex::new(Some(inbox)),
            state: Mutex::default(),
            highs: Mutex::default(),
        }
    }
}

impl Progress {
    /// Everything before these offsets is searchable.
    pub fn searchable(&self, next: impl IntoIterator<Item = (TopicPartition, i64)>) {
        self.searchable.send_modify(|all| all.extend(next));
    }

    /// Next offset of each partition to become searchable.
    pub fn positions(&self) -> HashMap<TopicPartition, i64> {
        self.searchable.borrow().clone()
    }

    /// Asks the consumer's thread to show offsets of the group. Left out when that thread is busy: the next ones do.
    pub fn commit(&self, next: Vec<(TopicPartition, i64)>) {
        if self.commands.try_send(Command::Commit(next)).is_err() {
            tracing::debug!("group offsets not committed: the consumer is busy or has ended");
        }
    }

    /// Ends the consumer's thread after it was cancelled.
    pub fn stop(&self) {
        self.commands.send(Command::Stop).ok();
    }

    /// Notes whether publishing works.
    pub fn publishing(&self, works: Result<(), &dyn std::error::Error>) {
        self.state.lock().unpublished = works.err().map(|error| format!("publishing fails and is repeated: {error}"));
    }

    /// Whether the log was reached, positions are known and publishing works; else what is in the way.
    pub fn ready(&self) -> Result<(), String> {
        let state = self.state.lock();
        match (state.trouble.as_ref().or(state.unpublished.as_ref()), state.positions_known) {
            (Some(trouble), _) => Err(trouble.clone()),
            (None, false) => Err("positions in the log are not known yet".to_owned()),
            (None, true) => Ok(()),
        }
    }

    /// Records in the log that can't be searched yet, as of a moment ago. While the consumer's thread waits for the index
    /// it can't be asked: then as of the last answer.
    pub async fn behind(&self) -> Result<u64, StorageError> {
        let known = self.highs.lock().clone();
        let highs = match known {
            Some((at, highs)) if at.elapsed() < FRESH => highs,
            known => match tokio::time::timeout(PATIENCE, self.high_watermarks()).await {
                Ok(highs) => highs?,
                Err(_) => known.ok_or_else(busy)?.1,
            },
        };
        let searchable = self.positions();
        let left = |(tp, high): (TopicPartition, i64)| {
            let next = searchable.get(&tp).copied().unwrap_or(0);
            u64::try_from(high - next).unwrap_or(0)
        };
        Ok(highs.into_iter().map(left).sum())
    }

    async fn high_watermarks(&self) -> Result<Highs, StorageError> {
        let (ask, answer) = oneshot::channel();
        self.commands.try_send(Command::HighWatermarks(ask)).map_err(|_| busy())?;
        let highs = answer.await.map_err(|_| busy())?.map_err(|source| StorageError::Failed {
            what: "the high watermarks".to_owned(),
            source: Arc::new(source),
        })?;
        *self.highs.lock() = Some((Instant::now(), highs.clone()));
        Ok(highs)
    }

    /// Waits until everything that was in the log at the moment of the call is searchable.
    pub async fn caught_up(&self) -> Result<(), StorageError> {
        let wanted = self.high_watermarks().await?;
        let mut searchable = self.searchable.subscribe();
        let reached = |now: &HashMap<TopicPartition, i64>| {
            wanted.iter().all(|(tp, high)| *high == 0 || now.get(tp).is_some_and(|next| next >= high))
        };
        searchable.wait_for(reached).await.map(|_| ()).map_err(|_| busy())
    }

    /// Notes why the log can't be read now; `None` once it can.
    pub fn trouble(&self, trouble: Option<String>) {
        self.state.lock().trouble = trouble;
    }

    /// Notes that the log was reached and says where each partition is read on.
    pub fn positions_known(&self) {
        let mut state = self.state.lock();
        state.trouble = None;
        state.positions_known = true;
    }

    /// What others ask of the consumer's thread; `None` if a consumer has it already.
    pub fn take_inbox(&self) -> Option<Receiver<Command>> {
        self.inbox.lock().take()
    }
}

fn busy() -> StorageError {
    StorageError::Failed {
        what: "the high watermarks".to_owned(),
        source: Arc::new(std::io::Error::other("the consumer is busy or has ended")),
    }
}
