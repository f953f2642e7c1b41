//! Settings of pushes by HTTP: limits, and how much may wait for the log.
//!
//! Touches nothing.

use std::collections::BTreeMap;

use millrace_index::config::check_tenants;
use millrace_log::value::{ByteSize, Faults, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How pushes are accepted.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IngestConfig {
    /// Maximum bytes of pushed events waiting for the log, of one tenant three quarters of it. Beyond it, pushes are rejected
    /// until the log has caught up.
    pub max_in_flight: ByteSize,
    /// Maximum bytes of events that each tenant may push in a second; further pushes are rejected (429). Left out: no limit.
    pub max_rate: Option<ByteSize>,
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
    /// Limits of single tenants, by name.
    pub tenants: BTreeMap<String, TenantIngest>,
}

/// Limits of one tenant's pushes. Those left out are those of all.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TenantIngest {
    /// Maximum bytes of events in a second.
    pub max_rate: Option<ByteSize>,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            max_in_flight: ByteSize::mib(64),
            max_rate: None,
            give_up_after: Span::secs(30),
            queue_requests: 1024,
            remember_events: 200_000,
            max_line: ByteSize(256 << 10),
            max_metadata: ByteSize(64 << 10),
            max_metadata_names: 128,
            tenants: BTreeMap::new(),
        }
    }
}

impl IngestConfig {
    /// Bytes of one tenant that may wait for the log.
    pub fn in_flight_of_one_tenant(&self) -> ByteSize {
        ByteSize(self.max_in_flight.0 - self.max_in_flight.0 / 4)
    }

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
        let own = self.tenants.iter().map(|(name, tenant)| (format!("tenants.{name}.max_rate"), tenant.max_rate));
        for (key, rate) in own.chain([("max_rate".to_owned(), self.max_rate)]) {
            if rate.is_some_and(|rate| rate < ByteSize(1024)) {
                faults.add(&key, "is below 1KiB a second: almost every push would be rejected");
            }
        }
        check_tenants(self.tenants.keys(), faults);
    }
}
