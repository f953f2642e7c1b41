//! Settings of pushes by HTTP: limits, and how much may wait for the log.
//!
//! Touches nothing.

use millrace_log::value::{ByteSize, Faults, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How pushes are accepted.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IngestConfig {
    /// Maximum bytes of pushed events waiting for the log. Beyond it, pushes are rejected until the log has caught up.
    pub max_in_flight: ByteSize,
    /// Time after which a push that the log has not acknowledged is answered with an error.
    pub give_up_after: Span,
    /// Maximum number of requests waiting for one partition.
    pub queue_requests: usize,
    /// Number of recently accepted lines that are remembered, so that a repeated push is not written twice; about 100 bytes
    /// each. 0: none.
    pub remember_events: usize,
    /// Maximum bytes of one line.
    pub max_line: ByteSize,
    /// Maximum bytes of structured metadata of one event.
    pub max_metadata: ByteSize,
    /// Maximum number of structured metadata names of one event.
    pub max_metadata_names: usize,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            max_in_flight: ByteSize::mib(64),
            give_up_after: Span::secs(30),
            queue_requests: 1024,
            remember_events: 200_000,
            max_line: ByteSize(256 << 10),
            max_metadata: ByteSize(64 << 10),
            max_metadata_names: 128,
        }
    }
}

impl IngestConfig {
    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        for (key, zero) in [
            ("max_in_flight", self.max_in_flight.0 == 0),
            ("give_up_after", self.give_up_after.0.is_zero()),
            ("queue_requests", self.queue_requests == 0),
            ("max_line", self.max_line.0 == 0),
        ] {
            if zero {
                faults.add(key, "must not be zero");
            }
        }
        if self.max_line > ByteSize(900_000) {
            faults.add("max_line", "must be at most 900000B: a record of the log is limited to about 1 MB");
        }
    }
}
