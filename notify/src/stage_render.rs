//! Render stage: the message of a notification.
//!
//! In: the frozen batch. Out: a message with the alerts that the receiver wants, or none. Touches nothing.

use std::sync::Arc;

use crate::integration::Message;
use crate::notification::{Notification, Stage, Verdict};
use crate::parts::Parts;

/// Makes the message.
pub(crate) struct RenderStage {
    pub(crate) parts: Arc<Parts>,
}

#[async_trait::async_trait]
impl Stage for RenderStage {
    async fn pass(&self, notification: &mut Notification) -> Verdict {
        let batch = &notification.batch;
        let mut alerts = batch.alerts.clone();
        if !notification.integration.sends_resolved() {
            alerts.retain(|alert| !alert.resolved);
        }
        notification.message = (!alerts.is_empty()).then(|| Message {
            receiver: notification.route.receiver.clone(),
            group_key: batch.group_key.clone(),
            group_labels: batch.group_labels.clone(),
            alerts,
            external_url: self.parts.config.shown_url(),
        });
        Verdict::Continue
    }
}
