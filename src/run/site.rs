//! What all parts of a process are started with: time, metrics, notices; and opening a part whose predecessor is stopping.
//!
//! In: an opening that may find its folder still locked. Out: what it opened. Touches the clock.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use millrace_doors::access::Access;
use millrace_log::clock::SharedClock;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::notices::Notices;
use super::part::Part;
use crate::audit::AuditQueue;
use crate::exit::{Code, Failure};
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
        part: Part,
        mut open: impl FnMut() -> F,
        in_use: impl Fn(&E) -> bool,
    ) -> Result<T, E>
    where
        E: fmt::Display,
        F: Future<Output = Result<T, E>>,
    {
        let (begun, mut is_logged) = (Instant::now(), false);
        loop {
            match open().await {
                Err(error) if begun.elapsed() < HANDOVER && in_use(&error) => {
                    // Those of this process are gone sooner.
                    if begun.elapsed() >= UNUSUAL && !std::mem::replace(&mut is_logged, true) {
                        tracing::info!(
                            part = part.name(), %error,
                            "folder is in use, waiting up to {} s for a process that is stopping", HANDOVER.as_secs()
                        );
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                opened => return opened,
            }
        }
    }

    /// The same for a part whose opening blocks: `make` puts its metrics into a registry, which is then shown.
    pub async fn open_blocking<T, E, M>(
        &self,
        part: Part,
        make: Arc<M>,
        in_use: impl Fn(&E) -> bool,
    ) -> Result<T, NotOpened<E>>
    where
        T: Send + 'static,
        E: fmt::Display + Send + 'static,
        M: Fn(&mut Registry) -> Result<T, E> + Send + Sync + 'static,
    {
        let in_use = |error: &NotOpened<E>| matches!(error, NotOpened::Failed(error) if in_use(error));
        self.open(part, || self.open_once(part, Arc::clone(&make)), in_use).await
    }

    /// The same without a wait for its predecessor.
    pub async fn open_once<T, E, M>(&self, part: Part, make: Arc<M>) -> Result<T, NotOpened<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
        M: Fn(&mut Registry) -> Result<T, E> + Send + Sync + 'static,
    {
        let opening = tokio::task::spawn_blocking(move || {
            let mut registry = Registry::default();
            make(&mut registry).map(|made| (made, registry))
        });
        let (made, registry) = opening.await.map_err(|_| NotOpened::Aborted)?.map_err(NotOpened::Failed)?;
        self.registries.put(part.name(), registry);
        Ok(made)
    }
}

/// Why a part is not open.
#[derive(Debug)]
pub enum NotOpened<E> {
    /// It said so.
    Failed(E),
    /// It panicked, which is logged, or the process ends.
    Aborted,
}

impl<E: fmt::Display> fmt::Display for NotOpened<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::Aborted => f.write_str("opening was aborted"),
        }
    }
}

impl<E> NotOpened<E> {
    /// How the process ends with it; `of` says so of an error.
    pub fn failure(self, part: Part, of: impl FnOnce(E) -> Failure) -> Failure {
        match self {
            Self::Failed(error) => of(error),
            Self::Aborted => Failure::text(Code::Failed, format!("opening part `{}` was aborted", part.name())),
        }
    }
}
