//! Dedup stage: whether what a group says now differs from what its receiver knows.
//!
//! In: a notification with its fingerprints. Out: the reason why it goes out, or nothing to do. Touches nothing.

use std::sync::Arc;

use crate::dedup;
use crate::notification::{Notification, Stage, Verdict};
use crate::parts::Parts;

/// Compares with the record of what was sent.
pub(crate) struct DedupStage {
    pub(crate) parts: Arc<Parts>,
}

#[async_trait::async_trait]
impl Stage for DedupStage {
    async fn pass(&self, notification: &mut Notification) -> Verdict {
        let state = self.parts.state.lock();
        notification.reason = dedup::decide(
            state.sent.get(&notification.key),
            &notification.firing,
            &notification.resolved,
            notification.integration.sends_resolved(),
            notification.batch.at_ns,
            notification.route.repeat_interval,
        );
        if notification.reason.is_some() { Verdict::Continue } else { Verdict::Done }
    }
}
