//! A notification on its way: what one integration is to learn of one flush of a group, and the trait of the stages it passes.
//!
//! In: a frozen batch and an integration. Out: a verdict per stage. Touches nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use millrace_log::alert::Fingerprint;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::dedup::Reason;
use crate::group::{Batch, NotifiedAlert};
use crate::integration::{Integration, Message};
use crate::routing::Route;

/// What one integration is to learn of one flush. Stages fill it in from top to bottom.
pub(crate) struct Notification {
    /// The group's alerts, frozen.
    pub(crate) batch: Arc<Batch>,
    /// The route that led here.
    pub(crate) route: Arc<Route>,
    /// Which of the receiver's integrations.
    pub(crate) number: usize,
    /// How people are notified.
    pub(crate) integration: Arc<dyn Integration>,
    /// How long sending may take.
    pub(crate) time_limit: Duration,
    /// The place of its flush, until its first attempt has failed.
    pub(crate) slot: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
    /// Set when the program stops.
    pub(crate) stop: CancellationToken,
    /// Alerts that fire.
    pub(crate) firing: BTreeSet<Fingerprint>,
    /// Alerts that are over.
    pub(crate) resolved: BTreeSet<Fingerprint>,
    /// Key of its record.
    pub(crate) key: String,
    /// Why it goes out: from the dedup stage.
    pub(crate) reason: Option<Reason>,
    /// What is sent: from the render stage; none if there is nothing that the receiver wants.
    pub(crate) message: Option<Message>,
}

impl Notification {
    /// Leaves out alerts that are muted. Returns how many, and what is left to do.
    pub(crate) fn leave_out(&mut self, muted: impl Fn(&NotifiedAlert) -> bool) -> (usize, Verdict) {
        let (out, left): (Vec<_>, Vec<_>) = self.batch.alerts.iter().partition(|alert| muted(alert));
        if !out.is_empty() {
            let batch = self.batch.with(left.into_iter().cloned().collect());
            let count = out.len();
            self.firing = batch.fingerprints(false);
            self.resolved = batch.fingerprints(true);
            self.batch = Arc::new(batch);
            return (count, if self.batch.alerts.is_empty() { Verdict::Done } else { Verdict::Continue });
        }
        (0, Verdict::Continue)
    }
}

/// What a stage says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The next stage.
    Continue,
    /// Nothing is left to do: the integration knows everything.
    Done,
    /// The integration does not know; the next flush tries again.
    Failed,
}

/// One stage between a flush and its record.
#[async_trait::async_trait]
pub(crate) trait Stage: Send + Sync {
    /// Looks at a notification, fills in its part.
    async fn pass(&self, notification: &mut Notification) -> Verdict;
}
