//! Guards that end a part of the agent when they are dropped, however the run ends.
//!
//! In: handles of parts. Touches nothing else.

use std::sync::Arc;

use tokio::sync::watch;

use crate::push::{Gate, IntakeContext};
use crate::tap::Taps;
use crate::watch::Wake;

/// Closes the gates of sources that are not files: queues end once nobody can put anything into them.
pub(super) struct CloseGates(pub Vec<watch::Sender<Gate>>);

impl Drop for CloseGates {
    fn drop(&mut self) {
        for gate in &self.0 {
            gate.send_replace(Gate::Closed);
        }
    }
}

/// Ends live tails.
pub(super) struct CloseTaps(pub Taps);

impl Drop for CloseTaps {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Lets nothing more into the spool, and so ends its writer.
pub(super) struct CloseSpool(pub Arc<IntakeContext>);

impl Drop for CloseSpool {
    fn drop(&mut self) {
        self.0.spool.write().take();
    }
}

/// Stops the reading thread.
pub(super) struct StopReading(pub Wake);

impl Drop for StopReading {
    fn drop(&mut self) {
        self.0.stop();
    }
}
