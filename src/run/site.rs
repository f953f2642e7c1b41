//! What all parts of a process are started with: time, metrics, notices; and opening a part that has just stopped.
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

/// How long a part that starts again waits for the locks of its predecessor, which answers its last requests.
const HANDOVER: Duration = Duration::from_secs(10);
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
    /// Whether a predecessor of the part ran in this process.
    pub again: bool,
}

impl Site {
    /// Opens a part; where its predecessor still holds the folder, again until it is free.
    pub async fn open<T, E, F>(&self, mut open: impl FnMut() -> F, in_use: impl Fn(&E) -> bool) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let until = Instant::now() + HANDOVER;
        loop {
            match open().await {
                Err(error) if self.again && in_use(&error) && Instant::now() < until => {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                opened => return opened,
            }
        }
    }
}
