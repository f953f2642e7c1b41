//! A thread with a runtime of its own for clients whose users block: it fetches, sends and answers heartbeats while they
//! work.
//!
//! In: futures. Out: their results, to a thread that waits. Touches nothing itself. All that was started ends when this is
//! dropped.

use std::future::Future;
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::error::ClientError;
use crate::native::error::WireError;

/// The thread.
#[derive(Debug)]
pub(super) struct Background {
    handle: Handle,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts it.
    pub fn start(name: &str) -> Result<Self, ClientError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ClientError::Thread)?;
        let handle = runtime.handle().clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || runtime.block_on(stopped.cancelled()))
            .map_err(ClientError::Thread)?;
        Ok(Self { handle, stop, thread: Some(thread) })
    }

    /// Runs a task until this is dropped.
    pub fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        // Owned by the runtime, which ends with this.
        drop(self.handle.spawn(task));
    }

    /// Waits for a result. Blocks, on any thread.
    pub fn wait<T: Send + 'static>(
        &self,
        task: impl Future<Output = Result<T, WireError>> + Send + 'static,
    ) -> Result<T, WireError> {
        let (give, answer) = std::sync::mpsc::sync_channel(1);
        self.run(async move {
            // Nobody may wait any more.
            give.send(task.await).ok();
        });
        answer.recv().unwrap_or(Err(WireError::Ended))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("client of the log: its thread broke off");
        }
    }
}
