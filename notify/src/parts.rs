//! What the stages of the notifier share: state, records, clock, metrics, the bound on attempts under way.
//!
//! Touches the notifier's store through [`Records`].

use millrace_log::clock::SharedClock;
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use tokio::sync::Semaphore;

use crate::config::NotifyConfig;
use crate::failing::Failing;
use crate::metrics::NotifyMetrics;
use crate::plan::Plan;
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
    /// Flushes whose first attempts are under way at the same time.
    pub(crate) slots: Arc<Semaphore>,
    /// Messages that pause between attempts at the same time.
    pub(crate) pauses: Semaphore,
    /// What a reload replaces as one.
    pub(crate) plan: RwLock<Arc<Plan>>,
    /// Held while alerts are changed in memory and on disk, so that both see the same order. Never on async threads.
    pub(crate) write_order: Mutex<()>,
}

impl Parts {
    /// The current routing and integrations.
    pub(crate) fn plan(&self) -> Arc<Plan> {
        self.plan.read().clone()
    }
}
