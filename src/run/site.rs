//! What all parts of a process are started with: time, metrics, notices; and opening a part whose predecessor is stopping.
//!
//! In: an opening that may find its folder still locked. Out: what it opened. Touches the clock.

use std::future::Future;
use std::time::Duration;

use millrace_doors::access::Access;
use millrace_log::clock::SharedClock;
use tokio::time::Instant;

use super::notices::Notices;
use crate::audit::AuditQueue;
use crate::metrics::Registries;

/// How long a part waits for the lock of its predecessor, of this process or another, which answers its last requests.
const HANDOVER: Duration = Duration::from_secs(10);
/// A wait of this long is logged.
const UNUSUAL: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What all parts share.
#[derive(Clone)]
pub struct Site {
    /// Whom HTTP endpoints let in.
    pub access: Access,
    /// Where audit events wait for the log.
    pub audit: AuditQueue,
    /// Wall time.
    pub clock: SharedClock,
    /// Metrics of all parts.
    pub registries: Registries,
    /// What those who look after the process should know.
    pub notices: Notices,
}

impl Site {
    /// Opens a part; where its predecessor still holds the folder, again until it is free. `in_use` says so of an error.
    pub async fn open<T, E, F>(
        &self,
        mut open: impl FnMut() -> F,
        in_use: impl Fn(&E) -> Option<String>,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let (begun, mut is_logged) = (Instant::now(), false);
        loop {
            match open().await {
                Err(error) if begun.elapsed() < HANDOVER => {
                    let Some(text) = in_use(&error) else { return Err(error) };
                    // Those of this process are gone sooner.
                    if begun.elapsed() >= UNUSUAL && !std::mem::replace(&mut is_logged, true) {
                        tracing::info!("waiting up to {} s for a process that is stopping: {text}", HANDOVER.as_secs());
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                opened => return opened,
            }
        }
    }
}
