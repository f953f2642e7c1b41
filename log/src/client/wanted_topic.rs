//! Creates a topic again that the log no longer has: it was deleted, or the log came back with an empty folder.
//!
//! In: a producer, a topic, its partitions. Out: the topic. Touches the network through the producer. The writers of a
//! topic share one [`WantedTopic`]: of several that find it missing, one creates it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;

use super::api::BatchProducer;
use super::error::ClientError;

/// A topic that its writers create where it is missing.
pub struct WantedTopic {
    producer: Arc<dyn BatchProducer>,
    topic: Arc<str>,
    create_with: i32,
    used: i32,
    /// One creation at a time.
    gate: Semaphore,
    created: AtomicU64,
}

impl std::fmt::Debug for WantedTopic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WantedTopic({}, {} partitions)", self.topic, self.create_with)
    }
}

impl WantedTopic {
    /// A topic of which the first `used` partitions are written to; it is created with `create_with`, and at least these.
    pub fn new(producer: Arc<dyn BatchProducer>, topic: Arc<str>, create_with: i32, used: i32) -> Self {
        let create_with = create_with.max(used);
        Self { producer, topic, create_with, used, gate: Semaphore::new(1), created: AtomicU64::new(0) }
    }

    /// How often it was created again: to be kept before a batch is sent.
    pub fn created(&self) -> u64 {
        self.created.load(Ordering::Acquire)
    }

    /// After a batch was refused because the topic is missing, sent when it had been created again `seen` times. Whether
    /// this call created it.
    pub async fn create_again(&self, seen: u64) -> Result<bool, ClientError> {
        let Ok(_alone) = self.gate.acquire().await else { return Ok(false) };
        if self.created() != seen {
            return Ok(false);
        }
        let found = self.producer.ensure_topic(&self.topic, self.create_with).await?;
        if found < self.used {
            let reason = format!(
                "it exists with {found} partitions, {} are written to: add partitions, or restart this process",
                self.used
            );
            return Err(ClientError::Topic { topic: self.topic.to_string(), reason });
        }
        self.created.fetch_add(1, Ordering::Release);
        tracing::warn!(
            topic = &*self.topic,
            partitions = found,
            "topic was missing in the log and was created again; records that were in it are gone"
        );
        Ok(true)
    }
}
