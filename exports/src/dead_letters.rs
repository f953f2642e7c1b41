//! Puts records aside that another system refuses for good: in the dead-letter topic, as they were, with the reason.
//!
//! In: records and reasons. Out: dead letters, written before the export goes on. Touches the log through [`BatchProducer`].

use std::sync::Arc;
use std::time::Duration;

use millrace_log::client::{BatchProducer, Consumed};
use millrace_log::clock::SharedClock;
use millrace_log::consume::{ConsumerStatus, Pause};
use millrace_log::dead_letter::dead_letter;
use millrace_log::record::{Record, TopicPartition};
use tokio_util::sync::CancellationToken;

/// The way to the dead letters of one export.
pub(crate) struct DeadLetters {
    pub producer: Arc<dyn BatchProducer>,
    pub topic: String,
    /// Name of the stage in the letters.
    pub stage: &'static str,
    pub clock: SharedClock,
    /// First and longest wait after a failure.
    pub backoff: (Duration, Duration),
}

impl DeadLetters {
    /// Writes records, by their index in a batch, with the reason. Tried until it succeeds; `false` if stopped before that.
    pub async fn write(
        &self,
        batch: &[Consumed],
        refused: Vec<(usize, String)>,
        status: &ConsumerStatus,
        token: &CancellationToken,
    ) -> bool {
        let Some((_, first)) = refused.first() else { return true };
        let (consumer, records) = (status.name(), refused.len());
        tracing::warn!(consumer, records, first, "records refused for good go to the dead letters");
        let now = self.clock.now_ms();
        let letter = |(index, reason): (usize, String)| {
            let one: &Consumed = batch.get(index)?;
            let from = format!("{}@{}", one.partition, one.offset);
            Some(dead_letter(one.record.clone(), self.stage, &reason, &from, now))
        };
        let letters: Vec<Record> = refused.into_iter().filter_map(letter).collect();
        let to = TopicPartition::new(self.topic.as_str(), 0);
        let (mut backoff, longest) = self.backoff;
        loop {
            let sent = match self.producer.ensure_topic(&self.topic, 1).await {
                Ok(_) => self.producer.send(&to, letters.clone()).await,
                Err(error) => Err(error),
            };
            match sent {
                Ok(_) => {
                    status.resume(Pause::DeadLetters);
                    return true;
                }
                Err(error) => {
                    status.pause(Pause::DeadLetters, &format!("dead letters can't be written: {error}"));
                    if !rest(backoff, token).await {
                        return false;
                    }
                    backoff = (backoff * 2).min(longest);
                }
            }
        }
    }
}

/// Waits, unless the export is stopped.
pub(crate) async fn rest(time: Duration, token: &CancellationToken) -> bool {
    tokio::select! {
        () = tokio::time::sleep(time) => true,
        () = token.cancelled() => false,
    }
}
