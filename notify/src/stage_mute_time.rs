//! Mute stage of time intervals: routes that notify nobody now.
//!
//! In: a notification. Out: nothing left to do while `mute_time_intervals` or `active_time_intervals` of its route mute it.
//! Touches nothing.

use std::sync::Arc;

use crate::metrics::Muting;
use crate::notification::{Notification, Stage, Verdict};
use crate::parts::Parts;

/// Leaves out what is muted.
pub(crate) struct TimeStage {
    pub(crate) parts: Arc<Parts>,
}

#[async_trait::async_trait]
impl Stage for TimeStage {
    async fn pass(&self, notification: &mut Notification) -> Verdict {
        let plan = self.parts.plan();
        if plan.routing.muted_by(&notification.route, notification.batch.at_ns).is_empty() {
            return Verdict::Continue;
        }
        let (count, verdict) = notification.leave_out(|_| true);
        self.parts.metrics.muted(Muting::Time, count);
        verdict
    }
}
