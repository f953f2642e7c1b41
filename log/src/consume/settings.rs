//! What one consumer reads, and what it is called in messages.
//!
//! In: values of the configuration. Out: settings of a [`super::Consumer`], and its answer to a second one of its name. Touches
//! nothing.

use std::time::Duration;

use super::delivery::Setback;

/// What one consumer reads.
#[derive(Debug, Clone)]
pub struct ConsumerSettings {
    /// Its topics.
    pub topics: Vec<String>,
    /// How often new partitions and topics are looked for, where the consumer looks itself.
    pub discover_interval: Duration,
    /// Its name in the group, for messages.
    pub identity: String,
    /// What it is, such as "router".
    pub kind: &'static str,
    /// What to set when two have one name.
    pub fenced_hint: &'static str,
}

impl ConsumerSettings {
    /// Another consumer has taken the name.
    pub(super) fn fenced(&self) -> Setback {
        Setback::Fenced { kind: self.kind, identity: self.identity.clone(), hint: self.fenced_hint }
    }
}
