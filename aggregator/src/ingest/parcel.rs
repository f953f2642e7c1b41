//! Events of one request for one partition, with their share of the in-flight limit.
//!
//! Touches nothing.

use std::sync::Arc;

use millrace_log::record::Position;
use tokio::sync::oneshot;

use super::error::IngestError;
use super::event::PushEvent;
use super::recent::Key;
use super::room::InFlight;

/// Events of one request for one partition, and who waits for them.
pub(super) struct Parcel {
    pub events: Vec<PushEvent>,
    pub keys: Vec<Option<Key>>,
    pub reply: oneshot::Sender<Result<Vec<Position>, IngestError>>,
    /// Given back when the log has the events or they were given up, also if nobody waits any more.
    pub room: Arc<InFlight>,
}
