//! Checkpoints: positions of acknowledged lines, written to the state now and then.
//!
//! In: the sources of the agent. Out: durable positions; a check that each ledger is balanced. Touches the state.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::error::AgentError;
use crate::file_source::{Source, Sources};
use crate::metrics::AgentMetrics;
use crate::push::{Receiver, Receivers};
use crate::state::State;

/// An agent without new positions notes so often that it is alive, ms.
const ALIVE_EVERY_MS: i64 = 30_000;

/// What checkpoints are made of.
pub(crate) struct Checkpoint {
    pub state: Arc<State>,
    pub sources: Sources,
    pub receivers: Receivers,
    /// Up to when folders were scanned and all that was found has a source, ms since 1970.
    pub scanned_ms: Arc<AtomicI64>,
    pub metrics: AgentMetrics,
}

impl Checkpoint {
    /// Writes what changed; durable when this returns. Does not wait for a disk that is full: what was not written is
    /// written by the next call.
    pub async fn write(&self) -> Result<(), AgentError> {
        let (state, metrics) = (self.state.clone(), self.metrics.clone());
        // Not the time of now: a file that was born and rotated since the last scan is still to be found.
        let scanned_ms = self.scanned_ms.load(Ordering::Acquire);
        let sources: Vec<Arc<Source>> = self.sources.read().clone();
        let receivers: Vec<Arc<Receiver>> = self.receivers.read().clone();
        let written = tokio::task::spawn_blocking(move || {
            let started = std::time::Instant::now();
            let mut saved = Vec::new();
            for source in &sources {
                if source.save(&state)? {
                    saved.push(source.ledger());
                }
            }
            for receiver in &receivers {
                if receiver.save(&state)? {
                    saved.push(receiver.ledger());
                }
            }
            let changed = saved.len();
            for ledger in saved {
                if !ledger.adds_up() {
                    metrics.ledger_mismatches.inc();
                    tracing::error!(filename = ledger.filename, source = ledger.source, balance = ?ledger.balance, "ledger of a source is not balanced (read = sent + dropped + waiting): this is a bug, report it with this line");
                }
            }
            // Being alive is worth a sync now and then, but not every second on an idle host.
            if changed > 0
                || state.is_unsynced()
                || state.last_alive_ms()?.is_none_or(|last| scanned_ms - last > ALIVE_EVERY_MS)
            {
                state.alive(scanned_ms)?;
                state.try_sync()?;
                metrics.checkpoints.inc();
                metrics.checkpoint_seconds.inc_by(started.elapsed().as_secs_f64());
            }
            Ok(())
        });
        written.await.unwrap_or(Err(AgentError::Ended { part: "writer of positions" }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_no_scan_has_seen_is_not_noted_as_seen() {
        let folder = tempfile::tempdir().unwrap();
        let state = Arc::new(State::open(folder.path()).unwrap());
        let scanned_ms = Arc::new(AtomicI64::new(5_000));
        let checkpoint = Checkpoint {
            state: state.clone(),
            sources: Sources::default(),
            receivers: Receivers::default(),
            scanned_ms: scanned_ms.clone(),
            metrics: AgentMetrics::default(),
        };
        for (scanned, noted) in [(5_000, 5_000), (6_000, 5_000), (40_000, 40_000)] {
            scanned_ms.store(scanned, Ordering::Release);
            checkpoint.write().await.unwrap();
            assert_eq!(state.last_alive_ms().unwrap(), Some(noted), "scanned at {scanned}");
        }
    }
}
