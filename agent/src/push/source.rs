//! A source that is not a file: how the agent runs it.
//!
//! In: its way into the agent. Out: its end. Touches what the source touches.

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::intake::Intake;
use crate::error::AgentError;

/// A source that is not a file, opened and not yet running.
#[async_trait]
pub(crate) trait PushSource: Send + Sync {
    /// Runs until `stop`, or until the source has nothing more. At the stop: takes nothing new, waits for receipts that
    /// its clients wait for (the senders go on meanwhile), answers them and returns; after `shutdown_timeout` it is
    /// dropped. What the error says ends the agent.
    async fn run(self: Box<Self>, intake: Intake, stop: CancellationToken) -> Result<(), AgentError>;
}
