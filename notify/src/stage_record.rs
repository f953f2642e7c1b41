//! Record stage: what an integration was sent, durable before the next flush relies on it.
//!
//! In: a notification that was sent. Out: its record in memory and on disk. Touches the notifier's store.

use std::sync::Arc;

use millrace_log::clock::span_ns;
use millrace_log::store::run_blocking;

use crate::dedup::SentRecord;
use crate::notification::{Notification, Stage, Verdict};
use crate::parts::Parts;

/// Keeps what was sent.
pub(crate) struct RecordStage {
    pub(crate) parts: Arc<Parts>,
}

#[async_trait::async_trait]
impl Stage for RecordStage {
    async fn pass(&self, notification: &mut Notification) -> Verdict {
        let parts = &self.parts;
        let sent_at_ns = parts.clock.now_ns();
        let record = SentRecord {
            firing: std::mem::take(&mut notification.firing),
            resolved: std::mem::take(&mut notification.resolved),
            sent_at_ns,
            expires_at_ns: sent_at_ns.saturating_add(span_ns(notification.route.repeat_interval.saturating_mul(2))),
        };
        parts.state.lock().sent.insert(notification.key.clone(), record.clone());
        let (records, key) = (parts.records.clone(), notification.key.clone());
        if let Err(error) = run_blocking(move || records.sent(&key, &record)).await {
            parts.metrics.store_failures.inc();
            tracing::error!(
                %error, group = notification.batch.group_key,
                "cannot record a sent notification: after a crash it may be sent again"
            );
        }
        Verdict::Continue
    }
}
