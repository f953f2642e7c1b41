//! Mute stage of inhibition: alerts that others mute while they fire.
//!
//! In: a notification. Out: the same without alerts that `inhibit_rules` mute. Touches nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use millrace_log::alert::{Fingerprint, LabelSet};

use crate::metrics::Muting;
use crate::notification::{Notification, Stage, Verdict};
use crate::parts::Parts;

/// Leaves out what is muted.
pub(crate) struct InhibitStage {
    pub(crate) parts: Arc<Parts>,
}

#[async_trait::async_trait]
impl Stage for InhibitStage {
    async fn pass(&self, notification: &mut Notification) -> Verdict {
        let at_ns = notification.batch.at_ns;
        let inhibited: BTreeSet<Fingerprint> = {
            let state = self.parts.state.lock();
            let alerts = notification.batch.alerts.iter();
            let is_inhibited = |labels: &LabelSet| state.inhibited_by(labels, at_ns).is_some();
            alerts.filter(|a| is_inhibited(&a.alert.labels)).map(|a| a.fingerprint).collect()
        };
        let (count, verdict) = notification.leave_out(|alert| inhibited.contains(&alert.fingerprint));
        self.parts.metrics.muted(Muting::Inhibition, count);
        verdict
    }
}
