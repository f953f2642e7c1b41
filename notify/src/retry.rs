//! Stage 4, delivery: one message to one integration, tried again with growing pauses until it is taken or refused.
//!
//! In: a [`Message`], an [`Integration`], a time limit. Out: [`Delivery`]. Touches the network by way of the integration.
//! What is given up here is tried anew at the group's next turn, for as long as the group lives.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::group::Told;
use millrace_log::alert::LabelSet;

/// First pause; each further one is half as long again, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What one receiver is told of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Name of the receiver.
    pub receiver: String,
    /// Key of the group.
    pub group_key: String,
    /// Labels of the group.
    pub group_labels: LabelSet,
    /// The alerts, in order.
    pub alerts: Vec<Told>,
    /// Our own address.
    pub external_url: String,
}

/// How an attempt went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Taken.
    Sent,
    /// Worth another try: the network, or an answer 5xx or 429.
    Again {
        /// Why, for people.
        reason: String,
    },
    /// The same message would be refused again.
    Refused {
        /// Why, for people.
        reason: String,
    },
}

/// A way of telling people.
#[async_trait::async_trait]
pub trait Integration: Send + Sync + 'static {
    /// Its type: `webhook`, `log`.
    fn kind(&self) -> &'static str;

    /// Whether it tells of resolved alerts.
    fn sends_resolved(&self) -> bool;

    /// One attempt. It ends by itself within a bounded time.
    async fn attempt(&self, message: &Message) -> Outcome;
}

/// How delivering ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
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

/// Delivers one message. `permits` bounds the attempts under way in the whole notifier; pauses hold none.
pub async fn deliver(
    integration: &dyn Integration,
    message: &Message,
    limit: Duration,
    permits: &Semaphore,
    stop: &CancellationToken,
    mut on_failure: impl FnMut(&str),
) -> Delivery {
    let deadline = Instant::now() + limit;
    let mut attempts = 0;
    let mut pause = FIRST_PAUSE;
    loop {
        attempts += 1;
        let outcome = match permits.acquire().await {
            // An attempt is never cut short by a stop: its answer decides whether the page is told twice.
            Ok(_permit) => integration.attempt(message).await,
            Err(_) => Outcome::Again { reason: "the notifier is stopping".to_owned() },
        };
        let reason = match outcome {
            Outcome::Sent => return Delivery::Sent { attempts },
            Outcome::Refused { reason } => {
                on_failure(&reason);
                return Delivery::Refused { reason };
            }
            Outcome::Again { reason } => reason,
        };
        on_failure(&reason);
        let wait = spread(pause, millrace_log::alert::hash_text(&message.group_key) ^ u64::from(attempts));
        if stop.is_cancelled() || Instant::now() + wait >= deadline {
            return Delivery::GivenUp { reason, attempts };
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return Delivery::GivenUp { reason, attempts },
        }
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// Between half and one and a half of a pause, so that groups do not knock at the same time.
fn spread(pause: Duration, seed: u64) -> Duration {
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    pause / 2 + pause * u32::try_from(mixed % 1000).unwrap_or(0) / 1000
}

#[cfg(test)]
mod tests {
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
        let script = Script(Mutex::new(script), Mutex::default());
        let message = Message {
            receiver: "a".into(),
            group_key: "{}:{}".into(),
            group_labels: LabelSet::new(),
            alerts: Vec::new(),
            external_url: String::new(),
        };
        let (permits, stop) = (Semaphore::new(1), CancellationToken::new());
        let limit = Duration::from_secs(limit_secs);
        let end = deliver(&script, &message, limit, &permits, &stop, |_| {}).await;
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
        let (end, pauses) = run(vec![again()], 3600).await;
        assert!(matches!(end, Delivery::GivenUp { .. }));
        assert!(pauses.iter().all(|p| *p <= LONGEST_PAUSE * 3 / 2) && pauses.len() > 30, "{}", pauses.len());
    }
}
