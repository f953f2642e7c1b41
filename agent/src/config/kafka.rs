//! Section `agent.kafka`: which log and topic to write to.
//!
//! In: YAML as the binary read it. Out: typed values with defaults, and the client. Touches nothing.

use std::sync::Arc;

use millrace_log::client::{BatchProducer, ClientError, WireProducer};
use millrace_log::record::is_topic_name;
use millrace_log::value::Faults;

use crate::checks::TOPIC_RULE;

millrace_log::kafka_section! {
    /// Which log and which topic.
    pub struct KafkaConfig {
        /// Topic that lines are sent to; created if it does not exist.
        pub topic: String = "logs".to_owned(),
        /// Number of partitions if the topic must be created.
        pub partitions: i32 = 4,
    }
}

impl KafkaConfig {
    /// The client that writes to the log. It repeats for ever, unless `options` say otherwise: giving a record up while
    /// later ones go through would break the order of positions.
    pub fn producer(&self) -> Result<Arc<dyn BatchProducer>, ClientError> {
        Ok(Arc::new(WireProducer::new(&self.connection(), None)?))
    }

    pub(super) fn check(&self, faults: &mut Faults) {
        self.connection().check(faults);
        if !is_topic_name(&self.topic) {
            faults.add("topic", TOPIC_RULE);
        }
        if !(1..=10_000).contains(&self.partitions) {
            faults.add("partitions", format!("is {}: expected 1 to 10000", self.partitions));
        }
    }
}
