//! Mute stage of silences: alerts that people have silenced.
//!
//! In: a notification. Out: the same without alerts that an active silence matches. Touches nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use millrace_log::alert::{Fingerprint, LabelSet};

use crate::metrics::Muting;
use crate::notification::{Notification, Stage, Verdict};
use crate::parts::Parts;

/// Leaves out what is muted.
pub(crate) struct SilenceStage {
    pub(crate) parts: Arc<Parts>,
}

#[async_trait::async_trait]
impl Stage for SilenceStage {
    async fn pass(&self, notification: &mut Notification) -> Verdict {
        let at_ns = notification.batch.at_ns;
        let silenced: BTreeSet<Fingerprint> = {
            let mut state = self.parts.state.lock();
            let alerts = notification.batch.alerts.iter();
            let mut is_silenced = |f: Fingerprint, labels: &LabelSet| !state.silences.mute(f, labels, at_ns).is_empty();
            alerts.filter(|a| is_silenced(a.fingerprint, &a.alert.labels)).map(|a| a.fingerprint).collect()
        };
        let (count, verdict) = notification.leave_out(|alert| silenced.contains(&alert.fingerprint));
        self.parts.metrics.muted(Muting::Silence, count);
        verdict
    }
}
