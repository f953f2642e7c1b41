//! Memory limits of an agent's parts, from its configuration.
//!
//! In: the configuration. Out: bytes. Touches nothing.

use crate::config::AgentConfig;

/// Memory for what waits for the log: all of it, or half where the other half is for what comes into the spool.
pub(super) fn waiting_bytes(config: &AgentConfig) -> usize {
    let bytes = if config.spool.is_some() { config.max_waiting_bytes.0 / 2 } else { config.max_waiting_bytes.0 };
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// What files that are behind may have waiting for one partition: some requests, so that its sender never runs dry, and
/// for all partitions together not all of the memory, so that there is room for the others.
pub(super) fn behind_bytes(config: &AgentConfig, partitions: i32) -> usize {
    let share = waiting_bytes(config) as u64 / 4 * 3 / u64::try_from(partitions.max(1)).unwrap_or(1);
    let bytes = (config.batch_bytes.0 * 4).min(share).max(config.read_bytes.0);
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
