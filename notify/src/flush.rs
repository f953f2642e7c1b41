//! One flush of a group: its alerts are frozen, each integration of the receiver is notified by the stages mute
//! (time, silence, inhibition), dedup, render, send and record, and alerts that are resolved and notified are forgotten.
//!
//! In: the key of a group that is due. Out: messages of integrations. Touches the network and the records by way of the stages.

use std::sync::Arc;

use millrace_log::alert::Fingerprint;
use millrace_log::store::run_blocking;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::alert::Alert;
use crate::notification::{Notification, Stage, Verdict};
use crate::parts::Parts;
use crate::record;
use crate::stage_dedup::DedupStage;
use crate::stage_mute_inhibit::InhibitStage;
use crate::stage_mute_silence::SilenceStage;
use crate::stage_mute_time::TimeStage;
use crate::stage_record::RecordStage;
use crate::stage_render::RenderStage;
use crate::stage_send::SendStage;
use crate::wait;

/// Flushes groups.
pub(crate) struct Flush {
    parts: Arc<Parts>,
    /// What each notification passes, in order.
    stages: [Box<dyn Stage>; 7],
}

impl Flush {
    /// With all stages.
    pub(crate) fn new(parts: &Arc<Parts>) -> Self {
        Self {
            stages: [
                Box::new(TimeStage { parts: Arc::clone(parts) }),
                Box::new(SilenceStage { parts: Arc::clone(parts) }),
                Box::new(InhibitStage { parts: Arc::clone(parts) }),
                Box::new(DedupStage { parts: Arc::clone(parts) }),
                Box::new(RenderStage { parts: Arc::clone(parts) }),
                Box::new(SendStage { parts: Arc::clone(parts) }),
                Box::new(RecordStage { parts: Arc::clone(parts) }),
            ],
            parts: Arc::clone(parts),
        }
    }

    /// One flush of a group: freeze, notify each integration, and forget what is over and notified.
    pub(crate) async fn run(self: Arc<Self>, key: String, slot: OwnedSemaphorePermit, stop: CancellationToken) {
        let now_ns = self.parts.clock.now_ns();
        let plan = self.parts.plan();
        let Some(batch) = self.parts.state.lock().freeze(&key, now_ns).map(Arc::new) else { return };
        let ended: Vec<Fingerprint> = batch
            .alerts
            .iter()
            .filter(|notified| notified.resolved && !notified.alert.ended)
            .map(|notified| notified.fingerprint)
            .collect();
        if !ended.is_empty() {
            self.clone().mark_ended(ended, now_ns).await;
        }
        let route = Arc::clone(&batch.route);
        // A reload that took the receiver away has regrouped the alerts, too.
        let Some(integrations) = plan.integrations.get(&route.receiver) else { return };
        let slot = Arc::new(Mutex::new(Some(slot)));
        let (firing, resolved) = (batch.fingerprints(false), batch.fingerprints(true));
        let notified = integrations.iter().enumerate().map(|(number, integration)| {
            self.notify(Notification {
                key: record::entry_key(&route.receiver, integration.kind(), number, &batch.group_id),
                batch: Arc::clone(&batch),
                time_limit: wait::send_limit(&route),
                route: Arc::clone(&route),
                number,
                integration: Arc::clone(integration),
                slot: Arc::clone(&slot),
                stop: stop.clone(),
                firing: firing.clone(),
                resolved: resolved.clone(),
                reason: None,
                message: None,
            })
        });
        let notified = futures::future::join_all(notified).await;
        if notified.into_iter().all(|good| good) {
            let over: Vec<(Fingerprint, i64)> = batch
                .alerts
                .iter()
                .filter(|notified| notified.resolved)
                .map(|notified| (notified.fingerprint, notified.alert.updated_at_ns))
                .collect();
            if !over.is_empty() {
                self.forget_resolved(batch.group_id.clone(), over).await;
            }
        }
    }

    /// Makes durable that alerts are over, before anybody is notified: a restart must not revive them.
    async fn mark_ended(self: Arc<Self>, fingerprints: Vec<Fingerprint>, now_ns: i64) {
        run_blocking(move || {
            let _order = self.parts.write_order.lock();
            let ended: Vec<Alert> = {
                let mut state = self.parts.state.lock();
                let mut ended = Vec::new();
                for fingerprint in fingerprints {
                    if let Some(alert) = state.alerts.get_mut(&fingerprint).filter(|a| a.resolved_at(now_ns)) {
                        alert.ended = true;
                        ended.push(alert.clone());
                    }
                }
                ended
            };
            if let Err(error) = self.parts.records.keep(&ended) {
                self.parts.metrics.store_failures.inc();
                tracing::error!(%error, "cannot save that alerts are resolved: after a crash they may be sent again");
            }
        })
        .await;
    }

    /// Takes one integration through the stages. True if it knows everything now.
    async fn notify(&self, mut notification: Notification) -> bool {
        for stage in &self.stages {
            match stage.pass(&mut notification).await {
                Verdict::Continue => {}
                Verdict::Done => return true,
                Verdict::Failed => return false,
            }
        }
        true
    }

    /// Takes alerts out of their group that are over, notified, and not reported again meanwhile. Those in no group any more are
    /// forgotten.
    async fn forget_resolved(self: Arc<Self>, group_id: String, over: Vec<(Fingerprint, i64)>) {
        run_blocking(move || {
            let _order = self.parts.write_order.lock();
            let mut gone = Vec::new();
            {
                let mut state = self.parts.state.lock();
                for (fingerprint, updated_at_ns) in over {
                    let is_same = |alert: &Alert| alert.updated_at_ns == updated_at_ns;
                    if state.alerts.get(&fingerprint).is_some_and(is_same) && state.leave(&group_id, fingerprint) {
                        gone.push(fingerprint);
                    }
                }
            }
            if gone.is_empty() {
                return;
            }
            if let Err(error) = self.parts.records.drop_alerts(&gone) {
                self.parts.metrics.store_failures.inc();
                tracing::error!(%error, "cannot remove resolved alerts from the disk");
            }
        })
        .await;
    }
}
