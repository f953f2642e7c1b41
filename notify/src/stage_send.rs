//! Send stage: one message to one integration, tried again with growing pauses until it is taken or refused.
//!
//! In: a rendered [`Notification`]. Out: whether the receiver took it. Touches the network by way of the integration. What is
//! given up here is tried anew at the group's next flush, for as long as the group lives.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::integration::{Integration, Message, Outcome};
use crate::metrics::IntegrationLabels;
use crate::notification::{Notification, Stage, Verdict};
use crate::parts::Parts;

/// First pause; each further one is half as long again, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How sending ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Delivery {
    /// Taken, after so many attempts.
    Sent {
        /// Attempts made.
        attempts: u32,
    },
    /// Refused: another try now would end the same way.
    Refused {
        /// Why.
        reason: String,
    },
    /// The time is over, or the program stops.
    GivenUp {
        /// Why the last attempt failed.
        reason: String,
        /// Attempts made.
        attempts: u32,
    },
}

/// Sends one message. `permits` bounds the attempts under way in the whole notifier, `pauses` the messages that are kept between
/// attempts: beyond it, they are given up until the next flush.
async fn deliver(
    integration: &dyn Integration,
    message: &Message,
    limit: Duration,
    (permits, pauses): (&Semaphore, &Semaphore),
    stop: &CancellationToken,
    mut on_failure: impl FnMut(&str, bool),
) -> Delivery {
    let deadline = Instant::now() + limit;
    let mut attempts = 0;
    let mut pause = FIRST_PAUSE;
    let mut pausing = None;
    loop {
        attempts += 1;
        let outcome = match permits.acquire().await {
            // An attempt is never cut short by a stop: its answer decides whether the page goes out twice.
            Ok(_permit) => integration.attempt(message).await,
            Err(_) => Outcome::Again { reason: "the notifier is stopping".to_owned() },
        };
        let reason = match outcome {
            Outcome::Sent => return Delivery::Sent { attempts },
            Outcome::Refused { reason } => {
                on_failure(&reason, true);
                return Delivery::Refused { reason };
            }
            Outcome::Again { reason } => reason,
        };
        on_failure(&reason, false);
        let wait = spread(pause, millrace_log::alert::hash_text(&message.group_key) ^ u64::from(attempts));
        pausing = pausing.or_else(|| pauses.try_acquire().ok());
        if pausing.is_none() || stop.is_cancelled() || Instant::now() + wait >= deadline {
            return Delivery::GivenUp { reason, attempts };
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return Delivery::GivenUp { reason, attempts },
        }
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// Sends what the render stage made.
pub(crate) struct SendStage {
    pub(crate) parts: Arc<Parts>,
}

#[async_trait::async_trait]
impl Stage for SendStage {
    async fn pass(&self, notification: &mut Notification) -> Verdict {
        // Only resolved ones for a receiver that does not want them: recorded without a message.
        let Some(message) = &notification.message else { return Verdict::Continue };
        let metrics = &self.parts.metrics;
        let (number, integration) = (notification.number, notification.integration.kind());
        let labels = IntegrationLabels { receiver: message.receiver.clone(), integration: integration.to_owned() };
        let failures = metrics.attempts_failed.get_or_create_owned(&labels);
        let failing = &self.parts.failing;
        let on_failure = |reason: &str, refused: bool| {
            failures.inc();
            // What pauses now holds up no other group.
            drop(notification.slot.lock().take());
            failing.failed(&message.receiver, integration, number, reason, refused);
            tracing::warn!(
                receiver = message.receiver,
                integration,
                number,
                group = message.group_key,
                reason,
                "attempt to send a notification failed"
            );
        };
        let (limit, bounds) = (notification.time_limit, (&self.parts.permits, &self.parts.pauses));
        match deliver(&*notification.integration, message, limit, bounds, &notification.stop, on_failure).await {
            Delivery::Sent { attempts } => {
                metrics.sent.get_or_create(&labels).inc();
                failing.took(&message.receiver, integration, number);
                let cause = notification.reason.map(|reason| reason.to_string()).unwrap_or_default();
                tracing::info!(
                    receiver = message.receiver,
                    integration,
                    number,
                    group = message.group_key,
                    alerts = message.alerts.len(),
                    attempts,
                    reason = cause,
                    "notification sent"
                );
                Verdict::Continue
            }
            Delivery::Refused { reason } => {
                metrics.failed.get_or_create(&labels).inc();
                tracing::error!(
                    receiver = message.receiver,
                    integration,
                    number,
                    group = message.group_key,
                    reason,
                    "receiver rejected a notification: check its address and credentials; retrying at the next flush"
                );
                Verdict::Failed
            }
            Delivery::GivenUp { reason, attempts } => {
                metrics.failed.get_or_create(&labels).inc();
                tracing::error!(
                    receiver = message.receiver,
                    integration,
                    number,
                    group = message.group_key,
                    attempts,
                    reason,
                    "cannot send a notification: check that the receiver is up; retrying at the next flush"
                );
                Verdict::Failed
            }
        }
    }
}

/// Between half and one and a half of a pause, so that groups do not knock at the same time.
fn spread(pause: Duration, seed: u64) -> Duration {
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    pause / 2 + pause * u32::try_from(mixed % 1000).unwrap_or(0) / 1000
}

#[cfg(test)]
mod tests {
    use millrace_log::alert::LabelSet;
    use parking_lot::Mutex;

    use super::*;

    struct Script(Mutex<Vec<Outcome>>, Mutex<Vec<Instant>>);

    #[async_trait::async_trait]
    impl Integration for Script {
        fn kind(&self) -> &'static str {
            "script"
        }
        fn sends_resolved(&self) -> bool {
            true
        }
        async fn attempt(&self, _: &Message) -> Outcome {
            self.1.lock().push(Instant::now());
            let mut script = self.0.lock();
            if script.len() > 1 { script.remove(0) } else { script[0].clone() }
        }
    }

    async fn run(script: Vec<Outcome>, limit_secs: u64) -> (Delivery, Vec<Duration>) {
        run_with(script, limit_secs, 1).await
    }

    async fn run_with(script: Vec<Outcome>, limit_secs: u64, pauses: usize) -> (Delivery, Vec<Duration>) {
        let script = Script(Mutex::new(script), Mutex::default());
        let message = Message {
            receiver: "a".into(),
            group_key: "{}:{}".into(),
            group_labels: LabelSet::new(),
            alerts: Vec::new(),
            external_url: String::new(),
        };
        let (permits, pauses, stop) = (Semaphore::new(1), Semaphore::new(pauses), CancellationToken::new());
        let limit = Duration::from_secs(limit_secs);
        let end = deliver(&script, &message, limit, (&permits, &pauses), &stop, |_, _| {}).await;
        let times = script.1.lock().clone();
        (end, times.windows(2).map(|w| w[1] - w[0]).collect())
    }

    fn again() -> Outcome {
        Outcome::Again { reason: "503".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_tried_again_with_growing_pauses() {
        let (end, pauses) = run(vec![again(), again(), again(), Outcome::Sent], 60).await;
        assert_eq!(end, Delivery::Sent { attempts: 4 });
        for (pause, base_ms) in pauses.iter().zip([500, 750, 1125]) {
            let ms = pause.as_millis();
            assert!((base_ms / 2..=base_ms * 3 / 2 + 1).contains(&ms), "{ms} for {base_ms}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_not_tried_again_and_time_ends_all() {
        let (end, pauses) = run(vec![Outcome::Refused { reason: "400".into() }], 60).await;
        assert_eq!((end, pauses.len()), (Delivery::Refused { reason: "400".into() }, 0));
        let (end, _) = run_with(vec![again(), Outcome::Sent], 3600, 0).await;
        assert!(matches!(end, Delivery::GivenUp { attempts: 1, .. }), "too many messages pause already: {end:?}");
        let (end, pauses) = run(vec![again()], 3600).await;
        assert!(matches!(end, Delivery::GivenUp { .. }));
        assert!(pauses.iter().all(|p| *p <= LONGEST_PAUSE * 3 / 2) && pauses.len() > 30, "{}", pauses.len());
    }
}
