//! Receiver `log`: writes alerts to the program's own log. Stands in while no `alertmanager.yml` is named.
//!
//! In: a message. Out: a line per alert. Touches nothing else; it never fails.

use crate::integration::{Integration, Message, Outcome};
use millrace_log::alert::labels_text;

/// Writes alerts to the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogReceiver;

#[async_trait::async_trait]
impl Integration for LogReceiver {
    fn kind(&self) -> &'static str {
        "log"
    }

    fn sends_resolved(&self) -> bool {
        true
    }

    async fn attempt(&self, message: &Message) -> Outcome {
        for told in &message.alerts {
            let labels = labels_text(&told.alert.labels);
            let summary = told.alert.annotations.get("summary").map_or("", String::as_str);
            if told.resolved {
                tracing::info!(labels, summary, "alert resolved");
            } else {
                tracing::warn!(labels, summary, link = told.alert.generator_url, "alert firing");
            }
        }
        Outcome::Sent
    }
}
