//! Checkpoints: positions of acknowledged lines, written to the state now and then.
//!
//! In: the sources of the agent. Out: durable positions; a check that each ledger is balanced. Touches the state.

use std::sync::Arc;

use millrace_log::clock::SharedClock;

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
    pub clock: SharedClock,
    pub metrics: AgentMetrics,
}

impl Checkpoint {
    /// Writes what changed; durable when this returns.
    pub async fn write(&self) -> Result<(), AgentError> {
        let (state, clock, metrics) = (self.state.clone(), self.clock.clone(), self.metrics.clone());
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
            let now_ms = clock.now_ms();
            // Being alive is worth a sync now and then, but not every second on an idle host.
            if changed > 0 || state.last_alive_ms()?.is_none_or(|last| now_ms - last > ALIVE_EVERY_MS) {
                state.alive(now_ms)?;
                state.sync()?;
                metrics.checkpoints.inc();
                metrics.checkpoint_seconds.inc_by(started.elapsed().as_secs_f64());
            }
            Ok(())
        });
        written.await.unwrap_or(Err(AgentError::Ended { part: "writer of positions" }))
    }
}
