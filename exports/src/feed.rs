//! Feeds one export: a member of its consumer group, whose offsets are committed after delivery.
//!
//! In: the log, by the loop of [`millrace_log::consume`]. Out: batches to an [`Export`], one after the other; commits. Touches
//! the network. Leaves delivery, its retries and its ids to the export: after a crash records come again.

use std::time::Duration;

use millrace_log::client::group::{GroupReader, GroupSettings};
use millrace_log::client::{ClientError, Consumed, Limits};
use millrace_log::clock::SharedClock;
use millrace_log::consume::{
    Batch, Consumer, ConsumerSettings, ConsumerStatus, Control, Delivery, Keeping, Offered, Pause, Setback, sessions,
};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;

use crate::config::FeedConfig;

/// Batches between the reader and the export.
const QUEUE: usize = 2;
/// Records of one batch at most.
const BATCH: usize = 5000;
/// How long a turn waits for a first record.
const TURN: Duration = Duration::from_millis(200);
/// How often new topics and partitions are looked for.
const DISCOVER: Duration = Duration::from_secs(5);

/// Where records go. A file that is committed as a whole fits too: a batch is delivered when it is in a durable file.
#[async_trait::async_trait]
pub(crate) trait Export: Send + Sync {
    /// Delivers a batch until each of its records is stored, known, or a dead letter. `false` if stopped before that.
    async fn deliver(&self, batch: &[Consumed], token: &CancellationToken) -> bool;
}

/// The log as one export reads it.
pub(crate) struct Feed {
    pub config: FeedConfig,
    pub status: ConsumerStatus,
    pub clock: SharedClock,
    /// First and longest wait after a session ended.
    pub backoff: (Duration, Duration),
}

impl Feed {
    fn identity(&self) -> String {
        format!("{}-{}", self.config.group, self.config.instance)
    }

    fn open(&self) -> Result<GroupReader<Consumed>, ClientError> {
        let settings = GroupSettings {
            topics: self.config.topics.clone(),
            group: self.config.group.clone(),
            identity: self.identity(),
            refresh: Some(DISCOVER),
        };
        GroupReader::open(&self.config.connection(), settings)
    }

    /// Reads and delivers until cancelled; then delivers what it has begun, and ends. An error if the connection's settings can't be used
    /// as configured.
    pub async fn run(&self, export: &dyn Export, token: &CancellationToken) -> Result<(), ClientError> {
        drop(self.open()?);
        let control = Control::default();
        sessions(&self.status, self.backoff, token, || self.session(export, &control, token)).await;
        Ok(())
    }

    async fn session(&self, export: &dyn Export, control: &Control, token: &CancellationToken) -> Result<(), Setback> {
        let (sender, mut batches) = mpsc::channel(QUEUE);
        let reader = self.open()?;
        reader.join();
        let settings = ConsumerSettings {
            topics: self.config.topics.clone(),
            discover_interval: DISCOVER,
            identity: self.identity(),
            kind: "export",
            fenced_hint: "give each its own `kafka.instance`, and two different exports two groups",
        };
        let delivery = ToExport(Some(sender));
        let (clock, status) = (self.clock.clone(), self.status.clone());
        let consumer = Consumer::new(reader, delivery, settings, clock, status, control.clone(), token.clone());
        let reading = tokio::task::spawn_blocking(move || consumer.run());
        while let Some(batch) = batches.recv().await {
            let (generation, next) = (batch.generation, batch.next());
            if !export.deliver(&batch.into_records(), token).await {
                break;
            }
            control.reached(next.iter().cloned());
            control.stored(generation, next);
        }
        drop(batches);
        // It commits what was delivered first.
        control.stop();
        reading.await.unwrap_or_else(|_| {
            Err(Setback::Delivery { pause: Pause::Log, source: "the reading thread broke off".into() })
        })
    }
}

/// Hands batches to the export.
struct ToExport(Option<mpsc::Sender<Batch<Consumed>>>);

impl Delivery for ToExport {
    type Record = Consumed;

    fn keeping(&self) -> Keeping {
        Keeping::Group
    }

    fn limits(&self) -> Limits {
        Limits { records: BATCH, bytes: usize::MAX, wait: TURN, linger: Duration::ZERO }
    }

    fn offer(&mut self, batch: Batch<Consumed>) -> Result<Offered<Consumed>, Setback> {
        let Some(sender) = &self.0 else { return Ok(Offered::Closed) };
        // Full while the other system is slow: that is the back-pressure.
        Ok(match sender.try_send(batch) {
            Ok(()) => Offered::Taken,
            Err(TrySendError::Full(batch)) => Offered::Full(batch),
            Err(TrySendError::Closed(_)) => Offered::Closed,
        })
    }

    fn close(&mut self) {
        self.0 = None;
    }
}
