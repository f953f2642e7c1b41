//! The running parts of an agent: waits for the first reason to stop, then stops them in the order of the flow.
//!
//! In: started parts. Out: the agent's end. Touches the state, by checkpoints.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::guards::{CloseGates, CloseSpool, StopReading};
use crate::checkpoint::Checkpoint;
use crate::error::AgentError;

/// Waited at least for what must end soon.
const GRACE: Duration = Duration::from_millis(100);

/// Longest wait between checkpoints while the disk fails, unless they are rarer anyway.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Tasks of one kind, and what stops them.
#[derive(Default)]
pub(super) struct Tasks {
    pub set: JoinSet<Result<(), AgentError>>,
    pub stop: CancellationToken,
}

/// How the reading thread ended.
type ReadEnd = Result<Result<(), AgentError>, oneshot::error::RecvError>;

/// All that runs, in the order of the flow.
pub(super) struct Running {
    /// Sources that are not files. With files, or without sources of its own, the agent has something to do for ever.
    pub sources: Tasks,
    pub may_finish: bool,
    pub close_gates: CloseGates,
    pub close_spool: CloseSpool,
    /// From the spool into the queues.
    pub feeders: Tasks,
    pub reading: oneshot::Receiver<Result<(), AgentError>>,
    pub stop_reading: StopReading,
    /// Senders of the partitions; stopped, they give up what is not acknowledged.
    pub senders: Tasks,
    pub checkpoint: Checkpoint,
}

/// Why the agent stops.
pub(super) struct StopReason {
    outcome: Result<(), AgentError>,
    /// It was asked to, or has nothing more to read.
    asked: bool,
    /// The reading thread has ended already.
    read: Option<ReadEnd>,
}

impl Running {
    /// Writes checkpoints until the first part ends, everything is read, or `cancel`.
    pub async fn until_stop(&mut self, checkpoint_interval: Duration, cancel: &CancellationToken) -> StopReason {
        let mut ticks = tokio::time::interval(checkpoint_interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let ended = |part| move |end: Result<Result<(), AgentError>, _>| end.unwrap_or(Err(AgentError::Ended { part }));
        let mut outcome = Ok(());
        let mut finished = false;
        let mut read = None;
        let (mut wait, mut retry_at) = (Duration::ZERO, Instant::now());
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                end = &mut self.reading => {
                    read = Some(end);
                    break;
                }
                Some(end) = self.sources.set.join_next() => {
                    // One that has no more to read ends well.
                    outcome = ended("source")(end);
                    finished = self.may_finish && self.sources.set.is_empty();
                    if finished || outcome.is_err() {
                        break;
                    }
                }
                Some(end) = self.feeders.set.join_next() => {
                    outcome = ended("feeder of the spool")(end);
                    break;
                }
                Some(end) = self.senders.set.join_next() => {
                    // A sender that ends well lost the reading thread, whose own end says why.
                    outcome = ended("partition sender")(end);
                    break;
                }
                _ = ticks.tick() => {
                    if Instant::now() < retry_at {
                        continue;
                    }
                    match self.checkpoint.write().await {
                        Ok(()) => wait = Duration::ZERO,
                        // What is not written yet stays in memory; the condition of the agent says why.
                        Err(error) if error.may_pass() => {
                            wait = (wait * 2).min(RETRY_MAX).max(checkpoint_interval);
                            retry_at = Instant::now() + wait;
                        }
                        Err(error) => {
                            outcome = Err(error);
                            break;
                        }
                    }
                }
            }
        }
        let asked = finished || cancel.is_cancelled() || outcome.is_err();
        StopReason { outcome, asked, read }
    }

    /// Stops reading, waits for acknowledgements until `limit` has passed, and keeps the positions. The ends of the reading
    /// thread and of the sources close the queues, and the senders end when theirs are empty.
    pub async fn stop(self, reason: StopReason, limit: Duration) -> Result<(), AgentError> {
        let Self { mut sources, close_gates, close_spool, mut feeders, reading, stop_reading, mut senders, .. } = self;
        let deadline = Instant::now() + limit;
        let soon = || deadline.max(Instant::now() + GRACE);
        self.checkpoint.state.stop_waiting();
        drop(stop_reading);
        sources.stop.cancel();
        let mut outcome = reason.outcome;
        match timeout_at(deadline, all_ended(&mut sources.set, "source")).await {
            Ok(result) => outcome = outcome.and(result),
            Err(_) => {
                tracing::warn!("clients still wait for the log, their connections are closed without a response");
                sources.set.shutdown().await;
            }
        }
        drop(close_gates);
        drop(close_spool);
        feeders.stop.cancel();
        let read = match reason.read {
            Some(end) => Some(end),
            None => timeout_at(soon(), reading).await.ok(),
        };
        outcome = outcome.and(match read {
            Some(Ok(Ok(()))) if reason.asked => Ok(()),
            Some(Ok(Err(error))) => Err(error),
            Some(_) => Err(AgentError::Ended { part: "thread agent-files" }),
            None => {
                tracing::warn!("a file system does not respond, the agent stops without waiting for it");
                Ok(())
            }
        });
        match timeout_at(soon(), all_ended(&mut senders.set, "partition sender")).await {
            Ok(result) => outcome = outcome.and(result),
            Err(_) => {
                tracing::warn!(timeout = ?limit, "log did not acknowledge all lines in time, they are read again after the next start");
                senders.stop.cancel();
                while senders.set.join_next().await.is_some() {}
            }
        }
        // The senders have ended: the feeder has all its answers.
        if let Ok(fed) = tokio::time::timeout(GRACE * 10, all_ended(&mut feeders.set, "feeder of the spool")).await {
            outcome = outcome.and(fed);
        }
        let kept = self.checkpoint.write().await;
        outcome.and(kept)
    }
}

/// Waits for all tasks; the first error, if there was one.
async fn all_ended(tasks: &mut JoinSet<Result<(), AgentError>>, part: &'static str) -> Result<(), AgentError> {
    let mut result = Ok(());
    while let Some(end) = tasks.join_next().await {
        result = result.and(end.unwrap_or(Err(AgentError::Ended { part })));
    }
    result
}
