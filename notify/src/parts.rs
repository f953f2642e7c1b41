//! What the stages of the notifier share: state, records, clock, metrics, the bound on attempts under way.
//!
//! Touches the notifier's store through [`Records`].

use millrace_log::clock::SharedClock;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::Semaphore;

use crate::config::NotifyConfig;
use crate::failing::Failing;
use crate::metrics::NotifyMetrics;
use crate::record::Records;
use crate::state::NotifierState;

/// What stages share.
pub(crate) struct Parts {
    /// Settings.
    pub(crate) config: NotifyConfig,
    /// Wall-clock time.
    pub(crate) clock: SharedClock,
    /// Counters.
    pub(crate) metrics: Arc<NotifyMetrics>,
    /// What is on disk.
    pub(crate) records: Records,
    /// What is in memory.
    pub(crate) state: Mutex<NotifierState>,
    /// Receivers that take nothing.
    pub(crate) failing: Failing,
    /// Attempts under way at the same time.
    pub(crate) permits: Semaphore,
}
