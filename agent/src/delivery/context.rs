//! What all partition senders of an agent share.
//!
//! In: the parts, made at the start. Touches nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_log::client::{BatchProducer, WantedTopic};
use millrace_log::clock::SharedClock;
use parking_lot::Mutex;

use crate::batch::MemoryBudget;
use crate::condition::Conditions;
use crate::metrics::AgentMetrics;
use crate::state::State;
use crate::tap::Taps;
use crate::watch::Wake;

/// Shared by all senders.
pub(crate) struct DeliveryContext {
    pub producer: Arc<dyn BatchProducer>,
    pub state: Arc<State>,
    pub clock: SharedClock,
    pub budget: Arc<MemoryBudget>,
    pub wake: Wake,
    pub metrics: AgentMetrics,
    pub batch_records: usize,
    pub retry_initial: Duration,
    pub retry_max: Duration,
    pub dead_letter_topic: Arc<str>,
    /// The topic of the configuration.
    pub topic: WantedTopic,
    pub routed: RoutedTopics,
    pub conditions: Conditions,
    pub taps: Taps,
}

/// Topics that transforms name, with the number of partitions that is used of each.
#[derive(Debug)]
pub(crate) struct RoutedTopics {
    /// Partitions of topics that must be created.
    pub create_with: i32,
    known: Mutex<HashMap<Arc<str>, i32>>,
}

impl RoutedTopics {
    /// Topics that do not exist get `create_with` partitions.
    pub fn new(create_with: i32) -> Self {
        Self { create_with, known: Mutex::default() }
    }

    /// Partitions in use, once the topic was met.
    pub fn known(&self, topic: &str) -> Option<i32> {
        self.known.lock().get(topic).copied()
    }

    /// Uses so many partitions of a topic from now on.
    pub fn learn(&self, topic: Arc<str>, partitions: i32) {
        self.known.lock().insert(topic, partitions);
    }
}
