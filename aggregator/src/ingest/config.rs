//! Settings of pushes by HTTP: limits, and how much may wait for the log.
//!
//! Touches nothing.

use millrace_log::value::{ByteSize, Faults, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How pushes are taken.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IngestConfig {
    /// Bytes of pushed events that may wait for the log; beyond, pushes are refused until it has caught up.
    pub max_in_flight: ByteSize,
    /// How long a push waits for the log before it is answered with an error.
    pub give_up_after: Span,
    /// Requests that may wait for one partition.
    pub queue_requests: usize,
    /// Lines taken last that are remembered, so that a repeated push is not written twice. 0: none. About 100 bytes each.
    pub remember_events: usize,
    /// Bytes of one line at most.
    pub max_line: ByteSize,
    /// Bytes of the structured metadata of one event at most.
    pub max_metadata: ByteSize,
    /// Names of structured metadata of one event at most.
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
