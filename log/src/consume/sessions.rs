//! Begins anew after what ended a session: with growing waits, and a longer one after another consumer has taken the name.
//!
//! In: a way to run one session. Out: pauses that say why nothing moves. Touches nothing itself.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::delivery::Setback;
use super::status::{ConsumerStatus, chain};

/// Wait after another consumer has taken over: the two must not take turns.
const FENCED_WAIT: Duration = Duration::from_secs(60);

/// Runs sessions until one ends without a setback, or it is cancelled.
pub async fn sessions<F>(
    status: &ConsumerStatus,
    (min, max): (Duration, Duration),
    token: &CancellationToken,
    mut session: impl FnMut() -> F,
) where
    F: Future<Output = Result<(), Setback>>,
{
    let mut backoff = min;
    while !token.is_cancelled() {
        let begun = Instant::now();
        let Err(setback) = session().await else { return };
        if begun.elapsed() > max {
            backoff = min;
        }
        let wait = match &setback {
            Setback::Fenced { .. } => FENCED_WAIT.max(backoff),
            _ => backoff,
        };
        let why = chain(&setback);
        status.pause(setback.pause(), &why);
        tracing::warn!(consumer = status.name(), error = why, ?wait, "beginning anew from the committed offsets");
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        backoff = (backoff * 2).min(max);
    }
}
